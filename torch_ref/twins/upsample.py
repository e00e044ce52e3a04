import torch.nn.functional as F
from torch import Tensor


def upsample(
    x: Tensor, *, scale: float | tuple[float, ...], mode: str = "nearest", align_corners: bool = False
) -> Tensor:
    axes = x.ndim - 2
    mode = mode if mode == "nearest" else ("linear", "bilinear", "trilinear")[axes - 1]
    factors = tuple(map(float, (scale,) * axes if isinstance(scale, int | float) else scale))
    # torch's own function takes the corners' setting for a mistake where it has no meaning.
    return F.interpolate(x, scale_factor=factors, mode=mode, align_corners=None if mode == "nearest" else align_corners)
