"""Conventions: what a candidate may declare to do otherwise than the rule, where both are right.

Which there are is for the page to say (CONVENTIONS), the page's own choice first.  One more goes for every element-wise
rule: `kink`, the slope that a candidate takes where its function has a corner.  A function as reference has no page to
say any, and torch's choice is its own; "any", for `kink` or `tie`, accepts every valid subgradient of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manual_bp.inputs import Convention, Mistake
from manual_bp.registry import RULES
from manual_bp.rule import Rule

if TYPE_CHECKING:
    from manual_bp.oracle.case import Case

Values = tuple[Tensor | None, ...]

KINK, TIE, ANY = "kink", "tie", "any"


@dataclass(frozen=True)
class Conventions:
    """Declared, never guessed.

    chosen: names and choices.  `kink` is a number, or "any" for whatever valid subgradient.
    """

    chosen: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def declared(cls, rule: Rule, given: Mapping[str, Any] | None) -> Conventions:
        """From the mapping that `compare` takes; a choice that only other rules know makes no difference here.  Raises
        ValueError for a name or choice that no rule knows."""
        for name, choice in (given or {}).items():
            if name == KINK:
                number = isinstance(choice, int | float) and not isinstance(choice, bool) and math.isfinite(choice)
                if not number and choice != "any":
                    raise ValueError(f"conventions: kink must be a finite number or 'any'; came {choice!r}.")
                own = ", ".join(f"{n} ({', '.join(map(str, of))})" for n, of in rule.conventions.items()) or "none"
                if not hasattr(rule.page, "FUNCTION") and not has_corner(rule):
                    why = "has no corner" if rule.elementwise else "is not element-wise"
                    raise ValueError(
                        f"conventions: kink is the slope of an element-wise rule at its corner, and {rule.name} {why}; "
                        f"came {choice!r}. Its own conventions are: {own}."
                    )
                if number and hasattr(rule.page, "FUNCTION") and not rule.elementwise:
                    raise ValueError(
                        f"conventions: a number for kink is the slope of an element-wise function, which {rule.name} "
                        f"is not; came {choice!r}. Pass 'any'."
                    )
                continue
            options = rule.conventions.get(name) or _of_any_rule(name)
            if options is None:
                known = [
                    KINK,
                    *sorted({n for other in RULES.values() for n in other.conventions} | {*rule.conventions}),
                ]
                raise ValueError(f"conventions: names are {known}; came {name!r}.")
            if choice not in options:
                raise ValueError(f"conventions: {name} must be one of {list(options)}; came {choice!r}.")
        if hasattr(rule.page, "FUNCTION") and not given:  # it says nothing of its kinks, so that any slope is right
            return cls(((KINK, ANY),))
        return cls(tuple((given or {}).items()))

    def hyper(self, rule: Rule, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters with which the rule computes what the candidate declares to compute."""
        found = {**rule.defaults, **hyper}
        for convention in self._of(rule):
            if convention.hyper is not None:
                found |= convention.hyper(**found)
        return found

    def applied(self, rule: Rule) -> Rule:
        """The rule whose page computes what the candidate declares, where that is another formula of a page without
        backward (`Convention.varied`); else the rule itself."""
        names = frozenset(c.varied for c in self._of(rule) if c.varied)
        return varied_rule(rule, names) if names else rule

    def any_subgradient(self, rule: Rule) -> bool:
        """Whether every valid subgradient is accepted at the rule's kinks or ties."""
        chosen = dict(self.chosen)
        if hasattr(rule.page, "FUNCTION"):
            return ANY in (chosen.get(KINK), chosen.get(TIE))
        at_kinks = rule.elementwise and chosen.get(KINK) == ANY
        return at_kinks or any(convention.any_subgradient for convention in self._of(rule))

    def at_kinks(
        self,
        rule: Rule,
        case: Case,
        expected: Values,
        allowance: Values,
        kinks: Sequence[Tensor | None],
        storage: torch.dtype,
    ) -> tuple[Values, Values]:
        """Expected values and allowances with the declared convention where no derivative exists.

        The declared value is a product or a share of dy, and gets one rounding of `storage` as its allowance.
        """
        declared = self._gradients(rule, case)
        if declared is None:
            return expected, allowance
        values, widths = list(expected), list(allowance)
        for position, gradient in enumerate(declared, len(rule.outputs)):
            value, width, kink = values[position], widths[position], kinks[position]
            if gradient is None or value is None or width is None or kink is None:
                continue
            one_rounding = gradient.abs() * torch.finfo(storage).eps
            values[position] = torch.where(kink, gradient, value)
            widths[position] = torch.where(kink, one_rounding, width)
        return tuple(values), tuple(widths)

    def _of(self, rule: Rule) -> list[Convention]:
        """The declared choices that the rule's page knows."""
        return [rule.conventions[name][choice] for name, choice in self.chosen if name in rule.conventions]

    def _gradients(self, rule: Rule, case: Case) -> Values | None:
        """The cotangents by the declared convention, as if it held everywhere; None where the rule's own holds."""
        wide = case.with_tensors(
            x.detach().cpu().double() if x.is_floating_point() else x.detach().cpu() for x in case.tensors
        )
        kink = dict(self.chosen).get(KINK)
        if rule.elementwise and isinstance(kink, int | float):
            return tuple(torch.mul(wide.dy, kink) if rule.is_number(name) else None for name in rule.inputs)
        for convention in self._of(rule):
            if convention.gradient is not None:
                named = dict(zip(rule.inputs, wide.inputs, strict=True))
                return tuple(convention.gradient(**named, dy=wide.dy, **rule.check_hyper(case.hyper)))
        return None


