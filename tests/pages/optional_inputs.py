"""Three inputs that may be absent.

y = gain · x + shift, all of it times weight, each where it is there

dx = dy gain weight,   dgain = Σ dy weight x,   dshift = Σ dy weight,   dweight = dy (gain x + shift)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "batch features"]
    gain: Float[Tensor, "features"] | None
    shift: Float[Tensor, "features"] | None
    weight: Float[Tensor, "batch features"] | None


def forward(
    x: Float[Tensor, "batch features"],
    gain: Float[Tensor, "features"] | None = None,
    shift: Float[Tensor, "features"] | None = None,
    weight: Float[Tensor, "batch features"] | None = None,
) -> tuple[Float[Tensor, "batch features"], Residuals]:
    y = _times(_plus(_times(x, gain), shift), weight)
    return y, Residuals(x, gain, shift, weight)


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch features"]
) -> tuple[
    Float[Tensor, "batch features"],
    Float[Tensor, "features"] | None,
    Float[Tensor, "features"] | None,
    Float[Tensor, "batch features"] | None,
]:
    x, gain, shift, weight = residuals
    inner = _times(dy, weight)
    return (
        _times(inner, gain),
        None if gain is None else torch.sum(inner * x, dim=0),
        None if shift is None else torch.sum(inner, dim=0),
        None if weight is None else dy * _plus(_times(x, gain), shift),
    )


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x.clone() if factor is None else x * factor


def _plus(x: Tensor, summand: Tensor | None) -> Tensor:
    return x if summand is None else x + summand


INPUTS = {name: Input() for name in ("x", "gain", "shift", "weight")}
EDGES = ()
MISTAKES = (
    Mistake(
        "weight forgotten",
        lambda x, gain, shift, weight, dy: (
            _times(dy, gain),
            None if gain is None else torch.sum(dy * x, dim=0),
            None if shift is None else torch.sum(dy, dim=0),
            None if weight is None else dy * _plus(_times(x, gain), shift),
        ),
        forgets="the weight",
        shows="where there is a weight",
    ),
    Mistake(
        "shift forgotten",
        lambda x, gain, shift, weight, dy: (
            *backward(Residuals(x, gain, shift, weight), dy)[:3],
            None if weight is None else dy * _times(x, gain),
        ),
        forgets="that the weight multiplies the shift, too",
        shows="where there are a shift and a weight",
    ),
)
