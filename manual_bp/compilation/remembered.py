"""Tensors that are recognised when they come again, and not kept alive for it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import call, is_
from weakref import ref

from torch import Tensor


class Remembered:
    """A list of tensors, known by weak references: whoever steps another state need not pay for the memory of this."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(map(ref, tensors))

    def are(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same objects, in the same order."""
        return len(tensors) == len(self._tensors) and all(map(is_, map(call, self._tensors), tensors))
