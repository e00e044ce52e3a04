"""Sigmoid and binary cross-entropy in one: what it costs that something holds of which the logit x says σ(x).

    σ(x) = 1 / (1 + e⁻ˣ),   softplus(x) = log(1 + eˣ) = −log σ(−x)

An element with the target t (1 if it holds, 0 if not, or a probability) and the weight p of what holds costs

    l = p t softplus(−x) + (1 − t) softplus(x)

    y = Σ l        reduction = "sum"
    y = Σ l / n    reduction = "mean"

with n the number of all elements.  pos_weight holds one p for each place on the last axis; without it p = 1.

Derivation.  softplus has the slope σ, and softplus(−x) the slope −σ(−x).  Let s be dy for a sum, dy / n for a mean:

    dx      = s ( (1 − t) σ(x) − p t σ(−x) )
                  negative       positive
    dtarget = s ( p softplus(−x) − softplus(x) )

For p = 1 these are dx = s (σ(x) − t), and dtarget = −s x, since softplus(x) − softplus(−x) = x.  The weights are
constants.

Digits.  σ(x) − t cancels where the target is nearly certain, which is where training ends: for t = 1 there is no digit
left from x = 17 (float32) or 37 (float64) on, and that is what torch computes.  σ(−x), in e = e^−|x|, has them all,
down to gradual underflow:

    σ(|x|) = 1 / (1 + e)      σ(−|x|) = e / (1 + e)

So is the cost no difference of large numbers: max(x, 0) − x t + log(1 + e^−|x|), with log1p, is the same where t is 0
or 1, and as good there.  torch.logaddexp(x, 0) is softplus, from the larger of both.

At the edges: a mean over nothing is 0/0 = NaN.  A logit of ±∞ is a certain answer; where it is right y is NaN, the
product of 0 and ∞, and dx is 0, as in torch.

Source: Bishop, "Pattern Recognition and Machine Learning" (2006), eq. 4.90 and 4.91.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, constant, normal, uniform
from manual_bp.rules.loss._reduction import divisor


class Residuals(NamedTuple):
    x: Float[Tensor, "*batch outputs"]
    """x and not σ(x): once σ(x) has rounded to 1, σ(−x) cannot be had from it."""
    target: Float[Tensor, "*batch outputs"]
    pos_weight: Float[Tensor, "outputs"] | None
    reduction: Literal["mean", "sum"]


def forward(
    x: Float[Tensor, "*batch outputs"],
    target: Float[Tensor, "*batch outputs"],
    pos_weight: Float[Tensor, "outputs"] | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Float[Tensor, ""], Residuals]:
    cost = _weighted(target, pos_weight) * _softplus(-x) + (1 - target) * _softplus(x)
    return torch.sum(cost) / divisor(x, reduction), Residuals(x, target, pos_weight, reduction)


def backward(
    residuals: Residuals, dy: Float[Tensor, ""]
) -> tuple[Float[Tensor, "*batch outputs"], Float[Tensor, "*batch outputs"], None]:
    x, target, pos_weight, reduction = residuals
    n = divisor(x, reduction)
    e = torch.exp(-torch.abs(x))
    larger, smaller = 1 / (1 + e), e / (1 + e)
    negative = (1 - target) * torch.where(x < 0, smaller, larger)
    positive = _weighted(target, pos_weight) * torch.where(x < 0, larger, smaller)
    dtarget = -x if pos_weight is None else pos_weight * _softplus(-x) - _softplus(x)
    return dy * ((negative - positive) / n), dy * (dtarget / n), None


def terms(residuals: Residuals, dy: Float[Tensor, ""]) -> dict[str, dict[str, Tensor]]:
    x, target, pos_weight, reduction = residuals
    n = divisor(x, reduction)
    found = {
        "dx": {
            "negative": dy * ((1 - target) * torch.sigmoid(x) / n),
            "positive": -dy * (_weighted(target, pos_weight) * torch.sigmoid(-x) / n),
        },
        "dtarget": {"whole": -dy * (x / n)},
    }
    if pos_weight is not None:
        positive, negative = dy * (pos_weight * _softplus(-x) / n), -dy * (_softplus(x) / n)
        found["dtarget"] = {"positive": positive, "negative": negative}
    return found


def _softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ)."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


def _weighted(target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """p t."""
    return target if pos_weight is None else pos_weight * target


INPUTS = {
    "x": Input(normal(std=2.0), outweighs=2.0**12),
    "target": Input(uniform(0.0, 1.0), optional=True),
    "pos_weight": Input(uniform(0.25, 4.0), cotangent=False),
}

_INF = float("inf")

EDGES = (
    Edge("sum", {"reduction": "sum"}),
    Edge("no weight", {"pos_weight": None}),
    Edge("sum without weight", {"pos_weight": None, "reduction": "sum"}),
    Edge("hard targets", {"x": [[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], "target": [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]}),
    Edge("zeros", {"x": [[0.0, -0.0, 0.0]], "target": [[0.0, 1.0, 0.5]]}),
    Edge(
        "where dx crosses 0", {"x": [[0.0, 1.0986123, -1.0986123]], "target": [[0.5, 0.75, 0.25]], "pos_weight": None}
    ),
    Edge("nearly certain and right", {"x": [[9.0, 17.0, -17.0, 37.0, -80.0]], "target": [[1.0, 1.0, 0.0, 1.0, 0.0]]}),
    Edge("nearly certain and wrong", {"x": [[9.0, 17.0, -17.0, 37.0, -80.0]], "target": [[0.0, 0.0, 1.0, 0.0, 1.0]]}),
    Edge(
        "nearly certain and right, no weight",
        {"x": [[17.0, -17.0, 37.0, -37.0]], "target": [[1.0, 0.0, 1.0, 0.0]], "pos_weight": None, "reduction": "sum"},
    ),
    Edge("nearly certain, soft targets", {"x": [[9.0, 17.0, -17.0, -37.0]], "target": [[0.95, 0.9, 0.05, 1e-6]]}),
    Edge(
        "gradual underflow",
        {"x": [[88.0, -88.0, 95.0, -103.0, 720.0, -740.0]], "target": [[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]},
    ),
    Edge("exponentials that overflow", {"x": [[1e3, -1e3, 1e30]], "target": [[0.25, 0.5, 1.0]]}),
    Edge("certain and right", {"x": [[_INF, -_INF, 1.0]], "target": [[1.0, 0.0, 1.0]]}),
    Edge("subnormal logits", {"x": [[1e-310, -1e-310, 1e-40, -1e-40]], "target": [[1.0, 0.0, 0.5, 1.0]]}),
    Edge("targets that are no probabilities", {"target": normal()}),
    Edge("a weight of 0", {"pos_weight": constant(0.0)}),
    Edge("weights of 1", {"pos_weight": constant(1.0)}),
    Edge("large weights", {"pos_weight": constant(1e3)}),
    Edge("one weight for each output", {"pos_weight": [0.5, 1.0, 20.0]}),
    Edge("one example", sizes={"batch": (1,)}),
    Edge("a vector", sizes={"batch": ()}),
    Edge("images", sizes={"batch": (2, 3)}),
    Edge("one output", sizes={"outputs": 1}),
    Edge("as many examples as outputs", sizes={"batch": (3,), "outputs": 3}),
    Edge("empty batch", sizes={"batch": (0,)}),
    Edge("empty batch in a sum", {"reduction": "sum"}, sizes={"batch": (0,)}),
    Edge("no output", sizes={"outputs": 0}),
    Edge("negative cotangent", {"dy": -2.5}),
    Edge("cotangent near float32's smallest", {"x": normal(std=1e4), "dy": 2e-38}, sizes={"batch": (50,)}),
    Edge("a target that would broadcast", {"x": [[1.0, 2.0]], "target": [1.0, 0.0]}, raises=ValueError),
    Edge("one weight for all outputs", {"x": [[1.0, 2.0]], "pos_weight": [2.0]}, raises=ValueError),
)


def _by_log(x: Tensor) -> Tensor:
    """softplus, without log1p."""
    return torch.clamp(x, min=0) + torch.log(1 + torch.exp(-torch.abs(x)))


VALUES = (
    Value(
        "log(1 + e)",
        lambda x, target, pos_weight, reduction: (
            torch.sum(_weighted(target, pos_weight) * _by_log(-x) + (1 - target) * _by_log(x)) / divisor(x, reduction)
        ),
        forgets="that 1 + e rounds to 1 where e is small, and log1p takes e itself",
        shows="where the target is nearly certain",
    ),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(self, x: Tensor, target: Tensor, pos_weight: Tensor | None, dy: Tensor, reduction: str) -> None:
        self.x, self.target, self.dy, self.reduction = x, target, dy, reduction
        self.n = divisor(x, reduction)
        self.weight = torch.ones_like(x[..., :1]) if pos_weight is None else pos_weight
        self.dtarget = -x if pos_weight is None else pos_weight * _softplus(-x) - _softplus(x)
        of_all = torch.sum(self.weight.expand_as(x))
        self.share_of_weights = self.n / torch.where(of_all == 0, 1, of_all) if reduction == "mean" else 1.0
        self.positive, self.negative = self.weight * target * torch.sigmoid(-x), (1 - target) * torch.sigmoid(x)

    def cotangents(
        self,
        dx: Tensor | None = None,
        dtarget: Tensor | None = None,
        dy: Tensor | float | None = None,
        n: float | None = None,
    ) -> tuple[Tensor, Tensor, None]:
        """Those of a sum that are given or the right ones, times dy and divided by n."""
        dx = self.negative - self.positive if dx is None else dx
        dtarget = self.dtarget if dtarget is None else dtarget
        dy, n = self.dy if dy is None else dy, max(self.n if n is None else n, 1)
        return dy * (dx / n), dy * (dtarget / n), None

    def of_sigmoid(self, p: Tensor) -> Tensor:
        """dx by way of probabilities."""
        return (1 - self.target) * p - self.weight * self.target * (1 - p)

    def through_the_sigmoid(self) -> Tensor:
        """dx as that of two rules one after the other, the cost of probabilities and the sigmoid."""
        p, q = torch.sigmoid(self.x), torch.sigmoid(-self.x)
        return ((1 - self.target) / q - self.weight * self.target / p) * (p * q)


MISTAKES = (
    Mistake(
        "σ(x) - t",
        lambda **g: _Parts(**g).cotangents(dx=_Parts(**g).of_sigmoid(torch.sigmoid(g["x"]))),
        forgets="that 1 - σ(x) cancels once the target is nearly certain; it is σ(-x)",
        shows="at a target of 1, growing with x; from 17 (float32) or 37 (float64) on no digit is left",
        seen="https://github.com/jax-ml/jax/commit/893b483e3f13",
        loses_digits=True,
    ),
    Mistake(
        "1 - σ(-x)",
        lambda **g: _Parts(**g).cotangents(dx=(1 - g["target"]) * (1 - torch.sigmoid(-g["x"])) - _Parts(**g).positive),
        forgets="the same where the answer is no: 1 - σ(-x) is σ(x)",
        shows="at a target of 0, growing with -x; from 17 (float32) or 37 (float64) on no digit is left",
        loses_digits=True,
    ),
    Mistake(
        "through the probabilities",
        lambda **g: _Parts(**g).cotangents(dx=_Parts(**g).through_the_sigmoid()),
        forgets="that σ(x) and 1 - σ(x) sink to 0, where 0/0 is NaN",
        shows="from |x| = 89 (float32) or 710 (float64) on",
    ),
    Mistake(
        "probabilities clipped",
        lambda **g: _Parts(**g).cotangents(
            dx=torch.where(
                (torch.sigmoid(g["x"]) - 0.5).abs() > 0.5 - 1e-3,
                0,
                _Parts(**g).negative - _Parts(**g).positive,
            )
        ),
        forgets="that a clipped probability stops the gradient, also where the answer is certain and wrong",
        shows="where σ(x) is within the clip, here 0.001, of 0 or 1",
    ),
    Mistake(
        "exponential overflows",
        lambda **g: _Parts(**g).cotangents(
            dx=_Parts(**g).of_sigmoid(torch.exp(g["x"]) / (1 + torch.exp(g["x"]))),
        ),
        forgets="that e^x overflows on the right, where infinity over infinity is NaN",
        shows="from x = 89 (float32) or 710 (float64)",
        seen="https://github.com/huggingface/candle/commit/3bbb88fcb463",
    ),
    Mistake(
        "cotangent dropped",
        lambda **g: _Parts(**g).cotangents(dy=1.0),
        forgets="dy",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
        seen="https://github.com/chainer/chainer/commit/e60dd3efbca0",
    ),
    Mistake(
        "sign",
        lambda **g: _Parts(**g).cotangents(dy=-g["dy"]),
        forgets="that the cost falls as the logit of what holds rises",
        shows="everywhere",
    ),
    Mistake(
        "σ(x) alone",
        lambda **g: _Parts(**g).cotangents(dx=_Parts(**g).negative),
        forgets="the part of the target that holds",
        shows="wherever the target is not 0",
    ),
    Mistake(
        "target's part alone",
        lambda **g: _Parts(**g).cotangents(dx=-_Parts(**g).positive),
        forgets="the part of the target that does not hold, as the cost of classes has none",
        shows="wherever the target is not 1",
    ),
    Mistake(
        "sigmoid's derivative on top",
        lambda **g: _Parts(**g).cotangents(
            dx=(_Parts(**g).negative - _Parts(**g).positive) * torch.sigmoid(g["x"]) * torch.sigmoid(-g["x"])
        ),
        forgets="that σ - t is the derivative with respect to the logits already",
        shows="everywhere",
    ),
    Mistake(
        "sigmoid forgotten",
        lambda **g: _Parts(**g).cotangents(dx=_Parts(**g).of_sigmoid(g["x"])),
        forgets="that x is a logit, and no probability",
        shows="everywhere",
    ),
    Mistake(
        "sigmoid twice",
        lambda **g: _Parts(**g).cotangents(dx=_Parts(**g).of_sigmoid(torch.sigmoid(torch.sigmoid(g["x"])))),
        forgets="that what it was given has already been through the sigmoid",
        shows="everywhere",
    ),
    Mistake(
        "softmax for the sigmoid",
        lambda **g: _Parts(**g).cotangents(dx=_Parts(**g).of_sigmoid(torch.softmax(g["x"], -1))),
        forgets="that every output is a question of its own",
        shows="everywhere",
    ),
    Mistake(
        "pos_weight forgotten",
        lambda **g: _Parts(**{**g, "pos_weight": None}).cotangents(),
        forgets="that forward weighted what holds",
        shows="with weights that are not 1",
    ),
    Mistake(
        "pos_weight on both parts",
        lambda **g: _Parts(**g).cotangents(
            dx=_Parts(**g).weight * _Parts(**{**g, "pos_weight": None}).cotangents(dy=1.0, n=1.0)[0]
        ),
        forgets="that what does not hold is not weighted",
        shows="with weights that are not 1",
    ),
    Mistake(
        "pos_weight on the other part",
        lambda **g: _Parts(**g).cotangents(
            dx=_Parts(**g).weight * _Parts(**g).negative - g["target"] * torch.sigmoid(-g["x"])
        ),
        forgets="which part it is whose weight is given",
        shows="with weights that are not 1",
    ),
    Mistake(
        "σ(x) - p t",
        lambda **g: _Parts(**g).cotangents(dx=torch.sigmoid(g["x"]) - _Parts(**g).weight * g["target"]),
        forgets="that the weight multiplies 1 - σ(x) as a whole",
        shows="with weights that are not 1",
    ),
    Mistake(
        "1/n forgotten",
        lambda **g: _Parts(**g).cotangents(n=1.0),
        forgets="that the cost is a mean",
        shows="for a mean of more than one element",
    ),
    Mistake(
        "1/n twice",
        lambda **g: _Parts(**g).cotangents(n=_Parts(**g).n ** 2),
        forgets="that the cost is divided once",
        shows="for a mean of more than one element",
    ),
    Mistake(
        "a sum divided too",
        lambda **g: _Parts(**{**g, "reduction": "mean"}).cotangents(),
        forgets="that a sum is not divided",
        shows='for reduction="sum"',
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "mean over the batch alone",
        lambda **g: _Parts(**g).cotangents(n=g["x"].shape[:-1].numel() if g["reduction"] == "mean" else 1.0),
        forgets="that the mean goes over the outputs too",
        shows="for a mean of more than one output",
    ),
    Mistake(
        "sum of the weights for n",
        lambda **g: _Parts(**g).cotangents(dy=g["dy"] * _Parts(**g).share_of_weights),
        forgets="that a weight changes the cost, and not the number of elements",
        shows="for a mean with weights that are not 1",
    ),
    Mistake(
        "targets rounded to 0 and 1",
        lambda **g: _Parts(**{**g, "target": (g["target"] > 0.5).to(g["x"].dtype)}).cotangents(),
        forgets="that a target may be a probability",
        shows="wherever the target is neither 0 nor 1",
    ),
    Mistake(
        "dtarget's sign",
        lambda **g: _Parts(**g).cotangents(dtarget=-_Parts(**g).dtarget),
        forgets="that the cost falls with the target where x is positive",
        shows="everywhere but at x = 0",
    ),
    Mistake(
        "dtarget from dx",
        lambda **g: _Parts(**g).cotangents(dtarget=_Parts(**g).positive - _Parts(**g).negative),
        forgets="that the target enters linearly, and not as the opposite of x",
        shows="everywhere",
    ),
    Mistake(
        "pos_weight forgotten in dtarget",
        lambda **g: _Parts(**g).cotangents(dtarget=-g["x"]),
        forgets="that softplus(-x) is weighted",
        shows="with weights that are not 1",
    ),
)
