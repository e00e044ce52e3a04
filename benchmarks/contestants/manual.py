"""The hand-derived step, eager and compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.steps import Result, Start, StepProblem
from manual_bp.training import TrainingState


class ManualStep:
    """`state, loss = step(state, x, target)`, with the state handed on."""

    threads = None

    def __init__(self, name: str, problem: StepProblem, **options: Any) -> None:
        self.name = name
        self._step = problem.step(**options)
        self._state: TrainingState
        self._data: tuple[Tensor, Tensor]
        self._loss: Tensor

    def load(self, start: Start) -> None:
        dtype, device = start.x.dtype, str(start.x.device)
        params = {name: p.clone() for name, p in start.params.items()}
        state = self._step.init(torch.Generator().manual_seed(0), params=params, dtype=dtype, device=device)
        buffers = {name: b.clone() for name, b in {**start.buffers, **(start.masks or {})}.items()}
        self._state = replace(state, buffers=buffers)
        self._data = start.x, start.target

    def __call__(self) -> Tensor:
        self._state, self._loss = self._step(self._state, *self._data)
        return self._loss

    def read(self) -> Result:
        return Result(self._loss, self._state.params, self._state.buffers, penalised=True)


def eager(problem: StepProblem) -> ManualStep:
    return ManualStep("manual, eager", problem)


def compiled(problem: StepProblem) -> ManualStep:
    return ManualStep("manual, compiled", problem, compiled=True, donate=True)
