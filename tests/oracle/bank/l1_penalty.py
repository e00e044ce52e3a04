"""lam / n Σ |W|."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("l1_penalty")


def penalty(weight, lam, n):
    return lam / n * weight.abs().sum()


@bank.right()
def sign_of_the_weight(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * weight.sign()


@bank.right("numpy")
def textbook(weight, dy, lam, n=1):
    return lam / n * np.sum(np.abs(weight)), (lam / n) * np.sign(weight) * dy


@bank.right()
def two_comparisons(weight, dy, lam, n=1):
    step = (weight > 0).to(weight.dtype) - (weight < 0).to(weight.dtype)
    return (lam * weight.abs().sum()) / n, (dy * lam * step) / n


@bank.right()
def copied_sign(weight, dy, lam, n=1):
    slope = torch.where(weight == 0, 0, torch.copysign(torch.ones_like(weight), weight))
    return penalty(weight.reshape(-1).flip(0), lam, n), slope * (lam / n * dy)


@bank.wrong("formula", r"L2's gradient|dy·.*weight")
def gradient_of_the_square(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * weight


@bank.wrong("formula", r"absolute value|\|weight\|", "numpy")
def penalty_for_its_gradient(weight, dy, lam, n=1):
    return lam / n * np.abs(weight).sum(), dy * lam / n * np.abs(weight)


@bank.wrong("flip", r"wrong sign|'sign'")
def minus(weight, dy, lam, n=1):
    return penalty(weight, lam, n), -dy * lam / n * weight.sign()


@bank.wrong("count", r"1/n forgotten|\bn times|n is ignored")
def n_forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam * weight.sign()


@bank.wrong("count", r"once more|1/n\b|1/n²", "numpy")
def n_squared(weight, dy, lam, n=1):
    return lam / n * np.abs(weight).sum(), dy * lam * np.sign(weight) / n**2


@bank.wrong("scale", r"2 times")
def twice(weight, dy, lam, n=1):
    return penalty(weight, lam, n), 2 * dy * lam / n * weight.sign()


@bank.wrong("hyperparameter", r"lam is ignored|1/lam")
def lam_forgotten(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * weight.sign() / n


@bank.wrong("cotangent", r"cotangent dropped|for ones|taken for 1|`dy` left out")
def written_for_a_cost(weight, dy, lam, n=1):
    return penalty(weight, lam, n), (lam / n * weight.sign()).expand(weight.shape)


@bank.wrong("branch", r"negative weights|right where weight > 0|where weight < 0")
def step_of_relu(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * (weight > 0)


@bank.wrong("formula", r"tanh|clip")
def smoothed_sign(weight, dy, lam, n=1):
    return penalty(weight, lam, n), dy * lam / n * weight.clamp(-1, 1)


@bank.wrong("drop", r"0 everywhere|not in the gradient", "numpy")
def nothing(weight, dy, lam, n=1):
    return lam / n * np.abs(weight).sum(), np.zeros_like(weight)
