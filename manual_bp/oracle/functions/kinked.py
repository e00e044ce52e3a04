"""Numbers at which a function's own kinks are met: relu(x + w) has one where x = -w, which no drawn numbers hit.

Of few numbers some are made equal, opposite, inverse or one of the function's own constants.  What meets a kink that
nothing met before, as its recorded program is run in float64, is an edge; a kink that nothing meets is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, permutations
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.plain import BRANCHES
from manual_bp.arithmetic.operators import on_tensors
from manual_bp.arithmetic.paging import limits_of
from manual_bp.inputs import Edge
from manual_bp.program import Program
from manual_bp.program.program import Node, placed
from manual_bp.program.recording import at

aten = torch.ops.aten
Inputs = tuple[Tensor | None, ...]
Try = tuple[str, dict[int, Tensor], float]
"""In words, what stands for which inputs, and at which share of elements a kink is then met that is meant."""

# A branch at equality alone (x == y) is no kink, as of numbers that are drawn it is never taken.
EQUALITIES = {getattr(getattr(aten, name), kind) for name in ("eq", "ne") for kind in ("Tensor", "Scalar")}
LARGEST = (aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim)
# Numbers are multiples of it, of which sums and products are exact in 16 bits too.
GRID = 1 / 4
# Where every other number is changed no fewer meet a kink; few do by chance.
MEANT = 1 / 4
# No more operations of the program are run for all tries together: a tenth of a second.
MOST_OPERATIONS = 5000
# Constants of the function that are tried, and kinks that are named.
FEW = 4
# No larger constant is one that inputs have.
LARGE = 2.0**8


class Kinks:
    """Which kinks of a program are met so far.  left: the others, by the position of their operation and of a limit
    among those with which it compares."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.left: dict[tuple[int, int], Node] = {}
        for position, node in enumerate(program.nodes):
            if node.op in BRANCHES and node.op not in EQUALITIES:
                self.left |= {(position, i): node for i, _ in enumerate(limits_of(node.args, node.kwargs))}
            elif node.op in LARGEST:
                self.left[position, 0] = node

    def meet(self, inputs: Inputs, share: float = 0.0) -> bool:
        """Whether these numbers meet one that was not met before, at more than such a share of its elements."""
        if not self.left:
            return False
        given = tuple(x for x in inputs if x is not None)
        try:
            _, values = self.program.run(given, on_tensors(torch.float64))
        except (RuntimeError, IndexError):  # not defined there
            return False
        met = [(position, i) for (position, i), node in self.left.items() if _met(node, i, values) > share]
        for each in met:
            del self.left[each]
        return bool(met)

    def unmet(self) -> Iterator[str]:
        """What is left, in words."""
        for where in list(dict.fromkeys(f"{node.name}{at(node.line)}" for node in self.left.values()))[:FEW]:
            yield f"the kink of {where}, for which no numbers were found: pass some in cases=[Case(inputs, dy)]"


def _met(node: Node, limit: int, values: Sequence[Any]) -> float:
    """At which share of its elements a kink is met; 1 of a branch of a count or a mask, which is none."""
    args, kwargs = placed(node.args, values), placed(node.kwargs, values)
    x = args[0]
    if not x.is_floating_point():
        return 1.0
    if node.op in LARGEST:
        met = [x.sort(dim).values.diff(dim=dim) == 0 for dim in _dims(args, kwargs, x)]
    else:
        met = [x == limits_of(args, kwargs)[limit]]
    return max((float(where.double().mean()) for where in met if where.numel()), default=0.0)


def _dims(args: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor) -> Iterable[int]:
    dim = args[1] if len(args) > 1 else kwargs.get("dim", ())
    dims = [dim] if isinstance(dim, int) else dim
    return (dims or range(x.ndim)) if x.ndim else ()


def kinked(
    kinks: Kinks, names: Sequence[str], ordinary: Inputs, is_defined: Callable[[Inputs], bool]
) -> Iterator[Edge]:
    """Edges that meet kinks which are not met yet.

    names: of the inputs that may hold any numbers.  ordinary: all inputs by name, in order.  is_defined: whether value
    and derivative are finite.
    """
    positions = {name: position for position, name in enumerate(names) if name}
    program = kinks.program
    few = tuple(_few(x) if name and x is not None else x for name, x in zip(names, ordinary, strict=True))
    tries = _tries(program, positions, few)
    for words, changed, share in islice(tries, max(1, MOST_OPERATIONS // len(program.nodes))):
        if not kinks.left:
            return
        inputs = tuple(changed.get(position, x) for position, x in enumerate(few))
        if is_defined(inputs) and kinks.meet(inputs, share):
            yield Edge(words, {name: inputs[position] for name, position in positions.items()})


def _few(x: Tensor) -> Tensor:
    """Its numbers, rounded, and none of them 0."""
    rounded = (x / GRID).round().clamp(-16, 16) * GRID
    return torch.where(rounded == 0, GRID, rounded)


def _tries(program: Program, positions: Mapping[str, int], few: Inputs) -> Iterator[Try]:
    """Other numbers for some inputs."""
    for (one, i), (other, j) in permutations(positions.items(), 2):
        a, b = few[i], few[j]
        if a is None or b is None or not _fits(b, a):
            continue
        yield f"{one} = -{other} at some elements", {i: _some(a, -b)}, MEANT
        yield f"{one} = {other} at some elements", {i: _some(a, b)}, MEANT
        powers = torch.exp2((b.abs().log2()).round()) * b.sign()
        yield f"{one} = 1 / {other} at some elements", {i: _some(a, 1 / powers), j: powers}, MEANT
    for name, i in positions.items():
        x = few[i]
        if x is None:
            continue
        for number in _constants(program):
            yield f"{number:g} in {name}", {i: _some(x, torch.full_like(x, number))}, MEANT
        for dim in range(x.ndim):
            yield f"{name} of both signs along its axis {dim}", {i: _antisymmetric(x, dim)}, 0.0
    first = {i: _zero_first(x) for i in positions.values() if (x := few[i]) is not None}
    yield "zeros in the first rows", first, 0.0


def _fits(x: Tensor, other: Tensor) -> bool:
    """Whether it can be broadcast to the other's shape."""
    pairs = zip(x.shape[::-1], other.shape[::-1], strict=False)
    return x.ndim <= other.ndim and all(n in (1, m) for n, m in pairs)


def _some(x: Tensor, other: Tensor) -> Tensor:
    """Every other number is that of the other tensor."""
    return torch.where(torch.arange(x.numel()).reshape(x.shape) % 2 == 0, other.expand(x.shape), x)


def _antisymmetric(x: Tensor, dim: int) -> Tensor:
    """The numbers along an axis add up to 0, and one or two of them are 0."""
    half = (x.shape[dim] - 1) // 2
    front = x.narrow(dim, 0, half)
    middle = torch.zeros_like(x.narrow(dim, 0, x.shape[dim] - 2 * half))
    return torch.cat([front, middle, -front.flip(dim)], dim)


def _zero_first(x: Tensor) -> Tensor:
    return x * (torch.arange(len(x)) > 0).reshape(-1, *(1,) * (x.ndim - 1)) if x.ndim else torch.zeros_like(x)


def _constants(program: Program) -> list[float]:
    """Numbers of the function's own text that 16 bits hold."""
    found: dict[float, None] = {}
    for node in program.nodes:
        for number in (*node.args, *node.kwargs.values()):
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and 0 < abs(number) <= LARGE and float(torch.tensor(float(number)).bfloat16()) == number:
                found |= dict.fromkeys((float(number), -float(number)))
    return list(found)[: 2 * FEW]
