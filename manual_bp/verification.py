"""Verification: every rule against its evidence in every dtype, every mistake against the comparison."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Mistake
from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.case import Further, Sized
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.checking import compare_page, rejects
from manual_bp.oracle.truth.errors import ulp
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule, Vjp, as_vjp

# What a mistake that only loses digits is judged in: in 16 bits it is computed in float32 and may be right.
WIDE = (torch.float64, torch.float32)


@dataclass(frozen=True)
class Place:
    """One element where a difference is the largest of all.

    inputs: there, of an element-wise rule; else none.
    due, page, theirs: what is due there by `source`, and what the page and torch gave.
    page_ulps, their_ulps, allowed_ulps: how far these are from what is due, and how far a right program may be.
    """

    dtype: str
    case: str
    argument: str
    index: tuple[int, ...]
    inputs: dict[str, float]
    due: float
    page: float
    theirs: float
    page_ulps: float
    their_ulps: float
    allowed_ulps: float
    source: str

    def __str__(self) -> str:
        """Where it is, what is due, what came, and who has lost digits there."""
        at = "".join(f", {name} = {value:.6g}" for name, value in self.inputs.items())
        page, theirs = (
            f"{value:.6g} ({'exact' if ulps == 0 else f'{short(ulps)} ulp off'})"
            for value, ulps in ((self.page, self.page_ulps), (self.theirs, self.their_ulps))
        )
        return (
            f"{self.argument}{list(self.index) if self.index else ''} in case {self.case!r}{at}: due {self.due:.6g} "
            f"({self.source}), page {page}, torch {theirs}: {self._why()}"
        )

    def _why(self) -> str:
        info = torch.finfo(getattr(torch, self.dtype))
        bound = f"the derived bound for any order of rounding is {short(self.allowed_ulps)} ulp here"
        if self.page_ulps < LARGE <= self.their_ulps:
            digits = -math.log10(info.eps)
            lost = math.log10(self.their_ulps)
            number = "all" if lost >= digits - 0.05 else f"{lost:.1f}"  # as far as is shown
            return f"torch loses {number} of its {digits:.1f} decimal digits, the page keeps them"
        if self.page == 0 and self.theirs == 0 and abs(self.due) < info.smallest_normal:
            return "both give 0 for a number below the smallest normal one, as hardware does"
        if self.their_ulps < LARGE <= self.page_ulps:
            return f"the page loses digits here and torch does not; {bound}"
        return f"both lose digits, as terms cancel; {bound}"


# From here on a difference is explained where it is shown: sums of a few hundred terms stay below.
LARGE = 100.0


def short(ulps: float) -> str:
    """Two digits below 100, one above: a column for each dtype must fit beside seven others."""
    return f"{round(ulps, 1):.2g}" if ulps < LARGE else f"{ulps:.0e}".replace("e+0", "e").replace("e+", "e")


@dataclass
class Against:
    """The largest difference from somebody else, in units in the last place of what is due, and where it is.

    An element-wise rule is measured at each element; any other in the last place of the tensor's largest element, since
    terms that cancel leave small elements without digits.  A 0 has no last place: `ulp` takes that of a number in
    [1/2, 1) for it.
    """

    forward: float = 0.0
    backward: float = 0.0
    where: dict[str, Place] = field(default_factory=dict)

    def note(self, side: str, ulps: float, place: Callable[[], Place]) -> None:
        """Take in the largest difference of one more tensor of a side, "forward" or "backward"."""
        if ulps > getattr(self, side):
            setattr(self, side, ulps)
            self.where[side] = place()


@dataclass
class RuleVerdict:
    """One rule in one dtype.

    by_case: per argument, the largest error over allowance in each case.
    loose: the arguments whose allowance is too wide, in words.
    against_torch: the rule and torch.autograd in the same dtype.
    truth, torch_truth: the rule, and torch, against certified truth (where a case is certified).
    survivors: mistakes that the comparison let pass.
    """

    rule: str
    dtype: str
    passed: bool = False
    cases: int = 0
    error_over_allowance: float = 0.0
    by_case: dict[str, list[float]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    against_torch: Against = field(default_factory=Against)
    truth: Against = field(default_factory=Against)
    torch_truth: Against = field(default_factory=Against)
    mistakes: int = 0
    survivors: list[str] = field(default_factory=list)
    report: str = ""


def tells_of_sizes(dtype: torch.dtype, dtypes: Sequence[torch.dtype]) -> bool:
    """Whether long axes tell in a dtype what they do not in others that are verified.  No page asks for the dtype: in
    float64 it takes the steps of float32 on tensors of the same shapes, with more digits to spare, and in 16 bits it
    computes in float32, and each result is rounded by itself."""
    return dtype is torch.float32 or torch.float32 not in dtypes


def parts_of(rule: Rule, dtype: torch.dtype) -> int:
    """In how many parts a rule is verified in a dtype: its evidence, the comparison, the measurement, each mistake."""
    return 3 + len(_to_reject(rule, dtype))


def verify_rules(
    names: Sequence[str],
    dtypes: Iterable[torch.dtype],
    device: str = "cpu",
    mistakes: bool = True,
    progress: Callable[[], object] = lambda: None,
    sizes: bool = True,
) -> Iterator[RuleVerdict]:
    """A verdict for each rule and dtype, as it is found.

    progress: called at the end of each part (see `parts_of`).
    sizes: whether a page is also judged at cases that are there for their size alone (see `tells_of_sizes`).
    Raises ValueError for an unknown rule.
    """
    for name in names:
        rule = RULES[name]
        twin = candidate("torch")(name)
        for dtype in dtypes:
            try:
                yield verify_rule(rule, twin, dtype, device, mistakes, progress, sizes)
            except Exception as error:  # one broken page must not hide the verdict on the others
                text = f"{name} ({dtype}): raised {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
                yield RuleVerdict(name, str(dtype).removeprefix("torch."), report=text)


def verify_rule(
    rule: Rule,
    twin: Vjp | None,
    dtype: torch.dtype,
    device: str,
    mistakes: bool,
    progress: Callable[[], object] = lambda: None,
    sizes: bool = True,
) -> RuleVerdict:
    """One rule in one dtype; without a twin it does not pass."""
    verdict = RuleVerdict(rule.name, str(dtype).removeprefix("torch."))
    if twin is None:
        is_own = rule.page.__name__.startswith("manual_bp.")
        where = "torch_ref/twins/{}.py" if is_own else "_twins/{}.py in the package of your pages"
        verdict.report = f"{rule.name}: no twin; write {where.format(rule.name)}"
        return verdict
    found = generated_evidence(rule, dtype, device, contract_of(dtype))
    progress()
    report = compare_page(rule, dtype, device, lambda case: sizes or not isinstance(case, Sized))
    progress()
    verdict.cases = report.cases
    verdict.error_over_allowance = max(worst.error_over_allowance for worst in report.worst.values())
    verdict.by_case = {argument: worst.by_case for argument, worst in report.worst.items()}
    verdict.loose = report.loose
    # What is there for its size says no more of digits than the others; of an element-wise rule what is far out does.
    unmeasured = Sized if rule.elementwise else Further
    for position, case in enumerate(found.cases):
        if not isinstance(case, unmeasured) and isinstance(item := found.at(position), Evidence):
            _measure(verdict, rule, twin, item.row or item, dtype)  # rows that are all alike differ alike
    progress()
    judged = _to_reject(rule, dtype) if mistakes else []
    verdict.mistakes = len(judged)
    for mistake in judged:
        if not rejects(rule.mistaken(mistake.backward), rule, dtype, device):
            verdict.survivors.append(mistake.name)
        progress()
    silent = _silent_edges(rule)
    verdict.passed = report.passed and not verdict.survivors and not silent
    if not report.passed:
        verdict.report = str(report)
    elif silent:
        verdict.report = f"{rule.name} ({verdict.dtype}): these edges must raise and did not: {silent}"
    elif verdict.survivors:
        verdict.report = f"{rule.name} ({verdict.dtype}): the comparison let these mistakes pass: {verdict.survivors}"
    return verdict


def _to_reject(rule: Rule, dtype: torch.dtype) -> list[Mistake]:
    return [m for m in rule.mistakes if dtype in WIDE or not m.loses_digits]


def _silent_edges(rule: Rule) -> list[str]:
    """Edges that must raise and do not."""
    silent = []
    for edge in rule.edges:
        if edge.raises:
            inputs, _, hyper = draw(rule, edge, torch.Generator().manual_seed(0))
            try:
                rule.forward(*inputs, **hyper)
            except edge.raises:
                continue
            silent.append(edge.name)
    return silent


def _measure(verdict: RuleVerdict, rule: Rule, twin: Vjp, item: Evidence, dtype: torch.dtype) -> None:
    case = item.case
    try:
        called = (f(case.inputs, case.dy, **case.hyper) for f in (rule.vjp, as_vjp(rule, twin)))
        ours, theirs = ((*parts(y), *grads) for y, grads in called)
    except (RuntimeError, ValueError, TypeError):  # a kernel that torch lacks in this dtype; the comparison has judged
        return
    sources = (*(None for _ in rule.outputs), *case.inputs)
    for position, (expected, our, their, x) in enumerate(zip(item.expected, ours, theirs, sources, strict=True)):
        if expected is None or our is None or their is None or not expected.numel():
            continue
        if x is not None and x.is_floating_point() and bool(x.isnan().any()):
            continue  # gradients at NaN inputs are not judged, so they are not measured either
        page, torchs = (x.cpu().double() for x in (our, their))
        unit = _unit(expected, dtype, rule.elementwise)
        pairs = [(verdict.against_torch, page, torchs)]
        if item.source.startswith("certified truth"):
            pairs += [(verdict.truth, page, expected), (verdict.torch_truth, torchs, expected)]
        for against, got, reference in pairs:
            ulps = _ulps(got, reference, unit)
            flat = int(ulps.argmax())
            against.note(
                "forward" if position < len(rule.outputs) else "backward",
                float(ulps.flatten()[flat]),
                partial(_place, item, rule, position, flat, page, torchs, dtype),
            )


def _place(
    item: Evidence, rule: Rule, position: int, flat: int, page: Tensor, torchs: Tensor, dtype: torch.dtype
) -> Place:
    """What there is to say of one element of an output or a cotangent."""
    expected, allowance = item.expected[position], item.allowance[position]
    assert expected is not None
    assert allowance is not None
    index = tuple(int(i) for i in np.unravel_index(flat, tuple(expected.shape)))  # torch's own imports sympy, 0.4 s
    unit = _unit(expected, dtype, rule.elementwise).expand(expected.shape)[index]
    inputs = zip(rule.inputs, item.case.inputs, strict=True) if rule.elementwise else ()
    due = expected[index]
    return Place(
        dtype=str(dtype).removeprefix("torch."),
        case=item.case.name,
        argument=rule.arguments[position],
        index=index,
        inputs={name: float(x[index]) for name, x in inputs},
        due=float(due),
        page=float(page[index]),
        theirs=float(torchs[index]),
        page_ulps=float((page[index] - due).abs() / unit),
        their_ulps=float((torchs[index] - due).abs() / unit),
        allowed_ulps=float(allowance[index] / unit),
        source=item.source,
    )


def _ulps(got: Tensor, reference: Tensor, unit: Tensor) -> Tensor:
    """The difference of each element in ulp; 0 where one of the two is not finite, which is for the comparison."""
    judged = got.isfinite() & reference.isfinite()
    return torch.where(judged, (got - reference).abs() / unit, 0)


def _unit(expected: Tensor, dtype: torch.dtype, elementwise: bool) -> Tensor:
    """One unit in the last place: of each element, or of the largest one that is finite."""
    finite = torch.where(expected.isfinite(), expected, 0)
    return ulp(finite if elementwise else finite.abs().max(), dtype)


def summary(verdicts: Sequence[RuleVerdict]) -> dict[str, Any]:
    """Counts over all rules, and the verdicts, for JSON."""
    return {
        "passed": bool(verdicts) and all(v.passed for v in verdicts),
        "mistakes": sum(v.mistakes for v in verdicts),
        "mistakes_rejected": sum(v.mistakes - len(v.survivors) for v in verdicts),
        "rules": [asdict(v) for v in verdicts],
    }
