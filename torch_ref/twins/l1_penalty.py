from torch import Tensor


def l1_penalty(weight: Tensor, *, lam: float, n: int = 1) -> Tensor:
    return lam / n * weight.abs().sum()
