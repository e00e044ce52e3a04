"""Dynamic scaling of the loss: gradients unscaled, and the scale of the next step.

    found_inf = any element of grad is infinite or NaN
    y         = grad / scale

    found_inf:    scale ← backoff scale,     growth_tracker ← 0
    otherwise:    growth_tracker ← growth_tracker + 1
                  and if it is then interval:  scale ← growth scale (as long as that is finite), growth_tracker ← 0

Why.  In float16 gradients below 6e-8 are 0.  The loss is multiplied by `scale` before backward, hence every gradient by
linearity, and divided by it here, before anything looks at its size: clipping, a norm, weight decay.  Too large a scale
overflows, which is seen: then the caller leaves this step out altogether (parameters, moments and step count stay) and
the next one is tried with half the scale.  After `interval` steps without overflow twice the scale is tried.

grad is flat: all gradients of one scaler together, since one overflow anywhere skips the step everywhere.  What is
returned for an infinite gradient is infinite; whether to step is for found_inf to say.

The counter is compared with ==, as in torch: one that comes in beyond the interval counts on for ever.  That the scale
stays finite depends on the precision, so that the mathematics above cannot tell; a test of its own does.

Conventions.  As torch.amp.GradScaler.  jmp.DynamicLossScale (JAX) halves and doubles likewise, compares the counter
with period − 1 before counting, and never goes below min_loss_scale; apex caps the scale at 2²⁴, Megatron tolerates
`hysteresis` overflows before it halves.

Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2; torch._amp_update_scale_.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manual_bp.inputs import Draw, Edge, Input, Mistake, Shape, integers, normal, require


class Outputs(NamedTuple):
    grad: Float[Tensor, "n"]
    scale: Float[Tensor, ""]
    growth_tracker: Int[Tensor, ""]
    found_inf: Bool[Tensor, ""]


def forward(
    grad: Float[Tensor, "n"],
    scale: Float[Tensor, ""],
    growth_tracker: Int[Tensor, ""],
    *,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: int = 2000,
) -> Outputs:
    require(growth > 1, "scale_loss: growth must be above 1", growth, "2 is usual.")
    require(0 < backoff < 1, "scale_loss: backoff must lie between 0 and 1", backoff, "0.5 is usual.")
    require(interval >= 1, "scale_loss: interval must be 1 or more", interval, "It counts steps.")
    found_inf = ~torch.isfinite(grad).all()
    counted = growth_tracker + 1
    grown = growth * scale
    is_due = counted == interval
    without = torch.where(is_due & torch.isfinite(grown), grown, scale)
    return Outputs(
        grad / scale,
        torch.where(found_inf, backoff * scale, without),
        torch.where(found_inf | is_due, 0, counted),
        found_inf,
    )


def _power_of_two(low: int, high: int) -> Draw:
    """As a scale is, which begins at one and is halved and doubled."""

    def draw(shape: Shape, generator: torch.Generator) -> Tensor:
        return torch.exp2(torch.randint(low, high, shape, generator=generator).double())

    return draw


INPUTS = {
    "grad": Input(normal(), cotangent=False),
    "scale": Input(_power_of_two(4, 9), cotangent=False),
    "growth_tracker": Input(integers(0, 3), cotangent=False),
}
USUAL = {"growth": (1.5, 4.0), "backoff": (0.25,), "interval": (100,)}

_OVERFLOW = {"grad": [1.0, torch.inf, -2.0]}

EDGES = (
    Edge("counted", {"growth_tracker": 3, "interval": 5}),
    Edge("grown", {"growth_tracker": 4, "interval": 5}),
    Edge("grown after the usual interval", {"growth_tracker": 1999}),
    Edge("beyond the interval", {"growth_tracker": 5, "interval": 5}),
    Edge("grown in each step", {"growth_tracker": 0, "interval": 1}),
    Edge("grown by another factor", {"growth_tracker": 1, "interval": 2, "growth": 1.25}),
    Edge("overflow", {**_OVERFLOW, "growth_tracker": 3}),
    Edge("negative overflow", {"grad": [1.0, -torch.inf, -2.0], "growth_tracker": 3}),
    Edge("NaN", {"grad": [1.0, torch.nan, -2.0], "growth_tracker": 3}),
    Edge("overflow and NaN", {"grad": [torch.inf, torch.nan], "growth_tracker": 3, "backoff": 0.125}),
    Edge("infinities of both signs", {"grad": [torch.inf, -torch.inf], "growth_tracker": 3}),
    Edge("overflow when growth was due", {**_OVERFLOW, "growth_tracker": 4, "interval": 5}),
    Edge("overflow in the last element", {"grad": [0.0, 0.0, 0.0, 0.0, torch.inf]}),
    Edge("a scale of 1", {"scale": 1.0}),
    Edge("a scale below 1", {"scale": 0.0625, "growth_tracker": 1, "interval": 2}),
    Edge("zero gradient", {"grad": [0.0, -0.0]}),
    Edge("tiny gradients", {"grad": [6e-5, -1.5e-3]}),
    Edge("no elements", sizes={"n": 0}),
    Edge("growth of 1", {"growth": 1.0}, raises=ValueError),
    Edge("backoff of 1", {"backoff": 1.0}, raises=ValueError),
    Edge("backoff of 0", {"backoff": 0.0}, raises=ValueError),
    Edge("interval of 0", {"interval": 0}, raises=ValueError),
)


def _formula(
    grad: Tensor, scale: Tensor, growth_tracker: Tensor, growth: float, backoff: float, interval: int, wrong: str
) -> Outputs:
    """The right formula but for one thing."""
    bad = {
        "NaN alone looked for": grad.isnan(),
        "infinity alone looked for": grad.isinf(),
        "infinity upwards alone": grad.isnan() | (grad == torch.inf),
        "the sum looked at": torch.zeros_like(grad.sum()).isnan() | ~torch.isfinite(grad.sum()),
    }.get(wrong, ~torch.isfinite(grad))
    found_inf = bad.all() & (grad.numel() > 0) if wrong == "all elements, not any" else bad.any()
    counted = growth_tracker + 1
    is_due = counted == interval
    if wrong == "grown a step late":
        is_due = growth_tracker == interval
    if wrong == "grown a step early":
        is_due = counted == interval - 1
    if wrong == "grown beyond the interval":
        is_due = counted >= interval
    if wrong == "never grown":
        is_due = torch.zeros_like(is_due)
    grown = growth * scale
    without = torch.where(is_due & torch.isfinite(grown), grown, scale)
    halved = scale if wrong == "not halved" else scale / growth if wrong == "divided by growth" else backoff * scale
    unscaled = {
        "not unscaled": grad.clone(),
        "scaled again": grad * scale,
        "unscaled by the new scale": grad / torch.where(found_inf, halved, without),
        "infinities set to 0": torch.where(torch.isfinite(grad), grad, 0) / scale,
    }.get(wrong, grad / scale)
    tracker = torch.where(found_inf | is_due, 0, counted)
    if wrong == "tracker kept at an overflow":
        tracker = torch.where(is_due & ~found_inf, 0, torch.where(found_inf, growth_tracker, counted))
    if wrong == "tracker kept when grown":
        tracker = torch.where(found_inf, 0, counted)
    return Outputs(unscaled, torch.where(found_inf, halved, without), tracker, found_inf)


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    def formula(**given: Any) -> Outputs:
        return _formula(**given, wrong=name)

    return Mistake(name, formula, forgets, shows)


MISTAKES = (
    _mistake(
        "not unscaled",
        "to take the scale off: what clips or measures such gradients sees them `scale` times too large",
        "unless the scale is 1",
    ),
    _mistake("scaled again", "that unscaling divides", "unless the scale is 1"),
    _mistake("unscaled by the new scale", "that gradients have the scale of their own step", "where the scale changes"),
    _mistake("NaN alone looked for", "infinity", "for infinities"),
    _mistake("infinity alone looked for", "NaN", "for NaN"),
    _mistake("infinity upwards alone", "negative infinity", "for −inf"),
    _mistake("all elements, not any", "that one overflow is enough", "for more than one element"),
    _mistake("infinities set to 0", "that such a step is skipped, not repaired", "at an overflow"),
    _mistake("not halved", "backoff", "at an overflow"),
    _mistake("divided by growth", "that backoff is a number of its own", "at an overflow, unless growth is 1/backoff"),
    _mistake("never grown", "to try twice the scale", "after interval steps"),
    _mistake("grown a step late", "that the interval counts this step", "after interval steps"),
    _mistake("grown a step early", "that the interval counts this step once", "before interval steps"),
    _mistake("grown beyond the interval", "that the counter is compared with ==", "where it comes in beyond"),
    _mistake("tracker kept at an overflow", "that counting begins anew", "at an overflow"),
    _mistake("tracker kept when grown", "that counting begins anew", "after interval steps"),
)
