"""Signature: what a page says of its inputs, outputs and hyperparameters, and whether what came fits it.

A value that does not fit raises ValueError: what must hold, what came, what to do.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType, NoneType
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_type_hints

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from manual_bp import axes
from manual_bp.hyperparameters import UnfitError, kinds, of_kind
from manual_bp.inputs import Index, Input
from manual_bp.outputs import parts
from manual_bp.pages import check_page

if TYPE_CHECKING:
    from manual_bp.inputs import Convention, Edge, Input, Mistake, Promise, Value

SIXTEEN_BITS = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *SIXTEEN_BITS)
"""The dtypes that rules compute with."""


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a rule computes inputs of `dtype`."""
    return torch.float32 if dtype in SIXTEEN_BITS else dtype


class Signature:
    """What a page says.

    inputs: what the page says of each, by name, in forward's order.  absentable: those that may be None.
    outputs: ("y",), or the fields of the page's Outputs, of which those of a page without backward may be None.
    has_backward: otherwise its values alone are judged.
    arguments: what is judged, in order: each output, then the cotangent of each input.
    cotangents: the names of what comes in: ("dy",), or one for each output.
    """

    def __init__(self, name: str, page: ModuleType) -> None:
        """Raises ValueError, with what to write, if the page lacks a part."""
        check_page(name, page)
        self.name = name
        self.page = page
        *_, self.chapter, _ = ("", "", *page.__name__.split("."))
        parameters = inspect.signature(page.forward).parameters.values()
        self.inputs: dict[str, Input | Index] = {
            p.name: page.INPUTS[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY
        }
        self.absentable = frozenset(p.name for p in parameters if p.name in self.inputs and p.default is None)
        self.defaults: dict[str, Any] = {
            p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
        }
        self.hyper: tuple[str, ...] = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.has_backward = hasattr(page, "backward")
        self.edges: tuple[Edge, ...] = tuple(page.EDGES)
        self.mistakes: tuple[Mistake, ...] = tuple(page.MISTAKES)
        self.conventions: Mapping[str, Mapping[str, Convention]] = getattr(page, "CONVENTIONS", {})
        self.values: tuple[Value, ...] = tuple(getattr(page, "VALUES", ()))
        self.promises: Mapping[str, Promise] = getattr(page, "PROMISES", {})
        self.alike: tuple[str, ...] = tuple(getattr(page, "ALIKE", ()))

        hints = get_type_hints(page.forward)
        self.annotations: dict[str, Any] = {name: _present(hints[name]) for name in self.inputs}
        self.annotations |= {name: hints[name] for name in self.hyper}
        returned = get_args(hints["return"])
        self._has_residuals = len(returned) == 2
        y = returned[0] if self._has_residuals else hints["return"]
        several = {n: _present(hint) for n, hint in get_type_hints(y).items()} if hasattr(y, "_fields") else {}
        self.output_annotations: dict[str, Any] = several or {"y": y}
        self.outputs = tuple(self.output_annotations)
        dotted = [f".{name}" for name in several] or [""]
        self.cotangents = tuple(f"dy{part}" for part in dotted)
        self.arguments = (*(f"y{part}" for part in dotted), *(f"d{name}" for name in self.inputs))
        residuals = get_type_hints(page.Residuals) if self.has_backward else {}
        self._residual_annotations = {n: _present(hint) for n, hint in residuals.items() if _is_tensor(_present(hint))}

    @property
    def summary(self) -> str:
        """The first line of the page."""
        return inspect.cleandoc(self.page.__doc__ or "").partition("\n")[0]

    @property
    def ordinary(self) -> dict[str, Any]:
        """Ordinary values of all hyperparameters: the defaults, and the page's HYPER for those without one."""
        return {**getattr(self.page, "HYPER", {}), **self.defaults}

    @property
    def axis_names(self) -> dict[str, bool]:
        """Every axis of the inputs, in order of appearance, and whether it stands for any number of axes."""
        return axes.axis_names((self.annotations[name] for name in self.inputs), self.hyper)

    @property
    def y_annotation(self) -> Any:
        """The axes of the only output."""
        (annotation,) = self.output_annotations.values()
        return annotation

    def annotation(self, name: str) -> Any:
        """The axes of an input, an output ("y", "y.h_n"), or the cotangent of one ("dy", "dx", "dy.h_n").

        Of a function an input may be called y: then y are its axes, and dy those of the output's cotangent.
        """
        own = {name: self.annotations[name] for name in self.inputs}
        known = {f"d{name}": kind for name, kind in own.items()}
        known |= {**dict(zip(self.cotangents, self.output_annotations.values(), strict=True)), **own}
        return known[name] if name in known else known[f"d{name}"]

    @property
    def wanted(self) -> tuple[bool, ...]:
        """Of each argument, whether there is something to judge, if the input is there."""
        return (*(True for _ in self.outputs), *(self.has_backward and spec.cotangent for spec in self.inputs.values()))

    @property
    def elementwise(self) -> bool:
        """Whether each element of y depends on the same element of each input alone: all share one axis list."""
        if len(self.outputs) > 1 or self.absentable or any(isinstance(spec, Index) for spec in self.inputs.values()):
            return False
        annotations = {str(a.dim_str) for a in (self.y_annotation, *(self.annotations[name] for name in self.inputs))}
        (first, *others) = annotations
        return not others and first.startswith("*") and len(first.split()) == 1

    # ------------------------------------------------------------------------------------------------------ checking

    def check_hyper(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` completed by the defaults, each a finite number, or what else its annotation says."""
        if unknown := sorted(given.keys() - set(self.hyper)):
            self._reject(f"hyperparameters are {list(self.hyper)}", unknown, "Check the spelling.")
        hyper = {**self.defaults, **given}
        if missing := [name for name in self.hyper if name not in hyper]:
            self._reject(f"{missing[0]} has no default", "none", f"Pass {missing[0]}=.")
        try:
            return {name: of_kind(name, self.annotations[name], value) for name, value in hyper.items()}
        except UnfitError as error:
            self._reject(*error.args)

    def is_number(self, name: str) -> bool:
        """Whether an input is a number of the computation, as opposed to a mask or an index."""
        return self.annotations[name].dtype is Float

    def may_be_scaled(self, name: str) -> bool:
        """Whether an input is a number of any size: one with a cotangent, or any of a page of values alone."""
        return self.is_free(name) and (self.inputs[name].cotangent or not self.has_backward)

    def is_free(self, name: str) -> bool:
        """Whether an input may hold any numbers, as labels may not."""
        spec = self.inputs[name]
        return self.is_number(name) and (not isinstance(spec, Input) or spec.free)

    def kind(self, name: str) -> torch.dtype | None:
        """The dtype of an input that is a mask or an index; None for a number, and for whatever stands for a mask."""
        return {Bool: torch.bool, Int: torch.int64, Integer: torch.int64}.get(self.annotations[name].dtype)

    def sorted_inputs(
        self, inputs: tuple[Any, ...], given: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """One entry per input, and all hyperparameters, from what a caller gave by position and by name."""
        names = list(self.inputs)
        named = {name: value for name, value in given.items() if name in self.inputs}
        if twice := [name for name in named if name in names[: len(inputs)]]:
            self._reject(f"{twice[0]} is one tensor", "two, by position and by name", "Leave one out.")
        least = len([name for name in names if name not in self.absentable])
        known = {**dict(zip(names, inputs, strict=False)), **named}
        if len(inputs) > len(names) or any(known.get(n) is None and n not in self.absentable for n in names):
            takes = f"{least} to {len(names)}" if self.absentable else f"{len(names)}"
            came = [name for name, x in known.items() if x is not None] if named or None in inputs else len(inputs)
            self._reject(f"takes {takes} inputs {names}", f"{came}", "")
        hyper = self.check_hyper({name: value for name, value in given.items() if name not in named})
        return tuple(known.get(name) for name in names), hyper

    def check_inputs(self, inputs: tuple[Any, ...], hyper: Mapping[str, Any]) -> torch.dtype | None:
        """The dtype of the numbers among the inputs; None if there are none."""
        present = {name: x for name, x in zip(self.inputs, inputs, strict=True) if x is not None}
        sizes: axes.Sizes = {}
        self.check_shapes(self.annotations, present, sizes, hyper)
        for name, x in present.items():
            self.check_kind(name, x, sizes, hyper)
        numbers = {name: x for name, x in present.items() if self.is_number(name)}
        dtype = next((x.dtype for x in numbers.values()), None)
        if any(x.dtype != dtype for x in numbers.values()):
            came = ", ".join(f"{n} {t.dtype}" for n, t in numbers.items())
            self._reject("the inputs must have one dtype", came, "Nothing is promoted: cast them.")
        return dtype

    def check_kind(self, name: str, x: Tensor, sizes: axes.Sizes, hyper: Mapping[str, Any]) -> None:
        """Whether an input is a number, a mask or an index as annotated, and an index within its axis."""
        kind, spec = self.annotations[name].dtype, self.inputs[name]
        if kind is Float:
            if x.dtype not in DTYPES:
                self._reject(f"{name} must be float64, float32, bfloat16 or float16", f"{x.dtype}", "Cast it.")
        elif kind is not Shaped and str(x.dtype).removeprefix("torch.") not in self.annotations[name].dtypes:
            remedy = "Pass .long()." if isinstance(spec, Index) else "Cast it."
            self._reject(f"{name} must be of kind {kind.__name__}", f"{x.dtype}", remedy)
        if isinstance(spec, Index) and not (x.is_meta or torch.compiler.is_exporting()):
            self.check_positions(name, x, sizes[spec.axis][0], hyper)

    def check_positions(self, name: str, x: Tensor, length: int, hyper: Mapping[str, Any]) -> None:
        """Raises ValueError if the index `name` leaves its axis, of that length.  A traced graph has no values to look
        at: whoever calls one looks before."""
        spec = self.inputs[name]
        assert isinstance(spec, Index)
        if not x.numel():
            return
        lowest, highest = (int(end) for end in torch.aminmax(x))
        if lowest >= 0 and highest < length:
            return
        allowed = hyper[spec.unless] if spec.unless else None
        beyond = (x < 0) | (x >= length)
        if allowed is not None:
            beyond &= x != allowed
        if bool(beyond.any()):
            place = beyond.nonzero()[0].tolist()
            must = f"{name} must be positions on {spec.axis}, which has {length}: 0 to {length - 1}"
            must = must if length else f"{name} must be empty, as {spec.axis} is"
            other = f" or {spec.unless} = {allowed}" if allowed is not None else ""
            at = f" at {place}" if place else ""
            self._reject(f"{must}{other}", f"{int(x[tuple(place)])}{at}", "")

    def check_dtypes(self, y: Any, dy: Any) -> None:
        for name, one, d in zip(self.cotangents, parts(y), parts(dy), strict=False):
            if isinstance(d, Tensor) and d.dtype != one.dtype and one.is_floating_point():
                self._reject(f"{name} must have y's dtype {one.dtype}", f"{d.dtype}", "Cast dy.")

    def check_backward(self, residuals: Any, dy: Any) -> tuple[Any, torch.dtype]:
        """dy, or Outputs with a cotangent for each, and the dtype in which results are due."""
        if not self.has_backward:
            self._reject("there is no backward", "a call of it", "Its values alone are judged.")
        if type(residuals) is not self.page.Residuals:
            self._reject("backward takes the residuals of its own forward", type(residuals).__qualname__, "")
        given = dict(zip(self.cotangents, parts(dy), strict=False))
        if len(parts(dy)) != len(self.outputs) or all(d is None for d in given.values()):
            self._reject(f"dy must be one tensor for each of {list(self.outputs)}", f"{len(parts(dy))}", "")
        tensors = {name: getattr(residuals, name) for name in self._residual_annotations}
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        present = {name: d for name, d in given.items() if d is not None}
        hyper = {name: getattr(residuals, name) for name in self.hyper if hasattr(residuals, name)}
        sizes = self._lengths(residuals)
        self.check_shapes(self._residual_annotations, tensors, sizes, hyper)
        annotations = dict(zip(self.cotangents, self.output_annotations.values(), strict=True))
        self.check_shapes(annotations, present, self.with_computed(sizes, hyper), hyper, tensors)
        for name, d in present.items():
            if d.dtype not in DTYPES:
                self._reject(f"{name} must be float64, float32, bfloat16 or float16", f"{d.dtype}", "Cast it.")
        first = next(iter(present.values()))
        computing = computing_dtype(first.dtype)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype != computing:
                must = f"dy must have y's dtype (the residual {name} is {tensor.dtype})"
                self._reject(must, f"{first.dtype}", "Cast dy.")
        if self.outputs == ("y",):
            return dy, first.dtype
        complete = []
        for name, d in given.items():
            if d is None:
                shape = self._shape(annotations[name], self.with_computed(sizes, hyper), hyper, name)
                d = torch.zeros(shape, dtype=first.dtype, device=first.device)
            complete.append(d)
        return self.page.Outputs(*complete), first.dtype

    def _lengths(self, residuals: Any) -> axes.Sizes:
        """What residuals that are no tensors say of lengths: those that have the name of an axis of the inputs."""
        named = {name: getattr(residuals, name, None) for name in self.axis_names}
        return {name: axes.as_tuple(length) for name, length in named.items() if isinstance(length, int | tuple)}

    def with_computed(self, sizes: axes.Sizes, hyper: Mapping[str, Any]) -> axes.Sizes:
        """Lengths of axes, and of those that the page computes (AXES) as far as they are known."""
        found = dict(sizes)
        known: dict[str, Any] = {
            name: found[name] if variadic else found[name][0]
            for name, variadic in self.axis_names.items()
            if name in found
        }
        known |= hyper
        for name, function in getattr(self.page, "AXES", {}).items():
            needed = inspect.signature(function).parameters
            if all(parameter in known for parameter in needed):
                try:
                    length = function(**{parameter: known[parameter] for parameter in needed})
                except (ArithmeticError, TypeError, ValueError):  # forward says what is wrong with these
                    continue
                known[name] = length
                found[name] = tuple(length) if isinstance(length, tuple | list) else (int(length),)
        return found

    def _shape(self, annotation: Any, sizes: axes.Sizes, hyper: Mapping[str, Any], name: str) -> tuple[int, ...]:
        try:
            return axes.shape_of(annotation, sizes, hyper)
        except KeyError as error:
            self._reject(f"{name} must be there, as the residuals do not tell its axis {error}", "None", "Pass zeros.")

    def check_shapes(
        self,
        annotations: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        sizes: axes.Sizes,
        hyper: Mapping[str, Any],
        before: Mapping[str, Tensor] | None = None,
    ) -> None:
        """before: what was checked before these, and is told beside them."""
        device = next((tensor.device for tensor in (before or {}).values()), None)
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                self._reject(f"{name} must be a torch.Tensor", type(tensor).__name__, "Use torch.as_tensor.")
            if tensor.layout is not torch.strided:
                self._reject(f"{name} must be a dense tensor", f"one of layout {tensor.layout}", "Use .to_dense().")
            device = device or tensor.device
            if tensor.device != device:
                self._reject(f"tensors must be on one device ({device})", f"{name} on {tensor.device}", "Move it.")
        problem = axes.bind(annotations, {name: tuple(x.shape) for name, x in tensors.items()}, sizes, hyper)
        problem = problem or axes.unlike(sizes, self.alike)
        if problem:
            shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in {**(before or {}), **tensors}.items())
            self._reject(problem, shapes, "Nothing is broadcast: reshape or expand the argument.")

    def _reject(self, must: str, came: str | list[str], remedy: str) -> NoReturn:
        raise ValueError(f"{self.name}: {must}; came {came}. {remedy}".rstrip())


def _present(annotation: Any) -> Any:
    """The annotation of an input, output or residual that is there, if it may be None."""
    found = [kind for kind in kinds(annotation) if kind is not NoneType]
    return found[0] if len(found) == 1 else annotation


def _is_tensor(annotation: Any) -> bool:
    return hasattr(annotation, "dim_str")
