"""What the mismatches of one argument have in common, where no cause of them is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from manual_bp.oracle.calling.unwritten import UNWRITTEN
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.words import of_cases, some

STANDS = {"NaN stands there": "NaN stands where a number is due", "0 stands there": "0 stands where a number is due"}
TAIL = "the tail after the last full block"
# So many cases are named.
FEW = 3


def named(mismatches: Sequence[Mismatch], explained: Collection[str]) -> Iterator[str]:
    """A sentence for each argument and sort of mismatch that says itself what is wrong: a trap, another convention, and
    under strict lost digits and 16 bits.

    explained: the arguments of which it is known why they are wrong: their shapes and conventions need no more words.
    """
    found: dict[tuple[str, str], list[Mismatch]] = {}
    for m in mismatches:
        sort = _sort(m.detail)
        is_said = sort in UNWRITTEN or (m.argument in explained and (sort == "shape" or m.kind == "convention"))
        if m.kind != "wrong" and not is_said:
            found.setdefault((m.argument, sort), []).append(m)
    for (argument, _), own in found.items():
        alike = [m.case for m in own if m.detail == own[0].detail]
        more = len({m.case for m in own} - set(alike))
        likewise = f", and likewise in {more} more" if more else ""
        yield f"{argument}: {own[0].detail}; in {of_cases(alike, FEW)}{likewise}"


def _sort(detail: str) -> str:
    """What a mismatch is, without what differs from case to case."""
    for known in (*UNWRITTEN, "shape", "dtype", "device"):
        if detail.startswith(known):
            return known
    return detail.partition(":")[0] if detail.startswith("raised") else detail


def patterns(
    mismatches: Sequence[Mismatch], explained: Collection[str], shared: Mapping[str, str], cases: int
) -> Iterator[str]:
    """A sentence for each argument with wrong values that are not explained: in how many of the cases that were judged
    they are, and what all of them have in common.  shared: by argument, if that is known better."""
    for argument in dict.fromkeys(m.argument for m in mismatches if m.kind == "wrong" and m.argument not in explained):
        wrong = [m for m in mismatches if m.argument == argument and m.kind == "wrong"]
        where = "the only case" if cases == 1 else f"{len(wrong)} of {cases} cases"
        names = f" ({some((repr(m.case) for m in wrong), FEW)})" if len(wrong) <= FEW and cases > 1 else ""
        said = f"{argument}: wrong in {where}{names}", shared.get(argument) or _alike(wrong)
        yield "; ".join(filter(None, said))


def _alike(wrong: Sequence[Mismatch]) -> str:
    """What is said of every one of the wrong values."""
    found = {m.pattern for m in wrong}
    where = {m.where for m in wrong}
    if where == {"the only element"}:  # which says nothing
        return ""
    if len(found) == 1 and (pattern := wrong[0].pattern):
        return pattern if len(wrong) == 1 else f"each time {pattern}"
    words = [words for said, words in STANDS.items() if all(said in m.pattern for m in wrong)]
    if all(TAIL in m.pattern for m in wrong):
        words.append(f"each time in {TAIL}")
    elif where <= {"every element", "the only element"}:
        words.append("each time every element")
    elif len(where) == 1 and where.isdisjoint({"", "scattered"}):
        words.append(f"each time {wrong[0].where}")
    return ", ".join(words) or "no pattern that all of these share was found"
