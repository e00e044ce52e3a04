from torch import Tensor


def add(x: Tensor, other: Tensor) -> Tensor:
    return x + other
