"""Steps of networks of images that are timed: cross-entropy and SGD; ours and torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.steps import Result, Start, StepContestant
from manual_bp.arithmetic.perturbed import wide
from manual_bp.models import Model, cnn, resnet
from manual_bp.training import Step, TrainingState, sgd, training_step
from manual_bp.training.engine import ManualEngine
from torch_ref.models.cnn import CNN
from torch_ref.models.resnet import ResNet

LR = 0.01
CLASSES = 10
KINDS: dict[str, tuple[Callable[..., Model], Callable[..., nn.Module]]] = {
    "cnn": (cnn, CNN),
    "resnet": (resnet, ResNet),
}


@dataclass(frozen=True)
class ImageProblem:
    """One step of a network of `kind` with blocks or stages as given, for images (1, length, width).

    targets: the ratio to "torch", the faster one, that is not to be exceeded; memory: likewise of peak memory.
    """

    kind: str
    length: int
    width: int
    batch: int
    layers: tuple[int | str, ...]
    targets: Mapping[str, float] = field(default_factory=dict)
    memory: float | None = None

    @property
    def row(self) -> str:
        return f"{self.kind} {'-'.join(map(str, self.layers))}, {self.length} × {self.width}, batch {self.batch}"

    @property
    def sizes(self) -> tuple[Any, ...]:
        return (1, self.length, self.width), CLASSES, self.layers

    @property
    def model(self) -> Model:
        return KINDS[self.kind][0](*self.sizes)

    @property
    def module(self) -> nn.Module:
        return KINDS[self.kind][1](*self.sizes)

    def step(self, **options: Any) -> Step:
        return training_step(self.model, "softmax_cross_entropy", optimizer=sgd(lr=LR), **options)


CNN_LAYERS = (32, "max", 64, "max")
STAGES = (16, 32)
PROBLEMS = tuple(
    ImageProblem(kind, length, length, 128, layers, {"torch": target}, 0.9)
    for kind, layers, target in (("cnn", CNN_LAYERS, 0.85), ("resnet", STAGES, 0.95))
    for length in (8, 28)
)
TINY = {
    "cnn": ImageProblem("cnn", 5, 4, 8, (2, "max", 3, "max")),
    "resnet": ImageProblem("resnet", 5, 4, 8, (2, 3)),
}
"""By kind, at which a contestant is judged: few numbers, of which none lies within rounding of a kink."""


def start_of(problem: ImageProblem, device: str = "cpu") -> Start:
    generator = torch.Generator().manual_seed(0)
    state = problem.step().init(generator, device=device)
    x = torch.rand(problem.batch, 1, problem.length, problem.width, generator=generator).to(device)
    target = torch.randint(CLASSES, (problem.batch,), generator=generator).to(device)
    return Start(state.params, state.buffers, None, x, target)


FARTHEST = 0.05
"""Of a parameter's largest change in a step, how far off float64 the change of any of its numbers may be.  Of millions
of units and windows some lie within rounding of a kink, where a right program may take the other branch, and at the
beginning gradients are sums that cancel: torch's own step with channels last is 0.017 off there.  What is forgotten, or
counted twice, is more."""


class Judge:
    """Judges contestants of a problem as it is timed, for what computes may depend on how large it is."""

    def __init__(self, problem: ImageProblem, start: Start) -> None:
        self._problem, self._start = problem, start
        step = problem.step()
        exact = TrainingState(wide(start.params), wide(start.buffers), step.optimizer.init(wide(start.params)), 0)
        self._exact = ManualEngine(step).step(exact, start.x.double(), start.target)

    def check(self, contestant: StepContestant) -> None:
        """Raises AssertionError, naming what differs, unless the contestant makes the step."""
        contestant.load(self._start)
        contestant()
        found, wrong = contestant.read(), []
        for kind in ("params", "buffers"):
            before, got, due = (getattr(each, kind) for each in (self._start, found, self._exact))
            for name, b in before.items():
                change = due[name] - b
                off = float((got[name].double() - due[name]).abs().max() / change.abs().max())
                if not off <= FARTHEST:
                    wrong.append(f"{name} is {off:.3g} of its largest change off")
        assert not wrong, f"{contestant.name} does another step than {self._problem.row}: {'; '.join(wrong)}"


class Torchs:
    """nn.Conv2d, nn.BatchNorm2d, F.cross_entropy and SGD.

    side_by_side: parameters and images with channels last, as torch advises.
    compiled: forward, loss and backward by torch.compile.
    """

    def __init__(
        self,
        name: str,
        problem: ImageProblem,
        side_by_side: bool = False,
        compiled: bool = False,
        threads: int | None = None,
    ) -> None:
        self.name, self.threads = name, threads
        self._layout = torch.channels_last if side_by_side else torch.contiguous_format
        self._module = problem.module

        def cost(x: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(self._module(x), target)

        self._cost: Callable[..., Tensor] = torch.compile(cost) if compiled else cost

    def load(self, start: Start) -> None:
        self._module.to(start.x.device).to(memory_format=self._layout)  # type: ignore[call-overload]
        with torch.no_grad():
            for name, p in self._module.named_parameters():
                p.copy_(start.params[name])
            for name, b in self._running().items():
                b.copy_(start.buffers[name])
        self._optimizer = torch.optim.SGD(self._module.parameters(), lr=LR)
        self._data = start.x.contiguous(memory_format=self._layout), start.target

    def _running(self) -> dict[str, Tensor]:
        return {name: b for name, b in self._module.named_buffers() if b.is_floating_point()}

    def __call__(self) -> Tensor:
        self._optimizer.zero_grad()
        loss = self._cost(*self._data)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._loss = loss
        return loss

    def read(self) -> Result:
        params = {name: p.detach() for name, p in self._module.named_parameters()}
        return Result(self._loss.detach(), params, self._running(), penalised=True)
