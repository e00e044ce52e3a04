"""How long one waits: for the import, for a check of one's own code, for `manual-bp verify`."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

import manual_bp as bp
from benchmarks.rows import counted_row
from manual_bp.oracle import check
from torch_ref import twin

# Seconds.
CHECK, VERIFY = 1.0, 60.0


def seconds_row(row: str, seconds: float, at_most: float | None, **about):
    """A row whose target, if it has one, is a time and not a ratio."""
    found = counted_row("checker", row, {"manual-bp": seconds}, "s", "manual-bp", {}, {}, {}, **about)
    if at_most is not None:
        met = seconds <= at_most
        found["targets"]["seconds"] = {"at_most": at_most, "ratio": seconds, "met": met, "by_limit": False}
    return found


def seconds_of(command: list[str], runs: int = 1) -> float:
    """The fastest of a few runs: what a command needs, and not what it waited for others."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - began)
    return min(found)


def test_import(device: str, report) -> None:
    alone = seconds_of([sys.executable, "-c", "import torch"], runs=3)
    ours = seconds_of([sys.executable, "-c", "import torch, manual_bp; manual_bp.elu"], runs=3)
    report(seconds_row("import manual_bp, after torch", max(ours - alone, 0.0), None, device=device), None)


@pytest.mark.parametrize("name", list(bp.RULES))
def test_one_check(name: str, device: str, report) -> None:
    check(twin("relu"), "relu", dtype=torch.float32, device=device)  # what all rules need is imported once
    began = time.perf_counter()
    check(twin(name), name, dtype=torch.float32, device=device)
    report(seconds_row(f"check of {name}", time.perf_counter() - began, CHECK, device=device), None)


def test_verify(device: str, quick: bool, report) -> None:
    options = ["--device", device, *(["--quick"] if quick else [])]
    seconds = seconds_of([sys.executable, "-m", "manual_bp.cli", "verify", *options])
    report(seconds_row(" ".join(["manual-bp verify", *options[2:]]), seconds, VERIFY, device=device), None)
