"""Lockstep: two engines train side by side on the same data, and every step is judged layer by layer.

Each step starts both engines from the same state, on the same mini-batch and with the same dropout masks, so a
disagreement belongs to that step and not to the ones before.  Two questions are asked:

- whole: z, a, delta, dW, db of every layer after the whole chain, running statistics, updated parameters and the
  optimiser's state, against the other engine;
- alone: each layer by itself, given the inputs and the upstream cotangent that it had, against its own reference.

After that comes a third run, free: both engines from the same beginning through the same mini-batches, never
resynchronised; it is shown and not judged, as rounding errors may grow from step to step.  It has an engine of its own,
which the factory is asked for once more: the one that is judged makes each step once, so that it may keep moments or
anything else from step to step.

A run in which both engines leave the numbers of the dtype has diverged: that is said, and ends it; it is no
disagreement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from manual_bp.arguments import is_whole
from manual_bp.chain import Tensors
from manual_bp.losses import Loss
from manual_bp.models.model import Model
from manual_bp.networks import learns_images, learns_text, tiny
from manual_bp.training.data import Dataset
from manual_bp.training.engine import Engine, ManualEngine, StepRecord, built, check_record
from manual_bp.training.factory import training_step
from manual_bp.training.fit import check_batches
from manual_bp.training.judging.disagreement import Disagreement, LockstepReport, Row
from manual_bp.training.judging.judge import Judge
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.optimizers import Optimizer, adamw, sgd
from manual_bp.training.schedules import Schedule, ScheduleOf
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.text import BYTES, Text
from manual_bp.training.visits import branches_differ, copied, visit_case
from manual_bp.wording import counted

__all__ = ["Disagreement", "LockstepReport", "Row", "branches_differ", "brief", "failed", "lockstep", "visit_case"]

EXAMPLES, FEATURES, CLASSES = 24, 5, 3
"""Of a brief run."""
IMAGE = (1, 5, 4)
"""Of a brief run of a network that takes images: channels, height and width, for two poolings, one with a remainder."""
SEQUENCES = 9
"""Of a brief run, where an example has FEATURES tokens: every layer sees as many rows as with EXAMPLES, or twice."""
BATCH_SIZE, WINDOWS = 64, 4
"""Examples of a mini-batch, if nothing else is said; of a text, whose examples have many tokens."""


def lockstep(
    model: Model,
    data: Dataset,
    *,
    engine: Callable[..., Engine],
    against: str = "torch",
    steps: int = 50,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    loss: str | None = None,
    loss_hyper: Mapping[str, Any] = MappingProxyType({}),
    optimizer: Optimizer | None = None,
    l2: float = 1e-4,
    l1: float = 0.0,
    max_norm: float | None = None,
    clip_norm: float | None = None,
    schedule: Schedule | Callable[[int], float] | None = None,
    frozen: Collection[str] = (),
    decayed: Collection[str] | None = None,
    seed: int = 0,
    free: bool = True,
    trusted: bool = False,
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
) -> LockstepReport:
    """Train `model` on `data` by hand, and side by side with what `engine(name, loss=, optimizer=, l2=, l1=, max_norm=,
    clip_norm=, **config)` builds, an `Engine` of manual_bp.training.engine, and a second one for the free run.

    An engine is judged on what it shows: of one that shows loss, gradients and parameters alone, these.

    loss: the model's usual one by default. optimizer: by default sgd(lr=0.01), for a text adamw(lr=0.001); the others
        are arguments of `training_step`.  The engine is told loss_hyper, schedule, frozen and decayed only where there
        is one.
    schedule: of the learning rate; or a function of the number of steps made, which returns what it is multiplied by.
    frozen: names of parameters that are not to move, nor to count where gradients are clipped.
    decayed: names of parameters that the weight decay is about, or "weights" for matrices and filters; None for all.
        It is declared, and not read off an engine's own groups, as a mistake in these would be its own excuse.
    batch_size: by default 64, for a text 4.
    free: whether there is a free run. trusted: whether the engine is the reference: what it shows is then judged alone
        only in steps in which something disagrees, and else in steps 1, 2, 4, 8 and so on too.
    progress: wraps the step numbers, to show how far it is.
    Raises ValueError if the data's features or classes are not the model's, if the model refuses mini-batches of that
    size (batch norm has nothing to normalise in one example), and for an engine's record that cannot be judged.
    """
    if not is_whole(steps, 1):
        raise ValueError(f"lockstep: steps must be a whole number, at least 1; came {steps!r}.")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(
            f"lockstep: dtype must be float64 or float32; came {dtype}. In 16 bits two right engines round every layer "
            "differently; judge the rules one by one: manual-bp verify --dtype bfloat16."
        )
    training: dict[str, Any] = {
        **Loss(loss or model.usual_loss, loss_hyper).options,
        "optimizer": optimizer or (adamw(lr=0.001) if data.symbols else sgd(lr=0.01)),
        "l2": l2,
        "l1": l1,
        "max_norm": max_norm,
        "clip_norm": clip_norm,
    }
    if schedule is not None:
        training["schedule"] = ScheduleOf(function=schedule) if callable(schedule) else schedule
    if frozen:
        training["frozen"] = sorted(frozen)
    if decayed is not None:
        training["decayed"] = decayed
    step = training_step(model, **training)
    if step.decayed is not None:
        training["decayed"] = sorted(step.decayed)

    def build() -> Engine:
        made: Engine = built(engine, against, model.name, {**training, **model.config})
        return made

    report = LockstepReport(
        model.name, model.config, data.name, str(dtype).removeprefix("torch."), device, against, steps=0
    )
    report.training = {**training, "optimizer": {"name": step.optimizer.name, **step.optimizer.config}}
    if callable(schedule):  # JSON knows no functions
        report.training["schedule"] = getattr(schedule, "__qualname__", type(schedule).__name__)
    start = step.init(torch.Generator().manual_seed(seed), dtype=dtype, device=device)
    x_all = data.examples(dtype).to(device)
    targets = step.loss.targets(data.labels, data.classes, dtype).to(device)
    batches = minibatches(data, batch_size, seed)
    check_batches(step, start, x_all, batches)
    other = build()
    judge = Judge(step, other, dtype, device, against, trusted, fresh=build)

    def begun(state: TrainingState, index: Tensor) -> tuple[TrainingState, Tensor, Tensor]:
        """The state with the step's masks, x and target."""
        index = index.to(device)
        masks = step.masks(state, len(index), device)
        return replace(state, buffers={**state.buffers, **masks}), x_all[index], targets[index]

    state, order = start, batches.after(0)
    for number in progress(iter(range(1, steps + 1))):
        before, x, target = begun(state, next(order))
        ours, theirs = judge.step(number, before, x, target, seed + number)
        report.diverged = judge.diverged
        if report.diverged:
            break
        report.steps = number
        state = after(state, ours)
        report.losses.append((float(ours.loss), float(theirs.loss)))
    report.rows, report.disagreements, report.flips = judge.rows, judge.disagreements, judge.flips
    report.unshown = judge.unshown
    if free:
        _run_free(report, step, start, other, build, begun, batches)
    else:
        report.not_free = "no free run: none was asked for"
    return report


