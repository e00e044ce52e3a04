"""The pictures of a report: which of its mismatches are drawn, and what is said below them.

A map is drawn of what tells most: finite errors that make a pattern before a field of one colour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.calling.accepted import for_inputs, variants
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.cases.supplied import supplied
from manual_bp.oracle.reports.heatmap import CELLS, draw, plane_of
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.errors import errors
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.rule import Rule, Vjp

# Fewer elements show no pattern.
FEW = 9
# Of so many mismatches the errors are worked out, to choose the pictures among them: each calls the candidate again.
TRIED = 6


@dataclass(frozen=True)
class Picture:
    """One heat map: inline SVG, and a caption in words."""

    svg: Any
    caption: str
    label: str


def pictures_of(
    report: Report,
    rule: Rule,
    candidate: Vjp | None,
    evidences: Iterable[Evidence | str] | None,
    options: dict[str, Any],
) -> tuple[list[Picture], str]:
    """The most telling heat map, and a second one that shows something else, if there is any; or why there is none."""
    candidate = None if candidate is None else for_inputs(candidate, tuple(rule.inputs))
    declared = Declared.from_options(rule, options).taking(rule, candidate)
    rule = declared.rule(rule)
    ordered = worst_first(report)
    if not ordered:
        return [], "" if report.passed else "There is no picture: no mismatch is about an element."
    try:
        import matplotlib  # noqa: F401 (whether it is there)
    except ImportError:
        return [], "There is no picture: matplotlib is not installed. Run: pip install 'manual-bp[report]'"
    try:
        found = _evidences(report, rule, declared, options) if evidences is None else evidences
        by_name: dict[str, Evidence] = {}
        for item in found:
            if isinstance(item, Evidence):
                by_name.setdefault(item.case.name, item)
        maps = [_judged_again(m, by_name, rule, candidate, report) for m in _shortlist(ordered, by_name)]
        drawn = [_picture(found, rule, k) for k, found in enumerate(_two(maps))]
    except LookupError as error:
        return [], f"There is no picture: judging the worst case again {error}"
    except (Exception, SystemExit) as error:  # whatever a candidate may do when it is called again
        return [], f"There is no picture: judging the worst case again raised {type(error).__name__}: {error}"
    return drawn, ""


@dataclass(frozen=True)
class ErrorMap:
    """The errors of one argument at one case.

    ratio: error over allowance, infinite where no error is allowed.
    relative: error over the largest value that is due; infinite where what came is no number.
    """

    mismatch: Mismatch
    ratio: Tensor
    relative: Tensor
    source: str

    @property
    def wrong(self) -> Tensor:
        return self.ratio > 1

    @property
    def shown(self) -> Tensor:
        """Error over allowance, unless that is infinite wherever it is wrong: then the relative error tells more."""
        return self.relative if self.is_relative else self.ratio

    @property
    def is_relative(self) -> bool:
        return bool(self.ratio[self.wrong].isinf().all()) and bool(self.relative[self.wrong].isfinite().any())

    @property
    def telling(self) -> tuple[bool, bool, bool, float]:
        """The larger, the more it tells: whether there are enough elements for a pattern, and not more than cells;
        whether the errors are of more than one colour; whether the pattern has a name; how large the errors are."""
        finite = self.shown[self.wrong & self.shown.isfinite() & (self.shown > 0)]
        colours = len({round(4 * math.log10(error)) for error in finite.tolist()})  # a quarter of a decade is seen
        named = bool(self.mismatch.where) and not self.mismatch.where.startswith(("scattered", "one", "the only"))
        enough = FEW <= self.ratio.numel() <= CELLS * CELLS
        return enough, colours > 1, named, _magnitude(_ratio(self.mismatch))


def worst_first(report: Report) -> list[Mismatch]:
    """The mismatches about an element, the worst first; of those of one order of magnitude, the first case."""
    found = [m for m in report.mismatches if m.index is not None and m.error_over_allowance is not None]
    return sorted(found, key=lambda m: -_magnitude(_ratio(m)))


def _magnitude(ratio: float) -> float:
    return -math.inf if math.isnan(ratio) or ratio <= 0 else math.inf if ratio == math.inf else math.log10(ratio) // 1


def _ratio(m: Mismatch) -> float:
    return m.error_over_allowance if m.error_over_allowance is not None else 0.0


def _shortlist(ordered: list[Mismatch], by_name: Mapping[str, Evidence]) -> list[Mismatch]:
    """The worst mismatch, and of every pattern of every argument the largest tensor that can be drawn cell by cell:
    finite errors before infinite ones."""

    def elements(m: Mismatch) -> int:
        y = by_name[m.case].expected[0] if m.case in by_name else None
        return 0 if y is None else y.numel()

    def size(m: Mismatch) -> tuple[bool, int]:
        drawn = elements(m) <= CELLS * CELLS
        return _ratio(m) < math.inf, elements(m) if drawn else 0

    best: dict[tuple[str, str], Mismatch] = {}
    for m in ordered:
        kept = best.setdefault((m.argument, m.where), m)
        if size(m) > size(kept):
            best[m.argument, m.where] = m
    others = sorted((m for m in best.values() if m is not ordered[0]), key=size, reverse=True)
    return [ordered[0], *others[: TRIED - 1]]


def _two(maps: list[ErrorMap]) -> list[ErrorMap]:
    """The most telling map, and the worst mismatch (the first of `maps`) if that shows another pattern."""
    worst, first = maps[0], max(maps, key=lambda found: found.telling)
    if first is worst or first.mismatch.where == worst.mismatch.where or not worst.telling[0]:
        return [first]
    return [first, worst]


def _evidences(report: Report, rule: Rule, declared: Declared, options: Mapping[str, Any]) -> Iterable[Evidence | str]:
    """What `compare` judged by."""
    dtype = getattr(torch, report.dtype)
    contract = options.get("contract") or contract_of(dtype)
    conventions = Conventions.declared(rule, options.get("conventions"))
    if options.get("cases") is None:
        return generated_evidence(rule, dtype, report.device, contract, conventions, declared)
    wrong = {m.case for m in report.mismatches}
    return [
        evidence(rule, supplied(rule, case, dtype, report.device), contract, conventions)
        for case in options["cases"]
        if case.name in wrong
    ]


def _judged_again(
    m: Mismatch, by_name: Mapping[str, Evidence], rule: Rule, candidate: Vjp | None, report: Report
) -> ErrorMap:
    """The errors of a mismatch's argument at its case."""
    other = variants(candidate).get(m.case)
    if m.case not in by_name and other is None:
        raise LookupError(f"found no case {m.case!r}")
    candidate, found = (other, next(iter(by_name.values()))) if other else (candidate, by_name[m.case])
    position = rule.arguments.index(m.argument)
    expected, allowance = found.expected[position], found.allowance[position]
    got = _results(found.case, rule, candidate)[position]
    if expected is None or allowance is None or got is None:
        raise LookupError(f"found no {m.argument} at case {m.case!r}")
    dtype = getattr(torch, report.dtype)
    got = got if isinstance(got, Tensor) else torch.as_tensor(got, dtype=torch.float64).to(dtype)
    ratio, _ = errors(got, expected, allowance, dtype)
    like = found.case.named(rule).get(m.argument.removeprefix("d"))
    if like is not None and like.is_floating_point():
        ratio = torch.where(like.cpu().isnan(), 0, ratio)  # the gradient at a NaN input is not judged
    ratio = ratio.nan_to_num(nan=math.inf, posinf=math.inf)
    finite = torch.where(expected.isfinite(), expected, 0).abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    relative = (got.detach().cpu().double() - expected).abs() / (largest or 1.0)
    relative = torch.where(ratio == 0, 0, relative.nan_to_num(nan=math.inf, posinf=math.inf))
    return ErrorMap(m, ratio, relative, found.source)


