"""Training steps that are timed: the problems, what a contestant is, and the check that all do the same work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.paired import Contestant
from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import leaves
from manual_bp.models import Model, mlp, residual_mlp
from manual_bp.oracle.truth.errors import errors
from manual_bp.training import Step, TrainingState, sgd, training_step
from manual_bp.training.engine import ManualEngine, StepRecord, allowance_of

# No time depends on them; the penalty is so large that in float32 one sees whether biases decay too.
LR, L2 = 0.01, 1e-2


@dataclass(frozen=True)
class StepProblem:
    """One training step: half squared error, SGD, weights decayed and biases not.

    row: what stands in the table.
    targets: against whom ("torch", "jax", "limit"), and the ratio that is not to be exceeded.
    """

    row: str
    model: Model
    batch: int
    targets: Mapping[str, float] = field(default_factory=dict)

    def step(self, **options: Any) -> Step:
        return training_step(self.model, "square_loss", optimizer=sgd(lr=LR), l2=L2, **options)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(out, in) of every linear layer, from input to output."""
        found = (shape for leaf in leaves(self.model).values() for shape in leaf.shapes.values())
        return [(shape[0], shape[1]) for shape in found if len(shape) == 2]


def mlp_problem(sizes: Sequence[int], batch: int, activation: str = "relu", **targets: float) -> StepProblem:
    shown = "-".join(map(str, sizes))
    if len(sizes) > 4 and len(set(sizes)) == 1:
        shown = f"{len(sizes) - 1} × {sizes[0]}"
    return StepProblem(f"{shown}, {activation}, batch {batch}", mlp(sizes, activation), batch, targets)


def residual_problem(width: int, depth: int, batch: int, activation: str = "relu", **targets: float) -> StepProblem:
    model = residual_mlp(width, depth, activation, batch_norm=True, dropout=0.1)
    row = f"residual {depth} × {width}, {activation}, batch norm, dropout, batch {batch}"
    return StepProblem(row, model, batch, targets)


def step_problems(quick: bool = False) -> list[StepProblem]:
    """The rows of the table.  `jax` has the same target everywhere: not to be slower."""
    small = [
        mlp_problem([64, 64, 64, 10], 32, torch=0.17, jax=1.0),
        mlp_problem([784, 256, 256, 10], 128, torch=0.60, jax=1.0),
    ]
    large = [
        mlp_problem([128] * 21, 128, torch=0.60, jax=1.0),
        mlp_problem([2048] * 5, 512, torch=1.00, jax=1.0),
        residual_problem(256, 20, 128, torch=0.65, jax=1.0),
    ]
    return small if quick else small + large


