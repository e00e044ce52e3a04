"""Long short-term memory of float32 on the CPU: the page's formulas, in C++ (lstm.h).

As a loop of torch's, whose steps are a few calls each, 64 steps of 128 units and 32 examples took 1.42 times as long as
nn.LSTM.  Here weights are packed once and stay in the caches, and a thread takes its examples through all steps: 0.88
of nn.LSTM's time there (one thread of a Zen 5, compiled, by turns, forward and backward), of which the six products, at
nine tenths of what the core can multiply, are 0.7.  Products are sums of the page's terms in another order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.recurrence import are_taken, call
from manual_bp.rules.recurrent import lstm as page

Seven = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def forward(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> tuple[page.Outputs, page.Residuals]:
    if not are_taken(weight_ih, weight_hh, x, h0, c0, bias_ih, bias_hh):
        return page.forward(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh)
    a, c, h = torch.ops.manual_bp.lstm_forward(x, h0, c0, weight_ih, weight_hh, bias_ih + bias_hh)
    return page.Outputs(h, h[-1].clone(), c[-1].clone()), page.Residuals(x, h0, c0, weight_ih, weight_hh, a, c, h)


def backward(residuals: page.Residuals, dy: page.Outputs) -> Seven:
    if not are_taken(residuals.weight_ih, residuals.weight_hh, *residuals, *dy):
        return page.backward(residuals, dy)
    *others, dbias = torch.ops.manual_bp.lstm_backward(*dy, *residuals)
    return (*others, dbias, dbias.clone())


# The operations, which run as the page where nothing is compiled.


@torch.library.custom_op("manual_bp::lstm_forward", mutates_args=())
def _forward(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """a, c and h of all steps."""
    _, kept = page.forward(x, h0, c0, weight_ih, weight_hh, bias, torch.zeros_like(bias))
    return kept.a.contiguous(), kept.c.contiguous(), kept.h.contiguous()


@_forward.register_fake
def _(x: Tensor, h0: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    time, batch, _ = x.shape
    hidden = h0.shape[1]
    return tuple(x.new_empty(time, batch, width) for width in (4 * hidden, hidden, hidden))  # type: ignore[return-value]


@torch.library.custom_op("manual_bp::lstm_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    a: Tensor,
    c: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The page's cotangents, that of both biases once."""
    kept = page.Residuals(x, h0, c0, weight_ih, weight_hh, a, c, h)
    found = page.backward(kept, page.Outputs(dy, dh_n, dc_n))[:-1]
    return tuple(t.contiguous() for t in found)  # type: ignore[return-value]


@_backward.register_fake
def _(
    dy: Tensor, dh_n: Tensor, dc_n: Tensor, x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = [*(t.shape for t in (x, h0, c0, weight_ih, others[0])), weight_ih.shape[:1]]
    return tuple(x.new_empty(shape) for shape in shapes)  # type: ignore[return-value]


# How inductor makes code of them.


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    ops = torch.ops.manual_bp
    register_lowering(ops.lstm_forward.default, type_promotion_kind=None)(_lowered_forward)
    register_lowering(ops.lstm_backward.default, type_promotion_kind=None)(_lowered_backward)


def _lowered_forward(x: Any, h0: Any, *others: Any) -> Any:
    time, batch, inputs, hidden = (int(n) for n in (*x.get_size(), h0.get_size()[1]))
    shapes = [[time, batch, width] for width in (4 * hidden, hidden, hidden)]
    return call("lstm", "forward", (time, batch, inputs, hidden), [x, h0, *others], shapes)


def _lowered_backward(dy: Any, dh_n: Any, dc_n: Any, x: Any, *others: Any) -> Any:
    time, batch, inputs, hidden = (int(n) for n in (*x.get_size(), dy.get_size()[2]))
    states, gates = [batch, hidden], 4 * hidden
    shapes = [[time, batch, inputs], states, states, [gates, inputs], [gates, hidden], [gates]]
    return call("lstm", "backward", (time, batch, inputs, hidden), [dy, dh_n, dc_n, x, *others], shapes)
