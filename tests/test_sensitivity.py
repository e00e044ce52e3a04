"""The comparison accepts right programs and rejects wrong ones: a small version of `benchmarks.sensitivity`, generated
from the registry, and right programs that are written in another way than the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

import manual_bp as bp
from benchmarks.mutations import Exact, Mutation, mutated, mutations, scaled, seeded_case
from benchmarks.sensitivity import Trial, app, false_alarms, gradcheck, strictly
from manual_bp.oracle import Case, compare
from manual_bp.rule import DTYPES, Grads, Rule, Vjp
from tests.conftest import short

aten = torch.ops.aten

SEEDS = range(20)
SCALE_ERRORS = {torch.float64: 1e-6, torch.float32: 1e-3}
"""What the issue demands to be rejected."""


# ------------------------------------------------------------------------------------------- of the whole registry


def test_right_programs_raise_no_alarm(rule):
    found = [false_alarms(rule, dtype, SEEDS) for dtype in DTYPES]
    assert not [example for alarms in found for example in alarms.examples]
    assert all(alarms.seeds == len(SEEDS) for alarms in found)


@pytest.mark.parametrize("dtype", SCALE_ERRORS, ids=short)
def test_scale_errors_are_rejected_at_one_case(rule, dtype):
    """At random cases, each judged alone; not where cancellation or underflow has eaten the digits."""
    judged = dict.fromkeys(arguments(rule), 0)
    for seed in SEEDS:
        trial = Trial.of(rule, dtype, seed)
        exact = Exact.at(rule, trial.case)
        for argument in arguments(rule):
            mutation = scaled(rule, "scale error", argument, None, 1 + SCALE_ERRORS[dtype])
            if exact.visible(mutation):
                judged[argument] += 1
                assert strictly(trial, mutation), f"{argument}, seed {seed}"
    assert all(count > len(SEEDS) / 2 for count in judged.values()), judged


@pytest.mark.parametrize("dtype", SCALE_ERRORS, ids=short)
def test_scale_errors_are_rejected_by_compare(rule, dtype):
    for argument in arguments(rule):
        mutation = scaled(rule, "scale error", argument, None, 1 + SCALE_ERRORS[dtype])
        report = compare(mutated(rule, mutation.backward), rule.name, dtype=dtype, diagnose=0)
        assert {m.argument for m in report.mismatches} == {argument}, str(report)


def arguments(rule: Rule) -> list[str]:
    return [f"d{name}" for name, spec in rule.inputs.items() if spec.cotangent]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=short)
def test_coarse_mutations_are_rejected(rule, dtype):
    """Whatever is dropped, negated, doubled, or reduced wrongly, at one ordinary case (an even seed is not scaled)."""
    trial = Trial.of(rule, dtype, 2)
    exact = Exact.at(rule, trial.case)
    coarse = [m for m in mutations(rule, trial.case) if m.size >= 0.5 and exact.changed_by(m)]
    assert coarse
    assert not [m.kind for m in coarse if not strictly(trial, m)]


# ---------------------------------------------------------------------------- right programs, written in another way


class Rewritten(TorchDispatchMode):
    """Runs a page's text with some of its operations computed otherwise; `count` says how many."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.rewrite(func, args, kwargs or {})
        self.count += result is not None
        return func(*args, **(kwargs or {})) if result is None else result

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        raise NotImplementedError


