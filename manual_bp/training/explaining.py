"""Why an engine's step is wrong: the wrong step, or the wrong update, that makes what the engine shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.chain import Tensors, Visit
from manual_bp.oracle.checking import compare
from manual_bp.training.engine import StepRecord
from manual_bp.training.hypotheses import hypotheses
from manual_bp.training.moment import Moment
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.visits import visit_case
from manual_bp.training.wrong_updates import Updating, wrong_updates

SECONDS = 3.0
"""For the oracle's search, as it takes by default."""
IMPOSSIBLE = (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError)
"""What a wrong step raises that cannot be: of other sizes or options than it is meant for."""
# A wrong step has rounding errors like the right one's; what they are exactly depends on its numbers.
WIDER = 4
# It explains what came only if it is nearer by this factor than what is due, where that is furthest off.
NEARER = 8
# Of causes that one update does not tell apart, so many are said.
MOST_CAUSES = 3


def cause_of_step(step: Step, now: Moment, before: Moment | None, width: StepRecord, suspects: Collection[str]) -> str:
    """The wrong step that an engine's step is, in words; "" if none of those that are known."""
    with_params = not now.shown.gradients.keys() >= now.due.gradients.keys()
    due, shown, allowed = (_flat(record, with_params) for record in (now.due, now.shown, width))
    for words, made in hypotheses(step, now, before, suspects):
        with suppress(*IMPOSSIBLE):
            if _is(_flat(made(), with_params), due, shown, allowed):
                return words
    return ""


def cause_of_update(
    step: Step,
    state: TrainingState,
    shown: StepRecord,
    due: StepRecord,
    width: StepRecord,
    former: Tensors | None,
) -> str:
    """The wrong updates that an engine's can be, in words; "" if none of those that are known."""
    if moved := frozen_moved(step, state, shown):
        return moved
    of = Updating.of(step, state, shown.gradients, former)
    due_, shown_, allowed = ({**r.params, **_named(r.optimizer)} for r in (due, shown, width))
    found: dict[str, Tensors] = {}
    for words, made in wrong_updates(of):
        with suppress(*IMPOSSIBLE):
            params, optimizer = made()
            whole = {**params, **_named(optimizer)}
            # Or an engine that shows its state of the right update, and has updated the parameters otherwise.
            if _is(whole, due_, shown_, allowed) or _is(params, due.params, shown.params, width.params):
                same = (all(torch.equal(params[n], other[n]) for n in params) for other in found.values())
                if not any(same):  # the same in other words
                    found[words] = params
    # Adam's first step hardly shows the size of a gradient, and so not how it was clipped.
    told = "; or ".join(list(found)[:MOST_CAUSES]) + ("; or others" if len(found) > MOST_CAUSES else "")
    several = " (this step does not tell which)" if len(found) > 1 else ""
    return f"{told}{several}" or not_moved(state, due, shown) or _factor(state, shown, due, width)


def frozen_moved(step: Step, state: TrainingState, shown: StepRecord) -> str:
    """Which parameters move that are frozen, in words; "" if none does."""
    frozen = [n for n in shown.params if n in step.frozen]
    moved = [n for n in frozen if not torch.equal(shown.params[n].to(state.params[n]), state.params[n])]
    return f"what is frozen ({' and '.join(moved[:4])}) is trained" if moved else ""


def not_moved(state: TrainingState, due: StepRecord, shown: StepRecord) -> str:
    """Which parameters stay where they were, in words; "" if all that are to move do."""
    still = [n for n, p in due.params.items() if n in shown.params and torch.equal(shown.params[n], state.params[n])]
    moved = [n for n in still if not torch.equal(due.params[n].to(state.params[n].dtype), state.params[n].cpu())]
    if moved:
        return f"{' and '.join(moved[:4])} {'is' if len(moved) == 1 else 'are'} left out of the update and not moved"
    return ""


def _factor(state: TrainingState, shown: StepRecord, due: StepRecord, width: StepRecord) -> str:
    """Whether every parameter moved by the same multiple of what is due."""
    names = [n for n in due.params if n in shown.params]
    if not names:
        return ""
    start = {n: state.params[n].double().cpu() for n in names}
    wanted = {n: due.params[n].double().cpu() - start[n] for n in names}
    came = {n: shown.params[n].double().cpu() - start[n] for n in names}
    flat, due_ = (torch.cat([t[n].flatten() for n in names]) for t in (came, wanted))
    if not float(due_.norm()):
        return ""
    c = float(flat @ due_ / (due_ @ due_))
    made = {n: start[n] + c * wanted[n] for n in names}
    # One factor among many wrong numbers is no cause: it must account for what came in each element, and for nearly
    # all that it is away from what is due.
    if not _is(made, due.params, shown.params, width.params):
        return ""
    if float((flat - c * due_).norm()) * NEARER > float((flat - due_).norm()):
        return ""
    return f"the parameters move by {c:.6g} times what is due: another learning rate, or a factor of the gradients"


def cause_of_layer(visit: Visit, dtype: torch.dtype) -> str:
    """What the oracle says of one of the engine's layers by itself."""
    leaf = visit.leaf

    def narrow(x: object) -> object:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    case = visit_case(visit, "the engine's own tensors")
    narrowed = case.with_tensors(t.to(dtype) if t.is_floating_point() else t for t in case.tensors)
    y = narrow(case.y) if not isinstance(case.y, tuple) else tuple(map(narrow, case.y))
    grads = None if case.grads is None else tuple(map(narrow, case.grads))
    try:
        report = compare(None, leaf.rule, dtype=dtype, cases=[replace(narrowed, y=y, grads=grads)], diagnose=SECONDS)
    except ValueError:  # what it shows does not fit the rule
        return ""
    return report.diagnoses[0] if report.diagnoses else ""


def _is(made: Tensors, due: Tensors, shown: Tensors, allowed: Tensors) -> bool:
    """Whether what is shown is what a wrong program makes, and not what is due."""
    furthest, there = 0.0, 0.0
    for name, width in allowed.items():
        if name not in shown or name not in made:
            continue
        came, wrong, right = (x[name].detach().cpu().double() for x in (shown, made, due))
        if came.shape != wrong.shape:
            return False
        # A wrong program with larger numbers has larger errors.
        grown = max(1.0, _size(wrong) / _size(right) if _size(right) else 1.0)
        error, limit = (came - wrong).abs(), WIDER * grown * width
        if not bool((error <= limit).all()):
            return False
        off = ((came - right).abs() / width.clamp(min=torch.finfo(torch.float64).tiny)).flatten()
        if off.numel() and float(off.max()) > furthest:
            furthest = float(off.max())
            there = float(error.flatten()[off.argmax()] / (came - right).abs().flatten()[off.argmax()])
    return furthest > 1 and there < 1 / NEARER


def _size(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def _flat(record: StepRecord, with_params: bool) -> dict[str, Tensor]:
    """Every tensor of a record by a name of its own."""

    def items() -> Iterator[tuple[str, Tensor]]:
        yield "loss", record.loss
        for layer, found in record.layers.items():
            yield from ((f"layers.{layer}.{letter}", t) for letter, t in found.items())
        yield from ((f"gradients.{name}", t) for name, t in record.gradients.items())
        yield from ((f"buffers.{name}", t) for name, t in record.buffers.items())
        if with_params:
            yield from ((f"params.{name}", t) for name, t in record.params.items())

    return dict(items())


def _named(optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"optimizer {name}": t for name, t in optimizer.items()}
