"""What has been measured of a rule: the saved results of the benchmarks, where this is a checkout that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import manual_bp

DEVICES = {"cpu": "CPU", "cuda": "GPU (CUDA)"}


@dataclass(frozen=True)
class Speed:
    """One row: forward and backward of a rule at a size.  ours: as it is read; ratios: to others, below 1 is faster."""

    device: str
    elements: int
    ours: str
    torch: float | None
    low: float | None
    high: float | None
    copy: float | None


@dataclass(frozen=True)
class Accuracy:
    """The largest errors of a gradient over the whole range of each dtype, in ulp.

    rows: hyperparameters, and of each dtype what the page and what torch was off by.  named: whether there are any.
    """

    dtypes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]

    @property
    def named(self) -> bool:
        return any(call for call, _ in self.rows)


def speed(rule: str) -> list[Speed]:
    """The rows of a rule on every device; none where it was not measured."""
    rows = [row for device in DEVICES for row in _speeds(device) if row["rule"] == rule]
    return [_speed(row) for row in rows]


def machine(device: str) -> str:
    """What the numbers of a device were measured on."""
    document = _document(f"speed-{device}-rules.json")
    info = document.get("machine_info", {})
    what = info.get("gpu") if device == "cuda" else info.get("cpu")
    version = info.get("versions", {}).get("torch", "")
    return f"{what}, torch {version}" if what else ""


def accuracy(rule: str) -> Accuracy | None:
    """What was measured of a rule; None if nothing was."""
    rows = [row for row in _document("accuracy.json").get("measured", []) if row["rule"] == rule]
    dtypes = tuple(dict.fromkeys(row["dtype"] for row in rows))
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        call = ", ".join(
            f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
            for name, value in row["hyper"].items()
        )
        found.setdefault(call, {})[row["dtype"], row["candidate"]] = row["gradient"]["ulps"]
    if not found:
        return None
    columns = [(dtype, who) for dtype in dtypes for who in ("manual", "torch")]
    return Accuracy(
        dtypes, tuple((call, tuple(cells.get(column) for column in columns)) for call, cells in found.items())
    )


def _speed(row: Mapping[str, Any]) -> Speed:
    torch = row["ratios"].get(row["best"].get("torch", ""), {})
    return Speed(
        row["device"],
        row["elements"],
        seconds(row["values"][row["ours"]]["median"]),
        torch.get("median"),
        torch.get("low"),
        torch.get("high"),
        row["ratios"].get("copy", {}).get("median"),
    )


def seconds(value: float) -> str:
    """Three digits and a unit that suits."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _speeds(device: str) -> list[Mapping[str, Any]]:
    found = [benchmark["extra_info"] for benchmark in _document(f"speed-{device}-rules.json").get("benchmarks", [])]
    return [row for row in found if row.get("question") == "rules"]


@cache
def _document(name: str) -> dict[str, Any]:
    path = Path(manual_bp.__file__).parent.parent / "benchmarks" / "results" / name
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
