import torch.nn.functional as F
from torch import Tensor


def batch_norm_inference(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, *, eps: float = 1e-5
) -> Tensor:
    return F.batch_norm(x, running_mean.detach(), running_var.detach(), weight, bias, training=False, eps=eps)
