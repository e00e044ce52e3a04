"""Precision: errors like those of arithmetic in 16 bits, which no edit of one value is: a sum accumulated in them."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.oracle.calling import call
from manual_bp.oracle.diagnosis.program import traced
from manual_bp.oracle.diagnosis.samples import wide
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.variation import varied
from manual_bp.rule import Vjp

# A claim about all numbers rests on so many, and about those of one case.
ENOUGH, LEAST = 16, 3
# Arithmetic in 16 bits leaves more than this share of all numbers wrong in a longer format, each by a few of its
# roundings; and its errors go up as often as down: of 16 roundings 2 or fewer go one way with probability 1/240.
MOST, SELDOM, ROUNDINGS = 0.5, 1 / 8, 8
# Whether an error is systematic is seen in as many more runs, at other numbers of the same sign and size.  A random
# error keeps its sign in 8 runs with probability 1/256.
RUNS, CHANCE = 8, 1 / 16


def sixteen_bits(search: Search, candidate: Vjp | None, argument: str) -> str:
    """Whether most of its numbers are off, none by more than a few roundings of 16 bits, and as often up as down."""
    if search.dtype not in (torch.float32, torch.float64):
        return ""
    samples = [p.samples[argument] for p in search.points[argument] if p.samples[argument].is_telling]
    samples = [s for s in samples if s.got.shape == s.expected.shape]
    for half in (torch.float16, torch.bfloat16):
        eps, off, up = torch.finfo(half).eps, [], []
        for s in samples:
            error = (s.got - s.expected)[s.judged]
            if not error.numel():
                continue
            if float(error.abs().max()) > ROUNDINGS * eps * float(s.expected[s.judged].abs().max()):
                break
            off.append(s.wrong[s.judged])
            up.append((s.got.abs() > s.expected.abs())[s.wrong])
        else:
            share = float(torch.cat(off).double().mean()) if off else 0.0
            risen = float(torch.cat(up).double().mean()) if up and sum(map(len, up)) else 0.0
            is_erratic = share > MOST and SELDOM <= risen <= 1 - SELDOM and sum(map(len, up)) >= ENOUGH
            if is_erratic and candidate is not None and not _is_systematic(search, candidate, argument):
                name = str(half).removeprefix("torch.")
                words = f"off as after arithmetic in 16 bits ({name}): {share:.0%} of its numbers are wrong"
                return (
                    f"{argument} is {words}, none by more than {ROUNDINGS} roundings of {name}, and as often up as down"
                )
    return ""


def _is_systematic(search: Search, candidate: Vjp, argument: str) -> bool:
    """Whether many errors keep their sign while inputs and dy vary: those of rounding do not.  It is asked in the
    smallest case, where no long sum stands still."""
    points = [p for p in search.points[argument] if p.samples[argument].is_telling]
    points = [p for p in points if int(p.samples[argument].wrong.sum()) >= LEAST]
    if not points:
        return False
    point = min(points, key=lambda p: p.size)
    sample, generator = point.samples[argument], torch.Generator().manual_seed(0)
    own, stable = torch.sign(sample.got - sample.expected), sample.wrong
    for _ in range(RUNS):
        search.deadline.check()
        case = varied(search.rule, point.record.evidence.case, generator)
        results = call(candidate, search.rule, case).results
        got = results[search.rule.arguments.index(argument)] if results else None
        due = traced(search.rule, case).right.get(argument)
        if not isinstance(got, Tensor) or due is None or got.shape != due.shape:
            return False
        stable = stable & (torch.sign(wide(got) - due) == own)
    return int(stable.sum()) > CHANCE * int(sample.wrong.sum())
