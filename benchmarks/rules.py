"""Rules that are timed, forward and backward: inputs of a size, and the contestants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import manual_bp as bp
from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle import NOT_RECORDED, Case, check
from manual_bp.oracle.case import in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.outputs import parts, whole
from torch_ref.functions import function

SIZES = (2**12, 2**18, 2**22)
"""Elements of the largest of what grows, an input or y: in the first cache, in the last, and in memory."""
LARGE = 2**26
"""Likewise, on a GPU: there 2^22 lie in its cache, and a copy of them takes less time than Python needs for a call."""
WIDTH = 256
"""Of all axes but the one that grows, unless there are several and the page says lengths (SIZES), or a row would be as
large as all is meant to be: then less, as little as it takes."""
IMAGES = 32, (8, 8)
"""Channels, and height and width, of images."""
JUDGED = 64
"""Rows of an element-wise rule that are judged, spread evenly from the first to the last."""

Run = Callable[[], tuple[Any, tuple[Tensor | None, ...]]]


@dataclass(frozen=True)
class RuleProblem:
    """A rule at inputs of a size."""

    rule: bp.Rule
    row: str
    inputs: tuple[Tensor | None, ...]
    dy: Any
    """A tensor, or a tuple of one for each output."""
    hyper: dict[str, Any]

    @property
    def elements(self) -> int:
        """Of the first input or of dy, whichever has more."""
        return max(x.numel() for x in (self.inputs[0], *parts(self.dy)) if x is not None)

    @property
    def bytes(self) -> int:
        """What must be read and written at least: inputs and dy, y and the cotangents."""
        given = sum(x.nbytes for x in self.inputs if x is not None)
        cotangents = sum(
            x.nbytes
            for x, spec in zip(self.inputs, self.rule.inputs.values(), strict=True)
            if x is not None and spec.cotangent
        )
        return given + 2 * sum(x.nbytes for x in parts(self.dy)) + cotangents

    def check(self, name: str, run: Run) -> None:
        """Raises AssertionError, with the oracle's report, unless what the contestant returns is right."""
        y, grads = run()
        specs = list(zip(self.inputs, self.rule.inputs.values(), strict=True))
        due = [x is not None and spec.cotangent and not spec.optional for x, spec in specs]
        missing = [g for g, is_due in zip(grads, due, strict=True) if g is None and is_due]
        assert not missing, f"{name} of {self.row}: a cotangent is missing"
        first = parts(y)[0]
        rows: Any = slice(None)
        if self.rule.elementwise and len(first) > JUDGED:
            # Every row stands for itself; evidence for all of millions of them would take longer than the timing.
            rows = torch.linspace(0, len(first) - 1, JUDGED, device=first.device).round().long()

        def chosen(x: Any) -> Any:
            return whole([None if t is None else t.detach()[rows] if t.ndim else t.detach() for t in parts(x)], like=x)

        recorded = tuple(
            chosen(g) if spec.cotangent and g is not None else NOT_RECORDED
            for g, (_, spec) in zip(grads, specs, strict=True)
        )
        inputs = tuple(chosen(x) for x in self.inputs)
        case = Case(inputs, chosen(self.dy), self.hyper, f"{name} of {self.row}", chosen(y), recorded)
        check(None, self.rule, dtype=first.dtype, device=first.device.type, cases=[case])


def layouts(rule: bp.Rule) -> dict[str, axes.Sizes]:
    """How the axes are long that do not grow: of features and, where there are axes of space, of images."""
    growing = _growing(rule)
    others = {name: variadic for name, variadic in rule.axis_names.items() if name != growing}
    fixed = [name for name, variadic in others.items() if not variadic]
    space = [name for name, variadic in others.items() if variadic]
    if not fixed:  # all axes in one list, or one more list beside the batch
        fixed, space = space, []
    found: dict[str, axes.Sizes] = {"": dict.fromkeys(fixed, (WIDTH,))}
    if space:
        channels, image = IMAGES
        found[""] |= dict.fromkeys(space, ())
        found[", images"] = {**dict.fromkeys(fixed, (channels,)), **dict.fromkeys(space, image)}
    if len(others) == 1:  # rows: what a page says of them is for its tests, which take 5 features
        return found
    own = {n: (length,) if isinstance(length, int) else length for n, length in _of_page(rule, "SIZES").items()}
    return {addition: {name: own.get(name, length) for name, length in s.items()} for addition, s in found.items()}


