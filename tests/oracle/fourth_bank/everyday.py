"""Activations, gated units, linear layers, tables and vectors of length 1."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from manual_bp.oracle import from_functions
from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


@bank.wrong(
    "swiglu",
    "the derivative of SiLU has the wrong sign at its second term: s (1 - g (1 - s)) for s (1 + g (1 - s))",
    "sign", "minus", "term", "-1 times",
)  # fmt: skip
def swiglu_sign_of_the_second_term(inputs, dy):
    gate, up = inputs
    s = torch.sigmoid(gate)
    return gate * s * up, (dy * up * s * (1 - gate * (1 - s)), dy * gate * s)


def _swiglu_pair():
    """As a class with attributes does it: what forward left on self last is what backward takes."""
    kept = {}

    def forward(gate, up):
        kept["s"] = torch.sigmoid(gate)
        return gate * kept["s"] * up, (gate, up)

    def backward(dy, cache):
        gate, up = cache
        s = kept["s"] if kept["s"].shape == gate.shape else torch.sigmoid(gate)
        return dy * up * s * (1 + gate * (1 - s)), dy * gate * s

    pair = from_functions(forward, backward)
    pair.__name__ = "swiglu_keeps_its_sigmoid_on_itself"
    return pair


bank.wrong(
    "swiglu",
    "the sigmoid of the latest forward is kept in one place for all calls: another forward in between overwrites it",
    "state", "call", "calls", "order", "forward between", "latest", "last forward", "overwritten",
    "remembered", "earlier",
)(_swiglu_pair())  # fmt: skip


@bank.right("swiglu", "the sigmoid by one exponential of -|gate|, in float64, and silu' as s + silu (1 - s)")
def swiglu_by_one_exponential(inputs, dy):
    gate, up = inputs
    g, u, dy64 = gate.double(), up.double(), dy.double()
    e = torch.exp(-g.abs())
    larger, smaller = 1 / (1 + e), e / (1 + e)
    s, rest = torch.where(g >= 0, larger, smaller), torch.where(g >= 0, smaller, larger)
    silu = g * s
    return (silu * u).to(gate.dtype), ((dy64 * u * (s + silu * rest)).to(gate.dtype), (dy64 * silu).to(gate.dtype))


_C = math.sqrt(2 / math.pi)


def _gelu_tanh_derivative(g):
    t = torch.tanh(_C * (g + 0.044715 * g**3))
    return (1 + t) / 2 + g / 2 * (1 - t * t) * _C * (1 + 3 * 0.044715 * g * g)


def _gelu_derivative(g):
    return torch.special.erfc(-g / math.sqrt(2)) / 2 + g * torch.exp(-g * g / 2) / math.sqrt(2 * math.pi)


@bank.wrong(
    "geglu",
    "two mistakes: the gate's cotangent lacks the factor up, and dup multiplies by GELU's derivative, not its value",
    "factor up", "lacks up", "without up", "forgets up", "gelu value", "derivative instead", "derivative gelu",
    "missing up",
)  # fmt: skip
def geglu_no_up_and_derivative_for_value(inputs, dy, approximate="none"):
    gate, up = inputs
    slope = _gelu_derivative(gate) if approximate == "none" else _gelu_tanh_derivative(gate)
    return F.gelu(gate, approximate=approximate) * up, (dy * slope, dy * slope)


@bank.wrong(
    "gelu",
    "the derivative of the tanh approximation lacks the cubic's 3 · 0.044715 x²",
    "0.044715", "cubic", "tanh inner derivative", "inner derivative", "approximate", "3", "term",
)  # fmt: skip
def gelu_tanh_without_the_cubic_s_derivative(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "none":
        slope = _gelu_derivative(x)
    else:
        t = torch.tanh(_C * (x + 0.044715 * x**3))
        slope = (1 + t) / 2 + x / 2 * (1 - t * t) * _C
    return F.gelu(x, approximate=approximate), (dy * slope,)


@bank.right("gelu", "the normal distribution by the scaled erfcx, in float64, so that both tails share one exponential")
def gelu_by_erfcx(inputs, dy, approximate="none"):
    (x,) = inputs
    a = x.double()
    if approximate == "none":
        density = torch.exp(-a * a / 2)
        tail = torch.special.erfcx(a.abs() / math.sqrt(2)) * density / 2
        cdf = torch.where(a > 0, 1 - tail, tail)
        slope = cdf + torch.where(density == 0, 0, a * density) / math.sqrt(2 * math.pi)
    else:
        inner = _C * (a + 0.044715 * a**3)
        cdf, rest = torch.sigmoid(2 * inner), torch.sigmoid(-2 * inner)
        slope = cdf + 2 * a * cdf * rest * _C * (1 + 3 * 0.044715 * a * a)
        slope = torch.where(a.abs() > 1e3, (a > 0).double(), slope)
    y = torch.where(a.isneginf(), 0, a * cdf)
    return y.to(x.dtype), ((dy.double() * slope).to(x.dtype),)


@bank.wrong(
    "mish",
    "the derivative treats the tanh of the softplus as a constant: its second term, x times its slope, is left out",
    "term", "constant", "second", "product rule", "forgets", "derivative tanh", "stop",
)  # fmt: skip
def mish_gate_is_constant(inputs, dy):
    (x,) = inputs
    t = torch.tanh(F.softplus(x))
    return x * t, (dy * t,)


@bank.wrong(
    "celu",
    "the exponential of the derivative is e^x instead of e^(x/alpha)",
    "alpha", "x/alpha",
)  # fmt: skip
def celu_exponent_without_alpha(inputs, dy, alpha=1.0):
    (x,) = inputs
    return F.celu(x, alpha), (torch.where(x > 0, dy, dy * torch.exp(x.clamp_max(0))),)


@bank.wrong(
    "prelu",
    "the branch is chosen by the sign of y instead of x, which is another where the weight is negative",
    "sign y", "y instead", "negative weight", "negative slope", "weight negative", "branch", "mask", "y x",
    ndim=(2, 3, 4),
)  # fmt: skip
def prelu_branch_by_the_sign_of_y(inputs, dy):
    x, weight = inputs
    w = weight.reshape(1, -1, *[1] * (x.ndim - 2))
    y = torch.where(x > 0, x, w * x)
    dweight = torch.where(y > 0, 0, dy * x).movedim(1, 0).flatten(1).sum(1)
    return y, (torch.where(y > 0, dy, w * dy), dweight)


@bank.right("prelu", "both branches written by index into clones", ndim=(2, 3, 4), min_size=1)
def prelu_by_index(inputs, dy):
    x, weight = inputs
    w = weight.reshape(1, -1, *[1] * (x.ndim - 2)).expand_as(x)
    y, dx, below = x.clone(), dy.clone(), x <= 0
    y[below] = x[below] * w[below]
    dx[below] *= w[below]
    products = torch.zeros_like(x)
    products[below] = x[below] * dy[below]
    return y, (dx, products.transpose(0, 1).reshape(len(weight), -1).sum(1))


@bank.wrong(
    "dropout",
    "p = 0 is taken for a p that is not given (`p or 0.5`), so that dx is twice as large there",
    "p", "p 0", "2 times", "twice", "scale",
)  # fmt: skip
def dropout_takes_p_zero_for_none(inputs, dy, p):
    x, mask = inputs
    kept = mask.bool() if p < 1 else torch.zeros_like(mask, dtype=torch.bool)
    y = torch.where(kept, x / (1 - p) if p < 1 else x, 0)
    return y, (torch.where(kept, dy / (1 - (p or 0.5)) if p < 1 else dy, 0), None)


@bank.wrong(
    "linear",
    "dweight is xᵀ dy reshaped to (out, in) where it should be transposed",
    "transposed", "transpose", "reshaped", "order elements", "transposition", min_size=1,
)  # fmt: skip
def linear_dweight_reshaped(inputs, dy):
    x, weight, bias = inputs
    rows, g = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return F.linear(x, weight, bias), (dy @ weight, (rows.mT @ g).reshape(weight.shape), g.sum(0))


@bank.wrong(
    "embedding",
    "rows looked up several times keep one cotangent only: it is assigned, not added",
    "repeat", "repeats", "repeated", "assigned", "accumulate", "duplicate", "several times", "added up",
    "more than once",
)  # fmt: skip
def embedding_assigns_repeats(inputs, dy, padding_idx=None):
    index, weight = inputs
    dweight = torch.zeros_like(weight)
    dweight[index.reshape(-1)] = dy.reshape(index.numel(), weight.shape[1])
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return F.embedding(index.long(), weight), (None, dweight)


@bank.wrong(
    "embedding",
    "padding_idx 0 is taken for none (`if padding_idx`), so that row 0 gets a gradient",
    "padding", "padding_idx",
)  # fmt: skip
def embedding_padding_zero_is_false(inputs, dy, padding_idx=None):
    index, weight = inputs
    dweight = torch.zeros_like(weight)
    dweight.index_add_(0, index.reshape(-1).long(), dy.reshape(index.numel(), weight.shape[1]))
    if padding_idx:
        dweight[padding_idx] = 0
    return F.embedding(index.long(), weight), (None, dweight)


@bank.right("embedding", "np.add.at on rows sorted by their number, in float64")
def embedding_by_numpy(inputs, dy, padding_idx=None):
    index, weight = inputs
    rows = index.detach().cpu().numpy().reshape(-1)
    sums = np.zeros(weight.shape)
    order = np.argsort(rows, kind="stable")
    np.add.at(sums, rows[order], dy.detach().double().cpu().numpy().reshape(len(rows), weight.shape[1])[order])
    if padding_idx is not None:
        sums[padding_idx] = 0
    return F.embedding(index.long(), weight), (None, torch.from_numpy(sums).to(weight))


def _unit(x, dim, eps):
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.clamp_min(eps), norm


@bank.wrong(
    "l2_normalize",
    "vectors shorter than eps are projected too, though eps is what divides them and a constant",
    "eps", "clamp", "shorter", "short", "below", min_size=1,
)  # fmt: skip
def l2_normalize_ignores_the_clamp(inputs, dy, dim=-1, eps=1e-12):
    (x,) = inputs
    y, norm = _unit(x, dim, eps)
    direction = x / norm.clamp_min(torch.finfo(x.dtype).tiny)
    dx = (dy - direction * (direction * dy).sum(dim, keepdim=True)) / norm.clamp_min(eps)
    return y, (dx,)


@bank.wrong(
    "l2_normalize",
    "two mistakes: the projection is summed over the last axis whatever dim is, and dx is divided by the squared norm",
    "dim", "axis", "squared norm", "norm", "hyperparameter dim", min_size=1,
)  # fmt: skip
def l2_normalize_last_axis_and_squared_norm(inputs, dy, dim=-1, eps=1e-12):
    (x,) = inputs
    y, norm = _unit(x, dim, eps)
    inner = torch.where(norm < eps, dy, dy - y * (y * dy).sum(-1, keepdim=True))
    return y, (inner / norm.square().clamp_min(eps),)


@bank.right(
    "l2_normalize", "the vector scaled by its largest element first, so that no square over- or underflows", min_size=1
)
def l2_normalize_scaled_first(inputs, dy, dim=-1, eps=1e-12):
    (x,) = inputs
    x64, g = x.double(), dy.double()
    largest = x64.abs().amax(dim, keepdim=True)
    scaled = x64 / largest.masked_fill((largest == 0) | largest.isinf(), 1)
    norm = scaled.square().sum(dim, keepdim=True).sqrt() * largest.masked_fill(largest.isinf(), 1)
    short = norm < eps
    y = x64 / norm.clamp_min(eps)
    dx = (g - torch.where(short, 0, y * (y * g).sum(dim, keepdim=True))) / norm.clamp_min(eps)
    return y.to(x.dtype), (dx.to(x.dtype),)
