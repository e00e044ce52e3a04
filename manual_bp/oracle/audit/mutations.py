"""Mutations: wrong backwards made automatically from a page, none of them from its MISTAKES.

Changes, all of them to the page's own text:

- a summand (`terms`) or a whole cotangent is multiplied by a number: 0, -1, 2, 1/2, 1 + 1e-1 ... 1 + 4 u;
- a reduction of the text (sum, mean, matrix product) is done otherwise: divided or multiplied by its count, with n - 1
  for n, without its last element, without one of its axes, over another axis;
- a finished cotangent is divided or multiplied by a length, or reduced over an axis of its own;
- of several outputs the cotangent of one is taken for 0; where an index adds, the last one to come stays instead.

Reductions are found by running the page's backward once under a dispatch mode, and changed by running it again: a page
needs no entry anywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.dispatch import Mode
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.outputs import parts, whole
from manual_bp.rule import Grads, Rule, Vjp
from manual_bp.signature import computing_dtype

aten = torch.ops.aten

Backward = Callable[[Any, Any], Grads]
"""(residuals, dy) -> cotangents, in the precision of computation."""

NOISE = 1e-12  # float64 computes a few hundred operations with an error well below this; so small a change is none

ROUNDINGS = 256  # more than a result of these pages has at ordinary sizes; 1e-3 in float32 is 16000 u


@dataclass(frozen=True)
class Mutation:
    """A changed backward.

    kind: its row in the table. argument: the cotangent that is changed, or "" if the text decides.
    size: by what the changed part is multiplied, less 1; 1 where it is replaced altogether.
    """

    kind: str
    argument: str
    backward: Backward
    size: float = 1.0


def mutations(rule: Rule, case: Case) -> Iterator[Mutation]:
    """Every mutation of a rule at a case, whether it changes anything there or not; none if it has no backward."""
    if not rule.has_backward:
        return
    named = {
        f"d{name}": x
        for (name, spec), x in zip(rule.inputs.items(), case.inputs, strict=True)
        if spec.cotangent and x is not None
    }
    residuals, dy = _prepared(rule, case)
    terms = rule.terms(residuals, dy)
    lengths = {length for d in parts(dy) for length in d.shape}
    for argument, x in named.items():
        for kind, factor in factors(x.dtype).items():
            yield scaled(rule, f"cotangent {kind}", argument, None, factor)
            if len(terms[argument]) > 1:  # a single summand is the cotangent
                for term in terms[argument]:
                    yield scaled(rule, f"term {kind}", argument, term, factor)
        yield from _counts(rule, argument, sorted({*x.shape, *lengths, x.numel()}))
        yield from _own_axes(rule, argument, x.ndim)
    yield from _outputs(rule)
    yield from _reductions(rule, residuals, dy)


def _outputs(rule: Rule) -> Iterator[Mutation]:
    """Of several outputs the cotangent of one taken for 0."""
    for position in range(len(rule.outputs)) if len(rule.outputs) > 1 else ():

        def backward(residuals: Any, dy: Any, position: int = position) -> Grads:
            left = [torch.zeros_like(d) if i == position else d for i, d in enumerate(dy)]
            return rule.backward(residuals, whole(left, like=dy))

        yield Mutation("an output's cotangent dropped", "", backward)


def factors(dtype: torch.dtype) -> dict[str, float]:
    """What a part is multiplied by, down to a few units roundoff of the dtype."""
    u = torch.finfo(dtype).eps / 2
    relative = {f"× (1 + {10.0**-k:.0e})": 1 + 10.0**-k for k in (1, 2, 3, 6)}
    roundoff = {f"× (1 + {m} u)": 1 + m * u for m in (256, 64, 16, 4)}
    return {"dropped": 0.0, "negated": -1.0, "× 2": 2.0, "× 1/2": 0.5} | relative | roundoff


def scaled(rule: Rule, kind: str, argument: str, term: str | None, factor: float) -> Mutation:
    """One summand of a cotangent, or all of it, multiplied."""

    def backward(residuals: Any, dy: Any) -> Grads:
        if term is None:
            return _replaced(rule, argument, lambda g: g * factor)(residuals, dy)
        summand = rule.terms(residuals, dy)[argument][term]
        return _replaced(rule, argument, lambda g: g + (factor - 1) * summand)(residuals, dy)

    return Mutation(kind, argument, backward, abs(factor - 1))


def mutated(rule: Rule, backward: Backward) -> Vjp:
    """The rule with another backward, run as the rule runs its own."""

    def vjp(inputs: tuple[Tensor | None, ...], dy: Any, **hyper: Any) -> tuple[Any, Grads]:
        y, residuals = rule.forward(*inputs, **hyper)
        dtype = parts(dy)[0].dtype
        grads = backward(residuals, _computing(y, dy))
        return y, tuple(None if g is None else g.to(dtype) for g in grads)

    return vjp


@dataclass(frozen=True, eq=False)
class Exact:
    """A rule at a case in float64, by which it is decided whether a mutation changes anything."""

    rule: Rule
    dtype: torch.dtype
    residuals: Any
    dy: Any
    grads: Grads
    magnitudes: tuple[float, ...]
    """Per input: the largest Σ |summand| of its cotangent, which is the scale of what cancels in it."""

    @classmethod
    def at(cls, rule: Rule, case: Case) -> Exact:
        residuals, dy = _prepared(rule, in_dtype(case, torch.float64, "cpu"))
        summed = {k: torch.stack([*parts.values()]).abs().sum(0) for k, parts in rule.terms(residuals, dy).items()}
        magnitudes = tuple(_largest(summed.get(f"d{name}")) for name in rule.inputs)
        return cls(rule, parts(case.dy)[0].dtype, residuals, dy, rule.backward(residuals, dy), magnitudes)

    def changed_by(self, mutation: Mutation) -> bool:
        """Whether a program that computed this mutation exactly would return other numbers of the dtype."""
        mutant = mutation.backward(self.residuals, self.dy)
        return any(
            g is not None
            and m is not None
            and _largest(m - g) > NOISE * mutation.size * magnitude
            and not torch.equal(m.to(self.dtype), g.to(self.dtype))
            for g, m, magnitude in zip(self.grads, mutant, self.magnitudes, strict=True)
        )

    def visible(self, mutation: Mutation) -> bool:
        """Whether a scaled cotangent differs by more than what a right program of the dtype may be off: the roundings
        of what cancels in it, and gradual underflow."""
        info = torch.finfo(self.dtype)
        largest = _largest(self.grads[self._position(mutation.argument)])
        lost = ROUNDINGS * info.eps / 2 * self.magnitudes[self._position(mutation.argument)] + info.tiny * info.eps
        return mutation.size * largest > lost and largest > info.tiny

    def _position(self, argument: str) -> int:
        return [f"d{name}" for name in self.rule.inputs].index(argument)

    def cancellation(self, argument: str) -> float:
        """How much larger the summands of a cotangent are than the cotangent itself."""
        largest = _largest(self.grads[self._position(argument)])
        return self.magnitudes[self._position(argument)] / largest if largest else math.inf


def _prepared(rule: Rule, case: Case) -> tuple[Any, Any]:
    """Residuals and dy in the precision of computation."""
    y, residuals = rule.forward(*case.inputs, **case.hyper)
    return residuals, _computing(y, case.dy)


def _computing(y: Any, dy: Any) -> Any:
    """dy in the precision of computation, in the shape of y: a tensor, or the page's Outputs."""
    return whole([d.to(computing_dtype(d.dtype)) for d in parts(dy)], like=y)


