import torch
from torch import Tensor

TORCHS = 1e-6


def clip_by_norm(grad: Tensor, *, max_norm: float, eps: float = TORCHS) -> tuple[Tensor, Tensor]:
    if eps != TORCHS:  # which torch does not let anybody choose
        norm = torch.nn.utils.get_total_norm([grad])
        return grad * torch.clamp(max_norm / (norm + eps), max=1.0), norm
    leaf = torch.nn.Parameter(torch.zeros_like(grad))
    leaf.grad = grad.detach().clone()
    norm = torch.nn.utils.clip_grad_norm_([leaf], max_norm)
    return leaf.grad, norm
