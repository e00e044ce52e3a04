"""Certified truth: what the cotangents of a page are, enclosed rigorously, from its forward alone.

A page's own `forward` is run in ball arithmetic on jets (`manual_bp.arithmetic.balls`).  With the inputs x as the
exact real numbers that they are, one pass gives every derivative ∂y_j/∂x_k that may differ from 0, each inside a ball,
and with it

    grads_k = Σ_j dy_j ∂y_j/∂x_k            (Jᵀ dy)

Neither the hand derivation nor autograd takes part: the page's text and the derivatives of the elementary functions
are all that is used.  The pass starts with 200 bits and is repeated with twice as many, up to 6400, until every ball
is narrow: its radius below 2^−100 of its number, or number and radius together below 2^−1174, which is far under the
smallest subnormal of float64.

At a kink or tie there is no derivative, and the ball is None.  There `is_subgradient` judges: with φ_j = dy_j y_j and
one-sided derivatives φ_j'(x; v), the generalised gradients of a convex φ_j are the g with <g, v> ≤ φ_j'(x; v) for all
v, of a concave one those with <g, v> ≤ −φ_j'(x; −v).  A sum of such sets has the sum of their support functions as its
own, hence the test

    <g, v> ≤ Σ_j max(φ_j'(x; v), −φ_j'(x; −v))

which needs no knowledge of which case holds, so that the signs of dy may differ from output to output.

Everything a page computes with Python numbers (1 − p, lam/n) is a Python float and taken as it comes.

Sources: Johansson, "Arb: Efficient Arbitrary-Precision Midpoint-Radius Interval Arithmetic", IEEE Trans. Computers 66
(2017); Griewank & Walther, "Evaluating Derivatives", 2nd ed., SIAM 2008, chapters 3 and 14; Rockafellar, "Convex
Analysis" (1970), theorems 23.2 and 23.8.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from manual_bp.arithmetic import balls_table as balls_table  # fills the table of meanings
from manual_bp.arithmetic.balls import DIRECTION, NAN, ONE, ZERO, Cell, Jets, NeedMoreBits, UnknownFunction, lift
from manual_bp.outputs import parts
from manual_bp.rule import DTYPES, Grads, Rule

from flint import arb, ctx  # isort: skip  (after balls, whose message says how to install it)

__all__ = [
    "AdjointIdentity",
    "Balls",
    "PrecisionError",
    "Subgradient",
    "Truth",
    "UnknownFunction",
    "adjoint_identity",
    "is_subgradient",
    "truth",
]

Result = TypeVar("Result")

BITS = (200, 400, 800, 1600, 3200, 6400)
"""The precisions that are tried, one after the other."""

GOOD_BITS = 100
NEGLIGIBLE = arb(2) ** (-1074 - GOOD_BITS)

ALLOWED_ULPS = 5
"""What an element-wise derivative is allowed; the allowance where a caller states none."""

ALL_SIGNS = 8
"""Up to so many coupled elements at a kink, every sign vector is tried; beyond, SOME_SIGNS random ones."""
SOME_SIGNS = 256


class PrecisionError(ArithmeticError):
    """The largest precision is not enough: a number is compared with one to which it is equal, or as good as."""


@dataclass(frozen=True)
class Balls:
    """Real numbers in the shape of a tensor, each enclosed in a ball; None where there is no number.

    That is: where no derivative exists (a kink or tie, a pole), where none can be certified (two branches that meet
    smoothly, but whose slopes agree only up to rounding), or where forward itself is undefined (0/0).
    """

    shape: torch.Size
    balls: tuple[arb | None, ...]
    bits: int
    """The precision in which they were found."""

    def midpoint(self) -> Tensor:
        """The numbers rounded to float64; nan where there is none."""
        return self._tensor(lambda ball: float(ball.mid()))

    def radius(self) -> Tensor:
        """The radius of each ball, rounded up to float64; nan where there is none."""
        return self._tensor(lambda ball: math.nextafter(float(ball.rad()), math.inf) if ball.rad() > 0 else 0.0)

    def ulps(self, got: Tensor) -> Tensor:
        """The error of `got` (float64, float32, float16 or bfloat16, of this shape) in units in its last place at the
        true value.

        That unit is 2^(floor(log2 |truth|) − p + 1) with p bits of precision, and never below the smallest subnormal.
        float64 of this shape; inf where `got` is inf or nan, nan where there is no number.  Raises ValueError for
        another shape or dtype.
        """
        _check_candidate("got", got, self.shape)
        with ctx.workprec(self.bits + 64):
            errors = [
                math.nan if ball is None else _ulps(ball, value, got.dtype)
                for ball, value in zip(self.balls, got.flatten().tolist(), strict=True)
            ]
        return torch.tensor(errors, dtype=torch.float64).reshape(self.shape)

    def _tensor(self, number: Callable[[arb], float]) -> Tensor:
        numbers = [math.nan if ball is None else number(ball) for ball in self.balls]
        return torch.tensor(numbers, dtype=torch.float64).reshape(self.shape)


class Truth(NamedTuple):
    """The outputs and the cotangents; None for an input without cotangent."""

    outputs: tuple[Balls, ...]
    grads: tuple[Balls | None, ...]


class Subgradient(NamedTuple):
    """Per input a bool tensor of its shape, None for an input without cotangent."""

    kinks: tuple[Tensor | None, ...]
    """Where no derivative exists."""
    failing: tuple[Tensor | None, ...]
    """Where the candidate's gradient is no generalised gradient."""
    unjudged: tuple[Tensor | None, ...]
    """Where not even one-sided derivatives exist (a pole or a jump), or none that can be certified."""

    @property
    def passed(self) -> bool:
        """Whether every kink was judged and none failed."""
        return not any(mask is not None and bool(mask.any()) for mask in (*self.failing, *self.unjudged))


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


