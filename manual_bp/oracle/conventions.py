"""Conventions: what a candidate may declare to do otherwise than the rule, where both are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from manual_bp.rule import Rule


@dataclass(frozen=True)
class Conventions:
    """Declared, never guessed.

    kink: the slope that the candidate takes where its function has a corner (a number), or "any" for whatever valid
        subgradient; None for the rule's own.
    tie: "first" for the rule's own (all of dy to the first of several equal maxima), or "any" for whatever valid
    subgradient. dropout: "inverted" (scaled in training) or "plain" (not scaled). l2: "lam/n" or "lam" (the gradient
    is lam W, whatever n).
    """

    kink: float | str | None = None
    tie: str = "first"
    dropout: str = "inverted"
    l2: str = "lam/n"

    def __post_init__(self) -> None:
        for name, choices in (("tie", ("first", "any")), ("dropout", ("inverted", "plain")), ("l2", ("lam/n", "lam"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"conventions: {name} must be one of {list(choices)}; came {getattr(self, name)!r}.")
        if isinstance(self.kink, str) and self.kink != "any":
            raise ValueError(f"conventions: kink must be a number or 'any'; came {self.kink!r}.")

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
