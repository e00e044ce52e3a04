"""Layer normalisation: every row by its own mean and variance.

For every row, the n values along the last axis:

    μ = mean(x)      v = mean((x − μ)²)      s = 1/√(v + eps)      x̂ = (x − μ) s      y = x̂ weight + bias

weight and bias hold one number for each place in a row, and are the same for all rows.  Either may be absent: without a
weight its place is taken by 1, without a bias by 0.

Derivation.  weight_i and bias_i reach the i-th y of every row, with factors x̂ and 1:

    dweight = Σ_rows dy x̂      dbias = Σ_rows dy

Put g = dy weight, the cotangent of x̂.  A small change ẋ of a row (a dot is a change, not a cotangent) changes

    μ̇ = mean(ẋ)
    v̇ = 2 mean((x − μ)(ẋ − μ̇)) = (2/s) mean(x̂ ẋ)         since mean(x̂) = 0
    ṡ = −½ s³ v̇ = −s² mean(x̂ ẋ)
    x̂ by s (ẋ − μ̇) + (x − μ) ṡ = s (ẋ − mean(ẋ) − x̂ mean(x̂ ẋ))

This map is symmetric, so the transposed one, applied to g, is the same:

    dx = s ( g − mean(g) − x̂ mean(g x̂) )
            direct  mean    projection

The means are over the row: the formulas are those of `batch_norm`, with another axis.  The variance is biased (divided
by n), and eps stands inside the root.

Digits.  A mean is rounded in units of x, not of its spread: where the mean of a row is large against the deviations,
they are all off by the same rounding error, which is a part of μ that was missed.  So the rounded deviations are
centred once more.  The variance is the mean of their squares, not E[x²] − μ², which has no digits left there.

A constant row has x̂ = 0 and s = 1/√eps; a row of one value likewise, and dx = 0.  Without rows dweight and dbias are
0; rows without values have nothing to normalise.  Deviations whose squares overflow (1.8e19 in float32) give s = 0, and
y is bias, as in torch.  eps is positive (ValueError): it keeps s finite.

Source: Ba, Kiros & Hinton, "Layer Normalization" (2016), eq. 3 and 4; the derivation is that of Ioffe & Szegedy (2015).
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
    has_bias: bool
    """y is affine in bias: no derivative depends on its values, but who passes none gets no cotangent."""
    mean: Float[Tensor, "*batch one"]
    missed: Float[Tensor, "*batch one"]
    """What the rounded mean missed of the true one; and beside them the factor, three numbers for a row."""
    s: Float[Tensor, "*batch one"]


def forward(
    x: Float[Tensor, "*batch features"],
    weight: Float[Tensor, "features"] | None = None,
    bias: Float[Tensor, "features"] | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "*batch features"], Residuals]:
    require(eps > 0, "layer_norm: eps must be positive", eps, "It keeps 1/√v finite.")
    mean = row_mean(x)
    missed = row_mean(x - mean)
    s = 1 / torch.sqrt(row_mean((x - mean - missed) ** 2) + eps)
    residuals = Residuals(x, weight, bias is not None, mean, missed, s)
    y = _normalised(residuals)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, residuals


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch features"]
) -> tuple[Float[Tensor, "*batch features"], Float[Tensor, "features"] | None, Float[Tensor, "features"] | None]:
    x_hat, s = _normalised(residuals), residuals.s
    g = dy if residuals.weight is None else dy * residuals.weight
    dx = s * (g - row_mean(g) - x_hat * row_mean(g * x_hat))
    dweight = None if residuals.weight is None else over_rows(dy * x_hat)
    dbias = over_rows(dy) if residuals.has_bias else None
    return dx, dweight, dbias


def terms(residuals: Residuals, dy: Float[Tensor, "*batch features"]) -> dict[str, dict[str, Tensor]]:
    x_hat, s = _normalised(residuals), residuals.s
    g = dy if residuals.weight is None else dy * residuals.weight
    found = {
        "dx": {
            "direct": s * g,
            "mean": -s * row_mean(g).expand_as(g),
            "projection": -s * x_hat * row_mean(g * x_hat),
        }
    }
    if residuals.weight is not None:
        found["dweight"] = {"sum": over_rows(dy * x_hat)}
    if residuals.has_bias:
        found["dbias"] = {"sum": over_rows(dy)}
    return found


def _normalised(residuals: Residuals) -> Tensor:
    """x̂."""
    return (residuals.x - residuals.mean - residuals.missed) * residuals.s


INPUTS = {
    "x": Input(normal(mean=0.5, std=1.5)),
    "weight": Input(normal(mean=1.0, std=0.5)),
    "bias": Input(normal()),
}
USUAL = {"eps": (1e-3, 1e-6, 1e-12)}

# x̂ of a row of two values is 1 and -1, whatever they are, and dx nearly 0.
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
    Edge("no bias", {"bias": None}),
    Edge("neither weight nor bias", {"weight": None, "bias": None}),
    Edge("constant rows", {"x": constant(1.5)}),
    Edge("constant rows of no short binary number", {"x": constant(0.1)}, sizes={"features": 7}),
    Edge("all zero", {"x": constant(0.0)}),
    Edge("constant but for one value", {"x": [[256.0] * 99 + [258.0], [-512.0, *[-516.0] * 99]]}),
    Edge("large mean", {"x": normal(mean=30.0)}),
    Edge("mean far beyond the spread", {"x": normal(mean=1e4)}, sizes={"features": 9}),
    Edge("mean far beyond the spread, negative", {"x": normal(mean=-3e4, std=2.0)}, sizes={"features": 16}),
    Edge("large eps", {"eps": 1}),
    Edge("small eps beside a small variance", {"x": normal(std=1e-5), "eps": 1e-12}),
    Edge("variance far below eps", {"x": normal(std=1e-4)}),
    Edge("large numbers", {"x": normal(std=1e4)}),
    Edge("negative weight", {"weight": constant(-0.5)}),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge("eps of 0", {"eps": 0.0}, raises=ValueError),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made.

    outside: what is added to the root.  count: by what a sum of n squares is divided.  cancelling: whether the variance
    is E[x²] − μ².  average: what takes the place of the mean over the row.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        dy: Tensor,
        eps: float,
        outside: float = 0.0,
        count: Callable[[int], int] = lambda n: n,
        cancelling: bool = False,
        average: Callable[[Tensor], Tensor] = row_mean,
    ) -> None:
        mean = average(x)
        variance = average(x**2) - mean**2 if cancelling else average((x - mean) ** 2)
        variance = variance * (x.shape[-1] / max(count(x.shape[-1]), 1))
        self.x, self.weight, self.bias, self.dy, self.average = x, weight, bias, dy, average
        self.n, self.rows = x.shape[-1], max(x.shape[:-1].numel(), 1)
        self.s = 1 / (torch.sqrt(variance + eps) + outside)
        self.x_hat = (x - mean) * self.s
        self.g = dy if weight is None else dy * weight

    @property
    def dx(self) -> Tensor:
        return self.terms()

    def terms(
        self,
        direct: float | Tensor = 1.0,
        mean: float | Tensor = 1.0,
        projection: float | Tensor = 1.0,
        average: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        average = average or self.average
        along = average(self.g * self.x_hat)
        return self.s * (direct * self.g - mean * average(self.g) - projection * self.x_hat * along)

    def cotangents(
        self, dx: Tensor | None = None, dweight: Tensor | None = None, dbias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The right ones, but for those that are given; None for what is absent."""
        dweight = over_rows(self.dy * self.x_hat) if dweight is None else dweight
        dbias = over_rows(self.dy) if dbias is None else dbias
        return (
            self.dx if dx is None else dx,
            None if self.weight is None else dweight,
            None if self.bias is None else dbias,
        )


