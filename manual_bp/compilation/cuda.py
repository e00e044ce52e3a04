"""A compiled program captured in one CUDA graph: one launch in place of one a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manual_bp.compilation.remembered import Remembered

# Runs before the first capture, in which kernels are loaded and libraries choose their algorithms and workspaces: so
# many as torch's own examples have.
WARM_UP = 3


class Graph:
    """`run`, called with tensors like `example`, as one graph.

    written: into how many of its first inputs `run` writes, such as a donated state.  A graph reads and writes fixed
        addresses, so it is captured for the memory of those inputs, and again when other tensors come in their place:
        whoever trains one state captures once, and whoever steps two by turns with one program captures every time.
    What is not written is copied to where the graph reads it, and results are copies.
    """

    def __init__(
        self, run: Callable[[list[Tensor]], Sequence[Tensor]], example: Sequence[Tensor], written: int
    ) -> None:
        self._run = run
        self._written: Remembered | None = None
        self._results: Sequence[Tensor] = ()
        self._read = [t.clone() for t in example[written:]]
        self._same_dtype = [
            [i for i, t in enumerate(self._read) if t.dtype is dtype] for dtype in {t.dtype for t in self._read}
        ]
        trial = [*(t.clone() for t in example[:written]), *self._read]
        for _ in range(WARM_UP):
            run(trial)

    def __call__(self, flat: list[Tensor]) -> Sequence[Tensor]:
        written, read = flat[: -len(self._read)], flat[-len(self._read) :]
        for places in self._same_dtype:  # of one dtype, many tensors are copied by one kernel
            torch._foreach_copy_([self._read[i] for i in places], [read[i] for i in places])
        if self._written is None or not self._written.are(written):
            self._capture(written)
        self._graph.replay()
        return [result.clone() for result in self._results]

    def _capture(self, written: Sequence[Tensor]) -> None:
        """Record the program, which does not run it.

        Matrix products need a workspace of cuBLAS, which torch allocates once a stream.  The graph allocates its own,
        in its own memory: one that lay elsewhere could be freed while the graph still writes into it.
        """
        self._written, self._results = None, ()  # the last capture's, before there is memory for another
        self._graph = torch.cuda.CUDAGraph()
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(self._graph):
            self._results = self._run([*written, *self._read])
        torch._C._cuda_clearCublasWorkspaces()
        self._written = Remembered(written)
