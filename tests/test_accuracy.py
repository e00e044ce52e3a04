"""Element-wise gradients keep their digits over the whole range of float32 and float64.

Every value is compared with certified truth, which comes from the page's forward in ball arithmetic and is good to
10^-30: what is held to 5 ulp here, or to what a page promises instead, is neither compared with torch nor with the page
in a wider format.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import manual_bp as bp
import torch_ref

pytest.importorskip("flint", reason="certified truth needs python-flint")
pytest.importorskip("typer", reason="the points are those of the benchmark's table")
from benchmarks.accuracy import (
    Hyper,
    Measured,
    elementwise_rules,
    hardest,
    judge,
    measure,
    points,
    promised,
    short,
    variants,
)
from manual_bp.arithmetic.certified import ALLOWED_ULPS, truth
from manual_bp.outputs import parts

RANGES = {torch.float32: (200, 10_000), torch.float64: (2 * 2, 4_000)}
"""Points of each sign per exponent, and evenly over the range of saturation and underflow.

float32 has 255 exponents: 10^5 points.  float64 has 2047, and 4 points are the fewest: both ends of each binade and
two between."""
HARDEST = 1000
"""float32 points at which a search of 10^6 found the largest errors."""
VARIANT = 10
"""Every so many of these points are used with hyperparameters other than the ordinary, and by default with those.  In
float32, where the hardest are judged beside them, every so many of these again for others by default."""
LOST = 1e4
"""Times what is allowed, 50 000 ulp for most: a formula that loses digits loses this much somewhere, in float32 all but
eight bits."""
KINKS = 1 / 1000
"""The part of the points that may be without derivative; more would mean that little is judged."""

BESIDE = 1.7
"""What the other inputs are where one of several moves: a number that is no power of 2, so that a product rounds."""
SEVERAL = [
    rule
    for rule in bp.RULES.values()
    if rule.elementwise and rule.has_backward and sum(each.cotangent for each in rule.inputs.values()) > 1
]
"""Element-wise rules of several inputs that have a cotangent."""
ONE_IN = {torch.float32: 2, torch.float64: 16}
"""Of some 2500 and 17 000 points, for each of which these have several derivatives."""

CASES = [(rule.name, hyper) for rule in elementwise_rules() for hyper in variants(rule)]


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """A truth of 10^5 points is a million objects without cycles; looking for some takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


