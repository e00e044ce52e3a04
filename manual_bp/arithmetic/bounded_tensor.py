"""Tensors that carry a bound on their rounding error, and what torch's functions do to them (see bounded.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache, partial, reduce
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from manual_bp.arithmetic import bounded_table
from manual_bp.arithmetic.bounded_table import EXACT, NoMeaning, Pair, Precision, holds, number, precision, rounded
from manual_bp.dispatch import Mode

aten = torch.ops.aten


class UnknownFunctionError(NotImplementedError):
    """A page uses a function that the table lacks."""


class Dice:
    """Random numbers, and how many of them were thrown."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.thrown = 0

    def parts(self, shape: torch.Size) -> Tensor:
        """Evenly distributed between -1 and 1."""
        self.thrown += shape.numel()
        return torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=self.generator)

    def rounded(self, x: Tensor, rest: Tensor) -> Tensor:
        """x + rest, with a rest of less than the distance to x's neighbour, as one of both by chance: rounded to the
        nearest, errors of one rounding of float64 would vanish just above a power of 2, where they are half of it."""
        step = torch.nextafter(x, rest.sign() * torch.inf) - x
        chance = torch.empty(x.shape, dtype=torch.float64).uniform_(generator=self.generator)
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


class Bounded(Tensor):
    """A tensor that carries a bound on its rounding error.

    `dtype` is the precision of the arithmetic that is modelled.  `value` and `error` are float64; error ≥ 0.  `terms`
    is the number of terms of the sum that made it, 1 for anything else.  `how` and `magnitude`, of the expanded terms,
    are None unless they were asked for.
    """

    value: Tensor
    error: Tensor
    terms: int = 1
    how: How | None = None
    magnitude: Tensor | None = None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor, error: Tensor, dtype: torch.dtype) -> Bounded:
        bounded: Bounded = Tensor._make_wrapper_subclass(cls, value.shape, dtype=dtype, device=value.device)
        bounded.value = value
        bounded.error = error if error.shape == value.shape else error.expand(value.shape)
        return bounded

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Bounded({self.value}, error={self.error}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        done = _done_by(func)
        if not Paging.running or not Paging.running[-1].notes:
            return done(args, kwargs or {})
        args = Paging.running[-1].decide(func, args, kwargs or {})
        if not _is_noted(func):
            return done(args, kwargs or {})
        _note(func, args, kwargs or {})
        result = done(args, kwargs or {})
        if func in bounded_table.OF_REGULAR:
            _note_singular(args[0], result[0] if isinstance(result, tuple) else result)
        if func in bounded_table.SIGNS:  # as of every branch sides.py tells what is right on either side of it
            result.error = torch.zeros_like(result.error)
        return result


def done_so(x: Tensor, how: How | None) -> Tensor:
    """`x`, with which everything is done in such a way from here on."""
    if how and isinstance(x, Bounded):
        x.how = how
        x.error = torch.zeros_like(x.error) if how.enters_exactly else x.error
        x.magnitude = x.value.abs() + x.error if how.roundings else None
        _err(x)
    return x


def _err(x: Bounded) -> None:
    """The error of a number made at random, where that is how things are done."""
    if x.how and x.how.dice is not None:
        off = x.how.dice.parts(x.value.shape).mul_(x.error)
        erred = x.value + off
        if x.dtype is torch.float64:
            erred = x.how.dice.rounded(erred, off - (erred - x.value))
        x.value, x.error = torch.where(x.error > 0, erred, x.value), torch.zeros_like(x.value)


class Running(Mode):
    """Where many operations on `Bounded` are due.  They need no mode, but for the first of them outside one torch
    imports all its distributed tensors, which takes longer than most analyses."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if Bounded in types:
            return Bounded.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


Decide = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[Any, ...]]
"""Of an aten function and its arguments: what stands in place of those without a name."""


def as_it_is(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    return args


class Paging(Running):
    """Where a page is run: zeros that it makes are bounded numbers too, so that it may add to them in place."""

    running: ClassVar[list[Paging]] = []

    def __init__(self, how: How | None = None, notes: bool = False, decide: Decide = as_it_is) -> None:
        """notes: whether it is noted if an order was decided that the bounds leave open (is_undecided), or a branch
        (is_close), and if numbers may be equal on which either depends (is_tied), or computed ones are on whose order
        something depends (is_order_tied).  decide: what stands in place of an operation's arguments, where that is
        noted.  largest: how many elements the largest tensor has that was made."""
        super().__init__()
        self.decide = decide
        self.largest = 0
        self.how = how
        self.notes = notes
        self.is_undecided = False
        self.is_close = False
        self.is_tied = False
        self.is_order_tied = False

    def __enter__(self) -> Paging:
        self.running.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self.running.pop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if Bounded in types:
            result = Bounded.__torch_dispatch__(func, types, args, kwargs)
            if isinstance(result, Tensor) and result.numel() > self.largest:
                self.largest = result.numel()
            return result
        result = func(*args, **(kwargs or {}))
        if func is aten.zeros.default and result.is_floating_point():
            zero = torch.zeros(result.shape, dtype=torch.float64)
            return done_so(Bounded(zero, zero.clone(), result.dtype), self.how)
        return result

    def is_next(self) -> bool:
        """Whether it is this mode to which the dispatcher comes first: no other was entered since, nor torch.vmap."""
        return _get_current_dispatch_mode() is self and torch._C._functorch.peek_interpreter_stack() is None

    def done(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What comes of a call by the dispatcher, whose way here takes a quarter of the time of an addition.  The
        operation is one that `comes_as_it_is`."""
        with torch._C._DisableTorchDispatch(), torch._C._AutoDispatchBelowAutograd():
            return self.__torch_dispatch__(func, (Bounded,), args, kwargs)


# An input has one rounding, as the number that it is in float64 rounds to another one in what is computed in.
INPUT = 1.5
Done = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
"""What is done instead of an aten function: of its arguments."""


@cache  # asked some hundred times for a page, and each table costs as much as an addition
def _done_by(func: Any) -> Done:
    """Raises UnknownFunctionError."""
    if func in bounded_table.ARITHMETIC:
        return _calculating(func)
    known: tuple[tuple[Container[Any], Callable[..., Any]], ...] = (
        (bounded_table.DECISIONS, _decided),
        (bounded_table.SHAPES, _alike),
        (bounded_table.EXTREMES, _ordered),
        (bounded_table.SOLVED, _solved),
        (bounded_table.FILLED, _filled),
        (bounded_table.CONSTANTS, _constant),
        ((aten._to_copy.default,), lambda _, args, kwargs: converted(*args, **kwargs)),
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


def comes_as_it_is(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would hand these arguments on as they are: it makes tensors of Python numbers."""
    positions = tensors_taken(func)
    if not positions or not any(type(x) is Bounded for x in args):
        return False
    return all(isinstance(args[i], Tensor) for i in positions if i < len(args))


@cache  # each table that is asked for an operation hashes it anew, which is done in Python
def _is_noted(func: Any) -> bool:
    """Whether an operation may leave something open."""
    table = bounded_table
    tables = (table.BRANCHES, table.JUMPING, table.PLACES, table.EXTREMES, table.OF_REGULAR)
    return any(func in each for each in tables)


def _note(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note in what is running a branch or an order that the bounds leave open."""
    if func in bounded_table.BRANCHES:
        _note_branch(args[0], *limits_of(args, kwargs))
    if func in bounded_table.JUMPING and isinstance(args[0], Bounded):
        _note_jump(func, args[0])
    is_place = func in bounded_table.PLACES and len(args) > 1
    if (is_place or func in bounded_table.EXTREMES) and isinstance(args[0], Bounded):
        _note_order(args[0], _dimension(func, args, kwargs))


def _decided(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """On the values."""
    return func(*_mapped(_value, args), **kwargs)


def _calculating(func: Any) -> Done:
    """Arithmetic: the operands as pairs, the result in the precision to which they promote, or the one asked for."""
    positions, meaning = bounded_table.ARITHMETIC[func]
    terms = bounded_table.TERMS.get(func)
    adds = func in bounded_table.ADDITIONS
    apart = bounded_table.APART.get(func)

    def calculated(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bounded:
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
            result = Bounded(*meaning(p, *operands, **kwargs), dtype)
        except NoMeaning as error:
            raise UnknownFunctionError(f"{func} {error} has no entry in manual_bp/arithmetic/bounded_table/.") from None
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


def _ordered(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Bounded, Tensor]:
    """What is the largest or comes first, and its indices, which are decided on the values."""
    x = args[0]
    pair, indices = bounded_table.EXTREMES[func](_precision(x.dtype, x.how), (x.value, x.error), *args[1:], **kwargs)
    result = Bounded(*pair, x.dtype)
    result.how = x.how
    if x.magnitude is not None:
        result.magnitude = result.value.abs() + result.error
    return result, indices


def _solved(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """What a matrix is solved for, and what comes beside it."""
    operands, meaning = bounded_table.SOLVED[func]
    dtype, how = _promoted(args[:operands]), _how(args)
    pairs = [pair_of(x, dtype) for x in args[:operands]]
    found = meaning(_precision(dtype, how), *pairs, *args[operands:], **kwargs)
    return tuple(x if isinstance(x, Tensor) else done_so(Bounded(x[0], x[1], dtype), how) for x in found)


def _dimension(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Along which an order is decided."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return int(given.get("dim", -1))


def _note_order(x: Bounded, dim: int) -> None:
    """Note where two numbers lie nearer to each other than their errors, so that another program may order them in
    another way.  Equal ones are a tie, for which there is a convention; but computed ones may be so here alone, as the
    products with equal rows of a matrix, of which a kernel may add up the last columns in another order."""
    if not x.ndim or not x.value.numel():
        return
    values, order = x.value.sort(dim)
    errors, computed = (e.gather(dim, order) for e in (x.error, _computed(x)))
    last = values.shape[dim] - 1
    gaps = values.narrow(dim, 1, last) - values.narrow(dim, 0, last)
    open_ = gaps <= errors.narrow(dim, 1, last) + errors.narrow(dim, 0, last)
    is_computed = computed.narrow(dim, 1, last) + computed.narrow(dim, 0, last) > 0
    Paging.running[-1].is_tied |= bool(open_.any())
    Paging.running[-1].is_order_tied |= bool(((gaps == 0) & is_computed).any())
    Paging.running[-1].is_undecided |= bool((open_ & (gaps > 0)).any())


def _computed(x: Bounded) -> Tensor:
    """The errors of computed numbers.  An input, which has one rounding at most, is what it is."""
    return torch.where(x.error > INPUT * precision(x.dtype).u * x.value.abs(), x.error, 0.0)


def limits_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """With what a branch compares its first argument: with 0, if with no other."""
    given = (*args[1:3], *kwargs.values()) if len(args) > 1 or kwargs else (0.0,)
    return [limit for limit in given if limit is not None and not isinstance(limit, bool)]


def _note_branch(x: Any, *limits: Any) -> None:
    """Note where a number lies nearer to a limit than its error, so that another program may take the other branch.
    One that is the limit itself is at a kink, for which there is a convention."""
    if not isinstance(x, Bounded):
        return
    for limit in limits:
        value, error = pair_of(limit, x.dtype)
        gap = (x.value - value).abs()
        open_ = gap <= x.error + error
        if bool(open_.any()):
            Paging.running[-1].is_tied = True
            Paging.running[-1].is_close |= bool((open_ & (gap > 0)).any())


def _note_jump(func: Any, x: Bounded) -> None:
    """Note where a computed number lies nearer to a jump than its error, so that another program may be on the other
    side."""
    computed = _computed(x)
    is_open = func(x.value - computed) != func(x.value + computed)
    Paging.running[-1].is_undecided |= bool((is_open & x.value.isfinite()).any())


def _note_singular(x: Bounded, result: Bounded) -> None:
    """Note where a matrix may be singular, so that programs have there what their roundings make of it."""
    if bool(x.value.isfinite().all()):
        Paging.running[-1].is_undecided |= bool(result.error.isinf().any())


def _how(args: Iterable[Any]) -> How | None:
    for x in args:
        if isinstance(x, Bounded) and x.how:
            return x.how
    return None


def _expanded(
    result: Bounded, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: tuple[int, ...]
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
        pairs = [pair_of(x, result.dtype) for x in args]
        may_be = [(value - result.value).abs() <= error + result.error for value, error in pairs]
        operands = [torch.where(chosen, size, EXACT) for chosen, size in zip(may_be, operands, strict=True)]
    return torch.maximum(own, bounded_table.MAGNITUDES[func](*operands, **kwargs))


def magnitude_of(x: Tensor | float) -> Tensor:
    if isinstance(x, Bounded):
        return x.value.abs() + x.error if x.magnitude is None else x.magnitude
    return torch.as_tensor(x, dtype=torch.float64).abs()


def _magnitude_of_number(x: Any) -> Any:
    return magnitude_of(x) if isinstance(x, Tensor) and x.is_floating_point() else x


def _in_any_order(result: Bounded, operands: Iterable[Any], p: Precision) -> None:
    """What is added to a sum of n terms may be added first (torch's linear does so), and takes part in n roundings.

    An infinity is not rounded, and of a NaN nothing is known: what is due to them is in the result's error already."""
    a, b = operands
    for sum_, other in ((a, b), (b, a)):
        terms = sum_.terms if isinstance(sum_, Bounded) else 1
        if terms > 1 and isinstance(other, Bounded):
            rounding = p.gamma(terms) * (other.value.abs() + other.error)
            result.error = result.error + torch.where(other.value.isfinite(), rounding, bounded_table.EXACT)
            result.terms = max(result.terms, terms + other.terms)


def _alike(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Values and errors take the same way.  A plain tensor of numbers is exact, one of integers is an index."""
    func = bounded_table.SHAPES[func]
    x, rest = args[0], args[1:]
    if isinstance(x, Bounded) and not any(map(_holds_tensor, rest)):
        ways: list[Any] = [func(part, *rest, **kwargs) for part in (x.value, x.error)]
        ways.append(None if x.magnitude is None else func(x.magnitude, *rest, **kwargs))
        dtype, how, terms = x.dtype, x.how, x.terms
    else:
        tensors = [
            x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg]) if isinstance(x, Tensor)
        ]
        dtype, how = _promoted(tensors), _how(tensors)
        terms = max((x.terms for x in tensors if isinstance(x, Bounded)), default=1)
        ways = [func(*_mapped(part, args), **kwargs) for part in (_value_of_number, _error_of_number)]
        ways.append(func(*_mapped(_magnitude_of_number, args), **kwargs) if how and how.roundings else None)

    def result(value: Tensor, error: Tensor, magnitude: Tensor | None) -> Bounded:
        bounded = Bounded(value, error, dtype)
        bounded.terms, bounded.how, bounded.magnitude = terms, how, magnitude
        return bounded

    values, errors, magnitudes = ways
    if isinstance(values, Tensor):
        return result(values, errors, magnitudes)
    return [result(*each) for each in zip(values, errors, magnitudes or [None] * len(values), strict=True)]


def _holds_tensor(x: Any) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, list | tuple) and any(isinstance(each, Tensor) for each in x))


def _value_of_number(x: Any) -> Any:
    return x.double() if type(x) is Tensor and x.is_floating_point() else _value(x)


def _error_of_number(x: Any) -> Any:
    if isinstance(x, Bounded):
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

    result = Bounded(taken(_value_of_number, value), taken(_error_of_number, error), dtype)
    result.how = how
    if how and how.roundings:
        result.magnitude = taken(_magnitude_of_number, value.abs() + error)
    _err(result)
    return result


def _constant(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """One number everywhere, rounded on entering the format."""
    dtype = kwargs.get("dtype") or args[0].dtype
    if not dtype.is_floating_point:
        plain: Tensor = func(args[0].value, *args[1:], **kwargs)
        return plain
    fill = bounded_table.CONSTANTS[func]
    value, error = number(float(args[-1] if fill is None else fill), dtype)
    shape = func(args[0].value, *args[1:]).shape
    filled = Bounded(value.repeat(shape), error.repeat(shape), dtype)  # in memory of their own, to be written into
    return done_so(filled, args[0].how)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Bounded) else x


def _mapped(f: Callable[[Any], Any], args: tuple[Any, ...]) -> list[Any]:
    """f of each argument, or of each one in a list of them."""
    return [[f(x) for x in arg] if isinstance(arg, list | tuple) else f(arg) for arg in args]


def converted(x: Bounded, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Widening is exact; anything else is one rounding.  Device and layout are ignored: all is done on the CPU."""
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        return x.value.to(dtype)
    if holds(dtype, x.dtype):
        copied = Bounded(x.value, x.error, dtype)
    else:
        copied = Bounded(*rounded(precision(dtype), x.value, x.error, (x.value, x.error)), dtype)
    copied.how, copied.magnitude = x.how, x.magnitude
    _err(copied)
    return copied


def _in_place(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bounded:
    """The function that is not in place, and its result written where the tensor is, which may be part of another."""
    x = args[0]
    if not isinstance(x, Bounded):
        raise UnknownFunctionError(f"{func} would write a bounded number into a tensor that has no bound.")
    if func in (aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default):
        source = args[1] if len(args) > 1 else 0.0
        whole = source if isinstance(source, Bounded) else Bounded(*pair_of(source, x.dtype), x.dtype)
        result: Any = converted(whole, dtype=x.dtype)
    else:
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        same = getattr(getattr(aten, name, None), func._overloadname, None)
        if same is None:
            raise UnknownFunctionError(f"{func} has no counterpart that is not in place; write it otherwise.")
        result = Bounded.__torch_dispatch__(same, (), args, kwargs)
    x.value.copy_(result.value)
    x.error.copy_(result.error)
    if x.magnitude is not None:
        x.magnitude.copy_(magnitude_of(result))
    x.terms = max(x.terms, result.terms)
    bounded: Bounded = x
    return bounded


def _squeeze_in_place(x: Bounded, dim: int) -> Bounded:
    """A step of torch's own matmul of a vector."""
    x.value, x.error = x.value.squeeze(dim), x.error.squeeze(dim)
    if x.magnitude is not None:
        x.magnitude = x.magnitude.squeeze(dim)
    with no_dispatch():
        aten.squeeze_.dim(x, dim)  # the shape that torch sees
    return x


def pair_of(x: Tensor | float, dtype: torch.dtype) -> Pair:
    if isinstance(x, Bounded):
        return x.value, x.error
    if isinstance(x, Tensor) and (x.ndim or not x.is_floating_point()):
        return x.double(), EXACT
    value, error = number(float(x), dtype)
    return value, error if _is_short(x) else 2 * precision(dtype).u * value.abs()


def _is_short(x: Tensor | float) -> bool:
    """Whether a tensor without axes, which is what torch makes of a Python number, holds that number itself: half the
    digits of its format are enough for it.  Anything longer has been rounded."""
    if not isinstance(x, Tensor):
        return True
    digits = -math.log2(torch.finfo(x.dtype).eps) + 1
    return not x.isfinite() or (math.frexp(x.item())[0] * 2 ** (digits // 2)).is_integer()


def _promoted(args: Iterable[Any]) -> torch.dtype:
    """The dtype to which torch promotes: a tensor without axes counts only where there is no other."""
    dtypes, without_axes = set[torch.dtype](), set[torch.dtype]()
    for x in args:
        if isinstance(x, Tensor) and x.is_floating_point():
            (dtypes if x.ndim else without_axes).add(x.dtype)
    return reduce(torch.promote_types, dtypes or without_axes)
