"""Normalisations: statistics, eps, projections."""

import torch

from tests.oracle.ninth_bank.entry import Entry, into, rows

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


@entry(
    "layer_norm",
    ("n - 1", "n-1", "n − 1", "unbiased", "projection", "bessel"),
    "max(x.shape[-1] - 1, 1)",
    "x.shape[-1]",
)
def layer_norm_projection_by_n_minus_one(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    centred = x - x.mean(-1, keepdim=True)
    s = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    x_hat = centred * s
    g = dy if weight is None else dy * weight
    projection = x_hat * ((g * x_hat).sum(-1, keepdim=True) / max(x.shape[-1] - 1, 1))
    dx = s * (g - g.mean(-1, keepdim=True) - projection)
    y = x_hat if weight is None else x_hat * weight
    return y if bias is None else y + bias, (
        dx,
        None if weight is None else rows(dy * x_hat).sum(0),
        None if bias is None else rows(dy).sum(0),
    )


@entry(
    "rms_norm",
    ("last block", "tail", "block", "multiple of 32", "last rows", "partial"),
    "n // 32",
    "-(-n // 32)",
)
def rms_norm_dweight_of_full_blocks_of_rows(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    s = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    x_hat = x * s
    g = dy if weight is None else dy * (weight + offset)
    dx = s * (g - x_hat * (g * x_hat).mean(-1, keepdim=True))
    if weight is None:
        return x_hat, (dx, None)
    part = rows(dy * x_hat)
    n = part.shape[0]
    dweight = torch.zeros_like(weight)
    for program in range(max(n // 32, 1)):
        dweight = dweight + part[32 * program : 32 * program + 32].sum(0)
    return x_hat * (weight + offset), (dx, dweight)


@entry(
    "batch_norm",
    ("eps", "root", "outside"),
    "1 / (variance.sqrt() + eps)",
    "torch.rsqrt(variance + eps)",
)
def batch_norm_eps_outside_the_root_in_dx(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    axes, like = [0, *range(2, x.ndim)], (-1, *[1] * (x.ndim - 2))
    centred = x - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    x_hat = centred * torch.rsqrt(variance + eps)
    g = dy * weight.reshape(like)
    inv_std = 1 / (variance.sqrt() + eps)
    dx = inv_std * (g - g.mean(axes, keepdim=True) - x_hat * (g * x_hat).mean(axes, keepdim=True))
    return x_hat * weight.reshape(like) + bias.reshape(like), (dx, (dy * x_hat).sum(axes), dy.sum(axes))


@entry(
    "group_norm",
    ("group", "mean", "channel", "axis", "members"),
    "per = x.shape[1]",
    "per = groups",
)
def group_norm_mean_of_g_by_channel(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    batch, like = x.shape[0], (-1, *[1] * (x.ndim - 2))
    size = x.shape[1:].numel() // groups
    r = x.reshape(batch, groups, size)
    r = r - r.mean(-1, keepdim=True)
    s = torch.rsqrt((r * r).mean(-1, keepdim=True) + eps)
    x_hat = r * s
    g = dy if weight is None else dy * weight.reshape(like)
    per = x.shape[1]
    by_mean = g.reshape(batch, per, size * groups // per)
    without_mean = (by_mean - by_mean.mean(-1, keepdim=True)).reshape(batch, groups, size)
    dx = s * (without_mean - x_hat * (g.reshape(batch, groups, size) * x_hat).mean(-1, keepdim=True))
    x_hat, axes = x_hat.reshape(x.shape), [0, *range(2, x.ndim)]
    y = x_hat if weight is None else x_hat * weight.reshape(like)
    return y if bias is None else y + bias.reshape(like), (
        dx.reshape(x.shape),
        None if weight is None else (dy * x_hat).sum(axes),
        None if bias is None else dy.sum(axes),
    )


@entry(
    "l2_normalize",
    ("x instead", "projection", "the norm", "x for y", "unnormalised"),
    "(x * dy).sum(dim, keepdim=True)",
    "(y * dy).sum(dim, keepdim=True)",
)
def l2_normalize_dot_with_x(inputs, dy, dim=-1, eps=1e-12):
    (x,) = inputs
    norm = (x * x).sum(dim, keepdim=True).sqrt()
    y = x / norm.clamp(min=eps)
    along = (x * dy).sum(dim, keepdim=True)
    return y, (torch.where(norm >= eps, (dy - y * along) / norm, dy / eps),)
