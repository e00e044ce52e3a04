"""Factors and terms: a cotangent, or one of its summands, multiplied by a number; something added to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import CONSTANTS, NEAR, Factor, Fit, recognise
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, Sample, wide
from manual_bp.oracle.words import counted, told_apart

MEANS: Mapping[str, Callable[[int], bool]] = {
    "its own mean": lambda axis: True,
    "its own mean over all axes but axis 1": lambda axis: axis != 1,
    "its own mean over axis 0": lambda axis: axis == 0,
    "its own mean over axis 1": lambda axis: axis == 1,
}
SCALES = {
    2.0: "2", 0.5: "1/2", -1.0: "-1", 3.0: "3", 1 / 3: "1/3", 4.0: "4", 0.25: "1/4", 2 / 3: "2/3", 1.5: "3/2",
    math.log(2): "ln 2", math.log(10): "ln 10", 1.702: "1.702", 0.1: "0.1", 10.0: "10",
}  # fmt: skip
# A claim about one number rests on as many.
NUMBERS = 3


def plain_factors(found: Examination) -> Iterator[Explanation]:
    """Cotangents multiplied by 0, -1, 2 and the like."""
    return _factors(found, plain=True)


def any_factors(found: Examination) -> Iterator[Explanation]:
    """Cotangents multiplied by any number that has a name, or is the same everywhere."""
    return _factors(found, plain=False)


def _factors(found: Examination, plain: bool) -> Iterator[Explanation]:
    told: dict[str, tuple[list[str], int]] = {}
    ends = {id(record.evidence.case) for record, _ in found.rows if record.evidence.row is not None}
    for argument in found.unexplained():
        if found.numbers(argument) < NUMBERS:
            continue
        fits = found.fits(argument, lambda sample: [sample.expected])
        if not plain:  # the end of a large case has other lengths than what the candidate was called with
            fits = [f for f in fits if id(f.case) not in ends]
        factor = recognise(found.rule, fits, 0) if len(fits) >= min(NUMBERS, len(found.rows)) else None
        if factor and factor.name != "1" and (factor.name in CONSTANTS or not plain):
            arguments, _ = told.setdefault(_in_words(found, argument, factor, fits), ([], len(fits)))
            arguments.append(argument)
    for words, (arguments, count) in told.items():
        if not found.failing:
            yield Explanation(arguments, f"{{}} {words}; fitted in {counted(count, 'case')}")
        elif count > 1:
            words = words.replace(" everywhere", "")
            yield Explanation(arguments, f"{{}} {words}, in {found.where_wrong(arguments, count)}")


def _in_words(found: Examination, argument: str, factor: Factor, fits: Sequence[Fit]) -> str:
    if factor.name in ("0", "-1"):
        return "is 0 everywhere" if factor.name == "0" else "has the wrong sign: it is -1 times what it should be"
    meant = f" ({factor.why})" if factor.why else ""
    case = fits[0].case
    reduced = case.dy.numel() / max(case.inputs[found.arguments.index(argument) - 1].numel(), 1)
    mean = argument != "y" and factor.name == "1/n" and abs(fits[0].factors[0] * reduced - 1) < NEAR and reduced > 1
    return f"is {factor.name} times what it should be{meant}" + (": a mean where a sum is due" if mean else "")


def varying_factors(found: Examination) -> Iterator[Explanation]:
    """One factor for every element of a case, but no name for it."""
    for argument in found.unexplained():
        if found.numbers(argument) < NUMBERS:
            continue
        fits = found.fits(argument, _with_several)
        factors = sorted(f.factors[0] for f in fits)
        if len(fits) >= NUMBERS and factors[-1] - factors[0] > 4 * max(f.uncertainty[0] for f in fits):
            low, high = told_apart(factors[0], factors[-1], 4)
            words = f"one factor that differs from case to case, from {low} to {high}"
            yield Explanation({argument}, f"every element of {{}} is off by {words}; fitted in {len(fits)} cases")


def _with_several(sample: Sample) -> list[Tensor]:
    """What is due, where it has several numbers: one is a multiple of any other."""
    if int((sample.judged & (sample.expected.abs() > sample.allowance)).sum()) < NUMBERS:
        raise ValueError("too few numbers here")
    return [sample.expected]


# ---------------------------------------------------------------------------------------------------------- summands


def terms(found: Examination) -> Iterator[Explanation]:
    """The page's named terms, each multiplied by a number that has a name."""
    case = found.rows[0][0].evidence.case
    names = {argument: list(parts) for argument, parts in _terms(found, case).items()}
    for argument in found.unexplained():
        if len(names.get(argument, ())) < 2:
            continue
        fits = found.fits(argument, partial(_summands, found, argument))
        if changed := _changed(found, names[argument], fits):
            yield Explanation({argument}, "{}: " + changed)


