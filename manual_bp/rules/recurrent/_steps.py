"""A step that is taken again and again along a sequence, each time from the states that the last one left."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def over_time(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    states: Tensors,
    each: Tensors,
    *,
    last_first: bool = False,
) -> tuple[Tensors, Tensors]:
    """The states after all steps, and what the steps gave, (time, ...) in the order of time.

    step: (states, what each of `each` holds for this step) -> (states after it, what it gives).
    each: tensors (time, ...), of one time step or more.
    last_first: from the last step to the first.

    A program that is compiled for the CPU has one loop, and not the step as often as there is time.  (A GPU replays a
    graph of kernels, which cannot ask whether the loop is at its end.)
    """
    if torch.compiler.is_exporting() and states[0].device.type == "cpu":
        return _as_one_loop(step, states, each, last_first)
    every = list(zip(*(x.unbind() for x in each), strict=True))
    given = []
    for now in reversed(every) if last_first else every:
        states, found = step(states, now)
        given.append(found)
    if last_first:
        given.reverse()
    return states, tuple(torch.stack(found) for found in zip(*given, strict=True))


def _as_one_loop(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], states: Tensors, each: Tensors, last_first: bool
) -> tuple[Tensors, Tensors]:
    from torch._higher_order_ops.scan import scan

    def apart(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        """The step; a tensor that is a state and is given too is two tensors there."""
        after, given = step(states, now)
        return after, tuple(found.clone() for found in given)

    return scan(apart, states, each, reverse=last_first)
