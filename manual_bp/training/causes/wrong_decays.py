"""Wrong weight decay: which parameters it was on, as the updates themselves tell it, and the words for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors, leaves
from manual_bp.training.causes.updating import After, Updating, WrongUpdate
from manual_bp.training.causes.wrong_updates import changed_optimizer
from manual_bp.training.optimizers import MAKERS
from manual_bp.training.step import Step, TrainingState

Shown = tuple[TrainingState, Tensors, Tensors]
"""One step: where it began, its gradients, and the parameters that were shown behind it."""
MOST_NAMED = 4


def wrong_decays(step: Step, shown: Iterable[Shown], is_own: bool) -> Iterator[WrongUpdate]:
    """None at all; on other parameters; of another kind; by another learning rate.

    is_own: whether the optimiser's state is the one that each wrong update has itself left.
    """
    own = step.optimizer
    if own.name not in MAKERS or not own.config.get("weight_decay"):
        return
    yield "weight decay is left out", lambda of: of.after(replace(of.step, decayed=frozenset()))
    found = _decaying(step, list(shown), is_own)
    yield _said(step, *found), lambda of: of.after(replace(of.step, decayed=found[0]))
    coupled = {"adam": "adamw", "adamw": "adam"}.get(own.name)
    if coupled:
        words = "is part of the gradient (coupled, as Adam's L2)" if coupled == "adam" else "is decoupled, as AdamW's"
        made = MAKERS[coupled](**own.config)
        yield f"weight decay {words}", lambda of: of.after(replace(of.step, optimizer=made))
    if step.schedule is not None and own.name == "adamw":
        yield "weight decay is by the learning rate without its schedule", _unscheduled


def _unscheduled(of: Updating) -> After:
    params, optimizer = of.after(changed_optimizer(of.step, weight_decay=0.0))
    lr, decay = of.step.optimizer.config["lr"], of.step.optimizer.config["weight_decay"]
    decayed = params if of.step.decayed is None else of.step.decayed
    shrunk = {n: p - lr * decay * of.state.params[n] for n, p in params.items() if n in decayed}  # type: ignore[operator]
    return {**params, **shrunk}, optimizer


def _decaying(step: Step, shown: list[Shown], is_own: bool) -> tuple[frozenset[str], frozenset[str]]:
    """The parameters that have decayed, each by itself nearer to what decay makes of it, and those that are due to."""
    names = frozenset(name for _, gradients, _ in shown for name in gradients)
    due = names if step.decayed is None else step.decayed
    step = changed_optimizer(step)  # one of somebody's under the same name need not know `decayed`
    with_decay, without = (_off(replace(step, decayed=those), shown, is_own) for those in (names, frozenset[str]()))
    # What is 0 decays to itself, and tells nothing.
    tell = {name for name in names if with_decay[name] != without[name]}
    return frozenset(n for n in names if (with_decay[n] < without[n] if n in tell else n in due)), due


def _off(step: Step, shown: list[Shown], is_own: bool) -> dict[str, float]:
    """How far each parameter is off what a step makes, over all that were seen."""
    total: dict[str, float] = {}
    kept: Tensors | None = None
    for state, gradients, params in shown:
        before = wide(kept if is_own and kept is not None else state.optimizer)
        made = step.update(replace(state, params=wide(state.params), optimizer=before), wide(gradients), {})
        kept = made.optimizer
        for name in gradients:
            off = _distance(made.params[name], params[name]) if name in params else 0.0
            total[name] = total.get(name, 0.0) + off
    return total


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.cpu() - b.detach().cpu().double()).norm())


def _said(step: Step, found: frozenset[str], due: frozenset[str]) -> str:
    more, less = found - due, due - found
    if more and not found & due:
        words = f"weight decay's groups are exchanged: it is on {_listed(step, more)}, and not on {_listed(step, due)}"
    elif more and less:
        words = f"weight decay is on {_listed(step, more)}, where none is due, and leaves {_listed(step, less)} out"
    elif more:
        words = f"weight decay is on {_listed(step, more)} too, where it is due on {_listed(step, due)} alone"
    else:
        words = f"weight decay leaves {_listed(step, less)} out"
    if step.decayed is None:
        decayed = "'weights'" if found == frozenset(step.weights) else sorted(found)
        words += f", where this optimiser decays all; if that is meant, declare it: decayed={decayed}"
    return words


def _listed(step: Step, names: Collection[str]) -> str:
    """Weights or all others as such, else by name."""
    local = {name: own for leaf in leaves(step.model).values() for own, name in leaf.names.items()}
    order = [name for name in local if name in names]
    listed = " and ".join(order[:MOST_NAMED]) + (" and others" if len(order) > MOST_NAMED else "")
    if all(local[name].startswith("bias") for name in order):
        return f"biases ({listed})"
    return f"weights ({listed})" if set(order) <= set(step.weights) else listed
