"""Where a candidate raises: said once, with what the cases have in common."""

from __future__ import annotations

from collections.abc import Sequence

from manual_bp.oracle.case import Case
from manual_bp.rule import Rule


def tracebacks(raised: Sequence[tuple[str, Case]]) -> list[str]:
    """One traceback for each place at which the candidate raised: the messages differ in sizes alone."""
    places: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for text, case in raised:
        lines = text.splitlines()
        kind = next((line.partition(":")[0] for line in reversed(lines) if line[:1].strip()), "")
        place = (*(line for line in lines if line.lstrip().startswith("File ")), kind)
        places.setdefault(place, []).append((text, case.name))
    found = []
    for several in places.values():
        text, name = several[0]
        more = f" and {len(several) - 1} more" if len(several) > 1 else ""
        found.append(f"case {name!r}{more}: {text}")
    return found


def where_raised(raised: Sequence[tuple[str, Case]], answered: Sequence[Case], rule: Rule) -> list[str]:
    """In which cases it raised, in a sentence, and what to declare if it is not meant for them; none if it did not.

    answered: the cases in which it returned something to judge.
    """
    if not raised:
        return []
    cases = [case for _, case in raised]
    if not answered:
        return [f"it raises in {_many(cases)}, and answers in none; it is called as {_call(rule)}"]
    if needed := _never_answered_without(cases, answered, rule):
        lacking = [case for case in cases if any(_is_absent(case, rule, name) for name in needed)]
        names = ", ".join(map(repr, needed))
        sentence = (
            f"it raises in {_many(lacking)}, {_all_of(lacking)} {' or '.join(needed)} is absent; if it always has "
            f"{'it' if len(needed) == 1 else 'them'}, declare given=({names},)"
        )
        others = [(text, case) for text, case in raised if case not in lacking]
        return [sentence, *where_raised(others, answered, rule)]
    many = _many(cases)
    name = next(iter(rule.inputs))  # which is always there
    ranks = sorted({case.inputs[0].ndim for case in answered})
    # It is meant for those numbers of axes of which it answered every case but ones with a short axis.
    meant = [rank for rank in ranks if _reached(_of(cases, rank), _of(answered, rank)) is not None]
    off_rank = [case for case in cases if case.inputs[0].ndim not in meant]
    short = [case for case in cases if case.inputs[0].ndim in meant]
    least = _reached(short, [case for case in answered if case.inputs[0].ndim in meant])
    answers_off_rank = any(_of(answered, case.inputs[0].ndim) for case in off_rank)  # then that is not the reason
    if meant and least is not None and not answers_off_rank:
        where, declare = [], []
        if off_rank:
            axes = " or ".join(map(str, meant))
            where.append(f"{name} does not have {axes} {'axis' if meant == [1] else 'axes'}")
            declare.append(f"ndim={tuple(meant)}")
        if short:
            where.append("an axis is empty" if least == 1 else f"an axis is shorter than {least}")
            declare.append(f"min_size={least}")
        return [
            f"it raises in {many}, {_all_of(cases)} {' or '.join(where)}; "
            f"if it is not meant for these, declare {', '.join(declare)}"
        ]
    return [f"it raises in {many}, such as {cases[0].name!r}, and answers in {len(answered)}"]


def _call(rule: Rule) -> str:
    """How a candidate for a rule is called, in words."""
    given = "(inputs, dy" if rule.has_backward else "(inputs"
    names = ", ".join(rule.inputs) + ("," if len(rule.inputs) == 1 else "")
    why = "" if rule.has_backward else f", as {rule.name} has no backward"
    return f"candidate{given}{''.join(f', {name}=...' for name in rule.hyper)}), inputs being ({names}){why}"


def _many(cases: Sequence[Case]) -> str:
    return f"{len(cases)} case{'' if len(cases) == 1 else 's'}"


def _all_of(cases: Sequence[Case]) -> str:
    return "in which" if len(cases) == 1 else "in all of which"


def _never_answered_without(raised: Sequence[Case], answered: Sequence[Case], rule: Rule) -> list[str]:
    """The inputs without which it raised, and never answered."""
    return [
        name
        for name in rule.inputs
        if any(_is_absent(case, rule, name) for case in raised)
        and not any(_is_absent(case, rule, name) for case in answered)
    ]


def _is_absent(case: Case, rule: Rule, name: str) -> bool:
    return case.inputs[list(rule.inputs).index(name)] is None


def _of(cases: Sequence[Case], rank: int) -> list[Case]:
    return [case for case in cases if case.inputs[0].ndim == rank]


def _reached(raised: Sequence[Case], answered: Sequence[Case]) -> int | None:
    """The length that some axis of every case that raised falls short of: 1, or one below which none is answered, or 0
    if none raised; None if there is no such length."""
    if not raised:
        return 0
    shortest = max(_shortest(case) for case in raised)
    if shortest == 0:
        return 1
    return shortest + 1 if all(_shortest(case) > shortest for case in answered) else None


def _shortest(case: Case) -> int:
    return min((length for x in case.inputs if x is not None for length in x.shape), default=1)
