"""What a candidate returned, and how a hypothesis about it is tested."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.oracle.calling import call
from manual_bp.oracle.cases import Case, is_moderate
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis.agreement import agrees, is_settled
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS, Fit, Sample, fit
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Match, Predict, Prediction, Record, Row, Values, wide
from manual_bp.oracle.diagnosis.records import end_of, more_records
from manual_bp.oracle.diagnosis.refutation import (
    agrees_at_whole,
    is_far_off,
    is_refuted_beyond,
    probes_of,
)
from manual_bp.oracle.results import is_dense
from manual_bp.oracle.words import counted, listed, some
from manual_bp.rule import Rule, Vjp, computing_dtype

# Larger cases are left out: every explanation is computed at every case.
EXPLAINED = 10**5
# A case of more elements takes long to explain.
LARGE = 4096
# So many cases with something wrong, and without, are looked at; more would take longer and tell nothing new.
WRONG, RIGHT = 60, 60
# So few records leave factors of lengths and hyperparameters open, and more are drawn.
FEW = 4
# What is said of failing cases alone rests on so many wrong numbers.
EVIDENT = 3
# So many cases are named.
NAMED = 3
PLURAL = {
    "{} is that of": "{} are those of",
    **{
        f"{{}} {one} ": f"{{}} {several} "
        for one, several in {"is": "are", "equals": "equal", "takes": "take", "has": "have", "leaves": "leave"}.items()
    },
    ": it is that of ": ": they are those of ",
    ": it is ": ": they are ",
    ": it ignores ": ": they ignore ",
    "what it should be": "what they should be",
    " its own ": " their own ",
    "one of its sums": "one of their sums",
}
"""What is said of several arguments in place of what is said of one."""


class Examination:
    """A candidate's results, and the arguments that are still to be explained.

    rows: the records that count now, each with one sample per argument (see `look`).
    """

    def __init__(
        self,
        rule: Rule,
        candidate: Vjp | None,
        records: Sequence[Record],
        wrong: Collection[str],
        conventions: Conventions,
        deadline: Deadline | None = None,
    ) -> None:
        self.rule, self.candidate, self.conventions = rule, candidate, conventions
        self.deadline = deadline or Deadline()
        self.arguments = ("y", *(f"d{name}" for name in rule.inputs))
        whole = [r for r in records if len(r.results) == len(self.arguments)]
        self.records = [r for r in whole if r.evidence.case.dy.numel() <= EXPLAINED]
        self.large = [r for r in whole if r.evidence.row is not None]
        self._whole: dict[int, Record] = {}
        for record in self.large:
            if (end := end_of(record)) is not None:
                self.records.append(end)
                self._whole[id(end.evidence.case)] = record
        self.open = {a for i, a in enumerate(self.arguments) if a in wrong or self._is_misshapen(i)}
        self.looked_at = ""
        self.found: list[str] = []
        self.shared: dict[str, str] = {}
        self._kept: dict[int, tuple[Values, Values]] = {}
        self._forward: dict[int, tuple[Tensor, Any]] = {}
        self._views: dict[object, tuple[list[Row], set[str]]] = {}
        self._refuted: set[object] = set()
        self._probed: dict[object, list[Row]] = {}
        self._matches: dict[object, Match] = {}
        if not self.records or not self.open:
            return
        self.dtype = self.records[0].evidence.case.dy.dtype
        # Roundings of what is computed, and one of the result.
        self.slack = ROUNDINGS * torch.finfo(computing_dtype(self.dtype)).eps + 2 * torch.finfo(self.dtype).eps
        if candidate is not None and len(self.records) < FEW:
            self.records += more_records(self)
        self.look()
        self._leave_out()
        rank = self._ranks()
        # What refutes most comes first, and what takes long last.
        self.records.sort(key=lambda r: (r.evidence.row is not None, r.evidence.case.dy.numel() > LARGE, rank[id(r)]))
        self._views.clear()
        self.look()

    def _leave_out(self) -> None:
        """Of too many records, keep those that tell most: where something is wrong, and evenly spread over all."""
        parts: tuple[list[Record], list[Record]] = [], []
        for record, row in self.rows:
            parts[not any(s.error > 1 for _, s in self.wrong(row))].append(record)
        kept = {id(r) for part, most in zip(parts, (WRONG, RIGHT), strict=True) for r in _spread(part, most)}
        if len(kept) < len(self.records):
            self.looked_at = " looked at"
            self.records = [r for r in self.records if id(r) in kept or r.evidence.row is not None]
            self._views.clear()
            self.look()

    def _ranks(self) -> dict[int, int]:
        """The place of each record among all, by how wrong that argument is there in which it is wrong most, compared
        with the same argument elsewhere: the worst of each argument come first."""
        ranks: dict[int, int] = {}
        for argument in sorted(self.open):
            position = self.arguments.index(argument)
            samples = ((id(r), row[position]) for r, row in self.rows)
            errors = {key: 0.0 if sample is None else sample.error for key, sample in samples}
            for rank, key in enumerate(sorted(errors, key=lambda key: -errors[key])):
                ranks[key] = min(rank, ranks.get(key, rank))
        return ranks

    # -------------------------------------------------------------------------------------------------- what is judged

    def look(self, kinks: bool = True, moderate: bool = False, failing: bool = False) -> None:
        """Choose what counts from now on.

        kinks: judge values at kinks and ties too, where a known mistake may be all there is; without, a formula is
        asked nothing about conventions. moderate: only cases of moderate finite numbers at which the candidate is
        finite, with some roundings allowed: a candidate that is wrong in one way often loses digits or overflows too.
        failing: of each argument that is to be explained only the cases in which it is wrong: what is right for most
        hyperparameters and sizes has its cause there.
        """
        self.kinks, self.moderate, self.failing = chosen = kinks, moderate, failing
        if chosen not in self._views:
            samples = [(r, [self.sample(r, i) for i in range(len(self.arguments))]) for r in self.records]
            rows = [(r, row) for r, row in samples if not moderate or self._is_moderate(r.evidence.case, row)]
            if failing:
                rows = [(r, [s if self._is_failing(i, s) else None for i, s in enumerate(row)]) for r, row in rows]
                rows = [(r, row) for r, row in rows if any(s is not None for s in row)]
            failed = {a for _, row in rows for i, a in enumerate(self.arguments) if self._is_failing(i, row[i])}
            self._views[chosen] = rows, failed
        self.rows, self._failed = self._views[chosen]

    @property
    def asked(self) -> set[str]:
        """The arguments that are to be explained and are wrong somewhere in what counts now."""
        return self.open & self._failed

    def _is_failing(self, position: int, sample: Sample | None) -> bool:
        return self.arguments[position] in self.open and sample is not None and sample.error > 1

    def probes(self) -> list[Row]:
        """The cases at which a hypothesis is asked first."""
        key = (self.failing, frozenset(self.asked))
        if key not in self._probed:
            chosen = self.kinks, self.moderate, self.failing
            self.look(kinks=False, failing=self.failing)
            self._probed[key] = probes_of(self)
            self.look(*chosen)
        return self._probed[key]

    def sample(self, record: Record, position: int) -> Sample | None:
        """What was returned for one argument, with what should have been."""
        found, got = record.evidence, record.results[position]
        if not isinstance(got, Tensor) or not is_dense(got):
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
        return [a for a in self.arguments if a in self.asked]

    def numbers(self, argument: str) -> int:
        """How many numbers of an argument are judged, over all records."""
        return sum(int(s.judged.sum()) for s in self.column(argument))

    def _is_moderate(self, case: Case, row: Sequence[Sample | None]) -> bool:
        """Numbers of moderate size, at which the candidate is finite and the right formula does not lose its digits."""
        return is_moderate(case) and all(
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
        self.deadline.check()
        return call(self.candidate, self.rule, replace(case, inputs=inputs or case.inputs, dy=dy)).results

    # ------------------------------------------------------------------------------------------------------- the page

    def at(self, case: Case, rule: Rule | None = None, **other: Any) -> Prediction:
        """The rule (or another one) in float64 at the case with other inputs, cotangent or hyperparameters."""
        own = (rule is None or rule is self.rule) and not other.keys() - {"dy"}
        rule = rule or self.rule
        inputs, dy = other.get("inputs", case.inputs), other.get("dy", case.dy)
        hyper = other.get("hyper", case.hyper)
        if own:
            y, residuals = self.forward(case)
            grads = rule.backward(residuals, wide(dy))
        else:
            y, grads = rule.vjp(tuple(wide(x) for x in inputs), wide(dy), **hyper)

        def tolerance() -> Values:
            width = widths(rule, inputs, dy, contract_of(self.dtype), **hyper)
            return (*width.outputs, *width.grads)

        return Prediction((y, *grads), tolerance)

    def forward(self, case: Case) -> tuple[Tensor, Any]:
        """The rule's value and residuals in float64; kept for the cases of records, since many ask for them."""
        if id(case) in self._forward:
            return self._forward[id(case)]
        found = self.rule.forward(*map(wide, case.inputs), **case.hyper)
        if any(r.evidence.case is case for r in (*self.records, *self.large)):
            self._forward[id(case)] = found
        return found

    def right(self, case: Case) -> tuple[Values, Values]:
        """The rule at the case of a record, and how far off it may be; kept, since every hypothesis asks for it."""
        if id(case) not in self._kept:
            (record,) = (r for r in (*self.records, *self.large) if r.evidence.case is case)
            self._kept[id(case)] = (self.at(case).values, record.evidence.allowance)
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
        key = (name, self.kinks, self.moderate, self.failing)
        if key not in self._matches:  # fewer arguments are open later, never more
            self._matches[key] = self._matched(predict, (name, self.failing))
        match = self._matches[key]
        return match._replace(seen={a: n for a, n in match.seen.items() if a in self.open})

    def _is_refuted(self, predict: Predict, name: tuple[str, bool]) -> bool:
        """Whether a hypothesis is far off, which is kept: by wrong numbers alone, it is among the failing cases too."""
        is_far, is_far_from_wrong = is_far_off(self, predict)
        if is_far:
            self._refuted.add(name)
        if is_far_from_wrong:
            self._refuted.add((name[0], True))
        return is_far

    def _matched(self, predict: Predict, name: tuple[str, bool]) -> Match:
        self.deadline.check()
        alive, silent = dict.fromkeys(self.arguments, 0), dict.fromkeys(self.arguments, 0)
        contradicted: set[str] = set()
        if name in self._refuted or self._is_refuted(predict, name):
            return Match({}, contradicted)
        for record, row in self.rows:
            if not self.asked & alive.keys():
                break
            self.deadline.check()
            case = record.evidence.case
            try:
                predicted = predict(case)
                if self.is_silent_on_y(predicted.values[0], case):
                    alive.pop("y", None)
                if not self.asked & alive.keys():
                    break
                if all(map(is_settled, row, predicted.values)):
                    continue
                tolerances = predicted.tolerance() if predicted.tolerance else (None,) * len(row)
            except Exception:  # not defined there, or not for these shapes
                predicted, tolerances = Prediction((None,) * len(row)), (None,) * len(row)
            for argument, sample, value, tolerance in zip(
                self.arguments, row, predicted.values, tolerances, strict=True
            ):
                if sample is None or value is None:
                    silent[argument] += sample is not None and sample.error > 1
                    continue
                same, visible = agrees(sample, value, tolerance, self.slack, self.moderate, self.dtype)
                if not same and argument in alive:
                    whole = self._whole.get(id(case))
                    same = agrees_at_whole(self, predict, whole, argument, sample)
                    visible |= same
                if visible and not same:
                    contradicted.add(argument)
                if not same:
                    alive.pop(argument, None)
                elif argument in alive:
                    alive[argument] += visible
        # What says nothing of more wrong results than it explains is not why they are wrong.
        seen = {a: n for a, n in alive.items() if n > silent[a] and a in self.asked}
        if self.failing:
            seen = {a: n for a, n in seen.items() if self._wrong_numbers(a) >= EVIDENT}
        if self.moderate and seen:
            seen = {a: n for a, n in seen.items() if not is_refuted_beyond(self, predict, a)}
        return Match(seen, contradicted, max((silent[a] for a in seen), default=0))

    def _wrong_numbers(self, argument: str) -> int:
        """How many numbers of an argument are wrong in what counts now; those of another shape in full."""
        return sum(
            int((~((s.got - s.expected).abs() <= s.allowance) & s.judged).sum())
            if s.got.shape == s.expected.shape
            else s.got.numel()
            for s in self.column(argument)
        )

    def is_silent_on_y(self, y: Tensor | None, case: Case) -> bool:
        """Whether a hypothesis is about cotangents alone: then it cannot explain y, in whatever case."""
        return y is None or torch.equal(y, self.value(case))

    def matched(self, predict: Predict, sentence: str, name: str = "") -> Iterator[Explanation]:
        """The explanation that a hypothesis is, with its evidence, if it holds for some argument.

        name: what tells it from other hypotheses, if the sentence does not.
        """
        if self.asked and (match := self.match(predict, name or sentence)).seen:
            yield Explanation(match.seen.keys(), f"{sentence}; {self.cases(match.seen, match.silent)}")

    def cases(self, seen: Mapping[str, int], silent: int = 0) -> str:
        """The evidence of a match: in how many cases each argument is visibly not right, of that with the most, and in
        how many cases nothing was predicted."""
        most = max(seen.values())
        if self.failing:
            return f"so in {self.where_wrong(seen, most)}"
        number = len(self.rows) - silent
        if self.moderate:
            which = f"the {number} of {counted(len(self.records), 'case')}{self.looked_at} that are of moderate size"
            total = f"in each of {which}" if number > 1 else "in the only case of moderate size"
        else:
            total = f"in every one of {number} cases{self.looked_at}" if number > 1 else "in the only case"
        return f"so {total}, and visibly not right {f'in {most} of them' if number > 1 else 'there'}"

    def where_wrong(self, arguments: Collection[str], seen: int) -> str:
        """In so many of the failing cases in which one of the arguments is wrong, in words, with their names."""
        positions = [self.arguments.index(a) for a in arguments]
        wrong = [r.evidence.case.name for r, row in self.rows if any(row[i] is not None for i in positions)]
        which = f"all {len(wrong)} cases" if seen >= len(wrong) else f"{seen} of the {len(wrong)} cases"
        it = "it is" if len(arguments) == 1 else "they are"
        return f"{'the only case' if len(wrong) == 1 else which} in which {it} wrong: {some(map(repr, wrong), NAMED)}"

    def fits(self, argument: str, parts: Callable[[Sample], Sequence[Tensor]]) -> list[Fit]:
        """The factors of the parts in every case that determines them; none at all if one contradicts."""
        found = []
        for sample in self.column(argument):
            self.deadline.check()
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
        named = [a for a in self.arguments if a in self.open and a in explanation.arguments]
        if not named:
            return
        sentence = explanation.sentence
        if len(named) > 1:
            for singular, plural in PLURAL.items():
                sentence = sentence.replace(singular, plural)
        self.found.append(sentence.replace("{}", listed(named), 1))
        self.open -= set(named)


def _spread(records: list[Record], most: int) -> list[Record]:
    """So many of the records at most, evenly spread."""
    return records if len(records) <= most else [records[i * len(records) // most] for i in range(most)]
