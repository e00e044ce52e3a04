"""Over-fitting is seen where it is, not where noise is, and what cannot be told is said to be so."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from manual_bp.curves.overfitting import ALPHA, LEAST, _signs, chance_of_rise, overfitting

RUNS = 300
MANY = 1000
"""Of noise alone: how many are looked at by default, and with --exhaustive."""


def falling(epochs):
    return [math.exp(-k / epochs) for k in range(epochs)]


def noise(epochs, correlation, generator):
    """Noise of spread 1, neighbours correlated."""
    fresh = torch.randn(epochs + 100, generator=generator, dtype=torch.float64)
    values = [0.0]
    for e in fresh.tolist():
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * e)
    return torch.tensor(values[-epochs:], dtype=torch.float64)


def after_the_start(epochs):
    """A fall, then nothing."""
    return 3 * torch.exp(-torch.arange(epochs) / (epochs / 20)).double()


def found_in(epochs, correlation, rise=0.0, *, runs):
    """In how many runs; `rise` from the middle to the end, in units of the noise."""
    generator = torch.Generator().manual_seed(1)
    ramp = rise * (torch.arange(epochs).double() / epochs * 2 - 1).clamp(min=0)
    curves = (after_the_start(epochs) + ramp + noise(epochs, correlation, generator) for _ in range(runs))
    return sum(bool(overfitting(falling(epochs), curve.tolist()).found) for curve in curves)


def at_most(probability, runs=RUNS):
    """In how many runs may be what has this probability: six standard deviations above the mean."""
    return runs * probability + 6 * math.sqrt(runs * probability)


@pytest.fixture(params=[RUNS, pytest.param(MANY, marks=pytest.mark.exhaustive)])
def runs(request):
    return request.param


@pytest.mark.parametrize("epochs", [20, 60])
def test_independent_noise_on_a_plateau_is_no_over_fitting(epochs, runs):
    assert found_in(epochs, 0.0, runs=runs) <= at_most(ALPHA, runs)


@pytest.mark.parametrize(("correlation", "documented"), [(0.5, 0.002), (0.9, 0.04)])
def test_correlated_noise_alarms_as_rarely_as_documented(correlation, documented, runs):
    assert found_in(50, correlation, runs=runs) <= at_most(documented, runs)


def test_over_fitting_is_found():
    """A rise of 8 times the noise over 30 epochs: always; of twice the noise it may be missed."""
    assert found_in(60, 0.0, rise=8.0, runs=200) == 200


@pytest.mark.parametrize("shape", [math.sqrt, lambda t: t, lambda t: t**2, lambda t: 1 - math.exp(-4 * t)])
@pytest.mark.parametrize("epochs", [20, 30, 100])
def test_a_smooth_rise_is_found_whatever_its_bend(shape, epochs):
    turn = epochs // 4
    validation = [1 - 0.1 * k / turn for k in range(turn)] + [
        0.8 + shape((k - turn) / epochs) for k in range(turn, epochs)
    ]
    judged = overfitting(falling(epochs), validation)
    assert judged.found, judged.verdict
    assert judged.epoch == turn + 1
    assert f"over-fitting from epoch {turn + 1} on" in judged.verdict


def test_the_numbers():
    validation = [1.0, 0.5, *(0.5 + 0.1 * k for k in range(1, 17))]
    judged = overfitting(falling(18), validation)
    assert (judged.epoch, judged.lowest, judged.rise) == (2, 0.5, validation[-1] - 0.5)
    # 16 values rise without a step back: 15 differences of a coin's, doubled for the two tests
    assert 0 < judged.chance <= 2 * 2.0**-15
    assert judged.training_chance == 2 * 2.0**-15
    assert "from 0.5 to 2.1 (by 320 %) in the 16 epochs since" in judged.verdict
    assert judged.verdict.endswith("below 7e-05.")


def test_least_is_the_fewest_that_a_bent_rise_needs():
    assert chance_of_rise([math.sqrt(k) for k in range(LEAST)]) < ALPHA
    assert chance_of_rise([math.sqrt(k) for k in range(LEAST - 1)]) >= ALPHA


def test_signs_are_a_coin_s():
    """Against all sequences of signs, counted."""
    for ups in range(7):
        values = torch.tensor([0.0, *itertools.accumulate([1.0] * ups + [-1.0] * (6 - ups))])
        as_many = sum(sum(signs) >= ups for signs in itertools.product((0, 1), repeat=6))
        assert _signs(values) == as_many / 64


def test_a_random_order_has_chances_that_are_uniform_or_larger():
    generator = torch.Generator().manual_seed(3)
    chances = [chance_of_rise(torch.randn(12, generator=generator).tolist()) for _ in range(RUNS)]
    for level in (0.5, 0.1, 0.01):
        assert sum(chance < level for chance in chances) <= at_most(level)


def test_chance_does_not_depend_on_the_unit_of_the_loss():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert chance_of_rise((2.0**20 * values).tolist()) == chance_of_rise(values.tolist())


@pytest.mark.parametrize(
    ("training", "validation", "found", "message"),
    [
        ([1.0] * LEAST, [1.0] * LEAST, None, f"too few epochs to say: {LEAST}, where at least {LEAST + 1}"),
        ([], [], None, "too few epochs to say: 0"),
        (falling(30), [1.0, 2.0, math.nan] * 10, None, "the validation loss is nan in epoch 3: training broke down"),
        ([1.0, math.inf] * 15, falling(30), None, "the training loss is inf in epoch 2"),
        (falling(30), falling(30), False, "no over-fitting so far: the validation loss was lowest in the last epoch"),
        (falling(30), [*falling(27), 9.0, 9.0, 9.0], False, "only 3 epochs before the last"),
        (falling(30), [1.0] * 30, False, "does not rise more steadily than noise may"),
        ([*range(30)], [*range(30)], False, "the training loss does not keep falling there"),
        ([0.0] * 30, [*range(30)], False, "the training loss does not keep falling there"),
        ([0.1] * 30, [0.2] * 30, False, "does not rise"),
    ],
    ids=["few", "none", "nan", "inf", "falling", "late", "constant", "both rise", "settled", "both constant"],
)
def test_what_is_no_over_fitting(training, validation, found, message):
    judged = overfitting([float(x) for x in training], [float(x) for x in validation])
    assert judged.found is found
    assert message in judged.verdict


def test_unequal_lengths():
    with pytest.raises(ValueError, match=r"one training and one validation loss per epoch; came 3 and 2\. Leave out"):
        overfitting([1.0, 2.0, 3.0], [1.0, 2.0])
