"""From saved results to the tables of the README and of the guides of the benchmarks, and to the pictures of speed.

    python -m benchmarks.report [FILE ...] [--root DIR]

It prints what it wrote; a second run changes no byte.  A saved run is what `pytest benchmarks --benchmark-json FILE`
or `manual-bp bench --json FILE` wrote.  Rows that miss their target stay in the tables and say so; what was not
measured says that, and how it would be.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.documents import FIGURES, GUIDE, README, RESULTS, ROOT, SPEED, lines, place, saved
from benchmarks.pictures import captions_of, draw
from benchmarks.rows import Row
from benchmarks.tables import busy, inexact, ours, ratio, tables, verdict, words

FAMILIES = {
    "torch": "torch.autograd, the faster",
    "eager": "torch, eager",
    "torch.func": "torch.func, compiled",
    "jax": "jax.jit",
    "limit": "limit",
}
LIMITS = {"steps": "matrix products", "transformers": "matrix products", "rules": "copy", "scaling": "matrix products"}


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The rows of a saved run, or of one that has just ended."""
    found = (benchmark["extra_info"] for benchmark in document["benchmarks"])
    return [row for row in found if "question" in row]


# One table, for a terminal.


def table(rows: Sequence[Row]) -> Table:
    """Rows of one question: what ours took, and its ratio to each family's best."""
    question = rows[0]["question"]
    families = [f for f in FAMILIES if any(f in row["best"] or f in row["targets"] for row in rows)]
    title = {"checker": "what one waits for"}.get(question, f"{question}: ours / theirs (below 1 ours is better)")
    found = Table(title=title, box=SIMPLE_HEAD)
    found.add_column("")
    found.add_column("ours", justify="right")
    for family in families:
        found.add_column(LIMITS.get(question, "limit") if family == "limit" else FAMILIES[family], justify="right")
    found.add_column("target")
    for row in rows:
        cells = [ratio(row, row["best"].get(family)) for family in families]
        lost = any(t["met"] is False for t in row["targets"].values())
        found.add_row(row["row"], ours(row), *cells, verdict(row), style="red" if lost else None)
    missing = {f"{name}: not measured, {why}" for row in rows for name, why in row["not_measured"].items()}
    found.caption = "\n".join([*busy(rows), *sorted(missing), *inexact(rows)]) or None
    return found


# The tables of the guides.


def markdown(documents: Sequence[Mapping[str, Any]]) -> str:
    """All tables, the CPU's first; for a device without a saved run, how to measure it."""
    parts = []
    for device in ("cpu", "cuda"):
        runs = [document for document in documents if _device(document) == device]
        if runs:
            rows = merged(runs)
            parts += [_machine(runs[0], rows, device), *tables(rows)]
            for question in [q for q in TABLES if not any(row["question"] == q for row in rows)]:
                parts.append(f"{_title(device)}, {question}: {_not_measured(device, question)}")
        else:
            parts.append(f"{_title(device)}: {_not_measured(device)}")
    return "\n\n".join(parts)


def _not_measured(device: str, question: str = "") -> str:
    only, name = (f" --only {question}", f"{device}-{question}") if question else ("", device)
    command = f"manual-bp bench --device {device}{only} --json benchmarks/results/speed-{name}.json"
    return f"not measured. To measure: `{command}`, then `python -m benchmarks.report`."


