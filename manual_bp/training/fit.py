"""The training loop: epoch after epoch, each measured on examples that it was and was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from manual_bp.chain import leaves, trace
from manual_bp.rule import RULES
from manual_bp.training.data import Dataset
from manual_bp.training.step import Step, TrainingState

TakeStep = Callable[[TrainingState, Tensor, Tensor], tuple[TrainingState, Tensor]]
"""state, x, target -> the next state, and the loss before the update."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""x -> x of the same shape, changed at random."""

# Rows that pass the network at once when it is measured: bounds the memory, not the result.
ROWS = 1024
# Training examples on which δ and saturation are measured: the same after every epoch, so that the curves compare.
MEASURED = 256


@runtime_checkable  # so that annotations can be checked under test
class Batches(Protocol):
    """The mini-batches of each epoch, as a pure function of its number (from 1)."""

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Split:
    """Some of the examples.  x: (n, features); target: (n, classes), 1 for the right class; labels: (n,) integers."""

    x: Tensor
    target: Tensor
    labels: Tensor


def split(
    data: Dataset, seed: int, *, validation: float = 0.1, test: float = 0.2, dtype: torch.dtype = torch.float32
) -> tuple[Split, Split, Split]:
    """Training, validation and test examples, drawn by `seed`; validation and test are shares of all examples.

    Raises ValueError if one of the three would be empty.
    """
    n = len(data.x)
    counts = [0, round(validation * n), round(test * n)]
    counts[0] = n - sum(counts)
    if min(counts) < 1:
        raise ValueError(
            f"there must be examples for training, validation and test; came {n}, which gives {counts}. "
            "Use more data or other shares."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    x, targets = data.x.to(dtype), data.targets(dtype)
    first, second, third = (Split(x[i], targets[i], data.labels[i]) for i in torch.split(order, counts))
    return first, second, third


@dataclass(frozen=True)
class EpochRecord:
    """What is measured at the end of an epoch (numbered from 1), when `steps` updates have been made.

    Losses and accuracies: all of them with the parameters at the end of the epoch, as after training (running
    statistics, no dropout) and without penalties, so that training and validation differ in nothing but the examples.
    gradient_norms: per linear layer, the norm of δ = ∂J/∂z of the mean cost of a fixed batch of training examples, the
        layers as in training.
    saturation: per activation layer, the share of its units, over that batch, that stand in a flat part.
    seconds: what the epoch took, in wall-clock time.
    """

    epoch: int
    steps: int
    training_loss: float
    validation_loss: float
    training_accuracy: float
    validation_accuracy: float
    gradient_norms: dict[str, float]
    saturation: dict[str, float]
    seconds: float


def epochs(
    step: Step,
    state: TrainingState,
    training: Split,
    validation: Split,
    batches: Batches,
    *,
    augment: Augment | None = None,
    take: TakeStep | None = None,
) -> Iterator[tuple[TrainingState, EpochRecord]]:
    """Train without end: one item per finished epoch.

    A state in the middle of an epoch goes on with the next mini-batch of that epoch.
    augment: changes each mini-batch; its generator is seeded by the state, so a repeated step is the same.
    take: what makes a step in place of `step` itself, such as `step` with something that watches it.
    """
    take = take or step
    while True:
        began = time.perf_counter()
        done, position = divmod(state.steps, len(batches))
        for index in batches.epoch(done + 1)[position:]:
            x = training.x[index]
            state, _ = take(state, augment(x, augmentation_generator(state)) if augment else x, training.target[index])
        measured = measure(step, state, training, validation)
        yield state, EpochRecord(done + 1, state.steps, *measured, seconds=time.perf_counter() - began)


def augmentation_generator(state: TrainingState) -> torch.Generator:
    """The generator of the next step's augmentation: another stream than the dropout masks', for the same state."""
    return torch.Generator().manual_seed((state.seed + state.steps + 2**62) % 2**63)


def measure(
    step: Step, state: TrainingState, training: Split, validation: Split
) -> tuple[float, float, float, float, dict[str, float], dict[str, float]]:
    """What an epoch's record holds of the networks itself."""
    (loss, accuracy), (validation_loss, validation_accuracy) = (
        evaluate(step, state, examples) for examples in (training, validation)
    )
    x, target = training.x[:MEASURED], training.target[:MEASURED]
    buffers = {**state.buffers, **step.masks(state, len(x), str(x.device))}
    layers = trace(step.model, state.params, buffers, x, target, step.loss)
    norms = {name: float(found["delta"].norm()) for name, found in layers.items() if "delta" in found}
    return loss, validation_loss, accuracy, validation_accuracy, norms, saturated(step, layers)


def evaluate(step: Step, state: TrainingState, examples: Split) -> tuple[float, float]:
    """The mean loss without penalties, and the share of right answers, of the network as it is after training."""
    layer, total, right = step.model.inference(), 0.0, 0
    parts = (examples.x, examples.target, examples.labels)
    for x, target, labels in zip(*(torch.split(part, ROWS) for part in parts), strict=True):
        y, _, _ = layer.forward(state.params, state.buffers, x)
        loss, _ = RULES[step.loss].forward(y, target)
        total += float(loss) * len(x)
        right += int((y.argmax(1) == labels).sum())
    return total / len(examples.x), right / len(examples.x)


def saturated(step: Step, layers: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """Per activation layer, the share of units whose slope is below a hundredth."""
    names = list(leaves(step.model))
    found = {}
    for before, name in pairwise(names):
        leaf = leaves(step.model)[name]
        if leaf.rule.chapter == "activation":
            (x,) = (layers[before][letter] for letter in ("z", "a", "y") if letter in layers[before])
            y, _ = leaf.rule.forward(x, **leaf.hyper)
            _, (slope,) = leaf.rule.vjp((x,), torch.ones_like(y), **leaf.hyper)
            assert slope is not None
            found[name] = float((slope.abs() < 0.01).float().mean())
    return found
