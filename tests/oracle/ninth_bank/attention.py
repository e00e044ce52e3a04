"""Attention: causal masks, grouped heads, rotations."""

import math

import torch

from tests.oracle.ninth_bank.entry import Entry, into

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


def attended(q, k, v, mask, causal, alignment, scale, later=0):
    """Scores, which keys are looked at (`later` keys too many), and all heads of keys and values."""
    group = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    scale = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale
    s = scale * (q @ k.mT)
    allowed = torch.ones(s.shape[-2:], dtype=torch.bool, device=q.device) if mask is None else mask
    if causal:
        shift = s.shape[-1] - s.shape[-2] if alignment == "bottom-right" else 0
        allowed = allowed & torch.ones_like(allowed).tril(shift + later)
    return s, allowed, k, v, scale


def by_kv_head(d, kv_heads):
    return d.unflatten(-3, (kv_heads, d.shape[-3] // kv_heads)).sum(-3)


@entry(
    "scaled_dot_product_attention",
    ("causal", "mask", "diagonal", "future", "off by one", "later key"),
    "scale, 1)",
    "scale, 0)",
)
def flash_attention_backward_sees_one_key_too_many(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    s, allowed, ks, vs, factor = attended(q, k, v, mask, causal, alignment, scale)
    lse = torch.logsumexp(s.masked_fill(~allowed, -math.inf), -1, keepdim=True)
    lse = torch.where(torch.isneginf(lse), math.inf, lse)
    y = torch.where(allowed, torch.exp(s - lse), 0) @ vs
    # backward: p again from the log-sum-exp
    s, allowed, ks, vs, factor = attended(q, k, v, mask, causal, alignment, scale, 1)
    p = torch.where(allowed, torch.exp(s - lse), 0)
    ds = p * (dy @ vs.mT - (dy * y).sum(-1, keepdim=True))
    dk, dv = factor * ds.mT @ q, p.mT @ dy
    return y, (factor * ds @ ks, by_kv_head(dk, k.shape[-3]), by_kv_head(dv, k.shape[-3]), None)


@entry(
    "scaled_dot_product_attention",
    ("head", "group", "overwrit", "sum"),
    "dk[..., -1, :, :]",
    "dk.sum(-3)",
)
def grouped_attention_dk_of_the_last_query_head(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    s, allowed, ks, vs, factor = attended(q, k, v, mask, causal, alignment, scale)
    s = s.masked_fill(~allowed, -math.inf)
    p = torch.where(allowed.any(-1, keepdim=True), torch.softmax(s, -1), 0)
    y = p @ vs
    ds = factor * p * (dy @ vs.mT - (dy * y).sum(-1, keepdim=True))
    dk = (ds.mT @ q).unflatten(-3, (k.shape[-3], q.shape[-3] // k.shape[-3]))
    return y, (ds @ ks, dk[..., -1, :, :], by_kv_head(p.mT @ dy, k.shape[-3]), None)


@entry(
    "rotary_embedding",
    ("sign", "sin", "rotat", "interleaved", "layout", "direction"),
    "da * cos - db * sin, da * sin + db * cos",
    "da * cos + db * sin, db * cos - da * sin",
)
def rope_interleaved_turned_forward_again(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    half = x.shape[-1] // 2
    if layout == "halves":
        a, b, da, db = x[..., :half], x[..., half:], dy[..., :half], dy[..., half:]
        y = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
        dx = torch.cat([da * cos + db * sin, db * cos - 1 * da * sin], -1)
    else:
        a, b, da, db = x[..., 0::2], x[..., 1::2], dy[..., 0::2], dy[..., 1::2]
        y = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        dx = torch.stack([da * cos - db * sin, da * sin + db * cos], -1).flatten(-2)
    return y, (dx, (da * a + db * b).sum_to_size(cos.shape), (db * a - da * b).sum_to_size(sin.shape))
