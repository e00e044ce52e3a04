"""What a candidate changes of the process is named, and put back."""

from __future__ import annotations

import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare
from manual_bp.oracle.cases import generated
from manual_bp.oracle.settings import QUIET, SETTINGS

CHANGES = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's grad mode": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "the precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "NumPy's handling of floating-point errors": lambda: np.seterr(all="ignore"),
    "the working directory": lambda: os.chdir("/"),
}


def cases():
    return [case for case in generated(bp.relu, torch.float32) if case.name == "ordinary"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_is_a_finding_and_is_put_back(name):
    def changes(inputs, dy):
        (x,) = inputs
        results = torch.where(x > 0, x, 0), (torch.where(x > 0, dy, 0),)
        CHANGES[name]()
        return results

    before = SETTINGS[name].read()
    report = compare(changes, "relu", cases=cases())
    assert SETTINGS[name].read() == before
    assert any(f"changed {name}" in text for text in map(str, report.findings)), report


def test_what_is_no_fault_is_put_back_without_a_word():
    def draws(inputs, dy):
        (x,) = inputs
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002 (the global generator is what it is about)
        sys.setrecursionlimit(sys.getrecursionlimit() + 1)
        warnings.simplefilter("error")
        return torch.where(x > 0, x, 0), (torch.where(x > 0, dy, 0),)

    before = [repr(setting.read()) for setting in QUIET.values()]
    report = compare(draws, "relu", cases=cases())
    assert [repr(setting.read()) for setting in QUIET.values()] == before
    assert not report.findings
