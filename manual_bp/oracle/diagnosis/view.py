"""What a candidate returned, and what of it counts now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases import is_moderate
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS
from manual_bp.oracle.diagnosis.forms import Form, Kept
from manual_bp.oracle.diagnosis.hypothesis import Prediction, Record, Row, Sample, Values, wide
from manual_bp.oracle.diagnosis.records import end_of, more_records
from manual_bp.oracle.results import is_dense
from manual_bp.rule import Vjp
from manual_bp.signature import computing_dtype

# Larger cases are left out: every explanation is computed at every case.
EXPLAINED = 10**5
# A case of more elements takes long to explain.
LARGE = 4096
# So many cases with something wrong, and without, are looked at; more would take longer and tell nothing new.
WRONG, RIGHT = 60, 60
# So few records leave factors of lengths and hyperparameters open, and more are drawn.
FEW = 4


class View:
    """A candidate's results in one form of its rule, and the arguments that are still to be explained.

    rows: the records that count now, each with one sample per argument (see `look`).
    """

    def __init__(
        self,
        rule: Form,
        candidate: Vjp | None,
        records: Sequence[Record],
        wrong: Collection[str],
        conventions: Conventions,
        deadline: Deadline | None = None,
    ) -> None:
        self.rule, self.candidate, self.conventions = rule, candidate, conventions
        self.deadline = deadline or Deadline()
        self.arguments = rule.arguments
        whole = [r for r in records if len(r.results) == len(self.arguments)]
        self.records = [r for r in whole if r.evidence.case.dy.numel() <= EXPLAINED]
        self.large = [r for r in whole if r.evidence.row is not None]
        self._whole: dict[int, Record] = {}
        for record in self.large:
            if (end := end_of(record)) is not None:
                self.records.append(end)
                self._whole[id(end.evidence.case)] = record
        self.reported = frozenset(wrong)
        asked = rule.arguments_of(wrong)
        self.open = {a for i, a in enumerate(self.arguments) if a in asked or self._is_misshapen(i)}
        self.looked_at = ""
        self._kept: dict[int, tuple[Values, Values]] = {}
        self._forward: dict[int, tuple[Tensor, Kept]] = {}
        self._views: dict[object, tuple[list[Row], set[str]]] = {}
        if not self.records or not self.open:
            return
        self.dtype = self.records[0].evidence.case.dy.dtype
        # Roundings of what is computed, and one of the result.
        self.slack = ROUNDINGS * torch.finfo(computing_dtype(self.dtype)).eps + 2 * torch.finfo(self.dtype).eps
        if candidate is not None and len(self.records) < FEW:
            self.records += more_records(rule, candidate, self.dtype, conventions, self.deadline)
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
        return self.rule.call(self.candidate, case, dy, inputs)

    # ------------------------------------------------------------------------------------------------------- the page

    def at(self, case: Case, rule: Form | None = None, **other: Any) -> Prediction:
        """The rule (or another one) in float64 at the case with other inputs, cotangent or hyperparameters."""
        own = (rule is None or rule is self.rule) and not other.keys() - {"dy"}
        rule = rule or self.rule
        inputs, dy = other.get("inputs", case.inputs), other.get("dy", case.dy)
        hyper = other.get("hyper", case.hyper)
        if own:
            y, kept = self.forward(case)
            grads = rule.backward(kept, wide(dy))
        else:
            y, grads = rule.vjp(tuple(wide(x) for x in inputs), wide(dy), **hyper)

        def tolerance() -> Values:
            return rule.widths(case, contract_of(self.dtype), inputs=inputs, dy=dy, hyper=hyper)

        return Prediction((y, *grads), tolerance)

    def forward(self, case: Case) -> tuple[Tensor, Kept]:
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

    def is_silent_on_y(self, y: Tensor | None, case: Case) -> bool:
        """Whether a hypothesis is about cotangents alone: then it cannot explain y, in whatever case.

        Of a page without backward none is, though it may change y in some cases alone.
        """
        return y is None or (self.rule.has_backward and torch.equal(y, self.value(case)))


def _spread(records: list[Record], most: int) -> list[Record]:
    """So many of the records at most, evenly spread."""
    return records if len(records) <= most else [records[i * len(records) // most] for i in range(most)]
