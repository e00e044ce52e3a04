"""The limit: the matrix products of a step and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.steps import StepProblem
from manual_bp.compilation import onednn
from manual_bp.compilation.cuda import WARM_UP


class Products:
    """x Wᵀ, δᵀ x and, for all layers but the first, δ W.

    No program that multiplies with the same library can be faster; whatever a step takes beyond it is its own.

    onednn: by oneDNN in place of torch.mm, which calls MKL or cuBLAS; some processors prefer the one, some the other.
    """

    def __init__(
        self, problem: StepProblem, dtype: torch.dtype, device: str, threads: int | None = None, onednn: bool = False
    ) -> None:
        one = "" if threads is None else f", {threads} thread"
        self.name = f"bare matrix products{', oneDNN' if onednn else ''}{one}"
        self.threads = threads
        self._multiply = _by_onednn if onednn else _by_torch
        self.products: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, (outputs, inputs) in enumerate(problem.shapes):
            x = torch.randn(problem.batch, inputs).to(device, dtype)
            delta = torch.randn(problem.batch, outputs).to(device, dtype)
            weight = torch.randn(outputs, inputs).to(device, dtype)
            pairs = [(x, weight.T), (delta.T, x), *([(delta, weight)] if index else [])]
            self.products += [(a, b, a.new_empty(a.shape[0], b.shape[1])) for a, b in pairs]

    def __call__(self) -> None:
        for a, b, out in self.products:
            self._multiply(a, b, out)


GRAPHED = ", in one graph"
"""What stands behind the name of products that are launched together."""


class GraphedProducts(Products):
    """The same products in one CUDA graph: a step that is a graph itself is not bounded by launches one by one.

    capture: makes a program that does again what a function did.
    """

    def __init__(
        self,
        problem: StepProblem,
        dtype: torch.dtype,
        device: str,
        capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ) -> None:
        super().__init__(problem, dtype, device)
        self.name += GRAPHED
        self._replay = (capture or captured)(super().__call__)

    def __call__(self) -> None:
        self._replay()


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """What replays the kernels that `run` launches, as one launch."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # not the default one, in which nothing can be captured
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _by_torch(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Into memory that is there already."""
    torch.mm(a, b, out=out)


def _by_onednn(a: Tensor, b: Tensor, out: Tensor) -> None:
    """As programs of ours call it: torch's own operation allocates its result, and copies what lies transposed."""
    onednn.multiply(out, a, b)


def limits_of(problem: StepProblem, dtype: torch.dtype, device: str) -> list[Products]:
    """The products with every library, number of threads and way to launch them; the fastest of them is the limit."""
    if device != "cpu":
        return [Products(problem, dtype, device), GraphedProducts(problem, dtype, device)]
    libraries = [False, *([True] if onednn.function() is not None and dtype == torch.float32 else [])]
    threads = [None, *([1] if torch.get_num_threads() > 1 else [])]
    return [Products(problem, dtype, device, t, onednn) for onednn in libraries for t in threads]
