"""Stochastic arithmetic takes the place of a bound that has lost its meaning, and of no other."""

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from manual_bp.arithmetic.bounded import How, Paging, contract_of, enter, widths
from manual_bp.arithmetic.bounded_table import precision
from manual_bp.arithmetic.bounded_tensor import Bounded, Dice, done_so
from manual_bp.arithmetic.stochastic import repeated, worst_case
from manual_bp.inputs import Edge
from manual_bp.oracle.cases.generated import draw
from manual_bp.oracle.functions import reference
from manual_bp.outputs import parts
from manual_bp.rule import Rule
from tests.arithmetic.planted import rule_of
from tests.pages import PAGES

FLOAT32 = contract_of(torch.float32)


def recurrence(x: Float[Tensor, "time width"], weight: Float[Tensor, "width width"]) -> Float[Tensor, "time width"]:
    h = torch.zeros(x.shape[1], dtype=x.dtype)
    states = []
    for x_t in x:
        h = torch.tanh(weight @ h + x_t)
        states.append(h)
    return torch.stack(states)


def differences(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return (x + 1000) - (x.mean() + 1000)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 16, generator=generator), torch.randn(16, 16, generator=generator) / 4


def bound(rule: Rule, inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patched:
        patched.setattr("manual_bp.arithmetic.bounded.is_wide", lambda *_: False)
        return widths(rule, inputs, torch.ones(rule.forward(*inputs)[0].shape), FLOAT32).outputs[0]


def test_a_long_recurrence_has_a_width(inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bound says nothing: wide enough for the program, too narrow for a slip of a ten-thousandth anywhere."""
    rule = rule_of(recurrence)
    found = widths(rule, inputs, torch.ones(60, 16), FLOAT32)
    (width,) = found.outputs
    wide = recurrence(*(x.double() for x in inputs))
    error = (recurrence(*inputs).double() - wide).abs()
    assert found.stochastic
    bounded = bound(rule, inputs, monkeypatch)
    given_up = width != bounded
    assert (bounded[-1] > 1).all()
    assert given_up[-1].all()
    assert (width[given_up] < bounded[given_up]).all()
    assert (bounded[-1] > 1000 * width[-1]).all()
    assert (error <= width).all()
    assert width.max() < 1e-4 * wide.abs().max()  # before the bound is lost as well as behind
    assert error.max() > width.max() / 1000


def test_a_bound_that_is_wide_gives_way_to_what_errors_make_in_the_worst_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bound still has a meaning: a slip of a thousandth would pass it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 16, generator=generator), torch.randn(16, 16, generator=generator) / 4
    rule = rule_of(recurrence)
    (width,), bounded = (
        widths(rule, inputs, torch.ones(16, 16), FLOAT32).outputs,
        bound(rule, inputs, monkeypatch),
    )
    largest = recurrence(*(x.double() for x in inputs)).abs().max()
    assert 1e-3 * largest < bounded.max() < largest
    assert width.max() < 1e-3 * largest
    error = (recurrence(*inputs).double() - recurrence(*(x.double() for x in inputs))).abs()
    assert (error <= width).all()


class Loaded(Dice):
    """Every operation errs by the whole of its bound, to a side that is always the same for one of its elements."""

    def parts(self, shape: torch.Size) -> Tensor:
        count = max(shape.numel(), 1)
        self.thrown += count
        sides = torch.rand(self.sides, generator=torch.Generator().manual_seed(self.sides)) < 0.5
        return (2.0 * sides.double() - 1).repeat(-(-count // self.sides))[:count].reshape(shape)

    sides = 1


@pytest.mark.parametrize("sides", [1, 2, 3, 7, 16])
def test_errors_that_all_agree_are_within_the_worst_case(inputs: tuple[Tensor, Tensor], sides: int) -> None:
    """√(3 n) times the root mean square, of n errors: whatever their signs."""

    def run(dice: Dice) -> Tensor:
        how = How(dice=dice)
        with torch.no_grad(), Paging(how):
            x, weight = (done_so(enter(t, FLOAT32), how) for t in (inputs[0][:12], inputs[1]))
            thrown = recurrence(x, weight)
        assert isinstance(thrown, Bounded)
        return thrown.value

    exact = recurrence(*(x.double() for x in (inputs[0][:12], inputs[1])))
    dice = Dice()
    square = torch.stack([(run(dice) - exact) ** 2 for _ in range(16)]).mean(0)
    loaded = Loaded()
    loaded.sides = sides
    off = (run(loaded) - exact).abs()
    assert (off <= worst_case(dice.thrown, 16) * square.sqrt()).all()
    assert off.max() > square.sqrt().max()


def powers(x: Tensor) -> list[Tensor]:
    for _ in range(20):
        x = 1.1 * x
    return [x]


def test_the_worst_case_is_met_where_every_error_is_as_large_and_of_one_sign() -> None:
    """With a root mean square from 400 runs, whose own error is 4 %."""
    x, dice, loaded = torch.ones(1), Dice(), Loaded()
    (values,), (worst,) = (
        repeated(powers, [x], lambda t: enter(t, FLOAT32), How(dice=d), count=count)
        for d, count in ((dice, 400), (loaded, 1))
    )
    exact = 1.1**20
    spread = (values.value - exact).square().mean().sqrt()
    assert 0.8 < (worst.value - exact).abs().max() / (worst_case(dice.thrown, 400) * spread) < 1.2


def test_it_is_the_same_every_time(inputs: tuple[Tensor, Tensor]) -> None:
    first, second = (widths(rule_of(recurrence), inputs, torch.ones(60, 16), FLOAT32).outputs[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_bound_that_has_a_meaning_is_kept(inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    short = (inputs[0][:3], inputs[1])
    found = widths(rule_of(recurrence), short, torch.ones(3, 16), FLOAT32)
    assert not found.stochastic
    assert torch.equal(found.outputs[0], bound(rule_of(recurrence), short, monkeypatch))


def test_what_is_next_to_nothing_beside_another_width_is_not_narrowed(
    inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, dy = rule_of(recurrence), torch.ones(60, 16)
    bounded = bound(rule, inputs, monkeypatch)
    for times, narrows in ((2**11, True), (2**13, False)):
        found = widths(rule, inputs, dy, FLOAT32, beside=(times * bounded, None, None))
        assert found.stochastic == narrows
        assert torch.equal(found.outputs[0], bounded) != narrows


def test_where_errors_grow_as_large_as_the_numbers_nothing_takes_the_place_of_the_bound(
    inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    chaotic = (inputs[0], 8 * inputs[1])
    found = widths(rule_of(recurrence), chaotic, torch.ones(60, 16), FLOAT32)
    assert not found.stochastic
    assert torch.equal(found.outputs[0], bound(rule_of(recurrence), chaotic, monkeypatch))


def test_what_cancels_keeps_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is as large as the result, and so is what stochastic arithmetic finds."""
    x = (1e-5 * torch.arange(5.0),)
    found = widths(rule_of(differences), x, torch.ones(5), FLOAT32)
    assert not found.stochastic
    assert found.outputs[0].max() > 1e-5
    assert torch.equal(found.outputs[0], bound(rule_of(differences), x, monkeypatch))


@pytest.mark.parametrize("name", PAGES)
def test_an_ordinary_page_is_bounded(name: str) -> None:
    rule = PAGES[name]
    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0))
    assert not widths(rule, inputs, dy, FLOAT32, **hyper).stochastic


