"""What a page must hold, said in a sentence where it does not."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, get_args, get_type_hints

from manual_bp.inputs import Edge, Input, Mistake

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


def check_page(name: str, page: ModuleType) -> None:
    """Raises ValueError, with what to write, if a part of the page is missing or is of another kind."""
    problem = next(_problems(page), None)
    if problem:
        where = getattr(page, "__file__", None) or getattr(page, "__name__", type(page).__name__)
        raise ValueError(f"the page of {name!r} ({where}) {problem} A whole page to copy from: {EXAMPLE}.")


def _problems(page: ModuleType) -> Iterator[str]:
    missing = [part for part in PARTS if not hasattr(page, part)]
    if missing:
        yield f"must hold {', '.join(missing)}. Write {'; '.join(PARTS[part] for part in missing)}."
    for part in ("forward", "backward"):
        function = getattr(page, part)
        if not callable(function):
            yield f"must hold a function {part}; came a {type(function).__name__}. Write {PARTS[part]}."
    residuals = page.Residuals
    if not (isinstance(residuals, type) and issubclass(residuals, tuple) and hasattr(residuals, "_fields")):
        yield f"must hold a NamedTuple Residuals; came {residuals!r:.60}. Write {PARTS['Residuals']}."
    for part, kind in (("EDGES", Edge), ("MISTAKES", Mistake)):
        found = getattr(page, part)
        if not isinstance(found, tuple | list) or not all(isinstance(item, kind) for item in found):
            yield f"must hold {part}, a tuple of {kind.__name__}; came {found!r:.60}. Write {PARTS[part]}."
    yield from _signatures(page)


def _signatures(page: ModuleType) -> Iterator[str]:
    parameters = inspect.signature(page.forward).parameters.values()
    inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    given = page.INPUTS
    if not isinstance(given, Mapping) or not all(isinstance(item, Input) for item in given.values()):
        yield f"must hold INPUTS, a mapping of names to Input; came {given!r:.60}. Write {PARTS['INPUTS']}."
    if not inputs:
        yield f"must have a forward with at least one input before the *; came none. Write {PARTS['forward']}."
    if without := [name for name in inputs if name not in given]:
        entry = ", ".join(f'"{name}": Input()' for name in without)
        yield f"must name every input of forward in INPUTS; {', '.join(without)} is missing. Write {{{entry}}}."
    hints: dict[str, dict[str, Any]] = {}
    for part in ("forward", "backward", "Residuals"):
        try:
            hints[part] = get_type_hints(getattr(page, part))
        except (NameError, TypeError) as error:
            yield f"has annotations of {part} that cannot be read: {error}. Import what they name."
    if bare := [p.name for p in parameters if p.name not in hints["forward"]]:
        yield f"must annotate every parameter of forward; {', '.join(bare)} is bare. Write {PARTS['forward']}."
    shapeless = [name for name in inputs if not hasattr(hints["forward"][name], "dim_str")]
    if shapeless:
        yield f"must annotate inputs with their axes; {', '.join(shapeless)} has none. Write {PARTS['forward']}."
    returned = get_args(hints["forward"].get("return"))
    if len(returned) != 2 or not hasattr(returned[0], "dim_str"):
        yield f"must say what forward returns, y with its axes and the residuals. Write {PARTS['forward']}."
    if not hasattr(hints["backward"].get("dy"), "dim_str"):
        yield f"must have a backward whose dy is annotated with its axes. Write {PARTS['backward']}."
    own = {**{p.name: p.default for p in parameters if p.default is not p.empty}, **getattr(page, "HYPER", {})}
    if free := [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in own]:
        entry = ", ".join(f'"{name}": 2' for name in free)
        yield f"must give {', '.join(free)} an ordinary value, for its cases. Write HYPER = {{{entry}}}, say."
