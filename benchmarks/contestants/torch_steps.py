"""torch's step as its users write it: nn.Module, autograd, torch.optim.SGD; eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.steps import L2, LR, Result, Start, StepProblem
from torch_ref.models.observing import activation_of


def not_compiled() -> str | None:
    """Why torch.compile cannot take part, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "no C++ compiler works here: install g++ or clang++"
    return None


class Activation(nn.Module):
    """torch's own function for a rule."""

    def __init__(self, name: str, hyper: dict[str, Any]) -> None:
        super().__init__()
        self.function = activation_of(name, hyper)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Dropout(nn.Module):
    """nn.Dropout; `mask`, if there is one, stands in for the mask that it would draw."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.mask = p, None

    mask: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None:
            return F.dropout(x, self.p)
        return torch.where(self.mask, x / (1 - self.p), 0)


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.f = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.f(x)
        return y


def module_of(problem: StepProblem) -> nn.Module:
    """The model of plain modules; parameters in the order of manual_bp's."""
    config = problem.model.config
    if problem.model.name == "mlp":
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip(config["sizes"], config["sizes"][1:], strict=False), 1):
            layers.append(nn.Linear(inputs, outputs))
            if index < len(config["sizes"]) - 1:
                layers.append(Activation(config["activation"], {}))
        return nn.Sequential(*layers)
    width = config["width"]
    return nn.Sequential(
        *(
            Residual(
                nn.Linear(width, width),
                nn.BatchNorm1d(width),
                Activation(config["activation"], {}),
                Dropout(config["dropout"]),
            )
            for _ in range(config["depth"])
        )
    )


def cost(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(module(x), target, reduction="sum") / (2 * x.shape[0])


class TorchStep:
    """zero_grad, backward, SGD with weight_decay for the matrices.

    The penalty is in the update and not in the loss, as usual with torch: it saves its value.
    compile: the keywords of torch.compile for forward, loss and backward; None for eager.
    """

    def __init__(
        self, name: str, problem: StepProblem, compile: dict[str, Any] | None = None, threads: int | None = None
    ) -> None:
        self.name, self.threads = name, threads
        self._problem = problem
        self._compile = compile
        self._module: nn.Module | None = None

    def load(self, start: Start) -> None:
        if self._module is None:
            self._module = module_of(self._problem).to(start.x.device, start.x.dtype)
            self._build(self._module)
        with torch.no_grad():
            for p, value in zip(self._module.parameters(), start.params.values(), strict=True):
                p.copy_(value)
            for b, value in zip(self._running(), start.buffers.values(), strict=True):
                b.copy_(value)
        masks = (start.masks or {}).values()
        droppers = [m for m in self._module.modules() if isinstance(m, Dropout)]
        for dropper, mask in zip(droppers, masks or [None] * len(droppers), strict=True):
            dropper.mask = mask
        self._data = start.x, start.target

    def _build(self, module: nn.Module) -> None:
        decayed = [p for p in module.parameters() if p.ndim == 2]
        others = [p for p in module.parameters() if p.ndim != 2]
        groups = [{"params": decayed, "weight_decay": L2}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.SGD(groups, lr=LR)
        self._cost: Callable[..., Tensor] = cost if self._compile is None else torch.compile(cost, **self._compile)

    def _running(self) -> list[Tensor]:
        assert self._module is not None
        return [b for b in self._module.buffers() if b.is_floating_point()]

    def __call__(self) -> Tensor:
        self._optimizer.zero_grad()
        loss = self._cost(self._module, *self._data)
        loss.backward()
        self._optimizer.step()
        self._loss = loss
        return loss

    def read(self) -> Result:
        assert self._module is not None
        names, buffers = self._problem.model.init(torch.Generator())
        params = {name: p.detach() for name, p in zip(names, self._module.parameters(), strict=True)}
        return Result(self._loss.detach(), params, dict(zip(buffers, self._running(), strict=True)), penalised=False)


class TorchWholeStep(TorchStep):
    """Gradient and update in one compiled program, through torch.func; parameters and buffers are updated in place."""

    def _build(self, module: nn.Module) -> None:
        names = [name for name, _ in module.named_parameters()]
        self._state = [p.detach() for p in module.parameters()], dict(module.named_buffers())

        def of(params: list[Tensor], buffers: dict[str, Tensor], x: Tensor, target: Tensor) -> Any:
            state = {**dict(zip(names, params, strict=True)), **buffers}
            y = torch.func.functional_call(module, state, (x,))
            return F.mse_loss(y, target, reduction="sum") / (2 * x.shape[0]), buffers

        def step(params: list[Tensor], buffers: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
            # torch.func lets a function overwrite only what came in as an argument and is its own.
            own = {name: b.clone() for name, b in buffers.items()}
            gradients, (loss, after) = torch.func.grad_and_value(of, has_aux=True)(params, own, x, target)
            for p, gradient in zip(params, gradients, strict=True):
                p.sub_(LR * (gradient + L2 * p if p.ndim == 2 else gradient))
            for name, b in buffers.items():
                b.copy_(after[name])
            return loss

        self._whole = torch.compile(step, **(self._compile or {}))

    def __call__(self) -> Tensor:
        with torch.no_grad():
            self._loss = self._whole(*self._state, *self._data)
        return self._loss


def eager(problem: StepProblem, threads: int | None = None) -> TorchStep:
    return TorchStep("torch, eager" + _on(threads), problem, threads=threads)


def compiled(problem: StepProblem, threads: int | None = None) -> TorchStep:
    return TorchStep("torch.compile" + _on(threads), problem, {}, threads)


def compiled_whole(problem: StepProblem, threads: int | None = None) -> TorchStep:
    return TorchWholeStep("torch.compile, whole step" + _on(threads), problem, {}, threads)


def compiled_graphed(problem: StepProblem) -> TorchStep:
    """For CUDA: forward and backward each replayed as a CUDA graph."""
    return TorchStep("torch.compile, CUDA graphs", problem, {"mode": "reduce-overhead"})


def _on(threads: int | None) -> str:
    return "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
