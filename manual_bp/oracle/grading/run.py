"""One run of `grade`: a candidate is called at every case, and then what it returned is judged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.foreign import readable
from manual_bp.oracle.calling.accepted import for_inputs, variants
from manual_bp.oracle.calling.isolation import CandidateEnded
from manual_bp.oracle.case import Case, Further
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.explaining import explain
from manual_bp.oracle.grading.called import SEEN
from manual_bp.oracle.grading.families import family, in_order
from manual_bp.oracle.grading.repeated import chosen, repeated
from manual_bp.oracle.grading.untrusted import Asked, Process, Untrusted
from manual_bp.oracle.grading.verdict import TOLD, FirstFailing, Verdict
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.oracle.truth.kept import Generated, said
from manual_bp.rule import Rule


class Run:
    """What is asked of one candidate, and what was found."""

    def __init__(
        self,
        rule: Rule,
        dtype: torch.dtype,
        device: str,
        seed: int,
        conventions: Conventions,
        declared: Declared,
        strict: bool,
    ) -> None:
        """rule: with the declared defaults.

        The cases are made here, and what is due at them is looked for when all were answered.
        """
        self.rule, self.dtype, self.device, self.seed = rule, dtype, device, seed
        self.conventions, self.declared, self.strict = conventions, declared, strict
        self.contract = contract_of(dtype)
        self._made = Generated(rule, dtype, device, self.contract, conventions, declared, seed)
        self.report = Report(rule.name, "", device)
        self._first: FirstFailing | None = None
        self._case: Case | None = None
        self._ended = ""

    def grade(self, process: Process, target: str, diagnose: float) -> None:
        """Load the candidate that is named so, call it at every case, and judge what it returned.

        diagnose: seconds that the search for the cause may take; 0 for none, and then what follows the first case that
        is wrong is not judged.
        """
        try:
            candidate = process.load(target)
            for_inputs(candidate, tuple(self.rule.inputs))
            asked = self.asked()
            with suppress(CandidateEnded):  # which is raised again when what it did not answer is judged
                candidate.answer(self.rule, asked)
            comparison = Comparison(
                candidate,
                self.rule,
                self.dtype,
                self.device,
                self.contract,
                self.conventions,
                self.strict,
                declared=self.declared,
            )
            self.report = comparison.report
            self._judge(comparison, candidate, asked, to_the_end=diagnose > 0)
            comparison.finish(generated=True)
            seen = candidate.seen()
            self.report.notes += [words for name, words in SEEN.items() if name in seen]
            explain(comparison, diagnose)
        except CandidateEnded as error:
            self._ended = readable(str(error))

    def asked(self) -> list[Asked]:
        """Every case at which a candidate is called, in order."""
        generator = torch.Generator().manual_seed(self.seed + 1)  # other numbers than those of these cases
        again = {id(case) for case in chosen(self._made.cases)}
        asked = []
        for case in in_order(self.rule, self._made.cases):
            asked.append(Asked(case))
            if id(case) in again:
                asked += repeated(self.rule, case, generator)
        return asked

    def _judge(self, comparison: Comparison, candidate: Untrusted, asked: Sequence[Asked], to_the_end: bool) -> None:
        positions = {id(case): position for position, case in enumerate(self._made.cases)}
        ordinary: Evidence | None = None
        for case, *_ in asked:
            if self.report.mismatches and isinstance(case, Further):
                break  # they come last, and would say nothing new
            if self.report.mismatches and not to_the_end:
                return
            self._case = case
            found = self._made.at(positions[id(case)]) if id(case) in positions else self._evidence(case)
            if isinstance(found, Evidence):
                found = replace(found, case=case)  # by which its answer is found
                ordinary = ordinary or found
            comparison.judge_case(found)
            self._note_first()
        self._case = None
        if ordinary is not None:
            for name, variant in variants(candidate).items():
                comparison.judge_case(replace(ordinary, case=replace(ordinary.case, name=name)), variant)
            comparison.judge_defaults(ordinary)
            comparison.repeat()
            comparison.try_beside()
        self._note_first()

    def _evidence(self, case: Case) -> Evidence | str:
        found = evidence(self.rule, case, self.contract, self.conventions)
        return said(case, found) if isinstance(found, str) else found

    def _note_first(self) -> None:
        """Where it failed first, if it has failed by now."""
        if self._first is None and self.report.mismatches:
            first = self.report.mismatches[0]
            words = first.case if self._case is None else family(self.rule, self._case)
            self._first = FirstFailing(words, first.case, first.argument)

    def verdict(self, target: str) -> Verdict:
        """What was found."""
        report = self.report
        report.clean()  # where it was ended, nobody has
        found = [*report.diagnoses, *report.patterns]
        passed = report.passed and not self._ended
        first = self._first
        if self._ended:
            found.insert(len(found) if report.mismatches else 0, self._ended)
            if first is None and self._case is not None:
                first = FirstFailing(family(self.rule, self._case), self._case.name)
        if not (found or passed):
            found = [str(m) for m in report.mismatches[:1]] or [f"not tested: {text}" for text in report.not_tested]
        return Verdict(
            passed,
            target,
            self.rule.name,
            str(self.dtype).removeprefix("torch."),
            self.device,
            self.seed,
            first,
            found[0] if found else "",
            found,
            report.mismatches[:TOLD],
            len(report.mismatches),
            report.findings,
            report.not_tested,
            report.notes,
            report.cases,
        )
