"""Right programs for softmax_cross_entropy."""

import math

import torch
import torch.nn.functional as F

from tests.oracle.third_bank.axes import by_autograd, total
from tests.oracle.third_bank.entry import ALL, F32, F64, in_precision, native, right
from tests.oracle.third_bank.softmax_right import log_plain, online, softmax_of


def flat(x, target):
    """(batch, classes, ...) as (tokens, classes), and the targets beside them."""
    classes = x.shape[1]
    moved = x.movedim(1, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), classes), target.reshape(-1).long()


def folded(dx, x):
    """(tokens, classes) as (batch, classes, ...)."""
    return dx.reshape(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)


def log_probabilities(logits):
    return log_plain(logits, logits)[0]


def picked(target, ignore_index):
    """Which tokens count, and targets in which the ignored ones are a class that exists."""
    counts = target != ignore_index
    return counts, torch.where(counts, target, 0)


def times(weights, values):
    """A product in which a weight of 0 leaves 0 of an infinite log-probability."""
    return torch.where(weights == 0, 0, weights * values)


def divisor(counts, each, reduction):
    """Sum of the weights of the targets that count, for the mean."""
    return torch.where(counts, each, 0).sum() if reduction == "mean" else each.new_ones(())


def distribution(logits, target, counts, weight, smoothing):
    """The weight of every class of a token: smoothing/K w_k, and (1 - smoothing) w_t more at its target."""
    classes = logits.shape[1]
    weights = logits.new_ones(classes) if weight is None else weight
    q = (smoothing / max(classes, 1) * weights).expand(logits.shape).clone()
    each = weights.index_select(0, target) if classes else logits.new_zeros(len(target))
    if classes:
        q.scatter_add_(1, target[:, None], ((1 - smoothing) * each)[:, None])
    return torch.where(counts[:, None], q, 0), each


