"""Tensors that carry a bound on their rounding error, and what torch's functions do to them (see bounded.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache, partial, reduce
from random import Random
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from manual_bp.arithmetic import bounded_table
from manual_bp.arithmetic.bounded_table import (
    EXACT,
    NO_ERROR,
    NoMeaning,
    Pair,
    Precision,
    holds,
    number,
    precision,
    rounded,
)

aten = torch.ops.aten


class UnknownFunctionError(NotImplementedError):
    """A page uses a function that the table lacks."""


Done = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
"""What is done instead of an aten function: of its arguments."""


class NotAtOnce(NotImplementedError):
    """An operation that cannot be done in several runs at once."""


POOL = 2**18
"""So many random numbers are made, in 2 MB, of which every operation takes those from a random place on: to make some
anew takes longer than all else that an operation does.  Two numbers that two operations take are one with a chance of
2⁻¹⁸."""


@cache
def _pool() -> Tensor:
    """Evenly distributed between -1 and 1, each with its opposite, so that their mean is 0: that of fewer numbers than
    are taken would be the mean of all."""
    half = torch.empty(POOL // 2, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    return torch.cat([half, -half])


class Dice:
    """Random numbers, and how many of them were thrown."""

    def __init__(self, seed: int = 0) -> None:
        self.places = Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = _pool()
        self.thrown = 0

    def parts(self, shape: torch.Size) -> Tensor:
        """Evenly distributed between -1 and 1; not to be written into."""
        self.thrown += shape.numel()
        return self._taken(shape)

    def _taken(self, shape: torch.Size) -> Tensor:
        count = shape.numel()
        if count > POOL // 4:
            return torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=self.generator)
        return self.pool.narrow(0, int(self.places.random() * (POOL - count)), count).view(shape)

    def rounded(self, x: Tensor, rest: Tensor) -> Tensor:
        """x + rest, with a rest of less than the distance to x's neighbour, as one of both by chance: rounded to the
        nearest, errors of one rounding of float64 would vanish just above a power of 2, where they are half of it."""
        step = torch.nextafter(x, rest.sign() * torch.inf) - x
        chance = self._taken(x.shape).abs()
        return torch.where(chance * step.abs() < rest.abs(), x + step, x)


class How(NamedTuple):
    """What a program may do otherwise.

    roundings: how many roundings of the magnitude of its expanded terms each operation may make, beside its own; sums
        of few terms are then granted the worst case of being added up one after the other.
    accumulate: the precision in which sums are added up, before they are rounded once; None for that of the numbers.
    dice: every operation errs at once, by a random part of its own rounding error, and nothing is bounded
        (stochastic.py); None where errors are bounded.
    underflows: whether results below the smallest normal number are rounded to multiples of the smallest one.
    enters_exactly: whether inputs carry no rounding.
    """

    roundings: float = 0.0
    accumulate: torch.dtype | None = None
    dice: Dice | None = None
    underflows: bool = True
    enters_exactly: bool = False


class Carrying:
    """What carries a bound on its rounding error.

    `dtype` is the precision of the arithmetic that is modelled.  `value` and `error` are float64; error ≥ 0.  `terms`
    is the number of terms of the sum that made it, 1 for anything else, and `is_choice` whether it is one of several
    numbers, such as the larger.  `how` and `magnitude`, of the expanded terms,
    are None unless they were asked for.  `runs`: of so many runs an axis stands before all others of value and
    error, of which whoever works with it knows nothing (stochastic.py); 0 where there is none.  `has_erred`: whether
    its error is known to be 0 because it was made at random.
    """

    value: Tensor
    error: Tensor
    dtype: torch.dtype
    terms: int = 1
    is_choice: bool = False
    how: How | None = None
    magnitude: Tensor | None = None
    runs: int = 0
    has_erred: bool = False
    ndim: Any


class Numbers(Carrying):
    """Numbers that are no tensor, which takes ten times as long to make: what the table gives, and programs run on."""

    _error: Tensor

    def __init__(self, value: Tensor, error: Tensor, dtype: torch.dtype) -> None:
        self.value = value
        self.error = error
        self.dtype = dtype

    @property
    def error(self) -> Tensor:
        """Of the value's shape, which it is given when it is first asked for: of errors made at random it never is."""
        if self._error.shape != self.value.shape:
            self._error = self._error.expand(self.value.shape)
        return self._error

    @error.setter
    def error(self, error: Tensor) -> None:
        self._error = error

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim


class Constant(NamedTuple):
    """A Python number where an operation takes a tensor, as torch's dispatcher would make one of it."""

    value: Tensor
    error: Tensor
    number: float


