"""Losses that no page is about: the focal loss, and terms that are added to a loss of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.losses import Loss, RuleVjp
from manual_bp.rule import Rule


def _entropy(y: Tensor) -> tuple[Tensor, Tensor]:
    """−Σ p log p = H of each row's softmax; ∂H/∂y_k = −p_k (log p_k + H)."""
    log_p = torch.log_softmax(y, 1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1, keepdim=True)
    return entropy, -p * (log_p + entropy)


def _squared_normaliser(y: Tensor) -> tuple[Tensor, Tensor]:
    """z² with z = log Σ e^y; ∂z²/∂y_k = 2 z p_k.  The z-loss of PaLM (Chowdhery et al., 2022, section 5)."""
    z = torch.logsumexp(y, 1, keepdim=True)
    return z.square(), 2 * z * torch.softmax(y, 1)


def _squares(y: Tensor) -> tuple[Tensor, Tensor]:
    """Σ y²; ∂/∂y_k = 2 y_k."""
    return y.square().sum(1, keepdim=True), 2 * y


TERMS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "the entropy of the softmax": _entropy,
    "the square of the logarithm of Σ e^y (z-loss)": _squared_normaliser,
    "the sum of the squares of the outputs": _squares,
}
"""Of outputs, (n, classes, ...): a term of each row, (n, 1, ...), and its derivative by the outputs."""


def losses_by_a_number(loss: Loss) -> Iterator[tuple[str, Callable[[float], Loss]]]:
    """Words, which go on with the number, and the loss for it."""
    if not loss.takes_classes:
        return
    for words, term in TERMS.items():
        yield (
            f"to the loss a mean over the rows is added that nobody declared: {words}, times",
            lambda c, term=term: _WithTerm(loss.name, loss.hyper, c, term),  # type: ignore[misc]
        )
    focal = "the loss is a focal loss, cross-entropy times (1 − p)^γ, with γ ="
    yield focal, lambda c: _Focal(loss.name, loss.hyper, c)


def _counting(loss: Loss, target: Tensor) -> Tensor:
    """Which rows count, (n, 1, ...)."""
    return target.ne({**loss.rule.defaults, **loss.hyper}.get("ignore_index", -1))[:, None]


@dataclass(frozen=True)
class _WithTerm(Loss):
    """A loss and a multiple of a term's mean over the rows that count."""

    factor: float = 0.0
    term: Any = _entropy

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        cost, dy = super().vjp(y, target, vjp)
        counts = _counting(self, target)
        value, slope = self.term(y)
        share = self.factor * counts / counts.sum()
        return cost + (share * value).sum(), dy + share * slope


@dataclass(frozen=True)
class _Focal(Loss):
    """Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4: the mean of −(1 − p)^γ log p, where p is
    the probability of the right class.

    With l = log p its derivative by l is γ (1 − p)^(γ−1) p l − (1 − p)^γ, and ∂l/∂y_k = [k is right] − softmax(y)_k."""

    gamma: float = 0.0

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        counts = _counting(self, target)
        log_p = torch.log_softmax(y, 1)
        right = torch.zeros_like(y).scatter_(1, torch.where(counts, target[:, None], 0).long(), 1.0)
        log_right = (right * log_p).sum(1, keepdim=True)
        p = log_right.exp()
        rest = -torch.expm1(log_right)
        slope = self.gamma * rest ** (self.gamma - 1) * p * log_right - rest**self.gamma
        share = counts / counts.sum()
        return -(share * rest**self.gamma * log_right).sum(), share * slope * (right - log_p.exp())
