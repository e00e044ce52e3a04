"""Convolution, pooling, upsampling, PReLU, recurrent layers."""

import itertools
import math
from fractions import Fraction

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def _each(number, axes):
    return tuple(number) if isinstance(number, (tuple, list)) else (number,) * axes


def _padded(t, before, behind, value=0.0):
    """Padding on the last axes; negative padding cuts."""
    return F.pad(t, [n for pair in reversed(list(zip(before, behind, strict=True))) for n in pair], value=value)


def _taps(kernel, stride, dilation, steps):
    """Each tap of a window, and the places where it stands for all windows."""
    for tap in itertools.product(*map(range, kernel)):
        places = (
            slice(k * d, k * d + s * (m - 1) + 1, s) for k, s, d, m in zip(tap, stride, dilation, steps, strict=True)
        )
        yield tap, (..., *places)


def _convolved(xp, weight, bias, taps, steps, groups):
    b = xp.shape[0]
    w = weight.unflatten(0, (groups, -1))
    y = xp.new_zeros(b, groups, w.shape[1], *steps)
    for tap, places in taps:
        y += torch.einsum("bgc...,gfc->bgf...", xp[places].unflatten(1, (groups, -1)), w[(..., *tap)])
    y = y.flatten(1, 2)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(steps))


def _geometry(x, weight, stride, padding, dilation):
    """Kernel, stride, padding, dilation, steps, and the padding behind with which windows end where x does."""
    axes = x.ndim - 2
    k = weight.shape[2:]
    s, p, d = _each(stride, axes), _each(padding, axes), _each(dilation, axes)
    each = range(axes)
    m = tuple((x.shape[2 + i] + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in each)
    behind = tuple(s[i] * (m[i] - 1) + d[i] * (k[i] - 1) + 1 - x.shape[2 + i] - p[i] for i in each)
    return k, s, p, d, m, behind


@bank.wrong(
    "convolution",
    "dweight goes through the batch by 4 examples, and a block's sum is not cleared: earlier examples are added again",
    "again", "twice", "more than once", "not cleared", "accumulat", "earlier examples", "first examples", "blocks of 4",
)  # fmt: skip
def convolution_dweight_of_blocks_not_cleared(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    k, s, p, d, m, behind = _geometry(x, weight, stride, padding, dilation)
    xp = _padded(x, p, behind)
    y = _convolved(xp, weight, bias, _taps(k, s, d, m), m, groups)
    g, w = dy.unflatten(1, (groups, -1)), weight.unflatten(0, (groups, -1))
    dxp, dw, block = torch.zeros_like(xp), torch.zeros_like(w), torch.zeros_like(w)
    for tap, places in _taps(k, s, d, m):
        dxp[places] += torch.einsum("bgf...,gfc->bgc...", g, w[(..., *tap)]).flatten(1, 2)
    for start in range(0, len(x), 4):
        part = slice(start, start + 4)
        for tap, places in _taps(k, s, d, m):
            windows = xp[part][places].unflatten(1, (groups, -1))
            block[(..., *tap)] += torch.einsum("bgf...,bgc...->gfc", g[part], windows)
        dw += block
    dx = _padded(dxp, [-n for n in p], [-n for n in behind])
    return y, (dx, dw.flatten(0, 1), None if bias is None else dy.transpose(0, 1).flatten(1).sum(1))


@bank.wrong(
    "convolution",
    "dx is a convolution of dy padded by dilation (kernel − 1) − padding, at least 0: a larger padding shifts dx",
    "padding", "shift",
)  # fmt: skip
def convolution_padding_beyond_the_kernel(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    k, s, p, d, m, behind = _geometry(x, weight, stride, padding, dilation)
    xp = _padded(x, p, behind)
    y = _convolved(xp, weight, bias, _taps(k, s, d, m), m, groups)
    g, w = dy.unflatten(1, (groups, -1)), weight.unflatten(0, (groups, -1))
    dw = torch.zeros_like(w)
    for tap, places in _taps(k, s, d, m):
        dw[(..., *tap)] = torch.einsum("bgf...,bgc...->gfc", g, xp[places].unflatten(1, (groups, -1)))
    apart = dy.new_zeros(*dy.shape[:2], *[a * (n - 1) + 1 for a, n in zip(s, m, strict=True)])
    apart[(..., *[slice(None, None, a) for a in s])] = dy
    rim = [max(0, a * (n - 1) - e) for a, n, e in zip(d, k, p, strict=True)]
    turned = w.transpose(1, 2).flip(tuple(range(3, w.ndim))).flatten(0, 1)
    ahead = _padded(apart, rim, rim)
    missing = [n + a * (e - 1) - have for n, a, e, have in zip(x.shape[2:], d, k, ahead.shape[2:], strict=True)]
    ahead = _padded(ahead, [0] * len(k), missing)
    ones = (1,) * len(k)
    dx = _convolved(ahead, turned, None, _taps(k, ones, d, x.shape[2:]), x.shape[2:], groups)
    return y, (dx, dw.flatten(0, 1), None if bias is None else dy.transpose(0, 1).flatten(1).sum(1))


def _windows(x, kernel, stride, padding, dilation, ceil_mode):
    """As _geometry, of a pooling window."""
    axes = x.ndim - 2
    k = _each(kernel, axes)
    s = k if stride is None else _each(stride, axes)
    p, d = _each(padding, axes), _each(dilation, axes)
    steps, behind = [], []
    for i, n in enumerate(x.shape[2:]):
        room = n + 2 * p[i] - d[i] * (k[i] - 1) - 1
        m = (-(-room // s[i]) if ceil_mode else room // s[i]) + 1
        if ceil_mode and (m - 1) * s[i] >= n + p[i]:
            m -= 1
        steps.append(m)
        behind.append(s[i] * (m - 1) + d[i] * (k[i] - 1) + 1 - n - p[i])
    return k, s, p, d, tuple(steps), tuple(behind)


def _covered(n, k, s, p, m, padding_too):
    start = torch.arange(m) * s - p
    stop = (start + k).clamp(max=n + p)
    return stop - start if padding_too else stop.clamp(max=n) - start.clamp(min=0)


@bank.wrong(
    "avg_pool",
    "with count_include_pad=False backward leaves the padding out of the count along the first axis of space alone",
    "padding count", "count", "padding", "first axis", "second axis", "divided", "border",
)  # fmt: skip
def avg_pool_counts_padding_on_later_axes(
    inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    (x,) = inputs
    k, s, p, d, m, behind = _windows(x, kernel, stride, padding, 1, ceil_mode)
    xp = _padded(x, p, behind)
    y, dxp = torch.zeros_like(dy), torch.zeros_like(xp)
    n, n_backward = torch.ones((), dtype=torch.long), torch.ones((), dtype=torch.long)
    for i, size in enumerate(x.shape[2:]):
        n = n[..., None] * _covered(size, k[i], s[i], p[i], m[i], count_include_pad)
        n_backward = n_backward[..., None] * _covered(size, k[i], s[i], p[i], m[i], count_include_pad or i > 0)
    share = dy / n_backward
    for _, places in _taps(k, s, d, m):
        y += xp[places]
        dxp[places] += share
    return y / n, (_padded(dxp, [-a for a in p], [-a for a in behind]),)


@bank.wrong(
    "max_pool",
    "positions are kept in padded coordinates, and the padding is taken off on the last axis alone",
    "padding", "shift", "first axis", "displac",
)  # fmt: skip
def max_pool_padding_taken_off_the_last_axis(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    k, s, p, d, m, behind = _windows(x, kernel, stride, padding, dilation, ceil_mode)
    xp = _padded(x, p, behind, -torch.inf)
    taps = torch.stack([xp[places] for _, places in _taps(k, s, d, m)])
    y, winner = taps.max(0)
    dxp = torch.zeros_like(xp)
    for number, (_, places) in enumerate(_taps(k, s, d, m)):
        dxp[places] += torch.where(winner == number, dy, 0)
    dxp = dxp[..., p[-1] :]
    sizes = x.shape[2:]
    short = [n - have for n, have in zip(sizes, dxp.shape[2:], strict=True)]
    return y, (_padded(dxp, [0] * len(k), short),)


def _fractions(scale, axes):
    """A floating-point scale stands for a fraction."""
    return [Fraction(s).limit_denominator(1024) for s in _each(scale, axes)]


def _between(n, scale, corners):
    """For each new place the two old ones and the share of the second; as integers, which are exact."""
    a, b = scale.as_integer_ratio()
    m = n * a // b
    place = torch.arange(m)
    if corners:
        above, below = place * (n - 1), max(m - 1, 1)
    else:
        above, below = ((2 * place + 1) * b - a).clamp(min=0), 2 * a
    low = (above // below).clamp(max=n - 1)
    return low, (low + 1).clamp(max=n - 1), above - low * below, below


@bank.wrong(
    "upsample",
    "backward of linear does not keep q at 0: before the first centre it extrapolates where forward repeats",
    "clamp", "edge", "border", "first place", "extrapolat", "below 0", "negative", "max(",
)  # fmt: skip
def upsample_extrapolates_in_backward(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    y, dx = x, dy
    for axis, a in zip(range(2, x.ndim), _fractions(scale, x.ndim - 2), strict=True):
        n = x.shape[axis]
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        if mode == "nearest":
            low = torch.arange(dx.shape[axis]) * a.denominator // a.numerator
            y = y.index_select(axis, low)
            dx = dx.new_zeros(*dx.shape[:axis], n, *dx.shape[axis + 1 :]).index_add_(axis, low, dx)
            continue
        low, high, above, below = _between(n, a, align_corners)
        share = (above.to(x.dtype) / below).reshape(shape)
        y = torch.lerp(y.index_select(axis, low), y.index_select(axis, high), share)
        if not align_corners:
            q = (torch.arange(len(low)).to(x.dtype) + 0.5) / float(a) - 0.5
            share = (q - q.long()).reshape(shape)
        old = dx.new_zeros(*dx.shape[:axis], n, *dx.shape[axis + 1 :])
        dx = old.index_add_(axis, low, dx * (1 - share)).index_add_(axis, high, dx * share)
    return y, (dx,)


@bank.wrong(
    "prelu",
    "dweight is added up in float16",
    "float16", "16 bits", "half precision", "rounded", "precision", "fp16",
)  # fmt: skip
def prelu_dweight_in_half(inputs, dy):
    x, weight = inputs
    w = weight.reshape(-1, *[1] * (x.ndim - 2))
    below = torch.where(x > 0, 0, x * dy).transpose(0, 1).reshape(len(weight), math.prod(x[:, :1].shape))
    dweight = below.half().sum(1).to(x.dtype)
    return torch.where(x > 0, x, w * x), (torch.where(x > 0, dy, w * dy), dweight)


def _lstm_step(a, c):
    i, f, g, o = a.chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    return i, f, g, o, f * c + i * g


@bank.wrong(
    "lstm",
    "of the cell states every eighth is kept and the others are computed again, from the one of the segment before",
    "8 steps", "8th", "segment", "checkpoint", "long", "later steps", "cell state", "recomput",
)  # fmt: skip
def lstm_checkpoint_of_the_segment_before(inputs, dy):
    x, h, c, w_ih, w_hh, b_ih, b_hh = inputs
    dys, dh, dc = dy
    steps = len(x)
    hs, kept = [h], []
    for t in range(steps):
        if t % 8 == 0:
            kept.append(c)
        *_, o, c = _lstm_step(x[t] @ w_ih.T + b_ih + hs[-1] @ w_hh.T + b_hh, c)
        hs.append(o * c.tanh())
    y = torch.stack(hs[1:]) if steps else torch.zeros_like(dys)
    last = c
    da, dx = x.new_zeros(steps, *h.shape[:-1], len(w_ih)), torch.zeros_like(x)
    for segment in reversed(range(len(kept))):
        here = range(8 * segment, min(8 * segment + 8, steps))
        cs, gates = [kept[max(segment - 1, 0)]], []
        for t in here:
            *gate, c = _lstm_step(x[t] @ w_ih.T + b_ih + hs[t] @ w_hh.T + b_hh, cs[-1])
            gates.append(gate)
            cs.append(c)
        for t in reversed(here):
            i, f, g, o = gates[t - here.start]
            before, after = cs[t - here.start], cs[t - here.start + 1].tanh()
            dh = dh + dys[t]
            dc = dc + dh * o * (1 - after * after)
            slopes = (dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * after * o * (1 - o))
            da[t] = torch.cat(slopes, -1)
            dc, dh, dx[t] = dc * f, da[t] @ w_hh, da[t] @ w_ih
    dbias = da.sum((0, 1))
    dw_ih = torch.einsum("tbg,tbi->gi", da, x)
    dw_hh = torch.einsum("tbg,tbh->gh", da, torch.stack(hs[:-1])) if steps else torch.zeros_like(w_hh)
    return (y, hs[-1], last), (dx, dh, dc, dw_ih, dw_hh, dbias, dbias.clone())


@bank.wrong(
    "gru",
    "the reset gate's cotangent is dn (W_hn h), without the b_hn that it multiplies too where the reset is after",
    "b_hn", "without bias", "lacks bias", "bias left out", "bias forgotten", "bias missing", "recurrent bias",
)  # fmt: skip
def gru_reset_gate_without_the_bias(inputs, dy, reset="after"):
    x, h, w_ih, w_hh, b_ih, b_hh = inputs
    dys, dh = dy
    hidden = h.shape[-1]
    w_rz, w_n, b_rz, b_n = w_hh[: 2 * hidden], w_hh[2 * hidden :], b_hh[: 2 * hidden], b_hh[2 * hidden :]
    hs, saved = [h], []
    for x_t in x:
        a = x_t @ w_ih.T + b_ih
        r, z = torch.sigmoid(a[:, : 2 * hidden] + h @ w_rz.T + b_rz).chunk(2, 1)
        if reset == "after":
            n = torch.tanh(a[:, 2 * hidden :] + r * (h @ w_n.T + b_n))
        else:
            n = torch.tanh(a[:, 2 * hidden :] + (r * h) @ w_n.T + b_n)
        h = n + z * (h - n)
        hs.append(h)
        saved.append((r, z, n))
    y = torch.stack(hs[1:]) if len(x) else torch.zeros_like(dys)
    dx = torch.zeros_like(x)
    dw_ih, dw_hh, db_ih, db_hh = (torch.zeros_like(t) for t in (w_ih, w_hh, b_ih, b_hh))
    for t in reversed(range(len(x))):
        (r, z, n), before = saved[t], hs[t]
        dh = dh + dys[t]
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (before - n) * z * (1 - z)
        if reset == "after":
            inner = dn * r
            dr = dn * (before @ w_n.T)
            dh = dh * z + inner @ w_n
            dw_hh[2 * hidden :] += inner.T @ before
        else:
            inner = dn
            through = dn @ w_n
            dr = through * before
            dh = dh * z + through * r
            dw_hh[2 * hidden :] += dn.T @ (r * before)
        drz = torch.cat((dr * r * (1 - r), dz), 1)
        dh = dh + drz @ w_rz
        da = torch.cat((drz, dn), 1)
        dx[t] = da @ w_ih
        dw_ih += da.T @ x[t]
        db_ih += da.sum(0)
        dw_hh[: 2 * hidden] += drz.T @ before
        db_hh += torch.cat((drz, inner), 1).sum(0)
    return (y, hs[-1]), (dx, dh, dw_ih, dw_hh, db_ih, db_hh)


@bank.wrong(
    "rnn",
    "relu's slope is read off the state as h ≥ 0, which holds everywhere: nothing is cut",
    "slope", "relu", "everywhere", "mask", "nothing is cut", "linear", "≥ 0",
)  # fmt: skip
def rnn_relu_slope_everywhere(inputs, dy, nonlinearity="tanh"):
    x, h0, w_ih, w_hh, b_ih, b_hh = inputs
    dys, dh = dy
    h, states = h0, [h0]
    drive = x @ w_ih.T + (b_ih + b_hh)
    for a in drive:
        a = torch.addmm(a, h, w_hh.T)
        h = a.tanh() if nonlinearity == "tanh" else a.relu()
        states.append(h)
    hs = torch.stack(states)
    da = torch.zeros_like(drive)
    for t in range(len(x) - 1, -1, -1):
        h = hs[t + 1]
        slope = 1 - h * h if nonlinearity == "tanh" else (h >= 0).to(h.dtype)
        da[t] = (dh + dys[t]) * slope
        dh = da[t] @ w_hh
    flat = da.flatten(0, 1)
    dbias = flat.sum(0)
    dw_ih, dw_hh = flat.T @ x.flatten(0, 1), flat.T @ hs[:-1].flatten(0, 1)
    return (hs[1:], h0 if len(x) == 0 else hs[-1]), (da @ w_ih, dh, dw_ih, dw_hh, dbias, dbias.clone())


@bank.right("convolution", "by taps of strided windows over a padded buffer, groups by einsum, any number of axes")
def convolution_by_taps(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    k, s, p, d, m, behind = _geometry(x, weight, stride, padding, dilation)
    xp = _padded(x, p, behind)
    y = _convolved(xp, weight, bias, _taps(k, s, d, m), m, groups)
    g, w = dy.unflatten(1, (groups, -1)), weight.unflatten(0, (groups, -1))
    dxp, dw = torch.zeros_like(xp), torch.zeros_like(w)
    for tap, places in _taps(k, s, d, m):
        dw[(..., *tap)] = torch.einsum("bgf...,bgc...->gfc", g, xp[places].unflatten(1, (groups, -1)))
        dxp[places] += torch.einsum("bgf...,gfc->bgc...", g, w[(..., *tap)]).flatten(1, 2)
    dx = _padded(dxp, [-n for n in p], [-n for n in behind])
    return y, (dx, dw.flatten(0, 1), None if bias is None else dy.transpose(0, 1).flatten(1).sum(1))


@bank.right("max_pool", "a running largest tap, with the number of the tap beside it; padding never stands in a tap")
def max_pool_with_a_running_winner(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    k, s, p, d, m, behind = _windows(x, kernel, stride, padding, dilation, ceil_mode)
    xp = _padded(x, p, behind, -torch.inf)
    real = _padded(torch.ones_like(x, dtype=torch.bool), p, behind, False)
    y, winner = torch.full_like(dy, -torch.inf), torch.full(dy.shape, -1)
    for number, (_, places) in enumerate(_taps(k, s, d, m)):
        tap = xp[places]
        better = real[places] & ((winner < 0) | (tap > y) | (tap.isnan() & ~y.isnan()))
        y, winner = torch.where(better, tap, y), torch.where(better, number, winner)
    dxp = torch.zeros_like(xp)
    for number, (_, places) in enumerate(_taps(k, s, d, m)):
        dxp[places] += torch.where(winner == number, dy, 0)
    return y, (_padded(dxp, [-n for n in p], [-n for n in behind]),)


@bank.right(
    "upsample", "the axis in question comes first, old places collect their shares, the last axis is done first"
)
def upsample_with_the_axis_in_front(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    y, dx = x.clone(), dy.clone()
    for axis, a in reversed(list(zip(range(2, x.ndim), _fractions(scale, x.ndim - 2), strict=True))):
        n = x.shape[axis]
        y, dx = y.movedim(axis, 0), dx.movedim(axis, 0)
        if mode == "nearest":
            low = torch.arange(len(dx)) * a.denominator // a.numerator
            y, dx = y[low], dx.new_zeros(n, *dx.shape[1:]).index_put_((low,), dx, accumulate=True)
        else:
            low, high, above, below = _between(n, a, align_corners)
            first = ((below - above).to(x.dtype) / below).reshape(-1, *[1] * (x.ndim - 1))
            second = (above.to(x.dtype) / below).reshape(first.shape)
            y = y[low] * first + y[high] * second
            old = dx.new_zeros(n, *dx.shape[1:])
            old.index_put_((low,), dx * first, accumulate=True)
            dx = old.index_put_((high,), dx * second, accumulate=True)
        y, dx = y.movedim(0, axis), dx.movedim(0, axis)
    return y, (dx,)


@bank.right("lstm", "the weights are laid beside each other, [x, h] times one matrix, and their cotangent is cut apart")
def lstm_with_one_matrix(inputs, dy):
    x, h, c, w_ih, w_hh, b_ih, b_hh = inputs
    dys, dh, dc = dy
    width, hidden = w_ih.shape[1], w_hh.shape[1]
    matrix = torch.cat((w_ih, w_hh), 1)
    y = torch.zeros_like(dys)
    tape = []
    for t in range(len(x)):
        both = torch.cat((x[t], h), 1)
        i, f, g, o, after = _lstm_step(both @ matrix.T + (b_ih + b_hh), c)
        tape.append((both, i, f, g, o, c, after.tanh()))
        c = after
        h = y[t] = o * tape[-1][-1]
    dx, dmatrix, dbias = torch.zeros_like(x), torch.zeros_like(matrix), torch.zeros_like(b_ih)
    for t in range(len(x) - 1, -1, -1):
        both, i, f, g, o, before, squashed = tape.pop()
        dh = dh + dys[t]
        dc = dc + dh * o * (1 - squashed) * (1 + squashed)
        da = torch.empty(*h.shape[:1], 4, hidden, dtype=x.dtype)
        da[:, 0] = dc * g * i * (1 - i)
        da[:, 1] = dc * before * f * (1 - f)
        da[:, 2] = dc * i * (1 - g) * (1 + g)
        da[:, 3] = dh * squashed * o * (1 - o)
        da = da.flatten(1)
        dboth = da @ matrix
        dx[t], dh, dc = dboth[:, :width], dboth[:, width:], dc * f
        dmatrix += da.T @ both
        dbias += da.sum(0)
    return (y, h.clone(), c), (dx, dh, dc, dmatrix[:, :width], dmatrix[:, width:], dbias, dbias.clone())
