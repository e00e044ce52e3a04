"""Gated units, PReLU, embedding."""

import math

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


@bank.wrong(
    "geglu",
    "GELU is written over the gate, whose slope is then taken at GELU(gate)",
    "gelu(",
    "twice",
    "activation",
    "in place of",
    "instead of",
    "value of",
    "overwrit",
    mend=("gate = gelu(gate)  # the buffer is used again", "pass"),
)
def geglu_in_place(inputs, dy, approximate="none"):
    gate, up = inputs
    c = math.sqrt(2 / math.pi)

    def gelu(x):
        if approximate == "tanh":
            return x * torch.sigmoid(2 * c * (x + 0.044715 * x**3))
        return x * 0.5 * torch.erfc(-x / math.sqrt(2))

    def slope(x):
        if approximate == "tanh":
            inner = 2 * c * (x + 0.044715 * x**3)
            s = torch.sigmoid(inner)
            return s + x * s * torch.sigmoid(-inner) * 2 * c * (1 + 3 * 0.044715 * x * x)
        return 0.5 * torch.erfc(-x / math.sqrt(2)) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    act = gelu(gate)
    y = act * up
    gate = gelu(gate)  # the buffer is used again
    return y, (dy * up * slope(gate), dy * act)


@bank.wrong(
    "swiglu",
    "the slope of SiLU is taken for s + f (1 − f), with f = g s, where s + f (1 − s) is due",
    "sigmoid",
    "silu",
    "1 -",
    "1 −",
    "second term",
    "term",
    mend=("(1 - f)", "torch.sigmoid(-gate)"),
)
def swiglu_mixes_f_and_s(inputs, dy):
    gate, up = inputs
    s = torch.sigmoid(gate)
    f = gate * s
    dgate = dy * up * (s + f * (1 - f))
    return f * up, (dgate, dy * f)


@bank.wrong(
    "prelu",
    "dweight is added up as if the channels were the last axis of memory",
    "channel",
    "axis",
    "axes",
    "layout",
    "transpos",
    "order",
    "space",
    mend=("masked.reshape(-1, len(weight))", "masked.movedim(1, -1).reshape(-1, len(weight))"),
    min_size=1,
)
def prelu_channels_last(inputs, dy):
    x, weight = inputs
    w = weight.view(1, -1, *[1] * (x.ndim - 2))
    y = torch.where(x > 0, x, w * x)
    masked = torch.where(x > 0, 0, dy * x)
    return y, (torch.where(x > 0, dy, dy * w), masked.reshape(-1, len(weight)).sum(0))


@bank.wrong(
    "embedding",
    "sorted ids are added up until the next one differs, and the run of the last is never written",
    "largest",
    "highest",
    "last",
    "greatest",
    "biggest",
    mend=("ends = ids[1:] != ids[:-1]", "ends = torch.cat([ids[1:] != ids[:-1], torch.tensor([True])])"),
    min_size=1,
)
def embedding_never_writes_the_last_run(inputs, dy, padding_idx=None):
    index, weight = inputs
    index = torch.where(index < 0, index + len(weight), index).long()
    y = weight[index]
    dweight = torch.zeros_like(weight)
    ids, order = index.reshape(-1).sort(stable=True)
    rows = dy.reshape(-1, weight.shape[1])[order]
    ends = ids[1:] != ids[:-1]
    start = 0
    for stop in (torch.nonzero(ends).flatten() + 1).tolist():
        dweight[ids[start]] = rows[start:stop].sum(0)
        start = stop
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return y, (None, dweight)
