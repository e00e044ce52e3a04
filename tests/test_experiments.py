"""The experiments run, their numbers are what they say, and their tables stand in the guide of the benchmarks."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache

import pytest

pytest.importorskip("sklearn", reason="the experiments are about the digits")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from benchmarks.experiments import batch_size, regularization, shared, vanishing, vanishing_through_time
from manual_bp.training.data import load
from manual_bp.training.gradient_flow import TOO_FAR

EXPERIMENTS = {
    page.__name__.split(".")[-1]: page for page in (vanishing, vanishing_through_time, regularization, batch_size)
}
TINY = {
    "vanishing": vanishing.Config(layers=12, width=8, epochs=1, rates=(0.03, 0.1), training=100, measured=50),
    "vanishing_through_time": vanishing_through_time.Config(
        time=40, width=8, steps=2, rates=(0.01,), seeds=1, batch=4, measured=8, window=1
    ),
    "regularization": regularization.Config(seeds=2, epochs=3, hidden=(8,), examples=50, patience=1),
    "batch_size": batch_size.Config(
        sizes=(25, 100), rates=(0.03, 0.1), seeds=2, most_epochs=40, training=100, validation=50, hidden=8, goal=0.4
    ),
}


@cache
def measured(name):
    return EXPERIMENTS[name].measure(TINY[name])


def without_seconds(value):
    if isinstance(value, dict):
        return {name: without_seconds(part) for name, part in value.items() if name != "seconds"}
    return [without_seconds(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_repeatable_but_for_its_seconds(name):
    again = EXPERIMENTS[name].measure(TINY[name])
    assert json.dumps(without_seconds(again)) == json.dumps(without_seconds(measured(name)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_json_picture_and_table_are_written(name, tmp_path, capsys):
    page = EXPERIMENTS[name]
    shared.publish(name, measured(name), page.table, page.draw, tmp_path)
    document = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert document["command"] == f"python -m benchmarks.experiments.{name}"
    assert document["versions"]["torch"]
    assert (tmp_path / "figures" / f"{name}.svg").read_text().startswith("<?xml")
    assert capsys.readouterr().out.splitlines() == page.table(measured(name))


def test_a_deep_sigmoid_network_vanishes_and_the_cures_cure():
    shrinks = {each["network"]: each["before"]["first_over_last"] for each in measured("vanishing")["networks"]}
    assert shrinks["sigmoid"] < 1 / TOO_FAR
    assert min(shrinks["ReLU"], shrinks["sigmoid + batch norm"], shrinks["sigmoid + residual"]) > 1 / TOO_FAR


def test_through_time_open_gates_carry_what_half_open_ones_lose():
    carried = {each["network"]: each["before"]["norms"][0] for each in measured("vanishing_through_time")["networks"]}
    assert {name: share > 1 / TOO_FAR for name, share in carried.items() if name != "rnn"} == {
        "lstm": False,
        "lstm, forget gates open": True,
        "gru": False,
        "gru, update gates open": True,
    }


def test_every_network_has_as_many_linear_layers():
    config = TINY["vanishing"]
    for name, model in vanishing.networks(config, 64, 10).items():
        step = vanishing.training_step(model, optimizer=vanishing.sgd(0.1))
        matrices = [weight for weight in vanishing.begin(step, name).params.values() if weight.ndim == 2]
        assert len(matrices) == config.layers, name


def test_regularization_chooses_by_validation_and_early_stopping_keeps_the_best_epoch():
    for setting in measured("regularization")["settings"]:
        losses = {}
        for run in setting["runs"]:
            if run["method"] == "L2":
                losses[run["strength"]] = losses.get(run["strength"], 0) + run["validation_loss"]
            if run["method"] == "early stopping":
                until = run["epoch"] + TINY["regularization"].patience
                assert shared.curve([run["validation_loss"]]) == [min(run["validation_losses"][:until])]
        (row,) = [each for each in setting["methods"] if each["method"] == "L2"]
        assert row["strength"] == min(losses, key=losses.get)


def test_as_many_labels_are_drawn_as_asked_for():
    (all_,) = shared.split(load("digits"), 0)
    wrong = regularization.mislabelled(all_, 0.2, 10, 0)
    share = float((wrong.labels != all_.labels).double().mean())
    # a tenth of those drawn are right by chance; 1797 of them make that uncertain by 0.9 %
    assert abs(share - 0.18) < 6 * math.sqrt(0.18 * 0.82 / 1797)
    assert wrong.target.argmax(1).equal(wrong.labels)
    assert regularization.mislabelled(all_, 0.0, 10, 0).target.equal(all_.target)


def test_a_run_ends_at_the_goal_and_its_steps_are_timed():
    found = measured("batch_size")
    runs = [run for each in found["sizes"] for run in each["runs"]]
    assert any(run["reached"] for run in runs)
    for run in runs:
        losses, seconds = run["training_losses"], run["seconds"]
        assert run["reached"] == (losses[-1] <= found["goal"])
        assert min(losses[:-1], default=math.inf) > found["goal"]
        assert all(0 < before < after for before, after in itertools.pairwise(seconds))
