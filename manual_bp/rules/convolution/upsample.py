"""Upsampling: more places, whose numbers are taken from the nearest ones or lie between them.

Each axis of space (1, 2 or 3) gets `scale` times as many places, by itself: m where n were before.  Place l of these is

    nearest    y_l = x_i,                       i = ⌊l / scale⌋
    linear     y_l = (1 − λ) x_i + λ x_{i+1},   i = ⌊q⌋,  λ = q − i

where behind the last place x_{i+1} is x_i again, and q, a place between those before, is

    q = max((l + ½) / scale − ½, 0)    align_corners=False
    q = l (n − 1) / (m − 1)            align_corners=True

The first compares the centres of places, which are cells; the second keeps the first and the last number at the ends.
Several axes are done one after another, which gives bilinear and trilinear interpolation.

A scale, one for all axes or one for each, is whole or a fraction a / b of whole numbers up to 1024, for which the
nearest floating-point number stands: of 5 places 1.4, which is 7 / 5, makes 7, and 0.6 makes 3, so that some of those
before may get nothing.  What makes a part of a place is refused (ValueError): libraries round it down, and differ in
whether q is then made of the scale or of m / n.

Derivation.  On one axis y = A x with a matrix A that does not depend on x, so dx = Aᵀ dy: what a place gave, with which
weight, it is given back.

    nearest    dx_i = Σ_{l: ⌊l / scale⌋ = i} dy_l
    linear     dx_i = Σ_{l: ⌊q⌋ = i} (1 − λ_l) dy_l + Σ_{l: min(⌊q⌋ + 1, n − 1) = i} λ_l dy_l

Places are counted from 0, so that n − 1 is the last, which has both parts of those behind it.  For nearest and a whole
scale the sum is that of a block.  A of several axes is the product of those of each, in any order, and so is its
transpose.

Digits.  q is a fraction of whole numbers, so that i is found in whole numbers, and λ as so many parts of one.  Where q
is a floating-point number, as in torch, λ = q − i has lost as many digits as i has: at the 1000th place three of the
seven of float32.

Source: Gonzalez & Woods, "Digital Image Processing", section 2.4.4; Odena, Dumoulin & Olah, "Deconvolution and
Checkerboard Artifacts" (Distill, 2016).
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, normal, require

Scale = tuple[tuple[int, int], ...]
"""a and b of each axis."""


class Residuals(NamedTuple):
    """y is linear in x: no number of x is needed, only how long it is, and the scale as given for dy."""

    batch: int
    channels: int
    space: tuple[int, ...]
    scale: int | float | tuple[int, ...] | tuple[float, ...]
    mode: str
    align_corners: bool


def forward(
    x: Float[Tensor, "batch channels *space"],
    *,
    scale: int | float | tuple[int, ...] | tuple[float, ...],
    mode: Literal["nearest", "linear"] = "nearest",
    align_corners: bool = False,
) -> tuple[Float[Tensor, "batch channels *steps"], Residuals]:
    axes = x.ndim - 2
    require(1 <= axes <= 3, "upsample: there must be 1, 2 or 3 axes of space", axes, "Reshape x.")
    each = _fractions(scale, axes)
    require(min(x.shape[1:]) >= 1, "upsample: there must be a channel, and a place on each axis", tuple(x.shape), "")
    must = "upsample: align_corners says where numbers stand between which others lie"
    require(mode == "linear" or not align_corners, must, f"mode = {mode!r}", 'Pass mode="linear", or leave it out.')
    is_whole = all(n * a % b == 0 for n, (a, b) in zip(x.shape[2:], each, strict=True))
    must = "upsample: scale must make a whole number of places on each axis"
    require(is_whole, must, f"{scale} times {tuple(x.shape[2:])}", "Pass m / n for m places.")
    y = _up(x, each, mode, align_corners)
    return y, Residuals(x.shape[0], x.shape[1], tuple(x.shape[2:]), scale, mode, align_corners)


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch channels *steps"]
) -> tuple[Float[Tensor, "batch channels *space"]]:
    *_, space, scale, mode, align_corners = residuals
    return (_down(dy, space, _fractions(scale, len(space)), mode, align_corners),)


class _Between(NamedTuple):
    """Of every place l of an axis: i, and i + 1 or else the last, and their weights: so many of `parts` parts."""

    lower: Tensor
    upper: Tensor
    of_lower: Tensor
    of_upper: Tensor
    parts: int


MOST = 1024
"""Of a and b: such fractions are further apart than float64 rounds, and their parts are exact in float32."""


def _fractions(scale: float | tuple[float, ...], axes: int) -> Scale:
    """The scale of each axis.  Raises ValueError for what is no such fraction."""
    each = (scale,) * axes if isinstance(scale, int | float) else scale
    must = f"upsample: scale must be a number, or one for each axis of space, of which there are {axes}"
    require(len(each) == axes, must, scale, "")
    found = [Fraction(number).limit_denominator(MOST) for number in each]
    for number, fraction in zip(each, found, strict=True):
        is_small = fraction.denominator == 1 or fraction.numerator <= MOST
        must = f"upsample: scale must be whole and at least 1, or a fraction a / b of whole numbers up to {MOST}"
        require(fraction > 0 and is_small and float(fraction) == number, must, scale, "Pass one near it.")
    return tuple(fraction.as_integer_ratio() for fraction in found)


def _counts(space: tuple[int, ...], scale: Scale) -> tuple[int, ...]:
    return tuple(n * a // b for n, (a, b) in zip(space, scale, strict=True))


def _between(length: int, scale: tuple[int, int], align_corners: bool, like: Tensor) -> _Between:
    a, b = scale
    count = length * a // b
    after = torch.arange(count, device=like.device)
    if align_corners:
        numerator, denominator = after * (length - 1), max(count - 1, 1)
    else:
        numerator, denominator = ((2 * after + 1) * b - a).clamp(min=0), 2 * a
    lower = numerator // denominator
    of_upper = numerator - lower * denominator
    return _Between(lower, (lower + 1).clamp(max=length - 1), denominator - of_upper, of_upper, denominator)


def _nearest(length: int, scale: tuple[int, int], like: Tensor) -> Tensor:
    """Of every place after, on one axis, the one that it shows."""
    a, b = scale
    return torch.arange(length * a // b, device=like.device) * b // a


def _up(x: Tensor, scale: Scale, mode: str, align_corners: bool, between: Callable[..., _Between] = _between) -> Tensor:
    """A x, one axis after another."""
    for axis, (a, b) in enumerate(scale, start=2):
        if mode == "nearest" and b == 1:
            x = torch.repeat_interleave(x, a, axis)
        elif mode == "nearest":
            x = torch.index_select(x, axis, _nearest(x.shape[axis], (a, b), x))
        else:
            lower, upper, *weights, parts = between(x.shape[axis], (a, b), align_corners, x)
            of_lower, of_upper = (_along(weight, axis, x.ndim) for weight in weights)
            part = x / parts  # first, so that nothing overflows
            x = torch.index_select(part, axis, lower) * of_lower + torch.index_select(part, axis, upper) * of_upper
    return x


def _down(
    dy: Tensor,
    space: tuple[int, ...],
    scale: Scale,
    mode: str,
    align_corners: bool,
    between: Callable[..., _Between] = _between,
) -> Tensor:
    """Aᵀ dy, one axis after another."""
    for axis, (length, (a, b)) in enumerate(zip(space, scale, strict=True), start=2):
        before, after = dy.shape[:axis], dy.shape[axis + 1 :]
        zeros = torch.zeros(*before, length, *after, dtype=dy.dtype, device=dy.device)
        if mode == "nearest" and b == 1:
            dy = dy.reshape(*before, length, a, *after).sum(axis + 1)
        elif mode == "nearest":
            dy = zeros.index_add(axis, _nearest(length, (a, b), dy), dy)
        else:
            lower, upper, *weights, parts = between(length, (a, b), align_corners, dy)
            of_lower, of_upper = (_along(weight, axis, dy.ndim) for weight in weights)
            part = dy / parts
            dy = zeros.index_add(axis, lower, part * of_lower).index_add(axis, upper, part * of_upper)
    return dy


def _along(weight: Tensor, axis: int, ndim: int) -> Tensor:
    """Numbers of one axis, shaped to meet a tensor on it."""
    return weight.reshape([-1 if axis == other else 1 for other in range(ndim)])


def steps(space: tuple[int, ...], scale: float | tuple[float, ...]) -> tuple[int, ...]:
    """How many places there are on each axis."""
    return _counts(space, _fractions(scale, len(space)))


INPUTS = {"x": Input(normal())}
HYPER = {"scale": 2}
AXES = {"steps": steps}
SIZES = {"channels": 2, "space": (2, 6)}  # of thousands of rows there are cases too
USUAL = {"scale": (3, (1, 3))}

_INF = float("inf")
_MODES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nearest", {}),
    ("linear", {"mode": "linear"}),
    ("linear, corners aligned", {"mode": "linear", "align_corners": True}),
)
_SHAPES: tuple[tuple[str, float | tuple[float, ...], dict[str, int | tuple[int, ...]]], ...] = (
    ("one axis of space", 3, {"space": (5,)}),
    ("three axes of space", (2, 1, 3), {"batch": 2, "channels": 1, "space": (2, 3, 2)}),
    ("each axis by itself", (3, 2), {}),
    ("an even scale beyond 2", (4, 6), {"batch": 1}),
    ("a scale of 1", 1, {}),
    ("one place", 3, {"space": (1, 1)}),
    ("one place on one axis", 2, {"space": (1, 3)}),
    ("a scale of 7", (7, 5), {"batch": 1, "channels": 1}),
    ("far from the first place", 3, {"batch": 1, "channels": 1, "space": (400,)}),
    ("empty batch", 2, {"batch": 0}),
    ("7 places of 5", 1.4, {"batch": 1, "space": (5,)}),
    ("half as many again", 1.5, {"space": (4, 6)}),
    ("fewer places", 0.8, {"batch": 1, "space": (5, 10)}),
    ("more on one axis and fewer on the other", (1.5, 0.8), {"batch": 1, "space": (4, 5)}),
    ("half as many again of three axes", 1.5, {"batch": 1, "channels": 1, "space": (4, 2, 6)}),
)

EDGES = (
    *(Edge(f"{words}, {name}", {"scale": n, **given}, sizes) for name, given in _MODES for words, n, sizes in _SHAPES),
    Edge("an infinity, nearest", {"x": [[[1.0, _INF, 2.0]]]}),
    Edge("infinite cotangents, nearest", {"dy": [[[_INF, 1.0, 2.0, 3.0]]]}, {"batch": 1, "channels": 1, "space": (2,)}),
    Edge("large numbers beside small ones, linear", {"x": [[[1e30, 1.0, -1e30, 1e-30]]], "mode": "linear"}),
    Edge("no axis of space", sizes={"space": ()}, raises=ValueError),
    Edge("no place", sizes={"space": (0, 3)}, raises=ValueError),
    Edge("scale of 0", {"scale": 0}, raises=ValueError),
    Edge("a scale that leaves no place", {"scale": 0.125}, sizes={"space": (4, 4)}, raises=ValueError),
    Edge("a scale that makes half a place", {"scale": 1.5}, sizes={"space": (3, 4)}, raises=ValueError),
    Edge("a scale that is no small fraction", {"scale": math.pi}, sizes={"space": (3, 4)}, raises=ValueError),
    Edge("three scales for two axes", {"scale": (2, 2, 2)}, raises=ValueError),
    Edge("corners aligned to the nearest", {"align_corners": True}, raises=ValueError),
)


class _Right:
    """The right formula by matrices of each axis, from which wrong ones are made."""

    def __init__(self, x: Tensor, dy: Tensor, scale: float | tuple[float, ...], mode: str, align_corners: bool) -> None:
        self.x, self.dy, self.mode, self.align_corners = x, dy, mode, align_corners
        self.space, self.scale = x.shape[2:], _fractions(scale, x.ndim - 2)

    def matrix(self, axis: int) -> Tensor:
        """A of one axis: (after, before)."""
        if self.mode == "nearest":
            return self.nearest(axis)
        return self.linear(axis, self.align_corners)

    def nearest(self, axis: int, parts: int = 1, ahead: int = 0) -> Tensor:
        """Of one axis, where place l shows ⌊(l + ahead / parts) / scale⌋."""
        n, (a, b) = self.space[axis], self.scale[axis]
        after = torch.arange(n * a // b, device=self.x.device)
        shown = ((parts * after + ahead) * b // (parts * a)).clamp(max=n - 1)
        return (shown[:, None] == torch.arange(n, device=self.x.device)).to(self.x.dtype)

    def averaged(self, axis: int) -> Tensor:
        a, b = self.scale[axis]
        return self.nearest(axis) * (b / a)

    def linear(self, axis: int, align_corners: bool) -> Tensor:
        n = self.space[axis]
        lower, upper, of_lower, of_upper, parts = _between(n, self.scale[axis], align_corners, self.x)
        places = torch.arange(n, device=self.x.device)
        whole = (lower[:, None] == places) * of_lower[:, None] + (upper[:, None] == places) * of_upper[:, None]
        return whole.to(self.x.dtype) / parts

    def dx(self, matrix: Callable[[int], Tensor] | None = None) -> tuple[Tensor]:
        """Aᵀ dy on every axis."""
        found = self.dy
        for axis in range(len(self.space)):
            of_axis = (matrix or self.matrix)(axis)
            found = (found.movedim(2 + axis, -1) @ of_axis).movedim(-1, 2 + axis)
        return (found,)


def _of(formula: Callable[[_Right], tuple[Tensor]]) -> Callable[..., Any]:
    return lambda **p: formula(_Right(**p))


def _first(a: Tensor) -> Tensor:
    """A of one axis without all but the first place that each one gave to."""
    return a * ((a != 0) & ((a != 0).cumsum(0) == 1))


def _last(a: Tensor) -> Tensor:
    """The same with the last one."""
    return _first(a.flip(0)).flip(0)


def _half_a_block_early(r: _Right, axis: int) -> Tensor:
    a, b = r.scale[axis]
    return r.nearest(axis, ahead=a // b // 2)


def _from_edges(r: _Right, axis: int) -> Tensor:
    """A of one axis where q is l / scale."""
    n, (a, b) = r.space[axis], r.scale[axis]
    numerator = torch.arange(n * a // b, device=r.x.device) * b
    lower, weight = numerator // a, (numerator % a).to(r.x.dtype) / a
    places = torch.arange(n, device=r.x.device)
    upper = (lower + 1).clamp(max=n - 1)
    return (lower[:, None] == places) * (1 - weight)[:, None] + (upper[:, None] == places) * weight[:, None]


def _compares_centres(r: _Right) -> bool:
    return r.mode == "linear" and not r.align_corners


def _rounded(length: int, scale: tuple[int, int], align_corners: bool, like: Tensor) -> _Between:
    """`_between`, with λ = q − i of a floating-point q."""
    lower, upper, *_ = _between(length, scale, align_corners, like)
    after = like.new_zeros(len(lower)) + torch.arange(len(lower), device=like.device)
    if align_corners:
        q = after * ((length - 1) / max(len(lower) - 1, 1))
    else:
        q = ((after + 0.5) * (scale[1] / scale[0]) - 0.5).clamp(min=0)
    weight = q - lower
    return _Between(lower, upper, 1 - weight, weight, 1)


def _up_rounded(x: Tensor, scale: float | tuple[float, ...], mode: str, align_corners: bool) -> Tensor:
    return _up(x, _fractions(scale, x.ndim - 2), mode, align_corners, _rounded)


VALUES = (
    Value(
        "q as a floating-point number",
        _up_rounded,
        forgets="that λ = q − i cancels as many digits as i has",
        shows="for mode linear, far from the first place",
    ),
)

MISTAKES = (
    Mistake(
        "averaged over the block",
        _of(lambda r: (r.dx()[0] * (r.x.shape[2:].numel() / r.dy.shape[2:].numel()),)),
        forgets="that a number which several places show is given the sum of what they are",
        shows="for scale > 1",
    ),
    Mistake(
        "one place of each block",
        _of(lambda r: r.dx(lambda axis: _first(r.nearest(axis)))),
        forgets="the other places: to take every scale-th one is how to make an image smaller",
        shows="for scale > 1",
    ),
    Mistake(
        "places assign",
        _of(lambda r: r.dx(lambda axis: _last(r.matrix(axis)))),
        forgets="that a number which several places show is given a sum",
        shows="for scale > 1",
    ),
    Mistake(
        "nearest in the backward of linear",
        _of(lambda r: r.dx(r.nearest)),
        forgets="that forward took two numbers on each axis",
        shows="for mode linear and scale > 1",
    ),
    Mistake(
        "corners aligned in backward alone",
        _of(lambda r: r.dx(lambda axis: r.matrix(axis) if r.mode == "nearest" else r.linear(axis, True))),
        forgets="align_corners=False: index and weight are not those of forward",
        shows="for mode linear without align_corners",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/250823aa1119",
    ),
    Mistake(
        "corners not aligned in backward",
        _of(lambda r: r.dx(lambda axis: r.matrix(axis) if r.mode == "nearest" else r.linear(axis, False))),
        forgets="align_corners=True: index and weight are not those of forward",
        shows="for mode linear with align_corners",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/385ddced9509",
    ),
    Mistake(
        "without half a cell",
        _of(lambda r: r.dx(lambda axis: _from_edges(r, axis)) if _compares_centres(r) else r.dx()),
        forgets="that centres of cells are compared, and not their edges: q is l / scale",
        shows="for mode linear without align_corners",
    ),
    Mistake(
        "blocks from the middle",
        _of(lambda r: r.dx(lambda axis: _half_a_block_early(r, axis) if r.mode == "nearest" else r.matrix(axis))),
        forgets="that nearest rounds down: ⌊l / scale⌋",
        shows="for mode nearest and scale > 1",
    ),
    Mistake(
        "the place of the centre",
        _of(lambda r: r.dx(lambda axis: r.nearest(axis, 2, 1) if r.mode == "nearest" else r.matrix(axis))),
        forgets="that nearest counts from the edge of a place, ⌊l / scale⌋, and not from its centre, ⌊(l + ½) / scale⌋",
        shows="for mode nearest and a fraction as scale",
    ),
    Mistake(
        "q as a floating-point number",
        _of(lambda r: (_down(r.dy, tuple(r.space), r.scale, r.mode, r.align_corners, _rounded),)),
        forgets="that λ = q − i cancels as many digits as i has",
        shows="for mode linear, far from the first place",
        loses_digits=True,
    ),
    Mistake(
        "height and width exchanged",
        _of(lambda r: (r.dx()[0].movedim(-1, 2).reshape(r.x.shape),)),
        forgets="which axis of space is which",
        shows="for two axes of space and more",
    ),
    Mistake(
        "first axis alone",
        _of(lambda r: r.dx(lambda axis: r.matrix(axis) if axis == 0 else r.averaged(axis))),
        forgets="to sum over the other axes, which it averages",
        shows="for two axes of space and more",
    ),
)