def _results(case: Case, rule: Rule, candidate: Vjp | None) -> tuple[Any, ...]:
    """y and the cotangents once more."""
    if candidate is None:
        y = case.y if len(rule.outputs) > 1 and isinstance(case.y, tuple) else (case.y,) * len(rule.outputs)
        return (*y, *(case.grads or (None,) * len(rule.inputs)))
    called = call(candidate, rule, case)
    if called.results is None:
        raise LookupError(called.traps[0][1])
    return called.results


def _picture(found: ErrorMap, rule: Rule, position: int) -> Picture:
    from markupsafe import Markup

    m, ratio = found.mismatch, found.ratio
    plane = plane_of(found.shown, found.wrong)
    names = axis_names(rule, m.argument, ratio.ndim)
    count = int(found.wrong.sum())
    caption = (
        f"{m.argument} in case {m.case!r}, shape {tuple(ratio.shape)}: {count} of {ratio.numel()} elements are beyond "
        f"their allowance (outlined): {m.pattern or 'scattered'}. Expected values: {found.source}."
    )
    if found.is_relative:
        caption += " No error is allowed there, so that the colour is the error over the largest value due."
    rows, columns = (", ".join(names[axis] for axis in axes) for axes in plane.order)
    if len(plane.order[1]) > 1:
        caption += f" Rows are {rows}; columns are {columns}, folded in this order"
        caption += ", with a line before each new index of the first." if plane.parts else "."
    if plane.blocks != (1, 1):
        caption += f" Each cell is the largest of a block of {plane.blocks[0]} × {plane.blocks[1]}."
    what = "error over the largest value due" if found.is_relative else "error over allowance: beyond 1 is wrong"
    svg = draw(plane, what, (rows, columns), limit=None if found.is_relative else 1.0)
    # None of the picture's text is a candidate's, and matplotlib escapes.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>p{position}-", svg)  # two pictures on one page
    kind = "the error" if found.is_relative else "error over allowance"
    label = f"heat map of {kind} of {m.argument}: {count} of {ratio.numel()} wrong; {m.pattern}"
    return Picture(Markup(svg), caption, label)


def axis_names(rule: Rule, argument: str, rank: int) -> list[str]:
    """What the page calls the axes of y or of a cotangent, as in "axis 1 (channels)"."""
    annotation = rule.annotation(argument)
    names: list[str] = []
    words = str(annotation.dim_str).split()
    for word in words:
        many = word.startswith("*")
        names += [word.removeprefix("*")] * (rank - len(words) + 1 if many else 1)
    if len(names) != rank or not all(name.isidentifier() for name in names):
        return [f"axis {axis}" for axis in range(rank)]
    return [f"axis {axis} ({name})" for axis, name in enumerate(names)]
