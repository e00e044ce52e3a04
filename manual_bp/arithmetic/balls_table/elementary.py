"""Functions of each element alone: a value, and the derivative with respect to each operand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manual_bp.arithmetic.balls import Jets, NeedMoreBits, common_shape, lift, means, spread
from manual_bp.arithmetic.jets import ONE, ZERO, Cell, made_of, once

from flint import arb  # isort: skip  (after balls, whose message says how to install it)


def certain(result: arb, *operands: arb) -> arb:
    """`result`, unless it is not finite and that may be due to the width of an operand."""
    if not result.is_finite() and any(x.is_finite() and not x.is_exact() for x in operands):
        raise NeedMoreBits
    return result


# Of two elements.


def plus(a: Cell, b: Cell) -> Cell:
    return made_of(a.value + b.value, ((a, ONE), (b, ONE)))


def minus(a: Cell, b: Cell) -> Cell:
    return made_of(a.value - b.value, ((a, ONE), (b, -ONE)))


def times(a: Cell, b: Cell) -> Cell:
    return made_of(a.value * b.value, ((a, b.value), (b, a.value)))


def over(a: Cell, b: Cell) -> Cell:
    value = certain(a.value / b.value, a.value, b.value)
    if b.is_constant:
        return made_of(value, ((a, 1 / b.value),))
    return made_of(value, ((a, 1 / b.value), (b, -value / b.value)))


def power(a: Cell, b: Cell) -> Cell:
    """a to the b: of any number to a whole power that no input moves, else of a number above 0, or of 0 itself."""
    x, n = a.value, b.value
    whole = n.unique_fmpz() if b.is_constant and n.is_integer() else None
    if whole is not None:
        k = int(whole)
        return value_of(a, certain(x**k, x), lambda: ZERO if k == 0 else k * x ** (k - 1))
    if not x > 0 and not x.is_zero():
        if x < 0 or x.is_nan() or n.is_nan():
            return Cell(arb("nan"))
        raise NeedMoreBits
    if x.is_zero():
        value = ZERO if n > 0 else ONE if n.is_zero() else arb("inf")
        slope = ZERO if n > 1 else ONE if n == 1 else arb("nan")
        return made_of(value, ((a, slope), (b, ZERO if n > 0 else arb("nan"))))
    value = certain((n * x.log()).exp(), x, n)
    return made_of(value, ((a, n * value / x), (b, value * x.log())))


def x_times(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """x · function(y), which is 0 for x = 0 whatever y is."""

    def of(input: Any, other: Any) -> Jets:
        x, y = lift(input), lift(other)
        shape = common_shape(x, y)
        factors = function(y)
        cells = [
            made_of(ZERO, ((a, f.value),)) if a.value.is_zero() and not b.value.is_nan() else times(a, f)
            for a, b, f in zip(spread(x, shape), spread(y, shape), spread(factors, shape), strict=True)
        ]
        return Jets(shape, cells)

    return of


def larger_first(a: Cell, b: Cell) -> tuple[Cell, Cell]:
    return (a, b) if a.value.mid() >= b.value.mid() else (b, a)


def log_of_sum(a: Cell, b: Cell) -> Cell:
    """log(eᵃ + eᵇ), from the larger one."""
    a, b = larger_first(a, b)
    if a.value == b.value and not a.value.is_finite():  # both are ∞, or both -∞
        return made_of(a.value, ((a, ONE / 2), (b, ONE / 2)))
    ratio = (b.value - a.value).exp()
    return made_of(a.value + ratio.log1p(), ((a, 1 / (1 + ratio)), (b, ratio / (1 + ratio))))


def pairwise(function: Callable[[Cell, Cell], Cell]) -> Callable[[Any, Any], Jets]:
    """A function of two elements, broadcast."""

    def meaning(input: Any, other: Any) -> Jets:
        a, b = lift(input), lift(other)
        shape = common_shape(a, b)
        return Jets(shape, list(map(once(function), spread(a, shape), spread(b, shape))))

    return meaning


add, subtract, multiply, divide = map(pairwise, (plus, minus, times, over))


@means("add")
def _add(input: Any, other: Any, *, alpha: Any = 1) -> Jets:
    return add(input, other if alpha == 1 else multiply(other, alpha))


@means("sub", "subtract")
def _sub(input: Any, other: Any, *, alpha: Any = 1) -> Jets:
    return subtract(input, other if alpha == 1 else multiply(other, alpha))


@means("rsub")
def _rsub(input: Any, other: Any, *, alpha: Any = 1) -> Jets:
    return subtract(other, input if alpha == 1 else multiply(input, alpha))


@means("addcmul")
def _addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Jets:
    return add(input, multiply(multiply(tensor1, tensor2), value))


@means("addcdiv")
def _addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Jets:
    return add(input, multiply(divide(tensor1, tensor2), value))


@means("lerp")
def _lerp(input: Any, end: Any, weight: Any) -> Jets:
    return add(input, multiply(weight, subtract(end, input)))


means("mul", "multiply")(multiply)
means("div", "divide", "truediv", "true_divide")(divide)
raised = pairwise(power)
means("pow")(lambda input, exponent: raised(input, exponent))
means("logaddexp")(pairwise(log_of_sum))


# Of one element.


def value_of(x: Cell, value: arb, slope: Callable[[], arb]) -> Cell:
    """A function of one element, whose derivative is only worked out if something moves it."""
    return Cell(value) if x.is_constant else made_of(value, ((x, certain(slope(), x.value)),))


def elementary(value: Callable[[arb], arb], slope: Callable[[arb, arb], arb]) -> Callable[[Any], Jets]:
    """A function of one element: y = value(x), with derivative slope(x, y)."""

    def of(cell: Cell) -> Cell:
        x = cell.value
        y = certain(value(x), x)
        return value_of(cell, y, lambda: slope(x, y))

    def meaning(input: Any) -> Jets:
        jets = lift(input)
        return Jets(jets.shape, list(map(once(of), jets.cells)))

    return meaning


def _logistic(x: arb) -> arb:
    if x.mid() >= 0:  # of the two forms the one whose exponential does not overflow
        return 1 / (1 + (-x).exp())
    e = x.exp()
    return e / (1 + e)


def _logistic_slope(x: arb) -> arb:
    """y (1 − y) would cancel."""
    e = (-abs(x)).exp()
    return e / (1 + e) ** 2


def _bell(x: arb) -> arb:
    """The density of the normal distribution, times √(2π)."""
    return (-x * x / 2).exp()


exp = elementary(arb.exp, lambda _, y: y)
log = elementary(arb.log, lambda x, _: 1 / x)
log1p = elementary(arb.log1p, lambda x, _: 1 / (1 + x))
sqrt = elementary(arb.sqrt, lambda _, y: 1 / (2 * y))

means("exp")(exp)
means("expm1", "special_expm1")(elementary(arb.expm1, lambda x, _: x.exp()))
means("log")(log)
means("log1p", "special_log1p")(log1p)
means("sqrt")(sqrt)
means("rsqrt")(elementary(arb.rsqrt, lambda x, y: -y / (2 * x)))
means("square")(lambda input: raised(input, 2))
means("reciprocal")(lambda input: divide(1, input))
means("neg", "negative")(elementary(lambda x: -x, lambda _x, _y: -ONE))
means("sigmoid", "special_expit")(elementary(_logistic, lambda x, _: _logistic_slope(x)))
means("tanh")(elementary(arb.tanh, lambda x, _: x.sech() ** 2))  # 1 − y² would cancel
means("sin")(elementary(arb.sin, lambda x, _: x.cos()))
means("cos")(elementary(arb.cos, lambda x, _: -x.sin()))
means("erf", "special_erf")(elementary(arb.erf, lambda x, _: 2 / arb.pi().sqrt() * (-x * x).exp()))
means("erfc", "special_erfc")(elementary(arb.erfc, lambda x, _: -2 / arb.pi().sqrt() * (-x * x).exp()))
means("special_ndtr")(
    elementary(lambda x: (-x / arb(2).sqrt()).erfc() / 2, lambda x, _: _bell(x) / (2 * arb.pi()).sqrt())
)
means("xlogy", "special_xlogy")(x_times(log))

for name in ("is_floating_point", "is_complex"):
    means(name)(lambda input, answer=name == "is_floating_point": answer)
means("numel", "nelement")(lambda input: input.shape.numel())
means("size")(lambda input, dim=None: input.shape if dim is None else input.shape[dim])
means("dim", "ndimension")(lambda input: input.ndim)


@means("detach")
def detach(input: Jets) -> Jets:
    """Constant here: whatever moves it is forgotten."""
    return Jets(input.shape, [Cell(cell.value) for cell in input.cells])


@means("to", "double", "float", "type_as", "type")
def _converted(input: Any, *_: Any, **__: Any) -> Any:
    """The numbers are exact: no dtype changes them."""
    return lift(input)
