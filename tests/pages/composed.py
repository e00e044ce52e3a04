"""One index after another: nothing but indices, and no backward.

y_i = order[index_i]
"""

import torch
from jaxtyping import Int
from torch import Tensor

from manual_bp.inputs import Index, Mistake


def forward(index: Int[Tensor, "*batch"], order: Int[Tensor, "entries"]) -> Int[Tensor, "*batch"]:
    return torch.index_select(order, 0, index.reshape(-1)).reshape(index.shape)


INPUTS = {"index": Index("entries"), "order": Index("entries")}
EDGES = ()
MISTAKES = (Mistake("index alone", lambda index, order: index, forgets="the order", shows="wherever it is another"),)