Inputs = tuple[Tensor | None, ...]
"""None for an input that is absent."""

Cotangents = Tensor | tuple[Tensor, ...] | None
"""dy: of several outputs a tuple, one for each; unused, and None if you like, where the page has no backward."""


def truth(rule: Rule, inputs: Inputs, dy: Cotangents, **hyper: Any) -> Truth:
    """The outputs of `rule` at `inputs` and the cotangents Jᵀ dy, all certified.

    Inputs and dy (of y's shape) may have any float dtype and are taken as the exact numbers they are.
    Raises ValueError for whatever the rule rejects and for inf or nan, which lie outside certified truth;
    UnknownFunction if the page uses a function that ball arithmetic lacks; PrecisionError if 6400 bits are not enough.
    """
    problem = _Problem(rule, inputs, dy, hyper)

    def attempt(bits: int) -> Truth | None:
        outputs = problem.outputs()
        values = [Balls(y.shape, tuple(_number(cell.value) for cell in y.cells), bits) for y in outputs]
        grads = [_number(total) for total in problem.pulled_back(outputs)]
        if not all(map(_narrow, itertools.chain(grads, *(y.balls for y in values)))):
            return None
        return Truth(tuple(values), problem.split(grads, lambda shape, some: Balls(shape, some, bits)))

    return problem.enclosed(attempt)


