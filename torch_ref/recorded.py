"""A Vjp as a function that autograd runs through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from manual_bp import Vjp


def recorded(value: Callable[..., Any], differentiated: Vjp) -> Callable[..., Any]:
    """A function `f(inputs, hyper)` whose gradients are those of a Vjp.

    value: `value(inputs, hyper)` is y, or a tuple of several outputs.
    """

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hyper: Mapping[str, Any], *inputs: Tensor | None) -> Any:
            ctx.hyper = hyper
            ctx.save_for_backward(*inputs)
            y = value(inputs, hyper)
            ctx.several = isinstance(y, tuple)
            return tuple(y) if isinstance(y, tuple) else y

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *dy: Tensor) -> tuple[Any, ...]:
            _, grads = differentiated(ctx.saved_tensors, dy if ctx.several else dy[0], **ctx.hyper)
            return (None, *grads)

    def function(inputs: Sequence[Tensor | None], hyper: Mapping[str, Any]) -> Any:
        return Function.apply(hyper, *inputs)  # type: ignore[no-untyped-call]

    return function
