"""`audit`: somebody's acceptance test is given right and wrong programs, and what it says of each is reported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch

from manual_bp.foreign import readable
from manual_bp.oracle.audit.conditions import CONDITIONS
from manual_bp.oracle.audit.degenerate import CHANGES, RAISES, VALUE
from manual_bp.oracle.audit.formulas import FORMULAS
from manual_bp.oracle.audit.handed import Handed
from manual_bp.oracle.audit.made import made
from manual_bp.oracle.audit.places import PLACE, UNWRITTEN
from manual_bp.oracle.audit.programs import Program
from manual_bp.oracle.audit.reasons import cannot_fail, compares_with_itself, explain
from manual_bp.oracle.audit.remembered import OVERWRITES, STATE, stateful
from manual_bp.oracle.audit.report import AuditReport, Outcome
from manual_bp.oracle.audit.seen import Seen
from manual_bp.oracle.audit.sizes import KINDS, coarse_first
from manual_bp.oracle.audit.verdicts import Checker, Verdict, ask
from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.calling.time_limit import own_limit
from manual_bp.oracle.functions import rule_of
from manual_bp.oracle.words import counted, listed
from manual_bp.rule import Rule
from manual_bp.signature import DTYPES

# Where a program that remembers is wrong.
IN_A_ROW = "calls in a row"
# After so many programs without a verdict in time no more are tried.
LATE = 3
# A right program, and some others, are tried so often: a checker that tosses a coin is found out with a probability of
# 1 - 2^-(4 + 6).
TIMES, AGAIN = 5, 6
KINDS_OF_WRONG = (*KINDS, *CHANGES, RAISES, VALUE, *FORMULAS, PLACE, UNWRITTEN, *CONDITIONS, STATE, OVERWRITES)
"""Every kind of wrong program that there is; of a rule some may be missing."""

# Programs that are far from any limit, so that no fresh random numbers change the verdict of a checker that looks.
BEYOND_ANY_LIMIT = (*CHANGES, RAISES)


def audit(
    checker: Checker | str,
    against: str | Rule | Callable[..., Any],
    *,
    inputs: Mapping[str, Any] | None = None,
    hyper: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    timeout: float = 20.0,
    seconds: float = 120.0,
    smallest: float = 0.0,
    allow: Collection[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
    on_program: Callable[[str], None] = lambda name: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> AuditReport:
    """What an acceptance test lets pass: it is given right programs of a rule and wrong ones, one at a time.

    checker: is called with a program and returns True or None, or returns False or raises.  The program is a Vjp,
        `program(inputs, dy, **hyper) -> (y, grads)`, and an autograd function, `program.apply(*inputs, **hyper)` or
        `program(x, ...)`.  The name of a ready-made checker, such as "gradcheck", stands for that one.
    against: the rule of which the programs are, or its name; or any differentiable torch function.
    inputs, hyper: of such a function, what is said of its inputs and hyperparameters, as for `compare`.
    dtype: in which the checker promises to see errors; smaller ones than rounding in that dtype are none.
    timeout: seconds that one program may take; without a verdict then the checker is interrupted.  seconds: that all of
        them may take; what is left out then is said.  What it waits for a busy machine does not count (on Linux).
    smallest: errors of a smaller size, as fractions of what is due, need not be seen.  allow: nor need these kinds of
        wrong programs (a report names them).
    on_progress: is called with how many programs have been tried, and how many there are.  on_program, on_outcome: with
        the name of each before it is tried, and with what was said of it.
    Raises ValueError for an unknown rule, dtype, checker or kind.
    """
    if hyper and (isinstance(against, str | Rule) or not callable(against)):
        raise ValueError(f"hyper= is for a function as reference; came {against!r}, whose page says what they are.")
    rule = rule_of(against, inputs, hyper)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {[str(d) for d in DTYPES]}; came {dtype}. Pass dtype=torch.float32.")
    if unknown := [kind for kind in allow if kind not in KINDS_OF_WRONG]:
        raise ValueError(f"allow must name kinds of wrong programs, of {list(KINDS_OF_WRONG)}; came {unknown[0]!r}.")
    for option, value in (("timeout", timeout), ("seconds", seconds), ("smallest", smallest)):
        if not isinstance(value, int | float):
            raise ValueError(f"{option} must be a number; came {value!r:.60}.")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds; came {timeout}.")
    if not (seconds >= 0 and smallest >= 0):
        raise ValueError(f"seconds and smallest must be 0 or more; came {seconds} and {smallest}.")
    name, called = named_checker(checker, rule, dtype)
    run = Audit(name, called, rule, dtype, timeout, seconds, smallest, tuple(allow))
    run.on_program, run.on_outcome = on_program, on_outcome
    return run.run(on_progress)


def named_checker(checker: Checker | str, rule: Rule, dtype: torch.dtype) -> tuple[str, Checker]:
    """A checker and its name.  Raises ValueError if there is none of that name, or if it cannot be called."""
    if isinstance(checker, str):
        ready: dict[str, Checker] = candidate("torch").checkers(rule, dtype)  # type: ignore[attr-defined]
        if checker not in ready:
            raise ValueError(f"a ready-made checker must be one of {list(ready)}; came {checker!r}.")
        return checker, ready[checker]
    if not callable(checker):
        raise ValueError(
            f"a checker must be a function of a program that returns True, False or None, or raises; came {checker!r}."
        )
    return readable(getattr(checker, "__name__", type(checker).__name__)), checker


class Audit:
    """One run of `audit`."""

    def __init__(
        self,
        name: str,
        checker: Checker,
        rule: Rule,
        dtype: torch.dtype,
        timeout: float,
        seconds: float,
        smallest: float,
        allow: tuple[str, ...],
    ) -> None:
        self.checker, self.rule, self.dtype, self.timeout = checker, rule, dtype, timeout
        self.report = AuditReport(name, rule.name, str(dtype).removeprefix("torch."), allow=allow, smallest=smallest)
        self.made = made(rule, dtype)
        self.seen = Seen(rule, self.made.conditions)
        self.begin = time.monotonic()
        self.limit = own_limit(seconds)
        self.late = 0
        self.noise: dict[str, float] = {}
        self.on_program: Callable[[str], None] = lambda name: None
        self.on_outcome: Callable[[Outcome], None] = lambda outcome: None

    def run(self, on_progress: Callable[[int, int], None] | None) -> AuditReport:
        """The whole of it."""
        programs = stateful(self.rule, self.seen)
        wrong = {**self.made.wrong, **{p: IN_A_ROW if p.kind == STATE else self.made.ordinary.name for p in programs}}
        right = self.made.right
        for program in right:
            if self._ask(program).how == "late":  # it would hang again
                break
        if self._is_usable():
            self.noise = self.seen.noise
            tried = list(_in_turns(wrong))
            for number, program in enumerate(tried):
                if self.limit.left() < 0 or self.late >= LATE:
                    self.report.untried += [p.name for p in tried[number:]]
                    break
                self._ask(program, shows=wrong[program])
                if on_progress is not None:
                    on_progress(number + 1, len(tried))
            self._ask_again(right[0], tried)
        self.report.outcomes.sort(key=lambda o: not o.is_right)
        self._conclude({p.name: p for p in wrong})
        return self.report

    # -------------------------------------------------------------------------------------------------------- asking

    def _ask(self, program: Program, shows: str = "") -> Outcome:
        verdict, handed = self._verdict(program)
        outcome = Outcome(
            program.kind,
            program.name,
            program.argument,
            program.size,
            program.is_right,
            verdict.how,
            verdict.words,
            handed.calls,
            handed.shown,
            shows,
        )
        self.report.outcomes.append(outcome)
        self.on_outcome(outcome)
        return outcome

    def _verdict(self, program: Program) -> tuple[Verdict, Handed]:
        self.on_program(program.name)
        if program.is_right:
            self.seen.begin()
        handed = Handed(self.rule, program, self.seen if program.is_right else None, self.noise)
        verdict = ask(self.checker, handed, self.timeout)
        handed.restore()
        self.late += verdict.how == "late"
        return verdict, handed

    def _is_usable(self) -> bool:
        """Whether it says anything of right programs, but that it cannot run."""
        (first, *_), outcomes = self.report.outcomes, self.report.outcomes
        if outcomes[-1].how == "late":
            self.report.findings.append(
                f"it hangs: {outcomes[-1].name!r} had no verdict within {self.timeout:g} s; no wrong program was tried"
            )
        elif all(o.how == "raised" for o in outcomes):
            self.report.findings.append(
                f"it raises whatever it is given, as for the rule itself: {first.words}; no wrong program was tried"
            )
        elif all(o.how in ("unclear", "raised") for o in outcomes):
            self.report.findings.append(f"it gives no verdict: {first.words}; no wrong program was tried")
        return not self.report.findings

    def _ask_again(self, itself: Program, tried: Sequence[Program]) -> None:
        """A checker that says now this and now that of one program is not to be relied on."""
        if self.late >= LATE:
            return
        by_name = {o.name: o for o in self.report.outcomes}
        plain = [p for p in tried if p.name in by_name and p.kind in BEYOND_ANY_LIMIT]
        others = plain[:: max(len(plain) // AGAIN, 1)][:AGAIN]
        unsteady: dict[str, list[str]] = {}
        for program in [itself] * (TIMES - 1) + others:
            if self.limit.left() < 0:
                break
            verdict, _ = self._verdict(program)
            unsteady.setdefault(program.name, [by_name[program.name].how]).append(verdict.how)
        changing = {name: hows for name, hows in unsteady.items() if len(set(hows)) > 1}
        if itself.name in changing or len(changing) > 1:
            said = "; ".join(f"{name!r} was {_tally(hows)}" for name, hows in list(changing.items())[:3])
            draws = "its verdict on a right program changes from run to run, with the numbers that it draws"
            by_numbers = list(changing) == [itself.name] and len(self.seen.digests) > 1
            self.report.findings.append(f"{draws if by_numbers else 'its verdict is random'}: {said}")

    # ---------------------------------------------------------------------------------------------------- conclusions

    def _conclude(self, programs: dict[str, Program]) -> None:
        report = self.report
        report.seconds = time.monotonic() - self.begin
        report.values = self.seen.values
        if never := cannot_fail(report):
            report.findings.insert(0, never)
        if compares_with_itself(report):
            report.findings.append("it compares the program with itself")
        right = report.right
        if right and all(o.rejected for o in right) and not report.findings:
            report.findings.append("it rejects every right program, so that rejecting wrong ones says nothing")
        without = [o for o in report.wrong if not o.accepted and not o.rejected]
        if without:
            report.findings.append(
                f"it gives no verdict on {counted(len(without), 'wrong program')}, such as {without[0].name!r}: "
                f"{without[0].words}"
            )
        report.facts = self._facts()
        explain(report, self.rule, self.seen, programs)

    def _facts(self) -> list[str]:
        seen = self.seen
        if not seen.calls:
            never = "no call that it makes fits the rule" if seen.refused else "it never calls the program"
            return [] if cannot_fail(self.report) else [never]
        dtypes = listed(sorted(str(d).removeprefix("torch.") for d in seen.dtypes))
        name, shape = seen.largest or ("", ())
        constant = seen.constants and "dy is not constant" not in seen.held and self.rule.has_backward
        dy = f"; dy is {listed([f'{c:g}' for c in sorted(seen.constants)[:3]])} throughout" if constant else ""
        most = max((o.calls for o in self.report.wrong), default=0)
        each = counted(seen.calls_each, "call") + (" of a right program" if most > seen.calls_each else " of a program")
        each += f" and {most} of a wrong one" if most > seen.calls_each else ""
        return [f"it makes at most {each}, in {dtypes or 'no dtype'}; the largest tensor is {name} {shape}{dy}"]


def _tally(hows: Sequence[str]) -> str:
    return listed([f"{how} {counted(hows.count(how), 'time')}" for how in dict.fromkeys(hows)])


def _in_turns(programs: Collection[Program]) -> Iterator[Program]:
    """One program of each kind, then the next of each, the sizes that tell most first: wherever it is broken off, every
    kind has been tried."""
    kinds: dict[str, list[Program]] = {}
    for program in programs:
        kinds.setdefault(program.kind, []).append(program)
    for several in kinds.values():
        several.sort(key=lambda p: coarse_first(p.size))
    return filter(None, chain.from_iterable(zip_longest(*kinds.values())))
