"""Running error analysis: how far off a right program may be.

The text of a page, forward and backward, is run on tensors that carry beside every value a bound on the rounding error
which a program that computes the same thing in a given precision may have made by then.  What comes out is a *width*.
What a gradient should be never comes from here: see certified.py.  What each torch function does to value and bound
stands in bounded_table/.

**One operation.**  A precision has a unit roundoff u (half the distance from 1 to the next number: 2⁻⁵³ in float64,
2⁻²⁴ in float32, 2⁻¹¹ in float16, 2⁻⁸ in bfloat16), a smallest normal number `tiny` and a largest number `max`.
Rounding to nearest gives

    fl(a ∘ b) = (a ∘ b)(1 + d) + h,   |d| ≤ u,   |h| ≤ eta = u · tiny (half the smallest subnormal),   d h = 0

where h is 0 unless the result is below tiny, and always 0 for + and −, whose small results are exact [1, chapter 2].

**Running.**  A number stands for (value, error): the program's number lies in [value − error, value + error].  An
operation takes such pairs and returns one; its error is the sum of two parts:

    propagated   what the operands' errors can do to the result.  For a b: |a| e_b + |b| e_a + e_a e_b.  Products of
                 errors are kept, and functions are bounded over the whole interval, so nothing rests on errors being
                 small.  Errors of different operands are always added as absolute values: they correlate.
    fresh        the rounding of this operation itself: u (|value| + propagated), or eta if that is larger.

This is [1, section 3.3].  Which u is decided by the dtype that the tensor reports, so a contract needs no code:
`.to(float32)` of a bfloat16 number is exact, `.to(bfloat16)` of a float32 number is one rounding of bfloat16.

**Sums and products of matrices.**  No order of summation is assumed.  If each term takes part in at most n roundings,

    fresh ≤ γ Σ|x_i|,   γ = min( n u / (1 − n u),   exp(λ √n u + n u² / (1 − u)) − 1 )

The first is the worst case [1, section 4.2].  The second holds with probability at least 1 − 2 exp(−λ² (1 − u)² / 2)
for each term, if the roundings are independent and have mean 0 [2, theorem 2.4]; λ = 6 makes the probability of
failure 3e-8.  It is the smaller from n = 37 on.  It is used for the fresh roundings of one sum only; errors that the
terms bring along are added up in full.

What is added to such a sum may as well be one of its terms, and the first (a bias): it takes part in its roundings.

**Exponentials that add up.**  softmax, its logarithm and log Σ eˣ are bounded as whole functions: what their operands
share cancels in them exactly (bounded_table/exponentials.py).

**Long recurrences.**  Where a bound is wide, stochastic arithmetic may take its place (stochastic.py).

**Library functions** (exp, tanh, ...) are not rounded correctly; their documented errors in ulps stand in the table.

**Inputs** carry one rounding of the precision of computation.  That is what makes the width one for *every* program
that is as accurate as the problem allows, and not for this text: a program may use another order, a fused multiply-
add or a rounded reciprocal.

**Overflow.**  Where |value| + propagated exceeds `max`, the error is infinite, and so is it where a denominator may
be 0. It stays infinite: the bound of 0 · (anything up to ∞) is ∞, since the program may have NaN there.  An infinite
input is exact.

**Expanded.**  A program that multiplies a page's brackets out computes the same and may lose digits: Σ(x − t)² as
Σx² − 2 Σxt + Σt², a variance as E[x²] − μ².  Where `widths` is asked for that, a number also carries its *magnitude*,
the sum of the magnitudes of the terms into which it expands: |a| + |b| for a − b, the product of both magnitudes for
a b, and its own size again behind any other function.  Every operation then makes so many roundings of this magnitude
in addition, and they propagate like all others.

**Not modelled.**  A comparison decides on the values and gives a plain bool tensor: a program whose number falls on the
other side of a kink is not covered.  (An input is certain; inside a chain it can happen, and sides.py tells what is
right on either side.)  Flushing of subnormals to 0 is not covered either.

[1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002.
[2] N. J. Higham and T. Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41 (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table import EXACT, holds, precision, rounded
from manual_bp.arithmetic.bounded_tensor import (
    Bounded,
    Dice,
    How,
    NotAtOnce,
    UnknownFunctionError,
    converted,
    done_so,
    magnitude_of,
    pair_of,
)
from manual_bp.arithmetic.paging import Decide, Paging, Running, as_it_is
from manual_bp.arithmetic.stochastic import RUNS, at_once, fit, is_wide, most_at_once, narrowed, repeated, wide_from
from manual_bp.outputs import parts, whole

if TYPE_CHECKING:
    from manual_bp.rule import Rule

__all__ = [
    "Bounded",
    "Contract",
    "How",
    "Paging",
    "Running",
    "UnknownFunctionError",
    "Widths",
    "contract_of",
    "enter",
    "leave",
    "magnitudes",
    "widths",
    "widths_together",
]


NEXT_TO_NOTHING = 2.0**-12
"""A width that is added to another one is none from this part of it on.  That of a reference in float64 is 2^-29 of one
in float32, or 2^-19 where that was a thousand times as wide before stochastic arithmetic narrowed it."""


@dataclass(frozen=True)
class Contract:
    """In which precision a program computes, and in which it stores its inputs and results."""

    compute: torch.dtype
    storage: torch.dtype

    def __post_init__(self) -> None:
        for name in ("compute", "storage"):
            dtype = getattr(self, name)
            if dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
                raise ValueError(f"contract: {name} must be float64, float32, bfloat16 or float16; came {dtype}.")
        if not holds(self.compute, self.storage):
            came = f"compute={self.compute}, storage={self.storage}"
            raise ValueError(f"contract: compute must hold every number of storage; came {came}. Swap them.")


def contract_of(dtype: torch.dtype) -> Contract:
    """What a rule promises for inputs of a dtype: 16 bits are computed in float32 and rounded once."""
    sixteen_bits = dtype in (torch.float16, torch.bfloat16)
    return Contract(torch.float32 if sixteen_bits else dtype, dtype)


class Widths(NamedTuple):
    """How far off a right program may be: absolute, float64, shaped like each output and each cotangent.

    outputs: None for one that is absent.
    grads: None for an input without cotangent, and for every input of a page without backward.
    is_close: of somebody's function, whether a branch (above a limit or below) was taken that errors leave open.
    is_undecided: likewise, whether an order of numbers (the largest, a sorting) was decided that they leave open.
    is_tied: likewise, whether numbers on which a branch or an order depends may be equal, as they are at a kink or tie.
    is_order_tied: likewise, whether computed numbers are equal on whose order something may depend, so that roundings
        order them.
    stochastic: whether some of it is what stochastic arithmetic finds, because the bound is wide.
    largest: how many elements the largest tensor has that the page made on the way.
    """

    outputs: tuple[Tensor | None, ...]
    grads: tuple[Tensor | None, ...]
    stochastic: bool = False
    is_undecided: bool = False
    is_close: bool = False
    is_tied: bool = False
    is_order_tied: bool = False
    largest: int = 0


def widths(
    rule: Rule,
    inputs: tuple[Tensor | None, ...],
    dy: Tensor | tuple[Tensor | None, ...] | None,
    contract: Contract,
    backward: Callable[..., tuple[Tensor | None, ...]] | None = None,
    how: How | None = None,
    forward: Callable[..., Any] | None = None,
    beside: Sequence[Tensor | None] = (),
    **hyper: Any,
) -> Widths:
    """The widths of a rule at `inputs` and `dy` (any dtype and device; the work is done on the CPU in float64).

    inputs: None for one that is absent.
    dy: of several outputs a tuple, one for each, None for 0; unused where the page has no backward.
    backward: a formula to take instead of the page's own backward, called with inputs, dy and hyperparameters by name
        (as in `Mistake`): how far off a program may be that uses this formula.
    how: what else the program may do otherwise than a right one that keeps its digits.
    forward: a formula for y to take instead of the page's own (as in `Value`).
    beside: of each output and each cotangent the width to which this one will be added; a bound that is NEXT_TO_NOTHING
        beside it is not narrowed.
    """

    found = _analysed(rule, inputs, dy, contract, (forward, backward), how, hyper, beside)
    return found.widths(found.narrowed(found.runs, how) if found.is_wide else found.errors)


def widths_together(
    rule: Rule, points: Sequence[tuple[tuple[Tensor | None, ...], Any]], contract: Contract, hyper: Mapping[str, Any]
) -> list[Widths | None]:
    """As `widths` of a recorded function, at several points: inputs and dy, of equal shapes, that differ in numbers
    alone.  Their runs at random are one.  None where the function is not defined."""
    analysed: list[_Analysed | None] = []
    for inputs, dy in points:
        try:
            analysed.append(_analysed(rule, inputs, dy, contract, (None, None), None, dict(hyper), ()))
        except ValueError:
            analysed.append(None)
    wide = [each for each in analysed if each is not None and each.is_wide]
    narrow: dict[int, list[Tensor | None]] = {}
    most = most_at_once(wide[0].given) if wide else 1
    for some in (wide[first : first + most] for first in range(0, len(wide), most)):
        narrow.update(zip(map(id, some), _narrowed_together(some), strict=True))
    return [None if each is None else each.widths(narrow.get(id(each), each.errors)) for each in analysed]


@dataclass(frozen=True, eq=False)
class _Analysed:
    """A bounded run: results, their errors, and whether those that are sought are wide.

    outputs: how many of the results are y.  given: the numbers that went in, dy among them.  again: the results of
    others in their place.  is_recorded: whether a recorded program gives them.
    """

    contract: Contract
    outputs: int
    results: list[Tensor | None]
    errors: list[Tensor | None]
    is_wide: bool
    given: list[Tensor | None]
    again: Callable[..., list[Tensor | None]]
    is_recorded: bool
    paging: Paging

    def enter(self, x: Tensor) -> Tensor:
        return enter(x, self.contract)

    def runs(self, how: How, count: int) -> list[Tensor | None]:
        return repeated(self.again, self.given, self.enter, how, count, is_recorded=self.is_recorded)

    def narrowed(
        self, runs: Callable[[How, int], list[Tensor | None]], how: How | None, is_cheap: bool = False
    ) -> list[Tensor | None]:
        """The errors, and where they are wide what runs at random find.  is_cheap: as `narrowed` takes it."""
        is_cheap = is_cheap or (self.is_recorded and fit(self.given))
        share = wide_from(self.contract.compute, self.contract.storage)
        try:
            return narrowed(self.results, self.errors, runs, how, lambda x: leave(x, self.contract), share, is_cheap)
        except ValueError:  # somebody's function may be defined for the numbers as they are alone
            if not self.is_recorded:
                raise
        return self.errors

    def widths(self, found: list[Tensor | None]) -> Widths:
        return Widths(
            tuple(found[: self.outputs]),
            tuple(found[self.outputs :]),
            stochastic=any(narrow is not error for narrow, error in zip(found, self.errors, strict=True)),
            is_undecided=self.paging.is_undecided,
            is_close=self.paging.is_close,
            is_tied=self.paging.is_tied,
            is_order_tied=self.paging.is_order_tied,
            largest=self.paging.largest,
        )


def _analysed(
    rule: Rule,
    inputs: tuple[Tensor | None, ...],
    dy: Any,
    contract: Contract,
    formulas: Formulas,
    how: How | None,
    hyper: dict[str, Any],
    beside: Sequence[Tensor | None],
) -> _Analysed:
    y, grads, paging = run_bounded(rule, inputs, dy, contract, formulas, how, hyper, lambda x: x)
    results = [*y, *grads]
    errors = [None if x is None else leave(x, contract) for x in results]
    share = wide_from(contract.compute, contract.storage)
    sought = [error if _tells(error, other) else None for error, other in zip(errors, beside or errors, strict=True)]
    are_wide = any(is_wide(x, error, share) for x, error in zip(results, sought, strict=True))
    given = [*inputs, *(_cotangents(rule.name, y, dy) if rule.has_backward else ())]
    is_recorded = hasattr(rule.page, "FUNCTION")  # whose interpreter asks which tensors are bounded

    def again(*entered: Tensor | None) -> list[Tensor | None]:
        inputs, cotangents = entered[: len(rule.inputs)], entered[len(rule.inputs) :]
        y, grads = _results(rule, inputs, rule.check_hyper(hyper), formulas, lambda y: whole(cotangents, like=y))
        return [*parts(y), *grads]

    return _Analysed(contract, len(rule.outputs), results, errors, are_wide, given, again, is_recorded, paging)


def _narrowed_together(some: Sequence[_Analysed]) -> list[list[Tensor | None]]:
    """The errors of each, narrowed by runs that are done at once."""
    dice = Dice()
    try:
        every = at_once(some[0].again, [each.given for each in some], some[0].enter, How(dice=dice), RUNS)
    except (NotAtOnce, ValueError):
        return [each.narrowed(each.runs, None) for each in some]
    thrown = dice.thrown // len(some)

    def narrowed_by(each: _Analysed, results: list[Tensor | None]) -> list[Tensor | None]:
        def runs(how: How, count: int) -> list[Tensor | None]:
            assert how.dice is not None
            how.dice.thrown += thrown
            return results

        return each.narrowed(runs, None, is_cheap=True)

    return [narrowed_by(each, results) for each, results in zip(some, every, strict=True)]


def _tells(error: Tensor | None, beside: Tensor | None) -> bool:
    """Whether an error changes another one to which it is added; of one that stands alone they are the same."""
    return error is None or beside is None or not bool((error <= NEXT_TO_NOTHING * beside).all())


def magnitudes(
    rule: Rule,
    inputs: tuple[Tensor | None, ...],
    dy: Tensor | tuple[Tensor | None, ...] | None,
    backward: Callable[..., tuple[Tensor | None, ...]] | None = None,
    forward: Callable[..., Any] | None = None,
    **hyper: Any,
) -> Widths:
    """What the magnitudes of the terms add up to into which outputs and cotangents expand (see "Expanded" above).

    backward, forward: formulas in place of the page's own, as in `widths`.
    """
    contract = contract_of(torch.float64)
    formulas = forward, backward
    outputs, grads, _ = run_bounded(rule, inputs, dy, contract, formulas, How(roundings=1.0), hyper, magnitude_of)
    return Widths(outputs, grads)


Formulas = tuple[Callable[..., Any] | None, Callable[..., Any] | None]
"""For y and for the cotangents, in place of the page's own; None for these."""


