"""What a page gives for a batch that is taken apart wrongly: programs, each run on the page's own results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from manual_bp.oracle.accumulation.pieces import Apart
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts
from manual_bp.rule import Rule

# What pieces in float64 may differ by is 1e-16 of each term; where less than this share is left the cost itself is 0.
SAME = 1e-6
# torch.nn.utils.clip_grad_norm_ adds this to the norm.
CLIP_EPS = 1e-6
LIMITS = (1.0, 0.1, 0.5, 5.0)
"""To which gradients are usually clipped."""

Results = tuple[Tensor | None, ...]


class Found(NamedTuple):
    """What the page gives for a case: of the whole, and of its pieces.  lengths: theirs."""

    rule: Rule
    case: Case
    apart: Apart
    lengths: list[int]
    whole: tuple[Any, Sequence[Tensor | None]]
    pieces: Sequence[tuple[Any, Sequence[Tensor | None]]]

    def together(self, weights: Sequence[float], some: Sequence[int] | None = None) -> Results:
        """Pieces with these weights, only some of them in the gradients; y as the whole's where it is joined."""
        left = [1.0 if some is None or k in some else 0.0 for k in range(len(self.pieces))]
        y, _ = self.apart.together(self.pieces, weights)
        kept = [
            (y, [None if g is None else on * g for g in grads])
            for (y, grads), on in zip(self.pieces, left, strict=True)
        ]
        _, grads = self.apart.together(kept, weights)
        return (*parts(y), *grads)

    @property
    def right(self) -> list[float]:
        """The weights by which pieces add up to the whole, as far as rows tell; of a mean of rows their share."""
        rows = [n / max(sum(self.lengths), 1) for n in self.lengths]
        return rows if self.is_mean else [1.0] * len(rows)

    @property
    def weights_of_whole(self) -> list[float]:
        """The weight that each piece has in the whole: that of its cost in the whole's, by the rows' own cotangents."""
        if not self.is_mean:
            return [1.0] * len(self.pieces)
        found = []
        start = 0
        for (_, grads), length in zip(self.pieces, self.lengths, strict=True):
            weight = length / max(sum(self.lengths), 1)
            for whole, piece, axis in zip(self.whole[1], grads, self.apart.inputs, strict=True):
                if axis is None or whole is None or piece is None or not float(piece.abs().sum()):
                    continue
                weight = float((whole.narrow(axis, start, length) * piece).sum() / piece.square().sum())
                break
            found.append(weight)
            start += length
        return found

    @property
    def is_mean(self) -> bool:
        """Whether a cost is a mean of its rows: the pieces' do not add up to the whole's."""
        if not self.apart.is_sum or parts(self.whole[0])[0].numel() != 1:  # no cost has more numbers
            return False
        total = sum(float(parts(y)[0].nan_to_num()) for y, _ in self.pieces)  # nothing counts in a piece: NaN
        return abs(total - float(parts(self.whole[0])[0])) > SAME * abs(total)

    def grads(self, change: Callable[[list[Tensor | None]], list[Tensor | None]]) -> Results:
        """The whole's, with other gradients of what every piece has whole."""
        y, grads = self.whole
        shared = [g if axis is None else None for g, axis in zip(grads, self.apart.inputs, strict=True)]
        changed = change(shared)
        merged = [c if s is not None else g for g, s, c in zip(grads, shared, changed, strict=True)]
        return (*parts(y), *merged)


Program = Callable[[Found], Results | None]


def _mean(found: Found) -> Results | None:
    if not found.apart.is_sum:
        return None
    n = len(found.pieces)
    return found.together([1 / n if found.is_mean else 1.0] * n)


def _sum(found: Found) -> Results | None:
    return found.together([1.0] * len(found.pieces)) if found.is_mean else None


def _rows(found: Found) -> Results | None:
    return found.together(found.right)


def _only(position: int) -> Program:
    def program(found: Found) -> Results:
        n = len(found.pieces)
        return _with_whole_y(found, found.together(found.right, [position % n]))

    return program


def _without(position: int) -> Program:
    def program(found: Found) -> Results:
        n = len(found.pieces)
        return _with_whole_y(found, _of_whole(found, [k for k in range(n) if k != position % n]))

    return program


def _remainder_dropped(found: Found) -> Results | None:
    """The last piece, where it is shorter than the others."""
    if len(found.pieces) < 2 or found.lengths[-1] >= found.lengths[0]:
        return (*parts(found.whole[0]), *found.whole[1])
    return _with_whole_y(found, _of_whole(found, range(len(found.pieces) - 1)))


