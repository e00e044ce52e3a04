"""Whether tensors share memory, and copies that lie in memory as the original does."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Views of one buffer that interleave are told apart element by element up to this size of the buffer; larger ones that
# reach into one another's range are taken to share.
BUFFER = 10**6


def whole(x: Tensor) -> Tensor:
    """All the numbers of the buffer in which a tensor lies, one after the other."""
    length = x.untyped_storage().nbytes() // x.element_size()
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage(), 0, (length,), (1,))


def copy(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The same values with the same strides and offset in memory of its own, as another dtype if one is given."""
    return whole(x).to(dtype or x.dtype, copy=True).as_strided(x.size(), x.stride(), x.storage_offset())


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies that share memory with one another as the originals do: what is one tensor stays one."""
    same: dict[int, Tensor] = {}
    buffers: dict[object, Tensor] = {}
    found = []
    for x in tensors:
        if id(x) not in same:
            address = x.untyped_storage().data_ptr()
            key = (address, x.dtype, x.device) if address else id(x)
            if key not in buffers:
                buffers[key] = whole(x).clone()
            same[id(x)] = buffers[key].as_strided(x.size(), x.stride(), x.storage_offset())
        found.append(same[id(x)])
    return found


def shares_elements(a: Tensor, b: Tensor) -> bool:
    """Whether some byte of memory belongs to an element of both.  Two halves of one buffer share none."""
    if not (a.numel() and b.numel()) or not _same_storage(a, b):
        return False
    (a_low, a_high), (b_low, b_high) = _extent(a), _extent(b)
    if a_high <= b_low or b_high <= a_low:
        return False
    size = a.untyped_storage().nbytes()
    if a.element_size() != b.element_size() or size > BUFFER:
        return True
    both = _touched(a) & _touched(b)
    return bool(both.any())


def is_whole(x: Tensor) -> bool:
    """Whether all elements lie in the buffer; not so if that was resized, and then reading them is a crash."""
    return not x.numel() or _extent(x)[1] <= x.untyped_storage().nbytes()


def overlap(x: Tensor) -> bool:
    """Whether elements of one tensor share memory, as after expand."""
    return any(stride == 0 and size > 1 for size, stride in zip(x.size(), x.stride(), strict=True))


def _same_storage(a: Tensor, b: Tensor) -> bool:
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):  # a tensor without storage, of a compiler or a wrapper
        return False


def _extent(x: Tensor) -> tuple[int, int]:
    """The first byte of the storage that an element lies in, and the one after the last."""
    last = sum((size - 1) * int(stride) for size, stride in zip(x.shape, x.stride(), strict=True))
    first = int(x.storage_offset()) * x.element_size()
    return first, first + (last + 1) * x.element_size()


def _touched(x: Tensor) -> Tensor:
    """Per element of the storage, whether it is one of the tensor's."""
    touched = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.bool)
    touched.as_strided(x.size(), x.stride(), x.storage_offset()).fill_(True)
    return touched
