"""Candidates that packages register: torch is the first, a user's package adds its own in the same way.

In pyproject.toml:  [project.entry-points."manual_bp.candidates"]  name = "package.module:object"
where `object(rule_name)` is a Vjp or None, and `object.model(name, **config)`, if there, is an Engine for lockstep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

from manual_bp.rule import Vjp

GROUP = "manual_bp.candidates"


class Candidate(Protocol):
    """Whoever offers a Vjp for rules, and perhaps an engine for models (`model(name, **config)`)."""

    def __call__(self, rule: str) -> Vjp | None: ...


class Differentiator(Protocol):
    """What the candidate registered as torch offers beside: torch's own derivative of a function, as programs
    (torch_ref/derivative.py) or as a Vjp, and an nn.Module as a function of its inputs, parameters and buffers."""

    def derivative(
        self,
        function: Callable[..., Any],
        inputs: tuple[Any, ...],
        hyper: Mapping[str, Any],
        elementary: Callable[[Any], bool],
        keeps_digits: bool,
        is_known: bool,
    ) -> Any: ...

    def leaving(
        self, function: Callable[..., Any], body: Any, inputs: tuple[Any, ...], hyper: Mapping[str, Any]
    ) -> list[Any]: ...

    def autograd(self, forward: Callable[..., Any]) -> Vjp: ...

    def bound(self, module: Any, names: tuple[str, ...]) -> Callable[..., Any]: ...


def differentiator() -> Differentiator:
    """torch, as it differentiates functions."""
    found: Any = candidate("torch")
    return found  # type: ignore[no-any-return]


@cache
def candidate(name: str) -> Candidate:
    """One registered candidate; the others are not loaded.  Raises ValueError for a name that nobody registered."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise ValueError(
            f"no candidate {name!r} is registered under {GROUP!r} (there: {sorted(found) or 'none'}). "
            "Install this repository with pip, so that its entry points are known."
        )
    loaded: Candidate = found[name].load()
    return loaded


def engine_factory(name: str) -> Callable[..., Any]:
    """`candidate.model` of a registered candidate.  Raises ValueError if it offers no models."""
    factory = getattr(candidate(name), "model", None)
    if factory is None:
        raise ValueError(f"candidate {name!r} offers no models; it needs an attribute model(name, **config).")
    return factory  # type: ignore[no-any-return]