def _largest(x: Tensor | None) -> float:
    return 0.0 if x is None or not x.numel() else float(x.abs().max())


# ------------------------------------------------------------------------------------------ of finished cotangents


def _replaced(rule: Rule, argument: str, change: Callable[[Tensor], Tensor]) -> Backward:
    """The page's backward with one cotangent changed."""

    def backward(residuals: Any, dy: Any) -> Grads:
        grads = rule.backward(residuals, dy)
        return tuple(
            change(g) if g is not None and f"d{name}" == argument else g
            for name, g in zip(rule.inputs, grads, strict=True)
        )

    return backward


COUNTS: Mapping[str, Callable[[int], float]] = {
    "divided by its count": lambda n: 1 / n,
    "multiplied by its count": lambda n: n,
    "n - 1 for n": lambda n: n / (n - 1),
}


def _counts(rule: Rule, argument: str, lengths: Sequence[int]) -> Iterator[Mutation]:
    for (kind, count), n in itertools.product(COUNTS.items(), (n for n in lengths if n > 1)):
        yield scaled(rule, kind, argument, None, count(n))


def _own_axes(rule: Rule, argument: str, rank: int) -> Iterator[Mutation]:
    for axis, reduce in itertools.product(range(rank), (torch.sum, torch.mean)):

        def change(g: Tensor, axis: int = axis, reduce: Callable[..., Tensor] = reduce) -> Tensor:
            return reduce(g, axis, keepdim=True).expand_as(g)

        yield Mutation("reduced over an axis of its own", argument, _replaced(rule, argument, change))


