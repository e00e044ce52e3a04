import torch.nn.functional as F
from torch import Tensor


def square_loss(x: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(x, target, reduction="sum") / (2 * x.shape[0])
