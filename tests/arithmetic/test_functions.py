"""Every function of both tables: its bound encloses what programs compute, its derivative is that of its value."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("flint", reason="certified truth needs python-flint")
from flint import arb, ctx

from manual_bp.arithmetic import balls, balls_table, bounded_table
from manual_bp.arithmetic.balls import Choice, Jets, lift
from manual_bp.arithmetic.bounded import Bounded, Running
from manual_bp.arithmetic.bounded_table import precision
from manual_bp.arithmetic.jets import ZERO, Cell, Leaf, pulled_back, tangent
from manual_bp.outputs import parts

from .functions import COMPARED, FUNCTIONS, LIKE, MASKED, SHAPES, Function

BITS = 200
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_shape = pytest.mark.parametrize("name", SHAPES)


# --------------------------------------------------------------------------------------------- what the tests need


def jets(x: Tensor, key: int = 0, moved: bool = True) -> Jets:
    """A tensor as an input of ball arithmetic; its elements are numbered from `key` on."""
    cells = enumerate(map(arb, x.flatten().tolist()), key)
    return Jets(x.shape, [Leaf(value, number) if moved else Cell(value) for number, value in cells])


def cells_of(result: Any) -> list[Cell]:
    return [cell for part in parts(result) for cell in lift(part).cells]


def certified(function: Function, operands: list[Tensor]) -> list[arb]:
    """The exact values, in balls."""
    with ctx.workprec(BITS):
        return [cell.value for cell in cells_of(function.call(*(jets(x, moved=False) for x in operands)))]


def flat(result: Any) -> Tensor:
    return torch.cat([part.double().flatten() for part in parts(result)])


def off(found: Tensor, truth: list[arb]) -> Tensor:
    """How far numbers are from the truth; 0 of an infinity that is one, nan where there is no number."""
    with ctx.workprec(BITS + 64):
        errors = [
            0.0 if arb(number) == exact else float(abs(arb(number) - exact).upper()) if exact.is_finite() else torch.nan
            for number, exact in zip(found.tolist(), truth, strict=True)
        ]
    return torch.tensor(errors, dtype=torch.float64)


def enclosing(function: Function, operands: list[Tensor], errors: list[Tensor], dtype: torch.dtype) -> Any:
    with torch.no_grad(), Running():
        return function.call(*(Bounded(x.double(), e, dtype) for x, e in zip(operands, errors, strict=True)))


def value_and_error(result: Any) -> tuple[Tensor, Tensor]:
    bounded = parts(result)
    assert all(isinstance(part, Bounded) for part in bounded)
    return tuple(torch.cat([getattr(part, name).flatten() for part in bounded]) for name in ("value", "error"))


def exact(operands: list[Tensor]) -> list[Tensor]:
    return [torch.zeros(x.shape, dtype=torch.float64) for x in operands]


# ------------------------------------------------------------------------------------------------------ the bound


@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bound_encloses_the_program(name: str, dtype: torch.dtype) -> None:
    """At random operands and extreme ones, against certified values; and it is finite where the value is a number."""
    function = FUNCTIONS[name]
    given = [function.operands(seed) for seed in range(3)]
    given += [[torch.tensor(x, dtype=torch.float64) for x in each] for each in function.extremes]
    for operands in given:
        narrow = [x.to(dtype) for x in operands]
        found = flat(function.call(*narrow))
        truth = certified(function, narrow)
        value, error = value_and_error(enclosing(function, narrow, exact(narrow), dtype))
        wrong = off(found, truth)
        assert not (wrong > error).any(), (narrow, found, value, error)
        within = torch.tensor([bool(t.is_finite() and abs(t) < precision(dtype).max / 2) for t in truth])
        assert error[within].isfinite().all(), (narrow, found, error)


@every_function
@pytest.mark.parametrize("uncertain", [1e-4, 0.6])
def test_the_bound_encloses_programs_on_other_operands(name: str, uncertain: float) -> None:
    """float32 on operands anywhere in their intervals, the ends above all; wide ones put elements in another order."""
    function = FUNCTIONS[name]
    if function.decided and uncertain > 0.1:
        pytest.skip("what is decided otherwise is not covered")
    generator = torch.Generator().manual_seed(0)
    operands = [x.float().double() for x in function.operands()]
    errors = [uncertain * torch.rand(x.shape, generator=generator, dtype=torch.float64) for x in operands]
    u = precision(torch.float32).u
    # the rounding of the perturbed operand to float32 is one more error
    granted = [e + u * (x.abs() + e) for x, e in zip(operands, errors, strict=True)]
    value, error = value_and_error(enclosing(function, operands, granted, torch.float32))
    for _ in range(10):
        signs = [torch.randint(-1, 2, x.shape, generator=generator) for x in operands]
        program = function.call(*((x + e * s).float() for x, e, s in zip(operands, errors, signs, strict=True)))
        assert not ((flat(program) - value).abs() > error).any()


@every_function
def test_the_bound_is_what_the_ends_of_intervals_can_do(name: str) -> None:
    """To first order that is Σ |∂y/∂x| e, with certified derivatives; roundings vanish beside it."""
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(1)
    operands = function.operands(1)
    errors = [1e-6 * (0.5 + torch.rand(x.shape, generator=generator, dtype=torch.float64)) for x in operands]
    _, error = value_and_error(enclosing(function, operands, errors, torch.float64))
    e = torch.cat([x.flatten() for x in errors]).tolist()
    starts = itertools.accumulate((x.numel() for x in operands), initial=0)
    with ctx.workprec(BITS):
        outputs = cells_of(function.call(*map(jets, operands, starts)))
        reach = [
            sum(abs(float(slope.mid())) * e[leaf.key] for leaf, slope in tangent(cell).items()) for cell in outputs
        ]
    for number, (bound, due) in enumerate(zip(error.tolist(), reach, strict=True)):
        assert bound >= (1 - 1e-3) * due, f"element {number}: {bound} is less than {due}"
        assert bound <= function.loose * due + 1e-12, f"element {number}: {bound} is more than {due}"


# ------------------------------------------------------------------------------------------------------ certified truth

STEP_BITS, FINE_BITS = 160, 640
"""A difference quotient of step h = 2^-160 is off by h² times a third derivative, and 640 bits leave 320 of it."""


@every_function
def test_the_derivative_is_that_of_the_value(name: str) -> None:
    """By a difference quotient, along one direction; by the way back and by the way forward."""
    function = FUNCTIONS[name]
    operands = function.operands(2)
    starts = list(itertools.accumulate((x.numel() for x in operands), initial=0))
    direction = torch.randn(starts[-1], generator=torch.Generator().manual_seed(2), dtype=torch.float64).tolist()
    with ctx.workprec(FINE_BITS):
        h = arb(2) ** -STEP_BITS

        def moved(step: arb, along: bool = False) -> list[Cell]:
            grids = []
            for x, start in zip(operands, starts, strict=False):
                values = [(arb(value), arb(direction[start + i])) for i, value in enumerate(x.flatten().tolist())]
                grids.append(Jets(x.shape, [Cell(v + step * d, along=d if along else None) for v, d in values]))
            return cells_of(function.call(*grids))

        back = cells_of(function.call(*map(jets, operands, starts)))
        forward = moved(ZERO, along=True)
        for ahead, behind, cell, slope in zip(moved(h), moved(-h), back, forward, strict=True):
            quotient = (ahead.value - behind.value) / (2 * h)
            swept = sum((s * arb(direction[leaf.key]) for leaf, s in tangent(cell).items()), ZERO)
            close = arb(2) ** -200 * (1 + abs(quotient))
            assert abs(swept - quotient) < close
            assert abs((ZERO if slope.along is None else slope.along) - quotient) < close


@every_function
def test_a_whole_gradient_is_the_sum_of_its_parts(name: str) -> None:
    function = FUNCTIONS[name]
    operands = function.operands(3)
    starts = itertools.accumulate((x.numel() for x in operands), initial=0)
    with ctx.workprec(BITS):
        outputs = cells_of(function.call(*map(jets, operands, starts)))
        weights = [arb(position + 1) for position in range(len(outputs))]
        together = pulled_back(zip(outputs, weights, strict=True))
        apart = [
            (leaf, w * slope) for cell, w in zip(outputs, weights, strict=True) for leaf, slope in tangent(cell).items()
        ]
        for leaf, total in together.items():
            parts_of_it = sum((slope for each, slope in apart if each is leaf), ZERO)
            assert (total - parts_of_it).contains(0)


# ---------------------------------------------------------------------------------------------------- moving about


@every_shape
def test_elements_go_where_torch_puts_them(name: str) -> None:
    call = SHAPES[name]
    x = torch.arange(1, 13, dtype=torch.float64).reshape(3, 4)
    wanted = call(x)
    numbered = call(jets(x))
    assert isinstance(numbered, Jets)
    assert numbered.shape == wanted.shape
    assert [float(cell.value) for cell in numbered.cells] == wanted.flatten().tolist()
    with torch.no_grad(), Running():
        bounded = call(Bounded(x, x / 128, torch.float32))
    assert isinstance(bounded, Bounded)
    assert bounded.dtype == torch.float32
    assert torch.equal(bounded.value, wanted)
    assert torch.equal(bounded.error, wanted / 128)


@pytest.mark.parametrize("name", LIKE)
def test_tensors_like_one(name: str) -> None:
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    wanted = LIKE[name](x)
    found = LIKE[name](jets(x))
    assert torch.equal(
        lift(found).cells and torch.tensor([float(c.value) for c in lift(found).cells]), flat(wanted).float()
    )
    with torch.no_grad(), Running():
        bounded = LIKE[name](Bounded(x, x, torch.float32))
    assert bounded.dtype == LIKE[name](x.float()).dtype
    if isinstance(bounded, Bounded):
        wrong = (LIKE[name](x.float()).double() - wanted).abs()
        assert (wrong <= bounded.error).all()
        assert (bounded.error <= 2 * precision(torch.float32).u * wanted.abs()).all()


# ------------------------------------------------------------------------------------------------------ decisions


@pytest.mark.parametrize("name", COMPARED)
def test_decisions_are_those_of_torch(name: str) -> None:
    """Of numbers that nothing moves: equal infinities tie, and nan is like nothing."""
    inf, nan = torch.inf, torch.nan
    a = torch.tensor([1.0, 1.0, -2.0, inf, inf, -inf, nan, nan, -inf], dtype=torch.float64)
    b = torch.tensor([1.0, 2.0, -3.0, inf, 1.0, -inf, nan, 1.0, inf], dtype=torch.float64)
    if name.startswith("argmax"):
        a = a.nan_to_num(0.0)
    wanted = COMPARED[name](a, b)
    assert torch.equal(COMPARED[name](jets(a, moved=False), jets(b, moved=False)), wanted)
    with torch.no_grad(), Running():
        assert torch.equal(COMPARED[name](*(Bounded(x, torch.zeros_like(x), torch.float64) for x in (a, b))), wanted)


@pytest.mark.parametrize("name", MASKED)
def test_masks_stay_open_where_a_tie_can_turn_them(name: str) -> None:
    """Half of a mask's bits are open: a result is open where another one of such a bit would change it."""
    x = jets(torch.tensor([0.0, 0.0, 1.0, 2.0]))
    mask, other = x >= torch.tensor([0.0, 0.0, 5.0, 5.0]), torch.tensor([True, False, True, False])
    assert isinstance(mask, Choice)
    found = MASKED[name](mask, other)
    here = MASKED[name](torch.tensor([True, True, False, False]), other)
    turned = MASKED[name](torch.tensor([False, False, False, False]), other)
    if isinstance(found, Choice):
        assert [option.here for option in found.cells] == here.flatten().tolist()
        assert [bool(option.leaves) for option in found.cells] == (here != turned).flatten().tolist()
    else:
        assert torch.equal(found, here)
        assert torch.equal(here, turned)


