"""One step of training by hand: forward, loss, backward, penalty, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manual_bp.chain import Layer, Tensors, leaves
from manual_bp.models.model import Model
from manual_bp.rule import RULES, Grads, Rule
from manual_bp.training.optimizers import Optimizer


@dataclass(frozen=True)
class TrainingState:
    """Everything that a step changes.

    params: by name, such as "W1" of shape (out, in).
    buffers: running statistics and, if the caller wants to choose them, dropout masks.
    optimizer: the optimiser's own state, such as "exp_avg.W1"; flat, like the others.
    seed, steps: from which the masks of the next step are drawn.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    seed: int
    steps: int = 0


CostOf = Callable[[Rule, tuple[Tensor, ...], Tensor], tuple[Tensor, Grads]]
"""rule, inputs, cotangent -> value and cotangents."""


@dataclass(frozen=True)
class Step:
    """A training step: `state, loss = step(state, x, target)`.  The old state stays valid."""

    model: Model
    loss: str
    optimizer: Optimizer
    l2: float

    def init(
        self,
        generator: torch.Generator,
        *,
        params: Mapping[str, Tensor] | None = None,
        initializer: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> TrainingState:
        """The state to begin with: parameters drawn from `generator`, or `params` as given.

        Raises ValueError if `params` are not named and shaped like the model's.
        """
        drawn, buffers = self.model.init(generator, initializer=initializer, dtype=dtype, device=device)
        if params is not None:
            if params.keys() != drawn.keys():
                raise ValueError(f"params must be named {sorted(drawn)}; came {sorted(params)}.")
            if wrong := [name for name in drawn if params[name].shape != drawn[name].shape]:
                wanted, came = tuple(drawn[wrong[0]].shape), tuple(params[wrong[0]].shape)
                raise ValueError(f"params[{wrong[0]!r}] must have shape {wanted}; came {came}.")
            drawn = {name: params[name].detach().to(device, dtype) for name in drawn}
        seed = int(torch.randint(2**62, (), generator=generator))
        return TrainingState(drawn, buffers, self.optimizer.init(drawn), seed)

    def masks(self, state: TrainingState, batch: int, device: str = "cpu") -> dict[str, Tensor]:
        """The dropout masks of the next step: the same for the same state."""
        generator = torch.Generator().manual_seed((state.seed + state.steps) % 2**63)
        return self.model.draw_masks(batch, generator, device)

    def __call__(self, state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
        """The state after one update, and the loss before it, penalty included.

        x: (batch, features); target: shaped like the output.
        """
        if x.ndim < 2:
            raise ValueError(f"x must be (batch, features); came {tuple(x.shape)}. Use x[None] for a single example.")
        masks = self.masks(state, len(x), str(x.device))
        state = replace(state, buffers={**masks, **state.buffers})
        cost, gradients, buffers = self.gradients(self.model, state, x, target)
        return self.update(state, gradients, buffers), cost

    def gradients(
        self, layer: Layer, state: TrainingState, x: Tensor, target: Tensor, cost_of: CostOf | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Tensors]:
        """The cost, its gradient by parameter, and the new buffers; the penalty is in the cost and in the gradient.

        layer: the model, or the model with probes; the masks are in `state`.
        cost_of: what computes in place of the loss.
        """
        y, residuals, buffers = layer.forward(state.params, state.buffers, x)
        one = torch.ones((), dtype=y.dtype, device=y.device)
        cost, (dy, *_) = (cost_of or Rule.vjp)(RULES[self.loss], (y, target), one)
        assert dy is not None
        _, gradients = layer.backward(residuals, dy)
        if self.l2:
            penalty, decays = l2_penalty(state.params, self.decayed, self.l2)
            cost = cost + penalty.to(cost)
            gradients = {name: g + decays[name] if name in decays else g for name, g in gradients.items()}
        return cost, gradients, buffers

    def update(self, state: TrainingState, gradients: Tensors, buffers: Tensors) -> TrainingState:
        """The next state; the masks of this step are not part of it."""
        params, optimizer = self.optimizer.update(gradients, state.optimizer, state.params)
        kept = {name: value for name, value in buffers.items() if name not in self.model.masks}
        return TrainingState(params, kept, optimizer, state.seed, state.steps + 1)

    @property
    def decayed(self) -> list[str]:
        """The weights that the penalty is about: matrices of linear layers, never biases, never batch norm's scale."""
        names = (leaf.names["weight"] for leaf in leaves(self.model).values() if leaf.rule.chapter == "linear")
        return list(dict.fromkeys(names))  # a weight that two layers share is penalised once


def l2_penalty(params: Tensors, names: list[str], l2: float) -> tuple[Tensor, dict[str, Tensor]]:
    """l2/2 Σ W² over the named weights, and its gradients."""
    total, gradients = torch.zeros(()), {}
    for name in names:
        weight = params[name]
        one = torch.ones((), dtype=weight.dtype, device=weight.device)
        value, (gradient,) = RULES["l2_penalty"].vjp((weight,), one, lam=l2)
        assert gradient is not None
        total = total.to(value) + value
        gradients[name] = gradient
    return total, gradients


def training_step(
    model: Model,
    loss: str = "square_loss",
    *,
    optimizer: Optimizer,
    l2: float = 0.0,
) -> Step:
    """A step that trains `model` by hand-derived gradients.

    loss: name of a rule of the chapter loss.
    l2: adds l2/2 Σ W² to the mean cost, weights only, never biases.
    Raises ValueError for an unknown loss or a negative l2.
    """
    if RULES[loss].chapter != "loss":
        raise ValueError(f"loss must be a rule of the chapter loss; came {loss!r}. One of them is 'square_loss'.")
    if not l2 >= 0:
        raise ValueError(f"l2 must not be negative; came {l2}.")
    return Step(model, loss, optimizer, l2)
