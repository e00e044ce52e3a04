import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn


def ema(average: Tensor, param: Tensor, *, decay: float) -> Tensor:
    averaged: Tensor = get_ema_avg_fn(decay)(average, param, torch.tensor(1))  # type: ignore[no-untyped-call]
    return averaged
