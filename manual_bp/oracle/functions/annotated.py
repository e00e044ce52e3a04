"""The axes of a function's inputs: as it is annotated, or as is told by trying other lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.axes import axis_names, tokens
from manual_bp.hyperparameters import kinds
from manual_bp.inputs import Index
from manual_bp.oracle.functions.spoken import Spoken, array_type, below
from manual_bp.oracle.functions.tied import axes_of


def is_tensor(hint: Any) -> bool:
    """Whether an annotation says what axes a tensor has."""
    return any(hasattr(kind, "dim_str") for kind in kinds(hint))


def annotations_of(
    called: Callable[..., Any],
    present: list[str],
    given: Mapping[str, Spoken],
    hints: Mapping[str, Any],
    hyper: Mapping[str, Any],
) -> dict[str, Any]:
    """The axes of each input: its own annotation, or what is told by trying other lengths."""
    own = {
        name: _named_axes(name, next(k for k in kinds(hints[name]) if hasattr(k, "dim_str")), given.get(name))
        for name in present
        if is_tensor(hints.get(name))
    }
    if shapeless := [name for name in present if name not in own and given[name].shape is None]:
        raise ValueError(
            f"{called.__name__}: the shape of {shapeless[0]} is not known; pass a shape or a tensor, or annotate the "
            f'parameter: {shapeless[0]}: Float[Tensor, "rows features"].'
        )
    shapes = {name: given[name].shape or () for name in present if name not in own}
    free = {name: shape for name, shape in shapes.items() if not given[name].is_fixed}
    if own:
        spelled = {name: " ".join(map(str, shape)) for name, shape in shapes.items()}
    else:
        spelled = {name: given[name].axes or " ".join(map(str, shape)) for name, shape in shapes.items()}
        spelled |= axes_of(free, lambda lengths: _runs(called, {**shapes, **lengths}, given, hyper))
    found = {name: array_type(given[name].dtype)[Tensor, spelled[name]] for name in shapes}
    return {name: own.get(name, found.get(name)) for name in present}


def placed(
    name: str,
    given: Mapping[str, Spoken],
    annotations: Mapping[str, Any],
    called: Callable[..., Any],
    hyper: Any,
) -> Spoken:
    """What was said of an input; where that is an index below a number, as positions on the axis of that length on
    which they must lie: no more of them may be there if that axis is shorter."""
    said = given[name]
    if not isinstance(said.spec, Index):
        return said
    shapes = {other: given[other].shape or () for other in annotations if other in given and given[other].shape}
    limit = str(said.spec.axis)  # Index(100) is said as well
    if not limit.isdecimal():
        names = axis_names(annotations.values(), hyper)
        if limit not in names:
            raise ValueError(
                f"{called.__name__}: {name} must be positions on an axis that annotations name, or below a number, as "
                f'in Index("100"); came Index({limit!r}). The axes are {", ".join(names)}.'
            )
        return said
    last = int(limit) - 1
    for axis in axis_names(annotations.values()) if len(shapes) == len(annotations) and last > 0 else ():
        shorter = {
            other: tuple(
                length - (token == axis and length > last)
                for token, length in zip(tokens(annotations[other]), shape, strict=True)
            )
            for other, shape in shapes.items()
        }
        if shorter == shapes or _runs(called, shorter, given, hyper, {name: last}):
            continue
        if _runs(called, shorter, given, hyper, {name: last - 1}):
            return replace(said, spec=Index(axis))
    return replace(said, spec=below(last + 1))


def _named_axes(name: str, annotation: Any, given: Spoken | None) -> Any:
    """The annotation with a name for each axis that jaxtyping leaves without: `...`, which are as many as were given,
    `_` and what begins with one."""
    words = annotation.dim_str.split()
    shape = given.shape if given else None
    found = []
    for position, word in enumerate(words):
        if word == "..." and shape is not None:
            found += [f"{name}_{i}" for i in range(position, position + len(shape) - len(words) + 1)]
        elif word == "...":
            found.append(f"*{name}_axes")
        elif word.lstrip("*").startswith("_"):
            found.append("*" * word.startswith("*") + f"{name}_{word.lstrip('*')}_{position}")
        else:
            found.append(word.lstrip("#?"))
    return annotation.dtype[Tensor, " ".join(found)]


def is_defined(
    called: Callable[..., Any], present: list[str], given: Mapping[str, Spoken], hyper: Mapping[str, Any]
) -> bool:
    """Whether the function is defined for inputs of the shapes that were said; False where one was not."""
    shapes = {name: said.shape for name, said in given.items() if said.shape is not None}
    return list(shapes) == present and _runs(called, shapes, given, hyper)


def _runs(
    called: Callable[..., Any],
    shapes: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Spoken],
    hyper: Mapping[str, Any],
    positions: Mapping[str, int] | None = None,
) -> bool:
    """Whether the function is defined for these shapes.  positions: what an index is full of, if not of 0."""
    generator = torch.Generator().manual_seed(0)
    try:
        some = [
            torch.full(shape, (positions or {}).get(name, 0))
            if isinstance(spec := given[name].spec, Index)
            else spec.draw(shape, generator)  # which may be for square matrices alone, say
            for name, shape in shapes.items()
        ]
        with torch.no_grad():
            called(*some, **hyper)
    except Exception:  # whatever it is that a function of somebody's raises
        return False
    return True
