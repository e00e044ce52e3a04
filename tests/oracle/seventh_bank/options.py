"""What goes wrong for an option off its default, or with an input that may be absent."""

import torch

from tests.oracle.fourth_bank.entry import Bank, Entry
from tests.oracle.seventh_bank.layers import right

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


@bank.wrong(
    "leaky_relu",
    "the branch is read off the sign of y, which a negative slope turns round",
    "negative_slope",
    "y <",
    "y >",
    "in place of `x`",
    "sign",
)
def leaky_relu_branch_of_y(inputs, dy, negative_slope=0.01):
    y, _ = right("leaky_relu", inputs, dy, negative_slope=negative_slope)
    return y, (torch.where(y > 0, dy, dy * negative_slope),)


@bank.wrong("elu", "below 0 the slope is y + 1, which is right of alpha 1 alone", "alpha", "x <", "`1`")
def elu_of_alpha_one(inputs, dy, alpha=1.0):
    y, (dx,) = right("elu", inputs, dy, alpha=alpha)
    return y, (torch.where(inputs[0] > 0, dx, dy * (y + 1)),)


@bank.wrong("dropout", "at p = 0 nothing is scaled, and nothing comes through", "p = 0", "p <", "p ≤", "mask")
def dropout_of_nothing(inputs, dy, p):
    y, (dx, dmask) = right("dropout", inputs, dy, p=p)
    return y, (dx if p else dx * 0, dmask)


@bank.wrong("softmax", "the dot product is taken over the last axis, whatever dim is", "dim", "axis")
def softmax_dot_over_the_last_axis(inputs, dy, dim=-1):
    y, _ = right("softmax", inputs, dy, dim=dim)
    return y, (y * (dy - (y * dy).sum(-1, keepdim=True)),)


@bank.wrong("rms_norm", "dx is made without the weight's offset", "offset")
def rms_norm_without_the_offset(inputs, dy, eps=1e-6, offset=0.0):
    y, grads = right("rms_norm", inputs, dy, eps=eps, offset=offset)
    if inputs[1] is not None:
        grads[0] = right("rms_norm", inputs, dy, eps=eps, offset=0.0)[1][0]
    return y, tuple(grads)


@bank.wrong("convolution", "with a bias dweight is halved, as if it were added up for two", "bias")
def convolution_halves_with_a_bias(inputs, dy, **hyper):
    y, grads = right("convolution", inputs, dy, **hyper)
    if len(inputs) > 2 and inputs[2] is not None:
        grads[1] /= 2
    return y, tuple(grads)


@bank.wrong("convolution", "dx is that of no dilation where that has the right shape", "dilation")
def convolution_dx_without_dilation(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    options = {"stride": stride, "padding": padding, "groups": groups}
    y, grads = right("convolution", inputs, dy, dilation=dilation, **options)
    if dilation not in (1, (1, 1), (1,), (1, 1, 1)):
        grads[0] = grads[0].roll(1, -1)
    return y, tuple(grads)


@bank.wrong("huber", "with reduction sum it is divided by the count, as for the mean", "reduction", "sum")
def huber_sum_for_mean(inputs, dy, delta=1.0, reduction="mean"):
    y, _ = right("huber", inputs, dy, delta=delta, reduction=reduction)
    return y, tuple(right("huber", inputs, dy, delta=delta, reduction="mean")[1])


@bank.wrong(
    "softmax_cross_entropy", "smoothing is left out of dx where classes have weights", "label_smoothing", "weight"
)
def cross_entropy_smoothing_without_weights(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    others = {"ignore_index": ignore_index, "reduction": reduction}
    y, grads = right("softmax_cross_entropy", inputs, dy, label_smoothing=label_smoothing, **others)
    if len(inputs) > 2 and inputs[2] is not None:
        grads[0] = right("softmax_cross_entropy", inputs, dy, label_smoothing=0.0, **others)[1][0]
    return y, tuple(grads)


@bank.wrong("max_pool", "with padding dx is moved by one along the last axis", "padding")
def max_pool_padding_moves(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    options = {"stride": stride, "dilation": dilation, "ceil_mode": ceil_mode}
    y, (dx,) = right("max_pool", inputs, dy, kernel=kernel, padding=padding, **options)
    return y, (dx.roll(1, -1) if padding not in (0, (0,), (0, 0), (0, 0, 0)) else dx,)


@bank.wrong("gelu", "the tanh form has the slope of the exact one", "approximate", "tanh", "none")
def gelu_exact_slope(inputs, dy, approximate="none"):
    y, _ = right("gelu", inputs, dy, approximate=approximate)
    return y, tuple(right("gelu", inputs, dy, approximate="none")[1])


@bank.wrong("upsample", "dx is that of corners that are not aligned", "align_corners")
def upsample_corners_not_aligned(inputs, dy, scale, mode="nearest", align_corners=False):
    y, _ = right("upsample", inputs, dy, scale=scale, mode=mode, align_corners=align_corners)
    return y, tuple(right("upsample", inputs, dy, scale=scale, mode=mode, align_corners=False)[1])


@bank.wrong("rnn", "dbias is left at 0 where the nonlinearity is relu", "nonlinearity", "relu", "tanh")
def rnn_relu_without_bias(inputs, dy, nonlinearity="tanh"):
    y, grads = right("rnn", inputs, dy, nonlinearity=nonlinearity)
    if nonlinearity == "relu":
        grads[4] *= 0
    return y, tuple(grads)


@bank.wrong("l2_penalty", "for n above 1 the square of n divides", "n =", "n ≥", "n >", "/n", " n", "`n`")
def l2_penalty_divided_twice(inputs, dy, lam, n=1):
    y, (dweight,) = right("l2_penalty", inputs, dy, lam=lam, n=n)
    return y, (dweight / n,)
