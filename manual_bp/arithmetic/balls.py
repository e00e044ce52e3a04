"""Balls: the number system of certified truth, in which a page's forward runs unchanged.

A number here is a jet (jets.py): a ball with its first derivatives.  A `Grid` holds such elements in the shape of a
tensor and is called as torch is; what a torch function means stands in balls_table/.

Kinks.  A comparison asks for the sign of a difference d.

- d's ball lies on one side of 0: decided, here and nearby.
- d is exactly 0 and some inputs move it: decided at the point, but open nearby.  The result is a `Choice`, which keeps
  the outcomes that are possible nearby and the inputs that can change them.  Where branches are chosen by it, an input
  among those keeps its derivative only if all possible branches have one value and one slope (elu with alpha = 1);
  otherwise the derivative becomes nan, which every later operation passes on.  In a single direction the sign of d'
  settles which branch is entered: one-sided derivatives.
- two infinities of one sign are equal.
- anything else: `NeedMoreBits`.

Functions that only move elements about (reshape, gather, ...) need no meaning of their own: the real torch function is
applied to a numbering of the elements, which says where each of them went.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import GetSetDescriptorType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from manual_bp.arithmetic.jets import NAN, ZERO, Cell, Leaf, made_of

from flint import arb  # isort: skip  (after jets, whose message says how to install it)

Axes = int | Sequence[int] | None


class NeedMoreBits(ArithmeticError):
    """Balls of this precision cannot tell which branch is taken, or whether a divisor is 0."""


class UnknownFunction(NotImplementedError):
    """A page uses a function that has no meaning in ball arithmetic."""

    def __init__(self, function: str, page: str = "a page") -> None:
        super().__init__(
            f"{page} uses {function}, which ball arithmetic does not know. "
            "Give it a meaning in manual_bp/arithmetic/balls_table/."
        )
        self.function = function
        self.page = page


class UnknownHere(UnknownFunction):
    """A function has no meaning at these numbers, or of this size, though it has at others: what a tie leaves open."""


class LeftOpen(UnknownHere):
    """What an index is at these numbers is left open by a tie, and then so is what it leads to."""


class Option(NamedTuple):
    """One element of a mask or of an index."""

    here: int
    """The outcome at the point."""
    nearby: tuple[int, ...]
    """The outcomes that are possible as soon as an input moves."""
    leaves: frozenset[Leaf]
    """The inputs that can change the outcome; none if it is decided."""


def certain(outcome: int) -> Option:
    return Option(outcome, (outcome,), frozenset())


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
        if isinstance(getattr(Tensor, name, None), GetSetDescriptorType) and name in SHAPING:  # T, mT: no methods
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

    def __iter__(self) -> Iterator[Grid]:
        return iter(apply("unbind", (self,), {}))

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
    """Numbers that depend on the inputs."""

    cells: list[Cell]
    dtype = torch.float64  # what a page sees that asks; the numbers are exact reals or balls


class Choice(Grid):
    """A mask or an index of which some element is not decided nearby.  Decided ones are plain tensors."""

    cells: list[Option]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bool if all(isinstance(option.here, bool) for option in self.cells) else torch.int64


def lift(x: Any) -> Jets:
    """Whatever a page combines with jets, as jets.  Numbers and plain tensors are exact constants."""
    if isinstance(x, Jets):
        return x
    if isinstance(x, Tensor):
        return Jets(x.shape, [Cell(arb(value)) for value in x.flatten().tolist()])
    if isinstance(x, Choice):  # an undecided mask used as a number jumps
        return Jets(x.shape, [made_of(arb(o.here), [(leaf, NAN) for leaf in o.leaves]) for o in x.cells])
    return Jets((), [Cell(arb(x))])


def _name(func: Callable[..., Any]) -> str:
    name = func.__name__
    return name[2:-2] if name.startswith("__") else name


ALIASES = {"axis": "dim", "keepdims": "keepdim", "x": "input"}
"""torch takes NumPy's names of some arguments too."""


