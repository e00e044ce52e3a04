"""The generated parts of the guides: what they are made of, and where they stand.

A part stands between the lines `<!-- name -->` and `<!-- end of name -->`; nothing else of a guide is touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Below the root.
README, GUIDE, SPEED = Path("README.md"), Path("benchmarks/README.md"), Path("benchmarks/speed.md")
FIGURES = Path("benchmarks/figures")
EXPERIMENTS = ("vanishing", "vanishing_through_time", "regularization", "batch_size")


def placed(document: str, name: str, text: str) -> str:
    """The document with `text` between the marks of that name.  Raises ValueError unless they are there once."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    changed, found = re.subn(f"{begin}\n.*?{end}", lambda _: f"{begin}\n{text}\n{end}", document, flags=re.DOTALL)
    if found != 1:
        raise ValueError(
            f"the document must have one part between the lines {begin} and {end}; came {found}. Put them back."
        )
    return changed


def place(path: Path, parts: Mapping[str, str]) -> list[str]:
    """Put every part into the file; the names of those that have changed."""
    before = path.read_text("utf-8")
    text, changed = before, []
    for name, part in parts.items():
        after = placed(text, name, part)
        changed += [name] * (after != text)
        text = after
    if text != before:
        path.write_text(text, "utf-8")
    return changed


def lines(head: Sequence[str], body: Sequence[Sequence[str]], align: str = "---") -> str:
    """A table; align: of all columns but the first."""
    rows = [head, ["---", *[align] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def saved() -> dict[str, str]:
    """By name, the parts that are made of saved results other than those of speed."""
    from importlib import import_module

    tables: dict[str, Callable[[dict[str, Any]], str]] = {
        "accuracy": accuracy,
        "sensitivity": sensitivity,
        "diagnoses": diagnoses,
    }
    for name in EXPERIMENTS:
        page = import_module(f"benchmarks.experiments.{name}")
        tables[name] = lambda results, page=page: "\n".join(page.table(results))  # type: ignore[misc]
    return {name: made(json.loads((RESULTS / f"{name}.json").read_text())) for name, made in tables.items()}


def accuracy(results: Mapping[str, Any]) -> str:
    """The largest error of each element-wise gradient in ulp: with ordinary hyperparameters, and with others if torch
    is off by more than is allowed there."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    rules: set[str] = set()
    for row in results["measured"]:
        values = ", ".join(f"{name}={value:g}" for name, value in row["hyper"].items())
        call = f"{row['rule']}({values})" if values else row["rule"]
        found.setdefault(call, {})[row["candidate"], row["dtype"]] = row["gradient"]["ulps"]
    shown = []
    for call, ulps in found.items():
        rule = call.partition("(")[0]
        if rule not in rules or max(ulps.values()) > results["allowed_ulps"]:
            columns = [(candidate, dtype) for dtype in ("float32", "float64") for candidate in ("manual", "torch")]
            shown.append([call, *(_ulps(ulps[column]) for column in columns)])
        rules.add(rule)
    return lines(["largest error, ulp", "float32: manual", "torch", "float64: manual", "torch"], shown, "---:")


def _ulps(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


# What the rows and columns of the table of sensitivity are called in the saved results.
MUTATIONS = {
    "right program": "a right program",
    "cotangent dropped": "cotangent zeroed",
    "cotangent × 2": "× 2",
    "cotangent × (1 + 1e-02)": "× 1.01",
    "cotangent × (1 + 1e-03)": "× 1.001",
    "cotangent × (1 + 1e-06)": "× (1 + 1e-6)",
    "term dropped": "term dropped",
    "reduced over an axis of its own": "reduced over an axis of its own",
}
CHECKS = {
    "float64": {
        "compare, strict": "ours",
        "gradcheck": "gradcheck",
        "gradcheck fast": "its fast mode",
        "assert_close": "assert_close",
        "1e-2 / 1e-2": "1e-2/1e-2",
    },
    "float32": {
        "compare, strict": "ours",
        "assert_close": "assert_close",
        "1e-2 / 1e-2": "1e-2/1e-2",
        "2x torch": "2× torch's error",
    },
}


def sensitivity(results: Mapping[str, Any]) -> str:
    """How many programs of each kind are rejected by each way of checking, in percent; and the false alarms."""
    columns = [(dtype, check) for dtype, checks in CHECKS.items() for check in checks]
    head = [
        (f"{dtype}: " if check == next(iter(CHECKS[dtype])) else "") + CHECKS[dtype][check] for dtype, check in columns
    ]
    body = [
        [name, *(_percent(*results["rejected"][dtype][kind][check]) for dtype, check in columns)]
        for kind, name in MUTATIONS.items()
    ]
    seeds = sum(each["seeds"] for each in results["alarms"])
    rules = len({each["rule"] for each in results["alarms"]})
    alarms = {who: sum(each["alarms"].get(who, 0) for each in results["alarms"]) for who in ("manual", "torch")}
    about = (
        f"False alarms: {alarms['manual']} of {seeds} random cases of {rules} rules for the rules' own programs, "
        f"{alarms['torch']} for torch's."
    )
    return f"{lines(['rejected, %', *head], body)}\n\n{about}"


def _percent(part: int, whole: int) -> str:
    found = 100 * part / whole
    return f"{found:.1f}" if 0 < found < 0.5 or 99.5 <= found < 100 else f"{found:.0f}"


def diagnoses(results: Mapping[str, Any]) -> str:
    """How often the first diagnosis names the cause, by where wrong programs come from; and the false alarms."""
    runs = results["results"]
    sources = list(dict.fromkeys(kind.partition(",")[0] for run in runs for kind in run["judged"]))

    def cell(run: Mapping[str, Any], source: str) -> str:
        judged = sum(n for kind, n in run["judged"].items() if kind.startswith(f"{source},"))
        named = sum(n for kind, n in run["named"].items() if kind.startswith(f"{source},"))
        return f"{named} of {judged}" if judged else ""

    body = [[source, *(cell(run, source) for run in runs)] for source in sources]
    body.append(["right programs called wrong", *(f"{len(run['alarms'])} of {run['right']}" for run in runs)])
    return lines(["first sentence names the cause", *(run["dtype"] for run in runs)], body)
