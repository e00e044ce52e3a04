"""SwiGLU, a linear unit gated by SiLU.

    y = silu(gate) up,   silu(g) = g σ(g),   σ(g) = 1 / (1 + e⁻ᵍ)

Derivation.  y is linear in up, with factor silu(gate); gate reaches it through silu alone, whose derivative is
σ(g) (1 + g σ(−g)) (the page `silu`):

    dup   = dy silu(gate)
    dgate = dy up σ(gate) (1 + gate σ(−gate))

gate and up are two projections of one input in most networks; here they are two inputs, whatever layout they had.  Both
tails keep their digits, as on the page `silu`.

No kinks.  Where gate is 0, so is y, and dgate = dy up / 2.  At gate = −∞ y is NaN, and so is dgate at ±∞, as for silu.

Source: Shazeer, "GLU Variants Improve Transformer" (2020), eq. 5 and 6.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, Value, normal
from manual_bp.rules.activation._gated import interleaved, to_row_0
from manual_bp.rules.activation._swish import swish, swish_slope


class Residuals(NamedTuple):
    gate: Float[Tensor, "*shape"]
    up: Float[Tensor, "*shape"]
    """Both are alive anyway, as outputs of the layers before; silu(gate) would be one more tensor and is recomputed."""


def forward(gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return swish(gate, gate) * up, Residuals(gate, up)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    gate, up = residuals
    dgate = dy * up * swish_slope(gate, gate, 1.0)
    dup = dy * swish(gate, gate)
    return dgate, dup


def terms(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> dict[str, dict[str, Tensor]]:
    gate, up = residuals
    s = torch.sigmoid(gate)
    return {
        "dgate": {"direct": dy * up * s, "gate": dy * up * (gate * s * torch.sigmoid(-gate))},
        "dup": {"whole": dy * swish(gate, gate)},
    }


INPUTS = {"gate": Input(normal(std=2.0)), "up": Input(normal())}

EDGES = (
    Edge("gate 0", {"gate": [0.0, -0.0, 0.0], "up": [1.5, -2.0, 0.0]}),
    Edge("up 0", {"gate": [1.0, -1.0, 30.0], "up": [0.0, -0.0, 0.0]}),
    Edge("where silu's derivative crosses 0", {"gate": [-1.2784645, -1.278, -1.279], "up": [1.0, -3.0, 100.0]}),
    Edge("upper saturation", {"gate": [9.0, 17.0, 37.0, 80.0, 800.0], "up": [1.0, -2.0, 0.5, 3.0, -1.0]}),
    Edge("lower tail", {"gate": [-9.0, -17.0, -37.0, -80.0], "up": [1.0, -2.0, 0.5, 3.0]}),
    Edge("large up beside a vanishing gate", {"gate": [-80.0, -95.0, -104.0, -715.0], "up": [6e4, -5e4, 3e4, 6e4]}),
    Edge(
        "gradual underflow",
        {"gate": [-88.5, -90.0, -91.5, -106.0, -710.0, -744.0], "up": [1.0, -1.0, 2.0, 3.0, 1.0, 2.0]},
    ),
    Edge("infinite cotangent", {"gate": [-1.0, 2.0], "up": [1.0, 1.0], "dy": [float("inf"), float("-inf")]}),
)


def _s(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _silu(gate: Tensor) -> Tensor:
    return gate * _s(gate)


def _slope(gate: Tensor) -> Tensor:
    return _s(gate) * (1 + gate * _s(-gate))


PROMISES = {
    "dgate": Promise(
        "near -1.28 the terms σ(gate) and gate σ(gate) σ(-gate) cancel", beside=lambda gate, up: _s(gate) * up.abs()
    ),
}

VALUES = (
    Value(
        "gate σ(gate) up",
        lambda gate, up: _silu(gate) * up,
        forgets="that σ(gate) has sunk to 0, or below the smallest normal number, where gate σ(gate) is still above it",
        shows="from gate = -88 (float32) or -709 (float64) on",
    ),
)

MISTAKES = (
    Mistake(
        "s(1 + g(1 - s))",
        lambda gate, up, dy: (dy * up * _s(gate) * (1 + gate * (1 - _s(gate))), dy * _silu(gate)),
        forgets="that s has sunk to 0 on the left where g s is still a normal number, and 1 - s cancels on the right",
        shows="from gate = -89 (float32) or -710 (float64) on; a few digits for gate > 0",
        seen="https://github.com/tensorflow/tensorflow/issues/124835",
        loses_digits=True,
    ),
    Mistake(
        "gate and up swapped",
        lambda gate, up, dy: (dy * _silu(up), dy * gate * _slope(up)),
        forgets="which of the two is gated: this is the backward of gate silu(up)",
        shows="unless gate and up are equal",
        seen="https://github.com/ml-explore/mlx-lm/pull/767",
    ),
    Mistake(
        "cotangents swapped",
        lambda gate, up, dy: (dy * _silu(gate), dy * up * _slope(gate)),
        forgets="the order of the inputs: each cotangent is stored in the other's place",
        shows="everywhere",
        seen="https://github.com/unslothai/unsloth/issues/3314",
    ),
    Mistake(
        "gate as a constant in silu",
        lambda gate, up, dy: (dy * up * _s(gate), dy * _silu(gate)),
        forgets="that σ(gate) depends on gate too: half of the product rule",
        shows="everywhere but at gate = 0",
    ),
    Mistake(
        "sigmoid's derivative",
        lambda gate, up, dy: (dy * up * (_s(gate) * _s(-gate)), dy * _silu(gate)),
        forgets="that the gate is silu, and not σ",
        shows="everywhere",
    ),
    Mistake(
        "gate's slope alone",
        lambda gate, up, dy: (dy * up * (gate * _s(gate) * _s(-gate)), dy * _silu(gate)),
        forgets="the direct path through gate, whose factor is σ(gate)",
        shows="everywhere",
    ),
    Mistake(
        "s(1 - g(1 - s))",
        lambda gate, up, dy: (dy * up * (_s(gate) * (1 - gate * _s(-gate))), dy * _silu(gate)),
        forgets="the sign of the gate's slope",
        shows="everywhere but at gate = 0",
    ),
    Mistake(
        "up missing in dgate",
        lambda gate, up, dy: (dy * _slope(gate), dy * _silu(gate)),
        forgets="the factor up",
        shows="wherever up is not 1",
    ),
    Mistake(
        "σ(gate) in dup",
        lambda gate, up, dy: (dy * up * _slope(gate), dy * _s(gate)),
        forgets="that up is multiplied by gate σ(gate), and not by σ(gate) as in GLU",
        shows="wherever gate is not 1",
    ),
    Mistake(
        "gate in dup",
        lambda gate, up, dy: (dy * up * _slope(gate), dy * gate),
        forgets="the activation of the gate",
        shows="everywhere but far on the right",
    ),
    Mistake(
        "silu's slope in dup",
        lambda gate, up, dy: (dy * up * _slope(gate), dy * _slope(gate)),
        forgets="that y is linear in up: its factor is silu(gate) itself",
        shows="everywhere",
    ),
    Mistake(
        "up in dup",
        lambda gate, up, dy: (dy * up * _slope(gate), dy * up * _silu(gate)),
        forgets="that the factor up is gone once y is differentiated by up",
        shows="wherever up is not 1",
    ),
    Mistake(
        "sigmoid recovered as silu/gate",
        lambda gate, up, dy: (
            dy * up * (_silu(gate) / gate) * (1 + gate * (1 - _silu(gate) / gate)),
            dy * _silu(gate),
        ),
        forgets="that silu(gate)/gate is 0/0 at 0",
        shows="at gate = 0",
        seen="https://github.com/huggingface/candle/commit/1690ab45d2f6",
    ),
    Mistake(
        "gradients interleaved",
        lambda gate, up, dy: interleaved(dy * up * _slope(gate), dy * _silu(gate)),
        forgets="whether gate and up lie in turn or in two halves",
        shows="for more than one element",
        seen="https://github.com/Dao-AILab/quack/commit/874af048205c",
    ),
    Mistake(
        "every row written to row 0",
        lambda gate, up, dy: (to_row_0(dy * up * _slope(gate)), to_row_0(dy * _silu(gate))),
        forgets="to advance the pointers of the results with the row",
        shows="for more than one row",
        seen="https://github.com/ByteDance-Seed/Triton-distributed/issues/180",
    ),
    Mistake(
        "cotangent dropped",
        lambda gate, up, dy: (up * _slope(gate) * torch.ones_like(dy), _silu(gate) * torch.ones_like(dy)),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
