"""A function and what is said of its inputs, as a Rule."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_type_hints

from jaxtyping import Float
from torch import Tensor

from manual_bp.hyperparameters import is_kind
from manual_bp.inputs import Input
from manual_bp.oracle.calling.candidates import differentiator
from manual_bp.oracle.case import Case
from manual_bp.oracle.functions.annotated import annotations_of, is_defined, is_tensor, placed
from manual_bp.oracle.functions.function import Function
from manual_bp.oracle.functions.making import page_of
from manual_bp.oracle.functions.of_cases import are_described, hyper_of_cases, inputs_of_cases, of_any_shape
from manual_bp.oracle.functions.page import name_of
from manual_bp.oracle.functions.shrinking import shrunk
from manual_bp.oracle.functions.spoken import EXAMPLE, of_kind, spoken
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.wording import as_identifier


def rule_of(
    rule: str | Rule | Callable[..., Any],
    inputs: Mapping[str, Any] | None = None,
    hyper: Mapping[str, Any] | None = None,
    cases: Sequence[Case] | None = None,
) -> Rule:
    """The rule, that of its name, or the function as one.  cases: which tell a function's inputs where `inputs` does
    not.  Raises ValueError as `made` does, and for what is none."""
    if callable(rule) and not isinstance(rule, Rule):
        return reference(rule, inputs, hyper) if inputs is not None or cases is None else _told(rule, cases, hyper)
    rule = RULES[rule] if isinstance(rule, str) else rule
    if not isinstance(rule, Rule):
        raise ValueError(
            f"rule must be a rule, its name, or a function; came {rule!r}. The names are {', '.join(RULES)}."
        )
    if inputs is not None:
        raise ValueError(
            f"inputs= is for a function as reference; {rule.name} is a rule, whose page says what they are."
        )
    return rule


def _told(function: Callable[..., Any], cases: Sequence[Case], hyper: Mapping[str, Any] | None) -> Rule:
    """A function of whose inputs cases tell."""
    if hasattr(function, "named_parameters"):
        raise ValueError(
            f"{name_of(function)}: cases do not tell which of their inputs are parameters of the module; pass inputs= "
            "by name as well."
        )
    parameters, hints = _parameters(function), _hints(function)
    given = {**hyper_of_cases(parameters, cases), **(hyper or {})}
    said = inputs_of_cases(function, parameters, hints, cases, given)
    rule = made(function, said, given)
    return rule if are_described(rule, cases) else made(function, of_any_shape(said), given)


def reference(
    function: Callable[..., Any], inputs: Mapping[str, Any] | None = None, hyper: Mapping[str, Any] | None = None
) -> Rule:
    """As `made`, but once for the same function and the same words."""
    for given, of, example in ((inputs, "inputs", EXAMPLE), (hyper, "hyper", 'hyper={"eps": 1e-5}')):
        if not (given is None or isinstance(given, Mapping)):
            raise ValueError(f"{of} must be by name, as in {example}; came {given!r:.60}.")
    said = {"inputs": dict(inputs or {}), "hyper": dict(hyper or {})}
    for before, words, rule in _MADE:
        if before is function and _are_same(words, said):
            return rule
    rule = made(function, inputs, hyper)
    _MADE.append((function, said, rule))
    return rule


ABSENT = Input(lambda shape, generator: None, cotangent=False, optional=True)  # type: ignore[arg-type, return-value]
"""An input that is left out in every case."""

TOLD = (ValueError, RuntimeError, IndexError, TypeError, AssertionError)
"""What a function raises where it is not defined, as every caller knows it; anything else is made a ValueError."""

# Beside a hyperparameter calls of a candidate, and of what stands in arithmetic/, have arguments of these names.
TAKEN = frozenset(
    {"self", "inputs", "dy", "rule", "contract", "forward", "backward", "how", "beside"}
    | {"is_open", "accumulate", "grads", "allowance", "asked_before"}
)

_MADE: deque[tuple[Any, dict[str, Any], Rule]] = deque(maxlen=64)
"""The functions that were references lately, with what was said of them."""


def _are_same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_are_same(a[name], b[name]) for name in a)
    is_plain = isinstance(a, tuple | list | int | float | str) and isinstance(b, type(a))
    return a is b or (is_plain and bool(a == b))


def made(
    function: Callable[..., Any], inputs: Mapping[str, Any] | None = None, hyper: Mapping[str, Any] | None = None
) -> Rule:
    """The function as a rule: its own forward, and torch's derivative of it.

    function: differentiable, of torch operations; an nn.Module is a function of its inputs, parameters and buffers.
    inputs: by parameter, what it is like (manual_bp/oracle/functions/spoken.py), None for one that is left out; where
        the function has jaxtyping annotations, what they say need not be said again.  Every other parameter is a
        hyperparameter.
    hyper: values of hyperparameters; those without a default need one.
    Raises ValueError if that does not suffice to call the function, or what it does cannot be recorded.
    """
    said, original = dict(inputs or {}), function
    if hasattr(function, "named_parameters") and not isinstance(function, type):
        _check_module(function, said)
        said = {as_identifier(name): value for name, value in said.items()}
        names = tuple(said)
        function = _named(differentiator().bound(function, names), name_of(function), names)
    parameters = _parameters(function)
    hints = _hints(function)
    tensors = [name for name in parameters if name in said or is_tensor(hints.get(name))]
    _check(function, parameters, said, tensors, hyper or {})
    absent = [name for name in tensors if name in said and said[name] is None]
    absentable = [name for name in tensors if name in absent or parameters[name].default is None]
    taking = [*(name for name in tensors if name not in absentable), *absentable]
    present = [name for name in taking if name not in absent]
    given = {name: spoken(name, said[name]) for name in present if name in said}
    numbers = _hyperparameters(parameters, hints, tensors, hyper or {})
    taken = {name: value for name, value in numbers.items() if _kind_of(value, hints.get(name)) is not None}
    fixed = {name: value for name, value in numbers.items() if name not in taken}
    _check_names(function, taking, taken)

    def called(*some: Any, **more: Any) -> Any:
        """The function by names, with what is no tensor and no hyperparameter of a known kind."""
        names = taking if len(some) == len(taking) else present
        try:
            y = function(**{**dict.fromkeys(absent), **dict(zip(names, some, strict=True))}, **fixed, **more)
        except TOLD:
            raise
        except Exception as error:  # a number of buckets that is 0, a key that no table has, an error of its own
            raise ValueError(f"{name_of(function)} raises {type(error).__name__}: {error}") from error
        if not all(isinstance(part, Tensor) for part in parts(y)) or not parts(y):
            raise ValueError(f"{name_of(function)} must return a tensor or a tuple of tensors; came {y!r:.60}")
        return y

    called.__name__ = name_of(function)
    vars(called)["__wrapped__"] = original  # which is shown, and named
    given, large = shrunk(given, lambda some: is_defined(called, present, some, taken))
    annotations = annotations_of(called, present, given, hints, taken)
    given = {name: placed(name, given, annotations, called, taken) for name in given}
    specs = {name: given[name].spec if name in given else of_kind(annotations[name]) for name in present}
    annotations = {name: annotations.get(name, Float[Tensor, ""]) for name in taking}
    specs = {name: specs.get(name, ABSENT) for name in taking}
    about = Function(
        called=called,
        text=inspect.getdoc(function) or "",
        body=getattr(function, "__code__", None),
        annotations=annotations,
        specs=specs,
        given=given,
        large=large,
        absentable=[name for name in absentable if name in absent or name != present[0]],
        hyper=taken,
        kinds={name: _kind_of(value, hints.get(name)) for name, value in taken.items()},
    )
    page = page_of(about)
    vars(page)["FIXED"] = frozenset(fixed)  # no hyperparameters of a page: a list, say
    return Rule(called.__name__, page)


def _check_module(module: Any, said: Mapping[str, Any]) -> None:
    """Raises ValueError if nothing is said of a module's inputs."""
    if not said:
        tensors = ", ".join(f"{name} {tuple(x.shape)}" for name, x in module.named_parameters())
        raise ValueError(
            f"{name_of(module)}: what its inputs are like is not known; pass inputs= by name, and those of its "
            f"parameters that shall be judged ({tensors or 'it has none'}), as in {EXAMPLE}."
        )


