"""Stochastic arithmetic: how far rounding errors carry through one page whose bound has lost its meaning.

A bound adds up the errors of operands as absolute values.  Over a long recurrence it multiplies up with every step
(after 50 of 16 units it may be infinite), while the errors that programs make have signs and do not.  So where the
bound of a result is wide, the page is run some times more, in which every operation errs by a random part of its own
rounding error, uniformly within the very bound e_k that running error analysis has for it.  What these runs are off by
has, as long as errors are small and so go through the page by its first derivatives D_k, the mean square

    r² = Σ_k D_k² e_k² / 3

**Worst case.**  However the errors of a program correlate, by the inequality of Cauchy and Schwarz its n operations are
off together by at most

    Σ_k |D_k| e_k ≤ √n √(Σ_k D_k² e_k²) = √(3 n) r

which is the bound again, but for what cancels between the ways that one error takes.  Nothing is assumed there but that
errors are small.  It takes the place of a wide bound wherever it is much less.

**Independent signs.**  Where a bound is anywhere in a result a thousand times what is said next, nobody could tell a
wrong program from a right one by it, and what is said next holds for all of this result.  (Of up to 21 operations it is
more than the worst case, and changes nothing.)  An error that accumulates through many operations is about normally
distributed.  Its root mean square from 16 runs is below half of the true one with probability 1e-3 and below a third
with 4e-6, so that 8 of it are hardly ever less than three standard deviations, of errors that are drawn from the whole
of each bound, which programs seldom reach.

**False alarms.**  Random cases of rnn, lstm and gru, 120 of 33 steps of 8 units and 90 of 50 steps of 16, in 119 of
which such a width was taken, each by four right programs (the page, torch's, and the page with units, features and
examples in two other orders, and so with other sums): none was beyond, and the worst at 0.17 of what is allowed.  So
with 95 % confidence fewer than 2.5 % of such cases are false alarms.  With x the same at 200 steps, where a recurrence
settles and each step rounds as the one before, a right gru came to 0.44 of 8 r.  That was measured where single
elements alone lost their bound; of whole results, in 81 cases of 33 to 120 steps of 4 to 16 units, a third of them with
the same x at each, the worst of three right programs was at 0.21.

**At once.**  The runs are one run with an axis more, before all others: torch.vmap hides it from the page, and every
operation below it errs in each run by a part of its own.  What a page does that cannot be done so is done run by run.

Sources: Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002 (1997);
Vignes, "A stochastic arithmetic for reliable scientific computation", Math. Comput. Simul. 35 (1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table import precision
from manual_bp.arithmetic.bounded_tensor import Bounded, Dice, How, NotAtOnce, done_so
from manual_bp.arithmetic.paging import Paging

RUNS = 16
DEVIATIONS = 8.0

WIDE = 2**14
"""A bound is wide from so many roundings of a result's largest element on: a thousandth of it in float32, so that a
slip of as much would pass.  More than the whole of it has no meaning in any precision."""

STORED = 4
"""Storing a result makes one rounding, beside which nothing is gained that is less."""

SMALL = 1 / 64
"""Errors have a meaning of their own up to this part of a result's largest element: then each goes through the page by
its first derivative, and their sum is about normal.  A bound beyond the whole of it has none."""
ROUNDINGS = 2**10
"""In low precision it is more: so many roundings."""

GAIN = 4.0
"""What is less than that much narrower is not worth the runs."""

LOST = 1000.0
"""A bound is given up where it is so many times what stochastic arithmetic finds: correlated errors, or a sum that
cancels, are not so many."""
FIRST = 1
"""So many runs tell whether it is worth it, as it rarely is.  A single one needs no axis of runs, whose operations take
twice as long each."""

AT_ONCE = 2**19
"""Runs are done at once as long as no tensor that goes in or comes out has more elements in all: 4 MiB, beyond which
the arithmetic takes the time, and no longer the calls."""

TOGETHER = 2**14
"""And those of several cases are, as long as none has more than so many in all: 128 KiB, beyond which the arithmetic
takes most of the time of an operation."""


def wide_from(compute: torch.dtype, storage: torch.dtype) -> float:
    """The share of a result's largest element beyond which a bound is wide, and so is not what storing it makes."""
    return max(min(WIDE * precision(compute).u, 1.0), STORED * precision(storage).u)


