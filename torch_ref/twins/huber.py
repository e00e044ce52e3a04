from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def huber(x: Tensor, target: Tensor, *, delta: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    return F.huber_loss(x, target, delta=delta, reduction=reduction)
