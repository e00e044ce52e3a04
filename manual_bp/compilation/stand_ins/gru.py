"""Gated recurrent unit of float32 on the CPU that resets after the product: the page's formulas, in C++ (gru.h).

As for lstm, weights are packed once and stay in the caches, and a thread takes its examples through all steps: 64 steps
of 128 units and 32 examples take 0.44 of nn.GRU's time, and as a loop of torch's they took 0.83 (one thread of a
Sapphire Rapids, compiled, by turns, forward and backward).  Products are sums of the page's terms in another order.  A
unit that resets before the product is left to the page.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from manual_bp.compilation.recurrence import are_taken, call
from manual_bp.rules.recurrent import gru as page

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def forward(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    *,
    reset: Literal["after", "before"] = "after",
) -> tuple[page.Outputs, page.Residuals]:
    given = (x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
    if reset != "after" or not are_taken(weight_ih, weight_hh, *given):
        return page.forward(*given, reset=reset)
    a, h, m = torch.ops.manual_bp.gru_forward(*given)
    return page.Outputs(h, h[-1].clone()), page.Residuals(x, h0, weight_ih, weight_hh, a, h, m, reset)


def backward(residuals: page.Residuals, dy: page.Outputs) -> Six:
    x, h0, weight_ih, weight_hh, a, h, m, _ = residuals
    if m is None or not are_taken(weight_ih, weight_hh, x, h0, a, h, m, *dy):  # it is kept where reset is after
        return page.backward(residuals, dy)
    found: Six = torch.ops.manual_bp.gru_backward(*dy, x, h0, weight_ih, weight_hh, a, h, m)
    return found


# The operations, which run as the page where nothing is compiled.


@torch.library.custom_op("manual_bp::gru_forward", mutates_args=())
def _forward(
    x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """a, h and m of all steps."""
    _, kept = page.forward(x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
    assert kept.m is not None
    return kept.a.contiguous(), kept.h.contiguous(), kept.m.contiguous()


@_forward.register_fake
def _(x: Tensor, h0: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    time, batch, _ = x.shape
    hidden = h0.shape[1]
    return tuple(x.new_empty(time, batch, width) for width in (3 * hidden, hidden, hidden))  # type: ignore[return-value]


@torch.library.custom_op("manual_bp::gru_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dh_n: Tensor,
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    a: Tensor,
    h: Tensor,
    m: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The page's cotangents."""
    kept = page.Residuals(x, h0, weight_ih, weight_hh, a, h, m, "after")
    return tuple(t.contiguous() for t in page.backward(kept, page.Outputs(dy, dh_n)))  # type: ignore[return-value]


@_backward.register_fake
def _(
    dy: Tensor, dh_n: Tensor, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = [*(t.shape for t in (x, h0, weight_ih, weight_hh)), weight_ih.shape[:1], weight_ih.shape[:1]]
    return tuple(x.new_empty(shape) for shape in shapes)  # type: ignore[return-value]


# How inductor makes code of them.


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    ops = torch.ops.manual_bp
    register_lowering(ops.gru_forward.default, type_promotion_kind=None)(_lowered_forward)
    register_lowering(ops.gru_backward.default, type_promotion_kind=None)(_lowered_backward)


def _lowered_forward(x: Any, h0: Any, *others: Any) -> Any:
    time, batch, inputs, hidden = (int(n) for n in (*x.get_size(), h0.get_size()[1]))
    shapes = [[time, batch, width] for width in (3 * hidden, hidden, hidden)]
    return call("gru", "forward", (time, batch, inputs, hidden), [x, h0, *others], shapes)


def _lowered_backward(dy: Any, dh_n: Any, x: Any, *others: Any) -> Any:
    time, batch, inputs, hidden = (int(n) for n in (*x.get_size(), dy.get_size()[2]))
    gates = 3 * hidden
    shapes = [[time, batch, inputs], [batch, hidden], [gates, inputs], [gates, hidden], [gates], [gates]]
    return call("gru", "backward", (time, batch, inputs, hidden), [dy, dh_n, x, *others], shapes)
