"""Steps of a transformer that are timed: cross-entropy, gradients clipped, AdamW; ours, torch's, and bare products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contestants.products import _by_onednn, _by_torch
from benchmarks.steps import Result, Start
from manual_bp.models import Model, gpt
from manual_bp.training import Step, adamw, training_step
from torch_ref.models.gpt import GPT

LR, LIMIT = 1e-3, 1.0
"""The learning rate, and the norm to which gradients are clipped, which those of the first steps exceed."""


@dataclass(frozen=True)
class TransformerProblem:
    """One step of a GPT of `depth` blocks.

    targets: the ratios to "torch" and "jax" that are not to be exceeded; memory: likewise of peak memory to torch's.
    """

    depth: int
    width: int
    heads: int
    context: int
    batch: int
    classes: int
    targets: Mapping[str, float] = field(default_factory=dict)
    memory: float | None = None

    @property
    def row(self) -> str:
        blocks = f"{self.depth} blocks of {self.width}, {self.heads} heads"
        return f"gpt, {blocks}, context {self.context}, batch {self.batch}, {self.classes} classes"

    @property
    def sizes(self) -> dict[str, int]:
        names = {"vocabulary": self.classes, "context": self.context, "width": self.width}
        return {**names, "heads": self.heads, "depth": self.depth}

    @property
    def model(self) -> Model:
        return gpt(**self.sizes)

    def step(self, **options: Any) -> Step:
        return training_step(self.model, "softmax_cross_entropy", optimizer=adamw(lr=LR), clip_norm=LIMIT, **options)


PROBLEMS = (
    TransformerProblem(4, 128, 4, 128, 16, 128, {"torch": 0.80}),
    TransformerProblem(6, 384, 6, 256, 4, 8192, {"torch": 0.90}, 0.5),
)
TINY = TransformerProblem(2, 32, 2, 70, 2, 11)
"""At which a contestant is judged: more positions than attention does at a time, and few numbers, for the allowance of
all of them takes longer than the timing."""


def start_of(problem: TransformerProblem, device: str = "cpu") -> Start:
    generator = torch.Generator().manual_seed(0)
    state = problem.step().init(generator, device=device)
    x, target = torch.randint(problem.classes, (2, problem.batch, problem.context), generator=generator).to(device)
    return Start(state.params, state.buffers, None, x, target)


class Torchs:
    """nn.Module with F.scaled_dot_product_attention, F.cross_entropy, clip_grad_norm_ and the fused AdamW.

    compiled: forward, loss and backward by torch.compile.
    """

    def __init__(
        self, name: str, problem: TransformerProblem, compiled: bool = False, threads: int | None = None
    ) -> None:
        self.name, self.threads = name, threads
        self._module = GPT(**problem.sizes)

        def cost(x: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(self._module(x), target)

        self._cost: Callable[..., Tensor] = torch.compile(cost) if compiled else cost

    def load(self, start: Start) -> None:
        self._module.to(start.x.device)
        with torch.no_grad():
            for name, p in self._module.named_parameters():
                p.copy_(start.params[name])
        self._optimizer = torch.optim.AdamW(self._module.parameters(), lr=LR, weight_decay=0.01, fused=True)
        self._data = start.x, start.target

    def __call__(self) -> Tensor:
        self._optimizer.zero_grad()
        loss = self._cost(*self._data)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._module.parameters(), LIMIT)
        self._optimizer.step()
        self._loss = loss
        return loss

    def read(self) -> Result:
        params = {name: p.detach() for name, p in self._module.named_parameters()}
        return Result(self._loss.detach(), params, {}, penalised=True)


class BareProducts:
    """x Wᵀ, δᵀ x and δ W of every linear layer, and the seven products of attention.

    A query sees half of the keys in the mean, so attention's are multiplied with that many.
    onednn: the layers' by oneDNN in place of MKL.
    """

    def __init__(
        self, problem: TransformerProblem, onednn: bool, threads: int | None = None, device: str = "cpu"
    ) -> None:
        one = "" if threads is None else f", {threads} thread"
        self.name = f"bare matrix products{', oneDNN' if onednn else ''}{one}"
        self.threads = threads
        self._multiply = _by_onednn if onednn else _by_torch
        width, positions = problem.width, problem.batch * problem.context
        block = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]
        self._layers: list[tuple[Tensor, Tensor, Tensor]] = []
        for outputs, inputs in [*block * problem.depth, (problem.classes, width)]:
            sizes = ((positions, inputs), (positions, outputs), (outputs, inputs))
            x, delta, weight = (torch.randn(size, device=device) for size in sizes)
            pairs = [(x, weight.T), (delta.T, x), (delta, weight)]
            self._layers += [(a, b, a.new_empty(a.shape[0], b.shape[1])) for a, b in pairs]
        heads, keys = problem.batch * problem.heads, max(problem.context // 2, 1)
        q, k = (torch.randn(heads, n, width // problem.heads, device=device) for n in (problem.context, keys))
        scores = torch.randn(heads, problem.context, keys, device=device)
        # s and dp, and s again in backward; y and dq; dk and dv.
        self._heads = 3 * [(q, k.mT)] + 2 * [(scores, k)] + 2 * [(scores.mT, q)]
        self._depth = problem.depth

    def __call__(self) -> None:
        for a, b, out in self._layers:
            self._multiply(a, b, out)
        for _ in range(self._depth):
            for a, b in self._heads:
                torch.bmm(a, b)
