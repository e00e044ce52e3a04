"""Bad input is an error that says what must hold, what came, and what to do."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.inputs import Edge
from manual_bp.oracle.cases.drawing import draw
from manual_bp.outputs import parts, whole

x = torch.ones(3, 2)


def wrong(message):
    return pytest.raises(ValueError, match=message)


def test_nothing_is_broadcast():
    with wrong(r"square_loss: target has axes \(batch, \*outputs\).*target \(2,\).*Nothing is broadcast"):
        bp.square_loss.forward(x, torch.ones(2))


def test_a_number_for_two_axes_must_agree():
    with wrong(r"linear: weight has axes \(out, in\), and in is 2"):
        bp.linear.forward(x, torch.ones(4, 3), torch.ones(4))


def test_too_few_axes():
    with wrong(r"batch_norm: x must have at least 2 axes"):
        bp.batch_norm.forward(torch.ones(3), torch.ones(3), torch.ones(3))


def test_pieces_must_divide():
    with wrong("multiple of pieces = 3"):
        bp.maxout.forward(torch.ones(2, 4), pieces=3)


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_probability(p):
    with wrong(f"0 ≤ p ≤ 1; came {p}"):
        bp.dropout.forward(x, x > 0, p=p)


def test_fractional_mask():
    with wrong("only 0 and 1"):
        bp.dropout.forward(x, x / 2, p=0.5)


def test_dtypes_are_not_mixed():
    with wrong("one dtype; came x torch.float32, weight torch.float64"):
        bp.linear.forward(x, torch.ones(4, 2).double(), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool], ids=str)
def test_dtype_of_no_use(dtype):
    with wrong("must be float64, float32, bfloat16 or float16"):
        bp.relu.forward(x.to(dtype))


def test_no_tensor():
    with wrong("x must be a torch.Tensor; came list"):
        bp.relu.forward([1.0])


def test_number_of_inputs():
    with wrong(r"takes 1 inputs \['x'\]; came 2"):
        bp.relu.forward(x, x)


@pytest.mark.parametrize(("alpha", "message"), [("2", "real number"), (True, "real number"), (float("nan"), "finite")])
def test_hyperparameter(alpha, message):
    with wrong(message):
        bp.elu.forward(x, alpha=alpha)


def test_misspelt_hyperparameter():
    with wrong("came .*alhpa"):
        bp.elu.forward(x, alhpa=2.0)


def test_missing_hyperparameter():
    with wrong("pieces has no default"):
        bp.maxout.forward(x)


def test_fraction_for_a_count():
    with wrong("pieces must be an integer; came 2.0"):
        bp.maxout.forward(x, pieces=2.0)


def test_an_int_for_a_real_is_fine():
    assert torch.equal(bp.elu.forward(-x, alpha=2)[0], bp.elu.forward(-x, alpha=2.0)[0])


def test_residuals_of_another_rule():
    _, residuals = bp.tanh.forward(x)
    with wrong("residuals of its own forward"):
        bp.linear.backward(residuals, x)


def test_shape_of_the_cotangent():
    _, residuals = bp.tanh.forward(x)
    with wrong(r"dy has axes \(\*shape\)"):
        bp.tanh.backward(residuals, torch.ones(3))


def test_dtype_of_the_cotangent():
    _, residuals = bp.tanh.forward(x)
    with wrong("dy must have y's dtype"):
        bp.tanh.backward(residuals, x.double())


COMPUTED = [name for name, rule in bp.RULES.items() if rule.has_backward and hasattr(rule.page, "AXES")]


@pytest.mark.parametrize("name", COMPUTED)
def test_dy_has_the_lengths_that_a_page_computes(name):
    """By what its residuals keep of hyperparameters, under their own names and as they were given."""
    rule = bp.RULES[name]
    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0))
    _, residuals = rule.forward(*inputs, **hyper)
    longer = whole([torch.cat([d, d[..., :1]], -1) for d in parts(dy)], like=dy)
    with pytest.raises(ValueError, match=name):
        rule.backward(residuals, longer)
