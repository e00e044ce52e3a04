"""What a page must hold, said in a sentence where it does not."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, get_args, get_type_hints

from jaxtyping import Float

from manual_bp import axes
from manual_bp.hyperparameters import is_kind, kinds
from manual_bp.inputs import Convention, Edge, Index, Input, Mistake, Promise, Value

EXAMPLE = "manual_bp/rules/activation/elu.py"
PARTS = {
    "Residuals": "class Residuals(NamedTuple) with what backward needs, each field annotated: "
    'x: Float[Tensor, "*shape"]',
    "forward": 'def forward(x: Float[Tensor, "*shape"], *, alpha: float = 1.0) -> tuple[Float[Tensor, "*shape"], '
    "Residuals]: inputs first, hyperparameters behind the *",
    "backward": 'def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]: '
    "one cotangent for each input",
    "INPUTS": 'INPUTS = {"x": Input()}: how each input of forward is drawn',
    "EDGES": 'EDGES = (Edge("kink", {"x": [0.0, -0.0]}),): the inputs at which the function is special, or ()',
    "MISTAKES": 'MISTAKES = (Mistake("alpha forgotten", backward=..., forgets=..., shows=...),): the wrong formulas '
    "that people write, or ()",
}
"""The parts that no page can do without, and how each is written."""
PAIR = ("Residuals", "backward")
"""A page that lacks both is one of values alone, such as an optimiser's update."""
KINDS = (
    "a hyperparameter is float, int, bool, a Literal of strings, a tuple[int, ...] or tuple[float, ...], "
    "or one of these | None"
)


def check_page(name: str, page: ModuleType) -> None:
    """Raises ValueError, with what to write, if a part of the page is missing or is of another kind."""
    problem = next(_problems(page), None)
    if problem:
        where = getattr(page, "__file__", None) or getattr(page, "__name__", type(page).__name__)
        raise ValueError(f"the page of {name!r} ({where}) {problem} A whole page to copy from: {EXAMPLE}.")


def _problems(page: ModuleType) -> Iterator[str]:
    values_alone = not any(hasattr(page, part) for part in PAIR) and not _promises_residuals(page)
    parts = [part for part in PARTS if not (values_alone and part in PAIR)]
    missing = [part for part in parts if not hasattr(page, part)]
    if missing:
        yield f"must hold {', '.join(missing)}. Write {'; '.join(PARTS[part] for part in missing)}."
    for part in ("forward", "backward"):
        function = getattr(page, part, None)
        if part in parts and not callable(function):
            yield f"must hold a function {part}; came a {type(function).__name__}. Write {PARTS[part]}."
    if not values_alone:
        residuals = page.Residuals
        if not (isinstance(residuals, type) and issubclass(residuals, tuple) and hasattr(residuals, "_fields")):
            yield f"must hold a NamedTuple Residuals; came {residuals!r:.60}. Write {PARTS['Residuals']}."
    for part, kind in (("EDGES", Edge), ("MISTAKES", Mistake)):
        found = getattr(page, part)
        if not isinstance(found, tuple | list) or not all(isinstance(item, kind) for item in found):
            yield f"must hold {part}, a tuple of {kind.__name__}; came {found!r:.60}. Write {PARTS[part]}."
    yield from _signatures(page, values_alone)
    yield from _optional_parts(page)


def _promises_residuals(page: ModuleType) -> bool:
    """Whether forward is said to return a pair, so that a backward was meant."""
    try:
        return len(get_args(inspect.get_annotations(page.forward, eval_str=True).get("return"))) == 2
    except Exception:  # what it says is read, and complained of, below
        return True


def _signatures(page: ModuleType, values_alone: bool) -> Iterator[str]:
    parameters = inspect.signature(page.forward).parameters.values()
    inputs = {p.name: p for p in parameters if p.kind is not p.KEYWORD_ONLY}
    given = page.INPUTS
    if not isinstance(given, Mapping) or not all(isinstance(item, Input | Index) for item in given.values()):
        yield f"must hold INPUTS, a mapping of names to Input or Index; came {given!r:.60}. Write {PARTS['INPUTS']}."
    if not inputs:
        yield f"must have a forward with at least one input before the *; came none. Write {PARTS['forward']}."
    if without := [name for name in inputs if name not in given]:
        entry = ", ".join(f'"{name}": Input()' for name in without)
        yield f"must name every input of forward in INPUTS; {', '.join(without)} is missing. Write {{{entry}}}."
    hints: dict[str, dict[str, Any]] = {}
    for part in ("forward",) if values_alone else ("forward", "backward", "Residuals"):
        try:
            hints[part] = get_type_hints(getattr(page, part))
        except (NameError, TypeError) as error:
            yield f"has annotations of {part} that cannot be read: {error}. Import what they name."
    if bare := [p.name for p in parameters if p.name not in hints["forward"]]:
        yield f"must annotate every parameter of forward; {', '.join(bare)} is bare. Write {PARTS['forward']}."
    present = {name: _tensors(hints["forward"][name]) for name in inputs}
    if shapeless := [name for name, found in present.items() if len(found) != 1]:
        yield f"must annotate inputs with their axes; {', '.join(shapeless)} has none. Write {PARTS['forward']}."
    yield from _optional_inputs(inputs, hints["forward"], {name: found[0] for name, found in present.items()}, given)
    yield from _returned(page, hints, values_alone)
    hyper = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if odd := [name for name in hyper if not is_kind(hints["forward"][name])]:
        yield f"has a hyperparameter {odd[0]} of kind {hints['forward'][odd[0]]}: {KINDS}. Write one of these."
    own = {**{n: d for n, d in hyper.items() if d is not inspect.Parameter.empty}, **getattr(page, "HYPER", {})}
    if free := [name for name in hyper if name not in own]:
        entry = ", ".join(f'"{name}": 2' for name in free)
        yield f"must give {', '.join(free)} an ordinary value, for its cases. Write HYPER = {{{entry}}}, say."


