"""A deep sigmoid network's gradient vanishes; ReLU, batch norm and residual connections keep it alive.

    python -m benchmarks.experiments.vanishing [--out DIR]

Networks of 20 linear layers learn the digits.  Before and after, δ = ∂J/∂z of each layer is measured on the same
examples.  Each network has the learning rate, of five, with which its training loss ends lowest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.experiments.shared import Results, command, markdown, network, split, train
from manual_bp.chain import trace
from manual_bp.models import Model, residual_mlp
from manual_bp.training import sgd, training_step
from manual_bp.training.data import load
from manual_bp.training.fit import Split, evaluate
from manual_bp.training.gradient_flow import gradient_flow
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.nonfinite import NonFiniteError
from manual_bp.training.pictures import GREY, PALETTE, new_figure, style
from manual_bp.training.saturation import saturation
from manual_bp.training.step import Step, TrainingState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """What is run; the tests run less."""

    layers: int = 20
    width: int = 32
    epochs: int = 15
    rates: tuple[float, ...] = (1e-4, 1e-3, 0.01, 0.03, 0.1)
    training: int = 1000
    measured: int = 256


def networks(config: Config, features: int, classes: int) -> dict[str, Model]:
    sizes = [features, *[config.width] * (config.layers - 1), classes]
    return {
        "sigmoid": network(sizes, "sigmoid", initializer="xavier"),
        "sigmoid, weights N(0, 1)": network(sizes, "sigmoid", initializer="xavier"),
        "ReLU": network(sizes, "relu", initializer="he"),
        "sigmoid + batch norm": network(sizes, "sigmoid", batch_norm=True, initializer="xavier"),
        "sigmoid + residual": residual_mlp(
            config.width, config.layers - 2, "sigmoid", batch_norm=False, inputs=features, outputs=classes
        ),
    }


def begin(step: Step, name: str) -> TrainingState:
    """The same seed for every network; weights of spread 1 where the name says so, which saturate."""
    state = step.init(torch.Generator().manual_seed(0))
    if "N(0, 1)" in name:
        generator = torch.Generator().manual_seed(1)
        wide = {
            key: torch.randn(weight.shape, generator=generator)
            for key, weight in state.params.items()
            if weight.ndim == 2
        }
        state = replace(state, params={**state.params, **wide})
    return state


def look(step: Step, state: TrainingState, examples: Split, measured: int) -> dict[str, Any]:
    x, target = examples.x[:measured], examples.target[:measured]
    flow = gradient_flow(trace(step.model, state.params, state.buffers, x, target))
    lost = [layer.share for layer in saturation(step.model, state.params, state.buffers, x).layers.values()]
    norms = list(flow.norms.values())
    return {
        "norms": norms,
        "first_over_last": norms[0] / norms[-1] if norms[-1] else None,
        "factor": flow.factor,
        "saturated": sum(lost) / len(lost),
        "verdict": flow.verdict,
    }


def measure(config: Config = Config()) -> Results:
    """Norms of δ by layer and losses of deep networks."""
    data = load("digits")
    training, test = split(data, 0, config.training)
    batches = MiniBatches(len(training.x), 50, seed=0)
    found: list[dict[str, Any]] = []
    for name, model in networks(config, data.x.shape[1], data.classes).items():
        runs = []
        for rate in config.rates:
            step = training_step(model, "square_loss", optimizer=sgd(rate, momentum=0.9))
            start = begin(step, name)
            try:
                states, records = train(step, start, training, test, batches, config.epochs)
            except NonFiniteError:  # too high a rate for this network
                continue
            losses = [record.training_loss for record in records]
            runs.append((losses[-1], rate, step, start, states[-1], losses))
        _, rate, step, start, end, losses = min(runs, key=lambda run: run[:2])
        found.append(
            {
                "network": name,
                "rate": rate,
                "before": look(step, start, training, config.measured),
                "after": look(step, end, training, config.measured),
                "training_losses": [evaluate(step, start, training)[0], *losses],
                "test_accuracy": evaluate(step, end, test)[1],
            }
        )
    return {"layers": config.layers, "epochs": config.epochs, "rates": config.rates, "networks": found}


def table(results: Results) -> list[str]:
    rows = [
        [
            each["network"],
            f"{each['before']['first_over_last']:.1g}",
            f"{each['before']['factor']:.2f}",
            f"{each['before']['saturated']:.0%}".replace("%", " %"),
            f"{each['after']['first_over_last']:.1g}",
            f"{each['training_losses'][-1]:.3f}",
            f"{each['test_accuracy']:.0%}".replace("%", " %"),
        ]
        for each in results["networks"]
    ]
    layers, count = results["layers"], results["epochs"]
    header = [
        f"{layers} layers",
        "δ first / last layer",
        "per layer",
        "saturated (ReLU: dead)",
        "after training",
        f"training loss, {count} epochs",
        "test accuracy",
    ]
    return markdown(header, rows)


COLOURS = (PALETTE[0], GREY, *PALETTE[1:4])


def draw(results: Results) -> Figure:
    with style():
        figure = new_figure(9.0, 4.2)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, each in enumerate(results["networks"]):
            norms, losses = each["before"]["norms"], each["training_losses"]
            dashes = "--" if "N(0, 1)" in each["network"] else "-"  # two networks that learn nothing hide one another
            left.plot(
                range(1, len(norms) + 1), norms, "o-", color=COLOURS[number], markersize=3.5, label=each["network"]
            )
            right.plot(range(len(losses)), losses, dashes, color=COLOURS[number], linewidth=1.8)
        left.set_yscale("log")
        left.set_xticks([1, *range(5, results["layers"] + 1, 5)])
        right.set_xticks(range(0, results["epochs"] + 1, 5))
        left.set_xlabel("layer (the gradient comes from the right)")
        left.set_ylabel("norm of δ = ∂J/∂z")
        left.set_title("Before training: what reaches each layer", loc="left")
        right.set_title("What is learned", loc="left")
        right.set_xlabel("epoch")
        right.set_ylabel("training loss")
        right.set_ylim(0, 1.2 * max(each["training_losses"][-1] for each in results["networks"]))
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    command("vanishing", measure, table, draw)
