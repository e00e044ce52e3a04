from typing import Literal

import torch
from torch import Tensor

from torch_ref.twins._recurrent import one_layer


def rnn(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> tuple[Tensor, Tensor]:
    kernel = torch.rnn_tanh if nonlinearity == "tanh" else torch.rnn_relu
    y, h_n = one_layer(kernel, x, h0[None], [weight_ih, weight_hh, bias_ih, bias_hh], gates=1)
    return y, h_n[0]
