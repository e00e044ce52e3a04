"""y = tanh x."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("tanh")


@bank.right()
def from_the_output(x, dy):
    y = torch.tanh(x)
    return y, dy * (1 - y.square())


@bank.right()
def sum_times_difference(x, dy):
    y = torch.tanh(x)
    return y, dy * ((1 - y) * (1 + y))


@bank.right("numpy")
def stable_exponential(x, dy):
    e = np.exp(-2 * np.abs(x))
    return np.tanh(x), dy * (4 * e / (1 + e) ** 2)


@bank.right()
def in_double(x, dy):
    e = torch.exp(-x.double().abs())
    return torch.tanh(x.double()).to(x.dtype), (dy.double() * (2 * e / (1 + e * e)) ** 2).to(x.dtype)


@bank.right()
def through_the_sigmoid(x, dy):
    return torch.tanh(x), 4 * dy * (torch.sigmoid(2 * x) * torch.sigmoid(-2 * x))


@bank.wrong("formula", r"1 \+ y²", "numpy")
def plus_for_minus(x, dy):
    y = np.tanh(x)
    return y, dy * (1 + y**2)


@bank.wrong("formula", r"1 - x²|1 − x²", "numpy")
def output_formula_at_the_input(x, dy):
    return np.tanh(x), dy * (1 - x**2)


@bank.wrong("drop", r"1 - y|1 − y")
def square_forgotten(x, dy):
    y = torch.tanh(x)
    return y, dy * (1 - y)


@bank.wrong("formula", r"y − y²|y - y²|sigmoid")
def formula_of_the_sigmoid(x, dy):
    y = torch.tanh(x)
    return y, dy * y * (1 - y)


@bank.wrong("flip", r"wrong sign")
def y_squared_minus_one(x, dy):
    y = torch.tanh(x)
    return y, dy * (y * y - 1)


@bank.wrong("scale", r"1/2|0\.5")
def half_of_it(x, dy):
    y = torch.tanh(x)
    return y, dy * (1 - y * y) / 2


@bank.wrong("formula", r"sigmoid")
def derivative_of_the_sigmoid(x, dy):
    s = torch.sigmoid(x)
    return torch.tanh(x), dy * s * (1 - s)


@bank.wrong("cotangent", r"cotangent (dropped|for ones|taken for 1|`dy` left out)|forgets dy")
def returns_the_slope(x, dy):
    y = torch.tanh(x)
    return y, 1 - y**2


@bank.wrong("cotangent", r"dy²|squared?")
def cotangent_twice(x, dy):
    y = torch.tanh(x)
    return y, dy * dy * (1 - y**2)


@bank.wrong("formula", r"derivative at y|taken at y", "numpy")
def takes_the_output_for_the_input(x, dy):
    y = np.tanh(x)
    return y, dy * (1 - np.tanh(y) ** 2)


@bank.wrong("formula", r"y³|y\^3|cube|power")
def cube(x, dy):
    y = torch.tanh(x)
    return y, dy * (1 - y**3)


@bank.wrong("drop", r"-y²|−y²|- y²|forgets the 1")
def forgets_the_one(x, dy):
    y = torch.tanh(x)
    return y, -dy * y**2


@bank.wrong("formula", r"1 - \|y\||1 − \|y\||abs")
def absolute_for_square(x, dy):
    y = torch.tanh(x)
    return y, dy * (1 - y.abs())


@bank.wrong("added", r"dx.*(times|plus|added|0\.01|\bx\b)")
def with_a_little_of_x(x, dy):
    y = torch.tanh(x)
    return y, dy * (1 - y**2) + 0.01 * x


@bank.wrong("precision", r"16 bits|low precision")
def computed_in_half(x, dy):
    y = torch.tanh(x)
    slope = (1 - y.bfloat16() ** 2).to(x.dtype)
    return y, dy * slope
