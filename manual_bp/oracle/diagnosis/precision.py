"""Precision: errors like those of arithmetic in 16 bits, which no edit of one value is: a sum accumulated in them."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.cases.variation import VARIED, varied, wide
from manual_bp.oracle.diagnosis.samples import Sample
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.diagnosis.tracing import called
from manual_bp.rule import Vjp

# A claim about all numbers rests on so many, and about those of one case.
ENOUGH, LEAST = 16, 3
# Arithmetic in 16 bits leaves more than this share of all numbers wrong in a longer format, each by a few of its
# roundings; and its errors go up as often as down: of 16 roundings 2 or fewer go one way with probability 1/240.
MOST, SELDOM, ROUNDINGS = 0.5, 1 / 8, 8
# Whether an error is systematic is seen in as many more runs, at other numbers of the same sign and size.  A random
# error keeps its sign in 8 runs with probability 1/256.
RUNS, CHANCE = 8, 1 / 16
# An error of a formula changes as little as its inputs, whatever its sign elsewhere: a mean that is left out has that
# of dy.  Rounding is drawn anew where inputs differ by several units of 16 bits; its errors are then no nearer to what
# they were than half of them, but by chance: of three numbers less than once in 2³, so in all these runs once in 2¹².
NEARBY, MOVED, SAME = 4, 2.0**-5, 1 / 2


def sixteen_bits(search: Search, candidate: Vjp | None, argument: str) -> str:
    """Whether most of its numbers are off, none by more than a few roundings of 16 bits, and as often up as down; and
    nothing that is wrong with no edit that says why is off by more in any argument: what is has a cause that may well
    be that of the others."""
    if candidate is None or search.dtype not in (torch.float32, torch.float64):
        return ""
    own = [p.samples[argument] for p in search.points[argument]]
    own = [s for s in own if s.is_telling and s.got.shape == s.expected.shape]
    if sum(int(s.wrong.sum()) for s in own) < ENOUGH:
        return ""
    share, up = (
        float(torch.cat(numbers).double().mean())
        for numbers in ([s.wrong[s.judged] for s in own], [(s.got.abs() > s.expected.abs())[s.wrong] for s in own])
    )
    others = [p.samples[a] for a in search.open if a not in search.partial for p in search.points[a]]
    every = [*own, *(s for s in others if s.is_wrong and s.is_telling)]
    fitting = [half for half in (torch.float16, torch.bfloat16) if all(_is_within(s, half) for s in every)]
    is_random = share > MOST and SELDOM <= up <= 1 - SELDOM
    if not fitting or not is_random or _is_systematic(search, candidate, argument):
        return ""
    names = " or ".join(str(half).removeprefix("torch.") for half in fitting)
    words = f"off as after arithmetic in 16 bits ({names}): {share:.0%} of its numbers are wrong"
    return f"{argument} is {words}, none by more than {ROUNDINGS} roundings, and as often up as down"


def _is_within(sample: Sample, half: torch.dtype) -> bool:
    """Whether no number is off by more than a few roundings of a format, relative to the largest."""
    if sample.got.shape != sample.expected.shape:
        return False
    error = (sample.got - sample.expected)[sample.judged].abs()
    largest = sample.expected[sample.judged].abs()
    return not error.numel() or float(error.max()) <= ROUNDINGS * torch.finfo(half).eps * float(largest.max())


def _is_systematic(search: Search, candidate: Vjp, argument: str) -> bool:
    """Whether many errors keep their sign while inputs and dy vary, or all are much the same at numbers nearby: those
    of rounding are neither.  It is asked in the smallest case, where no long sum stands still."""
    points = [p for p in search.points[argument] if p.samples[argument].is_telling]
    points = [p for p in points if int(p.samples[argument].wrong.sum()) >= LEAST]
    if not points:
        return False
    point = min(points, key=lambda p: p.size)
    sample, generator = point.samples[argument], torch.Generator().manual_seed(0)
    error, stable = sample.got - sample.expected, sample.wrong

    def moved(by: float) -> Tensor | None:
        """Its errors at other numbers."""
        search.deadline.check()
        case = varied(search.rule, point.case, generator, by)
        results = call(candidate, search.rule, case).results
        got = results[search.rule.arguments.index(argument)] if results else None
        due = called(search.rule, case).right.get(argument)
        if not isinstance(got, Tensor) or due is None or not got.shape == due.shape == error.shape:
            return None
        return wide(got) - due

    for _ in range(NEARBY):
        there = moved(MOVED)
        if there is None or not bool((there - error)[sample.wrong].norm() <= SAME * error[sample.wrong].norm()):
            break
    else:
        return True
    for _ in range(RUNS):
        if (there := moved(VARIED)) is None:
            return False
        stable = stable & (torch.sign(there) == torch.sign(error))
    return int(stable.sum()) > CHANCE * int(sample.wrong.sum())
