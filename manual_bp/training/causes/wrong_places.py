"""Gradients at other parameters than those of the step: how far along a direction, follows from what was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.causes.nearest import DIGITS, nearest
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import Step


def wrong_places(
    step: Step, now: Moment, before: Moment | None, run: Callable[..., StepRecord]
) -> Iterator[Hypothesis]:
    names = list(now.due.gradients)
    if not names or not now.shown.gradients.keys() >= set(names):
        return
    params = wide(dict(now.state.params))
    norm = float(torch.stack([now.due.gradients[n].double().norm() for n in names]).norm())
    ways: list[tuple[str, dict[str, Tensor]]] = []
    if norm:
        up = {n: now.due.gradients[n].double() / norm for n in names}
        ways.append(("by {} along their own direction, as sharpness-aware minimisation has them", up))
    if before is not None:
        last = {n: params[n] - before.state.params[n].to(params[n]) for n in names}
        if any(bool(d.any()) for d in last.values()):
            ways.append(("by {} times the last step, as a look ahead, an average or stale parameters have them", last))
    shown = _flat(now.shown.gradients, names)

    def at(direction: dict[str, Tensor], far: float) -> StepRecord:
        moved = {**params, **{n: params[n] + far * direction[n].to(params[n]) for n in names}}
        return run(state=replace(now.state, params=moved))

    for words, direction in ways:
        far = nearest(lambda c, d=direction: _flat(at(d, c).gradients, names), shown)  # type: ignore[misc]
        if not far:
            continue
        for number in dict.fromkeys((float(f"{far:.{DIGITS}g}"), far)):
            said = f"the gradients are those at other parameters: moved {words.format(f'{number:.4g}')}"
            yield (
                said,
                lambda d=direction, c=number: replace(at(d, c), loss=now.due.loss, layers={}),  # type: ignore[misc]
            )
            yield (
                f"{said}; so is the loss that is shown",
                lambda d=direction, c=number: replace(at(d, c), layers={}),  # type: ignore[misc]
            )


def _flat(tensors: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([tensors[n].detach().cpu().double().flatten() for n in names])
