"""What cross-entropy makes of logits whose axis 1 holds the classes: log-probabilities, costs, slopes; parts from
which wrong slopes are made.  Formulas and derivation stand on the page `softmax_cross_entropy`.
"""

import torch
from torch import Tensor


def cost(log_p: Tensor, target: Tensor, weight: Tensor, ignore_index: int, label_smoothing: float) -> Tensor:
    """Σ l over the rows that count."""
    counts, label = labels(target, ignore_index)
    cost = -weight[label] * torch.gather(log_p, 1, label[:, None])[:, 0]
    if label_smoothing:  # 0 · ∞ would be NaN where a class is impossible
        of_all = -torch.sum(per_class(weight, log_p) * log_p, 1)
        cost = (1 - label_smoothing) * cost + label_smoothing / log_p.shape[1] * of_all
    return torch.sum(torch.where(counts, cost, 0))


def slopes(
    log_p: Tensor,
    target: Tensor,
    weight: Tensor,
    ignore_index: int,
    label_smoothing: float,
    dy: Tensor | float,
    divisor: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """The cotangent of the logits: what the target and what smoothing adds to it, where each row costs dy/divisor l."""
    classes = log_p.shape[1]
    counts, label = labels(target, ignore_index)
    is_label = label[:, None] == per_class(torch.arange(classes, device=log_p.device), log_p)
    p = torch.exp(log_p)
    p_minus_1_at_label = torch.where(is_label, torch.expm1(log_p), p)
    target_term = dy * ((1 - label_smoothing) * (weight[label][:, None] / divisor) * p_minus_1_at_label)
    smoothing = torch.zeros_like(p)
    if label_smoothing:
        spread = torch.sum(weight) * p - per_class(weight, p)
        smoothing = dy * (label_smoothing / classes / divisor * spread)
    counts = counts[:, None]
    return torch.where(counts, target_term, 0), torch.where(counts, smoothing, 0)


def log_softmax(x: Tensor) -> Tensor:
    """z, along axis 1."""
    fixed = x.detach()  # z is the same whichever of several largest logits is taken for m
    a = torch.argmax(fixed, 1, keepdim=True)
    is_a = a == per_class(torch.arange(x.shape[1], device=x.device), x)
    # m − m is 0 without a rounding, unless it is ∞ − ∞: then all shall be NaN.
    distance = torch.where(is_a & torch.isfinite(fixed), 0, x - torch.gather(x, 1, a))
    others = torch.sum(torch.where(is_a, distance, torch.exp(distance)), 1, keepdim=True)
    return distance - torch.log1p(others)


def given(weight: Tensor | None, x: Tensor) -> Tensor:
    """The weight of each class: 1 if none are given."""
    return torch.ones(x.shape[1], dtype=x.dtype, device=x.device) if weight is None else weight


def labels(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which rows count, and the class of each, which is some class in a row that does not."""
    counts = target != ignore_index
    return counts, torch.where(counts, target, 0).long()


def counted(weight: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Σ w_c over the rows that count."""
    counts, label = labels(target, ignore_index)
    return torch.sum(torch.where(counts, weight[label], 0))


def per_class(values: Tensor, x: Tensor) -> Tensor:
    """One value per class, shaped so that it meets x on axis 1."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


class Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        dy: Tensor,
        ignore_index: int,
        label_smoothing: float,
        reduction: str,
    ) -> None:
        self.x, self.target, self.dy, self.reduction = x, target, dy, reduction
        self.classes = x.shape[1]
        self.weight = given(weight, x)
        self.counts, self.label = labels(target, ignore_index)
        self.p = torch.exp(log_softmax(x))
        self.one_hot = (self.label[:, None] == per_class(torch.arange(self.classes, device=x.device), x)).to(x.dtype)
        self.on_label, self.on_each = 1 - label_smoothing, label_smoothing / self.classes
        self.rows = counted(self.weight, target, ignore_index)

    def t(self, on_label: float | None = None, on_each: float | None = None, weight: Tensor | None = None) -> Tensor:
        """What is due to each class, of sum t."""
        weight = self.weight if weight is None else weight
        on_label = self.on_label if on_label is None else on_label
        on_each = self.on_each if on_each is None else on_each
        return on_label * weight[self.label][:, None] * self.one_hot + on_each * per_class(weight, self.x)

    def dx(
        self,
        difference: Tensor | None = None,
        t: Tensor | None = None,
        p: Tensor | None = None,
        divisor: Tensor | float | None = None,
        counts: Tensor | None = None,
        dy: Tensor | float | None = None,
    ) -> tuple[Tensor, None, None]:
        """Σ t p − t, or another difference, over a divisor where the reduction is a mean, in the rows that count."""
        t = self.t() if t is None else t
        p = self.p if p is None else p
        difference = torch.sum(t, 1, keepdim=True) * p - t if difference is None else difference
        divisor = (self.rows if divisor is None else divisor) if self.reduction == "mean" else 1
        counts = self.counts if counts is None else counts
        return torch.where(counts[:, None], (self.dy if dy is None else dy) / divisor * difference, 0), None, None

    def by_log_softmax(self) -> tuple[Tensor, None, None]:
        """The right formula as two rules one after the other: through the costs, then through z."""
        divisor = self.rows if self.reduction == "mean" else 1
        dz = torch.where(self.counts[:, None], -(self.dy / divisor) * self.t(), 0)
        return dz - self.p * torch.sum(dz, 1, keepdim=True), None, None
