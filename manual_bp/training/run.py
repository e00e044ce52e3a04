"""A whole run: what decides its course, and training with a checkpoint and a line of metrics after every epoch."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.curves.early_stopping import EarlyStopping, Stopping
from manual_bp.losses import Loss
from manual_bp.models.model import Model
from manual_bp.training import checkpoint as checkpoints
from manual_bp.training import history
from manual_bp.training.augmentation import augment
from manual_bp.training.checkpoint import Checkpoint
from manual_bp.training.data import TEST, Dataset
from manual_bp.training.factory import training_step
from manual_bp.training.fit import Augment, EpochRecord, TakeStep, check_batches, epochs, split
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.optimizers import Optimizer, adam, adamw, sgd
from manual_bp.training.schedules import Schedule
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.text import PYTHON
from manual_bp.training.typed import built
from manual_bp.wording import counted

CHECKPOINT, METRICS, MODEL = "checkpoint.safetensors", "metrics.jsonl", "model.safetensors"
"""The files of a run's folder."""

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "momentum": partial(sgd, momentum=0.9),
    "adam": adam,
    "adamw": adamw,
}
# Of three each on the digits with half the squared error, three seeds, the one of the lowest validation loss; but for
# adam with 0.01, whose loss is lower still and jumps: it stopped one run of five at 89 % of right answers.  (With
# softmax cross-entropy sgd 0.5 and momentum 0.2 have the lowest, and as many right answers, to within 0.3 %.)
LEARNING_RATES = {"sgd": 0.2, "momentum": 0.05, "adam": 0.005, "adamw": 0.005}
# The turns and sizes of a careful hand, and some noise.  On the digits: 98.8 % right instead of 98.2 (three seeds).
AUGMENTATION: dict[str, Any] = {"rotate": 10.0, "scale": 1.1, "noise": 0.05}
# Images are also shifted by their length over this, rounded down: two pixels of 28, none of 8, where one is a stroke's
# width and cost 3 % of accuracy.
LENGTH_PER_SHIFT = 14


@dataclass(frozen=True)
class Configuration:
    """What decides the course of a run, bit for bit: two runs of one configuration are the same run.

    loss: None is the model's usual one. loss_hyper: its hyperparameters off their defaults.
    lr: None is the optimiser's usual one, LEARNING_RATES.
    patience: epochs without a better validation loss after which training stops; 0 never stops, and keeps the last
        parameters instead of the best.
    frozen: names of parameters that do not move. decayed: those that weight decay is about; None for all.
    warmup, cosine: the schedule of the learning rate (training.schedules), whose cosine ends with the last epoch.
    """

    model: str = "mlp"
    data: str = "digits"
    epochs: int = 100
    batch_size: int = 64
    loss: str | None = None
    loss_hyper: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    lr: float | None = None
    l2: float = 0.0
    l1: float = 0.0
    dropout: float = 0.0
    clip_norm: float | None = None
    max_norm: float | None = None
    augment: bool = False
    patience: int = 15
    seed: int = 0
    dtype: str = "float32"
    warmup: int = 0
    cosine: bool = False
    frozen: list[str] = field(default_factory=list)
    decayed: list[str] | None = None


TEXT: dict[str, Any] = {
    "data": PYTHON,
    "epochs": 4,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 4e-3,
    "clip_norm": 1.0,
    "warmup": 100,
    "cosine": True,
}
"""What is usual where a network learns text, of which it sees every token four times."""

IMAGES: dict[str, Any] = {"epochs": 20, "cosine": True, "augment": True}
"""What is usual where a network takes images as images, whose filters the changes of augmentation do not spoil."""


def configuration_of(checkpoint: Checkpoint) -> Configuration:
    """What a checkpoint says of the run that it belongs to.  Raises ValueError for what no configuration can say.

    Where a checkpoint names no loss it is of a time when there was one.
    """
    said = {name: value for name, value in checkpoint.configuration.items() if name != "data_digest"}
    return built(Configuration, {"loss": "square_loss", **said})


