"""A rule's forward and backward as one compiled program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.axes import tokens
from manual_bp.compilation.choice import ONE_THREAD_ELEMENTS
from manual_bp.compilation.program import Program, build, plain
from manual_bp.registry import RULES
from manual_bp.rule import Grads, Rule, computing_dtype

# Inductor's kernels count in 32 bits if their example was short, as it is for an element-wise rule.
MOST_ON_GPU = 2**31 - 1
# Rows of so many elements, where there is no remainder: then a GPU's kernel knows that it may load 16 bytes at a time.
# ReLU of 2^26 took 1.01 to 1.08 of a copy, depending on the size of blocks, and 1.10 to 1.67 without (H200).
ROW_ON_GPU = 16


def compile_rule(name: str, **hyper: Any) -> CompiledRule:
    """The Vjp of a rule as one compiled program; `hyper` are defaults that a call may override.

    Shapes, dtypes and hyperparameters are checked as the rule checks them, and the rule itself is run once, when a
    combination of them is seen for the first time; later calls go straight to the program.  A program serves all sizes
    of an element-wise rule (on the CPU one for small tensors and one for large, on a GPU one for multiples of 16
    elements and one for the others), and one size of any other.  Lists of axes are run as one axis, so that the rank
    makes no other program.  Uncompiled are: results without elements, a mask that is not bool, whose values must be
    looked at, on a GPU tensors of 2^31 elements and more, and whatever is called under torch.autocast.

    Raises ValueError for an unknown rule or hyperparameter, and in a call for whatever the rule refuses.
    """
    return CompiledRule(RULES[name], hyper)


class CompiledRule:
    """A `Vjp`; `programs` are those built so far, with their kind and why."""

    def __init__(self, rule: Rule, hyper: dict[str, Any]) -> None:
        rule.check_hyper({**rule.ordinary, **hyper})
        self.rule, self.hyper = rule, hyper
        self._programs: dict[Any, Program] = {}
        self._plans: dict[Any, _Plan | None] = {}
        self.__name__ = f"compiled {rule.name}"

    @property
    def programs(self) -> list[Program]:
        return list(self._programs.values())

    def __call__(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        try:
            tensors = tuple([(t.shape, t.dtype, t.device, t.layout) for t in (*inputs, dy)])
            # In words, for 1, 1.0 and True are equal, and not all of them are accepted; nor are 0.0 and -0.0 the same.
            signature = (tensors, repr(hyper) if hyper else "", torch.is_autocast_enabled(dy.device.type))
            plan = self._plans[signature]
        except (
            AttributeError,
            TypeError,
            RuntimeError,
        ):  # no tensors, or of no real device: the rule says what must hold
            return self.rule.vjp(inputs, dy, **{**self.hyper, **hyper})
        except KeyError:
            plan = self._plans[signature] = self._plan(inputs, dy, {**self.hyper, **hyper})
        if plan is None:
            return self.rule.vjp(inputs, dy, **{**self.hyper, **hyper})
        return plan(inputs, dy)

    def _plan(self, inputs: tuple[Tensor, ...], dy: Tensor, given: dict[str, Any]) -> _Plan | None:
        """How tensors like these are run; None for what is not compiled."""
        rule = self.rule
        _, grads = rule.vjp(inputs, dy, **given)
        hyper = rule.check_hyper(given)
        if torch.is_autocast_enabled(dy.device.type):
            return None
        odd_mask = any(
            not rule.is_number(n) and t.dtype != torch.bool for n, t in zip(rule.inputs, inputs, strict=True)
        )
        if odd_mask or not all(t.numel() for t in (*inputs, dy)):
            return None
        annotations = [*(rule.annotations[name] for name in rule.inputs), rule.y_annotation]
        shapes = [merged(a, tuple(t.shape)) for a, t in zip(annotations, (*inputs, dy), strict=True)]
        on_gpu = dy.device.type == "cuda"
        if rule.elementwise and on_gpu and dy.numel() % ROW_ON_GPU == 0:
            shapes = [(dy.numel() // ROW_ON_GPU, ROW_ON_GPU)] * len(shapes)
        example = [plain(t).view(shape) for t, shape in zip((*inputs, dy), shapes, strict=True)]
        dtypes = tuple(t.dtype for t in example)
        if on_gpu and max(t.numel() for t in (*inputs, dy)) > MOST_ON_GPU:
            return None
        small = not on_gpu and dy.numel() <= ONE_THREAD_ELEMENTS
        key: tuple[Any, ...] = (repr(hyper), dtypes, dy.device, torch.get_num_threads())
        key += (small, *shapes[0][1:]) if rule.elementwise else tuple(shapes)
        if key not in self._programs:
            self._programs[key] = self._program(example, hyper, small)
        entering = [None if t.shape == shape else shape for t, shape in zip((*inputs, dy), shapes, strict=True)]
        return _Plan(self._programs[key], entering, [grad is not None for grad in grads])

    def _program(self, example: list[Tensor], hyper: dict[str, Any], small: bool) -> Program:
        page, dtype = self.rule.page, example[-1].dtype
        computing = computing_dtype(dtype)

        def enter(t: Tensor) -> Tensor:
            return t.to(computing) if t.is_floating_point() else t

        def run(*flat: Tensor) -> list[Tensor]:
            *inputs, dy = (enter(t) for t in flat)
            y, residuals = page.forward(*inputs, **hyper)
            grads = page.backward(residuals, dy)
            return [y.to(dtype), *(grad.to(dtype) for grad in grads if grad is not None)]

        if not self.rule.elementwise:
            return build(run, example)
        # Any length will do as an example but 0 and 1, which torch.export takes for constants; it also says whether
        # the program is for large tensors.
        n = ONE_THREAD_ELEMENTS if small else 2 * ONE_THREAD_ELEMENTS
        stand_in = [t.new_ones(n // math.prod(t.shape[1:]), *t.shape[1:]) for t in example]
        return build(run, stand_in, dynamic=[{0: torch.export.Dim.DYNAMIC} for _ in stand_in])


def merged(annotation: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with the axes of a list `*name` as one axis."""
    wanted = tokens(annotation)
    variadic = next((i for i, token in enumerate(wanted) if token.startswith("*")), None)
    if variadic is None:
        return shape
    after = len(shape) - (len(wanted) - variadic - 1)
    return (*shape[:variadic], math.prod(shape[variadic:after]), *shape[after:])


@dataclass(frozen=True)
class _Plan:
    """A program, and the shapes in which it takes inputs and dy where these are not their own; `present`: which inputs
    have a cotangent.  A cotangent has the shape of its input, and y that of dy."""

    program: Program
    entering: Sequence[tuple[int, ...] | None]
    present: Sequence[bool]

    def __call__(self, inputs: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, Grads]:
        # A shape in one argument (`view(shape)`) takes torch twice as long to read.
        given = [
            plain(t) if s is None else plain(t).view(*s) for t, s in zip((*inputs, dy), self.entering, strict=True)
        ]
        y, *grads = self.program.run(given)
        if self.entering[-1] is not None:
            y = y.reshape_as(dy)
        found = iter(grads)
        aligned = [next(found) if there else None for there in self.present]
        shaped = zip(aligned, self.entering, inputs, strict=False)
        return y, tuple([g if g is None or s is None else g.reshape_as(x) for g, s, x in shaped])
