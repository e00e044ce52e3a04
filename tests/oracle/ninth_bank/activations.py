"""Activations: slopes, masks, axes of a softmax, what is kept between calls."""

import math

import torch
import torch.nn.functional as F

from tests.oracle.ninth_bank.entry import Entry, into

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


@entry(
    "gelu",
    ("inner", "cubic", "cube", "0.044715", "argument of tanh", "chain rule"),
    "k * (1 + 0.044715 * z * z)",
    "k * (1 + 3 * 0.044715 * z * z)",
)
def gelu_tanh_inner_slope_of_the_cube(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "none":
        slope = torch.special.erfc(-x / math.sqrt(2)) / 2 + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    else:
        z = x.clamp(-50, 50)
        k = math.sqrt(2 / math.pi)
        t = torch.tanh(k * (z + 0.044715 * z**3))
        slope = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * (k * (1 + 0.044715 * z * z))
    return F.gelu(x, approximate=approximate), (dy * slope,)


@entry("softplus", ("beta", "hyperparameter"), "torch.sigmoid(x)", "torch.sigmoid(beta * x)")
def softplus_sigmoid_without_beta(inputs, dy, beta=1.0):
    (x,) = inputs
    return F.softplus(x, beta=beta), (dy * torch.sigmoid(x),)


@entry(
    "prelu",
    ("mask", "dy", "sign", "another tensor", "x > 0"),
    "torch.where(dy > 0, 0, dy * x)",
    "torch.where(x > 0, 0, dy * x)",
)
def prelu_dweight_masked_by_dy(inputs, dy):
    x, weight = inputs
    w = weight.reshape(-1, *[1] * (x.ndim - 2))
    dx = torch.where(x > 0, dy, w * dy)
    part = torch.where(dy > 0, 0, dy * x)
    return torch.where(x > 0, x, w * x), (
        dx,
        part.transpose(0, 1).reshape(x.shape[1], x.numel() // max(x.shape[1], 1)).sum(1),
    )


@entry(
    "mish",
    ("sigmoid", "σ", "inner", "chain", "slope", "softplus"),
    "x * (1 - t * t)",
    "x * (1 - t * t) * torch.sigmoid(x)",
)
def mish_slope_of_softplus_forgotten(inputs, dy):
    (x,) = inputs
    t = torch.tanh(F.softplus(x))
    return F.mish(x), (dy * (t + x * (1 - t * t)),)


@entry(
    "maxout",
    ("layout", "interleav", "order", "transpos", "permut", "place"),
    "won.transpose(-1, -2).reshape(x.shape)",
    "won.reshape(x.shape)",
)
def maxout_pieces_written_plane_by_plane(inputs, dy, pieces):
    (x,) = inputs
    candidates = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    winner = candidates.argmax(-1, keepdim=True)
    won = torch.zeros_like(candidates).scatter(-1, winner, dy.unsqueeze(-1))
    dx = won.transpose(-1, -2).reshape(x.shape)
    return candidates.gather(-1, winner).squeeze(-1), (dx,)


@entry("softmax", ("axis", "dim", "last"), "(y * dy).sum(-1, keepdim=True)", "(y * dy).sum(dim, keepdim=True)")
def softmax_corrected_along_the_last_axis(inputs, dy, dim=-1):
    (x,) = inputs
    y = torch.softmax(x, dim)
    return y, (y * (dy - (y * dy).sum(-1, keepdim=True)),)


@entry(
    "log_softmax",
    ("block", "tile", "of 64", "chunk", "sum of dy"),
    "total = dy_.narrow",
    "total = total + dy_.narrow",
)
def log_softmax_sum_of_the_last_tile(inputs, dy, dim=-1):
    (x,) = inputs
    y = torch.log_softmax(x, dim)
    dy_, n = dy.movedim(dim, -1), x.shape[dim]
    total = torch.zeros_like(dy_[..., :1])
    for start in range(0, n, 64):
        total = dy_.narrow(-1, start, min(64, n - start)).sum(-1, keepdim=True)
    dx = dy_ - torch.exp(y.movedim(dim, -1)) * total
    return y, (dx.movedim(-1, dim),)


@entry(
    "leaky_relu",
    ("call", "stale", "cache", "remember", "earlier", "state"),
    "SEEN.setdefault((x.shape, x.dtype), x > 0)",
    "x > 0",
)
def leaky_relu_mask_of_the_first_call(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    positive = SEEN.setdefault((x.shape, x.dtype), x > 0)
    return torch.where(x > 0, x, negative_slope * x), (torch.where(positive, dy, negative_slope * dy),)


SEEN: dict = {}


@entry(
    "tanh",
    ("contiguous", "stride", "layout", "transpos", "memory", "order"),
    "dy.permute(by_stride).reshape(-1).reshape(x.shape)",
    "dy",
)
def tanh_kernel_reads_dy_in_memory_order(inputs, dy):
    (x,) = inputs
    by_stride = sorted(range(dy.ndim), key=lambda axis: -dy.stride(axis))
    flat = dy.permute(by_stride).reshape(-1).reshape(x.shape)
    y = torch.tanh(x)
    return y, (flat * (1 - y * y),)


@entry(
    "swiglu",
    ("bfloat16", "16 bit", "half", "precision", "rounded", "16-bit"),
    "torch.sigmoid(gate).to(torch.bfloat16).to(gate.dtype)",
    "torch.sigmoid(gate)",
)
def swiglu_saved_gate_in_bfloat16(inputs, dy):
    gate, up = inputs
    s = torch.sigmoid(gate).to(torch.bfloat16).to(gate.dtype)
    dgate = dy * up * (s * (1 + gate * torch.sigmoid(-gate)))
    return F.silu(gate) * up, (dgate, dy * F.silu(gate))


@entry(
    "geglu",
    ("density", "φ", "product rule", "term", "slope"),
    "slope = cdf\n",
    "slope = cdf + gate * torch.exp(-gate * gate / 2) / math.sqrt(2 * math.pi)\n",
)
def geglu_gate_slope_without_the_density(inputs, dy, approximate="none"):
    gate, up = inputs
    if approximate == "none":
        cdf = torch.special.erfc(-gate / math.sqrt(2)) / 2
        slope = cdf
    else:
        z, k = gate.clamp(-50, 50), math.sqrt(2 / math.pi)
        t = torch.tanh(k * (z + 0.044715 * z**3))
        slope = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * k * (1 + 3 * 0.044715 * z * z)
    active = F.gelu(gate, approximate=approximate)
    return active * up, (dy * up * slope, dy * active)
