"""The derivative that torch has of a function, as a program.

torch.autograd is run once while the dispatcher is watched: what it does forward and backward is recorded, operation by
operation.  The program can then be run on anything: on numbers of any precision, on numbers that carry a bound on
their rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from manual_bp.outputs import parts
from manual_bp.program import Node, Program, Recording, Ref
from manual_bp.program.program import mapped, refs_in, replaced, uncollected
from torch_ref.keeping_digits import FORMULAS, OF_THE_RESULT
from torch_ref.paired import Paired
from torch_ref.taken_apart import formula_of

Elementary = Callable[[Any], bool]

CHECKS = (torch.ops.aten._linalg_check_errors.default,)
"""Operations that raise, or do nothing."""


@dataclass(frozen=True)
class Derivative:
    """A function's value and derivative, at inputs of some shapes.

    forward: inputs -> (y, saved).  backward: (*saved, *dy) -> one cotangent for each input, None where y does not
    depend on it or it is no number.  changed: whether formulas that keep their digits stand in place of torch's own.
    unknown: operations that are neither elementary nor can be taken apart.  elements: how many each result on the way
    has, in the order in which they were made.  broadcast: likewise, the shapes of tensors of which one may be broadcast
    to another.  placed: likewise, of what is taken from places along an axis, its shape and the index's on all others.
    is_its_own: whether the derivative is declared and not that of the operations forward (an autograd.Function, a
    result made under no_grad).  raises: whether the function looks whether its numbers are fit for it, and may raise.
    """

    forward: Program
    backward: Program
    changed: bool
    unknown: tuple[Node, ...]
    elements: tuple[int, ...]
    broadcast: tuple[tuple[tuple[int, ...], ...], ...]
    placed: tuple[tuple[tuple[int, ...], ...], ...]
    is_its_own: bool
    raises: bool

    @property
    def operations(self) -> int:
        return len(self.forward.nodes) + len(self.backward.nodes)

    @cached_property
    def value(self) -> Program:
        """inputs -> y, and nothing that only the derivative needs."""
        return Program(self.forward.nodes, self.forward.inputs, self.forward.results[0]).pruned()


@uncollected()
def derivative(
    function: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    hyper: Mapping[str, Any],
    elementary: Elementary,
    keeps_digits: bool = True,
    is_known: bool = False,
) -> Derivative:
    """Of function(*inputs, **hyper); None stands for an input that is absent.

    elementary: the operations that are recorded as they are.  keeps_digits: whether formulas that keep their digits
    take the place of those of torch's own that lose them (torch_ref/keeping_digits.py).  is_known: whether the function
    was recorded before, and nothing in it refused: once more, it is not looked at whole operations before these are
    taken apart.  Raises UntraceableError (a ValueError), and whatever the function raises.
    """
    leaves = [None if x is None else _leaf(x) for x in inputs]
    present = [x for x in leaves if x is not None]
    wanted = [x for x in present if x.requires_grad]
    apart, plain = sdpa_kernel(SDPBackend.MATH), _without_mkldnn()
    looking = _WithoutLooking(keeps_digits)
    with torch.inference_mode(False), torch.enable_grad(), apart, plain, looking:
        refusing = nullcontext() if is_known else Recording(present, lambda op: True, formula_of)
        with torch.no_grad(), refusing:  # what no program tells
            like = parts(function(*leaves, **hyper))
        cotangents = [torch.ones_like(y) for y in like]
        is_kept = (lambda op: op in FORMULAS or elementary(op)) if keeps_digits else elementary
        with Recording([*present, *cotangents], is_kept, formula_of) as recording:
            y = function(*leaves, **hyper)
            results = recording.refs(y)
            recording.stage = "backward"
            pairs = [(a, d) for a, d in zip(parts(y), cotangents, strict=True) if a.requires_grad]
            found: list[Tensor | None] = [None] * len(wanted)
            if pairs and wanted:
                scalar = Paired.apply(*(x for pair in pairs for x in pair))  # type: ignore[no-untyped-call]
                found = list(torch.autograd.grad(scalar, wanted, allow_unused=True))
    remaining = iter(found)
    grads = tuple(next(remaining) if x is not None and x.requires_grad else None for x in leaves)
    whole = Program(tuple(recording.nodes), recording.inputs, (results, recording.refs(grads)))
    whole = _without_detached(whole).pruned()
    kept = _keeping_digits(whole) if keeps_digits else whole
    is_its_own = _is_declared(parts(y)) or bool(recording.unseen)
    forward, backward = _parted(kept, len(present))
    unknown = tuple(recording.unknown)
    raises = looking.skipped or any(node.op in CHECKS for node in recording.nodes)
    elements, broadcast, placed = tuple(recording.elements), tuple(recording.broadcast), tuple(recording.placed)
    changed = looking.changed or kept != whole
    return Derivative(forward, backward, changed, unknown, elements, broadcast, placed, is_its_own, raises)


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    """Whose layers nobody takes apart.  (torch.backends.mkldnn.flags warns of Intel's GPUs.)"""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class _WithoutLooking(TorchFunctionMode):
    """What torch looks at numbers for before it does something that depends on none of them.

    keeps_digits: as in `derivative`.  skipped: whether it would raise for some.  changed: whether a formula has taken
    the place of torch's because it keeps its digits.
    """

    def __init__(self, keeps_digits: bool) -> None:
        super().__init__()
        self.keeps_digits, self.skipped, self.changed = keeps_digits, False, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.gaussian_nll_loss:  # whether a variance is negative
            self.skipped = True
            return _gaussian_nll(*args, **(kwargs or {}))
        if func is torch.nn.functional.one_hot and _classes(*args, **(kwargs or {})) > 0:  # whether an index is large
            index, number = args[0] if args else (kwargs or {})["tensor"], _classes(*args, **(kwargs or {}))
            return (index.unsqueeze(-1) == torch.arange(number)).to(torch.int64)
        if func in (torch.corrcoef, Tensor.corrcoef):  # whether a number between -1 and 1 is rounded to one beyond
            return _corrcoef(*args, **(kwargs or {}))
        if func in (torch.logcumsumexp, Tensor.logcumsumexp):
            self.changed |= self.keeps_digits
            return (running_logsumexp if self.keeps_digits else logsumexps)(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _gaussian_nll(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """½ (log v + (x − target)² / v), with v = max(var, ε) of which the ε has no derivative."""
    var = var if isinstance(var, Tensor) else torch.full_like(input, var)
    if var.shape != input.shape and var.shape == input.shape[:-1]:
        var = var.unsqueeze(-1)
    held = torch.where(var < eps, var - var.detach() + eps, var)
    each = 0.5 * (torch.log(held) + (input - target) ** 2 / held) + full * (0.5 * math.log(2 * math.pi))
    return {"none": each, "mean": each.mean(), "sum": each.sum()}[reduction]


def _corrcoef(input: Tensor) -> Tensor:
    """c_ij / √c_ii / √c_jj, of covariances."""
    covariance = torch.cov(input)
    if not covariance.ndim:
        return covariance / covariance
    root = covariance.diagonal().sqrt()
    return covariance / root[:, None] / root


def running_logsumexp(input: Tensor, dim: int) -> Tensor:
    """Each the logarithm of a sum of two, of slopes e^(x − y) ≤ 1.

    torch's derivative takes log |dy|, and where that is none the lowest number, from which nothing can be subtracted:
    its bound is infinite.
    """
    if not input.ndim or not input.shape[dim]:
        return torch.logcumsumexp(input, dim)
    first, *others = input.unbind(dim)
    sums = accumulate(others, lambda y, x: torch.stack([y, x]).logsumexp(0), initial=first)
    return torch.stack([*sums], dim)


def logsumexps(input: Tensor, dim: int) -> Tensor:
    """Each by itself, of slopes e^(x − y), which lose digits where x and y are large, as torch's own do."""
    if not input.ndim or not input.shape[dim]:
        return torch.logcumsumexp(input, dim)
    return torch.stack([input.narrow(dim, 0, n).logsumexp(dim) for n in range(1, input.shape[dim] + 1)], dim)


def _classes(tensor: Tensor, num_classes: int = -1) -> int:
    return num_classes


def _is_declared(outputs: Sequence[Tensor]) -> bool:
    """Whether an autograd.Function stands between the inputs and an output."""
    seen: set[Any] = set()
    waiting = [y.grad_fn for y in outputs if y.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        following = [each for each, _ in node.next_functions if each is not None and each not in seen]
        seen.update(following)
        waiting += following
    return False


def _leaf(x: Tensor) -> Tensor:
    leaf = x.detach().clone()
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


def _without_detached(whole: Program) -> Program:
    """Autograd detaches what it saves; backward that is the same number."""
    detached = {
        position: node.args[0] for position, node in enumerate(whole.nodes) if node.op is torch.ops.aten.detach.default
    }

    def source(ref: Ref) -> Ref:
        while ref.position in detached:
            ref = detached[ref.position]
        return ref

    def kept(node: Node) -> Node:
        reads = node.stage == "backward" and any(ref.position in detached for ref in node.refs)
        return replaced(node, source) if reads else node

    y, grads = whole.results
    return Program(tuple(map(kept, whole.nodes)), whole.inputs, (y, mapped(grads, source)))


def _keeping_digits(whole: Program) -> Program:
    """With formulas that keep their digits; those for slopes start from x where torch's start from y."""

    def kept(node: Node) -> Node:
        if node.op not in FORMULAS:
            return node
        op, arguments = FORMULAS[node.op]
        found = arguments(whole, node)
        if found is None:
            op, found = OF_THE_RESULT.get(node.op, node.op), node.args
        return Node(op, found, {}, node.line, node.stage)

    return Program(tuple(map(kept, whole.nodes)), whole.inputs, whole.results)


def _parted(whole: Program, inputs: int) -> tuple[Program, Program]:
    """Forward with what it saves, and backward."""
    y, grads = whole.results
    ahead = {position for position, node in enumerate(whole.nodes) if node.stage == "forward"}
    cotangents = range(inputs, whole.inputs)
    ahead -= set(cotangents)
    behind = [(p, node) for p, node in enumerate(whole.nodes) if p not in ahead and p not in cotangents]
    needed = {ref.position for _, node in behind for ref in node.refs} | {ref.position for ref in refs_in(grads)}
    saved = sorted(position for position in needed if position in ahead)

    forward_places = {old: new for new, old in enumerate(sorted(ahead))}

    def forward_ref(ref: Ref) -> Ref:
        return Ref(forward_places[ref.position], ref.item)

    nodes = tuple(replaced(whole.nodes[p], forward_ref) for p in sorted(ahead))
    forward = Program(nodes, inputs, (mapped(y, forward_ref), tuple(Ref(forward_places[p]) for p in saved)))

    entering = [*saved, *cotangents]
    backward_places = {old: new for new, old in enumerate((*entering, *(p for p, _ in behind)))}

    def backward_ref(ref: Ref) -> Ref:
        return Ref(backward_places[ref.position], ref.item)

    nodes = (
        *(Node(None, stage="backward") for _ in entering),
        *(replaced(node, backward_ref) for _, node in behind),
    )
    return forward.pruned(), Program(nodes, len(entering), mapped(grads, backward_ref)).pruned()
