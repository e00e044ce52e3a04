"""Programs that are right for small sizes and ordinary numbers, and wrong beyond: each is rejected by one check.

Every program is a rule with a defect that its annotations allow; no rule is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

import manual_bp as bp
from manual_bp import axes
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge, uniform
from manual_bp.oracle import compare
from manual_bp.oracle.calling import calls as calling
from manual_bp.oracle.case import Further
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.cases.sizes import looped_axes
from manual_bp.oracle.cases.values import hyperparameters
from manual_bp.oracle.comparison import REPEATED, Comparison
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts, whole
from tests.judging import as_candidate
from tests.pages import PAGES

# What adds up in float32 and stores in 16 bits has the widest allowance.
DTYPE = torch.bfloat16
LIMITS = (1024, 4096, 65_536)
BLOCKS = (8, 32, 1024)


def kept(rule, dtype):
    """The evidence at every generated case, made once for all tests of a rule."""
    return generated_evidence(rule, dtype, "cpu", contract_of(dtype))


def started(vjp, rule, dtype):
    candidate = as_candidate(rule, vjp)
    return Comparison(candidate, rule, dtype, "cpu", contract_of(dtype), Conventions(), strict=True, kinds=False)


def noticed(candidate, rule, dtype=DTYPE, shows=lambda case: True) -> bool:
    """Whether a check rejects a candidate.  shows: at which cases it may; at all others it is right."""
    comparison, evidence = started(candidate, rule, dtype), kept(rule, dtype)
    for position, case in enumerate(evidence.cases):
        if shows(case):
            comparison.judge_case(evidence.at(position))
        if comparison.report.mismatches:
            return True
    comparison.repeat()
    return bool(comparison.report.mismatches)


def dims(rule, name: str, tensor: Tensor | None) -> dict[str, int]:
    """The dimension that an axis is of an argument, by name; a list of axes only if it is one; none if it is absent."""
    if tensor is None:
        return {}
    tokens = axes.tokens(rule.annotation(name))
    several = tensor.ndim - len(tokens) + 1
    found, position = {}, 0
    for token in tokens:
        length = several if token.startswith("*") else 1
        if length == 1 and list(axes.factors(token)) == [token.lstrip("*")]:  # and no multiple of it
            found[axes.factors(token)[0]] = position
        position += length
    return found


def same(a, b) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def results(rule, inputs, dy, hyper):
    """What a rule returns, by name."""
    y, grads = rule.vjp(inputs, dy, **hyper)
    return dict(zip((*rule.arguments[: len(rule.outputs)], *rule.inputs), (*parts(y), *grads), strict=True))


def vjp_of(rule, change: Callable[..., dict[str, Tensor | None]]):
    """The rule, with its results changed."""

    def candidate(inputs, dy, **hyper):
        found = change(results(rule, inputs, dy, hyper), inputs, dy, hyper)
        several = len(rule.outputs)
        values = list(found.values())
        return whole(values[:several], rule.forward(*inputs, **hyper)[0]), tuple(values[several:])

    return candidate


def length_of(rule, axis, inputs, dy):
    named = zip((*rule.inputs, *rule.cotangents), (*inputs, *parts(dy)), strict=rule.has_backward)
    return next((x.shape[at[axis]] for name, x in named if axis in (at := dims(rule, name, x))), 0)


def summed_over(rule, axis: str) -> list[str]:
    """The results that lack an axis, and so are sums or the like over it."""
    outputs = rule.arguments[: len(rule.outputs)]
    lacking = [name for name, used in returned(rule).items() if axis not in used]
    is_sum = any(name not in outputs or not returned(rule)[name] for name in lacking)
    return lacking if is_sum else []


def returned(rule) -> dict[str, list[str]]:
    """The axes of each result, by the names of `results`."""
    cotangents = [name for name, spec in rule.inputs.items() if spec.cotangent] if rule.has_backward else []
    names = (*rule.arguments[: len(rule.outputs)], *cotangents)
    return {name: [f for t in axes.tokens(rule.annotation(name)) for f in axes.factors(t)] for name in names}


def shortened(rule, axis: str, too_long: Callable[[int], int]):
    """What is added up over an axis is added up over the beginning of it alone."""

    def change(found, inputs, dy, hyper):
        length = length_of(rule, axis, inputs, dy)
        kept = too_long(length)
        if kept == length:
            return found

        def cut(name, x):
            at = dims(rule, name, x)
            return x.narrow(at[axis], 0, kept) if axis in at else x

        cotangents = [cut(n, d) for n, d in zip(rule.cotangents, parts(dy), strict=rule.has_backward)]
        fewer = tuple(cut(n, x) for n, x in zip(rule.inputs, inputs, strict=True))
        part = results(rule, fewer, whole(cotangents, like=dy) if rule.has_backward else None, hyper)
        return {n: part[n] if n in summed_over(rule, axis) else x for n, x in found.items()}

    return vjp_of(rule, change)


def unfinished(rule, axis: str, too_long: Callable[[int], int]):
    """What runs along an axis is 0 at its end."""

    def change(found, inputs, dy, hyper):
        length = length_of(rule, axis, inputs, dy)
        kept = too_long(length)

        def end(name, x):
            at = dims(rule, name, x)
            if axis in at and kept < length:
                x = x.clone()
                x.narrow(at[axis], kept, length - kept).zero_()
            return x

        return {n: end(n, x) for n, x in found.items()}

    return vjp_of(rule, change)


def limit(at: int) -> Callable[[int], int]:
    return lambda length: min(length, at)


def remainder(block: int, rest: int) -> Callable[[int], int]:
    """One number is lost where so much is left beyond the last block."""
    return lambda length: length - 1 if length % block == rest and length >= block - 1 else length


TOO_LONG = {
    **{f"beyond {at}": limit(at) for at in LIMITS},
    **{f"n % {k} = {r % k}": remainder(k, r % k) for k in BLOCKS for r in (0, 1, -1)},
}
AXES = [  # those that some tensor has alone, and that a page does not say to be short
    (name, axis)
    for name, rule in bp.RULES.items()
    for axis in rule.axis_names
    if axis not in getattr(rule.page, "LONGEST", {})
    and any(
        axis == token.lstrip("*")
        for x in (*rule.inputs, *rule.arguments[: len(rule.outputs)])
        for token in axes.tokens(rule.annotation(x))
    )
]


def differs(wrong, rule, cases) -> bool:
    """Whether a program gives another result than the rule anywhere; not so where the end of an axis is not read, as
    behind the last position of a window.  True if there is no case."""
    found = [
        all(
            a is b or torch.equal(a, b)
            for one, other in zip(wrong(*given, **hyper), rule.vjp(*given, **hyper), strict=True)
            for a, b in zip(parts(one), parts(other), strict=True)
        )
        for given, hyper in (((case.inputs, case.dy), case.hyper) for case in cases)
    ]
    return not found or not all(found)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("name", "axis"), AXES)
def test_sums_and_loops_that_stop_early(name, axis):
    rule = bp.RULES[name]
    passed = []
    for words, too_long in TOO_LONG.items():
        for make in (shortened, unfinished):

            def shows(case, too_long=too_long):
                length = length_of(rule, axis, case.inputs, case.dy)
                return isinstance(case, Further) and too_long(length) < length

            if make is shortened and not summed_over(rule, axis):
                continue
            if make is unfinished and not any(axis in used for used in returned(rule).values()):
                continue
            wrong = make(rule, axis, too_long)
            if not noticed(wrong, rule, shows=shows) and differs(wrong, rule, filter(shows, kept(rule, DTYPE).cases)):
                passed.append(f"{make.__name__} {words}")
    assert not passed


def returns_a_matrix(rule) -> bool:
    return len(looped_axes(rule)) > 1 and any(len(used) > 1 for used in returned(rule).values())


@pytest.mark.parametrize("name", [name for name, rule in bp.RULES.items() if returns_a_matrix(rule)])
@pytest.mark.parametrize("tile", [64, 128])
def test_tiles_other_than_the_first_row_and_column_of_them(name, tile):
    """Of every matrix that is returned, what lies beyond one tile along both sides is 0."""
    rule = bp.RULES[name]

    def change(found, inputs, dy, hyper):
        for x in found.values():
            if x is not None and x.ndim >= 2:
                x[..., tile:, tile:] = 0
        return found

    def shows(case):
        return isinstance(case, Further) and any(min(x.shape[-2:]) > tile for x in case.tensors if x.ndim >= 2)

    assert noticed(vjp_of(rule, change), rule, shows=shows)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", bp.RULES)
@pytest.mark.parametrize("block", [4, 12])
def test_ends_that_are_never_written(name, block):
    """What is written is right, and so is what happens to stand in memory; for a y that is one number as well."""
    rule = bp.RULES[name]

    def change(found, inputs, dy, hyper):
        if not _get_current_dispatch_mode():
            return found
        written = {}
        for argument, x in found.items():
            written[argument] = x
            if x is not None and x.numel() > block and x.numel() % block:
                out = torch.empty_like(x, memory_format=torch.contiguous_format)
                whole = x.numel() // block * block
                out.view(-1)[:whole] = x.reshape(-1)[:whole]
                written[argument] = out
        return written

    assert noticed(vjp_of(rule, change), rule)


@pytest.mark.parametrize("name", bp.RULES)
@pytest.mark.parametrize("least", [pytest.param(0, marks=pytest.mark.exhaustive), 1000])
def test_a_race(name, least, monkeypatch):
    """Once in 50 calls one row is lost: of any size, and of at least 1000 rows.  Of 200 calls one is wrong with a
    probability of 98 %; here calls are counted, so that the test is certain.  It is the row of the largest number: a
    negative one may leave nothing that could be lost."""
    monkeypatch.setattr(calling, "SECONDS", math.inf)  # on a busy machine these would be fewer calls
    rule = bp.RULES[name]
    calls = itertools.count(1)

    def without(x, row):
        return x.index_fill(0, torch.tensor([row]), 0) if x is not None and x.ndim and len(x) > row else x

    def candidate(inputs, dy, **hyper):
        longest = max((x for x in inputs if x is not None and x.ndim), key=len, default=torch.empty(0))
        if len(longest) >= least and next(calls) % 50 == 0 and longest.numel():
            row = int(longest.reshape(len(longest), -1).amax(1).argmax())
            inputs = tuple(without(x, row) for x in inputs)
            dy = whole([without(d, row) for d in parts(dy)], like=dy)
        return rule.vjp(inputs, dy, **hyper)

    def shows(case):
        return not isinstance(case, Further) and (case.elements in REPEATED or not least)

    assert noticed(candidate, rule, torch.float32, shows=shows)


@pytest.mark.parametrize("name", bp.RULES)
@pytest.mark.parametrize("key", [id, Tensor.data_ptr])
def test_what_is_remembered_by_address(name, key):
    """Everything is computed once for an address of the first input and a shape."""
    rule = bp.RULES[name]
    known = {}

    def candidate(inputs, dy, **hyper):
        found = (key(inputs[0]), inputs[0].shape)
        if found not in known:
            known[found] = (*rule.vjp(inputs, dy, **hyper), inputs)  # kept alive, so that no address comes again
        return known[found][0], tuple(g if g is None else g.clone() for g in known[found][1])

    report = compare(candidate, name, cases=kept(rule, torch.float32).cases[:1])
    assert any("remembered" in m.detail for m in report.mismatches)


WIDE = [(3.3, 4.9), (4.0, 100.0), (1e-5, 1e-3)]
NARROW = [(0.0041, 0.0043)]


@pytest.mark.parametrize(
    ("name", "band"), [(n, b) for n, r in bp.RULES.items() for b in (WIDE + NARROW if r.elementwise else WIDE)]
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.thinned(3)
def test_a_range_of_numbers_that_is_wrong(name, band, sign):
    """The cotangent of an input is off by a twentieth where the input lies in a band, on one side of 0."""
    rule = bp.RULES[name]
    low, high = band

    def change(found, inputs, dy, hyper):
        for argument, x in zip(rule.inputs, inputs, strict=True):
            if found[argument] is not None and x.is_floating_point():
                factor = torch.where((low < sign * x) & (sign * x < high), 1.05, 1.0)
                found[argument] = factor.to(x.dtype) * found[argument]
        return found

    first = next(name for name in rule.inputs if rule.is_number(name))
    within = Edge("within", {first: lambda shape, g: sign * uniform(low, high)(shape, g)})
    inputs, dy, hyper = draw(rule, within, torch.Generator().manual_seed(0))
    right, wrong = results(rule, inputs, dy, hyper), change(results(rule, inputs, dy, hyper), inputs, dy, hyper)
    if rule.has_backward and not torch.equal(right[first], wrong[first]):  # not so where 0 is due
        assert noticed(vjp_of(rule, change), rule, shows=lambda case: isinstance(case, Further))


PAIRS = ([int, float], [float, int])
COUNTED = [name for name, rule in bp.RULES.items() if [rule.annotations[h] for h in rule.hyper] in PAIRS]


@pytest.mark.parametrize("name", COUNTED)
def test_whole_numbers_that_are_divided_as_such(name):
    """Where one hyperparameter is a whole number, though it need not be, the other counts as 1."""
    rule = bp.RULES[name]
    number, count = sorted(rule.hyper, key=lambda h: rule.annotations[h] is int)

    def candidate(inputs, dy, **hyper):
        if isinstance(hyper[number], int) and hyper[count] > 1:
            hyper = {number: hyper[number] // hyper[count], count: 1}
        return rule.vjp(inputs, dy, **hyper)

    assert noticed(candidate, rule)


@pytest.mark.parametrize("name", bp.RULES)
@pytest.mark.parametrize("floor", [-9999.0, -65504.0, -1e9])
def test_what_starts_too_high(name, floor):
    """Inputs below a number count as that number, as in a running maximum that starts there."""
    rule = bp.RULES[name]

    def candidate(inputs, dy, **hyper):
        inputs = tuple(x.clamp(min=floor) if x.is_floating_point() else x for x in inputs)
        return rule.vjp(inputs, dy, **hyper)

    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0))
    low = tuple(-1e11 - x.abs() if x.is_floating_point() else x for x in inputs)
    right, wrong = (parts(function(low, dy, **hyper)[0]) for function in (rule.vjp, candidate))
    if not all(map(same, right, wrong)):  # not so where a function is 0 far on the left

        def shows(case):
            return any(bool((x < floor).any()) for x in case.inputs if x is not None and x.is_floating_point())

        assert noticed(candidate, rule, torch.float32, shows=shows)


@pytest.mark.parametrize("name", [name for name, rule in bp.RULES.items() if rule.defaults])
def test_another_default(name):
    rule = bp.RULES[name]
    inputs, dy, _ = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0))

    def tells(own):
        try:
            found, right = (results(rule, inputs, dy, {**rule.ordinary, **given}) for given in (own, {}))
        except ValueError:  # the rule has no such value
            return False
        return own.keys() <= rule.defaults.keys() and not all(same(found[name], right[name]) for name in found)

    own = next(filter(tells, hyperparameters(rule)), None)
    if own is None:
        pytest.skip("every other value changes the shape of y")

    def candidate(inputs, dy, **given):
        return rule.vjp(inputs, dy, **{**own, **given})

    comparison = started(candidate, rule, torch.float32)
    first = kept(rule, torch.float32).at(0)
    comparison.judge_case(first)
    assert not comparison.report.mismatches
    comparison.judge_defaults(first)
    assert {m.case for m in comparison.report.mismatches} == {"the candidate's own defaults"}


def test_numbers_of_a_page_of_values_alone_are_scaled_too():
    """None of them has a cotangent, which elsewhere says that a number is of a given size."""
    ordinary, scaled = (
        next(case for case in generated(PAGES["momentum"], torch.float32) if case.name == name)
        for name in ("ordinary", "inputs times 1000")
    )
    assert all(torch.equal(x, 1000 * own) for x, own in zip(scaled.inputs, ordinary.inputs, strict=True))
