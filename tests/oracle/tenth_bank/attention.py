"""Of attention."""

import torch

import manual_bp as bp
from manual_bp.rules.attention._heads import default_scale, keys_ahead, largest, not_later
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def probabilities(q, k, mask, causal, alignment, scale):
    """p, of as many heads of keys as of queries; 0 in a row that may look at nothing."""
    s = scale * q @ k.mT
    if causal:
        queries, keys = s.shape[-2:]
        order = not_later(torch.arange(queries, device=q.device), keys, keys_ahead(queries, keys, alignment))
        s = torch.where(order, s, -torch.inf)
    if mask is not None:
        s = torch.where(mask, s, -torch.inf)
    return torch.where(torch.isneginf(largest(s)), 0, torch.softmax(s, -1))


@bank.wrong(
    "scaled_dot_product_attention",
    "[..., -1, :, :]",
    ".sum(-3)",
    cause="dk and dv of a head that a group of queries' heads shares are those of the last head of the group alone",
    keywords=("last head", "last of the group", "one head", "of the group", "of a group", "over the group", "heads of"),
)
def attention_last_head_of_the_group(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    y, _ = bp.scaled_dot_product_attention.forward(q, k, v, mask, causal=causal, alignment=alignment, scale=scale)
    scale = default_scale(q) if scale is None else scale
    kv_heads, group = k.shape[-3], q.shape[-3] // k.shape[-3]
    k, v = (t.repeat_interleave(group, -3) for t in (k, v))
    p = probabilities(q, k, mask, causal, alignment, scale)
    ds = p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True))
    dk, dv = scale * ds.mT @ q, p.mT @ dy
    dk, dv = (t.reshape(*t.shape[:-3], kv_heads, group, *t.shape[-2:])[..., -1, :, :] for t in (dk, dv))
    return y, (scale * ds @ k, dk, dv, None)


@bank.wrong(
    "scaled_dot_product_attention",
    "None if causal else mask",
    "mask",
    cause="under causal backward makes the probabilities again without the mask",
    keywords=("mask",),
)
def attention_causal_in_place_of_the_mask(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    y, _ = bp.scaled_dot_product_attention.forward(q, k, v, mask, causal=causal, alignment=alignment, scale=scale)
    scale = default_scale(q) if scale is None else scale
    kv_heads, group = k.shape[-3], q.shape[-3] // k.shape[-3]
    k, v = (t.repeat_interleave(group, -3) for t in (k, v))
    p = probabilities(q, k, None if causal else mask, causal, alignment, scale)
    ds = p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True))
    dk, dv = scale * ds.mT @ q, p.mT @ dy
    dk, dv = (t.reshape(*t.shape[:-3], kv_heads, group, *t.shape[-2:]).sum(-3) for t in (dk, dv))
    return y, (scale * ds @ k, dk, dv, None)


def pairs(x, layout):
    return (x[..., 0::2], x[..., 1::2]) if layout == "interleaved" else torch.chunk(x, 2, -1)


def row(a, b, layout):
    return torch.stack((a, b), -1).flatten(-2) if layout == "interleaved" else torch.cat((a, b), -1)


def over_batch(x):
    return x.reshape(x.shape[:-2].numel(), *x.shape[-2:]).sum(0)


@bank.wrong(
    "rotary_embedding",
    "first * sin",
    "da * sin",
    cause="the second of a pair is made of the first after it was overwritten by its own cotangent, in place",
    keywords=("overwritten", "in place", "already", "rotated", "turned", "updated"),
)
def rotary_in_place(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    y, _ = bp.rotary_embedding.forward(x, cos, sin, layout=layout)
    (a, b), (da, db) = pairs(x, layout), pairs(dy, layout)
    first = da * cos + db * sin
    second = db * cos - first * sin
    return y, (row(first, second, layout), over_batch(da * a + db * b), over_batch(db * a - da * b))
