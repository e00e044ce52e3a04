"""How programs are built that are tested for something else than that."""

from __future__ import annotations

import pytest

from manual_bp.compilation import program
from manual_bp.compilation.choice import Choice


@pytest.fixture
def called_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU too programs take the way of a GPU's: their kernels are the same, and called from Python.

    A C++ compiler takes a second or two for each kernel, and nine for what AOTInductor puts around a program.
    """
    choose = program.choose

    def chosen(device, *others):
        return Choice("triton", threads=1) if device.type == "cpu" else choose(device, *others)

    monkeypatch.setattr(program, "choose", chosen)


def trace_only(patch: pytest.MonkeyPatch) -> None:
    """From now on a program is the traced graph itself, which no compiler has seen: what is built in a second is the
    same function."""

    def traced(function, example, step, written, dynamic):
        graph = program._exported(function, example, dynamic).module(check_guards=False)
        return program.Program(lambda flat: graph(*flat), "traced", "as it was traced")

    patch.setattr(program, "_compiled", traced)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_only(monkeypatch)