class Interrupted(Exception):
    """Somebody asked the run to end; state: after the latest step."""

    def __init__(self, state: TrainingState, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.state, self.number = state, number


class Run:
    """A configuration with its network, its step and its data.

    classes: how many there are. image: (height, width) of an example. symbols: what the tokens of a text stand for.
    test_set: the files that all of the test comes from, "" if it is a share.
    Raises ValueError for what cannot be.
    """

    def __init__(self, configuration: Configuration, model: Model, data: Dataset) -> None:
        c = configuration
        if c.optimizer not in OPTIMIZERS:
            raise ValueError(f"--optimizer must be one of {list(OPTIMIZERS)}; came {c.optimizer!r}.")
        if c.dtype not in ("float32", "float64"):
            raise ValueError(f"--dtype must be float32 or float64 in training; came {c.dtype!r}.")
        if c.epochs < 1:
            raise ValueError(f"--epochs must be at least 1; came {c.epochs}.")
        lr = LEARNING_RATES[c.optimizer] if c.lr is None else c.lr
        loss = c.loss or model.usual_loss
        self.configuration = replace(c, lr=lr, loss=loss)
        dtype: torch.dtype = getattr(torch, c.dtype)
        limits: dict[str, Any] = {"l2": c.l2, "l1": c.l1, "clip_norm": c.clip_norm, "max_norm": c.max_norm}
        if c.augment and data.symbols:
            raise ValueError("--augment is for images; came a text. Leave it out.")
        self.optimizer = OPTIMIZERS[c.optimizer](lr)
        self.dtype = dtype
        parts = split(data, c.seed, loss=Loss(loss, c.loss_hyper), dtype=dtype)
        self.training, self.validation, self.test = parts
        self.batches = MiniBatches(len(self.training.x), c.batch_size, c.seed)
        steps = c.epochs * len(self.batches)
        if c.cosine and steps <= c.warmup:
            raise ValueError(
                f"--warmup must leave the cosine a step of the {steps} of --epochs {c.epochs} with these data; came "
                f"{c.warmup}. Warm up faster (--warmup {steps // 10}), train longer (--epochs "
                f"{c.warmup // len(self.batches) + 1} or more), or leave the cosine out (--no-cosine)."
            )
        if c.warmup or c.cosine:
            limits["schedule"] = Schedule(c.warmup, steps if c.cosine else None)
        self.step: Step = training_step(
            model, loss, loss_hyper=c.loss_hyper, optimizer=self.optimizer, frozen=c.frozen, decayed=c.decayed, **limits
        )
        changes = {**AUGMENTATION, "shift": min(data.image) // LENGTH_PER_SHIFT}
        self.augment: Augment | None = partial(augment, image=data.image, **changes) if c.augment else None
        self.early = EarlyStopping(c.patience) if c.patience else None
        self.classes, self.image, self.test_set = data.classes, data.image, f"{TEST}-*" if data.test else ""
        self.symbols = data.symbols
        self.data_digest = digest_of(data)
        self._fresh = self.step.init(torch.Generator().manual_seed(c.seed), dtype=dtype)
        check_batches(self.step, self._fresh, self.training.x, self.batches)

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of the configuration."""
        return {**vars(self.configuration), "data_digest": self.data_digest}

    def start(self) -> Checkpoint:
        """The checkpoint of a run that has made no step."""
        return Checkpoint(self.about, 0, self._fresh, Stopping())

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise ValueError unless the checkpoint is one of this run's."""
        if checkpoint.configuration.get("data_digest") != self.data_digest:
            raise ValueError(
                "the data must be those with which the run began; they have changed. Use the old data, or --out with "
                "another folder for a run with the new ones."
            )
        checkpoints.check_fits(checkpoint, self.step, self._fresh)
        steps, stopping, patience = checkpoint.state.steps, checkpoint.stopping, self.configuration.patience
        if checkpoint.epoch != steps // len(self.batches):
            raise ValueError(
                f"the checkpoint must be of epoch {steps // len(self.batches)}, after {counted(steps, 'step')} of "
                f"{len(self.batches)} an epoch; came epoch {checkpoint.epoch}. It is no checkpoint of such a run."
            )
        best = stopping.best_epoch or 0
        waits = patience and (
            best + stopping.waited != checkpoint.epoch or stopping.stop != (stopping.waited >= patience)
        )
        if waits or (patience and bool(checkpoint.epoch) != bool(best)) or (not patience and stopping != Stopping()):
            raise ValueError(
                f"the checkpoint must say how early stopping with patience {patience} stands after epoch "
                f"{checkpoint.epoch}; came {stopping}. It is no checkpoint of such a run."
            )

    def finished(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.stopping.stop or checkpoint.epoch >= self.configuration.epochs

    def train(
        self, folder: Path, checkpoint: Checkpoint, take: TakeStep, verified: Callable[[], dict[str, Any]]
    ) -> Iterator[tuple[Checkpoint, EpochRecord]]:
        """Go on from `checkpoint` to the end; each epoch is on the disk when it is handed out.

        verified: what is to stand in the checkpoint under that name.
        Raises NonFiniteError and Interrupted; the latter's state is saved.
        """
        if self.finished(checkpoint):
            return
        path = folder / CHECKPOINT
        if not path.exists():
            checkpoints.save(path, checkpoint)  # so that a run that is killed in its first epoch can be resumed too
        course = epochs(
            self.step, checkpoint.state, self.training, self.validation, self.batches, augment=self.augment, take=take
        )
        try:
            for state, record in course:
                stopping = checkpoint.stopping
                if self.early:
                    stopping = self.early.observe(stopping, record.epoch, record.validation_loss)
                checkpoint = replace(
                    checkpoint, epoch=record.epoch, state=state, stopping=stopping, verified=verified()
                )
                if stopping.improved or not self.early:
                    checkpoint = replace(checkpoint, best_params=state.params, best_buffers=state.buffers)
                # In this order: a run that is killed between the two has a line too many, which `history.cut` removes.
                history.append(folder / METRICS, record)
                checkpoints.save(path, checkpoint)
                yield checkpoint, record
                if self.finished(checkpoint):
                    return
        except Interrupted as interrupted:
            checkpoints.save(path, replace(checkpoint, state=interrupted.state, verified=verified()))
            raise

    def best(self, checkpoint: Checkpoint) -> TrainingState:
        """The parameters that a finished run leaves."""
        return replace(checkpoint.state, params=checkpoint.best_params, buffers=checkpoint.best_buffers)


def digest_of(data: Dataset) -> str:
    """SHA-256 of the images and labels, those to test with included."""
    found = hashlib.sha256()
    for part in (data, data.test):
        if part is not None:
            found.update(str(tuple(part.x.shape)).encode())
            for tensor in (part.x, part.labels):
                found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from training into `folder`; the lock ends with the process, however it ends.

    Raises ValueError if one does already.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be opened: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is training into it. Wait for it, or end it.") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def interruptible(take: TakeStep) -> Iterator[TakeStep]:
    """`take`, which raises Interrupted before the next step once SIGINT or SIGTERM has come.

    A second signal does what it does elsewhere.
    """
    came: list[int] = []
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, usual[number])

    def taken(state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
        if came:
            raise Interrupted(state, came[0])
        return take(state, x, target)

    for number in usual:
        signal.signal(number, handle)
    try:
        yield taken
    finally:
        for number, former in usual.items():
            signal.signal(number, former)
