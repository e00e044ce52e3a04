"""Compiled rules: every rule can be compiled, and computes what it does uncompiled."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.compilation import program
from manual_bp.oracle import compare
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule
from tests.compilation import centred, operations
from tests.compilation.conftest import call_from_python, interpret, trace_only
from tests.judging import ordinary
from tests.pages import PAGES

# "inductor" where torch cannot load what it compiled ahead of time.
KINDS = {"cpu": {"aoti", "inductor"}, "cuda": {"triton"}}
# Cases of ordinary hyperparameters, which one or two programs serve: each takes a C++ compiler seconds.
REPRESENTATIVE = ("ordinary", "saturation", "tie", "cotangent times 1000", "everything sliced")
# An element-wise rule of each number of inputs.
WRAPPED = {len(bp.RULES[name].inputs): name for name in reversed([*bp.RULES]) if bp.RULES[name].elementwise}.values()


def assert_same(compiled, inputs, dy, hyper, **allowed):
    """The compiled rule gives what the rule does, in the same types."""
    rule = compiled.rule
    given = (inputs, dy) if rule.has_backward else (inputs,)
    got, expected = compiled(*given, **hyper), rule.candidate(*given, **hyper)
    torch.testing.assert_close(got, expected, equal_nan=True, **allowed)
    assert type(got) is type(expected)
    if rule.has_backward:
        assert type(got[0]) is type(expected[0])


def shared_at_first(case):
    """Inputs and dy, where all tensors of one shape and dtype are one: x is target, x is dy, weight is bias."""
    first = {}

    def one(t):
        return t if t is None else first.setdefault((t.shape, t.dtype), t)

    return tuple(map(one, case.inputs)), case.dy if case.dy is None else whole(list(map(one, parts(case.dy))), case.dy)


def furthest(rule):
    """The generated case with the most options off their defaults and inputs that are absent."""

    def options(case):
        off = sum(case.hyper.get(name, value) != value for name, value in rule.ordinary.items())
        return (off + sum(x is None for x in case.inputs)) * all(t.numel() for t in case.tensors)

    return max(generated_evidence(rule, torch.float32, "cpu", contract_of(torch.float32)).cases, key=options)


def assert_can_be_compiled(rule, monkeypatch):
    seen = interpret(monkeypatch)
    compiled, case = bp.compile_rule(rule), ordinary(rule, torch.float32)
    for inputs, dy in (shared_at_first(case), (case.inputs, case.dy)):
        assert_same(compiled, inputs, dy, case.hyper)
    assert [built.kind for built in compiled.programs] == ["interpreted"]
    trace_only(monkeypatch)
    case = furthest(rule)
    assert_same(compiled, case.inputs, case.dy, case.hyper)
    assert compiled.programs[-1].kind in ("interpreted", "traced")
    return seen


def test_every_rule_can_be_compiled(rule, monkeypatch):
    """Without a compiler, unless the page has an operation whose code is not tested by itself."""
    with monkeypatch.context() as patch:
        seen = assert_can_be_compiled(rule, patch)
    if operations.untested(seen):
        call_from_python(monkeypatch)
        assert judged_compiled(rule, "cpu", ("ordinary",)) == {"triton"}


@pytest.mark.parametrize("name", PAGES)
def test_so_can_a_page_of_every_kind(name, traced_only):
    compiled, case = bp.compile_rule(PAGES[name]), ordinary(PAGES[name], torch.float32)
    for inputs, dy in (shared_at_first(case), (case.inputs, case.dy)):
        assert_same(compiled, inputs, dy, case.hyper)
    assert [built.kind for built in compiled.programs] == ["traced"]


def test_every_operation_keeps_its_digits(called_from_python):
    given = operations.given()
    got = program.build(operations.all_of_them, given).run(given)
    wide = [t.double() if t.is_floating_point() else t for t in given]
    names = [*operations.OF_ONE, *operations.OF_TWO, *operations.OF_ROWS, *operations.OF_MANY]
    for name, result, torch_s, exact in zip(
        names, got, operations.all_of_them(*given), operations.all_of_them(*wide), strict=True
    ):
        assert result.dtype == torch_s.dtype, name
        if not result.is_floating_point():
            assert torch.equal(result, torch_s), name
            continue
        # Two ulp beside torch's own error; a number below the smallest normal one may be 0.
        info = torch.finfo(result.dtype)
        allowed = 2 * info.eps * exact.abs() + (torch_s - exact).abs().nan_to_num(0, 0, 0) + info.tiny
        off = (result - exact).abs() > allowed
        strange = (result.isnan() != torch_s.isnan()) | (result.isinf() != torch_s.isinf())
        bad = (off & torch_s.isfinite()) | strange
        assert not bad.any(), f"{name}: {result[bad][:4]} for {torch_s[bad][:4]}"


def judged_compiled(rule, device, names):
    """The kinds of a compiled rule's programs, which pass the oracle at the cases of these names."""
    compiled = bp.compile_rule(rule)
    cases = [case for case in generated(rule, torch.float32, device) if case.name in names]
    report = compare(compiled, rule, dtype=torch.float32, device=device, cases=cases, diagnose=0)
    assert not report.mismatches, str(report)
    assert report.cases == len(cases)
    return {built.kind for built in compiled.programs}


