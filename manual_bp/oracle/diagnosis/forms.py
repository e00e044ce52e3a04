"""Forms: a rule as detectors see it, with one y, and with inputs that are all there.

A page may have several outputs, and inputs that may be absent.  Its *form* for those inputs that are present has these
alone, and one y: of several outputs all numbers, output after output, in one vector; dy likewise.  So a detector says
what it says of one y and one cotangent per input, whatever the page is.  Cases, evidence, results, values and bounds
are put into a form here, and a candidate is called, and a page run, at what the form was made of: layouts of dy and
shapes of outputs are lost to detectors alone.

The form of a page with one output, all of whose inputs are present, is the page as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from manual_bp import axes
from manual_bp.arithmetic.bounded import Contract, widths
from manual_bp.hyperparameters import kinds
from manual_bp.inputs import Index, Input, Mistake, Value
from manual_bp.oracle.calling import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.hypothesis import Record, Values, wide
from manual_bp.oracle.results import is_dense
from manual_bp.oracle.variation import varied
from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule, Vjp

Shapes = tuple[tuple[int, ...], ...]

JOINED = Float[Tensor, "every_output"]
"""The axes of several outputs in one vector: one, that no input has."""


class Kept(NamedTuple):
    """What a form's forward keeps: the page's residuals, and an output of the page's, for the shapes."""

    residuals: Any
    y: Any


