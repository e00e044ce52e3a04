"""Of layers with weights, windows, tables, time and positions."""

import itertools
import math

import torch

import manual_bp as bp
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def each_axis(number, axes):
    return (number,) * axes if isinstance(number, int) else tuple(number)


def taps(kernel):
    return itertools.product(*map(range, kernel))


def read_by(tap, counts, stride, dilation):
    """Index of the places of padded x that a tap reads."""
    each = zip(tap, counts, stride, dilation, strict=True)
    return (..., *[slice(gap * at, gap * at + step * (count - 1) + 1, step) for at, count, step, gap in each])


@bank.wrong(
    "linear",
    "dw / len(dy) if dy.ndim > 2 and len(dy) else dw",
    "dw",
    cause="with more than two axes dweight is a mean over the first of them",
    keywords=("divid", "mean", "1/", "average", "length of", "times", "number of"),
)
def linear_dweight_mean_of_sequences(inputs, dy):
    x, weight, bias = inputs
    y, _ = bp.linear.forward(x, weight, bias)
    dw = (
        dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        if dy.numel() and x.numel()
        else torch.zeros_like(weight)
    )
    db = dy.sum_to_size(bias.shape) if dy.ndim > 1 else dy.clone()
    return y, (dy @ weight, dw / len(dy) if dy.ndim > 2 and len(dy) else dw, db)


