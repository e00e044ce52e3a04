"""Layers of everyday sizes, forward and backward: recurrent ones, convolutions, poolings, attention, fused costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import manual_bp as bp
from benchmarks.rules import RuleProblem, Run
from manual_bp.inputs import Edge
from manual_bp.oracle import Case
from manual_bp.oracle.case import in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.outputs import parts

FARTHEST = 1e-4
"""Of a cotangent's largest number, how far off float64 any of its numbers may be in float32.  A sum of up to 10^5
products has its rounding in it; a factor that is forgotten is not.  The oracle, which derives what is allowed for each
number, takes half a minute for one of these contestants; the compiled pages' own tests have it judge smaller ones."""


UNROLLED = dict.fromkeys(
    ("lstm", "gru", "rnn"), "it unrolls the steps; nn.LSTM took minutes to compile and became slower than eager"
)
"""By rule, why torch.compile does not take part: 447 s on two busy cores, and then 71 ms where eager took 48."""


@dataclass(frozen=True)
class LayerProblem(RuleProblem):
    """A rule at inputs of sizes that were said."""

    def check(self, name: str, run: Run) -> None:
        """Raises AssertionError unless what the contestant returns is what the page makes of it in float64."""
        y, grads = run()
        wide = [x.double() if x is not None and x.is_floating_point() else x for x in self.inputs]
        dy = tuple(t.double() for t in parts(self.dy))
        y_due, due = self.rule.vjp(tuple(wide), dy if isinstance(self.dy, tuple) else dy[0], **self.hyper)
        got = [*parts(y), *grads]
        for place, (result, exact) in enumerate(zip(got, (*parts(y_due), *due), strict=True)):
            if exact is not None:
                off = _off(result, exact)
                assert off <= FARTHEST, f"{name} of {self.row}: result {place} is {off:.3g} of its largest number off"


def _off(result: Tensor | None, exact: Tensor) -> float:
    assert result is not None
    assert result.shape == exact.shape
    largest = float(exact.abs().max())
    return float((result.detach().double() - exact).abs().max()) / max(largest, torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Layer:
    """A rule, how long its axes are, and the ratio to the faster torch that is not to be exceeded.

    small: whether `--quick` has it; memory: likewise the ratio of peak memory to that of the torch that takes least.
    """

    row: str
    name: str
    sizes: Mapping[str, Any]
    target: float
    hyper: Mapping[str, Any] = field(default_factory=dict)
    small: bool = True
    memory: float | None = None

    def problem(self) -> LayerProblem:
        """With numbers drawn."""
        rule = bp.RULES[self.name]
        edge = Edge("benchmark", dict(self.hyper), sizes=dict(self.sizes))
        case = in_dtype(Case(*draw(rule, edge, torch.Generator().manual_seed(0))), torch.float32, "cpu")
        return LayerProblem(rule, self.row, case.inputs, case.dy, dict(case.hyper))


SMALL = 8
"""Height and width of the images of small layers."""


def _recurrent(name: str, target: float) -> Layer:
    sizes = {"time": 64, "batch": 32, "in": 128, "hidden": 128}
    return Layer(f"{name}, 64 steps, 128 units, batch 32", name, sizes, target)


def _convolution(channels: int, filters: int, length: int) -> Layer:
    row = f"convolution 3 × 3, {channels} to {filters} channels, {length} × {length}, batch 128"
    sizes = {"batch": 128, "groups": 1, "channels": channels, "space": (length, length), "filters": filters}
    return Layer(row, "convolution", {**sizes, "kernel": (3, 3)}, 1.05, {"padding": 1}, length <= SMALL)


def _pool(name: str, batch: int, channels: int, length: int, kernel: int, **hyper: int) -> Layer:
    row = f"{name} {kernel} × {kernel}, {channels} channels, {length} × {length}, batch {batch}"
    sizes = {"batch": batch, "channels": channels, "space": (length, length)}
    return Layer(row, name, sizes, 1.05, {"kernel": kernel, **hyper}, length <= SMALL)


def _cost(rows: int, features: int, classes: int) -> Layer:
    row = f"fused_linear_cross_entropy, {rows} × {features}, {classes} classes"
    sizes = {"rows": rows, "features": features, "classes": classes}
    return Layer(row, "fused_linear_cross_entropy", sizes, 1.0, small=False, memory=0.2)


def _attention(heads: int, positions: int, width: int) -> Layer:
    row = f"attention, causal, {BATCH} × {heads} heads of {positions} × {width}"
    sizes = {"batch": (BATCH,), "kv_heads": heads, "group": 1, "queries": positions, "keys": positions}
    sizes |= {"width": width, "value_width": width}
    return Layer(
        row,
        "scaled_dot_product_attention",
        sizes,
        1.05,
        {"causal": True, "mask": None},
        small=positions < 1000,
        memory=1.0,
    )


POOLS = ("max_pool", "avg_pool")
BATCH = 4
"""Of attention."""

LAYERS = (
    _recurrent("lstm", 0.7),
    _recurrent("gru", 0.7),
    _recurrent("rnn", 1.05),
    _convolution(1, 32, 8),
    _convolution(32, 64, 14),
    _convolution(16, 16, 28),
    *(_pool(name, 128, 32, 8, 2) for name in POOLS),
    *(_pool(name, 128, 32, 28, 2) for name in POOLS),
    *(_pool(name, 32, 64, 56, 3, stride=2, padding=1) for name in POOLS),
    _attention(4, 256, 32),
    _attention(4, 2048, 64),
    _cost(1024, 512, 32768),
)
"""The rows of the table."""
