"""Balls: the number system of certified truth, in which a page's forward runs unchanged.

A number here is a *jet*: a value and its first derivatives with respect to the inputs (Griewank & Walther, "Evaluating
Derivatives", 2nd ed., SIAM 2008, chapters 3 and 7.1: forward mode, sparse tangents).  Arithmetic on jets is the chain
rule,

    φ(a, b) = ( φ(a, b),   ∂φ/∂a · a' + ∂φ/∂b · b' ),

and nothing about a page is known beyond the derivatives of the elementary functions in the table below.  Both parts
are *balls*: a midpoint with a radius that contains the exact number, every rounding included (Johansson, "Arb:
Efficient Arbitrary-Precision Midpoint-Radius Interval Arithmetic", IEEE Trans. Computers 66 (2017)).  So what comes
out is an enclosure, not an estimate.

Kinks.  A comparison asks for the sign of a difference d.

- d's ball lies on one side of 0: decided, here and nearby.
- d is exactly 0 and some inputs move it: decided at the point, but open nearby.  The result is a `Choice`, which keeps
  the outcomes that are possible nearby and the inputs that can change them.  Where branches are chosen by it, an input
  among those keeps its derivative only if all possible branches have one value and one slope (elu with alpha = 1);
  otherwise the derivative becomes nan, which every later operation passes on.  In a single direction the sign of d'
  settles which branch is entered: one-sided derivatives.
- anything else: `NeedMoreBits`.

Functions that only move elements about (reshape, gather, ...) need no meaning of their own: the real torch function is
applied to a numbering of the elements, which says where each of them went.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Sequence
from types import GetSetDescriptorType
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from flint import arb
except ImportError as error:
    raise ImportError("certified truth needs python-flint: pip install 'manual-bp[truth]'") from error

Tangent = dict[int, arb]
"""The derivatives that may differ from 0, by the number of the input element (or by DIRECTION)."""

Axes = int | tuple[int, ...] | None

DIRECTION = -1
"""The one key of a tangent when a page is differentiated along one direction."""

ZERO, ONE, NAN = arb(0), arb(1), arb("nan")


class NeedMoreBits(ArithmeticError):
    """Balls of this precision cannot tell which branch is taken, or whether a divisor is 0."""


class UnknownFunction(NotImplementedError):
    """A page uses a function that has no meaning in ball arithmetic."""

    def __init__(self, function: str, page: str = "a page") -> None:
        super().__init__(
            f"{page} uses {function}, which ball arithmetic does not know. "
            "Give it a meaning in manual_bp/arithmetic/balls.py."
        )
        self.function = function
        self.page = page


class Cell(NamedTuple):
    """One element: a jet."""

    value: arb
    tangent: Tangent


class Option(NamedTuple):
    """One element of a mask or of an index."""

    here: int
    """The outcome at the point."""
    nearby: tuple[int, ...]
    """The outcomes that are possible as soon as an input moves."""
    keys: frozenset[int]
    """The inputs that can change the outcome; none if it is decided."""


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: apply(name, (self, *others), {})


def _reversed(name: str) -> Callable[..., Any]:
    return lambda self, other: apply(name, (other, self), {})


class Grid:
    """Elements in the shape of a tensor.  Everything that pages do with one leads to `apply`."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Sequence[int], cells: list[Any]) -> None:
        self.shape = torch.Size(shape)
        self.cells = cells

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return apply(_name(func), args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if isinstance(getattr(Tensor, name, None), GetSetDescriptorType):  # T, mT: an attribute, not a method
            return apply(name, (self,), {})
        if name not in MEANINGS and name not in SHAPING:
            raise UnknownFunction(name)
        return lambda *args, **kwargs: apply(name, (self, *args), kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {tuple(self.shape)}>"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return self.shape[0]

    def _no_python_number(self) -> Any:
        raise UnknownFunction("bool(), int() or float() of a number that depends on the inputs")

    __bool__ = __int__ = __float__ = _no_python_number

    __neg__ = _operator("neg")
    __abs__ = _operator("abs")
    __invert__ = _operator("invert")
    __getitem__ = _operator("getitem")
    __lt__ = _operator("lt")
    __le__ = _operator("le")
    __gt__ = _operator("gt")
    __ge__ = _operator("ge")
    __eq__ = _operator("eq")
    __ne__ = _operator("ne")
    __add__, __radd__ = _operator("add"), _reversed("add")
    __sub__, __rsub__ = _operator("sub"), _reversed("sub")
    __mul__, __rmul__ = _operator("mul"), _reversed("mul")
    __truediv__, __rtruediv__ = _operator("truediv"), _reversed("truediv")
    __pow__, __rpow__ = _operator("pow"), _reversed("pow")
    __matmul__, __rmatmul__ = _operator("matmul"), _reversed("matmul")
    __and__, __rand__ = _operator("and"), _reversed("and")
    __or__, __ror__ = _operator("or"), _reversed("or")
    __xor__, __rxor__ = _operator("xor"), _reversed("xor")


class Jets(Grid):
    """Numbers that depend on the inputs; `cells` are Cell."""

    cells: list[Cell]
    dtype = torch.float64  # what a page sees that asks; the numbers are exact reals or balls


class Choice(Grid):
    """A mask or an index of which some element is not decided nearby; `cells` are Option.  Decided ones are plain
    tensors."""

    cells: list[Option]


def lift(x: Any) -> Jets:
    """Whatever a page combines with jets, as jets.  Numbers and plain tensors are exact constants."""
    if isinstance(x, Jets):
        return x
    if isinstance(x, Tensor):
        return Jets(x.shape, [Cell(arb(value), {}) for value in x.flatten().tolist()])
    if isinstance(x, Choice):  # an undecided mask used as a number jumps
        return Jets(x.shape, [Cell(arb(o.here), dict.fromkeys(o.keys, NAN)) for o in x.cells])
    return Jets((), [Cell(arb(x), {})])


def _name(func: Callable[..., Any]) -> str:
    name = func.__name__
    return name[2:-2] if name.startswith("__") else name


def apply(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The torch function or operator `name` on grids.  Raises UnknownFunction."""
    meaning = MEANINGS.get(name)
    if meaning is None:
        if name in SHAPING:
            return _rearranged(_torch_function(name), args, kwargs)
        raise UnknownFunction(name)
    try:
        inspect.signature(meaning).bind(*args, **kwargs)
    except TypeError as error:
        raise UnknownFunction(f"{name} in this form ({error})") from None
    return meaning(*args, **kwargs)


# Moving elements about.


def _numbering(count: int, shape: Sequence[int], start: int = 0) -> Tensor:
    return torch.arange(start, start + count).reshape(shape)


def _torch_function(name: str) -> Any:
    """The method first: of two forms such as x.reshape(2, 3) and torch.reshape(x, (2, 3)) it takes both."""
    return getattr(Tensor, name, None) or getattr(Tensor, f"__{name}__", None) or getattr(torch, name)


def _rearranged(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply a shaping function to a numbering of all elements, and put the elements where their numbers went."""
    pool: list[Any] = []
    kinds: set[type[Grid]] = set()

    def numbered(x: Any) -> Any:
        if isinstance(x, tuple | list):
            items = [numbered(item) for item in x]
            return tuple(items) if isinstance(x, tuple) else items
        if isinstance(x, Tensor) and x.is_floating_point():  # integers and bools are indices and masks
            x = lift(x)
        if not isinstance(x, Grid):
            return x
        kinds.add(type(x))
        pool.extend(x.cells)
        return _numbering(len(x.cells), x.shape, len(pool) - len(x.cells))

    new_args, new_kwargs = numbered(args), {key: numbered(value) for key, value in kwargs.items()}
    if len(kinds) != 1:
        raise UnknownFunction(f"{function.__name__} with an index that a tie leaves open")
    (kind,) = kinds

    def placed(x: Any) -> Any:
        if isinstance(x, Tensor):
            return kind(x.shape, [pool[i] for i in x.flatten().tolist()])
        return tuple(placed(item) for item in x)

    if isinstance(function, GetSetDescriptorType):
        return placed(function.__get__(*new_args))
    return placed(function(*new_args, **new_kwargs))


def _spread(x: Grid, shape: torch.Size) -> list[Any]:
    """The elements of x broadcast to `shape`."""
    if x.shape == shape:
        return x.cells
    if len(x.cells) == 1:
        return x.cells * shape.numel()
    cells: list[Any] = _rearranged(Tensor.broadcast_to, (x, shape), {}).cells
    return cells


def _common_shape(*grids: Grid) -> torch.Size:
    """The shape to which all of them broadcast (torch.broadcast_shapes takes 0.3 s to import what it needs)."""
    shaped: Sequence[Tensor] = torch.broadcast_tensors(*(torch.empty(grid.shape) for grid in grids))  # type: ignore[no-untyped-call]
    return shaped[0].shape


def _axes(x: Grid, dim: Axes) -> list[int]:
    if dim is None or dim == ():  # torch reads an empty tuple as all axes
        return list(range(x.ndim))
    return [axis % x.ndim for axis in ((dim,) if isinstance(dim, int) else dim)]


def _groups(x: Jets, axes: list[int]) -> list[list[Cell]]:
    """The elements that a reduction over `axes` brings together, one list per element of the result."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows, columns = (torch.Size(x.shape[axis] for axis in some).numel() for some in (kept, axes))
    order = _numbering(len(x.cells), x.shape).permute((*kept, *axes)).reshape(rows, columns)
    return [[x.cells[i] for i in group] for group in order.tolist()]


# Arithmetic.


def _certain(result: arb, *operands: arb) -> arb:
    """`result`, unless it is not finite and that may be due to the width of an operand."""
    if not result.is_finite() and any(x.is_finite() and not x.is_exact() for x in operands):
        raise NeedMoreBits
    return result


def _chain(*parts: tuple[Tangent, arb]) -> Tangent:
    """The chain rule: Σ tangent · factor."""
    total: Tangent = {}
    for tangent, factor in parts:
        for key, slope in tangent.items():
            term = slope * factor
            total[key] = total[key] + term if key in total else term
    return total


def _add(a: Cell, b: Cell) -> Cell:
    return Cell(a.value + b.value, _chain((a.tangent, ONE), (b.tangent, ONE)))


def _sub(a: Cell, b: Cell) -> Cell:
    return Cell(a.value - b.value, _chain((a.tangent, ONE), (b.tangent, -ONE)))


def _mul(a: Cell, b: Cell) -> Cell:
    return Cell(a.value * b.value, _chain((a.tangent, b.value), (b.tangent, a.value)))


def _div(a: Cell, b: Cell) -> Cell:
    value = _certain(a.value / b.value, a.value, b.value)
    return Cell(value, _chain((a.tangent, 1 / b.value), (b.tangent, -value / b.value)))


def _total(cells: list[Cell]) -> Cell:
    return Cell(sum((c.value for c in cells), ZERO), _chain(*((c.tangent, ONE) for c in cells)))


def _pair(function: Callable[[Cell, Cell], Cell]) -> Callable[[Any, Any], Jets]:
    """A function of two elements, broadcast."""

    def meaning(input: Any, other: Any) -> Jets:
        a, b = lift(input), lift(other)
        shape = _common_shape(a, b)
        return Jets(shape, list(map(function, _spread(a, shape), _spread(b, shape))))

    return meaning


def _elementary(value: Callable[[arb], arb], slope: Callable[[arb, arb], arb]) -> Callable[[Any], Jets]:
    """A function of one element: y = value(x), with derivative slope(x, y)."""

    def of(cell: Cell) -> Cell:
        x = cell.value
        y = _certain(value(x), x)
        return Cell(y, _chain((cell.tangent, _certain(slope(x, y), x))) if cell.tangent else {})

    return lambda input: Jets(input.shape, [of(cell) for cell in lift(input).cells])


def _pow(input: Any, exponent: Any) -> Jets:
    if not isinstance(exponent, int | float) or not isinstance(input, Jets):
        raise UnknownFunction("pow with an exponent that is not a Python number")
    n = int(exponent) if exponent == int(exponent) else arb(exponent)
    return _elementary(lambda x: x**n, lambda x, _: ZERO if n == 0 else n * x ** (n - 1))(input)


def _logistic(x: arb) -> arb:
    if x.mid() >= 0:  # of the two forms the one whose exponential does not overflow
        return 1 / (1 + (-x).exp())
    e = x.exp()
    return e / (1 + e)


def _sum(input: Jets, dim: Axes = None, keepdim: bool = False) -> Jets:
    shape = torch.sum(torch.zeros(input.shape), dim, keepdim).shape
    return Jets(shape, [_total(group) for group in _groups(input, _axes(input, dim))])


def _mean(input: Jets, dim: Axes = None, keepdim: bool = False) -> Any:
    return _sum(input, dim, keepdim) / torch.Size(input.shape[axis] for axis in _axes(input, dim)).numel()


def _matmul(input: Any, other: Any) -> Any:
    a, b = lift(input), lift(other)
    rows = a[..., None, :] if a.ndim > 1 else a  # (..., n, 1, k) meets (..., 1, m, k)
    columns = b.mT[..., None, :, :] if b.ndim > 1 and a.ndim > 1 else b.mT if b.ndim > 1 else b
    if a.shape[-1] != (b.shape[-2] if b.ndim > 1 else b.shape[-1]):
        raise ValueError(f"matmul: {tuple(a.shape)} and {tuple(b.shape)} do not fit")
    product = (a if b.ndim == 1 else rows) * columns
    return _sum(product, -1)


# Decisions.


def _sign(x: arb) -> int:
    if x.is_zero():
        return 0
    if x.contains(0):
        raise NeedMoreBits
    return 1 if x > 0 else -1


def _moves(tangent: Tangent, key: int) -> int:
    """The sign of one derivative, 0 if it may be 0."""
    slope = tangent.get(key, ZERO)
    return 1 if slope > 0 else -1 if slope < 0 else 0


def _nearby_signs(tangent: Tangent) -> tuple[int, ...]:
    """Signs that a difference which is 0 can take nearby."""
    (key, *more) = tangent
    direction = _moves(tangent, key)
    if more or not direction:  # several inputs can keep each other in balance
        return (-1, 0, 1)
    return (direction,) if key == DIRECTION else (-1, 1)


def _comparison(holds: Callable[[int, int], bool]) -> Callable[[Any, Any], Choice | Tensor]:
    def option(difference: Cell) -> Option:
        if difference.value.is_nan():
            return Option(False, (False,), frozenset())
        sign = _sign(difference.value)
        here = holds(sign, 0)
        if sign or not difference.tangent:
            return Option(here, (here,), frozenset())
        nearby = tuple({holds(each, 0) for each in _nearby_signs(difference.tangent)})
        return Option(here, nearby, frozenset() if nearby == (here,) else frozenset(difference.tangent))

    def meaning(input: Any, other: Any) -> Choice | Tensor:
        difference = _pair(_sub)(input, other)
        return _settled(difference.shape, [option(cell) for cell in difference.cells], torch.bool)

    return meaning


def _settled(shape: torch.Size, options: list[Option], dtype: torch.dtype) -> Choice | Tensor:
    """A plain tensor if every element is decided."""
    if any(option.keys for option in options):
        return Choice(shape, options)
    return torch.tensor([option.here for option in options], dtype=dtype).reshape(shape)


def _winner(cells: list[Cell]) -> Option:
    """The index of the first of the largest."""
    first, *others = range(len(cells))
    tied = [first]
    for i in others:
        sign = _sign(cells[i].value - cells[tied[0]].value)
        tied = [i] if sign > 0 else [*tied, i] if sign == 0 else tied
    keys = frozenset(key for i in tied for key in cells[i].tangent) if len(tied) > 1 else frozenset()
    if not keys:
        return Option(tied[0], (tied[0],), keys)
    slopes = {i: cells[i].tangent.get(DIRECTION, ZERO) for i in tied}
    ahead = [i for i in tied if not any(slopes[j] > slopes[i] for j in tied)]
    return Option(tied[0], tuple(ahead if keys == {DIRECTION} else tied), keys)


def _argmax(input: Jets, dim: int | None = None, keepdim: bool = False) -> Choice | Tensor:
    shape = torch.argmax(torch.zeros(input.shape), dim, keepdim).shape  # raises where torch does
    return _settled(shape, [_winner(group) for group in _groups(input, _axes(input, dim))], torch.int64)


def _logical(function: Callable[..., bool]) -> Callable[..., Choice | Tensor]:
    """And, or, not of masks."""

    def options(mask: Any) -> Grid:
        if isinstance(mask, Choice):
            return mask
        plain = torch.as_tensor(mask)
        return Grid(plain.shape, [Option(value, (value,), frozenset()) for value in plain.flatten().tolist()])

    def combined(*parts: Option) -> Option:
        here = function(*(part.here for part in parts))
        nearby = tuple({function(*outcome) for outcome in itertools.product(*(part.nearby for part in parts))})
        keys = frozenset().union(*(part.keys for part in parts)) if nearby != (here,) else frozenset()
        return Option(here, nearby, keys)

    def meaning(*masks: Any) -> Choice | Tensor:
        grids = [options(mask) for mask in masks]
        shape = _common_shape(*grids)
        return _settled(shape, list(map(combined, *(_spread(grid, shape) for grid in grids))), torch.bool)

    return meaning


def _chosen(choice: Choice, pick: Callable[[Tensor], Jets], dtype: torch.dtype) -> Jets:
    """What `pick` gives for an undecided mask or index: the value here, and the derivatives that all outcomes share."""
    outcomes = [(o.here, *o.nearby) for o in choice.cells]

    def outcome(number: int) -> Jets:
        chosen = [some[min(number, len(some) - 1)] for some in outcomes]
        return pick(torch.tensor(chosen, dtype=dtype).reshape(choice.shape))

    here, *nearby = (outcome(number) for number in range(max(map(len, outcomes))))
    keys = [o.keys for o in _spread(choice, here.shape)]
    branches = zip(*(jets.cells for jets in nearby), strict=True)
    return Jets(here.shape, list(map(_agreed, here.cells, branches, keys)))


def _agreed(here: Cell, nearby: tuple[Cell, ...], keys: frozenset[int]) -> Cell:
    """The value at the point; for the inputs that can change the branch, the slope that all possible branches share."""
    if not keys:
        return here
    continuous = all(_identical(cell.value, here.value) for cell in nearby)
    tangent = {key: slope for key, slope in here.tangent.items() if key not in keys}
    for key in keys:
        slope, *others = (cell.tangent.get(key, ZERO) for cell in nearby)
        tangent[key] = slope if continuous and all(_identical(slope, other) for other in others) else NAN
    return Cell(here.value, tangent)


def _identical(a: arb, b: arb) -> bool:
    """Certainly equal: == of two balls holds only if both are exact."""
    return a is b or bool(a == b)


def _where(condition: Any, input: Any, other: Any) -> Jets:
    a, b = lift(input), lift(other)
    if isinstance(condition, Choice):
        return _chosen(condition, lambda mask: _where(mask, a, b), torch.bool)
    jets: Jets = _rearranged(torch.where, (condition, a, b), {})
    return jets


def _gather(input: Any, dim: int, index: Any) -> Jets:
    x = lift(input)
    if isinstance(index, Choice):
        return _chosen(index, lambda plain: _gather(x, dim, plain), torch.int64)
    jets: Jets = _rearranged(torch.gather, (x, dim, index), {})
    return jets


def _largest(input: Jets, dim: int, keepdim: bool = False) -> Any:
    y = _gather(input, dim, _argmax(input, dim, keepdim=True))
    return y if keepdim else y.squeeze(dim)


def _clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    x = lift(input)
    x = x if min is None else _where(x < min, min, x)
    return x if max is None else _where(x > max, max, x)


def _logsumexp(input: Jets, dim: int, keepdim: bool = False) -> Any:
    return _sum(input.exp(), dim, keepdim).log()


SHAPING = frozenset(
    [
        *("T", "mT", "transpose", "swapaxes", "permute", "movedim", "flip", "roll"),
        *(
            "reshape",
            "view",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "expand",
            "broadcast_to",
            "repeat_interleave",
        ),
        *("getitem", "select", "narrow", "index_select", "cat", "stack", "unbind", "split", "chunk"),
        *("contiguous", "clone", "detach"),
    ]
)
"""torch functions that only move elements about."""

MEANINGS: dict[str, Callable[..., Any]] = {
    "add": _pair(_add),
    "sub": _pair(_sub),
    "mul": _pair(_mul),
    "div": _pair(_div),
    "truediv": _pair(_div),
    "neg": lambda input: input * -1,
    "pow": _pow,
    "square": lambda input: _pow(input, 2),
    "reciprocal": lambda input: 1 / input,
    "exp": _elementary(arb.exp, lambda _, y: y),
    "expm1": _elementary(arb.expm1, lambda x, _: x.exp()),
    "log": _elementary(arb.log, lambda x, _: 1 / x),
    "log1p": _elementary(arb.log1p, lambda x, _: 1 / (1 + x)),
    "sqrt": _elementary(arb.sqrt, lambda _, y: 1 / (2 * y)),
    "rsqrt": _elementary(arb.rsqrt, lambda x, y: -y / (2 * x)),
    "sigmoid": _elementary(_logistic, lambda x, _: (x / 2).sech() ** 2 / 4),  # y(1 − y) would cancel
    "tanh": _elementary(arb.tanh, lambda x, _: x.sech() ** 2),  # and so would 1 − y²
    "sin": _elementary(arb.sin, lambda x, _: x.cos()),
    "cos": _elementary(arb.cos, lambda x, _: -x.sin()),
    "erf": _elementary(arb.erf, lambda x, _: 2 / arb.pi().sqrt() * (-x * x).exp()),
    "sum": _sum,
    "mean": _mean,
    "matmul": _matmul,
    "logsumexp": _logsumexp,
    "log_softmax": lambda input, dim: input - _logsumexp(input, dim, keepdim=True),
    "softmax": lambda input, dim: (input - _logsumexp(input, dim, keepdim=True)).exp(),
    "le": _comparison(operator.le),
    "lt": _comparison(operator.lt),
    "ge": _comparison(operator.ge),
    "gt": _comparison(operator.gt),
    "eq": _comparison(operator.eq),
    "ne": _comparison(operator.ne),
    "and": _logical(operator.and_),
    "or": _logical(operator.or_),
    "xor": _logical(operator.xor),
    "logical_and": _logical(operator.and_),
    "logical_or": _logical(operator.or_),
    "logical_not": _logical(operator.not_),
    "invert": _logical(operator.not_),
    "where": _where,
    "gather": _gather,
    "argmax": _argmax,
    "amax": _largest,
    "maximum": lambda input, other: _where(input >= other, input, other),
    "minimum": lambda input, other: _where(input <= other, input, other),
    "relu": lambda input: _where(input <= 0, 0, input),
    "abs": lambda input: _where(input < 0, -input, input),
    "clamp": _clamp,
    "zeros_like": lambda input: torch.zeros(input.shape, dtype=torch.float64),
    "ones_like": lambda input: torch.ones(input.shape, dtype=torch.float64),
    "expand_as": lambda input, other: _rearranged(Tensor.expand, (lift(input), other.shape), {}),
    "numel": lambda input: input.shape.numel(),
    "size": lambda input, dim=None: input.shape if dim is None else input.shape[dim],
    "dim": lambda input: input.ndim,
}
"""What each torch function means, by its name: as a function, a method and an operator it has the same one."""