# ------------------------------------------------------------------------------------------ of the text's reductions

SUMS = (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim)
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
ADDED: dict[Any, Callable[..., Tensor]] = {
    aten.index_add.default: lambda x, dim, index, source, **_: aten.index_copy(x, dim, index, source),
    aten.scatter_add.default: lambda x, dim, index, source: aten.scatter(x, dim, index, source),
    aten.index_put.default: lambda x, indices, values, *_, **__: aten.index_put(x, indices, values),
}
"""What adds at an index, and what the same would be if it only wrote there."""


class Altered(Mode):
    """Runs a page's text with one of its reductions, the one at `position`, done by `change(right, function, args)`."""

    def __init__(self, position: int = -1, change: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.position, self.change = position, change
        self.seen: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        right = func(*args, **(kwargs or {}))
        if func not in SUMS + PRODUCTS and func not in ADDED:
            return right
        self.seen.append((func, args))
        if self.change is None or len(self.seen) != self.position + 1:
            return right
        return self.change(right, partial(func, **(kwargs or {})), args)


def _reductions(rule: Rule, residuals: Any, dy: Any) -> Iterator[Mutation]:
    with Altered() as text:
        rule.backward(residuals, dy)
    for position, (func, args) in enumerate(text.seen):
        for kind, change in _changes(func, args):

            def backward(residuals: Any, dy: Any, at: int = position, change: Any = change) -> Grads:
                with Altered(at, change):
                    return rule.backward(residuals, dy)

            yield Mutation(kind, "", backward)


def _changes(func: Any, args: Any) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """How a reduction can be got wrong without its result changing shape.

    What can be done is read off this case; it is then done at any other case too, with that case's lengths, and where
    it would change the shape there the reduction stays as it is.
    """
    if func in ADDED:
        yield "written, not added", lambda right, func, args: ADDED[func.func](*args, **func.keywords)
        return
    axes = _axes(func, args)
    if _count(func, args) < 2:
        return
    for kind, count in COUNTS.items():
        yield kind, partial(_times, count)
    if func in SUMS:
        longer = [axis for axis in axes if args[0].shape[axis] > 1]
        yield "last one left out", partial(_shortened, longer[0], -1)
        for axis in longer if len(longer) > 1 else []:
            yield "an axis forgotten", partial(_shortened, axis, 1)
        for other in itertools.combinations(range(args[0].ndim), len(axes)):
            if set(other) != set(axes) and func(args[0], list(other), *args[2:]).shape == func(*args).shape:
                yield "another axis", partial(_elsewhere, other)
        return
    yield "last one left out", lambda right, func, args: func(args[0][..., :-1], _without_last(args[1]))
    for operand in (0, 1):
        if args[operand].ndim > 1 and args[operand].shape[-1] == args[operand].shape[-2]:
            yield "another axis", partial(_transposed, operand)


def _times(count: Callable[[int], float], right: Tensor, func: Any, args: Any) -> Tensor:
    n = _count(func.func, args)
    return right * count(n) if n > 1 else right


def _shortened(axis: int, length: int, right: Tensor, func: Any, args: Any) -> Tensor:
    return _narrowed(func, args, axis, length) if axis in _axes(func.func, args) and args[0].shape[axis] else right


def _elsewhere(other: Sequence[int], right: Tensor, func: Any, args: Any) -> Tensor:
    if max(other) >= args[0].ndim:
        return right
    moved: Tensor = func(args[0], list(other), *args[2:])
    return moved if moved.shape == right.shape else right


def _transposed(operand: int, right: Tensor, func: Any, args: Any) -> Tensor:
    matrix = args[operand]
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        return right
    product: Tensor = func(*(x.mT if i == operand else x for i, x in enumerate(args)))
    return product


def _count(func: Any, args: Any) -> int:
    return math.prod(args[0].shape[axis] for axis in _axes(func, args))


def _axes(func: Any, args: Any) -> list[int]:
    """The axes of the first operand over which is summed."""
    if func in PRODUCTS:
        return [args[0].ndim - 1]
    given = args[1] if len(args) > 1 and args[1] else range(args[0].ndim)
    return [axis % args[0].ndim for axis in given]


def _narrowed(func: Any, args: Any, axis: int, length: int) -> Tensor:
    """The reduction over the first `length` of an axis; all but -length if negative."""
    x = args[0]
    reduced: Tensor = func(x.narrow(axis, 0, length % x.shape[axis]), *args[1:])
    return reduced


def _without_last(b: Tensor) -> Tensor:
    return b[:-1] if b.ndim == 1 else b[..., :-1, :]
