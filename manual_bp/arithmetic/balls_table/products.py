"""Sums of products: matrices, einsum, convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import Jets, UnknownFunction, lift, means, numbering
from manual_bp.arithmetic.balls_table.elementary import add, multiply
from manual_bp.arithmetic.jets import ONE, ZERO, Cell, made_of


def contracted(shape: Sequence[int], a: Jets, b: Jets, of_a: Sequence[Any], of_b: Sequence[Any]) -> Jets:
    """Σ a b, for each result over the elements of a and b with the numbers there; they count from 1, 0 is none."""

    def dot(left: list[int], right: list[int]) -> Cell:
        pairs = [(a.cells[i - 1], b.cells[j - 1]) for i, j in zip(left, right, strict=True) if i and j]
        value = sum((x.value * y.value for x, y in pairs), ZERO)
        return made_of(value, [move for x, y in pairs for move in ((x, y.value), (y, x.value))])

    return Jets(shape, list(map(dot, of_a, of_b)))


def _rows(*indices: Tensor, terms: int) -> list[list[list[int]]]:
    """Index tensors, broadcast, as one row for each result."""
    together: Sequence[Tensor] = torch.broadcast_tensors(*indices)  # type: ignore[no-untyped-call]
    results = together[0].numel() // terms if terms else together[0][..., None].sum(-2).numel()
    return [index.reshape(results, terms).tolist() for index in together]


@means("matmul", "mm", "bmm", "mv", "dot", "linalg_matmul")
def matmul(input: Any, other: Any) -> Jets:
    a, b = lift(input), lift(other)
    of_a, of_b = numbering(a.shape, 1), numbering(b.shape, 1)
    shape = torch.matmul(torch.empty(a.shape), torch.empty(b.shape)).shape  # raises where torch does
    of_a = of_a[..., None, :] if a.ndim > 1 else of_a  # (..., n, 1, k) meets (..., 1, m, k)
    of_b = of_b.mT[..., None, :, :] if b.ndim > 1 and a.ndim > 1 else of_b.mT if b.ndim > 1 else of_b
    return contracted(shape, a, b, *_rows(of_a, of_b, terms=a.shape[-1]))


@means("addmm", "addmv", "baddbmm")
def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Jets:
    product, given = matmul(mat1, mat2), input if beta == 1 else multiply(input, beta)
    product = product if alpha == 1 else multiply(product, alpha)
    return product if beta == 0 else add(given, product)


@means("outer", "ger")
def _outer(input: Any, vec2: Any) -> Jets:
    return multiply(lift(input)[:, None], vec2)


@means("inner")
def _inner(input: Any, other: Any) -> Jets:
    return matmul(input, lift(other).mT if lift(other).ndim > 1 else other)


@means("einsum")
def _einsum(equation: str, *operands: Any) -> Jets:
    jets = [
        lift(x) for x in (operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands)
    ]
    equation = equation.replace(" ", "")
    if "." in equation or len(jets) > 2:
        raise UnknownFunction(f"einsum in this form ({equation})")
    left, _, right = equation.partition("->")
    letters = left.split(",")
    shape = torch.einsum(equation, *(torch.empty(x.shape) for x in jets)).shape  # raises where torch does
    if "->" not in equation:
        right = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    gone = "".join(sorted(set(left) - {","} - set(right)))
    lengths = {
        letter: n for x, some in zip(jets, letters, strict=True) for letter, n in zip(some, x.shape, strict=True)
    }
    every = [lengths[letter] for letter in right + gone]
    terms = math.prod(lengths[letter] for letter in gone)

    def numbers(x: Jets, own: str) -> Tensor:
        """For every combination of letters which element of x it names."""
        strides = numbering(x.shape).stride()
        index = torch.ones(every, dtype=torch.int64)
        for letter, stride in zip(own, strides, strict=True):
            axis = (right + gone).index(letter)
            steps = torch.arange(lengths[letter]) * stride
            index = index + steps.reshape([-1 if position == axis else 1 for position in range(len(every))])
        return index

    if len(jets) == 1:
        jets, letters = [jets[0], Jets((), [Cell(ONE)])], [letters[0], ""]
    of_a, of_b = _rows(*map(numbers, jets, letters), terms=terms)
    return contracted(shape, jets[0], jets[1], of_a, of_b)


def _per_axis(number: Any, axes: int) -> list[int]:
    return [number] * axes if isinstance(number, int) else list(number) * (axes // len(number))


def _windows(places: Tensor, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """(..., out axes, kernel axes) from (..., axes): the places under the kernel at each of its positions."""
    first = places.ndim - len(size)
    for position, (length, step, gap) in enumerate(zip(size, stride, dilation, strict=True)):
        places = places.unfold(first + position, gap * (length - 1) + 1, step)[..., ::gap]
    return places


@means("conv1d", "conv2d", "conv3d")
def _conv(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Jets:
    return _convolution(input, weight, bias, stride, padding, dilation, False, 0, groups)


@means("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Jets:
    return _convolution(input, weight, bias, stride, padding, dilation, True, output_padding, groups)


@means("convolution")
def _convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Jets:
    """Which element of the input meets which of the weight, found on numbers of the elements."""
    x, w = lift(input), lift(weight)
    axes = w.ndim - 2
    if x.ndim == axes + 1:
        single: Jets = _convolution(x[None], w, bias, stride, padding, dilation, transposed, output_padding, groups)[0]
        return single
    if isinstance(padding, str):
        raise UnknownFunction(f"a convolution with padding {padding!r}")
    steps, gaps, pads, more = (_per_axis(each, axes) for each in (stride, dilation, padding, output_padding))
    shape = torch.convolution(  # raises where torch does
        torch.empty(x.shape), torch.empty(w.shape), None, steps, pads, gaps, transposed, more, groups
    ).shape
    long, short = (shape, x.shape) if transposed else (x.shape, shape)
    around = [side for pad in reversed(pads) for side in (pad, pad)]
    places = _windows(torch.constant_pad_nd(numbering(long, 1), around, 0), w.shape[2:], steps, gaps)
    for axis, length in enumerate(short[2:]):
        places = places.narrow(2 + axis, 0, length)
    # (batch, groups, channels of the longer, positions, taps), and (groups, of the shorter, of the longer, taps)
    taps, positions = math.prod(w.shape[2:]), math.prod(short[2:])
    shorts, longs = w.shape[0] // groups, w.shape[1]  # written out: -1 cannot be inferred beside an axis of 0
    places = places.reshape(x.shape[0], groups, longs, positions, taps)
    weights = numbering(w.shape, 1).reshape(groups, shorts, longs, taps)
    terms = w.shape[1] * taps
    if transposed:
        under = numbering(x.shape, 1).reshape(x.shape[0], groups, shorts, 1, positions, 1)
        y = _scattered(shape, x, w, places[:, :, None], under, weights[None, :, :, :, None])
    else:
        under = places.movedim(2, -2).reshape(x.shape[0], groups, 1, positions, terms)
        y = contracted(shape, x, w, *_rows(under, weights.reshape(1, groups, shorts, 1, terms), terms=terms))
    return y if bias is None else add(y, lift(bias).reshape(-1, *(1,) * axes))


def _scattered(shape: torch.Size, x: Jets, w: Jets, places: Tensor, of_x: Tensor, of_w: Tensor) -> Jets:
    """Each product of an element of x and one of w goes to its place; the places count from 1, and 0 is none."""
    together: Sequence[Tensor] = torch.broadcast_tensors(places, of_x, of_w)  # type: ignore[no-untyped-call]
    left: list[list[int]] = [[] for _ in range(shape.numel() + 1)]
    right: list[list[int]] = [[] for _ in left]
    for place, i, j in zip(*(each.flatten().tolist() for each in together), strict=True):
        left[place].append(i)
        right[place].append(j)
    return contracted(shape, x, w, left[1:], right[1:])