def run_bounded(
    rule: Rule,
    inputs: tuple[Tensor | None, ...],
    dy: Tensor | tuple[Tensor | None, ...] | None,
    contract: Contract,
    formulas: Formulas,
    how: How | None,
    hyper: dict[str, Any],
    wanted: Callable[[Tensor], Tensor],
    decide: Decide = as_it_is,
) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...], Paging]:
    """The page's text on bounded numbers, what is wanted of each of its results, and what was left open.  decide: as
    `Paging` takes it."""
    if len(inputs) != len(rule.inputs):
        raise ValueError(f"{rule.name}: takes {len(rule.inputs)} inputs {list(rule.inputs)}; came {len(inputs)}.")
    hyper = rule.check_hyper(hyper)
    entered = [None if x is None else done_so(enter(x, contract), how) for x in inputs]

    def cotangents(y: Any) -> Any:
        return whole([done_so(enter(d, contract), how) for d in _cotangents(rule.name, y, dy)], like=y)

    try:
        with torch.no_grad(), Paging(how, hasattr(rule.page, "FUNCTION"), decide) as paging:
            y, grads = _results(rule, entered, hyper, formulas, cotangents)
    except UnknownFunctionError as error:
        raise UnknownFunctionError(f"{rule.name}: {error}") from None
    outputs, found = (tuple(None if x is None else wanted(x) for x in results) for results in (parts(y), grads))
    return outputs, found, paging


