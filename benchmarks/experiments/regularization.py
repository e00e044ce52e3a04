"""What helps against over-fitting on 250 digits: L2, dropout, batch norm, early stopping, augmentation.

    python -m benchmarks.experiments.regularization [--out DIR]

Once with the labels as they are, and once with a fifth of the training labels drawn at random, which leaves more to be
learned by heart.  Each seed draws its own 250 training and 250 validation examples, its own initial weights and orders;
all methods of a seed share them, and the rest of the digits is the test.  Where a method has a strength, it is the one
with the lowest mean validation loss; the test examples are looked at afterwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.experiments.shared import Results, command, curve, markdown, network, split, spread, train
from manual_bp.curves.early_stopping import EarlyStopping
from manual_bp.curves.overfitting import overfitting
from manual_bp.models import Model
from manual_bp.training import training_step
from manual_bp.training.augmentation import augment
from manual_bp.training.data import Dataset, load
from manual_bp.training.fit import Augment, EpochRecord, Split, evaluate
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.optimizers import adam
from manual_bp.training.pictures import PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """What is run; the tests run less."""

    seeds: int = 5
    epochs: int = 100
    wrong: tuple[float, ...] = (0.0, 0.2)
    hidden: tuple[int, ...] = (64, 64)
    examples: int = 250
    patience: int = 20
    batch: int = 25
    rate: float = 2e-3


@dataclass(frozen=True)
class Method:
    """One way of training."""

    name: str
    strength: str = ""
    model: Callable[..., Model] = network
    l2: float = 0.0
    augment: Augment | None = None


def methods(image: tuple[int, int]) -> list[Method]:
    moved = partial(augment, image=image)
    return [
        Method("none"),
        *(Method("L2", f"l2 = {l2:g}", l2=l2) for l2 in (1e-4, 1e-3, 1e-2)),
        *(Method("dropout", f"p = {p}", partial(network, dropout=p)) for p in (0.1, 0.3)),
        Method("batch norm", "", partial(network, batch_norm=True)),
        Method("augmentation", "shift 1", augment=partial(moved, shift=1)),
        Method("augmentation", "rotate 10°, scale 1.1", augment=partial(moved, rotate=10.0, scale=1.1)),
    ]


def measure(config: Config = Config()) -> Results:
    """Test accuracies and validation losses of six ways to train on few examples."""
    data = load("digits")
    settings = []
    for wrong in config.wrong:
        runs = [
            each
            for method in methods(data.image)
            for seed in range(config.seeds)
            for each in run(method, seed, wrong, data, config)
        ]
        names = dict.fromkeys(each["method"] for each in runs)
        settings.append({"wrong": wrong, "methods": [chosen(runs, name) for name in names], "runs": runs})
    return {"seeds": config.seeds, "epochs": config.epochs, "examples": config.examples, "settings": settings}


def mislabelled(examples: Split, share: float, classes: int, seed: int) -> Split:
    """The examples, `share` of them with a label drawn from all."""
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = torch.randint(classes, examples.labels.shape, generator=generator)
    labels = torch.where(torch.rand(len(drawn), generator=generator) < share, drawn, examples.labels)
    return Split(examples.x, (labels[:, None] == torch.arange(classes)).float(), labels)


def run(method: Method, seed: int, wrong: float, data: Dataset, config: Config) -> list[dict[str, Any]]:
    """One run and, of the one without any method, also what early stopping would have kept of it."""
    training, validation, test = split(data, seed, config.examples, config.examples)
    training = mislabelled(training, wrong, data.classes, seed)
    model = method.model([data.x.shape[1], *config.hidden, data.classes], "relu", initializer="he")
    step = training_step(model, "square_loss", optimizer=adam(config.rate), l2=method.l2)
    state = step.init(torch.Generator().manual_seed(seed))
    batches = MiniBatches(len(training.x), config.batch, seed=seed)
    states, records = train(step, state, training, validation, batches, config.epochs, augment=method.augment)
    said = overfitting([r.training_loss for r in records], [r.validation_loss for r in records])
    kept = {method.name: config.epochs}
    if method.name == "none":
        kept["early stopping"] = stopped(records, config.patience)
    return [
        {
            "method": name,
            "strength": method.strength,
            "seed": seed,
            "epoch": epoch,
            "training_loss": records[epoch - 1].training_loss,
            "validation_loss": records[epoch - 1].validation_loss,
            "test_accuracy": evaluate(step, states[epoch - 1], test)[1],
            "overfitting": said.found,
            "verdict": said.verdict,
            "validation_losses": curve([r.validation_loss for r in records]),
        }
        for name, epoch in kept.items()
    ]


def stopped(records: list[EpochRecord], patience: int) -> int:
    """The epoch that early stopping keeps."""
    rule = EarlyStopping(patience)
    stopping = rule.start()
    for record in records:
        stopping = rule.observe(stopping, record.epoch, record.validation_loss)
        if stopping.stop:
            break
    assert stopping.best_epoch is not None
    return stopping.best_epoch


def chosen(runs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The strength of a method with the lowest mean validation loss, and its runs side by side."""
    mine = [r for r in runs if r["method"] == name]
    strengths = dict.fromkeys(r["strength"] for r in mine)
    losses = {s: statistics.mean(r["validation_loss"] for r in mine if r["strength"] == s) for s in strengths}
    best = [r for r in mine if r["strength"] == min(losses, key=losses.__getitem__)]
    plain = {r["seed"]: r["test_accuracy"] for r in runs if r["method"] == "none"}
    return {
        "method": name,
        "strength": best[0]["strength"],
        "test_accuracy": [r["test_accuracy"] for r in best],
        "gain": [r["test_accuracy"] - plain[r["seed"]] for r in best],
        "validation_loss": [r["validation_loss"] for r in best],
        "training_loss": [r["training_loss"] for r in best],
        "overfitting": sum(bool(r["overfitting"]) for r in best),
        "epochs": [r["epoch"] for r in best],
    }


