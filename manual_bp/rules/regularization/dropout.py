"""Dropout, inverted: what is kept is scaled up in training, so that inference needs no factor.

    y = x / (1 − p)   where mask
    y = 0             elsewhere

p is the probability to drop.  The mask is an input, drawn by the caller with P(mask) = 1 − p, so that E[y] = x: the
rule is a deterministic function and can be differentiated and repeated.

Derivation.  For a given mask, y is linear in each element of x:

    dx = dy / (1 − p)   where mask
    dx = 0              elsewhere

The mask is a choice, not a number, and has no cotangent.  Dropped elements are replaced and not multiplied by 0, so
an infinite or NaN activation that is dropped is gone.  With p = 1 everything is dropped, whatever the mask says.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014),
section 4; the scaling in training is described in section 10.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, coin, normal, require


class Residuals(NamedTuple):
    kept: Bool[Tensor, "*shape"]
    """The mask that forward used: a fresh one would differentiate another function."""
    p: float


def forward(
    x: Float[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"], *, p: float
) -> tuple[Float[Tensor, "*shape"], Residuals]:
    require(0 <= p <= 1, "dropout: p must be a probability, 0 ≤ p ≤ 1", p, "It is the probability to drop.")
    if mask.dtype != torch.bool:
        zero_or_one = bool(((mask == 0) | (mask == 1)).all())
        require(zero_or_one, "dropout: a mask must be bool or hold only 0 and 1", mask.dtype, "Pass mask.bool().")
    kept = mask.bool() & (p < 1)
    return torch.where(kept, _scaled(x, p), 0), Residuals(kept, p)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], None]:
    kept, p = residuals
    return torch.where(kept, _scaled(dy, p), 0), None


def _scaled(x: Tensor, p: float) -> Tensor:
    return x / (1 - p)


INPUTS = {"x": Input(normal()), "mask": Input(coin(0.75), cotangent=False)}
HYPER = {"p": 0.25}
USUAL = {"p": (0.1, 0.2, 0.3, 0.75)}

CONVENTIONS = {
    "dropout": {
        "inverted": Convention("scaled by 1/(1 − p) in training"),
        "plain": Convention("not scaled in training", hyper=lambda p: {"p": 0.0 if p < 1 else p}),
    }
}

EDGES = (
    Edge("nothing dropped by p", {"p": 0.0}),
    Edge("p = 0 as an int", {"p": 0}),
    Edge("everything dropped by p", {"p": 1.0}),
    Edge("half dropped", {"p": 0.5}),
    Edge("most dropped", {"p": 0.9, "mask": coin(0.1)}),
    Edge("nothing kept", {"mask": coin(0.0)}),
    Edge("everything kept", {"mask": coin(1.0)}),
    Edge("mask of 0 and 1", {"x": [1.0, 2.0, 3.0], "mask": [0.0, 1.0, 1.0]}),
    Edge("zero activations", {"x": [0.0, 0.0, 1.0], "mask": [0.0, 1.0, 1.0]}),
    Edge("dropped infinity and NaN", {"x": [float("inf"), float("nan"), 1.0], "mask": [0.0, 0.0, 1.0]}),
    Edge("infinite cotangent", {"x": [1.0, 2.0], "mask": [0.0, 1.0], "dy": [float("inf"), float("inf")]}),
    Edge("negative p", {"p": -0.1}, raises=ValueError),
    Edge("p above 1", {"p": 1.5}, raises=ValueError),
    Edge("mask of fractions", {"x": [1.0, 2.0], "mask": [0.5, 1.0]}, raises=ValueError),
)

MISTAKES = (
    Mistake(
        "scale forgotten",
        lambda x, mask, dy, p: (torch.where(mask.bool(), dy, 0), None),
        forgets="the 1/(1 − p) of forward",
        shows="wherever something is kept and p > 0",
        seen="https://github.com/tiny-dnn/tiny-dnn/blob/0087f42c24b38db33a1d1b12138143edc1e9b9b9/tiny_dnn/layers/dropout_layer.h",
    ),
    Mistake(
        "scaled twice",
        lambda x, mask, dy, p: (torch.where(mask.bool(), dy / (1 - p) ** 2 if p < 1 else dy, 0), None),
        forgets="that forward and backward each scale once",
        shows="wherever something is kept and p > 0",
    ),
    Mistake(
        "mask forgotten",
        lambda x, mask, dy, p: (_scaled(dy, p), None),
        forgets="that what was dropped did not reach the cost",
        shows="wherever something is dropped",
        seen="https://github.com/ddbourgin/numpy-ml/issues/94",
    ),
    Mistake(
        "identity",
        lambda x, mask, dy, p: (dy, None),
        forgets="that forward dropped and scaled",
        shows="everywhere",
        seen="https://github.com/rohitg00/ai-engineering-from-scratch/pull/17",
    ),
    Mistake(
        "complement of the mask",
        lambda x, mask, dy, p: (torch.where(mask.bool(), 0, _scaled(dy, p)), None),
        forgets="whether the mask says kept or dropped",
        shows="everywhere",
        seen="https://github.com/nilbahaaeddine/M1_CNN/blob/011ef05fd69ad2b0832a0b629242c509df7a55a6/src/classes/dropout.py",
    ),
    Mistake(
        "fresh mask",
        lambda x, mask, dy, p: (torch.where(mask.bool().roll(1), _scaled(dy, p), 0), None),
        forgets="that backward needs the mask which forward used (here: another one, shifted by one)",
        shows="wherever the two masks differ",
        seen="https://github.com/microsoft/onnxruntime/pull/19715",
    ),
    Mistake(
        "mask read off the ratio",
        lambda x, mask, dy, p: (torch.where(x == 0, dy, torch.where(mask.bool() & (p < 1), _scaled(dy, p), 0)), None),
        forgets="that y/x says nothing where x is 0",
        shows="where x = 0",
        seen="https://github.com/kaldi-asr/kaldi/issues/3890",
    ),
    Mistake(
        "p for 1 − p",
        lambda x, mask, dy, p: (torch.where(mask.bool() & (p > 0), dy / (p or 1), 0), None),
        forgets="that p is the probability to drop",
        shows="unless p = ½",
        seen="https://github.com/lmjohns3/theanets/pull/123",
    ),
    Mistake(
        "multiplied",
        lambda x, mask, dy, p: (_scaled(dy, p) * mask, None),
        forgets="that 0 times infinity is NaN",
        shows="where an infinite cotangent is dropped",
        seen="https://github.com/pytorch/pytorch/issues/59421",
    ),
)
