"""Gradient clipping by norm: a gradient that is too long is shortened, its direction kept.

    norm = √(Σ grad²)
    y    = grad min(1, max_norm / (norm + eps))

The norm is that of all gradients together: several tensors are one flat vector here (`clipped` takes them as they
are), and all are shortened by one factor.  The second output is the norm before.

Why.  eps is there so that no 0 divides.  It also makes what is clipped a little shorter than max_norm, by the share
eps/norm: that is torch's formula, and at max_norm = 1 float32 shows it (1e-6 is 8 ulp).

Special values are those of the formula, as in torch.nn.utils.clip_grad_norm_.  At norm 0 the gradient stays 0.  Where
the norm is infinite (as it is where Σ grad² overflows) the factor is 0: finite elements become 0, infinite ones NaN.
Where it is NaN everything is.

Conventions.  optax.clip_by_global_norm and TensorFlow's have no eps, and compare: grad where norm < max_norm, else
grad max_norm / norm; they differ from this by the share eps/norm (pass eps=0 for them; only a norm of 0 is then NaN
here and 0 there).  Megatron's clip_grad_norm_fp32 is torch's.  Keras' clipnorm clips each tensor by its own norm.

Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require


class Outputs(NamedTuple):
    grad: Float[Tensor, "n"]
    norm: Float[Tensor, ""]


def forward(grad: Float[Tensor, "n"], *, max_norm: float, eps: float = 1e-6) -> Outputs:
    (shortened,), norm = clipped([grad], max_norm, eps)
    return Outputs(shortened, norm)


def clipped(grads: Sequence[Tensor], max_norm: float, eps: float = 1e-6) -> tuple[list[Tensor], Tensor]:
    """All gradients shortened by one factor, and their common norm before."""
    require(max_norm >= 0, "clip_by_norm: max_norm must not be negative", max_norm, "It is the largest norm.")
    require(eps >= 0, "clip_by_norm: eps must not be negative", eps, "torch's is 1e-6.")
    norm = torch.sqrt(torch.stack([torch.sum(g**2) for g in grads]).sum())
    factor = torch.clamp(max_norm / (norm + eps), max=1.0)
    return [factor * g for g in grads], norm


INPUTS = {"grad": Input(normal(), cotangent=False)}
HYPER = {"max_norm": 0.75}
USUAL = {"max_norm": (0.1, 5.0)}
LONGEST = {"n": 4097}

EDGES = (
    Edge("short enough", {"grad": [0.25, -0.5, 0.0]}),
    Edge("at the limit", {"grad": [3.0, -4.0], "max_norm": 5.0}),
    Edge("a little too long", {"grad": [3.0, -4.0], "max_norm": 4.875}),
    Edge("far too long", {"grad": [3e4, -4e4], "max_norm": 1.0}),
    Edge("an eps that is felt", {"grad": [3.0, -4.0], "max_norm": 4.0, "eps": 0.5}),
    Edge("clipped by eps alone", {"grad": [3.0, -4.0], "max_norm": 5.25, "eps": 0.5}),
    Edge("no eps", {"grad": [3.0, -4.0], "max_norm": 1.0, "eps": 0.0}),
    Edge("a large limit", {"max_norm": 1000.0}),
    Edge("norm 0", {"grad": constant(0.0)}),
    Edge("norm beside eps", {"grad": [3e-7, -4e-7], "max_norm": 1e-7}),
    Edge("limit 0", {"max_norm": 0.0}),
    Edge("an infinite element", {"grad": [torch.inf, 1.0, -2.0]}),
    Edge("NaN in an element", {"grad": [torch.nan, 1.0, -2.0]}),
    Edge("one element", {"grad": [-9.0]}),
    Edge("no elements", sizes={"n": 0}),
    Edge("negative limit", {"max_norm": -1.0}, raises=ValueError),
    Edge("negative eps", {"eps": -1e-6}, raises=ValueError),
)


def _varied(
    grad: Tensor,
    max_norm: float,
    eps: float,
    rooted: bool = True,
    rescaled: bool = False,
    above: float | None = None,
    mean: bool = False,
    after: bool = False,
    inner: bool = False,
    power: int = 2,
) -> tuple[Tensor, Tensor]:
    """The right formula, from which wrong ones are made."""
    total = torch.sum(grad**2 if power == 2 else grad.abs())
    square = total / max(grad.numel(), 1) if mean else total
    norm = torch.sqrt(square) if rooted and power == 2 else square
    divisor = torch.sqrt(square + eps) if inner else norm + eps
    factor = max_norm / divisor
    if above is not None:
        factor = torch.where(norm > max_norm, max_norm / (norm + above), 1.0)
    elif not rescaled:
        factor = torch.clamp(factor, max=1.0)
    shortened = factor * grad
    return shortened, torch.sqrt(torch.sum(shortened**2)) if after else norm


def _largest(grad: Tensor, max_norm: float, eps: float) -> tuple[Tensor, Tensor]:
    norm = grad.abs().amax() if grad.numel() else grad.sum()
    return torch.clamp(max_norm / (norm + eps), max=1.0) * grad, norm


def _in_pieces(grad: Tensor, max_norm: float, eps: float) -> tuple[Tensor, Tensor]:
    """As tensors of two elements."""
    pieces = [_varied(piece, max_norm, eps)[0] for piece in torch.split(grad, 2)]
    return torch.cat(pieces), torch.sqrt(torch.sum(grad**2))


MISTAKES = (
    Mistake(
        "each tensor by its own norm",
        _in_pieces,
        forgets="that the norm is one of all tensors together: clipped apart, the direction changes",
        shows="for more than one tensor (here of two elements each)",
    ),
    Mistake(
        "no root",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, rooted=False),
        forgets="the root of the sum of squares",
        shows="unless the norm is 1",
    ),
    Mistake(
        "scaled up as well",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, rescaled=True),
        forgets="that a gradient which is short enough stays as it is",
        shows="within the limit",
    ),
    Mistake(
        "mean of the squares",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, mean=True),
        forgets="that the norm is of a sum",
        shows="for more than one element",
    ),
    Mistake(
        "sum of sizes",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, power=1),
        forgets="that the norm is Euclidean",
        shows="for more than one element",
    ),
    Mistake(
        "largest element",
        _largest,
        forgets="that the norm is Euclidean, not the largest element",
        shows="for more than one element",
    ),
    Mistake(
        "the norm after clipping returned",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, after=True),
        forgets="that the norm returned is the one before",
        shows="beyond the limit",
    ),
    Mistake(
        "eps within the root",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, inner=True),
        forgets="that eps is added to the norm, not to its square",
        shows="where √eps is felt beside the norm",
    ),
    Mistake(
        "no eps",
        lambda grad, max_norm, eps: _varied(grad, max_norm, eps, above=0.0),
        forgets="eps, as optax and TensorFlow do (there eps=0 is meant: pass it)",
        shows="where eps is felt beside the norm: at 1e-6 in float32 for norms below 10",
    ),
    Mistake(
        "not clipped",
        lambda grad, max_norm, eps: (grad.clone(), torch.sqrt(torch.sum(grad**2))),
        forgets="to clip: whoever returns new gradients and steps with the old has it so",
        shows="beyond the limit",
    ),
)
