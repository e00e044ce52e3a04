"""Attention and recurrences as kernels of language models have them: windows, sinks, caps, pages, scans."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracle.function_bank.entry import Function, ids, mask, normal, right, uniform, wrong

# --------------------------------------------- attention over a window, with capped scores and a sink for every head


def capped_sink_attention(q, k, v, sinks, *, window=3, cap=5.0):
    heads, length, width = q.shape
    scores = cap * torch.tanh(q @ k.mT / math.sqrt(width) / cap)
    behind = torch.arange(length)[:, None] - torch.arange(length)
    scores = scores.masked_fill((behind < 0) | (behind >= window), -math.inf)
    with_sink = torch.cat((scores, sinks[:, None, None].expand(heads, length, 1)), -1)
    return torch.softmax(with_sink, -1)[..., :-1] @ v


CAPPED_SINK = Function(
    capped_sink_attention,
    {"q": (2, 6, 4), "k": (2, 6, 4), "v": (2, 6, 4), "sinks": (2,)},
    {"window": 3, "cap": 2.0},
)


def _capped_sink(inputs, dy, window, cap, *, cap_slope=True, sink_share=True):
    q, k, v, sinks = inputs
    _, length, width = q.shape
    t = torch.tanh(q @ k.mT / math.sqrt(width) / cap)
    behind = torch.arange(length, device=q.device)[:, None] - torch.arange(length, device=q.device)
    scores = (cap * t).masked_fill((behind < 0) | (behind >= window), -math.inf)
    total = torch.logaddexp(scores.logsumexp(-1), sinks[:, None])[..., None]
    p, p_sink = torch.exp(scores - total), torch.exp(sinks[:, None] - total[..., 0])
    y = p @ v
    delta = (y * dy).sum(-1)
    ds = p * (dy @ v.mT - delta[..., None])
    if cap_slope:
        ds = ds * (1 - t * t)
    ds = ds / math.sqrt(width)
    dsinks = -(p_sink * delta).sum(-1) if sink_share else -delta.sum(-1)
    return y, (ds @ k, ds.mT @ q, p.mT @ dy, dsinks)


@right(CAPPED_SINK, "the sink takes part in the logsumexp alone")
def capped_sink_by_logsumexp(inputs, dy, *, window=3, cap=5.0):
    return _capped_sink(inputs, dy, window, cap)


@wrong(CAPPED_SINK, "the slope of the cap, 1 - tanh², is left out")
def capped_sink_without_slope(inputs, dy, *, window=3, cap=5.0):
    return _capped_sink(inputs, dy, window, cap, cap_slope=False)


@wrong(CAPPED_SINK, "the sink's cotangent is not multiplied by the sink's probability")
def capped_sink_whole_delta(inputs, dy, *, window=3, cap=5.0):
    return _capped_sink(inputs, dy, window, cap, sink_share=False)


@wrong(CAPPED_SINK, "the window of the backward is longer by one")
def capped_sink_window_longer(inputs, dy, *, window=3, cap=5.0):
    y, _ = _capped_sink(inputs, dy, window, cap)
    return y, _capped_sink(inputs, dy, window + 1, cap)[1]


# ------------------------------------------------------------------------------ queries and keys normed, then rotated


def qk_norm_rope(q, k, wq, wk, cos, sin, *, eps=1e-6):
    def turned(x, weight):
        n = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
        a, b = n.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    return turned(q, wq), turned(k, wk)


QK_NORM_ROPE = Function(
    qk_norm_rope,
    {"q": (3, 5, 8), "k": (2, 5, 8), "wq": (8,), "wk": (8,), "cos": (5, 4), "sin": (5, 4)},
)


def _rope_norm(x, weight, cos, sin, dy, eps, *, back=1.0):
    s = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    xhat = x * s
    a, b = (xhat * weight).chunk(2, -1)
    y = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    da, db = dy.chunk(2, -1)
    dn = torch.cat((da * cos + back * db * sin, db * cos - back * da * sin), -1)
    g = dn * weight
    dx = s * (g - xhat * (g * xhat).mean(-1, keepdim=True))
    dcos, dsin = (da * a + db * b).sum(0), (db * a - da * b).sum(0)
    return y, dx, (dn * xhat).sum((0, 1)), dcos, dsin


@right(QK_NORM_ROPE, "the rotation back, and then the norm")
def qk_norm_rope_rotated_back(inputs, dy, *, eps=1e-6):
    q, k, wq, wk, cos, sin = inputs
    yq, dq, dwq, dcos, dsin = _rope_norm(q, wq, cos, sin, dy[0], eps)
    yk, dk, dwk, dcos_k, dsin_k = _rope_norm(k, wk, cos, sin, dy[1], eps)
    return (yq, yk), (dq, dk, dwq, dwk, dcos + dcos_k, dsin + dsin_k)


@wrong(QK_NORM_ROPE, "the rotation of the backward turns forward again: the signs of sin")
def qk_norm_rope_turned_forward(inputs, dy, *, eps=1e-6):
    q, k, wq, wk, cos, sin = inputs
    y, grads = qk_norm_rope_rotated_back(inputs, dy, eps=eps)
    _, dq, dwq, _, _ = _rope_norm(q, wq, cos, sin, dy[0], eps, back=-1.0)
    _, dk, dwk, _, _ = _rope_norm(k, wk, cos, sin, dy[1], eps, back=-1.0)
    return y, (dq, dk, dwq, dwk, *grads[4:])


@wrong(QK_NORM_ROPE, "dcos and dsin are those of the queries alone")
def qk_norm_rope_angles_of_queries(inputs, dy, *, eps=1e-6):
    y, grads = qk_norm_rope_rotated_back(inputs, dy, eps=eps)
    q, _, wq, _, cos, sin = inputs
    return y, (*grads[:4], *_rope_norm(q, wq, cos, sin, dy[0], eps)[3:])


# ------------------------------------------------------------------- cross-attention: many queries, one head of keys


def cross_attention(x, context, wq, wk, wv, kept):
    q, k, v = x @ wq.T, context @ wk.T, context @ wv.T
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~kept[:, None, :], -math.inf), -1) @ v


CROSS = Function(
    cross_attention,
    {
        "x": (2, 4, 6),
        "context": (2, 5, 7),
        "wq": normal(8, 6, scale=0.5),
        "wk": normal(8, 7, scale=0.5),
        "wv": normal(3, 7, scale=0.5),
        "kept": mask(2, 5),
    },
)


@right(CROSS, "delta before dP: the sum of dy y")
def cross_attention_flash(inputs, dy):
    x, context, wq, wk, wv, kept = inputs
    q, k, v, scale = x @ wq.T, context @ wk.T, context @ wv.T, wq.shape[0] ** -0.5
    p = torch.softmax((q @ k.mT * scale).masked_fill(~kept[:, None, :], -math.inf), -1)
    y = p @ v
    ds = p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True)) * scale
    dq, dk, dv = ds @ k, ds.mT @ q, p.mT @ dy
    dcontext = dk @ wk + dv @ wv
    weights = [torch.einsum("bio,bif->of", g, given) for g, given in ((dq, x), (dk, context), (dv, context))]
    return y, (dq @ wq, dcontext, *weights, None)


@wrong(CROSS, "dcontext is that of the values alone: the keys' part is dropped")
def cross_attention_context_by_values(inputs, dy):
    y, grads = cross_attention_flash(inputs, dy)
    x, context, wq, wk, wv, kept = inputs
    p = torch.softmax(
        (x @ wq.T @ (context @ wk.T).mT * wq.shape[0] ** -0.5).masked_fill(~kept[:, None, :], -math.inf), -1
    )
    return y, (grads[0], p.mT @ dy @ wv, *grads[2:])


@wrong(CROSS, "the scale is left out of the backward")
def cross_attention_without_scale(inputs, dy):
    y, (dx, dcontext, dwq, dwk, *rest) = cross_attention_flash(inputs, dy)
    root = inputs[2].shape[0] ** 0.5
    return y, (dx * root, dcontext, dwq * root, dwk * root, *rest)


# --------------------------------------------------------------------- keys and values in pages, named by a table


def paged_attention(q, pages_k, pages_v, table):
    k = pages_k[table].flatten(1, 2)
    v = pages_v[table].flatten(1, 2)
    p = torch.softmax((k @ q[:, :, None])[..., 0] / math.sqrt(q.shape[-1]), -1)
    return (p[:, None] @ v)[:, 0]


PAGED = Function(
    paged_attention, {"q": (3, 4), "pages_k": (6, 2, 4), "pages_v": (6, 2, 5), "table": ids(3, 2, below=6)}
)


@right(PAGED, "what a page got in several sequences is added up")
def paged_added(inputs, dy):
    q, pages_k, pages_v, table = inputs
    k, v, scale = pages_k[table].flatten(1, 2), pages_v[table].flatten(1, 2), 1 / math.sqrt(q.shape[-1])
    p = torch.softmax((k * q[:, None]).sum(-1) * scale, -1)
    y = torch.einsum("bp,bpf->bf", p, v)
    ds = p * ((v * dy[:, None]).sum(-1) - (y * dy).sum(-1, keepdim=True)) * scale
    dk, dv = ds[..., None] * q[:, None], p[..., None] * dy[:, None]
    places = table.flatten()

    def added(like, found):
        found = found.reshape(len(places), *like.shape[1:])
        return torch.zeros_like(like).index_add_(0, places, found)

    return y, (torch.einsum("bp,bpf->bf", ds, k), added(pages_k, dk), added(pages_v, dv), None)


@wrong(PAGED, "a page that several sequences share gets what the last one wrote")
def paged_last_writes(inputs, dy):
    y, (dq, dk, dv, _) = paged_added(inputs, dy)
    q, pages_k, pages_v, table = inputs
    k = pages_k[table].flatten(1, 2)
    p = torch.softmax((k * q[:, None]).sum(-1) / math.sqrt(q.shape[-1]), -1)
    written = torch.zeros_like(pages_v)
    for place, each in zip(
        table.flatten().tolist(), (p[..., None] * dy[:, None]).reshape(-1, *dv.shape[1:]), strict=True
    ):
        written[place] = each
    return y, (dq, dk, written, None)


# -------------------------------------------------------------------------- selective scan (Mamba), one step at a time


def selective_scan(x, delta, a, b, c, skip):
    step = F.softplus(delta)
    h, found = x.new_zeros(*a.shape), []
    for t in range(x.shape[0]):
        h = torch.exp(step[t][:, None] * a) * h + (step[t] * x[t])[:, None] * b[t]
        found.append((h * c[t]).sum(-1) + skip * x[t])
    return torch.stack(found)


SCAN = Function(
    selective_scan,
    {
        "x": (5, 3),
        "delta": (5, 3),
        "a": uniform(3, 4, low=-2.0, high=-0.2),
        "b": (5, 4),
        "c": (5, 4),
        "skip": (3,),
    },
)


def _scan(inputs, dy, *, state_in_ddelta=True, softplus=True):
    x, delta, a, b, c, skip = inputs
    step = torch.clamp(delta, min=0) + torch.log1p(torch.exp(-delta.abs()))
    decays = torch.exp(step[..., None] * a)
    states = [torch.zeros_like(a)]
    for t in range(len(x)):
        states.append(decays[t] * states[-1] + (step[t] * x[t])[:, None] * b[t])
    y = torch.stack([(h * c[t]).sum(-1) for t, h in enumerate(states[1:])]) + skip * x
    dh, da = torch.zeros_like(a), torch.zeros_like(a)
    dx, dstep, db, dc = skip * dy, torch.zeros_like(delta), torch.zeros_like(b), torch.zeros_like(c)
    for t in reversed(range(len(x))):
        dh = dh + dy[t][:, None] * c[t]
        dc[t] = (dy[t][:, None] * states[t + 1]).sum(0)
        ddecay = dh * states[t] * decays[t]
        da += ddecay * step[t][:, None]
        through = (dh * b[t]).sum(-1)
        dstep[t] = through * x[t] + ((ddecay * a).sum(-1) if state_in_ddelta else 0)
        dx[t] += through * step[t]
        db[t] = ((step[t] * x[t])[:, None] * dh).sum(0)
        dh = dh * decays[t]
    ddelta = dstep * torch.sigmoid(delta) if softplus else dstep
    return y, (dx, ddelta, da, db, dc, (dy * x).sum(0))


@right(SCAN, "states kept, then back step by step")
def selective_scan_back(inputs, dy):
    return _scan(inputs, dy)


@wrong(SCAN, "ddelta lacks what goes through the decay")
def selective_scan_delta_of_input_alone(inputs, dy):
    return _scan(inputs, dy, state_in_ddelta=False)


@wrong(SCAN, "the slope of softplus is left out")
def selective_scan_without_softplus(inputs, dy):
    return _scan(inputs, dy, softplus=False)


# ------------------------------------------------------------------------------------------------ gated delta rule


def gated_delta_rule(q, k, v, beta, gate):
    state, found = q.new_zeros(k.shape[-1], v.shape[-1]), []
    for t in range(q.shape[0]):
        state = state * torch.exp(-F.softplus(gate[t]))
        state = state + torch.sigmoid(beta[t]) * k[t][:, None] * (v[t] - k[t] @ state)
        found.append(q[t] @ state)
    return torch.stack(found)


DELTA = Function(
    gated_delta_rule,
    {"q": (5, 4), "k": normal(5, 4, scale=0.5), "v": (5, 3), "beta": (5,), "gate": (5,)},
)


def _delta(inputs, dy, *, through_prediction=True):
    q, k, v, beta, gate = inputs
    b, decay = torch.sigmoid(beta), torch.exp(-F.softplus(gate))
    before, decayed, errors = [torch.zeros(k.shape[-1], v.shape[-1], dtype=q.dtype, device=q.device)], [], []
    for t in range(len(q)):
        decayed.append(before[-1] * decay[t])
        errors.append(v[t] - k[t] @ decayed[t])
        before.append(decayed[t] + b[t] * torch.outer(k[t], errors[t]))
    y = torch.stack([q[t] @ before[t + 1] for t in range(len(q))])
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    dbeta, dgate, ds = torch.zeros_like(beta), torch.zeros_like(gate), torch.zeros_like(before[0])
    for t in reversed(range(len(q))):
        ds = ds + torch.outer(q[t], dy[t])
        dq[t] = before[t + 1] @ dy[t]
        derror = b[t] * (k[t] @ ds)
        dbeta[t] = (k[t] @ ds @ errors[t]) * b[t] * (1 - b[t])
        dk[t] = b[t] * (ds @ errors[t]) - decayed[t] @ derror
        dv[t] = derror
        ds = ds - torch.outer(k[t], derror) if through_prediction else ds
        dgate[t] = -(ds * before[t]).sum() * decay[t] * torch.sigmoid(gate[t])
        ds = ds * decay[t]
    return y, (dq, dk, dv, dbeta, dgate)


@right(DELTA, "states kept, then back step by step")
def gated_delta_back(inputs, dy):
    return _delta(inputs, dy)


@wrong(DELTA, "the state's cotangent does not pass through what it predicts")
def gated_delta_without_prediction(inputs, dy):
    return _delta(inputs, dy, through_prediction=False)


@wrong(DELTA, "dk lacks what the prediction has of it")
def gated_delta_dk_of_the_write(inputs, dy):
    y, (dq, dk, dv, dbeta, dgate) = _delta(inputs, dy)
    return y, (dq, dk * 0 + _delta_write(inputs, dy), dv, dbeta, dgate)


def _delta_write(inputs, dy):
    """dk as if k in the prediction were a constant: dk and what the prediction took from it."""
    q, k, v, beta, gate = inputs
    _, (_, dk, dv, _, _) = _delta(inputs, dy)
    b, decay = torch.sigmoid(beta), torch.exp(-F.softplus(gate))
    state, found = torch.zeros(k.shape[-1], v.shape[-1], dtype=q.dtype, device=q.device), []
    for t in range(len(q)):
        state = state * decay[t]
        found.append(dk[t] + state @ dv[t])
        state = state + b[t] * torch.outer(k[t], v[t] - k[t] @ state)
    return torch.stack(found)


# --------------------------------------------------------------- real-gated linear recurrence (Griffin), √(1 - a²)


def gated_linear_recurrence(x, rate, gate, lam):
    a = torch.exp(-8.0 * F.softplus(lam) * torch.sigmoid(rate))
    into = torch.sqrt(1 - a * a) * torch.sigmoid(gate) * x
    h, found = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        h = a[t] * h + into[t]
        found.append(h)
    return torch.stack(found)


GRIFFIN = Function(
    gated_linear_recurrence,
    {"x": (5, 4), "rate": (5, 4), "gate": (5, 4), "lam": uniform(4, low=-3.0, high=-1.0)},
)


def _griffin(inputs, dy, *, through_root=True):
    x, rate, gate, lam = inputs
    r, i, soft = torch.sigmoid(rate), torch.sigmoid(gate), F.softplus(lam)
    a = torch.exp(-8.0 * soft * r)
    root = torch.sqrt(-torch.expm1(-16.0 * soft * r))
    h = [torch.zeros_like(x[0])]
    for t in range(len(x)):
        h.append(a[t] * h[-1] + root[t] * i[t] * x[t])
    dinto, da, carried = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[0])
    for t in reversed(range(len(x))):
        carried = carried + dy[t]
        dinto[t], da[t] = carried, carried * h[t]
        carried = carried * a[t]
    if through_root:
        da = da - dinto * i * x * a / root
    dexponent = da * a
    drate = dexponent * -8.0 * soft * r * (1 - r)
    dlam = (dexponent * -8.0 * r).sum(0) * torch.sigmoid(lam)
    return torch.stack(h[1:]), (dinto * root * i, drate, dinto * root * x * i * (1 - i), dlam)


@right(GRIFFIN, "1 - a² by expm1")
def gated_linear_recurrence_expm1(inputs, dy):
    return _griffin(inputs, dy)


@wrong(GRIFFIN, "the root of 1 - a² is taken for a constant")
def gated_linear_recurrence_root_constant(inputs, dy):
    return _griffin(inputs, dy, through_root=False)


# ------------------------------------------------------------------------------ token shift and squared ReLU (RWKV)


def channel_mix(x, mix_k, mix_r, wk, wr, wv):
    before = F.pad(x, (0, 0, 1, -1))
    k = torch.lerp(x, before, mix_k) @ wk.T
    r = torch.lerp(x, before, mix_r) @ wr.T
    return torch.sigmoid(r) * (torch.relu(k).square() @ wv.T)


CHANNEL_MIX = Function(
    channel_mix,
    {
        "x": (2, 4, 5),
        "mix_k": uniform(5, low=0.0, high=1.0),
        "mix_r": uniform(5, low=0.0, high=1.0),
        "wk": (7, 5),
        "wr": (5, 5),
        "wv": normal(5, 7, scale=0.3),
    },
)


def _channel_mix(inputs, dy, *, shifted_back=True):
    x, mix_k, mix_r, wk, wr, wv = inputs
    before = torch.zeros_like(x)
    before[:, 1:] = x[:, :-1]
    xk, xr = x + mix_k * (before - x), x + mix_r * (before - x)
    k, r = xk @ wk.T, torch.sigmoid(xr @ wr.T)
    up = k.clamp(min=0)
    value = (up * up) @ wv.T
    dvalue, dr = dy * r, dy * value * r * (1 - r)
    dk = (dvalue @ wv) * 2 * up
    dxk, dxr = dk @ wk, dr @ wr
    dx = dxk * (1 - mix_k) + dxr * (1 - mix_r)
    if shifted_back:
        dx[:, :-1] += (dxk * mix_k + dxr * mix_r)[:, 1:]
    by = [torch.einsum("blo,bli->oi", g, given) for g, given in ((dk, xk), (dr, xr), (dvalue, up * up))]
    mixes = [(g * (before - x)).sum((0, 1)) for g in (dxk, dxr)]
    return r * value, (dx, *mixes, *by)


@right(CHANNEL_MIX, "the shift back is one of the cotangent by one step")
def channel_mix_shifted(inputs, dy):
    return _channel_mix(inputs, dy)


@wrong(CHANNEL_MIX, "what the next step has of this one is forgotten")
def channel_mix_without_next(inputs, dy):
    return _channel_mix(inputs, dy, shifted_back=False)


# ------------------------------------------------------------------- generalised advantages, backwards through time


def advantages(rewards, values, going, *, gamma=0.99, lam=0.95):
    found, last = [], torch.zeros_like(rewards[0])
    for t in reversed(range(rewards.shape[0])):
        error = rewards[t] + gamma * going[t] * values[t + 1] - values[t]
        last = error + gamma * lam * going[t] * last
        found.append(last)
    return torch.stack(found[::-1])


def _steps_and_one(generator: torch.Generator) -> Tensor:
    return torch.randn(6, 3, generator=generator, dtype=torch.float64)


ADVANTAGES = Function(
    advantages,
    {"rewards": normal(5, 3, scale=1.0), "values": _steps_and_one, "going": mask(5, 3)},
)


@right(ADVANTAGES, "forward through time")
def advantages_forward(inputs, dy, *, gamma=0.99, lam=0.95):
    rewards, values, going = inputs
    y, last = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        last = rewards[t] + gamma * going[t] * values[t + 1] - values[t] + gamma * lam * going[t] * last
        y[t] = last
    drewards, dvalues, carried = torch.zeros_like(rewards), torch.zeros_like(values), torch.zeros_like(rewards[0])
    for t in range(len(rewards)):
        carried = carried + dy[t]
        drewards[t] = carried
        dvalues[t] -= carried
        dvalues[t + 1] += gamma * going[t] * carried
        carried = gamma * lam * going[t] * carried
    return y, (drewards, dvalues, None)


@wrong(ADVANTAGES, "an episode's end does not stop what is carried on")
def advantages_past_the_end(inputs, dy, *, gamma=0.99, lam=0.95):
    y, _ = advantages_forward(inputs, dy, gamma=gamma, lam=lam)
    rewards, values, going = inputs
    return y, advantages_forward((rewards, values, torch.ones_like(going)), dy, gamma=gamma, lam=lam)[1]
