"""Layout and axes: finished cotangents that were transposed, reordered, reduced or clipped; memory read as if
contiguous; the cotangent ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.agreement import APART, FAR
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, Record, Sample
from manual_bp.oracle.words import counted, of_cases

# At how many cases a candidate is called again.
CALLS = 3
# So many cases are named.
NAMED = 3
# So many numbers in another order are no accident.
NUMBERS = 4


def _over(axis: int, reduce: Callable[..., Tensor], g: Tensor) -> Tensor:
    """A reduction over an axis of its own, broadcast back."""
    return reduce(g, axis, keepdim=True).expand_as(g)


SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda g: g.mT,
    "transposed and read in the wrong shape": lambda g: g.mT.reshape(g.shape),
    "read in the wrong shape: its buffer is that of the transposed matrix": lambda g: g.reshape(g.mT.shape).mT,
    "summed over all of its axes and broadcast back": lambda g: g.sum().expand_as(g),
    "averaged over all of its axes and broadcast back": lambda g: g.mean().expand_as(g),
    "in reversed order along its last axis": lambda g: g.flip(-1),
    "in reversed order along its first axis": lambda g: g.flip(0),
    **{f"shifted by {by} along its last axis": partial(torch.roll, shifts=by, dims=-1) for by in (1, -1)},
    **{f"shifted by {by} along its first axis": partial(torch.roll, shifts=by, dims=0) for by in (1, -1)},
    **{
        f"{words} over its own axis {axis} and broadcast back": partial(_over, axis, reduce)
        for axis in range(4)
        for words, reduce in (("summed", torch.sum), ("averaged", torch.mean))
    },
    "summed over its own last axis and broadcast back": partial(_over, -1, torch.sum),
    "averaged over its own last axis and broadcast back": partial(_over, -1, torch.mean),
}
"""What is done to a finished cotangent, in words that follow "dx is"."""


def shapes(found: Examination) -> Iterator[Explanation]:
    """Finished cotangents that were transposed, reordered, or reduced over axes of their own."""
    for words, change in SHAPES.items():

        def predict(case: Case, change: Callable[[Tensor], Tensor] = change) -> Prediction:
            (_, *grads), (_, *width) = found.right(case)
            rounding = ROUNDINGS * torch.finfo(found.dtype).eps
            pairs = zip(grads, width, strict=True)
            errors = [None if g is None or w is None else w + rounding * g.abs() for g, w in pairs]
            values = (None, *(_changed(change, g) for g in grads))
            return Prediction(values, lambda: (None, *(_changed(change, e) for e in errors)))

        yield from found.matched(predict, f"{{}} is {words}")


def _changed(change: Callable[[Tensor], Tensor], g: Tensor | None) -> Tensor | None:
    """None where the change has no meaning."""
    if g is None or not g.ndim:
        return None
    try:
        return change(g)
    except (IndexError, RuntimeError):
        return None


def clipped(found: Examination) -> Iterator[Explanation]:
    """Cut off at a number, the same in every case."""
    for argument in found.unexplained():
        samples = [s for s in found.column(argument) if s.got.shape == s.expected.shape and s.got.numel()]
        bound = max((float(s.got.abs().nan_to_num(0, 0, 0).max()) for s in samples), default=0.0)
        if not bound:
            continue
        position = found.arguments.index(argument)

        def predict(case: Case, position: int = position, bound: float = bound) -> Prediction:
            values: list[Tensor | None] = [None] * len(found.arguments)
            right = found.right(case)[0][position]
            values[position] = None if right is None else right.clamp(-bound, bound)
            return Prediction(tuple(values))

        words = f"{{}} is clipped to [{-bound:.4g}, {bound:.4g}]"
        yield from found.matched(predict, words, f"{argument} clipped")


def exchanged(found: Examination) -> Iterator[Explanation]:
    """What another argument should be."""
    for position, argument in enumerate(found.arguments):
        for source, other in enumerate(found.arguments):
            if argument in found.asked and source and position and source != position:
                predict = partial(_in_place_of, found, position, source)
                yield from found.matched(predict, f"{{}} is what {other} should be")


def _in_place_of(found: Examination, position: int, source: int, case: Case) -> Prediction:
    values: list[Tensor | None] = [None] * len(found.arguments)
    values[position] = found.right(case)[0][source]
    return Prediction(tuple(values))


def overwritten_value(found: Examination) -> Iterator[Explanation]:
    """y holds a cotangent: backward computed it in the memory of forward's result."""
    for source, other in enumerate(found.arguments):
        rows = [(row[0], row[source]) for _, row in found.rows if source]
        pairs = [(y, g) for y, g in rows if y is not None and g is not None and y.got.numel() >= NUMBERS]
        if "y" not in found.asked or not any(y.error > 1 for y, _ in pairs):
            continue
        if all(torch.equal(y.got.nan_to_num(), g.got.nan_to_num()) for y, g in pairs):
            words = f"{{}} holds {other}, as if backward had overwritten the value that forward returned"
            of_all = f"all of {len(pairs)} cases" if len(pairs) > 1 else "the only case"
            yield Explanation({"y"}, f"{words}; they are equal in {of_all}")
            return


