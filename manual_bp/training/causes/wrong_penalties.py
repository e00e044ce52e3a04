"""Wrong penalties: left out, of another size or on other parameters, or in the loss or the gradient alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from manual_bp.arithmetic.perturbed import wide
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import Step


def wrong_penalties(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    for name, lam in (("l2", step.l2), ("l1", step.l1)):
        if not lam:
            continue
        changes: dict[str, Any] = {
            f"the penalty ({name}) is left out": 0.0,
            f"the penalty ({name}) is twice what is due": 2 * lam,
            f"the penalty ({name}) is half of what is due": lam / 2,
            f"the penalty ({name}) is divided by the batch's size": lam / len(now.x),
        }
        for words, value in changes.items():
            own = _penalising(step, name, value)
            yield words, lambda own=own: run(own)  # type: ignore[misc]
        for counts in (True, False):
            said = "" if counts else ", and is not counted in the loss"
            yield (
                f"the penalty ({name}) is on biases and all other parameters too, where it is on weights alone{said}",
                lambda counts=counts, name=name: _penalised(step, now, name, counts),  # type: ignore[misc]
            )
        yield (
            f"the penalty ({name}) is in the gradient, and not in the loss that is shown",
            lambda name=name: replace(now.due, loss=run(_penalising(step, name, 0.0)).loss),  # type: ignore[misc]
        )


def _penalising(step: Step, name: str, lam: float) -> Step:
    return replace(step, l2=lam) if name == "l2" else replace(step, l1=lam)


def _penalised(step: Step, now: Moment, name: str, counts: bool) -> StepRecord:
    lam: float = getattr(step, name)
    others = [p for p in now.due.gradients if p not in step.weights]
    params = wide({p: now.state.params[p] for p in others})
    values = {p: lam / 2 * w.square().sum() if name == "l2" else lam * w.abs().sum() for p, w in params.items()}
    grads = {p: lam * w if name == "l2" else lam * w.sign() for p, w in params.items()}
    due = now.due
    loss = due.loss.double() + sum(values.values()) if counts else due.loss
    gradients = {p: g.double() + grads[p] if p in grads else g for p, g in due.gradients.items()}
    return replace(due, loss=loss, gradients=gradients)
