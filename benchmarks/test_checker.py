"""How long one waits: for the import, for a check of one's own code, for `manual-bp verify`."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import manual_bp as bp
from benchmarks.rows import counted_row

# Seconds.
CHECK, VERIFY = 1.0, 60.0


def seconds_row(row: str, seconds: float, at_most: float | None, **about):
    """A row whose target, if it has one, is a time and not a ratio."""
    found = counted_row("checker", row, {"manual-bp": seconds}, "s", "manual-bp", {}, {}, {}, **about)
    if at_most is not None:
        met = seconds <= at_most
        found["targets"]["seconds"] = {"at_most": at_most, "ratio": seconds, "met": met, "by_limit": False}
    return found


IMPORT = """
import time, torch
began = time.perf_counter()
import manual_bp; manual_bp.elu
print(time.perf_counter() - began)
"""
ONE_CHECK = """
import sys, time, torch
from manual_bp.oracle import check
from torch_ref import twin
name, device = sys.argv[1:]
check(twin("relu"), "relu", dtype=torch.float32, device=device)  # what all rules need is imported once
began = time.perf_counter()
check(twin(name), name, dtype=torch.float32, device=device)
print(time.perf_counter() - began)
"""


def seconds_in(program: str, *arguments: str, runs: int = 3) -> float:
    """What a program of its own says that it took: the fastest of a few, which waited least for others."""
    command = [sys.executable, "-c", program, *arguments]
    return min(float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(runs))


def test_import(device: str, report) -> None:
    report(seconds_row("import manual_bp, after torch", seconds_in(IMPORT), None, device=device), None)


@pytest.mark.parametrize("name", list(bp.RULES))
def test_one_check(name: str, device: str, report) -> None:
    report(seconds_row(f"check of {name}", seconds_in(ONE_CHECK, name, device), CHECK, device=device), None)


def test_verify(device: str, quick: bool, report) -> None:
    options = ["--device", device, *(["--quick"] if quick else [])]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "manual_bp.cli", "verify", *options], check=True, capture_output=True)
    seconds = time.perf_counter() - began
    report(seconds_row(" ".join(["manual-bp verify", *options[2:]]), seconds, VERIFY, device=device), None)
