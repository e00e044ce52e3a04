"""lam / (2n) Σ W²."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("l2_penalty")


def penalty(weight, lam, n):
    return lam / (2 * n) * (weight * weight).sum()


@bank.right()
def plain(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * (lam / n * weight)


@bank.right("numpy")
def textbook(weight, dy, lam, n=1):
    return lam / (2 * n) * np.sum(np.square(weight)), (lam / n) * weight * dy


@bank.right()
def divided_last(weight, dy, lam, n=1):
    return (lam * weight.square().sum()) / (2 * n), (dy * lam * weight) / n


@bank.right()
def in_double(weight, dy, lam, n=1):
    wide = weight.double()
    value = lam * torch.sum(wide.reshape(-1).flip(0) ** 2) / 2 / n
    return value.to(weight.dtype), (dy.double() * lam * wide / n).to(weight.dtype)


@bank.wrong("scale", r"factor 2|2 times")
def two_kept(weight, dy, lam, n=1):
    return penalty(weight, lam, n), 2 * dy * lam / n * weight


@bank.wrong("scale", r"'half'|1/2|0\.5", "numpy")
def half_kept(weight, dy, lam, n=1):
    return lam / (2 * n) * np.sum(weight**2), dy * lam / (2 * n) * weight


@bank.wrong("count", r"1/n forgotten|\bn times|n is ignored")
def n_forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam * weight


@bank.wrong("count", r"1/n\b|1/n²|twice|once more")
def n_squared(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam * weight / n**2


@bank.wrong("count", r"number of weights|shape", "numpy")
def divided_by_the_number_of_weights(weight, dy, lam, n=1):
    return lam / (2 * n) * np.sum(weight**2), dy * lam * weight / max(weight.size, 1)


@bank.wrong("hyperparameter", r"lam\b")
def lam_forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * weight / n


@bank.wrong("hyperparameter", r"lam\b|0\.01")
def lam_hard_coded(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * 0.01 * weight / n


@bank.wrong("scale", r"lam\b")
def lam_squared(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam**2 * weight / n


@bank.wrong("formula", r"1-lam|1 − lam|lam")
def decay_factor(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * (1 - lam) * weight / n


@bank.wrong("flip", r"'sign'|wrong sign")
def descent_direction(weight, dy, lam, n=1):
    return penalty(weight, lam, n), -dy * lam / n * weight


@bank.wrong("formula", r"L1|sign\(")
def l1(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * torch.sign(weight)


@bank.wrong("formula", r"weight²|squared")
def squared_weight(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * weight**2


@bank.wrong("formula", r"\|weight\||absolute")
def absolute_weight(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * weight.abs()


@bank.wrong("axis", r"summed|sum for the matrix")
def everything_summed(weight, dy, lam, n=1):
    return penalty(weight, lam, n), (dy * lam / n * weight.sum()).expand(weight.shape)


@bank.wrong("drop", r"0 everywhere|not in the gradient")
def forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), torch.zeros_like(weight)


@bank.wrong("cotangent", r"cotangent dropped|for ones|taken for 1|`dy` left out|forgets dy")
def dy_forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), lam / n * weight


@bank.wrong("cotangent", r"\|dy\||absolute")
def absolute_cotangent(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy.abs() * lam / n * weight


@bank.wrong("formula", r"weight.*(missing|ones|1)|constant|without")
def weight_forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * torch.ones_like(weight)


@bank.wrong("axis", r"1/‖weight‖|norm")
def derivative_of_the_norm(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * weight / weight.norm()
