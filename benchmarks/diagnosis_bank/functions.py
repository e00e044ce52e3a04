"""Functions in plain torch that have no page, and a wrong backward of each."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.diagnosis_bank.program import OUT, wrong


def residual_rms(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sum goes on as the next residual, and normalised into the layer."""
    h = x + residual
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * weight, h


@wrong(
    residual_rms,
    "the cotangent of the second output, the sum itself, is not added",
    "second|output|dh|residual|1|h",
    OUT + "|not added|ignor|0|zero|does not depend",
    inputs={"x": (4, 9), "residual": (4, 9), "weight": (9,)},
)
def residual_cut(inputs, dy):
    x, residual, weight = inputs
    dy0, _ = dy
    h = x + residual
    r = torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
    g = dy0 * weight
    dh = r * (g - h * r * (g * h * r).mean(-1, keepdim=True))
    return (h * r * weight, h), (dh, dh.clone(), (dy0 * h * r).sum(0))


def squared_relu_gate(gate: Tensor, up: Tensor) -> Tensor:
    return torch.relu(gate).square() * up


@wrong(
    squared_relu_gate,
    "the 2 of the square's derivative is missing",
    "2|half|½|0.5|twice",
    "dgate|gate|factor|square",
    inputs={"gate": (5, 8), "up": (5, 8)},
)
def square_without_2(inputs, dy):
    gate, up = inputs
    r = gate.clamp(min=0)
    return r * r * up, (dy * up * r, dy * r * r)


def softcap(x: Tensor) -> Tensor:
    return 5.0 * torch.tanh(x / 5.0)


@wrong(
    softcap,
    "the derivative is multiplied by the cap, 5: the inner 1/5 is missing",
    "5|cap|1/5|0.2",
    "factor|times|multipl|divi|" + OUT,
    inputs={"x": (6, 7)},
)
def cap_not_cancelled(inputs, dy):
    (x,) = inputs
    t = torch.tanh(x / 5.0)
    return 5.0 * t, (dy * 5.0 * (1 - t * t),)


