"""Recurrent layers: states before and after a step, the cotangents of the last ones."""

import torch

from tests.oracle.ninth_bank.entry import Entry, into

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


@entry(
    "lstm",
    ("c_n", "cell state", "ignored", "final state", "last state"),
    "torch.zeros_like(dc_n)",
    "dc_n",
)
def lstm_cotangent_of_the_last_cell_ignored(inputs, dy):
    x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    dy, dh_n, dc_n = dy
    h, c, saved, ys = h0, c0, [], []
    for x_t in x:
        a = x_t @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh
        i, f, g, o = a.chunk(4, -1)
        gates = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c_before, c = c, gates[1] * c + gates[0] * gates[2]
        saved.append((gates, h, c_before, c))
        h = gates[3] * torch.tanh(c)
        ys.append(h)
    y = (torch.stack(ys), h, c)
    dh, dc = dh_n, torch.zeros_like(dc_n)
    dx, dw_ih, dw_hh, db = [], torch.zeros_like(weight_ih), torch.zeros_like(weight_hh), torch.zeros_like(bias_ih)
    for t in reversed(range(len(x))):
        (i, f, g, o), h_before, c_before, c = saved[t]
        dh = dh + dy[t]
        tc = torch.tanh(c)
        dc = dc + dh * o * (1 - tc * tc)
        da = [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * tc * o * (1 - o)]
        da = torch.cat(da, -1)
        dx.append(da @ weight_ih)
        dw_ih, dw_hh, db = dw_ih + da.T @ x[t], dw_hh + da.T @ h_before, db + da.sum(0)
        dh, dc = da @ weight_hh, dc * f
    return y, (torch.stack(dx[::-1]), dh, dc, dw_ih, dw_hh, db, db.clone())


@entry(
    "gru",
    ("reset", "r_t", "gate", "candidate", "bias_ih"),
    "db_hh = db_hh + da.sum(0)",
    "db_hh = db_hh + da_h.sum(0)",
)
def gru_bias_hh_without_the_reset_gate(inputs, dy, reset="after"):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    dy, dh_n = dy
    hidden = h0.shape[-1]
    after = reset == "after"
    w_rz, w_n, b_rz, b_n = (
        weight_hh[: 2 * hidden],
        weight_hh[2 * hidden :],
        bias_hh[: 2 * hidden],
        bias_hh[2 * hidden :],
    )
    h, saved, ys = h0, [], []
    for x_t in x:
        from_x = x_t @ weight_ih.T + bias_ih
        r, z = torch.sigmoid(from_x[:, : 2 * hidden] + h @ w_rz.T + b_rz).chunk(2, -1)
        m = h @ w_n.T + b_n
        n = torch.tanh(from_x[:, 2 * hidden :] + (r * m if after else (r * h) @ w_n.T + b_n))
        saved.append((r, z, n, m, h))
        h = (1 - z) * n + z * h
        ys.append(h)
    dh = dh_n
    dx, dw_ih, dw_hh = [], torch.zeros_like(weight_ih), torch.zeros_like(weight_hh)
    db_ih, db_hh = torch.zeros_like(bias_ih), torch.zeros_like(bias_hh)
    for t in reversed(range(len(x))):
        r, z, n, m, h_before = saved[t]
        dh = dh + dy[t]
        da_n = dh * (1 - z) * (1 - n * n)
        da_z = dh * (h_before - n) * z * (1 - z)
        d_reset = da_n @ w_n
        da_r = da_n * m * r * (1 - r) if after else d_reset * h_before * r * (1 - r)
        da = torch.cat([da_r, da_z, da_n], -1)
        da_h = torch.cat([da_r, da_z, da_n * r if after else da_n], -1)  # noqa: F841 - it is read once mended
        dx.append(da @ weight_ih)
        dw_ih = dw_ih + da.T @ x[t]
        to_rz = da[:, : 2 * hidden]
        dw_n = (da_n * r).T @ h_before if after else da_n.T @ (r * h_before)
        dw_hh = dw_hh + torch.cat([to_rz.T @ h_before, dw_n])
        db_ih = db_ih + da.sum(0)
        db_hh = db_hh + da.sum(0)
        dh = dh * z + to_rz @ w_rz + ((da_n * r) @ w_n if after else d_reset * r)
    return (torch.stack(ys), h), (torch.stack(dx[::-1]), dh, dw_ih, dw_hh, db_ih, db_hh)


@entry(
    "rnn",
    ("previous", "before", "h_(t", "shift", "off by one", "step"),
    "zip(da, states[1:], strict=False)",
    "zip(da, states[:-1], strict=False)",
)
def rnn_dweight_hh_with_the_state_after_the_step(inputs, dy, nonlinearity="tanh"):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    dy, dh = dy
    states = [h0]
    for x_t in x:
        a = x_t @ weight_ih.T + bias_ih + states[-1] @ weight_hh.T + bias_hh
        states.append(torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a))
    y = (torch.stack(states[1:]), states[-1].clone())
    da = [None] * len(x)
    for t in reversed(range(len(x))):
        h = y[0][t]
        da[t] = (dh + dy[t]) * (1 - h * h if nonlinearity == "tanh" else (h > 0).to(h.dtype))
        dh = da[t] @ weight_hh
    dw_ih = sum((d.T @ x_t for d, x_t in zip(da, x, strict=False)), torch.zeros_like(weight_ih))
    states = torch.stack(states)
    dw_hh = sum((d.T @ h for d, h in zip(da, states[1:], strict=False)), torch.zeros_like(weight_hh))
    db = torch.stack(da).sum((0, 1))
    return y, (torch.stack(da) @ weight_ih, dh, dw_ih, dw_hh, db, db.clone())
