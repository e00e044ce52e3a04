import torch.nn.functional as F
from torch import Tensor


def l2_normalize(x: Tensor, *, dim: int = -1, eps: float = 1e-12) -> Tensor:
    return F.normalize(x, dim=dim, eps=eps)  # whose own default is the second axis