def _of_whole(found: Found, some: Sequence[int]) -> Results:
    """Gradients of the whole's cost through some pieces alone: those of rows beside them are 0."""
    return found.together(found.weights_of_whole, some)


def _divided(found: Found) -> Results:
    n = len(found.pieces)
    y, grads = found.whole
    return (*parts(y), *(None if g is None else g / n for g in grads))


def _shared_divided(found: Found) -> Results:
    n = len(found.pieces)
    return found.grads(lambda grads: [None if g is None else g / n for g in grads])


def _with_whole_y(found: Found, results: Results) -> Results:
    outputs = parts(found.whole[0])
    return (*outputs, *results[len(outputs) :])


def _clipped_each(limit: float, running: bool = False, of_step: bool = False) -> Program:
    """running: what has been added up so far is clipped after each piece.  of_step: see `_limit`."""

    def program(found: Found) -> Results | None:
        limited = _limit(found, limit, of_step)
        if limited is None:
            return None
        total: list[Tensor | None] | None = None
        for (_, grads), weight in zip(found.pieces, found.weights_of_whole, strict=True):
            shared = [g if axis is None else None for g, axis in zip(grads, found.apart.inputs, strict=True)]
            own = [None if g is None else weight * g for g in shared]
            own = own if running else _clip(own, limited)
            if total is not None:
                own = [None if a is None or b is None else a + b for a, b in zip(total, own, strict=True)]
            total = _clip(own, limited) if running else own
        return found.grads(lambda grads: grads if total is None else total)

    return program


def _clipped_whole(limit: float, of_step: bool = False) -> Program:
    def program(found: Found) -> Results | None:
        limited = _limit(found, limit, of_step)
        return None if limited is None else found.grads(lambda grads: _clip(grads, limited))

    return program


def _limit(found: Found, limit: float, of_step: bool) -> float | None:
    """of_step: of gradients of the cost itself, by which the cotangent is multiplied after it; None if y is no
    cost."""
    if not of_step:
        return limit
    dy = parts(found.case.dy)[0]
    return limit * abs(float(dy)) if found.apart.is_sum and dy is not None and dy.numel() == 1 else None


def _clip(grads: Sequence[Tensor | None], limit: float) -> list[Tensor | None]:
    square = sum(float(g.square().sum()) for g in grads if g is not None)
    factor = min(1.0, limit / (square**0.5 + CLIP_EPS))
    return [None if g is None else factor * g for g in grads]


def programs() -> Iterator[tuple[str, Program]]:
    """What is said, of pieces that the words name; and what comes."""
    yield (
        "it is the mean of the pieces' means, though {pieces} are unequal: weigh each by the rows or tokens that count "
        "in it, or add up sums and divide once",
        _mean,
    )
    yield "the means of {pieces} are added up where their mean is due: divide by what counts in the whole", _sum
    yield (
        "{pieces} are weighed by their rows, and not by the rows or tokens that count in them (ignored ones count, "
        "or each has a weight)",
        _rows,
    )
    yield "the gradient is that of the last of {pieces} alone: it is replaced, and not added to", _only(-1)
    yield "the gradient is that of the first of {pieces} alone", _only(0)
    yield "a last piece that is not full is left out of the gradient (the remainder of {pieces})", _remainder_dropped
    yield "the last of {pieces} is left out of the gradient", _without(-1)
    yield "the first of {pieces} is left out of the gradient", _without(0)
    yield (
        "the gradient is divided by the number of {pieces}, though it is a sum, or divided already (double division by "
        "the number of pieces, or workers)",
        _divided,
    )
    yield (
        "gradients of parameters are divided by the number of {pieces}, though they are a sum, or divided already "
        "(double division by the number of pieces, or workers)",
        _shared_divided,
    )
    for limit, of_step in product(LIMITS, (False, True)):
        yield (
            f"{{pieces}} are clipped to {limit:g} one by one, before they are added up",
            _clipped_each(limit, of_step=of_step),
        )
        yield (
            f"what is added up so far is clipped to {limit:g} after each of {{pieces}}: clip once, after the last",
            _clipped_each(limit, running=True, of_step=of_step),
        )
        yield f"the gradient is clipped to {limit:g}, and no clipping is due", _clipped_whole(limit, of_step)


OF_PIECES_ALONE = (_mean, _rows, _remainder_dropped)
"""What no edit of a page gives, where pieces are of more than one row."""
