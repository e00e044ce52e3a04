"""What goes wrong between the pieces of a batch: each a program that the page itself is run in, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.accumulation.pieces import Apart, Lengths, lengths_of
from manual_bp.oracle.accumulation.programs import OF_PIECES_ALONE, SAME, Found, Program, Results, programs
from manual_bp.oracle.calling.invocation import invoked
from manual_bp.oracle.calling.results import is_dense
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.words import listed
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# A program that gives the results of so many cases is the candidate's; so many of them must show it.
CASES, TELLING = 10, 2
# Of so many cases one may be off for another reason: digits that float32 loses where a cost is nearly 0.
MISSED = 4
# What is nearer to what came than what is due by a factor of this gives it: pieces have roundings of their own.
NEARER = 1000
# A program runs in float64 and what came in float32 or less: pieces added in another order differ by so many roundings
# of float32 (6e-8) of the largest number.
ADDED = 16 * 2**-24
# What a candidate gives in three calls has its own roundings three times: so many of float32, of numbers that grow from
# call to call. What is sought is a whole gradient too much.
GROWN = 160 * 2**-24
# No case that is larger is taken apart.
LARGEST = 4096
ONE_ROW = "pieces of one row"

NEVER_ZEROED = (
    "gradients are not set to 0 between steps: what is due is added to that of the calls before (zero them, or assign)"
)


def _is_wrong_in_one_row(rule: Rule, records: Sequence[Record]) -> bool:
    """Whether it is wrong where there is nothing to take apart, in more cases than may be off for another reason; 0
    comes of a piece that is left out as it is not full."""
    cases = [(r, r.evidence.case) for r in records if r.evidence.row is None]
    single = [r for r, case in cases if Apart.of(rule, case.inputs, case.dy).length(case.inputs) == 1]
    return MISSED * sum(_wrong(r, is_0=False) > 0 for r in single) > max(len(single), MISSED)


def _ways(pieces: Lengths | None) -> Mapping[str, Lengths]:
    """How the batch may be taken apart, in words."""
    if pieces is not None:
        return {"the pieces": pieces}
    found: dict[str, Lengths] = {}
    for k, share in {2: "half", 3: "a third", 4: "a quarter", 8: "an eighth"}.items():
        found[f"{k} pieces"] = k
        found[f"pieces of {share} of the rows, rounded up"] = partial(_share, k, True)
        found[f"pieces of {share} of the rows, rounded down"] = partial(_share, k, False)
    return {**found, ONE_ROW: [1], "pieces of two rows": [2], "pieces of 4 rows": [4]}


def _share(k: int, up: bool, n: int) -> list[int]:
    """Lengths of pieces of so many rows, the last one shorter."""
    return lengths_of([max(-(-n // k) if up else n // k, 1)], n)


def between_steps(rule: Rule, candidate: Vjp | None, records: Sequence[Record]) -> list[str]:
    """What is wrong between calls, in words."""
    if candidate is None or not rule.has_backward or not records:
        return []
    small = min(records, key=lambda r: (r.evidence.row is not None, not _is_finite(r), r.evidence.case.elements))
    return [NEVER_ZEROED] if is_never_zeroed(rule, candidate, small) else []


def between_pieces(
    rule: Rule, records: Sequence[Record], pieces: Lengths | None, deadline: Deadline, early: bool = False
) -> list[str]:
    """What is wrong between pieces of the batch, in words.

    early: of an undeclared batch only what neither an edit of the page nor a mistake that it lists gives: that needs no
        search of the page before."""
    if not rule.has_backward:
        return []
    try:
        said = cause_of_pieces(rule, records, pieces, deadline.check, early)
        if said and early and _is_listed(rule, records, deadline.check):
            return []
    except TimeIsUp:
        return []
    return [said] if said else []


def _is_listed(rule: Rule, records: Sequence[Record], check: Callable[[], None]) -> bool:
    """Whether a mistake that the page lists gives what came: it has a name of its own."""
    some = _asked(rule, records)
    for mistake in rule.mistakes:
        check()
        missed = 0
        for record in some:
            case = _wide(record.evidence.case)
            try:
                y, grads = rule.mistaken(mistake.backward)(case.inputs, case.dy, **case.hyper)
            except (ValueError, RuntimeError, ArithmeticError):  # not defined here
                missed += 1
            else:
                missed += _tells(record, (*parts(y), *grads)) is None
            if missed > len(some) // MISSED:
                break
        else:
            return True
    return False


def _asked(rule: Rule, records: Sequence[Record]) -> list[Record]:
    """The records in which most is wrong, of those that are small enough."""
    some = [r for r in records if r.evidence.case.elements <= LARGEST and r.evidence.row is None]
    some = [r for r in some if _has_batch(rule, r.evidence.case)]
    return sorted(some, key=lambda r: -_wrong(r))[:CASES]


def _has_batch(rule: Rule, case: Case) -> bool:
    """Whether there is anything to take apart."""
    return bool(Apart.of(rule, case.inputs, case.dy).length(case.inputs))


def cause_of_pieces(
    rule: Rule, records: Sequence[Record], pieces: Lengths | None, check: Callable[[], None], early: bool = False
) -> str:
    """What is wrong between the pieces of a batch, if that gives all that came; "" if nothing does.

    pieces: how the batch is taken apart, if it is known.  check: raises when the time is up.  early: see
    `between_pieces`.
    """
    some = _asked(rule, records)
    if not some or not rule.has_backward or (pieces is None and _is_wrong_in_one_row(rule, records)):
        return ""
    asked = [(words, program) for words, program in programs() if not early or program in OF_PIECES_ALONE]
    known: dict[tuple[int, ...], Found | None] = {}  # ways of which several take a small batch apart alike
    for words, way in _ways(pieces).items():
        if early and words == ONE_ROW:
            continue
        found: list[Found | None] = []
        # What misses none is asked first: with equal pieces several programs are one.
        every: list[tuple[int, tuple[str, Program]]] = list(product((0, len(some) // MISSED), asked))
        for most, (program_words, program) in every:
            check()
            missed, telling = 0, list[Found]()
            for k, record in enumerate(some):
                if k == len(found):
                    found.append(_found(rule, record, way, known))
                taken = found[k]
                told = _tells(record, program(taken)) if taken is not None else None
                if taken is None or (told is None and (missed := missed + 1) > most):
                    break
                telling += [taken] if told and len(taken.pieces) > 1 else []  # one alone is no piece
            else:
                if pieces is None and _is_a_multiple(program, telling):
                    continue  # it need not have been taken apart
                if len(telling) >= min(TELLING, len(some)):
                    said = words if pieces is not None else _worded(words, way, telling)
                    return program_words.replace("{pieces}", said)
    return ""


def _is_a_multiple(program: Program, telling: Sequence[Found]) -> bool:
    """Whether its cotangents are everywhere what is due, times one number."""
    factors = {_factor(found, results) for found in telling if (results := program(found)) is not None}
    return len(factors) == 1 and None not in factors


def _factor(found: Found, results: Results) -> float | None:
    """By which number, to six digits, all cotangents differ from those of the whole; None if by none."""
    due = found.whole[1]
    pairs = [(g, d) for g, d in zip(results[-len(due) :], due, strict=True) if g is not None and d is not None]
    if not pairs:
        return None
    came, right = (torch.cat([x.reshape(-1) for x in some]) for some in zip(*pairs, strict=True))
    factor = float(came @ right / right.square().sum())  # NaN, which is within nothing, where all is 0
    return round(factor, 6) if bool(((came - factor * right).abs() <= SAME * right.abs().max()).all()) else None


def _worded(words: str, way: Lengths, telling: Sequence[Found]) -> str:
    """Shares of a batch as lengths where only batches of one length tell: half of 33 rows is 16 as well."""
    is_share = isinstance(way, int) or callable(way)
    if not is_share or len({sum(found.lengths) for found in telling}) > 1:
        return words
    return f"pieces of {listed([str(n) for n in telling[0].lengths])} rows"


def _found(rule: Rule, record: Record, way: Lengths, known: dict[tuple[int, ...], Found | None]) -> Found | None:
    """known: what was found before, by record and lengths; it is added to."""
    wide = _wide(record.evidence.case)
    try:
        apart = Apart.of(rule, wide.inputs, wide.dy)
        lengths = lengths_of(way, apart.length(wide.inputs))
    except ValueError:
        return None
    key = (id(record), *lengths)
    if key not in known:
        try:
            whole = rule.vjp(wide.inputs, wide.dy, **wide.hyper)
            pieces = apart.pieces(wide.inputs, wide.dy, lengths)
            every = [_of_piece(rule, tuple(inputs), dy, wide.hyper) for inputs, dy in pieces]
        except (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError):  # functions are anybody's
            known[key] = None
        else:
            fits = _have_its_shapes(apart, whole, every)
            known[key] = Found(rule, wide, apart, lengths, whole, every) if fits else None
    return known[key]


def _have_its_shapes(apart: Apart, whole: Any, every: Sequence[Any]) -> bool:
    """Whether in every piece what is not taken apart has the shape that it has in the whole; an output that grows with
    the batch though nothing says so has not."""

    def shapes(results: Any) -> list[Any]:
        y, grads = results
        axes = (*apart.outputs, *apart.inputs)
        return [x is not None and axis is None and x.shape for x, axis in zip((*parts(y), *grads), axes, strict=True)]

    return all(shapes(piece) == shapes(whole) for piece in every)


def _of_piece(rule: Rule, inputs: tuple[Tensor | None, ...], dy: Any, hyper: Mapping[str, Any]) -> Any:
    """What the page gives for a piece.  Of a function of which an input has fixed lengths (labels that are drawn) only
    the whole batch fits what its page says: the function itself is asked."""
    if not hasattr(rule.page, "FUNCTION"):
        return rule.vjp(inputs, dy, **hyper)
    y, residuals = rule.pure(*inputs, **{**rule.defaults, **hyper})
    return y, rule.pure_backward(residuals, dy)


def _wide(case: Case) -> Case:
    return case.with_tensors(x.detach().cpu().double() if x.is_floating_point() else x.cpu() for x in case.tensors)


def _wrong(record: Record, is_0: bool = True) -> int:
    """How many numbers are off.  is_0: those too that are 0."""
    return sum(
        int((((got.cpu().double() - due).abs() > width) & ((got.cpu() != 0) | is_0)).sum())
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
        tolerance = 4 * width + max(float(apart.max()) / NEARER if apart.numel() else 0.0, ADDED * largest)
        if bool((off > tolerance).any()):
            if bool((apart > width).any()):
                return None
            continue  # right: of a step that puts the pieces together itself not everything need be wrong
        is_another |= bool(((value - due).abs() > 2 * tolerance).any())
    return is_another


def _is_finite(record: Record) -> bool:
    """Whether all that is due and all that came is finite: sums of calls are not seen otherwise."""
    return all(bool(got.isfinite().all() and due.isfinite().all()) for got, due, _ in _numbers(record))


def is_never_zeroed(rule: Rule, candidate: Vjp, record: Record) -> bool:
    """Whether calls on the same numbers add up: what is due comes, and again, and again."""
    case = record.evidence.case
    results: list[tuple[Any, ...]] = []
    for _ in range(3):
        _, raw, _ = invoked(candidate, rule, case)
        grads = (raw or ())[len(rule.outputs) :]
        if not grads or not all(g is None or (isinstance(g, Tensor) and is_dense(g)) for g in grads):
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
            or torch.equal(a, b)
        ):
            continue
        if not bool((b - a).isfinite().all()):  # of NaN and infinities no sum is seen
            return False
        near = 16 * w + GROWN * (c.abs() + x.abs())
        if bool(((b - a - x).abs() > near).any() or ((c - b - x).abs() > near).any()):
            return False
        added = True
    return added
