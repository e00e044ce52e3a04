"""J = Σ (x − target)² / (2n), n = batch."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("square_loss")


def loss(x, target):
    return ((x - target) ** 2).sum() / (2 * len(x))


@bank.right()
def plain(x, target, dy):
    g = dy * ((x - target) / len(x))
    return loss(x, target), g, -g


@bank.right("numpy")
def textbook(x, target, dy):
    error = x - target
    return np.sum(error**2) / 2 / len(x), dy * error / len(x), None


@bank.right()
def scaled_first(x, target, dy):
    return (x - target).square().sum() / len(x) / 2, (x - target) * (dy / len(x)), (target - x) * (dy / len(x))


@bank.right()
def in_double(x, target, dy):
    error = x.double() - target.double()
    g = (dy.double() * error / len(x)).to(x.dtype)
    return (torch.linalg.vector_norm(error) ** 2 / (2 * len(x))).to(x.dtype), g, -g


@bank.right()
def example_by_example(x, target, dy):
    total, dx = x.new_zeros(()), torch.zeros_like(x)
    for i in range(len(x)):
        total = total + ((x[i] - target[i]) ** 2).sum()
        dx[i] = dy * ((x[i] - target[i]) / len(x))
    return total / (2 * len(x)), dx, -dx


@bank.wrong("count", r"mean over all numbers|outputs|1/n", "numpy")
def divided_by_the_size(x, target, dy):
    g = dy * (x - target) / x.size
    return ((x - target) ** 2).sum() / (2 * len(x)), g, -g


@bank.wrong("count", r"1/n forgotten|n times|mean over the batch", "numpy")
def not_divided(x, target, dy):
    g = dy * (x - target)
    return ((x - target) ** 2).sum() / (2 * len(x)), g, -g


@bank.wrong("count", r"n/\(n-1\)|1/\(n-1\)")
def n_minus_one(x, target, dy):
    g = dy * (x - target) / (len(x) - 1)
    return loss(x, target), g, -g


@bank.wrong("count", r"outputs|n = |times")
def divided_by_the_outputs(x, target, dy):
    g = dy * (x - target) / x[0].numel()
    return loss(x, target), g, -g


@bank.wrong("scale", r"factor 2|2 times", "numpy")
def two_kept(x, target, dy):
    g = 2 * dy * (x - target) / len(x)
    return ((x - target) ** 2).sum() / (2 * len(x)), g, -g


@bank.wrong("scale", r"1/2|0\.5")
def halved(x, target, dy):
    g = dy * (x - target) / (2 * len(x))
    return loss(x, target), g, -g


@bank.wrong("flip", r"'sign'|wrong sign")
def target_minus_x(x, target, dy):
    g = dy * (target - x) / len(x)
    return loss(x, target), g, -g


@bank.wrong("flip", r"dtarget.*(wrong sign|'target's sign')")
def target_with_the_same_sign(x, target, dy):
    g = dy * (x - target) / len(x)
    return loss(x, target), g, g


@bank.wrong("drop", r"target.*(ignored|forgotten|0|missing)|(x/n|x\b.*n)", "numpy")
def target_forgotten(x, target, dy):
    g = dy * x / len(x)
    return ((x - target) ** 2).sum() / (2 * len(x)), g, -g


@bank.wrong("formula", r"plus|x \+ target|\+ target|target.*sign|sign of .target|-target")
def x_plus_target(x, target, dy):
    g = dy * (x + target) / len(x)
    return loss(x, target), g, -g


@bank.wrong("formula", r"sign\(|sign of")
def absolute_loss(x, target, dy):
    g = dy * torch.sign(x - target) / len(x)
    return loss(x, target), g, -g


@bank.wrong("cotangent", r"cotangent dropped|for ones|taken for 1|`dy` left out|forgets dy")
def dy_forgotten(x, target, dy):
    g = (x - target) / len(x)
    return loss(x, target), g, -g


@bank.wrong("formula", r"clip|\[-1, 1\]|huber")
def huber(x, target, dy):
    g = dy * (x - target).clamp(-1, 1) / len(x)
    return loss(x, target), g, -g


@bank.wrong("axis", r"averaged|one number|broadcast")
def averaged_over_the_batch(x, target, dy):
    g = (dy * (x - target)).mean(0, keepdim=True).expand_as(x)
    return loss(x, target), g, -g


@bank.wrong("formula", r"squared?|²|loss itself|y\b")
def error_squared(x, target, dy):
    g = dy * (x - target) ** 2 / len(x)
    return loss(x, target), g, -g


@bank.wrong("drop", r"dtarget.*0 everywhere")
def target_is_a_constant(x, target, dy):
    return loss(x, target), dy * (x - target) / len(x), torch.zeros_like(target)


@bank.wrong("formula", r"1/n²|1/n twice|once more|√n|1/n")
def divided_twice(x, target, dy):
    g = dy * (x - target) / len(x) ** 2
    return loss(x, target), g, -g


@bank.wrong("formula", r"sigmoid|factor|[xy]")
def with_the_output_slope(x, target, dy):
    g = dy * (x - target) * x * (1 - x) / len(x)
    return loss(x, target), g, -g
