"""RMS normalisation: every row by the root of its mean square.

For every row, the n values along the last axis:

    s = 1/√(mean(x²) + eps)      x̂ = x s      y = x̂ (offset + weight)

The mean is not subtracted, and there is no bias.  weight holds one number for each place in a row, the same for all
rows.  offset is 0, or 1 where the weight is stored as its distance from 1 (Gemma).  Without a weight the factor is 1,
whatever the offset.

Derivation.  weight_i reaches the i-th y of every row with factor x̂; offset is a constant:

    dweight = Σ_rows dy x̂

Put g = dy (offset + weight), the cotangent of x̂.  A small change ẋ of a row (a dot is a change, not a cotangent)
changes

    s by ṡ = −½ s³ · 2 mean(x ẋ) = −s² mean(x̂ ẋ)
    x̂ by s ẋ + x ṡ = s (ẋ − x̂ mean(x̂ ẋ))

This map is symmetric, so the transposed one, applied to g, is the same:

    dx = s ( g − x̂ mean(g x̂) )
            direct  projection

It is `layer_norm`'s without the mean term, since no mean is subtracted.

A row of zeros has x̂ = 0 and s = 1/√eps.  In a row of one value x̂ is nearly the sign of x, and dx nearly 0.  Without
rows dweight is 0; rows without values have nothing to normalise.

The squares overflow from |x| = 1.8e19 in float32 (1.3e154 in float64); s is 0 then, and so are y and all cotangents, as
in torch.  Dividing the row by its largest number first would move that limit out of sight, for one more pass over the
row and its roundings; rows of such numbers are lost for training long before.  eps is positive (ValueError): it keeps s
finite.

Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, eq. 4.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require
from manual_bp.rules.normalization._rows import over_rows, row_mean


class Residuals(NamedTuple):
    x: Float[Tensor, "*batch features"]
    """x is alive anyway, as the output of the layer before; x̂ would be another tensor of its size and is recomputed."""
    weight: Float[Tensor, "features"] | None
    s: Float[Tensor, "*batch one"]
    """One number for a row, which spares backward a pass over it."""
    offset: float


def forward(
    x: Float[Tensor, "*batch features"],
    weight: Float[Tensor, "features"] | None = None,
    *,
    eps: float = 1e-6,
    offset: float = 0.0,
) -> tuple[Float[Tensor, "*batch features"], Residuals]:
    require(eps > 0, "rms_norm: eps must be positive", eps, "It keeps s finite.")
    s = 1 / torch.sqrt(row_mean(x * x) + eps)
    y = x * s
    y = y if weight is None else y * (offset + weight)
    return y, Residuals(x, weight, s, offset)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch features"]
) -> tuple[Float[Tensor, "*batch features"], Float[Tensor, "features"] | None]:
    x, weight, s, offset = residuals
    x_hat = x * s
    g = dy if weight is None else dy * (offset + weight)
    dx = s * (g - x_hat * row_mean(g * x_hat))
    dweight = None if weight is None else over_rows(dy * x_hat)
    return dx, dweight


def terms(residuals: Residuals, dy: Float[Tensor, "*batch features"]) -> dict[str, dict[str, Tensor]]:
    x, weight, s, offset = residuals
    x_hat = x * s
    g = dy if weight is None else dy * (offset + weight)
    found = {"dx": {"direct": s * g, "projection": -s * x_hat * row_mean(g * x_hat)}}
    if weight is not None:
        found["dweight"] = {"sum": over_rows(dy * x_hat)}
    return found


INPUTS = {"x": Input(normal(mean=0.5, std=1.5)), "weight": Input(normal(mean=1.0, std=0.5))}
USUAL = {"eps": (1e-3, 1e-5, 1e-8), "offset": (1.0,)}

# With the usual two, x̂ moves on a circle, and little is left of dx.
SIZES = {"features": 5}

EDGES = (
    Edge("no batch axis", sizes={"batch": ()}),
    Edge("one row", sizes={"batch": 1}),
    Edge("three batch axes", sizes={"batch": (2, 3, 2)}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("one feature", sizes={"features": 1}),
    Edge("two features", sizes={"features": 2}),
    Edge("no features", sizes={"features": 0}),
    Edge("as many rows as features", sizes={"batch": 4, "features": 4}),
    Edge("no weight", {"weight": None}),
    Edge("no weight beside an offset", {"weight": None, "offset": 1.0}),
    Edge("offset of 1, weight near 0", {"weight": normal(std=0.3), "offset": 1.0}),
    Edge("offset of 1, weight 0", {"weight": constant(0.0), "offset": 1.0}),
    Edge("negative offset", {"offset": -0.5}),
    Edge("constant rows", {"x": constant(1.5)}),
    Edge("all zero", {"x": constant(0.0)}),
    Edge("one value beside zeros", {"x": [[0.0, 3.0, 0.0, -0.0, 0.0], [0.0, 0.0, -0.002, 0.0, 0.0]]}),
    Edge("one large value beside small ones", {"x": [[3e4, 1.0, -1.0, 0.5], [1e-3, -2e-3, 50.0, 1e-3]]}),
    Edge("mean far beyond the spread", {"x": normal(mean=1e4)}, sizes={"features": 9}),
    Edge("large eps", {"eps": 1}),
    Edge("small eps beside a small mean square", {"x": normal(std=1e-5), "eps": 1e-12}),
    Edge("mean square far below eps", {"x": normal(std=1e-4)}),
    Edge("squares that underflow", {"x": normal(std=1e-22)}),
    Edge("large numbers", {"x": normal(std=1e4)}),
    Edge("negative weight", {"weight": constant(-0.5)}),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge("eps of 0", {"eps": 0.0}, raises=ValueError),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        dy: Tensor,
        eps: float,
        offset: float,
        outside: float = 0.0,
        average: Callable[[Tensor], Tensor] = row_mean,
        s: Callable[[Tensor], Tensor] = lambda square: 1 / torch.sqrt(square),
    ) -> None:
        self.x, self.weight, self.dy = x, weight, dy
        self.s = 1 / (torch.sqrt(average(x * x)) + outside) if outside else s(average(x * x) + eps)
        self.x_hat = x * self.s
        self.scale: Tensor | float = 1.0 if weight is None else offset + weight
        self.g = dy * self.scale

    @property
    def dx(self) -> Tensor:
        return self.terms()

    def terms(
        self,
        direct: float = 1.0,
        projection: float | Tensor = 1.0,
        mean: float = 0.0,
        average: Callable[[Tensor], Tensor] = row_mean,
    ) -> Tensor:
        along = average(self.g * self.x_hat)
        return self.s * (direct * self.g - mean * row_mean(self.g) - projection * self.x_hat * along)

    def cotangents(self, dx: Tensor | None = None, dweight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The right ones, but for those that are given; None for what is absent."""
        dweight = over_rows(self.dy * self.x_hat) if dweight is None else dweight
        return self.dx if dx is None else dx, None if self.weight is None else dweight


