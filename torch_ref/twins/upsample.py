import torch.nn.functional as F
from torch import Tensor


def upsample(x: Tensor, *, scale: int | tuple[int, ...], mode: str = "nearest", align_corners: bool = False) -> Tensor:
    axes = x.ndim - 2
    size = tuple(
        n * times for n, times in zip(x.shape[2:], (scale,) * axes if isinstance(scale, int) else scale, strict=True)
    )
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    return F.interpolate(x, size, mode=("linear", "bilinear", "trilinear")[axes - 1], align_corners=align_corners)
