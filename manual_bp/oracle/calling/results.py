"""Results as they came from a candidate: read as plain tensors, kept in memory of their own, compared bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.foreign import named
from manual_bp.oracle.calling.memory import is_whole, whole
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts

# A result of a wrong shape is copied, for its diagnosis, up to this size; none of the generated cases is as large.
LARGEST = 2**22
# torch computes with no more axes than this.
MOST_AXES = 64
OVERWROTE = "overwrote its argument"


def plain(x: Any) -> Any:
    """A result as a plain tensor, in the same memory: a subclass may answer for itself, but its numbers are judged.

    Of what is no tensor only the name of its type is kept.

    Raises TypeError for what only says that it is a tensor, or has no memory of its own, and whatever a subclass does.
    """
    if x is None:
        return None
    if not isinstance(x, Tensor):
        return stand_in(named(x), hasattr(type(x), "__array__"))
    with torch._C.DisableTorchFunctionSubclass():
        same = x if type(x) is Tensor else x.as_subclass(Tensor)
    # This raises TypeError itself for what only says that it is a tensor, as a mock does.
    if torch._C._dispatch_keys(same).has(torch._C.DispatchKey.Python):
        raise TypeError(f"a {named(x)} came, whose numbers are where it says; return a plain Tensor")
    if not same.is_nested and same.ndim > MOST_AXES:
        raise TypeError(f"a tensor of {same.ndim} axes came; torch computes with {MOST_AXES} at most")
    if is_dense(same) and not is_whole(same):
        raise TypeError("a tensor came whose memory was freed")
    return same


def stand_in(kind: str, is_array: bool) -> Any:
    """An object of a type of that name, without the code of the one that came."""
    return type(kind, (), {"__array__": None} if is_array else {})()


def all_kept(raw: Sequence[Any], case: Case) -> tuple[Any, ...]:
    """Results in memory of their own: the candidate may go on writing into what it returned."""
    return tuple(preserved(x, like) for x, like in zip(raw, shaped_like(case, len(raw)), strict=bool(raw)))


def shaped_like(case: Case, number: int) -> tuple[Tensor | None, ...]:
    """What so many results of a case are shaped like: its cotangents, and its inputs; None where nobody knows."""
    outputs = parts(case.dy) if case.dy is not None else (None,) * (number - len(case.inputs))
    return (*outputs, *case.inputs)


def preserved(x: Any, like: Tensor | None) -> Any:
    """A result, copied if it is dense.  One that is too large (expanded, it may have any size) keeps its shape alone:
    it is not `like` what is due, and that is all that there is to say."""
    if not isinstance(x, Tensor) or not is_dense(x):
        return x
    if x.numel() > LARGEST and (like is None or x.shape != like.shape):
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    return x.detach().clone()


def is_dense(x: Tensor) -> bool:
    """Whether a tensor is made of numbers that lie in memory."""
    return x.layout is torch.strided and not (x.is_quantized or x.is_nested or x.is_meta)


def damage(given: Tensor, own: Tensor, beside: Tensor | None) -> str:
    """What became of a copy that was given, in words; "" if it is as it was.  beside: the bytes of its buffer before,
    if that holds more than its elements."""
    try:
        if not is_whole(given) or not same_bits(given, own):
            return OVERWROTE
        if beside is not None and not torch.equal(bytes_of(given), beside):
            return "wrote beside its argument, into memory between or around its elements"
    except Exception:  # it is no tensor any more that can be read
        return OVERWROTE
    return ""


def bytes_of(x: Tensor) -> Tensor:
    return whole(x).view(torch.uint8)


def has_gaps(x: Tensor) -> bool:
    """Whether a tensor's buffer holds more than its elements."""
    return x.untyped_storage().nbytes() > x.numel() * x.element_size()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, but for the sign of 0 and what a NaN holds."""
    if a.is_nested or b.is_nested:  # it has no shape
        return a.is_nested and b.is_nested
    if (a.shape, a.dtype, a.layout, a.device) != (b.shape, b.dtype, b.layout, b.device):
        return False
    if a.is_meta:  # it has no bits
        return True
    if a.layout is not torch.strided or a.is_quantized:
        return a.layout is b.layout
    a, b = a.detach(), b.detach()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