def dense(log_softmax=log_probabilities, probabilities=softmax_of):
    """Every class weighted: loss = -sum q log p, dx = p sum(q) - q."""

    def cross_entropy(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        x, target, weight = inputs
        logits, labels = flat(x, target)
        counts, labels = picked(labels, ignore_index)
        q, each = distribution(logits, labels, counts, weight, label_smoothing)
        n = divisor(counts, each, reduction)
        y = -times(q, log_softmax(logits)).sum() / n
        dx = torch.where(counts[:, None], (probabilities(logits) * total(q) - q) * (dy / n), 0)
        return y, (folded(dx, x), None, None)

    return cross_entropy


def gathered(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """The target's log-probability gathered; 1 subtracted in its place."""
    x, target, weight = inputs
    logits, labels = flat(x, target)
    if label_smoothing or not logits.shape[1]:
        return dense()(inputs, dy, ignore_index, label_smoothing, reduction)
    counts, labels = picked(labels, ignore_index)
    each = logits.new_ones(len(labels)) if weight is None else weight[labels]
    each = torch.where(counts, each, 0)
    n = each.sum() if reduction == "mean" else 1
    chosen = log_probabilities(logits).gather(1, labels[:, None])[:, 0]
    y = -times(each, torch.where(counts, chosen, 0)).sum() / n
    dx = softmax_of(logits)
    dx[torch.arange(len(labels)), labels] -= 1
    dx = torch.where(counts[:, None], dx * (each * dy / n)[:, None], 0)
    return y, (folded(dx, x), None, None)


def by_log_softmax(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """Two steps: the cotangent of log p, then the backward of log_softmax."""
    x, target, weight = inputs
    logits, labels = flat(x, target)
    counts, labels = picked(labels, ignore_index)
    q, each = distribution(logits, labels, counts, weight, label_smoothing)
    n = divisor(counts, each, reduction)
    dlog = torch.where(counts[:, None], -q * (dy / n), 0)
    log_p, dx = log_plain(logits, dlog)
    dx = torch.where(counts[:, None], dx, 0)
    return -times(q, log_p).sum() / n, (folded(dx, x), None, None)


def compressed(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """Ignored tokens are taken out first, and get rows of 0 at the end."""
    x, target, weight = inputs
    logits, labels = flat(x, target)
    chosen = (labels != ignore_index).nonzero()[:, 0]
    y, (dx, _, _) = dense()(
        (logits.index_select(0, chosen), labels.index_select(0, chosen), weight), dy, -1, label_smoothing, reduction
    )
    return y, (folded(torch.zeros_like(logits).index_copy(0, chosen, dx), x), None, None)


def gradient_in_forward(inputs, dy, **hyper):
    """Forward makes the gradient for dy = 1, backward scales it."""
    y, (dx, _, _) = gathered(inputs, torch.ones_like(dy), **hyper)
    return y, (dx * dy, None, None)


def by_classes_first(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """(classes, tokens), as a kernel that reads along the space axes."""
    x, target, weight = inputs
    logits, labels = flat(x, target)
    counts, labels = picked(labels, ignore_index)
    q, each = distribution(logits, labels, counts, weight, label_smoothing)
    n = divisor(counts, each, reduction)
    columns = logits.T.contiguous()
    log_p = torch.log_softmax(columns, 0)
    dx = torch.where(counts, (torch.exp(log_p) * q.sum(1) - q.T) * (dy / n), 0)
    return -times(q.T, log_p).sum() / n, (folded(dx.T, x), None, None)


def in_rows(step):
    """A block of tokens at a time: their losses are summed, and divided at the end."""

    def cross_entropy(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        x, target, weight = inputs
        logits, labels = flat(x, target)
        counts, chosen = picked(labels, ignore_index)
        _, each = distribution(logits, chosen, counts, weight, label_smoothing)
        n = divisor(counts, each, reduction)
        y, blocks = logits.new_zeros(()), [logits[:0]]
        for start in range(0, len(labels), step):
            part = (logits[start : start + step], labels[start : start + step], weight)
            loss, (dx, _, _) = dense()(part, dy / n, ignore_index, label_smoothing, "sum")
            y = y + loss
            blocks.append(torch.where(counts[start : start + step, None], dx, 0))
        return y / n, (folded(torch.cat(blocks), x), None, None)

    return cross_entropy


def lse_online(logits):
    largest, summed = online(logits, 32)
    return (logits - largest) - torch.log(summed)


def losses_apart(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """The target's part and the smoothed part summed apart."""
    x, target, weight = inputs
    logits, labels = flat(x, target)
    counts, labels = picked(labels, ignore_index)
    classes = max(logits.shape[1], 1)
    weights = logits.new_ones(logits.shape[1]) if weight is None else weight
    hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype) if logits.shape[1] else torch.zeros_like(logits)
    log_p = log_probabilities(logits)
    each = torch.where(counts, hot @ weights, 0)
    n = each.sum() if reduction == "mean" else 1
    nll = -times(hot * weights, log_p).sum(1)
    smooth = -times(weights.expand_as(log_p), log_p).sum(1) if label_smoothing else torch.zeros_like(nll)
    row = (1 - label_smoothing) * nll + label_smoothing / classes * smooth
    p = torch.exp(log_p)
    dx = (1 - label_smoothing) * (p - hot) * (hot @ weights)[:, None]
    dx = dx + label_smoothing / classes * (p * weights.sum() - weights)
    dx = torch.where(counts[:, None], dx * (dy / n), 0)
    return torch.where(counts, row, 0).sum() / n, (folded(dx, x), None, None)


def transposed_result(inputs, dy, **hyper):
    """Results that lie in memory with the axes in reverse."""
    y, (dx, _, _) = dense()(inputs, dy, **hyper)
    order = tuple(reversed(range(dx.ndim)))
    return y, (dx.permute(order).contiguous().permute(order), None, None)


def by_torch(x, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    return F.cross_entropy(
        x, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )


CROSS_ENTROPY = dense()

_RIGHT = {
    "dense": (CROSS_ENTROPY, "every class weighted with the smoothed target"),
    "gathered": (gathered, "the target's entry gathered, 1 subtracted there"),
    "by log_softmax": (by_log_softmax, "through the backward of log_softmax"),
    "ignored taken out": (compressed, "ignored tokens are taken out first"),
    "gradient in forward": (gradient_in_forward, "made for dy = 1 and scaled by dy"),
    "classes first": (by_classes_first, "(classes, tokens)"),
    "tokens by 32": (in_rows(32), "blocks of 32 tokens"),
    "tokens by 1024": (in_rows(1024), "blocks of 1024 tokens"),
    "online by 32": (
        dense(lse_online, lambda x: torch.exp(lse_online(x))),
        "largest and sum in one pass over 32 classes",
    ),
    "losses apart": (losses_apart, "one-hot targets; two losses summed apart"),
    "results transposed": (transposed_result, "a result that isn't contiguous"),
}

PROGRAMS = (
    *(right("softmax_cross_entropy", name, vjp, why) for name, (vjp, why) in _RIGHT.items()),
    native(
        "softmax_cross_entropy",
        "torch.autograd",
        by_autograd(by_torch, (True, False, False)),
        "torch's own",
        (F64, F32),
    ),
    right("softmax_cross_entropy", "float64 inside", in_precision(CROSS_ENTROPY, F64, (F32,)), "more digits", (F32,)),
    right(
        "softmax_cross_entropy",
        "torch.autograd in float32",
        by_autograd(by_torch, (True, False, False)),
        "16-bit logits in float32",
        ALL[2:],
    ),
)