def test_an_operation_errs_within_its_own_bound() -> None:
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    how = How(dice=Dice(1))
    with torch.no_grad(), Paging(how):
        entered = done_so(enter(x.float(), FLOAT32), how)
        thrown = entered * entered
    assert isinstance(entered, Bounded)
    assert isinstance(thrown, Bounded)
    assert (thrown.error == 0).all()
    u = precision(torch.float32).u
    part = (thrown.value - entered.value**2) / (u * thrown.value)
    assert 0.9 < part.abs().max() <= 1
    assert part.mean().abs() < 0.1


def stepwise(x: Tensor, weight: Tensor) -> list[Tensor]:
    return [recurrence(x, weight)]


def in_place(x: Tensor, weight: Tensor) -> list[Tensor]:
    states = torch.zeros(x.shape, dtype=x.dtype)
    for t, x_t in enumerate(x):
        states[t] = torch.tanh(weight @ (states[t - 1] if t else torch.zeros_like(x_t)) + x_t)
    return [states]


def third(x: Tensor) -> Tensor:
    return x * torch.full(x.shape, 1 / 3, dtype=x.dtype)


def as_recorded(x: Tensor, weight: Tensor) -> list[Tensor]:
    """By the program of a function that is a reference, which rounds the numbers that it makes."""
    return [reference(third, {"x": (6, 4)}).pure(x)[0]]


@pytest.mark.parametrize("function", [stepwise, in_place, as_recorded])
def test_runs_at_once_err_as_runs_one_after_the_other_do(inputs: tuple[Tensor, Tensor], function) -> None:
    """Each by itself, and as widely; what is written in place into what is of no run is done run by run."""
    x, weight = inputs[0][:6, :4], inputs[1][:4, :4]
    function(x, weight)  # which is recorded once

    def spread(at_once: bool) -> Tensor:
        (values,) = repeated(
            function, [x, weight], lambda t: enter(t, FLOAT32), How(dice=Dice()), count=100, at_once=at_once
        )
        assert values.shape == (100, 6, 4)
        assert len(values.value[:, -1, -1].unique()) == 100
        return values.value.std(0)

    ratio = spread(at_once=True) / spread(at_once=False)
    assert ((ratio > 0.7) & (ratio < 1.4)).all()  # four standard deviations of a quotient of two from 100 runs each


