"""What passed a layer in a step, as a case of its own; where a branch differs; whether numbers have diverged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Leaf, Visit
from manual_bp.oracle.case import NOT_RECORDED, Case
from manual_bp.training.engine import COTANGENTS, VALUES, StepRecord
from manual_bp.training.step import TrainingState
from manual_bp.wording import counted


def diverged(number: int, ours: StepRecord, theirs: StepRecord, dtype: torch.dtype) -> str:
    """Which tensor first has left, in both engines, the numbers that can be squared in the dtype; "" if none has."""
    limit = torch.finfo(dtype).max ** 0.5

    def beyond(tensor: Tensor) -> bool:
        return not bool((tensor.abs() <= limit).all())  # a NaN fails the comparison too

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        """In the order in which a step computes."""
        for letters in (VALUES, COTANGENTS):
            for layer, found in ours.layers.items() if letters is VALUES else reversed(ours.layers.items()):
                others = theirs.layers.get(layer, {})
                yield from (
                    (f"{letter} of {layer}", t, others[letter])
                    for letter, t in found.items()
                    if letter in letters and letter in others
                )
            if letters is VALUES:
                yield "the loss", ours.loss, theirs.loss
        for words, mine, others in (
            ("the gradient of", ours.gradients, theirs.gradients),
            ("the updated", ours.params, theirs.params),
            ("the updated", ours.optimizer, theirs.optimizer),
        ):
            yield from ((f"{words} {name}", t, others[name]) for name, t in mine.items() if name in others)

    for name, our, their in pairs():
        if beyond(our) and beyond(their):
            before = f"; the {counted(number - 1, 'step')} before agree" if number > 2 else ""
            before = "; the step before agrees" if number == 2 else before
            return (
                f"training diverged in step {number}, in both engines: {name} is NaN, infinite or beyond {limit:.0e}"
                f"{before}.  Lower the learning rate."
            )
    return ""


def copied(state: TrainingState) -> TrainingState:
    """The same state in memory of its own."""
    params, buffers, optimizer = (
        {name: tensor.clone() for name, tensor in tensors.items()}
        for tensors in (state.params, state.buffers, state.optimizer)
    )
    return replace(state, params=params, buffers=buffers, optimizer=optimizer)


def branches_differ(leaf: Leaf, x: Tensor, other: Tensor) -> Tensor:
    """Where the slope at x and at another x, a rounding away, belongs to different branches: of an activation its sign,
    of a largest value its winner."""
    y, _ = leaf.rule.forward(x, **leaf.hyper)
    one = torch.ones_like(y)
    _, (slope,) = leaf.rule.vjp((x,), one, **leaf.hyper)
    _, (slope_of_other,) = leaf.rule.vjp((other,), one, **leaf.hyper)
    assert slope is not None
    assert slope_of_other is not None
    # Between two roundings of one x a smooth slope moves by about eps; √eps separates that from a change of branch.
    threshold = float(torch.finfo(x.dtype).eps) ** 0.5
    return torch.gt((slope - slope_of_other).abs(), threshold)


def visit_case(visit: Visit, name: str) -> Case:
    """A visit as a recorded case: the layer alone, with the inputs and the upstream cotangent that it had."""
    leaf = visit.leaf
    given = visit.dx if isinstance(visit.dx, tuple) else (visit.dx,)
    recorded: list[Any] = []
    for position, (local, spec) in enumerate(leaf.rule.inputs.items()):
        parameter = leaf.names.get(local)
        if position < leaf.takes:
            found = given[position]
        elif parameter in leaf.initial() or (parameter is None and visit.inputs[position] is not None):
            found = NOT_RECORDED  # a constant of the layer, for whose cotangent nobody asks
        else:
            found = None if parameter is None else visit.dparams.get(parameter)
        recorded.append(found if spec.cotangent else NOT_RECORDED)
    y, dy = leaf.of_all_outputs(visit.y, NOT_RECORDED), leaf.of_all_outputs(visit.dy, None)
    return Case(visit.inputs, dy, leaf.hyper, name, y, tuple(recorded))