class LastFirst(Rewritten):
    """Every sum, mean and matrix product summed one by one, from the last to the first."""

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if func is aten.mm.default:
            a, b = args
            return one_by_one(a[:, :, None] * b[None], [1])
        if func in (aten.sum.default, aten.sum.dim_IntList, aten.mean.dim):
            x = args[0]
            axes = [axis % x.ndim for axis in args[1]] if len(args) > 1 else list(range(x.ndim))
            total = one_by_one(x, axes)
            return total / (x.numel() // total.numel()) if func is aten.mean.dim and x.numel() else total
        return None


def one_by_one(x: Tensor, axes: list[int]) -> Tensor:
    if not x.numel():
        return x.sum(axes)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    columns = x.permute([*kept, *axes]).reshape(*(x.shape[axis] for axis in kept), -1)
    total = torch.zeros_like(columns[..., 0])
    for column in columns.flip(-1).unbind(-1):
        total = total + column
    return total


class Reciprocals(Rewritten):
    """Every division as a product with the rounded reciprocal."""

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if func is not aten.div.Tensor:
            return None
        return args[0] * torch.as_tensor(args[1], dtype=args[0].dtype).reciprocal()


class Fused(Rewritten):
    """In float32, every sum of a product rounded once; the product is exact in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the product itself is kept, so that the id is

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if not all(isinstance(x, Tensor) and x.dtype == torch.float32 for x in args):
            return None
        if func is aten.mul.Tensor:
            product = args[0] * args[1]
            self.products[id(product)] = product, args[0].double() * args[1].double()
            self.count -= 1  # nothing has been fused yet
            return product
        fused = next((i for i, x in enumerate(args) if id(x) in self.products), None)
        if func not in (aten.add.Tensor, aten.sub.Tensor) or fused is None:
            return None
        wide = [self.products[id(x)][1] if i == fused else x.double() for i, x in enumerate(args)]
        return func(*wide, **kwargs).float()


PROGRAMS = (LastFirst, Reciprocals, Fused)


@pytest.mark.parametrize("program", PROGRAMS)
def test_right_programs_are_accepted(rule, dtype, program):
    def candidate(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        with program():
            return rule.vjp(inputs, dy, **hyper)

    report = compare(candidate, rule.name, dtype=dtype, strict=True)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("program", "name"), [(LastFirst, "batch_norm"), (Reciprocals, "dropout"), (Fused, "batch_norm")]
)
def test_the_other_programs_are_others(program, name):
    """They change operations, and bits: else the test above would say nothing."""
    rule = bp.RULES[name]
    bits = []
    for seed in SEEDS:
        case = seeded_case(rule, torch.float32, seed)
        with program() as mode:
            _, (dx, *_) = rule.vjp(case.inputs, case.dy, **case.hyper)
        assert mode.count > 0
        bits.append(torch.equal(dx, rule.vjp(case.inputs, case.dy, **case.hyper)[1][0]))
    assert not all(bits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=short)
def test_a_sum_that_starts_at_the_bias_is_accepted(dtype):
    """As matrix products with an accumulator do: each product is then rounded at the size of the bias."""

    def candidate(inputs: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, Grads]:
        x, weight, bias = inputs
        y = bias.expand(len(x), -1)
        for position in range(x.shape[1]):
            y = y + x[:, position, None] * weight[:, position]
        return y, bp.linear.vjp(inputs, dy)[1]

    generator = torch.Generator().manual_seed(0)
    x, weight, bias, dy = (torch.randn(shape, generator=generator) for shape in ((6, 4), (64, 4), (64,), (6, 64)))
    case = Case(tuple(t.to(dtype) for t in (x / 10, weight / 10, 100 * bias)), dy.to(dtype))
    report = compare(candidate, "linear", dtype=dtype, cases=[case])
    assert report.passed, str(report)


def from_y(rule: Rule, formula: Callable[..., Tensor]) -> Vjp:
    """dx from y, dy and the hyperparameters, with the page's own dx to fall back on."""

    def backward(x: Tensor, dy: Tensor, **hyper: Any) -> Grads:
        y, (own,) = rule.vjp((x,), dy, **hyper)
        return (formula(y, dy, own, **hyper),)

    return rule.mistaken(backward)


FROM_Y: dict[str, Callable[..., Tensor]] = {
    "relu": lambda y, dy, own: torch.where(y > 0, dy, 0),
    "sigmoid": lambda y, dy, own: torch.where(y <= 0.5, dy * (y * (1 - y)), own),  # 1 - y cancels above
    "tanh": lambda y, dy, own: torch.where(y.abs() <= 0.5, dy * (1 - y * y), own),  # likewise
    "elu": lambda y, dy, own, alpha: torch.where((y < 0) & (y > -alpha / 4), dy * (y + alpha), own),  # likewise
}


@pytest.mark.parametrize("name", FROM_Y)
def test_computing_from_y_where_that_is_as_accurate_is_accepted(name, dtype):
    report = compare(from_y(bp.RULES[name], FROM_Y[name]), name, dtype=dtype, strict=True)
    assert report.passed, str(report)


# --------------------------------------------------------------------------------------------- of the measurement


def kinds(rule: Rule, case: Case) -> set[str]:
    exact = Exact.at(rule, case)
    return {m.kind for m in mutations(rule, case) if exact.changed_by(m)}


def test_reductions_of_the_text_are_found():
    rule = bp.batch_norm
    inputs = torch.randn(3, 3, 2, dtype=torch.float64), torch.rand(3).double(), torch.rand(3).double()
    found = kinds(rule, Case(inputs, torch.randn(3, 3, 2, dtype=torch.float64)))
    assert {"term dropped", "last one left out", "an axis forgotten", "another axis", "n - 1 for n"} <= found
    linear = Case((torch.randn(3, 3), torch.randn(3, 3), torch.randn(3)), torch.randn(3, 3))
    assert {"last one left out", "another axis", "divided by its count"} <= kinds(bp.linear, linear)


def test_a_mutation_that_changes_nothing_is_not_counted():
    one = torch.ones(1, 1, dtype=torch.float64)
    case = Case((one, one, one[0]), one)  # every sum has one term
    assert not {"divided by its count", "last one left out", "another axis"} & kinds(bp.linear, case)
    exact = Exact.at(bp.linear, Case((0 * one, one, one[0]), one))  # dweight = 0
    assert not exact.changed_by(scaled(bp.linear, "", "dweight", None, 2.0))
    assert exact.changed_by(scaled(bp.linear, "", "dx", None, 2.0))


@pytest.mark.parametrize("fast", [False, True])
def test_gradcheck_is_asked_in_earnest(rule, fast):
    trial = Trial.of(rule, torch.float64, 2)
    assert gradcheck(fast)(trial, Mutation("right", "", rule.backward)) is False
    negated = scaled(rule, "", arguments(rule)[0], None, -1.0)
    assert gradcheck(fast)(trial, negated) is True


def test_command_writes_what_it_found(tmp_path):
    path = tmp_path / "found.json"
    arguments = ["--seeds", "2", "--mutants", "1", "--rules", "relu", "--dtypes", "float32", "--json", str(path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    found = json.loads(path.read_text())
    assert found["seeds"] == 2
    assert found["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    (alarms,) = found["alarms"]
    assert (alarms["rule"], alarms["dtype"], alarms["seeds"], alarms["alarms"]) == ("relu", "float32", 2, {})
    assert found["rejected"]["float32"]["cotangent negated"]["compare"] == [1, 1]


def test_bad_usage_is_status_2():
    found = CliRunner().invoke(app, ["--rules", "wavelet"])
    assert found.exit_code == 2
