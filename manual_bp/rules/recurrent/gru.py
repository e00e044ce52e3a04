"""Gated recurrent unit: a state that is mixed with a new one at every step, by a gate that says how much is kept.

    r_t = σ(W_ir x_t + b_ir + W_hr h_(t−1) + b_hr)
    z_t = σ(W_iz x_t + b_iz + W_hz h_(t−1) + b_hz)
    n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_(t−1) + b_hn))    reset after
    n_t = tanh(W_in x_t + b_in + W_hn (r_t ⊙ h_(t−1)) + b_hn)    reset before
    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_(t−1)

for t = 1 to T, one at least (ValueError).  y holds h_1 to h_T, and h_n is h_T.  weight_ih holds W_ir, W_iz and W_in one
below the other, and weight_hh and the biases likewise.  The paper resets h before the product; cuDNN and torch reset
what the product gives, so that one product serves all gates.  In the code x_t and h_t are rows, so that W h is written
h Wᵀ.

Derivation.  Back-propagation through time: h_t is y_t, the last one is h_n, and the step t+1 reads it in four places,
in both gates, in n and beside it.  With dh_t for the cotangent of h_t as it comes from all of them, and a_r, a_z and
a_n for the pre-activations of the step,

    da_n = dh_t ⊙ (1 − z_t) tanh'(a_n)
    da_z = dh_t ⊙ (h_(t−1) − n_t) σ'(a_z)

Reset after.  n reads r_t ⊙ m_t, where m_t = W_hn h_(t−1) + b_hn, hence

    da_r = da_n ⊙ m_t σ'(a_r)
    dm_t = da_n ⊙ r_t
    dh_(t−1) = dy_(t−1) + dh_t ⊙ z_t + W_hrᵀ da_r + W_hzᵀ da_z + W_hnᵀ dm_t

Reset before.  n reads W_hn k_t, where k_t = r_t ⊙ h_(t−1), hence

    dk_t = W_hnᵀ da_n
    da_r = dk_t ⊙ h_(t−1) σ'(a_r)
    dh_(t−1) = dy_(t−1) + dh_t ⊙ z_t + W_hrᵀ da_r + W_hzᵀ da_z + dk_t ⊙ r_t

It begins with dh_T = dy_T + dh_n; what comes out before the first step is dh0.  Every step reads the same weights, so
that their cotangents are sums.  With da_t for all three of a step,

    dx_t = W_ihᵀ da_t
    dW_ih = Σ_t da_t x_tᵀ    db_ih = Σ_t da_t
    dW_hr = Σ_t da_r h_(t−1)ᵀ    db_hr = Σ_t da_r

and z as r, but

    dW_hn = Σ_t dm_t h_(t−1)ᵀ    db_hn = Σ_t dm_t    reset after
    dW_hn = Σ_t da_n k_tᵀ    db_hn = Σ_t da_n    reset before

1 − z is taken as σ(−a_z), and σ' and tanh' at the pre-activations: of a gate that has rounded to 1 nothing would be
left.

No kinks.

Source: Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation"
(arXiv 1406.1078), eq. 5 to 8, which resets before; Chung et al. (arXiv 1412.3555), whose z is 1 − z here; Werbos,
"Backpropagation through time: what it does and how to do it", Proc. IEEE 78 (1990).
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, constant, normal, uniform
from manual_bp.rules.recurrent._gates import sigmoid_slope, tanh_slope
from manual_bp.rules.recurrent._mistakes import Cotangents, Parts, in_time
from manual_bp.rules.recurrent._steps import Tensors, over_time
from manual_bp.rules.recurrent._time import before, initial, require_a_step, through_bias, through_weight


class Residuals(NamedTuple):
    x: Float[Tensor, "time batch in"]
    h0: Float[Tensor, "batch hidden"]
    weight_ih: Float[Tensor, "3*hidden in"]
    weight_hh: Float[Tensor, "3*hidden hidden"]
    a: Float[Tensor, "time batch 3*hidden"]
    """The pre-activations and not the gates: once σ has rounded to 1, its slope cannot be told from it."""
    h: Float[Tensor, "time batch hidden"]
    """It is y, which is alive anyway."""
    m: Float[Tensor, "time batch hidden"] | None
    """What r is multiplied with, where it resets after the product; before it, that is h_(t−1)."""
    reset: str


class Outputs(NamedTuple):
    y: Float[Tensor, "time batch hidden"]
    h_n: Float[Tensor, "batch hidden"]


def forward(
    x: Float[Tensor, "time batch in"],
    h0: Float[Tensor, "batch hidden"],
    weight_ih: Float[Tensor, "3*hidden in"],
    weight_hh: Float[Tensor, "3*hidden hidden"],
    bias_ih: Float[Tensor, "3*hidden"],
    bias_hh: Float[Tensor, "3*hidden"],
    *,
    reset: Literal["after", "before"] = "after",
) -> tuple[Outputs, Residuals]:
    require_a_step("gru", x)
    hidden = h0.shape[-1]
    from_x = x @ weight_ih.T + bias_ih  # of all steps at once: no step waits for it

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (h,), (from_x_t,) = states, now
        x_gates, x_n = torch.split(from_x_t, [2 * hidden, hidden], -1)
        if reset == "after":
            h_gates, m_t = torch.split(h @ weight_hh.T + bias_hh, [2 * hidden, hidden], -1)
            a_gates = x_gates + h_gates
            a_r, a_z = torch.chunk(a_gates, 2, -1)
            a_n = x_n + torch.sigmoid(a_r) * m_t
        else:
            to_gates, to_n = torch.split(weight_hh.T, [2 * hidden, hidden], -1)
            bias_gates, bias_n = torch.split(bias_hh, [2 * hidden, hidden])
            a_gates = x_gates + (h @ to_gates + bias_gates)
            a_r, a_z = torch.chunk(a_gates, 2, -1)
            a_n = x_n + ((torch.sigmoid(a_r) * h) @ to_n + bias_n)
        h = torch.sigmoid(-a_z) * torch.tanh(a_n) + torch.sigmoid(a_z) * h
        a_t = torch.cat([a_gates, a_n], -1)
        return (h,), (a_t, h, m_t) if reset == "after" else (a_t, h)

    (h_n,), (a, h, *m) = over_time(step, (h0,), (from_x,))
    return Outputs(h, h_n), Residuals(x, h0, weight_ih, weight_hh, a, h, m[0] if m else None, reset)


def backward(
    residuals: Residuals, dy: Outputs
) -> tuple[
    Float[Tensor, "time batch in"],
    Float[Tensor, "batch hidden"],
    Float[Tensor, "3*hidden in"],
    Float[Tensor, "3*hidden hidden"],
    Float[Tensor, "3*hidden"],
    Float[Tensor, "3*hidden"],
]:
    reset = _reset_after if residuals.reset == "after" else _reset_before
    da, dh0, dweight_hh, dbias_hh = reset(residuals, dy)
    return da @ residuals.weight_ih, dh0, through_weight(da, residuals.x), dweight_hh, through_bias(da), dbias_hh


def _reset_after(residuals: Residuals, dy: Outputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """da, dh0, dW_hh and db_hh.  Everything in a step is a multiple of dh_t, by factors that wait for no later step."""
    assert residuals.m is not None
    h_before = before(residuals.h0, residuals.h)
    a_r, a_z, a_n = torch.chunk(residuals.a, 3, -1)
    r, kept = torch.sigmoid(a_r), torch.sigmoid(a_z)
    n_of_dh = torch.sigmoid(-a_z) * tanh_slope(a_n)
    z_of_dh = (h_before - torch.tanh(a_n)) * sigmoid_slope(a_z)
    r_of_dh = n_of_dh * residuals.m * sigmoid_slope(a_r)
    x_of_dh = torch.cat([r_of_dh, z_of_dh, n_of_dh], -1)
    product_of_dh = torch.cat([r_of_dh, z_of_dh, n_of_dh * r], -1)

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (dh,), (dy_t, product_of_dh_t, kept_t) = states, now
        dh = dh + dy_t
        before_step = dh * kept_t + (torch.cat([dh, dh, dh], -1) * product_of_dh_t) @ residuals.weight_hh
        return (before_step,), (dh,)

    (dh0,), (every_dh,) = over_time(step, (dy.h_n,), (dy.y, product_of_dh, kept), last_first=True)
    thrice = torch.cat([every_dh] * 3, -1)
    dproduct = thrice * product_of_dh
    return thrice * x_of_dh, dh0, through_weight(dproduct, h_before), through_bias(dproduct)


def _reset_before(residuals: Residuals, dy: Outputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same.  da_r waits for dk = W_hnᵀ da_n, so that a step has two products."""
    hidden = residuals.h0.shape[-1]
    h_before = before(residuals.h0, residuals.h)
    a_r, a_z, a_n = torch.chunk(residuals.a, 3, -1)
    r, kept = torch.sigmoid(a_r), torch.sigmoid(a_z)
    n_of_dh = torch.sigmoid(-a_z) * tanh_slope(a_n)
    z_of_dh = (h_before - torch.tanh(a_n)) * sigmoid_slope(a_z)
    r_of_dk = h_before * sigmoid_slope(a_r)

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (dh,), (dy_t, n_of_dh_t, z_of_dh_t, r_of_dk_t, r_t, kept_t) = states, now
        weight_gates, weight_n = torch.split(residuals.weight_hh, [2 * hidden, hidden])
        dh = dh + dy_t
        da_n_t = dh * n_of_dh_t
        dk = da_n_t @ weight_n
        da_gates_t = torch.cat([dk * r_of_dk_t, dh * z_of_dh_t], -1)
        return (dh * kept_t + dk * r_t + da_gates_t @ weight_gates,), (da_gates_t, da_n_t)

    each = (dy.y, n_of_dh, z_of_dh, r_of_dk, r, kept)
    (dh0,), (da_gates, da_n) = over_time(step, (dy.h_n,), each, last_first=True)
    dweight_hh = torch.cat([through_weight(da_gates, h_before), through_weight(da_n, r * h_before)])
    da = torch.cat([da_gates, da_n], -1)
    return da, dh0, dweight_hh, through_bias(da)


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
LONGEST = {"time": 17, "hidden": 257}