class Bounded(Carrying, Tensor):
    """A tensor that carries a bound on its rounding error, on which torch's own functions work."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor, error: Tensor, dtype: torch.dtype, runs: int = 0) -> Bounded:
        shape = value.shape[1:] if runs else value.shape
        bounded: Bounded = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=value.device)
        bounded.runs = runs
        bounded.value = value
        bounded.error = error if error.shape == value.shape else error.expand(value.shape)
        return bounded

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Bounded({self.value}, error={self.error}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(type(x) is Bounded and x.runs for x in args):
            raise NotAtOnce(str(func))  # which a recorded program alone can do
        return _as_tensors(done_by(func)(args, kwargs or {}))


def as_tensor(x: Any) -> Any:
    """`Numbers` as a tensor, and anything else as it is."""
    if type(x) is not Numbers:
        return x
    error = torch.zeros_like(x.value) if x.has_erred else x.error  # in memory of its own, to be written into
    bounded = Bounded(x.value, error, x.dtype, x.runs)
    bounded.terms, bounded.how, bounded.magnitude = x.terms, x.how, x.magnitude
    bounded.is_choice = x.is_choice
    return bounded


def _as_tensors(result: Any) -> Any:
    return type(result)(map(as_tensor, result)) if type(result) in (tuple, list) else as_tensor(result)


Made = TypeVar("Made")


def done_so(x: Made, how: How | None) -> Made:
    """`x`, with which everything is done in such a way from here on."""
    if how and isinstance(x, Carrying):
        x.how = how
        x.error = torch.zeros_like(x.error) if how.enters_exactly else x.error
        x.magnitude = x.value.abs() + x.error if how.roundings else None
        _err(x)
    return x


def _err(x: Carrying) -> None:
    """The error of a number made at random, where that is how things are done."""
    if x.how and x.how.dice is not None:
        parts = x.how.dice.parts(x.value.shape)
        if x.dtype is torch.float64:
            off = parts * x.error
            erred = x.value + off
            erred = x.how.dice.rounded(erred, off - (erred - x.value))
        else:
            erred = torch.addcmul(x.value, parts, x.error)
        errs_everywhere = x.error.numel() > 0 and x.error.min().item() > 0
        x.value = erred if errs_everywhere else torch.where(x.error > 0, erred, x.value)
        x.has_erred = type(x) is Numbers
        x.error = NO_ERROR if x.has_erred else torch.zeros_like(x.value)


@cache  # asked some hundred times for a page, and each table costs as much as an addition
def done_by(func: Any) -> Done:
    """Raises UnknownFunctionError."""
    if func in bounded_table.ARITHMETIC:
        return _calculating(func)
    if func in bounded_table.SHAPES:
        return partial(_alike, bounded_table.SHAPES[func])
    known: tuple[tuple[Container[Any], Callable[..., Any]], ...] = (
        (bounded_table.DECISIONS, _decided),
        (bounded_table.EXTREMES, _ordered),
        (bounded_table.SOLVED, _solved),
        (bounded_table.FILLED, _filled),
        (bounded_table.CONSTANTS, _constant),
        ((aten._to_copy.default,), lambda _, args, kwargs: _copied(*args, **kwargs)),
        ((aten.squeeze_.dim,), lambda _, args, __: _squeeze_in_place(*args)),
    )
    for table, done in known:
        if func in table:
            return partial(done, func)
    if func._schema.is_mutable:
        return partial(_in_place, func)
    raise UnknownFunctionError(f"{func} has no entry in manual_bp/arithmetic/bounded_table/; add its meaning.")


@cache  # asked of every operation of a program
def tensors_taken(func: Any) -> tuple[int, ...]:
    """Where an operation of the table takes a tensor; nowhere for what only the dispatcher can do."""
    table = bounded_table
    tables = (table.ARITHMETIC, table.DECISIONS, table.SHAPES, table.EXTREMES, table.SOLVED, table.FILLED)
    if not any(func in each for each in tables):
        return ()
    return tuple(i for i, argument in enumerate(func._schema.arguments) if str(argument.type) == "Tensor")


def _decided(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """On the values."""
    return func(*_mapped(_value, args), **kwargs)


def _calculating(func: Any) -> Done:
    """Arithmetic: the operands as pairs, the result in the precision to which they promote, or the one asked for."""
    positions, meaning = bounded_table.ARITHMETIC[func]
    terms = bounded_table.TERMS.get(func)
    adds = func in bounded_table.ADDITIONS
    is_choice = func in bounded_table.CHOICES
    apart = bounded_table.APART.get(func)

    def calculated(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Numbers:
        dtype = kwargs.get("dtype") or _promoted(args)
        if "dtype" in kwargs:
            kwargs = {name: x for name, x in kwargs.items() if name != "dtype"}
        how = _how(args)
        p = _precision(dtype, how)
        operands = [
            pair_of(x, dtype) if position in positions and x is not None else _value(x)
            for position, x in enumerate(args)
        ]
        try:
            result = Numbers(*meaning(p, *operands, **kwargs), dtype)
        except NoMeaning as error:
            raise UnknownFunctionError(f"{func} {error} has no entry in manual_bp/arithmetic/bounded_table/.") from None
        result.is_choice = is_choice
        if terms:
            result.terms = max(terms(*args, **kwargs), 1)
        elif adds:
            _in_any_order(result, args[:2], p)
        if how is None:
            return result
        result.how = how
        if how.roundings:
            if apart:
                result.error = result.error + apart(
                    how.roundings * p.u, operands[0], magnitude_of(args[0]), *args[1:], **kwargs
                )
            result.magnitude = _expanded(result, func, args, kwargs, positions)
            below = torch.where(result.magnitude > 0, p.eta, 0.0)
            lost = how.roundings * torch.maximum(p.u * result.magnitude, below)
            result.error = result.error + torch.where(result.value.isinf(), EXACT, lost)  # infinity is exact
        _err(result)
        return result

    return calculated


def _precision(dtype: torch.dtype, how: How | None) -> Precision:
    return precision(dtype, how.accumulate, how.roundings > 0, how.underflows) if how else precision(dtype)


def _ordered(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Numbers, Tensor]:
    """What is the largest or comes first, and its indices, which are decided on the values."""
    x = args[0]
    pair, indices = bounded_table.EXTREMES[func](_precision(x.dtype, x.how), (x.value, x.error), *args[1:], **kwargs)
    result = Numbers(*pair, x.dtype)
    result.how = x.how
    if x.magnitude is not None:
        result.magnitude = result.value.abs() + result.error
    return result, indices


def _solved(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a matrix is solved for, and what comes beside it."""
    operands, meaning = bounded_table.SOLVED[func]
    dtype, how = _promoted(args[:operands]), _how(args)
    pairs = [pair_of(x, dtype) for x in args[:operands]]
    found = meaning(_precision(dtype, how), *pairs, *args[operands:], **kwargs)
    return tuple(x if isinstance(x, Tensor) else done_so(Numbers(x[0], x[1], dtype), how) for x in found)


