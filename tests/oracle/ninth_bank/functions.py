"""Functions of plain torch as the reference."""

import torch
import torch.nn.functional as F

from tests.oracle.ninth_bank.entry import Entry, into

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


def tied_autoencoder(x, weight):
    return torch.tanh(x @ weight.T) @ weight


@entry(
    tied_autoencoder,
    ("second use", "use", "tied", "term", "decoder", "missing"),
    "dweight = encoder",
    "dweight = encoder + h.T @ dy",
    inputs={"x": (6, 10), "weight": (5, 10)},
)
def tied_weights_second_use_missing(inputs, dy):
    x, weight = inputs
    h = torch.tanh(x @ weight.T)
    da = (dy @ weight.T) * (1 - h * h)
    encoder = da.T @ x
    dweight = encoder
    return h @ weight, (da @ weight, dweight)


def lora(x, weight, down, up, scale: float = 2.0):
    return x @ weight.T + scale * ((x @ down.T) @ up.T)


@entry(
    lora,
    ("scale", "factor"),
    "ddown = (dy @ up).T @ x",
    "ddown = scale * (dy @ up).T @ x",
    inputs={"x": (6, 12), "weight": (7, 12), "down": (3, 12), "up": (7, 3)},
    hyper={"scale": 0.7},
)
def lora_ddown_without_the_scale(inputs, dy, scale=2.0):
    x, weight, down, up = inputs
    low = x @ down.T
    ddown = (dy @ up).T @ x
    dx = dy @ weight + scale * ((dy @ up) @ down)
    return x @ weight.T + scale * (low @ up.T), (dx, dy.T @ x, ddown, scale * dy.T @ low)


def attention_pooling(x, query):
    p = torch.softmax(x @ query, -1)
    return (p.unsqueeze(-1) * x).sum(-2)


@entry(
    attention_pooling,
    ("score", "softmax", "path", "term", "query", "missing"),
    "dx = p.unsqueeze(-1) * dy.unsqueeze(-2)",
    "dx = p.unsqueeze(-1) * dy.unsqueeze(-2) + ds.unsqueeze(-1) * query",
    inputs={"x": (4, 7, 9), "query": (9,)},
)
def attention_pooling_scores_detached_in_dx(inputs, dy):
    x, query = inputs
    p = torch.softmax(x @ query, -1)
    dp = (x * dy.unsqueeze(-2)).sum(-1)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    dx = p.unsqueeze(-1) * dy.unsqueeze(-2)
    return (p.unsqueeze(-1) * x).sum(-2), (dx, (ds.unsqueeze(-1) * x).sum((0, 1)))


def gated_mlp(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


@entry(
    gated_mlp,
    ("silu", "slope", "derivative", "sigmoid", "product rule"),
    "s * 1.0",
    "s * (1 + g * (1 - s))",
    inputs={"x": (6, 8), "gate": (11, 8), "up": (11, 8), "down": (5, 11)},
)
def gated_mlp_gate_slope_is_the_sigmoid_alone(inputs, dy):
    x, gate, up, down = inputs
    g, u = x @ gate.T, x @ up.T
    s = torch.sigmoid(g)
    h = g * s * u
    dh = dy @ down
    du = dh * g * s
    dg = dh * u * (s * 1.0)
    return h @ down.T, (dg @ gate + du @ up, dg.T @ x, du.T @ x, dy.T @ h)


def contrastive(a, b, scale: float = 4.0):
    s = scale * (a @ b.T)
    by_row = torch.log_softmax(s, 1).diagonal().mean()
    by_column = torch.log_softmax(s, 0).diagonal().mean()
    return -(by_row + by_column) / 2


@entry(
    contrastive,
    ("column", "axis", "dim", "transpos", "row", "softmax"),
    "torch.softmax(s, 1) + torch.softmax(s, 1)",
    "torch.softmax(s, 1) + torch.softmax(s, 0)",
    inputs={"a": (6, 9), "b": (6, 9)},
    hyper={"scale": 0.5},
)
def clip_loss_softmax_by_rows_twice(inputs, dy, scale=4.0):
    a, b = inputs
    s = scale * (a @ b.T)
    eye = torch.eye(len(s), dtype=s.dtype, device=s.device)
    ds = dy * scale * (torch.softmax(s, 1) + torch.softmax(s, 1) - 2 * eye) / (2 * len(s))
    y = -(torch.log_softmax(s, 1).diagonal().mean() + torch.log_softmax(s, 0).diagonal().mean()) / 2
    return y, (ds @ b, ds.T @ a)
