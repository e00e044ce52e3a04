"""What an engine draws by chance, and does not show: two of them are asked for the same step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manual_bp.oracle.truth.errors import errors
from manual_bp.training.engine import Engine, StepRecord
from manual_bp.training.judging.disagreement import Judged
from manual_bp.training.visits import copied

SEEDS = (1, 2)
"""Of what is drawn in the one and the other: an engine that is made seeds them alike."""


def by_chance(fresh: Callable[[], Engine] | None, judged: Judged, dtype: torch.dtype, of_update: bool = False) -> str:
    """That two engines make different steps, or updates, from the same numbers, in words; "" if not, or if none can be
    made."""
    if fresh is None:
        return ""
    try:
        first, other = (_step(fresh, judged, seed) for seed in SEEDS)
        ours, width, one, two = (_flat(r, of_update) for r in (judged.ours, judged.width, first, other))
        differ = [n for n in ours if n in one and n in two and _differ(one[n], two[n], 2 * width[n], dtype)]
    except Exception:  # of a stranger's engine, which may be made once alone
        return ""
    if not differ:
        return ""
    what = "the loss" if not differ[0] else f"the {'update' if of_update else 'gradient'} of {differ[0]}"
    of_data = "dropout that is left on, or data that are augmented or mixed"
    usual = "noise on gradients or parameters" if of_update else of_data
    return (
        f"something is drawn by chance that the model does not have: two steps from the same numbers differ in {what} "
        f"({usual})"
    )


def _flat(record: StepRecord, of_update: bool) -> dict[str, Tensor]:
    return record.params if of_update else {"": record.loss, **record.gradients}


def _step(fresh: Callable[[], Engine], judged: Judged, seed: int) -> StepRecord:
    with torch.random.fork_rng():
        engine = fresh()
        torch.manual_seed(seed)
        return engine.step(copied(judged.state), judged.x.clone(), judged.target.clone())


def _differ(one: Tensor, other: Tensor, allowance: Tensor, dtype: torch.dtype) -> bool:
    if one.shape != other.shape:
        return False
    ratio, _ = errors(one.detach().cpu(), other.detach().cpu().double(), allowance, dtype)
    return bool((ratio > 1).any())
