"""The labels of the bank are true: torch.autograd in float64 says so, and nothing of the oracle."""

from collections.abc import Iterator
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests.oracle.function_bank import CANDIDATES, FUNCTIONS
from tests.oracle.function_bank.entry import BF16, F16, F32, F64, Candidate, Function

pytestmark = pytest.mark.exhaustive  # labels change with the bank alone

# Errors as a part of the largest number of a gradient.  A right one rounds once (2^-8 and 2^-11) in 16 bits, and in
# float32 adds up a few hundred terms; a wrong one stands clear of that.
RIGHT = {F64: 1e-10, F32: 2e-5, F16: 2e-3, BF16: 1e-2}
WRONG = {F64: 1e-8, F32: 1e-4, F16: 5e-3, BF16: 2.5e-2}


def parts(y) -> tuple:
    return y if isinstance(y, tuple) else (y,)


def drawn(function: Function, inputs, dtype: torch.dtype, seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for given in {**function.inputs, **inputs}.values():
        if given is None:
            tensors.append(None)
            continue
        x = given(generator) if callable(given) else torch.randn(given, generator=generator, dtype=F64)
        tensors.append(x.to(dtype) if x.is_floating_point() else x)
    return tuple(tensors)


def truth(function: Function, inputs: tuple, dy) -> tuple[tuple, list]:
    """Values and cotangents in float64 by autograd at these very inputs."""
    moved = [isinstance(x, Tensor) and x.is_floating_point() for x in inputs]
    leaves = [x.double().detach().requires_grad_() if m else x for x, m in zip(inputs, moved, strict=True)]
    # A cast to float32 in the function is one to float64 here.
    with patch.object(torch, "float32", F64):
        y = parts(function.forward(*leaves, **function.hyper))
    wanted = [x for x, m in zip(leaves, moved, strict=True) if m]
    live = [(one, d.double()) for one, d in zip(y, parts(dy), strict=True) if one.requires_grad]
    found = iter(torch.autograd.grad([one for one, _ in live], wanted, [d for _, d in live], allow_unused=True))
    grads = [next(found) if m else None for m in moved]
    return tuple(one.detach() for one in y), [
        torch.zeros_like(x) if m and grad is None else grad
        for x, m, grad in zip(leaves, moved, grads, strict=True)
    ]  # fmt: skip


def cotangents(function: Function, inputs: tuple, dtype: torch.dtype, seed: int) -> list:
    """A cotangent as it comes, and the same numbers in another layout."""
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        doubled = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
        y = function.forward(*doubled, **function.hyper)
    plain = tuple(torch.randn(one.shape, generator=generator, dtype=F64).to(dtype) for one in parts(y))
    strided = tuple(d.movedim(0, -1).contiguous().movedim(-1, 0) if d.ndim > 1 else d for d in plain)
    return [ds if isinstance(y, tuple) else ds[0] for ds in (plain, strided)]


@cache
def samples(function: Function, dtype: torch.dtype, of: Candidate | None) -> list:
    """Inputs, a cotangent and the truth; at inputs of a candidate's own where it has them."""
    found = []
    for seed in range(2):
        inputs = drawn(function, of.shown_by if of else {}, dtype, seed)
        found += [(inputs, dy, truth(function, inputs, dy)) for dy in cotangents(function, inputs, dtype, seed)]
    return found


def error(candidate: Candidate, inputs: tuple, dy, expected: tuple) -> float:
    """The largest error of a value or a cotangent, as a part of the largest number of it."""
    read = [x for x in (*inputs, *parts(dy)) if x is not None]
    kept = [x.clone() for x in read]
    y, grads = candidate.vjp(inputs, dy, **candidate.function.hyper)
    for x, before in zip(read, kept, strict=True):
        assert torch.equal(x, before), f"{candidate.name} overwrites what it is given"
    assert len(grads) == len(inputs)
    worst = 0.0
    for got, true in zip((*parts(y), *grads), (*expected[0], *expected[1]), strict=True):
        if true is None:
            assert got is None, f"{candidate.name}: a cotangent for an input without one"
            continue
        assert got.shape == true.shape, f"{candidate.name}: {got.shape} for {true.shape}"
        if true.numel():
            difference = (got.double() - true).abs().max() / true.abs().max().clamp(min=1e-30)
            worst = max(worst, float(difference.nan_to_num(torch.inf)))
    return worst


def errors(candidate: Candidate, dtype: torch.dtype) -> Iterator[float]:
    of = candidate if candidate.shown_by else None
    return (error(candidate, *sample) for sample in samples(candidate.function, dtype, of))


def named(candidate: Candidate) -> str:
    return candidate.name


@pytest.mark.parametrize("candidate", [c for c in CANDIDATES if c.right], ids=named)
def test_a_right_one_agrees_with_autograd(candidate: Candidate) -> None:
    for dtype in candidate.function.dtypes:
        assert max(errors(candidate, dtype)) <= RIGHT[dtype], dtype


@pytest.mark.parametrize("candidate", [c for c in CANDIDATES if not c.right], ids=named)
def test_a_wrong_one_differs_where_it_shows(candidate: Candidate) -> None:
    for dtype in candidate.shows:
        assert any(found > WRONG[dtype] for found in errors(candidate, dtype)), dtype


def test_names_are_unique_and_every_function_has_candidates() -> None:
    names = [candidate.name for candidate in CANDIDATES]
    assert len(names) == len(set(names))
    for function in FUNCTIONS:
        assert any(candidate.function is function for candidate in CANDIDATES), function.name
    assert all(candidate.cause and candidate.shows for candidate in CANDIDATES if not candidate.right)
