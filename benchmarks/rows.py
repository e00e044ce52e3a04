"""A row of the table: what was timed, the ratios against each peer, and whether a target was met.

A row is plain data, so that it can lie in extra_info of a saved run and be read again by report.py:

    question     "steps", "transformers", "rules", "layers", "images", "memory", "scaling", "checker"
    row          what is asked
    ours         the contestant that is judged
    unit         "s" or "bytes"
    values       by contestant: median, low and high (a confidence interval of 95 %) in that unit
    ratios       by peer: ours / peer, likewise
    best         by family ("torch", "jax", "limit"): the peer that is the fastest (or smallest) of it
    targets      against a family: at_most, ratio, met; or, where a floor is known, what the floor leaves
    not_measured by contestant: why
    others       the share of processor time that other programs took while a row of times was measured
    inexact      by contestant: where it is farther off than its allowance (rules only); it is timed all the same
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.paired import Interval, Timings

Row = dict[str, Any]

# A step cannot be faster than its matrix products; where these take most of the time, a target that leaves no room is
# replaced by this factor of them.
ROOM = 1.15


def timed_row(
    question: str,
    row: str,
    timings: Timings,
    ours: str,
    families: Mapping[str, Sequence[str]],
    targets: Mapping[str, float],
    not_measured: Mapping[str, str],
    **about: Any,
) -> Row:
    """A row of times.

    families: the names of the contestants in each; one that did not take part is passed over.
    targets: by family, the largest ratio of ours to the family's fastest.
    """
    values = {name: timings.time(name) for name in timings.seconds}
    ratios = {name: timings.ratio(ours, name) for name in values if name != ours}
    present = {family: [n for n in names if n in values] for family, names in families.items()}
    best = {family: timings.fastest(names) for family, names in present.items() if names}
    return {
        "question": question,
        "row": row,
        "unit": "s",
        "ours": ours,
        "values": {name: asdict(v) for name, v in values.items()},
        "ratios": {name: asdict(v) for name, v in ratios.items()},
        "best": best,
        "targets": _judged(targets, ratios, best),
        "not_measured": dict(not_measured),
        "rounds": len(next(iter(timings.seconds.values()))),
        "calls": timings.calls,
        "others": timings.others,
        **about,
    }


def counted_row(
    question: str,
    row: str,
    values: Mapping[str, float],
    unit: str,
    ours: str,
    families: Mapping[str, Sequence[str]],
    targets: Mapping[str, float],
    not_measured: Mapping[str, str],
    **about: Any,
) -> Row:
    """A row of numbers that are the same in every run, such as bytes."""
    ratios = {n: Interval(*(3 * (values[ours] / v,))) for n, v in values.items() if n != ours}
    present = {family: [n for n in names if n in values] for family, names in families.items()}
    best = {family: min(names, key=lambda n: values[n]) for family, names in present.items() if names}
    return {
        "question": question,
        "row": row,
        "unit": unit,
        "ours": ours,
        "values": {name: asdict(Interval(v, v, v)) for name, v in values.items()},
        "ratios": {name: asdict(v) for name, v in ratios.items()},
        "best": best,
        "targets": _judged(targets, ratios, best),
        "not_measured": dict(not_measured),
        **about,
    }


def _judged(
    targets: Mapping[str, float], ratios: Mapping[str, Interval], best: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    found = {}
    for family, at_most in targets.items():
        if not ratios or family not in best:
            found[family] = {"at_most": at_most, "ratio": None, "met": None, "by_limit": False}
            continue
        ratio = ratios[best[family]].median
        by_limit = family == "torch" and "limit" in best and ratios[best["limit"]].median <= ROOM
        found[family] = {
            "at_most": at_most,
            "ratio": ratio,
            "met": ratio <= at_most or by_limit,
            "by_limit": by_limit and ratio > at_most,
        }
    return found
