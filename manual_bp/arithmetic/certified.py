"""Certified truth: what the cotangents of a page are, enclosed rigorously, from its forward alone.

A page's own `forward` is run in ball arithmetic on jets (`manual_bp.arithmetic.balls`).  With the inputs x as the
exact real numbers that they are, one pass gives every derivative ∂y_j/∂x_k that may differ from 0, each inside a ball,
and with it

    grads_k = Σ_j dy_j ∂y_j/∂x_k            (Jᵀ dy)

Neither the hand derivation nor autograd takes part: the page's text and the derivatives of the elementary functions
are all that is used.  The pass starts with 200 bits and is repeated with twice as many, up to 6400, until every ball
is narrow: its radius below 2^−100 of its number, or number and radius together below 2^−1174, which is far under the
smallest subnormal of float64.

At a kink or tie there is no derivative, and the ball is None.  There `is_subgradient` judges (subgradients.py).

Everything a page computes with Python numbers (1 − p, lam/n) is a Python float and taken as it comes.

Sources: Johansson, "Arb: Efficient Arbitrary-Precision Midpoint-Radius Interval Arithmetic", IEEE Trans. Computers 66
(2017); Griewank & Walther, "Evaluating Derivatives", 2nd ed., SIAM 2008, chapters 3 and 14; Rockafellar, "Convex
Analysis" (1970), theorems 23.2 and 23.8.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from manual_bp.arithmetic.balls import LeftOpen, UnknownFunction, UnknownHere
from manual_bp.arithmetic.enclosed import Balls, is_narrow, number
from manual_bp.arithmetic.jets import ZERO, arb
from manual_bp.arithmetic.point import ALLOWED_ULPS, Cotangents, Inputs, Point, PrecisionError, inner
from manual_bp.arithmetic.subgradients import Subgradient, is_subgradient, passes_as_subgradient
from manual_bp.rule import Grads, Rule

__all__ = [
    "ALLOWED_ULPS",
    "AdjointIdentity",
    "Balls",
    "LeftOpen",
    "PrecisionError",
    "Subgradient",
    "Truth",
    "UnknownFunction",
    "UnknownHere",
    "adjoint_identity",
    "is_subgradient",
    "passes_as_subgradient",
    "truth",
]


class Truth(NamedTuple):
    """The outputs and the cotangents; None for an output that is absent, and for an input without cotangent."""

    outputs: tuple[Balls | None, ...]
    grads: tuple[Balls | None, ...]


class AdjointIdentity(NamedTuple):
    """The three numbers that must be one, as balls.  An element without a derivative counts with v = 0."""

    forward: arb
    """<dy, J v>, by one pass along v."""
    reverse: arb
    """<Jᵀ dy, v>, by the certified cotangents."""
    candidate: arb
    """<grads, v>."""
    agrees: bool
    """Whether the candidate's lies within its allowance."""

    @property
    def overlap(self) -> bool:
        """Whether the two enclosures share a point, as they must."""
        return bool(self.forward.overlaps(self.reverse))


def truth(rule: Rule, inputs: Inputs, dy: Cotangents, **hyper: Any) -> Truth:
    """The outputs of `rule` at `inputs` and the cotangents Jᵀ dy, all certified.

    Inputs and dy (of y's shape) may have any float dtype and are taken as the exact numbers they are.
    Raises ValueError for whatever the rule rejects and for inf or nan, which lie outside certified truth;
    UnknownFunction if the page uses a function that ball arithmetic lacks; PrecisionError if 6400 bits are not enough.
    """
    problem = Point(rule, inputs, dy, hyper)

    def attempt(bits: int) -> Truth | None:
        outputs = problem.outputs()
        values = [Balls(y.shape, tuple(number(cell.value) for cell in y.cells), bits) for y in outputs]
        grads = [number(total) for total in problem.pulled_back(outputs)]
        if not all(map(is_narrow, itertools.chain(grads, *(y.balls for y in values)))):
            return None
        rest = iter(values)
        due = tuple(next(rest) if is_there else None for is_there in problem.is_there)
        return Truth(due, problem.split(grads, lambda shape, some: Balls(shape, some, bits)))

    return problem.enclosed(attempt)


def adjoint_identity(
    rule: Rule,
    inputs: Inputs,
    dy: Cotangents,
    grads: Grads,
    v: Grads,
    *,
    allowance: Grads | None = None,
    **hyper: Any,
) -> AdjointIdentity:
    """<dy, J v> = <Jᵀ dy, v> = <grads, v> along `v`: one tensor per input, None where the input has no cotangent.

    The first two are enclosed by different computations: one pass along v, and the certified cotangents.  An element
    whose derivative does not exist, or for which `grads` or `v` has None, counts with v = 0.
    `allowance` is the error to be tolerated in each gradient (absolute); where none is given, 5 ulp of that gradient,
    which is meant for element-wise rules: sums that cancel need a wider one.  Raises as `truth`.
    """
    problem = Point(rule, inputs, dy, hyper)
    candidate = problem.joined(grads, "grads", None)
    widths = problem.widths(grads, allowance)

    def attempt(_: int) -> AdjointIdentity | None:
        certified = problem.pulled_back(problem.outputs())
        direction = problem.joined(v, "v", ZERO)
        for key, (exact, given) in enumerate(zip(certified, candidate, strict=True)):
            if given is None or exact.is_nan():
                direction[key] = ZERO
        slopes = problem.slopes(direction)
        forward = inner(problem.dy, slopes)
        reverse = inner(certified, direction)
        found = inner([ZERO if given is None else given for given in candidate], direction)
        if not is_narrow(number(forward)) or not is_narrow(number(reverse)):
            return None
        width = inner(widths, [abs(x) for x in direction])
        agrees = found.is_finite() and not abs(found - forward) > width
        return AdjointIdentity(forward, reverse, found, agrees)

    return problem.enclosed(attempt)
