"""Long short-term memory: a state behind gates, which one multiplication by a gate takes from step to step.

    a_t = W_ih x_t + b_ih + W_hh h_(t−1) + b_hh      its four parts, in this order: a_i, a_f, a_g, a_o
    i_t = σ(a_i)      f_t = σ(a_f)      g_t = tanh(a_g)      o_t = σ(a_o)
    c_t = f_t ⊙ c_(t−1) + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t)

for t = 1 to T, one at least (ValueError).  y holds h_1 to h_T, h_n is h_T and c_n is c_T.  In the code x_t and h_t are
rows, so that W h is written h Wᵀ.

Derivation.  Back-propagation through time, with two states: h_t is y_t, is read by the gates of the step t+1, and the
last one is h_n.  c_t makes h_t, is kept by the step t+1 behind its forget gate, and the last one is c_n.  With dh_t and
dc_t for the cotangents as they come from all of them, and da_t for that of a_t,

    dh_t = dy_t + W_hhᵀ da_(t+1)    t < T
    dh_T = dy_T + dh_n
    dc_t = dh_t ⊙ o_t tanh'(c_t) + dc_(t+1) ⊙ f_(t+1)    t < T
    dc_T = dh_T ⊙ o_T tanh'(c_T) + dc_n

and by the product rule in the two lines that make the states

    da_i = dc_t ⊙ g_t σ'(a_i)
    da_f = dc_t ⊙ c_(t−1) σ'(a_f)
    da_g = dc_t ⊙ i_t tanh'(a_g)
    da_o = dh_t ⊙ tanh(c_t) σ'(a_o)

What dh_t and dc_t are multiplied with depends on no later step: it is taken of all steps at once.  Before the first
step dh0 = W_hhᵀ da_1 and dc0 = dc_1 ⊙ f_1 are left.  Every step reads the same weights, so that

    dx_t = W_ihᵀ da_t
    dW_ih = Σ_t da_t x_tᵀ    dW_hh = Σ_t da_t h_(t−1)ᵀ    db_ih = db_hh = Σ_t da_t

Along c alone a gradient is a product of f_t, with no weight in it: where the forget gates are open, it does not vanish.

σ' and tanh' are taken at the pre-activations and at c_t: of a gate s that has rounded to 1, s (1 − s) has no digits.

No kinks.

Source: Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); Gers, Schmidhuber & Cummins,
"Learning to forget", Neural Computation 12 (2000), which adds the forget gate; Werbos, "Backpropagation through time:
what it does and how to do it", Proc. IEEE 78 (1990).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, uniform
from manual_bp.rules.recurrent._gates import sigmoid_slope, tanh_slope
from manual_bp.rules.recurrent._mistakes import Cotangents, Parts, in_time
from manual_bp.rules.recurrent._steps import Tensors, over_time
from manual_bp.rules.recurrent._time import before, initial, require_a_step, through_bias, through_weight


class Residuals(NamedTuple):
    x: Float[Tensor, "time batch in"]
    h0: Float[Tensor, "batch hidden"]
    c0: Float[Tensor, "batch hidden"]
    weight_ih: Float[Tensor, "4*hidden in"]
    weight_hh: Float[Tensor, "4*hidden hidden"]
    a: Float[Tensor, "time batch 4*hidden"]
    """The pre-activations and not the gates: once σ has rounded to 1, its slope cannot be told from it."""
    c: Float[Tensor, "time batch hidden"]
    """c could be made from a again, at the price of going through all steps; h is y, which is alive anyway."""
    h: Float[Tensor, "time batch hidden"]


class Outputs(NamedTuple):
    y: Float[Tensor, "time batch hidden"]
    h_n: Float[Tensor, "batch hidden"]
    c_n: Float[Tensor, "batch hidden"]


def forward(
    x: Float[Tensor, "time batch in"],
    h0: Float[Tensor, "batch hidden"],
    c0: Float[Tensor, "batch hidden"],
    weight_ih: Float[Tensor, "4*hidden in"],
    weight_hh: Float[Tensor, "4*hidden hidden"],
    bias_ih: Float[Tensor, "4*hidden"],
    bias_hh: Float[Tensor, "4*hidden"],
) -> tuple[Outputs, Residuals]:
    require_a_step("lstm", x)
    from_x = x @ weight_ih.T + (bias_ih + bias_hh)  # of all steps at once: no step waits for it
    recurrent = weight_hh.T

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (h, c), (from_x_t,) = states, now
        a_t = from_x_t + h @ recurrent
        a_i, a_f, a_g, a_o = torch.chunk(a_t, 4, -1)
        c = torch.sigmoid(a_f) * c + torch.sigmoid(a_i) * torch.tanh(a_g)
        h = torch.sigmoid(a_o) * torch.tanh(c)
        return (h, c), (a_t, c, h)

    (h_n, c_n), (a, c, h) = over_time(step, (h0, c0), (from_x,))
    return Outputs(h, h_n, c_n), Residuals(x, h0, c0, weight_ih, weight_hh, a, c, h)


def backward(
    residuals: Residuals, dy: Outputs
) -> tuple[
    Float[Tensor, "time batch in"],
    Float[Tensor, "batch hidden"],
    Float[Tensor, "batch hidden"],
    Float[Tensor, "4*hidden in"],
    Float[Tensor, "4*hidden hidden"],
    Float[Tensor, "4*hidden"],
    Float[Tensor, "4*hidden"],
]:
    x, h0, c0, weight_ih, weight_hh, a, c, h = residuals
    a_i, a_f, a_g, a_o = torch.chunk(a, 4, -1)
    i, f, g, o = torch.sigmoid(a_i), torch.sigmoid(a_f), torch.tanh(a_g), torch.sigmoid(a_o)
    da_from_states = torch.cat(
        [
            g * sigmoid_slope(a_i),  # times dc_t, as the next two
            before(c0, c) * sigmoid_slope(a_f),
            i * tanh_slope(a_g),
            torch.tanh(c) * sigmoid_slope(a_o),  # times dh_t
        ],
        -1,
    )
    dc_from_dh = o * tanh_slope(c)

    def step(states: Tensors, now: Tensors) -> tuple[Tensors, Tensors]:
        (dh, dc), (dy_t, dc_from_dh_t, da_from_states_t, f_t) = states, now
        dh = dh + dy_t
        dc = dc + dh * dc_from_dh_t
        da_t = torch.cat([dc, dc, dc, dh], -1) * da_from_states_t
        return (da_t @ weight_hh, dc * f_t), (da_t,)  # of the states before the step

    each = (dy.y, dc_from_dh, da_from_states, f)
    (dh0, dc0), (da,) = over_time(step, (dy.h_n, dy.c_n), each, last_first=True)
    dbias = through_bias(da)
    dweight_hh = through_weight(da, before(h0, h))
    return da @ weight_ih, dh0, dc0, through_weight(da, x), dweight_hh, dbias, dbias.clone()


INPUTS = {
    "x": Input(normal()),
    "h0": Input(normal(std=0.5)),
    "c0": Input(normal()),
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
    Edge("empty batch", sizes={"batch": 0}),
    Edge("all axes alike", sizes={"time": 3, "batch": 3, "in": 3, "hidden": 3}),
    Edge("states 0 at first", {"h0": constant(0.0), "c0": constant(0.0)}),
    Edge("cotangent of y alone", {"dy.h_n": constant(0.0), "dy.c_n": constant(0.0)}),
    Edge("cotangent of h_n alone", {"dy.y": constant(0.0), "dy.c_n": constant(0.0)}),
    Edge("cotangent of c_n alone", {"dy.y": constant(0.0), "dy.h_n": constant(0.0)}),
    Edge("gates shut", {"bias_ih": [[-9.0, -17.0, -90.0][k % 3] if k // 3 != 2 else 0.5 for k in range(12)]}),
    Edge("gates open", {"bias_ih": [[9.0, 17.0, 90.0][k % 3] if k // 3 != 2 else 0.5 for k in range(12)]}),
    Edge("new values saturated", {"bias_ih": [0.0] * 6 + [9.0, -17.0, 90.0] + [0.0] * 3}),
    Edge("large cell state at first", {"c0": normal(std=30.0)}),
    Edge("cell state far below 0 at first", {"c0": uniform(-2e11, -1e11), "bias_ih": normal(std=3.0)}),
    Edge("saturated by x", {"x": normal(std=30.0)}),
    Edge(
        "gradient vanishes over 200 steps",
        {"bias_ih": constant(-1.0), "dy.y": constant(0.0)},
        sizes={"time": 200, "batch": 1, "in": 1, "hidden": 1},
    ),
    Edge(
        "gradient survives 50 steps behind open forget gates",
        {"bias_ih": [-2.0, 8.0, 0.0, 0.0], "dy.y": constant(0.0)},
        sizes={"time": 50, "batch": 1, "in": 1, "hidden": 1},
    ),
    Edge(
        "gradient explodes over 200 steps",
        {
            "x": constant(0.0),
            "h0": constant(0.0),
            "c0": constant(0.0),
            "weight_hh": [[0.0], [0.0], [3.0], [0.0]],
            "bias_ih": constant(0.0),
            "bias_hh": constant(0.0),
            "dy.y": constant(0.0),
        },
        sizes={"time": 200, "batch": 1, "in": 1, "hidden": 1},
    ),
)


class _Step(NamedTuple):
    """What the formulas of a step read, of all steps at once."""

    a_i: Tensor
    a_f: Tensor
    a_g: Tensor
    a_o: Tensor
    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    c_before: Tensor
    c: Tensor


def _factors(s: _Step) -> dict[str, Tensor]:
    """By what dc_t is multiplied to give da_i, da_f, da_g and dc_(t−1), and dh_t to give da_o and its part of dc_t."""
    return {
        "i": s.g * sigmoid_slope(s.a_i),
        "f": s.c_before * sigmoid_slope(s.a_f),
        "g": s.i * tanh_slope(s.a_g),
        "o": torch.tanh(s.c) * sigmoid_slope(s.a_o),
        "c": s.o * tanh_slope(s.c),
        "kept": s.f,
    }


class _Parts(Parts):
    """factors: those that are others than the right ones (`_factors`).  to_h, to_c, order: as in `in_time`."""

    def __init__(
        self,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        dy: Outputs,
        factors: Callable[[_Step], dict[str, Tensor]] = lambda _: {},
        to_h: Callable[[int], float] = lambda _: 1.0,
        to_c: Callable[[int], float] = lambda _: 1.0,
        order: Callable[[range], Iterator[int]] = reversed,
    ) -> None:
        _, kept = forward(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh)
        self.x, self.weight_ih, self.h, self.h_before = x, weight_ih, kept.h, before(h0, kept.h)
        a_i, a_f, a_g, a_o = torch.chunk(kept.a, 4, -1)
        gates = torch.sigmoid(a_i), torch.sigmoid(a_f), torch.tanh(a_g), torch.sigmoid(a_o)
        step = _Step(a_i, a_f, a_g, a_o, *gates, before(c0, kept.c), kept.c)
        of = {**_factors(step), **factors(step)}
        da, dh, dc = {}, dy.h_n, dy.c_n
        for t in order(range(len(x))):
            dh = dh + dy.y[t]
            dc = dc + dh * of["c"][t]
            da[t] = torch.cat([dc * of["i"][t], dc * of["f"][t], dc * of["g"][t], dh * of["o"][t]], -1)
            self.dc, dh, dc = dc, (da[t] @ weight_hh) * to_h(t), dc * of["kept"][t] * to_c(t)
        self.da, self.of_first = torch.stack([da[t] for t in range(len(x))]), {"dh0": dh, "dc0": dc}


def _of(formula: Callable[[_Parts], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **p: formula(_Parts(**p))


def _by(factors: Callable[[_Step], dict[str, Tensor]]) -> Callable[..., Cotangents]:
    """The formula with these in place of the right factors."""
    return lambda **p: _Parts(**p, factors=factors).cotangents()


def _of_parameters(changed: Callable[[Tensor], Tensor]) -> Callable[..., Cotangents]:
    """The formula of a layer whose weights and biases are changed ones."""

    def formula(**p: Any) -> Cotangents:
        others = {name: changed(x) for name, x in p.items() if name.startswith(("weight", "bias"))}
        return _Parts(**{**p, **others}).cotangents()

    return formula


def _o_before_g(x: Tensor) -> Tensor:
    """The gates' parts of x in the order i, f, o, g."""
    i, f, g, o = torch.chunk(x, 4)
    return torch.cat([i, f, o, g])


