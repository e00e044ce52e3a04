"""Layers that normalise."""

import numpy as np
import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def _rows(x):
    return x.reshape(-1, x.shape[-1])


def _rms(x, eps):
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@bank.wrong(
    "rms_norm",
    "dx is made as if eps were 0: the projection divides by the mean square without eps",
    "eps", "without eps", min_size=1,
)  # fmt: skip
def rms_norm_projection_without_eps(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    s = _rms(x, eps)
    factor = 1.0 if weight is None else offset + weight
    g = dy * factor
    square = x.square().mean(-1, keepdim=True)
    dx = s * (g - x * (g * x).mean(-1, keepdim=True) / square.clamp_min(torch.finfo(x.dtype).tiny))
    return x * s * factor, (dx, None if weight is None else _rows(dy * x * s).sum(0))


@bank.wrong(
    "rms_norm",
    "dweight multiplies dy by x instead of the normalised x",
    "x instead", "normalised", "normalized", "x̂", "lacks s", "dweight factor", "without 1/", "not divided",
    "dweight term", "forgets s", min_size=1,
)  # fmt: skip
def rms_norm_dweight_of_the_raw_x(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    s = _rms(x, eps)
    factor = 1.0 if weight is None else offset + weight
    g = dy * factor
    dx = s * (g - x * s * s * (g * x).mean(-1, keepdim=True))
    return x * s * factor, (dx, None if weight is None else _rows(dy * x).sum(0))


@bank.wrong(
    "rms_norm",
    "dx multiplies by weight alone and forgets the offset",
    "offset", min_size=1,
)  # fmt: skip
def rms_norm_backward_without_offset(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    s = _rms(x, eps)
    xhat = x * s
    g = dy if weight is None else dy * weight
    dx = s * (g - xhat * (g * xhat).mean(-1, keepdim=True))
    y = xhat if weight is None else xhat * (offset + weight)
    return y, (dx, None if weight is None else _rows(dy * xhat).sum(0))


@bank.right("rms_norm", "NumPy in float64, the means by einsum", min_size=1)
def rms_norm_by_einsum_in_numpy(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    a, g = x.detach().cpu().numpy().astype(np.float64), dy.detach().cpu().numpy().astype(np.float64)
    factor = 1.0 if weight is None else offset + weight.detach().cpu().numpy().astype(np.float64)
    n = a.shape[-1]
    square = np.einsum("...i,...i->...", a, a)[..., None] / n + eps
    root = np.sqrt(square)
    dweight = None if weight is None else np.einsum("ri->i", (g * a / root).reshape(-1, n))
    g = g * factor
    dx = (g - a * (np.einsum("...i,...i->...", g, a)[..., None] / n / square)) / root

    def back(array):
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(x)

    return back(a / root * factor), (back(dx), back(dweight))


def _layer(x, eps):
    centred = x - x.mean(-1, keepdim=True)
    s = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * s, s


def _affine(xhat, weight, bias):
    y = xhat if weight is None else xhat * weight
    return y if bias is None else y + bias


def _parameters(dy, xhat, weight, bias):
    return None if weight is None else _rows(dy * xhat).sum(0), None if bias is None else _rows(dy).sum(0)


@bank.wrong(
    "layer_norm",
    "the standard deviation is treated as a constant: the projection on the normalised x is left out of dx",
    "projection", "variance constant", "through variance", "variance", "standard deviation", "third term", min_size=1,
)  # fmt: skip
def layer_norm_deviation_is_constant(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    xhat, s = _layer(x, eps)
    g = dy if weight is None else dy * weight
    dx = s * (g - g.mean(-1, keepdim=True))
    return _affine(xhat, weight, bias), (dx, *_parameters(dy, xhat, weight, bias))


@bank.wrong(
    "layer_norm",
    "only the first 1024 features enter the sums of dx: longer rows are wrong",
    "1024", "size", "long", "block", "tail", "beyond", min_size=1,
)  # fmt: skip
def layer_norm_sums_over_1024_features(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    xhat, s = _layer(x, eps)
    g, n = dy if weight is None else dy * weight, x.shape[-1]
    mean = g[..., :1024].sum(-1, keepdim=True) / n
    projection = (g * xhat)[..., :1024].sum(-1, keepdim=True) / n
    return _affine(xhat, weight, bias), (s * (g - mean - xhat * projection), *_parameters(dy, xhat, weight, bias))


def _read_as_contiguous(t):
    """What a kernel reads that takes the numbers of t to lie one behind the other."""
    memory = torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage())[t.storage_offset() :]
    places = torch.arange(t.numel(), device=t.device) % max(len(memory), 1)
    return memory[places].reshape(t.shape)


@bank.wrong(
    "layer_norm",
    "dy is read as if it were contiguous, whatever its strides",
    "contiguous", "stride", "strides", "transposed", "layout", "expanded", "sliced", min_size=1,
)  # fmt: skip
def layer_norm_takes_dy_for_contiguous(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    dy = _read_as_contiguous(dy)
    xhat, s = _layer(x, eps)
    g = dy if weight is None else dy * weight
    dx = s * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    return _affine(xhat, weight, bias), (dx, *_parameters(dy, xhat, weight, bias))


@bank.wrong(
    "layer_norm",
    "two mistakes: dx leaves out the weight, and dbias is a mean over the rows instead of a sum",
    "weight", "without weight", "mean sum", "mean instead", "averaged", "rows times", "divided number rows", min_size=1,
)  # fmt: skip
def layer_norm_no_weight_and_mean_bias(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    xhat, s = _layer(x, eps)
    dx = s * (dy - dy.mean(-1, keepdim=True) - xhat * (dy * xhat).mean(-1, keepdim=True))
    dweight, dbias = _parameters(dy, xhat, weight, bias)
    return _affine(xhat, weight, bias), (dx, dweight, None if bias is None else dbias / len(_rows(dy)))


@bank.right(
    "layer_norm", "the gradient of the variance and of the mean one after the other, as courses write it", min_size=1
)
def layer_norm_step_by_step(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    n = x.shape[-1]
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    root = torch.sqrt(variance + eps)
    xhat = centred / root
    dxhat = dy if weight is None else dy * weight
    dvariance = -(dxhat * centred).sum(-1, keepdim=True) / root / (2 * (variance + eps))
    dcentred = dxhat / root + 2 * centred * dvariance / n
    dx = dcentred - dcentred.sum(-1, keepdim=True) / n
    return _affine(xhat, weight, bias), (dx, *_parameters(dy, xhat, weight, bias))


@bank.right(
    "layer_norm", "in place on one buffer of float64, partial sums of dweight and dbias for 64 rows each", min_size=1
)
def layer_norm_in_place(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    shape = x.shape
    buffer, rows_dy = _rows(x).to(torch.float64, copy=True), _rows(dy).double()
    buffer -= buffer.mean(1, keepdim=True)
    s = buffer.square().mean(1, keepdim=True).add_(eps).rsqrt_()
    buffer *= s
    y = _affine(buffer, None if weight is None else weight.double(), None if bias is None else bias.double())
    blocks = [slice(start, start + 64) for start in range(0, len(buffer), 64)]
    dweight = torch.stack([(buffer[block] * rows_dy[block]).sum(0) for block in blocks]).sum(0)
    dbias = torch.stack([rows_dy[block].sum(0) for block in blocks]).sum(0)
    g = rows_dy.clone() if weight is None else rows_dy * weight
    first, second = g.mean(1, keepdim=True), (g * buffer).mean(1, keepdim=True)
    g.sub_(first).addcmul_(buffer, second, value=-1).mul_(s)
    dx = g.to(x.dtype).reshape(shape)
    parameters = (None if p is None else d.to(x) for p, d in ((weight, dweight), (bias, dbias)))
    return y.to(x.dtype).reshape(shape), (dx, *parameters)


def _channels(p, x):
    return p.reshape(1, -1, *[1] * (x.ndim - 2))


def _grouped(x, groups):
    return x.reshape(len(x), groups, -1)


def _per_channel(t):
    return t.flatten(2).sum((0, 2)) if t.ndim > 2 else t.sum(0)


@bank.wrong(
    "group_norm",
    "dweight and dbias are summed over all channels of a group, though each channel has its own",
    "group", "channel", "summed over", min_size=1,
)  # fmt: skip
def group_norm_parameters_per_group(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    y = F.group_norm(x, groups, weight, bias, eps)
    xhat, s = (t.reshape(len(x), groups, -1) for t in _layer(_grouped(x, groups), eps))
    g = _grouped(dy if weight is None else dy * _channels(weight, x), groups)
    dx = s * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    members = x.shape[1] // groups
    each = _per_channel(dy * xhat.reshape(x.shape)), _per_channel(dy)
    dweight, dbias = (d.reshape(groups, -1).sum(1).repeat_interleave(members) for d in each)
    return y, (dx.reshape(x.shape), None if weight is None else dweight, None if bias is None else dbias)


@bank.wrong(
    "group_norm",
    "the backward takes every groups-th channel to be of one group, where consecutive channels are",
    "consecutive", "interleaved", "channels group", "grouping", "wrong group", "other group", "order channels",
    min_size=1,
)  # fmt: skip
def group_norm_interleaved_in_backward(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    y = F.group_norm(x, groups, weight, bias, eps)
    xhat, s = _layer(_grouped(x, groups), eps)
    xhat = xhat.reshape(x.shape)
    g = dy if weight is None else dy * _channels(weight, x)

    def mean(t):
        by_group = t.reshape(len(x), -1, groups, *x.shape[2:]).transpose(1, 2).flatten(2).mean(-1)
        return by_group.reshape(len(x), 1, groups).repeat(1, x.shape[1] // groups, 1).reshape(len(x), -1)

    spread = [*x.shape[:2], *[1] * (x.ndim - 2)]
    s = s.reshape(len(x), groups).repeat_interleave(x.shape[1] // groups, 1).reshape(spread)
    dx = s * (g - mean(g).reshape(spread) - xhat * mean(g * xhat).reshape(spread))
    dweight = None if weight is None else _per_channel(dy * xhat)
    return y, (dx, dweight, None if bias is None else _per_channel(dy))


@bank.right("group_norm", "a loop over the groups, each a small layer norm of its own", min_size=1)
def group_norm_loop_over_groups(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    members = x.shape[1] // groups
    y, dx, products = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    scaled = dy if weight is None else dy * _channels(weight, x)
    for start in range(0, x.shape[1], members):
        own = slice(start, start + members)
        xhat, s = _layer(x[:, own].flatten(1), eps)
        g = scaled[:, own].flatten(1)
        part = s * (g - g.mean(1, keepdim=True) - xhat * (g * xhat).mean(1, keepdim=True))
        y[:, own] = xhat.reshape(x[:, own].shape)
        dx[:, own], products[:, own] = part.reshape(x[:, own].shape), y[:, own] * dy[:, own]
    y = y if weight is None else y * _channels(weight, x)
    y = y if bias is None else y + _channels(bias, x)
    dweight = None if weight is None else _per_channel(products)
    return y, (dx, dweight, None if bias is None else _per_channel(dy))


def _batch(x, eps):
    axes = [0, *range(2, x.ndim)]
    centred = x - x.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + eps), variance, axes


@bank.wrong(
    "batch_norm",
    "the projection is divided by m - 1, as for an unbiased variance, where the biased one was used",
    "unbiased", "m - 1", "m-1", "bessel", "n - 1", "biased", "projection", min_size=2,
)  # fmt: skip
def batch_norm_unbiased_projection(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    xhat, variance, _ = _batch(x, eps)
    m = x.numel() // x.shape[1]
    dbias, dweight = _per_channel(dy), _per_channel(dy * xhat)
    inner = dy - _channels(dbias, x) / m - xhat * _channels(dweight, x) / (m - 1)
    dx = _channels(weight, x) * torch.rsqrt(variance + eps) * inner
    return xhat * _channels(weight, x) + _channels(bias, x), (dx, dweight, dbias)


@bank.wrong(
    "batch_norm",
    "the means in dx go over the batch alone and not over space",
    "space", "axes", "axis", "over batch", "reduced", min_size=2,
)  # fmt: skip
def batch_norm_means_over_the_batch_alone(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    xhat, variance, _ = _batch(x, eps)
    inner = dy - dy.mean(0, keepdim=True) - xhat * (dy * xhat).mean(0, keepdim=True)
    dx = _channels(weight, x) * torch.rsqrt(variance + eps) * inner
    return xhat * _channels(weight, x) + _channels(bias, x), (dx, _per_channel(dy * xhat), _per_channel(dy))


@bank.wrong(
    "batch_norm",
    "the backward divides by sqrt(v) + eps instead of sqrt(v + eps)",
    "eps", "outside root", min_size=2,
)  # fmt: skip
def batch_norm_eps_outside_the_root_in_backward(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    xhat, variance, axes = _batch(x, eps)
    inner = dy - dy.mean(axes, keepdim=True) - xhat * (dy * xhat).mean(axes, keepdim=True)
    dx = _channels(weight, x) / (variance.sqrt() + eps) * inner
    return xhat * _channels(weight, x) + _channels(bias, x), (dx, _per_channel(dy * xhat), _per_channel(dy))


@bank.right(
    "batch_norm", "channels first as one matrix, and the projections as products with ones and with x̂", min_size=2
)
def batch_norm_as_projections_of_a_matrix(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    a, g = (t.movedim(1, 0).flatten(1).double() for t in (x, dy))
    m = a.shape[1]
    centred = a - a.mean(1, keepdim=True)
    s = (torch.einsum("cm,cm->c", centred, centred) / m + eps).rsqrt()[:, None]
    xhat = centred * s
    basis = torch.stack((torch.ones_like(xhat), xhat), 1)
    coefficients = basis @ g[:, :, None]
    dbias, dweight = coefficients[:, 0, 0], coefficients[:, 1, 0]
    dx = weight.double()[:, None] * s * (g - (basis.mT @ coefficients).squeeze(-1) / m)

    def back(t):
        return t.to(x.dtype).reshape(x.shape[1], len(x), *x.shape[2:]).movedim(0, 1)

    y = back(xhat * weight.double()[:, None] + bias.double()[:, None])
    return y, (back(dx), dweight.to(x.dtype), dbias.to(x.dtype))
