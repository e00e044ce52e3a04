"""Saturation: which units stand in the flat part of their activation, where the gradient hardly passes.

Flat is where the slope |σ'(z)| is below a twentieth of the steepest slope of that activation: beyond |z| = 4.36 for
sigmoid (outputs outside 0.013 … 0.987), beyond |z| = 2.18 for tanh (outputs beyond ±0.975), left of −3 for ELU, the
closed side of ReLU, and that of a leaky ReLU whose slope is below 0.05.

What counts as a loss depends on the activation:

- one that is flat on both sides (sigmoid, tanh) passes nothing but in between: every flat value is lost;
- one that is flat on one side (ReLU, ELU) passes the gradient undiminished on the other, and half of its values are
  meant to be closed (He's initial weights presume it): a unit is lost only if it is flat for every example;
- one that routes (maxout: several inputs to a unit) is never flat: a piece is lost if it never wins;
- one whose units share their inputs in another way (softmax) has no slope of its own: a unit is lost if it is dead.

A unit that passes exactly nothing for any example is dead: its weights get no gradient from these examples.  So what
is lost of a layer of ReLU is dead, and nothing of it is called saturated.

Sources: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
section 3, for saturation as the cause of stalled training; Maas, Hannun & Ng, "Rectifier nonlinearities improve neural
network acoustic models", ICML 2013 workshop, for units that never activate.  The twentieth is a choice close to a
common one, |tanh| > 0.97 (Karpathy, "Building makemore", part 3), where the slope is 0.059; the half beyond which a
layer is called saturated is this page's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Activation, Layer, Tensors, Visit, probe
from manual_bp.rule import Rule
from manual_bp.wording import counted

FLAT = 0.05
"""Of the steepest slope."""
SATURATED = 0.5
"""Of a layer's values or units, lost."""
# What is lost: of an activation that is flat on both sides, on one side where its slope is 0 or small, and of one that
# routes.
SATURATED_VALUES, DEAD_UNITS, STUCK_UNITS = "saturated values", "dead units", "units stuck in the flat part"
LOSING_PIECES = "pieces that never win"


@dataclass(frozen=True)
class LayerSaturation:
    """One activation layer over a number of examples.

    units: of a layer, of an image the channels; of one that routes, pieces of all units.
    flat: share of the values (examples times units) that are flat; 0 if the activation is not element-wise.
    stuck: share of the units that are flat for every example; of one that routes, of the pieces that never win.
    dead: how many units get exactly no gradient from any example.
    both_sides: whether the activation is flat on both sides.
    undefined: how many values are NaN.
    lost: what `share` counts, in words: a unit of ReLU is dead where one of sigmoid is saturated.
    """

    rule: str
    units: int
    flat: float
    stuck: float
    dead: int
    both_sides: bool
    undefined: int
    lost: str = ""

    @property
    def share(self) -> float:
        """What counts as lost: `flat` if the activation is flat on both sides, else `stuck`."""
        return self.flat if self.both_sides else self.stuck


@dataclass(frozen=True)
class Saturation:
    """layers: every activation by its dotted name, from input to output. examples: how many were looked at.  verdict: a
    sentence about each layer that is saturated or has dead units."""

    layers: dict[str, LayerSaturation]
    examples: int
    verdict: str


def saturation(layer: Layer, params: Tensors, state: Tensors, x: Tensor) -> Saturation:
    """Run forward on x, (batch, features), and look at what enters each activation.

    layer, params, state: as for `manual_bp.chain.trace`; `model.inference()` for the network as it is after training.
    Raises ValueError for no example.

    >>> import torch
    >>> from manual_bp.models import mlp
    >>> network = mlp([2, 3, 1], "sigmoid")
    >>> params, state = network.init(torch.Generator().manual_seed(0))
    >>> saturation(network, params, state, torch.ones(4, 2)).verdict
    'no saturation: at most 0 % of a layer is lost (activation1), and no unit is dead'
    >>> saturation(network, {**params, "b1": torch.full((3,), 20.0)}, state, torch.ones(4, 2)).verdict
    'activation1 (sigmoid) is saturated: 100 % of its values have a slope below 5 % of the steepest'
    """
    if len(x) == 0:
        raise ValueError(f"saturation: there must be an example; came x {tuple(x.shape)}.")
    probed, visits = probe(layer)
    probed.forward(params, state, x)
    found = {name: _judge(visit) for name, visit in visits.items() if isinstance(visit.leaf, Activation)}
    return Saturation(found, len(x), _verdict(found, len(x)))