def _bias_of_o_at_f(x: Tensor) -> Tensor:
    i, _, g, o = torch.chunk(x, 4)
    return torch.cat([i, o, g, o]) if x.ndim == 1 else x


def _of_half(da: Tensor) -> Tensor:
    """The biases' cotangent of the first half of the batch."""
    return through_bias(da[:, : da.shape[1] // 2])


def _sigmoid_slopes_from_gates(s: _Step) -> dict[str, Tensor]:
    return {"i": s.g * s.i * (1 - s.i), "f": s.c_before * s.f * (1 - s.f), "o": torch.tanh(s.c) * s.o * (1 - s.o)}


def _tanh_slopes_from_values(s: _Step) -> dict[str, Tensor]:
    return {"g": s.i * (1 - s.g**2), "c": s.o * (1 - torch.tanh(s.c) ** 2)}


MISTAKES = (
    *in_time(_Parts, ("to_h", "to_c")),
    Mistake(
        "c_n's cotangent ignored",
        lambda **p: _Parts(**{**p, "dy": p["dy"]._replace(c_n=0 * p["dy"].c_n)}).cotangents(),
        forgets="that the last cell state is returned too: dc_T begins with dc_n",
        shows="wherever dc_n is not 0",
        seen="https://github.com/deeplearning4j/deeplearning4j/issues/8838",
    ),
    Mistake(
        "no way through the gates",
        lambda **p: _Parts(**p, to_h=lambda t: t == 0).cotangents(),
        forgets="W_hhᵀ da_(t+1): that the gates of the next step read h_t",
        shows="for more than one step",
    ),
    Mistake(
        "no way along the cell state",
        lambda **p: _Parts(**p, to_c=lambda t: t == 0).cotangents(),
        forgets="dc_(t+1) ⊙ f_(t+1): that the next step keeps c_t",
        shows="for more than one step",
    ),
    Mistake(
        "forget gate twice",
        _by(lambda s: {"kept": s.f**2}),
        forgets="that dc_(t+1) has met its gate already",
        shows="unless the forget gates are open",
    ),
    Mistake(
        "forget gate forgotten",
        _by(lambda s: {"kept": torch.ones_like(s.f)}),
        forgets="f_(t+1) between c_(t+1) and c_t",
        shows="unless the forget gates are open",
    ),
    Mistake(
        "forget gate of the step before",
        _by(lambda s: {"kept": torch.roll(s.f, 1, 0)}),
        forgets="that c_t is kept by the gate of the step t+1: an index is off by one",
        shows="for more than one step",
    ),
    Mistake(
        "input gate for forget gate",
        _by(lambda s: {"kept": s.i}),
        forgets="which gate keeps c",
        shows="everywhere",
    ),
    Mistake(
        "output gate missing in dc",
        _by(lambda s: {"c": tanh_slope(s.c)}),
        forgets="o_t between c_t and h_t",
        shows="unless the output gates are open",
    ),
    Mistake(
        "tanh missing in dc",
        _by(lambda s: {"c": s.o}),
        forgets="tanh'(c_t)",
        shows="away from c = 0",
    ),
    Mistake(
        "tanh' at tanh(c)",
        _by(lambda s: {"c": s.o * tanh_slope(torch.tanh(s.c))}),
        forgets="that tanh' is taken at c_t, and not at what has been through tanh already",
        shows="away from c = 0",
    ),
    Mistake(
        "df from the cell state after the step",
        _by(lambda s: {"f": s.c * sigmoid_slope(s.a_f)}),
        forgets="that the forget gate meets c_(t−1)",
        shows="everywhere",
    ),
    Mistake(
        "do from the cell state itself",
        _by(lambda s: {"o": s.c * sigmoid_slope(s.a_o)}),
        forgets="that the output gate meets tanh(c_t)",
        shows="away from c = 0",
    ),
    Mistake(
        "di from the pre-activation of g",
        _by(lambda s: {"i": s.a_g * sigmoid_slope(s.a_i)}),
        forgets="that the input gate meets g_t, which has been through tanh",
        shows="away from a_g = 0",
    ),
    Mistake(
        "dg like a gate",
        _by(lambda s: {"g": s.i * sigmoid_slope(s.a_g)}),
        forgets="that g goes through tanh, and the gates through σ",
        shows="everywhere",
    ),
    Mistake(
        "gates' slopes forgotten",
        _by(lambda s: {"i": s.g, "f": s.c_before, "o": torch.tanh(s.c)}),
        forgets="σ' of the three gates",
        shows="everywhere",
    ),
    Mistake(
        "s(1 − s) and 1 − t²",
        _by(lambda s: {**_sigmoid_slopes_from_gates(s), **_tanh_slopes_from_values(s)}),
        forgets="that 1 − s and 1 − t² cancel once s or t is near 1",
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
        "1 − t²",
        _by(_tanh_slopes_from_values),
        forgets="that 1 − t² cancels once |t| is near 1",
        shows="growing with |a|; from 9.1 in float32 and 19.1 in float64 no digit is left",
        loses_digits=True,
    ),
    Mistake(
        "gates i, f, o, g",
        _of_parameters(_o_before_g),
        forgets="the order of the gates, i, f, g, o: this is the gradient of a layer whose output gate comes third",
        shows="everywhere",
    ),
    Mistake(
        "cotangents in order i, f, o, g",
        _of(lambda r: r.cotangents(**{name: _o_before_g(d) for name, d in r.of_parameters().items()})),
        forgets="the order of the gates, i, f, g, o: each cotangent stands in another's place",
        shows="everywhere",
    ),
    Mistake(
        "output gate's bias at the forget gate",
        _of_parameters(_bias_of_o_at_f),
        forgets="that each gate has a bias of its own",
        shows="wherever the biases of f and o differ",
        seen="https://github.com/ddbourgin/numpy-ml/issues/42",
    ),
    Mistake(
        "1 added to the forget gate's bias",
        lambda **p: _Parts(
            **{**p, "bias_ih": torch.cat([b + (k == 1) for k, b in enumerate(torch.chunk(p["bias_ih"], 4))])}
        ).cotangents(),
        forgets="that forward adds nothing to it; where gates are to be open at first, the bias itself begins with 1",
        shows="everywhere",
    ),
    Mistake(
        "dh0 and dc0 forgotten",
        _of(lambda r: r.cotangents(**{name: torch.zeros_like(d) for name, d in r.of_first.items()})),
        forgets="that the states before the first step are inputs",
        shows="everywhere",
    ),
    Mistake(
        "dh0 and dc0 swapped",
        _of(lambda r: r.cotangents(dh0=r.of_first["dc0"], dc0=r.of_first["dh0"])),
        forgets="the order of the inputs",
        shows="everywhere",
    ),
    Mistake(
        "dc0 without its gate",
        _of(lambda r: r.cotangents(dc0=r.dc)),
        forgets="f_1 between c0 and c_1",
        shows="unless the forget gates of the first step are open",
    ),
    Mistake(
        "biases' cotangents of one thread's examples",
        _of(lambda r: r.cotangents(dbias_ih=_of_half(r.da), dbias_hh=_of_half(r.da))),
        forgets="that threads share them, each with a part of the batch: what one has added is overwritten by another",
        shows="for more than one example",
        seen="https://github.com/nntrainer/nntrainer/commit/5a9615928080",
    ),
    Mistake(
        "biases share one cotangent",
        _of(lambda r: r.cotangents(dbias_ih=through_bias(r.da) / 2, dbias_hh=through_bias(r.da) / 2)),
        forgets="that the derivative of a sum by each summand is 1",
        shows="everywhere",
    ),
)
