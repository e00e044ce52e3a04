"""Why an engine's step is wrong: the wrong step that makes what the engine shows; of wrong updates see `seeking`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors, Visit
from manual_bp.oracle.checking import compare
from manual_bp.training.causes.hypotheses import hypotheses
from manual_bp.training.causes.moment import Moment, Updated
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.visits import visit_case

SECONDS = 3.0
"""For the oracle's search, as it takes by default."""
IMPOSSIBLE = (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError)
"""What a wrong step raises that cannot be: of other sizes or options than it is meant for."""
# A wrong step has rounding errors like the right one's; what they are exactly depends on its numbers.
WIDER = 4
# It explains what came only if it is nearer by this factor than what is due, where that is furthest off.
NEARER = 8


def cause_of_step(
    step: Step,
    now: Moment,
    before: Moment | None,
    width: StepRecord,
    suspects: Collection[str],
    most: int = 1,
    of_the_loss: bool = True,
) -> str:
    """The wrong step that an engine's step is, in words; "" if none of those that are known.

    most: so many are said, where several are.  of_the_loss: whether it is to make the loss that is shown, too."""
    with_params = not now.shown.gradients.keys() >= now.due.gradients.keys()
    due, shown, allowed = (_flat(record, with_params) for record in (now.due, now.shown, width))
    allowed = {name: w for name, w in allowed.items() if of_the_loss or name != "loss"}
    found: list[str] = []
    # What an engine shows may be of no size that a hypothesis thinks of: the verdict stands without a cause.
    with suppress(*IMPOSSIBLE):
        for words, made in hypotheses(step, now, before, suspects):
            with suppress(*IMPOSSIBLE):
                record = made()
                if with_params:
                    if not fitting(_flat(record, False), due, shown, allowed)[0]:  # an update takes longer
                        continue
                    record = _updated(step, now, record)
                words = words if of_the_loss else words.partition("; the loss that is shown")[0]
                if words not in found and _is(_flat(record, with_params), due, shown, allowed):
                    found.append(words)
                    if len(found) == most:
                        break
    return "; or ".join(found) + " (this step does not tell which)" * (len(found) > 1)


def _updated(step: Step, now: Moment, made: StepRecord) -> StepRecord:
    """With the parameters that the update makes of a wrong step's gradients, which are all that is seen of these."""
    state = replace(now.state, params=wide(now.state.params), optimizer=wide(now.state.optimizer))
    if isinstance(made, Updated):
        return made
    return replace(made, params=dict(step.update(state, wide(made.gradients), {}).params))


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
    return all(fitting(made, due, shown, allowed))


def fitting(made: Tensors, due: Tensors, shown: Tensors, allowed: Tensors) -> tuple[bool, bool]:
    """Whether what is shown is what a wrong program makes; and whether it is visibly not what is due."""
    furthest, there = 0.0, 0.0
    for name, width in allowed.items():
        if name not in shown or name not in made:
            continue
        came, wrong, right = (x[name].detach().cpu().double() for x in (shown, made, due))
        if came.shape != wrong.shape:
            return False, False
        # A wrong program with larger numbers has larger errors.
        grown = max(1.0, _size(wrong) / _size(right) if _size(right) else 1.0)
        error, limit = (came - wrong).abs(), WIDER * grown * width
        if not bool((error <= limit).all()):
            return False, False
        off = ((came - right).abs() / width.clamp(min=torch.finfo(torch.float64).tiny)).flatten()
        if off.numel() and float(off.max()) > furthest:
            furthest = float(off.max())
            there = float(error.flatten()[off.argmax()] / (came - right).abs().flatten()[off.argmax()])
    return True, furthest > 1 and there < 1 / NEARER


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


def named_state(optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"optimizer {name}": t for name, t in optimizer.items()}
