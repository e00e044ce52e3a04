"""torch's own functions as references: what is certified is what torch.autograd says, within narrow bounds; all of
torch.nn.functional is in the table, or it is said why not."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("flint", reason="certified truth needs python-flint")

import torch_ref
from manual_bp.arithmetic import balls
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.arithmetic.certified import PrecisionError, truth
from manual_bp.oracle import Case, compare
from manual_bp.oracle.functions import reference
from manual_bp.outputs import parts, whole

from .torch_functions import (
    COARSE,
    FUNCTIONS,
    IN_FLOAT32,
    LOSES,
    MISSING,
    NO_DERIVATIVE,
    RANDOM,
    ROUGH,
    TORCH_IS_WRONG,
    Torchs,
)

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def drawn(given: Torchs, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for said in given.inputs.values():
        x = torch.randn(said, generator=generator, dtype=torch.float64) if isinstance(said, tuple) else said
        x = x(generator) if callable(x) else x
        found.append(x.to(dtype) if x.is_floating_point() else x)
    return tuple(found)


def at_random(given: Torchs, dtype: torch.dtype, seed: int = 0) -> tuple[tuple[Tensor, ...], Any]:
    """Inputs and dy."""
    inputs = drawn(given, dtype, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    y = given.function(*(x.clone() for x in inputs))
    return inputs, whole([torch.randn(part.shape, generator=generator).to(dtype) for part in parts(y)], like=y)


def judged(given: Torchs) -> None:
    """All that evidence needs.  Raises what says why there is none."""
    rule = reference(given.function, given.inputs)
    inputs, dy = at_random(given, torch.float32)
    widths(rule, inputs, dy, contract_of(torch.float32))
    truth(rule, inputs, dy)


def widened(x: Any) -> Any:
    return whole([part.double() if part.is_floating_point() else part for part in parts(x)], like=x)


@pytest.mark.thinned(3)
@every_function
def test_what_is_certified_is_what_torch_says_within_a_narrow_bound(name: str) -> None:
    """torch.autograd in float64 agrees with certified truth, and in float32 is within the bound; a factor of 1.001 is
    beyond it for some cotangent."""
    given = FUNCTIONS[name]
    rule = reference(given.function, given.inputs)
    inputs, dy = at_random(given, torch.float32)
    bound = widths(rule, inputs, dy, contract_of(torch.float32))
    certified = truth(rule, inputs, dy)
    y, grads = torch_ref.vjp(given.function)(tuple(map(widened, inputs)), widened(dy))
    narrow_y, narrow = torch_ref.vjp(given.function)(inputs, dy)
    told = 0
    arguments = zip(rule.arguments, (*bound.outputs, *bound.grads), (*certified.outputs, *certified.grads), strict=True)
    for (argument, allowed, exact), due, found in zip(
        arguments, (*parts(y), *grads), (*parts(narrow_y), *narrow), strict=True
    ):
        if allowed is None or exact is None or due is None:
            continue
        known = exact.midpoint()
        smooth = ~known.isnan()
        share = LOSES.get(
            name, ROUGH.get(name, 1e-2)
        )  # of the bound in float32; float64 has 2^29 more digits than that
        assert not ((known - due).abs() > share * allowed + 1e-300)[smooth].any(), argument
        if name not in LOSES:
            off = (found.double() - due).abs()
            assert not (off > COARSE.get(name, 1.0) * allowed)[smooth].any(), f"{argument} in float32"
        if argument.startswith("d"):
            told += bool((1e-3 * known.abs() > allowed)[smooth].any()) or not bool((known[smooth] != 0).any())
    assert told, "no cotangent is known well enough to tell 1.001 times it from itself"


def scaled(right: Any, by: float) -> Any:
    def wrong(inputs: tuple[Any, ...], dy: Any, **hyper: Any) -> Any:
        y, grads = right(inputs, dy, **hyper)
        return y, tuple(None if g is None else g * by for g in grads)

    return wrong


@pytest.mark.exhaustive
@every_function
def test_torchs_own_derivative_passes_and_one_in_a_thousand_more_does_not(name: str) -> None:
    """In float32 and float64 by turns: the test above is of both, and compare is the same for a function in either."""
    given, position = FUNCTIONS[name], list(FUNCTIONS).index(name)
    right = torch_ref.vjp(given.function)
    # Of what is rough torch itself is as far off in float64.
    is_narrow = position % 2 or name in ROUGH or name in IN_FLOAT32
    dtype, slip = (torch.float32, 1e-3) if is_narrow else (torch.float64, 1e-6)
    how = {"inputs": given.inputs, "dtype": dtype, "diagnose": 0}
    report = compare(right, given.function, **how)
    assert report.passed == (name not in TORCH_IS_WRONG), str(report)
    assert all(TORCH_IS_WRONG[name] in str(mismatch) for mismatch in report.mismatches), str(report)
    inputs, dy = at_random(given, dtype)
    _, grads = right(inputs, dy)
    if any(g is not None and bool((g != 0).any()) for g in grads):
        wrong = scaled(right, 1 + slip)
        # One case shows it of most functions; of the others all are asked.
        if not compare(wrong, given.function, cases=[Case(inputs, dy)], **how).mismatches:
            assert not compare(wrong, given.function, **how).passed, f"{slip} too much passes in {dtype}"


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_says_so(name: str) -> None:
    """And is no longer in this list as soon as it can be a reference."""
    given, words = MISSING[name]
    with pytest.raises((ValueError, PrecisionError)) as caught:
        judged(given)
    assert words in str(caught.value)


def test_all_of_torchs_functional_is_there() -> None:
    public = {
        name
        for name, each in vars(F).items()
        if name[0].islower()
        and (
            inspect.isbuiltin(each) or getattr(each, "__module__", "") in ("torch.nn.functional", "torch._jit_internal")
        )
    }
    there = {name.removeprefix("F.").partition(",")[0] for name in (*FUNCTIONS, *MISSING) if name.startswith("F.")}
    left = public - there - NO_DERIVATIVE - RANDOM
    assert not left, f"neither judged, nor said to be missing: {sorted(left)}"
    assert not (NO_DERIVATIVE | RANDOM) & there


def test_what_ball_arithmetic_does_not_know_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(balls.MEANINGS, "erfinv")

    def probit(x: Tensor) -> Tensor:
        return torch.erfinv(x)

    inputs, right = {"x": FUNCTIONS["erfinv"].inputs["x"]}, torch_ref.vjp(probit)
    report = compare(right, probit, inputs=inputs, diagnose=0)
    assert report.passed, str(report)
    assert any(note.startswith("not certified: erfinv") for note in report.notes)
    assert not compare(scaled(right, 1.001), probit, inputs=inputs, diagnose=0).passed
