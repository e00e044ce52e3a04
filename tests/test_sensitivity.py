"""The comparison accepts right programs and rejects wrong ones: a small version of `benchmarks.sensitivity`, generated
from the registry, and right programs that are written in another way than the page."""

from __future__ import annotations

import itertools
import json
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import manual_bp as bp
from benchmarks.cases import seeded_case
from benchmarks.sensitivity import Trial, app, evidence_at, false_alarms, gradcheck, ratios, strictly
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle import Case, compare
from manual_bp.oracle.audit.equivalents import REWRITTEN as PROGRAMS
from manual_bp.oracle.audit.equivalents import LastFirst, rewritten
from manual_bp.oracle.audit.mutations import Exact, Mutation, mutated, mutations, scaled
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts
from manual_bp.rule import Grads, Rule, Vjp
from manual_bp.signature import DTYPES, computing_dtype
from tests.conftest import short
from tests.pages import PAGES

aten = torch.ops.aten

SEEDS = range(20)
FEW = (0, 1, 2, 6, 9)
"""Of each sort of seed: with an edge's hyperparameters, scaled, without an input that may be absent."""
SCALE_ERRORS = {torch.float64: 1e-6, torch.float32: 1e-3}
"""What the issue demands to be rejected."""

RULES = [name for name, rule in bp.RULES.items() if rule.has_backward]
EVERY = pytest.mark.exhaustive
ONE_AND_ALL = [pytest.param(d, id=short(d), marks=() if d == torch.float32 else EVERY) for d in DTYPES]


@lru_cache(maxsize=8)
def trial(rule: Rule, dtype: torch.dtype, seed: int) -> tuple[Trial, Exact]:
    found = Trial.of(rule, dtype, seed)
    return found, Exact.at(rule, found.case)


# ------------------------------------------------------------------------------------------- of the whole registry


def test_right_programs_raise_no_alarm(rule):
    found = false_alarms(rule, torch.float32, FEW)
    assert not found.examples
    assert found.seeds == len(FEW)


@EVERY
def test_right_programs_raise_no_alarm_in_any_dtype(rule):
    """In 16 bits the page alone is one: torch's own arithmetic there overflows (1 / sqrt(eps) in float16) or leaves no
    digit (a sum of probabilities that are rounded), which is said of it, and rightly."""
    found = [false_alarms(rule, dtype, SEEDS) for dtype in DTYPES]
    right = {"manual": DTYPES, "torch": (torch.float64, torch.float32)}
    alarms = [(name, dtype, each.examples) for dtype, each in zip(DTYPES, found, strict=True) for name in each.alarms]
    assert not [(name, dtype, examples) for name, dtype, examples in alarms if dtype in right[name]]
    assert all(alarms.seeds == len(SEEDS) for alarms in found)


@pytest.mark.parametrize("name", RULES)
def test_what_is_wrong_is_rejected_at_few_cases(name):
    """Whatever is dropped, negated, doubled, or reduced wrongly, at one ordinary case (an even seed is not scaled); and
    scale errors at a few."""
    rule, passed, judged = bp.RULES[name], [], 0
    for seed in FEW:
        at, exact = trial(rule, torch.float32, seed)
        for argument in arguments(rule):
            mutation = scaled(rule, "scale error", argument, None, 1 + SCALE_ERRORS[torch.float32])
            if exact.visible(mutation):
                judged += 1
                passed += [] if strictly(at, mutation) else [f"scale error of {argument}, seed {seed}"]
    at, exact = trial(rule, torch.float32, 2)
    coarse = [m for m in mutations(rule, at.case) if m.size >= 0.5 and exact.changed_by(m)]
    passed += [f"{m.kind} {m.argument}" for m in coarse if not strictly(at, m)]
    assert judged > len(FEW) / 2
    assert coarse
    assert not passed


@EVERY
@pytest.mark.parametrize("dtype", SCALE_ERRORS, ids=short)
@pytest.mark.parametrize("name", RULES)
def test_scale_errors_are_rejected_at_one_case(name, dtype):
    """At random cases, each judged alone; not where cancellation or underflow has eaten the digits."""
    rule = bp.RULES[name]
    judged = dict.fromkeys(arguments(rule), 0)
    for seed in SEEDS:
        at, exact = trial(rule, dtype, seed)
        for argument in arguments(rule):
            mutation = scaled(rule, "scale error", argument, None, 1 + SCALE_ERRORS[dtype])
            if exact.visible(mutation):
                judged[argument] += 1
                assert strictly(at, mutation), f"{argument}, seed {seed}"
    assert all(count > len(SEEDS) / 2 for count in judged.values()), judged


