"""Pictures of saved runs: how time grows with size, and how far every rule is from a copy of its bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants.products import GRAPHED
from benchmarks.rows import Row

# Without it matplotlib gives the parts of an SVG other names at each run.
REPRODUCIBLE = {"svg.hashsalt": "manual_bp"}
# Neither the date nor the version of matplotlib.
ANONYMOUS: dict[str, str | None] = {"Date": None, "Creator": None}

CAPTIONS = {
    "scaling": (
        "seconds per step against depth, width and batch for five programs",
        "The time of a step against depth (128 wide, batch 128), width (4 layers, batch 128) and batch (4 layers of "
        "128).",
    ),
    "rules": (
        "time of every rule over that of a copy of the same bytes, by hand and by torch",
        "Forward and backward of a rule over a copy of the same bytes; 1 is the physical limit for tensors that no "
        "cache holds.",
    ),
}
"""What a picture shows, for those who do not see it, and what stands below it."""


def captions_of(question: str, rows: Sequence[Row]) -> tuple[str, str]:
    """CAPTIONS, and what has to be said of these rows."""
    alternative, caption = CAPTIONS[question]
    if question == "scaling" and one_by_one(rows):
        caption += (
            " The products were launched one by one here, which costs more than they do where they are small: a step "
            "that is one graph, as ours is, can lie below that line, and it is no limit for it."
        )
    return alternative, caption


def one_by_one(rows: Sequence[Row]) -> bool:
    """Whether the matrix products of a GPU's rows were measured without a graph."""
    names = {row["best"]["limit"] for row in rows if "limit" in row["best"]}
    return any(row.get("device") == "cuda" for row in rows) and not any(GRAPHED in name for name in names)


STYLES = {
    "manual": ("#c0392b", "-", 2.2),
    "torch, eager": ("#2c5f8a", "-", 1.3),
    "torch.compile": ("#2c5f8a", "--", 1.3),
    "jax.jit": ("#3a8f5c", "-", 1.3),
    "limit": ("#888888", ":", 1.3),
}
"""Colour, dash and width of each line."""


def scaling_picture(rows: Sequence[Row], path: Path) -> None:
    """Time against depth, width and batch, a panel each, on logarithmic axes."""
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    limit = "matrix products" + (", one by one" if one_by_one(rows) else "")
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(axes_names), sharey=True, squeeze=False)[0], axes_names, strict=True):
        shown = [row for row in rows if row["axis"] == axis]
        sizes = [row["size"] for row in shown]
        for label, pick in {
            shown[0]["ours"]: lambda row: row["ours"],
            "torch, eager": lambda row: "torch, eager",
            "torch.compile": lambda row: "torch.compile",
            "jax.jit": lambda row: "jax.jit",
            limit: lambda row: row["best"].get("limit"),
        }.items():
            values = [row["values"].get(pick(row), {}).get("median", math.nan) for row in shown]
            style = "manual" if label.startswith("manual") else "limit" if label == limit else label
            color, dash, width = STYLES[style]
            panel.plot(
                sizes, values, color=color, linestyle=dash, linewidth=width, marker="o", markersize=3, label=label
            )
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("seconds per step")
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=len(lines[0]), frameon=False, fontsize=8)
    figure.savefig(path, metadata=ANONYMOUS if path.suffix == ".svg" else None)


def rules_picture(rows: Sequence[Row], path: Path) -> None:
    """For every rule and size, time over that of a copy of the same bytes: ours, and the faster torch."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(rule_and_size(row)[1] for row in rows))
    names = list(dict.fromkeys(rule_and_size(row)[0] for row in rows))
    figure = Figure(figsize=(10.5, 0.32 * len(names) + 1.4), layout="constrained")
    for panel, size in zip(
        figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0], sizes, strict=True
    ):
        for row in (row for row in rows if rule_and_size(row)[1] == size):
            at = len(names) - names.index(rule_and_size(row)[0])
            copy = row["values"]["copy"]["median"]
            mine, theirs = (row["values"][n]["median"] / copy for n in (row["ours"], row["best"]["torch"]))
            panel.plot([mine, theirs], [at, at], color="#cccccc", linewidth=1, zorder=1)
            panel.scatter([theirs], [at], color=STYLES["torch, eager"][0], s=22, zorder=2)
            panel.scatter([mine], [at], color=STYLES["manual"][0], s=22, zorder=3)
        panel.axvline(1, color=STYLES["limit"][0], linestyle=":", linewidth=1.2)
        panel.set_xscale("log")
        power = size.removeprefix("2^")
        panel.set_title(f"$2^{{{power}}}$ elements", fontsize=9)
        panel.grid(axis="x", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("time / copy of the same bytes", fontsize=9)
    figure.axes[0].set_yticks(range(len(names), 0, -1), names)
    last = figure.axes[-1]
    last.scatter([], [], color=STYLES["manual"][0], s=22, label=rows[0]["ours"])
    last.scatter([], [], color=STYLES["torch, eager"][0], s=22, label="torch, the faster of eager and compiled")
    figure.legend(*last.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, metadata=ANONYMOUS if path.suffix == ".svg" else None)


def draw(rows: Sequence[Row], folder: Path, suffix: str = "") -> dict[str, Path]:
    """The pictures for which there are rows, by question; the suffix is of the files' names."""
    import matplotlib

    found = {}
    pictures = {"scaling": scaling_picture, "rules": rules_picture}
    for question, picture in pictures.items():
        shown = [row for row in rows if row["question"] == question]
        if shown:
            found[question] = folder / f"{question}{suffix}.svg"
            with matplotlib.rc_context(REPRODUCIBLE):
                picture(shown, found[question])
    return found


def rule_and_size(row: Row) -> tuple[str, str]:
    """Of a row of the question "rules": what stands before and behind its last comma."""
    name, _, size = row["row"].rpartition(", ")
    return name, size
