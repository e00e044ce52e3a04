from torch import Tensor


def l2_penalty(weight: Tensor, *, lam: float, n: int = 1) -> Tensor:
    return lam / (2 * n) * weight.pow(2).sum()