def _centred(x: Tensor) -> Tensor:
    return x - row_mean(x)


def _over_first_axis(x: Tensor) -> Tensor:
    return torch.sum(x, 0) if x.ndim > 1 else x


MISTAKES = (
    Mistake(
        "statistic as a constant",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(projection=0)),
        forgets="that s depends on x: the projection term",
        shows="unless dy weight and x are orthogonal",
    ),
    Mistake(
        "direct term dropped",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(direct=0)),
        forgets="that x_i reaches its own y_i directly",
        shows="everywhere",
    ),
    Mistake(
        "projection term's sign",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(projection=-1)),
        forgets="the sign of −½ (mean square)^−3/2",
        shows="unless dy weight and x are orthogonal",
    ),
    Mistake(
        "projection term halved",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(projection=0.5)),
        forgets="that the 2 of the square cancels the ½ of the root",
        shows="unless dy weight and x are orthogonal",
    ),
    Mistake(
        "sum for the mean",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(projection=p["x"].shape[-1])),
        forgets="the 1/n of the mean",
        shows="for more than one feature",
    ),
    Mistake(
        "x in place of x̂",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(projection=1 / _Parts(**p).s)),
        forgets="one factor s of s³: x has not been divided by the root yet",
        shows="wherever the mean square is not 1",
    ),
    Mistake(
        "weight twice in the projection",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(projection=_Parts(**p).scale)),
        forgets="that the weight of the other places is in the mean already, and that of its own does not belong there",
        shows="wherever weight is not 1",
        seen="https://github.com/NVIDIA/Megatron-LM/pull/6859",
    ),
    Mistake(
        "weight missing in dx",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**{**p, "weight": None}).dx),
        forgets="the factor weight between y and x̂",
        shows="wherever weight is not 1",
        seen="https://github.com/karpathy/llm.c/pull/763",
    ),
    Mistake(
        "weight after the mean",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**{**p, "weight": None}).dx * _Parts(**p).scale),
        forgets="that weight differs along the row, so that it belongs into the mean",
        shows="wherever weight is not constant",
    ),
    Mistake(
        "offset forgotten",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**{**p, "offset": 0.0}).dx),
        forgets="that the factor is offset + weight",
        shows="wherever offset is not 0",
        seen="https://github.com/linkedin/Liger-Kernel/commit/a8e433b55a87",
    ),
    Mistake(
        "weight as 1 + w",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**{**p, "offset": 1.0}).dx),
        forgets="that the weight itself is the factor if offset is 0",
        shows="wherever offset is not 1",
    ),
    Mistake(
        "mean term too many",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(mean=1)),
        forgets="that no mean was subtracted: the mean term belongs to layer normalisation",
        shows="unless dy weight is centred",
    ),
    Mistake(
        "layer normalisation",
        lambda **p: _Parts(**{**p, "x": _centred(p["x"])}).cotangents(
            dx=_Parts(**{**p, "x": _centred(p["x"])}).terms(mean=1)
        ),
        forgets="that the mean is not subtracted here",
        shows="unless the mean of every row is 0",
    ),
    Mistake(
        "mean over all rows",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).terms(average=torch.mean)),
        forgets="that each row has its own mean: this is of all rows that a block holds",
        shows="for more than one row",
        seen="https://github.com/flagos-ai/FlagGems/commit/3dd5b0665592",
    ),
    Mistake(
        "mean square of the batch",
        lambda **p: _Parts(**p, average=lambda x: torch.mean(x, 0, keepdim=True)).cotangents(),
        forgets="along which axis the mean square is taken",
        shows="everywhere",
    ),
    Mistake(
        "mean square for the factor",
        lambda **p: _Parts(**p, s=lambda square: square).cotangents(),
        forgets="that what is read is the mean square, and not yet the inverse of its root",
        shows="wherever the mean square is not 1",
        seen="https://github.com/flagos-ai/FlagGems/pull/5771",
    ),
    Mistake(
        "divided by the inverse root",
        lambda **p: _Parts(**p, s=torch.sqrt).cotangents(),
        forgets="that the inverse root is to be multiplied",
        shows="wherever the mean square is not 1",
        seen="https://github.com/mosaicml/llm-foundry/issues/371",
    ),
    Mistake(
        "root forgotten",
        lambda **p: _Parts(**p, s=lambda square: 1 / square).cotangents(),
        forgets="the square root",
        shows="wherever the mean square is not 1",
    ),
    Mistake(
        "1/(n − 1) in the mean square",
        lambda **p: _Parts(**p, average=lambda x: row_mean(x) * (x.shape[-1] / max(x.shape[-1] - 1, 1))).cotangents(),
        forgets="that the squares are divided by n",
        shows="for more than one feature",
    ),
    Mistake(
        "eps forgotten",
        lambda **p: _Parts(**{**p, "eps": 1e-300}).cotangents(),
        forgets="that forward added eps",
        shows="where the mean square is not large against eps",
    ),
    Mistake(
        "eps outside the root",
        lambda **p: _Parts(**p, outside=p["eps"]).cotangents(),
        forgets="where forward added eps",
        shows="where the mean square is not large against eps",
    ),
    Mistake(
        "dweight from x",
        lambda **p: _Parts(**p).cotangents(dweight=over_rows(p["dy"] * p["x"])),
        forgets="to normalise x",
        shows="wherever the mean square is not 1",
    ),
    Mistake(
        "dweight from y",
        lambda **p: _Parts(**p).cotangents(dweight=over_rows(p["dy"] * _Parts(**p).x_hat * _Parts(**p).scale)),
        forgets="that what weight is multiplied with is x̂, and not y",
        shows="wherever weight is not 1",
    ),
    Mistake(
        "dweight from dx",
        lambda **p: _Parts(**p).cotangents(dweight=over_rows(_Parts(**p).dx * _Parts(**p).x_hat)),
        forgets="that the buffer of dy has been written over, and holds dx by now",
        shows="everywhere",
        seen="https://github.com/unslothai/unsloth/pull/4550",
    ),
    Mistake(
        "dweight forgotten",
        lambda **p: _Parts(**p).cotangents(dweight=torch.zeros_like(over_rows(p["dy"]))),
        forgets="the weight",
        shows="everywhere",
    ),
    Mistake(
        "dweight of each row",
        lambda **p: _Parts(**p).cotangents(dweight=p["dy"] * _Parts(**p).x_hat),
        forgets="the sum over the rows",
        shows="always, in the shape, unless x is one row",
    ),
    Mistake(
        "dweight over axis 0 only",
        lambda **p: _Parts(**p).cotangents(dweight=_over_first_axis(p["dy"] * _Parts(**p).x_hat)),
        forgets="the other axes of the batch",
        shows="for x of rank 3 and more",
    ),
    Mistake(
        "dweight averaged",
        lambda **p: _Parts(**p).cotangents(
            dweight=over_rows(p["dy"] * _Parts(**p).x_hat) / max(p["x"].shape[:-1].numel(), 1)
        ),
        forgets="that weight reaches every row, so that its cotangent is a sum",
        shows="for more than one row",
    ),
)
