"""Flash attention as it is written for a GPU: tiles of keys, a running maximum, a saved log-sum-exp."""

import math

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)

SDPA = "scaled_dot_product_attention"
LOG2E = math.log2(math.e)


def visible(q, k, mask, causal, alignment):
    """Which key each query may look at."""
    rows, columns = q.shape[-2], k.shape[-2]
    seen = torch.ones(rows, columns, dtype=torch.bool)
    if causal:
        seen = seen.tril(columns - rows if alignment == "bottom-right" else 0)
    return seen if mask is None else seen & mask


def grouped(x, group):
    return x.repeat_interleave(group, -3)


def summed(x, group):
    return x.unflatten(-3, (-1, group)).sum(-3)


def weights(q, k, seen, scale):
    """Probabilities of each query's keys, 0 where there is none, and the log-sum-exp."""
    scores = (q @ k.mT * scale).masked_fill(~seen, -math.inf)
    lse = torch.logsumexp(scores, -1, keepdim=True)
    return torch.exp(scores - lse.masked_fill(lse == -math.inf, 0)), lse


@bank.wrong(
    SDPA,
    "the scores are taken in base 2, and what goes back to q lacks the ln 2 that makes it natural again",
    "1.44",
    "log2",
    "ln 2",
    "log 2",
    "base 2",
    mend=("dq = ds @ grouped(k, group) * qk_scale", "dq = ds @ grouped(k, group) * qk_scale / LOG2E"),
    min_size=1,
)
def flash_in_base_two(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group = q.shape[-3] // k.shape[-3]
    qk_scale = (q.shape[-1] ** -0.5 if scale is None else scale) * LOG2E
    seen = visible(q, k, mask, causal, alignment)
    scores = (q @ grouped(k, group).mT * qk_scale).masked_fill(~seen, -math.inf)
    m = scores.amax(-1, keepdim=True)
    m = m.masked_fill(m == -math.inf, 0)
    p = torch.exp2(scores - m)
    p = p / p.sum(-1, keepdim=True).clamp_min(1e-30)
    y = p @ grouped(v, group)

    dp = dy @ grouped(v, group).mT
    ds = p * (dp - (dy * y).sum(-1, keepdim=True))
    dq = ds @ grouped(k, group) * qk_scale
    dk = ds.mT @ q * (qk_scale / LOG2E)
    return y, (dq, summed(dk, group), summed(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "the log-sum-exp that is saved for backward is made of the last tile's maximum, not the running one",
    "keys",
    "lse",
    "log-sum-exp",
    "logsumexp",
    "maximum",
    "normalis",
    "probabilit",
    "last block",
    "last tile",
    mend=("lse = largest + torch.log(total)", "lse = m + torch.log(total)"),
    min_size=1,
)
def flash_with_a_stale_maximum(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group, tile = q.shape[-3] // k.shape[-3], 16
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seen, kk, vv = visible(q, k, mask, causal, alignment), grouped(k, group), grouped(v, group)
    m = q.new_full((*q.shape[:-1], 1), -math.inf)
    total, acc = torch.zeros_like(m), q.new_zeros(*q.shape[:-1], v.shape[-1])
    largest = m
    for j in range(0, k.shape[-2], tile):
        s = (q @ kk[..., j : j + tile, :].mT * scale).masked_fill(~seen[:, j : j + tile], -math.inf)
        largest = s.amax(-1, keepdim=True)
        new = torch.maximum(m, largest)
        safe = new.masked_fill(new == -math.inf, 0)
        p = torch.exp(s - safe)
        shrink = torch.exp(m - safe)
        total = total * shrink + p.sum(-1, keepdim=True)
        acc = acc * shrink + p @ vv[..., j : j + tile, :]
        m = new
    y = acc / total.masked_fill(total == 0, 1)
    lse = largest + torch.log(total)
    lse = lse.masked_fill(lse == -math.inf, 0)

    delta = (dy * y).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(kk), torch.zeros_like(vv)
    for j in range(0, k.shape[-2], tile):
        block = slice(j, j + tile)
        s = (q @ kk[..., block, :].mT * scale).masked_fill(~seen[:, block], -math.inf)
        p = torch.exp(s - lse)
        dv[..., block, :] = p.mT @ dy
        ds = p * (dy @ vv[..., block, :].mT - delta) * scale
        dq += ds @ kk[..., block, :]
        dk[..., block, :] = ds.mT @ q
    return y, (dq, summed(dk, group), summed(dv, group), None)


@bank.wrong(
    SDPA,
    "dk of a tile of keys is stored in each turn of the loop over blocks of queries, so that the last block's is left",
    "queries",
    "last block",
    "last tile",
    "overwrit",
    "assign",
    "accumulat",
    "added up",
    "not summed",
    mend=("dk = ds.mT @ q[..., i : i + rows, :]", "dk = dk + ds.mT @ q[..., i : i + rows, :]"),
    min_size=1,
)
def attention_dk_of_the_last_queries(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group, rows = q.shape[-3] // k.shape[-3], 32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seen, kk, vv = visible(q, k, mask, causal, alignment), grouped(k, group), grouped(v, group)
    p, _ = weights(q, kk, seen, scale)
    y = p @ vv

    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(kk), torch.zeros_like(vv)
    for i in range(0, q.shape[-2], rows):
        p_i, dy_i = p[..., i : i + rows, :], dy[..., i : i + rows, :]
        delta = (dy_i * y[..., i : i + rows, :]).sum(-1, keepdim=True)
        ds = p_i * (dy_i @ vv.mT - delta) * scale
        dq[..., i : i + rows, :] = ds @ kk
        dk = ds.mT @ q[..., i : i + rows, :]
        dv = dv + p_i.mT @ dy_i
    return y, (dq, summed(dk, group), summed(dv, group), None)


@bank.wrong(
    SDPA,
    "the weights that backward computes again know the causal mask, and not the one that is given",
    "mask",
    "forbidden",
    "allowed",
    mend=("visible(q, k, None, causal, alignment)", "visible(q, k, mask, causal, alignment)"),
    min_size=1,
)
def attention_recomputes_without_the_mask(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group = q.shape[-3] // k.shape[-3]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    kk, vv = grouped(k, group), grouped(v, group)
    p, lse = weights(q, kk, visible(q, k, mask, causal, alignment), scale)
    y = p @ vv

    again = (q @ kk.mT * scale).masked_fill(~visible(q, k, None, causal, alignment), -math.inf)
    p = torch.where(lse == -math.inf, 0, torch.exp(again - lse))
    ds = p * (dy @ vv.mT - (dy * y).sum(-1, keepdim=True)) * scale
    return y, (ds @ kk, summed(ds.mT @ q, group), summed(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "the row term D lies in memory by query and head, and is read by head and query",
    "row term",
    "row's term",
    "row sum",
    "dot product",
    "projection",
    "delta",
    " d ",
    "mean of",
    "other head",
    "wrong row",
    "another row",
    "permut",
    "transpos",
    "heads",
    mend=("delta.mT.contiguous().view(delta.shape)", "delta"),
    min_size=1,
)
def attention_reads_d_by_head(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group = q.shape[-3] // k.shape[-3]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    kk, vv = grouped(k, group), grouped(v, group)
    p, _ = weights(q, kk, visible(q, k, mask, causal, alignment), scale)
    y = p @ vv

    delta = (dy * y).sum(-1)  # (batch, heads, queries)
    stored = delta.mT.contiguous().view(delta.shape)
    ds = p * (dy @ vv.mT - stored[..., None]) * scale
    return y, (ds @ kk, summed(ds.mT @ q, group), summed(p.mT @ dy, group), None)


@bank.wrong(
    "rotary_embedding",
    "the pairs of an interleaved row are turned back rightly and stored as halves",
    "interleaved",
    "layout",
    "order",
    "permut",
    "halves",
    mend=("torch.cat([da, db], -1)  # one row again", "pack(da, db)"),
)
def rotary_stores_halves(inputs, dy, layout="halves"):
    x, cos, sin = inputs

    def pairs(row):
        return row.chunk(2, -1) if layout == "halves" else (row[..., 0::2], row[..., 1::2])

    def pack(a, b):
        return torch.cat([a, b], -1) if layout == "halves" else torch.stack([a, b], -1).flatten(-2)

    a, b = pairs(x)
    y = pack(a * cos - b * sin, a * sin + b * cos)
    dya, dyb = pairs(dy)
    da, db = dya * cos + dyb * sin, dyb * cos - dya * sin
    dx = torch.cat([da, db], -1)  # one row again
    dcos = (dya * a + dyb * b).sum_to_size(cos.shape)
    dsin = (dyb * a - dya * b).sum_to_size(sin.shape)
    return y, (dx, dcos, dsin)
