"""Attention of float32 on the CPU: the page's formulas, by blocks that stay in the caches, in C++ (attention.h).

The page goes through all heads a block of rows at a time; a compiler unrolls that, and each product, maximum or
exponential is a pass over the scores of all heads, which no cache holds: 4 x 4 heads of 2048 x 64 took 1.9 times as
long as torch's kernel.  Here one head after the other is done, 64 rows at a time, and in backward 128 keys at a time:
0.7 of torch's time there, and 0.6 of it for 256 x 32 (one thread of a Zen 4, causal).  What is kept is what the page
keeps, so that memory grows as the length.  Products are sums of the page's terms in another order.  Biases that are
added to q, k and v are added on the way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.stand_ins import VIEWS
from manual_bp.rules.attention import scaled_dot_product_attention as page
from manual_bp.rules.attention._heads import default_scale, keys_ahead

aten = torch.ops.aten

Cotangents = tuple[Tensor, Tensor, Tensor, None]
NO_BIAS = (None, None, None)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    alignment: str = "top-left",
    scale: float | None = None,
) -> tuple[Tensor, page.Residuals]:
    hyper: Any = {"causal": causal, "alignment": alignment, "scale": scale}
    if not all(_is_taken(t) for t in (q, k, v)):
        return page.forward(q, k, v, mask, **hyper)
    scale = default_scale(q) if scale is None else scale
    four = [_four_axes(t) for t in (q, k, v)]
    y, m, w = (
        t.reshape(*q.shape[:-1], t.shape[-1])
        for t in torch.ops.manual_bp.attention_forward(*four, *NO_BIAS, mask, causal, alignment, scale)
    )
    return y, page.Residuals(q, k, v, mask, y, m, w, causal, alignment, scale)


def backward(residuals: page.Residuals, dy: Tensor) -> Cotangents:
    q, k, v, mask, y, m, w, causal, alignment, scale = residuals
    if not all(_is_taken(t) for t in (q, k, v)):
        return page.backward(residuals, dy)
    four = [_four_axes(t) for t in (q, k, v, y, m, w, dy)]
    dq, dk, dv = torch.ops.manual_bp.attention_backward(*four, *NO_BIAS, mask, causal, alignment, scale)
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape), None


def _is_taken(t: Tensor) -> bool:
    return t.dtype is torch.float32 and t.device.type == "cpu" and t.numel() > 0


def _four_axes(t: Tensor) -> Tensor:
    """(batch, heads, rows, width) from (*batch, heads, rows, width)."""
    return t if t.ndim == 4 else t.reshape(-1, *t.shape[-3:])


# The operations, which run as the page where nothing is compiled; of q + q_bias, and so on, if there are biases, which
# are (heads, width).


@torch.library.custom_op("manual_bp::attention_forward", mutates_args=())
def _attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_bias: Tensor | None,
    k_bias: Tensor | None,
    v_bias: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    alignment: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    how: Any = {"causal": causal, "alignment": alignment, "scale": scale}
    y, kept = page.forward(_plus(q, q_bias), _plus(k, k_bias), _plus(v, v_bias), mask, **how)
    return tuple(_laid_out(t) for t in (y, kept.largest, kept.its_weight))  # type: ignore[return-value]


@_attention_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    one = _empty(q, 1)
    return _empty(q, v.shape[-1]), one, torch.empty_like(one)


@torch.library.custom_op("manual_bp::attention_backward", mutates_args=())
def _attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    m: Tensor,
    w: Tensor,
    dy: Tensor,
    q_bias: Tensor | None,
    k_bias: Tensor | None,
    v_bias: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    alignment: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    three = (_plus(q, q_bias), _plus(k, k_bias), _plus(v, v_bias))
    dq, dk, dv, _ = page.backward(page.Residuals(*three, mask, y, m, w, causal, alignment, scale), dy)
    return _laid_out(dq), _laid_out(dk), _laid_out(dv)


@_attention_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q, q.shape[-1]), _empty(k, k.shape[-1]), _empty(v, v.shape[-1])


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias[:, None]


def _empty(like: Tensor, width: int) -> Tensor:
    """(batch, heads, rows, width), which in memory lies as (batch, rows, heads, width): what layers before and behind
    take, with all heads of a position side by side, is a view of it."""
    batch, heads, rows, _ = like.shape
    return like.new_empty(batch, rows, heads, width).transpose(1, 2)


def _laid_out(t: Tensor) -> Tensor:
    return _empty(t, t.shape[-1]).copy_(t)


def rewrite(graph: torch.fx.Graph) -> None:
    """Biases that are added to q, k and v go to the operations, so that the sums are never stored."""
    made: dict[Any, tuple[Any, Any]] = {}
    for node in list(graph.nodes):
        if node.target is torch.ops.manual_bp.attention_forward.default:
            first = 3
        elif node.target is torch.ops.manual_bp.attention_backward.default:
            first = 7
        else:
            continue
        arguments = list(node.args)
        for place, given in enumerate(node.args[:3]):
            if (found := _sum(given)) is not None:
                if given not in made:
                    made[given] = _apart(graph, given, *found)
                arguments[place], arguments[first + place] = made[given]
        node.args = tuple(arguments)
    graph.eliminate_dead_code()


def _sum(heads: Any) -> tuple[Any, Any] | None:
    """x and bias, if the node is x + bias cut into heads."""
    if heads.target is not aten.permute.default or list(heads.args[1]) != [0, 2, 1, 3]:
        return None
    cut = heads.args[0]
    if cut.target not in VIEWS or cut.args[0].target is not aten.add.Tensor or cut.args[0].kwargs:
        return None
    x, bias = cut.args[0].args
    if not isinstance(x, torch.fx.Node) or not isinstance(bias, torch.fx.Node):
        return None
    batch, positions, *_ = cut.meta["val"].shape
    features = bias.meta["val"].shape
    is_one = len(features) == 1 and x.meta["val"].shape == cut.args[0].meta["val"].shape == (
        batch,
        positions,
        *features,
    )
    return (x, bias) if is_one else None


def _apart(graph: torch.fx.Graph, heads: Any, x: Any, bias: Any) -> tuple[Any, Any]:
    """x cut into heads, and the bias."""
    cut = heads.args[0]
    with graph.inserting_before(cut):
        x = _added(graph, aten.view.default, x, cut.args[1])
        return _added(graph, aten.permute.default, x, heads.args[1]), _added(
            graph, aten.view.default, bias, list(cut.meta["val"].shape[-2:])
        )


def _added(graph: torch.fx.Graph, target: Any, x: Any, *others: Any) -> Any:
    new = graph.call_function(target, (x, *others))
    new.meta["val"] = target(x.meta["val"], *others)
    return new


# How inductor makes code of them.


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    ops = torch.ops.manual_bp
    register_lowering(ops.attention_forward.default, type_promotion_kind=None)(_lowered_forward)
    register_lowering(ops.attention_backward.default, type_promotion_kind=None)(_lowered_backward)


def _lowered_forward(q: Any, k: Any, v: Any, *others: Any) -> Any:
    *biases_and_mask, causal, alignment, scale = others
    written = [_buffer(q, v.get_size()[-1]), _buffer(q, 1), _buffer(q, 1)]
    _call("forward", [q, k, v, *biases_and_mask], written, causal, alignment, scale)
    return tuple(written)


def _lowered_backward(q: Any, k: Any, v: Any, *others: Any) -> Any:
    *read, causal, alignment, scale = others
    written = [_buffer(t, t.get_size()[-1]) for t in (q, k, v)]
    _call("backward", [q, k, v, *read], written, causal, alignment, scale)
    return tuple(written)


def _buffer(like: Any, width: Any) -> Any:
    """As `_empty`, of inductor."""
    from torch._inductor.lowering import empty_strided

    batch, heads, rows, _ = (int(n) for n in like.get_size())
    width = int(width)
    strides = [rows * heads * width, width, heads * width, 1]
    return empty_strided([batch, heads, rows, width], strides, dtype=torch.float32, device=like.get_device())


def _call(function: str, read: list[Any], written: list[Any], causal: bool, alignment: str, scale: float) -> None:
    from torch._inductor import config

    from manual_bp.compilation.cpp import call_cpp, text

    q, k, v = ([int(n) for n in t.get_size()] for t in read[:3])
    (batch, heads, queries, width), (_, kv_heads, keys, _), value_width = q, k, v[-1]
    ahead = keys_ahead(queries, keys, alignment)
    numbers = (batch, kv_heads, heads // kv_heads, queries, keys, width, value_width, int(causal), ahead)
    sizes = f"attention::Sizes{{{', '.join(map(str, numbers))}, {scale!r}f}}"
    call_cpp(text("attention.h"), f"attention::{function}<{config.cpp.threads}>", [sizes], read, written)
