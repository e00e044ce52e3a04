"""A plain right program for each rule: what wrong ones are made from, and entries of the bank themselves.

16-bit inputs are computed in float32 and rounded once.
"""

import math

import torch
from torch import Tensor

from tests.oracle.second_bank.entry import F32, Vjp, computed_in


def sigmoid(inputs, dy):
    (x,) = inputs
    e = torch.exp(-torch.abs(x))
    y = torch.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return y, (dy * (e / ((1 + e) * (1 + e))),)


def tanh(inputs, dy):
    (x,) = inputs
    e = torch.exp(-2 * torch.abs(x))
    return torch.tanh(x), (dy * (4 * e / ((1 + e) * (1 + e))),)


def relu(inputs, dy):
    (x,) = inputs
    return torch.where(x <= 0, 0, x), (torch.where(x > 0, dy, 0),)


def leaky_relu(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    return torch.where(x <= 0, negative_slope * x, x), (torch.where(x > 0, dy, negative_slope * dy),)


def elu(inputs, dy, alpha=1.0):
    (x,) = inputs
    h = torch.exp(torch.clamp(x, max=0) / 2)
    return torch.where(x <= 0, alpha * torch.expm1(x), x), (torch.where(x > 0, dy, dy * (alpha * h * h)),)


def maxout(inputs, dy, pieces):
    (x,) = inputs
    in_pieces = split(x, pieces)
    y, winner = torch.max(in_pieces, -1)
    dx = torch.zeros_like(in_pieces).scatter(-1, winner[..., None], dy[..., None])
    return y, (dx.reshape(x.shape),)


def split(x: Tensor, pieces: int) -> Tensor:
    if pieces < 1 or x.shape[-1] % pieces:
        raise ValueError(f"maxout: {x.shape[-1]} numbers are not whole units of {pieces}")
    return x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)


def rows(x: Tensor) -> Tensor:
    """All axes but the last as one."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def linear(inputs, dy):
    x, weight, bias = inputs
    return x @ weight.T + bias, (dy @ weight, rows(dy).T @ rows(x), rows(dy).sum(0))


def square_loss(inputs, dy):
    x, target = same_shape(*inputs)
    n = x.shape[0]
    difference = x - target
    dx = dy * (difference / n)
    return torch.sum(difference * difference) / (2 * n), (dx, -dx)


def same_shape(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != target.shape or x.ndim == 0:
        raise ValueError(f"square_loss: shapes {tuple(x.shape)} and {tuple(target.shape)}")
    return x, target


def penalised(lam: float, n: int) -> float:
    if lam < 0 or n < 1:
        raise ValueError(f"a penalty of {lam} over {n} examples")
    return lam / n


def l1_penalty(inputs, dy, lam, n=1):
    (weight,) = inputs
    factor = penalised(lam, n)
    return factor * torch.sum(torch.abs(weight)), (dy * (factor * torch.sign(weight)),)


def l2_penalty(inputs, dy, lam, n=1):
    (weight,) = inputs
    factor = penalised(lam, n)
    return factor / 2 * torch.sum(weight * weight), (dy * (factor * weight),)


def kept(mask: Tensor, p: float) -> Tensor:
    if not 0 <= p <= 1 or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"dropout with p = {p}, or a mask of fractions")
    return (mask != 0) & (p < 1)


def dropout(inputs, dy, p):
    x, mask = inputs
    keep = kept(mask, p)
    scale = 1 - p if p < 1 else 1.0
    return torch.where(keep, x / scale, 0), (torch.where(keep, dy / scale, 0), None)


def limited(limit: float) -> float:
    if limit <= 0:
        raise ValueError(f"max_norm: a limit of {limit}")
    return limit


def max_norm(inputs, dy, limit):
    (weight,) = inputs
    norm = torch.sqrt(torch.sum(weight * weight, 1, keepdim=True))
    long = norm > limited(limit)
    u = weight / torch.where(norm > 0, norm, 1)
    scale = limit / torch.where(long, norm, 1)
    along = torch.sum(u * dy, 1, keepdim=True)
    return torch.where(long, limit * u, weight), (torch.where(long, scale * (dy - u * along), dy),)


def shared(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def count(x: Tensor) -> int:
    return x.shape[0] * math.prod(x.shape[2:])


def on_axis_1(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def checked(x: Tensor, eps: float) -> int:
    m = count(x)
    if m == 1 or eps <= 0:
        raise ValueError(f"batch_norm: {m} values per channel, eps = {eps}")
    return m


def batch_norm(inputs, dy, eps=1e-5):
    return batch_norm_with(inputs, dy, eps, *statistics(inputs[0], eps))


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, in two passes."""
    checked(x, eps)
    mean = x.mean(shared(x))
    centred = x - on_axis_1(mean, x)
    return mean, (centred * centred).mean(shared(x))


def batch_norm_with(inputs, dy, eps, mean, variance, mean_term=1.0, projection=1.0):
    """y and the cotangents from given statistics."""
    x, weight, bias = inputs
    s = on_axis_1(1 / torch.sqrt(variance + eps), x)
    x_hat = (x - on_axis_1(mean, x)) * s
    g = dy * on_axis_1(weight, x)
    axes = shared(x)
    along = (g * x_hat).mean(axes, keepdim=True)
    dx = s * (g - mean_term * g.mean(axes, keepdim=True) - projection * x_hat * along)
    return x_hat * on_axis_1(weight, x) + on_axis_1(bias, x), (dx, (dy * x_hat).sum(axes), dy.sum(axes))


def batch_norm_inference(inputs, dy, eps=1e-5):
    x, weight, bias, running_mean, running_var = inputs
    if eps < 0:
        raise ValueError(f"batch_norm_inference: eps = {eps}")
    s = on_axis_1(1 / torch.sqrt(running_var + eps), x)
    x_hat = (x - on_axis_1(running_mean, x)) * s
    y = x_hat * on_axis_1(weight, x) + on_axis_1(bias, x)
    axes = shared(x)
    return y, (dy * (on_axis_1(weight, x) * s), (dy * x_hat).sum(axes), dy.sum(axes), None, None)


RIGHT: dict[str, Vjp] = {
    program.__name__: computed_in(program, F32)
    for program in (
        sigmoid,
        tanh,
        relu,
        leaky_relu,
        elu,
        maxout,
        linear,
        square_loss,
        l1_penalty,
        l2_penalty,
        dropout,
        max_norm,
        batch_norm,
        batch_norm_inference,
    )
}

COTANGENTS: dict[str, tuple[str, ...]] = {
    "sigmoid": ("dx",),
    "tanh": ("dx",),
    "relu": ("dx",),
    "leaky_relu": ("dx",),
    "elu": ("dx",),
    "maxout": ("dx",),
    "linear": ("dx", "dweight", "dbias"),
    "square_loss": ("dx", "dtarget"),
    "l1_penalty": ("dweight",),
    "l2_penalty": ("dweight",),
    "dropout": ("dx",),
    "max_norm": ("dweight",),
    "batch_norm": ("dx", "dweight", "dbias"),
    "batch_norm_inference": ("dx", "dweight", "dbias"),
}
