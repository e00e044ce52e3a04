"""What may be a candidate: what is refused, with what makes one of it, and what one says of itself."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from manual_bp.oracle.calling.invocation import Call, arrays_named, parameters_of
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule, Vjp

DUE = "a candidate is vjp(inputs, dy, **hyper) -> (y, grads)"
WRAP = {
    "torch.nn.modules.module.Module": "Wrap it: torch_ref.vjp({}) is a candidate.",
    "torch.autograd.function.Function": "Wrap it: torch_ref.vjp({}.apply) is a candidate.",
    "torch.optim.optimizer.Optimizer": "manual_bp.oracle.compare_optimizer({}, rule) judges it.",
}


class Elsewhere(ABC):
    """A candidate that is called in another process, by the functions of `manual_bp.oracle.calling.calls` there."""

    @abstractmethod
    def call(self, how: str, rule: Rule, case: Case) -> Call:
        """What `call`, `call_again`, `call_often` or `call_filled` (in `traps`) finds there; all but the first follow a
        `call` at the same case."""

    @abstractmethod
    def named(self, names: tuple[str, ...]) -> Vjp:
        """What `for_inputs` makes of it there."""


def require_candidate(candidate: Any) -> None:
    """Raise ValueError, saying what to wrap it with, if it is a module, an autograd function or nothing callable."""
    kind = candidate if isinstance(candidate, type) else type(candidate)
    for base in kind.__mro__:
        remedy = WRAP.get(f"{base.__module__}.{base.__qualname__}")
        if not remedy:
            continue
        takes_dy = "dy" in (parameters_of(getattr(candidate, "forward", candidate)) or {})
        if not (takes_dy and kind is not candidate):  # a module may be a Vjp all the same
            made = f"{kind.__name__}()" if "Module" in base.__name__ else kind.__name__
            raise ValueError(f"{DUE}; came the {base.__name__} {kind.__name__}. {remedy.format(made)}")
    if not callable(candidate):
        is_pair = isinstance(candidate, tuple | list) and len(candidate) == 2 and all(map(callable, candidate))
        of_pair = "from_functions(forward, backward) makes one of a pair."
        instead = of_pair if is_pair else "Pass a function, or None and recorded cases=."
        raise ValueError(f"{DUE}; came a {kind.__name__}. {instead}")


def called_otherwise(candidate: Any, rule: Rule) -> list[str]:
    """Why a candidate that never answers cannot be called as one is, in a sentence, if its parameters tell."""
    name = getattr(candidate, "__name__", type(candidate).__name__)
    if parameters_of(getattr(candidate, "__self__", None)) is not None and name == "apply":
        return [f"{DUE}: what an autograd.Function applies is none, and torch_ref.vjp({_own(candidate)}.apply) is one"]
    parameters = parameters_of(candidate)
    if isinstance(candidate, Elsewhere) or parameters is None:
        return []
    positional = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = [n for n in positional if parameters[n].default is inspect.Parameter.empty and n not in rule.defaults]
    named_arrays, _ = arrays_named(candidate)
    foreign = next((kind for kind in named_arrays if kind != "torch"), "") if "torch" not in named_arrays else ""
    if wanted == list(rule.inputs):
        if foreign:
            return [
                f"{DUE}: {name} takes ({', '.join(wanted)}) itself, and is of {foreign}; from_functions({name}, "
                "backward) makes one of it, where it returns (y, cache), and of its backward(dy, cache)"
            ]
        return [
            f"{DUE}: {name} takes ({', '.join(wanted)}) itself, and torch_ref.vjp({name}) makes one of it by autograd"
        ]
    if rule.has_backward and len(wanted) > len(("inputs", "dy")):
        return [f"{DUE}, with all inputs in one tuple; {name} wants {', '.join(wanted)} one by one"]
    if foreign:
        return [
            f"{name} is of {foreign}, and is given tensors of torch: from_functions(forward, backward) makes a "
            f"candidate of a pair of functions on arrays of {foreign}"
        ]
    return []


def _own(method: Any) -> str:
    return str(getattr(method.__self__, "__name__", type(method.__self__).__name__))


def for_inputs(candidate: Any, names: Sequence[str]) -> Vjp:
    """The candidate for a rule with inputs of these names: one that binds them to parameters (`torch_ref.vjp` of an
    nn.Module) wants to know.  Raises ValueError if it cannot take them."""
    if isinstance(candidate, Elsewhere):
        return candidate.named(tuple(names))
    bind = vars(candidate).get("named") if inspect.isfunction(candidate) else None
    found: Vjp = bind(tuple(names)) if callable(bind) else candidate
    return found


def for_rule(candidate: Any, rule: Rule) -> Vjp:
    """The candidate for a rule: one that takes its inputs apart (`accumulated`) wants to know their axes."""
    bind = vars(candidate).get("of_rule") if inspect.isfunction(candidate) else None
    found: Vjp = bind(rule) if callable(bind) else candidate
    return found


def variants(candidate: Any) -> dict[str, Vjp]:
    """Other ways to call a candidate, by name: its adapter may know layouts that no tensor has."""
    found = inspect.getattr_static(candidate, "layouts", None)  # which a class of the user's may call something else
    return dict(found) if isinstance(found, dict) and all(map(callable, found.values())) else {}