def _how(args: Iterable[Any]) -> How | None:
    for x in args:
        if isinstance(x, Carrying) and x.how:
            return x.how
    return None


def _expanded(
    result: Carrying, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: tuple[int, ...]
) -> Tensor:
    """What the magnitudes of the terms add up to into which a result expands; at least its own."""
    own = result.value.abs() + result.error
    is_finite = result.value.isfinite() & result.error.isfinite()
    own = torch.where(is_finite, own.clamp(max=torch.finfo(torch.float64).max), own)  # as of a score less finfo.min
    if func not in bounded_table.MAGNITUDES:
        return own
    operands = [
        magnitude_of(x) if position in positions and x is not None else _value(x) for position, x in enumerate(args)
    ]
    if func in bounded_table.DIVISIONS:  # by what it is, not by what its terms add up to
        operands[1] = pair_of(args[1], result.dtype)[0].abs()
    if func in bounded_table.CHOICES:  # what cannot be the larger is no part of it, as the -1e38 of an empty maximum
        pairs = [None if x is None else pair_of(x, result.dtype) for x in args]
        operands = [
            pair and torch.where((pair[0] - result.value).abs() <= pair[1] + result.error, size, EXACT)
            for pair, size in zip(pairs, operands, strict=True)
        ]
    return torch.maximum(own, bounded_table.MAGNITUDES[func](*operands, **kwargs))


def magnitude_of(x: Carrying | Constant | Tensor | float) -> Tensor:
    if isinstance(x, Carrying):
        return x.value.abs() + x.error if x.magnitude is None else x.magnitude
    return (x.value if isinstance(x, Constant) else torch.as_tensor(x, dtype=torch.float64)).abs()


def _magnitude_of_number(x: Any) -> Any:
    is_number = isinstance(x, Carrying) or (isinstance(x, Tensor) and x.is_floating_point())
    return magnitude_of(x) if is_number else x


