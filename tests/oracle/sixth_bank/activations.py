"""Activations."""

import math

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


@bank.wrong(
    "celu",
    "the exponential of the derivative is of x, not of x / alpha",
    "alpha", "exp x", "exponential", "negative side", "negative branch", "x/alpha", "divided by alpha",
)  # fmt: skip
def celu_exp_of_x(inputs, dy, alpha=1.0):
    (x,) = inputs
    y = x.clamp(min=0) + (alpha * torch.expm1(x / alpha)).clamp(max=0)
    slope = torch.exp(x.clamp(max=0))
    return y, (dy * torch.where(x > 0, torch.ones_like(x), slope),)


@bank.wrong(
    "gelu",
    "the tanh form's inner derivative has 0.044715 x² where 3 · 0.044715 x² is right",
    "0.044715", "factor 3", "three", "cubic", "cube", "tanh", "x³", "x^3", "chain rule",
)  # fmt: skip
def gelu_cubic_term_lacks_its_three(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "none":
        cdf = 0.5 * torch.erfc(-x * math.sqrt(0.5))
        return x * cdf, (dy * (cdf + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)),)
    k = math.sqrt(8 / math.pi)
    s = torch.sigmoid(k * x * (1 + 0.044715 * x * x))
    ds = s * torch.sigmoid(-k * x * (1 + 0.044715 * x * x)) * k * (1 + 0.044715 * x * x)
    return x * s, (dy * (s + x * ds),)


@bank.wrong(
    "hardswish",
    "the gate is taken for a constant: x times the gate's slope, the product rule's second term, is missing",
    "product rule", "gate", "second term", "x/6",
    "x / 6",
)  # fmt: skip
def hardswish_gate_held_constant(inputs, dy):
    (x,) = inputs
    gate = F.relu6(x + 3) / 6
    return x * gate, (dy * gate,)


@bank.wrong(
    "mish",
    "the derivative of softplus, sigmoid(x), is missing from the chain",
    "sigmoid", "softplus", "chain rule", "inner derivative", "logistic", "σ",
)  # fmt: skip
def mish_without_sigmoid(inputs, dy):
    (x,) = inputs
    t = torch.tanh(F.softplus(x, threshold=1e9))
    return x * t, (dy * (t + x * (1 - t * t)),)


@bank.wrong(
    "maxout",
    "the gradient is laid out as pieces × units where x is units × pieces",
    "pieces", "layout", "order", "transpose", "transposed", "interleave", "stride", "reshape",
    "position", "elsewhere", "permut", "swapped",
    min_size=1,
)  # fmt: skip
def maxout_pieces_before_units(inputs, dy, pieces):
    (x,) = inputs
    y, winner = x.unflatten(-1, (-1, pieces)).max(-1)
    dx = x.new_zeros(*x.shape[:-1], pieces, y.shape[-1])
    dx.scatter_(-2, winner.unsqueeze(-2), dy.unsqueeze(-2))
    return y, (dx.flatten(-2),)


@bank.wrong(
    "prelu",
    "dweight is the mean over the positions of an example, not the sum",
    "mean", "average", "averaged", "divided", "sum", "positions", "space", "spatial", "too small", "factor",
    min_size=1,
)  # fmt: skip
def prelu_slope_averaged_over_space(inputs, dy):
    x, weight = inputs
    w = weight.view(-1, *[1] * (x.ndim - 2))
    negative = x.clamp(max=0)
    dw = (dy * negative).reshape(*x.shape[:2], -1)
    return torch.where(x > 0, x, w * x), (torch.where(x > 0, dy, w * dy), dw.mean(-1).sum(0))


@bank.wrong(
    "softmax",
    "the backward sums over the last axis whatever dim is",
    "dim", "axis", "last axis", "-1", "reduced", "reduction", "summed over", "sum over",
)  # fmt: skip
def softmax_backward_along_the_last_axis(inputs, dy, dim=-1):
    (x,) = inputs
    y = torch.softmax(x, dim)
    inner = torch.einsum("...i,...i->...", dy, y)
    return y, (y * (dy - inner[..., None]),)


@bank.wrong(
    "relu",
    "dy is masked in place: the caller's tensor is changed",
    "in place", "in-place", "inplace", "overwrites", "overwritten", "changes dy",
    "modified", "modifies", "written", "memory location", "mutates",
)  # fmt: skip
def relu_masks_dy_in_place(inputs, dy):
    (x,) = inputs
    y = x.clamp(min=0)
    dy[x <= 0] = 0
    return y, (dy,)


