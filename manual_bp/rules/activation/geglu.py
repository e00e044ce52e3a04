"""GEGLU, a linear unit gated by GELU.

    y = gelu(gate) up

with gelu(g) = g Φ(g), or its approximation g σ(t) where approximate is "tanh" (the page `gelu`).

Derivation.  y is linear in up, with factor gelu(gate); gate reaches it through gelu alone, whose derivative is
Φ(g) + g φ(g), or σ(t) + g t' σ(t) σ(−t):

    dup   = dy gelu(gate)
    dgate = dy up (Φ(gate) + gate φ(gate))          approximate = "none"
    dgate = dy up (σ(t) + gate t' σ(t) σ(−t))       approximate = "tanh"
                   direct  gate

gate and up are two projections of one input in most networks; here they are two inputs, whatever layout they had.  Both
tails keep their digits, as on the page `gelu`: up may be large where the gate has all but sunk to 0.

No kinks.  Where gate is 0, so is y, and dgate = dy up / 2.  At gate = −∞ y is NaN, the product of ∞ and 0, as in torch.

Source: Shazeer, "GLU Variants Improve Transformer" (2020), eq. 5 and 6.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, Value, normal
from manual_bp.rules.activation._gated import interleaved, to_row_0
from manual_bp.rules.activation._gelu import cdf, cdf_from_1, density, gelu, gelu_from_1, gelu_slope, magnified


class Residuals(NamedTuple):
    gate: Float[Tensor, "*shape"]
    up: Float[Tensor, "*shape"]
    """Both are alive anyway, as outputs of the layers before; gelu(gate) would be one more tensor and is recomputed."""
    approximate: str


def forward(
    gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"], *, approximate: Literal["none", "tanh"] = "none"
) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return gelu(gate, approximate) * up, Residuals(gate, up, approximate)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    gate, up, approximate = residuals
    dgate = dy * up * gelu_slope(gate, approximate)
    dup = dy * gelu(gate, approximate)
    return dgate, dup


def terms(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> dict[str, dict[str, Tensor]]:
    gate, up, approximate = residuals
    return {
        "dgate": {
            "direct": dy * up * cdf(gate, approximate),
            "gate": dy * up * (gate * density(gate, approximate)),
        },
        "dup": {"whole": dy * gelu(gate, approximate)},
    }


INPUTS = {"gate": Input(normal(std=2.0)), "up": Input(normal())}

EDGES = (
    Edge("tanh", {"approximate": "tanh"}),
    Edge("gate 0", {"gate": [0.0, -0.0, 0.0], "up": [1.5, -2.0, 0.0]}),
    Edge("gate 0, tanh", {"gate": [0.0, -0.0, 0.0], "up": [1.5, -2.0, 0.0], "approximate": "tanh"}),
    Edge("up 0", {"gate": [1.0, -1.0, 30.0], "up": [0.0, -0.0, 0.0]}),
    Edge("where gelu's derivative crosses 0", {"gate": [-0.7517916, -0.752, -0.75], "up": [1.0, -3.0, 100.0]}),
    Edge(
        "where gelu's derivative crosses 0, tanh",
        {"gate": [-0.752461, -0.752, -0.75], "up": [1.0, -3.0, 100.0], "approximate": "tanh"},
    ),
    Edge("upper saturation", {"gate": [3.0, 5.5, 8.5, 40.0, 100.0], "up": [1.0, -2.0, 0.5, 3.0, -1.0]}),
    Edge(
        "upper saturation, tanh",
        {"gate": [3.0, 5.5, 8.5, 40.0, 100.0], "up": [1.0, -2.0, 0.5, 3.0, -1.0], "approximate": "tanh"},
    ),
    Edge("lower tail", {"gate": [-3.0, -5.5, -8.5, -12.0], "up": [1.0, -2.0, 0.5, 3.0]}),
    Edge("lower tail, tanh", {"gate": [-3.0, -5.5, -8.5, -9.5], "up": [1.0, -2.0, 0.5, 3.0], "approximate": "tanh"}),
    Edge("large up beside a vanishing gate", {"gate": [-12.5, -13.5, -14.2, -38.0], "up": [6e4, -5e4, 3e4, 6e4]}),
    Edge(
        "large up beside a vanishing gate, tanh",
        {"gate": [-9.5, -10.3, -10.6, -21.4], "up": [6e4, -5e4, 3e4, 6e4], "approximate": "tanh"},
    ),
    Edge(
        "gradual underflow", {"gate": [-13.0, -13.5, -14.0, -14.4, -37.8, -38.4], "up": [1.0, -1.0, 2.0, 3.0, 1.0, 2.0]}
    ),
    Edge(
        "gradual underflow, tanh",
        {"gate": [-9.9, -10.1, -10.6, -21.2, -21.7], "up": [1.0, -1.0, 2.0, 3.0, 1.0], "approximate": "tanh"},
    ),
    Edge("infinite cotangent", {"gate": [-1.0, 2.0], "up": [1.0, 1.0], "dy": [float("inf"), float("-inf")]}),
)

_TAIL = "what the page `gelu` says of its value in the lower tail"
_TINY = torch.finfo(torch.float32).tiny

PROMISES = {
    "y": Promise(
        _TAIL,
        more=lambda gate, up, approximate: magnified(gate, approximate),
        beside=lambda gate, up, approximate: _TINY * (gate * up).abs(),
    ),
    "dgate": Promise(
        "what the page `gelu` says of its slope, whose terms cancel near -0.752",
        more=lambda gate, up, approximate: magnified(gate, approximate) if approximate == "tanh" else 0.0,
        beside=lambda gate, up, approximate: (up * gate * density(gate, approximate)).abs().nan_to_num(nan=0.0),
    ),
    "dup": Promise(
        _TAIL,
        more=lambda gate, up, approximate: magnified(gate, approximate),
        beside=lambda gate, up, approximate: _TINY * gate.abs(),
    ),
}

VALUES = (
    Value(
        "½ gate (1 + erf) up or ½ gate (1 + tanh) up",
        lambda gate, up, approximate: gelu_from_1(gate, approximate) * up,
        forgets="that erf and tanh are near -1 in the lower tail, and the sum with 1 cancels",
        shows="for gate < 0, growing; from -5.5 (float32) or -8.3 (float64) no digit is left",
        seen="https://github.com/pytorch/pytorch/issues/187806",
    ),
)


def _slope(gate: Tensor, approximate: str) -> Tensor:
    return cdf(gate, approximate) + gate * density(gate, approximate)


def _gelu(gate: Tensor, approximate: str) -> Tensor:
    return gate * cdf(gate, approximate)


MISTAKES = (
    Mistake(
        "1 + erf or 1 + tanh",
        lambda gate, up, dy, approximate: (
            dy * up * (cdf_from_1(gate, approximate) + gate * density(gate, approximate)),
            dy * gelu_from_1(gate, approximate),
        ),
        forgets="that erf and tanh are near -1 in the lower tail, and the sum with 1 cancels",
        shows="for gate < 0, growing",
        seen="https://github.com/tenstorrent/tt-metal/issues/38643",
        loses_digits=True,
    ),
    Mistake(
        "gate and up swapped",
        lambda gate, up, dy, approximate: (dy * _gelu(up, approximate), dy * gate * _slope(up, approximate)),
        forgets="which of the two is gated: this is the backward of gate gelu(up)",
        shows="unless gate and up are equal",
        seen="https://github.com/ml-explore/mlx-lm/pull/767",
    ),
    Mistake(
        "cotangents swapped",
        lambda gate, up, dy, approximate: (dy * _gelu(gate, approximate), dy * up * _slope(gate, approximate)),
        forgets="the order of the inputs: each cotangent is stored in the other's place",
        shows="everywhere",
        seen="https://github.com/unslothai/unsloth/issues/3314",
    ),
    Mistake(
        "activation rounded to 16 bits",
        lambda gate, up, dy, approximate: (
            dy * up * _slope(gate, approximate),
            dy * _gelu(gate, approximate).bfloat16().to(dy.dtype),
        ),
        forgets="that forward and backward must take one and the same activation, with all its digits",
        shows="everywhere but at 0",
        seen="https://github.com/linkedin/Liger-Kernel/commit/57848d538406",
    ),
    Mistake(
        "tanh form for the erf form",
        lambda gate, up, dy, approximate: (dy * up * _slope(gate, "tanh"), dy * _gelu(gate, "tanh")),
        forgets="that the approximation is another function than the one that forward computed",
        shows='everywhere but at 0 and in saturation, if approximate is "none"',
    ),
    Mistake(
        "approximate ignored",
        lambda gate, up, dy, approximate: (dy * up * _slope(gate, "none"), dy * _gelu(gate, "none")),
        forgets="that forward computed the approximation",
        shows='everywhere but at 0 and in saturation, if approximate is "tanh"',
    ),
    Mistake(
        "silu for gelu",
        lambda gate, up, dy, approximate: (
            dy * up * torch.sigmoid(gate) * (1 + gate * torch.sigmoid(-gate)),
            dy * gate * torch.sigmoid(gate),
        ),
        forgets="which unit it is: this is the backward of SwiGLU",
        shows="everywhere but at 0",
    ),
    Mistake(
        "gate as a constant in gelu",
        lambda gate, up, dy, approximate: (dy * up * cdf(gate, approximate), dy * _gelu(gate, approximate)),
        forgets="that Φ(gate) depends on gate too: half of the product rule",
        shows="everywhere but at gate = 0",
    ),
    Mistake(
        "gate's slope alone",
        lambda gate, up, dy, approximate: (dy * up * gate * density(gate, approximate), dy * _gelu(gate, approximate)),
        forgets="the direct path through gate, whose factor is Φ(gate)",
        shows="everywhere",
    ),
    Mistake(
        "gate missing before the density",
        lambda gate, up, dy, approximate: (
            dy * up * (cdf(gate, approximate) + density(gate, approximate)),
            dy * _gelu(gate, approximate),
        ),
        forgets="the factor gate of Φ's slope",
        shows="everywhere but at 1",
    ),
    Mistake(
        "sign of the density",
        lambda gate, up, dy, approximate: (
            dy * up * (cdf(gate, approximate) - gate * density(gate, approximate)),
            dy * _gelu(gate, approximate),
        ),
        forgets="the sign of Φ's slope",
        shows="everywhere but at gate = 0",
    ),
    Mistake(
        "up missing in dgate",
        lambda gate, up, dy, approximate: (dy * _slope(gate, approximate), dy * _gelu(gate, approximate)),
        forgets="the factor up",
        shows="wherever up is not 1",
    ),
    Mistake(
        "Φ(gate) in dup",
        lambda gate, up, dy, approximate: (dy * up * _slope(gate, approximate), dy * cdf(gate, approximate)),
        forgets="that up is multiplied by gate Φ(gate)",
        shows="wherever gate is not 1",
    ),
    Mistake(
        "gate in dup",
        lambda gate, up, dy, approximate: (dy * up * _slope(gate, approximate), dy * gate),
        forgets="the activation of the gate",
        shows="everywhere but far on the right",
    ),
    Mistake(
        "gelu's slope in dup",
        lambda gate, up, dy, approximate: (dy * up * _slope(gate, approximate), dy * _slope(gate, approximate)),
        forgets="that y is linear in up: its factor is gelu(gate) itself",
        shows="everywhere",
    ),
    Mistake(
        "up in dup",
        lambda gate, up, dy, approximate: (dy * up * _slope(gate, approximate), dy * up * _gelu(gate, approximate)),
        forgets="that the factor up is gone once y is differentiated by up",
        shows="wherever up is not 1",
    ),
    Mistake(
        "gradients interleaved",
        lambda gate, up, dy, approximate: interleaved(
            dy * up * _slope(gate, approximate), dy * _gelu(gate, approximate)
        ),
        forgets="whether gate and up lie in turn or in two halves",
        shows="for more than one element",
        seen="https://github.com/Dao-AILab/quack/commit/874af048205c",
    ),
    Mistake(
        "every row written to row 0",
        lambda gate, up, dy, approximate: (
            to_row_0(dy * up * _slope(gate, approximate)),
            to_row_0(dy * _gelu(gate, approximate)),
        ),
        forgets="to advance the pointers of the results with the row",
        shows="for more than one row",
        seen="https://github.com/ByteDance-Seed/Triton-distributed/issues/180",
    ),
    Mistake(
        "cotangent dropped",
        lambda gate, up, dy, approximate: (
            up * _slope(gate, approximate) * torch.ones_like(dy),
            _gelu(gate, approximate) * torch.ones_like(dy),
        ),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
