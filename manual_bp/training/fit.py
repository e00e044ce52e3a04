"""The training loop: epoch after epoch, each measured on examples that it was and was not trained on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manual_bp.arguments import is_finite, is_whole
from manual_bp.chain import trace
from manual_bp.losses import Loss
from manual_bp.training.data import Dataset
from manual_bp.training.gradient_flow import GradientFlow, gradient_flow
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.nonfinite import NonFiniteError, first_non_finite
from manual_bp.training.saturation import Saturation, saturation
from manual_bp.training.step import Step, TrainingState
from manual_bp.wording import counted

TakeStep = Callable[[TrainingState, Tensor, Tensor], tuple[TrainingState, Tensor]]
"""state, x, target -> the next state, and the loss before the update."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""x -> x of the same shape, changed at random."""

# Rows that pass the network at once when it is measured: bounds the memory, not the result.  A token is a row.
ROWS = 1024
# Rows of training examples on which δ and saturation are measured: the same after every epoch, so that the curves
# compare.
MEASURED = 256


@dataclass(frozen=True)
class Split:
    """Some of the examples.  x: (n, features); target: what the loss takes; labels: (n,) integers, the classes.

    Of a text x is (n, context), the numbers of tokens, and labels (n, context), of those that come next.
    """

    x: Tensor
    target: Tensor
    labels: Tensor

    def first(self, rows: int) -> Split:
        """The first examples that have so many rows together, at least one."""
        few = slice(examples_of(self.x, rows))
        return Split(self.x[few], self.target[few], self.labels[few])


def examples_of(x: Tensor, rows: int) -> int:
    """How many examples have so many rows, at least one: an example of numbers is a row, of a text each token."""
    return rows if x.is_floating_point() else max(1, rows // x.shape[1])


def split(
    data: Dataset,
    seed: int,
    *,
    loss: Loss,
    validation: float = 0.1,
    test: float = 0.2,
    dtype: torch.dtype = torch.float32,
) -> tuple[Split, Split, Split]:
    """Training, validation and test examples, drawn by `seed`; validation and test are shares of all examples.

    loss: decides what the targets are.
    Data with a test set of their own (`data.test`) are tested with all of it and nothing else: then `test` has no
    effect, and `validation` is a share of the others.
    A text is split by position, as windows beside each other say much the same: its last share validates, and tests,
    as nobody asks how often a guess is right there.
    Raises ValueError if one of the three would be empty, and for shares that are no numbers from 0 to 1.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not (is_finite(share) and 0 <= share <= 1):
            raise ValueError(f"{name} must be a share of the examples, from 0 to 1; came {share!r}.")
    if not is_whole(seed):
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1; came {seed!r}.")
    n = len(data.x)
    if data.symbols:
        return _by_position(data, n - round(validation * n), loss)
    counts = [0, round(validation * n), *([] if data.test else [round(test * n)])]
    counts[0] = n - sum(counts)
    if min(counts) < 1:
        parts = "training and validation" if data.test else "training, validation and test"
        raise ValueError(
            f"there must be examples for {parts}; came {n}, which gives {counts}. Use more data or other shares."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    found = [(data.x[i].to(dtype), data.labels[i]) for i in torch.split(order, counts)]
    if data.test:
        found.append((data.test.x.to(dtype), data.test.labels))
    first, second, third = (Split(x, loss.targets(labels, data.classes, dtype), labels) for x, labels in found)
    return first, second, third


def _by_position(data: Dataset, cut: int, loss: Loss) -> tuple[Split, Split, Split]:
    if not 1 <= cut < len(data.x):
        raise ValueError(
            f"there must be windows for training and validation; came {len(data.x)}, cut after {cut}. Use more text."
        )
    parts = [(data.x[rows], data.labels[rows]) for rows in (slice(cut), slice(cut, None))]
    training, validation = (Split(x, loss.targets(labels, data.classes, x.dtype), labels) for x, labels in parts)
    return training, validation, validation


def check_batches(step: Step, state: TrainingState, x: Tensor, batches: MiniBatches) -> None:
    """Raise ValueError if the network refuses one of the sizes that an epoch's batches have, before a step is made.

    x: all examples, of which the first are tried.  Batch norm, for one, has nothing to normalise in a single example.
    """
    for size in batches.sizes:
        buffers = {**state.buffers, **step.masks(state, size, str(x.device))}
        try:
            step.model.forward(state.params, buffers, x[:size])
        except ValueError as error:
            place = "" if size == batches.batch_size else ", the last of every epoch"
            remedy = "Choose another batch size." if batches.n > size else "Use more data."
            raise ValueError(
                f"the network must take every batch of an epoch; came {counted(batches.n, 'example')} in batches of "
                f"{batches.batch_size}, and it refuses one of {size}{place}: {error} {remedy}"
            ) from error


@dataclass(frozen=True)
class EpochRecord:
    """What is measured at the end of an epoch (numbered from 1), when `steps` updates have been made.

    Losses and accuracies: all of them with the parameters at the end of the epoch, as after training (running
    statistics, no dropout) and without penalties, so that training and validation differ in nothing but the examples.
    gradient_norms: per linear layer, the norm of δ = ∂J/∂z of the mean cost of a fixed batch of training examples, the
        layers as in training.
    saturation: per activation layer, the share of it that is lost to flat parts over that batch: see
        manual_bp.training.saturation.
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
    batches: MiniBatches,
    *,
    augment: Augment | None = None,
    take: TakeStep | None = None,
) -> Iterator[tuple[TrainingState, EpochRecord]]:
    """Train without end: one item per finished epoch.

    A state in the middle of an epoch goes on with the next mini-batch of that epoch.
    augment: changes each mini-batch; its generator is seeded by the state, so a repeated step is the same.
    take: what makes a step in place of `step` itself, such as `step` with something that watches it.
    Raises ValueError before the first step if the network refuses a batch of that size, and NonFiniteError, which names
    the step, the layer and the tensor, as soon as a loss is NaN or infinite.
    """
    take = take or step
    check_batches(step, state, training.x, batches)
    recent: list[tuple[TrainingState, Tensor, Tensor]] = []
    while True:
        began = time.perf_counter()
        done, position = divmod(state.steps, len(batches))
        for index in batches.epoch(done)[position:]:
            x, target = training.x[index], training.target[index]
            x = augment(x, augmentation_generator(state)) if augment else x
            # A loss is often fine in the step that spoils the parameters, so the one before is kept too.
            recent = [*recent[-1:], (state, x, target)]
            state, loss = take(state, x, target)
            if not math.isfinite(loss):
                raise _non_finite(step, recent, f"the loss is {float(loss)}")
        record = measure(step, state, training, validation)
        for name, measured in (("training", record.training_loss), ("validation", record.validation_loss)):
            if not math.isfinite(measured):
                raise _non_finite(step, recent, f"afterwards the {name} loss is {measured}")
        yield state, replace(record, epoch=done + 1, seconds=time.perf_counter() - began)


