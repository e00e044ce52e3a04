"""Pictures of a training run, from what was recorded at the end of each epoch (the extra manual-bp[plots]).

Figures are made without pyplot: nothing global is changed, and no display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manual_bp.curves.overfitting import Overfitting
from manual_bp.files import write_atomically
from manual_bp.training.gradient_flow import TOO_FAR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from manual_bp.training.fit import EpochRecord

# Okabe and Ito's palette, which the colour-blind tell apart.
TRAINING, VALIDATION, GREY = "#0072B2", "#D55E00", "#767676"
PALETTE = (VALIDATION, TRAINING, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = 7
"""Epochs drawn in one picture of gradient norms: more cannot be told apart."""


def learning_curves(
    records: Sequence[EpochRecord],
    overfitting: Overfitting | None = None,
    stopped_at: int | None = None,
    about: str = "",
) -> Figure:
    """Losses (logarithmic) and accuracies by epoch; where over-fitting began, and which epoch was kept.

    stopped_at: the epoch whose parameters early stopping kept, if it stopped the run.
    about: what was trained, for the head.
    Raises ValueError if there is no record, and if matplotlib is not installed.
    """
    _need(records)
    with style():
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(7.5, 5.6)
        losses, accuracies = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        epochs = [record.epoch for record in records]
        for axes, what in ((losses, "loss"), (accuracies, "accuracy")):
            curves = {
                name: [getattr(record, f"{name}_{what}") for record in records] for name in ("training", "validation")
            }
            for name, colour in (("training", TRAINING), ("validation", VALIDATION)):
                axes.plot(epochs, curves[name], color=colour, linewidth=1.8, marker="o" if len(epochs) == 1 else "")
            label_ends(axes, float(epochs[-1]), {n: c[-1] for n, c in curves.items()}, (TRAINING, VALIDATION))
            axes.set_ylabel(what)
        losses.set_yscale("log")
        accuracies.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}".replace("%", " %"))
        accuracies.set_xlabel("epoch")
        accuracies.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses.set_title("What the network learns, and what it learns by heart", loc="left")
        if overfitting is not None and overfitting.found and overfitting.epoch is not None:
            _mark_overfitting(losses, accuracies, overfitting, epochs[-1])
        if stopped_at is not None:
            _mark_kept(losses, accuracies, stopped_at, {r.epoch: r.validation_loss for r in records}.get(stopped_at))
        captioned(figure, about)
    return figure


def _mark_overfitting(losses: Axes, accuracies: Axes, found: Overfitting, last: int) -> None:
    assert found.epoch is not None
    for axes in (losses, accuracies):
        axes.axvspan(found.epoch, last, color=VALIDATION, alpha=0.10, linewidth=0)
    losses.text(
        (found.epoch + last) / 2,
        0.97,
        "over-fitting:\nvalidation rises while training falls",
        transform=losses.get_xaxis_transform(),
        ha="center",
        va="top",
        color=VALIDATION,
    )


def _mark_kept(losses: Axes, accuracies: Axes, epoch: int, loss: float | None) -> None:
    for axes in (losses, accuracies):
        axes.axvline(epoch, color="black", linewidth=1, linestyle=(0, (4, 3)))
    accuracies.text(
        epoch,
        0.06,
        f" kept: epoch {epoch},\n lowest validation loss",
        transform=accuracies.get_xaxis_transform(),
        va="bottom",
    )
    if loss is not None:
        losses.plot([epoch], [loss], "o", color="black", markersize=5, zorder=5)


def gradient_norms(records: Sequence[EpochRecord], about: str = "") -> Figure:
    """The norm of δ by layer (logarithmic), a line for each of up to seven epochs.

    about: what was trained, for the head.
    Raises ValueError if there is no record, and if matplotlib is not installed.
    """
    _need(records)
    with style():
        import matplotlib

        layers = list(records[0].gradient_norms)
        figure = new_figure(max(5.5, min(12.0, 0.5 * len(layers) + 2.5)), 4.4)
        axes = figure.subplots()
        shown = spread(records, LINES)
        colours = matplotlib.colormaps["viridis"]
        for number, record in enumerate(shown):
            colour = colours(0.9 * number / max(len(shown) - 1, 1))
            # what is exactly 0 has no place on a logarithmic axis
            sizes = [size if size > 0 else float("nan") for size in record.gradient_norms.values()]
            axes.plot(range(len(layers)), sizes, "o-", color=colour, label=f"epoch {record.epoch}", markersize=4)
        told = [size for record in shown for size in record.gradient_norms.values() if 0 < size < float("inf")]
        if told:
            axes.set_yscale("log")
            # As many decades at least as make a gradient vanish, so that one that does not looks flat.
            middle, half = (max(told) * min(told)) ** 0.5, TOO_FAR**0.5
            axes.set_ylim(min(min(told) / 2, middle / half), max(max(told) * 2, middle * half))
        name_layers(axes, layers)
        axes.set_ylabel("norm of δ = ∂J/∂z")
        axes.set_title("The gradient on its way back, from right to left", loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        captioned(figure, about)
    return figure


def saturation(records: Sequence[EpochRecord], lost: Mapping[str, str] | None = None, about: str = "") -> Figure:
    """The share of each layer that is lost to the flat part of its activation, by epoch: dark is lost.

    lost: by layer, what that means there, in words (`LayerSaturation.lost`): a unit of ReLU is dead, and nothing of it
        is saturated. about: what was trained, for the head.
    Raises ValueError if there is no record, and if matplotlib is not installed.
    """
    _need(records)
    layers = list(records[0].saturation)
    if not layers:
        raise ValueError("saturation: there must be an activation layer; came none. Leave this picture out.")
    with style():
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(8.5, max(2.6, 0.32 * len(layers) + 1.8))
        axes = figure.subplots()
        shares = [[record.saturation[layer] for record in records] for layer in layers]
        first, last = records[0].epoch, records[-1].epoch
        image = axes.imshow(
            shares,
            aspect="auto",
            vmin=0,
            vmax=1,
            cmap="magma_r",
            interpolation="nearest",
            extent=(first - 0.5, last + 0.5, len(layers) - 0.5, -0.5),
        )
        kinds = dict.fromkeys((lost or {}).values())
        several = lost is not None and len(kinds) > 1
        axes.set_yticks(range(len(layers)), [f"{name}: {lost[name]}" if lost and several else name for name in layers])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for row, share in enumerate(shares):
            axes.annotate(
                f"{share[-1]:.0%}".replace("%", " %"),
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        bar = figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1], pad=0.1)
        bar.ax.set_yticklabels(["0 %: alive", "50 %", "100 %: lost"])
        axes.set_xlabel("epoch")
        what = next(iter(kinds)) if len(kinds) == 1 else "what is lost to flat parts"
        axes.set_title(f"{what[0].upper()}{what[1:]}: share of each layer (right: after the last epoch)", loc="left")
        captioned(figure, about)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture, .svg or .png, as `write_atomically` does: white, so that it can be read on a dark page, and the
    same file for the same numbers, whatever the clock says."""
    content = io.BytesIO()
    with style():
        # Left to savefig, the layout is made by a draft whose metadata ask for today's date, which Python lacks before
        # the year 1 and after 9999.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # "none" would leave a placeholder, for which the draft is made as well
        nothing = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(content, format=path.suffix[1:], facecolor="white", dpi=100, metadata=nothing)
    write_atomically(path, content.getvalue())


