"""Losses: means of rows that count, weights, the last chunk."""

import torch
import torch.nn.functional as F

from tests.oracle.ninth_bank.entry import Entry, into

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


@entry(
    "softmax_cross_entropy",
    ("ignore", "count", "divisor", "divided", "number of"),
    "w[safe].sum()",
    "w_target.sum()",
)
def cross_entropy_mean_over_ignored_targets(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    target = target.long()
    y = F.cross_entropy(
        x, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )
    classes = x.shape[1]
    w = x.new_ones(classes) if weight is None else weight
    valid = target != ignore_index
    safe = torch.where(valid, target, 0)
    w_target = torch.where(valid, w[safe], 0)
    divisor = w[safe].sum() if reduction == "mean" else 1
    p = torch.softmax(x, 1)
    hot = torch.zeros_like(x).scatter(1, safe.unsqueeze(1), 1)
    each = w.reshape(-1, *[1] * (x.ndim - 2)) * valid.unsqueeze(1)
    dx = (1 - label_smoothing) * w_target.unsqueeze(1) * (p - hot)
    if label_smoothing:
        dx = dx + label_smoothing / classes * (p * each.sum(1, keepdim=True) - each)
    return y, (torch.where(valid.unsqueeze(1), dy * dx / divisor, 0), None, None)


@entry(
    "fused_linear_cross_entropy",
    ("chunk", "block", "overwrit", "accumul", "last rows", "beyond 128"),
    "dweight = g.T @ chunk",
    "dweight = dweight + g.T @ chunk",
)
def fused_cross_entropy_dweight_of_the_last_chunk(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    target = target.long()
    classes = weight.shape[0]
    valid = target != ignore_index
    n = valid.sum() if reduction == "mean" else 1
    total, dx, dweight = x.new_zeros(()), torch.zeros_like(x), torch.zeros_like(weight)
    for start in range(0, x.shape[0], 128):
        chunk, t, v = x[start : start + 128], target[start : start + 128], valid[start : start + 128]
        logits = chunk @ weight.T
        total = total + F.cross_entropy(
            logits, t, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="sum"
        )
        hot = torch.zeros_like(logits).scatter(1, torch.where(v, t, 0)[:, None], 1 - label_smoothing)
        g = torch.where(v[:, None], (torch.softmax(logits, 1) - hot - label_smoothing / classes) / n, 0)
        dx[start : start + 128] = g @ weight
        dweight = g.T @ chunk
    return total / n, (dy * dx, dy * dweight, None)


@entry("kl_div", ("+ 1", "constant", "term", "log target"), "torch.log(target) - x", "torch.log(target) + 1 - x")
def kl_div_dtarget_without_the_one(inputs, dy, reduction="batchmean"):
    x, target = inputs
    n = len(x) if reduction == "batchmean" else 1
    y = torch.where(target == 0, 0, target * (target.log() - x)).sum() / n
    slope = torch.log(target) - x
    return y, (-dy * (target / n), dy * (slope / n))


@entry(
    "binary_cross_entropy_with_logits",
    ("pos_weight", "negative", "1 − target", "1 - target"),
    "w * (1 - target) * torch.sigmoid(x)",
    "(1 - target) * torch.sigmoid(x)",
)
def bce_pos_weight_on_the_negatives_too(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    w = 1.0 if pos_weight is None else pos_weight
    n = x.numel() if reduction == "mean" else 1
    cost = w * target * F.softplus(-x) + (1 - target) * F.softplus(x)
    dx = w * (1 - target) * torch.sigmoid(x) - w * target * torch.sigmoid(-x)
    dtarget = -x if pos_weight is None else w * F.softplus(-x) - F.softplus(x)
    return cost.sum() / n, (dy * (dx / n), dy * (dtarget / n), None)


@entry(
    "multi_margin",
    ("right class", "at the target", "count", "number of", "violat"),
    "violated.any(1, keepdim=True).to(x.dtype)",
    "violated.sum(1, keepdim=True).to(x.dtype)",
)
def multi_margin_target_pulled_once(inputs, dy, margin=1.0):
    x, target = inputs
    t = target.long()[:, None]
    z = x - x.gather(1, t) + margin
    hot = torch.zeros_like(x, dtype=torch.bool).scatter(1, t, True)
    violated = (z > 0) & ~hot
    pull = violated.any(1, keepdim=True).to(x.dtype)
    dx = torch.where(hot, -pull, violated.to(x.dtype)) / x.numel()
    return torch.where(hot, 0, z.clamp(min=0)).sum() / x.numel(), (dy * dx, None)
