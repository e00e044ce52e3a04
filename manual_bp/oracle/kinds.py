"""What a mismatch is, if it is not simply wrong: another convention, or what an excuse holds for (excuses.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle.cases.variation import wide
from manual_bp.oracle.excuses import Excuses, Latest, is_grad, result_of
from manual_bp.oracle.truth.certified import CERTIFIED_ELEMENTS, CERTIFIED_ON_THE_WAY, Values, certified_module
from manual_bp.oracle.truth.conventions import ANY, KINK, Conventions
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.oracle.truth.kept import numbers_of
from manual_bp.oracle.truth.kinks import LARGER_WHOLE, MOST_WHOLE, is_subgradient, kinks_of, widths_nearby
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# What nothing excuses in so many cases of an argument is wrong, and of further ones the excuses are not asked
# for: each is a bound of the whole page, which takes longer than all the rest.
PLAIN = 4


class Kinds:
    """Tells the kind of a mismatch of one rule, under what was declared."""

    def __init__(self, rule: Rule, dtype: torch.dtype, contract: Contract, conventions: Conventions) -> None:
        self.rule, self.contract, self.conventions = rule, contract, conventions
        self.excuses = Excuses(rule, dtype, contract, conventions)
        self._latest = Latest()
        self._subgradients: dict[Any, bool] = {}
        self._plain: Counter[int] = Counter()  # in how many cases nothing excused each argument

    def kind(
        self,
        candidate: Vjp | None,
        position: int,
        found: Evidence,
        got: Tensor,
        grads: Sequence[Any],
        beyond: Tensor,
    ) -> tuple[str, str]:
        """Its kind and a few words.

        candidate: None for recorded results, else called again.  position: among the rule's arguments.  got, grads:
        what it returned there, and all its cotangents.  beyond: the elements that are wrong.
        """
        found = self._with_kinks(found)
        case, expected, kinks = found.case, found.expected[position], found.kinks[position]
        assert expected is not None
        assert kinks is not None
        got = got.detach().cpu().double()
        if is_grad(self.rule, position) and bool(kinks[beyond].all()) and self.is_subgradient(found, grads):
            return "convention", f"a valid subgradient, and not {self._convention}"
        if is_grad(self.rule, position) and _is_undefined_at_infinity(parts(case.dy), expected, got, beyond):
            return "digits", "loses all digits of an infinite cotangent: NaN where infinity or 0 is due"
        if self._plain[position] >= PLAIN:
            return "wrong", ""
        if candidate is not None and self._is_unsteady(candidate, position, found, got, beyond):
            return "wrong", "another value came when it was called again"
        kind, words = self.excuses.told(candidate, position, found, got, beyond)
        self._plain[position] += kind == "wrong"
        return kind, words

    def _is_unsteady(self, candidate: Vjp, position: int, found: Evidence, got: Tensor, beyond: Tensor) -> bool:
        """Whether what is wrong differs by more than the allowance when the candidate is called again: a race."""
        allowance, expected = found.allowance[position], found.expected[position]
        assert expected is not None
        assert allowance is not None
        again = result_of(candidate, self.rule, found.case, position, expected)
        return again is not None and bool(((again - got).abs() > allowance)[beyond].any())

    @property
    def _convention(self) -> str:
        if hasattr(self.rule.page, "FUNCTION"):
            return 'torch\'s; conventions={"kink": "any"} accepts it'
        accepting = [f'"{n}": "{c}"' for n, own in self.rule.conventions.items() for c in own if own[c].any_subgradient]
        accepting += [f'"{KINK}": "{ANY}"'] if self.rule.elementwise else []
        return "the one of the declared convention" + "".join(
            f"; conventions={{{a}}} accepts it" for a in accepting[:1]
        )

    def as_declared(self, found: Evidence, position: int, grads: Sequence[Any], beyond: Tensor) -> bool:
        """Whether all that differs is a kink or tie, where any subgradient was declared and this is one."""
        may_be_other = is_grad(self.rule, position) and self.conventions.any_subgradient(self.rule)
        if not may_be_other or not bool(beyond.any()):
            return False
        found = self._with_kinks(found)
        kinks = found.kinks[position]
        return kinks is not None and bool(kinks[beyond].all()) and self.is_subgradient(found, grads)

    def knows_kinks(self, found: Evidence) -> bool:
        """Whether ball arithmetic tells the kinks of a case, and which subgradients are right there."""
        if found.source.startswith("certified truth"):
            return True
        return any(mask is not None and bool(mask.any()) for mask in self._with_kinks(found).kinks)

    def _with_kinks(self, found: Evidence) -> Evidence:
        """The evidence with its kinks: where nothing was declared, those of a case that was not certified are not known
        before they are asked for."""
        balls = certified_module()
        certified = found.source.startswith("certified truth")
        if balls is None or certified or found.is_smooth:
            return found
        if any(bool(mask.any()) for mask in found.kinks if mask is not None):
            return found
        took_others = self._subgradients and all(self._subgradients.values())
        most = LARGER_WHOLE if took_others else MOST_WHOLE
        if found.largest > most * CERTIFIED_ON_THE_WAY // CERTIFIED_ELEMENTS:
            return found
        kinks = self._latest.at(
            found.case, "kinks", lambda: kinks_of(self.rule, found.case, balls, most) or tuple(found.kinks)
        )
        return replace(found, kinks=kinks)

    def _nearby(self, found: Evidence) -> Values:
        return self._latest.at(
            found.case, "nearby", lambda: widths_nearby(self.rule, found.case, found.kinks, self.contract)
        )

    def is_subgradient(self, found: Evidence, grads: Sequence[Any]) -> bool:
        """Whether the cotangents are a subgradient at the case, as far as that can be certified."""
        balls = certified_module()
        if balls is None or not all(g is None or isinstance(g, Tensor) for g in grads):
            return False
        given = tuple(None if g is None else wide(g).numpy().tobytes() for g in grads)
        asked = numbers_of(found.case), given  # many cases are the same numbers in another layout
        if asked not in self._subgradients:
            before = sum(self._subgradients.values())

            def passes(allowance: Values | None) -> bool:
                return is_subgradient(self.rule, found.case, found.kinks, tuple(grads), balls, allowance, before)

            self._subgradients[asked] = passes(None if self.rule.elementwise else self._nearby(found))
        return self._subgradients[asked]


def _is_undefined_at_infinity(dy: Sequence[Any], expected: Tensor, got: Tensor, beyond: Tensor) -> bool:
    """Whether all that is wrong is NaN where an infinite cotangent makes infinity due, or is dropped and makes 0 due.

    A right formula that takes a difference (dy - dy y²) or multiplies by 0 (dy · mask) has it so, and nobody goes on
    with either.
    """
    infinite = [d.isinf().cpu() for d in dy if d is not None]
    due = expected.isinf()
    for mask in infinite:
        if mask.shape == expected.shape:  # element by element, so that nothing else is excused
            due |= (expected == 0) & mask
    return any(bool(mask.any()) for mask in infinite) and bool((due & got.cpu().isnan())[beyond].all())
