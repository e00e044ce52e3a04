"""A function captured in one CUDA graph: one launch in place of one a kernel.  Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Runs before the capture, in which kernels are compiled and libraries choose their algorithms.
WARM_UP = 3


class Graph:
    """`function` of tensors like `example`, replayed on buffers of its own.

    written: into how many of its first inputs the function writes.
    Inputs are copied into the buffers, what was written is copied back, and results are copies.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor], written: int) -> None:
        self._written = written
        compiled = torch.compile(function, fullgraph=True, dynamic=False)
        self._inputs = [t.clone() for t in example]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                compiled(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._results = compiled(*self._inputs)

    def __call__(self, flat: list[Tensor]) -> Sequence[Tensor]:
        torch._foreach_copy_(self._inputs, flat)
        self._graph.replay()
        if self._written:
            torch._foreach_copy_(flat[: self._written], self._inputs[: self._written])
        return [result.clone() for result in self._results]
