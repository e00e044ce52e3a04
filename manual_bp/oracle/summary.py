"""What the mismatches of one argument have in common, where no cause of them is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from manual_bp.oracle.report import Mismatch

STANDS = {"NaN stands there": "NaN stands where a number is due", "0 stands there": "0 stands where a number is due"}
TAIL = "the tail after the last full block"
# An argument that is wrong in so few cases has those in common.
FEW = 3


def summaries(mismatches: Sequence[Mismatch], explained: Collection[str]) -> Iterator[str]:
    """A sentence for each argument that is not explained: its traps, or what all its wrong values share.

    It may be nothing, and then there is no sentence.
    """
    for argument in dict.fromkeys(m.argument for m in mismatches if m.argument not in explained):
        own = [m for m in mismatches if m.argument == argument]
        traps, wrong = ([m for m in own if m.kind == kind] for kind in ("trap", "wrong"))
        words = _shared(wrong) if wrong else ""
        if traps:
            words = traps[0].detail
        if words:
            yield f"{argument}: {words}; {_cases(traps or wrong)}"


def _shared(wrong: Sequence[Mismatch]) -> str:
    """What is said of every one of the wrong values."""
    if len(wrong) == 1:
        return f"{wrong[0].pattern}; it is right in all other cases"
    shared = [words for said, words in STANDS.items() if all(said in m.pattern for m in wrong)]
    if all(TAIL in m.pattern for m in wrong):
        shared.append(f"wrong in {TAIL}")
    return ", ".join(shared) or ("it is right in all other cases" if len({m.case for m in wrong}) <= FEW else "")


def _cases(found: Sequence[Mismatch]) -> str:
    names = list(dict.fromkeys(repr(m.case) for m in found))
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"in {'case' if len(names) == 1 else 'cases'} {', '.join(names[:FEW])}{more}"