def is_wide(result: Tensor | None, error: Tensor | None, share: float) -> bool:
    """Whether an error is beyond a share of the largest element of the result that it belongs to."""
    if error is None or not isinstance(result, Bounded) or not result.numel():
        return False
    finite = result.value.isfinite()
    size = torch.where(finite, result.value.abs(), 0.0).max()
    share = max(share, ROUNDINGS * precision(result.dtype).u)
    return bool((finite & ~(error <= share * size)).any() and size > 0)


def fit(tensors: Sequence[Tensor | None]) -> bool:
    """Whether all runs may be done at once."""
    return RUNS * max((x.numel() for x in tensors if x is not None), default=0) <= AT_ONCE


def worst_case(thrown: int, count: int) -> float:
    """How many times the root mean square of so many runs, in which so many numbers were thrown, errors may make."""
    return math.sqrt(3 * thrown / count)


def narrowed(
    results: Sequence[Tensor | None],
    errors: Sequence[Tensor | None],
    run: Callable[[How, int], Sequence[Tensor | None]],
    how: How | None,
    leave: Callable[[Tensor], Tensor],
    share: float,
    is_cheap: bool = False,
) -> list[Tensor | None]:
    """The errors, and where they are wide what stochastic arithmetic finds, if that is small.

    results, errors: of the bounded run.  run: the page so many times more, done in another way; its results have an
    axis of runs before all others.  leave: the error of a result once it is stored.  share: from where on an error is
    wide (`wide_from`).  is_cheap: whether all runs take about as long as one.
    """
    dice = Dice()
    squares = [torch.zeros(x.shape, dtype=torch.float64) if isinstance(x, Bounded) else None for x in results]
    done = 0
    for count in (RUNS,) if is_cheap else (FIRST, RUNS):
        thrown = run((how or How())._replace(dice=dice), count - done)
        for square, x, erred in zip(squares, results, thrown, strict=True):
            if square is not None and isinstance(x, Bounded) and isinstance(erred, Bounded):
                square += (erred.value - x.value).square().sum(0)
        done = count
        spreads = [None if square is None else (square / count).sqrt() for square in squares]
        worst = worst_case(dice.thrown, count)
        narrow = [
            _less(x, error, spread, worst, leave) if is_wide(x, error, share) else error
            for x, error, spread in zip(results, errors, spreads, strict=True)
        ]
        if all(new is old for new, old in zip(narrow, errors, strict=True)):
            break
    return narrow


