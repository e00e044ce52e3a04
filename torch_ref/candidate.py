"""torch.autograd as a candidate: what it says of any rule, as a Vjp."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manual_bp.oracle.adapters import take_keywords_of

if TYPE_CHECKING:
    from manual_bp import Vjp
    from manual_bp.training.engine import Engine


def vjp(fn: Callable[..., Tensor]) -> Vjp:
    """The Vjp of any autograd callable or nn.Module.

    `fn(*inputs, **hyper)` is run on detached copies of the floating-point inputs that require grad; an input that the
    result does not depend on gets None.  The parameters of a Module are left alone.
    """

    def autograd_vjp(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        with torch.inference_mode(False), torch.enable_grad():
            plain = (x.clone() if x.is_inference() else x for x in inputs)
            leaves = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in plain)
            wanted = [x for x in leaves if x.requires_grad]
            y = fn(*leaves, **hyper)
            if not y.requires_grad:
                return y, tuple(None for _ in inputs)
            paired = _Paired.apply(y, dy)  # type: ignore[no-untyped-call]
            found = iter(torch.autograd.grad(paired, wanted, allow_unused=True))
        return y.detach(), tuple(next(found) if x.requires_grad else None for x in leaves)

    take_keywords_of(fn.forward if isinstance(fn, torch.nn.Module) else fn, autograd_vjp)
    return autograd_vjp


class _Paired(torch.autograd.Function):
    """A scalar whose gradient with respect to y is dy itself.

    torch.autograd.grad(y, inputs, dy) imports SymPy to compare two shapes, which takes as long as judging a rule.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, dy: Tensor) -> Tensor:
        if y.shape != dy.shape:
            raise RuntimeError(f"dy must be shaped like y, {tuple(y.shape)}; came {tuple(dy.shape)}")
        ctx.dy = dy
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.dy, None


def function(rule: str) -> Callable[..., Tensor] | None:
    """torch's own function for a rule: `torch_ref.twins.<rule>` or else `torch.nn.functional.<rule>`, or None."""
    if importlib.util.find_spec(f"torch_ref.twins.{rule}"):
        found: Callable[..., Tensor] = getattr(importlib.import_module(f"torch_ref.twins.{rule}"), rule)
        return found
    return getattr(F, rule, None)


def twin(rule: str) -> Vjp | None:
    """The Vjp of torch's own function for a rule, or None if torch has none."""
    found = function(rule)
    return None if found is None else vjp(found)


class Torch:
    """The candidate that is registered as "torch"."""

    def __call__(self, rule: str) -> Vjp | None:
        return twin(rule)

    def model(self, name: str, **config: Any) -> Engine:
        """An engine that trains the named model by autograd (manual_bp.training.engine)."""
        from torch_ref.training.engine import TorchEngine

        return TorchEngine(name, **config)


candidate = Torch()
