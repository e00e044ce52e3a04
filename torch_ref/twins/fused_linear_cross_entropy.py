from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def fused_linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    return F.cross_entropy(
        F.linear(x, weight), target, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
