"""A function becomes a rule: its axes are told, torch's derivative is run on any numbers, what cannot be is refused."""

import re

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

import torch_ref
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.arithmetic.certified import truth
from manual_bp.arithmetic.operators import is_bounded
from manual_bp.inputs import Index, Input
from manual_bp.oracle import Case, compare
from manual_bp.oracle import kinds as kinds_of
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.functions import reference
from manual_bp.oracle.truth import certified as truth_of
from manual_bp.oracle.truth import evidence as evidence_of
from manual_bp.oracle.truth.conventions import Conventions
from tests.oracle.function_bank import REFUSED
from torch_ref.derivative import derivative


def residual_rms(x, residual, weight, *, eps=1e-6):
    h = x + residual
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight, h


def head(
    x: Float[Tensor, "rows features"], weight: Float[Tensor, "classes features"], target: Int[Tensor, "rows"]
) -> Float[Tensor, ""]:
    return F.cross_entropy(x @ weight.mT, target)


def mlp(x, w1, b1, w2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2)


RMS = {"x": (4, 33), "residual": (4, 33), "weight": (33,)}


def test_axes_of_one_length_in_one_place_are_one() -> None:
    def spelled(rule):
        return {name: str(rule.annotations[name].dim_str) for name in rule.inputs}

    axes = spelled(reference(residual_rms, RMS))
    assert axes == {"x": "x.shape[0] x.shape[1]", "residual": "x.shape[0] x.shape[1]", "weight": "x.shape[1]"}
    axes = spelled(reference(mlp, {"x": (5, 8), "w1": (16, 8), "b1": (16,), "w2": (3, 16)}))
    assert axes["w1"] == "w1.shape[0] x.shape[1]"
    assert (axes["b1"], axes["w2"]) == ("w1.shape[0]", "w2.shape[0] w1.shape[0]")


def test_its_derivative_is_torchs_in_either_arithmetic() -> None:
    rule = reference(residual_rms, RMS)
    inputs = torch.randn(4, 33), torch.randn(4, 33), torch.randn(33)
    dy = torch.randn(4, 33), torch.randn(4, 33)
    _, due = torch_ref.vjp(residual_rms)(tuple(x.double() for x in inputs), tuple(d.double() for d in dy))
    certified = truth(rule, inputs, dy)
    for grad, ball, width in zip(
        due, certified.grads, widths(rule, inputs, dy, contract_of(torch.float32)).grads, strict=True
    ):
        torch.testing.assert_close(ball.midpoint(), grad, rtol=1e-12, atol=1e-12)
        assert float((width / grad.abs()).median()) < 1e-4
    assert rule.arguments == ("y.y0", "y.y1", "dx", "dresidual", "dweight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_factor_is_rejected_and_torch_is_right(dtype) -> None:
    right = torch_ref.vjp(residual_rms)

    def slightly_wrong(inputs, dy, **hyper):
        y, (dx, dresidual, dweight) = right(inputs, dy, **hyper)
        return y, (dx, dresidual, dweight * (1.001 if dtype is torch.float32 else 1.05))

    assert compare(right, residual_rms, inputs=RMS, dtype=dtype, diagnose=0).passed or dtype is torch.bfloat16
    report = compare(slightly_wrong, residual_rms, inputs=RMS, dtype=dtype, diagnose=0)
    assert {m.argument for m in report.mismatches} >= {"dweight"}


def test_annotations_say_what_inputs_need_not() -> None:
    report = compare(torch_ref.vjp(head), head, inputs={"target": Index("classes")}, diagnose=0)
    assert report.passed, str(report)
    with pytest.raises(ValueError, match="Index"):
        compare(torch_ref.vjp(head), head)


@pytest.mark.parametrize("limit", ["7", 7])
def test_positions_below_a_number(limit) -> None:
    inputs = {"input": (4, 7), "target": ((4,), Index(limit))}
    function = torch.nn.functional.cross_entropy
    assert compare(torch_ref.vjp(function), function, inputs=inputs, diagnose=0).passed


def test_a_module_is_a_function_of_its_parameters() -> None:
    module = nn.Linear(3, 5)
    report = compare(
        torch_ref.vjp(module), module, inputs={"input": (4, 3), "weight": (5, 3), "bias": (5,)}, diagnose=0
    )
    assert report.passed, str(report)


def test_a_module_is_judged_at_what_is_named_of_it() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.Linear(3, 2))
    rule = reference(module, {"input": (4, 3), "1.weight": (2, 3), "running_mean": (3,)})
    assert list(rule.inputs) == ["input", "_1_weight", "running_mean"]
    inputs, dy = (torch.randn(4, 3), torch.randn(2, 3), torch.randn(3)), torch.randn(4, 2)
    _, due = torch_ref.vjp(module, inputs=["input", "1.weight", "running_mean"])(inputs, dy)
    _, grads = rule.vjp(inputs, dy)
    torch.testing.assert_close(grads[:2], due[:2])
    with pytest.raises(ValueError, match=r"pass inputs= by name.*1.weight \(2, 3\)"):
        reference(module)