def layers(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.relu(x @ weight + bias) * bias.mean()
    score = (h @ h.t()).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    parts = torch.softmax(score, -1).split([2, 3], 1)
    return torch.cat([parts[1], parts[0]], 1).sum(0), torch.stack([h[0], F.gelu(h[1, None])[0]]).flip(0) - bias.dot(
        bias
    )


def steps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    h, states = bias[:4], []
    for part in x:
        h = torch.sigmoid(torch.where(h > 0.1, h, part @ weight)) + (weight.permute(1, 0).reshape(-1)[:4] * h).mean()
        states.append(h)
    return torch.stack(states, 1)


def places(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    index, columns = torch.tensor([3, 0, 0, 2]), torch.tensor([[1, 0], [3, 3], [2, 1], [0, 2], [1, 1]])
    h = F.embedding(index, x) * x[index, columns[:4, 0]][:, None] + torch.full_like(weight, 0.3)
    added = torch.zeros_like(x).index_add(0, index, h) + x.gather(1, columns).sum(1, keepdim=True)
    put = added.index_put((index[:3],), bias, accumulate=True) + added.scatter_add(1, columns, x[:, 1:3])
    largest, _ = (10 * torch.arange(5)[:, None] * bias + put).max(0)
    mask = (x > 0.2) & (put > -1) | (x < -0.5)
    ends = torch.where(mask, put, largest).scatter(1, columns[:, :1], 0.7).logsumexp(1)
    return ends, torch.linalg.vector_norm(put, dim=0), x.unfold(1, 2, 1) * torch.dot(h[0], bias)


@pytest.mark.parametrize("roundings", [0.0, 8.0], ids=["", "of expanded terms"])
@pytest.mark.parametrize("function", [layers, steps, places])
def test_runs_at_once_of_a_program_err_as_runs_one_after_the_other_do(function, roundings, monkeypatch) -> None:
    """Of all that they give: values, and cotangents by the recorded derivative."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=generator) for shape in ((5, 4), (4, 4), (4,))]
    rule = reference(function, {"x": (5, 4), "weight": (4, 4), "bias": (4,)})
    given += [torch.randn(part.shape, generator=generator) for part in parts(rule.forward(*given)[0])]

    def again(x, weight, bias, *dy):
        y, residuals = rule.pure(x, weight, bias)
        return [*parts(y), *rule.page.backward(residuals, dy if len(dy) > 1 else dy[0])]

    def runs(count: int, **more) -> list[Tensor]:
        found = repeated(again, given, lambda t: enter(t, FLOAT32), How(roundings, dice=Dice()), count, **more)
        return [x.value for x in found]

    one_by_one = runs(40, at_once=False)
    monkeypatch.setattr(torch, "vmap", None)
    for own, other in zip(runs(1000, is_recorded=True), one_by_one, strict=True):
        assert own.shape[1:] == other.shape[1:]
        spread = own.std(0)
        assert ((own.mean(0) - other.mean(0)).abs() <= spread).all()  # six standard deviations of a mean of forty
        ratio = (other.std(0) / spread)[spread > 0]
        assert ((ratio > 0.45) & (ratio < 1.6)).all()  # five of a root mean square of forty


def test_what_no_program_does_at_once_is_left_to_torch(monkeypatch) -> None:
    rule, x = reference(ordered, {"x": (5, 4)}), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    vmapped, vmap, dice = [], torch.vmap, Dice()
    monkeypatch.setattr(torch, "vmap", lambda *given, **more: vmapped.append(given) or vmap(*given, **more))
    (y,) = repeated(lambda x: [rule.pure(x)[0]], [x], lambda t: enter(t, FLOAT32), How(dice=dice), 3, is_recorded=True)
    assert vmapped
    assert y.shape == (3, 5, 4)
    assert dice.thrown == 3 * 20 * 3  # the input, the product, the sum: what was begun counts for nothing


def ordered(x: Tensor) -> Tensor:
    return (x * 3).sort(0).values + x


@pytest.mark.parametrize("start", [1.01, 1.5, 1.99], ids=["above a power of 2", "between", "below one"])
def test_in_float64_one_rounding_shows_wherever_the_number_lies(start):
    """Of numbers beside which the errors are half of the distance to a neighbour, or nearly the whole."""
    value = torch.full((10000,), start, dtype=torch.float64)
    x = done_so(Bounded(value, torch.zeros_like(value), torch.float64), How(dice=Dice()))
    off = (x + 0.0).value - start  # rounded once, by one that makes a difference elsewhere
    bound = start * 2.0**-53
    assert bound / math.sqrt(3) < off.square().mean().sqrt() < 3 * bound, "of numbers evenly spread, and one more roll"
    assert abs(off.mean()) < 5 * bound / 100, "not to one side"
