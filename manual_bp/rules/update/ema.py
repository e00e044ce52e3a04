"""An exponential moving average of parameters.

    y = decay average + (1 − decay) param

Derivation.  Unrolled over t steps y = decayᵗ average₀ + (1 − decay) Σ_i decay^(t−i) param_i: a weighted mean, whose
weights add up to 1 by the sum of the geometric series, and of which the last 1/(1 − decay) parameters are the most.
The first average is the parameter itself, copied, so that nothing is to be corrected for.

decay = 1 keeps the average for ever, decay = 0 is the parameter.

Conventions.  torch.optim.swa_utils, timm and optax.incremental_update mean the same function; Keras' ema_momentum is
decay, optax's step_size and the momentum of torch's batch norm are 1 − decay.  Where decay grows with the steps, as
min(decay, (1 + t)/(10 + t)) in TensorFlow, it is for the caller to pass.

Lost updates: in 16 bits 1 − decay = 0.001 of a difference is less than half a place of the average, which then stays
where it is for ever.  An average is kept in float32.

Sources: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (1992),
for averages of parameters; torch.optim.swa_utils.get_ema_avg_fn for this one.
"""

from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, constant, normal, require


def forward(
    average: Float[Tensor, "*shape"], param: Float[Tensor, "*shape"], *, decay: float
) -> Float[Tensor, "*shape"]:
    require(0 <= decay <= 1, "ema: decay must lie in [0, 1]", decay, "It is the share of the old average.")
    return decay * average + (1 - decay) * param


INPUTS = {"average": Input(normal(), cotangent=False), "param": Input(normal(), cotangent=False)}
HYPER = {"decay": 0.75}
USUAL = {"decay": (0.9, 0.999)}

EDGES = (
    Edge("no average yet", {"average": constant(0.0)}),
    Edge("the parameter is the average", {"average": [1.5, -2.0], "param": [1.5, -2.0]}),
    Edge("the parameter is 0", {"param": constant(0.0)}),
    Edge("the average for ever", {"decay": 1.0}),
    Edge("the parameter alone", {"decay": 0.0}),
    Edge("a long memory", {"decay": 0.9999, "average": constant(0.0)}),
    Edge("they cancel", {"average": [1.0, -3.0], "param": [-3.0, 9.0]}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("decay above 1", {"decay": 1.5}, raises=ValueError),
    Edge("negative decay", {"decay": -0.1}, raises=ValueError),
)

VALUES = (
    Value(
        "by interpolation",
        lambda average, param, decay: average + (1 - decay) * (param - average),
        forgets="that the rounding of a large average stays in the sum when decay is small (optax, timm)",
        shows="where the average is much larger than what is due",
    ),
)

MISTAKES = (
    Mistake(
        "decay and 1 − decay swapped",
        lambda average, param, decay: (1 - decay) * average + decay * param,
        forgets="that decay is the share of the old average: momentum of batch norm is the other one",
        shows="unless decay is ½",
    ),
    Mistake(
        "1 − decay forgotten",
        lambda average, param, decay: decay * average + param,
        forgets="that the shares add up to 1",
        shows="unless decay is 0 or the parameter",
    ),
    Mistake(
        "never updated",
        lambda average, param, decay: average.clone(),
        forgets="the new parameter",
        shows="unless decay is 1",
    ),
    Mistake(
        "moved away",
        lambda average, param, decay: average - (1 - decay) * (param - average),
        forgets="that the average goes towards the parameter",
        shows="unless decay is 1, or they are equal",
    ),
    Mistake(
        "decay of the difference",
        lambda average, param, decay: average + decay * (param - average),
        forgets="that the step towards the parameter is 1 − decay",
        shows="unless decay is ½",
    ),
    Mistake(
        "the parameter alone",
        lambda average, param, decay: param.clone(),
        forgets="the average",
        shows="unless decay is 0",
    ),
)
