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

# Seconds.  An import may cost a tenth of a second more than torch's own.
IMPORT, CHECK, VERIFY = 0.1, 1.0, 60.0


def seconds_row(row: str, seconds: float, at_most: float, **about):
    """A row whose target is a time and not a ratio."""
    found = counted_row("checker", row, {"manual-bp": seconds}, "s", None, {}, {}, {}, **about)
    found["ours"] = "manual-bp"
    found["targets"] = {"seconds": {"at_most": at_most, "ratio": seconds, "met": seconds <= at_most, "by_limit": False}}
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
    report(seconds_row("import manual_bp, after torch", max(ours - alone, 0.0), IMPORT, device=device), None)


@pytest.mark.parametrize("name", list(bp.RULES))
def test_one_check(name: str, device: str, report) -> None:
    candidate = twin(name)

    def run() -> None:
        check(candidate, name, dtype=torch.float32, device=device)

    run()  # pages and certified arithmetic are imported once
    began = time.perf_counter()
    run()
    report(seconds_row(f"check of {name}", time.perf_counter() - began, CHECK, device=device), None)


def test_verify(device: str, quick: bool, report) -> None:
    options = ["--device", device, *(["--quick"] if quick else [])]
    seconds = seconds_of([sys.executable, "-m", "manual_bp.cli", "verify", *options])
    report(seconds_row(" ".join(["manual-bp verify", *options[2:]]), seconds, VERIFY, device=device), None)