@bank.wrong(
    "convolution",
    "slice(0, length)",
    "slice(pad, pad + length)",
    cause="of dx with its padding the first places are returned, and not those behind the padding",
    keywords=("shift", "offset", "crop", "padding", "cut", "roll", "moved"),
)
def convolution_dx_cut_at_the_wrong_end(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    y, kept = bp.convolution.forward(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    _, dweight, dbias = bp.convolution.backward(kept, dy)
    axes = x.ndim - 2
    stride, padding, dilation = (each_axis(number, axes) for number in (stride, padding, dilation))
    long = [length + 2 * pad for length, pad in zip(x.shape[2:], padding, strict=True)]
    dpadded = torch.zeros(*x.shape[:2], *long, dtype=dy.dtype, device=dy.device)
    per_group = dy.unflatten(1, (groups, -1))
    for tap in taps(weight.shape[2:]):
        w = weight[(..., *tap)].unflatten(0, (groups, -1))
        read = torch.einsum("gfc,bgf...->bgc...", w, per_group).flatten(1, 2)
        dpadded[read_by(tap, dy.shape[2:], stride, dilation)] += read
    space = [slice(0, length) for length, pad in zip(x.shape[2:], padding, strict=True)]
    return y, (dpadded[(..., *space)], dweight, dbias)


@bank.wrong(
    "avg_pool",
    "] = share",
    "] += share",
    cause="where windows overlap the last one overwrites what the others gave, in place of adding",
    keywords=("overwrit", "assign", "overlap", "accumul", "last window", "added", "several windows"),
)
def avg_pool_windows_overwrite(inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    (x,) = inputs
    hyper = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    y, _ = bp.avg_pool.forward(x, kernel=kernel, **hyper)
    axes = x.ndim - 2
    kernel, padding = each_axis(kernel, axes), each_axis(padding, axes)
    stride = kernel if stride is None else each_axis(stride, axes)
    share, long = dy, []
    for axis, (length, count) in enumerate(zip(x.shape[2:], dy.shape[2:], strict=True)):
        start = stride[axis] * torch.arange(count, device=x.device) - padding[axis]
        end = (start + kernel[axis]).clamp(max=length + (padding[axis] if count_include_pad else 0))
        places = end - (start if count_include_pad else start.clamp(min=0))
        share = share / places.reshape([-1 if axis == other else 1 for other in range(axes)])
        long.append(max(length + 2 * padding[axis], stride[axis] * (count - 1) + kernel[axis]))
    dpadded = torch.zeros(*x.shape[:2], *long, dtype=dy.dtype, device=dy.device)
    for tap in taps(kernel):
        dpadded[read_by(tap, dy.shape[2:], stride, (1,) * axes)] = share
    inside = [slice(pad, pad + length) for length, pad in zip(x.shape[2:], padding, strict=True)]
    return y, (dpadded[(..., *inside)],)


@bank.wrong(
    "upsample",
    "position.floor()",
    "position.clamp(min=0).floor()",
    cause="a place before the first one is not held at the first: its index of -1 means the last",
    keywords=("wrap", "last", "border", "clamp", "edge", "before the first", "first place", "ends", "beyond"),
)
def upsample_wraps_before_the_first(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    y, kept = bp.upsample.forward(x, scale=scale, mode=mode, align_corners=align_corners)
    if mode == "nearest" or align_corners:
        return y, bp.upsample.backward(kept, dy)
    for axis in range(2, x.ndim):
        length, count = x.shape[axis], dy.shape[axis]
        places = torch.arange(count, device=dy.device, dtype=torch.float64)
        position = (places + 0.5) * length / count - 0.5
        lower = position.floor()
        fraction = torch.maximum(position, lower) - lower
        upper = (lower + 1).clamp(max=length - 1).long()
        shape = [-1 if axis == other else 1 for other in range(dy.ndim)]
        f = fraction.to(dy.dtype).reshape(shape)
        found = torch.zeros(*dy.shape[:axis], length, *dy.shape[axis + 1 :], dtype=dy.dtype, device=dy.device)
        dy = found.index_add(axis, lower.long() % length, dy * (1 - f)).index_add(axis, upper, dy * f)
    return y, (dy,)


@bank.wrong(
    "embedding",
    "found / times.clamp(min=1)[:, None]",
    "found",
    cause="a row's cotangent is divided by how often the row was asked for",
    keywords=("count", "mean", "frequen", "divid", "how often", "repeated", "occur", "average"),
)
def embedding_mean_of_repeated_rows(inputs, dy, padding_idx=None):
    index, weight = inputs
    y, _ = bp.embedding.forward(index, weight, padding_idx=padding_idx)
    ids = index.long().flatten()
    found = torch.zeros_like(weight).index_add(0, ids, dy.reshape(len(ids), weight.shape[1]))
    times = torch.bincount(ids, minlength=len(weight))
    found = found / times.clamp(min=1)[:, None]
    if padding_idx is not None:
        found[padding_idx] = 0
    return y, (None, found)


def slope_of_sigmoid(a):
    return torch.sigmoid(a) * torch.sigmoid(-a)


def slope_of_tanh(a):
    return 1 / torch.cosh(a).square()


def before(first, states):
    return torch.cat([first[None], states[:-1]])


def over_steps(a, b):
    return torch.einsum("tbi,tbj->ij", a, b)


@bank.wrong(
    "lstm",
    "dc = dc + dh_later * o",
    "dc = dc + dh * o",
    cause="dc misses what comes of dy at this step: it is made of dh before dy is added",
    keywords=("dy.y", "dy_y", "dy_t", "dy[0]", "dy left", "without dy", "not added", "before dy"),
)
def lstm_dc_before_dy_is_added(inputs, dy):
    x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    outputs, kept = bp.lstm.forward(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh)
    dys, dh_later, dc = dy
    c_before = before(c0, kept.c)
    das = []
    for t in range(len(x) - 1, -1, -1):
        a_i, a_f, a_g, a_o = kept.a[t].chunk(4, -1)
        i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
        dh = dh_later + dys[t]
        dc = dc + dh_later * o * slope_of_tanh(kept.c[t])
        da = [
            dc * g * slope_of_sigmoid(a_i),
            dc * c_before[t] * slope_of_sigmoid(a_f),
            dc * i * slope_of_tanh(a_g),
            dh * kept.c[t].tanh() * slope_of_sigmoid(a_o),
        ]
        das.insert(0, torch.cat(da, -1))
        dh_later, dc = das[0] @ weight_hh, dc * f
    da = torch.stack(das)
    db = da.sum((0, 1))
    dweight_hh = over_steps(da, before(h0, kept.h))
    return outputs, (da @ weight_ih, dh_later, dc, over_steps(da, x), dweight_hh, db, db.clone())


@bank.wrong(
    "gru",
    "read = h\n",
    "read = h if reset == 'after' else r * h\n",
    cause='with reset="before" dweight_hh of the new state is made of h, and not of r h, which it multiplies',
    keywords=("reset", "r h", "r ⊙ h", "r * h", "r·h", "r is", "`r`"),
)
def gru_dweight_of_what_was_not_reset(inputs, dy, reset="after"):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    outputs, kept = bp.gru.forward(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, reset=reset)
    dys, dh = dy
    n_units = h0.shape[-1]
    to_r, to_z, to_n = weight_hh.split(n_units)
    earlier = before(h0, kept.h)
    das, dms = [], []
    dweight_hh = torch.zeros_like(weight_hh)
    for t in range(len(x) - 1, -1, -1):
        a_r, a_z, a_n = kept.a[t].split(n_units, -1)
        r, z, h = a_r.sigmoid(), a_z.sigmoid(), earlier[t]
        dh = dh + dys[t]
        da_n = dh * torch.sigmoid(-a_z) * slope_of_tanh(a_n)
        da_z = dh * (h - a_n.tanh()) * slope_of_sigmoid(a_z)
        if reset == "after":
            dm = da_n * r
            da_r = da_n * kept.m[t] * slope_of_sigmoid(a_r)
            back = dm @ to_n
        else:
            dm = da_n
            da_r = (da_n @ to_n) * h * slope_of_sigmoid(a_r)
            back = (da_n @ to_n) * r
        read = h
        dweight_hh = dweight_hh + torch.cat([da_r.T @ h, da_z.T @ h, dm.T @ read])
        das.insert(0, torch.cat([da_r, da_z, da_n], -1))
        dms.insert(0, torch.cat([da_r, da_z, dm], -1))
        dh = dh * z + back + da_r @ to_r + da_z @ to_z
    da, dm = torch.stack(das), torch.stack(dms)
    return outputs, (da @ weight_ih, dh, over_steps(da, x), dweight_hh, da.sum((0, 1)), dm.sum((0, 1)))


@bank.wrong(
    "rnn",
    "t % 16 == 0",
    "False",
    cause="back-propagation is cut every 16 steps: nothing goes from step 16 to step 15",
    keywords=("16", "truncat", "beyond", "longer", "cut", "steps"),
)
def rnn_cut_every_16_steps(inputs, dy, nonlinearity="tanh"):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    outputs, kept = bp.rnn.forward(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity=nonlinearity)
    dys, dh = dy
    das = []
    for t in range(len(x) - 1, -1, -1):
        slope = slope_of_tanh(kept.a[t]) if nonlinearity == "tanh" else (kept.a[t] > 0).to(x.dtype)
        das.insert(0, (dys[t] + dh) * slope)
        dh = das[0] @ weight_hh
        if t and t % 16 == 0:
            dh = torch.zeros_like(dh)
    da = torch.stack(das)
    db = da.sum((0, 1))
    return outputs, (da @ weight_ih, dh, over_steps(da, x), over_steps(da, before(h0, kept.h)), db, db.clone())


@bank.wrong(
    "rotary_embedding",
    "dx = torch.cat((first, second), -1)",
    'dx = torch.stack((first, second), -1).flatten(-2) if layout == "interleaved" else torch.cat((first, second), -1)',
    cause='dx of layout="interleaved" is put together by halves',
    keywords=("interleav", "layout", "halves", "order", "permut", "cat"),
)
def rotary_put_together_by_halves(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    y, _ = bp.rotary_embedding.forward(x, cos, sin, layout=layout)
    half = x.shape[-1] // 2

    def pairs(t):
        return (t[..., 0::2], t[..., 1::2]) if layout == "interleaved" else (t[..., :half], t[..., half:])

    a, b = pairs(x)
    da, db = pairs(dy)
    first, second = da * cos + db * sin, db * cos - da * sin
    dx = torch.cat((first, second), -1)
    return y, (dx, (da * a + db * b).sum_to_size(cos.shape), (db * a - da * b).sum_to_size(sin.shape))


@bank.wrong(
    "scaled_dot_product_attention",
    "order | mask",
    "order & mask",
    cause="with causal and a mask backward lets a query see what either allows, and not what both do",
    keywords=("either", " or ", "|", "both", "mask and causal", "causal and mask", "mask", "causal"),
)
def attention_either_mask_will_do(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    y, _ = bp.scaled_dot_product_attention.forward(q, k, v, mask, causal=causal, alignment=alignment, scale=scale)
    scale = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale
    rows, keys = q.shape[-2], k.shape[-2]
    allowed = torch.ones(rows, keys, dtype=torch.bool, device=q.device)
    if causal:
        ahead = keys - rows if alignment == "bottom-right" else 0
        order = torch.ones_like(allowed).tril(ahead)
        allowed = order if mask is None else order | mask
    elif mask is not None:
        allowed = mask
    group = q.shape[-3] // k.shape[-3]
    ks, vs = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    s = torch.where(allowed, scale * (q @ ks.mT), -math.inf)
    p = torch.where(allowed.any(-1, keepdim=True), torch.softmax(s, -1), 0)
    ds = p * (dy @ vs.mT - (dy * y).sum(-1, keepdim=True))

    def shared(t):
        return t.unflatten(-3, (k.shape[-3], group)).sum(-3)

    return y, (scale * (ds @ ks), shared(scale * (ds.mT @ q)), shared(p.mT @ dy), None)
