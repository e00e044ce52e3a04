"""One step of AdamW: Adam, and beside it weights that shrink by a fixed fraction.

    m = β₁ exp_avg + (1 − β₁) grad         m̂ = m / (1 − β₁ᵗ)
    v = β₂ exp_avg_sq + (1 − β₂) grad²     v̂ = v / (1 − β₂ᵗ)
    (1 − lr weight_decay) param − lr m̂ / (√v̂ + eps)

t is `step`, 1 at first; with max_exp_avg_sq (amsgrad) the largest v so far takes the place of v in v̂.  Where the
corrections come from stands in `adam_update`; what is said there of eps, amsgrad and lr holds here.

Why.  Decay that is part of the gradient is divided by √v̂ like the rest of it, so that a weight with large
gradients decays less.  Beside the step all weights decay alike: per step by lr · weight_decay of themselves, in
1/(lr weight_decay) steps by the factor e.

Conventions.  The decay is of the parameter before the step, as in torch and optax; "step first, then shrink" differs by
lr² weight_decay m̂/(√v̂ + eps), which float32 at lr = 1e-3, weight_decay = 0.01 rightly cannot show on a parameter of
size 1.  The paper's schedule multiplier η multiplies both, and its decay has no lr (α) in it: its λ is lr ·
weight_decay here.  Keras is torch's; optax.adamw has lr in it too, as its chain scales what `add_decayed_weights`
added.  Which parameters decay (biases and norms usually do not) is for the caller, as parameters in groups.

Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2; with lr in the decay, as
torch.optim.AdamW.
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
    weight_decay: float = 0.01,
) -> Outputs:
    check_adam("adamw_update", step, lr, beta1, beta2, eps, weight_decay)
    param = param - lr * weight_decay * param if weight_decay else param
    return Outputs(*adam_step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, beta1, beta2, eps))


_OTHER_DECAYS = frozenset(
    {"decay coupled", "decay without lr", "decay after the step", "decay forgotten", "decay by lr squared"}
)


def varied(names: Set[str], param: Tensor, grad: Tensor, *, lr: float, weight_decay: float, **given: Any) -> Outputs:
    """The page's formula but for what is named."""
    if not weight_decay:
        return Outputs(*varied_step(names, param, grad, lr=lr, **given))
    decay = weight_decay * param
    if names & {"decay coupled", "decay coupled as well"}:
        grad = grad + decay
    if "sign of decay" in names:
        param = param + lr * decay
    elif not names & _OTHER_DECAYS:
        param = param - lr * decay
    if "decay twice" in names:
        param = param - lr * weight_decay * param
    found = Outputs(*varied_step(names, param, grad, lr=lr, **given))
    if "decay without lr" in names:
        return found._replace(param=found.param - decay)
    if "decay by lr squared" in names:
        return found._replace(param=found.param - lr * lr * decay)
    if "decay after the step" in names:
        return found._replace(param=found.param - lr * weight_decay * found.param)
    return found


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


INPUTS, HYPER, USUAL, EDGES = ADAM_INPUTS, ADAM_HYPER, ADAM_USUAL, ADAM_EDGES
VALUES = adam_values(varied)
CONVENTIONS = {
    **ADAM_CONVENTIONS,
    "decay": {
        "first": Convention("of the parameter before the step, times lr: torch, Keras, optax"),
        "last": Convention("of the parameter after the step", varied="decay after the step"),
        "coupled": Convention("part of the gradient: adam_update", varied="decay coupled"),
        "without lr": Convention("not multiplied by lr, as in the paper", varied="decay without lr"),
    },
}

MISTAKES = (
    *adam_mistakes(varied),
    _mistake(
        "decay coupled",
        "that decay is beside the step (L2 in place of decoupled decay): as part of the gradient it is adam_update",
        "with weight decay",
    ),
    _mistake(
        "decay without lr",
        "that a step shrinks the parameter by lr · weight_decay of itself",
        "with weight decay, unless lr is 1",
    ),
    _mistake(
        "decay after the step",
        "that the parameter before the step decays",
        "with weight decay, where lr² weight_decay is above the rounding of the parameter",
    ),
    _mistake("decay forgotten", "weight_decay", "with weight decay"),
    _mistake("decay by lr squared", "that lr multiplies the decay once", "with weight decay, unless lr is 1"),
    _mistake("decay twice", "that a step shrinks the parameter once", "with weight decay"),
    _mistake(
        "decay coupled as well",
        "that decay is beside the step, and no part of the gradient as well",
        "with weight decay",
    ),
    _mistake("sign of decay", "that decay makes weights smaller", "with weight decay"),
)
