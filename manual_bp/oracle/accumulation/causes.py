"""What goes wrong between the pieces of a batch: each a program that the page itself is run in, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from manual_bp.oracle.accumulation.pieces import Apart, Lengths, lengths_of
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.invocation import invoked
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# A program that gives the results of so many cases is the candidate's; so many of them must show it.
CASES, TELLING = 10, 2
# Of so many cases one may be off for another reason: digits that float32 loses where a cost is nearly 0.
MISSED = 4
# What is nearer to what came than what is due by a factor of this gives it: pieces have roundings of their own.
NEARER = 1000
# No case that is larger is taken apart.
LARGEST = 4096
LIMITS = (1.0, 0.1, 0.5, 5.0)
"""To which gradients are usually clipped."""

NEVER_ZEROED = (
    "gradients are not set to 0 between steps: what is due is added to that of the calls before (zero them, or assign)"
)

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
        if not self.apart.is_sum:
            return False
        total = sum(float(parts(y)[0].nan_to_num()) for y, _ in self.pieces)  # nothing counts in a piece: NaN
        return abs(total - float(parts(self.whole[0])[0])) > 1e-6 * abs(total)

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


def _clipped_each(limit: float) -> Program:
    def program(found: Found) -> Results:
        weights = found.weights_of_whole
        every = []
        for (_, grads), weight in zip(found.pieces, weights, strict=True):
            shared = [g if axis is None else None for g, axis in zip(grads, found.apart.inputs, strict=True)]
            every.append(_clip([None if g is None else weight * g for g in shared], limit))
        return found.grads(
            lambda _: [None if any(g is None for g in of) else sum(of[1:], of[0]) for of in zip(*every, strict=True)]
        )

    return program


def _clipped_whole(limit: float) -> Program:
    return lambda found: found.grads(lambda grads: _clip(grads, limit))


def _clip(grads: Sequence[Tensor | None], limit: float) -> list[Tensor | None]:
    square = sum(float(g.square().sum()) for g in grads if g is not None)
    factor = min(1.0, limit / (square**0.5 + 1e-6))
    return [None if g is None else factor * g for g in grads]


def _programs() -> Iterator[tuple[str, Program]]:
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
        "the gradient is divided by the number of {pieces} twice (double division by the number of pieces, or workers)",
        _divided,
    )
    yield (
        "gradients of parameters are divided by the number of {pieces}, though they are a sum, or divided already "
        "(double division by the number of pieces, or workers)",
        _shared_divided,
    )
    for limit in LIMITS:
        yield f"{{pieces}} are clipped to {limit:g} one by one, before they are added up", _clipped_each(limit)
        yield f"the gradient is clipped to {limit:g}, and no clipping is due", _clipped_whole(limit)


def _ways(pieces: Lengths | None) -> Mapping[str, Lengths]:
    """How the batch may be taken apart, in words."""
    if pieces is not None:
        return {"the pieces": pieces}
    found: dict[str, Lengths] = {}
    for k, share in {2: "half", 3: "a third", 4: "a quarter", 8: "an eighth"}.items():
        found[f"{k} pieces"] = k
        found[f"pieces of {share} of the rows, rounded up"] = partial(_share, k, True)
        found[f"pieces of {share} of the rows, rounded down"] = partial(_share, k, False)
    return {**found, "pieces of one row": [1], "pieces of two rows": [2], "pieces of 4 rows": [4]}


def _share(k: int, up: bool, n: int) -> list[int]:
    """Lengths of pieces of so many rows, the last one shorter."""
    return lengths_of([max(-(-n // k) if up else n // k, 1)], n)


def between_steps(rule: Rule, candidate: Vjp | None, records: Sequence[Record]) -> list[str]:
    """What is wrong between calls, in words."""
    if candidate is None or not rule.has_backward or not records:
        return []
    small = min(records, key=lambda r: (r.evidence.row is not None, r.evidence.case.elements))
    return [NEVER_ZEROED] if is_never_zeroed(rule, candidate, small) else []


def between_pieces(rule: Rule, records: Sequence[Record], pieces: Lengths | None, deadline: Deadline) -> list[str]:
    """What is wrong between pieces of the batch, in words."""
    if not rule.has_backward:
        return []
    try:
        said = cause_of_pieces(rule, records, pieces, deadline.check)
    except TimeIsUp:
        return []
    return [said] if said else []


def cause_of_pieces(rule: Rule, records: Sequence[Record], pieces: Lengths | None, check: Callable[[], None]) -> str:
    """What is wrong between the pieces of a batch, if that gives all that came; "" if nothing does.

    pieces: how the batch is taken apart, if it is known.  check: raises when the time is up.
    """
    some = [r for r in records if r.evidence.case.elements <= LARGEST and r.evidence.row is None]
    some = sorted(some, key=lambda r: -_wrong(r))[:CASES]
    if not some or not rule.has_backward:
        return ""
    for words, way in _ways(pieces).items():
        found: list[Found | None] = []
        # What misses none is asked first: with equal pieces several programs are one.
        every: list[tuple[int, tuple[str, Program]]] = list(product((0, len(some) // MISSED), tuple(_programs())))
        for most, (program_words, program) in every:
            check()
            telling = missed = 0
            for k, record in enumerate(some):
                if k == len(found):
                    found.append(_found(rule, record, way))
                taken = found[k]
                told = _tells(record, program(taken)) if taken is not None else None
                if taken is None or (told is None and (missed := missed + 1) > most):
                    break
                telling += bool(told)
            else:
                if telling >= min(TELLING, len(some)):
                    return program_words.replace("{pieces}", words)
    return ""


def _found(rule: Rule, record: Record, way: Lengths) -> Found | None:
    case = record.evidence.case
    wide = case.with_tensors(x.detach().cpu().double() if x.is_floating_point() else x.cpu() for x in case.tensors)
    try:
        apart = Apart.of(rule, wide.inputs, wide.dy)
        lengths = lengths_of(way, apart.length(wide.inputs))
        whole = rule.vjp(wide.inputs, wide.dy, **wide.hyper)
        every = [
            rule.vjp(tuple(inputs), dy, **wide.hyper) for inputs, dy in apart.pieces(wide.inputs, wide.dy, lengths)
        ]
    except (ValueError, RuntimeError, ArithmeticError):
        return None
    return Found(rule, wide, apart, lengths, whole, every)


def _wrong(record: Record) -> int:
    """How many numbers are off."""
    return sum(
        int(((got.cpu().double() - due).abs() > width).sum())
        for got, due, width in _numbers(record)
        if got.shape == due.shape
    )


def _numbers(record: Record) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    evidence = record.evidence
    for got, due, width in zip(record.results, evidence.expected, evidence.allowance, strict=True):
        if isinstance(got, Tensor) and due is not None and width is not None:
            yield got, due, width


def _tells(record: Record, results: Results | None) -> bool | None:
    """Whether a program's results are what came, and visibly not what is due; None if they are not what came."""
    if results is None:
        return None
    is_another = False
    evidence = record.evidence
    for got, due, width, value in zip(record.results, evidence.expected, evidence.allowance, results, strict=True):
        if not isinstance(got, Tensor) or due is None or width is None or value is None:
            continue
        if got.shape != due.shape or value.shape != due.shape:
            return None
        came = got.cpu().double()
        off, apart = (came - value).abs().nan_to_num(), (came - due).abs().nan_to_num()
        largest = float(value.abs().nan_to_num(0, 0).max()) if value.numel() else 0.0
        tolerance = 4 * width + max(float(apart.max()) / NEARER if apart.numel() else 0.0, 1e-6 * largest)
        if bool((off > tolerance).any()):
            return None
        is_another |= bool(((value - due).abs() > 2 * tolerance).any())
    return is_another


def is_never_zeroed(rule: Rule, candidate: Vjp, record: Record) -> bool:
    """Whether calls on the same numbers add up: what is due comes, and again, and again."""
    case = record.evidence.case
    results: list[tuple[Any, ...]] = []
    for _ in range(3):
        _, raw, _ = invoked(candidate, rule, case)
        grads = (raw or ())[len(rule.outputs) :]
        if not grads or not all(g is None or isinstance(g, Tensor) for g in grads):
            return False
        results.append(tuple(None if g is None else g.detach().cpu().double().clone() for g in grads))
    added = False
    due = record.evidence.expected[len(rule.outputs) :]
    width = record.evidence.allowance[len(rule.outputs) :]
    for a, b, c, x, w in zip(*results, due, width, strict=True):
        if (
            a is None
            or b is None
            or c is None
            or x is None
            or w is None
            or not a.shape == b.shape == c.shape == x.shape
            or bool((a == b).all())
        ):
            continue
        near = 16 * w + 1e-5 * (c.abs() + x.abs())
        if bool(((b - a - x).abs() > near).any() or ((c - b - x).abs() > near).any()):
            return False
        added = True
    return added
