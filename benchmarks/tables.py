"""What stands in a table of a row of results, and the tables of the guides, one for each question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.documents import lines
from benchmarks.pictures import one_by_one, rule_and_size
from benchmarks.rows import Row


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


def ratio(row: Row, name: str | None, *, interval: bool = True) -> str:
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


def line(row: Row) -> str:
    """A row as it is said as soon as it is measured."""
    found = [ours(row), *(f"{ratio(row, peer)} of {peer}" for peer in dict.fromkeys(row["best"].values()))]
    return f"{row['row']}: {', '.join(found)}" + (f"; {verdict(row)}" if row["targets"] else "")


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


# The tables.


def tables(rows: Sequence[Row]) -> list[str]:
    """The tables of one device, a question each."""
    return [
        write(asked)
        for question, write in WRITERS.items()
        if (asked := [row for row in rows if row["question"] == question])
    ]


def _markdown_steps(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        best = row["best"]
        columns = ["torch, eager", "torch.compile", best.get("torch.func"), best.get("jax"), best.get("limit")]
        shown = [ratio(row, best.get("torch")), *(ratio(row, n, interval=False) or "not measured" for n in columns)]
        return [row["row"], ours(row), *shown, verdict(row)]

    columns = ["faster torch.autograd (95 %)", "eager", "compiled", "torch.func, compiled", "jax.jit"]
    columns.append("products" + (", launched one by one" if one_by_one(rows) else ""))
    head = ["step: ours /", "ours", *columns, "target"]
    return lines(head, [cells(row) for row in rows])


def _markdown_transformers(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        peers = [row["best"].get("torch"), "torch, eager", "torch.compile", row["best"].get("limit")]
        return [row["row"], ours(row), *(ratio(row, name, interval=name == peers[0]) for name in peers), verdict(row)]

    head = ["transformer: ours /", "ours", "faster torch (95 %)", "eager", "compiled", "products", "target"]
    return lines(head, [cells(row) for row in rows])


def _markdown_images(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        peers = ("torch, eager", "torch, eager, channels last", "torch.compile")
        each = [ratio(row, name, interval=False) or "not measured" for name in peers]
        return [row["row"], ours(row), ratio(row, row["best"].get("torch")), *each, verdict(row)]

    columns = ["faster torch (95 %)", "eager", "eager, channels last", "compiled, channels last"]
    return lines(["step of a network of images: ours /", "ours", *columns, "target"], [cells(row) for row in rows])


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
        text = f"{ratio(row, row['best']['torch'], interval=False)} [{ratio(row, 'copy', interval=False)}]"
        return f"**{text}**" if lost else text

    head = ["rule: ours / faster torch [ours / copy]", *(f"{size} elements" for size in sizes)]
    body = [[name, *(cell(at.get((name, size))) for size in sizes)] for name in names]
    asked = {family: t["at_most"] for row in rows for family, t in row["targets"].items()}
    targets = [f"{at_most:.3g} of {NAMES[family]}" for family, at_most in asked.items()]
    notes = [f"Bold: above a target: {' or '.join(targets)}.", *(f"{text}." for text in inexact(rows))]
    return "\n\n".join([lines(head, body), *notes])


def _markdown_layers(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> list[str]:
        peers = [ratio(row, name, interval=False) or "not measured" for name in ("torch, eager", "torch.compile")]
        return [row["row"], ours(row), ratio(row, row["best"].get("torch")), *peers, verdict(row)]

    head = ["layer, forward and backward: ours /", "ours", "faster torch (95 %)", "eager", "compiled", "target"]
    return lines(head, [cells(row) for row in rows])


def _markdown_checker(rows: Sequence[Row]) -> str:
    checks = [row for row in rows if row["row"].startswith("check of")]
    shown = [row for row in rows if row not in checks]
    if checks:
        slowest = max(checks, key=lambda row: row["values"]["manual-bp"]["median"])
        shown.append({**slowest, "row": f"one check, the slowest of {len(checks)} rules ({slowest['row'][9:]})"})
    return lines(["what one waits for", "seconds", "target"], [[r["row"], ours(r), verdict(r)] for r in shown])


WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "steps": _markdown_steps,
    "transformers": _markdown_transformers,
    "memory": _markdown_memory,
    "rules": _markdown_rules,
    "layers": _markdown_layers,
    "images": _markdown_images,
    "checker": _markdown_checker,
}
"""By question, in the order of the tables."""
