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
