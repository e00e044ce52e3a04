"""Making a page of a function of which it is known what its inputs are like."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp import axes
from manual_bp.arithmetic.bounded import Paging, contract_of, enter, leave
from manual_bp.arithmetic.bounded_table.meanings import EXTREMES
from manual_bp.arithmetic.bounded_table.plain import PLACES
from manual_bp.arithmetic.operators import narrowest
from manual_bp.inputs import Index, Input, Mistake, Value
from manual_bp.oracle.calling.candidates import differentiator
from manual_bp.oracle.cases.drawing import SMALL
from manual_bp.oracle.functions.edges import special
from manual_bp.oracle.functions.function import Function
from manual_bp.oracle.functions.kinked import Kinks
from manual_bp.oracle.functions.lengths import few_steps, growing, longest
from manual_bp.oracle.functions.page import Recorded, Residuals
from manual_bp.oracle.functions.spoken import array_type
from manual_bp.oracle.words import listed
from manual_bp.outputs import parts
from manual_bp.program import Program
from manual_bp.program.recording import at

# No case has more elements: unknown operations, each of which is run a dozen times.
LARGEST = 2**15
# torch's polygamma goes up from a negative number in steps of 1: from further below it takes minutes, or hangs.
POLYGAMMA, STEPPED = torch.ops.aten.polygamma.default, 2.0**20
# Of positions on an axis.
WHOLE = (torch.int32, torch.int64)


def page_of(function: Function) -> ModuleType:
    """The page.  Raises ValueError if the function cannot be run, or what it does cannot be recorded."""
    recorded = Recorded(function.called)
    names = list(function.annotations)
    ordinary = _ordinary(function, seed=0)
    derivative = recorded.derivative(ordinary, function.hyper)
    y, _ = recorded.forward(ordinary, function.hyper)
    _require_derivative(function, names, ordinary, parts(y), derivative.backward.results)
    _require_all_recorded(function, recorded)
    is_pointwise = _is_pointwise(derivative.forward, ordinary, y)
    outputs, y_annotation = _outputs(y)
    annotations = dict(function.annotations)
    if is_pointwise and not any(spoken.is_fixed for spoken in function.given.values()):
        axes_of_all = "*shape" if "shape" not in function.hyper else "*shape_"
        annotations = {name: found.dtype[Tensor, axes_of_all] for name, found in annotations.items()}
        y_annotation = Float[Tensor, axes_of_all]

    def forward(*inputs: Any, **hyper: Any) -> tuple[Any, Residuals]:
        value, residuals = recorded.forward(inputs, hyper)
        return outputs(*value) if outputs else parts(value)[0], residuals

    def backward(residuals: Residuals, dy: Any) -> tuple[Any, ...]:
        return recorded.backward(residuals, parts(dy))

    def losing(**named: Any) -> tuple[Any, Residuals]:
        return recorded.losing(tuple(named[n] for n in names), {n: named[n] for n in function.hyper})

    def losing_backward(dy: Any, **named: Any) -> tuple[Any, ...]:
        return recorded.backward(losing(**named)[1], parts(dy))

    def losing_forward(**named: Any) -> Any:
        value = losing(**named)[0]
        return outputs(*value) if outputs else parts(value)[0]

    returned = outputs or y_annotation
    optional = {n: found | None if n in function.absentable else found for n, found in annotations.items()}
    _signed(forward, {**optional, **function.kinds, "return": tuple[returned, Residuals]}, _signature(function))  # type: ignore[valid-type]
    backward.__annotations__ = {"residuals": Residuals, "dy": returned, "return": tuple[Any, ...]}
    forgets = "that terms near 1 cancel where a function saturates"
    mistake = Mistake(
        "of torch's derivative", backward=losing_backward, forgets=forgets, shows="in saturation", loses_digits=True
    )
    value = Value("of torch", forward=losing_forward, forgets=forgets, shows="in the tails")
    sizes = _bound(function, annotations, ordinary)
    whole = [annotations[n] for n, x in zip(names, ordinary, strict=True) if x is not None and x.dtype in WHOLE]

    kinks = Kinks(derivative.value)
    edges = tuple(special(function, recorded, ordinary, kinks))

    def recorded_at(sizes: axes.Sizes) -> Any:
        return recorded.derivative(_drawn(function, annotations, sizes), function.hyper)

    steps, squared = growing(sizes, recorded_at)
    most = {**{name: max(lengths) for name, lengths in steps.items()}, **squared}
    page = ModuleType(function.called.__name__, function.text or f"The function {function.called.__name__}.")
    vars(page).update(
        FUNCTION=function.called,
        Residuals=Residuals,
        forward=forward,
        backward=backward,
        INPUTS=_specs(function, derivative.backward.results),
        SIZES=_lengths(annotations, _shapes(names, ordinary), function.hyper),
        OWN_SIZES=_own_sizes(annotations, function),
        OWN={name: said.tensor for name, said in function.large.items() if said.tensor is not None},
        LONGEST={**longest(sizes, axes.axis_names(whole, function.hyper)), **most},
        GROWING=most,
        STEPS=steps,
        FEW_STEPS=few_steps(sizes, steps, recorded_at),
        LARGEST=max(LARGEST, 2 * sum(x.numel() for x in ordinary if x is not None)),
        EDGES=edges,
        UNMET=tuple(kinks.unmet()),
        MOST_NEGATIVE=STEPPED if POLYGAMMA in {node.op for node in derivative.value.nodes} else torch.inf,
        MISTAKES=(mistake,) if derivative.changed else (),
        CERTIFIED=not derivative.is_its_own,
        ORDERS=any(node.op in EXTREMES or node.op in PLACES for node in derivative.forward.nodes),
        OF_ONE_SHAPE={
            n: said.shape for n, said in function.given.items() if said.is_fixed and said.shape and not said.axes
        },
        GIVEN={name: said.shape for name, said in function.given.items() if said.shape is not None},
        VALUES=(value,) if derivative.changed else (),
        WITHOUT_OVERFLOWN=recorded.without_overflown,
        IS_BROADCAST_ANEW=partial(recorded.is_broadcast_anew, derivative),
        BROADCAST=_broadcast(derivative.forward, _shapes(names, ordinary)),
    )
    if outputs:
        vars(page).update(Outputs=outputs)
    return page


def _require_derivative(
    function: Function, names: list[str], inputs: tuple[Tensor | None, ...], y: tuple[Tensor, ...], grads: Any
) -> None:
    """Raises ValueError for a function of which nothing can be differentiated."""
    dtypes = {n: str(x.dtype).removeprefix("torch.") for n, x in zip(names, inputs, strict=True) if x is not None}
    numbers = [n for n, x in zip(names, inputs, strict=True) if x is not None and x.is_floating_point()]
    came = ", ".join(str(part.dtype).removeprefix("torch.") for part in y)
    called = function.called.__name__
    if not numbers:
        raise ValueError(
            f"{called} must have an input of real numbers, as those alone have a derivative; came "
            f"{', '.join(f'{n} of {dtype}' for n, dtype in dtypes.items())}. Say of one a shape, or give a float "
            f"tensor: inputs={{{next(iter(dtypes))!r}: (4, 33)}}, say."
        )
    if not any(part.is_floating_point() for part in y):
        raise ValueError(
            f"{called} must return real numbers, as those alone have a derivative; came {came}. Return the numbers of "
            "which it is made, too or instead."
        )
    if all(g is None for g in grads):
        raise ValueError(
            f"{called} must return numbers that depend on {listed(numbers)} by operations that torch differentiates; "
            f"came {came} without a derivative. Look for detach(), torch.no_grad(), .data, rounding, or a result made "
            "of constants."
        )


def _signature(function: Function) -> inspect.Signature:
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    inputs = [
        inspect.Parameter(n, either, default=None) if n in function.absentable else inspect.Parameter(n, either)
        for n in function.annotations
    ]
    hyper = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=v) for n, v in function.hyper.items()]
    return inspect.Signature([*inputs, *hyper])


def _signed(forward: Any, annotations: dict[str, Any], signature: inspect.Signature) -> None:
    forward.__annotations__ = annotations
    forward.__signature__ = signature


def _ordinary(function: Function, seed: int) -> tuple[Tensor, ...]:
    """Inputs of the usual shapes, in float64."""
    sizes: axes.Sizes = {}
    shapes = {name: said.shape for name, said in function.given.items() if said.shape is not None}
    problem = axes.bind(function.annotations, shapes, sizes, function.hyper)
    if problem:
        raise ValueError(f"{function.called.__name__}: {problem}; came {shapes}.")
    lengths = cycle(SMALL)
    for name, is_list in axes.axis_names(function.annotations.values(), function.hyper).items():
        if name not in sizes:
            sizes[name] = (next(lengths), next(lengths)) if is_list and not sizes else (next(lengths),)
    return _drawn(function, function.annotations, sizes, seed)


def _drawn(function: Function, annotations: Mapping[str, Any], sizes: axes.Sizes, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs of these sizes, in float64."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, spec in function.specs.items():
        shape = axes.shape_of(annotations[name], sizes, function.hyper)
        if isinstance(spec, Index):
            found.append(spec.positions(shape, sizes[spec.axis][0], generator))
        else:
            found.append(spec.draw(shape, generator))
    return tuple(found)


def _lengths(
    annotations: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], hyper: Mapping[str, Any]
) -> dict[str, Any]:
    """The lengths of axes that inputs of these shapes have."""
    sizes: axes.Sizes = {}
    axes.bind(annotations, shapes, sizes, hyper)
    lists = axes.axis_names(annotations.values(), hyper)
    return {name: lengths if lists[name] else lengths[0] for name, lengths in sizes.items() if name in lists}


def _shapes(names: list[str], inputs: tuple[Tensor | None, ...]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in zip(names, inputs, strict=True) if x is not None}


def _bound(function: Function, annotations: Mapping[str, Any], ordinary: tuple[Tensor, ...]) -> axes.Sizes:
    """The lengths of axes in the ordinary case."""
    sizes: axes.Sizes = {}
    axes.bind(annotations, _shapes(list(annotations), ordinary), sizes, function.hyper)
    return sizes


def _own_sizes(annotations: Mapping[str, Any], function: Function) -> dict[str, Any]:
    """Lengths of axes as the user gave them, where they were made small."""
    if not function.large:
        return {}
    shapes = {n: s.shape for n, s in {**function.given, **function.large}.items() if s.shape is not None}
    return _lengths(annotations, shapes, function.hyper)


def _require_all_recorded(function: Function, recorded: Recorded) -> None:
    """Raises ValueError if the program gives other values than the function for other numbers."""
    inputs = _ordinary(function, seed=1)
    try:
        with torch.no_grad():
            due = parts(function.called(*(None if x is None else x.clone() for x in inputs), **function.hyper))
    except Exception:  # whatever a function of somebody's raises for other values: then these say nothing
        return
    program = recorded.derivative(_ordinary(function, seed=0), function.hyper, keeps_digits=False).forward
    got = parts(program.run([x for x in inputs if x is not None])[0][0])
    contract = contract_of(narrowest(program))
    with torch.no_grad(), Paging():
        bounded, _ = recorded.losing(tuple(None if x is None else enter(x, contract) for x in inputs), function.hyper)
    # The function and its program are two programs of one text, each off by a width at most.
    widths = [2 * leave(part, contract) for part in parts(bounded)]
    if not all(map(_are_within, got, due, widths)):
        lines = differentiator().leaving(function.called, function.body, inputs, function.hyper)
        where = " and".join(map(at, lines)) or "; something in it (memory, a clock, a random number) is none of torch's"
        raise ValueError(
            f"{function.called.__name__} gives other values than the operations that torch saw: its numbers leave "
            f"torch{where}. Write it with torch operations, and pass in what is random."
        )


def _are_within(a: Tensor, b: Tensor, width: Tensor) -> bool:
    is_same = (a == b) | ((a.double() - b.double()).abs() <= width) | (a.isnan() & b.isnan())
    return bool(is_same.all())


def _broadcast(program: Program, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Two inputs that are broadcast against each other as they come, in words, if there are any: a prediction (8, 1)
    less a target (8,) is (8, 8), which few mean."""
    names = list(shapes)
    for node in program.nodes[program.inputs :]:
        given = [names[ref.position] for ref in node.refs if ref.position < program.inputs]
        if len(given) == 2 and torch.Tag.pointwise in getattr(node.op, "tags", ()):
            one, other = (shapes[name] for name in given)
            whole = tuple(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]
            if whole not in (one, other):
                both = f"{given[0]} {one} and {given[1]} {other}"
                return f"{both} are broadcast against each other, to {whole}{at(node.line)}"
    return ""


