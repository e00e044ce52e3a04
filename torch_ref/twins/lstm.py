import torch
from torch import Tensor

from torch_ref.twins._recurrent import one_layer


def lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    states, parameters = [h0[None], c0[None]], [weight_ih, weight_hh, bias_ih, bias_hh]
    y, h_n, c_n = one_layer(torch.lstm, x, states, parameters, gates=4)
    return y, h_n[0], c_n[0]
