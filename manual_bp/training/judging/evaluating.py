"""An engine's evaluation: the network's output once training is over, by running statistics and without dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import Errors, wide
from manual_bp.chain import BatchNorm, Dropout, Layer, Leaf, Tensors, leaves
from manual_bp.oracle.truth.errors import errors
from manual_bp.training.causes.explaining import fitting
from manual_bp.training.engine import StepRecord, with_allowance
from manual_bp.training.step import Step, TrainingState


def wrong_evaluation(
    step: Step, evaluate: Callable[[TrainingState, Tensor], Any], state: TrainingState, x: Tensor, against: str
) -> tuple[float, str]:
    """How far off an engine's output in evaluation is, over its allowance, and what is wrong; 0 and "" if nothing.

    Raises ValueError if it returns no tensor of the output's shape.
    """

    class Evaluating:
        def __init__(self, given: Errors) -> None:
            self.errors = given

        def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
            layer = step.model.inference().map(lambda _, leaf: self.errors.leaf(leaf))
            y, _, _ = layer.forward(state.params, state.buffers, x)
            return StepRecord(y.sum(), {"output": {"y": y}})

    due, width = with_allowance(Evaluating, state, x, torch.zeros(()), state.dtype, seed=0)
    y, allowed = due.layers["output"]["y"], width.layers["output"]["y"]
    came, again = evaluate(state, x.clone()), evaluate(state, x.clone())
    if not isinstance(came, Tensor) or came.shape != y.shape:
        kind = tuple(came.shape) if isinstance(came, Tensor) else type(came).__name__
        raise ValueError(f"{against}'s evaluate(state, x) must return the output, {tuple(y.shape)}; came {kind}.")
    ratio, _ = errors(came, y, allowed, state.dtype)
    worst = float(ratio.nan_to_num(torch.inf).max())
    if worst <= 1:
        return worst, ""
    if not torch.equal(came, again):
        drops = any(isinstance(leaf, Dropout) for leaf in leaves(step.model).values())
        what = (
            "dropout is"
            if drops
            else "something that draws by chance, such as a dropout that the model does not have, is"
        )
        return worst, f"two evaluations of the same numbers differ: {what} left on in evaluation"
    got = came.detach().cpu().double()
    for words, layer in _wrong(step):
        made, _, _ = layer.forward(wide(state.params), wide(state.buffers), wide({"x": x})["x"])
        if all(fitting({"y": made}, {"y": y}, {"y": got}, {"y": allowed})):
            return worst, words
    return worst, "the output in evaluation is wrong"


def _wrong(step: Step) -> Iterator[tuple[str, Layer]]:
    def changed(change: Callable[[Leaf], Layer]) -> Layer:
        return step.model.map(lambda _, leaf: change(leaf))

    yield (
        "dropout is left on in evaluation, with the masks of the step",
        changed(lambda leaf: leaf if isinstance(leaf, Dropout) else leaf.inference()),
    )
    yield (
        "batch norm normalises by the batch's own statistics in evaluation, where the running ones are due",
        changed(lambda leaf: leaf if isinstance(leaf, BatchNorm) else leaf.inference()),
    )
    yield "evaluation is done as in training: with dropout, and by the batch's statistics", step.model.layer
    yield (
        "what dropout passes is scaled by 1 − p in evaluation too, where it is scaled by 1/(1 − p) in training",
        changed(lambda leaf: _Scaled(1 - leaf.hyper["p"]) if isinstance(leaf, Dropout) else leaf.inference()),
    )


@dataclass(frozen=True)
class _Scaled:
    factor: float

    def forward(self, params: Tensors, state: Mapping[str, Tensor], x: Any) -> tuple[Any, Any, Tensors]:
        return self.factor * x, None, state

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        return self.factor * dy, {}

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return self
