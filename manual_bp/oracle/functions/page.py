"""A function as a page: forward and backward run what torch was seen to do.

torch.autograd is watched once for each set of shapes (torch_ref/derivative.py), and the program that it was is run on
whatever comes: tensors, bounded tensors, jets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_program import run_bounded_program
from manual_bp.arithmetic.bounded_tensor import Bounded, Carrying, as_tensor
from manual_bp.arithmetic.operators import is_bounded, on_jets, on_tensors
from manual_bp.arithmetic.paging import Paging
from manual_bp.dispatch import without_modes
from manual_bp.oracle.calling.candidates import differentiator
from manual_bp.oracle.functions.alike import are_broadcast_anew, are_placed_anew
from manual_bp.oracle.truth.overflow import Spreading
from manual_bp.outputs import parts
from manual_bp.program import Program
from manual_bp.program.precision import are_same, with_dtype

# So many programs of one function are kept: every case of a comparison, twice over.
KEPT = 512
# In the widest format a function is recorded first, and at so many sets of shapes in another one as well.
WIDE, SEEN = torch.float64, 2


class Residuals(NamedTuple):
    """What the recorded backward reads."""

    saved: tuple[Any, ...]
    backward: Program
    dtype: torch.dtype
    inputs: tuple[Any, ...]


class Recorded:
    """A function and its derivative, by the shapes of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._known: set[Any] = set()  # hyperparameters with which it was recorded
        self._alike: dict[Any, list[bool]] = {}

    def is_broadcast_anew(self, usual: Any, inputs: tuple[Any, ...], hyper: Mapping[str, Any]) -> bool:
        """Whether it is defined at these inputs by chance.  usual: its programs at the usual ones."""
        wide = tuple(x.double() if x is not None and x.is_floating_point() else x for x in inputs)
        other = self.derivative(wide, hyper)
        is_placed_anew = are_placed_anew(usual.placed, other.placed)
        return is_placed_anew or are_broadcast_anew(usual.broadcast, other.broadcast)

    def derivative(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any], keeps_digits: bool = True) -> Any:
        """Its programs for inputs like these.  Raises ValueError where the function raises, or no program tells what it
        does."""
        key = (keeps_digits, *map(_kind, inputs), *hyper.items())
        if key not in self._kept:
            self._kept[key] = self._found(inputs, hyper, keeps_digits)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _found(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any], keeps_digits: bool) -> Any:
        """Its programs as recorded in float64, from which most functions differ in narrower formats by the dtypes in it
        alone: that is seen at two sets of shapes, and not looked at again for others."""
        dtypes = [x.dtype for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
        if not dtypes or any(dtype is not dtypes[0] for dtype in dtypes) or dtypes[0] is WIDE:
            return self._derived(inputs, hyper, keeps_digits)
        there = tuple(isinstance(x, Tensor) and x.dtype for x in inputs)
        seen = self._alike.setdefault((keeps_digits, there, *hyper.items()), [])
        if not all(seen):
            return self._derived(inputs, hyper, keeps_digits)
        wide = self.derivative(tuple(map(_widened, inputs)), hyper, keeps_digits)
        forward, backward = (with_dtype(program, WIDE, dtypes[0]) for program in (wide.forward, wide.backward))
        told = replace(wide, forward=forward, backward=backward)
        if len(seen) == SEEN:
            return told
        found = self._derived(inputs, hyper, keeps_digits)
        seen.append(all(are_same(getattr(found, f.name), getattr(told, f.name)) for f in fields(found)))
        return found

    def _derived(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any], keeps_digits: bool) -> Any:
        """As `derivative`.  Where torch has an operation not in 16 bits, as it is in 32."""
        given = tuple(None if x is None else _plain(x).contiguous() for x in inputs)
        way = tuple(hyper.items())
        try:
            with without_modes():
                found = differentiator().derivative(
                    self.function, given, hyper, is_bounded, keeps_digits, way in self._known
                )
        except (RuntimeError, IndexError, TypeError, AssertionError) as error:
            if isinstance(error, NotImplementedError) and any(map(_is_narrow, given)):
                wide = tuple(x.float() if x is not None and _is_narrow(x) else x for x in given)
                return self._derived(wide, hyper, keeps_digits)
            shapes = ", ".join("None" if x is None else str(tuple(x.shape)) for x in given)
            raise ValueError(f"{name_of(self.function)} raises {type(error).__name__} at {shapes}: {error}") from error
        for node in found.unknown:
            where = f"line {node.line.number}: {node.line.text}" if node.line else "no line of its own"
            raise ValueError(
                f"{name_of(self.function)} uses {node.op} ({where}), whose rounding error is not known; write it with "
                "other operations of torch, or give it a meaning in manual_bp/arithmetic/bounded_table/"
            )
        self._known.add(way)
        return found

    def forward(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any]) -> tuple[Any, Residuals]:
        present = tuple(x for x in inputs if x is not None)
        found = self.derivative(inputs, hyper)
        if any(not isinstance(x, Tensor) for x in present):  # jets
            return found.value.run(present, on_jets)[0], Residuals((), found.backward, torch.float64, inputs)
        return self._run(found, inputs, hyper)

    def backward(self, residuals: Residuals, dy: tuple[Tensor, ...]) -> tuple[Any, ...]:
        given = (*residuals.saved, *_in_order(dy))
        grads = _played(residuals.backward, given, residuals.dtype)
        return tuple(
            _nothing(x) if g is None and x is not None and x.is_floating_point() else as_tensor(g)
            for g, x in zip(grads, residuals.inputs, strict=True)
        )

    def losing(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any]) -> tuple[Any, Residuals]:
        """As `forward`, by torch's own formulas, some of which lose digits."""
        return self._run(self.derivative(inputs, hyper, keeps_digits=False), inputs, hyper)

    def without_overflown(self, inputs: tuple[Any, ...], dy: Any, hyper: Mapping[str, Any]) -> tuple[Any, ...]:
        """Outputs and cotangents by torch.autograd, with NaN wherever they depend on a step of forward that overflows;
        nothing if none does, or the function raises."""
        spreading = Spreading()

        def watched(*inputs: Any, **hyper: Any) -> Any:
            with spreading:
                return self.function(*inputs, **hyper)

        try:
            with without_modes():
                y, grads = differentiator().autograd(watched)(inputs, dy, **hyper)
        except (RuntimeError, ValueError, IndexError, TypeError):  # as one that holds tensors of another dtype
            return ()
        return (*parts(y), *grads) if spreading.has_spread else ()

    def _run(self, found: Any, inputs: tuple[Any, ...], hyper: Mapping[str, Any]) -> tuple[Any, Residuals]:
        """Forward on tensors.  Raises ValueError where the function is not defined for their values, as where one is
        made an index that lies beyond its axis."""
        present = tuple(x for x in inputs if x is not None)
        if found.raises:
            self._require_defined(inputs, hyper)
        dtype = next((x.dtype for x in present if x.is_floating_point()), torch.float64)
        try:
            y, saved = _played(found.forward, _in_order(present), dtype)
        except (IndexError, RuntimeError) as error:
            if isinstance(error, NotImplementedError):  # an operation without a bound is another matter
                raise
            raise ValueError(f"{name_of(self.function)} raises {type(error).__name__} there: {error}") from error
        y = tuple(map(as_tensor, y)) if isinstance(y, tuple) else as_tensor(y)
        return y, Residuals(saved, found.backward, dtype, inputs)

    def _require_defined(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any]) -> None:
        """Raises ValueError where the function itself raises for these numbers."""
        try:
            with torch.no_grad(), without_modes():
                self.function(*(None if x is None else _plain(x).clone() for x in inputs), **hyper)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{name_of(self.function)} raises {type(error).__name__} there: {error}") from error


