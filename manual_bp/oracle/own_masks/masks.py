"""Whether many masks are what chance makes: their rate, their independence, and what seeds mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.own_masks.chance import binomial, fisher, visible
from manual_bp.oracle.own_masks.drawing import Drawing, drawn
from manual_bp.oracle.own_masks.reading import MASK, Reader
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import Report
from manual_bp.rule import Rule

ALPHA = 1e-6
"""The probability that a right program is rejected by chance, all tests together; each has an equal part of it."""
SHAPE = (256, 250)
"""Of a call: a row is no power of two, so that rows and blocks of a program are told apart."""
CALLS = {0.126953125: 64, 0.31: 16}
"""How many calls for each p.  The first is 32.5/256, as far from steps of 1/256 as can be: 64 calls show 0.0013; the
second tells 1/128 from 1/256."""
INDEPENDENT = 16
"""Calls that are looked at for correlation; of a function whose shapes are given, as many more as these are smaller."""
MOST_CALLS = 1024
"""So many calls at most, of however few elements."""
DENOMINATORS = (8, 10, 16, 32, 64, 100, 128, 256, 512, 1000, 1024)


def judged_masks(
    report: Report, drawing: Drawing, rule: Rule, name: str, declared: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Draw masks, and put what is not chance into the report."""
    chosen = CALLS if name and name not in declared else {declared.get(name): max(CALLS.values())}
    found: list[str] = []
    rates: dict[float, tuple[int, int]] = {}
    correlated = False
    for p, calls in chosen.items():
        hyper = {**rule.ordinary, **declared, **({name: p} if name and p is not None else {})}
        if drawing.lacks({n: v for n, v in hyper.items() if n not in declared}) or p in (0, 1):
            continue
        inputs, dy = drawn(rule, SHAPE, hyper, dtype)
        reader = Reader(rule, inputs, hyper, dy.shape)
        given, readable = list(inputs.values()), reader.readable
        more = max(1, SHAPE[0] * SHAPE[1] // max(1, int(readable.sum())))
        if not rates:
            found += _of_seeds(report, drawing, reader, given, dy, hyper)
        masks = []
        for k in range(min(calls * more, MOST_CALLS)):
            came = drawing(given, dy, hyper, seed=k if drawing.takes or not k else None)
            if came.y is None:
                report.mismatches.append(Mismatch("trap", "y", f"{tuple(dy.shape)}", came.fault))
                return
            masks.append(reader.read(came.y).flatten())
        mask = torch.stack(masks)
        if not rates:
            row = dy.shape[-1] if dy.ndim > 1 else 0
            said = _dependent(mask[: INDEPENDENT * more], readable.flatten(), row, drawing)
            correlated = bool(said)
            found += said
        mask = mask[:, readable.flatten()]
        if p is not None:
            rates[p] = int(mask.sum()), mask.numel()
    if not correlated:  # elements that go together are fewer than they look, and their rate varies
        found += _of_rates(report, rates, name)
    report.notes.append(
        f"mask: read off y; a right program is rejected by chance with a probability of at most {ALPHA:g}, by exact "
        "tests of rate and independence"
    )
    for words in found:
        report.mismatches.append(Mismatch("wrong", MASK, f"many calls of {SHAPE}", words))
    report.diagnoses[:0] = found


def _of_seeds(
    report: Report, drawing: Drawing, reader: Reader, given: list[Tensor | None], dy: Tensor, hyper: Mapping[str, Any]
) -> list[str]:
    def mask(seed: int | None) -> Tensor | None:
        y = drawing(given, dy, hyper, seed).y
        return None if y is None else reader.read(y)

    one, again, other = mask(5), mask(5), mask(6)
    if one is None or again is None or other is None:
        return []
    if not torch.equal(one, again):
        if drawing.takes:
            return [f"the same {drawing.takes} twice gives two masks: the seed is not what the mask is drawn from"]
        report.notes.append(
            "mask: neither torch.manual_seed nor np.random.seed nor random.seed makes it draw the same mask again"
        )
        return []
    if drawing.takes and torch.equal(one, other):
        return ["all seeds give the same mask: the seed is ignored"]
    if drawing.takes and _p_of_pairs(one.flatten()[1:], other.flatten()[:-1]) < ALPHA / _number(1):
        return ["the mask of the next seed is that of a seed, shifted by one element: seed and position are added up"]
    return []


def _number(tests: int) -> int:
    """How many tests share ALPHA: distances, calls, rates, seeds."""
    return max(tests, 32)


def _dependent(masks: Tensor, readable: Tensor, row: int, drawing: Drawing) -> list[str]:
    """What elements of masks (calls, elements) depend on each other: of all that do the most, as others follow.

    readable: the elements of which anything is known. row: how many make a row, or 0.
    """
    calls, n = masks.shape
    known = masks[:, readable]
    least = ALPHA / _number(calls)
    between = "seeds" if drawing.takes else "calls"
    found: list[tuple[float, str]] = []

    def note(first: Tensor, second: Tensor, words: str) -> None:
        chance = _p_of_pairs(first, second) if first.numel() else 1.0
        if chance < least:
            # Beyond three digits two that go together wholly are as close.
            found.append((round(abs(_correlation(first, second)), 3), f"{words} (p = {chance:.1e})"))

    for first, second in ((known[0::2], known[1::2]), (known[1:-1:2], known[2::2])):
        count = min(len(first), len(second))
        same = sum(bool(torch.equal(a, b)) for a, b in zip(first[:count], second[:count], strict=True))
        how = f"; {same} of {count} pairs are the same: the generator is not advanced" if same else ""
        note(first[:count], second[:count], f"masks of {between} in a row are not independent{how}")
    for d in sorted({2**k for k in range(n.bit_length() - 1)} | ({row} if row else set())):
        whole = n // (2 * d) * 2 * d
        pairs = masks[:, :whole].reshape(calls, -1, 2, d)
        both = readable[:whole].reshape(-1, 2, d).all(1)
        words = f"elements {d} apart go together: the random numbers begin anew after {d}, or are used twice"
        if d == 1:
            words = "neighbours along the last axis go together: elements of a row are not independent"
        elif d == row:
            words = "rows are masked alike: elements of one column in neighbouring rows go together"
        note(pairs[:, :, 0][:, both], pairs[:, :, 1][:, both], words)
    if found:
        return [max(found, key=lambda each: each[0])[1]]  # the first of those that are as strong
    kept = int(known[0].sum())
    if 0 < kept < known.shape[1] and bool((known.sum(1) == kept).all()):
        return [
            f"each of {calls} {between} keeps exactly {kept} of {known.shape[1]} elements: the number is fixed, so "
            "elements are not dropped independently of each other"
        ]
    return []


def _correlation(first: Tensor, second: Tensor) -> float:
    a, b = first.reshape(-1).double(), second.reshape(-1).double()
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num())