def repeated(
    function: Callable[..., Sequence[Tensor | None]],
    tensors: Sequence[Tensor | None],
    enter: Callable[[Tensor], Tensor],
    how: How,
    count: int,
    at_once: bool = True,
    is_recorded: bool = False,
) -> list[Tensor | None]:
    """The results of a function of tensors, in each of so many runs: with an axis of runs before all others.

    tensors: numbers; what is none (None, masks, indices) is the same in every run.  enter: a number as it is received.
    how: where `Dice` says how to err.  at_once: where that can be, and not one after the other.  is_recorded: whether
    what the function does is a recorded program.
    """
    largest = max((x.numel() for x in tensors if x is not None), default=1)
    most = max(1, AT_ONCE // max(largest, 1))
    if count > most:
        some = [
            repeated(function, tensors, enter, how, min(most, count - done), at_once, is_recorded)
            for done in range(0, count, most)
        ]
        with Paging(how):
            return [None if any(x is None for x in each) else torch.cat(each) for each in zip(*some, strict=True)]
    are_numbers = [x is not None and x.is_floating_point() for x in tensors]
    there: list[bool] = []

    def run(*entered: Tensor | None) -> list[Tensor]:
        results = function(*entered)
        there[:] = [x is not None for x in results]
        return [x for x in results if x is not None]

    def entered(copies: int) -> list[Tensor | None]:
        return [
            done_so(enter(x.expand(copies, *x.shape)), how) if x is not None and is_number else x
            for x, is_number in zip(tensors, are_numbers, strict=True)
        ]

    def of_program() -> Sequence[Tensor] | None:
        thrown = how.dice.thrown if how.dice else 0
        try:
            return [_with_axis(x, count) for x in run(*(_hidden(x, count) for x in entered(count)))]
        except NotAtOnce:
            if how.dice:
                how.dice.thrown = thrown  # of these runs nothing is left
            return None

    def all_at_once() -> Sequence[Tensor] | None:
        dims = tuple(0 if is_number else None for is_number in are_numbers)
        try:
            results: Sequence[Tensor] = torch.vmap(run, dims, randomness="different")(*entered(count))
        except (RuntimeError, ValueError):  # written in place into what is of no run, or looked at as a Python number
            return None
        return results

    def one_by_one() -> Iterator[list[Tensor]]:
        for _ in range(count):
            copies = zip(entered(1), are_numbers, strict=True)
            yield run(*(x[0] if x is not None and is_number else x for x, is_number in copies))

    with torch.no_grad(), Paging(how):
        # A single run needs no axis; a convolution that has one is of groups, which takes many times as long.
        found = of_program() if at_once and is_recorded and count > 1 else None
        if found is None and at_once and count > 1:
            found = all_at_once()
        if found is None:
            found = [torch.stack(each) for each in zip(*one_by_one(), strict=True)]
    rest = iter(found)
    return [next(rest) if is_there else None for is_there in there]


def at_once(
    function: Callable[..., Sequence[Tensor | None]],
    several: Sequence[Sequence[Tensor | None]],
    enter: Callable[[Tensor], Tensor],
    how: How,
    count: int,
) -> list[list[Tensor | None]]:
    """What `repeated` gives of a recorded program, for several sets of tensors of equal shapes: of a few numbers an
    operation takes as long as of one, so that all runs of all of them are one run.  Raises NotAtOnce.

    several: what is no number is the same in all of them.
    """
    runs = count * len(several)

    def entered(of_each: Sequence[Tensor | None]) -> Tensor | None:
        there = [x for x in of_each if x is not None and x.is_floating_point()]
        if not there:
            return of_each[0]
        shape = there[0].shape
        repeated = torch.stack(there).unsqueeze(1).expand(len(several), count, *shape)
        return _hidden(done_so(enter(repeated.reshape(runs, *shape)), how), runs)

    with torch.no_grad(), Paging(how):
        results = function(*map(entered, zip(*several, strict=True)))
        whole = [None if x is None else _with_axis(x, runs) for x in results]
    return [[None if x is None else _part(x, first, count) for x in whole] for first in range(0, runs, count)]


def _part(x: Tensor, first: int, count: int) -> Tensor:
    """So many runs, from one on."""
    if isinstance(x, Bounded):
        return Bounded(x.value.narrow(0, first, count), x.error.narrow(0, first, count), x.dtype)
    return x.narrow(0, first, count)


def most_at_once(tensors: Sequence[Tensor | None]) -> int:
    """Of so many sets of tensors like these all runs are best done at once."""
    largest = max((x.numel() for x in tensors if x is not None), default=1)
    return max(1, TOGETHER // (RUNS * max(largest, 1)))


def _hidden(x: Tensor | None, runs: int) -> Tensor | None:
    """Numbers whose first axis is that of runs, of which nobody shall know."""
    if not isinstance(x, Bounded):
        return x
    hidden = Bounded(x.value, x.error, x.dtype, runs)
    hidden.how, hidden.magnitude = x.how, x.magnitude
    return hidden


def _with_axis(x: Tensor, runs: int) -> Tensor:
    if isinstance(x, Bounded) and x.runs:
        return Bounded(x.value, x.error, x.dtype)
    if isinstance(x, Bounded):
        return Bounded(x.value.expand(runs, *x.shape), x.error.expand(runs, *x.shape), x.dtype)
    return x.expand(runs, *x.shape)


def _less(
    result: Tensor | None, error: Tensor | None, spread: Tensor | None, worst: float, leave: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """The error, or where that is less what the spread of a result (root mean square) makes, if errors are small.

    worst: how many times the spread is the worst case.
    """
    if error is None or spread is None or not isinstance(result, Bounded):
        return error
    likely, most = (leave(Bounded(result.value, times * spread, result.dtype)) for times in (DEVIATIONS, worst))
    moves = spread > 0
    less = error
    if not is_wide(result, most, SMALL):
        less = torch.where(moves & (GAIN * most < less), most, less)
    if not is_wide(result, likely, SMALL) and bool((moves & (error > LOST * likely.max())).any()):
        less = torch.where(moves, torch.minimum(likely, less), less)
    return less if bool((less < error).any()) else error
