"""Attention with learned slopes, padding and without softmax; rotary positions; a norm that casts to float32."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tests.oracle.function_bank.attention import SAME_HEADS, softmax_backward
from tests.oracle.function_bank.entry import BF16, F16, F32, Function, ids, mask, normal, right, uniform, wrong

# ------------------------------------------------------------------------------------------------ ALiBi, learned slopes


def alibi_attention(query, key, value, slopes):
    positions = torch.arange(key.shape[-2], dtype=query.dtype)
    bias = -(positions[:, None] - positions[None, :]).clamp(min=0)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + slopes[:, None, None] * bias
    hidden = torch.full_like(bias, float("-inf")).triu(1)
    return (scores + hidden).softmax(-1) @ value


ALIBI = Function(alibi_attention, {**SAME_HEADS, "slopes": uniform(3, low=0.1, high=1)})


def _alibi(inputs, dy):
    q, k, v, slopes = inputs
    position = torch.arange(k.shape[-2], dtype=q.dtype)
    bias = position - position[:, None]
    scores = q @ k.mT * q.shape[-1] ** -0.5 + slopes[:, None, None] * bias
    p = scores.masked_fill(bias > 0, -torch.inf).softmax(-1)
    ds = softmax_backward(p, dy @ v.mT)
    scaled = ds * q.shape[-1] ** -0.5
    return p @ v, (scaled @ k, scaled.mT @ q, p.mT @ dy), ds * bias


@right(ALIBI, "distances with their sign, hidden where positive")
def alibi_signed(inputs, dy):
    y, grads, each = _alibi(inputs, dy)
    return y, (*grads, each.sum((0, 2, 3)))


@wrong(ALIBI, "the slopes' gradient is averaged over the batch, not summed")
def alibi_batch_mean(inputs, dy):
    y, grads, each = _alibi(inputs, dy)
    return y, (*grads, each.sum((2, 3)).mean(0))


@wrong(ALIBI, "the slopes' gradient has the wrong sign: the distance is counted towards the past")
def alibi_sign(inputs, dy):
    y, grads, each = _alibi(inputs, dy)
    return y, (*grads, -each.sum((0, 2, 3)))


# ---------------------------------------------------------------------------------------------- padding as a bool mask


def padded_attention(
    query: Float[Tensor, "batch queries width"],
    key: Float[Tensor, "batch keys width"],
    value: Float[Tensor, "batch keys out"],
    kept: Bool[Tensor, "batch keys"],
    *,
    scale: float | None = None,
) -> Float[Tensor, "batch queries out"]:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    scores.masked_fill_(~kept.unsqueeze(1), float("-inf"))
    return torch.bmm(scores.softmax(2), value)


PADDED = Function(
    padded_attention, {"query": (3, 4, 5), "key": (3, 6, 5), "value": (3, 6, 2), "kept": mask(3, 6)}, {"scale": 0.7}
)


def _padded(inputs, scale):
    q, k, _, kept = inputs
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * q @ k.mT
    return scale, scores, scores.masked_fill(~kept[:, None], -torch.inf)


@right(PADDED, "probabilities from the logsumexp")
def padded_by_logsumexp(inputs, dy, *, scale=None):
    q, k, v, _ = inputs
    scale, _, scores = _padded(inputs, scale)
    p = (scores - scores.logsumexp(-1, keepdim=True)).exp()
    y = p @ v
    ds = scale * p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True))
    return y, (ds @ k, ds.mT @ q, p.mT @ dy, None)


@wrong(PADDED, "the mask is not applied to the probabilities that the backward recomputes")
def padded_mask_forgotten(inputs, dy, *, scale=None):
    q, k, v, _ = inputs
    scale, unmasked, scores = _padded(inputs, scale)
    p = unmasked.softmax(-1)
    ds = scale * softmax_backward(p, dy @ v.mT)
    return scores.softmax(-1) @ v, (ds @ k, ds.mT @ q, p.mT @ dy, None)


@wrong(
    PADDED,
    "probabilities without the maximum taken off: they overflow where scores are large",
    shown_by={"query": normal(3, 4, 5, scale=60), "key": normal(3, 6, 5, scale=60)},
)
def padded_overflow(inputs, dy, *, scale=None):
    q, k, v, _ = inputs
    scale, _, scores = _padded(inputs, scale)
    p = scores.exp() / scores.exp().sum(-1, keepdim=True)
    ds = scale * softmax_backward(p, dy @ v.mT)
    return scores.softmax(-1) @ v, (ds @ k, ds.mT @ q, p.mT @ dy, None)


# ------------------------------------------------------------------------------ causal linear attention, normalised


def linear_attention(query, key, value, *, eps=1e-6):
    q, k = F.elu(query) + 1, F.elu(key) + 1
    state = torch.cumsum(torch.einsum("bnd,bne->bnde", k, value), dim=1)
    norm = torch.einsum("bnd,bnd->bn", q, k.cumsum(dim=1)) + eps
    return torch.einsum("bnd,bnde->bne", q, state) / norm.unsqueeze(-1)


LINEAR_ATTENTION = Function(linear_attention, {"query": (2, 6, 3), "key": (2, 6, 3), "value": (2, 6, 4)})


def _linear_attention(inputs, dy, eps, *, through_norm=True):
    """As one masked product of queries and keys: (q kᵀ, lower triangle) v, over its row sums."""
    query, key, v = inputs
    q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (query, key))
    a = (q @ k.mT).tril()
    norm = a.sum(-1, keepdim=True) + eps
    y = a @ v / norm
    dnumerator = dy / norm
    da = dnumerator @ v.mT
    dnorm = -(dnumerator * y).sum(-1, keepdim=True)
    da_q, da_k = (da + dnorm).tril(), (da + (dnorm if through_norm else 0)).tril()
    dq, dk = da_q @ k, da_k.mT @ q
    return y, (dq * q.clamp(max=1), dk * k.clamp(max=1), a.mT @ dnumerator)


@right(LINEAR_ATTENTION, "as one masked product in place of running sums")
def linear_attention_as_product(inputs, dy, *, eps=1e-6):
    return _linear_attention(inputs, dy, eps)


@wrong(LINEAR_ATTENTION, "the key's gradient lacks the path through the normaliser")
def linear_attention_norm_path(inputs, dy, *, eps=1e-6):
    return _linear_attention(inputs, dy, eps, through_norm=False)


@wrong(LINEAR_ATTENTION, "the value's gradient is summed from the past, where it must come from the future")
def linear_attention_not_reversed(inputs, dy, *, eps=1e-6):
    y, (dq, dk, _) = _linear_attention(inputs, dy, eps)
    q, k = (F.elu(x) + 1 for x in inputs[:2])
    a = (q @ k.mT).tril()
    return y, (dq, dk, (q @ k.mT).triu().mT @ (dy / (a.sum(-1, keepdim=True) + eps)))


# ----------------------------------------------------------------------- rotary positions of queries and keys, by index


def rotary(query, key, positions, *, theta=10000.0):
    """positions (batch, tokens), of integers; the halves of the width are the pairs."""
    width = query.shape[-1]
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=query.dtype) / width)
    angle = positions[:, None, :, None].to(query.dtype) * frequencies
    angle = torch.cat((angle, angle), dim=-1)
    cos, sin = angle.cos(), angle.sin()

    def rotate_half(x):
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    return query * cos + rotate_half(query) * sin, key * cos + rotate_half(key) * sin


ROTARY = Function(
    rotary, {"query": (2, 4, 5, 8), "key": (2, 2, 5, 8), "positions": ids(2, 5, below=40)}, {"theta": 500.0}
)


def _turned(x, positions, theta, direction):
    """The pairs (first, second half) turned by `direction` times their angle."""
    width = x.shape[-1]
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = positions[:, None, :, None] * frequencies
    cos, sin = angle.cos(), direction * angle.sin()
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@right(ROTARY, "the transpose as the turn by the opposite angle")
def rotary_turned_back(inputs, dy, *, theta=10000.0):
    query, key, positions = inputs
    y = tuple(_turned(x, positions, theta, 1) for x in (query, key))
    return y, (*(_turned(d, positions, theta, -1) for d in dy), None)


@right(ROTARY, "pairs as complex numbers, multiplied by the conjugate of their turn")
def rotary_complex(inputs, dy, *, theta=10000.0):
    query, key, positions = inputs
    half = query.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=query.dtype) / half)
    turn = torch.polar(torch.ones((), dtype=query.dtype), positions[:, None, :, None] * frequencies)

    def turned(x, turn):
        z = torch.complex(*(half.contiguous() for half in x.chunk(2, -1))) * turn
        return torch.cat((z.real, z.imag), -1)

    return (turned(query, turn), turned(key, turn)), (*(turned(d, turn.conj()) for d in dy), None)


@wrong(ROTARY, "the key's gradient is turned forward, not back")
def rotary_key_forward(inputs, dy, *, theta=10000.0):
    y, (dquery, _, _) = rotary_turned_back(inputs, dy, theta=theta)
    return y, (dquery, _turned(dy[1], inputs[2], theta, 1), None)


@wrong(ROTARY, "positions are counted from 0 in the backward; those that are passed are ignored")
def rotary_positions_ignored(inputs, dy, *, theta=10000.0):
    y, _ = rotary_turned_back(inputs, dy, theta=theta)
    counted = torch.arange(inputs[2].shape[1]).expand_as(inputs[2])
    return y, (*(_turned(d, counted, theta, -1) for d in dy), None)


# ---------------------------------------------------------------------- RMSNorm as the Llama models have it, with casts


def llama_rms_norm(hidden, weight, *, eps=1e-6):
    """Computes in float32 whatever comes, also in float64: judge it in float32 and in 16 bits."""
    input_dtype = hidden.dtype
    hidden = hidden.to(torch.float32)
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return weight * (hidden * torch.rsqrt(variance + eps)).to(input_dtype)


LLAMA_RMS_NORM = Function(llama_rms_norm, {"hidden": (3, 4, 10), "weight": (10,)}, dtypes=(F32, F16, BF16))


@right(LLAMA_RMS_NORM, "in float32 throughout, rounded once")
def llama_rms_norm_closed(inputs, dy, *, eps=1e-6):
    x, weight = inputs
    rstd = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    n, dn = x * rstd, dy * weight
    return n * weight, (rstd * (dn - n * (dn * n).mean(-1, keepdim=True)), (dy * n).sum((0, 1)))


@wrong(
    LLAMA_RMS_NORM,
    "everything is held in bfloat16, and the weight's gradient added up there, row after row",
    shows=(BF16,),
    shown_by={"hidden": (9, 40, 10)},
    inside=False,
)
def llama_rms_norm_sixteen_bits(inputs, dy, *, eps=1e-6):
    x, weight = inputs
    rstd = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    n = (x * rstd).to(x.dtype)
    dn = dy * weight
    dx = rstd * (dn - n * (dn * n).mean(-1, keepdim=True))
    dweight = torch.zeros_like(weight)
    for row in (dy * n).reshape(-1, x.shape[-1]):
        dweight += row
    return n * weight, (dx, dweight)


@wrong(LLAMA_RMS_NORM, "dy is not multiplied by the weight before the projection")
def llama_rms_norm_weight_in_projection(inputs, dy, *, eps=1e-6):
    x, weight = inputs
    y, (_, dweight) = llama_rms_norm_closed(inputs, dy, eps=eps)
    rstd = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    n = x * rstd
    return y, (rstd * (dy * weight - n * (dy * n).mean(-1, keepdim=True)), dweight)
