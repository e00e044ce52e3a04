from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def geglu(gate: Tensor, up: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return F.gelu(gate, approximate=approximate) * up
