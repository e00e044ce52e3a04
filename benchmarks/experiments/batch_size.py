"""Mini-batches against the full batch: progress per epoch, progress per second, and generalisation.

    python -m benchmarks.experiments.batch_size [--out DIR]

Every run ends when the training loss is down to the same value, so that test accuracies compare networks that have
learned equally much.  Each size of batch has the learning rate, of a grid, with which seed 0 gets there in the fewest
epochs.  Seconds are those of the steps alone, on one thread; all else is the same each time it is run.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.experiments.shared import Results, command, curve, markdown, split, spread
from manual_bp.models import mlp
from manual_bp.training import sgd, training_step
from manual_bp.training.data import Dataset, load
from manual_bp.training.fit import epochs, evaluate
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.pictures import new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """What is run; the tests run less."""

    sizes: tuple[int, ...] = (4, 16, 64, 256, 1000)
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    seeds: int = 5
    most_epochs: int = 1000
    training: int = 1000
    validation: int = 300
    hidden: int = 64
    goal: float = 0.08
    """The training loss to reach."""


def measure(config: Config = Config()) -> Results:
    """Losses by epoch and by second for several sizes of mini-batch."""
    data = load("digits")
    found = []
    for size in config.sizes:
        trials = {rate: run(size, rate, 0, data, config) for rate in config.rates}
        rate = min(trials, key=lambda each: (not trials[each]["reached"], len(trials[each]["training_losses"])))
        runs = [trials[rate], *(run(size, rate, seed, data, config) for seed in range(1, config.seeds))]
        found.append(
            {
                "batch_size": size,
                "rate": rate,
                "at_edge_of_grid": rate in (config.rates[0], config.rates[-1]),
                "runs": runs,
            }
        )
    return {
        "examples": config.training,
        "most_epochs": config.most_epochs,
        "seeds": config.seeds,
        "goal": config.goal,
        "rates": config.rates,
        "sizes": found,
    }


def run(size: int, rate: float, seed: int, data: Dataset, config: Config) -> dict[str, Any]:
    training, validation, test = split(data, seed, config.training, config.validation)
    step = training_step(
        mlp([data.x.shape[1], config.hidden, data.classes], "relu"), "square_loss", optimizer=sgd(rate)
    )
    state = step.init(torch.Generator().manual_seed(seed))
    batches = MiniBatches(len(training.x), size, seed=seed)
    ends = []
    spent = 0.0

    def timed(state: Any, x: torch.Tensor, target: torch.Tensor) -> Any:
        nonlocal spent
        began = time.perf_counter()
        after = step(state, x, target)
        spent += time.perf_counter() - began
        ends.append(spent)
        return after

    losses: list[float] = []
    seconds = []
    run = epochs(step, state, training, validation, batches, take=timed)
    for after, record in islice(run, config.most_epochs):
        state = after
        losses.append(record.training_loss)
        seconds.append(ends[record.steps - 1])
        if losses[-1] <= config.goal:
            break
    return {
        "seed": seed,
        "reached": losses[-1] <= config.goal,
        "training_losses": curve(losses),
        "seconds": curve(seconds),
        "test_accuracy": evaluate(step, state, test)[1],
    }


def table(results: Results) -> list[str]:
    full = statistics.median(_per_epoch(run) for run in results["sizes"][-1]["runs"])
    rows = []
    for each in results["sizes"]:
        runs, size = each["runs"], each["batch_size"]
        whole = all(run["reached"] for run in runs)
        rows.append(
            [
                f"{size}, the full batch" if size == results["examples"] else str(size),
                f"{each['rate']:g}",
                f"{statistics.mean(len(run['training_losses']) for run in runs):.0f}" if whole else "not reached",
                f"{statistics.median(_per_epoch(run) for run in runs) / full:.1f} ×",
                f"{statistics.median(run['seconds'][-1] for run in runs):.2f}" if whole else "",
                spread([run["test_accuracy"] for run in runs], 1, 0.01),
            ]
        )
    header = [
        f"batch, of {results['examples']}",
        "learning rate",
        f"epochs to loss {results['goal']:g}",
        "time of an epoch",
        "seconds to there",
        "test accuracy there, %",
    ]
    return markdown(header, rows)


def _per_epoch(run: dict[str, Any]) -> float:
    return float(run["seconds"][-1] / len(run["seconds"]))


def draw(results: Results) -> Figure:
    """The same losses by epoch and by second; seed 0."""
    with style():
        import matplotlib

        colours = matplotlib.colormaps["viridis"]
        figure = new_figure(9.0, 4.0)
        left, right = figure.subplots(1, 2, sharey=True)
        for number, each in enumerate(results["sizes"]):
            colour = colours(0.9 * number / max(len(results["sizes"]) - 1, 1))
            run = each["runs"][0]
            size = each["batch_size"]
            label = f"{size} (full batch)" if size == results["examples"] else f"{size}"
            losses = run["training_losses"]
            left.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=1.8, label=label)
            right.plot(run["seconds"][: len(losses)], losses, "o-", color=colour, linewidth=1.8, markersize=2.5)
        left.set_yscale("log")
        left.set_xscale("log")
        right.set_xscale("log")
        left.set_xlabel("epochs (logarithmic)")
        right.set_xlabel("seconds (logarithmic)")
        left.set_ylabel("training loss")
        left.set_title("Training loss by epoch", loc="left")
        right.set_title("The same by seconds of computing", loc="left")
        left.legend(title="batch size")
    return figure


if __name__ == "__main__":
    command("batch_size", measure, table, draw)