@contextmanager
def style() -> Iterator[None]:
    """How the pictures look; a ValueError that says what to install without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(f"pictures need matplotlib ({error}). Run: pip install 'manual-bp[plots]'") from None
    settings: Any = {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "svg.hashsalt": "manual-bp",
        "figure.autolayout": False,  # figures lay themselves out, see `new_figure`
        "figure.constrained_layout.use": False,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def captioned(figure: Figure, text: str, *, bold: bool = False) -> None:
    """A line above everything, left: what was trained; with `bold` the first line of several is the title."""
    if not text:
        return
    title, _, rest = text.partition("\n")
    if bold:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel(rest, x=0.01, ha="left", fontsize=9, color=GREY)
    else:
        figure.suptitle(text, x=0.01, ha="left", fontsize=9, color=GREY)


def label_ends(axes: Axes, x: float, ends: dict[str, float], colours: Sequence[str]) -> None:
    """Each curve's name at its right end, in its colour; the names are moved apart if the curves end together."""
    ordered = sorted(ends, key=ends.__getitem__)
    close = len(ordered) == 2 and abs(ends[ordered[0]] - ends[ordered[1]]) < 0.05 * abs(ends[ordered[1]])
    for name, colour in zip(ends, colours, strict=False):
        shift = (6 if name == ordered[-1] else -6) if close else 0
        axes.annotate(name, (x, ends[name]), xytext=(5, shift), textcoords="offset points", color=colour, va="center")


def name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """Layers along the x axis; of more than a dozen, some are named."""
    every = -(-len(layers) // 12)
    axes.set_xticks(range(0, len(layers), every), list(layers)[::every], rotation=30, ha="right")


def spread(records: Sequence[EpochRecord], most: int) -> list[EpochRecord]:
    """At most so many of the records, evenly spread, with the first and the last."""
    if len(records) <= most:
        return list(records)
    return [records[round(k * (len(records) - 1) / (most - 1))] for k in range(most)]


def _need(records: Sequence[EpochRecord]) -> None:
    if not records:
        raise ValueError("a picture needs at least one epoch; came none. Train for an epoch first.")
