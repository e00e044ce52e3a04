"""Attention, rotary embedding, norms of rows and groups, gated units, embedding, costs of language models."""

import math

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def _rows(t):
    """All axes but the last as one; said in numbers, since −1 is ambiguous where an axis is empty."""
    return t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


def _seen(q, k, causal, shift):
    """Which keys each query may look at under causal, and all of them otherwise."""
    i, j = torch.arange(q.shape[-2]), torch.arange(k.shape[-2])
    return j[None, :] <= i[:, None] + shift if causal else torch.ones(len(i), len(j), dtype=torch.bool)


def _shift(q, k, alignment):
    return k.shape[-2] - q.shape[-2] if alignment == "bottom-right" else 0


def _by_group(t, k):
    """(..., heads, rows, width) as (..., kv_heads, group, rows, width)."""
    heads = k.shape[-3]
    return t.reshape(*t.shape[:-3], heads, t.shape[-3] // heads, *t.shape[-2:])


def _probabilities(q, k, c, seen):
    s = torch.einsum("...hgqw,...hkw->...hgqk", q, k) * c
    s = torch.where(seen, s, -torch.inf)
    top = s.amax(-1, keepdim=True) if s.shape[-1] else s.new_full((*s.shape[:-1], 1), -torch.inf)
    e = torch.exp(s - torch.where(top == -torch.inf, 0, top))
    return e / e.sum(-1, keepdim=True).masked_fill(top == -torch.inf, 1)


def _cotangents(p, q, k, v, g, c):
    """dq, dk and dv from p and the cotangent of y, all by group."""
    dp = torch.einsum("...hgqv,...hkv->...hgqk", g, v)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * c
    dq = torch.einsum("...hgqk,...hkw->...hgqw", ds, k)
    dk = torch.einsum("...hgqk,...hgqw->...hkw", ds, q)
    return dq, dk, torch.einsum("...hgqk,...hgqv->...hkv", p, g)


@bank.wrong(
    "scaled_dot_product_attention",
    "backward recomputes the bottom-right causal mask with queries − keys for keys − queries",
    "bottom-right", "alignment", "causal", "mask", "offset", "shift",
)  # fmt: skip
def attention_offset_the_other_way_in_backward(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    c = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
    grouped, g = _by_group(q, k), _by_group(dy, k)
    shown = torch.ones((), dtype=torch.bool) if mask is None else mask
    p = _probabilities(grouped, k, c, shown & _seen(q, k, causal, _shift(q, k, alignment)))
    y = torch.einsum("...hgqk,...hkv->...hgqv", p, v).reshape(dy.shape)
    p = _probabilities(grouped, k, c, shown & _seen(q, k, causal, -_shift(q, k, alignment)))
    dq, dk, dv = _cotangents(p, grouped, k, v, g, c)
    return y, (dq.reshape(q.shape), dk, dv, None)


@bank.wrong(
    "scaled_dot_product_attention",
    "the softmax goes through the keys in blocks of 32 and does not rescale y when a block raises the largest score",
    "rescal", "block", "largest", "maximum", "32 keys", "keys beyond", "many keys",
)  # fmt: skip
def attention_online_without_rescaling(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    c = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
    grouped, g = _by_group(q, k), _by_group(dy, k)
    seen = _seen(q, k, causal, _shift(q, k, alignment)) & (True if mask is None else mask)
    s = torch.where(seen, torch.einsum("...hgqw,...hkw->...hgqk", grouped, k) * c, -torch.inf)
    top = s.new_full((*s.shape[:-1], 1), -torch.inf)
    total = torch.zeros_like(top)
    y = torch.zeros_like(g)
    for start in range(0, s.shape[-1], 32):
        s_b, v_b = s[..., start : start + 32], v[..., start : start + 32, :]
        higher = torch.maximum(top, s_b.amax(-1, keepdim=True))
        base = torch.where(higher == -torch.inf, 0, higher)
        e = torch.exp(s_b - base)
        total = total * torch.exp(top - base) + e.sum(-1, keepdim=True)
        y = y + torch.einsum("...hgqk,...hkv->...hgqv", e, v_b)
        top = higher
    base = torch.where(top == -torch.inf, 0, top)
    total = torch.where(total == 0, 1, total)
    y = y / total
    p = torch.exp(s - base) / total
    dv = torch.einsum("...hgqk,...hgqv->...hkv", p, g)
    dp = torch.einsum("...hgqv,...hkv->...hgqk", g, v)
    ds = p * (dp - (g * y).sum(-1, keepdim=True)) * c
    dq = torch.einsum("...hgqk,...hkw->...hgqw", ds, k)
    dk = torch.einsum("...hgqk,...hgqw->...hkw", ds, grouped)
    return y.reshape(dy.shape), (dq.reshape(q.shape), dk, dv, None)


@bank.wrong(
    "scaled_dot_product_attention",
    "where both are given, a key is seen that the mask or causal allows, and not only one that both allow",
    "mask causal", "mask", "causal", "either",
)  # fmt: skip
def attention_mask_or_causal(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    c = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
    seen = _seen(q, k, causal, _shift(q, k, alignment))
    if mask is not None:
        seen = (mask | seen) if causal else mask
    grouped = _by_group(q, k)
    p = _probabilities(grouped, k, c, seen)
    dq, dk, dv = _cotangents(p, grouped, k, v, _by_group(dy, k), c)
    y = torch.einsum("...hgqk,...hkv->...hgqv", p, v)
    return y.reshape(dy.shape), (dq.reshape(q.shape), dk, dv, None)


@bank.wrong(
    "scaled_dot_product_attention",
    "p is rounded to bfloat16 before the product that gives dv",
    "bfloat16", "16 bits", "rounded", "precision", "bf16",
)  # fmt: skip
def attention_dv_from_p_in_bfloat16(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    c = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
    seen = _seen(q, k, causal, _shift(q, k, alignment)) & (True if mask is None else mask)
    grouped, g = _by_group(q, k), _by_group(dy, k)
    p = _probabilities(grouped, k, c, seen)
    dq, dk, _ = _cotangents(p, grouped, k, v, g, c)
    dv = torch.einsum("...hgqk,...hgqv->...hkv", p.bfloat16().to(p.dtype), g)
    y = torch.einsum("...hgqk,...hkv->...hgqv", p, v)
    return y.reshape(dy.shape), (dq.reshape(q.shape), dk, dv, None)


@bank.wrong(
    "rotary_embedding",
    "dcos and dsin are made of pairs of the two halves, also where neighbours are pairs; dx is right",
    "layout", "halves", "interleaved", "neighbour", "pairs",
)  # fmt: skip
def rotary_dcos_of_halves_for_neighbours(inputs, dy, layout="halves"):
    x, cos, sin = inputs

    def pairs(t):
        return t.chunk(2, -1) if layout == "halves" else (t[..., 0::2], t[..., 1::2])

    def joined(a, b):
        return torch.cat((a, b), -1) if layout == "halves" else torch.stack((a, b), -1).flatten(-2)

    (a, b), (ga, gb) = pairs(x), pairs(dy)
    y = joined(a * cos - b * sin, b * cos + a * sin)
    dx = joined(ga * cos + gb * sin, gb * cos - ga * sin)
    (a, b), (ga, gb) = x.chunk(2, -1), dy.chunk(2, -1)
    dcos, dsin = (ga * a + gb * b).sum_to_size(cos.shape), (gb * a - ga * b).sum_to_size(sin.shape)
    return y, (dx, dcos, dsin)


@bank.wrong(
    "layer_norm",
    "dweight and dbias are added up by 8 programs of 64 rows each: rows behind the 512th are never read",
    "512 rows", "512th", "rows beyond", "many rows", "first rows", "last rows", "rows left", "rows are missing",
)  # fmt: skip
def layer_norm_eight_programs(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    n = x.shape[-1]
    rows, g = _rows(x), _rows(dy)
    centred = rows - rows.mean(1, keepdim=True)
    s = torch.rsqrt(torch.linalg.vecdot(centred, centred)[:, None] / n + eps)
    xhat = centred * s
    partial = torch.zeros(2, 8, n, dtype=x.dtype)
    for program in range(8):
        mine = slice(64 * program, 64 * program + 64)
        partial[0, program] = (g[mine] * xhat[mine]).sum(0)
        partial[1, program] = g[mine].sum(0)
    h = g if weight is None else g * weight
    dx = s * (h - h.mean(1, keepdim=True) - xhat * (h * xhat).mean(1, keepdim=True))
    y = xhat if weight is None else xhat * weight
    y = y if bias is None else y + bias
    dweight, dbias = partial.sum(1)
    grads = (dx.reshape(x.shape), None if weight is None else dweight, None if bias is None else dbias)
    return y.reshape(x.shape), grads


@bank.wrong(
    "layer_norm",
    "x̂ is recovered as (y − bias) / weight, which is 0/0 where the weight is 0",
    "weight 0", "0/0", "nan", "recover", "divided by weight", "weight is zero",
)  # fmt: skip
def layer_norm_recovers_xhat_from_y(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    n = x.shape[-1]
    variance = torch.var(x, -1, correction=0, keepdim=True)
    s = (variance + eps) ** -0.5
    y = F.layer_norm(x, (n,), weight, bias, eps)
    xhat = y if bias is None else y - bias
    xhat = xhat if weight is None else xhat / weight
    h = dy if weight is None else dy * weight
    dx = s / n * (n * h - h.sum(-1, keepdim=True) - xhat * (h * xhat).sum(-1, keepdim=True))
    rows = tuple(range(x.ndim - 1))
    dweight = (dy * xhat).sum(rows) if rows else dy * xhat
    dbias = dy.sum(rows) if rows else dy.clone()
    return y, (dx, None if weight is None else dweight, None if bias is None else dbias)


@bank.wrong(
    "rms_norm",
    "the offset is added to the weight of the direct term but not to that of the projection",
    "offset",
)  # fmt: skip
def rms_norm_projection_without_offset(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    s = 1 / torch.sqrt(torch.einsum("...i,...i->...", x, x) / x.shape[-1] + eps)[..., None]
    full = torch.ones_like(x[..., :1]) if weight is None else weight + offset
    stored = torch.ones_like(x[..., :1]) if weight is None else weight
    dot = (dy * stored * x).sum(-1, keepdim=True)
    dx = s * (dy * full) - x * dot * s**3 / x.shape[-1]
    return x * s * full, (dx, None if weight is None else (dy * x * s).sum_to_size(weight.shape))


_RSTD: dict = {}


@bank.wrong(
    "rms_norm",
    "1/rms is kept by the shape of x, and a later call of that shape takes the one of an earlier x in its backward",
    "cache", "remember", "earlier call", "call before", "stale", "state", "kept", "another call", "previous call",
)  # fmt: skip
def rms_norm_keeps_its_statistic(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    s = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    full = 1.0 if weight is None else weight + offset
    y = x * s * full
    s = _RSTD.setdefault((x.shape, x.dtype), s)
    xhat, h = x * s, dy * full
    dx = s * (h - xhat * (h * xhat).mean(-1, keepdim=True))
    return y, (dx, None if weight is None else (dy * xhat).sum_to_size(weight.shape))


@bank.wrong(
    "group_norm",
    "backward reads the weight as if the channels of a group were strided (channel = member · groups + group)",
    "weight order", "weight channel", "weight permut", "weight transposed", "another channel", "other channels",
    "interleav",
)  # fmt: skip
def group_norm_weight_in_another_order(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    b, channels = x.shape[:2]
    members = channels // groups
    z, g = (t.reshape(b, groups, members, math.prod(x.shape[2:])) for t in (x, dy))
    centred = z - z.mean((2, 3), keepdim=True)
    s = torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + eps)
    xhat = centred * s
    w = torch.ones(channels, dtype=x.dtype) if weight is None else weight
    y = xhat * w.reshape(groups, members, 1)
    if bias is not None:
        y = y + bias.reshape(groups, members, 1)
    h = g * w.reshape(members, groups).T[..., None]
    dx = s * (h - h.mean((2, 3), keepdim=True) - xhat * (h * xhat).mean((2, 3), keepdim=True))
    dweight = None if weight is None else (g * xhat).sum((0, 3)).reshape(channels)
    dbias = None if bias is None else g.sum((0, 3)).reshape(channels)
    return y.reshape(x.shape), (dx.reshape(x.shape), dweight, dbias)


@bank.wrong(
    "swiglu",
    "dup's silu is made in the buffer of the gate, and dgate then takes silu(gate) for the gate",
    "silu gate", "written over", "overwritten", "output for", "own output", "in place of gate",
)  # fmt: skip
def swiglu_gate_overwritten_before_dgate(inputs, dy):
    gate, up = inputs
    work = gate.clone()
    s = torch.sigmoid(work)
    dup = work.mul_(s) * dy
    y = work * up
    dgate = dy * up * s * (1 + work * (1 - s))
    return y, (dgate, dup)


@bank.wrong(
    "embedding",
    "rows are added by dweight[ids] += g, sequence by sequence: a token that a sequence repeats counts once in it",
    "repeat", "duplicate", "more than once", "twice", "last of",
)  # fmt: skip
def embedding_fancy_indexing_by_sequence(inputs, dy, padding_idx=None):
    index, weight = inputs
    dweight = torch.zeros_like(weight)
    width = index.shape[-1] if index.ndim else 1
    if index.numel():
        sequences = zip(index.reshape(-1, width), _rows(dy).unflatten(0, (-1, width)), strict=True)
        for ids, g in sequences:
            dweight[ids] += g
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return weight[index], (None, dweight)


@bank.wrong(
    "kl_div",
    "batchmean divides by the number of rows of the last axis and not by the batch: other than 2 axes are off",
    "batch axis", "rows", "divided by", "positions", "factor", "mean over", "times what",
)  # fmt: skip
def kl_div_mean_over_rows(inputs, dy, reduction="batchmean"):
    x, target = inputs
    y = (torch.special.xlogy(target, target) - torch.where(target == 0, 0, target * x)).sum()
    forward_n = x.shape[0] if reduction == "batchmean" else 1
    backward_n = math.prod(x.shape[:-1]) if reduction == "batchmean" and x.ndim > 1 else forward_n
    g = dy / backward_n
    return y / forward_n, (-g * target, g * (target.log() + 1 - x))


@bank.wrong(
    "huber",
    "backward takes |r| < 1 for the parabola, whatever delta is",
    "delta 1", "delta", "threshold",
)  # fmt: skip
def huber_parabola_within_one(inputs, dy, delta=1.0, reduction="mean"):
    x, target = inputs
    r = x - target
    a = r.abs()
    cost = torch.where(a <= delta, r * r / 2, delta * (a - delta / 2))
    n = r.numel() if reduction == "mean" else 1
    dx = dy / n * torch.where(a <= 1.0, r, delta * torch.sign(r))
    return cost.sum() / n, (dx, -dx)


@bank.wrong(
    "fused_linear_cross_entropy",
    "ignored rows are left out of dx, but their logits' cotangents stay in the product that gives dweight",
    "ignored dweight", "ignore_index dweight", "ignored rows", "ignored", "ignore_index",
)  # fmt: skip
def fused_cross_entropy_ignored_rows_in_dweight(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    classes = len(weight)
    counts = target != ignore_index
    n = counts.sum() if reduction == "mean" else 1
    dx, dweight = torch.zeros_like(x), torch.zeros_like(weight)
    cost = x.new_zeros(())
    for start in range(0, len(x), 16):
        part = slice(start, start + 16)
        label = torch.where(counts[part], target[part], 0)[:, None]
        z = torch.log_softmax(x[part] @ weight.T, 1)
        row = (label_smoothing - 1) * z.gather(1, label)[:, 0]
        if label_smoothing:  # 0 · ∞ where a class is impossible
            row = row - label_smoothing * z.mean(1)
        cost = cost + torch.where(counts[part], row, 0).sum()
        dz = z.exp() - label_smoothing / classes
        dz.scatter_add_(1, label, dz.new_full(label.shape, label_smoothing - 1))
        dz *= dy / n
        dx[part] = torch.where(counts[part, None], dz @ weight, 0)
        dweight += dz.T @ x[part]
    return cost / n, (dx, dweight, None)


@bank.wrong(
    "softmax_cross_entropy",
    "the classes lie in two shards, and a label of the first shard is clamped into the second one, "
    "whose first class then gets a −1 as well",
    "another class", "other class", "two classes", "first class", "label",
)  # fmt: skip
def cross_entropy_label_in_both_shards(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    classes = x.shape[1]
    half = (classes + 1) // 2
    logits = x.movedim(1, -1)
    z = logits - torch.logsumexp(logits, -1, keepdim=True)
    w = x.new_ones(classes) if weight is None else weight
    counts = target != ignore_index
    label = torch.where(counts, target, 0)
    w_c = w[label] * counts
    total = w_c.sum() if reduction == "mean" else 1
    smooth = label_smoothing / classes
    hard, soft = -w_c * z.gather(-1, label[..., None])[..., 0], -(z @ w) * counts
    y = (1 - label_smoothing) * hard.sum() / total
    if label_smoothing:  # 0 · ∞ where a class is impossible
        y = y + smooth * soft.sum() / total
    p = z.exp()
    dz = (1 - label_smoothing) * w_c[..., None] * p + smooth * (w.sum() * p - w) * counts[..., None]
    for start, stop in ((0, half), (half, classes)):
        if stop > start:
            mine = (label - start).clamp(min=0)
            inside = mine < stop - start
            taken = torch.where(inside, (label_smoothing - 1) * w_c, 0)[..., None]
            dz[..., start:stop].scatter_add_(-1, mine.clamp(max=stop - start - 1)[..., None], taken)
    return y, (torch.where(counts[..., None], dy / total * dz, 0).movedim(-1, 1), None, None)


@bank.right("scaled_dot_product_attention", "online softmax in blocks of 4 keys, and backward by the same blocks")
def attention_in_blocks_of_keys(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    c = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
    grouped, g = _by_group(q, k), _by_group(dy, k)
    seen = _seen(q, k, causal, _shift(q, k, alignment)) & (True if mask is None else mask)
    top = grouped.new_full((*grouped.shape[:-1], 1), -torch.inf)
    total, y = torch.zeros_like(top), torch.zeros_like(g)
    blocks = [slice(a, a + 4) for a in range(0, k.shape[-2], 4)]

    def scores(block):
        s = torch.einsum("...hgqw,...hkw->...hgqk", grouped, k[..., block, :]) * c
        return torch.where(seen[:, block], s, -torch.inf)

    for block in blocks:
        s = scores(block)
        higher = torch.maximum(top, s.amax(-1, keepdim=True))
        base = torch.where(higher == -torch.inf, 0, higher)
        e, shrink = torch.exp(s - base), torch.exp(top - base)
        total = total * shrink + e.sum(-1, keepdim=True)
        y = y * shrink + torch.einsum("...hgqk,...hkv->...hgqv", e, v[..., block, :])
        top = higher
    base, total = torch.where(top == -torch.inf, 0, top), torch.where(total == 0, 1, total)
    y = y / total
    d = torch.zeros_like(total)
    for block in blocks:  # Σ p dp rather than Σ dy y, which rounds y once more
        p = torch.exp(scores(block) - base) / total
        d = d + (p * torch.einsum("...hgqv,...hkv->...hgqk", g, v[..., block, :])).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(grouped), torch.zeros_like(k), torch.zeros_like(v)
    for block in blocks:
        p = torch.exp(scores(block) - base) / total
        ds = p * (torch.einsum("...hgqv,...hkv->...hgqk", g, v[..., block, :]) - d) * c
        dq += torch.einsum("...hgqk,...hkw->...hgqw", ds, k[..., block, :])
        dk[..., block, :] = torch.einsum("...hgqk,...hgqw->...hkw", ds, grouped)
        dv[..., block, :] = torch.einsum("...hgqk,...hgqv->...hkv", p, g)
    return y.reshape(dy.shape), (dq.reshape(q.shape), dk, dv, None)


@bank.right("rotary_embedding", "by matrices of 2 × 2, one for each position and pair, and their transposes")
def rotary_by_small_matrices(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    turn = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)

    def paired(t):
        return t.unflatten(-1, (2, -1)).mT if layout == "halves" else t.unflatten(-1, (-1, 2))

    def flat(t):
        return (t.mT if layout == "halves" else t).flatten(-2)

    a, g = paired(x), paired(dy)
    dturn = torch.einsum("...tpi,...tpj->tpij", g, a)
    dcos, dsin = dturn[..., 0, 0] + dturn[..., 1, 1], dturn[..., 1, 0] - dturn[..., 0, 1]
    y, dx = torch.einsum("tpij,...tpj->...tpi", turn, a), torch.einsum("tpji,...tpj->...tpi", turn, g)
    return flat(y), (flat(dx), dcos, dsin)


@bank.right(
    "layer_norm", "features first: rows are columns of a transposed buffer, and its sums are products with ones"
)
def layer_norm_with_features_first(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    z, g = _rows(x).T.contiguous(), _rows(dy).T.contiguous()
    z = z - z.mean(0)
    s = (z.square().mean(0) + eps).rsqrt()
    z *= s
    dweight, dbias = (g * z).sum(1), g.sum(1)
    y = z if weight is None else z * weight[:, None]
    y = y if bias is None else y + bias[:, None]
    h = g if weight is None else g * weight[:, None]
    dx = h - h.mean(0)
    dx -= z * (h * z).mean(0)
    dx *= s
    grads = (dx.T.reshape(x.shape), None if weight is None else dweight, None if bias is None else dbias)
    return y.T.reshape(x.shape), grads


@bank.right("group_norm", "sums of each channel first, of which those of a group, dweight and dbias are made")
def group_norm_from_sums_of_channels(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    b, channels = x.shape[:2]
    z, g = (t.reshape(b, groups, channels // groups, math.prod(x.shape[2:])) for t in (x, dy))
    n = z.shape[2] * z.shape[3]
    xhat = z - z.mean((2, 3), keepdim=True)
    s = torch.rsqrt(xhat.square().mean((2, 3), keepdim=True) + eps)
    xhat = xhat * s
    w = (x.new_ones(channels) if weight is None else weight).reshape(groups, -1)
    ones, moments = g.sum(3), (g * xhat).sum(3)
    first, second = (w * ones).sum(2) / n, (w * moments).sum(2) / n
    dx = s * (g * w[..., None] - first[..., None, None] - xhat * second[..., None, None])
    y = xhat * w[..., None]
    y = y if bias is None else y + bias.reshape(groups, -1)[..., None]
    dweight = None if weight is None else moments.sum(0).flatten()
    return y.reshape(x.shape), (dx.reshape(x.shape), dweight, None if bias is None else ones.sum(0).flatten())


@bank.right("swiglu", "the sigmoid as e to the minus softplus, the slope from it and its complement")
def swiglu_by_softplus(inputs, dy):
    gate, up = inputs
    zero = torch.zeros_like(gate)
    s, rest = torch.exp(-torch.logaddexp(zero, -gate)), torch.exp(-torch.logaddexp(zero, gate))
    silu = gate * s
    return silu * up, (dy * up * (s + silu * rest), dy * silu)


@bank.right("embedding", "tokens are sorted, and each run of equal ones is reduced to one row")
def embedding_by_sorted_runs(inputs, dy, padding_idx=None):
    index, weight = inputs
    flat, order = index.reshape(-1).sort(stable=True)
    rows = _rows(dy)[order]
    tokens, run = torch.unique_consecutive(flat, return_inverse=True)
    sums = weight.new_zeros(len(tokens), weight.shape[1]).index_add_(0, run, rows)
    dweight = torch.zeros_like(weight)
    dweight[tokens] = sums
    if padding_idx is not None:
        dweight[padding_idx].zero_()
    return torch.index_select(weight, 0, index.reshape(-1)).reshape(dy.shape), (None, dweight)


@bank.right("kl_div", "xlogy for both logarithms, the cotangents made in one buffer of two halves")
def kl_div_in_one_buffer(inputs, dy, reduction="batchmean"):
    x, target = inputs
    n = len(x) if reduction == "batchmean" else 1
    cost = torch.special.xlogy(target, target) - torch.where(target == 0, 0, target * x)
    both = torch.empty(2, *x.shape, dtype=x.dtype)
    torch.mul(target, -dy / n, out=both[0])
    torch.mul(target.log() - x + 1, dy / n, out=both[1])
    return cost.sum() / n, (both[0], both[1])


@bank.right("softmax_cross_entropy", "rows of classes, the smoothed target as a matrix, each class by its own weight")
def cross_entropy_by_a_matrix_of_targets(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    classes = x.shape[1]
    rows = x.movedim(1, -1).reshape(-1, classes)
    flat = target.reshape(-1)
    counts = flat != ignore_index
    w = rows.new_ones(classes) if weight is None else weight
    q = torch.zeros_like(rows)
    picked = torch.nonzero(counts)[:, 0]
    q[picked] = label_smoothing / classes
    q[picked, flat[picked]] += 1 - label_smoothing
    q *= w
    total = w[flat[picked]].sum() if reduction == "mean" else 1
    z = torch.log_softmax(rows, 1)
    y = -torch.where(q == 0, 0, q * z).sum() / total
    dz = torch.where(counts[:, None], (q.sum(1, keepdim=True) * z.exp() - q) * (dy / total), 0)
    shape = (x.shape[0], *x.shape[2:], classes)
    return y, (dz.reshape(shape).movedim(-1, 1), None, None)
