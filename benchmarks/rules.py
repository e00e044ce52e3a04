"""Rules that are timed, forward and backward: inputs of a size, and the contestants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import manual_bp as bp
from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle import NOT_RECORDED, Case, check
from manual_bp.oracle.cases import draw
from torch_ref.functions import function

SIZES = (2**12, 2**18, 2**22)
"""Elements of the first input: in the first cache, in the last, and in memory."""
LARGE = 2**26
"""Likewise, on a GPU: there 2^22 lie in its cache, and a copy of them takes less time than Python needs for a call."""
WIDTH = 256
"""Of all axes but the first."""
IMAGES = 32, (8, 8)
"""Channels, and height and width, of images."""
JUDGED = 64
"""Rows of an element-wise rule that are judged, spread evenly from the first to the last."""

Run = Callable[[], tuple[Tensor, tuple[Tensor | None, ...]]]


@dataclass(frozen=True)
class RuleProblem:
    """A rule at inputs of a size."""

    rule: bp.Rule
    row: str
    inputs: tuple[Tensor, ...]
    dy: Tensor
    hyper: dict[str, Any]

    @property
    def elements(self) -> int:
        """Of the first input."""
        return self.inputs[0].numel()

    @property
    def bytes(self) -> int:
        """What must be read and written at least: inputs and dy, y and the cotangents."""
        given = sum(t.nbytes for t in (*self.inputs, self.dy))
        cotangents = sum(
            t.nbytes for t, spec in zip(self.inputs, self.rule.inputs.values(), strict=True) if spec.cotangent
        )
        return given + self.dy.nbytes + cotangents

    def check(self, name: str, run: Run) -> None:
        """Raises AssertionError, with the oracle's report, unless what the contestant returns is right."""
        y, grads = run()
        y = y.detach()
        specs = self.rule.inputs.values()
        missing = [s for g, s in zip(grads, specs, strict=True) if g is None and s.cotangent and not s.optional]
        assert not missing, f"{name} of {self.row}: a cotangent is missing"
        tensors = [*self.inputs, self.dy, y, *grads]
        if self.rule.elementwise and len(y) > JUDGED:
            # Every row stands for itself; evidence for all of millions of them would take longer than the timing.
            rows = torch.linspace(0, len(y) - 1, JUDGED, device=y.device).round().long()
            tensors = [None if t is None else t[rows] for t in tensors]
        n = len(self.inputs)
        inputs, (dy, y), grads = tensors[:n], tensors[n : n + 2], tensors[n + 2 :]
        recorded = tuple(
            g if s.cotangent and g is not None else NOT_RECORDED for g, s in zip(grads, specs, strict=True)
        )
        case = Case(tuple(inputs), dy, self.hyper, f"{name} of {self.row}", y, recorded)
        check(None, self.rule, dtype=dy.dtype, device=dy.device.type, cases=[case])


def rule_problems(
    name: str, elements: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Iterator[RuleProblem]:
    """The rule at ordinary hyperparameters; with images beside features where it has axes of space."""
    rule = bp.RULES[name]
    first, *others = rule.axis_names.items()
    space = [axis for axis, variadic in others if variadic]
    fixed = [axis for axis, variadic in others if not variadic]
    if not fixed:  # all axes in one list, or one more list beside the batch
        fixed, space = space, []
    shapes: dict[str, axes.Sizes] = {"": dict.fromkeys(fixed, (WIDTH,))}
    if space:
        channels, image = IMAGES
        shapes[""][space[0]] = ()
        shapes[", images"] = {**dict.fromkeys(fixed, (channels,)), space[0]: image}
    for addition, sizes in shapes.items():
        yield _problem(rule, addition, first, sizes, elements, device, dtype)


def _problem(
    rule: bp.Rule,
    addition: str,
    first: tuple[str, bool],
    sizes: axes.Sizes,
    elements: int,
    device: str,
    dtype: torch.dtype,
) -> RuleProblem:
    axis, variadic = first
    annotation = rule.annotations[next(iter(rule.inputs))]
    alone = not sizes and variadic  # element-wise: one list of axes for everything
    one = {**sizes, axis: (1, WIDTH) if alone else (1,)}
    per_row = math.prod(axes.shape_of(annotation, one, rule.ordinary))
    rows = max(elements // per_row, 2)
    lengths = {**sizes, axis: (rows, WIDTH) if alone else (rows,)}
    inputs, dy, hyper = draw(rule, Edge("benchmark", sizes=lengths), torch.Generator().manual_seed(0))
    *cast, dy = (t.to(device, dtype if t.is_floating_point() else t.dtype) for t in (*inputs, dy))
    power = f"2^{round(math.log2(elements))}"
    return RuleProblem(rule, f"{rule.name}{addition}, {power}", tuple(cast), dy, hyper)


def manual_eager(problem: RuleProblem) -> Run:
    return lambda: problem.rule.vjp(problem.inputs, problem.dy, **problem.hyper)


def manual_compiled(problem: RuleProblem) -> Run:
    compiled = bp.compile_rule(problem.rule.name, **problem.hyper)
    return lambda: compiled(problem.inputs, problem.dy)


def torch_eager(problem: RuleProblem) -> Run:
    return _autograd(problem, lambda fn: fn)


def torch_compiled(problem: RuleProblem) -> Run:
    return _autograd(problem, torch.compile)


def _autograd(problem: RuleProblem, prepared: Callable[[Any], Any]) -> Run:
    """torch's function and autograd.grad, with nothing around them."""
    found = function(problem.rule.name)
    assert found is not None, f"torch has no twin of {problem.rule.name}"
    hyper = problem.hyper
    fn = prepared(lambda *inputs: found(*inputs, **hyper))
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in problem.inputs]
    specs = problem.rule.inputs.values()
    wanted = [leaf for leaf, spec in zip(leaves, specs, strict=True) if spec.cotangent and not spec.optional]
    for leaf in leaves:
        leaf.requires_grad_(any(leaf is w for w in wanted))

    def run() -> tuple[Tensor, tuple[Tensor | None, ...]]:
        y = fn(*leaves)
        grads = iter(torch.autograd.grad(y, wanted, problem.dy))
        return y, tuple(next(grads) if leaf.requires_grad else None for leaf in leaves)

    return run


def copy_of(problem: RuleProblem) -> Callable[[], object]:
    """A copy that moves as many bytes: half of them read, half written."""
    source = torch.empty(problem.bytes // 8, dtype=torch.float32, device=problem.dy.device).normal_()
    destination = torch.empty_like(source)
    return lambda: destination.copy_(source)