def _growing(rule: bp.Rule) -> str:
    """The axis that is as long as it takes: the first, unless the page says how long it may be."""
    return next(
        (name for name in rule.axis_names if name not in _of_page(rule, "LONGEST")), next(iter(rule.axis_names))
    )


def _of_page(rule: bp.Rule, part: str) -> dict[str, Any]:
    return dict(getattr(rule.page, part, {}))


def rule_problems(
    rule: bp.Rule, elements: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Iterator[RuleProblem]:
    """The rule at ordinary hyperparameters; with images beside features where it has axes of space."""
    for addition in layouts(rule):
        yield rule_problem(rule, addition, elements, device, dtype)


def rule_problem(
    rule: bp.Rule, addition: str, elements: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> RuleProblem:
    """The rule at one of its `layouts`; no tensor has more elements, or more than WIDTH² if it does not grow."""
    sizes, growing = layouts(rule)[addition], _growing(rule)
    alone = not sizes and rule.axis_names[growing]  # element-wise: one list of axes for everything
    while True:
        one = {**sizes, growing: (1, WIDTH) if alone else (1,)}
        shapes, two = (_shapes(rule, {**one, growing: (rows, *one[growing][1:])}) for rows in (1, 2))
        longest = max((n for name, length in sizes.items() for n in length if not _is_said(rule, name)), default=1)
        if longest == 1 or all(math.prod(shape) <= max(elements, WIDTH**2) for shape in two):
            break
        sizes = {
            name: length if _is_said(rule, name) else tuple(max(n // 2, 1) if n == longest else n for n in length)
            for name, length in sizes.items()
        }
    per_row = max(math.prod(b) - math.prod(a) for a, b in zip(shapes, two, strict=True))
    most = _of_page(rule, "LONGEST").get(growing, elements)
    rows = max(min(elements // max(per_row, 1), most), 2)
    edge = Edge("benchmark", sizes={**one, growing: (rows, *one[growing][1:])})
    case = in_dtype(Case(*draw(rule, edge, torch.Generator().manual_seed(0))), dtype, device)
    power = f"2^{round(math.log2(elements))}"
    return RuleProblem(rule, f"{rule.name}{addition}, {power}", case.inputs, case.dy, dict(case.hyper))


def _is_said(rule: bp.Rule, name: str) -> bool:
    return name in _of_page(rule, "SIZES")


def _shapes(rule: bp.Rule, sizes: axes.Sizes) -> list[tuple[int, ...]]:
    """Of the inputs, and of those outputs whose shape is known without running the page."""
    known, found = rule.with_computed(sizes, rule.ordinary), []
    for annotation in (*(rule.annotations[name] for name in rule.inputs), *rule.output_annotations.values()):
        with suppress(KeyError):
            found.append(axes.shape_of(annotation, known, rule.ordinary))
    return found


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
    specs = problem.rule.inputs.values()
    due = [x is not None and s.cotangent and not s.optional for x, s in zip(problem.inputs, specs, strict=True)]
    leaves = [
        x.detach().requires_grad_() if d and x is not None else x for x, d in zip(problem.inputs, due, strict=True)
    ]
    wanted = [leaf for leaf, is_due in zip(leaves, due, strict=True) if is_due and leaf is not None]

    def run() -> tuple[Any, tuple[Tensor | None, ...]]:
        y = fn(*leaves)
        grads = iter(torch.autograd.grad(parts(y), wanted, parts(problem.dy)))
        return y, tuple(next(grads) if is_due else None for is_due in due)

    return run


def copy_of(problem: RuleProblem) -> Callable[[], object]:
    """A copy that moves as many bytes: half of them read, half written."""
    device = parts(problem.dy)[0].device
    source = torch.empty(problem.bytes // 8, dtype=torch.float32, device=device).normal_()
    destination = torch.empty_like(source)
    return lambda: destination.copy_(source)
