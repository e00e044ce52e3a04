"""Rule: a page wrapped so that it can be called safely.

A page's `forward` and `backward` are bare mathematics.  `Rule` adds what every caller needs and no page should repeat:

- every shape, dtype, device, index and hyperparameter is checked against the page's annotations (ValueError);
- nothing is recorded: inputs that require grad are accepted, results never require it;
- 16-bit inputs are computed in float32 and each output is rounded once, under torch.autocast too; residuals stay
  float32.

`Rule(name, module)` works for a page of anybody's own; the registered ones are found by `manual_bp.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor

from manual_bp.outputs import parts, whole
from manual_bp.signature import Signature, computing_dtype

Grads = tuple[Tensor | None, ...]

text_of: ContextVar[Callable[[Rule], Any]] = ContextVar("text_of", default=lambda rule: rule.page)
"""What computes for a rule: its page, or while a program is traced what stands in for it (compilation.stand_ins)."""


class Vjp(Protocol):
    """The one function type that is compared: value and cotangents of a function at `inputs`, given the cotangent `dy`.

    A rule, its twin, somebody's kernel, a compiled variant and a recorded vector are all a Vjp.  With several outputs y
    and dy are tuples; an optional input that is absent is None, and so is its cotangent.
    """

    def __call__(self, inputs: tuple[Any, ...], dy: Any, **hyper: Any) -> tuple[Any, Grads]: ...


class Rule(Signature):
    """One page, checked and ready to call.

    >>> import manual_bp as bp, torch
    >>> y, residuals = bp.elu.forward(torch.tensor([-1.0, 2.0]), alpha=2.0)
    >>> bp.elu.backward(residuals, torch.ones(2))
    (tensor([0.7358, 1.0000]),)

    What its page says of inputs and outputs is in `manual_bp.signature`.
    """

    def __repr__(self) -> str:
        return f"<rule {self.name}: {self.summary}>"

    # ------------------------------------------------------------------------------------------------------- calling

    def forward(self, *inputs: Tensor | None, **given: Any) -> tuple[Any, Any]:
        """The value, or the page's Outputs, and what `backward` needs.

        given: hyperparameters, and inputs by name.
        Raises ValueError if a shape, dtype, device, index or hyperparameter does not fit the page's annotations.
        """
        inputs, hyper = self.sorted_inputs(inputs, given)
        dtype = self.check_inputs(inputs, hyper)
        computing = dtype and computing_dtype(dtype)
        with _without_autocast(next(x for x in inputs if x is not None).device):
            y, residuals = self.pure(*(None if x is None else _enter(x, computing) for x in inputs), **hyper)
        return _leave(y, dtype), residuals

    def pure(self, *inputs: Any, **hyper: Any) -> tuple[Any, Any]:
        """The page's own forward, unchecked; its residuals are None if it has none."""
        found = text_of.get()(self).forward(*inputs, **hyper)
        return found if self._has_residuals else (found, None)

    def pure_backward(self, residuals: Any, dy: Any) -> Grads:
        """The page's own backward, unchecked."""
        grads: Grads = text_of.get()(self).backward(residuals, dy)
        return grads

    def backward(self, residuals: Any, dy: Any) -> Grads:
        """One cotangent per input of `forward`, None for an input that has none.

        dy: of y's dtype; of several outputs one each, None for 0.  Raises ValueError if `residuals` are not this
        rule's, or dy's shape, device or (where the residuals tell) dtype does not fit them.
        """
        entered, dtype = self._entered(residuals, dy)
        with _without_autocast(parts(entered)[0].device):
            grads: Grads = _leave(self.pure_backward(residuals, entered), dtype)
        return grads

    def vjp(self, inputs: tuple[Tensor | None, ...], dy: Any = None, **hyper: Any) -> tuple[Any, Grads]:
        """Value and cotangents in one call (a `Vjp`); without backward every cotangent is None."""
        y, residuals = self.forward(*inputs, **hyper)
        if not self.has_backward:
            return y, (None,) * len(self.inputs)
        self.check_dtypes(y, dy)
        return y, self.backward(residuals, dy)

    def values_alone(self, inputs: tuple[Tensor | None, ...], **hyper: Any) -> Any:
        """y alone: what a candidate of a page without backward returns."""
        return self.forward(*inputs, **hyper)[0]

    @property
    def candidate(self) -> Callable[..., Any]:
        """The rule as it is judged: `vjp`, or `values_alone` of a page without backward."""
        return self.vjp if self.has_backward else self.values_alone

    def terms(self, residuals: Any, dy: Any) -> dict[str, dict[str, Tensor]]:
        """The named summands of each cotangent, in the precision of computation; "whole" if the page names none."""
        dy, _ = self._entered(residuals, dy)
        if hasattr(self.page, "terms"):
            return dict(self.page.terms(residuals, dy))
        grads = self.page.backward(residuals, dy)
        return {f"d{name}": {"whole": grad} for name, grad in zip(self.inputs, grads, strict=True) if grad is not None}

    def mistaken(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """This rule's forward with a formula (inputs, dy and hyperparameters by name -> cotangents) in place of its
        backward, run in the same way: how mistakes and mutants are called.  Of a page without backward the formula
        gives the values."""

        def entered(inputs: tuple[Tensor | None, ...], hyper: dict[str, Any]) -> tuple[dict[str, Any], Any]:
            inputs, hyper = self.sorted_inputs(inputs, hyper)
            dtype = self.check_inputs(inputs, hyper)
            computing = dtype and computing_dtype(dtype)
            numbers = (None if x is None else _enter(x, computing) for x in inputs)
            return {**dict(zip(self.inputs, numbers, strict=True)), **hyper}, dtype

        def vjp(inputs: tuple[Tensor | None, ...], dy: Any, **hyper: Any) -> tuple[Any, Grads]:
            y, residuals = self.forward(*inputs, **hyper)
            named, dtype = entered(inputs, hyper)
            return y, _leave(formula(**named, dy=self._entered(residuals, dy)[0]), dtype)

        def evaluate(inputs: tuple[Tensor | None, ...], **hyper: Any) -> Any:
            named, dtype = entered(inputs, hyper)
            return _leave(formula(**named), dtype)

        return vjp if self.has_backward else evaluate

    def _entered(self, residuals: Any, dy: Any) -> tuple[Any, torch.dtype]:
        """dy as the page takes it, and the dtype in which results are due."""
        given, dtype = self.check_backward(residuals, dy)
        entered = [_enter(d, computing_dtype(dtype)) for d in parts(given)]
        return whole(entered, like=given), dtype


def as_vjp(rule: Rule, candidate: Callable[..., Any]) -> Vjp:
    """A candidate for the rule as a Vjp: one for a page without backward gives values alone."""
    if rule.has_backward:
        return candidate

    def vjp(inputs: tuple[Any, ...], dy: Any, **hyper: Any) -> tuple[Any, Grads]:
        return candidate(inputs, **hyper), (None,) * len(rule.inputs)

    return vjp


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Where torch.autocast is on, products would be computed in 16 bits, whatever was promised."""
    try:
        enabled = torch.is_autocast_enabled(device.type)
    except RuntimeError:  # a device that has none, such as meta
        return nullcontext()
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()


def _enter(x: Tensor, computing: torch.dtype | None) -> Tensor:
    """`x` cut off from autograd and, if it is a number of 16 bits, widened."""
    x = x.detach()
    return x.to(computing) if computing and x.is_floating_point() else x


def _leave(results: Any, dtype: torch.dtype | None) -> Any:
    """The results, numbers among them rounded once to the dtype that the caller uses."""
    if isinstance(results, tuple):
        left = [_leave(x, dtype) for x in results]
        return type(results)(*left) if hasattr(results, "_fields") else tuple(left)
    if results is None or dtype is None or not results.is_floating_point():
        return results
    return results.to(dtype)
