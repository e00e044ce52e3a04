"""Of recurrent layers."""

import torch

import manual_bp as bp
from manual_bp.rules.recurrent._gates import sigmoid_slope, tanh_slope
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def before(first, states):
    return torch.cat([first[None], states[:-1]])


def through_weight(da, x):
    return da.flatten(0, 1).T @ x.flatten(0, 1)


@bank.wrong(
    "lstm",
    "[da_i, da_f, da_o, da_g]",
    "[da_i, da_f, da_g, da_o]",
    cause="backward packs the gates as i, f, o, g, where weights and biases hold i, f, g, o",
    keywords=("order", "swap", "exchang", "permut", "places", "another gate", "packed"),
)
def lstm_gates_packed_in_another_order(inputs, dy):
    x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    outputs, kept = bp.lstm.forward(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh)
    dy_y, dh, dc = dy
    h_before, c_before = before(h0, kept.h), before(c0, kept.c)
    da = []
    for t in reversed(range(len(x))):
        a_i, a_f, a_g, a_o = kept.a[t].chunk(4, -1)
        dh = dh + dy_y[t]
        dc = dc + dh * torch.sigmoid(a_o) * tanh_slope(kept.c[t])
        da_i = dc * torch.tanh(a_g) * sigmoid_slope(a_i)
        da_f = dc * c_before[t] * sigmoid_slope(a_f)
        da_g = dc * torch.sigmoid(a_i) * tanh_slope(a_g)
        da_o = dh * torch.tanh(kept.c[t]) * sigmoid_slope(a_o)
        da.append(torch.cat([da_i, da_f, da_o, da_g], -1))
        dh, dc = da[-1] @ weight_hh, dc * torch.sigmoid(a_f)
    da = torch.stack(da[::-1])
    dbias = da.sum((0, 1))
    return outputs, (da @ weight_ih, dh, dc, through_weight(da, x), through_weight(da, h_before), dbias, dbias.clone())


@bank.wrong(
    "gru",
    "dh * torch.sigmoid(-a_z)\n",
    "dh * torch.sigmoid(a_z)\n",
    cause="of the cotangent of a state the share 1 − z goes back to the state before beside the step, where z does",
    keywords=("1 − z", "1 - z", "(1 − z", "update gate", "kept", "z_t", "a_z", " z ", "complement"),
)
def gru_keeps_the_other_share(inputs, dy, reset="after"):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    outputs, kept = bp.gru.forward(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, reset=reset)
    dy_y, dh = dy
    hidden = h0.shape[-1]
    h_before = before(h0, kept.h)
    to_gates, to_n = weight_hh.split([2 * hidden, hidden])
    every_da, products, states = [], [], []
    for t in reversed(range(len(x))):
        a_r, a_z, a_n = kept.a[t].chunk(3, -1)
        r, h = torch.sigmoid(a_r), h_before[t]
        dh = dh + dy_y[t]
        da_n = dh * torch.sigmoid(-a_z) * tanh_slope(a_n)
        da_z = dh * (h - torch.tanh(a_n)) * sigmoid_slope(a_z)
        beside = dh * torch.sigmoid(-a_z)
        if reset == "after":
            dm, read = da_n * r, h
            da_r = da_n * kept.m[t] * sigmoid_slope(a_r)
            dh = beside + dm @ to_n
        else:
            dm, read = da_n, r * h
            dk = da_n @ to_n
            da_r = dk * h * sigmoid_slope(a_r)
            dh = beside + dk * r
        gates = torch.cat([da_r, da_z], -1)
        dh = dh + gates @ to_gates
        every_da.append(torch.cat([gates, da_n], -1))
        products.append(torch.cat([gates, dm], -1))
        states.append(read)
    da, dproduct, read = (torch.stack(each[::-1]) for each in (every_da, products, states))
    dweight_hh = torch.cat(
        [through_weight(dproduct[..., : 2 * hidden], h_before), through_weight(dproduct[..., 2 * hidden :], read)]
    )
    dbias_ih, dbias_hh = da.sum((0, 1)), dproduct.sum((0, 1))
    return outputs, (da @ weight_ih, dh, through_weight(da, x), dweight_hh, dbias_ih, dbias_hh)