def brief(
    name: str,
    *,
    engine: Callable[..., Engine],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
) -> LockstepReport:
    """What `verify` runs of a network of manual_bp.networks: three steps of a tiny one on made-up data.

    Every kind of layer that the network has is judged in each step, alone and in the chain; the engine is trusted.
    `lockstep` with the whole network and real data adds sizes and steps.
    """
    generator = torch.Generator().manual_seed(0)
    shape = brief_shape(name)
    x = torch.rand(EXAMPLES, *shape, generator=generator, dtype=torch.float64)
    labels = torch.arange(EXAMPLES) % CLASSES
    data = Dataset("made-up numbers", x, labels, IMAGE[1:] if learns_images(name) else (1, FEATURES))
    if learns_text(name):
        tokens = torch.randint(CLASSES, (SEQUENCES * FEATURES + 1,), generator=generator)
        data = Text("made-up tokens", tokens, BYTES[:CLASSES]).windows(FEATURES)
    model = tiny(name, shape, CLASSES)
    how: dict[str, Any] = {"steps": 3, "batch_size": len(data.x) // 3, "dtype": dtype, "device": device}
    return lockstep(model, data, engine=engine, free=False, trusted=True, progress=progress, **how)


def brief_shape(name: str) -> tuple[int, ...]:
    """Of an example of a brief run."""
    return IMAGE if learns_images(name) else (FEATURES,)


def check_data(model: Model, data: Dataset, batch_size: int | None = None) -> None:
    """Raise ValueError if `lockstep` cannot train the model on these data, before anything is trained."""
    step = training_step(model, optimizer=sgd(lr=0.01))
    check_batches(step, step.init(torch.Generator()), data.examples(torch.float32), minibatches(data, batch_size, 0))


def minibatches(data: Dataset, batch_size: int | None, seed: int) -> MiniBatches:
    """The mini-batches of a lockstep run: all of one size, that of the data if there are fewer examples."""
    if batch_size is None:
        batch_size = WINDOWS if data.symbols else BATCH_SIZE
    size = min(batch_size, len(data.x)) if is_whole(batch_size) else batch_size
    return MiniBatches(len(data.x), size, seed, drop_last=True)


def after(state: TrainingState, record: StepRecord) -> TrainingState:
    """The state that a step leaves, as an engine showed it; masks are no part of it."""
    buffers = {name: record.buffers[name] for name in state.buffers}
    return replace(state, params=record.params, buffers=buffers, optimizer=record.optimizer, steps=state.steps + 1)


def failed(model: Model, data: str, why: str) -> LockstepReport:
    """The report of a run that did not come to its end."""
    report = LockstepReport(model.name, model.config, data, "", "", "", steps=0)
    report.disagreements.append(Disagreement(0, "", "", why))
    return report


def _run_free(
    report: LockstepReport,
    step: Step,
    start: TrainingState,
    judged: Engine,
    build: Callable[[], Engine],
    begun: Callable[[TrainingState, Tensor], tuple[TrainingState, Tensor, Tensor]],
    batches: MiniBatches,
) -> None:
    """As many steps as were judged, without resynchronising; whatever the other engine does, the verdict stands."""
    manual, ours, theirs = ManualEngine(step), start, start
    order = batches.after(0)
    if lacking := report.unshown_state:
        report.not_free = f"no free run: {report.against} does not show {lacking}, from which it would go on"
        return
    try:
        other = build()
        if other is judged:
            report.not_free = f"no free run: {report.against}'s factory gave the same engine again"
            return
        for _ in range(report.steps):
            index = next(order)
            our_record = manual.step(*begun(ours, index))
            before, x, target = begun(theirs, index)
            their_record = other.step(copied(before), x.clone(), target.clone())
            check_record(their_record, our_record, report.against)
            ours, theirs = after(ours, our_record), copied(after(theirs, their_record))
            report.free_losses.append((float(our_record.loss), float(their_record.loss)))
    except Exception as error:  # of a stranger's engine
        report.not_free = f"the free run ended after {counted(len(report.free_losses), 'step')}: {error}"
    report.free_drift = _drift(ours.params, theirs.params)


def _drift(ours: Tensors, theirs: Tensors) -> float:
    """The largest difference of a parameter, relative to the largest parameter."""
    difference = max(float((p.double() - theirs[name].double()).abs().max()) for name, p in ours.items())
    largest = max(float(p.abs().max()) for p in ours.values())
    return difference / largest if largest else difference
