"""Back-propagation derived by hand, checked layer by layer against torch.autograd.

Every rule is an attribute: `manual_bp.elu.forward(x, alpha=2.0)`; `manual_bp.RULES` maps all names to rules.
Nothing heavy is imported until it is touched.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manual_bp.compilation import compile_rule as compile_rule
    from manual_bp.registry import RULES as RULES
    from manual_bp.rule import Rule as Rule
    from manual_bp.rule import Vjp as Vjp

__version__ = "0.1.0"

_LAZY = {
    "compile_rule": "manual_bp.compilation",
    "RULES": "manual_bp.registry",
    "Rule": "manual_bp.rule",
    "Vjp": "manual_bp.rule",
}


def __getattr__(name: str) -> Rule:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value  # type: ignore[no-any-return]
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is None:  # a module of this package is no rule
        rules = importlib.import_module("manual_bp.registry")
        try:
            rule: Rule = rules.RULES[name]
        except rules.UnknownRuleError as error:
            raise AttributeError(f"module 'manual_bp' has no attribute {name!r}: {error}") from None
        globals()[name] = rule  # to look for it takes longer than to call it
        return rule
    raise AttributeError(f"module 'manual_bp' has no attribute {name!r}")


def __dir__() -> list[str]:
    from manual_bp.registry import RULES

    return sorted({*globals(), *_LAZY, *RULES})
