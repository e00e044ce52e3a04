"""y = max(x, 0)."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("relu")


@bank.right()
def masked_in_place(x, dy):
    dx = dy.clone()
    dx[x <= 0] = 0
    return x.clamp(min=0), dx


@bank.right("numpy")
def textbook(x, dy):
    return np.maximum(x, 0), np.where(x > 0, dy, 0)


@bank.right()
def gate_from_the_output(x, dy):
    y = torch.relu(x)
    return y, dy.masked_fill(y <= 0, 0)


@bank.right()
def threshold(x, dy):
    return torch.threshold(x, 0, 0), torch.where(x.sign() == 1, dy, torch.zeros_like(dy))


@bank.wrong("branch", r"wrong side|x < 0|complement|x > 0|other side|that of -x", "numpy")
def mask_inverted(x, dy):
    return np.maximum(x, 0), np.where(x > 0, 0, dy)


@bank.wrong("drop", r"'ones'|mask", "numpy")
def mask_forgotten(x, dy):
    return np.maximum(x, 0), dy.copy()


@bank.wrong("formula", r"y for 1|x > 0.*\bx\b|times x|dy·x|dy·y")
def times_the_output(x, dy):
    y = torch.relu(x)
    return y, dy * y


@bank.wrong("cotangent", r"mask of the cotangent|sign of dy|dy > 0")
def gate_on_the_cotangent(x, dy):
    return torch.relu(x), torch.relu(dy)


@bank.wrong("cotangent", r"guided|negative cotangents")
def guided(x, dy):
    return torch.relu(x), torch.where(x > 0, torch.relu(dy), 0)


@bank.wrong("cotangent", r"cotangent (dropped|for ones|taken for 1|`dy` left out)|forgets dy")
def returns_the_step(x, dy):
    return torch.relu(x), (x > 0).to(x.dtype)


@bank.wrong("flip", r"wrong sign")
def minus(x, dy):
    return torch.relu(x), torch.where(x > 0, -dy, 0)


@bank.wrong("hyperparameter", r"leaky|0\.01")
def leaks(x, dy):
    return torch.relu(x), torch.where(x > 0, dy, 0.01 * dy)


@bank.wrong("hyperparameter", r"0\.2")
def leaks_a_fifth(x, dy):
    return torch.relu(x), torch.where(x > 0, dy, 0.2 * dy)


@bank.wrong("branch", r"-dy|−dy|wrong sign|sign of x|sign\(x\)")
def sign_of_x(x, dy):
    return torch.relu(x), torch.sign(x) * dy


@bank.wrong("scale", r"1/2|0\.5")
def half_the_gradient(x, dy):
    return torch.relu(x), torch.where(x > 0, dy, torch.zeros_like(dy)) / 2


@bank.wrong("formula", r"sigmoid|softplus|\by\b")
def softplus_derivative(x, dy):
    return torch.relu(x), dy * torch.sigmoid(x)


@bank.wrong("cotangent", r"clip|clamp|\[-1, 1\]")
def clipped_to_one(x, dy):
    return torch.relu(x), torch.where(x > 0, dy.clamp(-1, 1), 0)


@bank.wrong("cotangent", r"mean of dy|averaged|mean")
def mean_of_the_cotangent(x, dy):
    return torch.relu(x), torch.where(x > 0, dy.mean(), 0)


@bank.wrong("layout", r"contiguous")
def kernel_that_reads_dy_row_by_row(x, dy):
    buffer = torch.as_strided(dy, (dy.untyped_storage().nbytes() // dy.element_size(),), (1,), 0)
    flat = torch.cat([buffer[dy.storage_offset() :], dy.new_zeros(dy.numel())])[: dy.numel()].reshape(dy.shape)
    return torch.relu(x), torch.where(x > 0, flat, 0)