def _in_order(given: Iterable[Any]) -> tuple[Any, ...]:
    """Tensors that lie in memory as those did with which the program was recorded: its views are of such."""
    return tuple(x.contiguous() if type(x) is Tensor else x for x in given)


def _played(program: Program, given: Sequence[Any], dtype: torch.dtype) -> Any:
    """The results of a program on tensors; on bounded ones those may be `Numbers`."""
    are_bounded = _are_bounded(given)
    if are_bounded and Paging.running and Paging.running[-1].is_next():
        return run_bounded_program(program, given, dtype)
    return program.run([as_tensor(x) for x in given], on_tensors(dtype, are_bounded))[0]


def _nothing(x: Tensor) -> Tensor:
    if not isinstance(x, Bounded):
        return torch.zeros_like(x)
    zero = x.value.new_zeros(x.shape)  # where a page is run torch.zeros is a bounded number itself
    return Bounded(zero, zero.clone(), x.dtype)


def _are_bounded(values: Iterable[Any]) -> bool:
    return any(isinstance(_without_runs(x), Carrying) for x in values)


def _without_runs(x: Any) -> Any:
    """What torch.vmap hides, which has an axis of runs more (manual_bp/arithmetic/stochastic.py)."""
    functorch = torch._C._functorch
    return functorch.get_unwrapped(x) if isinstance(x, Tensor) and functorch.is_batchedtensor(x) else x


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _kind(x: Any) -> Any:
    """What a program depends on: shape and dtype of numbers, and the values of everything else."""
    if not isinstance(x, Tensor) and x is not None:  # jets
        return tuple(x.shape), torch.float64
    if x is None:
        return None
    return (
        (tuple(x.shape), x.dtype) if x.is_floating_point() else (tuple(x.shape), x.dtype, x.numpy(force=True).tobytes())
    )


def _is_narrow(x: Tensor | None) -> bool:
    return x is not None and x.is_floating_point() and x.dtype.itemsize < torch.float32.itemsize


def _widened(x: Any) -> Any:
    """An input in the widest format."""
    return _plain(x).to(WIDE) if isinstance(x, Tensor) and x.is_floating_point() else x


def _plain(x: Any) -> Tensor:
    """A tensor of its shape and kind, with its values where it has plain ones."""
    if isinstance(x, Bounded):
        return (x.value[0] if x.runs else x.value).to(x.dtype)  # of several runs the first
    if isinstance(x, Tensor):
        return x
    return torch.tensor([float(cell.value.mid()) for cell in x.cells], dtype=torch.float64).reshape(x.shape)
