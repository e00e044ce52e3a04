"""Losses: classes in tiles, rows in chunks, smoothing, weights."""

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def by_row(x):
    """(batch, classes, *space) as (rows, classes)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def to_space(rows, like):
    return rows.reshape(like.movedim(1, -1).shape).movedim(-1, 1)


def row_costs(log_p, target, weight, ignore_index, smoothing):
    """The cost of each row, whether it counts, its target where it does, and what it weighs."""
    counts = target != ignore_index
    label = torch.where(counts, target, 0)
    w = torch.ones_like(log_p[0]) if weight is None else weight
    cost = -(1 - smoothing) * w[label] * log_p.gather(1, label[:, None])[:, 0]
    if smoothing:
        cost = cost - smoothing / log_p.shape[1] * (w * log_p).sum(1)
    return torch.where(counts, cost, 0), counts, label, w


@bank.wrong(
    "softmax_cross_entropy",
    "in each tile of 16 classes the target is looked for among 0 to 15: the tile's offset is forgotten",
    "target",
    "one-hot",
    "one hot",
    "tile",
    "block",
    "16",
    "17",
    "classes",
    mend=("cols = torch.arange(p.shape[1])  # of the tile", "cols = start + torch.arange(p.shape[1])"),
)
def cross_entropy_forgets_the_offset(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    rows = by_row(x)
    log_p = torch.log_softmax(rows, 1)
    cost, counts, label, w = row_costs(log_p, target.reshape(-1), weight, ignore_index, label_smoothing)
    n = w[label][counts].sum() if reduction == "mean" else 1
    y = cost.sum() / n

    dx = torch.empty_like(rows)
    for start in range(0, rows.shape[1], 16):
        p = torch.exp(log_p[:, start : start + 16])
        cols = torch.arange(p.shape[1])  # of the tile
        hot = cols == label[:, None]
        # p − 1 of a row that is sure of its class
        exact = torch.where(hot, torch.expm1(log_p[:, start : start + 16]), p)
        g = (1 - label_smoothing) * w[label, None] * exact
        if label_smoothing:
            share = label_smoothing / rows.shape[1]
            g = g + share * (w.sum() * p - w[start : start + 16])
        dx[:, start : start + 16] = g
    dx = torch.where(counts[:, None], dx * (dy / n), 0)
    return y, (to_space(dx, x), None, None)


@bank.wrong(
    "softmax_cross_entropy",
    "the smoothed part of each class is weighed by the target's weight instead of its own",
    "smoothing",
    mend=("w[label, None] * (rows.shape[1] * p - 1)", "(w.sum() * p - w)"),
)
def cross_entropy_smooths_by_the_targets_weight(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    rows = by_row(x)
    log_p = torch.log_softmax(rows, 1)
    cost, counts, label, w = row_costs(log_p, target.reshape(-1), weight, ignore_index, label_smoothing)
    n = w[label][counts].sum() if reduction == "mean" else 1
    p = torch.exp(log_p)
    hot = torch.zeros_like(p, dtype=torch.bool).scatter(1, label[:, None], True)
    g = (1 - label_smoothing) * w[label, None] * torch.where(hot, torch.expm1(log_p), p)
    if label_smoothing:
        g = g + label_smoothing / rows.shape[1] * w[label, None] * (rows.shape[1] * p - 1)
    dx = torch.where(counts[:, None], g * (dy / n), 0)
    return cost.sum() / n, (to_space(dx, x), None, None)


@bank.wrong(
    "fused_linear_cross_entropy",
    "each chunk of 8 rows divides by the rows that count in it, not by those that count at all",
    "chunk",
    "8",
    "mean",
    "divi",
    "count",
    "number of rows",
    "ignore",
    mend=("n = int(counts.sum())", "n = int((target != ignore_index).sum())"),
)
def linear_cross_entropy_divides_by_the_chunk(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    y, dx, dweight = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(weight)
    counted = (target != ignore_index).sum() if reduction == "mean" else 1
    for start in range(0, len(x), 8):
        chunk = slice(start, start + 8)
        labels = target[chunk]
        log_p = torch.log_softmax(x[chunk] @ weight.T, 1)
        cost, counts, label, _ = row_costs(log_p, labels, None, ignore_index, label_smoothing)
        y = y + cost.sum()
        hot = torch.zeros_like(log_p, dtype=torch.bool).scatter(1, label[:, None], True)
        p = torch.exp(log_p)
        g = (1 - label_smoothing) * torch.where(hot, torch.expm1(log_p), p)
        if label_smoothing:
            g = g + label_smoothing / len(weight) * (len(weight) * p - 1)
        n = int(counts.sum())
        g = torch.where(counts[:, None], g, 0) / (max(n, 1) if reduction == "mean" else 1)
        dx[chunk] = g @ weight
        dweight += g.T @ x[chunk]
    return y / counted, (dx * dy, dweight * dy, None)


@bank.wrong(
    "kl_div",
    "x is taken for logits, whose log_softmax would add exp(x): what comes back is exp(x) − t",
    "exp(x)",
    "softmax",
    "logit",
    "- t",
    "− t",
    "probabilit",
    "extra",
    mend=("torch.exp(x) - target", "-target"),
)
def kl_div_of_logits(inputs, dy, reduction="batchmean"):
    x, target = inputs
    n = len(x) if reduction == "batchmean" else 1
    cost = torch.where(target == 0, 0, target * (torch.log(target) - x))
    total = cost.sum()
    y = total / n if n else total / torch.zeros_like(total)
    dx = (torch.exp(x) - target) * dy / max(n, 1)
    return y, (dx, None)


@bank.wrong(
    "huber",
    "whether the square or the line holds is decided by |x| instead of |x − target|",
    "branch",
    "|x|",
    "abs(x)",
    "difference",
    "residual",
    "condition",
    "in place of",
    "instead of",
    "`r`",
    mend=("x.abs() <= delta", "r.abs() <= delta"),
    min_size=1,
)
def huber_branches_on_x(inputs, dy, delta=1.0, reduction="mean"):
    x, target = inputs
    r = x - target
    n = r.numel() if reduction == "mean" else 1
    cost = torch.where(r.abs() <= delta, r * r / 2, delta * (r.abs() - delta / 2))
    slope = torch.where(x.abs() <= delta, r, delta * torch.sign(r))
    dx = slope * (dy / n)
    return cost.sum() / n, (dx, -dx)


@bank.wrong(
    "binary_cross_entropy_with_logits",
    "with pos_weight the plain gradient is multiplied by the element's weight, which is right of targets 0 and 1 alone",
    "pos_weight",
    "soft",
    "between 0 and 1",
    "target",
    mend=("plain = ((1 - target) * s - target * wrong) * element", "plain = (1 - target) * s - pw * target * wrong"),
    min_size=1,
)
def bce_weighs_the_plain_gradient(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    n = x.numel() if reduction == "mean" else 1
    pw = torch.ones_like(x[..., :1]) if pos_weight is None else pos_weight
    softplus = torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs()))
    cost = pw * target * (softplus - x) + (1 - target) * softplus
    s, wrong = torch.sigmoid(x), torch.sigmoid(-x)
    element = pw * target + (1 - target)
    plain = ((1 - target) * s - target * wrong) * element
    return cost.sum() / n, (plain * (dy / n), None, None)
