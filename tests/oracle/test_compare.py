"""`compare` and `check`: what they accept, what they reject, and how they say it."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

import manual_bp as bp
from manual_bp import oracle
from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle import NOT_RECORDED, Case, GradientMismatch
from manual_bp.oracle.cases.generated import generated
from torch_ref import twin

# The verdict is what is tested; a cause is not sought.
check = partial(oracle.check, diagnose=0)
compare = partial(oracle.compare, diagnose=0)

X = torch.tensor([-1.0, 0.5, 2.0])
DY = torch.tensor([0.3, -2.0, 1.5])


def elu(inputs, dy, alpha=1.0):
    return bp.elu.vjp(inputs, dy, alpha=alpha)


def at_edges(rule, dtype=torch.float32):
    """The options with which the page's edges are judged alone."""
    names = {edge.name for edge in rule.edges}
    return {"cases": [case for case in generated(rule, dtype) if case.name in names]}


def kinds(report):
    return {m.kind for m in report.mismatches}


def test_right_candidate_passes():
    report = check(elu, "elu")
    assert report.passed
    assert str(report).startswith("elu (float32, cpu): agrees")
    assert json.loads(report.to_json())["passed"] is True


def test_check_raises_an_assertion_with_the_report():
    with pytest.raises(GradientMismatch, match="wrong: dx") as caught:
        check(lambda inputs, dy, alpha=1.0: (elu(inputs, dy, alpha)[0], (2 * elu(inputs, dy, alpha)[1][0],)), "elu")
    assert isinstance(caught.value, AssertionError)
    mismatch = caught.value.report.mismatches[0]
    assert mismatch.argument == "dx"
    assert round(mismatch.got / mismatch.expected, 6) == 2


def test_wrong_value_is_seen():
    report = compare(lambda inputs, dy, alpha=1.0: (elu(inputs, dy, alpha)[0] + 1, elu(inputs, dy, alpha)[1]), "elu")
    assert {m.argument for m in report.mismatches} == {"y"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda g: g[..., None], "shape must be"),
        (lambda g: g.double(), "dtype must be torch.float32; came torch.float64"),
        (lambda g: None, "a tensor is due, None came"),
        (lambda g: g.numpy(), "a tensor is due, a ndarray came; wrap functions on arrays with from_functions"),
        (lambda g: g.sum(), "shape must be"),
    ],
    ids=["shape", "dtype", "None", "array", "scalar"],
)
def test_result_of_the_wrong_kind(spoil, words):
    def candidate(inputs, dy, alpha=1.0):
        y, (dx,) = elu(inputs, dy, alpha)
        return y, (spoil(dx),)

    report = compare(candidate, "elu")
    assert kinds(report) == {"trap"}
    assert words in report.mismatches[0].detail


def test_exception_is_a_finding():
    def candidate(inputs, dy, alpha=1.0):
        raise RuntimeError("no kernel image")

    report = compare(candidate, "elu")
    assert not report.passed
    assert "raised RuntimeError: no kernel image" in str(report)
    assert any("Traceback" in text for text in report.findings)


def test_number_of_cotangents():
    report = compare(lambda inputs, dy: (bp.linear.vjp(inputs, dy)[0], bp.linear.vjp(inputs, dy)[1][:2]), "linear")
    assert "3 cotangents are due, (dx, dweight, dbias), 2 came" in str(report)


def test_overwritten_argument_is_a_trap_and_is_restored():
    def candidate(inputs, dy, alpha=1.0):
        result = elu(inputs, dy, alpha)
        if dy.is_contiguous() and dy.numel():
            dy.zero_()
        return result

    report = compare(candidate, "elu")
    assert kinds(report) == {"trap"}
    assert "the candidate overwrote its argument" in str(report)
    assert compare(elu, "elu").passed  # the cases were not spoilt


