from typing import Any

import torch
from torch import Tensor

from torch_ref.stepped import stepped


def adagrad_update(param: Tensor, grad: Tensor, sum: Tensor, *, step: int, **hyper: Any) -> tuple[Tensor | None, ...]:
    return stepped(torch.optim.Adagrad, param, grad, {"sum": sum}, step - 1, **hyper)
