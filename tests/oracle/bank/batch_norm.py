"""Batch normalisation over the batch and the space axes, as notebooks, CUDA kernels and libraries write it."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("batch_norm")


def axes_of(x):
    return (0, *range(2, x.ndim))


def channels(v, x):
    return v.reshape(-1, *(1 for _ in range(x.ndim - 2)))


def forward(x, weight, bias, eps):
    over = axes_of(x)
    mu = x.mean(over, keepdim=True)
    var = ((x - mu) ** 2).mean(over, keepdim=True)
    inv = (var + eps) ** -0.5
    xhat = (x - mu) * inv
    return xhat * channels(weight, x) + channels(bias, x), xhat, mu, var, inv


def sums(x, xhat, dy):
    return (dy * xhat).sum(axes_of(x)), dy.sum(axes_of(x))


def count(x):
    return x.numel() // x.shape[1]


@bank.right()
def one_line(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, _, inv = forward(x, weight, bias, eps)
    dweight, dbias = sums(x, xhat, dy)
    m = max(count(x), 1)
    dx = channels(weight, x) * inv / m * (m * dy - channels(dbias, x) - xhat * channels(dweight, x))
    return y, dx, dweight, dbias


@bank.right()
def step_by_step(x, weight, bias, dy, eps=1e-5):
    """The computational graph of the paper, node by node."""
    y, xhat, mu, _, inv = forward(x, weight, bias, eps)
    over = axes_of(x)
    m = max(count(x), 1)
    dxhat = dy * channels(weight, x)
    dvar = (dxhat * (x - mu)).sum(over, keepdim=True) * -0.5 * inv**3
    dmu = -(dxhat * inv).sum(over, keepdim=True) + dvar * (-2 * (x - mu)).sum(over, keepdim=True) / m
    dx = dxhat * inv + dvar * 2 * (x - mu) / m + dmu / m
    return y, dx, *sums(x, xhat, dy)


@bank.right("numpy")
def numpy_style(x, weight, bias, dy, eps=1e-5):
    over = (0, *range(2, x.ndim))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    gamma, beta = weight.reshape(shape), bias.reshape(shape)
    centred = x - x.mean(axis=over, keepdims=True)
    std = np.sqrt((centred**2).mean(axis=over, keepdims=True) + eps).astype(x.dtype)
    xhat = centred / std
    g = gamma * dy
    dx = (g - g.mean(axis=over, keepdims=True) - xhat * (g * xhat).mean(axis=over, keepdims=True)) / std
    return xhat * gamma + beta, dx, (dy * xhat).sum(axis=over), dy.sum(axis=over)


@bank.right()
def einsum(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, _, inv = forward(x, weight, bias, eps)
    g = dy * channels(weight, x)
    m = max(count(x), 1)
    along = torch.einsum("nc...,nc...->c", g, xhat) / m
    dx = inv * (g - channels(torch.einsum("nc...->c", g) / m, x) - xhat * channels(along, x))
    return y, dx, torch.einsum("nc...,nc...->c", dy, xhat), torch.einsum("nc...->c", dy)


@bank.right()
def in_double(x, weight, bias, dy, eps=1e-5):
    wide = [t.double() for t in (x, weight, bias, dy)]
    return tuple(r.to(x.dtype) for r in one_line(*wide, eps=eps))


@bank.wrong("drop", r"statistics as constants|mean term is missing and.*projection", "numpy")
def statistics_are_constants(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, _, inv = (t.numpy() for t in forward(*map(torch.from_numpy, (x, weight, bias)), eps))
    over = (0, *range(2, x.ndim))
    dx = dy * weight.reshape((1, -1) + (1,) * (x.ndim - 2)) * inv
    return y, dx, (dy * xhat).sum(over), dy.sum(over)


@bank.wrong("drop", r"mean term")
def path_through_the_mean_forgotten(x, weight, bias, dy, eps=1e-5):
    y, xhat, mu, _, inv = forward(x, weight, bias, eps)
    dxhat = dy * channels(weight, x)
    dvar = (dxhat * (x - mu)).sum(axes_of(x), keepdim=True) * -0.5 * inv**3
    return y, dxhat * inv + dvar * 2 * (x - mu) / count(x), *sums(x, xhat, dy)


@bank.wrong("drop", r"projection term")
def path_through_the_variance_forgotten(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, _, inv = forward(x, weight, bias, eps)
    dxhat = dy * channels(weight, x)
    return y, inv * (dxhat - dxhat.mean(axes_of(x), keepdim=True)), *sums(x, xhat, dy)


@bank.wrong("flip", r"projection term.*sign|sign.*−½")
def variance_path_with_a_plus(x, weight, bias, dy, eps=1e-5):
    y, xhat, mu, _, inv = forward(x, weight, bias, eps)
    over, m = axes_of(x), count(x)
    dxhat = dy * channels(weight, x)
    dvar = (dxhat * (x - mu)).sum(over, keepdim=True) * 0.5 * inv**3
    dmu = -(dxhat * inv).sum(over, keepdim=True)
    return y, dxhat * inv + dvar * 2 * (x - mu) / m + dmu / m, *sums(x, xhat, dy)


@bank.wrong("scale", r"projection term.*(halved|1/2|0\.5)")
def two_of_the_square_forgotten(x, weight, bias, dy, eps=1e-5):
    y, xhat, mu, _, inv = forward(x, weight, bias, eps)
    over, m = axes_of(x), count(x)
    dxhat = dy * channels(weight, x)
    dvar = (dxhat * (x - mu)).sum(over, keepdim=True) * -0.5 * inv**3
    dmu = -(dxhat * inv).sum(over, keepdim=True)
    return y, dxhat * inv + dvar * (x - mu) / m + dmu / m, *sums(x, xhat, dy)


@bank.wrong("count", r"1/\(m − 1\)|projection.*n/\(n-1\)")
def bessel_in_the_variance_path(x, weight, bias, dy, eps=1e-5):
    y, xhat, mu, _, inv = forward(x, weight, bias, eps)
    over, m = axes_of(x), count(x)
    dxhat = dy * channels(weight, x)
    dvar = (dxhat * (x - mu)).sum(over, keepdim=True) * -0.5 * inv**3
    dmu = -(dxhat * inv).sum(over, keepdim=True)
    return y, dxhat * inv + dvar * 2 * (x - mu) / (m - 1) + dmu / m, *sums(x, xhat, dy)


@bank.wrong("count", r"n - 1|n/\(n-1\)|\(n-1\)/n|unbiased")
def unbiased_deviation(x, weight, bias, dy, eps=1e-5):
    y, *_ = forward(x, weight, bias, eps)
    over = axes_of(x)
    inv = 1 / torch.sqrt(x.var(over, unbiased=True, keepdim=True) + eps)
    xhat = (x - x.mean(over, keepdim=True)) * inv
    g = dy * channels(weight, x)
    dx = inv * (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True))
    return y, dx, *sums(x, xhat, dy)


@bank.wrong("count", r"count without space|batch", "numpy")
def batch_size_for_the_count(x, weight, bias, dy, eps=1e-5):
    over = (0, *range(2, x.ndim))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    n = x.shape[0]
    mu = x.mean(over, keepdims=True)
    inv = 1 / np.sqrt(((x - mu) ** 2).mean(over, keepdims=True) + eps)
    xhat = (x - mu) * inv
    dxhat = dy * weight.reshape(shape)
    dx = inv / n * (n * dxhat - dxhat.sum(over, keepdims=True) - xhat * (dxhat * xhat).sum(over, keepdims=True))
    return xhat * weight.reshape(shape) + bias.reshape(shape), dx, (dy * xhat).sum(over), dy.sum(over)


@bank.wrong("drop", r"weight (is )?(missing|forgotten|ignored)")
def gamma_forgotten(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, _, inv = forward(x, weight, bias, eps)
    over = axes_of(x)
    dx = inv * (dy - dy.mean(over, keepdim=True) - xhat * (dy * xhat).mean(over, keepdim=True))
    return y, dx, *sums(x, xhat, dy)


@bank.wrong("hyperparameter", r"eps")
def eps_forgotten(x, weight, bias, dy, eps=1e-5):
    y, *_ = forward(x, weight, bias, eps)
    _, xhat, _, _, inv = forward(x, weight, bias, 0.0)
    over = axes_of(x)
    g = dy * channels(weight, x)
    dx = inv * (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True))
    return y, dx, *sums(x, xhat, dy)


@bank.wrong("hyperparameter", r"eps")
def eps_hard_coded(x, weight, bias, dy, eps=1e-5):
    y, *_ = forward(x, weight, bias, eps)
    _, xhat, _, _, inv = forward(x, weight, bias, 1e-5)
    over = axes_of(x)
    g = dy * channels(weight, x)
    dx = inv * (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True))
    return y, dx, *sums(x, xhat, dy)


@bank.wrong("hyperparameter", r"eps")
def eps_outside_the_root(x, weight, bias, dy, eps=1e-5):
    y, _, mu, var, _ = forward(x, weight, bias, eps)
    over = axes_of(x)
    inv = 1 / (var.sqrt() + eps)
    xhat = (x - mu) * inv
    g = dy * channels(weight, x)
    dx = inv * (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True))
    return y, dx, *sums(x, xhat, dy)


@bank.wrong("mean for sum", r"averaged|1/n", "numpy")
def parameter_gradients_averaged(x, weight, bias, dy, eps=1e-5):
    y, dx, *_ = (t.numpy() for t in one_line(*map(torch.from_numpy, (x, weight, bias, dy)), eps=eps))
    over = (0, *range(2, x.ndim))
    mu, var = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    return y, dx, (dy * (x - mu) / np.sqrt(var + eps)).mean(over), dy.mean(over)


@bank.wrong("axis", r"axis 0|axes")
def bias_over_the_batch_only(x, weight, bias, dy, eps=1e-5):
    y, dx, dweight, _ = one_line(x, weight, bias, dy, eps)
    return y, dx, dweight, dy.sum(0)


@bank.wrong("formula", r"dweight from x|centre|mean")
def weight_gradient_not_centred(x, weight, bias, dy, eps=1e-5):
    y, dx, _, dbias = one_line(x, weight, bias, dy, eps)
    _, _, _, _, inv = forward(x, weight, bias, eps)
    return y, dx, (dy * x * inv).sum(axes_of(x)), dbias


@bank.wrong("formula", r"dweight.*(y\b|bias|weight)")
def weight_gradient_from_y(x, weight, bias, dy, eps=1e-5):
    y, dx, _, dbias = one_line(x, weight, bias, dy, eps)
    return y, dx, (dy * y).sum(axes_of(x)), dbias


@bank.wrong("formula", r"variance for|square root")
def root_forgotten(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, var, _ = forward(x, weight, bias, eps)
    over = axes_of(x)
    g = dy * channels(weight, x)
    dx = (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True)) / (var + eps)
    return y, dx, *sums(x, xhat, dy)


@bank.wrong("count", r"mean term.*\bn\b|mean term a sum")
def mean_not_divided(x, weight, bias, dy, eps=1e-5):
    y, xhat, _, _, inv = forward(x, weight, bias, eps)
    over = axes_of(x)
    g = dy * channels(weight, x)
    return y, inv * (g - g.sum(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True)), *sums(x, xhat, dy)


@bank.wrong("cotangent", r"cotangent for ones|taken for 1|`dy` left out|ignores")
def bias_gradient_counts(x, weight, bias, dy, eps=1e-5):
    y, dx, dweight, _ = one_line(x, weight, bias, dy, eps)
    return y, dx, dweight, torch.full_like(bias, count(x))
