"""Functions of each element alone that are less common: hyperbolic ones, inverse ones, those of gamma and of errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manual_bp.arithmetic.balls import Jets, apply, means
from manual_bp.arithmetic.balls_table.elementary import certain, elementary, pairwise
from manual_bp.arithmetic.jets import NAN, Cell, made_of

from flint import acb, arb  # isort: skip  (after balls, whose message says how to install it)


def _log_of(base: int) -> Callable[[Any], Jets]:
    return elementary(lambda x: x.log() / arb(base).log(), lambda x, _: 1 / (x * arb(base).log()))


def _ndtri(p: arb) -> arb:
    """Where Φ is p: √2 erf⁻¹(2p - 1)."""
    return arb(2).sqrt() * (2 * p - 1).erfinv()


def _erfcx(x: arb) -> arb:
    return (x * x).exp() * x.erfc()


means("exp2", "special_exp2")(elementary(lambda x: arb(2) ** x, lambda _, y: y * arb(2).log()))
means("log2")(_log_of(2))
means("log10")(_log_of(10))
means("sinh")(elementary(arb.sinh, lambda x, _: x.cosh()))
means("cosh")(elementary(arb.cosh, lambda x, _: x.sinh()))
means("tan")(elementary(arb.tan, lambda _, y: 1 + y * y))
means("asin", "arcsin")(elementary(arb.asin, lambda x, _: (1 - x * x).rsqrt()))
means("acos", "arccos")(elementary(arb.acos, lambda x, _: -(1 - x * x).rsqrt()))
means("atan", "arctan")(elementary(arb.atan, lambda x, _: 1 / (1 + x * x)))
means("asinh", "arcsinh")(elementary(arb.asinh, lambda x, _: (1 + x * x).rsqrt()))
means("acosh", "arccosh")(elementary(arb.acosh, lambda x, _: (x * x - 1).rsqrt()))
means("atanh", "arctanh")(elementary(arb.atanh, lambda x, _: 1 / (1 - x * x)))
means("erfinv", "special_erfinv")(elementary(arb.erfinv, lambda _, y: arb.pi().sqrt() / 2 * (y * y).exp()))
means("special_ndtri")(elementary(_ndtri, lambda _, y: (2 * arb.pi()).sqrt() * (y * y / 2).exp()))
means("special_erfcx")(elementary(_erfcx, lambda x, y: 2 * x * y - 2 / arb.pi().sqrt()))
means("i0", "special_i0")(elementary(lambda x: x.bessel_i(0), lambda x, _: x.bessel_i(1)))
means("special_i1")(elementary(lambda x: x.bessel_i(1), lambda x, _: (x.bessel_i(0) + x.bessel_i(2)) / 2))


def _scaled(name: str) -> Callable[[Any], Any]:
    """Times exp(-|x|)."""

    def meaning(input: Any) -> Any:
        tail = apply("exp", (apply("neg", (apply("abs", (input,), {}),), {}),), {})
        return apply("mul", (tail, apply(name, (input,), {})), {})

    return meaning


means("special_i0e")(_scaled("i0"))
means("special_i1e")(_scaled("special_i1"))


def _lgamma(x: arb) -> arb:
    """log |Γ(x)|, which is the real part of log Γ(x) where Γ is negative."""
    return x.lgamma() if x > 0 else acb(x).lgamma().real


means("lgamma", "special_gammaln")(elementary(_lgamma, lambda x, _: x.digamma()))


def _poly(n: int, x: arb) -> arb:
    """ψ⁽ⁿ⁾(x) = (-1)ⁿ⁺¹ n! ζ(n + 1, x) for n of at least 1, of which arb knows the complex one alone below 0."""
    if n == 0:
        return x.digamma()
    zeta: arb = arb(n + 1).zeta(x) if x > 0 else acb(n + 1).zeta(acb(x)).real
    value = arb(n).fac() * zeta
    return value if n % 2 else -value


@means("digamma", "special_digamma", "special_psi")
def _digamma(input: Any) -> Jets:
    return _polygamma(0, input)


@means("polygamma", "special_polygamma")
def _polygamma(n: Any, input: Any) -> Jets:
    order, of = (n, input) if isinstance(n, int) else (input, n)  # torch's function has n first, its method last
    return elementary(lambda x: _poly(order, x), lambda x, _: _poly(order + 1, x))(of)


def _angle(y: Cell, x: Cell) -> Cell:
    """The angle of (x, y); at the cut, where it jumps, no derivative."""
    value = certain(arb.atan2(y.value, x.value), y.value, x.value)
    square = x.value * x.value + y.value * y.value
    if y.value.is_zero() and not x.value > 0:
        return made_of(value, ((y, NAN), (x, NAN)))
    return made_of(value, ((y, x.value / square), (x, -y.value / square)))


means("atan2", "arctan2")(pairwise(_angle))
