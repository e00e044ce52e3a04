"""How far rounding errors carry through a chain of layers: Monte Carlo on top of running error analysis.

The bound of `bounded.py` holds for whatever signs the errors have.  Over one page that costs little.  Over a chain of
layers it multiplies up: after four blocks with batch normalisation the bound of float32 says nothing any more, while
the actual errors, which have random signs and mostly cancel, are still small.  So a chain is treated in two steps:

- one run in float64 takes down the width of each leaf's results, by the running error analysis of its page; where that
  has no meaning, over the many steps of a recurrence, stochastic arithmetic (stochastic.py) finds another;
- in further runs a random error, uniform within that width, is added to each result, and goes through the rest of the
  chain as a real rounding error would: with its sign, and with the chain's own sensitivity.

A handful of the latter give, for every element, the size that the accumulated rounding error has.  To first order it is
a sum of many independent errors, so it is about normally distributed.  An addition between layers (of what several
branches bring back to one x) is covered by the one rounding that the inputs of the next leaf carry.

Sources: Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002 (1997);
Vignes, "A stochastic arithmetic for reliable scientific computation", Math. Comput. Simul. 35 (1993).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Bounded, How, Paging, contract_of, enter, leave
from manual_bp.arithmetic.bounded_table import EXACT
from manual_bp.arithmetic.bounded_tensor import done_so
from manual_bp.arithmetic.stochastic import is_wide, narrowed, wide_from
from manual_bp.chain import Layer, Leaf, Tensors
from manual_bp.outputs import parts, whole
from manual_bp.rule import Grads, Rule

Again = Callable[[How], Sequence[Any]]


class Errors(ABC):
    """Rounding errors of the operations of a chain: what enters an operation, and what leaves it."""

    @abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """`x` (float64) as a number that carries one rounding."""

    @abstractmethod
    def exact(self, x: Tensor) -> Tensor:
        """`x` (float64) as a number that has not been rounded, such as a count."""

    @abstractmethod
    def leave(self, x: Tensor) -> Tensor:
        """What comes out of an operation, as float64 again."""

    def left(self, results: Sequence[Any], again: Again) -> list[Any]:
        """`leave` of each of a leaf's results that is there.  again: the results once more, done in another way."""
        return [None if x is None else self.leave(x) for x in results]

    def computing(self, how: How | None = None) -> AbstractContextManager[Any]:
        """Where an operation is done."""
        return nullcontext()

    def rounded(self, x: Tensor) -> Tensor:
        """`x` (float64) after one rounding."""
        return self.leave(self.enter(x))

    def leaf(self, leaf: Leaf) -> Layer:
        """A leaf that computes in float64 and has these errors."""
        return _ErringLeaf(leaf, self)

    def vjp(self, rule: Rule, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        """A rule that computes in float64 and has these errors."""
        with self.computing():
            y, grads = rule.vjp(tuple(self.enter(x) for x in inputs), self.exact(dy), **hyper)
        return self.leave(y), tuple(None if g is None else self.leave(g) for g in grads)


class Analysis(Errors):
    """The running error analysis of one dtype: nothing errs, and `widths` takes down how far each result might."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._contract = contract_of(dtype)
        self.widths: list[Tensor | None] = []

    def enter(self, x: Tensor) -> Tensor:
        return enter(x, self._contract)

    def exact(self, x: Tensor) -> Tensor:
        return Bounded(x, EXACT, self._contract.compute)

    def computing(self, how: How | None = None) -> AbstractContextManager[Any]:
        return Paging(how)

    def leave(self, x: Tensor) -> Tensor:
        if not isinstance(x, Bounded):
            self.widths.append(None)
            return x
        self.widths.append(leave(x, self._contract))
        return x.value

    def left(self, results: Sequence[Any], again: Again) -> list[Any]:
        begun = len(self.widths)
        values = super().left(results, again)
        there = [x for x in results if x is not None]
        errors, share = self.widths[begun:], wide_from(self._contract.compute, self._contract.storage)
        if any(is_wide(x, error, share) for x, error in zip(there, errors, strict=True)):

            def run(how: How, count: int) -> list[Any]:
                runs = [[x for x in again(how) if x is not None] for _ in range(count)]
                return [torch.stack(each) for each in zip(*runs, strict=True)]

            self.widths[begun:] = narrowed(there, errors, run, None, lambda x: leave(x, self._contract), share)
        return values


class RandomErrors(Errors):
    """Errors drawn at random within an analysis's widths, of the same operations in the same order, again and again.

    The operations are done on numbers that differ from the analysed ones by rounding errors, and so do the widths: to
    first order they are the same.
    """

    def __init__(self, widths: Sequence[Tensor | None], generator: torch.Generator) -> None:
        self._widths = itertools.cycle(widths)
        self._generator = generator

    def enter(self, x: Tensor) -> Tensor:
        return x

    def exact(self, x: Tensor) -> Tensor:
        return x

    def leave(self, x: Tensor) -> Tensor:
        """The value with a random error within its width; infinite or NaN where that is not finite."""
        width = next(self._widths)
        if width is None:
            return x
        noise = torch.empty_like(x).uniform_(-1, 1, generator=self._generator)
        return torch.addcmul(x, width, noise)


class _Kept(NamedTuple):
    """What backward needs: the leaf's residuals, and what forward was given, so that it can be done in another way."""

    residuals: Any
    given: tuple[Tensors, Tensors, Any]


@dataclass(frozen=True)
class _ErringLeaf:
    inner: Leaf
    errors: Errors

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor, Any, Tensors]:
        given = (params, state, x)
        y, residuals, after = self._forward(None, *given)

        def again(how: How) -> list[Any]:
            y, _, after = self._forward(how, *given)
            return [y, *after.values()]

        left, *states = self.errors.left([y, *after.values()], again)
        return left, _Kept(residuals, given), {**state, **dict(zip(after, states, strict=True))}

    def backward(self, residuals: _Kept, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        dx, dparams = self._backward(None, residuals.residuals, dy)

        def again(how: How) -> list[Any]:
            _, kept, _ = self._forward(how, *residuals.given)
            dx, dparams = self._backward(how, kept, dy)
            return [*parts(dx), *dparams.values()]

        left = self.errors.left([*parts(dx), *dparams.values()], again)
        of_x, of_params = left[: len(parts(dx))], left[len(parts(dx)) :]
        return whole(of_x, like=dx), dict(zip(dparams, of_params, strict=True))

    def _forward(self, how: How | None, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        own = self.inner.shapes
        known = {name: self._entered(t, how) for name, t in state.items() if name in own}
        entered = {name: self._entered(t, how) for name, t in params.items() if name in own}
        with self.errors.computing(how):
            return self.inner.forward(entered, known, _each(lambda t: self._entered(t, how), x))

    def _backward(self, how: How | None, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        with self.errors.computing(how):
            return self.inner.backward(residuals, self._entered(dy, how))

    def _entered(self, x: Tensor, how: How | None) -> Tensor:
        entered = self.errors.enter(x)
        return done_so(entered, how) if how else entered

    def map(self, change: Any, name: str = "") -> Layer:
        return self.inner.map(change, name)


def _each(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """What a layer takes: a tensor, or several of them."""
    return tuple(change(part) for part in x) if isinstance(x, tuple) else change(x)


def wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, the numbers among them in float64."""
    cpu = {name: t.detach().cpu() for name, t in tensors.items()}
    return {name: t.double() if t.is_floating_point() else t for name, t in cpu.items()}
