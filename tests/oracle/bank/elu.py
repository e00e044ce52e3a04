"""y = x for x > 0, alpha (eˣ − 1) elsewhere."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("elu")


def elu(x, alpha):
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@bank.right()
def where(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, dy * alpha * torch.exp(x.clamp(max=0)))


@bank.right()
def from_the_output(x, dy, alpha=1.0):
    y = elu(x, alpha)
    return y, torch.where(x > 0, dy, dy * (y + alpha))


@bank.right("numpy")
def textbook(x, dy, alpha=1.0):
    left = np.minimum(x, 0)
    y = np.where(x > 0, x, alpha * np.expm1(left))
    return y, np.where(x > 0, dy, alpha * np.exp(left) * dy)


@bank.right()
def in_double(x, dy, alpha=1.0):
    wide = x.double()
    slope = torch.where(x > 0, 1.0, alpha * torch.exp(wide.clamp(max=0)))
    return elu(wide, alpha).to(x.dtype), (dy.double() * slope).to(x.dtype)


@bank.right()
def masked_in_place(x, dy, alpha=1.0):
    dx, left = dy.clone(), x <= 0
    h = torch.exp(x[left] / 2)
    dx[left] *= alpha * h * h
    return elu(x, alpha), dx


@bank.wrong("hyperparameter", r"alpha.*(forgotten|ignored|=1)", "numpy")
def alpha_forgotten(x, dy, alpha=1.0):
    left = np.minimum(x, 0)
    return np.where(x > 0, x, alpha * np.expm1(left)), np.where(x > 0, dy, np.exp(left) * dy)


@bank.wrong("formula", r"y \+ 1")
def y_plus_one(x, dy, alpha=1.0):
    y = elu(x, alpha)
    return y, torch.where(x > 0, dy, dy * (y + 1))


@bank.wrong("formula", r"y − alpha|y - alpha|y \+ -alpha")
def y_minus_alpha(x, dy, alpha=1.0):
    y = elu(x, alpha)
    return y, torch.where(x > 0, dy, dy * (y - alpha))


@bank.wrong("formula", r"alpha·y|alpha y|alpha.*y \+ alpha|alpha²|alpha·the right")
def alpha_twice(x, dy, alpha=1.0):
    y = elu(x, alpha)
    return y, torch.where(x > 0, dy, dy * alpha * (y + alpha))


@bank.wrong("drop", r"y alone|\+ alpha|dy·y")
def alpha_not_added(x, dy, alpha=1.0):
    y = elu(x, alpha)
    return y, torch.where(x > 0, dy, dy * y)


@bank.wrong("branch", r"branch read off y|y > 0")
def branch_from_the_output(x, dy, alpha=1.0):
    y = elu(x, alpha)
    return y, torch.where(y > 0, dy, dy * alpha * torch.exp(x))


@bank.wrong("branch", r"wrong side|x > 0|other side")
def branches_swapped(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy * alpha * torch.exp(x), dy)


@bank.wrong("drop", r"relu|x (<|≤) 0|is 0")
def zero_on_the_left(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, 0)


@bank.wrong("formula", r"alpha( dy)?.*x (<|≤) 0|dy·alpha|leaky")
def constant_slope_on_the_left(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, alpha * dy)


@bank.wrong("flip", r"-alpha|−alpha|wrong sign|e⁻ˣ|e\^-x|-x")
def exponent_with_a_minus(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, alpha * torch.exp(-x) * dy)


@bank.wrong("flip", r"-alpha|−alpha|wrong sign|-the right factor\) where x < 0", "numpy")
def minus_on_the_left(x, dy, alpha=1.0):
    left = np.minimum(x, 0)
    return np.where(x > 0, x, alpha * np.expm1(left)), np.where(x > 0, dy, -alpha * np.exp(left) * dy)


@bank.wrong("hyperparameter", r"0\.5|alpha")
def alpha_hard_coded(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, 0.5 * torch.exp(x.clamp(max=0)) * dy)


@bank.wrong("scale", r"1\.05|1\.0507")
def selus_scale(x, dy, alpha=1.0):
    return elu(x, alpha), 1.0507009873554805 * torch.where(x > 0, dy, alpha * torch.exp(x.clamp(max=0)) * dy)


@bank.wrong("cotangent", r"dropped|for ones|taken for 1|`dy` left out|forgets dy")
def slope_alone(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, 1.0, alpha * torch.exp(x.clamp(max=0))).to(x.dtype) * torch.ones_like(dy)


@bank.wrong("cotangent", r"dy.*(x (<|≤) 0|left)")
def dy_forgotten_on_the_left(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, alpha * torch.exp(x.clamp(max=0)))


@bank.wrong("formula", r"alpha \(?eˣ|eˣ − 1|·\(?y|y alone")
def value_for_slope(x, dy, alpha=1.0):
    return elu(x, alpha), torch.where(x > 0, dy, dy * alpha * (torch.exp(x.clamp(max=0)) - 1))
