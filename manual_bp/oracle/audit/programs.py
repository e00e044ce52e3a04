"""Programs that a checker is given: right ones and wrong ones, each made from what is right at a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from manual_bp.oracle.audit.seen import Seen
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule

Results = dict[str, Any]
"""By argument of the rule, such as "y" and "dx", what a program returns for it; None where nothing is due."""

Answer = Callable[[Case, Results], Results]
"""What a program returns at a call, given what is right there."""


@dataclass(frozen=True)
class Program:
    """One program that a checker is to accept or to reject.

    kind: its row of the table.  name: what it does, in words.
    begin: makes its answers; what a program remembers from call to call begins anew with each.
    argument: the only result that it changes; "" if it may change several.
    size: of its error, as a fraction of what is due; None where it has no size.
    unmet: for a program that is wrong in some calls alone: what is to be said of a checker that makes none of these.
    """

    kind: str
    name: str
    begin: Callable[[], Answer]
    argument: str = ""
    size: float | None = None
    is_right: bool = False
    unmet: Callable[[Seen], str] | None = None


def steady(kind: str, name: str, answer: Answer, **more: Any) -> Program:
    """A program that remembers nothing."""
    return Program(kind, name, lambda: answer, **more)


def results_at(rule: Rule, case: Case) -> Results:
    """What the rule returns at a call.  Raises ValueError where what it is called with does not fit the rule."""
    return by_argument(rule, *rule.vjp(case.inputs, case.dy, **case.hyper))


def by_argument(rule: Rule, y: Any, grads: Sequence[Any]) -> Results:
    return dict(zip(rule.arguments, (*parts(y), *grads), strict=True))


def returned(rule: Rule, results: Results, like: Any) -> tuple[Any, tuple[Any, ...]]:
    """(y, grads), as a Vjp returns them.  like: y, or anything of its type."""
    values = tuple(results[name] for name in rule.arguments)
    number = len(rule.outputs)
    return whole(values[:number], like=like), values[number:]


def judged(rule: Rule) -> list[str]:
    """The results that are compared, of which wrong programs are made: the cotangents that are due, or of a page
    without backward its values."""
    due = [name for name, is_wanted in zip(rule.arguments, rule.wanted, strict=True) if is_wanted]
    return due[len(rule.outputs) :] if rule.has_backward else due


def changed(argument: str, change: Callable[[Tensor], Any]) -> Answer:
    """One result changed; where nothing is due nothing is."""

    def answer(_: Case, right: Results) -> Results:
        x = right[argument]
        return {**right, argument: None if x is None else change(x)}

    return answer


def all_changed(arguments: Sequence[str], change: Callable[[Tensor], Any]) -> Answer:
    """Several results changed alike."""

    def answer(_: Case, right: Results) -> Results:
        return {**right, **{a: change(right[a]) for a in arguments if right[a] is not None}}

    return answer
