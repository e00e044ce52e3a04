"""Of tables."""

import torch

import manual_bp as bp
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


@bank.wrong(
    "embedding",
    "== padding_idx)",
    "== padding_idx % entries)",
    cause="a negative padding_idx, which counts from the end, is compared as it is: no row is constant",
    keywords=("padding_idx", "padding", "negative", "from the end"),
)
def embedding_padding_from_the_end(inputs, dy, padding_idx=None):
    index, weight = inputs
    y, _ = bp.embedding.forward(index, weight, padding_idx=padding_idx)
    entries, features = weight.shape
    zeros = torch.zeros(entries, features, dtype=dy.dtype, device=dy.device)
    dweight = zeros.index_add(0, index.long().flatten(), dy.reshape(index.numel(), features))
    if padding_idx is not None:
        dweight = torch.where((torch.arange(entries, device=dy.device) == padding_idx)[:, None], 0, dweight)
    return y, (None, dweight)
