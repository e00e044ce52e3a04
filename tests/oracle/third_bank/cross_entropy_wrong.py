"""Wrong programs for softmax_cross_entropy: options, reductions, smoothing, weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.oracle.third_bank.axes import total
from tests.oracle.third_bank.cross_entropy_right import (
    distribution,
    divisor,
    flat,
    folded,
    log_probabilities,
    picked,
    times,
)
from tests.oracle.third_bank.entry import ALL, WIDE, Entry, Vjp, wrong

RULE = "softmax_cross_entropy"


@dataclass(frozen=True)
class Tokens:
    """What loss and gradient are made of, a token a row."""

    logits: Tensor
    labels: Tensor
    """The ignored ones as class 0."""
    counts: Tensor
    weight: Tensor | None
    each: Tensor
    """The weight of each token's target."""
    q: Tensor
    """The weight of every class of each token, 0 for ignored tokens."""
    n: Tensor
    """What the mean divides by; 1 for a sum."""
    dy: Tensor
    smoothing: float
    reduction: str
    shape: tuple[int, ...]

    @property
    def log_p(self) -> Tensor:
        return log_probabilities(self.logits)

    @property
    def hot(self) -> Tensor:
        zeros = torch.zeros_like(self.logits)
        return zeros.scatter(1, self.labels[:, None], 1) if self.logits.shape[1] else zeros


def right_loss(t: Tokens) -> Tensor:
    return -times(t.q, t.log_p).sum() / t.n


def right_gradient(t: Tokens) -> Tensor:
    return (torch.exp(t.log_p) * total(t.q) - t.q) * (t.dy / t.n)


