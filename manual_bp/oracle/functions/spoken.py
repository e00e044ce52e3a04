"""What a caller says of one input of a function: a shape, a tensor, an Input or Index, a function that draws, or a
shape and one of these."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manual_bp.inputs import Draw, Index, Input, coin, evenly

EXAMPLE = 'inputs={"x": (4, 33), "weight": torch.ones(33), "ids": lambda generator: torch.randint(9, (4,))}'


@dataclass(frozen=True, eq=False)
class Spoken:
    """spec: how it is drawn.  shape: the usual one, if it is known.  dtype: of a sample; None if there is none yet.

    is_fixed: whether it is always of that shape.  axes: as an annotation spells them, if that is said too.
    """

    spec: Input | Index
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    is_fixed: bool
    tensor: Tensor | None = None
    axes: str = ""


def spoken(name: str, said: Any) -> Spoken:
    """Raises ValueError for what says nothing of an input."""
    if isinstance(said, Spoken):
        return said
    if isinstance(said, Input | Index):
        return Spoken(said, None, torch.int64 if isinstance(said, Index) else None, False)
    if _is_shape(said):
        return Spoken(Input(), tuple(said), torch.float64, False)
    if isinstance(said, tuple) and len(said) == 2 and _is_shape(said[0]):
        return _of_shape(name, tuple(said[0]), said[1])
    if hasattr(said, "__array__") or isinstance(said, Tensor):
        return _of_tensor(torch.as_tensor(said).detach().cpu())
    if callable(said):
        return _of_draw(name, said)
    if isinstance(said, int | float | bool):
        raise ValueError(
            f"inputs: {name} must be a shape, or what else says what a tensor is like; came the number {said!r}. "
            f'A number is a hyperparameter: hyper={{"{name}": {said!r}}}.'
        )
    raise ValueError(
        f"inputs: {name} must be a shape, a tensor, an Input or Index, a function that draws, or a shape and one of "
        f"the last; came {said!r:.60}. "
        f"Pass {EXAMPLE}, say."
    )


def _is_shape(said: Any) -> bool:
    return isinstance(said, torch.Size | tuple | list) and all(isinstance(n, int) and n >= 0 for n in said)


def _of_shape(name: str, shape: tuple[int, ...], how: Any) -> Spoken:
    """A usual shape, and how numbers of it or any other are drawn; an Index("100") is of numbers below 100."""
    if isinstance(how, Index):
        return Spoken(how, shape, torch.int64, False)
    found = spoken(name, how)
    if found.tensor is not None or found.is_fixed:
        raise ValueError(
            f"inputs: beside the shape of {name} must stand an Input, an Index, or a function of a shape and a "
            f"generator; came {how!r:.60}."
        )
    assert isinstance(found.spec, Input)
    sample = found.spec.draw(shape, torch.Generator().manual_seed(0))
    return Spoken(found.spec, shape, sample.dtype, False)


def below(limit: int) -> Input:
    """Integers from 0 on that are smaller."""
    return Input(lambda shape, generator: evenly(shape, limit, generator), cotangent=False)


def of_values(x: Tensor) -> Spoken:
    """Numbers as in a tensor, of its shape or any other."""
    return replace(_of_tensor(x), is_fixed=False, tensor=None)


def _of_tensor(x: Tensor) -> Spoken:
    """Its own values in its own shape, and in any other some of them."""

    def drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if tuple(shape) == tuple(x.shape):
            return wide.clone()
        flat = wide.reshape(-1)
        return flat[torch.randint(max(len(flat), 1), shape, generator=generator)]

    wide = x.double() if x.is_floating_point() else x
    return Spoken(_as(wide, drawn), tuple(x.shape), x.dtype, True, wide)


def _repeated(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """In another shape: cut off or repeated along each axis, so that what holds for rows still does; with other axes,
    the elements one after the other."""
    if tuple(x.shape) == tuple(shape):
        return x
    if x.ndim != len(shape) or not x.numel():
        return x.reshape(-1)[torch.arange(math.prod(shape)) % max(x.numel(), 1)].reshape(shape)
    for dim, length in enumerate(shape):
        x = x.index_select(dim, torch.arange(length) % x.shape[dim])
    return x


def _of_draw(name: str, draw: Callable[..., Any]) -> Spoken:
    """A function of a generator, of a shape and a generator, or of nothing."""
    try:
        takes = len([p for p in inspect.signature(draw).parameters.values() if p.default is p.empty])
    except (TypeError, ValueError):
        takes = 1
    if takes >= 2:
        return Spoken(Input(_wide(name, draw)), None, None, False)

    def own(shape: tuple[int, ...], generator: torch.Generator) -> Any:
        return draw(generator) if takes else draw()

    def drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return _repeated(_wide(name, own)((), generator), shape)

    sample = _wide(name, own)((), torch.Generator().manual_seed(0))
    return Spoken(_as(sample, drawn), tuple(sample.shape), sample.dtype, True)


def _as(sample: Tensor, draw: Draw) -> Input:
    """An input that is drawn so.  Of numbers that are whole and not all alike (labels, signs, counts), or that add up
    to 1 along the last axis (probabilities), others mean nothing: a right program may rest on what they are."""
    is_number = sample.is_floating_point()
    whole = is_number and bool((sample == sample.round()).all() and (sample != sample.flatten()[:1]).any())
    total = sample.sum(-1) if is_number and sample.ndim and sample.shape[-1] > 1 else None
    parts = total is not None and bool((sample >= 0).all() and torch.allclose(total, torch.ones_like(total)))
    return Input(draw, cotangent=is_number, free=not (whole or parts))


def _wide(name: str, draw: Callable[..., Any]) -> Draw:
    """Numbers in float64; masks and indices as they come."""

    def drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        x = draw(shape, generator)
        if not isinstance(x, Tensor):
            raise ValueError(f"inputs: {name} must be drawn as a tensor; came a {type(x).__name__}.")
        return x.detach().double() if x.is_floating_point() else x.detach()

    return drawn


def array_type(dtype: torch.dtype | None) -> Any:
    """How an annotation calls tensors of a dtype; numbers where it is not known."""
    if dtype is None or dtype.is_floating_point:
        return Float
    return Bool if dtype is torch.bool else Int


def of_kind(annotation: Any) -> Input:
    """How an annotated input is drawn of which nothing is said.  Raises ValueError for one of integers."""
    if annotation.dtype is Bool:
        return Input(coin(0.5), cotangent=False)
    if annotation.dtype is not Float:
        raise ValueError(
            "of an input of integers it must be said what they are: pass inputs={name: Index(axis)} with the axis on "
            "which they are positions, a tensor, or a function that draws"
        )
    return Input()
