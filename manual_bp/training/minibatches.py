"""Mini-batches: every example once per epoch, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def minibatches(n: int, batch_size: int, generator: torch.Generator, *, drop_last: bool = False) -> Iterator[Tensor]:
    """Endless index tensors of shape (batch_size,), reshuffled every epoch.

    drop_last: leave out the last batch of an epoch if it is short, as it otherwise is.
    Raises ValueError, when the first batch is asked for, unless n ≥ 1, batch_size ≥ 1 and some batch is kept.
    """
    if batch_size < 1 or n < 1 or (drop_last and n < batch_size):
        raise ValueError(
            f"minibatches: there must be an example, batch_size ≥ 1, and a whole batch with drop_last; came {n} "
            f"examples and batch_size {batch_size}."
        )
    while True:
        order = torch.randperm(n, generator=generator)
        batches = torch.split(order, batch_size)
        yield from (batch for batch in batches if not drop_last or len(batch) == batch_size)