def _in_any_order(result: Carrying, operands: Iterable[Any], p: Precision) -> None:
    """What is added to a sum of n terms may be added first (torch's linear does so), and takes part in n roundings.

    An infinity is not rounded, and of a NaN nothing is known: what is due to them is in the result's error already."""
    a, b = operands
    for sum_, other in ((a, b), (b, a)):
        terms = sum_.terms if isinstance(sum_, Carrying) else 1
        if terms > 1 and isinstance(other, Carrying):
            size = other.value.abs() if other.has_erred else other.value.abs() + other.error
            rounding = p.gamma(terms) * size
            if rounding.numel() and not rounding.max().item() < math.inf:  # the ordinary case is that all are finite
                rounding = torch.where(other.value.isfinite(), rounding, EXACT)
            result.error = result.error + rounding
            result.terms = max(result.terms, terms + other.terms)


def _alike(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Values and errors take the same way.  A plain tensor of numbers is exact, one of integers is an index.

    func: as it is done to values (`bounded_table.SHAPES`).
    """
    x, rest = args[0], args[1:]
    if type(x) is Numbers and x.has_erred and x.magnitude is None and not any(map(_holds_tensor, rest)):
        moved = func(x.value, *rest, **kwargs)
        return _moved(x, moved) if isinstance(moved, Tensor) else [_moved(x, each) for each in moved]
    if isinstance(x, Carrying) and not any(map(_holds_tensor, rest)):
        dtype, how, terms, has_erred = x.dtype, x.how, x.terms, x.has_erred
        ways: list[Any] = [func(x.value, *rest, **kwargs)]
        ways.append(ways[0] if has_erred else func(x.error, *rest, **kwargs))
        ways.append(None if x.magnitude is None else func(x.magnitude, *rest, **kwargs))
    else:
        each = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
        tensors = [x for x in each if isinstance(x, Tensor | Carrying)]
        dtype, how = _promoted(tensors), _how(tensors)
        carrying = [x for x in tensors if isinstance(x, Carrying)]
        terms = max((x.terms for x in carrying), default=1)
        has_erred = bool(carrying) and all(x.has_erred for x in carrying)
        ways = [func(*_mapped(_value_of_number, args), **kwargs)]
        ways.append(ways[0] if has_erred else func(*_mapped(_error_of_number, args), **kwargs))
        ways.append(func(*_mapped(_magnitude_of_number, args), **kwargs) if how and how.roundings else None)

    def result(value: Tensor, error: Tensor, magnitude: Tensor | None) -> Numbers:
        bounded = Numbers(value, NO_ERROR if has_erred else error, dtype)
        bounded.terms, bounded.how, bounded.magnitude = terms, how, magnitude
        bounded.has_erred = has_erred
        return bounded

    values, errors, magnitudes = ways
    if isinstance(values, Tensor):
        return result(values, errors, magnitudes)
    return [result(*each) for each in zip(values, errors, magnitudes or [None] * len(values), strict=True)]


def _moved(x: Numbers, value: Tensor) -> Numbers:
    """A part of numbers that have erred at random, or all of them elsewhere."""
    moved = Numbers(value, NO_ERROR, x.dtype)
    moved.terms, moved.how, moved.has_erred = x.terms, x.how, True
    return moved


TENSORS = (Tensor, Carrying)


def _holds_tensor(x: Any) -> bool:
    if isinstance(x, list | tuple):
        return any(isinstance(each, TENSORS) for each in x)
    return isinstance(x, TENSORS)


def _value_of_number(x: Any) -> Any:
    return x.double() if type(x) is Tensor and x.is_floating_point() else _value(x)


def _error_of_number(x: Any) -> Any:
    if isinstance(x, Carrying):
        return x.error
    return torch.zeros_like(x, dtype=torch.float64) if isinstance(x, Tensor) and x.is_floating_point() else x


def _filled(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Values and errors take the same way, and so do the value and the error of the number that fills up."""
    before, fill = args[: bounded_table.FILLED[func]], args[bounded_table.FILLED[func] :] or (0.0,)
    dtype, how = _promoted(before), _how(before)
    value, error = number(float(fill[0]), dtype)

    def taken(part: Callable[[Any], Any], filled: Tensor) -> Tensor:
        moved: Tensor = func(*map(part, before), filled.item(), **kwargs)
        return moved

    result = Numbers(taken(_value_of_number, value), taken(_error_of_number, error), dtype)
    result.how = how
    if how and how.roundings:
        result.magnitude = taken(_magnitude_of_number, value.abs() + error)
    _err(result)
    return result


def _constant(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """One number everywhere, rounded on entering the format."""
    dtype = kwargs.get("dtype") or args[0].dtype
    if not dtype.is_floating_point:
        return func(args[0].value, *args[1:], **kwargs)
    fill = bounded_table.CONSTANTS[func]
    value, error = number(float(args[-1] if fill is None else fill), dtype)
    shape = func(args[0].value, *args[1:]).shape
    filled = Numbers(value.repeat(shape), error.repeat(shape), dtype)  # in memory of their own, to be written into
    return done_so(filled, args[0].how)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Carrying | Constant) else x


def _mapped(f: Callable[[Any], Any], args: tuple[Any, ...]) -> list[Any]:
    """f of each argument, or of each one in a list of them."""
    return [[f(x) for x in arg] if isinstance(arg, list | tuple) else f(arg) for arg in args]


def converted(x: Bounded, *, dtype: torch.dtype | None = None) -> Tensor:
    """Widening is exact; anything else is one rounding."""
    tensor: Tensor = as_tensor(_copied(x, dtype=dtype))
    return tensor


def _copied(x: Carrying, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """As `converted`.  Device and layout are ignored: all is done on the CPU."""
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        return x.value.to(dtype)
    if holds(dtype, x.dtype):
        copied = Numbers(x.value, x.error, dtype)
    else:
        copied = Numbers(*rounded(precision(dtype), x.value, x.error, (x.value, x.error)), dtype)
    copied.how, copied.magnitude = x.how, x.magnitude
    _err(copied)
    return copied


def _in_place(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Carrying:
    """The function that is not in place, and its result written where the tensor is, which may be part of another."""
    x = args[0]
    if not isinstance(x, Carrying):
        raise UnknownFunctionError(f"{func} would write a bounded number into a tensor that has no bound.")
    if func in (aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default):
        source = args[1] if len(args) > 1 else 0.0
        whole = source if isinstance(source, Carrying) else Numbers(*pair_of(source, x.dtype), x.dtype)
        result: Any = _copied(whole, dtype=x.dtype)
    else:
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        same = getattr(getattr(aten, name, None), func._overloadname, None)
        if same is None:
            raise UnknownFunctionError(f"{func} has no counterpart that is not in place; write it otherwise.")
        result = done_by(same)(args, kwargs)
    x.value.copy_(result.value)
    x.error.copy_(result.error)
    if x.magnitude is not None:
        x.magnitude.copy_(magnitude_of(result))
    x.terms = max(x.terms, result.terms)
    carrying: Carrying = x
    return carrying


def _squeeze_in_place(x: Bounded, dim: int) -> Bounded:
    """A step of torch's own matmul of a vector."""
    x.value, x.error = x.value.squeeze(dim), x.error.squeeze(dim)
    if x.magnitude is not None:
        x.magnitude = x.magnitude.squeeze(dim)
    with no_dispatch():
        aten.squeeze_.dim(x, dim)  # the shape that torch sees
    return x


def pair_of(x: Carrying | Constant | Tensor | float, dtype: torch.dtype) -> Pair:
    if isinstance(x, Carrying):
        return x.value, NO_ERROR if x.has_erred else x.error
    if isinstance(x, Constant):
        return x.value, x.error
    if isinstance(x, Tensor) and (x.ndim or not x.is_floating_point()):
        return x.double(), EXACT
    value, error = number(float(x), dtype)
    return value, error if _is_short(x) else 2 * precision(dtype).u * value.abs()


LARGEST = {torch.finfo(dtype).max for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
"""Of the formats; a mask adds one of them, negative, to what it hides."""


def _is_short(x: Tensor | float) -> bool:
    """Whether a tensor without axes, which is what torch makes of a Python number, holds that number itself: half the
    digits of its format are enough for it, or it is the largest number of a format, by which masks hide.  Anything
    longer has been rounded."""
    if not isinstance(x, Tensor):
        return True
    digits = -math.log2(torch.finfo(x.dtype).eps) + 1
    return not x.isfinite() or abs(x.item()) in LARGEST or (math.frexp(x.item())[0] * 2 ** (digits // 2)).is_integer()


def _promoted(args: Iterable[Any]) -> torch.dtype:
    """The dtype to which torch promotes: a tensor without axes counts only where there is no other."""
    numbers = [x for x in args if isinstance(x, TENSORS) and x.dtype.is_floating_point]
    first = numbers[0].dtype if numbers else None
    if first is not None and all(x.dtype is first for x in numbers):
        return first
    found = {x.dtype for x in numbers if x.ndim} or {x.dtype for x in numbers}
    return found.pop() if len(found) == 1 else reduce(torch.promote_types, found)
