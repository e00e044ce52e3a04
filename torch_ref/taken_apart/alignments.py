"""Sequences that are aligned with shorter ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Sequence[int] | Tensor,
    target_lengths: Sequence[int] | Tensor,
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[Tensor, Tensor]:
    """-log of the probability of all ways in which each target, with blanks, goes through its steps; and torch's
    buffer, which nobody needs.

    Of free log_probs (steps, batch, classes) its derivative is not torch's, which is right behind a log_softmax alone.
    """
    lengths = [[int(n) for n in each] for each in (input_lengths, target_lengths)]
    losses = []
    begin = 0
    for one, (steps, count) in enumerate(zip(*lengths, strict=True)):
        own = targets[one, :count] if targets.ndim == 2 else targets[begin : begin + count]
        begin += count
        losses.append(_of_one(log_probs[:steps, one], own, blank))
    found = torch.stack(losses)
    return (found.masked_fill(found == math.inf, 0.0) if zero_infinity else found), log_probs


def _of_one(logp: Tensor, target: Tensor, blank: int) -> Tensor:
    """logp (steps, classes), target (length)."""
    labels = torch.full((2 * len(target) + 1,), blank)
    labels[1::2] = target
    states = logp.index_select(1, labels)
    skips = torch.zeros(len(labels), dtype=torch.bool)
    skips[2:] = (labels[2:] != blank) & (labels[2:] != labels[:-2])
    # Which states there is a way to depends on no number; where there is none, a 0 stands that goes nowhere.
    there = torch.arange(len(labels)) < 2
    alpha = states[0].masked_fill(~there, 0.0)
    for step in states[1:]:
        before = torch.stack((there, _behind(there, 1), _behind(there, 2) & skips))
        ways = torch.stack((alpha, _behind(alpha, 1), _behind(alpha, 2)))
        there = before.any(0)
        total = torch.logsumexp(ways.masked_fill(~before & there, -math.inf), 0)
        alpha = (total + step).masked_fill(~there, 0.0)
    ends = [position for position in range(max(len(labels) - 2, 0), len(labels)) if bool(there[position])]
    if not ends:
        return logp.new_full((), math.inf) + 0 * logp.sum()
    return -torch.logsumexp(torch.stack([alpha[position] for position in ends]), 0)


def _behind(x: Tensor, steps: int) -> Tensor:
    return torch.cat((x.new_zeros(steps), x))[: len(x)]
