"""Kullback-Leibler divergence of the target from what the log-probabilities x say.

    y = Σ t (log t − x)        reduction = "sum"
    y = Σ t (log t − x) / n    reduction = "batchmean",   n = batch size

The sum goes over all elements, and 0 log 0 = 0: a target of 0 costs nothing, whatever x is there.  "batchmean" is the
divergence of an example, on average; torch's "mean", which divides by the number of all elements, is none.

Derivation.  x_k enters one summand, linearly; d/dt (t log t − t x) = log t + 1 − x.  Let s be dy for a sum, dy / n for
a mean:

    dx      = −s t
    dtarget = s (log t + 1 − x)

No derivative of a softmax is in dx: x is what came out of log_softmax, whose page has it.  A network whose loss this is
ends with that; of any other x the cost falls without bound as x grows.  At t = 0 the slope of t log t is −∞, and so is
dtarget (for s > 0); it is 0/0 = NaN if log t + 1 is taken as t/t + log t, as torch does.  Who differentiates by the
target, as a reverse divergence needs, works with its logarithm: nothing is infinite there.

Nothing is asked of x and the target but their shapes: they are not made to add up to 1.  A negative target has no
logarithm: NaN.  A mean over no example is 0/0 = NaN.

Source: Kullback & Leibler, "On Information and Sufficiency", Ann. Math. Statist. 22 (1951), eq. 2.4; Cover & Thomas,
"Elements of Information Theory" (2006), eq. 2.26.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Shape, normal, uniform
from manual_bp.rules.loss._reduction import divisor


class Residuals(NamedTuple):
    x: Float[Tensor, "batch *classes"]
    """For dtarget; dx asks for the target alone."""
    target: Float[Tensor, "batch *classes"]
    reduction: Literal["batchmean", "sum"]


def forward(
    x: Float[Tensor, "batch *classes"],
    target: Float[Tensor, "batch *classes"],
    *,
    reduction: Literal["batchmean", "sum"] = "batchmean",
) -> tuple[Float[Tensor, ""], Residuals]:
    cost = torch.where(target == 0, 0, target * (torch.log(target) - x))
    return torch.sum(cost) / divisor(x, reduction), Residuals(x, target, reduction)


def backward(
    residuals: Residuals, dy: Float[Tensor, ""]
) -> tuple[Float[Tensor, "batch *classes"], Float[Tensor, "batch *classes"]]:
    x, target, reduction = residuals
    n = divisor(x, reduction)
    return -dy * (target / n), dy * ((torch.log(target) + 1 - x) / n)


def terms(residuals: Residuals, dy: Float[Tensor, ""]) -> dict[str, dict[str, Tensor]]:
    x, target, reduction = residuals
    n = divisor(x, reduction)
    return {
        "dx": {"whole": -dy * (target / n)},
        "dtarget": {"entropy": dy * ((torch.log(target) + 1) / n), "cross": -dy * (x / n)},
    }


def _log_probabilities(shape: Shape, generator: torch.Generator) -> Tensor:
    """What log_softmax gives along the last axis."""
    logits = normal(std=2.0)(shape, generator)
    return torch.log_softmax(logits, -1) if shape else -torch.abs(logits)


INPUTS = {"x": Input(_log_probabilities), "target": Input(uniform(0.05, 1.0), optional=True, outweighs=2.0**18)}

_INF = float("inf")

EDGES = (
    Edge("sum", {"reduction": "sum"}),
    Edge(
        "targets of 0", {"x": [[-1.0, -0.5, -2.0], [-0.25, -3.0, -1.5]], "target": [[0.0, 1.0, 0.0], [-0.0, 0.5, 0.5]]}
    ),
    Edge("targets of 0 in a sum", {"x": [[-1.0, -0.5]], "target": [[0.0, 1.0]], "reduction": "sum", "dy": -2.0}),
    Edge("all targets 0", {"x": [[-1.0, -0.5]], "target": [[0.0, 0.0]]}),
    Edge("one class has all", {"x": [[-0.1, -2.0, -4.0]], "target": [[1.0, 0.0, 0.0]]}),
    Edge("the same distribution", {"x": [[-1.3862944, -0.28768207]], "target": [[0.25, 0.75]]}),
    Edge("targets near 0", {"x": [[-1.0, -80.0, -700.0]], "target": [[1e-30, 1e-40, 1e-310]]}),
    Edge("where dtarget crosses 0", {"x": [[0.30685282, 1.0, 0.0]], "target": [[0.5, 1.0, 0.36787944]]}),
    Edge("an impossible class", {"x": [[-_INF, -0.5]], "target": [[0.0, 1.0]]}),
    Edge("an impossible class that has occurred", {"x": [[-_INF, -0.5]], "target": [[0.25, 0.75]]}),
    Edge("log-probabilities far below 0", {"x": [[-1e3, -1e4, -1e-6]], "target": [[0.25, 0.25, 0.5]]}),
    Edge("a log-probability of 0", {"x": [[0.0, -0.0]], "target": [[0.5, 1.0]]}),
    Edge("x above 0, targets above 1", {"x": [[0.5, 2.0]], "target": [[3.0, 1.5]]}),
    Edge("one example", sizes={"batch": 1}),
    Edge("one class", sizes={"classes": (1,)}),
    Edge("one number each", sizes={"batch": 4, "classes": ()}),
    Edge("images", sizes={"batch": 2, "classes": (3, 4)}),
    Edge("as many classes as examples", sizes={"batch": 3, "classes": (3,)}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("empty batch in a sum", {"reduction": "sum"}, sizes={"batch": 0}),
    Edge("no class", sizes={"classes": (0,)}),
    Edge("negative cotangent", {"dy": -2.5}),
    Edge("a target that would broadcast", {"x": [[-1.0, -2.0]], "target": [1.0, 0.0]}, raises=ValueError),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(self, x: Tensor, target: Tensor, dy: Tensor, reduction: str) -> None:
        self.x, self.target, self.dy = x, target, dy
        self.n = divisor(x, reduction)

    def cotangents(
        self,
        dx: Tensor | None = None,
        dtarget: Tensor | None = None,
        dy: Tensor | float | None = None,
        n: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Those of a sum that are given or the right ones, times dy and divided by n."""
        dx = -self.target if dx is None else dx
        dtarget = torch.log(self.target) + 1 - self.x if dtarget is None else dtarget
        dy, n = self.dy if dy is None else dy, max(self.n if n is None else n, 1)
        return dy * (dx / n), dy * (dtarget / n)


