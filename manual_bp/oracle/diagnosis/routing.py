"""Routing: other pieces than the winner of a unit get its cotangent, where a page has an axis units·pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, Sample, wide

# A threshold is read off so many pieces on either side of it, at least.
NUMBERS = 3

Shares = Callable[[Tensor], Tensor]
"""Pieces, (..., units, pieces) -> how much of its unit's cotangent each gets."""


def _largest(pieces: Tensor) -> Tensor:
    """1 at the first of the largest, 0 elsewhere."""
    return torch.zeros_like(pieces).scatter_(-1, pieces.argmax(-1, keepdim=True), 1.0)


def _among(first: int, last: int | None, pieces: Tensor) -> Tensor:
    """1 at the largest of some of the pieces; of all if those are none."""
    some = torch.full_like(pieces, -torch.inf)
    some[..., first:last] = pieces[..., first:last]
    return _largest(some if pieces[..., first:last].numel() else pieces)


def _always(index: int, pieces: Tensor) -> Tensor:
    """1 at one piece, whatever its size."""
    shares = torch.zeros_like(pieces)
    shares[..., index] = 1.0
    return shares


SHARES: Mapping[str, Shares] = {
    "the winner is the piece of the largest magnitude": lambda u: _largest(u.abs()),
    "the winner is the largest piece of the whole row, and all other units have none": lambda u: _largest(
        u.flatten(-2)
    ).reshape(u.shape),
    "the winner is sought over the wrong axis: over the units and not over the pieces": lambda u: _largest(u.mT).mT,
    "the piece after the winner gets its share (an index off by one)": lambda u: _largest(u).roll(1, -1),
    "the piece before the winner gets its share (an index off by one)": lambda u: _largest(u).roll(-1, -1),
    "the last piece never wins": partial(_among, 0, -1),
    "the first piece never wins": partial(_among, 1, None),
    **{f"only the first {n} pieces can win, whatever their number is": partial(_among, 0, n) for n in (2, 3, 4)},
    "the first piece always wins": partial(_always, 0),
    "the last piece always wins": partial(_always, -1),
    "no negative piece wins, as if the comparison began with 0": lambda u: _largest(u) * (u > 0),
    "every positive piece gets it, and not the winner": lambda u: (u > 0).to(u.dtype),
    "the pieces share it by their softmax, and it does not go to the winner alone": lambda u: u.softmax(-1),
}
"""Who gets the cotangent of a unit, in words."""


def routing(found: Examination) -> Iterator[Explanation]:
    """Another piece wins, several do, or the pieces of a unit lie elsewhere."""
    if not _is_routed(found):
        return
    for words, shares in SHARES.items():
        yield from found.matched(
            partial(_routed, shares, False), f"{{}} is routed to other pieces than the winners: {words}"
        )
    words = "the pieces of a unit are taken for interleaved (x[u], x[units + u], ...), and they are consecutive"
    yield from found.matched(partial(_routed, _largest, True), f"{{}} is that of another layout: {words}")
    yield from _near_ties(found)


def _is_routed(found: Examination) -> bool:
    annotations = list(found.rule.annotations.values())
    token = axes.tokens(annotations[0])[-1:] if len(annotations) == 1 and found.rule.has_backward else []
    return any(factor in found.rule.hyper for factor in axes.factors("".join(token)))


def _pieces(x: Tensor, case: Case, interleaved: bool = False) -> Tensor:
    units = case.dy.shape[-1]
    split = wide(x).reshape(*case.dy.shape, -1) if units else wide(x).reshape(*case.dy.shape, 1)
    return wide(x).reshape(*case.dy.shape[:-1], split.shape[-1], units).mT if interleaved else split


def _routed(shares: Shares, interleaved: bool, case: Case) -> Prediction:
    (x,) = case.inputs
    pieces = _pieces(x, case, interleaved)
    share = shares(pieces)
    value = torch.where(share > 0, share * pieces, 0).sum(-1)
    routed = torch.where(share > 0, share * wide(case.dy)[..., None], 0)
    return Prediction((value, (routed.mT if interleaved else routed).reshape(x.shape)))


def _near_ties(found: Examination) -> Iterator[Explanation]:
    """All pieces within some distance of the maximum; the distance is read off the candidate's results."""
    position = found.arguments.index("y") + 1
    argument = found.arguments[position]
    gaps = [g for s in found.column(argument) if (g := _gaps(s)) is not None]
    if argument not in found.unexplained() or not gaps:
        return
    passed, not_passed = (torch.cat([g[i] for g in gaps]) for i in (0, 1))
    if int((passed > 0).sum()) < NUMBERS or len(not_passed) < NUMBERS or float(passed.max()) >= float(not_passed.min()):
        return
    largest, smallest = float(passed.max()), float(not_passed.min())
    distance = (largest + smallest) / 2
    words = f"near the maximum is taken for a tie: it goes to all pieces within {distance:.2g} of the largest"
    evidence = f"the farthest that got it lies {largest:.4g} below, the nearest that did not {smallest:.4g}"
    shares = partial(_within, distance)
    yield from found.matched(partial(_routed_alone, shares), f"{{}}: {words} ({evidence})", "near ties")


def _within(distance: float, pieces: Tensor) -> Tensor:
    return (pieces > pieces.amax(-1, keepdim=True) - distance).to(pieces.dtype)


def _routed_alone(shares: Shares, case: Case) -> Prediction:
    """With the right value."""
    return Prediction((None, *_routed(shares, False, case).values[1:]))


def _gaps(sample: Sample) -> tuple[Tensor, Tensor] | None:
    """How far below the maximum the pieces lie that got their unit's cotangent, and those that got 0."""
    (x,) = sample.case.inputs
    if sample.got.shape != x.shape or not x.numel() or not bool(wide(x).isfinite().all()):
        return None
    pieces, got = (_pieces(t, sample.case) for t in (x, sample.got))
    gap = (pieces.amax(-1, keepdim=True) - pieces).flatten()
    shows = (
        wide(sample.case.dy)[..., None].expand(pieces.shape).abs() > APART * float(sample.allowance.max())
    ).flatten()
    return gap[shows & (got.flatten() != 0)], gap[shows & (got.flatten() == 0)]
