"""Layers that carry a state.  y and dy are tuples: y, h_n, and for the LSTM c_n."""

import torch

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def _rnn(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity):
    """All states, h0 first."""
    states = [h0]
    for x_t in x:
        a = x_t @ weight_ih.T + bias_ih + states[-1] @ weight_hh.T + bias_hh
        states.append(torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a))
    return torch.stack(states)


@bank.wrong(
    "rnn",
    "dweight_hh pairs the cotangent of a step with the state after it instead of the one before",
    "h_t", "state before", "previous", "off by one", "step before", "shifted", "h_(t−1)", "time",
    "neighbour", min_size=1,
)  # fmt: skip
def rnn_dweight_hh_of_the_state_after(inputs, dy, nonlinearity="tanh"):
    x, _, weight_ih, weight_hh, _, _ = inputs
    h = _rnn(*inputs, nonlinearity)
    dh, das = dy[1], []
    for t in reversed(range(len(x))):
        dh = dh + dy[0][t]
        das.append(dh * (1 - h[t + 1] ** 2 if nonlinearity == "tanh" else (h[t + 1] > 0).to(x.dtype)))
        dh = das[-1] @ weight_hh
    da = torch.stack(das[::-1])
    dbias = da.sum((0, 1))
    dweights = torch.einsum("tbh,tbi->hi", da, x), torch.einsum("tbh,tbk->hk", da, h[1:])
    return (h[1:], h[-1]), (da @ weight_ih, dh, *dweights, dbias, dbias.clone())


@bank.wrong(
    "rnn",
    "two mistakes: the derivative of tanh is used where the nonlinearity is relu, and the cotangent of h_n is left out",
    "nonlinearity", "relu", "h_n", "dy.h_n", "tanh derivative", min_size=1,
)  # fmt: skip
def rnn_always_tanh_and_no_final_state(inputs, dy, nonlinearity="tanh"):
    x, h0, weight_ih, weight_hh, _, _ = inputs
    h = _rnn(*inputs, nonlinearity)
    dh, das = torch.zeros_like(h0), []
    for t in reversed(range(len(x))):
        das.append((dh + dy[0][t]) * (1 - h[t + 1] ** 2))
        dh = das[-1] @ weight_hh
    da = torch.stack(das[::-1])
    dbias = da.sum((0, 1))
    dweights = torch.einsum("tbh,tbi->hi", da, x), torch.einsum("tbh,tbk->hk", da, h[:-1])
    return (h[1:], h[-1]), (da @ weight_ih, dh, *dweights, dbias, dbias.clone())


def _lstm(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh):
    """States and cells, the first ones at the beginning, and the gates of every step."""
    hs, cs, gates = [h0], [c0], []
    for x_t in x:
        i, f, g, o = (x_t @ weight_ih.T + bias_ih + hs[-1] @ weight_hh.T + bias_hh).chunk(4, -1)
        gates.append((torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)))
        i, f, g, o = gates[-1]
        cs.append(f * cs[-1] + i * g)
        hs.append(o * torch.tanh(cs[-1]))
    return torch.stack(hs), torch.stack(cs), gates


def _lstm_grads(inputs, da, dh, dc, h):
    x, _, _, weight_ih, _, _, _ = inputs
    dbias = da.sum((0, 1))
    dweights = torch.einsum("tbg,tbi->gi", da, x), torch.einsum("tbg,tbk->gk", da, h[:-1])
    return da @ weight_ih, dh, dc, *dweights, dbias, dbias.clone()


@bank.wrong(
    "lstm",
    "the cotangent of the last cell state c_n never enters",
    "c_n", "dy.c_n", "cell state", min_size=1,
)  # fmt: skip
def lstm_without_the_cotangent_of_c_n(inputs, dy):
    h, c, gates = _lstm(*inputs)
    dh, dc, das = dy[1], torch.zeros_like(c[0]), []
    for t in reversed(range(len(gates))):
        (i, f, g, o), tanh_c = gates[t], torch.tanh(c[t + 1])
        dh = dh + dy[0][t]
        dc = dc + dh * o * (1 - tanh_c**2)
        da = (dc * g * i * (1 - i), dc * c[t] * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o))
        das.append(torch.cat(da, -1))
        dh, dc = das[-1] @ inputs[4], dc * f
    return (h[1:], h[-1], c[-1]), _lstm_grads(inputs, torch.stack(das[::-1]), dh, dc, h)