def test_kernels_of_a_rule_pass_the_oracle(device, called_from_python):
    assert judged_compiled(PAGES["three_outputs"], device, ("ordinary",)) == {"triton"}


@pytest.mark.exhaustive
def test_compiled_rule_passes_the_oracle(rule, device, monkeypatch):
    """What AOTInductor puts around a program takes a compiler seconds.  Around that of an element-wise rule it puts the
    same call of a kernel, so one of each number of inputs tells of it; the others' kernels are called from Python."""
    kinds = KINDS[device]
    if device == "cpu" and rule.elementwise and rule.name not in WRAPPED:
        call_from_python(monkeypatch)
        kinds = {"triton"}
    assert judged_compiled(rule, device, REPRESENTATIVE) <= kinds


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PAGES)
def test_so_does_a_page_of_every_kind(name, device):
    assert judged_compiled(PAGES[name], device, REPRESENTATIVE) <= KINDS[device]


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float64, marks=pytest.mark.exhaustive),
        torch.float32,
        pytest.param(torch.bfloat16, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_compiled_elu_keeps_all_digits_in_every_dtype(dtype, device, built):
    cases = [
        case
        for case in generated(bp.elu, dtype, device)
        if not case.hyper.keys() - {"alpha"} and case.hyper["alpha"] == 1
    ]
    report = compare(bp.compile_rule("elu"), "elu", dtype=dtype, device=device, cases=cases, strict=True)
    assert cases
    assert not report.mismatches, str(report)


def test_one_program_serves_all_shapes_of_an_elementwise_rule(device, built):
    relu = bp.compile_rule("relu")
    for shape in ((), (1,), (3, 4), (2, 1, 3), (7,), (16,), (2, 24), (3, 4, 8)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        y, (dx,) = relu((x,), x)
        assert torch.equal(y, bp.relu.forward(x)[0])
        assert dx.shape == y.shape == shape
    assert len(relu.programs) == {"cpu": 1, "cuda": 2}[device]  # on a GPU one for rows of 16 elements


def test_lists_of_axes_are_one_axis_where_the_page_allows_it(traced_only):
    linear = bp.compile_rule("linear")
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator)
    for batch in ((6,), (2, 3), (1, 2, 3)):
        x, dy = (torch.randn(*batch, n, generator=generator) for n in (4, 3))
        assert_same(linear, (x, weight, bias), dy, {})
    assert len(linear.programs) == 1
    centre = bp.compile_rule(Rule("centred", centred))
    for shape in ((4,), (2, 3), (3, 2), (1, 2, 3)):
        for dim in range(len(shape)):
            x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
            assert_same(centre, (x,), dy, {"dim": dim})
    assert len(centre.programs) == 8  # one for a vector, of any length, and one for each shape and dim of the others


def test_there_is_a_program_for_each_set_of_what_is_present(traced_only):
    generator = torch.Generator().manual_seed(0)
    rule = PAGES["optional_inputs"]
    compiled, case = bp.compile_rule(rule), ordinary(rule, torch.float32)
    x, gain, *_ = (torch.rand(t.shape, generator=generator) for t in case.inputs)
    for inputs in ((x,), (x, None), (x, None, None, None), (x, gain), (x, None, gain, None)):
        assert_same(compiled, inputs, case.dy, case.hyper)
    assert len(compiled.programs) == 3
    rule = PAGES["three_outputs"]
    compiled, case = bp.compile_rule(rule), ordinary(rule, torch.float32)
    for dy in (case.dy, (*case.dy[:-1], None)):
        assert_same(compiled, case.inputs, dy, case.hyper)
    assert len(compiled.programs) == 2


@pytest.mark.parametrize("is_there", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_outputs_that_are_absent_counts_or_truth_values_come_from_one_program(is_there, built):
    rule = PAGES["outputs_of_every_kind"]
    compiled = bp.compile_rule(rule)
    x, count = torch.tensor([0.5, -3.0], dtype=torch.bfloat16), torch.tensor(4)
    inputs = (x, count, x if is_there else None)
    for _ in range(2):
        for due, got in zip(rule.values_alone(inputs), compiled(inputs), strict=True):
            assert got is due if due is None else torch.equal(got, due) and got.dtype == due.dtype
    assert len(compiled.programs) == 1


def test_sixteen_bits_are_rounded_once(traced_only):
    for rule in (PAGES["three_outputs"], PAGES["momentum"], PAGES["picked_mean"]):
        case = ordinary(rule, torch.bfloat16)
        assert_same(bp.compile_rule(rule), case.inputs, case.dy, case.hyper, rtol=0, atol=0)


def indexed():
    return [*(PAGES[name] for name in ("rows_by_index", "picked_mean")), *bp.RULES.values()]


INDEXED = [(rule, name) for rule in indexed() for name, spec in rule.inputs.items() if hasattr(spec, "unless")]


@pytest.mark.parametrize(("rule", "name"), INDEXED, ids=lambda part: getattr(part, "name", part))
def test_an_index_out_of_range_gets_the_sentence_of_the_rule(rule, name, traced_only):
    compiled, case = bp.compile_rule(rule), ordinary(rule, torch.float32)
    assert_same(compiled, case.inputs, case.dy, case.hyper)  # from now on the program would be run
    place = list(rule.inputs).index(name)
    for value in (-1000, 1000):
        bad = list(case.inputs)
        bad[place] = bad[place].clone()
        bad[place].view(-1)[-1] = value
        said = []
        for vjp in (rule.vjp, compiled):
            with pytest.raises(ValueError, match=f"must be positions on .*; came {value} at") as caught:
                vjp(tuple(bad), case.dy, **case.hyper)
            said.append(str(caught.value))
        assert said[0] == said[1]
    unless = rule.inputs[name].unless
    if unless:
        ignored = list(case.inputs)
        ignored[place] = ignored[place].clone()
        ignored[place].view(-1)[-1] = {**rule.ordinary, **case.hyper}[unless]
        assert_same(compiled, tuple(ignored), case.dy, case.hyper)
    assert len(compiled.programs) == 1


def test_compiled_rule_refuses_what_the_rule_refuses():
    relu = bp.compile_rule("relu")
    with pytest.raises(ValueError, match=r"dy has axes \(\*shape\)"):
        relu((torch.ones(2, 3),), torch.ones(3))
    with pytest.raises(ValueError, match=r"x must be a torch\.Tensor; came list"):
        relu(([1.0],), torch.ones(1))
    with pytest.raises(ValueError, match=r"takes 1 inputs"):
        relu((), torch.ones(1))
    with pytest.raises(ValueError, match=r"0 ≤ p ≤ 1; came 1\.5"):
        bp.compile_rule("dropout")((torch.ones(2), torch.ones(2).bool()), torch.ones(2), p=1.5)
    with pytest.raises(ValueError, match=r"came .*alhpa"):
        bp.compile_rule("elu", alhpa=2.0)
    several = PAGES["three_outputs"]
    case = ordinary(several)
    with pytest.raises(ValueError, match="one tensor for each of"):
        bp.compile_rule(several)(case.inputs, case.dy[0])


def test_what_is_another_function_for_other_lengths_runs_uncompiled():
    with pytest.warns(RuntimeWarning, match="another function for other lengths"):
        built = program.build(lambda x: [x + 1 if len(x) > 7 else x], [torch.ones(8)], dynamic=[(0,)])
    assert torch.equal(built.run([torch.ones(2)])[0], torch.ones(2))


def test_what_cannot_be_traced_runs_uncompiled_and_says_so():
    with pytest.warns(RuntimeWarning, match="not compiled, so slower: it cannot be traced"):
        built = program.build(lambda x: [x + 1 if x.sum() > 0 else x], [torch.ones(2)])
    assert built.kind == "eager"
    assert torch.equal(built.run([torch.ones(2)])[0], torch.full((2,), 2.0))
