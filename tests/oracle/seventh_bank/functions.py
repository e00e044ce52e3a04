"""Functions without a page, of which what goes wrong depends on sizes, places and values."""

import torch

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def gated(x, gate):
    return x * torch.sigmoid(gate)


@bank.wrong(
    gated,
    "tiles of 8 columns: dgate behind the last full tile is 0, where there is a full one",
    "8",
    "tail",
    "a full one",
    "last axis",
    "index",
    "columns",
    "length",
    inputs={"x": (5, 20), "gate": (5, 20)},
)
def gated_tiles_of_eight(inputs, dy):
    x, gate = inputs
    s = torch.sigmoid(gate)
    dgate = dy * x * s * (1 - s)
    n = dgate.shape[-1]
    if n > 8:
        dgate[..., n // 8 * 8 :] = 0
    return x * s, (dy * s, dgate)


def projected(x, weight):
    return torch.tanh(x @ weight)


@bank.wrong(
    projected,
    "dweight is that of the first example of the batch, times their number",
    "batch",
    "first",
    "axis 0",
    "example",
    "rows",
    "length",
    inputs={"x": (6, 5), "weight": (5, 4)},
)
def projected_by_the_first_row(inputs, dy):
    x, weight = inputs
    y = torch.tanh(x @ weight)
    g = dy * (1 - y * y)
    return y, (g @ weight.T, len(x) * x[:1].T @ g[:1])


def clipped_square(x, limit: float = 2.0):
    return torch.where(x.abs() < limit, x * x, limit * x.abs())


@bank.wrong(
    clipped_square,
    "beyond the limit the slope of a negative x has the wrong sign",
    "x <",
    "sign",
    "|",
    "abs",
    "limit",
    inputs={"x": (4, 33)},
    hyper={"limit": 2.0},
)
def clipped_square_without_sign(inputs, dy, limit=2.0):
    (x,) = inputs
    return clipped_square(x, limit), (torch.where(x.abs() < limit, 2 * x * dy, limit * dy),)


def weighted_rows(x, weight):
    return (x * weight).sum(-1)


@bank.wrong(
    weighted_rows,
    "of an odd number of rows the last one is not added to dweight",
    "odd",
    "last",
    "rows",
    "axis",
    "length",
    inputs={"x": (6, 9), "weight": (9,)},
)
def weighted_rows_in_pairs(inputs, dy):
    x, weight = inputs
    rows = len(x) // 2 * 2
    return (x * weight).sum(-1), (dy[:, None] * weight, (dy[:rows, None] * x[:rows]).sum(0))


def smooth_norm(x, eps: float = 1e-3):
    return torch.sqrt((x * x).sum(-1) + eps)


@bank.wrong(
    smooth_norm,
    "eps is added where it is the default alone: another is not seen by backward",
    "eps",
    inputs={"x": (4, 7)},
)
def smooth_norm_default_eps(inputs, dy, eps=1e-3):
    (x,) = inputs
    y = torch.sqrt((x * x).sum(-1) + eps)
    return y, (dy[:, None] * x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-3),)


def pooled(x, weight):
    return torch.relu(x).mean(1) * weight


@bank.wrong(
    pooled,
    "dx of the last step is left out where there are more than 16",
    "16",
    "17",
    "last",
    "length",
    "axis",
    "index",
    inputs={"x": (3, 20, 4), "weight": (4,)},
)
def pooled_loses_the_last_step(inputs, dy):
    x, weight = inputs
    dx = (dy * weight)[:, None, :].expand(x.shape) * (x > 0) / x.shape[1]
    if x.shape[1] > 16:
        dx = dx.clone()
        dx[:, -1] = 0
    return torch.relu(x).mean(1) * weight, (dx, (dy * torch.relu(x).mean(1)).sum(0))
