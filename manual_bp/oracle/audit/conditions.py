"""Programs that are right in most calls and wrong in some: for strided cotangents, past a size, in one dtype, at edges.

Each is made from a condition on a call.  A checker that makes no call in which it holds cannot see such a program, and
what it does instead is known, which is the reason to be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from manual_bp.inputs import Index
from manual_bp.oracle.audit.programs import Answer, Program, Results, judged, steady
from manual_bp.oracle.audit.seen import Condition, Seen
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts
from manual_bp.rule import Rule
from manual_bp.signature import DTYPES

# A block of a small kernel, one of 1024 threads, the same with four loads each, the axis of a CUDA grid (65 535).
LIMITS = (64, 1024, 4096, 65_535)
# From here on exp overflows float16 (11.1) or 1 - tanh² is 0 in float32 (9.01).
FAR = 12.0
# Vectors of so many elements are what is loaded at once.
VECTOR = 8

LAYOUT, SIZE, PRECISION = "wrong in another layout", "wrong from some size on", "wrong in one dtype"
OPTION, EDGE, COTANGENT = "wrong for other options", "wrong at edges", "wrong for a general dy"
CONDITIONS = (LAYOUT, SIZE, PRECISION, OPTION, EDGE, COTANGENT)


def conditions(rule: Rule) -> list[Condition]:
    """Every condition that a call of the rule may meet."""
    found = [*_layouts(rule), *_sizes(), *_dtypes(), *_options(rule), *_edges(rule)]
    return [*found, *_cotangents()] if rule.has_backward else found


def wrong_where(rule: Rule, several: Sequence[Condition]) -> Iterator[Program]:
    """For each condition a program that is right unless it holds: then every result is doubled, and 1 more."""
    arguments = judged(rule)
    for condition in several:
        name = f"wrong where {condition.name}"
        yield steady(condition.kind, name, _spoiled_where(condition, arguments), unmet=condition.unmet)


def _spoiled_where(condition: Condition, arguments: Sequence[str]) -> Answer:
    def answer(case: Case, right: Results) -> Results:
        if not condition.holds(case):
            return right
        return {a: 2 * x + 1 if a in arguments and x is not None else x for a, x in right.items()}

    return answer


def _numbers(case: Case) -> list[Tensor]:
    return [x.detach() for x in case.inputs if isinstance(x, Tensor) and x.is_floating_point()]


def _cotangents_of(case: Case) -> list[Tensor]:
    return [d.detach() for d in parts(case.dy) if d is not None]


# ---------------------------------------------------------------------------------------------------------- layouts


def _layouts(rule: Rule) -> Iterator[Condition]:
    if rule.has_backward:
        yield Condition(
            LAYOUT,
            "dy is not contiguous",
            lambda case: any(not d.is_contiguous() for d in _cotangents_of(case)),
            lambda _: "only contiguous dy is tried",
        )
        yield Condition(
            LAYOUT,
            "dy is expanded (stride 0)",
            lambda case: any(0 in d.stride() and d.numel() > 1 for d in _cotangents_of(case)),
            lambda _: "no expanded dy is tried, which is what the gradient of a sum is",
        )
    yield Condition(
        LAYOUT,
        "an input is not contiguous",
        lambda case: any(x is not None and not x.is_contiguous() for x in case.inputs),
        lambda _: "only contiguous inputs are tried",
    )


# ------------------------------------------------------------------------------------------------------------ sizes


def _largest(seen: Seen) -> str:
    if seen.largest is None:
        return "no tensor is tried"
    name, shape = seen.largest
    return f"the largest tensor that it tries is {name} of shape {shape}, {math.prod(shape)} elements"


def _sizes() -> Iterator[Condition]:
    for limit in LIMITS:
        yield Condition(
            SIZE,
            f"a tensor has more than {limit} elements",
            lambda case, limit=limit: any(x.numel() > limit for x in case.tensors),  # type: ignore[misc]
            _largest,
        )
    yield Condition(
        SIZE,
        "an axis is longer than 1024",
        lambda case: any(length > 1024 for x in case.tensors for length in x.shape),
        _largest,
    )
    yield Condition(
        SIZE,
        "a matrix is not square",
        lambda case: any(x.ndim > 1 and x.shape[-1] != x.shape[-2] for x in case.tensors),
        lambda _: "only square shapes are tried, or single axes",
    )
    yield Condition(
        SIZE,
        "a tensor has more than two axes",
        lambda case: any(x.ndim > 2 for x in case.tensors),
        lambda _: "no tensor of more than two axes is tried",
    )
    yield Condition(
        SIZE,
        f"a tensor is no multiple of {VECTOR} elements",
        lambda case: any(x.numel() % VECTOR for x in case.tensors),
        lambda _: f"every tensor that it tries has a multiple of {VECTOR} elements",
    )


# ----------------------------------------------------------------------------------------------------------- dtypes


def _dtypes_tried(seen: Seen) -> str:
    names = sorted(str(dtype).removeprefix("torch.") for dtype in seen.dtypes)
    return f"only {' and '.join(names) or 'nothing'} {'is' if len(names) < 2 else 'are'} tried"


def _dtypes() -> Iterator[Condition]:
    for dtype in DTYPES:
        yield Condition(
            PRECISION,
            f"the dtype is {str(dtype).removeprefix('torch.')}",
            lambda case, dtype=dtype: any(x.dtype == dtype for x in _numbers(case)),  # type: ignore[misc]
            _dtypes_tried,
        )


# ---------------------------------------------------------------------------------------------------------- options


def _options(rule: Rule) -> Iterator[Condition]:
    for name in rule.hyper:
        ordinary = rule.ordinary.get(name)

        def is_other(case: Case, name: str = name, ordinary: Any = ordinary) -> bool:
            return bool(case.hyper.get(name, ordinary) != ordinary)

        def tried(seen: Seen, name: str = name, ordinary: Any = ordinary) -> str:
            return f"{name} is never another than {ordinary!r}"

        yield Condition(OPTION, f"{name} is not {ordinary!r}", is_other, tried)
    for position, name in enumerate(rule.inputs):
        if name not in rule.absentable:
            continue

        def is_given(case: Case, position: int = position) -> bool:
            return case.inputs[position] is not None

        def is_absent(case: Case, position: int = position) -> bool:
            return case.inputs[position] is None

        yield Condition(OPTION, f"{name} is given", is_given, lambda _, name=name: f"{name} is never given")  # type: ignore[misc]
        yield Condition(OPTION, f"{name} is left out", is_absent, lambda _, name=name: f"{name} is never left out")  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------ edges


def _edges(rule: Rule) -> Iterator[Condition]:
    yield Condition(
        EDGE,
        "an input is 0",
        lambda case: any(bool((x == 0).any()) for x in _numbers(case)),
        lambda _: "no input that it tries is 0",
    )
    yield Condition(
        EDGE,
        "an input is negative",
        lambda case: any(bool((x < 0).any()) for x in _numbers(case)),
        lambda _: "no input that it tries is negative",
    )
    yield Condition(
        EDGE,
        f"an input is beyond ± {FAR:g}",
        lambda case: any(bool((x.abs() > FAR).any()) for x in _numbers(case)),
        lambda seen: f"the largest number that it tries is {seen.furthest:.3g}",
    )
    yield Condition(
        EDGE,
        "an axis has length 1",
        lambda case: any(1 in x.shape for x in case.tensors),
        lambda _: "no axis that it tries has length 1",
    )
    yield Condition(
        EDGE,
        "a tensor is empty",
        lambda case: any(not x.numel() for x in case.tensors),
        lambda _: "no empty tensor is tried",
    )
    for position, (name, spec) in enumerate(rule.inputs.items()):
        if not isinstance(spec, Index):
            continue

        def repeats(case: Case, position: int = position) -> bool:
            x = case.inputs[position]
            return x is not None and len(x.unique()) < x.numel()

        yield Condition(EDGE, f"{name} repeats a position", repeats, lambda _, n=name: f"{n} never repeats a position")  # type: ignore[misc]
        if spec.unless is None:
            continue

        def has_ignored(case: Case, position: int = position, unless: str = spec.unless) -> bool:
            ignored, x = case.hyper.get(unless), case.inputs[position]
            return x is not None and ignored is not None and bool((x == ignored).any())

        words = f"{name} is never {spec.unless}"
        yield Condition(EDGE, f"{name} is {spec.unless}", has_ignored, lambda _, words=words: words)  # type: ignore[misc]


# -------------------------------------------------------------------------------------------------------- cotangents


NOT_CONSTANT = "dy is not constant"


def constant_dy(seen: Seen) -> str:
    """What is to be said of a checker whose cotangents are constant, or the same as others made of them."""
    if NOT_CONSTANT in seen.held:
        return "dy holds no number but 0 and 1, as where it asks for one element after the other"
    if seen.of_losses:
        value = f"{next(iter(seen.constants)):g}" if len(seen.constants) == 1 else "positive"
        return f"dy is {value} in every call, as if the loss were never part of another"
    if seen.constants == {1.0}:
        return "dy is 1 in every element of every call, as it is where the loss is a plain sum"
    return "dy is one number in all elements of every call"


def _cotangents() -> Iterator[Condition]:
    def varies(d: Tensor) -> bool:
        return bool((d != d.reshape(-1)[0]).any()) if d.numel() else False

    yield Condition(COTANGENT, NOT_CONSTANT, lambda case: any(map(varies, _cotangents_of(case))), constant_dy)
    yield Condition(
        COTANGENT,
        "dy is not 1",
        lambda case: any(bool((d != 1).any()) for d in _cotangents_of(case)),
        constant_dy,
    )
    yield Condition(
        COTANGENT,
        "dy is negative",
        lambda case: any(bool((d < 0).any()) for d in _cotangents_of(case)),
        lambda _: "no element of dy is negative",
    )
