"""Wrong steps of training: what a step would show if it were wrong in one way, and the words for it.

Each is the hand-derived step with one change.  Which of them an engine is, is told by all that the engine shows
(`manual_bp.training.causes.explaining`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import BatchNorm, Layer, Leaf, Tensors, Visit, leaves, probe
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.causes.rows import Rows, of_rows
from manual_bp.training.causes.variants import Cut, Variant, followed, variants
from manual_bp.training.causes.wrong_gradients import wrong_gradients, wrong_precision
from manual_bp.training.causes.wrong_inputs import wrong_inputs
from manual_bp.training.causes.wrong_losses import outputs_of, wrong_losses
from manual_bp.training.causes.wrong_masks import normalised_by_pieces, unknown_masks, wrong_masks, wrong_modes
from manual_bp.training.causes.wrong_penalties import wrong_penalties
from manual_bp.training.causes.wrong_pieces import stepped, wrong_pieces
from manual_bp.training.causes.wrong_places import wrong_places
from manual_bp.training.causes.wrong_shares import wrong_shares
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.engine import COTANGENTS, ManualEngine, StepRecord
from manual_bp.training.step import Step, TrainingState


def hypotheses(step: Step, now: Moment, before: Moment | None, suspects: Collection[str]) -> Iterator[Hypothesis]:
    """From the usual to the rare.  suspects: the layers in which something may be wrong."""

    def run(
        own: Step = step, state: TrainingState = now.state, x: Tensor = now.x, target: Tensor = now.target
    ) -> StepRecord:
        return in_float64(own, state, x, target)

    yield from _of_frozen(step, now)
    yield from _of_data(step, now, before, run)
    yield from wrong_masks(step, now, before, run)
    yield from wrong_modes(step, run)
    rows = Rows(step, now, run)
    yield from wrong_pieces(rows)
    yield from wrong_losses(step, now, run)
    if before is not None:
        yield from _of_gradients(step, now, before)
    yield from wrong_shares(rows)
    yield from stepped(rows)
    for name, leaf in leaves(step.model).items():
        if name in suspects:
            yield (
                f"{name}: nothing passes back through it: it is detached, or its backward is 0 (its mask is lost, say)",
                lambda leaf=leaf, name=name: run(_with(step, {name: Cut(leaf)})),  # type: ignore[misc]
            )
    yield from _of_layers(variants, step, suspects, run)
    yield from _everywhere(step, run)
    yield from _of_layers(followed, step, suspects, run)
    yield from normalised_by_pieces(step, now, run)
    yield from wrong_penalties(step, now, run)
    yield from _of_sharing(step, now)
    yield from _of_running(step, now)
    yield from wrong_gradients(step, now)
    yield from wrong_precision(step, now, run)
    yield from wrong_inputs(step, now, run)
    yield from wrong_places(step, now, before, run)
    yield from unknown_masks(step, now, run)
    yield (
        "parameters are updated before the gradients of the layers below are computed, which pass the updated weights",
        lambda: _updated_too_early(step, now),
    )


def in_float64(step: Step, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
    """The hand-derived step there."""
    state = replace(state, params=wide(state.params), buffers=wide(state.buffers), optimizer=wide(state.optimizer))
    return ManualEngine(step).step(state, *wide({"x": x, "target": target}).values())


def _of_frozen(step: Step, now: Moment) -> Iterator[Hypothesis]:
    """Gradients that are shown as 0, of parameters that stay where they are; which nothing tells from a layer that
    passes nothing back to them but what the engine shows of layers."""
    shown, due, state = now.shown, now.due, now.state
    names = [
        n
        for n, g in due.gradients.items()
        if n in shown.gradients and n in shown.params and n not in step.frozen
        if not shown.gradients[n].any() and g.any()
        if torch.equal(shown.params[n].to(state.params[n]), state.params[n])
    ]
    if names and len(names) == len(due.gradients) - len(step.frozen):
        yield (
            "all gradients are 0, and nothing moves: the step is skipped, its gradients come late, or nothing passes "
            "back from the loss",
            lambda: replace(due, gradients={n: torch.zeros_like(g) for n, g in due.gradients.items()}),
        )
    elif names:
        many, listed = len(names) > 1, _listed(names)
        yield (
            f"the gradient{'s' * many} of {listed} {'are' if many else 'is'} 0, and {'they do' if many else 'it does'} "
            f"not move; if that is meant, declare it: frozen={tuple(names[:4])}",
            lambda: replace(
                due, gradients={n: torch.zeros_like(g) if n in names else g for n, g in due.gradients.items()}
            ),
        )


def _of_data(step: Step, now: Moment, before: Moment | None, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    if before is not None and before.x.shape == now.x.shape:
        yield "it trains on the batch of the step before", lambda: run(x=before.x, target=before.target)
        yield "its targets are those of the step before", lambda: run(target=before.target)
        yield "its inputs are those of the step before", lambda: run(x=before.x)
    n = len(now.x)
    for words, rows in (
        ("the first half of the batch alone is used", slice(0, n // 2)),
        ("the last example of the batch is left out", slice(0, n - 1)),
        ("the first example of the batch is left out", slice(1, n)),
    ):
        yield words, lambda rows=rows: of_rows(step, now, rows, run)  # type: ignore[misc]
    for by in (1, -1):
        which = "before it" if by == 1 else "behind it"
        yield (
            f"the targets are shifted by one row: each example gets that of the one {which}",
            lambda by=by: run(target=now.target.roll(by, 0)),  # type: ignore[misc]
        )
        if now.target.ndim > 1:
            yield (
                f"the targets are shifted by one along their last axis: each position gets that of the one {which}",
                lambda by=by: run(target=now.target.roll(by, -1)),  # type: ignore[misc]
            )
        if step.loss.takes_classes:
            classes = outputs_of(step, now)
            yield (
                f"the targets are shifted by one class, to the {'next' if by == 1 else 'former'} one",
                lambda by=by, n=classes: run(target=(now.target + by) % n),  # type: ignore[misc]
            )


def _of_gradients(step: Step, now: Moment, before: Moment) -> Iterator[Hypothesis]:
    if not before.shown.gradients.keys() >= now.due.gradients.keys():
        return

    def with_(gradients: Callable[[str, Tensor], Tensor]) -> StepRecord:
        return replace(now.due, gradients={name: gradients(name, g) for name, g in now.due.gradients.items()})

    for late, past in enumerate(now.past, 1):
        yield (
            f"the gradients are those of {'the step' if late == 1 else f'{late} steps'} before",
            lambda past=past: with_(lambda name, g: past[name].to(g)),  # type: ignore[misc]
        )
    yield (
        "the gradients of the steps before are not set to zero: those of this step are added to them",
        lambda: with_(lambda name, g: g + before.shown.gradients[name].to(g)),
    )
    if step.clip_norm is not None:
        clipped = {n: g for n, g in wide(before.shown.gradients).items() if n not in step.frozen}
        left = {**before.shown.gradients, **clip_by_norm(clipped, step.clip_norm)[0]}
        yield (
            "the gradients of the steps before are not set to zero: those of this step are added to what clipping has "
            "left of them",
            lambda: with_(lambda name, g: g + left[name].to(g)),
        )
    if step.l1 or step.l2:
        # An optimiser of torch adds its weight decay to what it takes of .grad, and leaves .grad without it.
        weights = wide({n: before.state.params[n] for n in step.weights})
        penalty = {n: step.l2 * w + step.l1 * w.sign() for n, w in weights.items()}
        yield (
            "the gradients of the steps before are not set to zero: those of this step are added to them, and the "
            "penalty to their sum",
            lambda: with_(lambda name, g: g + before.shown.gradients[name].to(g) - penalty.get(name, 0.0)),
        )
    if before.total:
        yield (
            "the gradients of all steps so far are added up: they are not set to zero",
            lambda: with_(lambda name, g: g + before.total[name].to(g)),
        )
        shown = now.shown.gradients
        kept = [
            n
            for n, g in now.due.gradients.items()
            if n in shown and n in before.total and before.total[n].any()
            if _distance(shown[n], g + before.total[n].to(g)) < _distance(shown[n], g)
        ]
        if kept and len(kept) < len(now.due.gradients):
            yield (
                f"the gradients of {_listed(kept)} are not set to zero between steps: those of all steps so far are "
                "added up, and the others are not",
                lambda: with_(lambda name, g: g + before.total[name].to(g) if name in kept else g),
            )


def _distance(shown: Tensor, other: Tensor) -> float:
    return float((shown.cpu().double() - other.cpu().double()).norm())


def _listed(names: list[str]) -> str:
    return " and ".join(names[:4]) + (" and others" if len(names) > 4 else "")


def _with(step: Step, layers: dict[str, Layer]) -> Step:
    model = step.model
    return replace(step, model=replace(model, layer=model.map(lambda name, leaf: layers.get(name, leaf))))


def _of_layers(
    wrong: Callable[[Leaf], Iterator[Variant]], step: Step, suspects: Collection[str], run: Callable[..., StepRecord]
) -> Iterator[Hypothesis]:
    for name, leaf in leaves(step.model).items():
        if name in suspects:
            for words, layer in wrong(leaf):
                yield f"{name}: {words}", lambda layer=layer, name=name: run(_with(step, {name: layer}))  # type: ignore[misc]


def _everywhere(step: Step, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """The same variant of every layer of a kind."""
    kinds: dict[str, dict[str, Leaf]] = {}
    for name, leaf in leaves(step.model).items():
        kinds.setdefault(leaf.rule.name, {})[name] = leaf
    for rule, found in kinds.items():
        if len(found) < 2:
            continue
        tables = {name: dict(variants(leaf)) for name, leaf in found.items()}
        first = next(iter(tables.values()))
        for words in first:
            if all(words in table for table in tables.values()):
                layers = {name: table[words] for name, table in tables.items()}
                yield f"every {rule}: {words}", lambda layers=layers: run(_with(step, layers))  # type: ignore[misc]


def _of_running(step: Step, now: Moment) -> Iterator[Hypothesis]:
    """Running statistics of another momentum, which is read off those that are shown."""
    due, state = wide(now.due.buffers), wide(now.state.buffers)
    shown = {n: t for n, t in wide(now.shown.buffers).items() if n in due and due[n].is_floating_point()}
    names = [n for n in shown if n in state]
    if not names:
        return
    came, wanted = (torch.cat([(t[n] - state[n]).flatten() for n in names]) for t in (shown, due))
    if not float(wanted.norm()):
        return
    c = float(came @ wanted / (wanted @ wanted))
    momenta = {leaf.momentum for leaf in leaves(step.model).values() if isinstance(leaf, BatchNorm)}
    momentum = momenta.pop() if len(momenta) == 1 else None  # of a mean over all batches so far there is none
    own = f": their momentum is {c * momentum:.4g}" if momentum is not None else ""
    yield (
        f"the running statistics go {c:.4g} of the way that is due{own}",
        lambda: replace(now.due, buffers={**due, **{n: state[n] + c * (due[n] - state[n]) for n in names}}),
    )


def _of_sharing(step: Step, now: Moment) -> Iterator[Hypothesis]:
    """A parameter that several layers share gets the gradient of one of them alone."""
    sharing: dict[str, list[str]] = {}
    for layer, leaf in leaves(step.model).items():
        for name in leaf.names.values():
            if name in now.due.gradients:
                sharing.setdefault(name, []).append(layer)
    for name, layers in sharing.items():
        for lost in layers if len(layers) > 1 else ():
            for times, how in ((0, "not counted"), (2, "counted twice")):
                yield (
                    f"{name} is shared by {' and '.join(layers)}, and the gradient that {lost} gives it is {how}",
                    lambda name=name, lost=lost, times=times: _counted(step, now, name, lost, times),  # type: ignore[misc]
                )


def _counted(step: Step, now: Moment, name: str, layer: str, times: int) -> StepRecord:
    """A shared parameter's gradient, to which one layer's part is added so many times."""
    local = _visited(step, now)[layer].dparams[name]
    gradients = {**now.due.gradients, name: now.due.gradients[name].double() + (times - 1) * local}
    return replace(now.due, gradients=gradients)


def _visited(step: Step, now: Moment) -> dict[str, Visit]:
    layer, visits = probe(step.model)
    state = replace(now.state, params=wide(now.state.params), buffers=wide(now.state.buffers))
    x, target = wide({"x": now.x, "target": now.target}).values()
    step.gradients(layer, state, x, target)
    return visits


def _updated_too_early(step: Step, now: Moment) -> StepRecord:
    """Each layer's parameters are updated as soon as their gradient is there; what goes on passes the new ones."""
    state = replace(
        now.state, params=wide(now.state.params), buffers=wide(now.state.buffers), optimizer=wide(now.state.optimizer)
    )
    layers: dict[str, dict[str, Tensor]] = {}

    class Early:
        def __init__(self, name: str, leaf: Leaf) -> None:
            self.name, self.leaf = name, leaf

        def forward(self, params: Tensors, buffers: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
            y, residuals, after = self.leaf.forward(params, buffers, x)
            visit = Visit(self.leaf, self.leaf.inputs(params, buffers, x), y)
            return y, (residuals, visit, (buffers, x)), after

        def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
            kept, visit, (buffers, x) = residuals
            visit.dy = dy
            layers[self.name] = {
                k: t for k, t in visit.quantities().items() if not k.startswith("d") or k in COTANGENTS
            }
            dx, dparams = self.leaf.backward(kept, dy)
            own = {name: dparams.get(name, torch.zeros_like(p)) for name, p in state.params.items()}
            new = step.update(state, own, {}).params
            _, again, _ = self.leaf.forward({**state.params, **{name: new[name] for name in dparams}}, buffers, x)
            return (self.leaf.backward(again, dy)[0] if dparams else dx), dparams

        def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
            return self.leaf

    layer = step.model.map(lambda name, leaf: Early(name, leaf))
    x, target = wide({"x": now.x, "target": now.target}).values()
    cost, gradients, _ = step.gradients(layer, state, x, target)
    return replace(now.due, loss=cost, gradients=gradients, layers={n: layers[n] for n in now.due.layers})