def _last_block(x: Tensor) -> Tensor:
    """The last half of each row, with 0 in the place of the first."""
    length = x.shape[-1]
    return torch.where(torch.arange(length, device=x.device) < length // 2, 0, x)


MISTAKES = (
    Mistake(
        "t/t + log t",
        lambda **g: _Parts(**g).cotangents(dtarget=g["target"] / g["target"] + torch.log(g["target"]) - g["x"]),
        forgets="that t/t is 0/0 at 0, where y is a number",
        shows="in dtarget, at a target of 0",
        seen="https://github.com/MakazhanAlpamys/Soup/issues/719",
    ),
    Mistake(
        "0 log 0",
        lambda **g: _Parts(**g).cotangents(
            dx=-g["target"] + 0 * (g["target"] * torch.log(g["target"])),
        ),
        forgets="that 0 times the logarithm of 0 is NaN, unless it is said to be 0",
        shows="at a target of 0",
        seen="https://github.com/linkedin/Liger-Kernel/commit/1dc655574490",
    ),
    Mistake(
        "last block alone",
        lambda **g: _Parts(**g).cotangents(dx=-_last_block(g["target"])),
        forgets="that a row of several blocks adds up: the last one was written over those before",
        shows="for rows of more than one block, here of half a row",
        seen="https://github.com/linkedin/Liger-Kernel/commit/1dc655574490",
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
        forgets="that the divergence falls as the log-probability of what occurs rises",
        shows="everywhere",
    ),
    Mistake(
        "softmax's derivative on top",
        lambda **g: _Parts(**g).cotangents(dx=torch.exp(g["x"]) - g["target"]),
        forgets="that x has been through log_softmax, which has a derivative of its own",
        shows="everywhere",
    ),
    Mistake(
        "x as probabilities",
        lambda **g: _Parts(**g).cotangents(dx=-g["target"] / torch.exp(g["x"])),
        forgets="that x is the logarithm already",
        shows="wherever x is not 0",
    ),
    Mistake(
        "log_target",
        lambda **g: _Parts(**g).cotangents(dx=-torch.exp(g["target"])),
        forgets="that the target is given as it is, and not as its logarithm",
        shows="everywhere",
    ),
    Mistake(
        "divergence the other way round",
        lambda **g: _Parts(**g).cotangents(
            dx=torch.exp(g["x"]) * (g["x"] - torch.log(g["target"].clamp(min=1e-30)) + 1),
            dtarget=-torch.exp(g["x"]) / g["target"].clamp(min=1e-30),
        ),
        forgets="which of the two is measured from which: this is that of x from the target",
        shows="everywhere",
    ),
    Mistake(
        "logarithm of the target as the target",
        lambda **g: _Parts(**g).cotangents(dx=-torch.log(g["target"])),
        forgets="that the logarithm is the part that x does not meet",
        shows="everywhere",
    ),
    Mistake(
        "1/n forgotten",
        lambda **g: _Parts(**g).cotangents(n=1.0),
        forgets="that the cost is a mean over the batch",
        shows="for a mean of more than one example",
    ),
    Mistake(
        "1/n twice",
        lambda **g: _Parts(**g).cotangents(n=_Parts(**g).n ** 2),
        forgets="that the cost is divided once",
        shows="for a mean of more than one example",
    ),
    Mistake(
        "mean over all elements",
        lambda **g: _Parts(**g).cotangents(n=g["x"].numel() if g["reduction"] == "batchmean" else 1.0),
        forgets="that the classes of an example share one divergence",
        shows="for a mean of more than one class",
    ),
    Mistake(
        "a sum divided too",
        lambda **g: _Parts(**{**g, "reduction": "batchmean"}).cotangents(),
        forgets="that a sum is not divided",
        shows='for reduction="sum"',
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "1 forgotten",
        lambda **g: _Parts(**g).cotangents(dtarget=torch.log(g["target"]) - g["x"]),
        forgets="half of the product rule: t times the derivative of log t",
        shows="in dtarget, everywhere but at 0",
    ),
    Mistake(
        "dtarget's logarithm forgotten",
        lambda **g: _Parts(**g).cotangents(dtarget=1 - g["x"]),
        forgets="half of the product rule: log t times the derivative of t",
        shows="in dtarget, everywhere but at 1",
    ),
    Mistake(
        "dtarget of a cross-entropy",
        lambda **g: _Parts(**g).cotangents(dtarget=-g["x"]),
        forgets="the entropy of the target, which is no constant for it",
        shows="in dtarget, everywhere but at 1/e",
    ),
    Mistake(
        "dtarget's sign",
        lambda **g: _Parts(**g).cotangents(dtarget=g["x"] - 1 - torch.log(g["target"])),
        forgets="that t log t, and not its opposite, is added",
        shows="in dtarget, everywhere",
    ),
    Mistake(
        "logarithm kept finite",
        lambda **g: _Parts(**g).cotangents(dtarget=torch.log(g["target"] + 1e-2) + 1 - g["x"]),
        forgets="that forward added nothing to the target, here 0.01",
        shows="in dtarget, most where the target is small",
        seen="https://github.com/linkedin/Liger-Kernel/commit/a089cd5900ca",
    ),
)