def _results(
    rule: Rule,
    inputs: Sequence[Tensor | None],
    hyper: dict[str, Any],
    formulas: Formulas,
    cotangents: Callable[[Any], Any],
) -> tuple[Any, tuple[Tensor | None, ...]]:
    """y and the cotangents, by the page's text and these formulas.  cotangents: of each output, where y is known."""
    forward, backward = formulas
    named = dict(zip(rule.inputs, inputs, strict=True))
    y, residuals = rule.pure(*inputs, **hyper)
    y = forward(**named, **hyper) if forward else y
    if not rule.has_backward:
        return y, (None,) * len(inputs)
    dy = cotangents(y)
    grads: tuple[Tensor | None, ...] = (
        backward(**named, dy=dy, **hyper) if backward else rule.page.backward(residuals, dy)
    )
    return y, grads


def _cotangents(name: str, y: Any, dy: Any) -> list[Tensor]:
    """One for each output, 0 where None was given."""
    shapes, came = ([None if x is None else tuple(x.shape) for x in parts(each)] for each in (y, dy))
    if len(shapes) != len(came) or any(d is not None and d != shape for shape, d in zip(shapes, came, strict=True)):
        must = f"y's shape {shapes[0]}" if len(shapes) == 1 else f"one tensor of each output's shape, {shapes}"
        raise ValueError(f"{name}: dy must have {must}; came {came[0] if len(came) == 1 else came}.")
    given = zip(parts(y), parts(dy), strict=True)
    return [torch.zeros_like(pair_of(part, torch.float64)[0]) if d is None else d for part, d in given]


def enter(x: Tensor, contract: Contract) -> Tensor:
    """`x` as a program under the contract receives it, in the precision of computation, carrying one rounding of it:
    but for the format's largest number, which stands for an infinity in masks, and beyond which a rounding would lie.

    Masks and indices (bool, int) stay plain tensors.
    """
    x = x.detach().cpu()
    if not x.is_floating_point():
        return x
    value = x.double().contiguous()  # as a recorded program has it, whose views are of that
    _, error = rounded(precision(contract.compute), value, EXACT, (value, EXACT))
    error = error.masked_fill(value.abs() == torch.finfo(contract.storage).max, 0.0)
    return converted(Bounded(value, error, contract.storage), dtype=contract.compute)


def leave(result: Tensor, contract: Contract) -> Tensor:
    """The error of a result once it is rounded to storage; 0 of one that is no number but a mask or an index."""
    if not result.is_floating_point():
        return torch.zeros(result.shape, dtype=torch.float64)
    if not isinstance(result, Bounded):
        result = Bounded(*pair_of(result, contract.compute), contract.compute)
    stored = converted(result, dtype=contract.storage)
    assert isinstance(stored, Bounded)
    return stored.error
