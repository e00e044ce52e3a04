"""What the experiments share: networks, runs, and where their results go."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

from benchmarks.documents import GUIDE, ROOT, lines, place
from manual_bp import chain
from manual_bp.cli.shared import write_json
from manual_bp.models import Model
from manual_bp.training.fit import Augment, EpochRecord, Split, TakeStep, epochs
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.pictures import save
from manual_bp.training.step import Step, TrainingState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]


def network(
    sizes: Sequence[int], activation: str, *, batch_norm: bool = False, dropout: float = 0.0, initializer: str
) -> Model:
    """Linear layers with batch norm before each hidden activation, and dropout after it, as asked for."""
    layers: dict[str, chain.Layer] = {}
    last = len(sizes) - 1
    for index in range(1, last + 1):
        layers[f"linear{index}"] = chain.linear(sizes[index - 1], sizes[index], weight=f"W{index}", bias=f"b{index}")
        if index == last:
            break
        if batch_norm:
            layers[f"batch_norm{index}"] = chain.batch_norm(sizes[index], prefix=f"batch_norm{index}.")
        layers[f"activation{index}"] = chain.activation(activation)
        if dropout:
            layers[f"dropout{index}"] = chain.dropout(sizes[index], dropout, mask=f"dropout{index}.mask")
    return Model("network", {}, chain.chain(**layers), initializer)


def split(data: Any, seed: int, *counts: int) -> tuple[Split, ...]:
    """So many examples each, drawn by `seed`, and a last part with what is left."""
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    x, targets = data.x.float(), data.targets(torch.float32)
    parts = torch.split(order, [*counts, len(order) - sum(counts)])
    return tuple(Split(x[i], targets[i], data.labels[i]) for i in parts)


def train(
    step: Step,
    state: TrainingState,
    training: Split,
    validation: Split,
    batches: MiniBatches,
    count: int,
    *,
    augment: Augment | None = None,
    take: TakeStep | None = None,
) -> tuple[list[TrainingState], list[EpochRecord]]:
    """The state and the record after each of `count` epochs."""
    run = list(islice(epochs(step, state, training, validation, batches, augment=augment, take=take), count))
    return [state for state, _ in run], [record for _, record in run]


def spread(values: Sequence[float], digits: int, unit: float = 1.0) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values) / unit:.{digits}f} ± {deviation / unit:.{digits}f}"


def curve(values: Sequence[float]) -> list[float]:
    """Four digits of each: as much as a picture shows."""
    return [float(f"{value:.4g}") for value in values]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; all columns but the first are aligned to the right."""
    return lines(header, rows, "---:").splitlines()


def publish(
    name: str, results: Results, table: Callable[[Results], list[str]], draw: Callable[[Results], Figure], out: Path
) -> None:
    """Print the table; write JSON, picture and, in the repository, the guide of the benchmarks."""
    text = "\n".join(table(results))
    print(text)
    for folder in ("results", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_json(out / "results" / f"{name}.json", f"python -m benchmarks.experiments.{name}", True, results)
    save(draw(results), out / "figures" / f"{name}.svg")
    if out == ROOT / GUIDE.parent:
        place(ROOT / GUIDE, {name: text})


def command(
    name: str, measure: Callable[[], Results], table: Callable[[Results], list[str]], draw: Callable[[Results], Figure]
) -> None:
    """The command line of an experiment: --out DIR writes elsewhere and leaves the guide alone."""

    def main(out: Path = ROOT / GUIDE.parent) -> None:
        torch.set_num_threads(1)  # nothing here is large enough for more
        publish(name, measure(), table, draw, out)

    main.__doc__ = measure.__doc__
    typer.run(main)
