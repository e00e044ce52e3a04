"""Formulas that keep their digits, in place of those of torch that lose them.

torch finds tanh'(x) as 1 - y², which is 0 from x = 9 on in float32; a bound on the error of that formula would excuse
any program there.  What a right program may be off is told by a formula that loses nothing.

The formulas of functions are plain torch, and run in ball arithmetic too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manual_bp.program import Node, Program, Ref

aten = torch.ops.aten


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), Φ as erfc / 2; or x s(u)."""
    if approximate == "none":
        tail: Tensor = torch.special.erfc(x * -math.sqrt(0.5))
        return x * (0.5 * tail)
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


def silu(x: Tensor) -> Tensor:
    """x s(x)."""
    return x * torch.sigmoid(x)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(βx)) / β, and x beyond torch's threshold."""
    u = x * beta
    kept = torch.clamp(u, min=0.0) + torch.log1p(torch.exp(-u.abs()))
    return torch.where(u > threshold, x, kept / beta)


def log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    """-log(1 + exp(-x)), and torch's buffer, which nobody needs."""
    return torch.clamp(x, max=0.0) - torch.log1p(torch.exp(-x.abs())), x


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """s x above 0, else s α (exp(i x) - 1)."""
    below = torch.expm1(input_scale * torch.clamp(x, max=0.0)) * (scale * alpha)
    return torch.where(x > 0, scale * x, below)


def tanh_slope(dy: Tensor, x: Tensor) -> Tensor:
    """dy / cosh² x = dy 4 s(2x) s(-2x), which has no branch at 0 as |x| has."""
    return dy * (4 * (torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)))


def sigmoid_slope(dy: Tensor, x: Tensor) -> Tensor:
    """dy s(x) s(-x), which has no branch at 0 as |x| has."""
    return dy * (torch.sigmoid(x) * torch.sigmoid(-x))


def silu_slope(dy: Tensor, x: Tensor) -> Tensor:
    """dy s(x) (1 + x s(-x))."""
    return dy * (torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)))


def softplus_slope(dy: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    """dy s(βx), and dy beyond torch's threshold."""
    return torch.where(x * beta > threshold, dy, dy * torch.sigmoid(x * beta))


def log_sigmoid_slope(dy: Tensor, x: Tensor) -> Tensor:
    """dy s(-x)."""
    return dy * torch.sigmoid(-x)


def elu_slope(dy: Tensor, x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    """dy s above 0, else dy s i α exp(i x)."""
    return torch.where(
        x > 0, dy * scale, dy * (scale * input_scale * alpha) * torch.exp(input_scale * torch.clamp(x, max=0.0))
    )


def gelu_slope(dy: Tensor, x: Tensor) -> Tensor:
    """dy (Φ(x) + x φ(x)), Φ as erfc / 2."""
    density = torch.exp(-x * x / 2) * (1 / math.sqrt(2 * math.pi))
    tail: Tensor = torch.special.erfc(x * -math.sqrt(0.5))
    return dy * (0.5 * tail + x * density)


def gelu_tanh_slope(dy: Tensor, x: Tensor) -> Tensor:
    """dy (s(u) + x s(u) s(-u) u'), with u = 2 √(2/π) (x + 0.044715 x³): (1 + tanh(u/2)) / 2 is s(u), and s(u) s(-u) has
    no branch at 0 as |u| has."""
    scale = 2 * math.sqrt(2 / math.pi)
    u = scale * (x + 0.044715 * x * x * x)
    slope = torch.sigmoid(u) * torch.sigmoid(-u)
    return dy * (torch.sigmoid(u) + x * slope * (scale * (1 + 3 * 0.044715 * x * x)))


def _of_the_input(op: Any) -> Callable[[Program, Node], tuple[Any, ...] | None]:
    """(dy, x) of a slope that torch makes of (dy, y), where y is op(x)."""

    def arguments(program: Program, node: Node) -> tuple[Any, ...] | None:
        dy, y = node.args[:2]
        made = program.nodes[y.position] if isinstance(y, Ref) else None
        return (dy, made.args[0]) if made is not None and made.op is op else None

    return arguments


def _elu(program: Program, node: Node) -> tuple[Any, ...] | None:
    dy, alpha, scale, input_scale, is_result, x = node.args
    if not is_result:
        return dy, x, alpha, scale, input_scale
    of_the_input = _of_the_input(aten.elu.default)(program, Node(node.op, (dy, x)))
    return None if of_the_input is None else (*of_the_input, alpha, scale, input_scale)


def _first(count: int) -> Callable[[Program, Node], tuple[Any, ...]]:
    return lambda program, node: node.args[:count]


def _all(program: Program, node: Node) -> tuple[Any, ...]:
    return (*node.args, *node.kwargs.values())


def _gelu_slope(dy: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    return (gelu_slope if approximate == "none" else gelu_tanh_slope)(dy, x)


FORMULAS: dict[Any, tuple[Callable[..., Any], Callable[[Program, Node], tuple[Any, ...] | None]]] = {
    aten.gelu.default: (gelu, _all),
    aten.silu.default: (silu, _all),
    aten.softplus.default: (softplus, _all),
    aten.log_sigmoid_forward.default: (log_sigmoid, _all),
    aten.elu.default: (elu, _all),
    aten.tanh_backward.default: (tanh_slope, _of_the_input(aten.tanh.default)),
    aten.sigmoid_backward.default: (sigmoid_slope, _of_the_input(aten.sigmoid.default)),
    aten.silu_backward.default: (silu_slope, _first(2)),
    aten.softplus_backward.default: (softplus_slope, _first(4)),
    aten.log_sigmoid_backward.default: (log_sigmoid_slope, _first(2)),
    aten.elu_backward.default: (elu_slope, _elu),
    aten.gelu_backward.default: (_gelu_slope, _all),
}
"""Of torch's operations: the formula, and its arguments for a node (None where it does not apply)."""


def _elu_slope_of_result(
    dy: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, y: Tensor
) -> Tensor:
    """dy s above 0, else dy i (y + s α)."""
    return torch.where(y > 0, dy * scale, dy * (input_scale * (y + scale * alpha)))


OF_THE_RESULT: dict[Any, Callable[..., Tensor]] = {
    aten.tanh_backward.default: lambda dy, y: dy * (1 - y * y),
    aten.sigmoid_backward.default: lambda dy, y: dy * (y * (1 - y)),
    aten.elu_backward.default: _elu_slope_of_result,
}
"""As torch has them, for a result of which it is not known what it is a function of (it was written in place)."""
