"""Attention as it is varied in language models: sinks, shared key heads, windows and caps."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tests.oracle.function_bank.entry import Function, as_if_contiguous, right, wrong

HEADS = {"query": (2, 4, 5, 6), "key": (2, 2, 5, 6), "value": (2, 2, 5, 6)}
SAME_HEADS = {"query": (2, 3, 5, 4), "key": (2, 3, 5, 4), "value": (2, 3, 5, 4)}


def causal_mask(queries, keys):
    """True where a query may look; the last query looks at the last key."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def softmax_backward(p, dp):
    return p * (dp - (p * dp).sum(-1, keepdim=True))


def summed_over_group(dk, heads):
    """Cotangent of the repeated heads (batch, heads · group, ...), summed for the heads that are shared."""
    return dk.unflatten(1, (heads, -1)).sum(2)


# ------------------------------------------------------------------------------------- learned sinks, causal (gpt-oss)


def sink_attention(query, key, value, sinks):
    batch, heads, queries, width = query.shape
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    value = value.repeat_interleave(heads // value.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) * width**-0.5
    scores = scores.masked_fill(~causal_mask(queries, key.shape[2]), float("-inf"))
    combined = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(batch, -1, queries, 1)], dim=-1)
    combined = combined - combined.max(dim=-1, keepdim=True).values
    return combined.softmax(dim=-1)[..., :-1] @ value


SINK_ATTENTION = Function(sink_attention, {**HEADS, "sinks": (4,)})


def _sink_probabilities(q, k, sinks, *, with_sink=True):
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~causal_mask(q.shape[2], k.shape[2]), -torch.inf)
    sink = sinks.view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    total = torch.cat((scores, sink), -1).logsumexp(-1, keepdim=True)
    denominator = total if with_sink else scores.logsumexp(-1, keepdim=True)
    return (scores - total).exp(), (scores - denominator).exp(), (sink - total).exp()


