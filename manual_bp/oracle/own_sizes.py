"""A case of a user's own sizes, judged block by block.

Evidence takes many times the memory of a case, and its time.  So a candidate is called once with the whole, and what it
returned is judged in blocks of an axis along which the rule can be judged in parts (`separable`): what has that axis
block by block, and what is a sum over it by the sum of what is due.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.arithmetic.bounded_table import precision
from manual_bp.inputs import Draw, Edge, Index, Input
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case, Further, in_dtype
from manual_bp.oracle.cases.drawing import draw, sizes_of
from manual_bp.oracle.cases.sizes import SIGNS, weighted
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.separable import Separable, separable
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.rule import Rule
from manual_bp.wording import counted

# So many elements of inputs are looked at together: what analysis of rounding errors keeps of them is some 50 MB.
BLOCK = 2**17
# A case of so many elements is looked at whole where no axis can be taken apart: 2 GB.
WHOLE = 2**21


def lengths_of(rule: Rule, sizes: Mapping[str, int | tuple[int, ...]]) -> axes.Sizes:
    """A user's lengths of axes, checked.  Raises ValueError for an axis that the rule has not, or a length that is
    none."""
    names = rule.axis_names
    if not isinstance(sizes, Mapping):
        first = next(iter(names), "rows")
        raise ValueError(f'sizes must be lengths of axes by name, as in sizes={{"{first}": 4096}}; came {sizes!r:.60}.')
    for name, length in sizes.items():
        if name not in names:
            raise ValueError(f"sizes: {rule.name} has no axis {name!r}; its axes are {', '.join(names)}.")
        several = axes.as_tuple(length)
        if not all(isinstance(n, int) and n >= 0 for n in several) or (len(several) != 1 and not names[name]):
            raise ValueError(f"sizes: {name} must be a length; came {length!r}.")
    chosen = {name: axes.as_tuple(length) for name, length in sizes.items()}
    return axes.with_ranks({**sizes_of(rule), **chosen}, chosen, rule.alike)


def judge_own_sizes(
    comparison: Comparison, sizes: Mapping[str, int | tuple[int, ...]], given: Mapping[str, Tensor] | None = None
) -> None:
    """Judge the candidate at one case of these lengths.  given: tensors of the user's own, by input."""
    rule, report = comparison.rule, comparison.report
    lengths = lengths_of(rule, sizes)
    words = ", ".join(f"{name} = {axes.as_tuple(n) if rule.axis_names[name] else n}" for name, n in sizes.items())
    chosen = {name: lengths[name] if rule.axis_names[name] else lengths[name][0] for name in lengths}
    own = dict(given or {})
    ordered = sorted(sizes, key=lambda name: -lengths[name][0] if lengths[name] else 0)
    along = next(separable(rule, {}, {name: len(lengths[name]) for name in ordered if lengths[name]}), None)
    elements = sum(math.prod(axes.shape_of(rule.annotations[n], lengths, rule.ordinary)) for n in rule.inputs)
    if along is None and elements > WHOLE:
        report.not_tested.append(
            f"{words}: no axis of {rule.name} is known along which it could be judged in parts, and {elements} "
            f"elements are too many to be judged at once (at most {WHOLE})"
        )
        return
    rows = chosen_length = 0
    if along is not None:
        chosen_length = lengths[along.name][0]
        rows = max(1, BLOCK // max(1, elements // max(chosen_length, 1)))
        lengths = {**lengths, along.name: (min(rows, chosen_length), *lengths[along.name][1:])}
    chosen = {name: lengths[name] if rule.axis_names[name] else lengths[name][0] for name in lengths}
    drawn = {n: _as_it_is(x) for n, x in own.items() if along is None or n not in along.tensors}
    try:
        inputs, dy, hyper = draw(rule, Edge(words, drawn, chosen), torch.Generator().manual_seed(0))
    except ValueError as error:
        raise ValueError(f"sizes: {rule.name} is not defined at {words}: {error}") from None
    block = in_dtype(Further(inputs, dy, hyper, words), comparison.dtype, report.device)
    if along is None:
        found = evidence(rule, block, comparison.judge.kinds.contract, comparison.conventions)
        comparison.judge_case(found if isinstance(found, Evidence) else f"{words}: {found}")
        return
    case = _whole(rule, block, along, chosen_length, own)
    assert comparison.candidate is not None
    called = call(comparison.candidate, rule, case)
    if called.raised:
        comparison.raised.append((called.raised, case))
    for argument, text in called.traps:
        comparison.judge.trap(argument, case, text)
    if called.results is None:
        report.raised += 1
        return
    report.cases += 1
    before = len(report.mismatches)
    _in_blocks(comparison, case, along, called.results, chosen_length, rows)
    report.failed += len(report.mismatches) > before


def _as_it_is(x: Tensor) -> Draw:
    return lambda shape, generator: x.reshape(shape)


def _whole(rule: Rule, block: Case, along: Separable, length: int, own: Mapping[str, Tensor]) -> Case:
    """The case of which this would be a block, each tensor rounded as soon as it is drawn.  What is not the user's own
    is light along long axes but for a few numbers, as in all cases of sizes (`manual_bp.oracle.cases.sizes`)."""
    generator = torch.Generator().manual_seed(1)
    tensors = []
    for name, x in block.named(rule).items():
        dimension = along.tensors.get(name)
        if name in own:
            tensors.append(own[name].to(x.device, x.dtype))
        elif dimension is None:
            tensors.append(x)
        else:
            shape = (*x.shape[:dimension], length, *x.shape[dimension + 1 :])
            spec = rule.inputs.get(name, Input())
            if isinstance(spec, Index):
                positions = block.inputs[list(rule.inputs).index(name)]
                tensors.append(positions.flatten()[torch.randint(positions.numel(), shape, generator=generator)])
            else:
                drawn = spec.draw(shape, generator).to(x.dtype)
                is_weight = name not in rule.inputs or rule.may_be_scaled(name)
                tensors.append((weighted(drawn, SIGNS[0]) if is_weight else drawn).to(x.device, x.dtype))
    return block.with_tensors(tensors)


def _in_blocks(
    comparison: Comparison, case: Case, along: Separable, results: Sequence[Any], length: int, rows: int
) -> None:
    rule, judge = comparison.rule, comparison.judge
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    wrong: set[str] = set()
    last: Evidence | None = None
    for argument, got in zip(rule.arguments, results, strict=True):  # shapes first, of the whole
        if along.arguments.get(argument, ...) is not ... and not isinstance(got, Tensor):
            judge.trap(argument, case, "a tensor is due, and none came")
            wrong.add(argument)
    for start in range(0, length, rows):
        count = min(rows, length - start)
        part = replace(
            along.part(rule, case, start, count), name=f"{case.name}, {along.name} {start} to {start + count - 1}"
        )
        found = evidence(rule, part, judge.kinds.contract, comparison.conventions)
        if isinstance(found, str):
            comparison.report.not_tested.append(found)
            return
        last = found
        for position, (argument, got) in enumerate(zip(rule.arguments, results, strict=True)):
            expected, allowance = found.expected[position], found.allowance[position]
            if argument in wrong or expected is None or allowance is None or argument not in along.arguments:
                continue
            dimension = along.arguments[argument]
            if dimension is None:
                before = sums.get(argument)
                sums[argument] = (
                    (expected, allowance) if before is None else (before[0] + expected, before[1] + allowance)
                )
                continue
            if got.ndim <= dimension or got.shape[dimension] != length:
                judge.trap(argument, case, f"shape has {length} in dimension {dimension}; came {tuple(got.shape)}")
                wrong.add(argument)
                continue
            mismatches = len(comparison.report.mismatches)
            piece = got.narrow(dimension, start, count)
            if judge.fits(argument, found, piece):
                judge.judge(None, argument, found, piece, results[comparison.outputs :])
            if len(comparison.report.mismatches) > mismatches:
                wrong.add(argument)
    if last is None:
        return
    growth = _growth(comparison.dtype, rows, length)
    expected_all = tuple(sums.get(a, (None, None))[0] for a in rule.arguments)
    allowed_all = tuple(None if a not in sums else growth * sums[a][1] for a in rule.arguments)
    no_kinks = tuple(None if x is None else torch.zeros_like(x, dtype=torch.bool) for x in expected_all)
    whole = replace(last, case=case, expected=expected_all, allowance=allowed_all, kinks=no_kinks, row=None)
    for argument, got in zip(rule.arguments, results, strict=True):
        if argument in sums and argument not in wrong and judge.fits(argument, whole, got):
            judge.judge(None, argument, whole, got, results[comparison.outputs :])
    judge.note(f"{case.name}: judged in {counted(math.ceil(length / rows), 'block')} of {along.name}")


def _growth(dtype: torch.dtype, rows: int, length: int) -> float:
    """How much more a term of a sum may be rounded among all rows than among those of a block."""
    p = precision(torch.float32 if dtype.itemsize == 2 else dtype)
    return p.gamma(length) / p.gamma(min(rows, length)) if length else 1.0
