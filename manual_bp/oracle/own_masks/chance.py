"""Tests of chance: exact ones, so that the probability of a false alarm is the one that is stated.

A count of n independent elements, each there with probability q, is binomial.  Of pairs of elements that are
independent, whatever q is, the number in which both are there, given how many there are on either side, is
hypergeometric (Fisher).  Both tails are counted: the probability of whatever is at most as likely as what came.

Source: Fisher, "The Design of Experiments" (1935), chapter 2, for the exact test of two by two tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

# Outcomes whose probability differs from that of what came by no more than rounding of the logarithms are as likely:
# lgamma is exact to some units in the last place of numbers up to 1e8.
TIE = 1e-7
# Beyond so many standard deviations a tail is below e^-800.
FAR = 40


def binomial(count: int, n: int, q: float) -> float:
    """The probability that a binomial count is as unlikely as this one, or more."""
    if q in (0.0, 1.0):
        return 1.0 if count == round(q * n) else 0.0

    def logs(k: Tensor) -> Tensor:
        return _choose(n, k) + k * math.log(q) + (n - k) * math.log1p(-q)

    return _tails(logs, count, (0, n), n * q, math.sqrt(n * q * (1 - q)))


def fisher(both: int, first: int, second: int, n: int) -> float:
    """Of n pairs: the probability that the number in which both are there is as unlikely as this one, or more, given
    that so many of the first and of the second are there."""

    def logs(k: Tensor) -> Tensor:
        return _choose(first, k) + _choose(n - first, second - k) - _choose(n, torch.tensor(float(second)).double())

    a, b = first / n, second / n
    spread = math.sqrt(n * a * (1 - a) * b * (1 - b))
    return _tails(logs, both, (max(0, first + second - n), min(first, second)), n * a * b, spread)


def visible(n: int, q: float, alpha: float) -> float:
    """How far off a share q must be to be seen among n elements with a probability of 99 %."""
    # Quantiles of the normal, which the binomial is as good as at such numbers: of alpha/2 on either side, and of 99 %.
    away = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(0.99)
    return away * math.sqrt(q * (1 - q) / n)


def _choose(n: int, k: Tensor) -> Tensor:
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _tails(logs: Callable[[Tensor], Tensor], count: int, ends: tuple[int, int], mean: float, spread: float) -> float:
    """The probability of all outcomes that are at most as likely as `count`: near the mean, as what is further away
    adds less than any number can hold."""
    far = FAR * spread + FAR
    if abs(count - mean) > far:
        return 0.0
    low, high = max(ends[0], math.floor(mean - far)), min(ends[1], math.ceil(mean + far))
    found = logs(torch.arange(low, high + 1, dtype=torch.float64))
    likely = found[found <= found[count - low] + TIE]
    return min(1.0, float(torch.logsumexp(likely, 0).exp()))
