"""Batch normalisation with running statistics, which are constants."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("batch_norm_inference")


def axes_of(x):
    return (0, *range(2, x.ndim))


def channels(v, x):
    return v.reshape(-1, *(1 for _ in range(x.ndim - 2)))


def forward(x, weight, bias, running_mean, running_var, eps):
    inv = 1 / torch.sqrt(running_var + eps)
    xhat = (x - channels(running_mean, x)) * channels(inv, x)
    return xhat * channels(weight, x) + channels(bias, x), xhat, channels(inv, x)


def sums(xhat, dy):
    return (dy * xhat).sum(axes_of(dy)), dy.sum(axes_of(dy))


@bank.right()
def plain(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, inv = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight, x) * inv, *sums(xhat, dy), None, None


@bank.right()
def affine(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    scale = weight / torch.sqrt(running_var + eps)
    y, xhat, _ = forward(x, weight, bias, running_mean, running_var, eps)
    dweight = torch.einsum("nc...,nc...->c", dy, xhat)
    return y, dy * channels(scale, x), dweight, torch.einsum("nc...->c", dy), None, None


@bank.right("numpy")
def numpy_style(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    shape, over = (1, -1) + (1,) * (x.ndim - 2), (0, *range(2, x.ndim))
    std = np.sqrt(running_var + eps).astype(x.dtype).reshape(shape)
    xhat = (x - running_mean.reshape(shape)) / std
    y = weight.reshape(shape) * xhat + bias.reshape(shape)
    return y, weight.reshape(shape) * dy / std, np.sum(dy * xhat, axis=over), np.sum(dy, axis=over), None, None


@bank.right()
def in_double(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    results = plain(*(t.double() for t in (x, weight, bias, running_mean, running_var, dy)), eps=eps)
    return tuple(None if r is None else r.to(x.dtype) for r in results)


@bank.wrong("mode", r"training formula")
def training_formula(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, inv = forward(x, weight, bias, running_mean, running_var, eps)
    over = axes_of(x)
    g = dy * channels(weight, x)
    dx = inv * (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True))
    return y, dx, *sums(xhat, dy), None, None


@bank.wrong("mode", r"statistics of the batch|batch_norm")
def statistics_of_the_batch(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, *_ = forward(x, weight, bias, running_mean, running_var, eps)
    mu, var = x.mean(axes_of(x)), x.var(axes_of(x), unbiased=False)
    _, xhat, inv = forward(x, weight, bias, mu, var, eps)
    return y, dy * channels(weight, x) * inv, *sums(xhat, dy), None, None


@bank.wrong("mode", r"batch_norm\b|'statistics of the batch'")  # of which dweight alone is that
def training_mode(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, *_ = forward(x, weight, bias, running_mean, running_var, eps)
    over = axes_of(x)
    _, xhat, inv = forward(x, weight, bias, x.mean(over), x.var(over, unbiased=False), eps)
    g = dy * channels(weight, x)
    dx = inv * (g - g.mean(over, keepdim=True) - xhat * (g * xhat).mean(over, keepdim=True))
    return y, dx, *sums(xhat, dy), None, None


@bank.wrong("drop", r"weight (is )?(missing|forgotten|ignored)", "numpy")
def gamma_forgotten(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    shape, over = (1, -1) + (1,) * (x.ndim - 2), (0, *range(2, x.ndim))
    std = np.sqrt(running_var + eps).reshape(shape)
    xhat = (x - running_mean.reshape(shape)) / std
    y = weight.reshape(shape) * xhat + bias.reshape(shape)
    return y, dy / std, np.sum(dy * xhat, axis=over), np.sum(dy, axis=over), None, None


@bank.wrong("hyperparameter", r"eps")
def eps_forgotten(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, *_ = forward(x, weight, bias, running_mean, running_var, eps)
    _, xhat, inv = forward(x, weight, bias, running_mean, running_var, 0.0)
    return y, dy * channels(weight, x) * inv, *sums(xhat, dy), None, None


@bank.wrong("hyperparameter", r"eps")
def eps_outside_the_root(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, _ = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight / (running_var.sqrt() + eps), x), *sums(xhat, dy), None, None


@bank.wrong("hyperparameter", r"eps")
def eps_of_keras(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, _ = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight / (running_var + 1e-3).sqrt(), x), *sums(xhat, dy), None, None


@bank.wrong("formula", r"variance for the deviation|square root")
def root_forgotten(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, _ = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight / (running_var + eps), x), *sums(xhat, dy), None, None


@bank.wrong("formula", r"multipl|deviation|\bs\b|running_var")
def multiplied_by_the_deviation(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, _ = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight * (running_var + eps).sqrt(), x), *sums(xhat, dy), None, None


@bank.wrong("drop", r"dx.*(running_var|deviation|is dy·\(?weight)")
def deviation_forgotten(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, _ = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight, x), *sums(xhat, dy), None, None


@bank.wrong("drop", r"dweight.*(running_mean|from x|centre)")
def mean_forgotten_in_dweight(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, _, inv = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight, x) * inv, (dy * x * inv).sum(axes_of(x)), dy.sum(axes_of(x)), None, None


@bank.wrong("mean for sum", r"averaged|1/n", "numpy")
def parameter_gradients_averaged(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    shape, over = (1, -1) + (1,) * (x.ndim - 2), (0, *range(2, x.ndim))
    std = np.sqrt(running_var + eps).reshape(shape)
    xhat = (x - running_mean.reshape(shape)) / std
    y = weight.reshape(shape) * xhat + bias.reshape(shape)
    return y, dy * weight.reshape(shape) / std, np.mean(dy * xhat, axis=over), np.mean(dy, axis=over), None, None


@bank.wrong("mean for sum", r"dbias.*(1/n|sum).*batch")
def bias_over_batch_size(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, inv = forward(x, weight, bias, running_mean, running_var, eps)
    dweight, dbias = sums(xhat, dy)
    return y, dy * channels(weight, x) * inv, dweight, dbias / max(len(x), 1), None, None


@bank.wrong("formula", r"dweight.*\by\b")
def weight_gradient_from_y(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, _, inv = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight, x) * inv, (dy * y).sum(axes_of(x)), dy.sum(axes_of(x)), None, None


@bank.wrong("flip", r"dbias.*wrong sign")
def bias_subtracted(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, inv = forward(x, weight, bias, running_mean, running_var, eps)
    dweight, dbias = sums(xhat, dy)
    return y, dy * channels(weight, x) * inv, dweight, -dbias, None, None


@bank.wrong("axis", r"axis|axes|collapsed|summed over all")
def one_bias_for_all(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, inv = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight, x) * inv, sums(xhat, dy)[0], dy.sum().expand(bias.shape), None, None


@bank.wrong("cotangent", r"dweight.*(cotangent for ones|taken for 1|`dy` left out|ignores)")
def weight_gradient_without_dy(x, weight, bias, running_mean, running_var, dy, eps=1e-5):
    y, xhat, inv = forward(x, weight, bias, running_mean, running_var, eps)
    return y, dy * channels(weight, x) * inv, xhat.sum(axes_of(x)), dy.sum(axes_of(x)), None, None
