import torch.nn.functional as F
from torch import Tensor


def max_pool(
    x: Tensor,
    *,
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    of_rank = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[x.ndim]
    y: Tensor = of_rank(x, kernel, stride, padding, dilation, ceil_mode)
    return y
