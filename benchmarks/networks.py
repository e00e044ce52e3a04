"""Steps of whole networks that are timed: ours, and the check that a contestant does the step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.steps import Result, Start, StepContestant
from manual_bp.arithmetic.perturbed import wide
from manual_bp.oracle.truth.errors import errors
from manual_bp.training import Step, TrainingState
from manual_bp.training.engine import ManualEngine, allowance_of


class NetworkProblem(Protocol):
    """A network, and how it is trained."""

    @property
    def row(self) -> str: ...

    def step(self, **options: Any) -> Step: ...


class Ours:
    """`state, loss = step(state, x, target)`, with the state handed on."""

    threads = None

    def __init__(self, name: str, problem: NetworkProblem, **options: Any) -> None:
        self.name = name
        self._step = problem.step(**options)

    def load(self, start: Start) -> None:
        params = {name: p.clone() for name, p in start.params.items()}
        self._state = self._step.init(torch.Generator().manual_seed(0), params=params, device=str(start.x.device))
        self._data = start.x, start.target

    def __call__(self) -> Tensor:
        self._state, self._loss = self._step(self._state, *self._data)
        return self._loss

    def read(self) -> Result:
        return Result(self._loss, self._state.params, self._state.buffers, penalised=True)


class NetworkJudge:
    """Judges contestants of a small problem by one step; the truth is worked out once."""

    def __init__(self, problem: NetworkProblem, start: Start) -> None:
        self._problem = problem
        generator = torch.Generator().manual_seed(1)
        params = {n: p + 0.1 * torch.randn(p.shape, generator=generator).to(p) for n, p in start.params.items()}
        self._start = replace(start, params=params)  # no bias is 0, and no scale 1
        step = problem.step()
        state = TrainingState(params, start.buffers, step.optimizer.init(params), 0)
        self._allowance = allowance_of(step, state, start.x, start.target, torch.float32, seed=0)
        exact = replace(state, params=wide(params), buffers=wide(start.buffers), optimizer=wide(state.optimizer))
        x = start.x.double() if start.x.is_floating_point() else start.x
        self._exact = ManualEngine(step).step(exact, x, start.target)

    def check(self, contestant: StepContestant) -> None:
        """Raises AssertionError, naming what differs, unless a contestant for the problem does the step."""
        contestant.load(self._start)
        contestant()
        found = contestant.read()
        pairs = {"loss": (found.loss, self._exact.loss, self._allowance.loss)}
        for kind in ("params", "buffers"):
            got, exact, allowance = (getattr(each, kind) for each in (found, self._exact, self._allowance))
            pairs |= {name: (got[name], exact[name], allowance[name]) for name in exact}
        wrong = []
        for name, (got, expected, allowance) in pairs.items():
            ratio, _ = errors(got, expected, allowance, torch.float32)
            if (worst := float(ratio.nan_to_num(torch.inf).max())) > 1:
                wrong.append(f"{name} is {worst:.3g} times its allowance off")
        assert not wrong, f"{contestant.name} does another step than {self._problem.row}: {'; '.join(wrong)}"