def cross_entropy(
    loss: Callable[[Tokens], Tensor] = right_loss,
    gradient: Callable[[Tokens], Tensor] = right_gradient,
    ignored_rows_are_0: bool = True,
    options: Callable[..., dict[str, Any]] = dict,
) -> Vjp:
    """A program from its loss and its gradient, and from the options that it takes for those given."""

    def vjp(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        x, target, weight = inputs
        hyper = options(ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction)
        logits, labels = flat(x, target)
        counts, labels = picked(labels, hyper["ignore_index"])
        labels = labels.clamp(0, max(logits.shape[1] - 1, 0))
        q, each = distribution(logits, labels, counts, weight, hyper["label_smoothing"])
        n = divisor(counts, each, hyper["reduction"])
        shape = (x.shape[0], *x.shape[2:])
        t = Tokens(logits, labels, counts, weight, each, q, n, dy, hyper["label_smoothing"], hyper["reduction"], shape)
        dx = gradient(t)
        if ignored_rows_are_0:
            dx = torch.where(counts[:, None], dx, 0)
        return loss(t), (folded(dx, x), None, None)

    return vjp


def both(change: Callable[[Tokens], Tokens]) -> Vjp:
    """Loss and gradient of other tokens than those given."""
    return cross_entropy(lambda t: right_loss(change(t)), lambda t: right_gradient(change(t)))


def replaced(t: Tokens, **fields: Any) -> Tokens:
    return Tokens(**{**t.__dict__, **fields})


def kept(t: Tokens, q: Tensor) -> Tensor:
    return torch.where(t.counts[:, None], q, 0)


def weights(t: Tokens) -> Tensor:
    return t.logits.new_ones(t.logits.shape[1]) if t.weight is None else t.weight


def number(t: Tokens, count: Any) -> Tensor:
    """A divisor for the mean."""
    return torch.as_tensor(count, dtype=t.dy.dtype) if t.reduction == "mean" else t.n


def others_only(t: Tokens) -> Tokens:
    """smoothing/(K - 1) for the other classes, none of it for the target."""
    classes = max(t.logits.shape[1] - 1, 1)
    q = (1 - t.smoothing) * t.hot + t.smoothing / classes * (1 - t.hot)
    return replaced(t, q=kept(t, q * weights(t)))


def scaled_smoothing(t: Tokens) -> Tokens:
    """smoothing K/(K - 1) spread over all classes."""
    classes = t.logits.shape[1]
    smoothing = t.smoothing * classes / max(classes - 1, 1)
    return replaced(t, q=kept(t, ((1 - smoothing) * t.hot + smoothing / max(classes, 1)) * weights(t)))


def target_without_share(t: Tokens) -> Tokens:
    """1 - smoothing at the target, which gets no share of the smoothing."""
    q = (1 - t.smoothing) * t.hot + t.smoothing / max(t.logits.shape[1], 1) * (1 - t.hot)
    return replaced(t, q=kept(t, q * weights(t)))


def not_taken_from_target(t: Tokens) -> Tokens:
    """Smoothing is added, and nothing is taken from the target."""
    return replaced(t, q=kept(t, (t.hot + t.smoothing / max(t.logits.shape[1], 1)) * weights(t)))


def smoothing_unweighted(t: Tokens) -> Tokens:
    q = (1 - t.smoothing) * t.hot * weights(t) + t.smoothing / max(t.logits.shape[1], 1)
    return replaced(t, q=kept(t, q))


def smoothing_weighted_by_target(t: Tokens) -> Tokens:
    """The target's weight for every class of its token."""
    q = (1 - t.smoothing) * t.hot + t.smoothing / max(t.logits.shape[1], 1)
    return replaced(t, q=kept(t, q * t.each[:, None]))


def unsmoothed(t: Tokens) -> Tokens:
    return replaced(t, q=kept(t, t.hot * weights(t)))


def unweighted(t: Tokens) -> Tokens:
    q, each = distribution(t.logits, t.labels, t.counts, None, t.smoothing)
    return replaced(t, q=q, each=each, weight=None, n=number(t, t.counts.sum()))


def numerator_unweighted(t: Tokens) -> Tokens:
    q, _ = distribution(t.logits, t.labels, t.counts, None, t.smoothing)
    return replaced(t, q=q)


def divided_by(count: Callable[[Tokens], Any]) -> Callable[[Tokens], Tokens]:
    return lambda t: replaced(t, n=number(t, count(t)))


def sum_divided(t: Tokens) -> Tokens:
    return replaced(t, n=t.n if t.reduction == "mean" else t.n * max(len(t.labels), 1))


def smoothing_of_ignored(t: Tokens) -> Tensor:
    """Ignored tokens have no target, but the smoothing's share of the loss stays."""
    q = torch.where(t.counts[:, None], t.q, t.smoothing / max(t.logits.shape[1], 1) * weights(t))
    return right_loss(replaced(t, q=q))


def gradient_of(change: Callable[[Tokens], Tokens]) -> Callable[[Tokens], Tensor]:
    return lambda t: right_gradient(change(t))


def loss_of(change: Callable[[Tokens], Tokens]) -> Callable[[Tokens], Tensor]:
    return lambda t: right_loss(change(t))


def gradient_weighted_by_class(t: Tokens) -> Tensor:
    """(p - q) times the weight of the class of the gradient's entry, not of the target."""
    _, each = distribution(t.logits, t.labels, t.counts, None, t.smoothing)
    q = t.q / weights(t)
    return (torch.exp(t.log_p) * total(q) - q) * weights(t) * (t.dy / t.n) * each[:, None]


def gradient_p_by_target_weight(t: Tokens) -> Tensor:
    """p w_t - q: with smoothing and weights sum(q) isn't w_t."""
    return (torch.exp(t.log_p) * t.each[:, None] - t.q) * (t.dy / t.n)


def weight_squared(t: Tokens) -> Tokens:
    weight = weights(t) ** 2
    q, _ = distribution(t.logits, t.labels, t.counts, weight, t.smoothing)
    return replaced(t, q=q)


def options_without(**fixed: Any) -> Callable[..., dict[str, Any]]:
    return lambda **given: {**given, **fixed}


def negative_only(ignore_index: int, **rest: Any) -> dict[str, Any]:
    """Any label below 0 is ignored, and no other."""
    return {"ignore_index": ignore_index if ignore_index < 0 else -100, **rest}


_BOTH = {
    "smoothing over K - 1": (others_only, "smoothing", "smoothing/(K - 1) for the other classes"),
    "smoothing K/(K - 1)": (scaled_smoothing, "smoothing", "scaled as a vocabulary-parallel loss does"),
    "target without share": (target_without_share, "smoothing", "the target's smoothing/K is missing"),
    "nothing taken from target": (not_taken_from_target, "smoothing", "smoothing is added alone"),
    "smoothing unweighted": (smoothing_unweighted, "weighted smoothing", "class weights don't reach the smoothing"),
    "target's weight for all": (smoothing_weighted_by_target, "weighted smoothing", "w_t for every class"),
    "smoothing ignored": (unsmoothed, "smoothing", "an option ignored"),
    "weight ignored": (unweighted, "weighted", "an input ignored"),
    "weight in the denominator alone": (numerator_unweighted, "weighted", "losses aren't weighted, their mean is"),
    "weights not in the mean": (divided_by(lambda t: t.counts.sum()), "weighted", "divided by the number of tokens"),
    "mean over all tokens": (divided_by(lambda t: len(t.labels)), "ignored", "ignored tokens are counted"),
    "mean over the batch": (divided_by(lambda t: t.shape[0]), "spaces", "space axes aren't counted"),
    "mean over entries": (divided_by(lambda t: t.logits.numel()), "plain", "divided by the classes too"),
    "sum divided": (sum_divided, "sum", "reduction='sum' is divided by the tokens"),
    "divisor at least 1": (lambda t: replaced(t, n=t.n.clamp_min(1)), "all ignored", "a loss of 0, where it is nan"),
    "weights squared": (weight_squared, "weighted", "weighted twice"),
    "divisor + 1e-3": (lambda t: replaced(t, n=t.n + 1e-3), "plain", "against a division by 0"),
}
_LOSS = {
    "loss without smoothing": (loss_of(unsmoothed), "smoothing", "right gradient, loss without smoothing"),
    "loss of a sum for a mean": (lambda t: right_loss(t) * t.n, "plain", "right gradient, loss not divided"),
    "loss unweighted": (loss_of(unweighted), "weighted", "right gradient, loss without weights"),
    "loss over all tokens": (loss_of(divided_by(lambda t: len(t.labels))), "ignored", "right gradient"),
    "smoothing of ignored": (smoothing_of_ignored, "ignored smoothing", "ignored tokens' smoothing stays in the loss"),
    "loss times dy": (lambda t: right_loss(t) * t.dy, "plain", "y is scaled by dy"),
    "sign of the loss": (lambda t: -right_loss(t), "plain", "right gradient, the log-likelihood for the loss"),
}
_GRADIENT = {
    "gradient without smoothing": (gradient_of(unsmoothed), "smoothing", "right loss"),
    "gradient unweighted": (gradient_of(unweighted), "weighted", "right loss"),
    "gradient over all tokens": (gradient_of(divided_by(lambda t: len(t.labels))), "ignored", "right loss"),
    "gradient of a sum divided": (gradient_of(sum_divided), "sum", "right loss, gradient divided by the tokens"),
    "gradient of a mean not divided": (gradient_of(lambda t: replaced(t, n=t.n / t.n)), "plain", "right loss"),
    "weighted by class": (gradient_weighted_by_class, "weighted", "entries weighted by their own class"),
    "p by the target's weight": (gradient_p_by_target_weight, "weighted smoothing", "p w_t, not p sum(q)"),
    "sign": (lambda t: -right_gradient(t), "plain", "q - p"),
    "p alone": (lambda t: torch.exp(t.log_p) * total(t.q) * t.dy / t.n, "plain", "q isn't subtracted"),
    "q alone": (lambda t: -t.q * t.dy / t.n, "plain", "the normaliser's term is missing"),
    "1 subtracted everywhere": (lambda t: (torch.exp(t.log_p) - 1) * t.dy / t.n, "plain", "not at the target alone"),
    "dy squared": (lambda t: right_gradient(t) * t.dy, "plain", "dy is used twice"),
    "absolute dy": (lambda t: right_gradient(t) * t.dy.sign(), "negative dy", "the sign of dy is lost"),
    "p (1 - p)": (
        lambda t: (torch.exp(t.log_p) - t.q) * torch.exp(t.log_p) * t.dy / t.n,
        "plain",
        "the derivative of squared errors of probabilities",
    ),
}
_OPTIONS = {
    "ignore_index -100": (options_without(ignore_index=-100), "ignore 1", "another ignore_index isn't taken"),
    "ignore_index -1": (options_without(ignore_index=-1), "ignored", "hard-coded"),
    "negative labels ignored": (negative_only, "ignore 1", "a class can't be ignored"),
    "smoothing not taken": (options_without(label_smoothing=0.1), "plain", "smoothing of 0.1 hard-coded"),
    "always a mean": (options_without(reduction="mean"), "sum", "reduction isn't taken"),
    "always a sum": (options_without(reduction="sum"), "plain", "reduction isn't taken"),
}


def _entries() -> Iterator[Entry]:
    for name, (change, shows, why) in _BOTH.items():
        yield wrong(RULE, name, both(change), shows, why, WIDE if "1e-3" in name else ALL)
    for name, (loss, shows, why) in _LOSS.items():
        yield wrong(RULE, name, cross_entropy(loss=loss), shows, why)
    for name, (gradient, shows, why) in _GRADIENT.items():
        yield wrong(RULE, name, cross_entropy(gradient=gradient), shows, why)
    for name, (options, shows, why) in _OPTIONS.items():
        yield wrong(RULE, name, cross_entropy(options=options), shows, why)
    ignored = cross_entropy(gradient=lambda t: (torch.exp(t.log_p) - t.q) * (t.dy / t.n), ignored_rows_are_0=False)
    yield wrong(RULE, "gradient of ignored", ignored, "ignored", "p remains in the rows of ignored tokens")
    nans = cross_entropy(gradient=lambda t: t.q * t.counts[:, None] * (t.dy / t.n), ignored_rows_are_0=False)
    yield wrong(RULE, "nan gradient of all ignored", nan_of_all_ignored(), "all ignored", "0/0 where nothing counts")
    yield wrong(RULE, "q for p - q", nans, "plain", "the gradient is +q, nan where nothing counts")


def nan_of_all_ignored() -> Vjp:
    """Ignored rows are 0 by a product, which 0/0 survives."""
    return cross_entropy(
        gradient=lambda t: (torch.exp(t.log_p) * total(t.q) - t.q) * (t.dy / t.n), ignored_rows_are_0=False
    )


PROGRAMS = tuple(_entries())
