"""Data augmentation for images: shift, rotation, scaling, noise.  Labels stay as they are.

Images are (n, height, width), (n, channels, height, width), or (n, height · width) together with `image=(height,
width)`; what comes back has the shape, dtype and device of what came.  The channels of an image are moved together,
and each has noise of its own.  What is outside of an image is 0, the background of digits.

Every image gets a change of its own, drawn from `generator` (on the CPU, so that a seed means the same on every
device); the same generator state gives the same images, bit for bit.  Sixteen-bit images are computed in float32.

Rotation and scaling ask, for every pixel p of the new image, which point of the old one comes to lie there, and read
the old image at that point q between its four neighbours (bilinear interpolation).  With c the centre:

    q = c + M (p − c),     M = R(−angle) / factor

Positive angles turn counter-clockwise as the picture is looked at; rows are counted downwards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manual_bp.arguments import is_finite, is_whole
from manual_bp.signature import DTYPES, computing_dtype

Image = tuple[int, int]


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    image: Image | None = None,
    shift: int = 0,
    rotate: float = 0.0,
    scale: float = 1.0,
    noise: float = 0.0,
) -> Tensor:
    """All four changes: rotation and scaling together (images are interpolated once), then the shift, then noise.

    shift: in pixels. rotate: in degrees. scale: a factor. noise: a standard deviation.  Each is the largest change (of
        noise, the usual one); its default leaves the images as they are, bit for bit.
    Raises ValueError as the four functions do.
    """
    x = _pictures(images, image)
    n, channels = len(images), images.shape[1] if images.ndim == 4 else 1
    _check(shift=shift, rotate=rotate, scale=scale, noise=noise)
    if rotate or scale != 1:
        matrices = _matrices(_angles(n, generator, rotate), _factors(n, generator, scale))
        x = resample(x, matrices.repeat_interleave(channels, 0))
    if shift:
        x = move(x, _offsets(n, generator, shift).repeat_interleave(channels, 0))
    if noise:
        x = add_noise(x, generator, noise)
    return x.reshape(images.shape)


def shift(images: Tensor, generator: torch.Generator, pixels: int, *, image: Image | None = None) -> Tensor:
    """Each image moved by whole pixels, −pixels to +pixels along either axis; what enters is 0.

    Raises ValueError for a negative number of pixels, and for what are no images.
    """
    return augment(images, generator, image=image, shift=pixels)


def rotate(images: Tensor, generator: torch.Generator, degrees: float, *, image: Image | None = None) -> Tensor:
    """Each image turned about its centre by an angle between −degrees and +degrees.

    Raises ValueError for a negative or infinite angle, and for what are no images.
    """
    return augment(images, generator, image=image, rotate=degrees)


def scale(images: Tensor, generator: torch.Generator, factor: float, *, image: Image | None = None) -> Tensor:
    """Each image enlarged about its centre by a factor between 1/factor and factor, as often larger as smaller.

    Raises ValueError for a factor below 1, and for what are no images.
    """
    return augment(images, generator, image=image, scale=factor)


def noise(images: Tensor, generator: torch.Generator, std: float, *, image: Image | None = None) -> Tensor:
    """Normal noise added to every pixel.  Pixels may leave [0, 1]; nothing is cut off.

    Raises ValueError for a negative or infinite std, and for what are no images.
    """
    return augment(images, generator, image=image, noise=std)


def move(images: Tensor, offsets: Tensor) -> Tensor:
    """Images (n, height, width) moved by `offsets` (n, 2), whole pixels down and to the right; what enters is 0."""
    rows, columns = _grid(images)
    down, right = offsets.to(images.device)[:, :, None, None].unbind(1)
    return _read(images, rows - down, columns - right)


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Images (n, height, width), each read at c + M (p − c) for every pixel p, between its four neighbours.

    matrices: M, (n, 2, 2), float64; it takes and gives (down, right).
    """
    height, width = images.shape[1:]
    rows, columns = _grid(images)
    down, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    m = matrices.to(images.device)[:, :, :, None, None]
    at_row = m[:, 0, 0] * down + m[:, 0, 1] * right + (height - 1) / 2
    at_column = m[:, 1, 0] * down + m[:, 1, 1] * right + (width - 1) / 2
    top, left = at_row.floor(), at_column.floor()
    x = images.to(computing_dtype(images.dtype))
    below, beyond = ((at_row - top).to(x), (at_column - left).to(x))
    top, left = top.long(), left.long()
    upper = (1 - beyond) * _read(x, top, left) + beyond * _read(x, top, left + 1)
    lower = (1 - beyond) * _read(x, top + 1, left) + beyond * _read(x, top + 1, left + 1)
    return ((1 - below) * upper + below * lower).to(images.dtype)


