"""Wrong updates with a number that nobody declared: which it is, the updates that were shown tell.

Each kind is an update as a function of one number.  Which number comes nearest to what was shown is sought on a grid,
and then by Gauss and Newton's iteration; told is only what then makes every step that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.registry import RULES
from manual_bp.training.causes.explaining import IMPOSSIBLE
from manual_bp.training.causes.following import Course, Found
from manual_bp.training.causes.nearest import nearest
from manual_bp.training.causes.updating import After, Updating
from manual_bp.training.causes.wrong_updates import MOST_SELDOM, changed_optimizer
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.optimizers import MAKERS

Update = Callable[[Updating], After]
GRID = 12
"""Points of a grid: four in each power of ten of three."""
MOST_FITTED = 6
"""Steps by which a number is sought; all are asked whether it is the one."""
DIGITS = (1, 2, 3, 6, 12)
"""To the fewest of these that make what was shown it is rounded: few are typed."""


@dataclass(frozen=True)
class Kind:
    """words: with the number.  of: the update of a number.  value: the number, of what is sought; grid: of that."""

    words: Callable[[str], str]
    of: Callable[[float], Update]
    value: Callable[[float], float]
    grid: Sequence[float]


def numbers(course: Course) -> Iterator[Found]:
    for kind in _kinds(course):
        with suppress(*IMPOSSIBLE):
            yield from _fitted(course, kind)


def _fitted(course: Course, kind: Kind) -> Iterator[Found]:
    first = replace(course, steps=course.steps[:MOST_FITTED])
    names = course.judged

    def flat(named: Tensors) -> Tensor:
        return torch.cat([named[n].detach().cpu().double().flatten() for n in names])

    shown = torch.cat([flat(seen.shown.params) for seen in first.steps])

    def at(u: float) -> Tensor:
        return torch.cat([flat(params) for _, (params, _) in first.made(kind.of(kind.value(u)))])

    start = min(kind.grid, key=lambda u: float((at(u) - shown).norm().nan_to_num(torch.inf)))
    found = nearest(at, shown, start)
    if found is None:
        return
    for digits in DIGITS:
        said = f"{kind.value(found):.{digits}g}"
        if (made := course.followed(kind.of(float(said)))) is not None:
            yield kind.words(said), made
            return


def _kinds(course: Course) -> Iterator[Kind]:
    yield from _clippings(course)
    if course.is_own:  # what these remember no state that is given holds
        yield from _averages(course)
    yield from _options(course)
    yield Kind(
        lambda said: f"the gradients that go into the update are {said} times those that are shown (a scale, say)",
        lambda c: lambda of: of.after(gradients={n: c * g for n, g in of.gradients.items()}),
        lambda u: 10**u,
        [k / 2 for k in range(-GRID, GRID + 1)],
    )


def _clippings(course: Course) -> Iterator[Kind]:
    """Beside what is declared, or where nothing is."""
    every = [g.detach().double() for seen in course.steps for g in seen.gradients.values()]
    norms = [
        math.sqrt(sum(float(g.detach().double().square().sum()) for g in seen.gradients.values()))
        for seen in course.steps
    ]
    declared = course.step.clip_norm
    meant = " (if that is meant, declare it: clip_norm={})" if declared is None else f", where {declared:g} is declared"

    def whole(limit: float) -> Callable[[Tensors], Tensors]:
        return lambda gradients: clip_by_norm(gradients, limit)[0]

    def tensors(limit: float) -> Callable[[Tensors], Tensors]:
        page = RULES["clip_by_norm"].page
        return lambda gradients: {n: page.clipped([g], limit)[0][0] for n, g in gradients.items()}

    def values(limit: float) -> Callable[[Tensors], Tensors]:
        return lambda gradients: {n: g.clamp(-limit, limit) for n, g in gradients.items()}

    for words, clipped, highest in (
        ("all together to a norm of {}" + meant, whole, max(norms)),
        ("each tensor by its own norm, to {}", tensors, max(float(g.norm()) for g in every)),
        ("each number by its value, to ±{}", values, max(float(g.abs().max()) for g in every if g.numel())),
    ):
        if highest > 0:
            top = math.log10(highest)
            yield Kind(
                lambda said, words=words: f"the gradients are clipped, {words.format(said, said)}",  # type: ignore[misc]
                lambda limit, clipped=clipped: (  # type: ignore[misc]
                    lambda of: of.after(replace(of.step, clip_norm=None), gradients=clipped(limit)(of.gradients))
                ),
                lambda u: 10**u,
                [top - (k + 0.5) / 4 for k in range(GRID)],
            )


def _averages(course: Course) -> Iterator[Kind]:
    """Of parameters over the steps, in place of these themselves."""
    for begins, where in ((True, "begins at the parameters of the start"), (False, "begins behind the first step")):
        yield Kind(
            lambda said, where=where: (  # type: ignore[misc]
                f"the parameters are an average of themselves over the steps, of decay {said}, which {where}: a moving "
                "average (EMA) is written back to the model"
            ),
            lambda decay, begins=begins: lambda of: _averaged(of, decay, begins),  # type: ignore[misc]
            lambda u: 1 - 10**u,
            [-k / 4 for k in range(1, GRID + 1)],
        )

    for every in range(2, MOST_SELDOM + 1):
        yield Kind(
            lambda said, every=every: (  # type: ignore[misc]
                f"every {every} steps the parameters are set back, to {said} of their way since then (Lookahead, say)"
            ),
            lambda share, every=every: lambda of: _set_back(of, share, every),  # type: ignore[misc]
            lambda u: u,
            [k / GRID for k in range(1, GRID)],
        )


def _set_back(of: Updating, share: float, every: int) -> After:
    """Those to which they are set back are kept in the optimiser's state, under names of its own."""
    own = {n: t for n, t in of.state.optimizer.items() if not n.startswith("slow.")}
    slow = {n: of.state.optimizer.get(f"slow.{n}", p) for n, p in of.state.params.items()}
    params, optimizer = of.after(state=replace(of.state, optimizer=own))
    if (of.state.steps + 1) % every == 0:
        params = slow = {n: slow[n] + share * (p - slow[n]) for n, p in params.items()}
    return params, {**optimizer, **{f"slow.{n}": p for n, p in slow.items()}}


