"""Recurrent layer of Elman: a state that goes through one affine map and one activation at every step.

    a_t = W_ih x_t + b_ih + W_hh h_(t−1) + b_hh
    h_t = φ(a_t)

for t = 1 to T, one at least (ValueError), where φ is tanh or relu.  y holds h_1 to h_T, and h_n is h_T.  In the code
x_t and h_t are rows, so that W h is written h Wᵀ.

Derivation.  Back-propagation through time: h_t is read in three places: it is y_t, it makes a_(t+1), and the last one
is h_n.  With dh_t for the cotangent of h_t as it comes from all of them, and da_t for that of a_t,

    dh_t = dy_t + W_hhᵀ da_(t+1)    t < T
    dh_T = dy_T + dh_n
    da_t = dh_t ⊙ φ'(a_t)

which is solved from the last step to the first; what is left when there is no step before is dh0 = W_hhᵀ da_1.  The
step t reads the weights too, the same ones as all others, so that their cotangents are sums:

    dx_t = W_ihᵀ da_t
    dW_ih = Σ_t da_t x_tᵀ    dW_hh = Σ_t da_t h_(t−1)ᵀ    db_ih = db_hh = Σ_t da_t

On its way from dh_n to dh0 a gradient meets T factors W_hhᵀ diag φ'(a_t): where these shrink or stretch, it vanishes or
explodes as a T-th power (Bengio et al.).  This page cuts off neither time nor size.

tanh' = 1/cosh² is taken at a_t and not from h_t: once h_t has rounded to 1, 1 − h_t² has no digits, and what goes
through that step would be 0.

Kink: relu'(0) = 0.

Source: Elman, "Finding structure in time", Cognitive Science 14 (1990); Werbos, "Backpropagation through time: what it
does and how to do it", Proc. IEEE 78 (1990); Bengio, Simard & Frasconi, "Learning long-term dependencies with gradient
descent is difficult", IEEE Trans. Neural Networks 5 (1994).
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, uniform
from manual_bp.rules.recurrent._gates import tanh_slope
from manual_bp.rules.recurrent._mistakes import Cotangents, Parts, in_time
from manual_bp.rules.recurrent._steps import Tensors, over_time
from manual_bp.rules.recurrent._time import before, initial, require_a_step, through_bias, through_weight


class Residuals(NamedTuple):
    x: Float[Tensor, "time batch in"]
    h0: Float[Tensor, "batch hidden"]
    weight_ih: Float[Tensor, "hidden in"]
    weight_hh: Float[Tensor, "hidden hidden"]
    a: Float[Tensor, "time batch hidden"]
    """a and not h alone: once tanh has rounded to ±1, its slope cannot be told from it."""
    h: Float[Tensor, "time batch hidden"]
    """It is y, which is alive anyway, and dW_hh needs it."""
    nonlinearity: str


class Outputs(NamedTuple):
    y: Float[Tensor, "time batch hidden"]
    h_n: Float[Tensor, "batch hidden"]


def forward(
    x: Float[Tensor, "time batch in"],
    h0: Float[Tensor, "batch hidden"],
    weight_ih: Float[Tensor, "hidden in"],
    weight_hh: Float[Tensor, "hidden hidden"],
    bias_ih: Float[Tensor, "hidden"],
    bias_hh: Float[Tensor, "hidden"],
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> tuple[Outputs, Residuals]:
    require_a_step("rnn", x)
    φ = torch.tanh if nonlinearity == "tanh" else torch.relu
    from_x = x @ weight_ih.T + (bias_ih + bias_hh)  # of all steps at once: no step waits for it
    recurrent = weight_hh.T

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (h,), (from_x_t,) = states, now
        a_t = from_x_t + h @ recurrent
        h = φ(a_t)
        return (h,), (a_t, h)

    (h_n,), (a, h) = over_time(step, (h0,), (from_x,))
    return Outputs(h, h_n), Residuals(x, h0, weight_ih, weight_hh, a, h, nonlinearity)


def backward(
    residuals: Residuals, dy: Outputs
) -> tuple[
    Float[Tensor, "time batch in"],
    Float[Tensor, "batch hidden"],
    Float[Tensor, "hidden in"],
    Float[Tensor, "hidden hidden"],
    Float[Tensor, "hidden"],
    Float[Tensor, "hidden"],
]:
    slope = _slope(residuals.a, residuals.nonlinearity)

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (from_later,), (dy_t, slope_t) = states, now
        da_t = (dy_t + from_later) * slope_t
        return (da_t @ residuals.weight_hh,), (da_t,)

    (dh0,), (da,) = over_time(step, (dy.h_n,), (dy.y, slope), last_first=True)
    dweight_hh = through_weight(da, before(residuals.h0, residuals.h))
    dbias = through_bias(da)
    return da @ residuals.weight_ih, dh0, through_weight(da, residuals.x), dweight_hh, dbias, dbias.clone()


def _slope(a: Tensor, nonlinearity: str) -> Tensor:
    """φ'(a)."""
    return tanh_slope(a) if nonlinearity == "tanh" else (a > 0).to(a.dtype)


