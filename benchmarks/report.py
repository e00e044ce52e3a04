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
from benchmarks.pictures import captions_of, draw, one_by_one, rule_and_size
from benchmarks.rows import Row

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
        cells = [_ratio(row, row["best"].get(family)) for family in families]
        lost = any(t["met"] is False for t in row["targets"].values())
        found.add_row(row["row"], ours(row), *cells, verdict(row), style="red" if lost else None)
    missing = {f"{name}: not measured, {why}" for row in rows for name, why in row["not_measured"].items()}
    found.caption = "\n".join([*busy(rows), *sorted(missing), *inexact(rows)]) or None
    return found


def ours(row: Row) -> str:
    """The value of ours, in its unit."""
    return quantity(row["values"][row["ours"]]["median"], row["unit"])


def quantity(value: float, unit: str) -> str:
    """Three digits and a unit that suits."""
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1 or name == "µs":
            return f"{value * factor:.3g} {name}"
    raise AssertionError("unreachable")


def _ratio(row: Row, name: str | None, *, interval: bool = True) -> str:
    if name is None or name not in row["ratios"]:
        return ""
    found = row["ratios"][name]
    if found["low"] == found["high"] or not interval:
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def verdict(row: Row) -> str:
    """What was asked of a row, and whether it was reached."""
    found = []
    for family, target in row["targets"].items():
        at_most = f"{target['at_most']:.3g} s" if family == "seconds" else f"{family} ≤ {target['at_most']:.3g}"
        if target["met"] is None:
            found.append(f"{at_most}: not measured")
        elif target["by_limit"]:
            found.append(f"{at_most}: no room above the products, met")
        else:
            found.append(f"{at_most}: {'met' if target['met'] else 'MISSED'}")
    return "; ".join(found)


def words(rows: Sequence[Row]) -> str:
    """How many targets there are and how many were missed."""
    judged = [t for row in rows for t in row["targets"].values() if t["met"] is not None]
    missed = sum(not t["met"] for t in judged)
    if not judged:
        return "no target was judged"
    if not missed:
        return f"all of {len(judged)} targets are met"
    return f"{missed} of {len(judged)} targets {'is' if missed == 1 else 'are'} missed"


# Of one core of two that is a fifth; what the system itself does stays below.
BUSY = 0.1


def busy(rows: Sequence[Row]) -> list[str]:
    """A line if other programs took so much of the machine that the ratios cannot be relied on."""
    shares = [row["others"] for row in rows if row.get("others") is not None]
    hit = [share for share in shares if share > BUSY]
    if not hit:
        return []
    return [
        f"the machine was busy: in {len(hit)} of {len(shares)} rows other programs took more than {BUSY:.0%} of its "
        f"processors (at most {max(hit):.0%}), which slows programs of several threads most. Measure again."
    ]


def inexact(rows: Sequence[Row]) -> list[str]:
    """Who was timed although the oracle rejects its result: a line for each rule and contestant."""
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        for name, why in row.get("inexact", {}).items():
            found.setdefault((row["rule"], name), f"{name} of {row['rule']} is inexact: {why}")
    return list(found.values())


# The tables of the guides.


def markdown(documents: Sequence[Mapping[str, Any]]) -> str:
    """All tables, the CPU's first; for a device without a saved run, how to measure it."""
    parts = []
    for device in ("cpu", "cuda"):
        runs = [document for document in documents if _device(document) == device]
        if runs:
            rows = merged(runs)
            parts += [_machine(runs[0], rows, device), *_tables(rows)]
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


def _tables(rows: Sequence[Row]) -> list[str]:
    parts = []
    steps = [row for row in rows if row["question"] == "steps"]
    if steps:
        parts.append(_markdown_steps(steps))
    transformers = [row for row in rows if row["question"] == "transformers"]
    if transformers:
        parts.append(_markdown_transformers(transformers))
    memory = [row for row in rows if row["question"] == "memory"]
    if memory:
        parts.append(_markdown_memory(memory))
    rules = [row for row in rows if row["question"] == "rules"]
    if rules:
        parts.append(_markdown_rules(rules))
    layers = [row for row in rows if row["question"] == "layers"]
    if layers:
        parts.append(_markdown_layers(layers))
    checker = [row for row in rows if row["question"] == "checker"]
    if checker:
        parts.append(_markdown_checker(checker))
    return parts


