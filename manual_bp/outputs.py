"""What a page's forward returns beside the residuals: one tensor, or the fields of its `Outputs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def parts(y: Any) -> tuple[Tensor, ...]:
    """Each output by itself, in order: the fields of `Outputs`, or a single tensor alone.  The same of cotangents."""
    return tuple(y) if isinstance(y, tuple | list) else (y,)


def whole(tensors: Sequence[Any], like: Any) -> Any:
    """The reverse of `parts`: one tensor, or several in the tuple type of `like`."""
    if not isinstance(like, tuple):
        (single,) = tensors
        return single
    return type(like)(*tensors) if hasattr(like, "_fields") else tuple(tensors)
