"""Judging a candidate that draws its own mask.

The mask is read off y.  With it the numbers are judged as those of any candidate; whether the masks are what chance
makes is judged by exact tests, which reject a right program with a probability of at most 1e-6 (masks.ALPHA), all of
them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.invocation import call_with
from manual_bp.oracle.case import NOT_RECORDED, Case
from manual_bp.oracle.cases.declared import untaken
from manual_bp.oracle.own_masks.drawing import Came, Drawing, drawn, generators_kept
from manual_bp.oracle.own_masks.masks import judged_masks
from manual_bp.oracle.own_masks.reading import MASK, Reader, refusal
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.report import Report
from manual_bp.rule import Rule

# The names under which functions take the probability to drop.
PROBABILITIES = ("p", "dropout_p", "rate", "dropout")
# Usual ones, and both ends; of 1024 elements about as many are kept or dropped as p says.
VALUES = (0.25, 0.5, 0.9, 0.0, 1.0)
LENGTHS = ((4, 3), (33, 31), (2, 5))
Found = tuple[str, str]
"""An argument, and what is wrong with it."""


@dataclass
class _Numbers:
    """What the calls of all cases came to."""

    cases: list[Case]
    faults: list[tuple[str, str, str]]  # argument, case, words
    causes: list[str]
    dropped: int = 0
    due: float = 0.0
    others: list[tuple[str, str, Tensor, Tensor]] = field(default_factory=list)
    """Where backward has another mask: input, case, what y kept and what the gradient kept, of what can be read."""


def compare_own_mask(
    candidate: Callable[..., Any],
    rule: Rule,
    compare: Callable[..., Report],
    *,
    dtype: torch.dtype,
    hyper: Mapping[str, Any] | None,
    on_verdict: Callable[[Report], None] | None,
    **options: Any,
) -> Report:
    """Judge `candidate(inputs, dy, **hyper) -> (y, grads)`, whose inputs are the rule's without the mask.

    It may take a `seed` (an int) or a `generator` (of torch): then the same one twice is to give the same mask.
    compare: judges recorded results; options: its own.
    Raises ValueError where a mask cannot be read off y.
    """
    if words := refusal(rule):
        raise ValueError(words)
    drawing = Drawing(candidate, rule)
    name = next((n for n in PROBABILITIES if n in rule.hyper), "")
    declared = dict(hyper or {})
    # Somebody's function need not be defined at p = 1, where 1/(1 − p) is infinite.
    tried = VALUES[:3] if hasattr(rule.page, "FUNCTION") else VALUES
    usual = dict.fromkeys(tried) if name and name not in declared else {declared.get(name): None}
    with generators_kept():
        numbers, lacking = _Numbers([], [], []), ""
        for place, p in enumerate(usual):
            own = {**rule.ordinary, **declared, **({name: p} if name and p is not None else {})}
            if lacks := drawing.lacks({n: v for n, v in own.items() if n not in declared}):
                lacking = untaken(lacks[0], [f"{name} = {p}"], rule.defaults.get(lacks[0]), "the rule")
                continue
            some = LENGTHS if any(rule.axis_names.values()) else LENGTHS[:1]
            for lengths in some if place < 2 else some[:2]:
                for zeros in (False, True) if lengths is LENGTHS[0] else (False,):
                    _call(drawing, rule, name, own, lengths, zeros, dtype, numbers)
        if numbers.others:
            words = _another_mask(numbers)
            numbers.causes.insert(0, words)
            numbers.faults += [(f"d{first}", label, words) for first, label, _, _ in numbers.others]
        report = _report(rule, dtype, compare, numbers, declared, options)
        if lacking:
            report.untested_hyper.append(name)
            report.not_tested.append(lacking)
        if numbers.faults and not numbers.cases:
            report.diagnoses = with_the_other(candidate, rule, dtype, own=True) + report.diagnoses
        if numbers.due > 20 and not numbers.dropped:  # so many happen by chance with e^-20 = 2e-9
            report.diagnoses.insert(0, f"nothing is dropped, though {numbers.due:.0f} elements are due to be")
            _wrong(report, "mask", "all", "nothing is dropped")
        elif numbers.cases and not any("raised" in words for _, _, words in numbers.faults):
            judged_masks(report, drawing, rule, name, declared, dtype)
    report.clean()
    if on_verdict is not None:
        on_verdict(report)
    return report


def with_the_other(candidate: Callable[..., Any], rule: Rule, dtype: torch.dtype, own: bool) -> list[str]:
    """What to declare, where a candidate that raises in every case answers if it is called the other way.

    own: whether it was judged as one that draws its own mask.
    """
    if refusal(rule):
        return []
    inputs, dy = drawn(rule, LENGTHS[0], rule.ordinary, dtype)
    try:
        reader = Reader(rule, inputs, rule.ordinary, dy.shape)
    except ValueError:  # of attention, say, whose mask no y tells
        return []
    with generators_kept():
        if not own:
            came = Drawing(candidate, rule)(list(inputs.values()), dy, rule.ordinary, seed=0)
            words = "it answers without a mask: if it draws its own, declare mask='own' (on a command line: --mask own)"
            return [] if came.fault else [words]
        mask = reader.as_due(torch.ones(dy.shape, dtype=torch.bool))
        try:
            call_with(candidate, (tuple(mask if n == MASK else inputs[n] for n in rule.inputs), dy), rule.ordinary)
        except Exception:
            return []
    return ["it answers where the mask is one of its inputs: leave mask='own' (on a command line: --mask own) out"]


def _call(
    drawing: Drawing,
    rule: Rule,
    name: str,
    hyper: dict[str, Any],
    lengths: tuple[int, ...],
    zeros: bool,
    dtype: torch.dtype,
    numbers: _Numbers,
) -> None:
    """One call, whose mask is read, as a recorded case."""
    inputs, dy = drawn(rule, lengths, hyper, dtype, zeros)
    reader = Reader(rule, inputs, hyper, dy.shape)
    p = hyper.get(name)
    label = f"{'x ' if 'x' in inputs else ''}{tuple(dy.shape)}" + (f", {name} = {p:g}" if p is not None else "")
    label += ", half of the inputs 0" if zeros else ""
    came = drawing(list(inputs.values()), dy, hyper, seed=len(numbers.cases))
    if came.fault:
        numbers.faults.append(("y", label, came.fault))
        return
    assert came.y is not None
    assert came.grads is not None
    kept = reader.read(came.y)
    back = _read_back(rule, reader, came, dy)
    numbers.dropped += int((reader.readable & ~kept).sum())
    numbers.due += float(p or 0) * int(reader.readable.sum())
    grads: dict[str, Any] = dict(came.grads)
    if back is not None:
        first, gradient = back
        differ = reader.readable & (gradient != kept)
        if 0 < (p or 0.5) < 1 and bool(differ.any()):
            numbers.others.append((first, label, kept[reader.readable], gradient[reader.readable]))
            grads[first] = NOT_RECORDED
        kept = torch.where(reader.readable, kept, gradient)  # where y tells nothing the gradient does
    if p is not None:
        numbers.causes += _scale(reader, came.y, kept, float(p), name)
        if p == 1 and bool(came.y.isnan().any()):
            numbers.causes.append("y is NaN at p = 1: 0 times infinity; what is dropped is replaced, not multiplied")
    whole = tuple(reader.as_due(kept) if n == MASK else inputs[n] for n in rule.inputs)
    recorded = tuple(NOT_RECORDED if n == MASK else grads[n] for n in rule.inputs)
    numbers.cases.append(Case(whole, dy, hyper, label, came.y, recorded))


def _read_back(rule: Rule, reader: Reader, came: Came, dy: Tensor) -> tuple[str, Tensor] | None:
    """The mask as the gradient of the first input of y's shape has it, and that input."""
    assert came.grads is not None
    for name, x in reader.inputs.items():
        gradient = came.grads.get(name)
        if x is None or gradient is None or x.shape != dy.shape:
            continue
        ends = []
        for everything in (False, True):
            mask = reader.as_due(torch.full(dy.shape, everything))
            named = {**reader.inputs, MASK: mask}
            _, grads = rule.vjp(tuple(named[n] for n in rule.inputs), dy, **reader.hyper)
            ends.append(grads[list(rule.inputs).index(name)])
        dropped, kept = ends
        if dropped is None or kept is None or bool((dropped == kept).any()):
            continue  # nothing can be told there, as at p = 1
        return name, (gradient - dropped).abs() > 2 * torch.finfo(dy.dtype).eps * dropped.abs()
    return None