def merged(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of several runs on one machine; a question that a later one asked again has the later answers."""
    found: dict[str, list[Row]] = {}
    for run in runs:
        rows = rows_of(run)
        for question in dict.fromkeys(row["question"] for row in rows):
            found[question] = [row for row in rows if row["question"] == question]
    return [row for rows in found.values() for row in rows]


def _device(document: Mapping[str, Any]) -> str:
    return str(rows_of(document)[0]["device"])


def _title(device: str) -> str:
    return {"cpu": "CPU", "cuda": "GPU (CUDA)"}[device]


def _machine(document: Mapping[str, Any], rows: Sequence[Row], device: str) -> str:
    info = document["machine_info"]
    versions = ", ".join(f"{name} {info['versions'][name]}" for name in ("torch", "jax"))
    what = info.get("gpu") if device == "cuda" else f"{info['cpu']}, {info['cores']} cores"
    about = f"{what}; {info['threads']} threads; Python {info['python']}, {versions}"
    notes = [words(rows), *(text.rstrip(".") for text in busy(rows))]
    notes = [text[:1].upper() + text[1:] for text in notes]
    return f"{_title(device)}: {about}. {'. '.join(notes)}."


TABLES = ("steps", "transformers", "memory", "rules")
"""What is asked on every device."""


def short(documents: Sequence[Mapping[str, Any]]) -> str:
    """One table for the README: every step of the CPU, of a transformer too, beside the GPU's where that was measured,
    and the rules."""
    devices = {
        device: merged(runs)
        for device in ("cpu", "cuda")
        if (runs := [document for document in documents if _device(document) == device])
    }
    head = ["ours / theirs"]
    for device in devices:
        head += [f"{_title(device)}: ours", "/ faster torch.autograd (95 %)", "/ jax.jit"]
    found = {
        device: {row["row"]: row for row in rows if row["question"] in ("steps", "transformers") and row["unit"] == "s"}
        for device, rows in devices.items()
    }
    first = next(iter(found.values()), {})
    body = [[f"step of {name}"] for name in first]
    for cells, name in zip(body, first, strict=True):
        for steps in found.values():
            cells += _short_cells(steps[name]) if name in steps else [""] * 3
    rules = [[row for row in rows if row["question"] == "rules"] for rows in devices.values()]
    if any(rules):
        body.append(["a rule, forward and backward: median of all rules and sizes"])
        for rows in rules:
            ratios = [row["ratios"][row["best"]["torch"]]["median"] for row in rows if "torch" in row["best"]]
            body[-1] += ["", f"{statistics.median(ratios):.2f}" if ratios else "", ""]
    machines = [
        _machine(next(d for d in documents if _device(d) == device), rows, device) for device, rows in devices.items()
    ]
    return f"{lines(head, body)}\n\n{' '.join(machines)}"


def _short_cells(row: Row) -> list[str]:
    return [ours(row), ratio(row, row["best"].get("torch")), ratio(row, row["best"].get("jax"), interval=False)]


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="Saved runs; by default all in results/.")] = None,
    root: Annotated[Path, typer.Option(help="Where README.md and benchmarks/ are.")] = ROOT,
) -> None:
    """Put saved results into the README, the guides of the benchmarks and the pictures."""
    documents = [json.loads(path.read_text()) for path in files or sorted(RESULTS.glob("speed-*.json"))]
    before = {path: path.read_bytes() for path in (root / FIGURES).glob("*.svg")}
    shown: list[str] = []
    written: list[Path] = []
    for device, suffix in (("cpu", ""), ("cuda", "-cuda")):
        rows = merged([d for d in documents if _device(d) == device])
        for question, path in draw(rows, root / FIGURES, suffix).items():
            asked = [row for row in rows if row["question"] == question]
            alternative, caption = (f"{_title(device)}: {text}" for text in captions_of(question, asked))
            shown.append(f"![{alternative}]({FIGURES.name}/{path.name})\n\n*{caption}*")
            written.append(path)
    parts = {
        README: {"speed": short(documents)},
        GUIDE: saved(),
        SPEED: {"speed": "\n\n".join([markdown(documents), *shown])},
    }
    for document, parts_of_it in parts.items():
        changed = place(root / document, parts_of_it)
        print(f"{document}: " + (f"written ({', '.join(changed)})" if changed else "as before"))
    for path in written:
        print(f"{path.relative_to(root)}: {'as before' if before.get(path) == path.read_bytes() else 'written'}")


if __name__ == "__main__":
    typer.run(main)