def table(results: Results) -> list[str]:
    rows = [
        [
            each["method"] + (f" ({each['strength']})" if each["strength"] else ""),
            f"{setting['wrong']:.0%}".replace("%", " %"),
            spread(each["test_accuracy"], 1, 0.01),
            "" if each["method"] == "none" else spread(each["gain"], 1, 0.01),
            spread(each["validation_loss"], 3),
            spread(each["training_loss"], 3),
            "" if each["method"] == "early stopping" else f"{each['overfitting']} of {results['seeds']}",
        ]
        for setting in results["settings"]
        for each in setting["methods"]
    ]
    header = [
        f"{results['examples']} examples, {results['epochs']} epochs, {results['seeds']} seeds",
        "random labels",
        "test accuracy, %",
        "gain, same seed",
        "validation loss",
        "training loss",
        "over-fitting found",
    ]
    return markdown(header, rows)


def draw(results: Results) -> Figure:
    """A row for each share of random labels.  Left: each seed's gain. Right: the mean validation loss by epoch."""
    with style():
        figure = new_figure(9.0, 3.6 * len(results["settings"]))
        grid = figure.subplots(len(results["settings"]), 2, squeeze=False, sharex="col")
        for (left, right), setting in zip(grid, results["settings"], strict=True):
            labels = f"{setting['wrong']:.0%} random labels".replace("%", " %") if setting["wrong"] else "true labels"
            draw_gains(left, setting["methods"])
            left.set_title(f"Who gains, {labels}", loc="left")
            draw_losses(right, setting)
            right.set_title(f"Validation loss, {labels}", loc="left")
        grid[-1][0].set_xlabel("gain in test accuracy, percentage points\n(a dot is a seed, the bar the mean)")
        grid[-1][1].set_xlabel("epoch")
        grid[0][1].legend(fontsize=9)
    return figure


def draw_gains(axes: Axes, methods: list[dict[str, Any]]) -> None:
    compared = [each for each in methods if each["method"] != "none"]
    for row, each in enumerate(compared):
        gains = [100 * gain for gain in each["gain"]]
        axes.plot(gains, [row] * len(gains), "o", color=COLOURS[each["method"]], alpha=0.6, markersize=6)
        axes.plot([statistics.mean(gains)] * 2, [row - 0.3, row + 0.3], color=COLOURS[each["method"]], linewidth=3)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(compared)), [each["method"] for each in compared])
    axes.invert_yaxis()


def draw_losses(axes: Axes, setting: dict[str, Any]) -> None:
    for each in setting["methods"]:
        if each["method"] != "early stopping":
            curves = [
                run["validation_losses"]
                for run in setting["runs"]
                if (run["method"], run["strength"]) == (each["method"], each["strength"])
            ]
            mean = [statistics.mean(losses) for losses in zip(*curves, strict=True)]
            axes.plot(range(1, len(mean) + 1), mean, color=COLOURS[each["method"]], linewidth=1.8, label=each["method"])
    (none,) = [each for each in setting["methods"] if each["method"] == "none"]
    axes.set_ylim(0, 2.2 * statistics.mean(none["validation_loss"]))


COLOURS = {
    "none": "black",
    "early stopping": PALETTE[4],
    "L2": PALETTE[1],
    "dropout": PALETTE[2],
    "batch norm": PALETTE[3],
    "augmentation": PALETTE[0],
}


if __name__ == "__main__":
    command("regularization", measure, table, draw)