@EVERY
@pytest.mark.parametrize("dtype", SCALE_ERRORS, ids=short)
@pytest.mark.parametrize("name", RULES)
def test_scale_errors_are_rejected_by_compare(name, dtype):
    rule = bp.RULES[name]
    for argument in arguments(rule):
        mutation = scaled(rule, "scale error", argument, None, 1 + SCALE_ERRORS[dtype])
        report = compare(mutated(rule, mutation.backward), rule.name, dtype=dtype, diagnose=0)
        assert {m.argument for m in report.mismatches} == {argument}, str(report)


def arguments(rule: Rule) -> list[str]:
    return [f"d{name}" for name, spec in rule.inputs.items() if spec.cotangent]


@EVERY
@pytest.mark.parametrize("name", RULES)
def test_coarse_mutations_are_rejected_in_float64(name):
    at, exact = trial(bp.RULES[name], torch.float64, 2)
    coarse = [m for m in mutations(at.rule, at.case) if m.size >= 0.5 and exact.changed_by(m)]
    assert coarse
    assert not [m.kind for m in coarse if not strictly(at, m)]


# ---------------------------------------------------------------------------- right programs, written in another way


def test_right_programs_are_accepted_at_few_cases(rule):
    for seed, program in itertools.product(FEW, PROGRAMS):
        case = seeded_case(rule, torch.float32, seed, long=False)
        found = evidence_at(rule, torch.float32, case)
        y, grads = rewritten(rule, program)(case.inputs, case.dy, **case.hyper)
        beyond = {a: r for a, r in ratios(rule, torch.float32, found, (*parts(y), *grads)).items() if r > 1}
        assert not beyond, f"{program.__name__}, seed {seed}"


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("name", RULES)
def test_right_programs_are_accepted(name, dtype):
    """By their numbers at every generated case, in each dtype one program by turns: every one is tried on each rule.
    What compare tries beside these (the same call again, other memory) says of a program nothing that it does not say
    of the page, of which only the operations are others."""
    rule, contract = bp.RULES[name], contract_of(dtype)
    program = PROGRAMS[(RULES.index(name) + DTYPES.index(dtype)) % len(PROGRAMS)]
    candidate = rewritten(rule, program)
    # Where one term after the other is added up, and all are alike, so are their roundings, and no probabilistic bound
    # holds: of such a program lost digits are a note.
    strict = program is not LastFirst
    comparison = Comparison(candidate, rule, dtype, "cpu", contract, Conventions(), strict=strict)
    for found in generated_evidence(rule, dtype, "cpu", contract):
        if isinstance(found, Evidence):
            case = found.case
            y, grads = candidate(case.inputs, case.dy, **case.hyper)
            comparison.judge_results(candidate, found, (*parts(y), *grads))
    assert not comparison.report.mismatches, f"{program.__name__}: {comparison.report}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_other_programs_are_others(program):
    """They change operations, and bits, of some rule: else the tests above would say nothing."""
    changed = 0
    for rule, seed in itertools.product(map(bp.RULES.__getitem__, RULES), FEW):
        case = seeded_case(rule, torch.float32, seed)
        with program() as mode:
            _, grads = rule.vjp(case.inputs, case.dy, **case.hyper)
        own = rule.vjp(case.inputs, case.dy, **case.hyper)[1]
        changed += mode.count > 0 and any(
            a is not None and b is not None and not torch.equal(a, b) for a, b in zip(grads, own, strict=True)
        )
    assert changed >= len(FEW)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=short)
def test_a_sum_that_starts_at_the_bias_is_accepted(dtype):
    """As matrix products with an accumulator do: each product is then rounded at the size of the bias."""

    def candidate(inputs: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, Grads]:
        x, weight, bias = inputs
        y = bias.expand(len(x), -1)
        for position in range(x.shape[1]):
            y = y + x[:, position, None] * weight[:, position]
        return y, PAGES["affine"].vjp(inputs, dy)[1]

    generator = torch.Generator().manual_seed(0)
    x, weight, bias, dy = (torch.randn(shape, generator=generator) for shape in ((6, 4), (64, 4), (64,), (6, 64)))
    case = Case(tuple(t.to(dtype) for t in (x / 10, weight / 10, 100 * bias)), dy.to(dtype))
    report = compare(candidate, PAGES["affine"], dtype=dtype, cases=[case])
    assert report.passed, str(report)


@pytest.mark.parametrize("dtype", ONE_AND_ALL)
def test_a_formula_that_loses_digits_is_accepted_where_it_keeps_them(rule, dtype):
    """As y(1 - y) does for small y: the page's own numbers elsewhere."""
    for mistake in (m for m in rule.mistakes if m.loses_digits and rule.elementwise):
        candidate = where_it_keeps(rule, rule.mistaken(mistake.backward), computing_dtype(dtype))
        for seed in FEW:
            case = seeded_case(rule, dtype, seed, long=False)
            report = compare(candidate, rule, dtype=dtype, cases=[case], strict=True, diagnose=0)
            assert not report.mismatches, f"{mistake.name}: {report}"


