"""Costs."""

import numpy as np
import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)
CE = "softmax_cross_entropy"


def _classes_last(x, target):
    return x.movedim(1, -1).reshape(-1, x.shape[1]), target.reshape(-1).long()


def _as_before(rows, x):
    return rows.reshape(len(x), *x.shape[2:], x.shape[1]).movedim(-1, 1)


def _cost(x, target, weight, ignore_index, label_smoothing, reduction):
    """The value, right."""
    return F.cross_entropy(
        x, target.long(), weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )


def _cross_entropy_rows(x, target, weight, ignore_index, label_smoothing):
    """Right: the cotangent of each row for a sum, 0 where it is ignored; what counts, and the target's weights."""
    rows, labels = _classes_last(x, target)
    counts = labels != ignore_index
    labels = labels.where(counts, 0)
    w = torch.ones_like(rows[0]) if weight is None else weight
    p = torch.softmax(rows, 1)
    hot = F.one_hot(labels, x.shape[1]).to(x.dtype)
    share = (1 - label_smoothing) * hot * w + label_smoothing / x.shape[1] * w
    d = p * share.sum(1, keepdim=True) - share
    return torch.where(counts[:, None], d, 0), counts, torch.where(counts, w[labels], 0)


@bank.wrong(
    CE,
    "the mean's gradient is divided by all rows, the ignored ones included",
    "ignored", "ignore_index", "all rows", "number rows", "rows that count", min_size=1,
)  # fmt: skip
def cross_entropy_divided_by_all_rows(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    y = _cost(x, target, weight, ignore_index, label_smoothing, reduction)
    d, counts, own = _cross_entropy_rows(x, target, weight, ignore_index, label_smoothing)
    if reduction == "mean":
        total = own.sum() + (~counts).sum()
        d = d / torch.where(total == 0, 1, total)
    return y, (_as_before(dy * d, x), None, None)


@bank.wrong(
    CE,
    "with class weights the mean's gradient is divided by the number of rows instead of the sum of their weights",
    "weight", "weights", "sum weights", min_size=1,
)  # fmt: skip
def cross_entropy_mean_by_count(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    y = _cost(x, target, weight, ignore_index, label_smoothing, reduction)
    d, counts, _ = _cross_entropy_rows(x, target, weight, ignore_index, label_smoothing)
    if reduction == "mean":
        d = d / counts.sum().clamp_min(1)
    return y, (_as_before(dy * d, x), None, None)


@bank.wrong(
    CE,
    "ignored rows get the gradient of their softmax instead of 0: only the one-hot term is left out there",
    "ignored", "ignore_index", min_size=1,
)  # fmt: skip
def cross_entropy_ignored_rows_get_softmax(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    y = _cost(x, target, weight, ignore_index, label_smoothing, reduction)
    d, counts, own = _cross_entropy_rows(x, target, weight, ignore_index, label_smoothing)
    d = torch.where(counts[:, None], d, torch.softmax(_classes_last(x, target)[0], 1))
    if reduction == "mean":
        total = own.sum()
        d = d / torch.where(total == 0, 1, total)
    return y, (_as_before(dy * d, x), None, None)


@bank.wrong(
    CE,
    "the backward smooths with ε/(K − 1) over the other classes, where the forward has ε/K over all",
    "smoothing", "label_smoothing", "k - 1", "k−1", min_size=2,
)  # fmt: skip
def cross_entropy_smooths_the_others(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    y = _cost(x, target, weight, ignore_index, label_smoothing, reduction)
    classes = x.shape[1]
    epsilon = label_smoothing * classes / (classes - 1)
    d, _, own = _cross_entropy_rows(x, target, weight, ignore_index, epsilon)
    if reduction == "mean":
        total = own.sum()
        d = d / torch.where(total == 0, 1, total)
    return y, (_as_before(dy * d, x), None, None)


@bank.wrong(
    CE,
    "two mistakes: the cotangent dy is not multiplied in, and the sum is divided by the rows like the mean",
    "dy", "cotangent", "upstream", "reduction", "sum", "divided", min_size=1,
)  # fmt: skip
def cross_entropy_without_dy_and_always_a_mean(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    y = _cost(x, target, weight, ignore_index, label_smoothing, reduction)
    d, _, own = _cross_entropy_rows(x, target, weight, ignore_index, label_smoothing)
    total = own.sum()
    return y, (_as_before(d / torch.where(total == 0, 1, total), x), None, None)


@bank.right(CE, "32 rows at a time in NumPy, the log-sum-exp by hand", min_size=1)
def cross_entropy_in_blocks_of_rows(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    all_rows, all_labels = (t.detach().cpu().numpy() for t in _classes_last(x, target))
    classes = x.shape[1]
    w = np.ones(classes) if weight is None else weight.detach().double().cpu().numpy()
    cost, total, dx = 0.0, 0.0, np.zeros(all_rows.shape)
    for start in range(0, len(all_rows), 32):
        counting = start + np.flatnonzero(all_labels[start : start + 32] != ignore_index)
        rows, labels = all_rows[counting].astype(np.float64), all_labels[counting]
        each = np.arange(len(rows))
        z = rows - rows.max(1, keepdims=True)
        z -= np.log(np.exp(z).sum(1, keepdims=True))
        share = np.tile(label_smoothing / classes * w, (len(rows), 1))
        if label_smoothing:
            cost -= (share * z).sum()
        cost -= ((1 - label_smoothing) * w[labels] * z[each, labels]).sum()
        share[each, labels] += (1 - label_smoothing) * w[labels]
        p = np.exp(z)
        dx[counting] = p * share.sum(1, keepdims=True) - share
        if not label_smoothing:  # the others' sum keeps the digits of 1 - p where p is near 1
            p[each, labels] = 0
            dx[counting, labels] = -w[labels] * p.sum(1)
        total += w[labels].sum()
    if reduction == "mean":
        cost, dx = (cost / total, dx / total) if total else (np.nan, dx)
    y = torch.tensor(cost, dtype=x.dtype, device=x.device)
    return y, (_as_before(torch.from_numpy(dx).to(x) * dy, x), None, None)


@bank.right(
    CE, "log_softmax and index_put in place in the buffer of the probabilities, along axis 1 as it stands", min_size=1
)
def cross_entropy_in_place(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    z = torch.log_softmax(x.double(), 1)
    counts = (target != ignore_index).unsqueeze(1)
    labels = target.long().unsqueeze(1).where(counts, 0)
    w = torch.ones(x.shape[1], dtype=z.dtype, device=x.device) if weight is None else weight.double()
    per_class = w.reshape(1, -1, *[1] * (x.ndim - 2)).expand_as(z)
    own = per_class.gather(1, labels) * counts
    cost = -(1 - label_smoothing) * (z.gather(1, labels) * own).masked_fill(~counts, 0)
    if label_smoothing:
        cost -= (label_smoothing / x.shape[1] * (z * per_class).sum(1, keepdim=True)).masked_fill(~counts, 0)
    d = z.exp_()
    d *= (1 - label_smoothing) * own + label_smoothing / x.shape[1] * w.sum() * counts
    d.scatter_add_(1, labels, -(1 - label_smoothing) * own)
    if label_smoothing:
        d -= label_smoothing / x.shape[1] * per_class * counts
    d = d.masked_fill(~counts, 0)
    y, total = cost.sum(), own.sum()
    if reduction == "mean":
        y, d = y / total, d / torch.where(total == 0, 1, total)
    return y.to(x.dtype), ((d * dy.double()).to(x.dtype), None, None)


def _kl(x, target, reduction):
    total = (torch.xlogy(target, target) - torch.where(target == 0, 0, target * x)).sum()
    return total / len(x) if reduction == "batchmean" else total


@bank.wrong(
    "kl_div",
    "batchmean divides the gradient by the number of all elements instead of the batch",
    "all elements", "elements instead", "batch size", "number of elements", "batchmean", "divided", "classes times",
    min_size=1,
)  # fmt: skip
def kl_div_divided_by_all_elements(inputs, dy, reduction="batchmean"):
    x, target = inputs
    n = x.numel() if reduction == "batchmean" else 1
    return _kl(x, target, reduction), (-dy * target / n, None)


@bank.wrong(
    "kl_div",
    "dtarget lacks the 1 that the derivative of t log t has beside log t",
    "+ 1", "the 1", "1", "term", "t log t", "log t", min_size=1,
)  # fmt: skip
def kl_div_dtarget_without_one(inputs, dy, reduction="batchmean"):
    x, target = inputs
    n = len(x) if reduction == "batchmean" else 1
    return _kl(x, target, reduction), (-dy * target / n, dy * (target.log() - x) / n)


@bank.right("kl_div", "summed for 64 examples at a time, in float64, without a gradient for the target", min_size=1)
def kl_div_in_blocks_of_examples(inputs, dy, reduction="batchmean"):
    x, target = inputs
    total, dx = torch.zeros((), dtype=torch.float64, device=x.device), torch.zeros_like(x)
    share = dy / len(x) if reduction == "batchmean" else dy
    for rows, t, d in zip(x.split(64), target.split(64), dx.split(64), strict=True):
        used = t > 0
        total += (t[used].double() * (t[used].double().log() - rows[used].double())).sum()
        d.sub_(share * t)
    y = total / len(x) if reduction == "batchmean" else total
    return y.to(x.dtype), (dx, None)


def _huber(x, target, delta, reduction):
    r = (x - target).abs()
    cost = torch.where(r <= delta, r.square() / 2, delta * (r - delta / 2))
    return cost.sum() if reduction == "sum" else cost.mean()


@bank.wrong(
    "huber",
    "two mistakes: beyond delta there is no gradient, like that of a clamp, and dtarget has the sign of dx",
    "clamp", "beyond", "0 delta", "outside", "sign", "dtarget sign", "linear part", "large",
)  # fmt: skip
def huber_clamped_and_dtarget_unsigned(inputs, dy, delta=1.0, reduction="mean"):
    x, target = inputs
    r = x - target
    d = dy * torch.where(r.abs() <= delta, r, 0) / (1 if reduction == "sum" else max(x.numel(), 1))
    return _huber(x, target, delta, reduction), (d, d.clone())


BCE = "binary_cross_entropy_with_logits"


def _bce(x, target, pos_weight, reduction):
    return F.binary_cross_entropy_with_logits(x, target, pos_weight=pos_weight, reduction=reduction)


@bank.wrong(
    BCE,
    "pos_weight multiplies the whole gradient, where it belongs to the target's part alone",
    "pos_weight", "weight",
)  # fmt: skip
def bce_pos_weight_on_everything(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    d = dy * (torch.sigmoid(x) - target) / (1 if reduction == "sum" else max(x.numel(), 1))
    return _bce(x, target, pos_weight, reduction), (d if pos_weight is None else d * pos_weight, None, None)


@bank.wrong(
    BCE,
    "the mean is divided by the batch (the first axis) instead of all elements",
    "batch", "first axis", "all elements", "number of elements", "mean", "rows", min_size=1,
)  # fmt: skip
def bce_mean_over_the_batch_alone(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    p = 1.0 if pos_weight is None else pos_weight
    d = dy * ((1 - target) * torch.sigmoid(x) - p * target * torch.sigmoid(-x))
    return _bce(x, target, pos_weight, reduction), (d if reduction == "sum" else d / len(x), None, None)


@bank.right(BCE, "in NumPy, one branch for logits of either sign", min_size=1)
def bce_branches_in_numpy(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    a, t, g = (v.detach().cpu().numpy().astype(np.float64) for v in (x, target, dy))
    p = 1.0 if pos_weight is None else pos_weight.detach().cpu().numpy().astype(np.float64)
    e = np.exp(-np.abs(a))
    holds, fails = np.where(a >= 0, 1 / (1 + e), e / (1 + e)), np.where(a >= 0, e / (1 + e), 1 / (1 + e))
    cost = p * t * (np.maximum(-a, 0) + np.log1p(e)) + (1 - t) * (np.maximum(a, 0) + np.log1p(e))
    d = (1 - t) * holds - p * t * fails
    n = a.size if reduction == "mean" else 1

    def back(array):
        return torch.from_numpy(np.asarray(array)).to(x)

    return back(cost.sum() / n), (back(g * d / n), None, None)
