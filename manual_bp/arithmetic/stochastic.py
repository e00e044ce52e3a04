"""Stochastic arithmetic: how far rounding errors carry through one page whose bound has lost its meaning.

A bound adds up the errors of operands as absolute values.  Over a long recurrence it multiplies up with every step
(after 50 of an LSTM it is infinite), while the errors that programs make have independent signs and do not.  So where
the bound of a result is wide, the page is run some times more, in which every operation errs by a random part of its
own rounding error, uniformly within the very bound that running error analysis has for it; and the result may be off by
so many times the root mean square of what these runs are off by.

An error that accumulates through many operations is about normally distributed.  Its root mean square from 16 runs is
below half of the true one with probability 1e-4 and below a third with 5e-8, so that 8 of it are hardly ever less than
three standard deviations, of errors that are drawn from the whole of each bound, which programs seldom reach.

Sources: Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002 (1997);
Vignes, "A stochastic arithmetic for reliable scientific computation", Math. Comput. Simul. 35 (1993).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table import precision
from manual_bp.arithmetic.bounded_tensor import Bounded, How

RUNS = 16
DEVIATIONS = 8.0

SMALL = 1 / 64
"""Errors have a meaning of their own up to this part of a result's largest element: then each goes through the page by
its first derivative, and their sum is about normal.  A bound beyond the whole of it has none."""
ROUNDINGS = 2**10
"""In low precision it is more: so many roundings."""

LOST = 1000.0
"""A bound is given up where it is so many times what stochastic arithmetic finds: correlated errors, or a sum that
cancels, are not so many."""
FIRST = 2
"""So many runs tell whether it is worth it."""


def is_wide(result: Tensor, error: Tensor, share: float = 1.0) -> bool:
    """Whether an error is beyond a share of the largest element of the result that it belongs to."""
    if not isinstance(result, Bounded) or not result.numel():
        return False
    finite = result.value.isfinite()
    size = torch.where(finite, result.value.abs(), 0.0).max()
    share = max(share, ROUNDINGS * precision(result.dtype).u)
    return bool((finite & ~(error <= share * size)).any() and size > 0)


def narrowed(
    results: Sequence[Tensor | None],
    errors: Sequence[Tensor | None],
    run: Callable[[How], Sequence[Tensor | None]],
    how: How | None,
    leave: Callable[[Tensor], Tensor],
) -> list[Tensor | None]:
    """The errors, and where they have lost their meaning those of stochastic arithmetic, if these are small.

    results, errors: of the bounded run.  run: the page once more, done in another way.  leave: the error of a result
    once it is stored.
    """
    dice = torch.Generator().manual_seed(0)
    squares = [torch.zeros(x.shape, dtype=torch.float64) if isinstance(x, Bounded) else None for x in results]
    narrow = list(errors)
    for count in range(1, RUNS + 1):
        thrown = run((how or How())._replace(dice=dice))
        for square, x, erred in zip(squares, results, thrown, strict=True):
            if square is not None and isinstance(x, Bounded) and isinstance(erred, Bounded):
                square += (erred.value - x.value) ** 2
        if count in (FIRST, RUNS):
            spreads = [None if square is None else DEVIATIONS * (square / count).sqrt() for square in squares]
            narrow = [_less(*each, leave) for each in zip(results, errors, spreads, strict=True)]
            if all(new is old for new, old in zip(narrow, errors, strict=True)):
                break
    return narrow


def _less(
    result: Tensor | None, error: Tensor | None, spread: Tensor | None, leave: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """The spread of a result where it is small and the error is not; the error itself if that is nowhere."""
    if error is None or spread is None or not isinstance(result, Bounded) or not is_wide(result, error):
        return error
    stored = leave(Bounded(result.value, spread, result.dtype))
    lost = (spread > 0) & (error > LOST * stored.max())
    return error if is_wide(result, stored, SMALL) or not bool(lost.any()) else torch.where(lost, stored, error)