def terms_of_ones(found: Examination) -> Iterator[Explanation]:
    """One of the page's named terms without the cotangent."""
    for position, argument in enumerate(found.arguments):
        names = list(_terms(found, found.rows[0][0].evidence.case).get(argument, ()))
        for name in names if len(names) > 1 else ():

            def predict(case: Case, position: int = position, argument: str = argument, name: str = name) -> Prediction:
                ones = replace(case, dy=torch.ones_like(case.dy))
                parts = {**_terms(found, case)[argument], name: _terms(found, ones)[argument][name]}
                values: list[Tensor | None] = [None] * len(found.arguments)
                values[position] = reduce(torch.add, parts.values())
                return Prediction(tuple(values))

            yield from found.matched(predict, f"{{}}: dy is missing in the {name} term, which is that of dy = 1")


def _summands(found: Examination, argument: str, sample: Sample) -> list[Tensor]:
    return list(_terms(found, sample.case)[argument].values())


def _terms(found: Examination, case: Case) -> dict[str, dict[str, Tensor]]:
    _, kept = found.forward(case)
    return found.rule.terms(kept, wide(case.dy))


def _changed(found: Examination, names: Sequence[str], fits: Sequence[Fit]) -> str:
    """The terms whose factor is not 1, in words with the fitted numbers; empty if there is no system."""
    factors = [recognise(found.rule, fits, i) for i in range(len(names))] if len(fits) >= 2 else []
    recognised = [(n, f) for n, f in zip(names, factors, strict=False) if f is not None]
    changed = [_term(n, f) for n, f in recognised if f.name != "1"]
    if len(recognised) < len(names) or not changed:
        return ""
    best = min(fits, key=lambda f: max(f.uncertainty))
    fitted = ", ".join(f"{n} {f:.3f}" for n, f in zip(names, best.factors, strict=True))
    evidence = f"(fitted factors: {fitted} in case {best.case.name!r}; alike in {counted(len(fits), 'case')})"
    return f"{' and '.join(changed)} {evidence}"


def _term(name: str, factor: Factor) -> str:
    if factor.name == "0":
        return f"the {name} term is missing"
    if factor.name == "-1":
        return f"the {name} term has the wrong sign"
    return f"the {name} term is multiplied by {factor.name}" + (f" ({factor.why})" if factor.why else "")


def added(found: Examination) -> Iterator[Explanation]:
    """Right, and a multiple of something else added to it: an input, dy, y, a number; or taken after an update."""
    for argument in found.unexplained():
        for name in ("dy", "y", *found.rule.inputs, "1", "after an update", *MEANS):
            fits = found.fits(argument, partial(_added, found, argument, name))
            if len(fits) < 2:
                continue
            whole, part = recognise(found.rule, fits, 0), recognise(found.rule, fits, 1)
            if whole is None or part is None or whole.name != "1" or part.name == "0":
                continue
            words = name if part.name == "1" else f"{part.name} times {name}" if name != "1" else part.name
            if name == "after an update":
                times = f"{part.name} times " * (part.name != "1")
                words = f"{times}what follows from the cotangents: inputs that an update had changed already"
            best = min(fits, key=lambda f: max(f.uncertainty))
            evidence = (
                f"factor {best.factors[1]:.4g} fitted in case {best.case.name!r}, alike in {counted(len(fits), 'case')}"
            )
            yield Explanation({argument}, f"{{}} is right but for an added {words}; {evidence}")
            break


