"""Batch normalisation with running statistics, as in inference.

    s = 1/√(running_var + eps)      x̂ = (x − running_mean) s      y = x̂ weight + bias

Derivation.  The statistics are constants, so each x reaches only its own y, with factor s weight; weight and bias
reach every y of their channel:

    dx = dy weight s      dweight = Σ dy x̂      dbias = Σ dy

The two terms that training mode subtracts come from the statistics of the batch; there are none here.  running_mean and
running_var have no cotangent: they are a record, not parameters.  One value per channel is fine.

Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, algorithm 2, line 11.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require, uniform
from manual_bp.rules.normalization._channels import channel_mean, channel_sum, count, like


class Residuals(NamedTuple):
    x: Float[Tensor, "batch channels *space"]
    weight: Float[Tensor, "channels"]
    running_mean: Float[Tensor, "channels"]
    running_var: Float[Tensor, "channels"]
    """All of these are alive anyway; x̂ would be a tensor of its own and is recomputed."""
    eps: float


def forward(
    x: Float[Tensor, "batch channels *space"],
    weight: Float[Tensor, "channels"],
    bias: Float[Tensor, "channels"],
    running_mean: Float[Tensor, "channels"],
    running_var: Float[Tensor, "channels"],
    *,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "batch channels *space"], Residuals]:
    require(eps >= 0, "batch_norm_inference: eps must not be negative", eps, "It keeps 1/√v finite.")
    residuals = Residuals(x, weight, running_mean, running_var, eps)
    x_hat, _ = _normalised(residuals)
    return x_hat * like(weight, x) + like(bias, x), residuals


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch channels *space"]
) -> tuple[Float[Tensor, "batch channels *space"], Float[Tensor, "channels"], Float[Tensor, "channels"], None, None]:
    x_hat, s = _normalised(residuals)
    dx = dy * (like(residuals.weight, dy) * s)
    dweight = channel_sum(dy * x_hat)
    dbias = channel_sum(dy)
    return dx, dweight, dbias, None, None


def _normalised(residuals: Residuals) -> tuple[Tensor, Tensor]:
    """x̂, and the factor s that made it."""
    x = residuals.x
    s = 1 / torch.sqrt(like(residuals.running_var, x) + residuals.eps)
    return (x - like(residuals.running_mean, x)) * s, s


INPUTS = {
    "x": Input(normal(mean=0.5, std=1.5)),
    "weight": Input(normal(mean=1.0, std=0.5)),
    "bias": Input(normal()),
    "running_mean": Input(normal(mean=0.5, std=0.3), cotangent=False),
    "running_var": Input(uniform(0.5, 2.5), cotangent=False),
}
USUAL = {"eps": (1e-3, 1e-6)}

EDGES = (
    Edge("features only", sizes={"space": ()}),
    Edge("images", sizes={"space": (2, 3)}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("one value per channel", sizes={"batch": 1, "space": ()}),
    Edge("variance 0", {"running_var": constant(0.0)}),
    Edge("large eps", {"eps": 1}),
    Edge("negative weight", {"weight": constant(-0.5)}),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge("large mean", {"x": normal(mean=30.0), "running_mean": constant(30.0)}),
    Edge("negative eps", {"eps": -1.0}, raises=ValueError),
)


def _variance(x: Tensor) -> Tensor:
    return channel_mean((x - like(channel_mean(x), x)) ** 2)


def _training_formula(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, dy: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, None, None]:
    x_hat, s = _normalised(Residuals(x, weight, running_mean, running_var, eps))
    g = dy * like(weight, dy)
    dx = s * (g - like(channel_mean(g), g) - x_hat * like(channel_mean(g * x_hat), g))
    return dx, channel_sum(dy * x_hat), channel_sum(dy), None, None


MISTAKES = (
    Mistake(
        "training formula",
        _training_formula,
        forgets="that running statistics are constants: the mean and projection terms have no place here",
        shows="everywhere",
        seen="https://github.com/pytorch/xla/issues/913",
    ),
    Mistake(
        "statistics of the batch",
        lambda x, weight, bias, running_mean, running_var, dy, eps: backward(
            Residuals(x, weight, channel_mean(x), _variance(x), eps), dy
        ),
        forgets="that forward normalised with the running statistics",
        shows="everywhere",
        seen="https://github.com/torch/nn/pull/768",
    ),
    Mistake(
        "weight missing in dx",
        lambda x, weight, bias, running_mean, running_var, dy, eps: backward(
            Residuals(x, torch.ones_like(weight), running_mean, running_var, eps), dy
        ),
        forgets="the factor weight between y and x̂",
        shows="wherever weight is not 1",
    ),
    Mistake(
        "eps forgotten",
        lambda x, weight, bias, running_mean, running_var, dy, eps: backward(
            Residuals(x, weight, running_mean, running_var, 0.0), dy
        ),
        forgets="that forward added eps",
        shows="where the variance is not large against eps",
        seen="https://github.com/chainer/chainer/pull/2214",
    ),
    Mistake(
        "eps twice",
        lambda x, weight, bias, running_mean, running_var, dy, eps: backward(
            Residuals(x, weight, running_mean, running_var, 2 * eps), dy
        ),
        forgets="that eps was added already",
        shows="where the variance is not large against eps",
        seen="https://github.com/chainer/chainer/issues/7506",
    ),
    Mistake(
        "eps outside the root",
        lambda x, weight, bias, running_mean, running_var, dy, eps: backward(
            Residuals(x, weight, running_mean, (torch.sqrt(running_var) + eps) ** 2, 0.0), dy
        ),
        forgets="where forward added eps",
        shows="where the variance is not large against eps",
    ),
    Mistake(
        "variance for the deviation",
        lambda x, weight, bias, running_mean, running_var, dy, eps: backward(
            Residuals(x, weight, running_mean, (running_var + eps) ** 2, 0.0), dy
        ),
        forgets="the square root",
        shows="wherever the variance is not 1",
    ),
    Mistake(
        "dweight from x",
        lambda x, weight, bias, running_mean, running_var, dy, eps: (
            *backward(Residuals(x, weight, running_mean, running_var, eps), dy)[:1],
            *backward(Residuals(x, weight, 0 * running_mean, running_var, eps), dy)[1:],
        ),
        forgets="to centre x",
        shows="wherever the mean is not 0",
        seen="https://github.com/facebookresearch/CrypTen/blob/03a2994eeae69dde700d6a4fdb9b8fb089ca2652/crypten/gradients.py",
    ),
    Mistake(
        "dweight and dbias averaged",
        lambda x, weight, bias, running_mean, running_var, dy, eps: (
            backward(Residuals(x, weight, running_mean, running_var, eps), dy)[0],
            *(sums / count(x) for sums in backward(Residuals(x, weight, running_mean, running_var, eps), dy)[1:3]),
            None,
            None,
        ),
        forgets="that weight and bias reach every value, so their cotangents are sums",
        shows="for more than one value per channel",
    ),
    Mistake(
        "gradient for the statistics",
        lambda x, weight, bias, running_mean, running_var, dy, eps: (
            *backward(Residuals(x, weight, running_mean, running_var, eps), dy)[:3],
            -channel_sum(dy) * weight / torch.sqrt(running_var + eps),
            -0.5 * channel_sum(dy * (x - like(running_mean, x))) * weight / torch.sqrt(running_var + eps) ** 3,
        ),
        forgets="that running statistics are a record and no parameters",
        shows="everywhere",
    ),
)
