"""Conventions: what a candidate may declare to do otherwise than the rule, where both are right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manual_bp.rule import Rule

if TYPE_CHECKING:
    from manual_bp.oracle.cases import Case

Values = tuple[Tensor | None, ...]

CHOICES = {
    "tie": ("first", "last", "split", "any"),
    "dropout": ("inverted", "plain"),
    "l2": ("lam/n", "lam"),
}


@dataclass(frozen=True)
class Conventions:
    """Declared, never guessed.

    kink: the slope that the candidate takes where its function has a corner (a number), or "any" for whatever valid
        subgradient; None for the rule's own.
    tie: which of several equal maxima gets dy: the "first" (the rule's own), the "last", all of them in equal shares
        ("split"), or "any" for whatever valid subgradient.
    dropout: "inverted" (scaled in training) or "plain" (not scaled).
    l2: "lam/n", or "lam" for the value lam/2 Σ W² and the gradient lam W, whatever n.
    """

    kink: float | str | None = None
    tie: str = "first"
    dropout: str = "inverted"
    l2: str = "lam/n"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"conventions: {name} must be one of {list(choices)}; came {getattr(self, name)!r}.")
        number = isinstance(self.kink, int | float) and not isinstance(self.kink, bool) and math.isfinite(self.kink)
        if not (number or self.kink in (None, "any")):
            raise ValueError(f"conventions: kink must be a finite number or 'any'; came {self.kink!r}.")

    @classmethod
    def declared(cls, given: Mapping[str, Any] | None) -> Conventions:
        """From the mapping that `compare` takes.  Raises ValueError for an unknown name or value."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given or {}) - set(known)):
            raise ValueError(f"conventions: names are {known}; came {unknown}.")
        return cls(**(given or {}))

    def hyper(self, rule: Rule, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters with which the rule computes what the candidate declares to compute."""
        found = {**rule.defaults, **hyper}
        if rule.name == "dropout" and self.dropout == "plain" and found["p"] < 1:
            found["p"] = 0.0
        if rule.name == "l2_penalty" and self.l2 == "lam":
            found["n"] = 1
        return found

    def any_subgradient(self, rule: Rule) -> bool:
        """Whether every valid subgradient is accepted at the rule's kinks or ties."""
        return (self.kink == "any") if rule.elementwise else (self.tie == "any")

    def at_kinks(
        self, rule: Rule, case: Case, expected: Values, allowance: Values, kinks: Values, storage: torch.dtype
    ) -> tuple[Values, Values]:
        """Expected values and allowances with the declared convention where no derivative exists.

        The declared value is a product or a share of dy, and gets one rounding of `storage` as its allowance.
        """
        declared = self._gradient(rule, case)
        if declared is None:
            return expected, allowance
        (y, dx, *others), (y_width, dx_width, *widths), kink = expected, allowance, kinks[1]
        assert dx is not None
        assert dx_width is not None
        assert kink is not None
        one_rounding = declared.abs() * torch.finfo(storage).eps
        dx, dx_width = torch.where(kink, declared, dx), torch.where(kink, one_rounding, dx_width)
        return (y, dx, *others), (y_width, dx_width, *widths)

    def _gradient(self, rule: Rule, case: Case) -> Tensor | None:
        """dx by the declared convention, as if it held everywhere; None where the rule's own convention holds."""
        dy = case.dy.detach().cpu().double()
        if rule.elementwise and isinstance(self.kink, int | float):
            return torch.mul(dy, self.kink)
        if rule.name == "maxout" and self.tie in ("last", "split"):
            x = case.inputs[0].detach().cpu().double()
            pieces = x.reshape(*dy.shape, case.hyper["pieces"])
            tied = (pieces == pieces.amax(-1, keepdim=True)).double()
            if self.tie == "last":
                tied = tied * (tied.flip(-1).cumsum(-1).flip(-1) == 1)
            return torch.reshape(tied * dy[..., None] / tied.sum(-1, keepdim=True), x.shape)
        return None