def _added(found: Examination, argument: str, name: str, sample: Sample) -> list[Tensor]:
    """What is right, and what may have been added to it."""
    case, position = sample.case, found.arguments.index(argument)
    if name == "after an update":
        values = found.right(case)[0]
        updated = [x if g is None or f"d{n}" == argument else g for n, x, g in _named(found, case.inputs, values)]
        part = found.at(case, inputs=tuple(updated)).values[position]
    elif name in MEANS:
        right = found.right(case)[0][position]
        axes = [a for a in range(right.ndim if right is not None else 0) if MEANS[name](a)]
        part = right.mean(axes, keepdim=True).expand_as(right) if right is not None and axes else None
    else:
        named = {"dy": case.dy, "y": found.value(case), "1": torch.ones_like(sample.expected)}
        part = {**dict(zip(found.rule.inputs, case.inputs, strict=True)), **named}[name]
    if part is None or part.shape != sample.expected.shape or not part.is_floating_point():
        raise ValueError("no such part here")
    return [sample.expected, wide(part)]


def multiplied(found: Examination) -> Iterator[Explanation]:
    """A cotangent multiplied or divided by an input of its own shape."""
    for name in found.rule.inputs:
        for words, divided in (("multiplied", False), ("divided", True)):
            predict = partial(_multiplied, found, name, divided)
            yield from found.matched(predict, f"{{}} is {words} by {name}")


def _multiplied(found: Examination, name: str, divided: bool, case: Case) -> Prediction:
    factor = wide(case.inputs[list(found.rule.inputs).index(name)])
    grads = (g if g is not None and g.shape == factor.shape and g.ndim else None for g in found.right(case)[0][1:])
    return Prediction((None, *(None if g is None else g / factor if divided else g * factor for g in grads)))


def scaled_inputs(found: Examination) -> Iterator[Explanation]:
    """An element-wise derivative taken at a multiple of x, times a number."""
    if not found.rule.elementwise or not found.moderate:
        return
    for argument in found.unexplained():
        for scale, name in SCALES.items():
            fits = found.fits(argument, partial(_scaled, found, argument, scale))
            factor = recognise(found.rule, fits, 0) if len(fits) >= NUMBERS else None
            if factor is not None and _explains(found, argument, scale, fits[0].factors[0]):
                times = f"{factor.name} times " * (factor.name != "1")
                words = f"{{}} is {times}that of {name} times its input; fitted in {counted(len(fits), 'case')}"
                yield Explanation({argument}, words)
                break


def _explains(found: Examination, argument: str, scale: float, factor: float) -> bool:
    """Whether the multiple explains what is wrong: tanh' is the same at -x, and a fit does not look at every number of
    a large case."""
    wrong = 0
    for sample in found.column(argument):
        (value,) = _scaled(found, argument, scale, sample)
        off = (sample.got - sample.expected).abs() > APART * sample.allowance
        better = (sample.got - factor * value).abs() < (sample.got - sample.expected).abs() / APART
        if not bool(better[off & sample.judged].all()):
            return False
        wrong += int((off & sample.judged).sum())
    return wrong >= NUMBERS


def _scaled(found: Examination, argument: str, scale: float, sample: Sample) -> list[Tensor]:
    x, *others = sample.case.inputs
    value = found.at(sample.case, inputs=(scale * wide(x), *others)).values[found.arguments.index(argument)]
    if value is None:
        raise ValueError("no such part here")
    return [value]


def _named(
    found: Examination, inputs: Sequence[Tensor], values: Sequence[Tensor | None]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    return zip(found.rule.inputs, inputs, values[1:], strict=True)
