"""Batch normalisation with the statistics of the batch.

For every channel, over the m values that the batch and the space axes hold:

    μ = mean(x)      v = mean((x − μ)²)      s = 1/√(v + eps)      x̂ = (x − μ) s      y = x̂ weight + bias

Derivation.  bias reaches every y with factor 1, weight with factor x̂:

    dbias = Σ dy      dweight = Σ dy x̂

Put g = dy weight, the cotangent of x̂.  x_i reaches the cost on three ways: through its own x̂_i, and through μ and v,
which every x̂_j of the channel shares.  A small change ẋ of x (a dot is a change, not a cotangent) changes

    μ̇ = mean(ẋ)
    v̇ = 2 mean((x − μ)(ẋ − μ̇)) = (2/s) mean(x̂ ẋ)         since mean(x̂) = 0
    ṡ = −½ s³ v̇ = −s² mean(x̂ ẋ)
    x̂ by s (ẋ − μ̇) + (x − μ) ṡ = s (ẋ − mean(ẋ) − x̂ mean(x̂ ẋ))

This linear map is s times a projection that removes the mean and the part along x̂ (exactly so for eps = 0), and it
is symmetric; so the transposed map, applied to g, is the same:

    dx = s ( g − mean(g) − x̂ mean(g x̂) )
            direct  mean    projection

The variance is biased (divided by m).  m = 1 leaves nothing to normalise: ValueError, as in torch.  m = 0 gives empty
results.

Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, section 3 (six formulas, which compose to these).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require
from manual_bp.rules.normalization._channels import channel_mean, channel_sum, count, like


class Residuals(NamedTuple):
    x: Float[Tensor, "batch channels *space"]
    """x is alive anyway, as the output of the layer before; x̂ would be another tensor of its size and is recomputed."""
    weight: Float[Tensor, "channels"]
    mean: Float[Tensor, "channels"]
    variance: Float[Tensor, "channels"]
    """Mean and biased variance of the batch: backward needs them, and so does whoever keeps running statistics."""
    eps: float


def forward(
    x: Float[Tensor, "batch channels *space"],
    weight: Float[Tensor, "channels"],
    bias: Float[Tensor, "channels"],
    *,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "batch channels *space"], Residuals]:
    require(count(x) != 1, "batch_norm: a channel must hold more than one value", tuple(x.shape), "Use a larger batch.")
    require(eps > 0, "batch_norm: eps must be positive", eps, "It keeps 1/√v finite.")
    mean = channel_mean(x)
    variance = channel_mean((x - like(mean, x)) ** 2)
    residuals = Residuals(x, weight, mean, variance, eps)
    x_hat, _ = _normalised(residuals)
    return x_hat * like(weight, x) + like(bias, x), residuals


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch channels *space"]
) -> tuple[Float[Tensor, "batch channels *space"], Float[Tensor, "channels"], Float[Tensor, "channels"]]:
    x_hat, s = _normalised(residuals)
    g = dy * like(residuals.weight, dy)
    dx = s * (g - like(channel_mean(g), g) - x_hat * like(channel_mean(g * x_hat), g))
    dweight = channel_sum(dy * x_hat)
    dbias = channel_sum(dy)
    return dx, dweight, dbias


def terms(residuals: Residuals, dy: Float[Tensor, "batch channels *space"]) -> dict[str, dict[str, Tensor]]:
    x_hat, s = _normalised(residuals)
    g = dy * like(residuals.weight, dy)
    return {
        "dx": {
            "direct": s * g,
            "mean": -s * like(channel_mean(g), g).expand_as(g),
            "projection": -s * x_hat * like(channel_mean(g * x_hat), g),
        },
        "dweight": {"sum": channel_sum(dy * x_hat)},
        "dbias": {"sum": channel_sum(dy)},
    }


def _normalised(residuals: Residuals) -> tuple[Tensor, Tensor]:
    """x̂, and the factor s that made it."""
    x = residuals.x
    s = 1 / torch.sqrt(like(residuals.variance, x) + residuals.eps)
    return (x - like(residuals.mean, x)) * s, s


INPUTS = {
    "x": Input(normal(mean=0.5, std=1.5)),
    "weight": Input(normal(mean=1.0, std=0.5)),
    "bias": Input(normal()),
}
USUAL = {"eps": (1e-3, 1e-6)}

EDGES = (
    Edge("features only", sizes={"space": ()}),
    Edge("images", sizes={"space": (2, 3)}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("one example with space", sizes={"batch": 1}),
    Edge("two values per channel", sizes={"batch": 2, "space": ()}),
    Edge("constant channel", {"x": constant(1.5)}),
    Edge("large mean", {"x": normal(mean=30.0)}),
    Edge("large eps", {"eps": 1}),
    Edge("small eps", {"eps": 1e-12}),
    Edge("small eps beside a small variance", {"x": normal(std=1e-5), "eps": 1e-12}),
    Edge("negative weight", {"weight": constant(-0.5)}),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge("one value per channel", sizes={"batch": 1, "space": ()}, raises=ValueError),
    Edge("eps of 0", {"eps": 0.0}, raises=ValueError),
)


def _average(x: Tensor) -> Tensor:
    """The mean of each channel, shaped to meet x."""
    return like(channel_mean(x), x)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        dy: Tensor,
        eps: float,
        outside: float = 0.0,
        cancelling: bool = False,
        average: Callable[[Tensor], Tensor] = _average,
    ) -> None:
        mean = average(x)
        variance = average(x**2) - mean**2 if cancelling else average((x - mean) ** 2)
        self.average = average
        self.s = 1 / (torch.sqrt(variance + eps) + outside)
        self.x_hat = (x - mean) * self.s
        self.dy = dy
        self.g = dy * like(weight, dy)

    def cotangents(
        self,
        direct: float | Tensor = 1.0,
        mean: float | Tensor = 1.0,
        projection: float | Tensor = 1.0,
        dweight: Tensor | None = None,
        dbias: Tensor | None = None,
        average: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        average = average or self.average
        along = average(self.g * self.x_hat)
        dx = self.s * (direct * self.g - mean * average(self.g) - projection * self.x_hat * along)
        return (
            dx,
            channel_sum(self.dy * self.x_hat) if dweight is None else dweight,
            channel_sum(self.dy) if dbias is None else dbias,
        )


def _average_over_space(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else _average(x)


MISTAKES = (
    Mistake(
        "statistics as constants",
        lambda **p: _Parts(**p).cotangents(mean=0, projection=0),
        forgets="that μ and v depend on x: the mean and the projection term",
        shows="everywhere",
        seen="https://github.com/facebookresearch/CrypTen/blob/03a2994eeae69dde700d6a4fdb9b8fb089ca2652/crypten/gradients.py",
    ),
    Mistake(
        "mean term dropped",
        lambda **p: _Parts(**p).cotangents(mean=0),
        forgets="that μ depends on x",
        shows="unless dy is centred",
    ),
    Mistake(
        "projection term dropped",
        lambda **p: _Parts(**p).cotangents(projection=0),
        forgets="that v depends on x",
        shows="unless dy and x̂ are orthogonal",
    ),
    Mistake(
        "mean term's sign",
        lambda **p: _Parts(**p).cotangents(mean=-1),
        forgets="the sign with which μ enters",
        shows="unless dy is centred",
    ),
    Mistake(
        "projection term's sign",
        lambda **p: _Parts(**p).cotangents(projection=-1),
        forgets="the sign of −½ v^(−3/2)",
        shows="unless dy and x̂ are orthogonal",
        seen="https://github.com/mlpack/mlpack/pull/1327",
    ),
    Mistake(
        "projection term halved",
        lambda **p: _Parts(**p).cotangents(projection=0.5),
        forgets="that the 2 of the square cancels the ½ of the root",
        shows="unless dy and x̂ are orthogonal",
    ),
    Mistake(
        "mean term a sum",
        lambda **p: _Parts(**p).cotangents(mean=max(count(p["x"]), 1)),
        forgets="the 1/m of the mean",
        shows="unless dy is centred",
        seen="https://github.com/mlpack/mlpack/pull/1327",
    ),
    Mistake(
        "direct term averaged",
        lambda **p: _Parts(**p).cotangents(direct=1 / max(count(p["x"]), 1)),
        forgets="that the direct path is no mean",
        shows="everywhere",
        seen="https://github.com/zoq/mlpack/blob/426cf4b08a6af15fa6936196b97323fd3536f702/src/mlpack/methods/ann/layer/batch_norm_impl.hpp",
    ),
    Mistake(
        "1/(m − 1) in backward",
        lambda **p: _Parts(**p).cotangents(projection=count(p["x"]) / (count(p["x"]) - 1)),
        forgets="that forward divided the variance by m",
        shows="unless dy and x̂ are orthogonal",
    ),
    Mistake(
        "count without space",
        lambda **p: _Parts(**p).cotangents(mean=p["x"].shape[2:].numel(), projection=p["x"].shape[2:].numel()),
        forgets="that the values of a channel lie along the space axes too",
        shows="for x of rank 3 and more",
        seen="https://github.com/zoq/mlpack/blob/426cf4b08a6af15fa6936196b97323fd3536f702/src/mlpack/methods/ann/layer/batch_norm_impl.hpp",
    ),
    Mistake(
        "count of features",
        lambda **p: _Parts(**p).cotangents(
            mean=count(p["x"]) / max(p["x"].shape[1], 1), projection=count(p["x"]) / max(p["x"].shape[1], 1)
        ),
        forgets="which axis is averaged",
        shows="unless there are as many values as channels",
        seen="https://github.com/Nico-Curti/NumPyNet/blob/006a19a39db5666d81c59e6c5993e7cbcd2ff2a9/NumPyNet/layers/batchnorm_layer.py",
    ),
    Mistake(
        "statistics of each example",
        lambda **p: _Parts(**p, average=lambda x: x.mean(tuple(range(1, x.ndim)), keepdim=True)).cotangents(),
        forgets="over which axes: this is layer normalisation",
        shows="everywhere",
    ),
    Mistake(
        "means over the space axes",
        lambda **p: _Parts(**p).cotangents(average=_average_over_space),
        forgets="that a channel is averaged over the batch axis too",
        shows="for x of rank 3 and more",
    ),
    Mistake(
        "weight missing in dx",
        lambda **p: _Parts(**{**p, "weight": torch.ones_like(p["weight"])}).cotangents(),
        forgets="the factor weight between y and x̂",
        shows="wherever weight is not 1",
        seen="https://github.com/denizyuret/Knet.jl/issues/288",
    ),
    Mistake(
        "eps forgotten",
        lambda **p: _Parts(**{**p, "eps": 1e-300}).cotangents(),
        forgets="that forward added eps",
        shows="where the variance is not large against eps",
        seen="https://github.com/chainer/chainer/pull/4191",
    ),
    Mistake(
        "eps outside the root",
        lambda **p: _Parts(**{**p, "eps": 0.0}, outside=p["eps"]).cotangents(),
        forgets="where forward added eps",
        shows="where the variance is not large against eps",
        seen="https://github.com/pjreddie/darknet/blob/011eed632d70c4e907ad512e2ac1e04d90b1072c/src/batchnorm_layer.c",
    ),
    Mistake(
        "variance for 1/√v",
        lambda **p: _Parts(**p).cotangents(direct=_Parts(**p).s, mean=_Parts(**p).s, projection=_Parts(**p).s),
        forgets="the square root: dx is divided by the variance",
        shows="wherever the variance is not 1",
    ),
    Mistake(
        "x̂ in place of x − μ",
        lambda **p: _Parts(**p).cotangents(projection=_Parts(**p).s),
        forgets="that v^(−3/2) goes with x − μ: x̂ has been divided by the deviation already",
        shows="wherever the variance is not 1",
    ),
    Mistake(
        "running statistics",
        lambda x, weight, bias, dy, eps: (
            dy * like(weight, dy) * (1 + eps) ** -0.5,
            channel_sum(dy * x) * (1 + eps) ** -0.5,
            channel_sum(dy),
        ),
        forgets="that training normalises by the batch; here running statistics stand at their first values, 0 and 1",
        shows="everywhere",
    ),
    Mistake(
        "dweight from x",
        lambda **p: _Parts(**p).cotangents(dweight=channel_sum(p["dy"] * p["x"] * _Parts(**p).s)),
        forgets="to centre x",
        shows="wherever the mean is not 0",
        seen="https://github.com/facebookresearch/CrypTen/blob/03a2994eeae69dde700d6a4fdb9b8fb089ca2652/crypten/gradients.py",
    ),
    Mistake(
        "dweight times the deviation",
        lambda **p: _Parts(**p).cotangents(dweight=channel_sum(p["dy"] * _Parts(**p).x_hat / _Parts(**p).s ** 2)),
        forgets="to divide by the deviation and not multiply",
        shows="wherever the variance is not 1",
        seen="https://github.com/tensorflow/tensorflow/issues/14676",
    ),
    Mistake(
        "dweight and dbias averaged",
        lambda **p: _Parts(**p).cotangents(
            dweight=channel_mean(p["dy"] * _Parts(**p).x_hat), dbias=channel_mean(p["dy"])
        ),
        forgets="that weight and bias reach every value, so their cotangents are sums",
        shows="everywhere",
        seen="https://github.com/cthorey/CS231/issues/9",
    ),
    Mistake(
        "dbias over axis 0 only",
        lambda **p: _Parts(**p).cotangents(dbias=p["dy"].sum(0)),
        forgets="the space axes",
        shows="for x of rank 3 and more",
        seen="https://github.com/zoq/mlpack/blob/426cf4b08a6af15fa6936196b97323fd3536f702/src/mlpack/methods/ann/layer/batch_norm_impl.hpp",
    ),
    Mistake(
        "variance as E[x²] − μ²",
        lambda **p: _Parts(**p, cancelling=True).cotangents(),
        forgets="that two large numbers cancel when the mean is large against the deviation",
        shows="where |μ| is many deviations",
        seen="https://github.com/tenstorrent/tt-metal/issues/45968",
        loses_digits=True,
    ),
)