@dataclass(frozen=True)
class Start:
    """Where a step begins.

    params, buffers: by the model's names, in its order.
    masks: of dropout, or None: then whoever does the step draws them.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    masks: dict[str, Tensor] | None
    x: Tensor
    target: Tensor


@dataclass(frozen=True)
class Result:
    """What a step left behind; `penalised` says whether the loss includes the penalty."""

    loss: Tensor
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    penalised: bool


class StepContestant(Protocol):
    """A program that does the step again and again, each time from where the last one ended."""

    name: str
    threads: int | None

    def load(self, start: Start) -> None:
        """Begin here, with tensors of its own."""

    def __call__(self) -> object:
        """One step."""

    def read(self) -> Result:
        """The state after the steps so far, and the loss of the last."""


def timed(contestant: StepContestant) -> Contestant:
    """As it is timed: until its steps are done, if it has a method `wait` that says so."""
    wait = getattr(contestant, "wait", lambda: None)
    return Contestant(contestant.name, contestant, contestant.threads, wait)


StepBuilder = Callable[[StepProblem], StepContestant]


def start_of(problem: StepProblem, dtype: torch.dtype, device: str, seed: int = 0) -> Start:
    """What is timed: ordinary data and initial parameters."""
    generator = torch.Generator().manual_seed(seed)
    state = problem.step().init(generator, dtype=dtype, device=device)
    (outputs, _), (_, inputs) = problem.shapes[-1], problem.shapes[0]
    x = torch.randn(problem.batch, inputs, generator=generator)
    target = torch.randn(problem.batch, outputs, generator=generator)
    return Start(state.params, state.buffers, None, x.to(device, dtype), target.to(device, dtype))


# The check.

# Whose derivative has no jump.  With the others a batch has few distinct examples, and so few distinct z that might lie
# within rounding of a kink: there another program legitimately takes the other branch, and all behind it differs.
SMOOTH = ("sigmoid", "tanh", "elu")
DISTINCT = 4
# It still happens, to about one program in a hundred; a wrong one disagrees with every seed.
SEEDS = 2


@dataclass(frozen=True)
class StepTruth:
    """A start, the step from there in float64, and how far off its tensors may be in the dtype that is judged."""

    start: Start
    exact: StepRecord
    allowance: StepRecord
    penalty: Tensor

    def disagreements(self, result: Result) -> list[str]:
        """What is beyond its allowance, in words; empty if all agrees."""
        loss = self.exact.loss if result.penalised else self.exact.loss - self.penalty
        pairs = {"loss": (result.loss, loss, self.allowance.loss)}
        for name in self.exact.params:
            pairs[name] = (result.params[name], self.exact.params[name], self.allowance.params[name])
        for name in self.start.buffers:
            pairs[name] = (result.buffers[name], self.exact.buffers[name], self.allowance.buffers[name])
        found = []
        for name, (got, expected, allowance) in pairs.items():
            if got.shape != expected.shape:
                found.append(f"{name} has shape {tuple(got.shape)}, not {tuple(expected.shape)}")
                continue
            ratio, _ = errors(got, expected, allowance, self.start.x.dtype)
            worst = float(ratio.nan_to_num(torch.inf).max())
            if worst > 1:
                found.append(f"{name} is {worst:.3g} times its allowance off")
        return found


class StepJudge:
    """Judges contestants of one problem; the truth, which takes longer than they do, is worked out once a seed.

    width: the dtype whose rounding is allowed; by default `dtype`.  Products in TF32 round as float16 does; the loss is
        not one of them and may be larger than float16's largest number.
    """

    def __init__(self, problem: StepProblem, dtype: torch.dtype, device: str, width: torch.dtype | None = None) -> None:
        self._problem, self._dtype, self._device, self._width = problem, dtype, device, width or dtype
        self._truths: list[StepTruth] = []

    def check(self, contestant: StepContestant) -> None:
        """Raises AssertionError, naming what differs, unless one step of the contestant is right."""
        for seed in range(SEEDS):
            if seed == len(self._truths):
                self._truths.append(truth_of(self._problem, self._dtype, self._device, self._width, seed))
            truth = self._truths[seed]
            contestant.load(truth.start)
            contestant()
            wrong = truth.disagreements(contestant.read())
            if not wrong:
                return
        raise AssertionError(f"{contestant.name} does another step than {self._problem.row}: {'; '.join(wrong)}")


def truth_of(problem: StepProblem, dtype: torch.dtype, device: str, width: torch.dtype, seed: int) -> StepTruth:
    """A start from which the whole step can be judged, and its truth."""
    start = _start_to_judge(problem, dtype, device, seed)
    step = problem.step()
    state = TrainingState(start.params, {**start.buffers, **(start.masks or {})}, {}, seed)
    allowance = allowance_of(step, state, start.x, start.target, width, seed)
    exact_state = TrainingState(wide(state.params), wide(state.buffers), {}, seed)
    exact = ManualEngine(step).step(exact_state, *wide({"x": start.x, "target": start.target}).values())
    if width != dtype:
        # Of y − target, and so of its square, the rounding of y is a small part: the target is 1/LR times as large.
        allowance = replace(allowance, loss=torch.finfo(width).eps * exact.loss)
    squares = [p.pow(2).sum() for p in exact_state.params.values() if p.ndim == 2]
    return StepTruth(start, exact, allowance, L2 / 2 * torch.stack(squares).sum())


def _start_to_judge(problem: StepProblem, dtype: torch.dtype, device: str, seed: int) -> Start:
    """No parameter is 0 or 1 throughout, as initial biases and scales are; and the target is so large that the update
    is about as large as the gradient of ordinary data, for a wrong one must not hide behind the weight."""
    start = start_of(problem, dtype, device, seed)
    generator = torch.Generator().manual_seed(seed)
    smooth = problem.model.config["activation"] in SMOOTH
    copies = torch.arange(problem.batch) if smooth else torch.randint(DISTINCT, (problem.batch,), generator=generator)

    def moved(p: Tensor) -> Tensor:
        return p + 0.1 * torch.randn(p.shape, generator=generator).to(p) if p.ndim == 1 else p

    masks = problem.model.draw_masks(problem.batch if smooth else DISTINCT, generator)
    return Start(
        {name: moved(p) for name, p in start.params.items()},
        start.buffers,
        {name: mask[copies].to(device) for name, mask in masks.items()},
        start.x[copies.to(device)],
        start.target / LR,
    )