def rotate_halves(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary positions, the halves of the last axis as pairs."""
    a, b = x.chunk(2, -1)
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.cat([a * c - b * s, a * s + b * c], -1)


@wrong(
    rotate_halves,
    "dx is rotated forward once more, not back: sin lacks its minus sign",
    "sign|transpos|negat|rotat|inverse|minus",
    "sin|dx|s|angle",
    inputs={"x": (3, 5, 8), "angle": (5, 4)},
)
def rotated_again(inputs, dy):
    x, angle = inputs
    a, b = x.chunk(2, -1)
    da, db = dy.chunk(2, -1)
    c, s = torch.cos(angle), torch.sin(angle)
    dx = torch.cat([da * c - db * s, da * s + db * c], -1)
    dangle = (da * (-a * s - b * c) + db * (a * c - b * s)).sum(0)
    return rotate_halves(x, angle), (dx, dangle)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt())


@wrong(
    cosine,
    "the projection of db divides by |a|² where |b|² is due",
    "norm|square|length|divi",
    "db",
    "a|other|another|instead|in place",
    inputs={"a": (6, 5), "b": (6, 5)},
)
def norm_of_the_other(inputs, dy):
    a, b = inputs
    na, nb = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    cos = (a * b).sum(-1, keepdim=True) / (na * nb)
    g = dy.unsqueeze(-1)
    da = g * (b / (na * nb) - cos * a / na**2)
    db = g * (a / (na * nb) - cos * b / na**2)
    return cos.squeeze(-1), (da, db)


def two_groups(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Group normalisation of (batch, channels, space) in two groups of channels."""
    g = x.reshape(x.shape[0], 2, -1)
    mean = g.mean(-1, keepdim=True)
    v = (g - mean).square().mean(-1, keepdim=True)
    return ((g - mean) * torch.rsqrt(v + 1e-5)).reshape(x.shape) * weight[:, None] + bias[:, None]


@wrong(
    two_groups,
    "the means of backward divide by the channels of a group, and forget the space",
    "space|channels|count|number of|axes",
    "divi|factor|1/n",
    inputs={"x": (3, 4, 5), "weight": (4,), "bias": (4,)},
)
def space_not_counted(inputs, dy):
    x, weight, bias = inputs
    grouped = x.reshape(x.shape[0], 2, -1)
    mean = grouped.mean(-1, keepdim=True)
    s = torch.rsqrt((grouped - mean).square().mean(-1, keepdim=True) + 1e-5)
    xhat = (grouped - mean) * s
    g = (dy * weight[:, None]).reshape(grouped.shape)
    n = x.shape[1] // 2
    dx = s * (g - g.sum(-1, keepdim=True) / n - xhat * (g * xhat).sum(-1, keepdim=True) / n)
    flat = xhat.reshape(x.shape)
    return two_groups(x, weight, bias), (dx.reshape(x.shape), (dy * flat).sum((0, 2)), dy.sum((0, 2)))


def weighted_bce(x: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of logits; what is positive counts more, or less."""
    return (positive * target * F.softplus(-x) + (1 - target) * F.softplus(x)).mean()


@wrong(
    weighted_bce,
    "dx forgets the weight of the positive: σ(x) − target",
    "positive|weight",
    OUT + "|1|factor",
    inputs={"x": (4, 6), "target": (4, 6), "positive": (6,)},
)
def as_without_weight(inputs, dy):
    x, target, positive = inputs
    n = x.numel()
    dx = dy * (torch.sigmoid(x) - target) / n
    dtarget = dy * (positive * F.softplus(-x) - F.softplus(x)) / n
    dpositive = (dy * target * F.softplus(-x) / n).sum(0)
    return weighted_bce(x, target, positive), (dx, dtarget, dpositive)


def info_nce(a: Tensor, b: Tensor) -> Tensor:
    """Row i of a should fit row i of b, of all rows of b."""
    return -torch.log_softmax(a @ b.T / 0.5, -1).diagonal().mean()


@wrong(
    info_nce,
    "db multiplies by the matrix where its transpose is due",
    "transpos|.T|t()|mT|axis|axes|permut",
    inputs={"a": (5, 4), "b": (5, 4)},
)
def not_transposed(inputs, dy):
    a, b = inputs
    p = torch.softmax(a @ b.T / 0.5, -1)
    d = dy * (p - torch.eye(len(a), dtype=a.dtype, device=a.device)) / (0.5 * len(a))
    return info_nce(a, b), (d @ b, d @ a)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1) @ v


def _attention(inputs, dy, rowsum=True, scale_k=True, later=False):
    q, k, v = inputs
    scale = 1 / math.sqrt(q.shape[-1])
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = q @ k.mT * scale
    p = torch.softmax(scores if later else scores.masked_fill(~seen, -math.inf), -1)
    p = torch.where(seen, p, 0)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) if rowsum else p * dp
    return causal_attention(q, k, v), (ds @ k * scale, ds.mT @ q * (scale if scale_k else 1), p.mT @ dy)


_HEADS = {"q": (2, 6, 4), "k": (2, 6, 4), "v": (2, 6, 4)}


@wrong(causal_attention, "dk lacks the factor 1/√d", "factor|scale|√|sqrt|root|0.5|1/2", "dk|k", inputs=_HEADS)
def dk_not_scaled(inputs, dy):
    return _attention(inputs, dy, scale_k=False)


@wrong(
    causal_attention,
    "the softmax's row sum (delta) is not taken off",
    "sum|delta|projection|softmax|term|along",
    OUT + "|not taken off|constant|subtract|0|in place",
    inputs=_HEADS,
)
def without_delta(inputs, dy):
    return _attention(inputs, dy, rowsum=False)


@wrong(
    causal_attention,
    "backward's probabilities are normalised over all keys, and masked after",
    "mask|causal|-inf|tril|seen|later",
    "softmax|normali|sum|after|p|probab|" + OUT,
    inputs=_HEADS,
)
def masked_after_softmax(inputs, dy):
    return _attention(inputs, dy, later=True)


def causal_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel with its own kernel: (batch, channels, time) with (channels, width)."""
    padded = F.pad(x, (kernel.shape[1] - 1, 0))
    return torch.einsum("bctw,cw->bct", padded.unfold(2, kernel.shape[1], 1), kernel)


@wrong(
    causal_convolution,
    "dx convolves dy with the kernel the way forward does: neither flipped nor looking ahead",
    "flip|revers|kernel|shift|direction|pad|transpos|order|roll",
    inputs={"x": (2, 3, 8), "kernel": (3, 3)},
)
def convolved_forward(inputs, dy):
    x, kernel = inputs
    width = kernel.shape[1]
    windows = F.pad(x, (width - 1, 0)).unfold(2, width, 1)
    dkernel = torch.einsum("bctw,bct->cw", windows, dy)
    return causal_convolution(x, kernel), (causal_convolution(dy, kernel), dkernel)


def decayed_sum(x: Tensor, decay: Tensor) -> Tensor:
    """h_t = σ(decay) h_(t−1) + x_t, per channel of (time, channels)."""
    a = torch.sigmoid(decay)
    h = [x[0]]
    for t in range(1, x.shape[0]):
        h.append(a * h[-1] + x[t])
    return torch.stack(h)


@wrong(
    decayed_sum,
    "ddecay multiplies by h of the same step, not of the step before",
    "step|time|h|row|shift|roll|index|neighbour|previous",
    "same|before|previous|shift|roll|neighbour|next|in place|instead|off by one|another",
    inputs={"x": (7, 4), "decay": (4,)},
)
def state_of_the_same_step(inputs, dy):
    x, decay = inputs
    a = torch.sigmoid(decay)
    h = decayed_sum(x, decay)
    dh, dx, da = torch.zeros_like(x[0]), torch.zeros_like(x), torch.zeros_like(decay)
    for t in range(x.shape[0] - 1, -1, -1):
        dh = dh * a + dy[t]
        dx[t] = dh
        if t:
            da += dh * h[t]
    return h, (dx, da * a * (1 - a))


def huber(x: Tensor, target: Tensor) -> Tensor:
    d = x - target
    return torch.where(d.abs() <= 0.5, 0.5 * d * d, 0.5 * (d.abs() - 0.25)).sum()


@wrong(
    huber,
    "in the linear branch the slope is ±1: delta is missing",
    "0.5|delta|½|factor|sign",
    "linear|branch|factor|slope|dx|delta",
    inputs={"x": (6, 5), "target": (6, 5)},
)
def slope_of_one(inputs, dy):
    x, target = inputs
    d = x - target
    dx = dy * torch.where(d.abs() <= 0.5, d, d.sign())
    return huber(x, target), (dx, -dx)


def low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """A low-rank adapter of scale 2."""
    return 2.0 * (x @ down.T @ up.T)


@wrong(
    low_rank,
    "ddown lacks the scale 2 (dx and dup have it)",
    "2|scale|factor|half|½|0.5",
    "ddown|down",
    inputs={"x": (5, 6), "down": (2, 6), "up": (4, 2)},
)
def scale_on_one_path(inputs, dy):
    x, down, up = inputs
    g = dy @ up
    return low_rank(x, down, up), (2.0 * (g @ down), g.T @ x, 2.0 * (dy.T @ (x @ down.T)))
