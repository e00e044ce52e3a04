"""Settings of the process that a candidate must leave as they were.

A backward that changes a default for whoever calls it next is wrong in a way that no result shows.  What was changed is
put back, so that the cases after it are judged as those before.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch


class Setting(NamedTuple):
    """How a setting is read and put back."""

    read: Callable[[], Any]
    put_back: Callable[[Any], object]


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _set_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:  # it was removed
        return ""


SETTINGS = {
    "torch's default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": Setting(torch.get_default_device, torch.set_default_device),
    "torch's grad mode": Setting(torch.is_grad_enabled, torch._C._set_grad_enabled),
    "torch's number of threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    "the precision of float32 products": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "torch's autocast": Setting(
        lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)
    ),
    "NumPy's handling of floating-point errors": Setting(np.geterr, lambda value: np.seterr(**value)),
    "the working directory": Setting(_folder, os.chdir),
}
# What is no fault: drawing numbers, and what libraries do when they are imported or compile for the first time.
QUIET = {
    "torch": Setting(torch.get_rng_state, torch.set_rng_state),
    "NumPy": Setting(np.random.get_state, np.random.set_state),
    "Python": Setting(random.getstate, random.setstate),
    "recursion limit": Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    "warning filters": Setting(lambda: list(warnings.filters), _set_filters),
}


@contextmanager
def kept(changed: list[str]) -> Iterator[None]:
    """Puts back what is changed inside, and appends the names of `SETTINGS` among it to `changed`."""
    before = {name: setting.read() for name, setting in SETTINGS.items()}
    quiet = {name: setting.read() for name, setting in QUIET.items()}
    try:
        yield
    finally:
        for name, setting in SETTINGS.items():
            if setting.read() != before[name]:
                setting.put_back(before[name])
                changed.append(name)
        for name, setting in QUIET.items():
            setting.put_back(quiet[name])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Other random numbers inside, of torch on the CPU, NumPy and Python; what was there is put back."""
    before = {name: QUIET[name].read() for name in ("torch", "NumPy", "Python")}
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        for name, state in before.items():
            QUIET[name].put_back(state)
