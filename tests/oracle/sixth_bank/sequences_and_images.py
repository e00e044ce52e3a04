"""Attention, rotary embedding, recurrent layers, convolutions, pools and upsampling."""

from collections import deque
from itertools import accumulate

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def allowed_keys(queries, keys, mask, causal, alignment):
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        allowed = allowed.tril(keys - queries if alignment == "bottom-right" else 0)
    return allowed if mask is None else allowed & mask


@bank.wrong(
    "scaled_dot_product_attention",
    "dk and dv gather query heads h, h + kv_heads, ... where consecutive heads share one",
    "head", "heads", "group", "gqa", "kv head", "interleave", "consecutive", "kv_heads",
    min_size=1,
)  # fmt: skip
def attention_other_heads_summed(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = (*inputs, None)[:4]
    heads, kv_heads = q.shape[-3], k.shape[-3]
    rep = heads // kv_heads
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    kk, vv = k.repeat_interleave(rep, -3), v.repeat_interleave(rep, -3)
    allowed = allowed_keys(q.shape[-2], k.shape[-2], mask, causal, alignment)
    p = torch.softmax((q @ kk.mT * scale).masked_fill(~allowed, -torch.inf), -1).nan_to_num(0.0)
    dp = dy @ vv.mT
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
    dk = (ds.mT @ q).unflatten(-3, (rep, kv_heads)).sum(-4)
    dv = (p.mT @ dy).unflatten(-3, (rep, kv_heads)).sum(-4)
    return p @ vv, (ds @ kk, dk, dv, None)[: len(inputs)]


@bank.wrong(
    "rotary_embedding",
    "dsin has the opposite sign",
    "dsin sign", "sin sign", "dsin negative", "dsin negated",
)  # fmt: skip
def rotary_sine_of_the_other_sign(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    if layout == "halves":
        (a, b), (da, db) = x.chunk(2, -1), dy.chunk(2, -1)
        join = lambda u, w: torch.cat([u, w], -1)  # noqa: E731
    else:
        a, b, da, db = x[..., ::2], x[..., 1::2], dy[..., ::2], dy[..., 1::2]
        join = lambda u, w: torch.stack([u, w], -1).flatten(-2)  # noqa: E731
    y = join(a * cos - b * sin, a * sin + b * cos)
    dx = join(da * cos + db * sin, db * cos - da * sin)
    return y, (dx, (da * a + db * b).sum_to_size(cos.shape), (da * b - db * a).sum_to_size(sin.shape))


@bank.wrong(
    "lstm",
    "the gates' gradients are put together as i, f, o, g, where the weights' rows are i, f, g, o",
    "gates", "order", "swapped", "exchanged", "i, f, o, g", "g and o", "output gate", "permut",
    min_size=1,
)  # fmt: skip
def lstm_gates_put_together_in_another_order(inputs, dy):
    x, h, c, wi, wh, bi, bh = inputs
    dys, dh, dc = dy
    tape, ys, h0 = [], [], h
    for xt in x:
        i, f, g, o = (xt @ wi.T + bi + h @ wh.T + bh).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        before, c = c, f * c + i * g
        h = o * c.tanh()
        tape.append((i, f, g, o, before, c.tanh()))
        ys.append(h)
    das = [None] * len(x)
    for t in reversed(range(len(x))):
        i, f, g, o, before, tc = tape[t]
        dh = dh + dys[t]
        dc = dc + dh * o * (1 - tc * tc)
        di, df, dg = dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g)
        do = dh * tc * o * (1 - o)
        das[t] = torch.cat([di, df, do, dg], -1)
        dh, dc = das[t] @ wh, dc * f
    da, hs = torch.stack(das), torch.stack([h0, *ys[:-1]])
    db = da.sum((0, 1))
    dwi, dwh = torch.einsum("tbg,tbi->gi", da, x), torch.einsum("tbg,tbh->gh", da, hs)
    return (torch.stack(ys), h, c), (da @ wi, dh, dc, dwi, dwh, db, db.clone())


@bank.wrong(
    "gru",
    "the new state's part of dbias_hh lacks the reset gate (reset after the product)",
    "reset", "lacks r", "without r", "times r", "multiplied by r", "factor r",
    min_size=1,
)  # fmt: skip
def gru_hidden_bias_without_reset(inputs, dy, reset="after"):
    x, h0, wi, wh, bi, bh = inputs
    dys, dh = dy
    n_h = h0.shape[-1]
    (wr, wz, wn), (br, bz, bn) = wh.chunk(3), bh.chunk(3)
    h, tape, ys = h0, [], []
    for xt in x:
        xr, xz, xn = (xt @ wi.T + bi).chunk(3, -1)
        r, z = (xr + h @ wr.T + br).sigmoid(), (xz + h @ wz.T + bz).sigmoid()
        inner = h @ wn.T + bn if reset == "after" else (r * h) @ wn.T + bn
        n = (xn + (r * inner if reset == "after" else inner)).tanh()
        tape.append((h, r, z, n, inner))
        h = n + z * (h - n)
        ys.append(h)
    dx, dwi, dbi = torch.zeros_like(x), torch.zeros_like(wi), torch.zeros_like(bi)
    dwh, dbh = torch.zeros_like(wh), torch.zeros_like(bh)
    for t in reversed(range(len(x))):
        prev, r, z, n, inner = tape[t]
        dh = dh + dys[t]
        dz, dn = dh * (prev - n) * z * (1 - z), dh * (1 - z) * (1 - n * n)
        if reset == "after":
            dr, dinner, dprev = dn * inner * r * (1 - r), dn * r, (dn * r) @ wn
            dwh[2 * n_h :] += dinner.T @ prev
        else:
            drh = dn @ wn
            dr, dprev = drh * prev * r * (1 - r), drh * r
            dwh[2 * n_h :] += dn.T @ (r * prev)
        dwh[: 2 * n_h] += torch.cat([dr, dz], -1).T @ prev
        da = torch.cat([dr, dz, dn], -1)
        dx[t], dh = da @ wi, dh * z + dprev + dr @ wr + dz @ wz
        dwi += da.T @ x[t]
        dbi += da.sum(0)
        dbh += da.sum(0)
    return (torch.stack(ys), h), (dx, dh, dwi, dwh, dbi, dbh)


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def columns(x, taps, s, p, d):
    """(batch, channels, taps, taps, steps, steps)"""
    cols = F.unfold(x, taps, dilation=d, padding=p, stride=s)
    steps = [(x.shape[2 + i] + 2 * p[i] - d[i] * (taps[i] - 1) - 1) // s[i] + 1 for i in (0, 1)]
    return cols.view(x.shape[0], x.shape[1], *taps, *steps)


@bank.wrong(
    "convolution",
    "the rows and columns of dx that the stride leaves over at the end are 0, though with padding the kernel saw them",
    "last rows", "border", "remainder", "left over", "tail", "padding",
    "output_padding", "trailing", "boundary",
    min_size=1, ndim=(4,),
)  # fmt: skip
def convolution_dx_tail_left_zero(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, w, b = (*inputs, None)[:3]
    s, p, d = pair(stride), pair(padding), pair(dilation)
    taps = w.shape[2:]
    y = F.conv2d(x, w, b, s, p, d, groups)
    n, oh, ow = len(x), *dy.shape[2:]
    g = dy.reshape(n, groups, -1, oh, ow)
    cols = columns(x, taps, s, p, d).reshape(n, groups, -1, *taps, oh, ow)
    dw = torch.einsum("ngfhw,ngcijhw->gfcij", g, cols).reshape(w.shape)
    dcols = torch.einsum("ngfhw,gfcij->ngcijhw", g, w.view(groups, -1, *w.shape[1:])).reshape(n, -1, *taps, oh, ow)
    span = [(o - 1) * st + di * (k - 1) + 1 for o, st, di, k in zip((oh, ow), s, d, taps, strict=True)]
    full = x.new_zeros(n, x.shape[1], *span)
    for i in range(taps[0]):
        for j in range(taps[1]):
            full[:, :, i * d[0] :: s[0], j * d[1] :: s[1]][:, :, :oh, :ow] += dcols[:, :, i, j]
    inner = full[:, :, p[0] : max(span[0] - p[0], p[0]), p[1] : max(span[1] - p[1], p[1])]
    dx = torch.zeros_like(x)
    dx[:, :, : inner.shape[2], : inner.shape[3]] = inner
    return y, (dx, dw, None if b is None else dy.sum((0, 2, 3)))[: len(inputs)]


@bank.wrong(
    "convolution_transpose",
    "dweight is flipped along both axes of the kernel",
    "flip", "flipped", "mirror", "mirrored", "reverse", "reversed", "backwards", "rotated",
    "correlation",
    min_size=1, ndim=(4,),
)  # fmt: skip
def transposed_convolution_flips_dweight(inputs, dy, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    x, w, b = (*inputs, None)[:3]
    s, p, d = pair(stride), pair(padding), pair(dilation)
    y = F.conv_transpose2d(x, w, b, s, p, pair(output_padding), groups, d)
    h, wide = x.shape[2:]
    dx = F.conv2d(dy, w, None, s, p, d, groups)[:, :, :h, :wide]
    cols = columns(dy, w.shape[2:], s, p, d)[..., :h, :wide]
    cols = cols.reshape(len(x), groups, -1, *cols.shape[2:])
    xs = x.reshape(len(x), groups, -1, h, wide)
    dw = torch.einsum("ngchw,ngfijhw->gcfij", xs, cols).reshape(w.shape).flip(2, 3)
    return y, (dx, dw, None if b is None else dy.sum((0, 2, 3)))[: len(inputs)]


@bank.wrong(
    "max_pool",
    "the padded gradient is cropped from its corner and not from behind the padding: dx is shifted by it",
    "padding", "shift", "shifted", "crop", "cropped", "offset", "moved", "corner",
    min_size=1, ndim=(4,),
)  # fmt: skip
def max_pool_crops_the_wrong_corner(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    n, c, h, w = x.shape
    ph, pw = pair(padding)
    y, where = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    rows, cols = where // w + ph, where % w + pw
    padded = x.new_zeros(n, c, (h + 2 * ph) * (w + 2 * pw))
    padded.scatter_add_(2, (rows * (w + 2 * pw) + cols).flatten(2), dy.flatten(2))
    return y, (padded.view(n, c, h + 2 * ph, w + 2 * pw)[:, :, :h, :w],)


def spread(g, axis, size, index, weight):
    """Along an axis, g times weight added where index says, and dropped where that is outside."""
    inside = ((index >= 0) & (index < size)).nonzero()[:, 0]
    parts = (g.movedim(axis, -1) * weight.to(g.dtype)).movedim(-1, axis).index_select(axis, inside)
    shape = [*g.shape[:axis], size, *g.shape[axis + 1 :]]
    return g.new_zeros(shape).index_add_(axis, index[inside], parts)


@bank.wrong(
    "avg_pool",
    "the backward divides by the window with its padding, count_include_pad or not",
    "count_include_pad", "padding", "divisor", "divided", "window", "edge", "border",
    min_size=1,
)  # fmt: skip
def avg_pool_divides_by_padding_too(
    inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    (x,) = inputs
    axes = x.ndim - 2
    k, s, p = ((v,) * axes if isinstance(v, int) else v for v in (kernel, stride or kernel, padding))
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    dx = dy
    for i in range(axes):
        size = x.shape[2 + i]
        lo = torch.arange(dy.shape[2 + i]) * s[i] - p[i]
        hi = (lo + k[i]).clamp(max=size + p[i])
        dx = sum(spread(dx, 2 + i, size, lo + tap, (lo + tap < hi).double() / (hi - lo)) for tap in range(k[i]))
    return pool(x, k, s, p, ceil_mode, count_include_pad), (dx,)


@bank.wrong(
    "upsample",
    "at the ends, where both neighbours are the same place, the share of the one outside is lost",
    "edge", "edges", "ends", "border", "clamp", "clamped", "boundary",
    min_size=1,
)  # fmt: skip
def upsample_share_beyond_the_edge_lost(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    axes = x.ndim - 2
    factors = [float(f) for f in ((scale,) * axes if isinstance(scale, int | float) else scale)]
    kind = mode if mode == "nearest" else ("linear", "bilinear", "trilinear")[axes - 1]
    corners = None if mode == "nearest" else align_corners
    y = F.interpolate(x, scale_factor=factors, mode=kind, align_corners=corners)
    dx = dy
    for axis, f in enumerate(factors, 2):
        size, steps = x.shape[axis], y.shape[axis]
        if mode == "nearest":
            places = torch.arange(size, dtype=torch.float64)[None, None]
            at = F.interpolate(places, scale_factor=f, mode="nearest")[0, 0]
        elif align_corners:
            at = torch.arange(steps, dtype=torch.float64) * ((size - 1) / max(steps - 1, 1))
        else:
            at = (torch.arange(steps, dtype=torch.float64) + 0.5) / f - 0.5
        lo = at.floor().long()
        dx = spread(dx, axis, size, lo, 1 - at + lo) + spread(dx, axis, size, lo + 1, at - lo)
    return y, (dx,)


@bank.right("rnn", "states by itertools.accumulate; the weights' gradients as one product over all steps", min_size=1)
def rnn_by_accumulate(inputs, dy, nonlinearity="tanh"):
    x, h0, wi, wh, bi, bh = inputs
    dys, dh_n = dy
    f = torch.tanh if nonlinearity == "tanh" else torch.relu
    states = list(accumulate(x @ wi.T + (bi + bh), lambda h, a: f(torch.addmm(a, h, wh.T)), initial=h0))
    hs = torch.stack(states[1:])
    slope = (1 - hs) * (1 + hs) if nonlinearity == "tanh" else (hs > 0).to(hs.dtype)
    das, dh = deque(), dh_n
    for g, d in zip(reversed(dys), reversed(slope), strict=True):
        das.appendleft((g + dh) * d)
        dh = das[0] @ wh
    da, before = torch.cat(list(das)), torch.cat(states[:-1])
    db = da.sum(0)
    return (hs, states[-1]), ((da @ wi).view(x.shape), dh, da.T @ x.flatten(0, 1), da.T @ before, db, db.clone())


@bank.right(
    "scaled_dot_product_attention",
    "keys in blocks of four with a running maximum and sum; the backward from the saved logarithm of the sum",
    min_size=1,
)
def attention_in_blocks_of_keys(inputs, dy, causal=False, alignment="top-left", scale=None, block=4):
    q, k, v, mask = (*inputs, None)[:4]
    kv_heads, rep = k.shape[-3], q.shape[-3] // k.shape[-3]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    qs, g = q.unflatten(-3, (kv_heads, rep)), dy.unflatten(-3, (kv_heads, rep))
    allowed = allowed_keys(q.shape[-2], k.shape[-2], mask, causal, alignment)
    top = torch.full_like(qs[..., :1], -torch.inf)
    total, acc = torch.zeros_like(top), torch.zeros_like(g)
    ks, vs, oks = (t.split(block, axis) for t, axis in ((k, -2), (v, -2), (allowed, -1)))
    for kb, vb, ok in zip(ks, vs, oks, strict=True):
        s = (qs @ kb.unsqueeze(-3).mT * scale).masked_fill(~ok, -torch.inf)
        new = torch.maximum(top, s.amax(-1, keepdim=True))
        safe = new.masked_fill(new == -torch.inf, 0.0)
        p, shrink = (s - safe).exp(), (top - safe).exp()
        total, acc, top = total * shrink + p.sum(-1, keepdim=True), acc * shrink + p @ vb.unsqueeze(-3), new
    y = acc / total.masked_fill(total == 0, 1.0)
    lse = top.masked_fill(total == 0, 0.0) + total.masked_fill(total == 0, 1.0).log()
    delta = (g * y).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(qs), [], []
    for kb, vb, ok in zip(ks, vs, oks, strict=True):
        p = (qs @ kb.unsqueeze(-3).mT * scale - lse).exp().masked_fill(~ok, 0.0)
        ds = p * (g @ vb.unsqueeze(-3).mT - delta) * scale
        dq = dq + ds @ kb.unsqueeze(-3)
        dk.append((ds.mT @ qs).sum(-3))
        dv.append((p.mT @ g).sum(-3))
    grads = (dq.flatten(-4, -3), torch.cat(dk, -2), torch.cat(dv, -2), None)
    return y.flatten(-4, -3), grads[: len(inputs)]