def test_who_overwrites_dy_is_told_so_where_its_elements_share_memory():
    def candidate(inputs, dy):
        y = inputs[0].relu()
        dy[y == 0] = 0
        return y, (dy,)

    report = compare(candidate, "relu")
    assert {m.kind for m in report.mismatches} == {"trap", "wrong"}  # wrong where dy is expanded
    assert report.diagnoses[0].startswith("dy: the candidate overwrote its argument"), str(report)
    assert not report.patterns, report.patterns  # dx is explained


def test_a_cotangent_of_another_shape_is_told():
    """Nothing is overwritten, and no number is compared."""

    def candidate(inputs, dy):
        x, weight = inputs
        return x @ weight.T, (dy @ weight, x.T @ dy)

    report = compare(candidate, lambda x, weight: x @ weight.T, inputs={"x": (4, 5), "weight": (6, 5)})
    assert report.diagnoses[0].startswith("dweight: shape must be (6, 5)"), str(report)


def test_cotangent_where_none_is_due():
    def candidate(inputs, dy, p):
        y, (dx, _) = bp.dropout.vjp(inputs, dy, p=p)
        return y, (dx, torch.zeros_like(dx))

    assert "None is due" in str(compare(candidate, "dropout"))


def test_hyperparameter_that_cannot_be_passed_is_not_tested():
    report = compare(lambda inputs, dy: bp.elu.vjp(inputs, dy), "elu")
    assert not report.passed
    assert not report.mismatches
    assert report.untested_hyper == ["alpha"]
    assert any("takes no alpha" in text and 'hyper={"alpha": 1.0}' in text for text in report.not_tested)


def test_zero_everywhere_is_no_test():
    report = compare(elu, "elu", cases=[Case((X,), torch.zeros(3), name="zero")])
    assert not report.mismatches
    assert not report.passed
    assert report.untested_arguments == ["dx"]


def test_recorded_results():
    y, (dx,) = bp.elu.vjp((X,), DY)
    assert compare(None, "elu", cases=[Case((X,), DY, y=y, grads=(dx,))]).passed
    assert not compare(None, "elu", cases=[Case((X,), DY, y=y, grads=(-dx,))]).passed
    partly = compare(None, "elu", cases=[Case((X,), DY, y=y, grads=(NOT_RECORDED,))])
    assert not partly.mismatches
    assert partly.untested_arguments == ["dx"]


def test_arrays_of_numpy_are_fine_in_cases():
    y, (dx,) = bp.elu.vjp((X,), DY)
    assert compare(None, "elu", cases=[Case((X.numpy(),), DY.numpy(), y=y.numpy(), grads=(dx.numpy(),))]).passed


def test_kink_is_a_matter_of_convention():
    def at_one(inputs, dy):
        y, _ = bp.relu.vjp(inputs, dy)
        return y, (torch.where(inputs[0] >= 0, dy, 0),)

    report = compare(at_one, "relu")
    assert kinds(report) == {"convention"}
    assert 'conventions={"kink": "any"} accepts it' in report.diagnoses[0]
    assert compare(at_one, "relu", conventions={"kink": 1.0}).passed
    assert compare(at_one, "relu", conventions={"kink": "any"}).passed
    assert kinds(compare(at_one, "relu", conventions={"kink": 0.5})) == {"convention"}