def apply(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The torch function or operator `name` on grids.  Raises UnknownFunction."""
    meaning = MEANINGS.get(name)
    if meaning is None:
        if name in SHAPING:
            return rearranged(_torch_function(name), args, kwargs)
        raise UnknownFunction(name)
    if kwargs:
        kwargs = {ALIASES.get(key, key): value for key, value in kwargs.items()}
    try:
        _signature(meaning).bind(*args, **kwargs)
    except TypeError as error:
        raise UnknownFunction(f"{name} in this form ({error})") from None
    return meaning(*args, **kwargs)


@cache
def _signature(meaning: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(meaning)


# Moving elements about.


def numbering(shape: Sequence[int], start: int = 0) -> Tensor:
    """Consecutive numbers in a shape."""
    return torch.arange(start, start + torch.Size(shape).numel()).reshape(shape)


def _torch_function(name: str) -> Any:
    """The method first: of two forms such as x.reshape(2, 3) and torch.reshape(x, (2, 3)) it takes both."""
    return getattr(Tensor, name, None) or getattr(Tensor, f"__{name}__", None) or getattr(torch, name)


def rearranged(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply a shaping function to a numbering of all elements, and put the elements where their numbers went.

    The numbers begin with 1, so that 0 stands for the zeros with which some functions fill up (tril, padding).
    """
    if function.__name__ in INDEXING and any(isinstance(x, Jets) for x in args[1:]):
        raise LeftOpen("an index computed of a mask that a tie leaves open")
    pool: list[Any] = []
    kinds: set[type[Grid]] = set()
    if function.__name__ in JOINING:  # whatever is joined with numbers is a number, and with masks a mask
        args = (_alike(args[0]), *args[1:])

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
        return numbering(x.shape, len(pool) - len(x.cells) + 1)

    new_args, new_kwargs = numbered(args), {key: numbered(value) for key, value in kwargs.items()}
    if len(kinds) != 1:
        raise LeftOpen(f"{function.__name__} with an index that a tie leaves open")
    (kind,) = kinds
    pool.insert(0, Cell(ZERO) if kind is Jets else certain(0))

    def placed(x: Any) -> Any:
        if isinstance(x, Tensor):
            return kind(x.shape, [pool[i] for i in x.flatten().tolist()])
        return tuple(placed(item) for item in x)

    if isinstance(function, GetSetDescriptorType):
        return placed(function.__get__(*new_args))
    return placed(function(*new_args, **new_kwargs))


def _alike(pieces: Sequence[Any]) -> list[Any]:
    return list(map(lift if any(isinstance(x, Jets) for x in pieces) else options, pieces))


def options(mask: Any) -> Grid:
    """A mask or an index, whether decided or not, as options."""
    if isinstance(mask, Choice):
        return mask
    plain = torch.as_tensor(mask)
    return Choice(plain.shape, [certain(value) for value in plain.flatten().tolist()])


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
    if dim is None or dim == () or dim == []:  # torch reads an empty tuple as all axes
        return list(range(x.ndim))
    return [axis % max(x.ndim, 1) for axis in ((dim,) if isinstance(dim, int) else dim)] if x.ndim else []


def groups(x: Grid, axes: list[int]) -> list[list[Any]]:
    """The elements that a reduction over `axes` brings together, one list per element of the result."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows, columns = (torch.Size(x.shape[axis] for axis in some).numel() for some in (kept, axes))
    order = numbering(x.shape).permute((*kept, *axes)).reshape(rows, columns)
    return [[x.cells[i] for i in group] for group in order.tolist()]


def along(x: Grid, dim: int, lines: list[list[Any]]) -> list[Any]:
    """The reverse of `groups` over one axis: as many elements in each line as there were or fewer, in x's order."""
    axis = dim % max(x.ndim, 1)
    if not x.ndim:
        return lines[0]
    kept = [length for position, length in enumerate(x.shape) if position != axis]
    length = len(lines[0]) if lines else x.shape[axis]
    order = numbering((*kept, length)).movedim(-1, axis)
    flat = [cell for line in lines for cell in line]
    return [flat[i] for i in order.flatten().tolist()]


INDEXING = ("getitem", "index_select", "take", "masked_select", "__getitem__")
JOINING = ("cat", "concat", "concatenate", "stack", "hstack", "vstack")

SHAPING = frozenset(
    [
        *("T", "mT", "H", "mH", "adjoint", "t", "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis"),
        *("flip", "fliplr", "flipud", "rot90", "roll", "reshape", "view", "flatten", "unflatten", "ravel", "squeeze"),
        *("unsqueeze", "expand", "broadcast_to", "broadcast_tensors", "repeat", "tile", "repeat_interleave", "unfold"),
        *("getitem", "select", "narrow", "index_select", "take", "masked_select", "diagonal", "diag", "diag_embed"),
        *(*JOINING, "unbind", "split", "chunk", "tensor_split"),
        *("split_with_sizes", "tril", "triu", "contiguous", "clone", "pixel_shuffle", "pixel_unshuffle"),
        *("select_scatter", "slice_scatter", "diagonal_scatter", "index_copy"),
    ]
)
"""torch functions that only move elements about, or fill up with zeros."""

MEANINGS: dict[str, Callable[..., Any]] = {}
"""What each torch function means, by its name; balls_table/ fills it."""


Meaning = TypeVar("Meaning", bound=Callable[..., Any])


def means(*names: str) -> Callable[[Meaning], Meaning]:
    """Enter a meaning in the table under one or more names."""

    def enter(meaning: Meaning) -> Meaning:
        MEANINGS.update(dict.fromkeys(names, meaning))
        return meaning

    return enter
