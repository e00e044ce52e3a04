"""Group normalisation: the channels of an example fall into groups, each normalised by its own mean and variance.

For every example and group, the n values of its consecutive channels and of all space axes:

    μ = mean(x)      v = mean((x − μ)²)      s = 1/√(v + eps)      x̂ = (x − μ) s      y = x̂ weight + bias

weight and bias hold one number for each channel, not for each group.  Either may be absent: without a weight its place
is taken by 1, without a bias by 0.  One group is layer normalisation over all channels and space; as many groups as
channels are instance normalisation.

Derivation.  weight_c and bias_c reach every y of channel c, in all examples, with factors x̂ and 1:

    dweight_c = Σ dy x̂      dbias_c = Σ dy

Put g = dy weight, the cotangent of x̂.  What a small change ẋ of a group does to x̂ is derived in `layer_norm`, where the
group is called a row; no other group takes part in it:

    x̂ changes by s (ẋ − mean(ẋ) − x̂ mean(x̂ ẋ))

The map is symmetric, so the transposed one, applied to g, is the same:

    dx = s ( g − mean(g) − x̂ mean(g x̂) )
            direct  mean    projection

The means of g are over the group, whose channels have different weights: g is multiplied with weight before they are
taken.  The variance is biased (divided by n), and eps stands inside the root.

Digits.  As in `layer_norm` the rounded deviations are centred once more: a mean is rounded in units of x, not of its
spread.

A constant group has x̂ = 0 and s = 1/√eps; a group of one value likewise, and dx = 0.  eps is positive (ValueError).

Source: Wu & He, "Group Normalization" (ECCV 2018), eq. 1 to 7; the derivation is that of Ioffe & Szegedy (2015).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require
from manual_bp.rules.normalization._channels import channel_mean, channel_sum, like
from manual_bp.rules.normalization._rows import row_mean


class Residuals(NamedTuple):
    x: Float[Tensor, "batch groups*members *space"]
    """x is alive anyway, as the output of the layer before; x̂ would be another tensor of its size and is recomputed."""
    weight: Float[Tensor, "groups*members"] | None
    has_bias: bool
    """y is affine in bias: no derivative depends on its values, but who passes none gets no cotangent."""
    groups: int
    mean: Float[Tensor, "batch groups one"]
    missed: Float[Tensor, "batch groups one"]
    """What the rounded mean missed of the true one; and beside them the factor, three numbers for a group."""
    s: Float[Tensor, "batch groups one"]


def forward(
    x: Float[Tensor, "batch groups*members *space"],
    weight: Float[Tensor, "groups*members"] | None = None,
    bias: Float[Tensor, "groups*members"] | None = None,
    *,
    groups: int,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "batch groups*members *space"], Residuals]:
    require(groups >= 1, "group_norm: groups must be at least 1", groups, "One group is all channels.")
    require(eps > 0, "group_norm: eps must be positive", eps, "It keeps 1/√v finite.")
    require(x.shape[1:].numel() >= 1, "group_norm: a group must hold a value", tuple(x.shape), "")
    rows = _rows(x, groups)
    mean = row_mean(rows)
    missed = row_mean(rows - mean)
    s = 1 / torch.sqrt(row_mean((rows - mean - missed) ** 2) + eps)
    residuals = Residuals(x, weight, bias is not None, groups, mean, missed, s)
    y = _normalised(residuals).reshape(x.shape)
    y = y if weight is None else y * like(weight, x)
    return y if bias is None else y + like(bias, x), residuals


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch groups*members *space"]
) -> tuple[
    Float[Tensor, "batch groups*members *space"],
    Float[Tensor, "groups*members"] | None,
    Float[Tensor, "groups*members"] | None,
]:
    x_hat, s, weight = _normalised(residuals), residuals.s, residuals.weight
    g = _rows(dy if weight is None else dy * like(weight, dy), residuals.groups)
    dx = s * (g - row_mean(g) - x_hat * row_mean(g * x_hat))
    dweight = None if weight is None else channel_sum(dy * x_hat.reshape(dy.shape))
    dbias = channel_sum(dy) if residuals.has_bias else None
    return dx.reshape(dy.shape), dweight, dbias


def terms(residuals: Residuals, dy: Float[Tensor, "batch groups*members *space"]) -> dict[str, dict[str, Tensor]]:
    x_hat, s, weight = _normalised(residuals), residuals.s, residuals.weight
    g = _rows(dy if weight is None else dy * like(weight, dy), residuals.groups)
    of_dx = {"direct": s * g, "mean": -s * row_mean(g).expand_as(g), "projection": -s * x_hat * row_mean(g * x_hat)}
    found = {"dx": {name: term.reshape(dy.shape) for name, term in of_dx.items()}}
    if weight is not None:
        found["dweight"] = {"sum": channel_sum(dy * x_hat.reshape(dy.shape))}
    if residuals.has_bias:
        found["dbias"] = {"sum": channel_sum(dy)}
    return found


def _rows(x: Tensor, groups: int) -> Tensor:
    """The values of each group along one axis: (batch, groups, values)."""
    return x.reshape(x.shape[0], groups, x.shape[1:].numel() // groups)


def _normalised(residuals: Residuals) -> Tensor:
    """x̂, shaped as `_rows`."""
    return (_rows(residuals.x, residuals.groups) - residuals.mean - residuals.missed) * residuals.s


INPUTS = {
    "x": Input(normal(mean=0.5, std=1.5)),
    "weight": Input(normal(mean=1.0, std=0.5)),
    "bias": Input(normal()),
}
HYPER = {"groups": 2}

# x̂ of a group of two values is 1 and -1, whatever they are, and dx nearly 0.
SIZES = {"members": 3}
USUAL = {"eps": (1e-3, 1e-6)}

EDGES = (
    Edge("features only", sizes={"space": ()}),
    Edge("images", sizes={"space": (2, 3)}),
    Edge("one group: layer normalisation", {"groups": 1}),
    Edge("a channel each: instance normalisation", {"groups": 3}, sizes={"members": 1, "space": (2, 3)}),
    Edge("many groups", {"groups": 5}, sizes={"members": 2}),
    Edge("one value in a group", sizes={"members": 1, "space": ()}),
    Edge("two values in a group", sizes={"members": 2, "space": ()}),
    Edge("one example", sizes={"batch": 1}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("as many examples as groups and channels", {"groups": 2}, sizes={"batch": 2, "members": 2, "space": (2,)}),
    Edge("no weight", {"weight": None}),
    Edge("no bias", {"bias": None}),
    Edge("neither weight nor bias", {"weight": None, "bias": None}),
    Edge("constant groups", {"x": constant(1.5)}),
    Edge("constant groups of no short binary number", {"x": constant(0.1)}),
    Edge("large mean", {"x": normal(mean=30.0)}),
    Edge("mean far beyond the spread", {"x": normal(mean=1e4)}),
    Edge("large eps", {"eps": 1}),
    Edge("small eps beside a small variance", {"x": normal(std=1e-5), "eps": 1e-12}),
    Edge("variance far below eps", {"x": normal(std=1e-4)}),
    Edge("negative weight", {"weight": constant(-0.5)}),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge("channels that groups do not divide", {"x": [[[1.0, 2.0]] * 3], "groups": 2}, raises=ValueError),
    Edge("no value", sizes={"space": (0, 3)}, raises=ValueError),
    Edge("no group", {"groups": 0}, raises=ValueError),
    Edge("eps of 0", {"eps": 0.0}, raises=ValueError),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        dy: Tensor,
        groups: int,
        eps: float,
        cancelling: bool = False,
    ) -> None:
        self.x, self.weight, self.bias, self.dy, self.groups = x, weight, bias, dy, groups
        rows = _rows(x, groups)
        mean = row_mean(rows)
        deviation = rows - mean
        if not cancelling:
            deviation = deviation - row_mean(deviation)
        variance = row_mean(rows**2) - mean**2 if cancelling else row_mean(deviation**2)
        self.s = 1 / torch.sqrt(variance + eps)
        self.x_hat = deviation * self.s
        self.g = _rows(dy if weight is None else dy * like(weight, dy), groups)
        self.n = max(rows.shape[-1], 1)
        self.along = self.x_hat.reshape(x.shape)

    def cotangents(
        self,
        direct: float | Tensor = 1.0,
        mean: float | Tensor = 1.0,
        projection: float | Tensor = 1.0,
        g: Tensor | None = None,
        dx: Tensor | None = None,
        dweight: Tensor | None = None,
        dbias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        g = self.g if g is None else g
        right = self.s * (direct * g - mean * row_mean(g) - projection * self.x_hat * row_mean(g * self.x_hat))
        of_weight = channel_sum(self.dy * self.along) if dweight is None else dweight
        of_bias = channel_sum(self.dy) if dbias is None else dbias
        return (
            (right if dx is None else dx).reshape(self.x.shape),
            None if self.weight is None else of_weight,
            None if self.bias is None else of_bias,
        )

    def by_group(self, per_channel: Tensor) -> Tensor:
        """To each channel what all of its group have together."""
        members = len(per_channel) // self.groups
        return per_channel.reshape(self.groups, members).sum(1).repeat_interleave(members)


def _of(formula: Callable[[_Parts], tuple[Tensor, Tensor | None, Tensor | None]], **how: Any) -> Callable[..., Any]:
    return lambda **p: formula(_Parts(**p, **how))


MISTAKES = (
    Mistake(
        "statistics as constants",
        _of(lambda t: t.cotangents(mean=0, projection=0)),
        forgets="that μ and v depend on x: the mean and the projection term",
        shows="everywhere",
    ),
    Mistake(
        "mean term dropped",
        _of(lambda t: t.cotangents(mean=0)),
        forgets="that μ depends on x",
        shows="unless g is centred",
    ),
    Mistake(
        "projection term dropped",
        _of(lambda t: t.cotangents(projection=0)),
        forgets="that v depends on x",
        shows="unless g and x̂ are orthogonal",
    ),
    Mistake(
        "projection term's sign",
        _of(lambda t: t.cotangents(projection=-1)),
        forgets="the sign of the derivative of 1/√v",
        shows="unless g and x̂ are orthogonal",
    ),
    Mistake(
        "mean term a sum",
        _of(lambda t: t.cotangents(mean=t.n)),
        forgets="the 1/n of the mean",
        shows="unless g is centred",
    ),
    Mistake(
        "1/(n − 1) in backward",
        _of(lambda t: t.cotangents(projection=t.n / max(t.n - 1, 0.5))),
        forgets="that forward divided the variance by n",
        shows="unless g and x̂ are orthogonal",
    ),
    Mistake(
        "dweight and dbias of the group",
        _of(
            lambda t: t.cotangents(dweight=t.by_group(channel_sum(t.dy * t.along)), dbias=t.by_group(channel_sum(t.dy)))
        ),
        forgets="that each channel has a weight and a bias of its own, and not each group",
        shows="for groups of several channels",
        seen="https://github.com/apache/mxnet/commit/1496c91871b9",
    ),
    Mistake(
        "weight behind the means",
        _of(
            lambda t: t.cotangents(
                dx=t.cotangents(g=_rows(t.dy, t.groups))[0] * (1 if t.weight is None else like(t.weight, t.x))
            )
        ),
        forgets="that the channels of a group have different weights: they belong into the means",
        shows="for groups of several channels",
    ),
    Mistake(
        "weight missing in dx",
        _of(lambda t: t.cotangents(g=_rows(t.dy, t.groups))),
        forgets="the factor weight between y and x̂",
        shows="wherever weight is not 1",
    ),
    Mistake(
        "dweight from x",
        _of(lambda t: t.cotangents(dweight=channel_sum(t.dy * t.x))),
        forgets="to normalise x",
        shows="everywhere",
    ),
    Mistake(
        "dweight and dbias averaged",
        _of(lambda t: t.cotangents(dweight=channel_mean(t.dy * t.along), dbias=channel_mean(t.dy))),
        forgets="that weight and bias reach every value of their channel, so their cotangents are sums",
        shows="for more than one value in a channel",
    ),
    Mistake(
        "dbias over axis 0 only",
        _of(lambda t: t.cotangents(dbias=t.dy.sum(0))),
        forgets="the space axes",
        shows="for x of rank 3 and more",
    ),
    Mistake(
        "eps forgotten",
        lambda **p: _Parts(**{**p, "eps": 1e-300}).cotangents(),
        forgets="that forward added eps",
        shows="where the variance is not large against eps",
    ),
    Mistake(
        "as if there were one group",
        lambda **p: _Parts(**{**p, "groups": 1}).cotangents(),
        forgets="groups: this is layer normalisation",
        shows="for several groups",
    ),
    Mistake(
        "variance as E[x²] − μ²",
        _of(lambda t: t.cotangents(), cancelling=True),
        forgets="that two large numbers cancel when the mean is large against the deviation: v may come out negative",
        shows="where |μ| is many deviations",
    ),
)
