"""One step of training by hand: forward, loss, backward, penalties, clipping, update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Layer, Tensors, leaves, summed
from manual_bp.losses import Loss, RuleVjp
from manual_bp.models.model import Model
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.optimizers import Optimizer
from manual_bp.training.schedules import Schedule


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

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(p.dtype for p in self.params.values())


@dataclass(frozen=True)
class Step:
    """A training step: `state, loss = step(state, x, target)`.  The old state stays valid."""

    model: Model
    loss: Loss
    optimizer: Optimizer
    l2: float = 0.0
    l1: float = 0.0
    max_norm: float | None = None
    clip_norm: float | None = None
    schedule: Schedule | None = None
    frozen: frozenset[str] = frozenset()
    decayed: frozenset[str] | None = None

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
        for what, names in (("frozen", self.frozen), ("decayed", self.decayed or frozenset())):
            if unknown := sorted(names - drawn.keys()):
                raise ValueError(f"{what} must be names of {sorted(drawn)}; came {unknown}.")
        seed = int(torch.randint(2**62, (), generator=generator))
        return TrainingState(drawn, buffers, self.optimizer.init(drawn), seed)

    def masks(self, state: TrainingState, batch: int, device: str = "cpu") -> dict[str, Tensor]:
        """The dropout masks of the next step: the same for the same state."""
        generator = torch.Generator().manual_seed((state.seed + state.steps) % 2**63)
        return self.model.draw_masks(batch, generator, device)

    def __call__(self, state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
        """The state after one update, and the loss before it, penalties included.

        x: (batch, features), or the numbers of tokens, (batch, positions); target: what the loss takes, of square_loss
        shaped like the output.  Raises ValueError for another one.
        """
        return self.accumulate(state, [(x, target)])

    def accumulate(
        self, state: TrainingState, batches: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[TrainingState, Tensor]:
        """One update from a batch that comes in pieces, of equal size or not: (x, target), (x, target), ...

        The gradient is the whole batch's.  The loss is a function of all outputs: a mean over examples, over those that
        are not ignored, or whatever else; its cotangent is therefore taken of all of them at once, and each piece gets
        its rows of it.  (The mean of the pieces' means would favour examples in short pieces.)  For that each piece
        passes the network twice: to its output, which alone is kept of it, and there and back.
        Penalties count once.  Dropout masks are those that the whole batch would have; batch norm normalises each piece
        by itself and updates its running statistics piece by piece, as torch does when gradients are accumulated.
        Raises ValueError if there is no piece, for pieces that do not fit together, for what is no tensor, and under
        torch.autocast.
        """
        if not batches:
            raise ValueError("batches must hold at least one (x, target); came none.")
        for x, target in batches:
            refuse_bad_call(state, x, target)
            if x.ndim < 2:
                raise ValueError(
                    f"x must be (batch, features); came {tuple(x.shape)}. Use x[None] for a single example."
                )
        given = {name: state.buffers[name] for name in self.model.masks if name in state.buffers}
        whole = sum(len(x) for x, _ in batches)
        masks = {**self.masks(state, whole, str(batches[0][0].device)), **given}
        if len(batches) == 1:
            masked = replace(state, buffers={**state.buffers, **masks})
            cost, gradients, buffers = self._of_batch(self.model, masked, *batches[0], Rule.vjp)
        else:
            cost, gradients, buffers = self._of_pieces(state, batches, masks)
        cost, gradients = self._penalised(state.params, cost, gradients, Rule.vjp)
        return self.update(state, gradients, buffers), cost

    def gradients(
        self, layer: Layer, state: TrainingState, x: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp
    ) -> tuple[Tensor, dict[str, Tensor], Tensors]:
        """The cost, its gradient by parameter, and the new buffers; the penalties are in the cost and in the gradient.

        layer: the model, or the model with probes; the masks are in `state`.
        vjp: what computes the loss and the penalties.
        """
        cost, gradients, buffers = self._of_batch(layer, state, x, target, vjp)
        cost, gradients = self._penalised(state.params, cost, gradients, vjp)
        return cost, gradients, buffers

    def update(
        self, state: TrainingState, gradients: Tensors, buffers: Tensors, lr: Tensor | None = None
    ) -> TrainingState:
        """The next state: gradients clipped, the optimiser's update, weights brought back within max_norm.

        lr: in place of the learning rate that this step has.
        The masks of this step are not part of it.
        """
        gradients, state, whole = self._trained(gradients), self._of_trained(state), state
        if self.clip_norm is not None:
            gradients, _ = clip_by_norm(gradients, self.clip_norm)
        scheduled = self.schedule.at(self.optimizer, state.steps) if self.schedule else self.optimizer
        own: dict[str, Any] = {} if lr is None else {"lr": lr}
        if self.decayed is not None:
            own["decayed"] = self.decayed
        params, optimizer = scheduled.update(gradients, state.optimizer, state.params, **own)
        if self.max_norm is not None:
            limited = {n: self._limited(params[n], self.max_norm) for n in self.weights if n in params}
            params = {**params, **limited}
        kept = {name: value for name, value in buffers.items() if name not in self.model.masks}
        if self.frozen:
            params, optimizer = {**whole.params, **params}, {**whole.optimizer, **optimizer}
        return TrainingState(params, kept, optimizer, state.seed, state.steps + 1)

    def _trained(self, named: Tensors) -> Tensors:
        """Those by the names of parameters, or of their moments, that are not frozen."""
        return {n: t for n, t in named.items() if not {n, n.partition(".")[2]} & self.frozen} if self.frozen else named

    def _of_trained(self, state: TrainingState) -> TrainingState:
        if not self.frozen:
            return state
        params, optimizer = self._trained(state.params), self._trained(state.optimizer)
        return replace(state, params=dict(params), optimizer=dict(optimizer))

    @staticmethod
    def _limited(weight: Tensor, limit: float) -> Tensor:
        """Each row no longer than the limit; of a convolution a row is a filter."""
        rows: Tensor = RULES["max_norm"].forward(weight.flatten(1), limit=limit)[0]
        return rows.view_as(weight)

    @property
    def weights(self) -> list[str]:
        """What penalties and max_norm are about: matrices and filters, never biases, never the scale of a
        normalisation."""
        found = (name for leaf in leaves(self.model).values() for name in leaf.weights)
        return list(dict.fromkeys(found))  # a weight that two layers share is penalised once

    def _of_batch(
        self, layer: Layer, state: TrainingState, x: Tensor, target: Tensor, vjp: RuleVjp
    ) -> tuple[Tensor, dict[str, Tensor], Tensors]:
        """A batch's cost, its gradient and the new buffers; without penalties."""
        y, residuals, buffers = layer.forward(state.params, state.buffers, x)
        cost, dy = self.loss.vjp(y, target, vjp)
        _, gradients = layer.backward(residuals, dy)
        return cost, gradients, buffers

    def _of_pieces(
        self, state: TrainingState, batches: Sequence[tuple[Tensor, Tensor]], masks: Tensors
    ) -> tuple[Tensor, dict[str, Tensor], Tensors]:
        """The same of a batch in pieces, with the whole batch's masks."""
        ends = list(accumulate(len(x) for x, _ in batches))
        rows = [slice(end - len(x), end) for end, (x, _) in zip(ends, batches, strict=True)]
        cut = [{name: mask[piece] for name, mask in masks.items()} for piece in rows]
        outputs = [
            self.model.forward(state.params, {**state.buffers, **own}, x)[0]
            for (x, _), own in zip(batches, cut, strict=True)
        ]
        cost, dy = self.loss.vjp(torch.cat(outputs), _joined(batches))
        total: dict[str, Tensor] = {}
        buffers: Tensors = state.buffers
        for (x, _), own, piece in zip(batches, cut, rows, strict=True):
            _, residuals, buffers = self.model.forward(state.params, {**buffers, **own}, x)
            _, gradients = self.model.backward(residuals, dy[piece])
            total = summed(total, gradients)
        return cost, total, buffers

    def _penalised(
        self, params: Tensors, cost: Tensor, gradients: Tensors, vjp: RuleVjp
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost and its gradient with the penalties.

        Costs of 16 bits are added up in float32 and rounded once: of a deep network's penalties there are dozens.
        """
        total, dtype = dict(gradients), cost.dtype
        cost = cost.to(torch.promote_types(dtype, torch.float32))
        for penalty, lam in (("l1_penalty", self.l1), ("l2_penalty", self.l2)):
            for name in self.weights if lam else ():
                one = torch.ones((), dtype=params[name].dtype, device=params[name].device)
                value, (gradient,) = vjp(RULES[penalty], (params[name],), one, lam=lam)
                assert gradient is not None
                cost, total[name] = cost + value, total[name] + gradient
        return cost.to(dtype), total


def _joined(batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The targets of a batch in pieces, one after another."""
    targets = [target for _, target in batches]
    kinds = {(target.shape[1:], target.dtype) for target in targets}
    if len(kinds) > 1 or any(target.shape[:1] != x.shape[:1] for x, target in batches):
        came = ", ".join(f"x {tuple(x.shape)} with {target.dtype} {tuple(target.shape)}" for x, target in batches)
        raise ValueError(
            "each piece must have a target for each example, and all targets one dtype and, but for axis 0, one shape; "
            f"came {came}."
        )
    return torch.cat(targets)


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
