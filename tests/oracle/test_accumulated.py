"""Gradients that are made of pieces: right ones agree with the whole batch's, and what goes wrong between is named."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
import torch_ref
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Input, normal
from manual_bp.oracle import Case, accumulated, compare
from manual_bp.oracle.accumulation.causes import cause_of_pieces
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.truth.evidence import evidence
from tests.oracle.few import judged
from tests.oracle.optimizers.bank import loops

RIGHT = {
    "a sum over unequal pieces": (lambda: accumulated(bp.linear.vjp, [2, 1]), "linear"),
    "a cost that is a sum": (lambda: accumulated(bp.softmax_cross_entropy.vjp, 3), "softmax_cross_entropy"),
    "a mean over rows, by rows": (lambda: accumulated(bp.square_loss.vjp, [2, 1], by="rows"), "square_loss"),
}
OPTIONS = {"a cost that is a sum": {"hyper": {"reduction": "sum"}}}


def kept():
    """Gradients that go on adding up."""
    sums = {}

    def vjp(inputs, dy):
        y, (dx, *grads) = bp.linear.vjp(inputs, dy)
        for name, grad in enumerate(grads):
            key = name, grad.shape, grad.dtype
            sums[key] = sums.get(key, 0) + grad
        return y, (dx, *(sums[name, grad.shape, grad.dtype].clone() for name, grad in enumerate(grads)))

    return vjp


WRONG = {
    "means of unequal pieces": (
        lambda: accumulated(bp.square_loss.vjp, [2, 1], by="mean"),
        "square_loss",
        "it is the mean of the pieces' means, though the pieces are unequal",
    ),
    "means added up": (
        lambda: accumulated(bp.softmax_cross_entropy.vjp, 2),
        "softmax_cross_entropy",
        "the means of the pieces are added up",
    ),
    "rows in place of tokens": (
        lambda: accumulated(bp.softmax_cross_entropy.vjp, 2, by="rows"),
        "softmax_cross_entropy",
        "the pieces are weighed by their rows, and not by the rows or tokens that count",
    ),
    "a sum divided by the workers": (
        lambda: accumulated(bp.linear.vjp, 2, by="mean"),
        "linear",
        "double division by the number of pieces, or workers",
    ),
    "not set to 0": (kept, "linear", "gradients are not set to 0 between steps"),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", RIGHT)
def test_what_adds_up_rightly_is_right(name):
    make, rule = RIGHT[name]
    report = compare(make(), rule, **OPTIONS.get(name, {}))
    assert report.passed, str(report)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_between_pieces_is_named(name):
    make, rule, words = WRONG[name]
    report = compare(make(), rule, diagnose=120.0)
    assert not report.passed
    assert words in report.diagnoses[0], str(report)


def test_pieces_of_a_function_whose_batch_has_a_fixed_length_are_named():
    def head(x, w, target):
        return torch.nn.functional.cross_entropy(x @ w.T, target)

    inputs = {"x": (6, 3), "w": (4, 3), "target": lambda g: torch.randint(4, (6,), generator=g)}
    report = compare(accumulated(torch_ref.vjp(head), [2, 4], by="mean"), head, inputs=inputs)
    assert report.diagnoses[0].startswith("it is the mean of the pieces' means"), str(report)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (loops.mean_of_the_pieces_means, "it is the mean of the pieces' means"),
        (loops.last_piece_dropped, "a last piece that is not full is left out of the gradient"),
    ],
)
@pytest.mark.thinned(2)
def test_pieces_that_nobody_declared_are_found_before_the_search_of_the_page(candidate, words):
    report = compare(candidate, "fused_linear_cross_entropy", min_size=1)
    assert report.diagnoses[0].startswith(words), str(report)
    assert not report.search, report.search  # that of the page would have been cut short


def test_pieces_are_no_share_of_a_batch_where_all_batches_are_of_one_length():
    """Pieces of 16 rows, which are half of 33 too, rounded down."""
    rule = bp.RULES["square_loss"]

    def last_alone(inputs, dy):
        y, _ = rule.vjp(inputs, dy)
        x, target = inputs
        rows = torch.arange(len(x))[:, None] >= (len(x) - 1) // 16 * 16
        dx = torch.where(rows, dy * (x - target) / len(x), 0)
        return y, (dx, -dx)

    def said(*lengths):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(2, n, 5, generator=generator) for n in lengths]
        cases = [Case((x, target), torch.tensor(1.0), name=str(i)) for i, (x, target) in enumerate(inputs)]
        every = [evidence(rule, case, contract_of(torch.float32)) for case in cases]
        return cause_of_pieces(rule, judged(rule, last_alone, every, torch.float32)[0], None, lambda: None)

    assert "pieces of 16, 16 and 1 rows" in said(33, 33)


def test_a_multiple_is_not_told_as_pieces_that_nobody_declared():
    """Two equal pieces whose means are added up are twice what is due; so is a factor that was lost."""
    rule = bp.RULES["square_loss"]

    def twice(inputs, dy):
        y, grads = rule.vjp(inputs, dy)
        return y, tuple(2 * g for g in grads)

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, n, 5, generator=generator) for n in (8, 16, 32)]
    cases = [Case((x, target), torch.tensor(1.0), name=str(i)) for i, (x, target) in enumerate(inputs)]
    every = [evidence(rule, case, contract_of(torch.float32)) for case in cases]
    assert not cause_of_pieces(rule, judged(rule, twice, every, torch.float32)[0], None, lambda: None)


def test_a_nan_is_no_sum_of_calls():
    def deviation_over_n(inputs, dy):
        (x,) = inputs
        y = x.std(-1)
        return y, (dy[:, None] * (x - x.mean(-1, keepdim=True)) / (x.shape[-1] * y[:, None]),)

    report = compare(deviation_over_n, lambda x: x.std(-1), inputs={"x": (6, 7)}, diagnose=1)
    assert not any("not set to 0" in words for words in report.diagnoses), str(report)


def test_a_batch_of_several_outputs_is_taken_apart():
    vjp, rule = bp.gru.vjp, bp.RULES["gru"]
    case = next(iter(generated(rule, torch.float64, "cpu")))
    y, grads = vars(accumulated(vjp, 2))["of_rule"](rule)(case.inputs, case.dy, **case.hyper)
    due_y, due_grads = vjp(case.inputs, case.dy, **case.hyper)
    torch.testing.assert_close((*y, *grads), (*due_y, *due_grads))


def test_what_is_no_way_to_take_a_batch_apart_is_refused():
    with pytest.raises(ValueError, match="pieces must be a number of pieces"):
        accumulated(bp.linear.vjp, 0)
    with pytest.raises(ValueError, match="by must be one of"):
        accumulated(bp.linear.vjp, 2, by="tokens")
    report = compare(accumulated(bp.linear.vjp, lambda n: [n + 1]), "linear")
    assert "pieces must add up to the batch of" in report.mismatches[0].detail


def test_pieces_of_somebody_s_function():
    def cost(x, weight):
        return torch.tanh(x @ weight.T).square().sum()

    def piece(inputs, dy):
        x, weight = inputs
        h = torch.tanh(x @ weight.T)
        da = dy * 2 * h * (1 - h * h)
        return h.square().sum(), (da @ weight, da.T @ x)

    report = compare(accumulated(piece, [2, 1]), cost, inputs={"x": (6, 5), "weight": (3, 5)})
    assert report.passed, str(report)


def test_a_case_without_a_batch_has_no_pieces():
    def wrong(inputs, dy):
        y, (dx,) = bp.softmax.vjp(inputs, dy)
        return y, (dx * torch.tensor([1.0, 1.1, 0.7, 1.3]),)

    case = Case(inputs=(torch.tensor([1.0, 2.0, 0.5, -1.0]),), dy=torch.tensor([1.0, -1.0, 0.5, 2.0]))
    report = compare(wrong, "softmax", cases=[case], diagnose=0.5)
    assert not report.passed
    assert not any("piece" in diagnosis for diagnosis in report.diagnoses), str(report)


def test_an_output_that_grows_with_the_batch_unsaid_has_no_pieces():
    def running_sum(x, decay):
        return torch.stack([decay * x[: t + 1].sum(0) for t in range(len(x))])

    def wrong(inputs, dy):
        x, decay = inputs
        return running_sum(x, decay), (dy * decay + x.roll(1, 0), (dy * x).sum(0))

    report = compare(wrong, running_sum, inputs={"x": (7, 3, 5), "decay": (5,)}, diagnose=0.5)
    assert not report.passed
    assert not any("piece" in diagnosis for diagnosis in report.diagnoses), str(report)


def costly(x, mask, weight, target, p: float = 0.5):
    h = torch.where(mask, torch.tanh(x @ weight.T) / (1 - p), 0)
    return (h - target).square().mean()


def test_a_checkpoint_that_draws_another_mask_is_named():
    """Of a cost, off which no mask can be read."""

    def vjp(inputs, dy, p=0.5):
        x, mask, weight, target = inputs
        a = torch.tanh(x @ weight.T)
        drawn = torch.rand(mask.shape) >= p
        dh = 2 * dy * (torch.where(drawn, a / (1 - p), 0) - target) / a.numel()
        dz = torch.where(drawn, dh / (1 - p), 0) * (1 - a * a)
        return costly(*inputs, p=p), (dz @ weight, None, dz.T @ x, -dh)

    inputs = {"x": (6, 5), "mask": torch.rand(6, 4) > 0.5, "weight": (4, 5), "target": (6, 4)}
    report = compare(vjp, costly, inputs=inputs, diagnose=60)
    words = "where y is right and draws none: backward draws anew, as where it computes forward again (a checkpoint)"
    assert words in report.diagnoses[0], str(report)


class Odds(torch.nn.Linear):
    """torch knows no derivative of this cost by its target."""

    def forward(self, x, target):
        return torch.nn.functional.binary_cross_entropy(super().forward(x).sigmoid(), target.sigmoid().detach())


@pytest.mark.parametrize("declared", [("target",), ()])
def test_what_asks_for_no_gradient_is_declared(declared):
    def step(module, x, target):
        target.numpy()  # which torch refuses where it follows a gradient
        for own, labels in zip(x.split(2), target.split(2), strict=True):
            (module(own, labels) * len(own) / len(x)).backward()
        return module(x, target).detach()

    cost = Odds(3, 2)
    inputs = {"x": (5, 3), "target": ((5, 2), Input(normal(), cotangent=False)), "weight": (2, 3), "bias": (2,)}
    case = Case(tuple(map(torch.randn, ((5, 3), (5, 2), (2, 3), (2,)))), torch.ones(()))
    candidate = torch_ref.accumulated(step, cost, [2], constant=declared)
    assert compare(candidate, cost, inputs=inputs, cases=[case], diagnose=0).passed == bool(declared)


def test_a_constant_is_an_input():
    with pytest.raises(ValueError, match="constant must name inputs"):
        compare(torch_ref.accumulated(lambda module, x: x.sum(), Odds(3, 2), constant=("y",)), "tanh")


def test_a_page_that_is_wrong_itself_is_not_told_as_wrong_pieces(monkeypatch):
    """Each of its pieces is wrong as the whole is, and all of them together give what it gives."""
    right = bp.silu.page.backward
    monkeypatch.setattr(bp.silu.page, "backward", lambda residuals, dy: tuple(-dx for dx in right(residuals, dy)))
    report = compare(bp.silu.candidate, "silu")
    assert not report.passed
    assert not any("piece" in sentence for sentence in report.diagnoses), report
