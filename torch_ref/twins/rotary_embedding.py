from typing import Literal

import torch
from torch import Tensor


def rotary_embedding(
    x: Tensor, cos: Tensor, sin: Tensor, *, layout: Literal["halves", "interleaved"] = "halves"
) -> Tensor:
    if layout == "interleaved":
        across = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return x * cos.repeat_interleave(2, -1) + across * sin.repeat_interleave(2, -1)
    first, second = x.chunk(2, -1)
    return x * torch.cat([cos, cos], -1) + torch.cat([-second, first], -1) * torch.cat([sin, sin], -1)
