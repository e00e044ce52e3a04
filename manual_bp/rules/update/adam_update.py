"""One step of Adam: along the mean gradient, divided by the root of the mean squared gradient.

    g  = grad + weight_decay param
    m  = β₁ exp_avg + (1 − β₁) g           m̂ = m / (1 − β₁ᵗ)
    v  = β₂ exp_avg_sq + (1 − β₂) g²       v̂ = v / (1 − β₂ᵗ)
    param − lr m̂ / (√v̂ + eps)

t is `step`, 1 at first.  With max_exp_avg_sq (amsgrad) the largest v so far takes the place of v in v̂, and is handed
on.  m, v and the largest v are stored uncorrected.

Derivation.  m starts at 0, so that after t steps m = (1 − β) Σ_i β^(t−i) g_i.  Were every g_i the
same number g, the sum of the geometric series 1 + β + … + β^(t−1) = (1 − βᵗ)/(1 − β) gives m = (1 − βᵗ) g: too small by
the factor 1 − βᵗ, which the division takes away.  The same holds of v.  Without it the first step would be
(1 − β₁)/√(1 − β₂) = 3.2 times as long as lr, and it takes 1/(1 − β₂) = 1000 steps for that to fade.  With it, and
eps = 0, the first step is exactly lr sign(g).

At g = 0 with moments of 0 the step is 0/eps = 0, and NaN for eps = 0.

Conventions.  Of eps: here, in torch, optax and the paper's algorithm 1 it is √v̂ + eps.  TensorFlow and Keras add it to
√v, beside lr √(1 − β₂ᵗ)/(1 − β₁ᵗ), the paper's "epsilon hat", which in the first step acts like an eps that is
1/√(1 − β₂) = 32 times as large.  optax's eps_root stands below the root.

Of amsgrad: torch takes the largest v and corrects it as it corrects v; optax takes the largest v̂; Reddi et al. correct
nothing.

Of decay: here it is part of the gradient, hence of both moments, and divided by √v̂ with it.  `adamw_update` has the
other kind.  optax.adam has none; its chains decide by their order.  Of lr: it is that of this step.

1 − β and 1 − βᵗ are formed in float64 whatever the precision of the numbers: in float32, 1 − 0.999 has four digits.

Sources: Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1; Reddi, Kale & Kumar, "On the
Convergence of Adam and Beyond", ICLR 2018, for amsgrad.
"""

from collections.abc import Set
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Mistake
from manual_bp.rules.update._adam import (
    ADAM_CONVENTIONS,
    ADAM_EDGES,
    ADAM_HYPER,
    ADAM_INPUTS,
    ADAM_USUAL,
    adam_mistakes,
    adam_step,
    adam_values,
    check_adam,
    varied_step,
)


class Outputs(NamedTuple):
    param: Float[Tensor, "*shape"]
    exp_avg: Float[Tensor, "*shape"]
    exp_avg_sq: Float[Tensor, "*shape"]
    max_exp_avg_sq: Float[Tensor, "*shape"] | None


def forward(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    exp_avg: Float[Tensor, "*shape"],
    exp_avg_sq: Float[Tensor, "*shape"],
    max_exp_avg_sq: Float[Tensor, "*shape"] | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Outputs:
    check_adam("adam_update", step, lr, beta1, beta2, eps, weight_decay)
    g = grad + weight_decay * param if weight_decay else grad
    return Outputs(*adam_step(param, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, beta1, beta2, eps))


def varied(names: Set[str], param: Tensor, grad: Tensor, *, lr: float, weight_decay: float, **given: Any) -> Outputs:
    """The page's formula but for what is named."""
    decay = weight_decay * param
    if weight_decay and not names & {"decay decoupled", "decay forgotten"}:
        grad = grad - decay if "sign of decay" in names else grad + decay
    if "decay decoupled" in names:
        param = param - lr * decay
    return Outputs(*varied_step(names, param, grad, lr=lr, **given))


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


INPUTS, HYPER, USUAL, EDGES = ADAM_INPUTS, ADAM_HYPER, ADAM_USUAL, ADAM_EDGES
VALUES = adam_values(varied)
CONVENTIONS = {
    **ADAM_CONVENTIONS,
    "decay": {
        "coupled": Convention("part of the gradient"),
        "decoupled": Convention("beside the step: adamw_update", varied="decay decoupled"),
    },
}

MISTAKES = (
    *adam_mistakes(varied),
    _mistake(
        "decay decoupled",
        "that decay is part of the gradient here: beside the step it is adamw_update",
        "with weight decay",
    ),
    _mistake("decay forgotten", "weight_decay", "with weight decay"),
    _mistake("sign of decay", "that decay makes weights smaller", "with weight decay"),
)