def _averaged(of: Updating, decay: float, begins: bool) -> After:
    """The average is kept in the optimiser's state, under names of its own."""
    own = {n: t for n, t in of.state.optimizer.items() if not n.startswith("average.")}
    params, optimizer = of.after(state=replace(of.state, optimizer=own))
    former = {n: of.state.optimizer.get(f"average.{n}", of.state.params[n] if begins else p) for n, p in params.items()}
    average = {n: decay * former[n] + (1 - decay) * p for n, p in params.items()}
    return average, {**optimizer, **{f"average.{n}": p for n, p in average.items()}}


def _options(course: Course) -> Iterator[Kind]:
    """Numbers among the optimiser's options, but for its learning rate, of which multiples are told."""
    own = course.step.optimizer
    if own.name not in MAKERS:
        return
    for name, value in own.config.items():
        if isinstance(value, bool) or name == "lr":
            continue
        for k, due in enumerate(value) if isinstance(value, tuple) else [(None, value)]:

            def of_number(c: float, name: str = name, k: int | None = k, value: Any = value) -> Update:
                given: Any = c if k is None else tuple(c if j == k else other for j, other in enumerate(value))
                step = changed_optimizer(course.step, **{name: given})
                return lambda of: of.after(step, state=_suited(of, step.optimizer.init))

            is_share = name in ("momentum", "dampening", "betas")
            what = name if k is None else f"β{k + 1}"
            yield Kind(
                lambda said, what=what, due=due: f"{what} is {said}, where {due!r} is due",  # type: ignore[misc]
                of_number,
                (lambda u: 1 - 10**u) if is_share else (lambda u: 10**u),
                [-k / 4 for k in range(1, GRID + 1)] if is_share else [-k / 1.5 for k in range(GRID)],
            )


def _suited(of: Updating, init: Callable[[Tensors], dict[str, Tensor]]) -> Any:
    """The state, with what the optimiser keeps of other options."""
    return replace(of.state, optimizer={**init(dict(of.state.params)), **of.state.optimizer})
