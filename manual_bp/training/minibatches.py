"""Mini-batches: every example once per epoch, in an order that a seed and the epoch's number decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from manual_bp.arguments import check_bool, is_whole
from manual_bp.wording import counted


@dataclass(frozen=True)
class MiniBatches:
    """The mini-batches of `n` examples, as index tensors.

    n: number of examples. batch_size: examples per batch.
    seed: not negative; another seed, other orders.
    drop_last: leave out the last batch of an epoch if it is short, as it otherwise is.

    Nothing is remembered between calls: where a run stands is the number of steps it has made.

    >>> batches = MiniBatches(10, 4, seed=0)
    >>> [len(batch) for batch in batches.epoch(0)]
    [4, 4, 2]
    >>> resumed = batches.after(4)              # 4 steps made: the second batch of the second epoch comes next
    >>> bool((next(resumed) == batches.epoch(1)[1]).all())
    True

    Raises ValueError unless n ≥ 1, batch_size ≥ 1, seed ≥ 0 and some batch is kept.
    """

    n: int
    batch_size: int
    seed: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not (is_whole(self.n, 1) and is_whole(self.batch_size, 1) and is_whole(self.seed)):
            raise ValueError(
                "MiniBatches: there must be n ≥ 1 examples, batch_size ≥ 1 and seed ≥ 0, all of them whole numbers "
                f"below 2^63; came n={self.n!r}, batch_size={self.batch_size!r}, seed={self.seed!r}."
            )
        check_bool("MiniBatches", drop_last=self.drop_last)
        if len(self) == 0:
            raise ValueError(
                f"MiniBatches: with drop_last a whole batch must fit; came {counted(self.n, 'example')} for batch_size "
                f"{self.batch_size}. Make batches smaller, or keep the short one."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples the batches of an epoch have, each size once: batch_size, and what is left for the last."""
        full, rest = divmod(self.n, self.batch_size)
        return ((self.batch_size,) if full else ()) + ((rest,) if rest and not self.drop_last else ())

    def epoch(self, number: int) -> tuple[Tensor, ...]:
        """The batches of one epoch, counted from 0: int64 index tensors of shape (batch_size,), the last perhaps
        shorter."""
        # Mixed, so that neighbouring seeds share no epoch, as they would under seed + number.
        (mixed,) = np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(int(mixed) >> 1))
        return torch.split(order, self.batch_size)[: len(self)]

    def after(self, steps: int) -> Iterator[Tensor]:
        """Endless; begins with the batch that follows `steps` steps, be it in the middle of an epoch."""
        first, done = divmod(steps, len(self))
        yield from self.epoch(first)[done:]
        for number in count(first + 1):
            yield from self.epoch(number)