@pytest.mark.parametrize(
    ("function", "inputs", "words"),
    [
        (nn.Linear, {"input": (4, 3)}, "Linear is a class; pass a function or a module that it makes"),
        (torch.sin, {"x": (4, 3)}, "sin has no signature to read; wrap it"),
        (lambda *x: x[0], {"x": (4, 3)}, "has no signature to read; wrap it"),
        (residual_rms, [(4, 33)], "inputs must be by name"),
        (residual_rms, {**RMS, "weight": "33"}, "weight must be a shape, a tensor"),
        (residual_rms, {**RMS, "weight": ((33,), torch.ones(33))}, "beside the shape of weight"),
    ],
)
def test_what_is_no_reference_is_refused(function, inputs, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        reference(function, inputs)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.forward.__name__)
def test_what_cannot_be_recorded_is_refused_with_its_line(refused) -> None:
    with pytest.raises(ValueError, match=re.escape(refused.line)):
        reference(refused.forward, refused.inputs)


def straight_through(x):
    return x + (torch.round(x) - x).detach()


@pytest.mark.parametrize("function", [torch.tanh, torch.sigmoid])
def test_what_keeps_the_digits_of_a_smooth_function_makes_no_branch(function) -> None:
    """At numbers below the smallest normal one the sign of x / 30 is open."""

    def scaled(x):
        return function(x / 30)

    assert not compare(torch_ref.vjp(scaled), scaled, inputs={"x": (4, 3)}).not_tested


def test_what_is_detached_is_constant_in_either_arithmetic() -> None:
    report = compare(torch_ref.vjp(straight_through), straight_through, inputs={"x": (5, 8)}, diagnose=0)
    assert report.passed, str(report)


def looked_up(index, table):
    """Of which torch declares the mean over the uses of a row."""
    return F.embedding(index, table, scale_grad_by_freq=True)


def mean_of_some(x, kept):
    """0 / 0 where none is."""
    return torch.where(kept, x * x, 0.0).sum() / kept.sum()


def mean_of_some_by_hand(inputs, dy):
    x, kept = inputs
    return mean_of_some(x, kept), (torch.where(kept, 2 * x, 0.0) * (dy / kept.sum()), None)


def turned(x, cos, width: int = 4):
    """Where the width is another one, cos is broadcast, or the function is not defined."""
    return torch.cat([x.narrow(-1, 0, width) * cos.repeat(2), x[..., width:]], -1)


def turned_by_hand(inputs, dy, width=4):
    x, cos = inputs
    if width != 4:
        raise RuntimeError("a width of 4 is meant")
    left, right = (dy * x)[..., :4].sum_to_size(4).chunk(2)
    return turned(x, cos), (torch.cat([dy[..., :4] * cos.repeat(2), dy[..., 4:]], -1), left + right)


@pytest.mark.parametrize(
    ("candidate", "function", "inputs"),
    [
        (torch_ref.vjp(looked_up), looked_up, {"index": ((4,), Index("8")), "table": (8, 5)}),
        (mean_of_some_by_hand, mean_of_some, {"x": (4, 9), "kept": torch.arange(36).reshape(4, 9) > 20}),
        (turned_by_hand, turned, {"x": (3, 6), "cos": (2,)}),
    ],
    ids=["torch's derivative is not that of the values", "0 / 0", "a number that nobody named is refused"],
)
def test_a_right_program_passes(candidate, function, inputs) -> None:
    report = compare(candidate, function, inputs=inputs, diagnose=0)
    assert report.passed, str(report)


