"""y = 1 / (1 + e⁻ˣ)."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("sigmoid")


def sigmoid(x):
    return torch.where(x >= 0, 1 / (1 + torch.exp(-x.abs())), 1 - 1 / (1 + torch.exp(-x.abs()))).where(
        x > -1, torch.exp(x.clamp(max=0)) / (1 + torch.exp(x.clamp(max=0)))
    )


@bank.right()
def from_the_output(x, dy):
    y = torch.sigmoid(x)
    return y, dy * (y * (1 - y))


@bank.right()
def product_of_both_tails(x, dy):
    return torch.sigmoid(x), dy * (torch.sigmoid(x) * torch.sigmoid(-x))


@bank.right("numpy")
def stable_exponential(x, dy):
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return y, dy * (e / (1 + e) / (1 + e))


@bank.right()
def in_double(x, dy):
    e = torch.exp(-x.double().abs())
    return torch.sigmoid(x.double()).to(x.dtype), (dy.double() * (e / (1 + e) ** 2)).to(x.dtype)


@bank.right("numpy")
def hyperbolic_cosine(x, dy):
    half = np.minimum(np.abs(x) / 2, 350 if x.dtype == np.float64 else 43).astype(x.dtype)
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    plain = (1 / (2 * np.cosh(half))) ** 2
    return y, dy * np.where(np.abs(x) < 30, plain, e)


@bank.wrong("formula", r"y \+ y²|1 \+ y|wrong sign")
def one_plus_y(x, dy):
    y = sigmoid(x)
    return y, dy * y * (1 + y)


@bank.wrong("flip", r"wrong sign")
def y_minus_one(x, dy):
    y = sigmoid(x)
    return y, dy * y * (y - 1)


@bank.wrong("flip", r"wrong sign", "numpy")
def chain_rule_of_the_exponent_forgotten(x, dy):
    y = 1 / (1 + np.exp(-x))
    return y, -dy * np.exp(-x) * y**2


@bank.wrong("formula", r"x\(1 - x\)|x − x²|x - x²", "numpy")
def output_formula_at_the_input(x, dy):
    return 1 / (1 + np.exp(-x)), dy * (x - x * x)


@bank.wrong("drop", r"y\b|factor 1 - y")
def forgets_one_minus_y(x, dy):
    y = sigmoid(x)
    return y, y * dy


@bank.wrong("drop", r"1 − y|1 - y")
def forgets_y(x, dy):
    y = sigmoid(x)
    return y, (1 - y) * dy


@bank.wrong("cotangent", r"cotangent (dropped|for ones|taken for 1|`dy` left out)|forgets dy", "numpy")
def returns_the_slope(x, dy):
    y = 1 / (1 + np.exp(-x))
    return y, y * (1 - y)


@bank.wrong("formula", r"derivative at y|taken at y")
def applied_twice(x, dy):
    y = sigmoid(x)
    again = sigmoid(y)
    return y, dy * again * (1 - again)


@bank.wrong("formula", r"tanh|1 - y²|1 − y²")
def formula_of_tanh(x, dy):
    y = sigmoid(x)
    return y, dy * (1 - y * y)


@bank.wrong("scale", r"1/2|0\.5|half")
def symmetrised(x, dy):
    y = sigmoid(x)
    return y, 0.5 * dy * y * (1 - y)


@bank.wrong("scale", r"4 times")
def slope_of_one_at_zero(x, dy):
    y = sigmoid(x)
    return y, 4 * dy * y * (1 - y)


@bank.wrong("formula", r"y² − |y - y³|y²|y\^|square|multiplied by y")
def squared_output(x, dy):
    y = sigmoid(x)
    return y, dy * y**2 * (1 - y)


@bank.wrong("formula", r"cotangent inside|y\(dy\)|argument")
def dy_inside(x, dy):
    y = sigmoid(x)
    return y, y * (1 - sigmoid(dy))


@bank.wrong("cotangent", r"clip|\[-1, 1\]|clamp")
def gradient_clipped(x, dy):
    y = sigmoid(x)
    return y, (10 * dy).clamp(-10, 10) / 10 * y * (1 - y)


@bank.wrong("cotangent", r"\|dy\||absolute|magnitude")
def absolute_cotangent(x, dy):
    y = sigmoid(x)
    return y, dy.abs() * y * (1 - y)


@bank.wrong("cotangent", r"mean of dy|averaged|mean")
def mean_cotangent(x, dy):
    y = sigmoid(x)
    return y, dy.mean() * y * (1 - y) * torch.ones_like(dy)


@bank.wrong("formula", r"relu|where x|x > 0")
def hard_gate(x, dy):
    return sigmoid(x), torch.where(x > 0, dy, 0)