def where_it_keeps(rule: Rule, losing: Vjp, computing: torch.dtype) -> Vjp:
    """Another formula where it is as close as a few roundings, and the page elsewhere; in the precision in which they
    are computed, as of what 16 bits hold one may be off by as much and have lost nearly all of its digits."""
    digits = 4 * torch.finfo(computing).eps

    def candidate(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, rounded = rule.vjp(inputs, dy, **hyper)
        wide, dy = tuple(None if x is None else x.to(computing) for x in inputs), dy.to(computing)
        together = zip(rule.vjp(wide, dy, **hyper)[1], losing(wide, dy, **hyper)[1], rounded, strict=True)
        return y, tuple(
            r if g is None or o is None else torch.where((g - o).abs() <= digits * g.abs(), o, g).to(r.dtype)
            for g, o, r in together
        )

    return candidate


# --------------------------------------------------------------------------------------------- of the measurement


def kinds(rule: Rule, case: Case) -> set[str]:
    exact = Exact.at(rule, case)
    return {m.kind for m in mutations(rule, case) if exact.changed_by(m)}


def test_reductions_of_the_text_are_found():
    square = torch.randn(3, 3, dtype=torch.float64)
    found = kinds(PAGES["masked_row"], Case((square, torch.ones(3, 3, dtype=torch.bool)), square.flip(0)))
    assert {"term dropped", "last one left out", "divided by its count", "n - 1 for n"} <= found
    products = Case((square, square.flip(0), square[0]), square.flip(1))
    assert {"last one left out", "another axis", "divided by its count"} <= kinds(PAGES["affine"], products)
    assert "an axis forgotten" in kinds(PAGES["seven_axes"], seeded_case(PAGES["seven_axes"], torch.float64, 2))
    index = torch.tensor([1, 1, 0])
    assert "written, not added" in kinds(PAGES["rows_by_index"], Case((index, square), square))
    several = PAGES["three_outputs"]
    assert "an output's cotangent dropped" in kinds(several, seeded_case(several, torch.float64, 2))


def test_a_mutation_that_changes_nothing_is_not_counted():
    page, one = PAGES["affine"], torch.ones(1, 1, dtype=torch.float64)
    case = Case((one, one, one[0]), one)  # every sum has one term
    assert not {"divided by its count", "last one left out", "another axis"} & kinds(page, case)
    exact = Exact.at(page, Case((0 * one, one, one[0]), one))  # dweight = 0
    assert not exact.changed_by(scaled(page, "", "dweight", None, 2.0))
    assert exact.changed_by(scaled(page, "", "dx", None, 2.0))


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_every_kind_are_drawn_and_mutated(name):
    page, changing = PAGES[name], set()
    for seed in range(2, 10):
        case = seeded_case(page, torch.float32, seed)
        exact = Exact.at(page, case) if page.has_backward else None
        changing |= {m.argument or m.kind for m in mutations(page, case) if exact and exact.changed_by(m)}
    assert changing >= (set(arguments(page)) if page.has_backward else set())


def test_an_input_that_may_be_absent_is_absent_at_some_seeds():
    page = PAGES["optional_inputs"]
    cases = [seeded_case(page, torch.float32, seed) for seed in range(24)]
    absent = {name for case in cases for name, x in zip(page.inputs, case.inputs, strict=True) if x is None}
    assert absent == page.absentable


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if i == 0 else EVERY) for i, n in enumerate(RULES)])
def test_gradcheck_is_asked_in_earnest(name, fast):
    rule, (at, _) = bp.RULES[name], trial(bp.RULES[name], torch.float64, 2)
    assert gradcheck(fast)(at, Mutation("right", "", rule.backward)) is False
    negated = scaled(rule, "", arguments(rule)[0], None, -1.0)
    assert gradcheck(fast)(at, negated) is True


@pytest.mark.exhaustive
def test_command_writes_what_it_found(tmp_path):
    path = tmp_path / "found.json"
    arguments = ["--seeds", "2", "--mutants", "1", "--rules", RULES[0], "--dtypes", "float32", "--json", str(path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    found = json.loads(path.read_text())
    assert found["seeds"] == 2
    assert found["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    (alarms,) = found["alarms"]
    assert (alarms["rule"], alarms["dtype"], alarms["seeds"], alarms["alarms"]) == (RULES[0], "float32", 2, {})
    rejected, judged = found["rejected"]["float32"]["cotangent negated"]["compare"]
    assert rejected == judged > 0


def test_bad_usage_is_status_2():
    found = CliRunner().invoke(app, ["--rules", "wavelet"])
    assert found.exit_code == 2
