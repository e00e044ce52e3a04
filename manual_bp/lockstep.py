"""Lockstep: two engines train side by side on the same data, and every step is judged layer by layer.

Each step starts both engines from the same state, on the same mini-batch and with the same dropout masks, so a
disagreement belongs to that step and not to the ones before.  Two questions are asked:

- whole: z, a, delta, dW, db of every layer after the whole chain, running statistics, updated parameters and the
  optimiser's state, against the other engine;
- alone: each layer by itself, given the inputs and the upstream cotangent that it had, against its own reference.

A third run, free, is never resynchronised; it is shown and not judged, as rounding errors may grow from step to step.

A run in which both engines leave the numbers of the dtype has diverged: that is said, and ends it; it is no
disagreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.models.model import Model
from manual_bp.training.data import Dataset
from manual_bp.training.engine import Engine
from manual_bp.training.judging import Disagreement, Judge, Row, branches_differ, visit_case
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.optimizers import Optimizer, sgd
from manual_bp.training.step import TrainingState, training_step

__all__ = ["Disagreement", "LockstepReport", "Row", "branches_differ", "failed", "lockstep", "visit_case"]


@dataclass
class LockstepReport:
    """The result of `lockstep`.

    rows: the worst of each tensor; ulps are in the last place of the tensor's largest element. disagreements: in the
    order in which they arose; empty if all holds. flips: units whose branch (the sign at a kink, the winner of a
    maximum) differed because z lay within its allowance of the
        kink; the whole-chain gradients of that step and of the layers before are not judged, each layer alone is.
    losses: per step, (manual, other engine) in lockstep and in the free run.
    steps: as many as were judged. diverged: the sentence that says in which step the run diverged, or "".
    training: loss, optimiser and penalties.
    """

    model: str
    config: dict[str, Any]
    data: str
    dtype: str
    device: str
    against: str
    steps: int
    rows: list[Row] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    flips: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)
    free_losses: list[tuple[float, float]] = field(default_factory=list)
    free_drift: float = 0.0
    diverged: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.disagreements and not self.diverged and self.steps > 0

    @property
    def verdict(self) -> str:
        if self.passed:
            return f"every layer agrees in {self.steps} steps"
        if not self.disagreements:
            return self.diverged
        first = self.disagreements[0]
        if not first.layer:
            return first.sentence
        return f"first disagreement in step {first.step} at {first.layer}: {first.sentence}"

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "verdict": self.verdict, **asdict(self)}


def lockstep(
    model: Model,
    data: Dataset,
    *,
    engine: Callable[..., Engine],
    against: str = "torch",
    steps: int = 50,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    loss: str = "square_loss",
    optimizer: Optimizer | None = None,
    l2: float = 1e-4,
    l1: float = 0.0,
    max_norm: float | None = None,
    clip_norm: float | None = None,
    seed: int = 0,
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
) -> LockstepReport:
    """Train `model` on `data` by hand, and side by side with what `engine(name, loss=, optimizer=, l2=, l1=, max_norm=,
    clip_norm=, **config)` builds.

    optimizer: sgd(lr=0.01) by default; the others are arguments of `training_step`.
    progress: wraps the step numbers, to show how far it is.
    Raises ValueError if the data's features or classes are not the model's.
    """
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(
            f"lockstep: dtype must be float64 or float32; came {dtype}. In 16 bits two right engines round every layer "
            "differently; judge the rules one by one: manual-bp verify --dtype bfloat16."
        )
    training: dict[str, Any] = {
        "loss": loss,
        "optimizer": optimizer or sgd(lr=0.01),
        "l2": l2,
        "l1": l1,
        "max_norm": max_norm,
        "clip_norm": clip_norm,
    }
    step = training_step(model, **training)
    other = engine(model.name, **training, **model.config)
    report = LockstepReport(
        model.name, model.config, data.name, str(dtype).removeprefix("torch."), device, against, steps=0
    )
    report.training = {**training, "optimizer": {"name": step.optimizer.name, **step.optimizer.config}}
    judge = Judge(step, other, dtype, device, against)
    state = step.init(torch.Generator().manual_seed(seed), dtype=dtype, device=device)
    free = {"manual": state, "other": state}
    batches = MiniBatches(len(data.x), min(batch_size, len(data.x)), seed, drop_last=True).after(0)
    x_all, targets = data.x.to(device, dtype), data.targets(dtype).to(device)
    for number in progress(iter(range(1, steps + 1))):
        index = next(batches).to(device)
        x, target = x_all[index], targets[index]
        masks = step.masks(state, len(index), device)
        ours, theirs = judge.step(number, replace(state, buffers={**state.buffers, **masks}), x, target, seed + number)
        report.diverged = judge.diverged
        if report.diverged:
            break
        report.steps = number
        state = replace(state, params=ours.params, buffers=ours.buffers, optimizer=ours.optimizer, steps=number)
        report.losses.append((float(ours.loss), float(theirs.loss)))
        _run_free(free, judge.manual, other, masks, x, target, report)
    report.rows, report.disagreements, report.flips = judge.rows, judge.disagreements, judge.flips
    report.free_drift = _drift(free)
    return report


def failed(model: Model, data: str, why: str) -> LockstepReport:
    """The report of a run that did not come to its end."""
    report = LockstepReport(model.name, model.config, data, "", "", "", steps=0)
    report.disagreements.append(Disagreement(0, "", "", why))
    return report


def _run_free(
    free: dict[str, TrainingState],
    manual: Engine,
    other: Engine,
    masks: Tensors,
    x: Tensor,
    target: Tensor,
    report: LockstepReport,
) -> None:
    losses = []
    for name, engine in (("manual", manual), ("other", other)):
        before = replace(free[name], buffers={**free[name].buffers, **masks})
        record = engine.step(before, x, target)
        free[name] = replace(before, params=record.params, buffers=record.buffers, optimizer=record.optimizer)
        losses.append(float(record.loss))
    report.free_losses.append((losses[0], losses[1]))


def _drift(free: dict[str, TrainingState]) -> float:
    """The largest difference of a parameter, relative to the largest parameter."""
    ours, theirs = free["manual"].params, free["other"].params
    difference = max(float((ours[name].double() - p.double()).abs().max()) for name, p in theirs.items())
    return difference / max(float(p.abs().max()) for p in theirs.values())
