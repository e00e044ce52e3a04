"""The limit: the matrix products of a step and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.steps import StepProblem


class Products:
    """x Wᵀ, δᵀ x and, for all layers but the first, δ W, into memory that is there already.

    No program that multiplies with the same library can be faster; whatever a step takes beyond it is its own.
    """

    def __init__(self, problem: StepProblem, dtype: torch.dtype, device: str, threads: int | None = None) -> None:
        self.name = "bare matrix products" + ("" if threads is None else f", {threads} thread")
        self.threads = threads
        self._calls: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, (outputs, inputs) in enumerate(problem.shapes):
            x = torch.randn(problem.batch, inputs).to(device, dtype)
            delta = torch.randn(problem.batch, outputs).to(device, dtype)
            weight = torch.randn(outputs, inputs).to(device, dtype)
            products = [(x, weight.T), (delta.T, x), *([(delta, weight)] if index else [])]
            self._calls += [(a, b, a.new_empty(a.shape[0], b.shape[1])) for a, b in products]

    def __call__(self) -> None:
        for a, b, out in self._calls:
            torch.mm(a, b, out=out)