INPUTS = {
    "x": Input(normal()),
    "h0": Input(normal(std=0.5)),
    "weight_ih": Input(initial),
    "weight_hh": Input(initial),
    "bias_ih": Input(normal(std=0.5)),
    "bias_hh": Input(normal(std=0.5)),
}

# A step costs the arithmetic what a layer costs elsewhere: more of them, with other axes that are short, are edges.
# The recurrent weight grows as the square of its units.
SIZES = {"time": 2}
LONGEST = {"time": 17, "hidden": 513}

EDGES = (
    Edge("one time step", sizes={"time": 1}),
    Edge("no time step", sizes={"time": 0}, raises=ValueError),
    Edge("33 time steps", sizes={"time": 33}),
    Edge("batch of one", sizes={"batch": 1}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("one hidden unit", sizes={"hidden": 1}),
    Edge("one input", sizes={"in": 1}),
    Edge("all axes alike", sizes={"time": 3, "batch": 3, "in": 3, "hidden": 3}),
    Edge("relu", {"nonlinearity": "relu"}),
    Edge(
        "relu at its kink",
        {
            "nonlinearity": "relu",
            "h0": constant(0.0),
            "bias_ih": constant(0.0),
            "x": constant(0.0),
            "bias_hh": constant(0.0),
        },
    ),
    Edge("relu of negative numbers", {"nonlinearity": "relu", "bias_ih": constant(-30.0)}),
    Edge("state 0 at first", {"h0": constant(0.0)}),
    Edge("no cotangent of y", {"dy.y": constant(0.0)}),
    Edge("no cotangent of h_n", {"dy.h_n": constant(0.0)}),
    Edge("saturated", {"bias_ih": [9.0, -9.0, 17.0, -17.0, 90.0, -90.0]}),
    Edge("saturated by x", {"x": normal(std=30.0)}),
    Edge("large state at first", {"h0": normal(std=30.0)}),
    Edge(
        "gradient vanishes over 200 steps",
        {"weight_hh": uniform(0.1, 0.4), "dy.y": constant(0.0)},
        sizes={"time": 200, "batch": 1, "in": 1, "hidden": 2},
    ),
    Edge(
        "gradient explodes over 200 steps",
        {
            "x": constant(0.0),
            "h0": constant(0.0),
            "weight_hh": uniform(0.5, 0.7),
            "bias_ih": constant(0.0),
            "bias_hh": constant(0.0),
            "dy.y": constant(0.0),
        },
        sizes={"time": 200, "batch": 1, "in": 1, "hidden": 2},
    ),
    Edge(
        "relu's state and gradient explode over 50 steps",
        {
            "nonlinearity": "relu",
            "x": uniform(0.0, 1.0),
            "h0": uniform(0.0, 1.0),
            "weight_ih": uniform(0.0, 1.0),
            "weight_hh": uniform(0.5, 0.6),
            "bias_ih": constant(0.0),
            "bias_hh": constant(0.0),
        },
        sizes={"time": 50, "batch": 1, "in": 1, "hidden": 2},
    ),
)


class _Parts(Parts):
    """slope: of a and h, in place of φ'(a).  weight_back: what cotangents go back through, in place of W_hh.
    to_h, order: as in `in_time`."""

    def __init__(
        self,
        x: Tensor,
        h0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        dy: Outputs,
        nonlinearity: Literal["tanh", "relu"],
        slope: Callable[[Tensor, Tensor], Tensor] | None = None,
        weight_back: Tensor | None = None,
        to_h: Callable[[int], float] = lambda _: 1.0,
        order: Callable[[range], Iterator[int]] = reversed,
    ) -> None:
        _, kept = forward(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity=nonlinearity)
        self.x, self.weight_ih, self.h, self.h_before = x, weight_ih, kept.h, before(h0, kept.h)
        slopes = slope(kept.a, kept.h) if slope else _slope(kept.a, nonlinearity)
        weight_back = weight_hh if weight_back is None else weight_back
        da, from_later = {}, dy.h_n
        for t in order(range(len(x))):
            da[t] = (dy.y[t] + from_later) * slopes[t]
            from_later = (da[t] @ weight_back) * to_h(t)
        self.da, self.of_first = torch.stack([da[t] for t in range(len(x))]), {"dh0": from_later}


def _of(formula: Callable[[_Parts], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **p: formula(_Parts(**p))


def _sloping(slope: Callable[[Tensor, Tensor, Literal["tanh", "relu"]], Tensor]) -> Callable[..., Cotangents]:
    """The formula with this in place of φ'(a), of a, h and the nonlinearity."""
    return lambda **p: _Parts(**p, slope=lambda a, h: slope(a, h, p["nonlinearity"])).cotangents()


MISTAKES = (
    *in_time(_Parts),
    Mistake(
        "h_n's cotangent at every step",
        lambda **p: _Parts(**{**p, "dy": Outputs(p["dy"].y + p["dy"].h_n, 0 * p["dy"].h_n)}).cotangents(),
        forgets="that h_n is the last state alone",
        shows="for more than one step",
    ),
    Mistake(
        "recurrent weight transposed",
        lambda **p: _Parts(**p, weight_back=p["weight_hh"].T).cotangents(),
        forgets="that a cotangent goes back through W_hhᵀ; the matrix is square, so that its shape does not tell",
        shows="unless weight_hh is symmetric",
    ),
    Mistake(
        "slope forgotten",
        _sloping(lambda a, h, kind: torch.ones_like(a)),
        forgets="φ'(a)",
        shows="everywhere but where φ' is 1",
    ),
    Mistake(
        "slope of the state",
        _sloping(lambda a, h, kind: _slope(h, kind)),
        forgets="that φ' is taken at a_t, and not at h_t, which has been through φ already",
        shows="away from 0, for tanh",
    ),
    Mistake(
        "slope of the step before",
        _sloping(lambda a, h, kind: torch.roll(_slope(a, kind), 1, 0)),
        forgets="that da_t goes with a_t: an index is off by one",
        shows="for more than one step",
    ),
    Mistake(
        "tanh's slope, whatever the nonlinearity",
        _sloping(lambda a, h, kind: tanh_slope(a)),
        forgets="nonlinearity",
        shows="for relu",
    ),
    Mistake(
        "1 − h²",
        _sloping(lambda a, h, kind: 1 - h**2 if kind == "tanh" else _slope(a, kind)),
        forgets="that 1 − h² cancels once |h| is near 1",
        shows="growing with |a|; from 9.1 (float32) or 19.1 (float64) nothing goes through such a step",
        loses_digits=True,
    ),
    Mistake(
        "dh0 forgotten",
        _of(lambda r: r.cotangents(dh0=torch.zeros_like(r.h[0]))),
        forgets="that the state before the first step is an input",
        shows="everywhere",
    ),
    Mistake(
        "dh0 without its weight",
        _of(lambda r: r.cotangents(dh0=r.da[0])),
        forgets="W_hh between h0 and the first pre-activation",
        shows="everywhere",
    ),
    Mistake(
        "biases share one cotangent",
        _of(lambda r: r.cotangents(dbias_ih=through_bias(r.da) / 2, dbias_hh=through_bias(r.da) / 2)),
        forgets="that the derivative of a sum by each summand is 1",
        shows="everywhere",
    ),
)
