"""One run of `compare`: a candidate is called at each case, its results are judged, and the report is gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle.calling.calls import call, call_again, call_filled, call_often
from manual_bp.oracle.calling.invocation import Call, passable
from manual_bp.oracle.calling.raising import tracebacks
from manual_bp.oracle.calling.results import same_bits
from manual_bp.oracle.calling.unwritten import NEVER
from manual_bp.oracle.case import NOT_RECORDED, Case, Further
from manual_bp.oracle.cases.declared import NOTHING, Declared, untaken
from manual_bp.oracle.cases.supplied import tensor_of
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.judgement import Judge
from manual_bp.oracle.kinds import Kinds
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.trials import own_defaults, trials
from manual_bp.oracle.truth.certified import certified_module
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import Evidence, raises
from manual_bp.oracle.vacuity import structurally_zero, untested
from manual_bp.oracle.words import counted, whose
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# Elements of a case that is called many times, and of one that is called once more with its memory filled: larger ones
# show nothing that these do not.
REPEATED = range(1000, 2**15)
FILLED = 2**12
# So many cases that are there for their size alone are enough to explain what is wrong in them.
EXPLAINED = 6


class Comparison:
    """One run of `compare`: gathers a report, case by case."""

    def __init__(
        self,
        candidate: Vjp | None,
        rule: Rule,
        dtype: torch.dtype,
        device: str,
        contract: Contract,
        conventions: Conventions,
        strict: bool,
        kinds: bool = True,
        declared: Declared = NOTHING,
    ) -> None:
        """rule: with the declared defaults.

        kinds: whether to tell the kinds of mismatches apart; else all are "wrong".
        """
        self.candidate = candidate
        self.rule = rule
        self.dtype = dtype
        self.strict = strict
        self.judge = Judge(rule, dtype, device, Kinds(rule, dtype, contract, conventions), strict, kinds)
        self.report = self.judge.report
        self.conventions = conventions
        self.contract = contract
        self.arguments = rule.arguments
        self.outputs = len(rule.outputs)
        self.records: list[Record] = []
        self.declared = declared
        self.raised: list[tuple[str, Case]] = []
        self.untaken: dict[str, list[str]] = {}
        self.seen: list[str] = []
        self.right: list[Record] = []
        self.answered: list[Case] = []
        self.beside: list[str] = []
        self.tried: set[str] = set()
        self.repeated = False
        self.filled: set[object] = set()
        self.long: list[Record] = []
        self.unwritten: dict[str, str] = {}
        self.refusing: list[tuple[str, Case]] = []

    def judge_case(self, found: Evidence | str, variant: Vjp | None = None) -> None:
        """Judge the candidate at a case, and count it; variant: a way to call it, if not as it is."""
        report = self.report
        judged, wrong, raised = report.cases, len(report.mismatches), len(self.raised)
        self._judge_case(found, variant)
        is_wrong = len(report.mismatches) > wrong
        if report.cases > judged:
            report.failed += is_wrong
        elif len(self.raised) > raised:
            report.raised += 1
        elif is_wrong:
            report.malformed += 1
        else:
            report.left_out += 1

    def _judge_case(self, found: Evidence | str, variant: Vjp | None) -> None:
        if isinstance(found, str):
            if found not in self.report.not_tested:
                self.report.not_tested.append(found)
            return
        case, candidate = found.case, variant or self.candidate
        self.seen.append(case.name)
        results = self._recorded(case) if candidate is None else self._called(candidate, found)
        if results is None:
            return
        self.report.cases += 1
        self.answered.append(case)
        before = len(self.report.mismatches)
        self.judge_results(candidate, found, results)
        is_wrong = len(self.report.mismatches) > before
        if not isinstance(case, Further):
            self.records.append(Record(found, results))
            if not is_wrong:
                self.right.append(self.records[-1])
            if not is_wrong and variant is None and found.row is None and case.elements in REPEATED:
                self.long.append(Record(found, results))
        elif is_wrong and sum(isinstance(r.evidence.case, Further) for r in self.records) < EXPLAINED:
            self.records.append(Record(found, results))

    def judge_results(self, candidate: Vjp | None, found: Evidence, results: tuple[Any, ...]) -> None:
        case = found.case
        if found.dispute:
            self.report.mismatches.append(
                Mismatch(
                    "wrong",
                    self.arguments[0],
                    case.name,
                    f"the page's forward is not torch's function: {found.dispute}",
                )
            )
            return
        for argument, got in zip(self.arguments, results, strict=True):
            if got is not NOT_RECORDED and self.judge.fits(argument, found, got):
                self.judge.judge(candidate, argument, found, got, results[self.outputs :])

    def judge_defaults(self, found: Evidence) -> None:
        """Judge the candidate at a case where every hyperparameter that has a default is left to it, if it has them."""
        own = [name for name in self.rule.defaults if name not in dict(self.declared.hyper)]
        hyper = {name: value for name, value in found.case.hyper.items() if name not in own}
        if self.candidate is None or hyper.keys() == found.case.hyper.keys():
            return
        case = replace(found.case, hyper=hyper, name="the candidate's own defaults")
        if isinstance(passable(self.candidate, self.rule, hyper), list):
            return
        told = call(self.candidate, self.rule, found.case).results
        results = call(self.candidate, self.rule, case, found.expected).results
        if results is not None and not _are_alike(results, told):  # else its defaults are the rule's
            before = len(self.report.mismatches)
            self.report.cases += 1
            self.judge_results(self.candidate, replace(found, case=case), results)
            self.report.failed += len(self.report.mismatches) > before
            is_wrong = len(self.report.mismatches) > before
            # Of what has gone wrong meanwhile, as after so many calls, the defaults are not the cause.
            if is_wrong and not _are_alike(results, call(self.candidate, self.rule, found.case).results):
                self.beside.append(own_defaults(self.candidate, self.rule, own))
                self.tried.add(case.name)

    def repeat(self) -> None:
        """Call the candidate many times at the case with the most rows, if it was right so far."""
        if self.candidate is None or self.report.mismatches or not self.long:
            return
        found, results = max(self.long, key=lambda r: max(len(x) if x.ndim else 0 for x in r.evidence.case.tensors))
        often = call_often(self.candidate, self.rule, found.case, results)
        self._take_in(often, found.case)
        for argument, a, b in zip(self.arguments, results, often.results or (), strict=False):
            if b is not a and self.judge.fits(argument, found, b):
                assert often.results is not None
                self.judge.judge(
                    self.candidate, argument, found, b, often.results[self.outputs :], "; in some of many calls alike"
                )
        self.report.failed += bool(self.report.mismatches)

    def try_beside(self) -> None:
        """What is tried beside the cases (`manual_bp.oracle.trials`)."""
        if self.candidate is None:
            return
        for fault in trials(self.candidate, self.rule, self.dtype, self.report.device, self.right, self.declared):
            case = Case((), None, name=fault.case)
            if fault.is_error:
                self.judge.trap(fault.argument, case, fault.text)
                self.tried.add(fault.case)
            else:
                self.judge.finding(fault.argument, case, fault.text)
            if fault.diagnosis and fault.diagnosis not in self.beside:
                self.beside.append(fault.diagnosis)

    def finish(self, generated: bool) -> Report:
        """The report, but for the cause.  generated: whether the cases are all that the rule has, and not somebody's
        choice of them."""
        report = self.report
        if certified_module() is None:
            report.not_tested.append(
                "certified truth: python-flint is not installed, so torch in float64 stands for it, and a convention "
                "at a kink cannot be told from an error; pip install 'manual-bp[truth]'"
            )
        if lacking := getattr(self.rule.page, "UNCERTIFIED", ""):
            self.judge.note(f"not certified: {lacking}, which ball arithmetic does not know; truth is torch in float64")
        if against := getattr(self.rule.page, "BROADCAST", ""):
            self.judge.note(f"{against}; give both one shape if they are meant to be alike")
        report.findings[:0] = tracebacks(self.raised)
        for text in tracebacks(self.refusing):
            report.findings.append(f"raises at sizes that were not given, or without an input that was: {text}")
        for name, names in self.untaken.items():
            report.untested_hyper.append(name)
            report.not_tested.append(untaken(name, names, self.rule.defaults.get(name), whose(self.rule)))
        if left_out := self.declared.left_out(self.rule, self.seen):
            report.not_tested.append(left_out)
        if generated:
            report.not_tested += [
                f"{name} > {most}: the work of the function grows with it; a longer one in inputs= is tried"
                for name, most in getattr(self.rule.page, "GROWING", {}).items()
            ]
            report.not_tested += [*self._at_one_value(), *self._of_one_shape(), *getattr(self.rule.page, "UNMET", ())]
        report.notes += self.declared.notes()
        for (argument, kind, detail), found in self.judge.excused.items():
            worst = max(found, key=lambda m: m.error_over_allowance or 0.0)
            count, shown = counted(len({m.case for m in found}), "case"), str(replace(worst, detail=""))
            report.notes.append(f"{kind}: {argument} {detail}; in {count}, worst: {shown.removeprefix(f'{kind}: ')}")
        for argument in self.judge.required:
            why = self._untested(argument, generated)
            if why:
                report.untested_arguments.append(argument)
                report.not_tested.append(f"{argument}: {why}")
        report.clean()
        return report

    def _at_one_value(self) -> list[str]:
        """Hyperparameters of a function of which nobody said what else they may be, and that no case set otherwise."""
        if self.candidate is None or not hasattr(self.rule.page, "FUNCTION"):
            return []
        alone = {
            name: value
            for name, value in self.rule.ordinary.items()
            if name not in dict(self.declared.hyper)
            and name not in self.untaken
            and all(case.hyper.get(name, value) == value for case in self.answered)
        }
        return [
            f"{name} other than {value!r}: "
            + (
                "annotate it as Literal[...] of the words that it may be"
                if isinstance(value, str)
                else f'pass hyper={{"{name}": ...}} to have another one tried'
            )
            for name, value in alone.items()
        ]

    def _of_one_shape(self) -> list[str]:
        """Inputs of a function that are never of another shape, nor are those that share an axis with them."""
        fixed = getattr(self.rule.page, "OF_ONE_SHAPE", {})
        if self.candidate is None or not fixed:
            return []
        shapes = ", ".join(f"{name} {shape}" for name, shape in fixed.items())
        name, shape = next(iter(fixed.items()))
        return [
            f"lengths other than those of {shapes}: what is given as a tensor, or by a function without a shape, stays "
            f'of its shape; pass inputs={{"{name}": ({shape}, draw)}} of a draw(shape, generator) to have others tried'
        ]

    def _untested(self, argument: str, generated: bool) -> str:
        """Why a required argument was not tested; "" if it was, or need not be."""
        judged = self.judge.judged[argument]
        if not self.report.cases:
            return "no case came so far that a result could be judged"
        if not self.report.worst[argument].by_case and self.judge.is_optional(argument):
            return ""
        if generated and structurally_zero(judged):
            self.judge.note(f"{argument}: exactly 0 is due in every case, as it has to be if y does not depend on it")
            return ""
        return untested(judged, self.dtype, linear=not self.judge.is_output(argument))

    def _recorded(self, case: Case) -> tuple[Any, ...]:
        y = case.y if self.outputs > 1 and isinstance(case.y, tuple | list) else (case.y,) * self.outputs
        y = tuple(NOT_RECORDED if part is None else part for part in y)
        grads = case.grads if case.grads is not None else (NOT_RECORDED,) * len(self.rule.inputs)
        return tuple(
            g if g is None or g is NOT_RECORDED else tensor_of(g, self.dtype, self.report.device) for g in (*y, *grads)
        )

    def _called(self, candidate: Vjp, found: Evidence) -> tuple[Any, ...] | None:
        case = found.case
        hyper = passable(candidate, self.rule, case.hyper)
        if isinstance(hyper, list):
            for name in hyper:
                self.untaken.setdefault(name, []).append(case.name)
            return None
        called = call(candidate, self.rule, case, found.expected)
        if (
            called.raised
            and hasattr(self.rule.page, "FUNCTION")
            and (why := raises(self.rule, case.inputs, case.hyper))
        ):
            self.report.not_tested.append(f"case {case.name!r}: {why}")  # in this dtype, and not in float64
            return None
        if called.raised and not self.strict and not self._is_given(case):
            self.refusing.append((called.raised, case))
            return None
        self._take_in(called, case)
        if called.results is not None and not self.repeated and all(d.numel() for d in parts(case.dy) if d is not None):
            self.repeated = True  # once is enough
            self._take_in(call_again(candidate, self.rule, case, called.results), case)
        shapes = tuple(x.shape for x in case.tensors)
        small = not isinstance(case, Further) or sum(map(torch.Size.numel, shapes)) <= FILLED
        if called.results is not None and small and shapes not in self.filled:  # what is written depends on sizes alone
            self.filled.add(shapes)
            for argument, text in call_filled(candidate, self.rule, case, called.results).items():
                self.judge.trap(argument, case, text)
                words = f"not written in full: {text}" if text.startswith(NEVER) else text
                self.unwritten.setdefault(argument, f"{argument} is {words}, in case {case.name!r}")
        return called.results

    def _is_given(self, case: Case) -> bool:
        """Whether a case has the inputs, sizes and numbers for hyperparameters that the caller named, where the
        reference is a function: at others it may be that the candidate is not meant for them, and nobody said so."""
        named = case.named(self.rule)
        shapes = getattr(self.rule.page, "GIVEN", {})
        if not all(name in named and tuple(named[name].shape) == shape for name, shape in shapes.items()):
            return False
        ordinary = self.rule.ordinary if hasattr(self.rule.page, "FUNCTION") else {}
        numbers = {n: value for n, value in ordinary.items() if type(value) in (int, float)}
        return all(case.hyper.get(name, value) == value for name, value in numbers.items())

    def _take_in(self, called: Call, case: Case) -> None:
        """What was seen beside the results; what is right but may harm is a mismatch under strict."""
        for argument, text in called.traps:
            self.judge.trap(argument, case, text)
        if called.raised:
            self.raised.append((called.raised, case))
        for argument, text in called.findings:
            self.judge.finding(argument, case, text)
        for argument, text in called.differences:
            if self.strict:
                self.judge.trap(argument, case, text)
            else:
                self.judge.note(text)
        for text in called.notes:
            self.judge.note(text)


def _are_alike(results: Sequence[Any], others: Sequence[Any] | None) -> bool:
    """Whether two calls gave the same bits."""
    return others is not None and all(
        same_bits(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
        for a, b in zip(results, others, strict=True)
    )
