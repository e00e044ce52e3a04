"""An engine's layer that is wrong by itself: what the oracle says of it, with the tensors that the engine shows."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from manual_bp.chain import Visit
from manual_bp.training.causes.explaining import cause_of_layer
from manual_bp.training.engine import COTANGENTS
from manual_bp.training.judging.compared import Compared
from manual_bp.training.judging.disagreement import Disagreement, Judged
from manual_bp.training.replaying import Replay
from manual_bp.training.step import Step, TrainingState


def cause_of_own_layer(judge: Compared, replay: Replay, judged: Judged, first: Disagreement) -> str:
    """What the oracle says of the layer whose backward, or forward, is wrong by itself."""
    layer = first.layer
    if first.quantity in COTANGENTS:
        above = judge.takers.get(layer, [])
        if len(above) != 1:
            return ""
        (layer,) = above
    if layer not in replay.visits:
        return ""
    said = cause_of_layer(_as_shown(judge, layer, replay.visits[layer], judged), judge.dtype)
    return f"{layer}: {said}" if said else ""


def _as_shown(judge: Compared, layer: str, visit: Visit, judged: Judged) -> Visit:
    """A layer's visit with the results that the engine has shown in place of those that are due."""
    theirs = judged.theirs
    below = [name for name, above in judge.takers.items() if above == [layer]]
    dx = visit.dx
    if len(below) == 1 and isinstance(dx, Tensor):
        shown = theirs.layers.get(below[0], {})
        # Of another shape it is where the numbers stand in other places in between, as heads are split.
        fitting = (shown[k] for k in COTANGENTS if k in shown and shown[k].shape == dx.shape)
        dx = next((t.detach().cpu().double() for t in fitting), dx)
    dparams = dict(visit.dparams)
    for name in dparams:
        sharing = [leaf for leaf in judge.leaves.values() if name in leaf.names.values()]
        if name in theirs.gradients and len(sharing) == 1:
            dparams[name] = _without_penalties(judge.training, name, theirs.gradients[name], judged.state)
    return replace(visit, dx=dx, dparams=dparams)


def _without_penalties(step: Step, name: str, gradient: Tensor, state: TrainingState) -> Tensor:
    weight = state.params[name].double().cpu()
    penalty = step.l2 * weight + step.l1 * weight.sign() if name in step.weights else 0.0
    return gradient.detach().cpu().double() - penalty