def _markdown_steps(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        best = row["best"]
        columns = ["torch, eager", "torch.compile", best.get("torch.func"), best.get("jax"), best.get("limit")]
        shown = [_ratio(row, best.get("torch")), *(_ratio(row, n, interval=False) or "not measured" for n in columns)]
        return [row["row"], ours(row), *shown, verdict(row)]

    columns = ["faster torch.autograd (95 %)", "eager", "compiled", "torch.func, compiled", "jax.jit"]
    columns.append("products" + (", launched one by one" if one_by_one(rows) else ""))
    head = ["step: ours /", "ours", *columns, "target"]
    return lines(head, [cells(row) for row in rows])


def _markdown_transformers(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        peers = [row["best"].get("torch"), "torch, eager", "torch.compile", row["best"].get("limit")]
        return [row["row"], ours(row), *(_ratio(row, name, interval=name == peers[0]) for name in peers), verdict(row)]

    head = ["transformer: ours /", "ours", "faster torch (95 %)", "eager", "compiled", "products", "target"]
    return lines(head, [cells(row) for row in rows])


def _markdown_memory(rows: Sequence[Row]) -> str:
    body = [
        [row["row"], ours(row), *(quantity(row["values"][n]["median"], "bytes") for n in _torchs(row)), verdict(row)]
        for row in rows
    ]
    return lines(["peak memory of a step", "ours", *_torchs(rows[0]), "target"], body)


def _torchs(row: Row) -> list[str]:
    return [name for name in row["values"] if name.startswith("torch")]


NAMES = {"torch": "the faster torch", "limit": "a copy of as many bytes, if element-wise and beyond all caches"}


def _markdown_rules(rows: Sequence[Row]) -> str:
    """A line a rule, a column a size: ours / faster torch, and in brackets ours / copy."""
    names = list(dict.fromkeys(rule_and_size(row)[0] for row in rows))
    sizes = list(dict.fromkeys(rule_and_size(row)[1] for row in rows))
    at = {rule_and_size(row): row for row in rows}

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        lost = any(t["met"] is False for t in row["targets"].values())
        text = f"{_ratio(row, row['best']['torch'], interval=False)} [{_ratio(row, 'copy', interval=False)}]"
        return f"**{text}**" if lost else text

    head = ["rule: ours / faster torch [ours / copy]", *(f"{size} elements" for size in sizes)]
    body = [[name, *(cell(at.get((name, size))) for size in sizes)] for name in names]
    asked = {family: t["at_most"] for row in rows for family, t in row["targets"].items()}
    targets = [f"{at_most:.3g} of {NAMES[family]}" for family, at_most in asked.items()]
    notes = [f"Bold: above a target: {' or '.join(targets)}.", *(f"{text}." for text in inexact(rows))]
    return "\n\n".join([lines(head, body), *notes])


def _markdown_layers(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        peers = [_ratio(row, name, interval=False) or "not measured" for name in ("torch, eager", "torch.compile")]
        return [row["row"], ours(row), _ratio(row, row["best"].get("torch")), *peers, verdict(row)]

    head = ["layer, forward and backward: ours /", "ours", "faster torch (95 %)", "eager", "compiled", "target"]
    return lines(head, [cells(row) for row in rows])


def _markdown_checker(rows: Sequence[Row]) -> str:
    checks = [row for row in rows if row["row"].startswith("check of")]
    shown = [row for row in rows if row not in checks]
    if checks:
        slowest = max(checks, key=lambda row: row["values"]["manual-bp"]["median"])
        shown.append({**slowest, "row": f"one check, the slowest of {len(checks)} rules ({slowest['row'][9:]})"})
    return lines(["what one waits for", "seconds", "target"], [[r["row"], ours(r), verdict(r)] for r in shown])


def short(documents: Sequence[Mapping[str, Any]]) -> str:
    """One table for the README: every step of the CPU, beside the GPU's where that was measured, and the rules."""
    devices = {
        device: merged(runs)
        for device in ("cpu", "cuda")
        if (runs := [document for document in documents if _device(document) == device])
    }
    head = ["ours / theirs"]
    for device in devices:
        head += [f"{_title(device)}: ours", "/ faster torch.autograd (95 %)", "/ jax.jit"]
    found = {
        device: {row["row"]: row for row in rows if row["question"] == "steps"} for device, rows in devices.items()
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
    return [ours(row), _ratio(row, row["best"].get("torch")), _ratio(row, row["best"].get("jax"), interval=False)]


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
