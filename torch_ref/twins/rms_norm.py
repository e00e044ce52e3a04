import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6, offset: float = 0.0) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], None if weight is None else offset + weight, eps)
