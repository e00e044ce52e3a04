"""Running statistics of batch normalisation: what one batch adds to them.

    mean = Σ x / m
    variance = Σ (x − mean)² / (m − 1)
    running_mean ← (1 − momentum) running_mean + momentum mean
    running_var ← (1 − momentum) running_var + momentum variance

The sums are over the m values of a channel: batch and space.

momentum is the share of the newest batch: 0.1 means that about the last ten batches count.

Derivation.  There are two variances.  The batch is normalised by its own, biased variance (divided by m): that is a
statement about these m values.  What is kept is an estimate of the variance of the values to come.  The mean is fitted
to the same m values, which takes one of m degrees of freedom: E[Σ (x − mean)²] = (m − 1) σ², so that the estimate
divides by m − 1.

momentum=None of torch, by which each of the k batches so far counts alike, is momentum = 1/k in the k-th batch.  An
empty batch changes nothing.  One value per channel has no unbiased variance: ValueError, as in torch.

Conventions.  Of momentum: in torch it is the share of the new; in Keras, TensorFlow, flax and ONNX that of the old,
0.99 or 0.9.  Of the variance: torch keeps the unbiased one; Keras and flax the biased one, which differs by m/(m −
1).  eps is no part of it.

Sources: Ioffe & Szegedy, "Batch Normalization", ICML 2015, algorithm 2, step 10, for the unbiased variance;
torch.nn.BatchNorm2d for the exponential average.
"""

from collections.abc import Set
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, constant, normal, require, uniform


class Outputs(NamedTuple):
    running_mean: Float[Tensor, "channels"]
    running_var: Float[Tensor, "channels"]


def forward(
    x: Float[Tensor, "batch channels *space"],
    running_mean: Float[Tensor, "channels"],
    running_var: Float[Tensor, "channels"],
    *,
    momentum: float = 0.1,
) -> Outputs:
    m = x.shape[0] * x.shape[2:].numel()
    require(
        m != 1 or not x.numel(),
        "running_statistics: a channel needs two values at least",
        f"x of shape {tuple(x.shape)}",
        "One value has no unbiased variance.",
    )
    require(
        0 <= momentum <= 1, "running_statistics: momentum must lie in [0, 1]", momentum, "It is the share of the new."
    )
    if not x.numel():
        return Outputs(running_mean.clone(), running_var.clone())
    return after_batch(running_mean, running_var, *statistics(x), m, momentum)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel."""
    axes = (0, *range(2, x.ndim))
    mean = torch.mean(x, axes)
    away = x - mean.reshape(-1, *(1,) * (x.ndim - 2))
    return mean, torch.mean(away**2, axes)


def after_batch(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, variance: Tensor, m: int, momentum: float | Tensor
) -> Outputs:
    """What mean and biased variance of a batch, which its normalisation has found already, make of running ones."""
    unbiased = variance * (m / (m - 1))
    return Outputs(tracked(running_mean, mean, momentum), tracked(running_var, unbiased, momentum))


def tracked(running: Tensor, new: Tensor, momentum: float | Tensor) -> Tensor:
    """A running statistic after one batch, of which momentum is the share."""
    return (1 - momentum) * running + momentum * new


INPUTS = {
    "x": Input(normal(mean=0.5, std=1.5), cotangent=False),
    "running_mean": Input(normal(), cotangent=False),
    "running_var": Input(uniform(0.25, 2.0), cotangent=False),
}
USUAL = {"momentum": (0.01, 0.5)}

EDGES = (
    Edge("features only", sizes={"space": ()}),
    Edge("images", sizes={"space": (2, 3)}),
    Edge("two values per channel", sizes={"batch": 2, "space": ()}),
    Edge("one example, many values", sizes={"batch": 1, "space": (4,)}),
    Edge("the new alone", {"momentum": 1.0}),
    Edge("the new alone, two values per channel", {"momentum": 1.0}, sizes={"batch": 2, "space": ()}),
    Edge("the old alone", {"momentum": 0.0}),
    Edge("half of each", {"momentum": 0.5}),
    Edge("a third, as in the third of all batches", {"momentum": 1 / 3}),
    Edge("nothing yet", {"running_mean": constant(0.0), "running_var": constant(0.0)}),
    Edge("constant channels", {"x": constant(3.0), "momentum": 1.0}),
    Edge("large mean", {"x": normal(mean=30.0), "momentum": 0.5}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("no channels", sizes={"channels": 0}),
    Edge("one value per channel", sizes={"batch": 1, "space": ()}, raises=ValueError),
    Edge("momentum above 1", {"momentum": 1.5}, raises=ValueError),
    Edge("negative momentum", {"momentum": -0.1}, raises=ValueError),
)


def varied(names: Set[str], x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float) -> Outputs:
    """The page's formula but for what is named."""
    m = x.shape[0] * x.shape[2:].numel()
    if not x.numel():
        return Outputs(running_mean.clone(), running_var.clone())
    mean, biased = statistics(x)
    other = {
        "biased variance": biased,
        "unbiased twice": biased * (m / (m - 1)) ** 2,
        "degrees of freedom of the batch": biased * (x.shape[0] / max(x.shape[0] - 1, 1)),
        "deviation for variance": torch.sqrt(biased * (m / (m - 1))),
        "eps in the variance": biased * (m / (m - 1)) + 1e-5,
        "mean of squares": (biased + mean**2) * (m / (m - 1)),
        "inverse deviation": 1 / torch.sqrt(biased * (m / (m - 1)) + 1e-5),
    }
    variance = next((found for name, found in other.items() if name in names), biased * (m / (m - 1)))
    if "share of the old" in names:
        momentum = 1 - momentum
    if "1 − momentum forgotten" in names:
        return Outputs(running_mean + momentum * mean, running_var + momentum * variance)
    if "never updated" in names:
        return Outputs(running_mean.clone(), running_var.clone())
    if "mean alone" in names:
        return Outputs(tracked(running_mean, mean, momentum), running_var.clone())
    if "updated twice" in names:
        return Outputs(
            tracked(tracked(running_mean, mean, momentum), mean, momentum),
            tracked(tracked(running_var, variance, momentum), variance, momentum),
        )
    if "around the running mean" in names:
        away = x - running_mean.reshape(-1, *(1,) * (x.ndim - 2))
        variance = torch.mean(away**2, (0, *range(2, x.ndim))) * (m / (m - 1))
    return Outputs(tracked(running_mean, mean, momentum), tracked(running_var, variance, momentum))


