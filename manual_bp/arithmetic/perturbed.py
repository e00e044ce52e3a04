"""How far rounding errors carry through a chain of layers: Monte Carlo on top of running error analysis.

The bound of `bounded.py` holds for whatever signs the errors have.  Over one page that costs little.  Over a chain of
layers it multiplies up: after four blocks with batch normalisation the bound of float32 says nothing any more, while
the actual errors, which have random signs and mostly cancel, are still small.  So a chain is treated in two steps:

- each leaf computes in float64, and its own width comes from the running error analysis of its page;
- to each result a random error, uniform within that width, is added, and goes through the rest of the chain as a real
  rounding error would: with its sign, and with the chain's own sensitivity.

A handful of such runs give, for every element, the size that the accumulated rounding error has.  To first order it
is a sum of many independent errors, so it is about normally distributed.

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
from manual_bp.chain import Layer, Leaf, Tensors


@dataclass(frozen=True)
class Perturbed(Leaf):
    """A leaf that computes in float64 and errs at random, as far as arithmetic in `dtype` may."""

    inner: Leaf | None = None
    dtype: torch.dtype = torch.float32
    generator: torch.Generator | None = None

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        assert self.inner is not None
        own = self.inner.shapes
        params = {name: self._enter(t) for name, t in params.items() if name in own}
        known = {name: self._enter(t) for name, t in state.items() if name in own}
        y, residuals, after = self.inner.forward(params, known, self._enter(x))
        return self._err(y), residuals, {**state, **{name: self._err(t) for name, t in after.items()}}

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.inner is not None
        dx, dparams = self.inner.backward(residuals, self._enter(dy))
        return self._err(dx), {name: self._err(d) for name, d in dparams.items()}

    def others(self, params: Tensors, state: Tensors) -> list[Tensor]:
        return []

    def _enter(self, x: Tensor) -> Tensor:
        return enter(x, contract_of(self.dtype))

    def _err(self, x: Tensor) -> Tensor:
        if not isinstance(x, Bounded):
            return x
        noise = 2 * torch.rand(x.shape, generator=self.generator, dtype=torch.float64) - 1
        return x.value + torch.where(x.error.isfinite(), x.error, 0) * noise


def perturbed(layer: Layer, dtype: torch.dtype, generator: torch.Generator) -> Layer:
    """The same composition with random rounding errors of `dtype`; give it parameters, state and x in float64."""

    def change(_: str, leaf: Leaf) -> Layer:
        return Perturbed(leaf.rule, leaf.names, leaf.hyper, leaf.shapes, leaf, dtype, generator)

    return layer.map(change)


def wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, the numbers among them in float64."""
    return {
        name: t.detach().cpu().double() if t.is_floating_point() else t.detach().cpu() for name, t in tensors.items()
    }
