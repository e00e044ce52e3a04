"""Lookups, affine maps, a bound on a norm."""

import torch

from tests.oracle.ninth_bank.entry import Entry, into, rows

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


@entry(
    "embedding",
    ("padding_idx", "padding", "negative"),
    "padding_idx is not None and padding_idx >= 0",
    "padding_idx is not None",
)
def embedding_negative_padding_row_learns(inputs, dy, padding_idx=None):
    index, weight = inputs
    index = index.long()
    dweight = torch.zeros_like(weight).index_add(0, index.reshape(-1), dy.reshape(index.numel(), weight.shape[1]))
    if padding_idx is not None and padding_idx >= 0:
        dweight[padding_idx] = 0
    return weight[index], (None, dweight)


@entry(
    "linear",
    ("last", "overwrit", "accumul", "axis 0", "first axis"),
    "dweight = d.reshape",
    "dweight = dweight + d.reshape",
)
def linear_dweight_of_the_last_sequence(inputs, dy):
    x, weight, bias = inputs
    if x.ndim < 3:
        dweight = rows(dy).T @ rows(x)
    else:
        dweight = torch.zeros_like(weight)
        for a, d in zip(x, dy, strict=False):
            n = a.shape[:-1].numel()
            dweight = d.reshape(n, d.shape[-1]).T @ a.reshape(n, a.shape[-1])
    return x @ weight.T + bias, (dy @ weight, dweight, rows(dy).sum(0))


@entry(
    "max_norm",
    ("projection", "square", "‖", "root", "the norm"),
    "weight * (along / norm)",
    "weight * (along / norm / norm)",
)
def max_norm_projection_over_the_norm_once(inputs, dy, limit):
    (weight,) = inputs
    norm = (weight * weight).sum(1, keepdim=True).sqrt()
    long = norm > limit
    along = (weight * dy).sum(1, keepdim=True)
    dlong = limit / norm * (dy - weight * (along / norm))
    return torch.where(long, limit * (weight / norm), weight), (torch.where(long, dlong, dy),)
