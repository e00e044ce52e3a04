"""What is done to right gradients before they are shown, or go into the update: clipping, rounding, factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.engine import StepRecord, allowance_of
from manual_bp.training.step import Step, TrainingState

ROUNDED = (torch.bfloat16, torch.float16)
# By how much two numbers that are clipped to one limit may differ, in roundings of their dtype.
SAME = 8


def wrong_gradients(step: Step, now: Moment) -> Iterator[Hypothesis]:
    shown, due = now.shown.gradients, now.due.gradients
    if not shown.keys() >= due.keys():
        return
    limit = step.clip_norm
    if limit is not None:
        yield (
            "the gradients that are shown are clipped; those before clipping are due",
            lambda: replace(now.due, gradients=clip_by_norm(due, limit)[0]),
        )
    for words, clipped in clippings(shown):
        yield (
            f"the gradients that are shown are clipped, {words}",
            lambda clipped=clipped: replace(now.due, gradients=clipped(due)),  # type: ignore[misc]
        )
    for dtype in ROUNDED:
        rounded = _is_of(shown, dtype)
        near = all(
            bool(((shown[n].cpu().double() - g).abs() <= torch.finfo(dtype).eps * g.abs() + 1e-7).all())
            for n, g in due.items()
        )
        if rounded and near:
            words = f"the gradients are rounded to {named(dtype)}"
            yield words, lambda: replace(now.due, gradients=wide(shown))
    flat, wanted = (torch.cat([t[n].cpu().double().flatten() for n in due]) for t in (shown, due))
    if float(wanted.norm()):
        c = float(flat @ wanted / (wanted @ wanted))
        short = f", or clipped to a norm of {float(flat.norm()):.6g}" if 0 < c < 1 else ""
        words = f"all gradients are {c:.6g} times what is due: summed over pieces, or divided once more or less{short}"
        yield words, lambda: replace(now.due, gradients={n: c * g for n, g in due.items()})


Clipping = Callable[[Tensors], dict[str, torch.Tensor]]


def clippings(shown: Tensors, rounding: float = 0.0) -> Iterator[tuple[str, Clipping]]:
    """How gradients that are shown may be clipped: the limit is what several have in common.

    rounding: how far off each number may be, beside what its dtype rounds away.
    """
    found = wide({n: g.detach().cpu() for n, g in shown.items()})
    eps = torch.finfo(next(iter(shown.values())).dtype).eps
    flat = torch.cat([g.flatten() for g in found.values()]).abs()
    top = float(flat.max())
    at = flat[flat >= top - SAME * (eps * top + rounding)]
    if top and len(at) > 1:
        limit = float(at.median())
        yield (
            f"each number by its value, to ±{limit:.4g}",
            lambda due: {n: g.clamp(-limit, limit) for n, g in due.items()},
        )
    norms = torch.stack([g.norm() for g in found.values()])
    highest, many = float(norms.max()), max(g.numel() for g in found.values())
    alike = norms[norms >= highest - SAME * (eps * highest + rounding * many**0.5)]
    if highest and len(alike) > 1:
        most = float(alike.median())
        yield (
            f"each tensor by its own norm, to {most:.4g}",
            lambda due: {n: g * min(1.0, most / (float(g.double().norm()) or most)) for n, g in due.items()},
        )


def wrong_precision(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """Numbers that are rounded to 16 bits before a step; the penalty is of the rounded ones, or of those before."""
    plain = replace(step, l2=0.0, l1=0.0)

    def network(state: TrainingState, x: Tensor) -> StepRecord:
        made, right = run(plain, state, x), run(plain)
        gradients = {n: g + now.due.gradients[n].double() - right.gradients[n] for n, g in made.gradients.items()}
        loss = made.loss + now.due.loss.double() - right.loss
        return replace(made, loss=loss, gradients=gradients, params={})

    for dtype in ROUNDED:
        if _is_of(now.shown.gradients, dtype):
            yield (
                f"the network is computed in {named(dtype)} (autocast, say): the gradients that are shown are numbers "
                "of it, and as far off as its arithmetic",
                lambda dtype=dtype: _as_computed_in(step, now, dtype),  # type: ignore[misc]
            )
        rounded = replace(now.state, params={n: p.to(dtype).to(p.dtype) for n, p in now.state.params.items()})
        x = now.x.to(dtype).to(now.x.dtype) if now.x.is_floating_point() else now.x
        for what, state, data in (
            ("parameters", rounded, now.x),
            ("inputs", now.state, x),
            ("parameters and inputs", rounded, x),
        ):
            words = f"the network is computed with {what} that are rounded to {named(dtype)}"
            yield words, lambda state=state, data=data: network(state, data)  # type: ignore[misc]
            if state is rounded and (step.l2 or step.l1):
                yield f"{words}, and so is the penalty", lambda state=state, data=data: run(state=state, x=data)  # type: ignore[misc]


def _is_of(tensors: Tensors, dtype: torch.dtype) -> bool:
    return bool(tensors) and all(torch.equal(t.to(dtype).to(t.dtype), t) for t in tensors.values())


def _as_computed_in(step: Step, now: Moment, dtype: torch.dtype) -> StepRecord:
    """What is shown, where it is within what arithmetic in a dtype may be off; else what is due."""
    width = allowance_of(step, now.state, now.x, now.target, dtype, 0)

    def near(shown: Tensor, due: Tensor, allowed: Tensor) -> Tensor:
        came = shown.detach().cpu().double()
        return came if bool(((came - due.cpu()).abs() <= allowed.cpu()).all()) else due

    shown = now.shown.gradients
    gradients = {n: near(shown[n], g, width.gradients[n]) if n in shown else g for n, g in now.due.gradients.items()}
    return replace(now.due, loss=near(now.shown.loss, now.due.loss, width.loss), gradients=gradients)


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