def _optional_inputs(
    inputs: Mapping[str, inspect.Parameter],
    hints: Mapping[str, Any],
    annotations: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Iterator[str]:
    """An input that may be absent says so twice; an index is one of integers, on an axis that there is."""
    names = axes.axis_names(annotations.values())
    for name, parameter in inputs.items():
        may_be_none = len(kinds(hints[name])) > 1
        if may_be_none != (parameter.default is None):
            yield (
                f"must say twice that the input {name} may be absent, or not at all. Write "
                f'{name}: Float[Tensor, "..."] | None = None.'
            )
        spec, annotation = given[name], annotations[name]
        if isinstance(spec, Index) and (annotation.dtype is Float or names.get(spec.axis) is not False):
            yield (
                f"says that {name} holds positions on {spec.axis}: it must be annotated as Int, and {spec.axis} be an "
                f'axis of an input. Write {name}: Int[Tensor, "batch"].'
            )
    first = next(iter(inputs.values()))
    if first.default is None:
        yield f"must have a first input that is always there; {first.name} may be None. Put another one first."


def _returned(page: ModuleType, hints: Mapping[str, Mapping[str, Any]], values_alone: bool) -> Iterator[str]:
    """What forward returns, and what backward takes."""
    whole = hints["forward"].get("return")
    returned = get_args(whole)
    y = returned[0] if len(returned) == 2 else whole
    several = hasattr(y, "_fields")
    if (len(returned) != 2 and not values_alone) or not (several or hasattr(y, "dim_str")):
        yield f"must say what forward returns, y with its axes and the residuals. Write {PARTS['forward']}."
    if several:
        outputs = get_type_hints(y)
        if bare := [name for name, hint in outputs.items() if len(_tensors(hint)) != 1]:
            yield (
                f"must annotate each of its Outputs with its axes; {bare[0]} has none. "
                'Write y: Float[Tensor, "*shape"].'
            )
        absentable = [name for name, hint in outputs.items() if len(kinds(hint)) > 1]
        if absentable and (not values_alone or absentable[0] == next(iter(outputs))):
            yield (
                f"may not return None for {absentable[0]}: every output has a cotangent, and the first of a page "
                'without backward is always there. Write y: Float[Tensor, "*shape"].'
            )
        if y is not getattr(page, "Outputs", None):
            yield f"must call what forward returns Outputs; came {y!r:.60}. Write class Outputs(NamedTuple)."
    if values_alone:
        return
    dy = hints["backward"].get("dy")
    if not (hasattr(dy, "dim_str") or (several and dy is y)):
        due = "Write dy: Outputs." if several else f"Write {PARTS['backward']}."
        yield f"must have a backward whose dy is annotated with its axes. {due}"


def _optional_parts(page: ModuleType) -> Iterator[str]:
    """Parts that a page need not have."""
    for name, options in getattr(page, "CONVENTIONS", {}).items():
        if not isinstance(options, Mapping) or not all(isinstance(o, Convention) for o in options.values()):
            yield (
                f"must hold CONVENTIONS, of each name its choices; came {options!r:.60} for {name}. Write "
                '{"tie": {"first": Convention("the first of equals"), ...}}, the page\'s own first.'
            )
        elif any(option.varied for option in options.values()) and not callable(getattr(page, "varied", None)):
            yield (
                f"must have a function varied, as a choice of {name} names a formula. Write "
                "def varied(names, param, grad, ...) -> Outputs."
            )
    for name, function in getattr(page, "AXES", {}).items():
        if not callable(function):
            yield (
                f"must hold AXES, of each name a function of axes and hyperparameters; came {function!r:.60} for "
                f"{name}. "
                'Write {"y_rows": lambda rows, kernel: rows - kernel + 1}.'
            )
    alike = getattr(page, "ALIKE", ())
    annotations = inspect.get_annotations(page.forward, eval_str=True)
    found = axes.axis_names(t for name in page.INPUTS if name in annotations for t in _tensors(annotations[name]))
    if not isinstance(alike, tuple) or not all(found.get(name) for name in alike):
        yield (
            f"must hold ALIKE, the lists of axes of inputs that have as many axes as each other; came {alike!r:.60}. "
            'Write ALIKE = ("space", "kernel").'
        )
    losing = getattr(page, "VALUES", ())
    if not isinstance(losing, tuple | list) or not all(isinstance(item, Value) for item in losing):
        yield (
            f"must hold VALUES, a tuple of Value; came {losing!r:.60}. Write "
            'VALUES = (Value("1 + erf", forward=..., forgets=..., shows=...),).'
        )
    promises = getattr(page, "PROMISES", {})
    if not isinstance(promises, Mapping) or not all(isinstance(item, Promise) for item in promises.values()):
        yield (
            f"must hold PROMISES, of each result its Promise; came {promises!r:.60}. Write "
            'PROMISES = {"dx": Promise("it crosses 0", beside=...)}.'
        )
    for part in ("SIZES", "SHORTEST", "LONGEST"):
        found = getattr(page, part, {})
        if not isinstance(found, Mapping) or not all(isinstance(n, int | tuple) for n in found.values()):
            yield f'must hold {part}, lengths of axes by name; came {found!r:.60}. Write {part} = {{"time": 33}}.'


def _tensors(annotation: Any) -> list[Any]:
    """The alternatives of an annotation that are tensors with axes."""
    return [kind for kind in kinds(annotation) if hasattr(kind, "dim_str")]
