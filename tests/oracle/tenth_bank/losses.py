"""Of losses."""

import torch

import manual_bp as bp
from manual_bp.rules.loss._cross_entropy import counted, given, log_softmax, slopes
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


@bank.wrong(
    "softmax_cross_entropy",
    "weight[label].sum() if",
    "share.sum() if",
    cause="a mean's dx is divided by all rows, those of ignore_index too",
    keywords=("ignore", "that count", "all rows", "counted", "ignored"),
)
def cross_entropy_divided_by_all_rows(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    hyper = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    y, kept = bp.softmax_cross_entropy.forward(x, target, weight, **hyper)
    weight = given(weight, x)
    counts = target != ignore_index
    label = torch.where(counts, target, 0).long()
    share = torch.where(counts, weight[label], 0)
    divisor = weight[label].sum() if reduction == "mean" else 1
    classes = x.shape[1]
    per_class = (classes, *[1] * (x.ndim - 2))
    is_label = label[:, None] == torch.arange(classes, device=x.device).reshape(per_class)
    p = torch.exp(kept.log_p)
    to_target = (1 - label_smoothing) * (share / divisor)[:, None] * torch.where(is_label, torch.expm1(kept.log_p), p)
    smoothing = label_smoothing / classes / divisor * (weight.sum() * p - weight.reshape(per_class))
    return y, (dy * torch.where(counts[:, None], to_target + smoothing, 0), None, None)


@bank.wrong(
    "fused_linear_cross_entropy",
    "dweight = g.mT @ of_x",
    "dweight = dweight + g.mT @ of_x",
    cause="dweight is that of the last chunk of 64 rows: each writes over the one before",
    keywords=("last chunk", "last block", "chunk", "blocks", "overwrit", "accumulat", "after row", "first 64", "of 64"),
)
def fused_cross_entropy_dweight_of_the_last_chunk(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    hyper = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    y, _ = bp.fused_linear_cross_entropy.forward(x, weight, target, **hyper)
    alike = given(None, weight.mT)
    divisor = counted(alike, target, ignore_index) if reduction == "mean" else 1
    dx, dweight = [], torch.zeros_like(weight)
    for start in range(0, max(len(x), 1), 64):
        of_x, labels = x[start : start + 64], target[start : start + 64]
        log_p = log_softmax(of_x @ weight.mT)
        to_target, smoothing = slopes(log_p, labels, alike, ignore_index, label_smoothing, 1.0, divisor)
        g = to_target + smoothing
        dx.append(g @ weight)
        dweight = g.mT @ of_x
    return y, (dy * torch.cat(dx), dy * dweight, None)


@bank.wrong(
    "huber",
    "torch.clamp(r / delta, -1, 1)",
    "torch.clamp(r, -delta, delta)",
    cause="the slope is that of smooth L1: Huber's divided by delta",
    keywords=("delta", "smooth"),
)
def huber_with_the_slope_of_smooth_l1(inputs, dy, delta=1.0, reduction="mean"):
    x, target = inputs
    y, _ = bp.huber.forward(x, target, delta=delta, reduction=reduction)
    r = x - target
    n = r.numel() if reduction == "mean" else 1
    dx = dy * (torch.clamp(r / delta, -1, 1) / n)
    return y, (dx, -dx)


@bank.wrong(
    "binary_cross_entropy_with_logits",
    "weight * (1 - target)",
    "(1 - target)",
    cause="pos_weight multiplies the negatives' part of dx as well",
    keywords=("pos_weight", "negative"),
)
def binary_cross_entropy_weight_on_both(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    y, _ = bp.binary_cross_entropy_with_logits.forward(x, target, pos_weight, reduction=reduction)
    n = x.numel() if reduction == "mean" else 1
    weight = 1 if pos_weight is None else pos_weight
    negative = weight * (1 - target) * torch.sigmoid(x)
    positive = weight * target * torch.sigmoid(-x)
    zero = torch.zeros_like(x)
    dtarget = -x if pos_weight is None else weight * torch.logaddexp(-x, zero) - torch.logaddexp(x, zero)
    return y, (dy * ((negative - positive) / n), dy * (dtarget / n), None)
