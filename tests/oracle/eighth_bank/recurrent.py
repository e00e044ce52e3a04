"""Recurrent layers: gates of all steps are kept, the loop runs backwards."""

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def steep(a):
    """The slope of tanh at a, of which no digits are lost."""
    return 1 / torch.cosh(a) ** 2


@bank.wrong(
    "rnn",
    "the cotangent of the state is set to 0 at the border of chunks of 8 steps",
    "8",
    "chunk",
    "block",
    "truncat",
    "step",
    "time",
    "state",
    mend=("if t % 8 == 0:", "if False:"),
)
def rnn_cuts_at_chunks(inputs, dy, nonlinearity="tanh"):
    x, h0, w_ih, w_hh, b_ih, b_hh = inputs
    act = torch.tanh if nonlinearity == "tanh" else torch.relu
    before, states, h = [], [h0], h0
    for t in range(len(x)):
        a = x[t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh
        h = act(a)
        before.append(a)
        states.append(h)
    dys, dh_n = dy
    dh, da = dh_n, [None] * len(x)
    for t in reversed(range(len(x))):
        dh = dh + dys[t]
        da[t] = dh * (steep(before[t]) if nonlinearity == "tanh" else (before[t] > 0).to(dh.dtype))
        dh = da[t] @ w_hh
        if t % 8 == 0:
            dh = dh * (t == 0)
    da = torch.stack(da)
    hs = torch.stack(states)
    dw_ih, dw_hh = torch.einsum("tbh,tbi->hi", da, x), torch.einsum("tbh,tbi->hi", da, hs[:-1])
    db = da.sum((0, 1))
    return (hs[1:], h), (da @ w_ih, dh, dw_ih, dw_hh, db, db.clone())


@bank.wrong(
    "lstm",
    "the cell's cotangent goes back through the forget gate of the step before, not of its own",
    "forget",
    "step",
    "f_t",
    "gate f",
    "cell",
    mend=("max(t - 1, 0)", "t"),
)
def lstm_forgets_a_step_early(inputs, dy):
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = inputs
    h, c, gates, cells, hidden = h0, c0, [], [c0], [h0]
    for t in range(len(x)):
        a = x[t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh
        i, f, g, o = a.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        gates.append((i, f, g, o))
        cells.append(c)
        hidden.append(h)
    dys, dh, dc = dy
    da = [None] * len(x)
    for t in reversed(range(len(x))):
        i, f, g, o = gates[t]
        dh = dh + dys[t]
        dc = dc + dh * torch.sigmoid(o) * steep(cells[t + 1])
        da[t] = torch.cat(
            [
                dc * torch.tanh(g) * torch.sigmoid(i) * torch.sigmoid(-i),
                dc * cells[t] * torch.sigmoid(f) * torch.sigmoid(-f),
                dc * torch.sigmoid(i) * steep(g),
                dh * torch.tanh(cells[t + 1]) * torch.sigmoid(o) * torch.sigmoid(-o),
            ],
            -1,
        )
        dc = dc * torch.sigmoid(gates[max(t - 1, 0)][1])
        dh = da[t] @ w_hh
    da, hs = torch.stack(da), torch.stack(hidden)
    dw_ih, dw_hh = torch.einsum("tbh,tbi->hi", da, x), torch.einsum("tbh,tbi->hi", da, hs[:-1])
    db = da.sum((0, 1))
    return (hs[1:], h, c), (da @ w_ih, dh, dc, dw_ih, dw_hh, db, db.clone())


@bank.wrong(
    "gru",
    "the state before the first step is taken for 0 when dweight_hh is added up",
    "h0",
    "first step",
    "initial",
    "step 0",
    "t = 0",
    mend=("previous = torch.cat([torch.zeros_like(h0)[None], hs[:-1]])", "previous = torch.cat([h0[None], hs[:-1]])"),
    hyper={"reset": "after"},
)
def gru_starts_from_zero(inputs, dy, reset="after"):
    x, h0, w_ih, w_hh, b_ih, b_hh = inputs
    h, kept, states = h0, [], []
    for t in range(len(x)):
        xr, xz, xn = (x[t] @ w_ih.T + b_ih).chunk(3, -1)
        hr, hz, m = (h @ w_hh.T + b_hh).chunk(3, -1)
        r, az = torch.sigmoid(xr + hr), xz + hz
        an = xn + r * m
        kept.append((xr + hr, az, an, m, h))
        h = torch.sigmoid(-az) * torch.tanh(an) + torch.sigmoid(az) * h
        states.append(h)
    hs = torch.stack(states)
    dys, dh = dy
    dx_gates, dh_gates = [None] * len(x), [None] * len(x)
    for t in reversed(range(len(x))):
        ar, az, an, m, before = kept[t]
        r, z = torch.sigmoid(ar), torch.sigmoid(az)
        dh = dh + dys[t]
        dan = dh * torch.sigmoid(-az) * steep(an)
        daz = dh * (before - torch.tanh(an)) * z * torch.sigmoid(-az)
        dar = dan * m * r * torch.sigmoid(-ar)
        dx_gates[t] = torch.cat([dar, daz, dan], -1)
        dh_gates[t] = torch.cat([dar, daz, dan * r], -1)
        dh = dh * z + dh_gates[t] @ w_hh
    dxg, dhg = torch.stack(dx_gates), torch.stack(dh_gates)
    previous = torch.cat([torch.zeros_like(h0)[None], hs[:-1]])
    dw_ih, dw_hh = torch.einsum("tbh,tbi->hi", dxg, x), torch.einsum("tbh,tbi->hi", dhg, previous)
    return (hs, h), (dxg @ w_ih, dh, dw_ih, dw_hh, dxg.sum((0, 1)), dhg.sum((0, 1)))
