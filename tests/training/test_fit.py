"""The training loop: what it measures, and that it can be stopped and gone on with anywhere."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from manual_bp.losses import Loss
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import MiniBatches, sgd, training_step
from manual_bp.training.data import Dataset
from manual_bp.training.fit import epochs, evaluate, split
from manual_bp.training.nonfinite import NonFiniteError

SQUARE = Loss("square_loss")


def data(n=50, features=5, classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, features, generator=generator, dtype=torch.float64)
    return Dataset("made up", x, torch.arange(n) % classes, (1, features))


def shift(x, generator):
    return x + torch.rand(x.shape, generator=generator, dtype=x.dtype)


def problem(model=None):
    training, validation, _ = split(data(), 0, loss=SQUARE)
    step = training_step(model or residual_mlp(6, 2, "elu", True, 0.25, inputs=5, outputs=3), optimizer=sgd(lr=0.05))
    return (
        step,
        step.init(torch.Generator().manual_seed(0)),
        training,
        validation,
        MiniBatches(len(training.x), 8, seed=0),
    )


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


def test_split_is_drawn_by_the_seed_and_shares_no_example():
    parts = split(data(), 0, loss=SQUARE, dtype=torch.float64)
    assert [len(part.x) for part in parts] == [35, 5, 10]
    rows = torch.cat([part.x for part in parts])
    assert sorted(rows[:, 0].tolist()) == sorted(data().x[:, 0].tolist())
    assert all(part.target.argmax(1).equal(part.labels) for part in parts)
    again, other = (
        split(data(), 0, loss=SQUARE, dtype=torch.float64)[2],
        split(data(), 1, loss=SQUARE, dtype=torch.float64)[2],
    )
    assert again.x.equal(parts[2].x)
    assert not other.x.equal(parts[2].x)


def test_too_few_examples():
    with pytest.raises(
        ValueError, match=r"examples for training, validation and test; came 3, which gives \[2, 0, 1\]"
    ):
        split(data(3), 0, loss=SQUARE)


def test_epochs_take_every_batch_and_measure():
    step, state, training, validation, batches = problem()
    seen = []

    def take(state, x, target):
        seen.append(len(x))
        return step(state, x, target)

    items = list(islice(epochs(step, state, training, validation, batches, take=take), 2))
    assert seen == [8, 8, 8, 8, 3] * 2
    assert [(record.epoch, record.steps) for _, record in items] == [(1, 5), (2, 10)]
    final, record = items[-1]
    assert (record.training_loss, record.training_accuracy) == evaluate(step, final, training)
    assert (record.validation_loss, record.validation_accuracy) == evaluate(step, final, validation)
    assert list(record.gradient_norms) == ["input", "block1.linear", "block2.linear", "output"]
    assert all(norm > 0 for norm in record.gradient_norms.values())
    assert list(record.saturation) == ["block1.activation", "block2.activation"]


@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_state_in_the_middle_of_an_epoch_goes_on(steps):
    """Augmentation, dropout and the order of the examples depend on the state alone."""
    step, state, training, validation, batches = problem()
    whole = list(islice(epochs(step, state, training, validation, batches, augment=shift), 2))

    class Stopped(Exception):
        pass

    latest = state

    def take(state, x, target):
        nonlocal latest
        if state.steps == steps:
            raise Stopped
        latest, loss = step(state, x, target)
        return latest, loss

    with pytest.raises(Stopped):
        list(epochs(step, state, training, validation, batches, augment=shift, take=take))
    assert latest.steps == steps
    *_, (resumed, record) = islice(epochs(step, latest, training, validation, batches, augment=shift), 2 - steps // 5)
    final, expected = whole[-1]
    assert equal(resumed.params, final.params)
    assert equal(resumed.buffers, final.buffers)
    assert (record.epoch, record.validation_loss) == (expected.epoch, expected.validation_loss)


def test_evaluation_is_of_the_network_after_training():
    """Running statistics and no dropout: the same twice, and not the training network's."""
    step, state, training, _, _ = problem()
    loss, accuracy = evaluate(step, state, training)
    assert (loss, accuracy) == evaluate(step, state, training)
    y, _, _ = step.model.inference().forward(state.params, state.buffers, training.x)
    assert loss == float(step.loss.of(y, training.target))
    assert accuracy == (y.argmax(1) == training.labels).sum().item() / len(training.x)


def test_saturation_is_the_share_of_flat_units():
    step, state, training, validation, batches = problem(mlp([5, 4, 3], "sigmoid", "sigmoid"))
    flat = {name: 1e3 * p if name == "W1" else p for name, p in state.params.items()}
    state = step.init(torch.Generator().manual_seed(0), params=flat)
    _, record = next(epochs(step, state, training, validation, batches))
    assert record.saturation["activation1"] > record.saturation["activation2"]


@pytest.mark.parametrize(("batch_size", "place"), [(1, ""), (17, ", the last of every epoch")])
def test_a_batch_that_the_network_refuses_is_refused_before_the_first_step(batch_size, place):
    step, state, training, validation, _ = problem()
    batches = MiniBatches(len(training.x), batch_size, seed=0)
    taken = []
    with pytest.raises(ValueError, match=f"it refuses one of 1{place}: batch_norm: .* Choose another batch size"):
        next(epochs(step, state, training, validation, batches, take=lambda *arguments: taken.append(arguments)))
    assert not taken
    kept = MiniBatches(len(training.x), 17, seed=0, drop_last=True)
    assert len(next(epochs(step, state, training, validation, kept))) == 2


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match="validation must be a share of the examples, from 0 to 1"):
        split(data(), 0, loss=SQUARE, validation=share)


def spoiled(step, training, **changes):
    """A state whose parameters hold what `changes` says, by name."""
    state = step.init(torch.Generator().manual_seed(0))
    params = {name: changes[name](p) if name in changes else p for name, p in state.params.items()}
    return step.init(torch.Generator().manual_seed(0), params=params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"W2": lambda p: p.index_fill(0, torch.tensor([1]), torch.nan)},
            r"step 1: the parameter W2 is nan in 4 of 12 elements, first at \[1, 0\]",
        ),
        (
            {"W1": lambda p: p + 1e30, "W2": lambda p: p + 1e30},
            r"step 1: layer linear2: its value is inf in 24 of 24 elements",
        ),
        ({"W2": lambda p: p + 1e25}, r"step 1: layer square_loss: its value J is inf"),
    ],
    ids=["parameter", "value", "loss"],
)
def test_a_loss_that_is_not_finite_names_step_layer_and_tensor(changes, message):
    step, _, training, validation, batches = problem(mlp([5, 4, 3]))
    with pytest.raises(NonFiniteError, match=message):
        next(epochs(step, spoiled(step, training, **changes), training, validation, batches))


def test_the_step_that_spoils_the_parameters_is_named_not_the_next():
    """Its own loss is fine, about 1e33; what the large weights send back overflows, and the next loss is NaN."""
    step, _, training, validation, batches = problem(mlp([5, 4, 3]))
    state = spoiled(step, training, W1=lambda p: 1e-8 * p, W2=lambda p: 1e25 * p)
    _, loss = step(state, training.x[:8], training.target[:8])
    assert loss.isfinite()
    with pytest.raises(
        NonFiniteError, match=r"step 1: layer activation1: the cotangent of its value is (nan|-?inf)"
    ) as caught:
        next(epochs(step, state, training, validation, batches))
    assert caught.value.step == 1
