from typing import Any

import torch
from torch import Tensor

from torch_ref.stepped import stepped


def sgd_update(
    param: Tensor, grad: Tensor, momentum_buffer: Tensor | None = None, **hyper: Any
) -> tuple[Tensor | None, ...]:
    return stepped(torch.optim.SGD, param, grad, {"momentum_buffer": momentum_buffer}, **hyper)