def _judge(visit: Visit) -> LayerSaturation:
    rule, hyper, z = visit.leaf.rule, visit.leaf.hyper, visit.inputs[0]
    assert z is not None
    assert isinstance(visit.leaf, Activation)
    z, y = (t.movedim(visit.leaf.units, -1).flatten(0, -2) for t in (z, visit.y))  # whatever the axes of the batch
    slope = _slope(rule, hyper, z, y)
    never = (slope == 0).all(0)
    if rule.elementwise:
        steepest, both_sides, closed = _shape(rule, hyper)
        flat = slope.abs() < FLAT * steepest
        shares = (_mean(flat), _mean(flat.all(0)))
        lost = SATURATED_VALUES if both_sides else DEAD_UNITS if closed else STUCK_UNITS
    else:
        both_sides, shares = False, (0.0, _mean(never))
        lost = LOSING_PIECES if z.shape != y.shape else DEAD_UNITS
    dead, undefined = int(never.sum()), int(z.isnan().sum())
    return LayerSaturation(rule.name, never.numel(), *shares, dead, both_sides, undefined, lost)


def _slope(rule: Rule, hyper: Mapping[str, Any], z: Tensor, y: Tensor) -> Tensor:
    """σ'(z) or, where units share their inputs, the cotangent of each input for a dy in which no two are equal, so that
    what is not 0 does not cancel."""
    dy = torch.ones_like(y) if rule.elementwise else torch.arange(1, y.shape[-1] + 1).to(y).expand(y.shape)
    _, (slope,) = rule.vjp((z,), dy, **hyper)
    assert slope is not None
    return slope


def _shape(rule: Rule, hyper: Mapping[str, Any]) -> tuple[float, bool, bool]:
    """The steepest slope, whether the activation is flat on both sides, and whether one side passes nothing at all."""
    # Activations bend near 0 and are what they tend to be at ±20, where e^-20 = 2e-9.
    z = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    slope = _slope(rule, hyper, z, z).abs()
    steepest = float(slope.max())
    ends = slope[[0, -1]]
    return steepest, bool((ends < FLAT * steepest).all()), bool((ends == 0).any())


def _mean(which: Tensor) -> float:
    """The share that is True; 0 of none."""
    return float(which.double().mean()) if which.numel() else 0.0


def _verdict(layers: Mapping[str, LayerSaturation], examples: int) -> str:
    if not layers:
        return "there is no activation"
    said, looked_at = [], counted(examples, "example")
    for name, found in layers.items():
        one = f"{name} ({found.rule})"
        if found.undefined:
            verb = "is" if found.undefined == 1 else "are"
            said.append(f"{one} cannot be judged: {found.undefined} of its inputs {verb} NaN")
            continue
        alive = found.stuck - found.dead / max(found.units, 1)
        if found.both_sides and found.flat >= SATURATED:
            said.append(
                f"{one} is saturated: {found.flat:.0%} of its values have a slope below {FLAT:.0%} of the steepest"
            )
        elif not found.both_sides and alive >= SATURATED:
            said.append(f"{one} is saturated: {found.stuck:.0%} of its units are flat for all of {looked_at}")
        if found.dead:
            verb = "is" if found.dead == 1 else "are"
            what = f"pieces never {'wins: it is' if found.dead == 1 else 'win: they are'}"
            what = what if found.lost == LOSING_PIECES else f"units {verb}"
            said.append(f"{one}: {found.dead} of {found.units} {what} dead, without gradient from any of {looked_at}")
    if not said:
        name = max(layers, key=lambda each: layers[each].share)
        least = f"at most {layers[name].share:.0%} of a layer is lost ({name})"
        said = [f"no saturation: {least}, and no unit is dead"]
        if all(found.lost in (DEAD_UNITS, LOSING_PIECES) for found in layers.values()):
            rules = " and ".join(dict.fromkeys(found.rule for found in layers.values()))
            would = f"no saturation, which of {rules} would be dead units"
            said = [f"{would}: each gets a gradient from some of {looked_at}"]
    return "; ".join(said).replace("%", " %")