@bank.wrong(
    "lstm",
    "the forget gate's cotangent multiplies by the cell state after the step instead of the one before",
    "c_t", "cell before", "previous cell", "c_(t−1)", "off by one", "forget", "cell state", "step before", "neighbour",
    min_size=1,
)  # fmt: skip
def lstm_forget_gate_sees_the_new_cell(inputs, dy):
    h, c, gates = _lstm(*inputs)
    dh, dc, das = dy[1], dy[2], []
    for t in reversed(range(len(gates))):
        (i, f, g, o), tanh_c = gates[t], torch.tanh(c[t + 1])
        dh = dh + dy[0][t]
        dc = dc + dh * o * (1 - tanh_c**2)
        da = (dc * g * i * (1 - i), dc * c[t + 1] * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o))
        das.append(torch.cat(da, -1))
        dh, dc = das[-1] @ inputs[4], dc * f
    return (h[1:], h[-1], c[-1]), _lstm_grads(inputs, torch.stack(das[::-1]), dh, dc, h)


@bank.wrong(
    "lstm",
    "two mistakes: dc lacks tanh's derivative at the cell, and the input and forget gates' rows are swapped",
    "tanh derivative", "1 - tanh", "swapped", "order gates", "gates", "forget", "tanh", min_size=1,
)  # fmt: skip
def lstm_no_tanh_slope_and_swapped_gates(inputs, dy):
    h, c, gates = _lstm(*inputs)
    dh, dc, das = dy[1], dy[2], []
    for t in reversed(range(len(gates))):
        (i, f, g, o), tanh_c = gates[t], torch.tanh(c[t + 1])
        dh = dh + dy[0][t]
        dc = dc + dh * o
        da = (dc * c[t] * f * (1 - f), dc * g * i * (1 - i), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o))
        das.append(torch.cat(da, -1))
        dh, dc = das[-1] @ inputs[4], dc * f
    return (h[1:], h[-1], c[-1]), _lstm_grads(inputs, torch.stack(das[::-1]), dh, dc, h)


@bank.right(
    "lstm", "all pre-activations in one buffer, their cotangents written over them; weights as [W_ih, W_hh]", min_size=1
)
def lstm_in_one_buffer(inputs, dy):
    x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    steps, size = len(x), h0.shape[-1]
    joined, bias = torch.cat((weight_ih, weight_hh), 1), bias_ih + bias_hh
    seen = torch.cat((x, torch.empty(steps, *h0.shape, dtype=x.dtype, device=x.device)), -1)
    buffer = torch.empty(steps, len(h0), 4 * size, dtype=x.dtype, device=x.device)
    cells, ys = [c0], torch.empty_like(dy[0])
    for t in range(steps):
        seen[t, :, x.shape[-1] :] = h0 if t == 0 else ys[t - 1]
        torch.addmm(bias, seen[t], joined.T, out=buffer[t])
        i, f, g, o = buffer[t].chunk(4, -1)
        for gate in (i, f, o):
            gate.sigmoid_()
        g.tanh_()
        cells.append(torch.addcmul(f * cells[-1], i, g))
        ys[t] = o * torch.tanh(cells[-1])
    dx, dh, dc = torch.empty_like(x), dy[1].clone(), dy[2].clone()
    for t in reversed(range(steps)):
        i, f, g, o = (part.clone() for part in buffer[t].chunk(4, -1))
        slope_i, slope_f, slope_g, slope_o = buffer[t].chunk(4, -1)
        tanh_c = torch.tanh(cells[t + 1])
        dh += dy[0][t]
        dc += dh * o * (1 - tanh_c * tanh_c)
        slope_i.copy_(dc * g * i * (1 - i))
        slope_f.copy_(dc * cells[t] * f * (1 - f))
        slope_g.copy_(dc * i * (1 - g * g))
        slope_o.copy_(dh * tanh_c * o * (1 - o))
        dseen = buffer[t] @ joined
        dh = dseen[:, x.shape[-1] :].clone()
        dc *= f
        dx[t] = dseen[:, : x.shape[-1]]
    djoined = buffer.flatten(0, 1).T @ seen.flatten(0, 1)
    dbias = buffer.sum((0, 1))
    dweights = djoined[:, : x.shape[-1]].clone(), djoined[:, x.shape[-1] :].clone()
    return (ys, ys[-1].clone(), cells[-1]), (dx, dh, dc, *dweights, dbias, dbias.clone())


def _gru(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, reset):
    """States, h0 first, and of each step r, z, n and what r multiplies (the product, or h)."""
    w, u, bias, c = (t.chunk(3) for t in (weight_ih, weight_hh, bias_ih, bias_hh))
    states, gates = [h0], []
    for x_t in x:
        h = states[-1]
        r = torch.sigmoid(x_t @ w[0].T + bias[0] + h @ u[0].T + c[0])
        z = torch.sigmoid(x_t @ w[1].T + bias[1] + h @ u[1].T + c[1])
        product = h @ u[2].T + c[2] if reset == "after" else h
        inner = r * product if reset == "after" else (r * h) @ u[2].T + c[2]
        n = torch.tanh(x_t @ w[2].T + bias[2] + inner)
        gates.append((r, z, n, product))
        states.append((1 - z) * n + z * h)
    return torch.stack(states), gates


