"""Precision: arithmetic in fewer bits than the numbers have."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Sample, wide
from manual_bp.oracle.diagnosis.layout import is_telling

# Whether an error is systematic is seen in as many more runs, at other numbers of the same sign and size.
RUNS = 8
# A random error keeps its sign in 8 runs with probability 1/256.
CHANCE = 1 / 16
# A claim about an argument rests on as many cases, and on as many numbers in each.
NUMBERS = 3
# A claim about all numbers rests on so many; a format is told by so many bits less; an approximation is within so much.
ENOUGH = 16
MANY = 1000
FEWER = 3
CLOSE = 0.1
# Fewer bits than that are no format of numbers; and a sum of a few that are rounded to them is off by a few roundings.
LEAST = 3
ROUNDED = 4
# Roundings go up as often as down; the error of an approximation keeps its sign from one of its zeros to the next.  Of
# 16 roundings 2 or fewer go one way with probability 1/240.
SELDOM = 1 / 8
# Arithmetic in 16 bits leaves more than this share of all numbers wrong in a longer format.
MOST = 0.5


def sixteen_bits(found: Examination) -> Iterator[Explanation]:
    """Off by no more than arithmetic in 16 bits is, in many cases and by no one factor."""
    if found.dtype not in (torch.float32, torch.float64):
        return
    for argument in found.unexplained():
        if found.rule.elementwise and not _is_erratic(found, argument):  # a sum that stands still errs to one side
            continue
        shares = {half: _share_off(found, argument, half) for half in (torch.float16, torch.bfloat16)}
        formats = [half for half, share in shares.items() if share]
        if formats and not _is_systematic(found, argument):
            numbers = _numbers(found, argument)
            holding = [half for half in formats if bool((numbers == numbers.to(half).double()).all())]
            which = " or ".join(str(half).removeprefix("torch.") for half in holding or formats)
            words = "off as after low precision: its errors are like those of sums accumulated, or numbers kept, in"
            if holding:
                words = "computed in low precision: all of its numbers are numbers of"
            evidence = f"{shares[formats[0]]:.0%} of its numbers are off, none by more than that allows"
            yield Explanation({argument}, f"{{}} is {words} 16 bits ({which}); {evidence}")


def _numbers(found: Examination, argument: str) -> Tensor:
    """The finite numbers of the results that are judged, but for 0."""
    samples = [s for s in found.column(argument) if s.got.shape == s.expected.shape]
    return torch.cat([s.got[s.judged & s.got.isfinite() & (s.got != 0)] for s in samples] or [torch.zeros(0)])


def few_bits(found: Examination) -> Iterator[Explanation]:
    """Numbers with fewer significant bits than their format has, and than what is due has, that are about right."""
    for argument in found.unexplained():
        numbers = _numbers(found, argument)
        bits = _bits(numbers[:: len(numbers) // MANY + 1])
        most = -math.log2(torch.finfo(found.dtype).eps) + 1 - FEWER
        if len(numbers) >= ENOUGH and LEAST <= bits <= most and _is_rounded(found, argument, bits):
            words = f"at most {bits} significant bits: they were kept in a format that holds no more"
            yield Explanation({argument}, f"the numbers of {{}} have {words}; so in all of {len(numbers)} numbers")


def _is_rounded(found: Examination, argument: str, bits: int) -> bool:
    """Whether the numbers are those that are due to so many bits, and these have more."""
    due = []
    for s in found.column(argument):
        if s.got.shape == s.expected.shape:
            mask = s.judged & s.got.isfinite() & (s.got != 0)
            error = (s.got - s.expected).abs()
            if bool((error > ROUNDED * 2.0**-bits * s.expected.abs() + s.allowance)[mask].any()):
                return False
            due.append(s.expected[mask].to(found.dtype).double())
    numbers = torch.cat(due)
    return _bits(numbers[:: len(numbers) // MANY + 1]) >= bits + FEWER


def _bits(numbers: Tensor) -> int:
    """How many significant bits the longest of them has."""
    mantissa = torch.frexp(numbers).mantissa.abs() * 2.0**53
    return max((54 - (m & -m).bit_length() for m in map(int, mantissa.tolist())), default=54)


def approximate(found: Examination) -> Iterator[Explanation]:
    """Right to a few digits nearly everywhere."""
    for argument in found.unexplained():
        samples = [s for s in found.column(argument) if s.got.shape == s.expected.shape]
        shows = [s.judged & (s.expected.abs() > APART * s.allowance) for s in samples]
        pairs = list(zip(samples, shows, strict=True))
        off = torch.cat([(s.got - s.expected).abs()[m] / s.expected.abs()[m] for s, m in pairs] or [torch.zeros(0)])
        allowed = torch.cat([s.allowance[m] / s.expected.abs()[m] for s, m in pairs] or [torch.zeros(0)])
        beyond = int((off > allowed).sum())
        if len(off) >= ENOUGH and float(off.max()) < CLOSE and beyond > MOST * len(off):
            words = f"off by a little, at most {float(off.max()):.2g} of their size"
            yield Explanation({argument}, f"{beyond} of {len(off)} numbers of {{}} are {words}")


def _is_erratic(found: Examination, argument: str) -> bool:
    """Whether the numbers that are off are too large about as often as too small."""
    samples = [s for s in found.column(argument) if s.got.shape == s.expected.shape]
    grown = [(s.got.abs() > s.expected.abs())[s.judged & ((s.got - s.expected).abs() > s.allowance)] for s in samples]
    numbers = torch.cat(grown or [torch.zeros(0, dtype=torch.bool)])
    too_large = float(numbers.double().mean()) if len(numbers) else 0.0
    return SELDOM <= too_large <= 1 - SELDOM


def _is_systematic(found: Examination, argument: str) -> bool:
    """Whether many errors keep their sign while inputs and dy vary: those of rounding do not.

    It is asked in the smallest case, where no long sum stands still; recorded results cannot be asked.
    """
    samples = [s for s in found.column(argument) if is_telling(s) and s.got.shape == s.expected.shape]
    samples = [s for s in samples if int(s.judged.sum()) >= NUMBERS]
    if found.candidate is None or not samples:
        return False
    position, sample = found.arguments.index(argument), min(samples, key=lambda s: s.got.numel())
    generator = torch.Generator().manual_seed(0)
    own = torch.sign(sample.got - sample.expected)
    stable = wrong = sample.judged & ((sample.got - sample.expected).abs() > sample.allowance)
    for _ in range(RUNS):
        case = found.rule.varied(sample.case, generator)
        results, expected = found.call(case, case.dy), found.at(case).values[position]
        got = results[position] if results else None
        if not isinstance(got, Tensor) or expected is None or got.shape != expected.shape:
            return False
        stable = stable & (torch.sign(wide(got) - expected) == own)
    return int(stable.sum()) > CHANCE * int(wrong.sum())


def _share_off(found: Examination, argument: str, half: torch.dtype) -> float:
    """The share of numbers that are visibly off, if it is most of them and all are within the width of 16 bits."""
    off, most = [], torch.finfo(half).eps * ROUNDINGS
    position = found.arguments.index(argument)
    samples = [s for s in found.column(argument) if is_telling(s) and s.got.shape == s.expected.shape]
    for sample in sorted(samples, key=_size_of_error, reverse=True):  # what refutes it comes first: a bound takes long
        bound = _width(found, sample.case, position, half)
        error, largest = (sample.got - sample.expected).abs(), sample.expected[sample.judged].abs().max()
        if bound is None or bool((error > bound)[sample.judged].any()):
            return 0.0
        if bool((bound > most * largest)[sample.judged].any()):  # where nearly anything is allowed nothing is learnt
            continue
        if int(sample.judged.sum()) >= NUMBERS:
            off.append(float((error > sample.allowance)[sample.judged].double().mean()))
    share = sum(off) / max(len(off), 1)
    return share if len(off) >= NUMBERS and share >= MOST else 0.0


def _size_of_error(sample: Sample) -> float:
    """The largest error, relative to the largest number."""
    error, largest = ((x.abs()[sample.judged]).max() for x in (sample.got - sample.expected, sample.expected))
    return float((error / largest).nan_to_num(nan=math.inf))


def _width(found: Examination, case: Case, position: int, half: torch.dtype) -> Tensor | None:
    """How far the page, or a formula of its that loses digits, may be off in 16 bits."""
    found.deadline.check()
    losing = [m for m in found.rule.mistakes if m.loses_digits] if position else found.rule.values
    every = [found.rule.widths(case, Contract(half, half), formula) for formula in (None, *losing)]
    bounds = [bound for width in every if (bound := width[position]) is not None]
    return torch.stack(bounds).amax(0) if bounds else None