def is_subgradient(
    rule: Rule,
    inputs: Inputs,
    dy: Cotangents,
    grads: Grads,
    *,
    allowance: Grads | None = None,
    **hyper: Any,
) -> Subgradient:
    """Whether the candidate's `grads` are generalised gradients of <dy, y> at the elements where no derivative exists.

    Elements that share an output there (the tied pieces of a maximum) are judged together, along ± each of them alone
    and along sign vectors: all of them for up to 8 elements, else 256 random ones with a fixed seed.
    `allowance` is the error to be tolerated in each gradient (absolute); where none is given, 5 ulp of that gradient.
    A gradient that is None, inf or nan fails.  Raises as `truth`, and ValueError if a gradient has not its input's
    shape.
    """
    problem = _Problem(rule, inputs, dy, hyper)
    candidate = problem.joined(grads, "grads", NAN)
    widths = problem.widths(grads, allowance)
    judged = problem.enclosed(lambda _: _judge(problem, candidate, widths))
    return Subgradient(*(problem.split([key in keys for key in problem.keys], _mask) for keys in judged))


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
    problem = _Problem(rule, inputs, dy, hyper)
    candidate = problem.joined(grads, "grads", None)
    widths = problem.widths(grads, allowance)

    def attempt(_: int) -> AdjointIdentity | None:
        certified = problem.pulled_back(problem.outputs())
        direction = problem.joined(v, "v", ZERO)
        for key, (exact, given) in enumerate(zip(certified, candidate, strict=True)):
            if given is None or exact.is_nan():
                direction[key] = ZERO
        slopes = problem.slopes(direction)
        forward = _inner(problem.dy, slopes)
        reverse = _inner(certified, direction)
        found = _inner([ZERO if given is None else given for given in candidate], direction)
        if not _narrow(_number(forward)) or not _narrow(_number(reverse)):
            return None
        width = _inner(widths, [abs(x) for x in direction])
        agrees = found.is_finite() and not abs(found - forward) > width
        return AdjointIdentity(forward, reverse, found, agrees)

    return problem.enclosed(attempt)