def _gru_step(dh, h, gates, weight_hh, reset):
    """Right, for one step: the cotangents of the three pre-activations, that of h, and of weight_hh and bias_hh."""
    r, z, n, product = gates
    u_r, u_z, u_n = weight_hh.chunk(3)
    dz = dh * (h - n) * z * (1 - z)
    dn = dh * (1 - z) * (1 - n * n)
    dinner = dn * r if reset == "after" else dn
    dr = (dn * product if reset == "after" else (dn @ u_n) * h) * r * (1 - r)
    through_n = dinner @ u_n if reset == "after" else (dn @ u_n) * r
    dh_before = dh * z + dr @ u_r + dz @ u_z + through_n
    seen = h if reset == "after" else r * h
    du = torch.cat((dr.T @ h, dz.T @ h, dinner.T @ seen))
    return torch.cat((dr, dz, dn), -1), dh_before, du, torch.cat((dr, dz, dinner), -1).sum(0)


def _gru_grads(inputs, dy, reset, h, gates, step):
    x, _, weight_ih, weight_hh, _, bias_hh = inputs
    dh, das, du, dc = dy[1], [], torch.zeros_like(weight_hh), torch.zeros_like(bias_hh)
    for t in reversed(range(len(x))):
        da, dh, more_u, more_c = step(dh + dy[0][t], h[t], gates[t], weight_hh, reset)
        das.append(da)
        du, dc = du + more_u, dc + more_c
    da = torch.stack(das[::-1])
    return da @ weight_ih, dh, torch.einsum("tbg,tbi->gi", da, x), du, da.sum((0, 1)), dc


@bank.wrong(
    "gru",
    "the way straight from h_(t−1) to h_t through z is left out of the cotangent that is handed back",
    "direct", "z term", "dh z", "through z", "carried", "term", "straight", "forgets", min_size=1,
)  # fmt: skip
def gru_without_the_direct_way(inputs, dy, reset="after"):
    h, gates = _gru(*inputs, reset)

    def step(dh, h_before, gate, weight_hh, reset):
        da, dh_before, du, dc = _gru_step(dh, h_before, gate, weight_hh, reset)
        return da, dh_before - dh * gate[1], du, dc

    return (h[1:], h[-1]), _gru_grads(inputs, dy, reset, h, gates, step)


@bank.wrong(
    "gru",
    "dbias_hh is a copy of dbias_ih: with reset after, the new state's third lacks the factor r",
    "factor r", "bias_hh r", "lacks r", "reset gate", "reset", "dbias_ih", "without r", "r", min_size=1,
)  # fmt: skip
def gru_one_bias_gradient_for_both(inputs, dy, reset="after"):
    h, gates = _gru(*inputs, reset)
    dx, dh, dw, du, dbias, _ = _gru_grads(inputs, dy, reset, h, gates, _gru_step)
    return (h[1:], h[-1]), (dx, dh, dw, du, dbias, dbias.clone())


@bank.wrong(
    "gru",
    "the reset gate is a constant in the backward: no gradient reaches its pre-activation",
    "reset gate", "constant", "r gate", "dr", "stop", "third", "zero rows", "rows", "reset", min_size=1,
)  # fmt: skip
def gru_reset_gate_detached(inputs, dy, reset="after"):
    h, gates = _gru(*inputs, reset)
    size = h.shape[-1]

    def step(dh, h_before, gate, weight_hh, reset):
        da, dh_before, du, dc = _gru_step(dh, h_before, gate, weight_hh, reset)
        dh_before = dh_before - da[:, :size] @ weight_hh[:size]
        return (
            torch.cat((torch.zeros_like(da[:, :size]), da[:, size:]), -1),
            dh_before,
            *(torch.cat((torch.zeros_like(d[:size]), d[size:])) for d in (du, dc)),
        )

    return (h[1:], h[-1]), _gru_grads(inputs, dy, reset, h, gates, step)


@bank.right("gru", "only the states are kept, every gate is computed again in the backward, in float64", min_size=1)
def gru_gates_recomputed(inputs, dy, reset="after"):
    dtype = inputs[0].dtype
    inputs, dy = tuple(t.double() for t in inputs), tuple(t.double() for t in dy)
    x, _, *parameters = inputs
    h, _ = _gru(*inputs, reset)
    again = [_gru(x[t : t + 1], h[t], *parameters, reset)[1][0] for t in range(len(x))]
    grads = _gru_grads(inputs, dy, reset, h, again, _gru_step)
    return (h[1:].to(dtype), h[-1].to(dtype)), tuple(g.to(dtype) for g in grads)