EDGES = (
    Edge("one time step", sizes={"time": 1}),
    Edge("no time step", sizes={"time": 0}, raises=ValueError),
    Edge("33 time steps", sizes={"time": 33}),
    Edge("33 time steps, reset before", {"reset": "before"}, sizes={"time": 33}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("all axes alike", sizes={"time": 3, "batch": 3, "in": 3, "hidden": 3}),
    Edge("state 0 at first", {"h0": constant(0.0)}),
    Edge("no cotangent of y", {"dy.y": constant(0.0)}),
    Edge("no cotangent of y, reset before", {"dy.y": constant(0.0), "reset": "before"}),
    Edge("no cotangent of h_n", {"dy.h_n": constant(0.0)}),
    Edge("gates shut", {"bias_ih": [-9.0, -17.0, -90.0, -9.0, -17.0, -90.0, 0.5, 0.5, 0.5]}),
    Edge("gates open", {"bias_ih": [9.0, 17.0, 90.0, 9.0, 17.0, 90.0, 0.5, 0.5, 0.5]}),
    Edge(
        "gates open, reset before",
        {"bias_ih": [9.0, 17.0, 90.0, 9.0, 17.0, 90.0, 0.5, 0.5, 0.5], "reset": "before"},
    ),
    Edge("everything kept of a state of 0", {"bias_ih": [0.0, 0.0, 9.0, 17.0, 0.0, 0.0], "h0": constant(0.0)}),
    Edge("new values saturated", {"bias_ih": [0.0] * 6 + [9.0, -17.0, 90.0]}),
    Edge("large state at first", {"h0": normal(std=30.0)}),
    Edge("state far below 0 at first", {"h0": uniform(-2e11, -1e11), "weight_hh": constant(0.0)}),
    Edge("saturated by x", {"x": normal(std=30.0)}),
    Edge(
        "gradient vanishes over 200 steps",
        {"bias_ih": constant(-1.0), "dy.y": constant(0.0)},
        sizes={"time": 200, "batch": 1, "in": 1, "hidden": 1},
    ),
    Edge(
        "gradient survives 50 steps, all but kept",
        {"bias_ih": [0.0, 8.0, 0.0], "dy.y": constant(0.0)},
        sizes={"time": 50, "batch": 1, "in": 1, "hidden": 1},
    ),
    Edge(
        "gradient explodes over 200 steps",
        {
            "x": constant(0.0),
            "h0": constant(0.0),
            "weight_hh": [[0.0], [0.0], [3.0]],
            "bias_ih": constant(0.0),
            "bias_hh": constant(0.0),
            "dy.y": constant(0.0),
        },
        sizes={"time": 200, "batch": 1, "in": 1, "hidden": 1},
    ),
)


class _Step(NamedTuple):
    """What the formulas of a step read, of all steps at once.  is_reset: what r is multiplied with."""

    a_r: Tensor
    a_z: Tensor
    a_n: Tensor
    r: Tensor
    z: Tensor
    n: Tensor
    h_before: Tensor
    is_reset: Tensor


def _factors(s: _Step) -> dict[str, Tensor]:
    """By what dh_t is multiplied to give da_n, da_z and what goes straight on, and the cotangent of what has been reset
    to give da_r and that of what is reset."""
    return {
        "n": torch.sigmoid(-s.a_z) * tanh_slope(s.a_n),
        "z": (s.h_before - s.n) * sigmoid_slope(s.a_z),
        "kept": s.z,
        "r": s.is_reset * sigmoid_slope(s.a_r),
        "reset": s.r,
    }


class _Parts(Parts):
    """factors: those that are others than the right ones (`_factors`).  backward_as: where r resets, in backward.
    states: forward's values by another formula.  to_h, order: as in `in_time`."""

    def __init__(
        self,
        x: Tensor,
        h0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        dy: Outputs,
        reset: Literal["after", "before"],
        factors: Callable[[_Step], dict[str, Tensor]] = lambda _: {},
        to_h: Callable[[int], float] = lambda _: 1.0,
        order: Callable[[range], Iterator[int]] = reversed,
        backward_as: Literal["after", "before"] | None = None,
        states: Callable[..., Outputs] | None = None,
    ) -> None:
        hidden = h0.shape[-1]
        inputs = (x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
        _, kept = forward(*inputs, reset=reset)
        self.x, self.weight_ih = x, weight_ih
        self.h = states(*inputs, reset=reset).y if states else kept.h
        self.h_before = before(h0, self.h)
        a_r, a_z, a_n = torch.chunk(kept.a, 3, -1)
        gates = torch.sigmoid(a_r), torch.sigmoid(a_z), torch.tanh(a_n)
        weight_gates, weight_n = torch.split(weight_hh, [2 * hidden, hidden])
        self.after = (backward_as or reset) == "after"
        is_reset = self.h_before @ weight_n.T + bias_hh[2 * hidden :] if self.after else self.h_before
        step = _Step(a_r, a_z, a_n, *gates, self.h_before, is_reset)
        of = {**_factors(step), **factors(step)}
        da_gates, da_n, dh = {}, {}, dy.h_n
        for t in order(range(len(x))):
            dh = dh + dy.y[t]
            da_n[t] = dh * of["n"][t]
            dreset = da_n[t] if self.after else da_n[t] @ weight_n
            da_gates[t] = torch.cat([dreset * of["r"][t], dh * of["z"][t]], -1)
            through_n = (dreset * of["reset"][t]) @ weight_n if self.after else dreset * of["reset"][t]
            dh = (dh * of["kept"][t] + da_gates[t] @ weight_gates + through_n) * to_h(t)
        self.da_gates, self.da_n = (torch.stack([d[t] for t in range(len(x))]) for d in (da_gates, da_n))
        self.da, self.r, self.of_first = torch.cat([self.da_gates, self.da_n], -1), of["reset"], {"dh0": dh}

    def through_recurrent(self, h_before: Tensor, steps: slice = slice(None)) -> tuple[Tensor, Tensor]:
        da_gates, da_n, r, h = self.da_gates[steps], self.da_n[steps], self.r[steps], h_before[steps]
        if self.after:
            dproduct = torch.cat([da_gates, da_n * r], -1)
            return through_weight(dproduct, h), through_bias(dproduct)
        dweight_hh = torch.cat([through_weight(da_gates, h), through_weight(da_n, r * h)])
        return dweight_hh, through_bias(self.da[steps])


def _of(formula: Callable[[_Parts], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **p: formula(_Parts(**p))


def _by(factors: Callable[[_Step], dict[str, Tensor]]) -> Callable[..., Cotangents]:
    """The formula with these in place of the right factors."""
    return lambda **p: _Parts(**p, factors=factors).cotangents()


def _z_first(x: Tensor) -> Tensor:
    """The gates' parts of x in the order z, r, n."""
    r, z, n = torch.chunk(x, 3)
    return torch.cat([z, r, n])


def _of_z_first(**p: Any) -> Cotangents:
    others = {name: _z_first(x) for name, x in p.items() if name.startswith(("weight", "bias"))}
    return _Parts(**{**p, **others}).cotangents()


def _weight_of_reset_states(r: _Parts) -> Tensor:
    """dW_hh as where r resets before the product."""
    return torch.cat([through_weight(r.da_gates, r.h_before), through_weight(r.da_n, r.r * r.h_before)])


def _sigmoid_slopes_from_gates(s: _Step) -> dict[str, Tensor]:
    return {"z": (s.h_before - s.n) * s.z * (1 - s.z), "r": s.is_reset * s.r * (1 - s.r)}


def _from_gates(s: _Step) -> dict[str, Tensor]:
    return {**_sigmoid_slopes_from_gates(s), "n": (1 - s.z) * (1 - s.n**2)}


def _mixed(
    mix: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[..., Outputs]:
    """Forward with another formula for h_t, of z_t, n_t and h_(t−1)."""

    def values(
        x: Tensor,
        h0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        reset: Literal["after", "before"],
    ) -> Outputs:
        h = [h0]
        for t in range(len(x)):
            _, kept = forward(x[t : t + 1], h[-1], weight_ih, weight_hh, bias_ih, bias_hh, reset=reset)
            _, a_z, a_n = torch.chunk(kept.a[0], 3, -1)
            h.append(mix(torch.sigmoid(a_z), torch.tanh(a_n), h[-1]))
        return Outputs(torch.stack(h[1:]), h[-1])

    return values


_from_new = _mixed(lambda z, n, h: n + z * (h - n))

VALUES = (
    Value(
        "(1 − z) n + z h",
        _mixed(lambda z, n, h: (1 - z) * n + z * h),
        forgets="that 1 − z cancels once z is near 1",
        shows="where nearly all is kept of a state that is small beside n",
    ),
    Value(
        "n + z (h − n)",
        _from_new,
        forgets="that nearly all of n cancels where z is near 1",
        shows="where nearly all is kept of a state that is small beside n",
    ),
)

MISTAKES = (
    *in_time(_Parts),
    Mistake(
        "direct path forgotten",
        _by(lambda s: {"kept": torch.zeros_like(s.z)}),
        forgets="dh_t ⊙ z_t: that h_(t−1) stands in h_t itself",
        shows="everywhere",
    ),
    Mistake(
        "direct path without its gate",
        _by(lambda s: {"kept": torch.ones_like(s.z)}),
        forgets="z_t between h_t and h_(t−1)",
        shows="unless everything is kept",
    ),
    Mistake(
        "z and 1 − z swapped",
        _by(
            lambda s: {
                "n": s.z * tanh_slope(s.a_n),
                "z": (s.n - s.h_before) * sigmoid_slope(s.a_z),
                "kept": torch.sigmoid(-s.a_z),
            }
        ),
        forgets="that z is how much is kept: this is the gradient of z n + (1 − z) h",
        shows="everywhere",
    ),
    Mistake(
        "update gate missing in dn",
        _by(lambda s: {"n": tanh_slope(s.a_n)}),
        forgets="1 − z_t between n_t and h_t",
        shows="unless nothing is kept",
    ),
    Mistake(
        "tanh missing in dn",
        _by(lambda s: {"n": torch.sigmoid(-s.a_z)}),
        forgets="tanh'(a_n)",
        shows="away from a_n = 0",
    ),
    Mistake(
        "tanh' at n",
        _by(lambda s: {"n": torch.sigmoid(-s.a_z) * tanh_slope(s.n)}),
        forgets="that tanh' is taken at a_n, and not at n, which has been through tanh already",
        shows="away from a_n = 0",
    ),
    Mistake(
        "dz's sign",
        _by(lambda s: {"z": (s.n - s.h_before) * sigmoid_slope(s.a_z)}),
        forgets="that more z means more of h and less of n",
        shows="everywhere",
    ),
    Mistake(
        "dz from the state alone",
        _by(lambda s: {"z": s.h_before * sigmoid_slope(s.a_z)}),
        forgets="that z takes from n what it gives to h",
        shows="away from n = 0",
    ),
    Mistake(
        "gates' slopes forgotten",
        _by(lambda s: {"z": s.h_before - s.n, "r": s.is_reset}),
        forgets="σ' of both gates",
        shows="everywhere",
    ),
    Mistake(
        "reset gate as a constant",
        _by(lambda s: {"r": torch.zeros_like(s.r)}),
        forgets="that r depends on x and h",
        shows="everywhere",
    ),
    Mistake(
        "reset gate forgotten on the way to h",
        _by(lambda s: {"reset": torch.ones_like(s.r)}),
        forgets="r_t between n_t and h_(t−1), and in dW_hn",
        shows="unless the reset gates are open",
    ),
    Mistake(
        "reset elsewhere than in forward",
        lambda **p: _Parts(**p, backward_as="before" if p["reset"] == "after" else "after").cotangents(),
        forgets="where r resets: the other form's gradient",
        shows="everywhere",
    ),
    Mistake(
        "reset after, whatever was asked",
        lambda **p: _Parts(**p, backward_as="after").cotangents(),
        forgets="reset",
        shows="for reset = before",
    ),
    Mistake(
        "dbias_hh of n like dbias_ih",
        _of(lambda r: r.cotangents(dbias_hh=through_bias(r.da))),
        forgets="that b_hn stands inside of the reset, behind r_t",
        shows="for reset = after",
    ),
    Mistake(
        "dweight_hn from r ⊙ h, whatever was asked",
        _of(lambda r: r.cotangents(dweight_hh=_weight_of_reset_states(r))),
        forgets="that r resets units of the product and not of h, after it",
        shows="for reset = after",
    ),
    Mistake(
        "dweight_hn from h, whatever was asked",
        _of(lambda r: r.cotangents(dweight_hh=through_weight(r.da, r.h_before))),
        forgets="r: beside da_n where it resets after the product, and beside h where before it",
        shows="everywhere",
    ),
    Mistake(
        "s(1 − s), 1 − t² and n + z (h − n)",
        lambda **p: _Parts(**p, factors=_from_gates, states=_from_new).cotangents(),
        forgets="that 1 − s and 1 − t² cancel once s or t is near 1, and nearly all of n where z is",
        shows="growing with |a|; from 17 (σ) and 9.1 (tanh) in float32, 37 and 19.1 in float64, no digit is left",
        loses_digits=True,
    ),
    # Each by itself as well: a page that lost one of them would be allowed it, and all at once still be seen to lose.
    Mistake(
        "s(1 − s)",
        _by(_sigmoid_slopes_from_gates),
        forgets="that 1 − s cancels once s is near 1",
        shows="growing with a; from 17 in float32 and 37 in float64 no digit is left",
        loses_digits=True,
    ),
    Mistake(
        "1 − z",
        _by(lambda s: {"n": (1 - s.z) * tanh_slope(s.a_n)}),
        forgets="that 1 − z cancels once z is near 1; it is σ(−a)",
        shows="growing with the update gate's a; from 17 in float32 and 37 in float64 no digit is left",
        loses_digits=True,
    ),
    Mistake(
        "1 − t²",
        _by(lambda s: {"n": torch.sigmoid(-s.a_z) * (1 - s.n**2)}),
        forgets="that 1 − t² cancels once |t| is near 1",
        shows="growing with |a|; from 9.1 in float32 and 19.1 in float64 no digit is left",
        loses_digits=True,
    ),
    Mistake(
        "gates z, r, n",
        _of_z_first,
        forgets="the order of the gates, r, z, n: this is the gradient of a layer whose update gate comes first",
        shows="everywhere",
    ),
    Mistake(
        "cotangents in order z, r, n",
        _of(lambda r: r.cotangents(**{name: _z_first(d) for name, d in r.of_parameters().items()})),
        forgets="the order of the gates, r, z, n: each cotangent stands in another's place",
        shows="everywhere",
    ),
    Mistake(
        "dh0 forgotten",
        _of(lambda r: r.cotangents(dh0=torch.zeros_like(r.h[0]))),
        forgets="that the state before the first step is an input",
        shows="everywhere",
    ),
)
