"""Where the first NaN or infinity of a training step arose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.chain import Tensors, probe
from manual_bp.training.step import Step, TrainingState
from manual_bp.wording import counted


class NonFiniteError(ArithmeticError):
    """A loss is NaN or infinite.

    step: number of the step, from 1. where: the layer and the first such tensor, in words.
    """

    def __init__(self, step: int, where: str) -> None:
        super().__init__(f"step {step}: {where}")
        self.step, self.where = step, where


def first_non_finite(step: Step, state: TrainingState, x: Tensor, target: Tensor) -> str | None:
    """The first tensor of a step that has a NaN or an infinity, in words; None if all are finite.

    In the order of computation: what comes in, values from the first layer on, the loss, cotangents and gradients from
    the last layer back, the penalties, the updated parameters with the optimiser's state.
    """
    return next((text for name, tensor in _of_step(step, state, x, target) if (text := _said(name, tensor))), None)


def _of_step(step: Step, state: TrainingState, x: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield from (("the input x", x), ("the target", target))
    yield from _named("the parameter", state.params)
    yield from _named("the buffer", state.buffers)
    layer, visits = probe(step.model)
    buffers = {**step.masks(state, len(x), str(x.device)), **state.buffers}
    y, residuals, after = layer.forward(state.params, buffers, x)
    for name, visit in visits.items():
        yield f"layer {name}: its value", visit.y
    cost, dy = step.loss.vjp(y, target)
    yield f"layer {step.loss.name}: its value J", cost
    yield f"layer {step.loss.name}: the cotangent of the network's output", dy
    layer.backward(residuals, dy)
    for name, visit in reversed(visits.items()):
        assert visit.dy is not None
        yield f"layer {name}: the cotangent of its value", visit.dy
        for parameter, gradient in visit.dparams.items():
            yield f"layer {name}: the gradient d{parameter}", gradient
    cost, gradients, _ = step.gradients(step.model, replace(state, buffers=buffers), x, target)
    yield "the cost with its penalties", cost
    yield from _named("with its penalties, the gradient of", gradients)
    updated = step.update(state, gradients, after)
    yield from _named("after the update, the optimiser's", updated.optimizer)
    yield from _named("after the update, the parameter", updated.params)
    yield from _named("after the step, the buffer", updated.buffers)


def _named(what: str, tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        yield f"{what} {name}", tensor


def _said(name: str, tensor: Tensor) -> str | None:
    if not tensor.is_floating_point():
        return None
    bad = ~torch.isfinite(tensor)
    if not bool(bad.any()):
        return None
    index = tuple(int(i) for i in bad.nonzero()[0])
    place = f", first at {list(index)}" if index else ""
    share = f" in {int(bad.sum())} of {counted(tensor.numel(), 'element')}" if index else ""
    return f"{name} is {float(tensor[index])}{share}{place}"