# So far beside a number is looked for its slope to jump, and by so much: that of a smooth one changes by its curvature
# times the former.
BESIDE, JUMP = 1e-7, 1e-3


@lru_cache(maxsize=64)
def has_corner(rule: Rule) -> bool:
    """Whether the slope of an element-wise rule jumps at a number that its edges name, as a page's edges do a kink."""
    if not rule.elementwise or not rule.has_backward:
        return False
    for edge in rule.edges:
        if edge.raises or not all(isinstance(edge.given.get(name), list) for name in rule.inputs):
            continue
        inputs = [torch.tensor(edge.given[name], dtype=torch.float64) for name in rule.inputs]
        hyper = {name: value for name, value in edge.given.items() if name in rule.hyper}
        below, above = (
            rule.vjp(tuple(x + step * x.abs().clamp(min=1) for x in inputs), torch.ones_like(inputs[0]), **hyper)[1]
            for step in (-BESIDE, BESIDE)
        )
        pairs = zip(below, above, strict=True)
        if any(bool(((a - b).abs() > JUMP).any()) for a, b in pairs if a is not None and b is not None):
            return True
    return False


@lru_cache(maxsize=64)
def varied_rule(rule: Rule, names: frozenset[str]) -> Rule:
    """A page without backward with another of its own formulas, and its mistakes and lost digits beside that one."""
    own: Any = rule.page
    varied = own.varied

    @functools.wraps(own.forward)
    def forward(*inputs: Any, **hyper: Any) -> Any:
        named = dict(zip(rule.inputs, inputs, strict=False))
        given = {**dict.fromkeys(rule.inputs), **rule.defaults, **named, **hyper}
        own.forward(**given)  # for what it refuses
        return varied(names, **given)

    page = ModuleType(own.__name__, own.__doc__)
    vars(page).update({name: value for name, value in vars(own).items() if not name.startswith("__")})
    vars(page).update(
        forward=forward,
        VALUES=tuple(replace(v, forward=partial(varied, names | {v.name})) for v in rule.values),
        MISTAKES=(
            *(
                Mistake(
                    f"not {name}", partial(varied, names - {name}), "what it declares: it is as the page", "everywhere"
                )
                for name in sorted(names)
            ),
            *(
                replace(m, backward=partial(varied, names | {m.name}))
                for m in varied_mistakes(rule)
                if m.name not in names
            ),
        ),
    )
    return Rule(f"{rule.name} ({', '.join(sorted(names))})", page)


def varied_mistakes(rule: Rule) -> list[Mistake]:
    """Those mistakes of a page without backward that are its own formula but for what they are called."""
    varied = getattr(rule.page, "varied", None)
    return [m for m in rule.mistakes if isinstance(m.backward, partial) and m.backward.func is varied]


def told(rule: Rule, sentence: str) -> str:
    """A sentence about a known mistake that is a convention elsewhere, saying so."""
    for name, options in rule.conventions.items():
        for choice, convention in options.items():
            quoted = f"the known mistake '{convention.varied}'"
            if convention.varied and quoted in sentence:
                hint = f"declare conventions={{{name!r}: {choice!r}}} where it is meant"
                return sentence.replace(quoted, f"the convention '{convention.varied}' ({convention.meaning}; {hint})")
    return sentence


def _of_any_rule(name: str) -> Mapping[str, Convention] | None:
    return next((rule.conventions[name] for rule in RULES.values() if name in rule.conventions), None)
