"""Wrong masks and modes: dropout by other masks than those of the step, there or back, and layers that evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import BatchNorm, Dropout, Layer, Leaf, Tensors, leaves, takers
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.causes.variants import Wrapped, evaluating
from manual_bp.training.engine import COTANGENTS, StepRecord
from manual_bp.training.step import Step, TrainingState

MOST_UNITS = 64
"""Of a batch: a mask of so many numbers is read off the gradients, by as many runs."""

DESCENTS = 2000


def wrong_masks(step: Step, now: Moment, before: Moment | None, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    drops = {name: leaf for name, leaf in leaves(step.model).items() if isinstance(leaf, Dropout)}
    masks = {name: next(iter(leaf.names.values())) for name, leaf in drops.items()}
    own = {layer: now.state.buffers[mask] for layer, mask in masks.items() if mask in now.state.buffers}

    def with_(changed: dict[str, Tensor]) -> StepRecord:
        return run(state=with_buffers(now.state, {masks[layer]: mask for layer, mask in changed.items()}))

    if before is not None and own:
        former = {layer: before.state.buffers[masks[layer]] for layer in own if masks[layer] in before.state.buffers}
        first = ", which is the first: or those of the first in every step" if not before.state.steps else ""
        yield f"dropout uses the masks of the step before{first}", lambda: with_(former)
    yield from _read(step, now, run, drops, masks)
    for first, mask in own.items():
        alike = [other for other, x in own.items() if other != first and x.shape == mask.shape]
        if alike:
            yield (
                f"one mask is drawn for several layers: that of {first} is also used in {' and '.join(alike[:4])}",
                lambda mask=mask, alike=alike: with_(dict.fromkeys(alike, mask)),  # type: ignore[misc, arg-type]
            )
    if own:
        yield (
            "one mask is drawn for the whole batch: every example is dropped by that of the first",
            lambda: with_({layer: mask[:1].expand_as(mask) for layer, mask in own.items()}),
        )
    for layer, leaf in drops.items():
        for words, mask in _behind(layer, own, before, masks):
            yield (
                f"{layer}: its backward drops by {words}, as where backward computes forward again and draws anew",
                lambda layer=layer, leaf=leaf, mask=mask: run(  # type: ignore[misc]
                    _with(step, {layer: Remasked(leaf, masks[layer], mask)})
                ),
            )


def _behind(
    layer: str, own: dict[str, Tensor], before: Moment | None, masks: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    for other, mask in own.items():
        if other != layer and layer in own and mask.shape == own[layer].shape:
            yield f"the mask of {other}", mask
    if before is not None and masks[layer] in before.state.buffers:
        yield "the mask of the step before", before.state.buffers[masks[layer]]


def _read(
    step: Step, now: Moment, run: Callable[..., StepRecord], drops: dict[str, Dropout], masks: dict[str, str]
) -> Iterator[Hypothesis]:
    """Masks that are read off what the engine shows: y is 0 where forward drops, and dx where backward does."""
    own, back = {}, {}
    above = takers(step.model.layer)
    for layer in drops:
        shown = now.shown.layers.get(layer, {})
        due = now.state.buffers.get(masks[layer])
        if "y" in shown and due is not None and shown["y"].shape == due.shape:
            own[masks[layer]] = (shown["y"] != 0).cpu()
        below = [name for name, each in above.items() if each == [layer]]
        found = now.shown.layers.get(below[0], {}) if below else {}
        dx = next((found[letter] for letter in COTANGENTS if letter in found), None)
        if dx is not None and due is not None and "dy" in shown and dx.shape == due.shape == shown["dy"].shape:
            # Where dy is 0 nothing can be read.
            back[layer] = torch.where((shown["dy"] == 0).cpu(), due.cpu().bool(), (dx != 0).cpu())
    if own:
        yield (
            "dropout draws masks of its own, and not those of the state; shown in buffers they would be the step's",
            lambda: run(state=with_buffers(now.state, own)),
        )
    for layer, mask in back.items():
        yield (
            f"{layer}: backward drops by another mask than forward: it is drawn anew where forward is computed again",
            lambda layer=layer, mask=mask: run(  # type: ignore[misc]
                _with(step, {layer: Remasked(drops[layer], masks[layer], mask)})
            ),
        )


def unknown_masks(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """A mask by which backward alone drops, read off the gradients: they depend on it linearly."""
    names = [name for name in now.due.gradients if name in now.shown.gradients]
    for layer, leaf in leaves(step.model).items():
        (name,) = leaf.names.values() if isinstance(leaf, Dropout) else ("",)
        own = now.state.buffers.get(name)
        if own is None or own.numel() > MOST_UNITS:
            continue

        def by(mask: Tensor, leaf: Leaf = leaf, name: str = name, layer: str = layer) -> StepRecord:
            return run(_with(step, {layer: Remasked(leaf, name, mask)}))

        def flat(record: StepRecord) -> Tensor:
            return torch.cat([record.gradients[n].detach().cpu().double().flatten() for n in names])

        nothing = flat(by(torch.zeros_like(own)))
        units = torch.eye(own.numel(), dtype=own.dtype).view(-1, *own.shape)
        columns = torch.stack([flat(by(unit)) - nothing for unit in units], 1)
        felt = columns.abs().amax(0) > 0
        if int(columns.any(1).sum()) < len(units):  # fewer numbers than there are units say nothing
            continue
        kept = _zeros_and_ones(columns, flat(now.shown) - nothing)
        mask = torch.where(felt, kept, own.flatten().cpu().bool()).view(own.shape).to(own.dtype)
        if not torch.equal(mask, own.cpu()):
            yield (
                f"{layer}: its backward drops other units than forward did, as where what is computed again in "
                "backward (a checkpoint) draws another mask",
                lambda mask=mask, by=by: by(mask),  # type: ignore[misc]
            )


def _zeros_and_ones(columns: Tensor, wanted: Tensor) -> Tensor:
    """The columns whose sum is nearest to what is wanted: of numbers between 0 and 1 the nearest, rounded, and then
    changed by one or two as long as that is nearer."""
    gram, towards = columns.T @ columns, columns.T @ wanted
    rate = 1 / float(torch.linalg.matrix_norm(gram, 2) or 1.0)
    between = torch.full_like(towards, 0.5)
    for _ in range(DESCENTS):
        between = (between - rate * (gram @ between - towards)).clamp(0, 1)
    found = (between > 0.5).double()
    for _ in range(len(found)):
        turn = 1 - 2 * found
        single = 2 * turn * (gram @ found - towards) + gram.diagonal()
        both = single[:, None] + single + 2 * turn[:, None] * turn * gram
        both.fill_diagonal_(torch.inf)
        if not float(min(single.min(), both.min())) < 0:
            break
        if float(single.min()) <= float(both.min()):
            changed = single.argmin()[None]
        else:
            changed = torch.stack(torch.unravel_index(both.argmin(), both.shape))
        found[changed] = 1 - found[changed]
    return found.bool()


def wrong_modes(step: Step, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """Layers that behave as in evaluation, all at once."""
    found = leaves(step.model)
    changed = {n: evaluating(leaf) for n, leaf in found.items() if isinstance(leaf, Dropout | BatchNorm)}
    if len(changed) > 1:
        kinds = [
            said
            for kind, said in (
                (Dropout, "dropout is off"),
                (BatchNorm, "batch norm normalises by the running statistics"),
            )
            if any(isinstance(found[n], kind) for n in changed)
        ]
        yield (
            f"the network is in evaluation while it trains (eval() without train()): {' and '.join(kinds)}",
            lambda: run(_with(step, changed)),
        )


def normalised_by_pieces(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """Batch norm normalises each piece of the batch by itself, and takes it in by itself."""
    n = len(now.x)
    if not any(isinstance(leaf, BatchNorm) for leaf in leaves(step.model).values()):
        return
    for pieces in range(2, n // 2 + 1):
        if n % pieces == 0:
            yield (
                f"batch norm has the statistics of each of {pieces} pieces of the batch, where those of the whole are "
                "due (if that is meant, let the judge have batches of a piece's size)",
                lambda size=n // pieces: _in_pieces(step, now, size, run),  # type: ignore[misc]
            )


def _in_pieces(step: Step, now: Moment, size: int, run: Callable[..., StepRecord]) -> StepRecord:
    records, state = [], now.state
    for k in range(0, len(now.x), size):
        rows = slice(k, k + size)
        masks = {n: now.state.buffers[n][rows] for n in step.model.masks if n in now.state.buffers}
        records.append(run(state=with_buffers(state, masks), x=now.x[rows], target=now.target[rows]))
        state = replace(state, buffers={**state.buffers, **records[-1].buffers})
    plain = [replace(record, layers={}, params={}, buffers={}, optimizer={}) for record in records]
    found = StepRecord.combine(lambda *tensors: sum(tensors) / len(tensors), *plain)
    return replace(found, buffers=records[-1].buffers)


def with_buffers(state: TrainingState, buffers: Tensors) -> TrainingState:
    return replace(state, buffers={**state.buffers, **buffers})


def _with(step: Step, layers: dict[str, Layer]) -> Step:
    model = step.model
    return replace(step, model=replace(model, layer=model.map(lambda name, leaf: layers.get(name, leaf))))


@dataclass(frozen=True)
class Remasked(Wrapped):
    """Its backward drops by another mask than its forward."""

    leaf: Leaf
    name: str
    mask: Tensor

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        y, _, after = self.leaf.forward(params, state, x)
        _, residuals, _ = self.leaf.forward(params, {**state, self.name: self.mask}, x)
        return y, residuals, after
