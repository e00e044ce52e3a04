import torch
from torch import Tensor


def lion_update(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    # torch.optim has none; in place, in the order of the authors' own program (github.com/google/automl, lion).
    after, moment = param.detach().clone(), exp_avg.detach().clone()
    after.mul_(1 - lr * weight_decay)
    direction = moment * beta1 + grad * (1 - beta1)
    after.add_(torch.sign(direction), alpha=-lr)
    moment.mul_(beta2).add_(grad, alpha=1 - beta2)
    return after, moment
