"""What a candidate returned, and how a hypothesis about it is tested."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.inputs import Edge
from manual_bp.oracle.cases import Case, draw
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS, Fit, Sample, fit
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Match, Predict, Prediction, Record, Row, Values, wide
from manual_bp.oracle.evidence import Evidence, evidence
from manual_bp.rule import Rule, Vjp, computing_dtype

# Larger cases are left out: every explanation is computed at every case.
EXPLAINED = 10**5
# A prediction is told from the right answer where they are so many tolerances apart.
APART = 4
# So few records leave factors of lengths and hyperparameters open; so many more are drawn, of these lengths.
FEW = 4
MORE = ((5, 3, 2, 4), (3, 4, 5, 2), (7, 2, 3, 3))
# Numbers up to this size neither saturate an activation beyond half of float32's digits nor overflow an exponential.
MODERATE = 8.0
# At moderate numbers a wrong hypothesis is mostly off by more than this share of its largest number, a right one never;
# so many cases are asked.
FAR = 0.1
PROBES = 3
PLURAL = {"is": "are", "equals": "equal", "takes": "take", "has": "have"}


class Examination:
    """A candidate's results, and the arguments that are still to be explained.

    rows: the records that count now, each with one sample per argument (see `look`).
    """

    def __init__(self, rule: Rule, candidate: Vjp | None, records: Sequence[Record], wrong: Collection[str]) -> None:
        self.rule, self.candidate = rule, candidate
        self.arguments = ("y", *(f"d{name}" for name in rule.inputs))
        fit = (r for r in records if r.evidence.case.dy.numel() <= EXPLAINED)
        self.records = [r for r in fit if len(r.results) == len(self.arguments)]
        self.open = {a for i, a in enumerate(self.arguments) if a in wrong or self._is_misshapen(i)}
        self.found: list[str] = []
        self._kept: dict[int, tuple[Values, Values]] = {}
        self._views: dict[tuple[bool, bool], list[Row]] = {}
        self._refuted: set[str] = set()
        if not self.records or not self.open:
            return
        self.dtype = self.records[0].evidence.case.dy.dtype
        # Roundings of what is computed, and one of the result.
        self.slack = ROUNDINGS * torch.finfo(computing_dtype(self.dtype)).eps + 2 * torch.finfo(self.dtype).eps
        if candidate is not None and len(self.records) < FEW:
            self.records += self._drawn()
        self.look()
        worst = {id(r): max((s.error for _, s in self.wrong(row)), default=0.0) for r, row in self.rows}
        self.records.sort(key=lambda r: -worst[id(r)])  # what refutes most comes first
        self._views.clear()
        self.look()

    # -------------------------------------------------------------------------------------------------- what is judged

    def look(self, kinks: bool = True, moderate: bool = False) -> None:
        """Choose what counts from now on.

        kinks: judge values at kinks and ties too, where a known mistake may be all there is; without, a formula is
        asked nothing about conventions. moderate: only cases of moderate finite numbers at which the candidate is
        finite, with some roundings allowed: a candidate that is wrong in one way often loses digits or overflows too.
        """
        self.kinks, self.moderate = kinks, moderate
        if (kinks, moderate) not in self._views:
            samples = [(r, [self.sample(r, i) for i in range(len(self.arguments))]) for r in self.records]
            chosen = [(r, row) for r, row in samples if not moderate or self._is_moderate(r.evidence.case, row)]
            self._views[kinks, moderate] = chosen
        self.rows = self._views[kinks, moderate]

    def _moderate_rows(self) -> list[Row]:
        chosen = self.kinks, self.moderate
        self.look(kinks=False, moderate=True)
        rows = self.rows
        self.look(*chosen)
        return rows

    def sample(self, record: Record, position: int) -> Sample | None:
        """What was returned for one argument, with what should have been."""
        found, got = record.evidence, record.results[position]
        if not isinstance(got, Tensor) or got.layout is not torch.strided:
            return None
        expected, allowance, kinks = found.expected[position], found.allowance[position], found.kinks[position]
        got = got.detach().cpu().double()
        if expected is None or allowance is None:
            return Sample(found.case, got, torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
        judged = expected.to(self.dtype).isfinite() & allowance.isfinite()
        judged = judged if kinks is None or self.kinks else judged & ~kinks
        if position:
            x = found.case.inputs[position - 1].cpu()
            judged = judged & ~x.isnan() if x.is_floating_point() else judged
        if self.moderate and expected.numel():
            allowance = allowance + self.slack * expected.abs().nan_to_num(0, 0, 0).max()
        return Sample(found.case, got, expected, allowance, judged)

    def wrong(self, row: Sequence[Sample | None]) -> Iterator[tuple[str, Sample]]:
        """The samples of a row whose arguments are to be explained."""
        for argument, sample in zip(self.arguments, row, strict=True):
            if argument in self.open and sample is not None:
                yield argument, sample

    def column(self, argument: str) -> list[Sample]:
        """One argument in every record."""
        position = self.arguments.index(argument)
        return [sample for sample in (row[position] for _, row in self.rows) if sample is not None]

    def unexplained(self) -> list[str]:
        """The arguments that are to be explained, in order."""
        return [a for a in self.arguments if a in self.open]

    def numbers(self, argument: str) -> int:
        """How many numbers of an argument are judged, over all records."""
        return sum(int(s.judged.sum()) for s in self.column(argument))

    def _is_moderate(self, case: Case, row: Sequence[Sample | None]) -> bool:
        """Numbers of moderate size, at which the candidate is finite and the right formula does not lose its digits."""
        numbers = [x for x in (*case.inputs, case.dy) if x.is_floating_point() and x.numel()]
        if not all(bool((x.abs() <= MODERATE).all()) for x in numbers):
            return False
        return all(
            bool(s.got.isfinite().all())
            and (not s.expected.numel() or float(s.allowance.max()) <= 2 * self.slack * float(s.expected.abs().max()))
            for _, s in self.wrong(row)
        )

    def _is_misshapen(self, position: int) -> bool:
        """Whether a result has another shape than the expected one, or is a tensor where None is due."""
        pairs = [(r.results[position], r.evidence.expected[position]) for r in self.records]
        return any(isinstance(g, Tensor) and (e is None or g.shape != e.shape) for g, e in pairs)

    # ---------------------------------------------------------------------------------------------------------- calls

    def call(self, case: Case, dy: Tensor, inputs: tuple[Tensor, ...] | None = None) -> tuple[Any, ...] | None:
        """What the candidate returns; None if it does not get so far."""
        assert self.candidate is not None
        # A hyperparameter at its default need not be taken by the candidate.
        hyper = {name: v for name, v in case.hyper.items() if self.rule.defaults.get(name) != v}
        try:
            y, grads = self.candidate(tuple(x.clone() for x in inputs or case.inputs), dy.clone(), **hyper)
            return (y, *grads) if len(grads) == len(self.rule.inputs) else None
        except (Exception, SystemExit):
            return None

    def _drawn(self) -> Iterator[Record]:
        """A few more cases, of other sizes, at which the candidate is called."""
        generator = torch.Generator().manual_seed(0)
        for lengths in MORE:
            edge = Edge(f"sizes {lengths}", sizes=dict(zip(self.rule.axis_names, lengths, strict=False)))
            inputs, dy, hyper = draw(self.rule, edge, generator)
            cast = [x.to(self.dtype) if x.is_floating_point() else x for x in (*inputs, dy)]
            case = Case(tuple(cast[:-1]), cast[-1], hyper, edge.name)
            results = self.call(case, case.dy)
            found = evidence(self.rule, case, contract_of(self.dtype)) if results else ""
            if results and isinstance(found, Evidence):
                yield Record(found, results)

    # ------------------------------------------------------------------------------------------------------- the page

    def at(self, case: Case, rule: Rule | None = None, **other: Any) -> Prediction:
        """The rule (or another one) in float64 at the case with other inputs, cotangent or hyperparameters."""
        rule = rule or self.rule
        inputs, dy = other.get("inputs", case.inputs), other.get("dy", case.dy)
        hyper = other.get("hyper", case.hyper)
        y, grads = rule.vjp(tuple(wide(x) for x in inputs), wide(dy), **hyper)

        def tolerance() -> Values:
            width = widths(rule, inputs, dy, contract_of(self.dtype), **hyper)
            return (width.y, *width.grads)

        return Prediction((y, *grads), tolerance)

    def right(self, case: Case) -> tuple[Values, Values]:
        """The rule at the case itself, and its widths; kept, since every hypothesis asks for it."""
        if id(case) not in self._kept:
            found = self.at(case)
            assert found.tolerance is not None
            self._kept[id(case)] = (found.values, found.tolerance())
        return self._kept[id(case)]

    def value(self, case: Case) -> Tensor:
        """y at the case."""
        y = self.right(case)[0][0]
        assert y is not None
        return y

    # ---------------------------------------------------------------------------------------------------- the verdict

    def match(self, predict: Predict, name: str) -> Match:
        """Compare a hypothesis with every record, as long as some argument that is wrong agrees with it.

        A prediction may be None for an argument, and may raise at a case where it is not defined.  name: of the
        hypothesis, so that one that was refuted by far is not tested again.
        """
        alive = dict.fromkeys(self.arguments, 0)
        contradicted: set[str] = set()
        if name in self._refuted or self._is_far_off(predict):
            self._refuted.add(name)
            return Match({}, contradicted)
        for record, row in self.rows:
            if not self.open & alive.keys():
                break
            case = record.evidence.case
            try:
                predicted = predict(case)
                if self._is_silent_on_y(predicted.values[0], case):
                    alive.pop("y", None)
                if not self.open & alive.keys():
                    break
                tolerances = predicted.tolerance() if predicted.tolerance else (None,) * len(row)
            except Exception:  # not defined there, or not for these shapes
                continue
            for argument, sample, value, tolerance in zip(
                self.arguments, row, predicted.values, tolerances, strict=True
            ):
                if sample is None or value is None:
                    if sample is not None and sample.expected.shape != sample.got.shape:
                        alive.pop(argument, None)
                    continue
                agrees, visible = self._agrees(sample, value, tolerance)
                if visible and not agrees:
                    contradicted.add(argument)
                if not agrees:
                    alive.pop(argument, None)
                elif argument in alive:
                    alive[argument] += visible
        return Match({a: n for a, n in alive.items() if n and a in self.open}, contradicted)

    def _is_far_off(self, predict: Predict) -> bool:
        """Whether a hypothesis differs from all that is wrong, in some case of moderate numbers, by more than any
        rounding: most do, and this is seen without their tolerances."""
        for record, row in self._moderate_rows()[:PROBES]:
            try:
                values = predict(record.evidence.case).values
            except Exception:
                continue
            asked = self.open - {"y"} if self._is_silent_on_y(values[0], record.evidence.case) else self.open
            pairs = zip(self.arguments, row, values, strict=True)
            if all(self._far(sample, value) for argument, sample, value in pairs if argument in asked):
                return True
        return False

    def _is_silent_on_y(self, y: Tensor | None, case: Case) -> bool:
        """Whether a hypothesis is about cotangents alone: then it cannot explain y, in whatever case."""
        return y is None or torch.equal(y, self.value(case))

    @staticmethod
    def _far(sample: Sample | None, value: Tensor | None) -> bool:
        if sample is None or value is None or sample.got.shape != value.shape or not value.numel():
            return sample is not None and value is not None and sample.got.shape != value.shape
        if sample.judged.shape != value.shape:
            return False
        value = value.double()
        largest = value.abs().nan_to_num(0, 0, 0).max()
        off = (value - sample.got).abs() > FAR * largest + APART**2 * sample.allowance
        return bool((off & sample.judged & value.isfinite()).any())

    def _agrees(self, sample: Sample, value: Tensor, tolerance: Tensor | None) -> tuple[bool, bool]:
        """Whether the candidate returned this value, and whether it is visibly not the right one.

        A value that is not finite never counts as a match.
        """
        value = value.double()
        loose = self.slack * value.abs().nan_to_num(0, 0, 0).max() if value.numel() else 0
        if value.shape != sample.expected.shape:
            agrees = value.shape == sample.got.shape and bool(value.isfinite().all())
            return agrees and bool(((value - sample.got).abs() <= loose).all()), bool(value.numel())
        if tolerance is None or tolerance.shape != value.shape:
            tolerance = 4 * sample.allowance + loose
        elif self.moderate:
            tolerance = tolerance + loose
        judged = sample.judged & value.to(self.dtype).isfinite() & tolerance.isfinite()
        visible = ((value - sample.expected).abs() > APART * (tolerance + sample.allowance))[judged]
        if sample.got.shape != value.shape:
            return False, bool(visible.any())
        close = (value - sample.got).abs() <= tolerance + 2 * torch.finfo(self.dtype).eps * value.abs()
        return bool(close[judged].all()), bool(visible.any())

    def matched(self, predict: Predict, sentence: str, name: str = "") -> Iterator[Explanation]:
        """The explanation that a hypothesis is, with its evidence, if it holds for some argument.

        name: what tells it from other hypotheses, if the sentence does not.
        """
        if self.open and (seen := self.match(predict, name or sentence).seen):
            yield Explanation(seen.keys(), f"{sentence}; {self.cases(max(seen.values()))}")

    def cases(self, seen: int) -> str:
        """The evidence of a match."""
        which = f" of the {len(self.records)} cases that are of moderate size" if self.moderate else ""
        total = f"{len(self.rows)}{which}" if self.moderate else f"{len(self.rows)} cases"
        return f"so in every one of {total}, and visibly not right in {seen} of them"

    def fits(self, argument: str, parts: Callable[[Sample], Sequence[Tensor]]) -> list[Fit]:
        """The factors of the parts in every case that determines them; none at all if one contradicts."""
        found = []
        for sample in self.column(argument):
            try:
                fitted = fit(sample, parts(sample), self.slack)
            except Exception:  # no such parts there
                continue
            if fitted == "contradicts":
                return []
            if isinstance(fitted, Fit):
                found.append(fitted)
        return found

    def tell(self, explanation: Explanation) -> None:
        """Note an explanation; its arguments are explained from now on, and none is explained twice."""
        named = [a for a in self.unexplained() if a in explanation.arguments]
        if not named:
            return
        names = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
        sentence = explanation.sentence
        if len(named) > 1:
            for singular, plural in PLURAL.items():
                sentence = sentence.replace(f"{{}} {singular} ", f"{{}} {plural} ")
        self.found.append(sentence.replace("{}", names, 1))
        self.open -= set(named)
