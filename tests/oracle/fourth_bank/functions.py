"""Functions without a page: the reference is a forward in plain torch."""

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def softcapped(x, cap: float = 30.0):
    return cap * torch.tanh(x / cap)


@bank.wrong(
    softcapped,
    "the derivative is multiplied by cap, which the inner derivative 1/cap takes away",
    "cap", inputs={"x": (4, 33)}, hyper={"cap": 30.0},
)  # fmt: skip
def softcap_times_cap(inputs, dy, cap=30.0):
    t = torch.tanh(inputs[0] / cap)
    return cap * t, (dy * cap * (1 - t * t),)


def low_rank_linear(x, weight, down, up, scale: float = 2.0):
    return x @ weight.T + scale * (x @ down.T) @ up.T


LOW_RANK = {"x": (5, 24), "weight": (16, 24), "down": (4, 24), "up": (16, 4)}


@bank.wrong(
    low_rank_linear,
    "ddown lacks the scale of the low-rank branch",
    "scale", "1/2", "half", "factor", inputs=LOW_RANK, hyper={"scale": 2.0},
)  # fmt: skip
def low_rank_ddown_without_scale(inputs, dy, scale=2.0):
    x, weight, down, up = inputs
    inner = x @ down.T
    dinner = dy @ up
    dx = dy @ weight + scale * dinner @ down
    return x @ weight.T + scale * inner @ up.T, (dx, dy.T @ x, dinner.T @ x, scale * dy.T @ inner)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


@bank.wrong(
    quick_gelu,
    "the inner derivative 1.702 is left out of the second term",
    "1.702", "term", "inner derivative", "0.588", inputs={"x": (4, 33)},
)  # fmt: skip
def quick_gelu_without_inner_derivative(inputs, dy):
    (x,) = inputs
    s = torch.sigmoid(1.702 * x)
    return x * s, (dy * s * (1 + x * (1 - s)),)


def cosine_similarity(a, b):
    return (a * b).sum(-1) / (torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1))


@bank.wrong(
    cosine_similarity,
    "da is projected on b instead of a: the two vectors are mixed up in the second term",
    "projection", "b instead", "a instead", "term", "mixed", "swapped", "other input",
    inputs={"a": (6, 20), "b": (6, 20)},
)  # fmt: skip
def cosine_projects_on_the_other_vector(inputs, dy):
    a, b = inputs
    na, nb = (torch.linalg.vector_norm(t, dim=-1, keepdim=True) for t in (a, b))
    u, v = a / na, b / nb
    c, g = (u * v).sum(-1, keepdim=True), dy[..., None]
    return c.squeeze(-1), (g * (v - c * v) / na, g * (u - c * v) / nb)


def weight_normed_linear(x, v, g):
    return x @ (g[:, None] * v / torch.linalg.vector_norm(v, dim=1, keepdim=True)).T


@bank.wrong(
    weight_normed_linear,
    "the norm of v is treated as a constant: the projection on v is left out of dv",
    "projection", "norm constant", "norm", "term", "through norm", inputs={"x": (5, 24), "v": (16, 24), "g": (16,)},
)  # fmt: skip
def weight_norm_is_constant(inputs, dy):
    x, v, g = inputs
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    weight = g[:, None] * v / norm
    dweight = dy.T @ x
    return x @ weight.T, (dy @ weight, dweight * g[:, None] / norm, (dweight * v / norm).sum(1))


def contrastive(first, second, temperature: float = 0.1):
    """InfoNCE: row i of `first` belongs to row i of `second`."""
    return -torch.log_softmax(first @ second.T / temperature, 1).diagonal().mean()


PAIRS = {"first": (8, 16), "second": (8, 16)}


@bank.wrong(
    contrastive,
    "dsecond multiplies by the scores' cotangent where its transpose is due",
    "transpose", "transposed", inputs=PAIRS, hyper={"temperature": 1.0},
)  # fmt: skip
def contrastive_dsecond_not_transposed(inputs, dy, temperature=0.1):
    first, second = inputs
    z = torch.log_softmax(first @ second.T / temperature, 1)
    d = dy * (z.exp() - torch.eye(len(z), dtype=z.dtype, device=z.device)) / (len(z) * temperature)
    return -z.diagonal().mean(), (d @ second, d @ first)


def decaying_sum(x, decay):
    """h_t = decay h_(t-1) + x_t, the last axis a channel with a decay of its own."""
    states, h = [], torch.zeros_like(x[0])
    for x_t in x:
        h = decay * h + x_t
        states.append(h)
    return torch.stack(states)


