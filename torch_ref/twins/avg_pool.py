import torch.nn.functional as F
from torch import Tensor


def avg_pool(
    x: Tensor,
    *,
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    of_rank = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]
    y: Tensor = of_rank(x, kernel, stride or kernel, padding, ceil_mode, count_include_pad)
    return y
