"""Adapters: functions on other people's arrays as a Vjp."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from manual_bp.rule import Vjp

KINDS = ("torch", "numpy", "jax")


def from_functions(forward: Callable[..., Any], backward: Callable[..., Any], *, arrays: str | None = None) -> Vjp:
    """A Vjp from `forward(*inputs, **hyper) -> (y, cache)` and `backward(dy, cache) -> grads`.

    arrays: "numpy", "torch" or "jax": what the functions are called with; by default the one of these modules that
        their text refers to, torch if there is none.
    What they return may be of any kind that has `__dlpack__` or the array protocol; a single cotangent need not be in
    a tuple.  Raises ValueError if several modules are referred to and `arrays` is not given.
    """
    kind = arrays or _kind_of(forward, backward)
    if kind not in KINDS:
        raise ValueError(f"from_functions: arrays must be one of {list(KINDS)}; came {kind!r}.")

    def vjp(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
        y, cache = forward(*(_to_array(x, kind) for x in inputs), **hyper)
        grads = backward(_to_array(dy, kind), cache)
        several = grads if isinstance(grads, tuple | list) else (grads,)
        return to_tensor(y, dy.device), tuple(to_tensor(g, dy.device) for g in several)

    take_keywords_of(forward, vjp)
    return vjp


def _kind_of(*functions: Callable[..., Any]) -> str:
    """Which array module the functions' text refers to."""
    found = {
        value.__name__.partition(".")[0]
        for function in functions
        if inspect.isfunction(function)
        for name in function.__code__.co_names
        if isinstance(value := function.__globals__.get(name), ModuleType)
    }
    kinds = [kind for kind in KINDS if kind in found]
    if len(kinds) > 1:
        raise ValueError(
            f"from_functions: the functions refer to {kinds}; pass arrays= to say what they are called with."
        )
    return kinds[0] if kinds else "torch"


def _to_array(x: Tensor, kind: str) -> Any:
    """`x` as the functions want it, strides kept where numpy can."""
    if kind == "torch":
        return x
    if kind == "numpy":
        return x.detach().cpu().numpy()
    import jax.numpy

    return jax.numpy.from_dlpack(x.detach().contiguous())


def to_tensor(x: Any, device: torch.device) -> Any:
    """A tensor of whatever array `x` is; None, and what is no array, as it is."""
    if x is None or isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray | np.generic | float):
        return torch.from_numpy(np.array(x)).to(device)  # a copy, as the array may be read-only
    if hasattr(x, "__dlpack__"):
        return torch.utils.dlpack.from_dlpack(x).clone().to(device)
    if hasattr(x, "__array__"):
        return torch.from_numpy(np.array(x)).to(device)
    return x


def take_keywords_of(function: Callable[..., Any], vjp: Any) -> None:
    """Let a Vjp's signature say which hyperparameters `function` takes, so that others are not passed."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # a builtin
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    named = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in ("inputs", "dy")
    ]
    first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("inputs", "dy")]
    vjp.__signature__ = inspect.Signature([*first, *named])
