"""Losses: a rule of the chapter loss as the end of a network.

A rule is one if its first input is x, the network's output, and its value is one number.  Its second input is the
target; what kind of target follows from how the page annotates it: `Float` takes numbers shaped as the page says, such
as one for each output; `Int` takes the number of the right class, without the classes' axis.  Whatever else the rule
takes must be optional, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.inputs import Index
from manual_bp.registry import RULES
from manual_bp.rule import Grads, Rule

RuleVjp = Callable[..., tuple[Tensor, Grads]]
"""rule, inputs, cotangent, hyperparameters by name -> value and cotangents: `Rule.vjp`, or a stand-in for it."""


@dataclass(frozen=True)
class Loss:
    """J of a network's output and a target.

    name: of a rule. hyper: its hyperparameters; the others keep their defaults.
    Raises ValueError for a rule that is no loss, and for hyperparameters that it does not take or lacks.
    """

    name: str
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not fits(self.rule):
            raise ValueError(
                "loss must be a rule of the chapter loss that takes x and a target, and nothing else that is "
                f"required; came {self.name!r}, which takes {list(self.rule.inputs)}. There are {names()}."
            )
        self.rule.check_hyper(self.hyper)

    def require_in_range(self) -> None:
        """Raises ValueError, as the rule says it, for a hyperparameter out of range: found on the smallest example,
        before anything is trained."""
        y = torch.zeros(1, 2)
        target = torch.zeros(1, dtype=torch.int64) if self.takes_classes else y
        try:
            Loss(self.name).of(y, target)
        except ValueError:  # it is no example of this rule, or a hyperparameter is required
            return
        self.of(y, target)

    @property
    def rule(self) -> Rule:
        return RULES[self.name]

    @property
    def options(self) -> dict[str, Any]:
        """As a step and another engine are told: `loss`, and `loss_hyper` where a hyperparameter is off its default."""
        return {"loss": self.name, **({"loss_hyper": dict(self.hyper)} if self.hyper else {})}

    @property
    def takes_classes(self) -> bool:
        """Whether the target is the number of the right class, and not numbers like the output's."""
        _, target, *_ = self.rule.inputs
        return isinstance(self.rule.inputs[target], Index)

    def of(self, y: Tensor, target: Tensor) -> Tensor:
        """J.  Raises ValueError, as the rule says it, for a target that does not fit the output."""
        cost: Tensor = self.rule.forward(y, self._checked(target), **self.hyper)[0]
        return cost

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        """J and ∂J/∂y.  Raises ValueError, as the rule says it, for a target that does not fit the output."""
        one = torch.ones((), dtype=y.dtype, device=y.device)
        cost, (dy, *_) = vjp(self.rule, (y, self._checked(target)), one, **self.hyper)
        assert dy is not None
        return cost, dy

    def targets(self, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """The targets of examples whose classes are `labels`, (n,): the labels themselves, or `one_hot`.

        Of a text `labels` are (n, context).  Raises ValueError for a loss that takes no numbers of classes there.
        """
        if labels.ndim > 1 and not self.takes_classes:
            raise ValueError(
                f"loss must take the number of the right token where a network learns text; came {self.name!r}, which "
                "takes a number for each output. Use softmax_cross_entropy."
            )
        return labels if self.takes_classes else one_hot(labels, classes, dtype)

    def _checked(self, target: Tensor) -> Tensor:
        if self.takes_classes == target.is_floating_point():
            came = f"{target.dtype}, {tuple(target.shape)}"
            if self.takes_classes:
                due, remedy = "the number of each right class, int", "Of targets that are 1 for it: target.argmax(1)."
            else:
                due, remedy = "numbers like the output's", "Of the numbers of classes: manual_bp.losses.one_hot."
            raise ValueError(f"{self.name}: the target must be {due}; came {came}. {remedy}")
        return target


def fits(rule: Rule) -> bool:
    """Whether a rule can be the loss of a network."""
    x, *others = rule.inputs
    required = [name for name in others if name not in rule.absentable]
    return rule.chapter == "loss" and x == "x" and len(required) == 1 and required == others[:1] and rule.has_backward


def names() -> list[str]:
    """The rules that can be the loss of a network."""
    return [name for name, rule in RULES.items() if fits(rule)]


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(n, classes): 1 for the right class, 0 for the others."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)