Cotangents = tuple[Tensor, Tensor | None, Tensor | None]


def _of(formula: Callable[[_Parts], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **p: formula(_Parts(**p))


def _with_weight_in_dx(changed: Callable[[Tensor | None], Tensor | None]) -> Callable[..., Cotangents]:
    """dx as that of another weight."""
    return lambda **p: _Parts(**p).cotangents(dx=_Parts(**{**p, "weight": changed(p["weight"])}).dx)


def _of_example(x: Tensor) -> Tensor:
    """The mean over all axes but the first, shaped to meet x."""
    return torch.mean(x, tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else row_mean(x)


def _over_first_axis(x: Tensor) -> Tensor:
    return torch.sum(x, 0) if x.ndim > 1 else x


MISTAKES = (
    Mistake(
        "statistics as constants",
        _of(lambda r: r.cotangents(dx=r.terms(mean=0, projection=0))),
        forgets="that μ and v depend on x: the mean and the projection term",
        shows="everywhere",
    ),
    Mistake(
        "mean term dropped",
        _of(lambda r: r.cotangents(dx=r.terms(mean=0))),
        forgets="that μ depends on x",
        shows="unless dy weight is centred",
    ),
    Mistake(
        "projection term dropped",
        _of(lambda r: r.cotangents(dx=r.terms(projection=0))),
        forgets="that v depends on x",
        shows="unless dy weight and x̂ are orthogonal",
    ),
    Mistake(
        "mean term's sign",
        _of(lambda r: r.cotangents(dx=r.terms(mean=-1))),
        forgets="the sign with which μ enters",
        shows="unless dy weight is centred",
    ),
    Mistake(
        "projection term's sign",
        _of(lambda r: r.cotangents(dx=r.terms(projection=-1))),
        forgets="the sign of −½ v^(−3/2)",
        shows="unless dy weight and x̂ are orthogonal",
    ),
    Mistake(
        "projection term halved",
        _of(lambda r: r.cotangents(dx=r.terms(projection=0.5))),
        forgets="that the 2 of the square cancels the ½ of the root",
        shows="unless dy weight and x̂ are orthogonal",
    ),
    Mistake(
        "sums for means",
        _of(lambda r: r.cotangents(dx=r.terms(mean=r.n, projection=r.n))),
        forgets="the 1/n of both means",
        shows="for more than one feature",
    ),
    Mistake(
        "direct term averaged",
        _of(lambda r: r.cotangents(dx=r.terms(direct=1 / max(r.n, 1)))),
        forgets="that the direct path is no mean",
        shows="for more than one feature",
    ),
    Mistake(
        "means over all rows",
        _of(lambda r: r.cotangents(dx=r.terms(average=torch.mean))),
        forgets="that each row has its own means: these are of all rows that a block holds",
        shows="for more than one row",
        seen="https://github.com/flagos-ai/FlagGems/commit/3dd5b0665592",
    ),
    Mistake(
        "means over an example",
        lambda **p: _Parts(**p, average=_of_example).cotangents(),
        forgets="that a row is the last axis, and not all axes but the first",
        shows="for x of rank 3 and more",
        seen="https://github.com/flagos-ai/FlagGems/issues/5392",
    ),
    Mistake(
        "statistics of the batch",
        lambda **p: _Parts(**p, average=lambda x: torch.mean(x, 0, keepdim=True)).cotangents(),
        forgets="over which axis: this is batch normalisation",
        shows="everywhere",
    ),
    Mistake(
        "unbiased variance",
        lambda **p: _Parts(**p, count=lambda n: n - 1).cotangents(),
        forgets="that the variance is divided by n",
        shows="for more than one feature",
        seen="https://github.com/LBANN/lbann/pull/2024",
    ),
    Mistake(
        "1/(n − 1) in backward",
        _of(lambda r: r.cotangents(dx=r.terms(projection=r.n / max(r.n - 1, 1)))),
        forgets="that forward divided the variance by n",
        shows="unless dy weight and x̂ are orthogonal",
    ),
    Mistake(
        "eps forgotten",
        lambda **p: _Parts(**{**p, "eps": 1e-300}).cotangents(),
        forgets="that forward added eps",
        shows="where the variance is not large against eps",
    ),
    Mistake(
        "eps outside the root",
        lambda **p: _Parts(**{**p, "eps": 0.0}, outside=p["eps"]).cotangents(),
        forgets="where forward added eps",
        shows="where the variance is not large against eps",
        seen="https://github.com/pyg-team/pytorch_geometric/pull/2917",
    ),
    Mistake(
        "variance squared for its root",
        _of(lambda r: r.cotangents(dx=r.dx * r.s**3, dweight=over_rows(r.dy * r.x_hat * r.s**3))),
        forgets="that the deviation is (v + eps)^½, and not (v + eps)²",
        shows="wherever the variance is not 1",
        seen="https://github.com/131250208/TPlinker-joint-extraction/issues/37",
    ),
    Mistake(
        "variance for the deviation",
        _of(lambda r: r.cotangents(dx=r.dx * r.s)),
        forgets="the square root: dx is divided by the variance",
        shows="wherever the variance is not 1",
    ),
    Mistake(
        "x̂ in place of x − μ",
        _of(lambda r: r.cotangents(dx=r.terms(projection=r.s))),
        forgets="that v^(−3/2) goes with x − μ: x̂ has been divided by the deviation already",
        shows="wherever the variance is not 1",
    ),
    Mistake(
        "weight missing in dx",
        _with_weight_in_dx(lambda weight: None),
        forgets="the factor weight between y and x̂",
        shows="wherever weight is not 1",
    ),
    Mistake(
        "weight after the means",
        lambda **p: _Parts(**p).cotangents(
            dx=_Parts(**{**p, "weight": None}).dx * (1.0 if p["weight"] is None else p["weight"])
        ),
        forgets="that weight differs along the row, so that it belongs into the means",
        shows="wherever weight is not constant",
    ),
    Mistake(
        "weight as 1 + w",
        _with_weight_in_dx(lambda weight: None if weight is None else 1 + weight),
        forgets="that the weight itself is the factor here",
        shows="everywhere",
    ),
    Mistake(
        "dweight from x",
        _of(lambda r: r.cotangents(dweight=over_rows(r.dy * r.x))),
        forgets="to normalise x",
        shows="everywhere",
    ),
    Mistake(
        "dweight from x s",
        _of(lambda r: r.cotangents(dweight=over_rows(r.dy * r.x * r.s))),
        forgets="to centre x",
        shows="wherever the mean is not 0",
    ),
    Mistake(
        "dweight and dbias of each row",
        _of(lambda r: r.cotangents(dweight=r.dy * r.x_hat, dbias=r.dy)),
        forgets="the sum over the rows",
        shows="always, in the shape, unless x is one row",
        seen="https://github.com/davisking/dlib/commit/253098eb1beb",
    ),
    Mistake(
        "dweight and dbias over axis 0 only",
        _of(lambda r: r.cotangents(dweight=_over_first_axis(r.dy * r.x_hat), dbias=_over_first_axis(r.dy))),
        forgets="the other axes of the batch",
        shows="for x of rank 3 and more",
    ),
    Mistake(
        "dweight and dbias averaged",
        _of(lambda r: r.cotangents(dweight=over_rows(r.dy * r.x_hat) / r.rows, dbias=over_rows(r.dy) / r.rows)),
        forgets="that weight and bias reach every row, so their cotangents are sums",
        shows="for more than one row",
    ),
    Mistake(
        "dweight and dbias swapped",
        _of(lambda r: r.cotangents(dweight=over_rows(r.dy), dbias=over_rows(r.dy * r.x_hat))),
        forgets="the order of the inputs",
        shows="everywhere",
        seen="https://github.com/Oneflow-Inc/oneflow/pull/6149",
    ),
    Mistake(
        "dbias from dx",
        _of(lambda r: r.cotangents(dbias=over_rows(r.dx))),
        forgets="that the buffer of dy has been given away, and holds dx by now",
        shows="everywhere",
        seen="https://github.com/ml-explore/mlx/commit/110d9b149df9",
    ),
    Mistake(
        "variance as E[x²] − μ²",
        lambda **p: _Parts(**p, cancelling=True).cotangents(),
        forgets="that two large numbers cancel when the mean is large against the deviation: v may come out negative",
        shows="where |μ| is many deviations",
        seen="https://github.com/camlab-ethz/poseidon/issues/6",
    ),
)
