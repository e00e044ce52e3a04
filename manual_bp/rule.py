"""Rule: a page wrapped so that it can be called safely, and the discovery of the pages.

A page's `forward` and `backward` are bare mathematics.  `Rule` adds what every caller needs and no page should repeat:

- every shape, dtype, device and hyperparameter is checked against the page's annotations (ValueError);
- nothing is recorded: inputs that require grad are accepted, results never require it;
- 16-bit inputs are computed in float32 and each output is rounded once, under torch.autocast too; residuals stay
  float32.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, get_args, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp import axes
from manual_bp.pages import check_page

if TYPE_CHECKING:
    from manual_bp.inputs import Edge, Input, Mistake

Grads = tuple[Tensor | None, ...]

SIXTEEN_BITS = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *SIXTEEN_BITS)
"""The dtypes that rules compute with."""


class Vjp(Protocol):
    """The one function type that is compared: value and cotangents of a function at `inputs`, given the cotangent `dy`.

    A rule, its twin, somebody's kernel, a compiled variant and a recorded vector are all a Vjp.
    """

    def __call__(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]: ...


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a rule computes inputs of `dtype`."""
    return torch.float32 if dtype in SIXTEEN_BITS else dtype


class Rule:
    """One page of `manual_bp.rules`, checked and ready to call.

    >>> import manual_bp as bp, torch
    >>> y, residuals = bp.elu.forward(torch.tensor([-1.0, 2.0]), alpha=2.0)
    >>> bp.elu.backward(residuals, torch.ones(2))
    (tensor([0.7358, 1.0000]),)
    """

    def __init__(self, name: str, page: ModuleType) -> None:
        """Raises ValueError, with what to write, if the page lacks a part."""
        check_page(name, page)
        self.name = name
        self.page = page
        *_, self.chapter, _ = ("", *page.__name__.split("."))
        parameters = inspect.signature(page.forward).parameters.values()
        self.inputs: dict[str, Input] = {
            p.name: page.INPUTS[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY
        }
        self.defaults: dict[str, Any] = {
            p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
        }
        self.hyper: tuple[str, ...] = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.edges: tuple[Edge, ...] = page.EDGES
        self.mistakes: tuple[Mistake, ...] = page.MISTAKES

        hints = get_type_hints(page.forward)
        self.annotations: dict[str, Any] = {name: hints[name] for name in (*self.inputs, *self.hyper)}
        self.y_annotation = get_args(hints["return"])[0]
        self._residual_annotations = {
            name: hint for name, hint in get_type_hints(page.Residuals).items() if hasattr(hint, "dim_str")
        }
        self._dy_annotation = get_type_hints(page.backward)["dy"]

    def __repr__(self) -> str:
        return f"<rule {self.name}: {self.summary}>"

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
    def elementwise(self) -> bool:
        """Whether each element of y depends on the same element of each input alone: all share one axis list."""
        annotations = {str(a.dim_str) for a in (self.y_annotation, *(self.annotations[name] for name in self.inputs))}
        (first, *others) = annotations
        return not others and first.startswith("*") and len(first.split()) == 1

    def forward(self, *inputs: Tensor, **hyper: Any) -> tuple[Tensor, Any]:
        """The value, and what `backward` needs.

        Raises ValueError if a shape, dtype, device or hyperparameter does not fit the page's annotations.
        """
        hyper = self.check_hyper(hyper)
        dtype = self._check_inputs(inputs, hyper)
        computing = computing_dtype(dtype)
        with _without_autocast(inputs[0].device):
            y, residuals = self.page.forward(*(_enter(x, computing) for x in inputs), **hyper)
        return y.to(dtype), residuals

    def backward(self, residuals: Any, dy: Tensor) -> Grads:
        """One cotangent per input of `forward`, None for an input that has none.

        dy has y's dtype.  Raises ValueError if `residuals` are not this rule's, or dy's shape, device or (where the
        residuals tell) dtype does not fit them.
        """
        entered = self._check_backward(residuals, dy)
        with _without_autocast(dy.device):
            return _leave(self.page.backward(residuals, entered), dy.dtype)

    def vjp(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        """Value and cotangents in one call (a `Vjp`)."""
        y, residuals = self.forward(*inputs, **hyper)
        if dy.dtype != y.dtype:
            self._reject(f"dy must have y's dtype {y.dtype}", f"{dy.dtype}", "Cast dy.")
        return y, self.backward(residuals, dy)

    def terms(self, residuals: Any, dy: Tensor) -> dict[str, dict[str, Tensor]]:
        """The named summands of each cotangent, in the precision of computation; "whole" if the page names none."""
        dy = self._check_backward(residuals, dy)
        if hasattr(self.page, "terms"):
            return dict(self.page.terms(residuals, dy))
        grads = self.page.backward(residuals, dy)
        return {f"d{name}": {"whole": grad} for name, grad in zip(self.inputs, grads, strict=True) if grad is not None}

    def mistaken(self, backward: Callable[..., Grads]) -> Vjp:
        """This rule's forward with a formula (inputs, dy and hyperparameters by name -> cotangents) in place of its
        backward, run in the same way: how mistakes and mutants are called."""

        def vjp(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
            y, residuals = self.forward(*inputs, **hyper)
            hyper = self.check_hyper(hyper)
            named = {name: _enter(x, computing_dtype(y.dtype)) for name, x in zip(self.inputs, inputs, strict=True)}
            grads = backward(**named, dy=self._check_backward(residuals, dy), **hyper)
            return y, _leave(grads, dy.dtype)

        return vjp

    def check_hyper(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` completed by the defaults, each a finite number of the annotated type."""
        if unknown := sorted(given.keys() - set(self.hyper)):
            self._reject(f"hyperparameters are {list(self.hyper)}", unknown, "Check the spelling.")
        hyper = {**self.defaults, **given}
        if missing := [name for name in self.hyper if name not in hyper]:
            self._reject(f"{missing[0]} has no default", "none", f"Pass {missing[0]}=.")
        for name, value in hyper.items():
            integral = self.annotations[name] is int
            if isinstance(value, bool) or not isinstance(value, numbers.Integral if integral else numbers.Real):
                kind = "an integer" if integral else "a real number"
                self._reject(f"{name} must be {kind}", f"{value!r}", "Pass a Python number.")
            try:
                hyper[name] = int(value) if integral else float(value)  # type: ignore[call-overload]
            except OverflowError:
                hyper[name] = math.inf
            if not math.isfinite(hyper[name]):
                self._reject(f"{name} must be finite", f"{value!r:.30}", "")
        return hyper

    def _check_inputs(self, inputs: tuple[Tensor, ...], hyper: Mapping[str, Any]) -> torch.dtype:
        if len(inputs) != len(self.inputs):
            self._reject(f"takes {len(self.inputs)} inputs {list(self.inputs)}", f"{len(inputs)}", "")
        self._check_shapes(self.annotations, dict(zip(self.inputs, inputs, strict=True)), {}, hyper)
        floating = {name: x for name, x in zip(self.inputs, inputs, strict=True) if self.is_number(name)}
        dtype = next(iter(floating.values())).dtype
        for name, x in floating.items():
            if x.dtype not in DTYPES:
                self._reject(f"{name} must be float64, float32, bfloat16 or float16", f"{x.dtype}", "Cast it.")
            if x.dtype != dtype:
                came = ", ".join(f"{n} {t.dtype}" for n, t in floating.items())
                self._reject("the inputs must have one dtype", came, "Nothing is promoted: cast them.")
        return dtype

    def is_number(self, name: str) -> bool:
        """Whether an input is a number of the computation, as opposed to a mask."""
        return self.annotations[name].dtype is Float

    def _check_backward(self, residuals: Any, dy: Tensor) -> Tensor:
        if type(residuals) is not self.page.Residuals:
            self._reject("backward takes the residuals of its own forward", type(residuals).__qualname__, "")
        tensors = {name: getattr(residuals, name) for name in self._residual_annotations}
        self._check_shapes({**self._residual_annotations, "dy": self._dy_annotation}, {**tensors, "dy": dy}, {}, {})
        if dy.dtype not in DTYPES:
            self._reject("dy must be float64, float32, bfloat16 or float16", f"{dy.dtype}", "Cast it.")
        computing = computing_dtype(dy.dtype)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype != computing:
                self._reject(
                    f"dy must have y's dtype (the residual {name} is {tensor.dtype})", f"{dy.dtype}", "Cast dy."
                )
        return _enter(dy, computing)

    def _check_shapes(
        self, annotations: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: axes.Sizes, hyper: Mapping[str, Any]
    ) -> None:
        device = None
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                self._reject(f"{name} must be a torch.Tensor", type(tensor).__name__, "Use torch.as_tensor.")
            if tensor.layout is not torch.strided:
                self._reject(f"{name} must be a dense tensor", f"one of layout {tensor.layout}", "Use .to_dense().")
            device = device or tensor.device
            if tensor.device != device:
                self._reject(f"tensors must be on one device ({device})", f"{name} on {tensor.device}", "Move it.")
            problem = axes.bind(name, annotations[name], tuple(tensor.shape), sizes, hyper)
            if problem:
                shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in tensors.items() if isinstance(t, Tensor))
                self._reject(problem, shapes, "Nothing is broadcast: reshape or expand the argument.")

    def _reject(self, must: str, came: str | list[str], remedy: str) -> NoReturn:
        raise ValueError(f"{self.name}: {must}; came {came}. {remedy}".rstrip())


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Where torch.autocast is on, products would be computed in 16 bits, whatever was promised."""
    try:
        enabled = torch.is_autocast_enabled(device.type)
    except RuntimeError:  # a device that has none, such as meta
        return nullcontext()
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()


def _enter(x: Tensor, computing: torch.dtype) -> Tensor:
    """`x` cut off from autograd and, if it is a number of 16 bits, widened."""
    x = x.detach()
    return x.to(computing) if x.is_floating_point() else x


def _leave(grads: Grads, dtype: torch.dtype) -> Grads:
    """The results, each rounded once to the dtype that the caller uses."""
    return tuple(None if grad is None else grad.to(dtype) for grad in grads)


class UnknownRuleError(KeyError, ValueError):
    """No page has that name."""

    def __str__(self) -> str:
        return str(self.args[0])


class Rules(Mapping[str, Rule]):
    """Every page under a folder, by name.  A folder is a chapter, a file is a page; `_names` are helpers.

    A page is imported when it is first asked for.
    """

    def __init__(self, package: str, folder: Path) -> None:
        self._package = package
        self._folder = folder
        self._loaded: dict[str, Rule] = {}

    @cached_property
    def _modules(self) -> dict[str, str]:
        """Module name of each page, in the order of chapter and name."""
        modules: dict[str, str] = {}
        for path in sorted(self._folder.glob("[!_]*/[!_]*.py")):
            if path.stem in modules:
                raise ImportError(f"a rule's name must be unique; {path.stem} is {modules[path.stem]} and {path}")
            modules[path.stem] = f"{self._package}.{path.parent.name}.{path.stem}"
        return modules

    def __getitem__(self, name: str) -> Rule:
        if name not in self._modules:
            close = difflib.get_close_matches(str(name), self._modules)
            hint = f"Did you mean {close[0]}?" if close else f"The rules are {', '.join(self._modules)}."
            raise UnknownRuleError(f"there is no rule {name!r}. {hint}")
        if name not in self._loaded:
            self._loaded[name] = Rule(name, importlib.import_module(self._modules[name]))
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


RULES = Rules("manual_bp.rules", Path(__file__).parent / "rules")
