from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_ref.twins._recurrent import one_layer


def gru(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    *,
    reset: Literal["after", "before"] = "after",
) -> tuple[Tensor, Tensor]:
    if reset == "before":
        return _reset_before(x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
    y, h_n = one_layer(torch.gru, x, h0[None], [weight_ih, weight_hh, bias_ih, bias_hh], gates=3)
    return y, h_n[0]


def _reset_before(
    x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> tuple[Tensor, Tensor]:
    """torch has no kernel for it."""
    hidden = h0.shape[-1]
    weight_gates, weight_n = torch.split(weight_hh, [2 * hidden, hidden])
    bias_gates, bias_n = torch.split(bias_hh, [2 * hidden, hidden])
    h, y = h0, []
    for from_x in F.linear(x, weight_ih, bias_ih):
        x_gates, x_n = torch.split(from_x, [2 * hidden, hidden], -1)
        r, z = torch.sigmoid(x_gates + F.linear(h, weight_gates, bias_gates)).chunk(2, -1)
        n = torch.tanh(x_n + F.linear(r * h, weight_n, bias_n))
        h = (1 - z) * n + z * h
        y.append(h)
    return torch.stack(y), h
