"""Mini-batches: every example once per epoch, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def minibatches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index tensors of shape (batch_size,), reshuffled every epoch; a last short batch is kept.

    Raises ValueError unless 1 <= batch_size.
    """
    if batch_size < 1 or n < 1:
        raise ValueError(f"minibatches: there must be an example and batch_size ≥ 1; came {n} and {batch_size}.")
    while True:
        order = torch.randperm(n, generator=generator)
        yield from torch.split(order, batch_size)
