"""A candidate and what it answers in situations, each with the answer that is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manual_bp.oracle.calling.invocation import call_with, described_error, parameters_of
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.report import Report

Answer = tuple[Any, ...]
Program = Callable[..., Answer]
"""Arguments by name -> its answers, one for each name."""


@dataclass(frozen=True)
class Situation:
    """name: what is special about it. arguments: of a program, by name. either: parts of the answer that may be
    anything."""

    name: str
    arguments: Mapping[str, Any]
    either: tuple[int, ...] = ()


def judged(
    report: Report,
    candidate: Program,
    names: Sequence[str],
    positional: Sequence[str],
    situations: Sequence[Situation],
    due: Program,
    wrong: Sequence[tuple[str, Program]],
) -> None:
    """Ask the candidate in every situation, and put what is wrong and why into the report.

    names: of the parts of an answer. positional: the arguments that come by position; the others come by name.
    due: the right program. wrong: others, in words: one that gives all the candidate's answers is what it is.
    """
    answers: list[tuple[Situation, Answer]] = []
    for name in names:
        report.worst[name] = Worst()
    for situation in situations:
        answer = _answer(candidate, situation, names, positional)
        if isinstance(answer, str):
            report.raised += 1
            report.mismatches.append(Mismatch("trap", names[0], situation.name, answer))
            continue
        report.cases += 1
        answers.append((situation, answer))
        before = len(report.mismatches)
        for place, (name, came, expected) in enumerate(zip(names, answer, due(**situation.arguments), strict=True)):
            differs = place not in situation.either and came != expected
            report.worst[name].note(float("inf") if differs else 0.0, 0.0)
            if differs:
                words = f"{expected} is due, {came} came"
                report.mismatches.append(Mismatch("wrong", name, situation.name, words))
        report.failed += len(report.mismatches) > before
    if report.failed:
        report.diagnoses += _cause(answers, due, wrong)


def _answer(candidate: Program, situation: Situation, names: Sequence[str], positional: Sequence[str]) -> Answer | str:
    given = dict(situation.arguments)
    first = [list(given.pop(name)) for name in positional]
    parameters = parameters_of(candidate)
    if parameters is not None and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = {name: value for name, value in given.items() if name in parameters}
    try:
        came = call_with(candidate, first, given)
    except Exception as error:
        return f"raised {described_error(error)}"
    if not isinstance(came, tuple | list) or len(came) != len(names):
        return f"({', '.join(names)}) is due; {came!r:.80} came"
    return tuple(_plain(part) for part in came)


def _plain(value: Any) -> Any:
    """A number or truth value of any library."""
    return value.item() if hasattr(value, "item") else value


# Of the answers that are wrong a cause explains at least so many, if it doesn't explain all: another may be beside it.
SHARE = 0.5


def _cause(
    answers: Sequence[tuple[Situation, Answer]], right: Program, wrong: Sequence[tuple[str, Program]]
) -> list[str]:
    def agrees(situation: Situation, answer: Answer, program: Program) -> bool:
        made = zip(answer, program(**situation.arguments), strict=True)
        return all(k in situation.either or a == b for k, (a, b) in enumerate(made))

    is_right = [agrees(situation, answer, right) for situation, answer in answers]
    failed = [given for given, holds in zip(answers, is_right, strict=True) if not holds]
    held = [given for given, holds in zip(answers, is_right, strict=True) if holds]
    best, most = "", 0
    for words, program in wrong:
        if all(agrees(situation, answer, program) for situation, answer in answers):
            return [words]
        if not all(agrees(situation, answer, program) for situation, answer in held):
            continue  # where the candidate is right this one is not: the words would be false of it
        told = sum(agrees(situation, answer, program) for situation, answer in failed)
        best, most = (words, told) if told > most else (best, most)
    return [f"{best} (so in {most} of {len(failed)} that are wrong)"] if most >= SHARE * len(failed) else []
