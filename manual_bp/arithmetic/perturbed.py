"""How far rounding errors carry through a chain of layers: Monte Carlo on top of running error analysis.

The bound of `bounded.py` holds for whatever signs the errors have.  Over one page that costs little.  Over a chain of
layers it multiplies up: after four blocks with batch normalisation the bound of float32 says nothing any more, while
the actual errors, which have random signs and mostly cancel, are still small.  So a chain is treated in two steps:

- each leaf computes in float64, and its own width comes from the running error analysis of its page;
- to each result a random error, uniform within that width, is added, and goes through the rest of the chain as a real
  rounding error would: with its sign, and with the chain's own sensitivity.

A handful of such runs give, for every element, the size that the accumulated rounding error has.  To first order it is
a sum of many independent errors, so it is about normally distributed.  An addition between layers (a residual
connection) is covered by the one rounding that the inputs of the next leaf carry.

Sources: Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002 (1997);
Vignes, "A stochastic arithmetic for reliable scientific computation", Math. Comput. Simul. 35 (1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Bounded, contract_of, enter
from manual_bp.arithmetic.bounded_table import EXACT
from manual_bp.chain import Layer, Leaf, Tensors
from manual_bp.rule import Grads, Rule


@dataclass(frozen=True)
class RandomErrors:
    """Random rounding errors of one dtype: what enters an operation, and what leaves it."""

    dtype: torch.dtype
    generator: torch.Generator

    def enter(self, x: Tensor) -> Tensor:
        """`x` (float64) as a number that carries one rounding."""
        return enter(x, contract_of(self.dtype))

    def exact(self, x: Tensor) -> Tensor:
        """`x` (float64) as a number that has not been rounded, such as a count."""
        return Bounded(x, EXACT, self.dtype)

    def rounded(self, x: Tensor) -> Tensor:
        """`x` (float64) with one random rounding error."""
        return self.leave(self.enter(x))

    def leave(self, x: Tensor) -> Tensor:
        """The value with a random error within its bound; NaN where there is no finite bound."""
        if not isinstance(x, Bounded):
            return x
        noise = 2 * torch.rand(x.shape, generator=self.generator, dtype=torch.float64) - 1
        return x.value + torch.where(x.error > 0, x.error * noise, 0)

    def leaf(self, leaf: Leaf) -> Layer:
        """A leaf that computes in float64 and errs at random."""
        return _ErringLeaf(leaf, self)

    def vjp(self, rule: Rule, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        """A rule that computes in float64 and errs at random."""
        y, grads = rule.vjp(tuple(self.enter(x) for x in inputs), dy.to(self.dtype), **hyper)
        return self.leave(y), tuple(None if g is None else self.leave(g) for g in grads)


@dataclass(frozen=True)
class _ErringLeaf:
    inner: Leaf
    errors: RandomErrors

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        own, enter, leave = self.inner.shapes, self.errors.enter, self.errors.leave
        known = {name: enter(t) for name, t in state.items() if name in own}
        y, residuals, after = self.inner.forward(
            {name: enter(t) for name, t in params.items() if name in own}, known, enter(x)
        )
        return leave(y), residuals, {**state, **{name: leave(t) for name, t in after.items()}}

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        dx, dparams = self.inner.backward(residuals, self.errors.enter(dy))
        return self.errors.leave(dx), {name: self.errors.leave(d) for name, d in dparams.items()}

    def map(self, change: Any, name: str = "") -> Layer:
        return self.inner.map(change, name)


def wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, the numbers among them in float64."""
    cpu = {name: t.detach().cpu() for name, t in tensors.items()}
    return {name: t.double() if t.is_floating_point() else t for name, t in cpu.items()}