# ------------------------------------------------------------------------------------------------ nothing untested


def test_every_entry_of_the_bounds_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    original = Bounded.__torch_dispatch__

    def noted(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen.add(func)
        return original(func, types, args, kwargs)

    monkeypatch.setattr(Bounded, "__torch_dispatch__", noted)
    for function in FUNCTIONS.values():
        operands = function.operands()
        enclosing(function, operands, exact(operands), torch.float32)
    for call in SHAPES.values():
        with torch.no_grad(), Running():
            call(Bounded(torch.ones(3, 4).double(), torch.zeros(3, 4).double(), torch.float32))
    for of_one, of_two in itertools.zip_longest(LIKE.values(), COMPARED.values()):
        x = Bounded(torch.ones(3).double(), torch.zeros(3).double(), torch.float32)
        with torch.no_grad(), Running():
            _ = of_one and of_one(x), of_two and of_two(x, x)
    tables = [
        bounded_table.ARITHMETIC,
        bounded_table.EXTREMES,
        bounded_table.SOLVED,
        bounded_table.SHAPES,
        bounded_table.FILLED,
    ]
    tables += [bounded_table.CONSTANTS, dict.fromkeys(bounded_table.DECISIONS)]
    untested = sorted(str(func) for func in set().union(*tables) - seen)
    assert not untested, f"no entry of functions.py reaches {', '.join(untested)}"


def test_every_entry_of_the_balls_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    original = balls.apply

    def noted(name: str, args: Any, kwargs: Any) -> Any:
        names.add(name)
        return original(name, args, kwargs)

    monkeypatch.setattr(balls, "apply", noted)
    for function in FUNCTIONS.values():
        function.call(*map(jets, function.operands()))
    for call in SHAPES.values():
        call(jets(torch.ones(3, 4)))
    x = jets(torch.zeros(3))
    for like in LIKE.values():
        like(x)
    for decide in COMPARED.values():
        decide(x, x)
    for combine in MASKED.values():
        combine(x >= 0, x >= 0)
    seen = {id(balls_table.MEANINGS[name]) for name in names & balls_table.MEANINGS.keys()}
    untested = {
        name for name, meaning in balls_table.MEANINGS.items() if id(meaning) not in seen
    } | balls_table.SHAPING - names
    assert not untested, f"no entry of functions.py reaches {', '.join(sorted(untested))}"