def test_a_word_of_which_others_are_not_known_is_said() -> None:
    def summed(x, reduction="mean"):
        return x.mean() if reduction == "mean" else x.sum()

    report = compare(torch_ref.vjp(summed), summed, inputs={"x": (4, 3)}, diagnose=0)
    assert any("reduction other than 'mean'" in text for text in report.not_tested), report.not_tested


def lower(shape, generator):
    """A triangle, for square shapes alone."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).tril() + 3 * torch.eye(shape[-1])


@pytest.mark.parametrize("said", [(3, 3), ((3, 3), Input(lower))], ids=["any numbers", "a triangle"])
def test_of_a_factor_the_other_triangle_is_not_read(said) -> None:
    def inverse(factor):
        return torch.cholesky_inverse(factor)

    report = compare(torch_ref.vjp(inverse), inverse, inputs={"factor": said}, diagnose=0)
    assert report.passed, str(report)


def shares(x, w):
    best = (x @ w.mT).softmax(-1).topk(2, -1).values
    return best / best.sum(-1, keepdim=True)


def shares_of_all(inputs, dy):
    """The gradient is that of the shares before they are those of two."""
    x, w = inputs
    p = (x.float() @ w.float().mT).softmax(-1)
    best, which = p.topk(2, -1)
    d = best * (dy.float() - (best * dy.float()).sum(-1, keepdim=True))
    dz = torch.zeros_like(p).scatter(-1, which, d)
    y = best / best.sum(-1, keepdim=True)
    return y.to(x.dtype), ((dz @ w.float()).to(x.dtype), (dz.mT @ x.float()).to(x.dtype))


def test_what_is_not_judged_in_16_bits_throughout_is_not_right_there() -> None:
    report = compare(shares_of_all, shares, inputs={"x": (5, 6), "w": (7, 6)}, dtype=torch.bfloat16, diagnose=1.0)
    assert report.mismatches
    assert not any("throughout" in sentence for sentence in report.diagnoses), str(report)


def leaky(x):
    return torch.where(x > 0, x, 0.1 * x)


def largest(x):
    return x.amax(-1)


def by_division(inputs, dy):
    (x,) = inputs
    return leaky(x), (dy * (0.55 + 0.45 * x / x.abs()),)


def upper_slope(inputs, dy):
    (x,) = inputs
    return leaky(x), (dy * torch.where(x >= 0, 1.0, 0.1),)


def every_maximum(inputs, dy):
    (x,) = inputs
    y = x.amax(-1, keepdim=True)
    return y.squeeze(-1), (dy[..., None] * (x == y),)


def first_maximum(inputs, dy):
    (x,) = inputs
    y, place = x.max(-1, keepdim=True)
    return y.squeeze(-1), (torch.zeros_like(x).scatter(-1, place, dy[..., None]),)


@pytest.mark.parametrize(
    ("candidate", "function", "passes"),
    [
        (by_division, leaky, False),
        (upper_slope, leaky, True),
        (every_maximum, largest, False),
        (first_maximum, largest, True),
    ],
    ids=["0 / 0", "the other slope", "every maximum", "the first maximum"],
)
def test_zeros_and_ties_are_among_the_cases_and_any_subgradient_is_right(candidate, function, passes) -> None:
    report = compare(candidate, function, inputs={"x": (4, 3)}, diagnose=0)
    assert report.passed == passes, str(report)
    assert passes == any("valid subgradient" in note for note in report.notes)


def at_places(x, at):
    return x[at.floor().long()] * at[:, None]


def test_where_a_function_is_not_defined_for_the_numbers_of_a_case_it_is_not_judged() -> None:
    inputs = {"x": (5, 3), "at": lambda generator: 4 * torch.rand(7, generator=generator)}
    report = compare(torch_ref.vjp(at_places), at_places, inputs=inputs, diagnose=0)
    assert report.passed, str(report)
    assert any("raises IndexError" in text for text in report.not_tested), report.not_tested


def gelu(x):
    return F.gelu(x)


def normed_in_float32(x, weight):
    return F.layer_norm(x.float(), x.shape[-1:]).to(x.dtype) * weight


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (gelu, {"x": lambda generator: -6 - 3 * torch.rand(4, 5, generator=generator)}),
        (normed_in_float32, {"x": (4, 33), "weight": (33,)}),
        (at_places, {"x": (4, 3), "at": lambda generator: 3.6 + 0.3 * torch.rand(7, generator=generator)}),
    ],
    ids=["digits lost in a tail", "a cast inside", "not defined where a number is rounded"],
)
def test_what_differs_by_rounding_or_is_not_defined_everywhere_is_no_reason_to_refuse(function, inputs) -> None:
    assert reference(function, inputs).outputs == ("y",)


def hidden(x, weight, head):
    """Zeros in front of a layer that mixes what comes from them with both signs."""
    return torch.relu(x @ weight) @ head


def pooled(x, weight):
    return F.max_pool2d(x, 2).flatten(1) @ weight.mT


def hidden_with(slope):
    def vjp(inputs, dy):
        x, weight, head = inputs
        z = x @ weight
        d = dy @ head.mT * torch.where(z == 0, slope, (z > 0).to(z.dtype))
        return z.relu() @ head, (d @ weight.mT, x.mT @ d, z.relu().mT @ dy)

    return vjp


def pooled_with(share):
    def vjp(inputs, dy):
        x, weight = inputs
        cells = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
        best = cells.amax(-1)
        d = (dy @ weight).view(best.shape)[..., None] * share((cells == best[..., None]).to(x.dtype))
        d = d.unflatten(-1, (2, 2)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
        return best.flatten(1) @ weight.mT, (d, dy.mT @ best.flatten(1))

    return vjp


def few(*shape):
    return lambda generator: torch.randint(-1, 2, shape, generator=generator).double()


HIDDEN = {"x": few(4, 6), "weight": few(6, 5), "head": (5, 3)}
POOLED = {"x": few(2, 1, 4, 4), "weight": (3, 4)}


@pytest.mark.parametrize(
    ("candidate", "function", "inputs", "passes"),
    [
        (hidden_with(1.0), hidden, HIDDEN, True),
        (hidden_with(1.1), hidden, HIDDEN, False),
        (pooled_with(lambda tied: tied / tied.sum(-1, keepdim=True)), pooled, POOLED, True),
        (pooled_with(lambda tied: tied), pooled, POOLED, False),
    ],
    ids=["slope 1", "slope 1.1", "shared evenly", "to every maximum"],
)
def test_any_choice_at_kinks_is_right_in_front_of_a_layer_that_mixes_them(candidate, function, inputs, passes) -> None:
    report = compare(candidate, function, inputs=inputs, diagnose=0)
    assert report.passed is passes, str(report)


def summed_into_zeros(x, weight, index):
    """Zeros that the function makes have the precision of the program, and so has what is added to them."""
    total = torch.zeros(4, x.shape[1], dtype=x.dtype).index_add(0, index, x)
    return total @ weight


def test_numbers_that_a_function_makes_have_the_precision_of_the_program() -> None:
    drawn = torch.Generator().manual_seed(0)
    inputs = {"x": (7, 9), "weight": (9, 5), "index": lambda generator: torch.randint(4, (7,), generator=generator)}
    rule = reference(summed_into_zeros, inputs)
    x, weight = torch.randn(7, 300, generator=drawn), torch.randn(300, 5, generator=drawn)
    index, dy = torch.randint(4, (7,), generator=drawn), torch.randn(4, 5, generator=drawn)
    bound = widths(rule, (x, weight, index), dy, contract_of(torch.float32)).outputs[0]
    total = torch.zeros(4, 300).index_add(0, index, x)
    assert bool((bound >= 40 * 2**-24 * (total.abs() @ weight.abs())).all()), "300 roundings of one in 2^24"


def gauss(inputs, dy):
    (x,) = inputs
    y = torch.exp(-x * x)
    return y, (-2 * x * dy * y,)


def square_until(limit):
    def vjp(inputs, dy):
        (x,) = inputs
        return x * x, (torch.where(x.abs() < limit, 2 * x * dy, 0.0),)

    return vjp


@pytest.mark.parametrize(
    ("candidate", "function", "passes"),
    [
        (square_until(torch.inf), lambda x: x * x, True),
        (torch_ref.vjp(lambda x: x.pow(2)), lambda x: x * x, True),
        (gauss, lambda x: torch.exp(-x * x), True),
        (torch_ref.vjp(torch.cosh), lambda x: torch.cosh(x), True),
        (square_until(2.0**57), lambda x: x * x, False),  # the largest square that has room is 2^124
    ],
    ids=["square", "power", "gauss", "cosh", "square_wrong_where_large"],
)
def test_numbers_at_which_a_value_overflows_say_nothing_of_a_gradient(candidate, function, passes) -> None:
    assert compare(candidate, function, inputs={"x": (4, 33)}, diagnose=0).passed is passes


@pytest.mark.parametrize(
    "function",
    [F.silu, F.hardswish, F.relu6, F.glu, lambda x: F.layer_norm(x, x.shape[-1:])],
    ids=["silu", "hardswish", "relu6", "glu", "layer_norm"],
)
def test_numbers_of_one_dtype_are_promoted_to_no_other(function, monkeypatch) -> None:
    """What torch decides of dtypes before it takes an operation apart imports SymPy, which takes a second."""

    def elementwise_dtypes(*args, **kwargs):
        raise AssertionError("this imports SymPy")

    monkeypatch.setattr(torch._prims_common, "elementwise_dtypes", elementwise_dtypes)
    found = derivative(function, (torch.randn(3, 4),), {}, is_bounded)
    assert not found.unknown


def weighted_abs(x, weight):
    return (x.abs() * weight).sum()


@pytest.mark.parametrize(("shift", "certified"), [(0.0, 1), (0.5, 0)], ids=["at a kink", "beside it"])
def test_kinks_are_certified_where_numbers_may_be_equal_and_asked_for(shift, certified, monkeypatch) -> None:
    rule, asked = reference(weighted_abs, {"x": (40, 60), "weight": (40, 60)}), []
    monkeypatch.setattr(truth_of, "kinks_of", lambda *args: asked.append(args))
    x = torch.arange(-1200.0, 1200).reshape(40, 60) + shift
    found = evidence_of.evidence(
        rule,
        Case((x, torch.ones(40, 60)), torch.tensor(1.0)),
        contract_of(torch.float32),
        Conventions.declared(rule, None),
    )
    assert isinstance(found, evidence_of.Evidence)
    assert not asked
    assert not found.kinks[1].any()
    assert len(asked) == certified


def gaps(x, y):
    return (x[:, None] - y).abs().sum(-1)


def gaps_halved(inputs, dy):
    x, y = inputs
    slopes = dy[:, None] * (x[:, None] - y).sign() / 2
    return gaps(x, y), (slopes.sum(1), -slopes.sum(0))


@pytest.mark.parametrize(
    ("length", "shift", "is_asked"),
    [(30, 0.0, True), (60, 0.5, False), (200, 0.0, False)],
    ids=["kinks", "none", "a large difference on the way"],
)
def test_of_a_wrong_program_kinks_are_certified_where_there_may_be_some_and_few_numbers(
    length, shift, is_asked, monkeypatch
) -> None:
    asked = []
    monkeypatch.setattr(evidence_of, "truth_at", lambda *args: None)
    for module in (truth_of, kinds_of):
        monkeypatch.setattr(module, "kinks_of", lambda *args: asked.append(args))
    x = torch.arange(float(length))
    case = Case((x, x + shift), torch.ones(length))
    report = compare(gaps_halved, gaps, inputs={"x": (5,), "y": (5,)}, cases=[case], diagnose=0)
    assert len(report.mismatches) == 2
    assert bool(asked) is is_asked


def smoothed(x, a, kept=None):
    """An exponential moving average.  kept: what becomes of a carry behind so many steps, if not itself."""
    h, rows = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = (h if kept is None else kept(h, t)) * torch.sigmoid(a) + x[:, t]
        rows.append(h)
    return torch.stack(rows, 1)


def convolved(x, weight):
    return F.conv1d(x, weight)


def forgetting(h, t):
    return h.detach() if t and t % 64 == 0 else h


def wrong_of_width(width):
    def vjp(inputs, dy):
        y, (dx, dweight) = torch_ref.vjp(convolved)(inputs, dy)
        return y, (dx, 2 * dweight if inputs[1].shape[-1] == width else dweight)

    return vjp


def gated(x, h, weight, recurrent):
    """Three gates of each unit in one product."""
    a, b, c = (x @ weight.T + h @ recurrent.T).chunk(3, -1)
    return torch.sigmoid(a) * h + torch.sigmoid(b) * c


def spread(x, sinks):
    """As many heads as sinks, in one axis."""
    return (x.view(len(x), len(sinks), -1) * sinks[:, None]).flatten(1)


def recent(x, window=3):
    apart = torch.arange(len(x))[:, None] - torch.arange(len(x))
    return torch.where((apart >= 0) & (apart < window), 1.0, 0.0).to(x.dtype) @ x


def averaged(x, mask):
    return torch.where(mask, x * x, 0.0).sum() / mask.sum().clamp(min=1)


def averaged_of_some(inputs, dy):
    x, mask = inputs
    return averaged(x, mask), (torch.where(mask, 2 * x, 0.0) * (dy / mask.sum()), None)


def wrong_where(function, is_so):
    """The last cotangent is twice what is due where the inputs are so."""

    def vjp(inputs, dy, **hyper):
        y, grads = torch_ref.vjp(function)(inputs, dy, **hyper)
        return y, (*grads[:-1], 2 * grads[-1] if is_so(*inputs, **hyper) else grads[-1])

    return vjp


def drawn_mask(generator):
    return torch.rand(4, 9, generator=generator) < 0.6


CONVOLVED = {"x": (2, 3, 9), "weight": (4, 3, 3)}
GATED = {"x": (2, 5), "h": (2, 4), "weight": (12, 5), "recurrent": (12, 4)}
SPREAD = {"x": (5, 12), "sinks": (3,)}


@pytest.mark.parametrize(
    ("candidate", "function", "inputs"),
    [
        (torch_ref.vjp(lambda x, a: smoothed(x, a, forgetting)), smoothed, {"x": (2, 6, 3), "a": (3,)}),
        (wrong_of_width(5), convolved, CONVOLVED),
        (wrong_of_width(7), convolved, CONVOLVED),
        (wrong_where(gated, lambda x, h, *weights: h.shape[1] != 4), gated, GATED),
        (wrong_where(spread, lambda x, sinks: len(sinks) != 3), spread, SPREAD),
        (wrong_where(spread, lambda x, sinks: x.shape[1] != 4 * len(sinks)), spread, SPREAD),
        (wrong_where(recent, lambda x, window: window != 3), recent, {"x": (6, 4)}),
        (averaged_of_some, averaged, {"x": (4, 9), "mask": drawn_mask}),
    ],
    ids=[
        "a carry dropped every 64 steps",
        "a kernel of 5",
        "a kernel of 7",
        "a hidden size of 4",
        "3 heads",
        "heads of 4",
        "a window of 3",
        "a mask that hides all",
    ],
)
def test_what_a_program_is_wrong_for_is_among_the_cases(candidate, function, inputs) -> None:
    report = compare(candidate, function, inputs=inputs, diagnose=0)
    assert report.mismatches, str(report)


def test_elements_without_dy_are_seen() -> None:
    def only_where_dy(inputs, dy):
        y = torch.log_softmax(inputs[0], -1)
        return y, (torch.where(dy == 0, 0.0, dy - y.exp() * dy.sum(-1, keepdim=True)),)

    report = compare(only_where_dy, lambda x: torch.log_softmax(x, -1), inputs={"x": (4, 7)}, diagnose=0)
    assert not report.passed


def test_a_recurrence_of_many_steps_stays_in_range() -> None:
    def decaying(x, decay):
        states, h = [], torch.zeros_like(x[0])
        for now in x:
            h = decay * h + now
            states.append(h)
        return torch.stack(states)

    rule = reference(decaying, {"x": (7, 5), "decay": (5,)})
    long = [case for case in generated(rule, torch.float32) if len(case.inputs[0]) > 100]
    assert long
    assert all(bool(rule.forward(*case.inputs)[0].isfinite().all()) for case in long)


def test_an_input_of_which_nothing_is_derived_gets_0_where_bounds_are_wide():
    """Beside the others, whose bounds are narrowed by runs at random."""

    def divided(x, weight, u):
        with torch.no_grad():
            v = F.normalize(weight.T @ u, dim=0, eps=1e-12)
            left = F.normalize(weight @ v, dim=0, eps=1e-12)
        return x @ (weight / (left @ weight @ v)).T

    report = compare(torch_ref.vjp(divided), divided, inputs={"x": (4, 5), "weight": (3, 5), "u": (3,)}, diagnose=0)
    assert report.passed, str(report)
