"""A rule's forward and backward as one compiled program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from manual_bp import axes
from manual_bp.compilation.choice import ONE_THREAD_ELEMENTS
from manual_bp.compilation.lists import are_one_axis, as_one_axis
from manual_bp.compilation.program import Program, build, plain
from manual_bp.inputs import Index
from manual_bp.outputs import parts, whole
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.signature import computing_dtype

# Inductor's kernels count in 32 bits if their example was short, as it is for an element-wise rule.
MOST_ON_GPU = 2**31 - 1
# Rows of so many elements, where there is no remainder: then a GPU's kernel knows that it may load 16 bytes at a time.
# ReLU of 2^26 took 1.01 to 1.08 of a copy, depending on the size of blocks, and 1.10 to 1.67 without (H200).
ROW_ON_GPU = 16


def compile_rule(rule: str | Rule, **hyper: Any) -> CompiledRule:
    """The Vjp of a rule as one compiled program; `hyper` are defaults that a call may override.  Of a page without
    backward it computes the values, as `Rule.values_alone` does.

    rule: its name, or a rule of one's own, `Rule(name, module)`.

    Shapes, dtypes and hyperparameters are checked as the rule checks them, and the rule itself is run once, when a
    combination of them is seen for the first time; later calls go straight to the program.  Indices are looked at in
    every call, before the program runs.  There is a program for each set of inputs that are present.  A program serves
    all sizes of an element-wise rule (on the CPU one for small tensors and one for large, on a GPU one for multiples of
    16 elements and one for the others), and one size of any other.  Lists of axes are run as one axis where the page
    allows it, so that the rank makes no other program.  Uncompiled are: tensors without elements, a mask that is not
    bool where the page takes any dtype and must look at the values, on a GPU tensors of 2^31 elements and more, and
    whatever is called under torch.autocast.

    Raises ValueError for an unknown rule or hyperparameter, and in a call for whatever the rule refuses.
    """
    return CompiledRule(RULES[rule] if isinstance(rule, str) else rule, hyper)


class CompiledRule:
    """A `Vjp`; `programs` are those built so far, with their kind and why."""

    def __init__(self, rule: Rule, hyper: dict[str, Any]) -> None:
        rule.check_hyper({**rule.ordinary, **hyper})
        self.rule, self.hyper = rule, hyper
        self._programs: dict[Any, Program] = {}
        self._plans: dict[Any, _Plan | None] = {}
        self._alike: dict[Any, bool] = {}
        self.__name__ = f"compiled {rule.name}"

    @property
    def programs(self) -> list[Program]:
        return list(self._programs.values())

    def __call__(self, inputs: tuple[Tensor | None, ...], dy: Any = None, **hyper: Any) -> Any:
        try:
            kinds = [None if t is None else (t.shape, t.dtype, t.device, t.layout) for t in (*inputs, *parts(dy))]
            # In words, for 1, 1.0 and True are equal, and not all of them are accepted; nor are 0.0 and -0.0 the same.
            signature = (len(inputs), *kinds, repr(hyper) if hyper else "", _autocast_is_on(inputs))
            plan = self._plans[signature]
        except (AttributeError, TypeError, RuntimeError):  # no tensors, or of no real device: the rule says so
            return self._uncompiled(inputs, dy, hyper)
        except KeyError:
            plan = self._plans[signature] = self._plan(inputs, dy, hyper)
        return self._uncompiled(inputs, dy, hyper) if plan is None else plan(inputs, dy)

    def _uncompiled(self, inputs: tuple[Tensor | None, ...], dy: Any, hyper: Mapping[str, Any]) -> Any:
        given = {**self.hyper, **hyper}
        return self.rule.vjp(inputs, dy, **given) if self.rule.has_backward else self.rule.values_alone(inputs, **given)

    def _plan(self, inputs: tuple[Tensor | None, ...], dy: Any, given: Mapping[str, Any]) -> _Plan | None:
        """How tensors like these are run; None for what is not compiled."""
        rule = self.rule
        expected = self._uncompiled(inputs, dy, given)
        if _autocast_is_on(inputs) or given.keys() & rule.inputs.keys():
            return None
        named = dict(zip(rule.inputs, inputs, strict=False))
        if rule.has_backward:
            named |= dict(zip(rule.cotangents, parts(dy), strict=True))
        there = {name: t for name, t in named.items() if t is not None}
        any_dtype = [t for name, t in there.items() if rule.annotation(name).dtype is Shaped]
        most = max(t.numel() for t in there.values())
        if not all(t.numel() for t in there.values()) or any(t.dtype != torch.bool for t in any_dtype):
            return None
        if most > MOST_ON_GPU and next(iter(there.values())).is_cuda:
            return None
        return self._planned(there, expected, rule.check_hyper({**self.hyper, **given}))

    def _planned(self, there: dict[str, Tensor], expected: Any, hyper: dict[str, Any]) -> _Plan:
        """there: the tensors by name.  expected: what the rule makes of them."""
        rule = self.rule
        function = _Function(rule, tuple(there), hyper)
        own = {name: tuple(t.shape) for name, t in there.items()}
        y, grads = expected if rule.has_backward else (expected, ())
        due = {
            name: tuple(t.shape)
            for name, t in zip(rule.arguments, (*parts(y), *grads), strict=rule.has_backward)
            if t is not None
        }
        sizes: axes.Sizes = {}
        axes.bind({name: rule.annotation(name) for name in (*own, *due)}, {**own, **due}, sizes, hyper)
        lists = {token[1:] for name in (*own, *due) for token in axes.tokens(rule.annotation(name)) if token[0] == "*"}
        ranks = {name: len(sizes[name]) for name in sorted(lists)}

        one_axis = self._one_axis(function, ranks)
        elementwise = one_axis and rule.elementwise
        entering, leaving = own, due
        if elementwise and _fills_rows(there) and self._one_axis(function, dict.fromkeys(ranks, 2)):
            rows = (next(iter(there.values())).numel() // ROW_ON_GPU, ROW_ON_GPU)
            entering, leaving = dict.fromkeys(own, rows), dict.fromkeys(due, rows)
        elif one_axis:
            entering = {name: as_one_axis(rule.annotation(name), shape) for name, shape in own.items()}
            leaving = {name: as_one_axis(rule.annotation(name), shape) for name, shape in due.items()}
        example = [plain(t).view(shape) for t, shape in zip(there.values(), entering.values(), strict=True)]
        return _Plan(
            rule,
            hyper,
            self._program(function, example, elementwise),
            [None if entering[name] == shape else entering[name] for name, shape in own.items()],
            [None if leaving[name] == shape else shape for name, shape in due.items()],
            [part is not None for part in parts(y)],
            [grad is not None for grad in grads],
            [
                (place, name, sizes[spec.axis][0])
                for place, (name, spec) in enumerate(rule.inputs.items())
                if isinstance(spec, Index) and name in there
            ],
        )

    def _one_axis(self, function: _Function, ranks: dict[str, int]) -> bool:
        key = (function.names, repr(function.hyper), *ranks.items())
        if key not in self._alike:
            self._alike[key] = are_one_axis(self.rule, function, function.names, ranks, function.hyper)
        return self._alike[key]

    def _program(self, function: _Function, example: list[Tensor], elementwise: bool) -> Program:
        first = example[0]
        small = not first.is_cuda and first.numel() <= ONE_THREAD_ELEMENTS
        shapes = (small, *first.shape[1:]) if elementwise else tuple(t.shape for t in example)
        key = (function.names, repr(function.hyper), *(t.dtype for t in example), first.device, elementwise, *shapes)
        key += (torch.get_num_threads(),)
        if key not in self._programs:
            run = function.of_flat(next((t.dtype for t in example if t.is_floating_point()), None))
            if elementwise:
                # Any length will do as an example but 0 and 1, which torch takes for constants; it also says whether
                # the program is for large tensors.
                n = ONE_THREAD_ELEMENTS if small else 2 * ONE_THREAD_ELEMENTS
                stand_in = [t.new_ones(n // math.prod(t.shape[1:]), *t.shape[1:]) for t in example]
                self._programs[key] = build(run, stand_in, dynamic=[(0,) for _ in stand_in])
            else:
                self._programs[key] = build(run, example)
        return self._programs[key]


def _autocast_is_on(inputs: Sequence[Tensor | None]) -> bool:
    """Where the tensors lie.  Raises AttributeError if what comes first is none, and RuntimeError where there is no
    autocast."""
    first: Any = next((t for t in inputs if t is not None), None)
    return torch.is_autocast_enabled(first.device.type)


def _fills_rows(there: Mapping[str, Tensor]) -> bool:
    first = next(iter(there.values()))
    return first.is_cuda and first.numel() % ROW_ON_GPU == 0


@dataclass(frozen=True)
class _Function:
    """A page's forward and backward as one function of the tensors `names`, unchecked."""

    rule: Rule
    names: tuple[str, ...]
    hyper: dict[str, Any]

    def __call__(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs and then the cotangents that there are.  The cotangent of an output that is not given is 0."""
        rule = self.rule
        y, residuals = rule.pure(*(tensors.get(name) for name in rule.inputs), **self.hyper)
        if not rule.has_backward:
            return [part for part in parts(y) if part is not None]
        given = zip(rule.cotangents, parts(y), strict=True)
        dy = [tensors[name] if name in tensors else torch.zeros_like(part) for name, part in given]
        grads = rule.pure_backward(residuals, whole(dy, y))
        return [*parts(y), *(grad for grad in grads if grad is not None)]

    def of_flat(self, dtype: torch.dtype | None) -> Callable[..., list[Tensor]]:
        """The same of a flat list.  Numbers of 16 bits are computed in float32, and each result is rounded once."""

        def run(*flat: Tensor) -> list[Tensor]:
            if dtype is None:
                return self(dict(zip(self.names, flat, strict=True)))
            entered = (t.to(computing_dtype(dtype)) if t.is_floating_point() else t for t in flat)
            results = self(dict(zip(self.names, entered, strict=True)))
            return [t.to(dtype) if t.is_floating_point() else t for t in results]

        return run


@dataclass(frozen=True)
class _Plan:
    """A program, and how tensors of one signature are given to it.

    entering, leaving: the shapes in which it takes inputs and cotangents, and those that its results are due in, None
        for those that are as they are.  outputs: which there are.  present: which inputs have a cotangent; empty if
        there is no backward.
    positions: of each index its place, name, and the length of its axis, which is looked at in every call.
    """

    rule: Rule
    hyper: dict[str, Any]
    program: Program
    entering: Sequence[tuple[int, ...] | None]
    leaving: Sequence[tuple[int, ...] | None]
    outputs: Sequence[bool]
    present: Sequence[bool]
    positions: Sequence[tuple[int, str, int]]

    def __call__(self, inputs: tuple[Tensor | None, ...], dy: Any) -> Any:
        for place, name, length in self.positions:
            self.rule.check_positions(name, inputs[place], length, self.hyper)  # type: ignore[arg-type]  # it is there
        given = (*inputs, *parts(dy)) if self.present else inputs
        # A shape in one argument (`view(shape)`) takes torch twice as long to read.
        entering = [
            plain(t) if shape is None else plain(t).view(*shape)
            for t, shape in zip([t for t in given if t is not None], self.entering, strict=True)
        ]
        left = [
            t if shape is None else t.reshape(shape)
            for t, shape in zip(self.program.run(entering), self.leaving, strict=True)
        ]
        rest = iter(left)
        values = [next(rest) if there else None for there in self.outputs]
        y = values[0] if self.rule.outputs == ("y",) else self.rule.page.Outputs(*values)
        return (y, tuple([next(rest) if there else None for there in self.present])) if self.present else y
