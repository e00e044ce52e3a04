"""Where the numbers of a function leave torch."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from manual_bp.program import Line
from manual_bp.program.recording import own_line

LEAVING = {Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.item, Tensor.data_ptr, Tensor.__dlpack__}
"""Methods that give the numbers of a tensor to whatever is not torch."""


class _Leaving(TorchFunctionMode):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.lines: list[Line] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in LEAVING:
            frame = sys._getframe(1)
            self.lines = list(dict.fromkeys((*self.lines, *filter(None, (self._in_body(frame), own_line(frame))))))
        return func(*args, **(kwargs or {}))

    def _in_body(self, frame: FrameType | None) -> Line | None:
        while frame is not None and frame.f_code is not self.body:
            frame = frame.f_back
        if frame is None:
            return None
        file = frame.f_code.co_filename
        return Line(file, frame.f_lineno, linecache.getline(file, frame.f_lineno).strip())


def leaving(
    function: Callable[..., Any], body: Any, inputs: Sequence[Tensor | None], hyper: Mapping[str, Any]
) -> list[Line]:
    """The lines at which numbers leave torch in function(*inputs, **hyper), those of `body` (a code object) first."""
    with torch.no_grad(), _Leaving(body) as mode:
        function(*(None if x is None else x.clone() for x in inputs), **hyper)
    found: list[Line] = mode.lines
    return found