def _another_mask(numbers: _Numbers) -> str:
    """Of all cases together."""
    name = numbers.others[0][0]
    kept, back = (torch.cat([other[k] for other in numbers.others]) for k in (2, 3))  # type: ignore[misc]
    if bool(back.all()):
        return f"mask forgotten: d{name} is not masked, and what y dropped gets a gradient"
    return (
        f"backward uses another mask than forward: of {int((~kept).sum())} elements that y dropped d{name} keeps "
        f"{int((~kept & back).sum())}, and of {int(kept.sum())} that it kept it drops {int((kept & ~back).sum())}"
    )


def _scale(reader: Reader, y: Tensor, kept: Tensor, p: float, name: str) -> list[str]:
    """How what is kept is scaled, if by one number and another than is due."""
    there = kept & reader.readable
    if not (0 < p < 1 and bool(there.any())):
        return []
    ratios = ((y - reader.dropped) / (reader.kept - reader.dropped))[there].double()
    c = float(ratios.median())
    few = 64 * torch.finfo(y.dtype).eps  # roundings of a product and of the sum beside
    if abs(c - 1) <= few or float((ratios - c).abs().max()) > few * max(abs(c), 1):
        return []
    share = float(there.sum()) / float(reader.readable.sum())
    known = {
        f"the scale is missing: what is kept is not scaled by 1/(1 − {name})": 1 - p,
        f"what is kept is scaled by 1/{name} in place of 1/(1 − {name})": (1 - p) / p,
        f"what is kept is scaled by 1 − {name} in place of 1/(1 − {name})": (1 - p) ** 2,
        f"what is kept is scaled by {name} in place of 1/(1 − {name})": p * (1 - p),
        f"what is kept is scaled by 1/(1 − {name}) twice": 1 / (1 - p),
        f"the scale is of how many were kept, and not of 1/(1 − {name}): dy would have to pass that number too": (1 - p)
        / share,
    }
    for words, factor in known.items():
        if abs(c - factor) <= few * max(1.0, factor):
            return [words]
    return [f"what is kept is scaled by {c:.6g} times what is due"]