def _named(bound: Callable[..., Any], name: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """A module's function with its inputs by name."""

    def module(**given: Any) -> Any:
        tensors = [given.pop(name) for name in names]
        return bound(*tensors, **given)

    own = inspect.signature(bound).parameters.values()
    keyword = [p for p in own if p.kind is p.KEYWORD_ONLY]
    positional = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    module.__signature__ = inspect.Signature([*positional, *keyword])  # type: ignore[attr-defined]
    module.__name__ = name
    return module


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    name = name_of(function)
    if isinstance(function, type):
        raise ValueError(f"{name} is a class; pass a function or a module that it makes, such as {name}().")
    try:
        signature = inspect.signature(function).parameters
    except (TypeError, ValueError):
        signature = {}  # type: ignore[assignment]
    found = {n: p for n, p in signature.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if not found:
        raise ValueError(f"{name} has no signature to read; wrap it: lambda x, weight: {name}(x, weight)")
    return found


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # annotations of names that are not there: as if there were none
        return {}


def _check(
    function: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    said: Mapping[str, Any],
    tensors: list[str],
    hyper: Mapping[str, Any],
) -> None:
    name = name_of(function)
    if list(parameters)[:2] == ["inputs", "dy"] and not {"inputs", "dy"} & set(said):
        raise ValueError(
            f"{name} takes (inputs, dy), as a candidate does; pass the candidate first, then the reference."
        )
    if unknown := [given for given in (*said, *hyper) if given not in parameters]:
        raise ValueError(f"{name} has no parameter {unknown[0]!r}; it takes {', '.join(parameters)}.")
    if not [given for given in tensors if said.get(given, ...) is not None]:
        raise ValueError(f"{name}: which parameters are tensors is not known; pass {EXAMPLE}, say.")
    for given in parameters:
        if given not in tensors and given not in hyper and parameters[given].default is inspect.Parameter.empty:
            raise ValueError(
                f"{name}: nothing is said of its parameter {given}; name it in inputs= (a shape, a tensor, or a "
                "function that draws) or in hyper= (a number)."
            )


def _check_names(function: Callable[..., Any], tensors: Iterable[str], hyper: Iterable[str]) -> None:
    """Raises ValueError for a name that means something else to who is called with all of them."""
    called = [("an input", name) for name in tensors if name == "dy"]
    called += [("a hyperparameter", name) for name in hyper if name in TAKEN]
    for kind, name in called:
        own = name_of(function)
        raise ValueError(
            f"{own} calls {kind} {name}, which is the name of something else where it is judged; pass a function "
            f"that gives it another name: lambda x, {name}_: {own}(x, {name}={name}_), say."
        )


def _hyperparameters(
    parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], tensors: list[str], hyper: Mapping[str, Any]
) -> dict[str, Any]:
    """Values of what is no tensor, but for tensors left out; a list of numbers is as good as a tuple."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in hyper.items()}
    return {
        name: given.get(name, parameter.default)
        for name, parameter in parameters.items()
        if name not in tensors and (name in hyper or parameter.default is not None)
    }


def _kind_of(value: Any, hint: Any) -> Any:
    """The kind of a hyperparameter, as a page would annotate it; None for what a page cannot have."""
    if hint is not None and is_kind(hint):
        return hint
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return int | float if kind is int else kind
    if isinstance(value, str):
        return Literal[value]
    if isinstance(value, tuple) and all(isinstance(n, int | float) for n in value):
        return tuple[int, ...] if all(isinstance(n, int) for n in value) else tuple[float, ...]
    return None
