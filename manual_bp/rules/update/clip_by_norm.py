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

from collections.abc import Sequence, Set
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, constant, normal, require


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
    Edge("an eps that is felt", {"grad": [3.0, -4.0, 1.0, -2.0, 0.5, 0.25], "max_norm": 4.0, "eps": 0.5}),
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


NO_EPS, STRICTLY = "no eps", "eps of the longer alone"


def varied(names: Set[str], grad: Tensor, max_norm: float, eps: float) -> Outputs:
    """The page's formula but for what is named."""
    total = torch.sum(grad.abs() if "sum of sizes" in names else grad**2)
    square = total / max(grad.numel(), 1) if "mean of the squares" in names else total
    norm = square if names & {"no root", "sum of sizes"} else torch.sqrt(square)
    if "largest element" in names:
        norm = grad.abs().amax() if grad.numel() else grad.sum()
    factor = max_norm / (torch.sqrt(square + eps) if "eps within the root" in names else norm + eps)
    if "eps added to the factor" in names:
        factor = max_norm / norm + eps
    if "norm no smaller than eps" in names:
        factor = max_norm / norm.clamp(min=eps)
    if NO_EPS in names:
        factor = torch.where(norm > max_norm, max_norm / norm, 1.0)
    elif STRICTLY in names:
        factor = torch.where(norm > max_norm, factor, 1.0)
    elif "scaled up as well" not in names:
        factor = torch.clamp(factor, max=1.0)
    if "each element by itself" in names:
        return Outputs(grad.clamp(-max_norm, max_norm), norm)
    if "each tensor by its own norm" in names:  # as tensors of two elements
        shortened = torch.cat([varied(frozenset(), piece, max_norm, eps).grad for piece in torch.split(grad, 2)])
    else:
        shortened = grad.clone() if "not clipped" in names else factor * grad
    return Outputs(
        shortened, torch.sqrt(torch.sum(shortened**2)) if "the norm after clipping returned" in names else norm
    )


CONVENTIONS = {
    "eps": {
        "beside the norm": Convention("max_norm / (norm + eps): torch, Megatron"),
        "none": Convention("max_norm / norm: optax, TensorFlow; eps is left unused", varied=NO_EPS),
        "of the longer alone": Convention(
            "max_norm / (norm + eps) where norm exceeds max_norm, else the gradient as it is", varied=STRICTLY
        ),
    },
}


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


def _scaled(power: int) -> Mistake:
    """Gradients of a scaled loss, as they are."""
    scale = 2.0**power

    def formula(grad: Tensor, max_norm: float, eps: float) -> Outputs:
        return forward(scale * grad, max_norm=max_norm, eps=eps)

    return Mistake(
        f"scale of 2^{power} not taken off before clipping",
        formula,
        forgets="that gradients of a scaled loss are too long by the scale: take it off first, then clip",
        shows="at once",
    )


def _scaled_and_taken_off(power: int) -> Mistake:
    scale = 2.0**power

    def formula(grad: Tensor, max_norm: float, eps: float) -> Outputs:
        shortened, norm = forward(scale * grad, max_norm=max_norm, eps=eps)
        return Outputs(shortened / scale, norm)

    return Mistake(
        f"scale of 2^{power} taken off after clipping",
        formula,
        forgets="that the limit is one of the gradients without the scale: take it off first, then clip",
        shows="beyond the limit",
    )


MISTAKES = (
    _mistake(
        "each tensor by its own norm",
        "that the norm is one of all tensors together: clipped apart, the direction changes",
        "for more than one tensor (here of two elements each)",
    ),
    _mistake("no root", "the root of the sum of squares", "unless the norm is 1"),
    _mistake("scaled up as well", "that a gradient which is short enough stays as it is", "within the limit"),
    _mistake("mean of the squares", "that the norm is of a sum", "for more than one element"),
    _mistake("sum of sizes", "that the norm is Euclidean", "for more than one element"),
    _mistake("largest element", "that the norm is Euclidean, not the largest element", "for more than one element"),
    _mistake(
        "each element by itself",
        "that one factor shortens all elements: cut one by one, the direction changes",
        "beyond the limit",
    ),
    _mistake("the norm after clipping returned", "that the norm returned is the one before", "beyond the limit"),
    _mistake(
        "eps within the root",
        "that eps is added to the norm, not to its square",
        "where √eps is felt beside the norm",
    ),
    _mistake("eps added to the factor", "that eps is added to the norm, below", "beyond the limit"),
    _mistake("norm no smaller than eps", "that eps is added to the norm", "where eps is felt beside the norm"),
    _mistake(
        NO_EPS,
        "eps, as optax and TensorFlow do",
        "where eps is felt beside the norm: at 1e-6 in float32 for norms below 10",
    ),
    _mistake(STRICTLY, "that a norm within eps of the limit is shortened too", "for norms just below max_norm"),
    _mistake(
        "not clipped",
        "to clip: whoever returns new gradients and steps with the old has it so",
        "beyond the limit",
    ),
    # What programs begin with: apex and DeepSpeed 2^16, fairseq 2^7, and 2^10.
    *(_scaled(power) for power in (7, 10, 16)),
    *(_scaled_and_taken_off(power) for power in (7, 10, 16)),
)
