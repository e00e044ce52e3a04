import torch
from torch import Tensor

from torch_ref.stepped import stepped


def adamw_update(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None = None,
    *,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    **hyper: float,
) -> tuple[Tensor | None, ...]:
    state = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "max_exp_avg_sq": max_exp_avg_sq}
    amsgrad = max_exp_avg_sq is not None
    return stepped(torch.optim.AdamW, param, grad, state, step - 1, betas=(beta1, beta2), amsgrad=amsgrad, **hyper)