class Form:
    """A rule for those of its inputs that are present.

    inputs, annotations, y_annotation, hyper, defaults, ordinary, mistakes, axis_names, elementwise: as of a rule.
    arguments: "y", then the cotangent of each input.  cotangents: of each output, where there are several.
    absent: the inputs that are not there.
    """

    def __init__(self, rule: Rule, present: Collection[str]) -> None:
        self.rule = rule
        self.name, self.chapter, self.mistakes, self.values = rule.name, rule.chapter, rule.mistakes, rule.values
        self.hyper, self.defaults, self.ordinary = rule.hyper, rule.defaults, rule.ordinary
        self.inputs: dict[str, Input | Index] = {n: spec for n, spec in rule.inputs.items() if n in present}
        self.absent = [name for name in rule.inputs if name not in present]
        self.annotations = {name: rule.annotations[name] for name in self.inputs}
        self.has_backward = rule.has_backward
        self.is_joined = len(rule.outputs) > 1
        self.cotangents = rule.cotangents if self.is_joined and rule.has_backward else ()
        self.y_annotation = JOINED if self.is_joined else rule.y_annotation
        self.axis_names = axes.axis_names(self.annotations.values(), rule.hyper)
        self.arguments = ("y", *(f"d{name}" for name in self.inputs))
        self._made_of: dict[int, tuple[Case, Case]] = {}

    @classmethod
    def of(cls, rule: Rule, case: Case) -> Form:
        """The form of a rule at a case."""
        return cls(rule, [name for name, x in zip(rule.inputs, case.inputs, strict=True) if x is not None])

    # ---------------------------------------------------------------------------------------------- what a page says

    @property
    def elementwise(self) -> bool:
        """Whether each element of y depends on the same element of each input alone: all share one axis list."""
        if any(isinstance(spec, Index) for spec in self.inputs.values()):
            return False
        (first, *others) = {str(a.dim_str) for a in (self.y_annotation, *self.annotations.values())}
        return not others and first.startswith("*") and len(first.split()) == 1

    def is_number(self, name: str) -> bool:
        """Whether an input is a number of the computation."""
        return self.rule.is_number(name)

    def is_mask(self, name: str) -> bool:
        """Whether an input is True or False, or 1 or 0."""
        return self.annotations[name].dtype in (Bool, Shaped)

    def is_numeric(self, name: str) -> bool:
        """Whether a hyperparameter may be a number."""
        return any(kind in (int, float) for kind in kinds(self.rule.annotations[name]))

    def numbers(self, hyper: Mapping[str, Any]) -> dict[str, float]:
        """All hyperparameters that are numbers, where these are given."""
        given = {**self.defaults, **hyper}
        return {name: float(value) for name, value in given.items() if type(value) in (int, float)}

    def named(self, argument: str, wrong: Collection[str]) -> list[str]:
        """What an argument of the form is called where results are reported; of y those outputs that are wrong."""
        if argument != "y" or not self.is_joined:
            return [argument]
        outputs = [name for name in self.rule.arguments if name.startswith("y.")]
        return [name for name in outputs if name in wrong] or outputs

    def arguments_of(self, reported: Collection[str]) -> set[str]:
        """The arguments of the form that are meant by names that are reported."""
        return {"y" if name.startswith("y.") else name for name in reported} & set(self.arguments)

    # --------------------------------------------------------------------------------------- what is put into a form

    def case(self, given: Case) -> Case:
        """A case of the rule in this form."""
        inputs, dy = tuple(x for x in given.inputs if x is not None), given.dy
        if self.is_joined or not isinstance(dy, Tensor):
            dy = self._joined_dy(given)
        made = given if dy is given.dy and not self.absent else replace(given, inputs=inputs, dy=dy)
        self._made_of[id(made)] = made, given
        return made

    def record(self, given: Record) -> Record:
        """A record of the rule in this form."""
        found = given.evidence
        shapes = [tuple(x.shape) for x in parts(self._value(found.case))] if self.is_joined else [()]
        made = replace(
            found,
            case=self.case(found.case),
            expected=self._values(found.expected, shapes, torch.nan),
            allowance=self._values(found.allowance, shapes, torch.nan),
            kinks=self._values(found.kinks, shapes, False),
        )
        return Record(made, self._results(given.results))

    def _results(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """What a candidate returned, y as one tensor, or None if any output is none."""
        count = len(self.rule.outputs)
        y = tuple(given[:count])
        if self.is_joined:
            y = (self._joined(y) if all(isinstance(x, Tensor) and is_dense(x) for x in y) else None,)
        return (*y, *self._present(given[count:]))

    def _present(self, values: Sequence[Any]) -> Iterator[Any]:
        """Of one entry per input of the rule those of the inputs that are there; None for a page without backward."""
        of_all = dict(zip(self.rule.inputs, values or (None,) * len(self.rule.inputs), strict=True))
        return (of_all[name] for name in self.inputs)

    def _values(self, values: Sequence[Any], shapes: Sequence[tuple[int, ...]], unknown: float) -> Values:
        """One entry per argument of the form; unknown: what stands for an output of which nothing is known."""
        y, grads = values[: len(shapes)], self._present(values[len(shapes) :])
        if not self.is_joined:
            return (*y, *grads)
        kind = torch.bool if unknown is False else torch.float64
        known = [torch.full(shape, unknown, dtype=kind) if x is None else x for x, shape in zip(y, shapes, strict=True)]
        return (self._joined(known), *grads)

    def _joined(self, outputs: Iterable[Tensor]) -> Tensor:
        """Several outputs as one, or the single one.  Numbers, whatever they are, so that detectors can count."""
        several = tuple(outputs)
        if not self.is_joined:
            (y,) = several
            return y if y.is_floating_point() else y.double()
        kind = torch.bool if all(x.dtype == torch.bool for x in several) else _number(several)
        return torch.cat([x.reshape(-1).to(kind) for x in several])

    def _joined_dy(self, given: Case) -> Tensor:
        """dy of a case of the rule; 0 for what has none."""
        outputs = parts(self._value(given))
        cotangents = parts(given.dy) if given.dy is not None else (None,) * len(outputs)
        kind = next((d.dtype for d in cotangents if d is not None), _number((*given.inputs, *outputs)))
        return self._joined(
            torch.zeros(y.shape, dtype=kind, device=y.device) if d is None else d
            for y, d in zip(outputs, cotangents, strict=True)
        )

    def _value(self, given: Case) -> Any:
        """What forward gives at a case of the rule."""
        return self.rule.forward(*given.inputs, **given.hyper)[0]

    # -------------------------------------------------------------------------------------- what a form was made of

    def made_of(self, case: Case) -> Case:
        """The case of the rule of which a case of this form was made.  Raises KeyError for any other, unless the form
        is the rule as it is."""
        if id(case) not in self._made_of and not self.absent and not self.is_joined:
            return case
        return self._made_of[id(case)][1]

    def _every(self, inputs: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
        """One entry per input of the rule."""
        there = iter(inputs)
        return tuple(next(there) if name in self.inputs else None for name in self.rule.inputs)

    def _split(self, dy: Tensor, y: Any) -> Any:
        """dy as the rule takes it; y: an output of the rule's."""
        if not self.is_joined:
            return dy
        pieces = torch.split(dy, [x.numel() for x in parts(y)])
        shaped = [piece.reshape(x.shape) for piece, x in zip(pieces, parts(y), strict=True)]
        return whole([d if x.is_floating_point() else None for d, x in zip(shaped, parts(y), strict=True)], like=y)

    def tensors(self, case: Case) -> dict[str, Tensor]:
        """Inputs and cotangents of a case by name, in their layouts."""
        given = self.made_of(case)
        cotangents = zip(self.rule.cotangents, parts(given.dy), strict=True) if given.dy is not None else ()
        named = {**dict(cotangents), **dict(zip(self.rule.inputs, given.inputs, strict=True))}
        return {name: x for name, x in named.items() if x is not None}

    def each_dy(self, case: Case, change: Callable[[Tensor], Tensor]) -> Tensor:
        """dy with the cotangent of each output changed by itself."""
        if not self.is_joined:
            return change(case.dy)
        outputs = parts(self._value(self.made_of(case)))
        split = torch.split(case.dy, [y.numel() for y in outputs])
        return self._joined(change(d.reshape(y.shape)) for d, y in zip(split, outputs, strict=True))

    def without_dy(self, case: Case, name: str) -> Tensor:
        """dy with 0 in place of the cotangent of that name, one of several."""
        split = zip(self.cotangents, torch.split(case.dy, self._counts(case)), strict=True)
        return torch.cat([torch.zeros_like(d) if cotangent == name else d for cotangent, d in split])

    def _counts(self, case: Case) -> list[int]:
        """How many numbers each output has."""
        return [y.numel() for y in parts(self._value(self.made_of(case)))]

    def call(
        self, candidate: Vjp, case: Case, dy: Tensor, inputs: tuple[Tensor, ...] | None = None
    ) -> tuple[Any, ...] | None:
        """What a candidate returns, in this form; None if it does not get so far."""
        given = self.made_of(case)
        if dy is not case.dy and self.rule.has_backward:
            given = replace(given, dy=self._split(dy, self._value(given)))
        if inputs is not None:
            given = replace(given, inputs=self._every(inputs))
        results = call(candidate, self.rule, given).results
        return None if results is None else self._results(results)

    def contiguous(self, candidate: Vjp, case: Case) -> tuple[Any, ...] | None:
        """What a candidate returns for contiguous copies of a case's tensors."""
        given = self.made_of(case)
        inputs = tuple(None if x is None else x.contiguous() for x in given.inputs)
        dy = given.dy
        if dy is not None:
            dy = whole([None if d is None else d.contiguous() for d in parts(dy)], like=dy)
        copied = replace(given, inputs=inputs, dy=dy)
        made = self.case(copied)
        return self.call(candidate, made, made.dy)

    def varied(self, case: Case, generator: torch.Generator) -> Case:
        """The case with every number moved (`manual_bp.oracle.variation`)."""
        return self.case(varied(self.rule, self.made_of(case), generator))

    # ------------------------------------------------------------------------------------------------------ the page

    def forward(self, *inputs: Tensor, **hyper: Any) -> tuple[Tensor, Kept]:
        """As of a rule."""
        y, residuals = self.rule.forward(*self._every(inputs), **hyper)
        return self._joined(parts(y)), Kept(residuals, y)

    def backward(self, kept: Kept, dy: Tensor) -> Values:
        """As of a rule; None for every input of a page that has none."""
        if not self.rule.has_backward:
            return (None,) * len(self.inputs)
        return tuple(self._present(self.rule.backward(kept.residuals, self._split(dy, kept.y))))

    def vjp(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Values]:
        """As of a rule."""
        y, kept = self.forward(*inputs, **hyper)
        return y, self.backward(kept, dy)

    def bare_forward(self, *inputs: Tensor, **hyper: Any) -> tuple[Tensor, Kept]:
        """The page's own text, unchecked."""
        y, residuals = self.rule.pure(*self._every(inputs), **{**self.defaults, **hyper})
        return self._joined(parts(y)), Kept(residuals, y)

    def bare_backward(self, kept: Kept, dy: Tensor) -> Values:
        """The page's own text, unchecked."""
        if not self.rule.has_backward:
            return (None,) * len(self.inputs)
        return tuple(self._present(self.rule.page.backward(kept.residuals, self._split(dy, kept.y))))

    def terms(self, kept: Kept, dy: Tensor) -> dict[str, dict[str, Tensor]]:
        """As of a rule."""
        if not self.rule.has_backward:
            return {}
        return self.rule.terms(kept.residuals, self._split(dy, kept.y))

    def mistaken(self, mistake: Mistake) -> Callable[..., tuple[Tensor, Values]]:
        """The form with a wrong formula: a Vjp; of a page without backward with wrong values."""
        wrong = self.rule.mistaken(mistake.backward)

        def vjp(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Values]:
            every = self._every(inputs)
            if not self.rule.has_backward:
                return self._joined(parts(wrong(every, **hyper))), (None,) * len(self.inputs)
            y = self.rule.forward(*every, **hyper)[0] if self.is_joined else None
            y, grads = wrong(every, self._split(dy, y), **hyper)
            return self._joined(parts(y)), tuple(self._present(grads))

        return vjp

    def widths(self, case: Case, contract: Contract, formula: Mistake | Value | None = None, **other: Any) -> Values:
        """How far off a right program may be, or one that uses another formula; other: inputs, dy and hyper in
        place of those of the case."""
        every = self._every(other.get("inputs", case.inputs))
        dy, hyper = other.get("dy", case.dy), other.get("hyper", case.hyper)
        instead = formula.instead if formula and self.rule.has_backward else {}
        split = self._split(dy, self.rule.forward(*map(_wide, every), **hyper)[0]) if self.is_joined else dy
        found = widths(self.rule, every, split, contract, how=None, **instead, **hyper)
        shapes = [tuple(x.shape) for x in found.outputs]
        return self._values((*found.outputs, *found.grads), shapes, torch.nan)


def _wide(x: Tensor | None) -> Tensor | None:
    return None if x is None else wide(x)


def _number(tensors: Iterable[Tensor | None]) -> torch.dtype:
    """The dtype of the first that is a number; float64, in which any other is exact, if none is."""
    return next((x.dtype for x in tensors if x is not None and x.is_floating_point()), torch.float64)


def forms(rule: Rule, records: Sequence[Record]) -> Iterator[tuple[Form, list[Record]]]:
    """The records by form, each in its form; the form with most numbers that are wrong first."""
    by_present: dict[tuple[bool, ...], list[Record]] = {}
    for record in records:
        by_present.setdefault(tuple(x is not None for x in record.evidence.case.inputs), []).append(record)
    for several in sorted(by_present.values(), key=_wrong, reverse=True):
        form = Form.of(rule, several[0].evidence.case)
        yield form, [form.record(record) for record in several if len(record.results) == len(rule.arguments)]


def _wrong(records: Sequence[Record]) -> int:
    """In how many records something is wrong."""
    return sum(any(map(_is_wrong, r.evidence.expected, r.evidence.allowance, r.results)) for r in records)


def _is_wrong(expected: Tensor | None, allowance: Tensor | None, got: Any) -> bool:
    if expected is None or allowance is None or not isinstance(got, Tensor) or not is_dense(got):
        return False
    if got.shape != expected.shape:
        return True
    return bool((~((got.detach().cpu().double() - expected).abs() <= allowance) & expected.isfinite()).any())
