"""Numbers as a program reads them that takes no notice of strides: what wrong formulas of this chapter share."""

import torch
from torch import Tensor


def as_if_contiguous(x: Tensor) -> Tensor:
    """What is read by walking through the memory of x in order, over and over where it is shorter than x."""
    if x.is_contiguous():
        return x
    length = int(x.untyped_storage().nbytes() // x.element_size() - x.storage_offset())
    memory = x.as_strided((length,), (1,))
    return memory[torch.arange(x.numel(), device=x.device) % length].reshape(x.shape)


def at_strides_of(other: Tensor, x: Tensor) -> Tensor:
    """What is read of x, which is contiguous, with the strides of another tensor of its shape; beyond the end of its
    memory from the beginning on."""
    if other.is_contiguous():
        return x
    place = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    for axis, (length, stride) in enumerate(zip(other.shape, other.stride(), strict=True)):
        place += (stride * torch.arange(length, device=x.device)).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return x.reshape(-1)[place % x.numel()] if x.numel() else x