def reordered(found: Examination) -> Iterator[Explanation]:
    """The right numbers at other places."""
    for argument in found.unexplained():
        seen = 0
        for sample in found.column(argument):
            if sample.got.shape != sample.expected.shape or not bool(sample.judged.all()) or not sample.got.numel():
                seen += 0 if sample.got.shape == sample.expected.shape else -len(found.rows)
                continue
            got, expected = sample.got.flatten().sort().values, sample.expected.flatten().sort().values
            allowance = sample.allowance.max() + found.slack * expected.abs()
            if not bool(((got - expected).abs() <= allowance).all()):
                seen = 0
                break
            different = int(((sample.got - sample.expected).abs() > FAR * expected.abs().max()).sum())
            seen += different >= NUMBERS and int((expected.diff() > 0).sum()) + 1 >= NUMBERS
        if seen > 0:
            where = counted(seen, "case")
            words = f"the right numbers at the wrong places: in another order, in {where}; elsewhere it is right"
            yield Explanation({argument}, f"{{}} has {words}")


# ---------------------------------------------------------------------------------------------- found by calling again


def contiguous(found: Examination) -> Iterator[Explanation]:
    """Right for contiguous copies of the same values: some operand is read as if it were contiguous."""
    if found.candidate is None:
        return
    blamed: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for record, row in found.rows:
        for argument, sample in found.wrong(row):
            if sample.error > APART**2:  # no matter of the order in which another layout is summed
                strided = strided_of(found, record.evidence.case)
                if not strided or not _mended(found, record, found.arguments.index(argument)):
                    return
                blamed.setdefault(strided, []).append((argument, record.evidence.case.name))
    for strided, where in blamed.items():
        if not any(set(other) < set(strided) for other in blamed):
            cases = of_cases([name for _, name in where], NAMED)
            words = f"{' and '.join(strided)} is read as if it were contiguous"
            proof = f"with a contiguous copy of it all is right; {cases}"
            yield Explanation({a for a, _ in where}, f"{{}}: {words}: {proof}")


def strided_of(found: Examination, case: Case) -> tuple[str, ...]:
    """The tensors of a case that are not contiguous, by name."""
    return tuple(name for name, x in found.rule.tensors(case).items() if not x.is_contiguous())


def _mended(found: Examination, record: Record, position: int) -> bool:
    assert found.candidate is not None
    found.deadline.check()
    results = found.rule.contiguous(found.candidate, record.evidence.case)
    sample = found.sample(Record(record.evidence, results), position) if results else None
    return sample is not None and sample.error <= 1


def ignored_cotangent(found: Examination) -> Iterator[Explanation]:
    """Called with another cotangent: the same answer."""
    if found.candidate is None:
        return
    for argument in found.unexplained():
        position = found.arguments.index(argument)
        pairs: list[tuple[Tensor, object]] = []
        for record, row in found.rows if position else ():
            if len(pairs) < CALLS and is_telling(row[position]):
                case = record.evidence.case
                another = case.dy.flip(-1) - 2 if case.dy.ndim else -2 * case.dy
                got, other = found.call(case, case.dy), found.call(case, another)
                if got and other and isinstance(got[position], Tensor) and bool((got[position] != 0).any()):
                    pairs.append((got[position], other[position]))
        if pairs and all(isinstance(b, Tensor) and torch.equal(a, b) for a, b in pairs):
            words = f"ignores the cotangent: it does not change when dy does; seen in {counted(len(pairs), 'case')}"
            yield Explanation({argument}, f"{{}} {words}")


def is_telling(sample: Sample | None) -> bool:
    """Whether the right answer is finite and not 0, so that it follows dy."""
    return sample is not None and bool((sample.judged & (sample.expected.abs() > APART * sample.allowance)).any())
