"""factor eˣ with the digits that a large factor brings to light: the slope that exponential linear units share."""

import torch
from torch import Tensor


def times_exp(factor: float, x: Tensor) -> Tensor:
    """factor eˣ.

    eˣ is taken in two halves, of which the factor meets the first while it is a normal number: where eˣ alone has sunk
    below the smallest normal one it has lost digits, which a large factor would bring to light.
    """
    h = torch.exp(x / 2)
    return factor * h * h
