"""torch.autograd in float64, with which the entries of the bank were compared before any oracle saw them.

`deviation` says how far a program is off at a probe, in roundings of the dtype: right programs stay below a few at
ordinary places, the others are far above at the probe that they name.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracle.third_bank.axes import by_autograd
from tests.oracle.third_bank.entry import F64, Vjp, cast
from tests.oracle.third_bank.probes import Probe, in_reverse


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return 0.5 * x * torch.erfc(-x / math.sqrt(2))
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


def _cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, **hyper: Any) -> Tensor:
    return F.cross_entropy(x, target, weight, **hyper)


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6, offset: float = 0.0) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], None if weight is None else weight + offset, eps)


def _embedding(index: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    return F.embedding(index, weight, padding_idx)


TRUTHS: dict[str, Vjp] = {
    "softmax": by_autograd(lambda x, dim=-1: torch.softmax(x, dim), (True,)),
    "log_softmax": by_autograd(lambda x, dim=-1: torch.log_softmax(x, dim), (True,)),
    "softmax_cross_entropy": by_autograd(_cross_entropy, (True, False, False)),
    "layer_norm": by_autograd(_layer_norm, (True, True, True)),
    "rms_norm": by_autograd(_rms_norm, (True, True)),
    "gelu": by_autograd(_gelu, (True,)),
    "silu": by_autograd(F.silu, (True,)),
    "softplus": by_autograd(_softplus, (True,)),
    "swiglu": by_autograd(lambda gate, up: F.silu(gate) * up, (True, True)),
    "embedding": by_autograd(_embedding, (False, True)),
}


def _in(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """In a dtype, strides kept, memory of its own."""
    if x is None:
        return None
    new = cast(x, dtype)
    return new.clone() if x.is_contiguous() else in_reverse(new)


def _off(got: Any, truth: Tensor | None, size: float, probe: Probe, dtype: torch.dtype) -> float:
    if truth is None or got is None:
        return 0.0 if got is truth else math.inf
    if got.shape != truth.shape or got.dtype != dtype:
        return math.inf
    if not truth.numel():
        return 0.0
    rounded, value = truth.to(dtype).double(), got.double()
    same = (value == rounded) | (value.isnan() & rounded.isnan())
    finite = rounded.isfinite()
    largest = truth[finite].abs().max().item() if finite.any() else 0.0
    scale = truth.abs() + probe.floor * max(largest, size) + torch.finfo(dtype).tiny
    error = torch.where(same, 0, (value - truth).abs() / scale / (torch.finfo(dtype).eps / 2))
    error = torch.where(~same & ~(finite & value.isfinite()), math.inf, error)
    return error.max().item()


def deviation(vjp: Vjp, rule: str, probe: Probe, dtype: torch.dtype) -> float:
    """The largest error of y and cotangents in roundings; inf where something else than a number is wrong."""
    inputs, dy = tuple(_in(x, dtype) for x in probe.inputs), _in(probe.dy, dtype)
    kept = tuple(x if x is None else x.clone() for x in (*inputs, dy))
    exact = TRUTHS[rule](tuple(cast(x, F64) for x in inputs), dy.double(), **probe.hyper)
    try:
        earlier = None
        if probe.before is not None:
            first = tuple(_in(x, dtype) for x in probe.before.inputs), _in(probe.before.dy, dtype)
            earlier = vjp(*first, **probe.before.hyper)
            held = [None if g is None else g.clone() for g in (earlier[0], *earlier[1])]
        y, grads = vjp(inputs, dy, **probe.hyper)
    except (RuntimeError, ValueError, IndexError):
        return math.inf
    if len(grads) != len(inputs):
        return math.inf
    same = [
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip((*inputs, dy), kept, strict=True) if b is not None
    ]
    if earlier is not None:
        results = zip((earlier[0], *earlier[1]), held, strict=True)
        same += [torch.equal(a, b) for a, b in results if b is not None]
    if not all(same):
        return math.inf
    size = probe.dy.abs().max().item() if probe.dy.numel() else 0.0
    parts = zip((y, *grads), (exact[0], *exact[1]), (0.0, *[size] * len(grads)), strict=True)
    return max(_off(got, truth, part, probe, dtype) for got, truth, part in parts)
