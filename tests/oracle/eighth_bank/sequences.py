"""Functions without a page along a sequence: scans, convolutions in time, attention with something new in it."""

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def scanned(x, a):
    """(time, width) twice: h_t = σ(a_t) h_(t−1) + x_t."""
    h, states = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        h = torch.sigmoid(a[t]) * h + x[t]
        states.append(h)
    return torch.stack(states)


@bank.wrong(
    scanned,
    "the first step of each chunk of 4 takes 0 for the state before it when da is made",
    "4",
    "chunk",
    "block",
    "multiple",
    "every",
    "step",
    "time",
    "tile",
    "state",
    mend=(
        "first = torch.zeros_like(states[:1])",
        "first = states[start - 1 : start] if start else torch.zeros_like(states[:1])",
    ),
    inputs={"x": (14, 6), "a": (14, 6)},
)
def scan_starts_each_chunk_from_zero(inputs, dy):
    x, a = inputs
    states = scanned(x, a)
    decay = torch.sigmoid(a)
    dx, da = torch.empty_like(x), torch.empty_like(a)
    dh = torch.zeros_like(x[0])
    for t in reversed(range(len(x))):
        dh = dh + dy[t]
        dx[t] = dh
        dh = dh * decay[t]
    for start in range(0, len(x), 4):
        chunk = slice(start, start + 4)
        first = torch.zeros_like(states[:1])
        before = torch.cat([first, states[chunk][:-1]])
        da[chunk] = dx[chunk] * before * decay[chunk] * torch.sigmoid(-a[chunk])
    return states, (dx, da)


def causal_conv(x, weight):
    """(batch, channels, time) and (channels, taps): each channel with its own kernel, and SiLU."""
    taps = weight.shape[1]
    padded = torch.nn.functional.pad(x, (taps - 1, 0))
    z = sum(weight[:, k, None] * padded[..., k : k + x.shape[2]] for k in range(taps))
    return z * torch.sigmoid(z)


@bank.wrong(
    causal_conv,
    "dx is gathered with the kernel the wrong way round",
    "flip",
    "revers",
    "mirror",
    "order",
    "backwards",
    "wrong way",
    "other way",
    mend=("weight[:, taps - 1 - k, None]", "weight[:, k, None]"),
    inputs={"x": (2, 3, 11), "weight": (3, 4)},
)
def causal_conv_flips_the_kernel(inputs, dy):
    x, weight = inputs
    taps, time = weight.shape[1], x.shape[2]
    padded = torch.nn.functional.pad(x, (taps - 1, 0))
    z = sum(weight[:, k, None] * padded[..., k : k + time] for k in range(taps))
    s = torch.sigmoid(z)
    dz = dy * (s + z * s * torch.sigmoid(-z))
    dpadded, dweight = torch.zeros_like(padded), torch.empty_like(weight)
    for k in range(taps):
        dpadded[..., k : k + time] += weight[:, taps - 1 - k, None] * dz
        dweight[:, k] = (dz * padded[..., k : k + time]).sum((0, 2))
    return z * s, (dpadded[..., taps - 1 :], dweight)


def gated_attention(q, k, v, gate):
    p = torch.softmax(q @ k.mT * 0.5, -1)
    return (p @ v) * torch.sigmoid(gate)


@bank.wrong(
    gated_attention,
    "the row term is made of the gated output and the gated cotangent: the gate is in it twice",
    "gate",
    "row term",
    "delta",
    "projection",
    "dot product",
    "twice",
    "softmax",
    mend=("(do * y).sum(-1, keepdim=True)", "(dy * y).sum(-1, keepdim=True)"),
    inputs={"q": (2, 6, 4), "k": (2, 9, 4), "v": (2, 9, 5), "gate": (2, 6, 5)},
)
def gated_attention_gates_twice(inputs, dy):
    q, k, v, gate = inputs
    p = torch.softmax(q @ k.mT * 0.5, -1)
    o, s = p @ v, torch.sigmoid(gate)
    y = o * s
    do = dy * s
    dgate = dy * o * s * torch.sigmoid(-gate)
    delta = (do * y).sum(-1, keepdim=True)
    ds = p * (do @ v.mT - delta) * 0.5
    return y, (ds @ k, ds.mT @ q, p.mT @ do, dgate)


def sink_attention(q, k, v, sink):
    """(heads, queries, width), ..., (heads,): one more logit a head, which takes weight and gives no value."""
    scores = q @ k.mT * 0.5
    extra = sink[:, None, None].expand(-1, q.shape[1], 1)
    return torch.softmax(torch.cat([scores, extra], -1), -1)[..., :-1] @ v


@bank.wrong(
    sink_attention,
    "dsink has the wrong sign",
    "sign",
    "-1",
    "−1",
    "minus",
    "negat",
    "opposite",
    mend=("dsink = (p_sink * delta).sum((1, 2))", "dsink = -(p_sink * delta).sum((1, 2))"),
    inputs={"q": (2, 6, 4), "k": (2, 9, 4), "v": (2, 9, 5), "sink": (2,)},
)
def sink_attention_turns_the_sign(inputs, dy):
    q, k, v, sink = inputs
    scores = q @ k.mT * 0.5
    m = torch.maximum(scores.amax(-1, keepdim=True), sink[:, None, None])
    e, e_sink = torch.exp(scores - m), torch.exp(sink[:, None, None] - m)
    total = e.sum(-1, keepdim=True) + e_sink
    p, p_sink = e / total, e_sink / total
    y = p @ v
    delta = (dy * y).sum(-1, keepdim=True)
    ds = p * (dy @ v.mT - delta) * 0.5
    dsink = (p_sink * delta).sum((1, 2))
    return y, (ds @ k, ds.mT @ q, p.mT @ dy, dsink)
