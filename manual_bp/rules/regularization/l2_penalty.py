"""L2 penalty of a weight matrix.

    y = lam/(2n) Σ W²

Derivation.  ∂/∂W_oi of W_oi² / 2 is W_oi:

    dweight = dy (lam/n) weight

With n = 1 the penalty is added to a mean cost; with n the number of examples it is the course notes' form, whose
gradient they print as λW where (λ/n) W is meant.  Biases are not penalised: they shift a unit and do not make it
steeper.

Source: Krogh & Hertz, "A Simple Weight Decay Can Improve Generalization", NIPS 1991; the course notes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, normal, require


class Residuals(NamedTuple):
    weight: Float[Tensor, "*shape"]
    factor: float
    """lam/n."""


def forward(weight: Float[Tensor, "*shape"], *, lam: float, n: int = 1) -> tuple[Float[Tensor, ""], Residuals]:
    require(lam >= 0, "l2_penalty: lam must not be negative", lam, "A negative one rewards large weights.")
    require(n >= 1, "l2_penalty: n must be at least 1", n, "It is the number of examples.")
    y = lam / (2 * n) * torch.sum(weight**2)
    return y, Residuals(weight, lam / n)


def backward(residuals: Residuals, dy: Float[Tensor, ""]) -> tuple[Float[Tensor, "*shape"]]:
    weight, factor = residuals
    return (dy * (factor * weight),)


INPUTS = {"weight": Input(normal())}
HYPER = {"lam": 0.3}
USUAL = {"lam": (1e-2, 5e-2), "n": (50,)}
CONVENTIONS = {
    "l2": {
        "lam/n": Convention("lam/(2n) Σ W², as the course notes mean it"),
        "lam": Convention("lam/2 Σ W², whatever n", hyper=lambda lam, n: {"n": 1}),
    }
}

EDGES = (
    Edge("lam 0", {"lam": 0.0}),
    Edge("an int for lam", {"lam": 2}),
    Edge("averaged over examples", {"n": 50}),
    Edge("a small lam over many examples", {"lam": 1e-4, "n": 60_000}),
    Edge("zero weights", {"weight": [[0.0, -0.0]]}),
    Edge("empty", sizes={"shape": (0, 3)}),
    Edge("negative lam", {"lam": -0.1}, raises=ValueError),
    Edge("no example", {"n": 0}, raises=ValueError),
)

MISTAKES = (
    Mistake(
        "factor 2",
        lambda weight, dy, lam, n: (2 * dy * (lam / n) * weight,),
        forgets="the ½ of the penalty",
        shows="everywhere",
        seen="https://github.com/titu1994/DenseNet/issues/57",
    ),
    Mistake(
        "half",
        lambda weight, dy, lam, n: (0.5 * dy * (lam / n) * weight,),
        forgets="that the 2 of the square cancels the ½",
        shows="everywhere",
        seen="https://github.com/jingtinghuang/CS231n-Spring-2017/blob/c6ffe5e539a1683337971c8d3ded776276319249/assignment1/cs231n/classifiers/linear_svm.py",
    ),
    Mistake(
        "1/n forgotten",
        lambda weight, dy, lam, n: (dy * lam * weight,),
        forgets="that the penalty is divided by n (the course notes' erratum)",
        shows="for n > 1",
    ),
    Mistake(
        "sign",
        lambda weight, dy, lam, n: (-dy * (lam / n) * weight,),
        forgets="that the penalty grows with the weights",
        shows="everywhere",
        seen="https://github.com/andersbll/nnet/blob/dbfb49bc950adb9e5c150e6daad946e54826c28f/nnet/layers.py",
    ),
    Mistake(
        "sum for the matrix",
        lambda weight, dy, lam, n: ((dy * (lam / n) * weight.sum()).expand(weight.shape),),
        forgets="that each weight is pulled by itself alone",
        shows="for more than one weight",
        seen="https://community.deeplearning.ai/t/dw-for-l2-regularization/165181",
    ),
    Mistake(
        "number of weights for n",
        lambda weight, dy, lam, n: (dy * (lam / max(weight.numel(), 1)) * weight,),
        forgets="that n counts examples, not weights",
        shows="everywhere",
        seen="https://github.com/matterport/Mask_RCNN/issues/1727",
    ),
    Mistake(
        "L1's sign",
        lambda weight, dy, lam, n: (dy * (lam / n) * torch.sign(weight),),
        forgets="that this is the derivative of |W|",
        shows="everywhere",
    ),
    Mistake(
        "not in the gradient",
        lambda weight, dy, lam, n: (torch.zeros_like(weight),),
        forgets="the penalty that the cost contains",
        shows="everywhere",
        seen="https://github.com/Burton2000/CS231n-2017/issues/9",
    ),
    Mistake(
        "cotangent dropped",
        lambda weight, dy, lam, n: ((lam / n) * weight,),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