def test_no_subgradient_is_no_convention():
    def doubled_at_kink(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (torch.where(inputs[0] == 0, 2 * dy, dx),)

    assert kinds(compare(doubled_at_kink, "relu", conventions={"kink": "any"})) == {"wrong"}


def test_tie():
    def split(inputs, dy, pieces):
        (x,) = inputs
        z = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
        tied = z == z.amax(-1, keepdim=True)
        return bp.maxout.vjp(inputs, dy, pieces=pieces)[0], (
            (tied * dy[..., None] / tied.sum(-1, keepdim=True)).flatten(-2),
        )

    edges = at_edges(bp.maxout)
    assert kinds(compare(split, "maxout", **edges)) == {"convention"}
    assert compare(split, "maxout", conventions={"tie": "any"}, **edges).passed


def test_declared_scalings():
    plain = lambda inputs, dy, p: bp.dropout.vjp(inputs, dy, p=0.0 if p < 1 else 1.0)  # noqa: E731
    edges = at_edges(bp.dropout)
    assert not compare(plain, "dropout", **edges).passed
    assert compare(plain, "dropout", conventions={"dropout": "plain"}, **edges).passed
    lam = lambda inputs, dy, lam, n=1: bp.l2_penalty.vjp(inputs, dy, lam=lam)  # noqa: E731
    assert not compare(lam, "l2_penalty", **at_edges(bp.l2_penalty)).passed
    assert compare(lam, "l2_penalty", conventions={"l2": "lam"}).passed


def test_lost_digits_of_torch_are_a_note():
    report = compare(twin("sigmoid"), "sigmoid", dtype=torch.float64)
    assert report.passed
    assert "loses digits, as the formula y(1 - y) does" in str(report)
    assert kinds(compare(twin("sigmoid"), "sigmoid", dtype=torch.float64, strict=True)) == {"digits"}


def linear_in_its_own_precision(inputs, dy):
    x, weight, bias = inputs
    y = x @ weight.T + bias
    rows = lambda t: t.reshape(t.shape[:-1].numel(), t.shape[-1])  # noqa: E731
    db = torch.zeros_like(bias)
    for row in rows(dy):
        db = db + row  # rounded to 16 bits each time
    return y, (dy @ weight, rows(dy).T @ rows(x), db)


def test_arithmetic_in_16_bits_is_a_note():
    narrow = linear_in_its_own_precision
    few = at_edges(bp.linear, torch.bfloat16)
    report = compare(narrow, "linear", dtype=torch.bfloat16, **few)
    assert report.passed, str(report)
    assert any("right for arithmetic in bfloat16" in note for note in report.notes)
    assert kinds(compare(narrow, "linear", dtype=torch.bfloat16, strict=True, **few)) == {"16-bit"}
    declared = Contract(torch.bfloat16, torch.bfloat16)
    assert compare(narrow, "linear", dtype=torch.bfloat16, contract=declared, strict=True, **few).passed


def test_a_sum_in_16_bits_that_stands_still_is_wrong():
    ones = torch.ones(1600, 1, dtype=torch.bfloat16)
    case = Case((ones, torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)), ones)
    report = compare(linear_in_its_own_precision, "linear", dtype=torch.bfloat16, cases=[case])
    assert [(m.kind, m.argument, m.got) for m in report.mismatches] == [("wrong", "dbias", 256.0)]
    assert "leaves no digit" in report.mismatches[0].detail


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_small_gradients_in_float16_do_not_slip_through(factor):
    """Gradients near float16's smallest normal number, 6e-5: a wrong one is rejected or not tested, never passed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 3, generator=generator).half()
    target = (x.float() + 0.01 * torch.randn(1000, 3, generator=generator)).half()

    def scaled(inputs, dy):
        y, grads = bp.square_loss.vjp(inputs, dy)
        return y, tuple(factor * g for g in grads)

    one = torch.ones((), dtype=torch.float16)
    assert not compare(scaled, "square_loss", dtype=torch.float16, cases=[Case((x, target), one)]).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.int32}, "dtype must be one of"),
        ({"conventions": {"kinks": 0}}, "names are"),
        ({"conventions": {"tie": "last place"}}, "tie must be one of"),
        ({"conventions": {"kink": "left"}}, "a finite number or 'any'"),
        ({"cases": [Case((X.double(),), DY, name="c")]}, "must have dtype torch.float32; came torch.float64"),
        ({"cases": [Case((X,), DY[:2], name="c")]}, "dy must be shaped like y"),
        ({"cases": [Case((X,), DY, grads=(), name="c")]}, "one entry per input"),
    ],
)
def test_bad_calls(options, message):
    with pytest.raises(ValueError, match=message):
        compare(elu, "elu", **options)


def test_a_kink_is_declared_of_a_rule_that_has_one():
    for rule, message in (("sigmoid", "has no corner"), ("prelu", r"not element-wise.*tie \(weight, one, any\)")):
        with pytest.raises(ValueError, match=message):
            compare(elu, rule, conventions={"kink": "any"})
    with pytest.raises(ValueError, match=r"came a tuple\. from_functions"):
        compare((elu, elu), "elu")


def test_unknown_rule_and_no_candidate():
    with pytest.raises(ValueError, match="Did you mean elu"):
        compare(elu, "elo")
    with pytest.raises(ValueError, match="Did you mean early_stopping"):
        compare(elu, "early_stoping")
    with pytest.raises(ValueError, match="nothing to judge"):
        compare(None, "elu")


def test_a_declared_slope_must_be_a_subgradient_and_be_kept():
    at_zero = bp.relu.vjp
    assert kinds(compare(at_zero, "relu", conventions={"kink": 1.0})) == {"convention"}

    def quarter(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (torch.where(inputs[0] == 0, 0.3 * dy, dx),)

    assert compare(quarter, "relu", conventions={"kink": 0.3}).passed


@pytest.mark.parametrize("tie", ["last", "split"])
def test_declared_tie(tie):
    def candidate(inputs, dy, pieces):
        (x,) = inputs
        z = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
        tied = (z == z.amax(-1, keepdim=True)).to(dy.dtype)
        if tie == "last":
            tied = torch.nn.functional.one_hot(pieces - 1 - tied.flip(-1).argmax(-1), pieces).to(dy.dtype)
        shares = tied * dy[..., None] / tied.sum(-1, keepdim=True)
        return bp.maxout.vjp(inputs, dy, pieces=pieces)[0], (shares.flatten(-2),)

    assert compare(candidate, "maxout", conventions={"tie": tie}).passed
    edges = at_edges(bp.maxout)
    assert not compare(candidate, "maxout", **edges).passed
    assert not compare(bp.maxout.vjp, "maxout", conventions={"tie": tie}, **edges).passed


def test_what_a_candidate_does_to_its_arguments_harms_nobody_else():
    def rude(inputs, dy, alpha=1.0):
        inputs[0].requires_grad_()
        with torch.no_grad():
            inputs[0].zero_()
        raise RuntimeError("no result either")

    assert not compare(rude, "elu").passed
    assert compare(elu, "elu").passed


def test_modules_and_builtins_are_candidates():
    import torch_ref

    report = compare(torch_ref.vjp(torch.nn.ELU()), "elu")
    assert report.passed, str(report)
    assert not report.not_tested  # alpha is set on a copy of the module
    assert compare(torch_ref.vjp(torch.relu), "relu").passed


def test_optional_cotangent_is_a_note():
    report = compare(
        lambda inputs, dy: (bp.square_loss.vjp(inputs, dy)[0], (bp.square_loss.vjp(inputs, dy)[1][0], None)),
        "square_loss",
    )
    assert report.passed, str(report)
    assert any("dtarget is None" in note for note in report.notes)


def test_bare_tensor_for_grads():
    report = compare(lambda inputs, dy, alpha=1.0: (inputs[0], dy), "elu")
    assert "grads must be a tuple with one entry per input, (dx); a Tensor came: put it into a tuple" in str(report)


def test_recorded_lists_in_float64():
    case = Case(([-1.0, 2.0],), [1.0, 1.0], y=[-0.63212055882855767, 2.0], grads=([0.36787944117144233, 1.0],))
    assert compare(None, "elu", dtype=torch.float64, cases=[case]).passed


def test_failures_enter_the_worst():
    report = compare(lambda inputs, dy: (bp.tanh.vjp(inputs, dy)[0], (2 * bp.tanh.vjp(inputs, dy)[1][0],)), "tanh")
    assert report.worst["dx"].error_over_allowance > 1e6


def test_a_rule_that_is_defined_nowhere_near_its_edges_is_noticed(monkeypatch):
    page = bp.elu.page
    right = page.forward

    def refuses(x, *, alpha=1.0):
        if alpha < 0:
            raise ValueError("no negative alpha")
        return right(x, alpha=alpha)

    monkeypatch.setattr(page, "forward", refuses)
    with pytest.raises(ValueError, match="no negative alpha"):
        compare(elu, "elu")


def test_rounding_errors_of_an_unknown_formula_are_lost_digits_within_what_its_terms_lose():
    def expanded(inputs, dy):
        x, target = inputs
        y = (x * x - 2 * x * target + target * target).sum() / (2 * len(x))
        dx = dy / len(x) * ((x + target) - 2 * target)
        return y, (dx, -dx)

    assert compare(expanded, "square_loss").passed
    generator = torch.Generator().manual_seed(0)
    near = Case(tuple(300 + torch.randn(5, 3, generator=generator) for _ in range(2)), torch.tensor(1.5))
    report = compare(expanded, "square_loss", cases=[near])
    assert report.passed, str(report)
    assert any("roundings of the terms" in note for note in report.notes), str(report)
    assert kinds(compare(expanded, "square_loss", cases=[near], strict=True)) == {"digits"}

    def shifted(inputs, dy):  # 1000 is no term of any formula for this
        x, target = inputs
        dx = dy * ((x + 1000) - (target + 1000)) / max(len(x), 1)
        return bp.square_loss.vjp(inputs, dy)[0], (dx, -dx)

    assert kinds(compare(shifted, "square_loss")) == {"wrong"}

    def slightly_wrong(inputs, dy):
        y, grads = bp.square_loss.vjp(inputs, dy)
        return y, tuple((1 + 1e-4) * g for g in grads)

    assert kinds(compare(slightly_wrong, "square_loss")) == {"wrong"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, "device must be one that torch can use here; came 'nowhere'"),
        ({"contract": "float32"}, "contract must be a Contract"),
        ({"cases": [3]}, "cases must be Case"),
        ({"cases": [Case(None, DY, name="c")]}, "case 'c': inputs must be a tuple"),
        ({"cases": [Case(("ab",), DY, name="c")]}, "case 'c': inputs must be a tuple"),
        ({"cases": [Case((X,), None, name="c")]}, "case 'c': inputs must be a tuple"),
        ({"cases": [Case((X,), DY, hyper=3, name="c")]}, "hyper a mapping"),
    ],
)
def test_more_bad_calls(options, message):
    with pytest.raises(ValueError, match=message):
        compare(elu, "elu", **options)


def test_arguments_in_another_order():
    with pytest.raises(ValueError, match="came a str"):
        compare("elu", elu)
    with pytest.raises(ValueError, match="pass the candidate first"):
        compare(torch.nn.functional.elu, elu, inputs={"x": (3,)})
    with pytest.raises(ValueError, match="cases must be a list of Case"):
        compare(elu, "elu", cases=Case((X,), DY))
    report = compare(lambda inputs, dy, alpha=1.0: elu(inputs, dy, alpha)[::-1], "elu")
    assert "exchange them" in report.mismatches[0].detail


def test_a_rule_that_is_none():
    with pytest.raises(ValueError, match="rule must be a rule, its name, or a function"):
        compare(elu, None)


def test_a_sparse_result_is_a_trap():
    report = compare(lambda inputs, dy: (bp.tanh.vjp(inputs, dy)[0], (dy.to_sparse(),)), "tanh")
    assert "a dense tensor is due" in str(report)


def test_a_candidate_that_is_not_repeatable():
    calls = iter(range(10**6))

    def atomic(inputs, dy):
        y, (dx,) = bp.tanh.vjp(inputs, dy)
        return y, (dx * (1 + (next(calls) % 2) * torch.finfo(dx.dtype).eps),)

    report = compare(atomic, "tanh")
    assert any("differs between two runs" in note for note in report.notes)
    assert kinds(compare(atomic, "tanh", strict=True)) == {"trap"}


def test_nan_that_leaks_into_other_rows():
    def leaky(inputs, dy):
        y, (dx,) = bp.tanh.vjp(inputs, dy)
        return y, (dx + 0 * inputs[0].sum(),)

    report = compare(leaky, "tanh")
    assert "NaN in one row" in {m.case for m in report.mismatches}