def _is_pointwise(program: Any, inputs: tuple[Tensor, ...], y: Any) -> bool:
    """Whether each element of y depends on the same element of each input alone."""
    present = [x for x in inputs if x is not None]
    alike = isinstance(y, Tensor) and all(x.shape == y.shape and x.is_floating_point() for x in present)
    nodes = program.nodes[program.inputs :]
    return alike and all(
        torch.Tag.pointwise in node.op.tags
        if hasattr(node.op, "tags")
        else node.op.__module__.endswith("keeping_digits")
        for node in nodes
    )


def _outputs(y: Any) -> tuple[Any, Any]:
    """Several outputs as a NamedTuple, whose fields are those of the function's own or y0, y1 ..."""
    if isinstance(y, Tensor):
        return None, array_type(y.dtype)[Tensor, "*y"]
    names = getattr(y, "_fields", None) or [f"y{i}" for i in range(len(parts(y)))]
    if len(parts(y)) == 1:
        return None, array_type(parts(y)[0].dtype)[Tensor, "*y"]
    fields = {name: array_type(part.dtype)[Tensor, f"*{name}"] for name, part in zip(names, parts(y), strict=True)}
    return NamedTuple("Outputs", list(fields.items())), None


def _specs(function: Function, grads: tuple[Any, ...]) -> dict[str, Input | Index]:
    """A candidate need not return the cotangent of an input on which y does not depend."""
    found = {}
    for (name, spec), grad in zip(function.specs.items(), grads, strict=True):
        is_free = grad is None and isinstance(spec, Input) and spec.cotangent
        found[name] = replace(spec, optional=True) if is_free else spec
    return found