class _Problem:
    """A rule at a point.  Key k is the k-th element of the inputs that have a cotangent, in order."""

    def __init__(self, rule: Rule, inputs: Inputs, dy: Cotangents, hyper: dict[str, Any]) -> None:
        self.rule = rule
        self.inputs = inputs
        self.hyper = rule.check_hyper(hyper)
        wide = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
        y, _ = rule.forward(*wide, **hyper)  # checks everything that the rule checks, and gives y's shape
        outputs, has_backward = parts(y), hasattr(rule.page, "backward")
        cotangents = parts(dy) if has_backward else ()
        if has_backward and len(cotangents) != len(outputs):
            raise ValueError(f"{rule.name}: dy must be a tuple of {len(outputs)} tensors; came {len(cotangents)}")
        for each, output in zip(cotangents, outputs, strict=has_backward):
            _check_candidate("dy", each, output.shape)
        for name, tensor in (*zip(rule.inputs, inputs, strict=True), *(("dy", d) for d in cotangents)):
            if tensor is not None and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{rule.name}: {name} holds inf or nan, which lies outside certified truth")
        self.dy: list[arb] = [arb(d) for each in cotangents for d in each.flatten().tolist()]
        self.has_cotangent = [
            has_backward and x is not None and rule.is_number(name) and rule.inputs[name].cotangent
            for name, x in zip(rule.inputs, inputs, strict=True)
        ]
        sizes = [x.numel() if has and x is not None else 0 for x, has in zip(inputs, self.has_cotangent, strict=True)]
        self.starts = [0, *itertools.accumulate(sizes)]
        self.keys = range(self.starts[-1])

    def enclosed(self, attempt: Callable[[int], Result | None]) -> Result:
        """The result of the first precision with which `attempt` succeeds: no NeedMoreBits, and not None."""
        for bits in BITS:
            with ctx.workprec(bits):
                try:
                    result = attempt(bits)
                except NeedMoreBits:
                    continue
            if result is not None:
                return result
        raise PrecisionError(f"{self.rule.name}: {BITS[-1]} bits are not enough for a narrow enclosure")

    def outputs(self, direction: Sequence[arb] | None = None) -> list[Jets]:
        """Each output on jets: along every input element, or along one direction."""
        try:
            y, _ = self.rule.page.forward(*self._jets(direction), **self.hyper)
        except UnknownFunction as unknown:
            raise UnknownFunction(unknown.function, f"the page {self.rule.name}") from None
        return [lift(part) for part in parts(y)]

    def slopes(self, direction: Sequence[arb]) -> list[arb]:
        """The one-sided derivative of each output along a direction."""
        return [cell.tangent.get(DIRECTION, ZERO) for y in self.outputs(direction) for cell in y.cells]

    def _jets(self, direction: Sequence[arb] | None) -> Iterator[Jets | Tensor | None]:
        for name, x, has, start in zip(
            self.rule.inputs, self.inputs, self.has_cotangent, self.starts[:-1], strict=True
        ):
            if x is None or not self.rule.is_number(name):  # a mask is a choice, and an index a place, not a number
                yield x
                continue
            values = enumerate(x.flatten().tolist(), start)
            yield Jets(x.shape, [Cell(arb(value), _seed(key, direction) if has else {}) for key, value in values])

    def pulled_back(self, outputs: Sequence[Jets]) -> list[arb]:
        """Jᵀ dy, nan where no derivative exists.  An output with dy = 0 is no part of <dy, y>, kink or not."""
        totals = [ZERO] * len(self.keys)
        if not totals:
            return totals
        for cell, d in zip((cell for y in outputs for cell in y.cells), self.dy, strict=True):
            if d != 0:
                for key, slope in cell.tangent.items():
                    totals[key] += slope * d
        return totals

    def joined(self, tensors: Sequence[Tensor | None], what: str, missing: Any) -> list[Any]:
        """One number per key."""
        if len(tensors) != len(self.inputs):
            raise ValueError(f"{self.rule.name}: {what} must be one per input, {len(self.inputs)}; came {len(tensors)}")
        numbers: list[Any] = []
        for name, x, has, tensor in zip(self.rule.inputs, self.inputs, self.has_cotangent, tensors, strict=True):
            if not has or x is None:
                continue
            if tensor is None:
                numbers += [missing] * x.numel()
            else:
                _check_candidate(f"{what} of {name}", tensor, x.shape)
                numbers += [arb(value) for value in tensor.flatten().tolist()]
        return numbers

    def widths(self, grads: Grads, allowance: Grads | None) -> list[arb]:
        """The error allowed in each gradient."""
        if allowance is not None:
            return self.joined(allowance, "allowance", ZERO)
        widths: list[arb] = []
        for x, has, grad in zip(self.inputs, self.has_cotangent, grads, strict=True):
            if not has or x is None:
                continue
            if grad is None:
                widths += [ZERO] * x.numel()
            else:
                widths += [ALLOWED_ULPS * _unit(arb(g), grad.dtype) for g in grad.flatten().tolist()]
        return widths

    def split(self, flat: Sequence[Any], build: Callable[[torch.Size, tuple[Any, ...]], Any]) -> tuple[Any, ...]:
        """One value per input from numbers by key; None for an input without cotangent."""
        bounds = itertools.pairwise(self.starts)
        return tuple(
            build(x.shape, tuple(flat[start:stop])) if has and x is not None else None
            for x, has, (start, stop) in zip(self.inputs, self.has_cotangent, bounds, strict=True)
        )


def _seed(key: int, direction: Sequence[arb] | None) -> dict[int, arb]:
    """The derivative of an input element with respect to itself, or along the direction."""
    if direction is None:
        return {key: ONE}
    return {} if direction[key] == 0 else {DIRECTION: direction[key]}


def _number(ball: arb) -> arb | None:
    return ball if ball.is_finite() else None


def _narrow(ball: arb | None) -> bool:
    return ball is None or ball.rel_accuracy_bits() >= GOOD_BITS or abs(ball) < NEGLIGIBLE


def _inner(a: Sequence[arb], b: Sequence[arb]) -> arb:
    """<a, b>, in which a 0 of b silences even what is not a number."""
    return sum((x * y for x, y in zip(a, b, strict=True) if y != 0), ZERO)


def _mask(shape: torch.Size, flat: tuple[bool, ...]) -> Tensor:
    return torch.tensor(flat, dtype=torch.bool).reshape(shape)


def _check_candidate(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != tuple(shape):
        came = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a tensor of shape {tuple(shape)}; came {came}")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} must be float64, float32, bfloat16 or float16; came {tensor.dtype}")