@bank.wrong(
    "swiglu",
    "dgate has silu(gate) where the gate itself belongs",
    "silu", "sigmoid", "derivative of silu", "instead of gate",
)  # fmt: skip
def swiglu_silu_in_place_of_gate(inputs, dy):
    gate, up = inputs
    s = torch.sigmoid(gate)
    silu = gate * s
    dgate = dy * up * s * (1 + silu * (1 - s))
    return silu * up, (dgate, dy * silu)


@bank.wrong(
    "softplus",
    "dx is multiplied by beta, as if the forward were not divided by it",
    "beta", "factor beta", "times beta", "multiplied by beta", "1/beta", "twice", "scale",
)  # fmt: skip
def softplus_times_beta(inputs, dy, beta=1.0):
    (x,) = inputs
    z = beta * x
    y = torch.logaddexp(z, torch.zeros_like(z)) / beta
    return y, (dy * beta * torch.sigmoid(z),)


@bank.wrong(
    "leaky_relu",
    "which side x is on is read off the result, whose sign is not x's where the slope is negative",
    "negative slope", "negative_slope", "slope", "sign", "result", "mask", "side", "output", "y > 0",
)  # fmt: skip
def leaky_relu_side_read_off_the_result(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    y = torch.where(x > 0, x, x * negative_slope)
    return y, (torch.where(y > 0, dy, dy * negative_slope),)


@bank.wrong(
    "tanh",
    "y is saved in half precision",
    "16 bits", "16-bit", "half", "float16", "precision", "rounded", "fp16", "cast", "rounding",
    "bfloat16",
)  # fmt: skip
def tanh_saved_as_half(inputs, dy):
    (x,) = inputs
    y = torch.tanh(x)
    saved = y.to(torch.float16)
    return y, (dy * (1 - saved.to(dy.dtype) ** 2),)


@bank.right("selu", "one product for both sides: a clamped exponential times 1 or alpha")
def selu_clamped_exponential(inputs, dy):
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    (x,) = inputs
    low = x.clamp(max=0)
    slope = torch.where(x > 0, low.exp(), alpha * low.exp())
    return scale * (x.clamp(min=0) + alpha * low.expm1()), (dy * (scale * slope),)


@bank.right("elu", "both sides at once: masks and clamps in place of where")
def elu_by_masks(inputs, dy, alpha=1.0):
    (x,) = inputs
    above = (x > 0).to(x.dtype)
    low = torch.minimum(x, torch.zeros_like(x))
    slope = above + (1 - above) * (alpha * low.exp())
    return x.clamp(min=0) + alpha * torch.expm1(low), (slope * dy,)


@bank.right("sigmoid", "both results from exp(-|x|), as a kernel without branches has them")
def sigmoid_from_one_exponential(inputs, dy):
    (x,) = inputs
    e = torch.exp(-x.abs())
    y = torch.where(x < 0, e, torch.ones_like(e)) / (1 + e)
    return y, (dy * (e / (1 + e).square()),)


@bank.right("geglu", "the normal density and distribution written out; the tanh form as a sigmoid")
def geglu_from_the_normal_distribution(inputs, dy, approximate="none"):
    gate, up = inputs
    if approximate == "tanh":
        c, k = math.sqrt(8 / math.pi), 0.044715
        g = gate.clamp(-40, 40)  # beyond, the slope is 0 or 1
        u = c * (g + k * g**3)
        cdf = torch.sigmoid(u)
        slope = cdf + g * cdf * torch.sigmoid(-u) * c * (1 + 3 * k * g**2)
    else:
        cdf = 0.5 * torch.special.erfc(-gate / math.sqrt(2))
        g = gate.clamp(-40, 40)
        slope = cdf + g * torch.exp(-g.square() / 2) * (1 / math.sqrt(2 * math.pi))
    return gate * cdf * up, (dy * up * slope, dy * (gate * cdf))


@bank.right("silu", "σ(x) and σ(-x) as two calls, nothing subtracted from 1")
def silu_by_two_sigmoids(inputs, dy):
    (x,) = inputs
    s, other = torch.sigmoid(x), torch.sigmoid(-x)
    return x * s, (s * torch.addcmul(torch.ones_like(x), x, other) * dy,)


@bank.right("log_softmax", "the axis moved last and rows flattened; the sum of dy by a matrix of ones", min_size=1)
def log_softmax_rows_by_matmul(inputs, dy, dim=-1):
    (x,) = inputs
    rows, g = x.movedim(dim, -1), dy.movedim(dim, -1)
    top = rows.amax(-1, keepdim=True)
    y = (rows - top) - (rows - top).exp().sum(-1, keepdim=True).log()
    total = g @ torch.ones(g.shape[-1], 1, dtype=g.dtype)
    return y.movedim(-1, dim), ((g - y.exp() * total).movedim(-1, dim),)
