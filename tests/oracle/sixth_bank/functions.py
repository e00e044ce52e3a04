"""Functions without a page: the reference is a forward in plain torch."""

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def cosine_similarity(x, other):
    return (x * other).sum(-1) / (x.norm(dim=-1) * other.norm(dim=-1))


@bank.wrong(
    cosine_similarity,
    "the projection of dx is divided by the length of x, not by its square",
    "length", "square", "squared", "projection", "second term", "|x|", "normalis",
    "normaliz", "power",
    inputs={"x": (6, 17), "other": (6, 17)},
)  # fmt: skip
def cosine_projection_by_the_length(inputs, dy):
    x, other = inputs
    nx, no = x.norm(dim=-1, keepdim=True), other.norm(dim=-1, keepdim=True)
    cos = (x * other).sum(-1, keepdim=True) / (nx * no)
    g = dy.unsqueeze(-1)
    dx = g * (other / (nx * no) - cos * x / nx)
    dother = g * (x / (nx * no) - cos * other / no**2)
    return cos.squeeze(-1), (dx, dother)


def order_statistics(x, weight):
    return torch.sort(x, dim=-1, descending=True).values * weight


@bank.wrong(
    order_statistics,
    "the gradient is permuted once more by the sort's order, not put back where the numbers came from",
    "sort", "sorted", "order", "permut", "permutation", "inverse", "gather", "scatter", "position",
    "wrong element", "wrong place", "indices", "elsewhere", "rearrange",
    inputs={"x": (5, 9), "weight": (9,)},
)  # fmt: skip
def sort_gathers_where_it_should_scatter(inputs, dy):
    x, weight = inputs
    order = torch.argsort(x, -1, descending=True)
    top = x.gather(-1, order)
    return top * weight, ((dy * weight).gather(-1, order), (dy * top).sum(0))


def soft_maximum(x, temperature: float = 0.5):
    return temperature * torch.logsumexp(x / temperature, -1)


@bank.wrong(
    soft_maximum,
    "dx is divided by the temperature, which the factor before the logarithm has taken away",
    "temperature", "factor", "scale", "divided", "double",
    "1/temperature", "too large",
    inputs={"x": (6, 19)}, hyper={"temperature": 0.5},
)  # fmt: skip
def soft_maximum_divided_by_temperature(inputs, dy, temperature=0.5):
    (x,) = inputs
    z = x / temperature
    return temperature * z.logsumexp(-1), (z.softmax(-1) * dy[:, None] / temperature,)


def film(x, gamma, beta):
    """Feature-wise modulation, (batch, channels, length) by (batch, channels)."""
    return x * (1 + gamma[..., None]) + beta[..., None]


@bank.wrong(
    film,
    "dgamma is summed over the batch too, and every example gets the whole",
    "batch", "summed over", "sum over", "example", "broadcast", "reduced",
    "examples",
    inputs={"x": (3, 4, 11), "gamma": (3, 4), "beta": (3, 4)},
)  # fmt: skip
def film_gamma_summed_over_the_batch(inputs, dy):
    x, gamma, beta = inputs
    y = torch.addcmul(x + beta.unsqueeze(-1), x, gamma.unsqueeze(-1))
    dgamma = torch.einsum("ncl,ncl->c", dy, x).expand_as(gamma)
    return y, (torch.addcmul(dy, dy, gamma.unsqueeze(-1)), dgamma.clone(), dy.sum(-1))


def focal_loss(x, target, gamma: float = 2.0):
    """Of logits, and of targets that are numbers: the sign says which."""
    z = torch.where(target > 0, x, -x)
    return (torch.sigmoid(-z) ** gamma * F.softplus(-z)).sum()


@bank.wrong(
    focal_loss,
    "the modulating factor (1 − p)^gamma is taken for a constant",
    "modulating", "lacks term", "missing term", "without term", "gamma constant", "product", "(1-p)", "product rule",
    "second term",
    inputs={"x": (7, 5), "target": (7, 5)}, hyper={"gamma": 2.0},
)  # fmt: skip
def focal_factor_held_constant(inputs, dy, gamma=2.0):
    x, target = inputs
    s = torch.where(target > 0, 1.0, -1.0).to(x.dtype)
    q = torch.sigmoid(-s * x)  # 1 − p
    loss = (q**gamma * F.softplus(-s * x)).sum()
    return loss, (-dy * s * q**gamma * q, torch.zeros_like(target))


def soft_capped_scores(q, k, cap: float = 3.0):
    return cap * torch.tanh(q @ k.mT / cap)


