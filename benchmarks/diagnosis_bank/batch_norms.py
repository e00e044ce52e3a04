"""Wrong backwards of batch_norm and batch_norm_inference.  A channel is a value of axis 1."""

import torch
from torch import Tensor

from benchmarks.diagnosis_bank.program import OUT, as_if_contiguous, rounded, wrong


def _axes(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _c(per_channel, x):
    return per_channel.view(1, -1, *[1] * (x.ndim - 2))


def _m(x):
    return max(x.numel() // max(x.shape[1], 1), 1)


def _training(inputs, eps):
    x, weight, bias = inputs
    mean = x.mean(_axes(x))
    var = (x - _c(mean, x)).square().mean(_axes(x))
    invstd = torch.rsqrt(var + eps)
    xhat = (x - _c(mean, x)) * _c(invstd, x)
    return xhat * _c(weight, x) + _c(bias, x), xhat, invstd


def _whole(inputs, dy, xhat, invstd):
    """Right cotangents in the form of most kernels."""
    x, weight, _ = inputs
    dbias, dweight = dy.sum(_axes(x)), (dy * xhat).sum(_axes(x))
    dx = _c(weight * invstd, x) * (dy - _c(dbias / _m(x), x) - xhat * _c(dweight / _m(x), x))
    return dx, dweight, dbias


@wrong(
    "batch_norm",
    "the means divide by the batch alone, not by batch times space",
    "batch|space|count|number of|shape[0]|axes",
    "divi|factor|n/|normali|count",
)
def divided_by_the_batch(inputs, dy, eps=1e-5):
    x, weight, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    _, dweight, dbias = _whole(inputs, dy, xhat, invstd)
    n = max(x.shape[0], 1)
    dx = _c(weight * invstd / n, x) * (n * dy - _c(dbias, x) - xhat * _c(dweight, x))
    return y, (dx, dweight, dbias)


@wrong(
    "batch_norm",
    "the variance is taken for a constant: the projection is missing",
    "projection|variance|x̂|x_hat|through|term",
    OUT + "|constant|detach",
)
def variance_constant(inputs, dy, eps=1e-5):
    x, weight, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    _, dweight, dbias = _whole(inputs, dy, xhat, invstd)
    return y, (_c(weight * invstd, x) * (dy - _c(dbias / _m(x), x)), dweight, dbias)


@wrong(
    "batch_norm",
    "backward's variance is the unbiased one, divided by m − 1, as kept for running statistics",
    "unbiased|m - 1|n - 1|m-1|n-1|n/(n - 1)|bessel|correction",
)
def unbiased_invstd(inputs, dy, eps=1e-5):
    x, _, _ = inputs
    y, _, _ = _training(inputs, eps)
    mean = x.mean(_axes(x))
    var = (x - _c(mean, x)).square().sum(_axes(x)) / max(_m(x) - 1, 1)
    invstd = torch.rsqrt(var + eps)
    return y, _whole(inputs, dy, (x - _c(mean, x)) * _c(invstd, x), invstd)


@wrong(
    "batch_norm",
    "dweight sums dy (x − μ): the factor s is missing",
    "s|1/√|root|normali|x - μ|x - mean|centred|invstd|standard|scale|/ torch.sqrt",
    OUT + "|in place|instead|factor|term",
)
def weight_not_normalised(inputs, dy, eps=1e-5):
    x, _, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    dx, _, dbias = _whole(inputs, dy, xhat, invstd)
    centred = x - _c(x.mean(_axes(x)), x)
    return y, (dx, (dy * centred).sum(_axes(x)), dbias)


@wrong(
    "batch_norm",
    "the channel of an element is computed as (i // space) % batch: the weight of another channel",
    "channel|weight|index|roll|order",
    "batch|another|other|wrong|neighbour|shift|roll|moved|index|transpos|first|order|place",
)
def channel_from_the_batch_size(inputs, dy, eps=1e-5):
    x, weight, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    _, dweight, dbias = _whole(inputs, dy, xhat, invstd)
    if not x.numel():
        return y, (torch.zeros_like(x), dweight, dbias)
    space = max(x[0, 0].numel(), 1)
    channel = torch.arange(x.numel(), device=x.device) // space % x.shape[0] % x.shape[1]
    g = dy * weight[channel].reshape(x.shape)
    both = _c(g.mean(_axes(x)), x) + xhat * _c((g * xhat).mean(_axes(x)), x)
    return y, (_c(invstd, x) * (g - both), dweight, dbias)


@wrong(
    "batch_norm",
    "dbias and dweight take at most 64 values of a channel, what one warp of threads reads",
    "64",
    "first|past|beyond|longer|tail|rest|block|only|at most|length|size|last",
)
def one_warp_of_values(inputs, dy, eps=1e-5):
    x, _, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    dx, _, _ = _whole(inputs, dy, xhat, invstd)
    per_channel = [t.transpose(0, 1).reshape(x.shape[1], x.numel() // max(x.shape[1], 1)) for t in (dy * xhat, dy)]
    dweight, dbias = (t[:, :64].sum(1) for t in per_channel)
    return y, (dx, dweight, dbias)


@wrong(
    "batch_norm",
    "dy is read as if it were contiguous",
    "stride|contiguous|layout|transposed dy|expanded|memory order|sliced|channels_last",
)
def dy_taken_for_nchw(inputs, dy, eps=1e-5):
    y, xhat, invstd = _training(inputs, eps)
    return y, _whole(inputs, as_if_contiguous(dy), xhat, invstd)


@wrong(
    "batch_norm",
    "eps is added twice: to the variance, and again to the root",
    "eps",
    "twice|again|root|sqrt|√|outside|too many|both",
)
def eps_twice(inputs, dy, eps=1e-5):
    x, _, _ = inputs
    y, _, _ = _training(inputs, eps)
    mean = x.mean(_axes(x))
    var = (x - _c(mean, x)).square().mean(_axes(x))
    invstd = 1 / (torch.sqrt(var + eps) + eps)
    return y, _whole(inputs, dy, (x - _c(mean, x)) * _c(invstd, x), invstd)


@wrong(
    "batch_norm",
    "two mistakes: the weight is missing in dx, and dbias is a mean",
    "weight",
    "mean|average|1/|divi",
)
def no_weight_and_a_mean(inputs, dy, eps=1e-5):
    x, _, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    _, dweight, dbias = _whole(inputs, dy, xhat, invstd)
    dx = _c(invstd, x) * (dy - _c(dbias / _m(x), x) - xhat * _c(dweight / _m(x), x))
    return y, (dx, dweight, dbias / _m(x))


@wrong(
    "batch_norm",
    "the mean and the projection are taken per sample (as of instance norm), not over the batch",
    "sample|instance|not over the batch|axis 0|first axis|over space|other axes|other axis|axes",
    "mean|sum|axes|reduc|statistic|instance|average",
)
def per_sample(inputs, dy, eps=1e-5):
    x, weight, _ = inputs
    y, xhat, invstd = _training(inputs, eps)
    _, dweight, dbias = _whole(inputs, dy, xhat, invstd)
    space = tuple(range(2, x.ndim))
    g = dy * _c(weight, x)
    if space:
        mean, dot = g.mean(space, keepdim=True), (g * xhat).mean(space, keepdim=True)
    else:
        mean, dot = g, g * xhat
    return y, (_c(invstd, x) * (g - mean - xhat * dot), dweight, dbias)


def _fixed(inputs, eps):
    x, weight, bias, mean, var = inputs
    invstd = torch.rsqrt(var + eps)
    xhat = (x - _c(mean, x)) * _c(invstd, x)
    return xhat * _c(weight, x) + _c(bias, x), xhat, invstd


@wrong(
    "batch_norm_inference",
    "dweight's x̂ is made with the mean of the batch, not with running_mean",
    "mean|μ",
    "batch|x's own|own mean|sample|x.mean|mean of x|channel_mean",
)
def centred_by_the_batch(inputs, dy, eps=1e-5):
    x, weight, _, _, _ = inputs
    y, _, invstd = _fixed(inputs, eps)
    centred = x - _c(x.mean(_axes(x)), x)
    dweight = (dy * centred).sum(_axes(x)) * invstd
    return y, (dy * _c(weight * invstd, x), dweight, dy.sum(_axes(x)), None, None)


@wrong(
    "batch_norm_inference",
    "the formula of training: the mean and the projection are taken off, though the statistics are constants",
    "training|projection|mean term|statistics|mean(g)|mean and|constant|means are|mean is taken off",
)
def as_in_training(inputs, dy, eps=1e-5):
    x, weight, bias, _, _ = inputs
    y, xhat, invstd = _fixed(inputs, eps)
    return y, (*_whole((x, weight, bias), dy, xhat, invstd), None, None)


@wrong(
    "batch_norm_inference",
    "running_var is taken for a standard deviation: the root is missing",
    "root|sqrt|√|variance|standard|power|square|exponent",
)
def variance_for_deviation(inputs, dy, eps=1e-5):
    x, weight, _, _, var = inputs
    y, xhat, _ = _fixed(inputs, eps)
    dx = dy * _c(weight / (var + eps), x)
    return y, (dx, (dy * xhat).sum(_axes(x)), dy.sum(_axes(x)), None, None)


@wrong(
    "batch_norm_inference",
    "dweight sums dy x s: running_mean is not taken off",
    "mean|centred|x - |μ|shift",
    OUT + "|not taken off|not subtracted|in place|0|instead",
)
def not_centred(inputs, dy, eps=1e-5):
    x, weight, _, _, _ = inputs
    y, _, invstd = _fixed(inputs, eps)
    dweight = torch.einsum("nc...->c", dy * x) * invstd
    return y, (dy * _c(weight * invstd, x), dweight, dy.sum(_axes(x)), None, None)


@wrong(
    "batch_norm_inference",
    "the folded scale weight · s was stored in float16",
    "16 bit|16-bit|half|float16|bfloat16|rounded to",
    "weight|scale|s|fold|factor",
)
def folded_in_half(inputs, dy, eps=1e-5):
    x, weight, _, _, _ = inputs
    y, xhat, invstd = _fixed(inputs, eps)
    scale = rounded(weight * invstd, torch.float16)
    return y, (dy * _c(scale, x), (dy * xhat).sum(_axes(x)), dy.sum(_axes(x)), None, None)


@wrong(
    "batch_norm_inference",
    "two mistakes: the weight is missing in dx, and dweight has the sign of μ − x",
    "weight",
    "sign|negat|minus|-1|subtract|opposite",
)
def unweighted_and_negated(inputs, dy, eps=1e-5):
    x, _, _, mean, _ = inputs
    y, _, invstd = _fixed(inputs, eps)
    dweight = (dy * (_c(mean, x) - x)).sum(_axes(x)) * invstd
    return y, (dy * _c(invstd, x), dweight, dy.sum(_axes(x)), None, None)