def add_noise(images: Tensor, generator: torch.Generator, std: float) -> Tensor:
    """Normal noise of standard deviation `std`, drawn in float64."""
    drawn = std * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    dtype = computing_dtype(images.dtype)
    return (images.to(dtype) + drawn.to(images.device, dtype)).to(images.dtype)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel: (height, 1) and (1, width)."""
    _, height, width = images.shape
    return torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)[None, :]


def _read(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """images[i, rows[i], columns[i]], and 0 outside; rows and columns broadcast to (n, height, width)."""
    n, height, width = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    which = torch.arange(n, device=images.device)[:, None, None]
    found = images[which, rows.clamp(0, max(height - 1, 0)), columns.clamp(0, max(width - 1, 0))]
    return torch.where(inside, found, 0)


def _matrices(angles: Tensor, factors: Tensor) -> Tensor:
    """M = R(−angle) / factor, which takes a point of the new image to the one of the old; angles in degrees."""
    radians = angles * (math.pi / 180)
    cos, sin = radians.cos() / factors, radians.sin() / factors
    return torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)


def _offsets(n: int, generator: torch.Generator, pixels: int) -> Tensor:
    return torch.randint(-pixels, pixels + 1, (n, 2), generator=generator)


def _angles(n: int, generator: torch.Generator, degrees: float) -> Tensor:
    return degrees * _between(n, generator)


def _factors(n: int, generator: torch.Generator, factor: float) -> Tensor:
    return torch.exp(math.log(factor) * _between(n, generator))


def _between(n: int, generator: torch.Generator) -> Tensor:
    """n numbers, uniform in [−1, 1)."""
    return 2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1


def _pictures(images: Tensor, image: Image | None) -> Tensor:
    """(n · channels, height, width), without what autograd may have recorded."""
    flat = image is not None and images.ndim == 2 and images.shape[1] == image[0] * image[1]
    if not flat and (images.ndim not in (3, 4) or (image is not None and images.shape[-2:] != image)):
        size = f"{image[0]}, {image[1]}" if image else "height, width"
        flattened = f"(n, {image[0] * image[1]}), " if image else ""
        wanted = f"{flattened}(n, {size}) or (n, channels, {size})"
        remedy = "" if image else " Pass image=(height, width) for images that are flat."
        raise ValueError(f"augment: images must be {wanted}; came {tuple(images.shape)}.{remedy}")
    if images.dtype not in DTYPES:
        raise ValueError(
            f"augment: images must be float64, float32, bfloat16 or float16; came {images.dtype}. Cast them, and "
            "divide bytes by 255."
        )
    height, width = image or images.shape[-2:]
    rows = len(images) * (images.shape[1] if images.ndim == 4 else 1)
    return images.detach().reshape(rows, height, width)


def _check(*, shift: int, rotate: float, scale: float, noise: float) -> None:
    if not is_whole(shift):
        raise ValueError(f"augment: shift must be a whole number of pixels, at least 0; came {shift!r}.")
    for name, value, least in (("rotate", rotate, 0), ("scale", scale, 1), ("noise", noise, 0)):
        if not (is_finite(value) and value >= least):
            remedy = " It is the largest factor; its inverse is the smallest." if name == "scale" else ""
            raise ValueError(f"augment: {name} must be finite and at least {least}; came {value!r}.{remedy}")
