"""y = x for x > 0, negative_slope x elsewhere."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("leaky_relu")


def leaky(x, slope):
    return torch.where(x > 0, x, slope * x)


@bank.right()
def where(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, dy * negative_slope)


@bank.right("numpy")
def slope_array(x, dy, negative_slope=0.01):
    slopes = np.full_like(x, negative_slope)
    slopes[x > 0] = 1
    return x * slopes, dy * slopes


@bank.right()
def scaled_in_place(x, dy, negative_slope=0.01):
    y, dx = x.clone(), dy.clone()
    left = x <= 0
    y[left] *= negative_slope
    dx[left] *= negative_slope
    return y, dx


@bank.right()
def in_double(x, dy, negative_slope=0.01):
    slopes = torch.where(x > 0, torch.ones((), dtype=torch.float64), negative_slope)
    return (x.double() * slopes).to(x.dtype), (dy.double() * slopes).to(x.dtype)


@bank.wrong("branch", r"wrong side|x > 0|other side|that of -x")
def slope_on_the_wrong_side(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, negative_slope * dy, dy)


@bank.wrong("branch", r"slope everywhere|right branch|left branch", "numpy")
def slope_on_both_sides(x, dy, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x), negative_slope * dy


@bank.wrong("hyperparameter", r"negative_slope.*0\.01|slope 0\.01", "numpy")
def default_slope(x, dy, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x), np.where(x > 0, dy, 0.01 * dy)


@bank.wrong("hyperparameter", r"0\.2")
def tensorflows_default(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, 0.2 * dy)


@bank.wrong("hyperparameter", r"plain ReLU|relu|negative_slope.*=0")
def no_slope(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, 0)


@bank.wrong("flip", r"-negative_slope|−negative_slope|wrong sign|sign\(x\)")
def slope_with_a_minus(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, -negative_slope * dy)


@bank.wrong("scale", r"negative_slope²|squared")
def slope_twice(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, negative_slope**2 * dy)


@bank.wrong("formula", r"1/negative_slope|divided")
def divided_by_the_slope(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, dy / negative_slope)


@bank.wrong("formula", r"1 − negative_slope|1-negative_slope|1 - negative_slope")
def one_minus_slope(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, dy, (1 - negative_slope) * dy)


@bank.wrong("formula", r"negative_slope.*x|dy·.*[xy]")
def value_on_the_left(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), dy * torch.where(x > 0, torch.ones_like(x), negative_slope * x)


@bank.wrong("branch", r"branch read off y|y > 0", "numpy")
def branch_from_the_output(x, dy, negative_slope=0.01):
    y = np.where(x > 0, x, negative_slope * x)
    return y, np.where(y > 0, dy, negative_slope * dy)


@bank.wrong("cotangent", r"dropped|for ones|taken for 1|`dy` left out|forgets dy")
def slopes_alone(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), torch.where(x > 0, torch.ones_like(x), negative_slope)


@bank.wrong("cotangent", r"sign of the cotangent|sign of dy|dy > 0")
def leaky_of_the_cotangent(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), leaky(dy, negative_slope)


@bank.wrong("flip", r"wrong sign|-1 times")
def minus(x, dy, negative_slope=0.01):
    return leaky(x, negative_slope), -torch.where(x > 0, dy, negative_slope * dy)


@bank.wrong("scale", r"2 times")
def summed_twice(x, dy, negative_slope=0.01):
    dx = torch.where(x > 0, dy, negative_slope * dy)
    return leaky(x, negative_slope), dx + dx
