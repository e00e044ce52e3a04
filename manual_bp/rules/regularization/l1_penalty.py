"""L1 penalty of a weight matrix.

    y = lam/n Σ |W|

Derivation.  |W_oi| has the slope 1 right of 0 and −1 left of it, and no other summand contains W_oi:

    dweight = dy (lam/n) sign(weight)

At W_oi = 0 there is a kink, where every number in [−1, 1] is a subgradient; this page takes sign(0) = 0, as
torch.abs does, so that a weight that has reached 0 is not pushed away from it.  The pull does not fade as a weight
shrinks, unlike L2's: weights that the data do not hold end near 0.

With n = 1 the penalty is added to a mean cost; n is the number of examples where the cost is a sum, as in `l2_penalty`.

Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", J. R. Statist. Soc. B 58 (1996).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal, require


class Residuals(NamedTuple):
    weight: Float[Tensor, "*shape"]
    """Only its sign is needed, but the weight is there already, and a sign would be a second tensor."""
    factor: float
    """lam/n."""


def forward(weight: Float[Tensor, "*shape"], *, lam: float, n: int = 1) -> tuple[Float[Tensor, ""], Residuals]:
    require(lam >= 0, "l1_penalty: lam must not be negative", lam, "A negative one rewards large weights.")
    require(n >= 1, "l1_penalty: n must be at least 1", n, "It is the number of examples.")
    y = lam / n * torch.sum(torch.abs(weight))
    return y, Residuals(weight, lam / n)


def backward(residuals: Residuals, dy: Float[Tensor, ""]) -> tuple[Float[Tensor, "*shape"]]:
    weight, factor = residuals
    return (dy * (factor * torch.sign(weight)),)


INPUTS = {"weight": Input(normal())}
HYPER = {"lam": 0.3}
USUAL = {"lam": (1e-2, 5e-2), "n": (50,)}

EDGES = (
    Edge("zero weights", {"weight": [[0.0, -0.0, 1.0]]}),
    Edge("weights next to 0", {"weight": [[1e-30, -1e-30, 2.0]]}),
    Edge("all of one sign", {"weight": [[1.0, 2.0], [3.0, 0.5]]}),
    Edge("infinite weight", {"weight": [[float("inf"), float("-inf"), 1.0]]}),
    Edge("lam 0", {"lam": 0.0}),
    Edge("an int for lam", {"lam": 2}),
    Edge("averaged over examples", {"n": 50}),
    Edge("a small lam over many examples", {"lam": 1e-4, "n": 60_000}),
    Edge("empty", sizes={"shape": (0, 3)}),
    Edge("negative lam", {"lam": -0.1}, raises=ValueError),
    Edge("no example", {"n": 0}, raises=ValueError),
)

MISTAKES = (
    Mistake(
        "L2's gradient",
        lambda weight, dy, lam, n: (dy * (lam / n) * weight,),
        forgets="that this is the derivative of W²/2",
        shows="unless |W| = 1",
    ),
    Mistake(
        "absolute value",
        lambda weight, dy, lam, n: (dy * (lam / n) * torch.abs(weight),),
        forgets="to differentiate: this is the penalty itself",
        shows="unless W is 0 or 1",
        seen="https://github.com/foolwood/pytorch-slimming/issues/3",
    ),
    Mistake(
        "sign lost",
        lambda weight, dy, lam, n: ((dy * (lam / n)).expand(weight.shape),),
        forgets="that |W| falls where W is negative",
        shows="for negative weights",
        seen="https://github.com/bashardudin/Epita-SCIA-OCVX/issues/1",
    ),
    Mistake(
        "negative weights left alone",
        lambda weight, dy, lam, n: (dy * (lam / n) * (weight > 0),),
        forgets="that negative weights are penalised too",
        shows="for negative weights",
    ),
    Mistake(
        "W/|W|",
        lambda weight, dy, lam, n: (dy * (lam / n) * (weight / torch.abs(weight)),),
        forgets="the weight that is 0: 0/0 is NaN",
        shows="where W = 0",
        seen="https://github.com/mlpack/mlpack/pull/3545",
    ),
    Mistake(
        "pushed off 0",
        lambda weight, dy, lam, n: (dy * (lam / n) * torch.where(weight >= 0, 1.0, -1.0),),
        forgets="which subgradient the convention takes at 0: this one is valid, and not this page's",
        shows="where W = 0",
    ),
    Mistake(
        "½ of L2",
        lambda weight, dy, lam, n: (dy * (lam / (2 * n)) * torch.sign(weight),),
        forgets="that there is no square whose 2 the ½ would cancel",
        shows="everywhere",
    ),
    Mistake(
        "1/n forgotten",
        lambda weight, dy, lam, n: (dy * lam * torch.sign(weight),),
        forgets="that the penalty is divided by n",
        shows="for n > 1",
    ),
    Mistake(
        "number of weights for n",
        lambda weight, dy, lam, n: (dy * (lam / max(weight.numel(), 1)) * torch.sign(weight),),
        forgets="that n counts examples, not weights",
        shows="everywhere",
    ),
    Mistake(
        "sign",
        lambda weight, dy, lam, n: (-dy * (lam / n) * torch.sign(weight),),
        forgets="that the penalty grows with |W|",
        shows="everywhere",
    ),
    Mistake(
        "not in the gradient",
        lambda weight, dy, lam, n: (torch.zeros_like(weight),),
        forgets="the penalty that the cost contains",
        shows="everywhere",
    ),
    Mistake(
        "cotangent dropped",
        lambda weight, dy, lam, n: ((lam / n) * torch.sign(weight),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