CONVENTIONS = {
    "momentum": {
        "share of the new": Convention("(1 − momentum) old + momentum new: torch"),
        "share of the old": Convention(
            "momentum old + (1 − momentum) new: Keras, TensorFlow, flax, ONNX", varied="share of the old"
        ),
    },
    "variance": {
        "unbiased": Convention("divided by m − 1: torch"),
        "biased": Convention("divided by m: Keras, flax", varied="biased variance"),
    },
}


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


MISTAKES = (
    _mistake(
        "biased variance",
        "that what is kept is the unbiased variance (Keras and flax keep the biased one)",
        "for few values per channel: by m/(m − 1)",
    ),
    _mistake("unbiased twice", "that the variance was unbiased already", "for few values per channel"),
    _mistake(
        "degrees of freedom of the batch",
        "that each value of the space is one as well: m is batch · space",
        "where there is space",
    ),
    _mistake(
        "share of the old",
        "that momentum is the share of the new here; in Keras, flax and ONNX it is that of the old",
        "unless momentum is ½",
    ),
    _mistake("1 − momentum forgotten", "that the shares add up to 1", "unless momentum is 0"),
    _mistake("never updated", "the batch", "unless momentum is 0"),
    _mistake("mean alone", "the variance", "unless momentum is 0"),
    _mistake(
        "updated twice", "that a batch counts once: recomputing forward for a checkpoint counts it again", "at once"
    ),
    _mistake("deviation for variance", "that what is kept is the variance, not its root", "unless it is 1"),
    _mistake(
        "inverse deviation", "that what is kept is the variance, and not the factor that forward needs", "at once"
    ),
    _mistake("eps in the variance", "that eps belongs to the normalisation", "for variances beside eps"),
    _mistake("mean of squares", "to take the mean off", "wherever the mean is not 0"),
    _mistake("around the running mean", "that the variance is around the batch's own mean", "unless they are equal"),
)