def _non_finite(step: Step, recent: list[tuple[TrainingState, Tensor, Tensor]], effect: str) -> NonFiniteError:
    for state, x, target in recent:
        if found := first_non_finite(step, state, x, target):
            return NonFiniteError(state.steps + 1, found)
    return NonFiniteError(recent[-1][0].steps + 1, f"every tensor of the step is finite, yet {effect}")


def augmentation_generator(state: TrainingState) -> torch.Generator:
    """The generator of the next step's augmentation: another stream than the dropout masks', for the same state."""
    return torch.Generator().manual_seed((state.seed + state.steps + 2**62) % 2**63)


def measure(step: Step, state: TrainingState, training: Split, validation: Split) -> EpochRecord:
    """What an epoch's record says of the network; its number and its time are left at 0.

    Of a text, where passing all of it takes as long as a third of the epoch, as much of the beginning is measured as
    validates.
    """
    is_text = not training.x.is_floating_point()
    loss, accuracy = evaluate(step, state, training.first(validation.x.numel()) if is_text else training)
    validation_loss, validation_accuracy = evaluate(step, state, validation)
    flow, flat = examine(step, state, training)
    return EpochRecord(
        epoch=0,
        steps=state.steps,
        training_loss=loss,
        validation_loss=validation_loss,
        training_accuracy=accuracy,
        validation_accuracy=validation_accuracy,
        gradient_norms=flow.norms,
        saturation={name: found.share for name, found in flat.layers.items()},
        seconds=0.0,
    )


def examine(step: Step, state: TrainingState, training: Split) -> tuple[GradientFlow, Saturation]:
    """How δ fares from layer to layer, and which layers are saturated: over a fixed batch of training examples, the
    layers as in training."""
    few = training.first(MEASURED)
    x, target = few.x, few.target
    buffers = {**state.buffers, **step.masks(state, len(x), str(x.device))}
    layers = trace(step.model, state.params, buffers, x, target, step.loss.name, step.loss.hyper)
    return gradient_flow(layers), saturation(step.model, state.params, buffers, x)


def evaluate(step: Step, state: TrainingState, examples: Split) -> tuple[float, float]:
    """The loss of all examples without penalties, and the share of right answers, of the network as it is after
    training."""
    y = outputs_of(step, state, examples.x)
    right = int((y.argmax(1) == examples.labels).sum())
    return float(step.loss.of(y, examples.target)), right / examples.labels.numel()


def answers_of(step: Step, state: TrainingState, x: Tensor) -> Tensor:
    """The class that the network as it is after training takes each example of x, (n, features), for: (n,) integers."""
    return outputs_of(step, state, x).argmax(1)


def outputs_of(step: Step, state: TrainingState, x: Tensor) -> Tensor:
    """The outputs, (n, classes), of the network as it is after training."""
    layer = step.model.inference()
    pieces = torch.split(x, examples_of(x, ROWS))
    return torch.cat([layer.forward(state.params, state.buffers, rows)[0] for rows in pieces])