@bank.wrong(
    soft_capped_scores,
    "the slope of the cap is 1 − y², with y not divided by the cap",
    "cap", "tanh", "1 - y", "derivative of tanh", "1 − y²", "y²",
    inputs={"q": (2, 6, 8), "k": (2, 5, 8)}, hyper={"cap": 3.0},
)  # fmt: skip
def soft_cap_slope_of_the_capped_score(inputs, dy, cap=3.0):
    q, k = inputs
    y = cap * torch.tanh(q @ k.transpose(-1, -2) / cap)
    ds = dy * (1 - y * y)
    return y, (ds @ k, ds.transpose(-1, -2) @ q)


def decayed_scan(x, decay):
    """h_t = σ(decay_t) h_{t−1} + x_t, from h = 0; time is the first axis."""
    h, ys = torch.zeros_like(x[0]), []
    for xt, at in zip(x, decay, strict=True):
        h = torch.sigmoid(at) * h + xt
        ys.append(h)
    return torch.stack(ys)


@bank.wrong(
    decayed_scan,
    "ddecay multiplies by the state after the step, not the one before it",
    "step", "state", "late", "previous", "shift", "shifted", "off by one",
    "one step",
    inputs={"x": (7, 3, 4), "decay": (7, 3, 4)},
)  # fmt: skip
def scan_state_one_step_late(inputs, dy):
    x, decay = inputs
    a = torch.sigmoid(decay)
    y, dx, ddecay = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    h = torch.zeros_like(x[0])
    for t in range(len(x)):
        h = y[t] = a[t] * h + x[t]
    dh = torch.zeros_like(h)
    for t in range(len(x) - 1, -1, -1):
        dh = dh + dy[t]
        dx[t], ddecay[t] = dh, dh * y[t] * a[t] * (1 - a[t])
        dh = dh * a[t]
    return y, (dx, ddecay)


def causal_depthwise(x, weight):
    """(batch, channels, time) by (channels, taps): each step sees itself and the steps before it."""
    taps = weight.shape[1]
    return F.conv1d(F.pad(x, (taps - 1, 0)), weight[:, None], groups=weight.shape[0])


@bank.wrong(
    causal_depthwise,
    "dx is padded on the left too, so that gradients come from steps before and not from steps after",
    "padding", "padded", "left", "right", "future", "past", "shift", "shifted",
    inputs={"x": (2, 3, 12), "weight": (3, 4)},
)  # fmt: skip
def causal_dx_padded_on_the_left(inputs, dy):
    x, weight = inputs
    c, taps = weight.shape
    xp = F.pad(x, (taps - 1, 0))
    y = F.conv1d(xp, weight.unsqueeze(1), groups=c)
    dx = F.conv1d(F.pad(dy, (taps - 1, 0)), weight.flip(1).unsqueeze(1), groups=c)
    dw = torch.einsum("nct,nctk->ck", dy, xp.unfold(2, x.shape[2], 1).transpose(2, 3))
    return y, (dx, dw)


def deviation(x):
    return x.std(dim=-1)


@bank.wrong(
    deviation,
    "the backward divides by n where the forward's variance divides by n − 1",
    "n-1", "n - 1", "n − 1", "unbiased", "bessel", "biased", "factor",
    "too small",
    inputs={"x": (6, 7)},
)  # fmt: skip
def deviation_divided_by_n(inputs, dy):
    (x,) = inputs
    y = torch.std(x, dim=-1)
    return y, (dy[:, None] * (x - x.mean(-1, keepdim=True)) / (x.shape[-1] * y[:, None]),)


def mixture(logits, experts):
    """(tokens, experts) and (tokens, experts, features): a mean of the experts' outputs, weighted by a softmax."""
    return torch.einsum("te,tef->tf", torch.softmax(logits, -1), experts)


@bank.wrong(
    mixture,
    "the router's gradient is not centred: the softmax's sum over the experts is not taken off",
    "centred", "centered", "subtract", "lacks term", "missing term", "without term", "softmax mean", "softmax sum",
    "subtracted", "jacobian", "second term",
    "normalis", "normaliz", "projection",
    inputs={"logits": (9, 4), "experts": (9, 4, 5)},
)  # fmt: skip
def mixture_router_not_centred(inputs, dy):
    logits, experts = inputs
    p = logits.softmax(1)
    y = (p.unsqueeze(-1) * experts).sum(1)
    dp = (experts @ dy.unsqueeze(-1)).squeeze(-1)
    return y, (p * dp, p.unsqueeze(-1) * dy.unsqueeze(1))
