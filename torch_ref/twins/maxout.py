import torch
from torch import Tensor


def maxout(x: Tensor, *, pieces: int) -> Tensor:
    return torch.max(x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces), dim=-1).values
