from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy_with_logits(
    x: Tensor, target: Tensor, pos_weight: Tensor | None = None, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    weight = None if pos_weight is None else pos_weight.detach()  # a constant of the rule
    return F.binary_cross_entropy_with_logits(x, target, pos_weight=weight, reduction=reduction)