def case_id(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={setting}" for name, setting in value.items()) or "plain"
    return short(value) if isinstance(value, torch.dtype) else str(value)


def drawn(rule: bp.Rule, hyper: Hyper, dtype: torch.dtype, every_point: bool) -> Tensor:
    x = points(dtype, *RANGES[dtype])
    is_other = hyper != rule.ordinary
    if is_other or not every_point:
        x = x[::VARIANT]
    if is_other and not every_point and dtype == torch.float32:
        x = x[::VARIANT]
    return torch.cat([x, hardest(rule, hyper, HARDEST)]) if dtype == torch.float32 else x


def complaint(measured: Measured, what: str) -> str:
    """The worst point, in full."""
    result = measured.candidates["manual"][what]
    ulps, at = result.worst()
    settings = "".join(f", {name}={value}" for name, value in measured.hyper.items())
    return (
        f"{what} of {measured.rule.name}(x{settings}) in {short(measured.x.dtype)} at x = {float(measured.x[at])!r}: "
        f"got {float(result.got[at])!r}, expected {float(measured.truth[what][at])!r}, "
        f"off by {ulps:.3g} ulp of {float(result.allowed[at]):.3g} allowed "
        f"({int((result.ulps > result.allowed).sum())} of {measured.judged} points are)"
    )


@pytest.mark.parametrize("dtype", RANGES, ids=case_id)
@pytest.mark.parametrize(("name", "hyper"), CASES, ids=case_id)
def test_value_and_gradient_keep_their_digits(
    name: str, hyper: Hyper, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """At every tenth point, or with --exhaustive at every one, and at the hardest that were found."""
    rule = bp.RULES[name]
    x = drawn(rule, hyper, dtype, request.config.getoption("--exhaustive"))
    measured = measure(rule, x, hyper, {"manual": rule.vjp})
    assert measured.judged >= (1 - KINKS) * measured.x.numel()
    for what in ("gradient", "value"):
        assert measured.candidates["manual"][what].keeps(), complaint(measured, what)


@pytest.mark.parametrize("dtype", RANGES, ids=case_id)
@pytest.mark.parametrize(
    ("name", "moving"), [(rule.name, moving) for rule in SEVERAL for moving in rule.inputs], ids=case_id
)
def test_every_cotangent_of_several_keeps_its_digits(name: str, moving: str, dtype: torch.dtype) -> None:
    """The allowance of a comparison is that of the page's own text, and wide where the text loses digits."""
    rule = bp.RULES[name]
    assert all(map(rule.is_number, rule.inputs))
    x = points(dtype, 4, 400)[:: ONE_IN[dtype]]
    inputs = tuple(x if each == moving else torch.full_like(x, BESIDE) for each in rule.inputs)
    for hyper in variants(rule):
        exact = truth(rule, inputs, torch.ones_like(x), **hyper)
        y, grads = rule.vjp(inputs, torch.ones_like(x), **hyper)
        results = zip(rule.arguments, (*exact.outputs, *exact.grads), (*parts(y), *grads), strict=True)
        for argument, balls, got in results:
            assert balls is not None, argument
            assert got is not None, argument
            found = judge(balls, got, promised(rule, argument, inputs, hyper, balls.midpoint()))
            ulps, at = found.worst()
            where = f"{argument} of {name}({hyper}) at {moving} = {float(x[at])!r}"
            assert found.keeps(), f"{where}: off by {ulps:.3g} ulp of {float(found.allowed[at]):.3g} allowed"


@pytest.mark.parametrize("dtype", RANGES, ids=case_id)
def test_points_cover_the_whole_range(dtype: torch.dtype) -> None:
    x, info = points(dtype, *RANGES[dtype]), torch.finfo(dtype)
    assert bool(x.isfinite().all())
    # As the project asks: 10^5 points of float32, 10^3 of float64
    assert x.numel() >= {torch.float32: 10**5, torch.float64: 10**3}[dtype]
    for some in (x, -x):
        assert some.max() == info.max
        for number in (info.smallest_normal, info.smallest_normal * info.eps, info.eps, 1.0):
            assert (some == number).any(), f"{number} is not among the points"
    zeros = x[x == 0]
    assert zeros.signbit().unique().numel() == 2  # +0 and -0
    exponents = x[x != 0].abs().frexp().exponent.unique()
    assert len(exponents) == exponents.max() - exponents.min() + 1  # no binade is left out, subnormal ones included


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize(("dtype", "at"), [(torch.float32, 17.0), (torch.float64, 37.0)], ids=case_id)
def test_torch_loses_every_digit(name: str, dtype: torch.dtype, at: float) -> None:
    """What the README says of torch; if this fails, torch has improved and the README must follow."""
    rule, twin = bp.RULES[name], torch_ref.twin(name)
    assert twin is not None
    x = torch.tensor([at], dtype=dtype)
    measured = measure(rule, x, rule.ordinary, {"torch": twin, "manual": rule.vjp})
    ulps = {who: results["gradient"].worst()[0] for who, results in measured.candidates.items()}
    assert ulps["torch"] >= 1e6, f"torch's {name} in {short(dtype)} at x = {at} is only {ulps['torch']:.3g} ulp off"
    assert ulps["manual"] <= ALLOWED_ULPS


@pytest.mark.parametrize(
    ("name", "mistake"), [(r.name, m.name) for r in elementwise_rules() for m in r.mistakes if m.loses_digits]
)
def test_formula_that_loses_digits_is_caught(name: str, mistake: str) -> None:
    """The points and the judgement above see the difference that they are made for."""
    rule = bp.RULES[name]
    (wrong,) = [each for each in rule.mistakes if each.name == mistake]
    for dtype in RANGES:
        x = points(dtype, *RANGES[dtype])[::VARIANT]
        measured = measure(rule, x, rule.ordinary, {"manual": rule.mistaken(wrong.backward)})
        lost = measured.candidates["manual"]["gradient"]
        assert bool((lost.ulps > LOST * lost.allowed).any()), f"{mistake} passes in {short(dtype)}"
