"""Vanishing and exploding gradients: how large δ = ∂J/∂z is from layer to layer, on its way back.

δ(l) = (W(l)ᵀ δ(l+1)) ⊙ σ'(z(l)): on its way through L layers δ is multiplied L − 1 times, so it shrinks or grows about
exponentially with depth, by a factor per layer that is the geometric mean

    factor = (|δ(1)| / |δ(L)|)^(1 / (L − 1)),     |δ| = √Σ δ², over the batch and the units.

With sigmoid, whose σ' is at most 1/4, and weights that neither shrink nor stretch, the factor is at most 1/4.

The gradient is said to vanish if the first layer's δ is below a thousandth of the last one's, and to explode if it is
above a thousand times: all layers share one learning rate, so the one would need a thousand steps where the other needs
one.  The thousand is this page's; the factor, which it depends on, is always told.  Beyond any choice is underflow: a
layer whose δ is 0 or subnormal throughout gets no gradient, or one that has lost its digits.

**Through time** the same happens from step to step: a recurrent layer over T steps is T layers with one W.  There the
norm is of ∂J/∂s(t), s being all states that step t reads (h, of an lstm h and c), and of J only what the last output
sends back, since what the others add on the way would hide whether it arrives.

Sources: Bengio, Simard & Frasconi, "Learning long-term dependencies with gradient descent is difficult", IEEE
Transactions on Neural Networks 5 (1994); Glorot & Bengio, AISTATS 2010, for the comparison layer by layer; Pascanu,
Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, for what happens through time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

TOO_FAR = 1e3
"""Between the first and the last layer, or step."""


@dataclass(frozen=True)
class GradientFlow:
    """How δ fares on its way back.

    norms: of δ of each linear layer by its dotted name, from input to output; through time by "step 1", "step 2", ...
    factor: by which it changes from a layer to the one before, the geometric mean; None for one layer, and where it
        cannot be told (a norm is 0 at the first or the last layer, infinite or NaN).
    underflow: the first layer, seen from the output, whose δ is 0 or subnormal throughout; None if there is none.
    verdict: the same as a sentence.
    through_time: of each recurrent layer by its name, how what reaches its states fares from step to step.
    """

    norms: dict[str, float]
    factor: float | None
    underflow: str | None
    verdict: str
    through_time: dict[str, GradientFlow] = field(default_factory=dict)


def gradient_flow(traced: Mapping[str, Mapping[str, Tensor]]) -> GradientFlow:
    """Judge what `manual_bp.chain.trace` found.

    Raises ValueError if no layer has a δ and none is recurrent.

    >>> import torch
    >>> from manual_bp.chain import trace
    >>> from manual_bp.models import mlp, recurrent
    >>> network = mlp([4] * 21, "sigmoid")
    >>> params, state = network.init(torch.Generator().manual_seed(0))
    >>> print(gradient_flow(trace(network, params, state, torch.ones(2, 4), torch.zeros(2, 4))).verdict)
    the gradient vanishes: from linear20 back to linear1 δ shrinks from 0.66 to 1.1e-13, by 0.21 per layer
    >>> network = recurrent(vocabulary=3, context=200, width=8, cell="rnn")
    >>> params, state = network.init(torch.Generator().manual_seed(0))
    >>> text = torch.arange(201)[None] % 3
    >>> layers = trace(network, params, state, text[:, :-1], text[:, 1:], "softmax_cross_entropy")
    >>> flow = gradient_flow(layers).through_time["layer1"]
    >>> print(flow.verdict)
    the gradient vanishes: from step 200 back to step 1 ∂J/∂s shrinks from 0.0049 to 1.6e-19, by 0.83 per step
    >>> len(flow.norms)
    200
    """
    deltas = {name: found["delta"].detach() for name, found in traced.items() if "delta" in found}
    recurrent = {name: flow for name, found in traced.items() if (flow := _through_time(found)) is not None}
    if not deltas and not recurrent:
        raise ValueError(
            f"gradient_flow: a layer must have a δ; came {list(traced) or 'no layer'}. Pass what chain.trace returns "
            "for a model with a linear layer."
        )
    told = {name: flow.verdict for name, flow in recurrent.items()}
    through_time = "; ".join(f"{name} through time: {verdict}" for name, verdict in told.items())
    if not deltas:
        return GradientFlow({}, None, None, through_time, recurrent)
    flow = _flow(deltas, "layer", "δ")
    nothing_to_say = len(deltas) == 1 and flow.underflow is None and math.isfinite(*flow.norms.values())
    parts = [flow.verdict] * (not (recurrent and nothing_to_say)) + [through_time] * bool(recurrent)
    return replace(flow, verdict="; ".join(parts), through_time=recurrent)


def _through_time(found: Mapping[str, Tensor]) -> GradientFlow | None:
    """Of what a trace holds of one layer; None unless it is recurrent."""
    states = [d.detach() for name, d in found.items() if re.fullmatch("d.+0", name)]
    if not states:
        return None
    steps = torch.cat([d.flatten(1) for d in states], 1)
    return _flow({f"step {t}": d for t, d in enumerate(steps, 1)}, "step", "∂J/∂s")


def _flow(deltas: dict[str, Tensor], unit: str, symbol: str) -> GradientFlow:
    """Of δ by name, in the order of computation; unit, symbol: what each belongs to, and what it is called."""
    norms = {name: norm(delta) for name, delta in deltas.items()}
    first, last = next(iter(norms)), next(reversed(norms))
    told = len(norms) > 1 and all(0 < norms[end] < math.inf for end in (first, last))
    # In parts, since the ratio of two numbers may overflow.
    logs = math.log(norms[first]) - math.log(norms[last]) if told else 0.0
    factor = norms[first] ** (1 / (len(norms) - 1)) / norms[last] ** (1 / (len(norms) - 1)) if told else None
    underflow = next((name for name in reversed(deltas) if _underflows(deltas[name])), None)
    verdict = _verdict(norms, deltas, factor, logs, underflow, unit).replace("δ", symbol)
    return GradientFlow(norms, factor, underflow, verdict)


def norm(delta: Tensor) -> float:
    """√Σ δ² in float64, for which no square underflows or overflows."""
    wide = delta.double()
    largest = float(wide.abs().max()) if wide.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(wide / largest))


def _underflows(delta: Tensor) -> bool:
    return delta.numel() > 0 and bool((delta.abs() < torch.finfo(delta.dtype).smallest_normal).all())


def _verdict(
    norms: dict[str, float],
    deltas: dict[str, Tensor],
    factor: float | None,
    logs: float,
    underflow: str | None,
    unit: str,
) -> str:
    first, last = next(iter(norms)), next(reversed(norms))
    broken = [name for name in reversed(norms) if not math.isfinite(norms[name])]
    if broken:
        return f"the gradient is not finite: on its way back, δ is first {norms[broken[0]]} at {broken[0]}"
    if underflow == last:
        return f"no gradient: δ is {_small(deltas[last])} already at the last {unit}, {last}"
    way = f"from {last} back to {first} δ {{}} from {norms[last]:.2g} to {norms[first]:.2g}"
    per_layer = f", by {factor:.2g} per {unit}" if factor is not None else ""
    if underflow is not None:
        dtype = str(deltas[underflow].dtype).removeprefix("torch.")
        gone = f"; from {underflow} on it is {_small(deltas[underflow])} in {dtype}"
        if _cut_off(deltas, underflow):
            gone += ", and was not on its way there: look for dead units behind it"
        return f"the gradient vanishes: {way.format('shrinks')}{per_layer}{gone}"
    if factor is None:
        return f"one {unit}: δ is {norms[first]:.2g}, and there is nothing to compare it with"
    if logs < -math.log(TOO_FAR):
        return f"the gradient vanishes: {way.format('shrinks')}{per_layer}"
    if logs > math.log(TOO_FAR):
        return f"the gradient explodes: {way.format('grows')}{per_layer}"
    return f"the gradient arrives: {way.format('goes')}{per_layer}"


def _cut_off(deltas: dict[str, Tensor], underflow: str) -> bool:
    """Whether δ is 0 at once: one layer nearer to the output it could have shrunk by 1 / eps and still be normal."""
    names = list(deltas)
    nearer = deltas[names[names.index(underflow) + 1]]
    info = torch.finfo(nearer.dtype)
    return _small(deltas[underflow]) == "0" and float(nearer.abs().max()) > info.smallest_normal / info.eps


def _small(delta: Tensor) -> str:
    return "subnormal" if bool((delta != 0).any()) else "0"
