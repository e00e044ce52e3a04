"""Wrong clipping: left out, by another norm, of other gradients together, or to another limit for some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from manual_bp.chain import leaves
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.training.causes.updating import After, Updating, WrongUpdate
from manual_bp.training.step import Step

MOST_LAYERS = 8
"""Of so many each is tried as the one that is clipped, or is not."""


def wrong_clippings(step: Step) -> Iterator[WrongUpdate]:
    limit = step.clip_norm
    if limit is None:
        return
    plain = replace(step, clip_norm=None)
    yield (
        "clipping is left out or comes after the update: the gradients go into it as they are",
        lambda of: of.after(plain),
    )

    def each(of: Updating) -> After:
        page = RULES["clip_by_norm"].page
        return of.after(plain, gradients={n: page.clipped([g], limit)[0][0] for n, g in of.gradients.items()})

    yield "clipping is by the norm of each tensor, where that of all gradients together is due", each

    for eps, also in ((1e-6, ""), (0.0, ", without eps")):

        def by_sum(of: Updating, eps: float = eps) -> After:
            norm = torch.stack([g.norm() for g in of.gradients.values()]).sum()
            by = torch.clamp(limit / (norm + eps), max=1.0)
            return of.after(plain, gradients={n: by * g for n, g in of.gradients.items()})

        words = "clipping is by the sum of the tensors' norms, where the root of the sum of their squares is due"
        yield words + also, by_sum
    yield (
        f"clipping is by value (to ±{limit:g}), where that by the norm of all gradients is due",
        lambda of: of.after(plain, gradients={n: g.clamp(-limit, limit) for n, g in of.gradients.items()}),
    )
    for whose, names in _parts(step):
        for words, keeps in (
            (f"clipping is of {whose} alone, by their own norm", True),
            (f"clipping is by the norm of {whose} alone, and shortens all", False),
        ):

            def partly(of: Updating, names: Any = names, keeps: Any = keeps) -> After:
                inside = {n: g for n, g in of.gradients.items() if n in names}
                clipped, norm = RULES["clip_by_norm"].page.clipped(list(inside.values()), limit)
                by = torch.clamp(limit / (norm + 1e-6), max=1.0)
                others = of.gradients if keeps else {n: by * g for n, g in of.gradients.items()}
                own = {**others, **dict(zip(inside, clipped, strict=True))}
                return of.after(plain, gradients=own)

            yield words, partly
    for mistake in RULES["clip_by_norm"].mistakes:

        def clipped(of: Updating, mistake: Any = mistake) -> After:
            flat = torch.cat([g.flatten() for g in of.gradients.values()])
            clipped, *_ = parts(mistake.backward(grad=flat, max_norm=limit, eps=1e-6))
            pieces = torch.split(clipped, [g.numel() for g in of.gradients.values()])
            named = zip(of.gradients.items(), pieces, strict=True)
            return of.after(plain, gradients={n: piece.view_as(g) for (n, g), piece in named})

        yield f"clipping is the known mistake '{mistake.name}', which forgets {mistake.forgets}", clipped


def _parts(step: Step) -> Iterator[tuple[str, list[str]]]:
    """Parameters that somebody may clip by themselves: weights, all others, those of one layer, of all but one."""
    layers = [list(leaf.names.values()) for leaf in leaves(step.model).values()]
    layers = [[name for name in names if name not in step.frozen] for names in layers]
    layers = [names for k, names in enumerate(layers) if names and names not in layers[:k]]
    every = list(dict.fromkeys(name for names in layers for name in names))
    yield "weights", [name for name in every if name in step.weights]
    yield "biases and all that are no weights", [name for name in every if name not in step.weights]
    if 1 < len(layers) <= MOST_LAYERS:
        for names in layers:
            yield " and ".join(names), names
        for names in layers if len(layers) > 2 else ():
            yield f"all but {' and '.join(names)}", [name for name in every if name not in names]