def _sink_attention(inputs, dy, *, with_sink=True):
    q, k, v, sinks = inputs
    shared = k.shape[1]
    k, v = (x.repeat_interleave(q.shape[1] // shared, 1) for x in (k, v))
    forward_p, p, p_sink = _sink_probabilities(q, k, sinks, with_sink=with_sink)
    y = forward_p @ v
    delta = (dy * y).sum(-1, keepdim=True)
    ds = p * (dy @ v.mT - delta)
    scale = q.shape[-1] ** -0.5
    dk, dv = (summed_over_group(x, shared) for x in (scale * ds.mT @ q, p.mT @ dy))
    return y, (scale * ds @ k, dk, dv), -p_sink * delta


@right(SINK_ATTENTION, "the softmax's inner product as dy · y, the sink's gradient from it")
def sink_attention_by_delta(inputs, dy):
    y, grads, dsink = _sink_attention(inputs, dy)
    return y, (*grads, dsink.sum((0, 2, 3)))


@wrong(SINK_ATTENTION, "the sink is missing from the denominator that the backward recomputes")
def sink_attention_denominator(inputs, dy):
    y, grads, dsink = _sink_attention(inputs, dy, with_sink=False)
    return y, (*grads, dsink.sum((0, 2, 3)))


@wrong(SINK_ATTENTION, "the sink's gradient is taken from the last query alone, not summed over queries")
def sink_attention_last_query(inputs, dy):
    y, grads, dsink = _sink_attention(inputs, dy)
    return y, (*grads, dsink[:, :, -1].sum((0, 2)))


# ------------------------------------------------------------------------------------------ causal, shared key heads


def grouped_query_attention(
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch kv_heads tokens width"],
    value: Float[Tensor, "batch kv_heads tokens width"],
) -> Float[Tensor, "batch heads tokens width"]:
    """`heads` is a multiple of `kv_heads`."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


GROUPED_QUERY = Function(grouped_query_attention, HEADS)


def _grouped_query(inputs, dy, repeat):
    q, k, v = inputs
    group = q.shape[1] // k.shape[1]
    k, v = repeat(k, group), repeat(v, group)
    scale = q.shape[-1] ** -0.5
    p = (scale * q @ k.mT).masked_fill(~causal_mask(q.shape[2], k.shape[2]), -torch.inf).softmax(-1)
    ds = scale * softmax_backward(p, dy @ v.mT)
    return p @ v, ds @ k, ds.mT @ q, p.mT @ dy


def _consecutive(x, group):
    return x.repeat_interleave(group, 1)


@right(GROUPED_QUERY, "products with the repeated heads, summed over the group")
def grouped_query_summed(inputs, dy):
    y, dq, dk, dv = _grouped_query(inputs, dy, _consecutive)
    return y, (dq, *(summed_over_group(x, inputs[1].shape[1]) for x in (dk, dv)))


@right(GROUPED_QUERY, "online: keys in blocks of two with a running maximum; gradients recomputed from the logsumexp")
def grouped_query_online(inputs, dy):
    q, k, v = inputs
    group, scale = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5
    allowed = causal_mask(q.shape[2], k.shape[2])
    best = torch.full((*q.shape[:3], 1), -torch.inf, dtype=q.dtype)
    total, y = torch.zeros_like(best), torch.zeros_like(q)
    blocks = [slice(start, start + 2) for start in range(0, k.shape[2], 2)]

    def scores(keys):
        return (scale * q @ _consecutive(k[:, :, keys], group).mT).masked_fill(~allowed[:, keys], -torch.inf)

    for keys in blocks:
        s = scores(keys)
        higher = torch.maximum(best, s.amax(-1, keepdim=True))
        p, kept = (s - higher).exp(), (best - higher).exp()
        total = total * kept + p.sum(-1, keepdim=True)
        y = y * kept + p @ _consecutive(v[:, :, keys], group)
        best = higher
    y, lse = y / total, best + total.log()
    delta = (dy * y).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for keys in blocks:
        p = (scores(keys) - lse).exp()
        ds = scale * p * (dy @ _consecutive(v[:, :, keys], group).mT - delta)
        dq += ds @ _consecutive(k[:, :, keys], group)
        dk[:, :, keys] = summed_over_group(ds.mT @ q, k.shape[1])
        dv[:, :, keys] = summed_over_group(p.mT @ dy, k.shape[1])
    return y, (dq, dk, dv)


@wrong(GROUPED_QUERY, "the gradients of key and value are those of the first query head of each group, not the sum")
def grouped_query_first_head(inputs, dy):
    y, dq, dk, dv = _grouped_query(inputs, dy, _consecutive)
    group = inputs[0].shape[1] // inputs[1].shape[1]
    return y, (dq, dk[:, ::group], dv[:, ::group])


@wrong(GROUPED_QUERY, "the backward takes head h of the query to key head h mod kv heads, the forward to h // group")
def grouped_query_modulo(inputs, dy):
    y, dq, dk, dv = _grouped_query(inputs, dy, lambda x, group: x.repeat(1, group, 1, 1))
    y = grouped_query_attention(*inputs)
    heads = inputs[1].shape[1]
    return y, (dq, *(x.unflatten(1, (-1, heads)).sum(1) for x in (dk, dv)))


@wrong(GROUPED_QUERY, "dy is read as if it were contiguous")
def grouped_query_strides_assumed(inputs, dy):
    return grouped_query_summed(inputs, as_if_contiguous(dy))


# ------------------------------------------------------------------------------ sliding window, soft cap of the scores


def windowed_attention(query, key, value, *, window=1024, softcap=50.0):
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(key.shape[2])
    distance = position[:, None] - position[None, :]
    scores = torch.where((distance >= 0) & (distance < window), scores, torch.finfo(scores.dtype).min)
    return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, dim=-1), value)


WINDOWED = Function(windowed_attention, SAME_HEADS, {"window": 3, "softcap": 1.5})


def _windowed(inputs, dy, softcap, window, backward_window, slope):
    q, k, v = inputs
    capped = torch.tanh(q @ k.mT * q.shape[-1] ** -0.5 / softcap)
    distance = torch.arange(k.shape[2])[:, None] - torch.arange(k.shape[2])

    def p(window):
        outside = (distance < 0) | (distance >= window)
        return (softcap * capped).masked_fill(outside, -torch.inf).softmax(-1)

    used = p(backward_window)
    ds = softmax_backward(used, dy @ v.mT) * slope(capped) * q.shape[-1] ** -0.5
    return p(window) @ v, (ds @ k, ds.mT @ q, used.mT @ dy)


@right(WINDOWED, "the derivative of the cap as (1 - t)(1 + t)")
def windowed_factored(inputs, dy, *, window=1024, softcap=50.0):
    return _windowed(inputs, dy, softcap, window, window, lambda t: (1 - t) * (1 + t))


@wrong(WINDOWED, "the derivative of the soft cap is left out")
def windowed_cap_forgotten(inputs, dy, *, window=1024, softcap=50.0):
    return _windowed(inputs, dy, softcap, window, window, torch.ones_like)


@wrong(WINDOWED, "the window of the backward is one key longer than that of the forward")
def windowed_off_by_one(inputs, dy, *, window=1024, softcap=50.0):
    return _windowed(inputs, dy, softcap, window, window + 1, lambda t: 1 - t * t)
