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
            return rearranged(_torch_function(name), args, kwargs)
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


def rearranged(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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


def spread(x: Grid, shape: torch.Size) -> list[Any]:
    """The elements of x broadcast to `shape`."""
    if x.shape == shape:
        return x.cells
    if len(x.cells) == 1:
        return x.cells * shape.numel()
    cells: list[Any] = rearranged(Tensor.broadcast_to, (x, shape), {}).cells
    return cells


def common_shape(*grids: Grid) -> torch.Size:
    """The shape to which all of them broadcast (torch.broadcast_shapes takes 0.3 s to import what it needs)."""
    shaped: Sequence[Tensor] = torch.broadcast_tensors(*(torch.empty(grid.shape) for grid in grids))  # type: ignore[no-untyped-call]
    return shaped[0].shape


def axes_of(x: Grid, dim: Axes) -> list[int]:
    if dim is None or dim == ():  # torch reads an empty tuple as all axes
        return list(range(x.ndim))
    return [axis % x.ndim for axis in ((dim,) if isinstance(dim, int) else dim)]


def groups(x: Jets, axes: list[int]) -> list[list[Cell]]:
    """The elements that a reduction over `axes` brings together, one list per element of the result."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows, columns = (torch.Size(x.shape[axis] for axis in some).numel() for some in (kept, axes))
    order = _numbering(len(x.cells), x.shape).permute((*kept, *axes)).reshape(rows, columns)
    return [[x.cells[i] for i in group] for group in order.tolist()]


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

MEANINGS: dict[str, Callable[..., Any]] = {}
"""What each torch function means, by its name; balls_table.py fills it."""
