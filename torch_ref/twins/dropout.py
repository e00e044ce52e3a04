import torch
from torch import Tensor


def dropout(x: Tensor, mask: Tensor, *, p: float) -> Tensor:
    kept = mask.bool() & (p < 1)
    scale = 1 - p if p < 1 else 1.0
    return torch.where(kept, x / scale, 0)