def _report(
    rule: Rule,
    dtype: torch.dtype,
    compare: Callable[..., Report],
    numbers: _Numbers,
    declared: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Report:
    """Of the numbers alone."""
    if numbers.cases:
        report = compare(None, rule, dtype=dtype, cases=numbers.cases, **options)
        report.not_tested = [t for t in report.not_tested if not t.startswith("as declared")]
    else:
        report = Report(rule.name, str(dtype).removeprefix("torch."), "cpu", worst={"y": Worst()})
    for argument, case, words in numbers.faults:
        _wrong(report, argument, case, words, "trap" if argument == "y" else "wrong")
    own = list(dict.fromkeys(numbers.causes))
    plain_scale = dict(options.get("conventions") or {}).get("dropout") in ("plain", "any")
    own = [words for words in own if not (plain_scale and words.startswith("the scale is missing"))]
    report.diagnoses = [*own[:4], *report.diagnoses] if report.mismatches else report.diagnoses
    if declared:
        report.not_tested.append(f"as declared, only {', '.join(f'{n} = {v}' for n, v in declared.items())} was tried")
    return report


def _wrong(report: Report, argument: str, case: str, words: str, kind: str = "wrong") -> None:
    report.mismatches.append(Mismatch(kind, argument, case, words))
    if kind == "trap":
        report.raised += 1
    else:
        report.failed = min(report.cases, report.failed + 1)
