"""Through time a gradient vanishes as it does through layers, unless the state is carried past the weights.

    python -m benchmarks.experiments.vanishing_through_time [--out DIR]

Recurrent networks read 100 numbers of noise, and are asked at the end which of two symbols came with the first.  Before
and after training, ∂J/∂s of the states s that each step reads is measured on the same sequences.  Each network has the
learning rate with which its training loss ends lowest, and is trained with several seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.experiments.shared import Results, command, curve, markdown
from manual_bp import chain, sequences
from manual_bp.chain import Moved, trace
from manual_bp.models import Model
from manual_bp.training import adam, training_step
from manual_bp.training.gradient_flow import GradientFlow, gradient_flow
from manual_bp.training.pictures import GREY, PALETTE, new_figure, style
from manual_bp.training.step import Step, TrainingState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS = "softmax_cross_entropy"
SYMBOLS = 2
OPEN = 3.0
"""A bias with which a gate keeps σ(3) = 0.95 of the state."""


@dataclass(frozen=True)
class Config:
    """What is run; the tests run less."""

    time: int = 100
    width: int = 24
    steps: int = 400
    rates: tuple[float, ...] = (3e-3, 1e-2)
    seeds: int = 3
    batch: int = 32
    measured: int = 256
    window: int = 20
    """Training losses are means of so many steps."""


NETWORKS: dict[str, tuple[str, int | None]] = {
    "rnn": ("rnn", None),
    "lstm": ("lstm", None),
    "lstm, forget gates open": ("lstm", 1),
    "gru": ("gru", None),
    "gru, update gates open": ("gru", 1),
}
"""The cell, and which of its gates begins open."""


def network(cell: str, config: Config) -> Model:
    """A recurrent layer, of whose last output a linear layer makes the answer."""

    def back(dy: Tensor) -> Tensor:
        return torch.cat([dy.new_zeros(config.time - 1, *dy.shape), dy[None]])

    layers = {
        "time_first": sequences.swapped(),
        "cell": sequences.recurrent(cell, SYMBOLS + 1, config.width, prefix="cell."),
        "last": Moved(lambda y: y[-1], back),
        "output": chain.linear(config.width, SYMBOLS, weight="W", bias="b"),
    }
    return Model("network", {}, chain.chain(**layers), "xavier")


def begin(step: Step, gate: int | None, width: int, seed: int) -> TrainingState:
    state = step.init(torch.Generator().manual_seed(seed))
    if gate is None:
        return state
    bias = state.params["cell.bias_ih_l0"].clone()
    bias[gate * width : (gate + 1) * width] = OPEN
    return replace(state, params={**state.params, "cell.bias_ih_l0": bias})


def sequences_of(count: int, time: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x, (count, time, symbols and noise), and which symbol each begins with."""
    symbols = torch.randint(SYMBOLS, (count,), generator=generator)
    x = torch.zeros(count, time, SYMBOLS + 1)
    x[:, :, -1] = torch.randn(count, time, generator=generator)
    x[torch.arange(count), 0, symbols] = 1.0
    return x, symbols


def look(step: Step, state: TrainingState, config: Config) -> GradientFlow:
    x, target = sequences_of(config.measured, config.time, torch.Generator().manual_seed(1000))
    layers = trace(step.model, state.params, state.buffers, x, target, LOSS)
    return gradient_flow(layers).through_time["cell"]


def trained(step: Step, state: TrainingState, config: Config, seed: int) -> tuple[TrainingState, list[float]]:
    """The state after training, and the losses of its steps."""
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(config.steps):
        state, loss = step(state, *sequences_of(config.batch, config.time, generator))
        losses.append(float(loss))
    return state, losses


def accuracy(step: Step, state: TrainingState, config: Config) -> float:
    x, target = sequences_of(config.measured, config.time, torch.Generator().manual_seed(2000))
    y, _, _ = step.model.forward(state.params, state.buffers, x)
    return float((y.argmax(1) == target).double().mean())


def measure(config: Config = Config()) -> Results:
    """Norms of ∂J/∂s by time step, and losses, of recurrent networks that must remember."""
    found: list[dict[str, Any]] = []
    for name, (cell, gate) in NETWORKS.items():
        tried = []
        for rate in config.rates:
            step = training_step(network(cell, config), LOSS, optimizer=adam(rate), clip_norm=1.0)
            starts = [begin(step, gate, config.width, seed) for seed in range(config.seeds)]
            runs = [trained(step, start, config, seed) for seed, start in enumerate(starts)]
            ends = [mean(losses[-config.window :]) for _, losses in runs]
            tried.append((mean(ends), rate, step, starts[0], runs))
        _, rate, step, start, runs = min(tried, key=lambda each: each[:2])
        before, after = look(step, start, config), look(step, runs[0][0], config)
        found.append(
            {
                "network": name,
                "rate": rate,
                "before": shown(before),
                "after": shown(after),
                "losses": [curve(windows(losses, config.window)) for _, losses in runs],
                "accuracies": [accuracy(step, end, config) for end, _ in runs],
            }
        )
    numbers = {name: getattr(config, name) for name in ("time", "steps", "rates", "seeds", "window")}
    return {**numbers, "networks": found}


def shown(flow: GradientFlow) -> dict[str, Any]:
    """Relative to the last step: by how much the gradient has shrunk, or grown, once it is at each step."""
    norms = list(flow.norms.values())
    return {
        "norms": curve([each / norms[-1] for each in norms]) if norms[-1] else None,
        "factor": flow.factor,
        "verdict": flow.verdict,
    }


def windows(losses: Sequence[float], size: int) -> list[float]:
    return [mean(losses[at : at + size]) for at in range(0, len(losses), size)]


def table(results: Results) -> list[str]:
    rows = [
        [
            each["network"],
            f"{each['before']['norms'][0]:.1g}",
            "" if each["before"]["factor"] is None else f"{each['before']['factor']:.2f}",
            f"{each['after']['norms'][0]:.1g}" if each["after"]["norms"] else "0 / 0",
            f"{mean(losses[-1] for losses in each['losses']):.3f}",
            ", ".join(f"{share:.0%}".replace("%", " %") for share in each["accuracies"]),
        ]
        for each in results["networks"]
    ]
    header = [
        f"{results['time']} time steps",
        "∂J/∂s first / last step",
        "per step",
        "after training",
        f"training loss, {results['steps']} steps",
        f"test accuracy, {results['seeds']} seeds",
    ]
    return markdown(header, rows)


COLOURS = (PALETTE[0], GREY, *PALETTE[1:4])


def draw(results: Results) -> Figure:
    with style():
        figure = new_figure(9.0, 4.2)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, each in enumerate(results["networks"]):
            norms = each["before"]["norms"]
            left.plot(range(1, len(norms) + 1), norms, color=COLOURS[number], linewidth=1.8, label=each["network"])
            middles = [(at + 0.5) * results["window"] for at in range(len(each["losses"][0]))]
            for run in each["losses"]:
                right.plot(middles, run, color=COLOURS[number], linewidth=1.2)
        left.set_yscale("log")
        left.set_xlabel("time step (the gradient comes from the right)")
        left.set_ylabel("norm of ∂J/∂s, over that of the last step")
        left.set_title("Before training: what reaches each step", loc="left")
        right.set_title("What is learned, by seed", loc="left")
        right.set_xlabel("training step")
        right.set_ylabel("training loss")
        right.set_ylim(bottom=0)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    command("vanishing_through_time", measure, table, draw)
