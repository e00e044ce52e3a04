"""One step of training by hand: forward, loss, backward, penalties, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manual_bp.chain import Layer, Tensors, leaves
from manual_bp.models.model import Model
from manual_bp.registry import RULES
from manual_bp.rule import Grads, Rule
from manual_bp.training.clipping import clip_by_norm
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


RuleVjp = Callable[..., tuple[Tensor, Grads]]
"""rule, inputs, cotangent, hyperparameters by name -> value and cotangents: `Rule.vjp`, or a stand-in for it."""


@dataclass(frozen=True)
class Step:
    """A training step: `state, loss = step(state, x, target)`.  The old state stays valid."""

    model: Model
    loss: str
    optimizer: Optimizer
    l2: float = 0.0
    l1: float = 0.0
    max_norm: float | None = None
    clip_norm: float | None = None

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
        """The state after one update, and the loss before it, penalties included.

        x: (batch, features); target: what the loss takes, of square_loss shaped like the output.
        """
        return self.accumulate(state, [(x, target)])

    def accumulate(
        self, state: TrainingState, batches: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[TrainingState, Tensor]:
        """One update from a batch that comes in pieces, of equal size or not: (x, target), (x, target), ...

        The gradient is the whole batch's: with a loss that is a mean over examples, each of the N examples counts 1/N,
        so a piece of n counts n/N (the mean of the pieces' means would favour examples in short pieces).  Penalties
        count once.  Dropout masks are those that the whole batch would have; batch norm normalises each piece by
        itself and updates its running statistics piece by piece, as torch does when gradients are accumulated.
        Raises ValueError if there is no piece, for what is no tensor, and under torch.autocast.
        """
        if not batches:
            raise ValueError("batches must hold at least one (x, target); came none.")
        for x, target in batches:
            refuse_bad_call(state, x, target)
            if x.ndim < 2:
                raise ValueError(
                    f"x must be (batch, features); came {tuple(x.shape)}. Use x[None] for a single example."
                )
        whole = sum(len(x) for x, _ in batches)
        given = {name: state.buffers[name] for name in self.model.masks if name in state.buffers}
        masks = {**self.masks(state, whole, str(batches[0][0].device)), **given}
        costs, found, buffers, start = [], [], state.buffers, 0
        for x, target in batches:
            rows = slice(start, start + len(x))
            piece = replace(state, buffers={**buffers, **{name: mask[rows] for name, mask in masks.items()}})
            share = len(x) / whole if whole else 1.0  # the loss of no example is NaN, whatever its share
            cost, gradients, after = self._of_batch(self.model, piece, x, target, share, Rule.vjp)
            costs.append(cost)
            found.append(gradients)
            buffers, start = dict(after), rows.stop
        total = {name: sum((g[name] for g in found[1:]), found[0][name]) for name in found[0]}
        cost, gradients = self._penalised(state.params, sum(costs[1:], costs[0]), total, Rule.vjp)
        return self.update(state, gradients, buffers), cost

    def gradients(
        self, layer: Layer, state: TrainingState, x: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp
    ) -> tuple[Tensor, dict[str, Tensor], Tensors]:
        """The cost, its gradient by parameter, and the new buffers; the penalties are in the cost and in the gradient.

        layer: the model, or the model with probes; the masks are in `state`.
        vjp: what computes the loss and the penalties.
        """
        cost, gradients, buffers = self._of_batch(layer, state, x, target, 1.0, vjp)
        cost, gradients = self._penalised(state.params, cost, gradients, vjp)
        return cost, gradients, buffers

    def update(self, state: TrainingState, gradients: Tensors, buffers: Tensors) -> TrainingState:
        """The next state: gradients clipped, the optimiser's update, weights brought back within max_norm.

        The masks of this step are not part of it.
        """
        if self.clip_norm is not None:
            gradients, _ = clip_by_norm(gradients, self.clip_norm)
        params, optimizer = self.optimizer.update(gradients, state.optimizer, state.params)
        if self.max_norm is not None:
            limited = {n: RULES["max_norm"].forward(params[n], limit=self.max_norm)[0] for n in self.weights}
            params = {**params, **limited}
        kept = {name: value for name, value in buffers.items() if name not in self.model.masks}
        return TrainingState(params, kept, optimizer, state.seed, state.steps + 1)

    @property
    def weights(self) -> list[str]:
        """What penalties and max_norm are about: matrices of linear layers, never biases, never batch norm's scale."""
        names = (leaf.names["weight"] for leaf in leaves(self.model).values() if leaf.rule.chapter == "linear")
        return list(dict.fromkeys(names))  # a weight that two layers share is penalised once

    def _of_batch(
        self, layer: Layer, state: TrainingState, x: Tensor, target: Tensor, share: float, vjp: RuleVjp
    ) -> tuple[Tensor, dict[str, Tensor], Tensors]:
        """`share` times a batch's cost, and its gradient; without penalties."""
        y, residuals, buffers = layer.forward(state.params, state.buffers, x)
        dcost = torch.full((), share, dtype=y.dtype, device=y.device)
        cost, (dy, *_) = vjp(RULES[self.loss], (y, target), dcost)
        assert dy is not None
        _, gradients = layer.backward(residuals, dy)
        return dcost * cost, gradients, buffers

    def _penalised(
        self, params: Tensors, cost: Tensor, gradients: Tensors, vjp: RuleVjp
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost and its gradient with the penalties."""
        total = dict(gradients)
        for penalty, lam in (("l1_penalty", self.l1), ("l2_penalty", self.l2)):
            for name in self.weights if lam else ():
                one = torch.ones((), dtype=params[name].dtype, device=params[name].device)
                value, (gradient,) = vjp(RULES[penalty], (params[name],), one, lam=lam)
                assert gradient is not None
                cost, total[name] = cost + value, total[name] + gradient
        return cost, total


def refuse_bad_call(state: object, x: object, target: object) -> None:
    """Raises ValueError, the same for every kind of step, for what is no state or no tensor, and under autocast."""
    if not isinstance(state, TrainingState):
        raise ValueError(
            f"state must be a TrainingState; came {type(state).__name__}. Begin with step.init(generator)."
        )
    for name, tensor in (("x", x), ("target", target)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor; came {type(tensor).__name__}. Use torch.as_tensor.")
    if isinstance(x, Tensor) and _autocast_is_on(x.device):
        raise ValueError(
            "a step computes in the dtype of its state; came torch.autocast, which would change it. Leave autocast; "
            "for 16 bits make the state with step.init(generator, dtype=torch.bfloat16)."
        )


def _autocast_is_on(device: torch.device) -> bool:
    try:
        return torch.is_autocast_enabled(device.type)
    except RuntimeError:  # a kind of device that has none
        return False
