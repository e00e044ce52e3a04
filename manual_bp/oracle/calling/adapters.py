"""Adapters: functions on other people's arrays as a Vjp."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from manual_bp.oracle.calling.invocation import ARRAYS, arrays_named, call_with
from manual_bp.oracle.calling.ways import orders
from manual_bp.outputs import parts, whole
from manual_bp.rule import Vjp


def from_functions(forward: Callable[..., Any], backward: Callable[..., Any], *, arrays: str | None = None) -> Vjp:
    """A Vjp from `forward(*inputs, **hyper) -> (y, cache)` and `backward(dy, cache) -> grads`.

    Of several outputs y and dy are tuples; an input that is absent is None.

    arrays: "numpy", "torch" or "jax": what the functions are called with; by default the one of these modules that
        their text refers to, torch if there is none.
    What they return may be of any kind that has `__dlpack__` or the array protocol; a single cotangent need not be in
    a tuple.  NumPy functions are also called with arrays of negative strides.
    Raises ValueError if several modules are referred to and `arrays` is not given.
    """
    kind = arrays or _kind_of(forward, backward)
    if kind not in ARRAYS:
        raise ValueError(f"from_functions: arrays must be one of {list(ARRAYS)}; came {kind!r}.")

    def run_forward(inputs: Sequence[Tensor | None], hyper: Mapping[str, Any], lay: Lay = _as_it_is) -> tuple[Any, Any]:
        # The arrays are kept beside the cache: a program that calls backward still has them.
        arrays = [None if x is None else lay(_to_array(x, kind)) for x in inputs]
        returned = call_with(forward, arrays, hyper)
        if not (isinstance(returned, tuple | list) and len(returned) == 2):
            raise TypeError(f"forward must return (y, cache); it returned a {type(returned).__name__}")
        return returned[0], (returned[1], arrays)

    def run_backward(kept: Any, dy: Any, lay: Lay = _as_it_is) -> tuple[Any, ...]:
        arrays = [lay(_to_array(d, kind)) for d in parts(dy)]
        grads = backward(whole(arrays, like=dy), kept[0])
        several = grads if isinstance(grads, tuple | list) else (grads,)
        return tuple(to_tensor(g, parts(dy)[0]) for g in several)

    def vjp_of(lay_inputs: Lay, lay_dy: Lay) -> Vjp:
        def vjp(inputs: tuple[Tensor | None, ...], dy: Any, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
            y, kept = run_forward(inputs, hyper, lay_inputs)
            grads = run_backward(kept, dy, lay_dy)
            if isinstance(dy, tuple) and isinstance(y, tuple | list):
                return tuple(to_tensor(part, d) for part, d in zip(y, dy, strict=False)), grads
            return to_tensor(y, parts(dy)[0]), grads

        take_keywords_of(forward, vjp)
        return vjp

    found = vjp_of(_as_it_is, _as_it_is)
    if kind == "numpy":
        reversed_inputs, reversed_dy = vjp_of(_backwards, _as_it_is), vjp_of(_as_it_is, _backwards)
        layouts = {"inputs with negative strides": reversed_inputs, "dy with negative strides": reversed_dy}
        vars(found)["layouts"] = layouts  # for `accepted.variants`
    ways = orders(run_forward, run_backward)
    for way in ways.values():
        take_keywords_of(forward, way)
    vars(found)["ways"] = ways
    return found


Lay = Callable[[Any], Any]


def _as_it_is(x: Any) -> Any:
    return x


def _backwards(x: Any) -> Any:
    """The same values from memory in which they stand in reverse: all strides are negative, as of x[::-1]."""
    return np.flip(np.array(np.flip(x), order="C"))


def _kind_of(*functions: Callable[..., Any]) -> str:
    """Which array module the functions' text refers to, or else the modules in which they stand."""
    named, around = arrays_named(*functions)
    if len(named) > 1:
        raise ValueError(
            f"from_functions: the functions refer to {named}; pass arrays= to say what they are called with."
        )
    return next(iter(named or (around if len(around) == 1 else ())), "torch")


def _to_array(x: Tensor, kind: str) -> Any:
    """`x` as the functions want it, strides kept where numpy can."""
    if kind == "torch":
        return x
    if kind == "numpy":
        if x.dtype == torch.bfloat16:
            raise ValueError("NumPy has no bfloat16; check in float32 or float16, or pass arrays='torch'")
        return x.detach().cpu().numpy()
    import jax.numpy

    if x.dtype == torch.float64 and not jax.config.values["jax_enable_x64"]:
        raise ValueError("JAX computes in float32 unless told otherwise; jax.config.update('jax_enable_x64', True)")
    return jax.numpy.from_dlpack(x.detach().contiguous())


def to_tensor(x: Any, like: Tensor) -> Any:
    """A tensor of whatever array `x` is, where `like` is; None, and what is no array, as it is.

    A Python number has no dtype and gets that of `like`.
    """
    if x is None or isinstance(x, Tensor):
        return x
    if isinstance(x, int | float) and not isinstance(x, bool | np.generic):
        return torch.tensor(x, dtype=like.dtype, device=like.device)
    if isinstance(x, np.ma.MaskedArray):
        x = x.filled(np.nan)  # what is masked is no number
    if isinstance(x, np.ndarray | np.generic):
        return torch.from_numpy(_native(np.asarray(x))).to(like.device)
    if hasattr(x, "__dlpack__"):
        try:
            return torch.utils.dlpack.from_dlpack(x).clone().to(like.device)
        except (BufferError, RuntimeError, TypeError):
            if not hasattr(x, "__array__"):
                raise
    if hasattr(x, "__array__"):
        return torch.from_numpy(_native(np.asarray(x))).to(like.device)
    return x


def _native(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy in the byte order of the machine: an array may be read-only, reversed, or from a file of another one."""
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C")


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
        if p.kind is not p.VAR_POSITIONAL and p.name not in ("inputs", "dy")
    ]
    first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("inputs", "dy")]
    vjp.__signature__ = inspect.Signature([*first, *named])
