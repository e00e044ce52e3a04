"""Of norms."""

import torch

import manual_bp as bp
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def mean(x):
    return x.mean(-1, keepdim=True)


def centred(x):
    x = x - mean(x)
    return x - mean(x)  # what the rounded mean missed


@bank.wrong(
    "layer_norm",
    "torch.sqrt(mean(deviation**2)) + eps",
    "torch.sqrt(mean(deviation**2) + eps)",
    cause="eps is added to the root of the variance in backward, and not under it",
    keywords=("eps",),
)
def layer_norm_eps_beside_the_root(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    y, _ = bp.layer_norm.forward(x, weight, bias, eps=eps)
    deviation = centred(x)
    s = 1 / (torch.sqrt(mean(deviation**2)) + eps)
    x_hat = deviation * s
    g = dy if weight is None else dy * weight
    dx = s * (g - mean(g) - x_hat * mean(g * x_hat))
    rows = tuple(range(x.ndim - 1))
    dweight = None if weight is None else (dy * x_hat).sum(rows) if rows else dy * x_hat
    dbias = None if bias is None else dy.sum(rows) if rows else dy.clone()
    return y, (dx, dweight, dbias)


@bank.wrong(
    "rms_norm",
    "len(each) // 16 * 16",
    "len(each)",
    cause="dweight is a sum over full blocks of 16 rows: the rows after the last full one are left out",
    keywords=("full block", "after the last", "tail", "left out", "multiple of 16", "blocks of 16", "last rows"),
)
def rms_norm_dweight_without_the_tail(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, _ = bp.rms_norm.forward(x, weight, eps=eps, offset=offset)
    s = 1 / torch.sqrt(mean(x * x) + eps)
    x_hat = x * s
    g = dy if weight is None else dy * (offset + weight)
    dx = s * (g - x_hat * mean(g * x_hat))
    if weight is None:
        return y, (dx, None)
    each = (dy * x_hat).reshape(x.shape[:-1].numel(), x.shape[-1])
    rows = len(each) // 16 * 16
    return y, (dx, each[:rows].sum(0))


@bank.wrong(
    "batch_norm",
    "variance * m / (m - 1) + eps",
    "variance + eps",
    cause="backward divides by the unbiased variance, that of the running statistics: its sum divided by m − 1",
    keywords=("unbiased", "m − 1", "n − 1", "m - 1", "n - 1", "bessel"),
)
def batch_norm_backward_by_the_unbiased_variance(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    y, kept = bp.batch_norm.forward(x, weight, bias, eps=eps)
    axes = (0, *range(2, x.ndim))
    channel = (1, -1, *[1] * (x.ndim - 2))
    m = x.shape[0] * x.shape[2:].numel()
    variance = kept.variance
    s = (1 / torch.sqrt(variance * m / (m - 1) + eps)).reshape(channel)
    x_hat = (x - kept.mean.reshape(channel)) * s
    g = dy * weight.reshape(channel)
    dx = s * (g - g.mean(axes, keepdim=True) - x_hat * (g * x_hat).mean(axes, keepdim=True))
    return y, (dx, (dy * x_hat).sum(axes), dy.sum(axes))


@bank.wrong(
    "group_norm",
    "g.mean((1, 2), keepdim=True)",
    "mean(g)",
    cause="the mean term of dx is that of all channels of an example, and not of those of the group",
    keywords=("all channels", "of the example", "all groups", "every group", "across groups", "whole example"),
)
def group_norm_mean_of_all_groups(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    y, _ = bp.group_norm.forward(x, weight, bias, groups=groups, eps=eps)
    shape = (x.shape[0], groups, x.shape[1:].numel() // groups)
    axes = (0, *range(2, x.ndim))
    deviation = centred(x.reshape(shape))
    s = 1 / torch.sqrt(mean(deviation**2) + eps)
    x_hat = deviation * s
    g = (dy if weight is None else dy * weight.reshape(-1, *[1] * (x.ndim - 2))).reshape(shape)
    dx = s * (g - g.mean((1, 2), keepdim=True) - x_hat * mean(g * x_hat))
    dweight = None if weight is None else (dy * x_hat.reshape(dy.shape)).sum(axes)
    dbias = None if bias is None else dy.sum(axes)
    return y, (dx.reshape(x.shape), dweight, dbias)