@bank.wrong(
    decaying_sum,
    "ddecay pairs the cotangent of a step with the state of that step instead of the one before",
    "state before", "previous", "off by one", "step", "before", "shifted", "neighbour", "axis 0",
    inputs={"x": (7, 3, 5), "decay": (5,)},
)  # fmt: skip
def decaying_sum_of_the_state_after(inputs, dy):
    x, decay = inputs
    y = decaying_sum(x, decay)
    dh, dxs, ddecay = torch.zeros_like(x[0]), [], torch.zeros_like(decay)
    for t in reversed(range(len(x))):
        dh = dh * decay + dy[t]
        dxs.append(dh)
        ddecay = ddecay + (dh * y[t]).sum(0)
    return y, (torch.stack(dxs[::-1]), ddecay)


def focal(x, target, gamma: float = 2.0):
    """Of logits x and targets between 0 and 1."""
    s = torch.sigmoid(x)
    miss = s * (1 - target) + (1 - s) * target
    return (miss**gamma * F.binary_cross_entropy_with_logits(x, target, reduction="none")).sum()


@bank.wrong(
    focal,
    "two mistakes: the focal weight is treated as a constant, and the sum is divided by the number of elements",
    "constant", "mean", "divided", "number of elements", "weight", "term",
    inputs={"x": (6, 10), "target": lambda generator: torch.randint(2, (6, 10), generator=generator).float()},
    hyper={"gamma": 2.0},
)  # fmt: skip
def focal_weight_constant_and_mean(inputs, dy, gamma=2.0):
    x, target = inputs
    s = torch.sigmoid(x)
    miss = s * (1 - target) + (1 - s) * target
    y = (miss**gamma * F.binary_cross_entropy_with_logits(x, target, reduction="none")).sum()
    weighted = dy * miss**gamma / x.numel()
    return y, (weighted * (s - target), -weighted * x)


def residual_normed(x, residual, weight, eps: float = 1e-6):
    h = x + residual
    return h, h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * weight


@bank.wrong(
    residual_normed,
    "the cotangent of the sum, which goes on past the norm, is left out: only the norm's part reaches x and residual",
    "residual", "first output", "sum", "dy[0]", "cotangent", "ignored", "skip", "y[0]", "dy.0",
    inputs={"x": (6, 24), "residual": (6, 24), "weight": (24,)}, hyper={"eps": 1e-6},
)  # fmt: skip
def residual_normed_without_the_sum_s_cotangent(inputs, dy, eps=1e-6):
    x, residual, weight = inputs
    h = x + residual
    s = torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    g = dy[1] * weight
    dh = s * (g - h * s * s * (g * h).mean(-1, keepdim=True))
    return (h, h * s * weight), (dh, dh.clone(), (dy[1] * h * s).reshape(-1, h.shape[-1]).sum(0))


def squared_distances(a, b):
    return (a[:, None, :] - b[None, :, :]).square().sum(-1)


@bank.right(
    squared_distances,
    "row sums of dy times a, less dy times b: no tensor of rows × rows × features",
    inputs={"a": (6, 8), "b": (9, 8)},
)
def squared_distances_without_the_large_tensor(inputs, dy):
    a, b = (t.double() for t in inputs)
    g = dy.double()
    y = torch.stack([(row - b).square().sum(-1) for row in a])
    grads = 2 * (g.sum(1, keepdim=True) * a - g @ b), 2 * (g.sum(0)[:, None] * b - g.T @ a)
    return y.to(dy.dtype), tuple(d.to(dy.dtype) for d in grads)


@bank.right(
    low_rank_linear,
    "weight and branch merged into one matrix, whose gradient is parted again",
    inputs=LOW_RANK, hyper={"scale": 2.0},
)  # fmt: skip
def low_rank_merged(inputs, dy, scale=2.0):
    x, weight, down, up = inputs
    merged = torch.addmm(weight, up, down, alpha=scale)
    dmerged = dy.T @ x
    return x @ merged.T, (dy @ merged, dmerged, scale * (up.T @ dmerged), scale * (dmerged @ down.T))


def _scan(x, decay):
    """All sums in ⌈log₂ steps⌉ rounds, each of which doubles how far back they reach."""
    h, far = x, 1
    while far < len(x):
        h, far, decay = torch.cat((h[:far], h[far:] + decay * h[:-far])), 2 * far, decay * decay
    return h


@bank.right(
    decaying_sum,
    "both directions as parallel scans of logarithmic depth",
    inputs={"x": (7, 3, 5), "decay": (5,)},
)
def decaying_sum_as_parallel_scan(inputs, dy):
    x, decay = inputs
    y, dx = _scan(x, decay), _scan(dy.flip(0), decay).flip(0)
    return y.clone(), (dx.clone(), (dx[1:] * y[:-1]).sum((0, 1)))