def _p_of_pairs(first: Tensor, second: Tensor) -> float:
    a, b = first.reshape(-1), second.reshape(-1)
    return fisher(int((a & b).sum()), int(a.sum()), int(b.sum()), a.numel())


def _of_rates(report: Report, rates: Mapping[float, tuple[int, int]], name: str) -> list[str]:
    least = ALPHA / _number(len(rates))
    wrong = [p for p, (kept, n) in rates.items() if binomial(kept, n, 1 - p) < least]
    for p, (kept, n) in rates.items():
        report.notes.append(
            f"mask: at {name} = {p:g} {kept / n:.5f} of {n} elements are kept, {1 - p:.5f} is due; a rate that is off "
            f"by {visible(n, 1 - p, least):.1g} is seen with a probability of 99 %"
        )
    if not wrong:
        return []
    if all(binomial(kept, n, p) >= least for p, (kept, n) in rates.items()):
        return [f"it keeps an element with probability {name}: {name} is the probability to drop"]
    worst = wrong[0]
    kept, n = rates[worst]
    said = f"{kept / n:.5f} of the elements are kept at {name} = {worst:g}, where {1 - worst:.5f} is due"
    for d in DENOMINATORS:
        for how in (round, int, lambda x: int(x) + 1):
            steps = {p: how(p * d) / d for p in rates}
            if all(binomial(k, m, 1 - steps[p]) >= 1e-3 for p, (k, m) in rates.items() if 0 < steps[p] < 1):
                at = f"{steps[worst] * d:.0f}/{d}"
                return [f"{name} is rounded to steps of 1/{d} (or a part of that), here to {at}: {said}"]
    return [f"the keep rate is wrong: {said}"]