def _unit(number: arb, dtype: torch.dtype) -> arb:
    """The unit in the last place of `dtype` at a number."""
    info = torch.finfo(dtype)
    smallest_normal, last_place = round(math.log2(info.smallest_normal)), round(math.log2(info.eps))
    mantissa, exponent = (int(part) for part in number.mid().man_exp()) if number.is_finite() else (0, 0)
    leading = exponent + mantissa.bit_length() - 1 if mantissa else smallest_normal
    return arb(2) ** (max(leading, smallest_normal) + last_place)


def _ulps(truth: arb, got: float, dtype: torch.dtype) -> float:
    if not math.isfinite(got):
        return math.inf
    return float(abs(arb(got) - truth).upper() / _unit(truth, dtype))


def _judge(problem: _Problem, candidate: list[arb], widths: list[arb]) -> tuple[set[int], set[int], set[int]] | None:
    """The keys at a kink, those that fail, those that cannot be judged; None if a one-sided derivative is too wide."""
    cells = (cell for y in problem.outputs() for cell in y.cells)
    outputs = [cell.tangent if d != 0 else {} for cell, d in zip(cells, problem.dy, strict=True)]
    kinks = {key for tangent in outputs for key, slope in tangent.items() if slope.is_nan()}
    failing = {key for key in kinks if not candidate[key].is_finite()}
    unjudged: set[int] = set()
    groups = [(keys, js, _directions(keys)) for keys, js in _coupled(outputs, kinks)]
    for turn in itertools.zip_longest(*(directions for *_, directions in groups), fillvalue={}):
        # Groups share no output, so one pass serves all of them.
        together = {key: sign for signs in turn for key, sign in signs.items()}
        v = [arb(together.get(key, 0)) for key in problem.keys]
        ahead = [d * slope for d, slope in zip(problem.dy, problem.slopes(v), strict=True)]
        behind = [d * slope for d, slope in zip(problem.dy, problem.slopes([-x for x in v]), strict=True)]
        if not all(_narrow(_number(slope)) for slope in (*ahead, *behind)):
            return None
        for keys, js, _ in groups:
            moved = {key for key in keys if together.get(key)}
            if not moved or (len(moved) > 1 and keys & (failing | unjudged)):
                continue  # what an element does alone says more than what it does among others
            if not all(ahead[j].is_finite() and behind[j].is_finite() for j in js):
                unjudged |= moved
                continue
            product = sum((candidate[key] * v[key] for key in moved), ZERO)
            slack = sum((widths[key] for key in moved), ZERO)
            most = sum((ahead[j].max(-behind[j]) for j in js), slack)
            least = -sum((behind[j].max(-ahead[j]) for j in js), slack)
            if product > most or product < least:
                failing |= moved
    return kinks, failing, unjudged


def _coupled(outputs: list[dict[int, arb]], kinks: set[int]) -> list[tuple[set[int], list[int]]]:
    """The kinked keys in groups that share no output, each with its outputs."""
    groups: list[tuple[set[int], list[int]]] = []
    for j, tangent in enumerate(outputs):
        touched = kinks & tangent.keys()
        if touched:
            joined = [group for group in groups if group[0] & touched]
            groups = [group for group in groups if not group[0] & touched]
            groups.append((touched.union(*(keys for keys, _ in joined)), sum((js for _, js in joined), [j])))
    return groups


def _directions(keys: set[int]) -> list[dict[int, int]]:
    """Each key alone, then vectors of signs; not their negatives, since both ends of a direction are judged at once."""
    ordered = sorted(keys)
    alone = [{key: 1} for key in ordered]
    if len(ordered) == 1:
        return alone
    if len(ordered) <= ALL_SIGNS:
        signs = [(1, *rest) for rest in itertools.product((1, -1), repeat=len(ordered) - 1)]
    else:
        dice = random.Random(len(ordered))
        signs = [(1,) * len(ordered), *(tuple(dice.choices((1, -1), k=len(ordered))) for _ in range(SOME_SIGNS))]
    return alone + [dict(zip(ordered, some, strict=True)) for some in signs]
