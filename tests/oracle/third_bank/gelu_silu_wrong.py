"""Wrong programs for gelu and silu."""

import math
from collections.abc import Iterator

import torch

from tests.oracle.third_bank.activations_right import (
    CUBIC,
    GELU,
    ROOT_2_OVER_PI,
    SILU,
    by_erfc,
    by_sigmoid,
    density,
    gelu_with,
    sigmoid,
    silu_derivative,
    silu_with,
)
from tests.oracle.third_bank.entry import ALL, F16, WIDE, Entry, faulty, in_float32, loses, wrong
from tests.oracle.third_bank.faults import changed, cut_flat, half, usual, usual_strides, whole_blocks, writes_input


def erf_derivative(formula):
    """Another derivative of the exact gelu, from x and Phi."""
    return gelu_with(lambda x: (by_erfc(x)[0], formula(x, 0.5 * torch.erfc(-x / math.sqrt(2)))), by_sigmoid)


def tanh_derivative(formula):
    """Another derivative of the tanh gelu, from x, the sigmoid of 2u and du."""

    def form(x):
        c = x.clamp(-60, 60)
        s = sigmoid(2 * ROOT_2_OVER_PI * (c + CUBIC * c**3))
        return x * s, formula(c, s, ROOT_2_OVER_PI * (1 + 3 * CUBIC * c * c))

    return gelu_with(by_erfc, form)


def tanh_with(root=ROOT_2_OVER_PI, cubic=CUBIC):
    """Other constants, in value and derivative alike."""

    def form(x):
        c = x.clamp(-60, 60)
        s = sigmoid(2 * root * (c + cubic * c**3))
        return x * s, s + c * s * (1 - s) * 2 * root * (1 + 3 * cubic * c * c)

    return gelu_with(by_erfc, form)


def quick(x):
    s = sigmoid(1.702 * x)
    return x * s, s * (1 + 1.702 * x * (1 - s))


def always(form):
    return gelu_with(form, form)


def phi_from_y(inputs, dy, approximate="none"):
    """Phi recovered as y/x."""
    (x,) = inputs
    y, (dx,) = GELU(inputs, dy, approximate=approximate)
    return y, (dy * (y / x + x * density(x)) if approximate == "none" else dx,)


def tanh_natively(inputs, dy, approximate="none"):
    """The tanh form in float16: the square overflows beyond 700, and infinity times 0 is in the derivative."""
    if approximate == "none":
        return in_float32(GELU)(inputs, dy, approximate=approximate)
    (x,) = inputs
    t = torch.tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x))
    du = ROOT_2_OVER_PI * (1 + 3 * CUBIC * x * x)
    return 0.5 * x * (1 + t), (dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du),)


def rectified(limit):
    """0 and x beyond a limit: the tails cut off."""

    def gelu(inputs, dy, approximate="none"):
        (x,) = inputs
        y, (dx,) = GELU(inputs, dy, approximate=approximate)
        outside = x.abs() > limit
        return torch.where(outside, x.clamp_min(0), y), (torch.where(outside, dy * (x > 0), dx),)

    return gelu


def erf_by_polynomial(x):
    """Abramowitz and Stegun 7.1.26: an error of 1.5e-7, absolute."""
    z = x.abs() / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = torch.sign(x) * (1 - tail * torch.exp(-z * z))
    phi = 0.5 * (1 + erf)
    return x * phi, phi + x.clamp(-60, 60) * density(x)


_ERF_DERIVATIVE = {
    "Phi alone": (lambda x, p: p, "plain", "x phi is missing"),
    "phi for x phi": (lambda x, p: p + density(x), "plain", "a factor x is missing"),
    "phi not normalised": (lambda x, p: p + x * torch.exp(-0.5 * x * x), "plain", "1/sqrt(2 pi) is missing"),
    "e^-x²": (lambda x, p: p + x * torch.exp(-x * x) / math.sqrt(2 * math.pi), "plain", "the 1/2 is missing"),
    "1/sqrt(pi)": (lambda x, p: p + x * torch.exp(-0.5 * x * x) / math.sqrt(math.pi), "plain", "erf's constant"),
    "minus": (lambda x, p: p - x * density(x), "plain", "the sign of phi' for phi"),
    "sigmoid's": (lambda x, p: p * (1 + x * (1 - p)), "plain", "silu's derivative with Phi for sigma"),
    "tanh form's": (lambda x, p: by_sigmoid(x)[1], "plain", "exact value, derivative of the other form"),
    "0 at 0": (lambda x, p: torch.where(x == 0, 0, p + x * density(x)), "zeros", "a mask of x == 0"),
    "relu's in the right tail": (lambda x, p: torch.where(x > 2, 1, p + x * density(x)), "plain", "1 beyond 2"),
    "no left tail": (lambda x, p: torch.where(x < -5, 0, p + x * density(x)), "tails", "0 below -5"),
    "phi in 16 bits": (lambda x, p: half(p) + x * half(density(x)), "plain", "kept in bfloat16"),
}
_TANH_DERIVATIVE = {
    "3 missing": (lambda x, s, du: s + x * s * (1 - s) * 2 * ROOT_2_OVER_PI * (1 + CUBIC * x * x), "0.0447 x²"),
    "du missing": (lambda x, s, du: s + x * s * (1 - s), "the chain rule stops at tanh"),
    "x missing": (lambda x, s, du: s + s * (1 - s) * 2 * du, "a factor"),
    "2 missing": (lambda x, s, du: s + x * s * (1 - s) * du, "sigmoid of 2u, derivative of sigmoid of u"),
    "tanh for its square": (lambda x, s, du: s + 0.5 * x * (1 - (2 * s - 1)) * du, "1 - t for 1 - t²"),
    "s alone": (lambda x, s, du: s, "the second term is missing"),
    "erf form's": (lambda x, s, du: by_erfc(x)[1], "value of tanh, derivative of erf"),
}
_SILU_DERIVATIVE = {
    "sigmoid's": (lambda x: sigmoid(x) * sigmoid(-x), "plain", "sigma(1 - sigma)"),
    "sigma alone": (sigmoid, "plain", "the second term is missing"),
    "x missing": (lambda x: sigmoid(x) * (1 + sigmoid(-x)), "plain", "a factor"),
    "y for x": (lambda x: sigmoid(x) * (1 + x * sigmoid(x) * sigmoid(-x)), "plain", "y (1 - sigma)"),
    "sigma for 1 - sigma": (lambda x: sigmoid(x) * (1 + x * sigmoid(x)), "plain", "not complemented"),
    "minus": (lambda x: sigmoid(x) * (1 - x * sigmoid(-x)), "plain", "the sign of a term"),
    "1 missing": (lambda x: sigmoid(x) * x * sigmoid(-x), "plain", "x sigma'"),
    "tanh's": (lambda x: 1 - (x * sigmoid(x)) ** 2, "plain", "another rule's derivative"),
    "overflows": (
        lambda x: (1 + torch.exp(-x) + x * torch.exp(-x)) / (1 + torch.exp(-x)) ** 2,
        "tails",
        "e^-x, inf/inf",
    ),
    "sigma from y": (lambda x: x * sigmoid(x) / x * (1 + x * sigmoid(-x)), "zeros", "y/x at 0"),
    "0 at 0": (lambda x: torch.where(x == 0, 0, silu_derivative(x)), "zeros", "a mask of x == 0"),
    "clamped at 5": (lambda x: silu_derivative(x.clamp(-5, 5)), "tails", "x clamped in backward"),
    "nonnegative": (lambda x: silu_derivative(x).clamp_min(0), "plain", "no negative derivative"),
    "sigma in 16 bits": (lambda x: half(sigmoid(x)) * (1 + x * half(sigmoid(-x))), "plain", "kept in bfloat16"),
}
_SILU_VALUE = {
    "hard": (lambda x: x * (x + 3).clamp(0, 6) / 6, "plain", "hardswish"),
    "1.702": (lambda x: x * sigmoid(1.702 * x), "plain", "the quick gelu"),
    "sigmoid": (sigmoid, "plain", "x is missing"),
    "overflows": (lambda x: x * torch.exp(x) / (1 + torch.exp(x)), "tails", "e^x, inf/inf"),
    "no left tail": (lambda x: torch.where(x < -10, 0, x * sigmoid(x)), "tails", "0 below -10"),
    "sigma in 16 bits": (lambda x: x * half(sigmoid(x)), "plain", "kept in bfloat16"),
}


def _entries() -> Iterator[Entry]:
    # Below -5 arithmetic in 16 bits has nothing left of 1 + erf either.
    for name, (formula, shows, why) in _ERF_DERIVATIVE.items():
        dtypes = WIDE if "16" in name or name in ("tanh form's", "no left tail") else ALL
        yield wrong("gelu", name, erf_derivative(formula), shows, why, dtypes)
    for name, (formula, why) in _TANH_DERIVATIVE.items():
        yield wrong("gelu", f"tanh: {name}", tanh_derivative(formula), "tanh", why, WIDE if "erf" in name else ALL)
    yield wrong("gelu", "approximate ignored", always(by_erfc), "tanh", "always exact", WIDE)
    yield wrong("gelu", "always tanh", always(by_sigmoid), "plain", "approximate isn't taken", WIDE)
    yield wrong("gelu", "quick", always(quick), "plain", "the sigmoid of 1.702 x")
    yield wrong("gelu", "forms exchanged", gelu_with(by_sigmoid, by_erfc), "plain", "none means tanh", WIDE)
    yield wrong("gelu", "tanh: 0.8", tanh_with(root=0.8), "tanh", "sqrt(2/pi) to one digit", WIDE)
    yield wrong("gelu", "tanh: 0.0044715", tanh_with(cubic=0.0044715), "tanh", "a decimal place")
    yield wrong("gelu", "Phi from y", phi_from_y, "zeros", "y/x at 0")
    yield wrong("gelu", "tails cut at 3", rectified(3), "tails", "x or 0 beyond 3")
    yield wrong("gelu", "tails cut at 5", rectified(5), "tails", "x or 0 beyond 5", WIDE)
    yield wrong("gelu", "erf of 7 digits", gelu_with(erf_by_polynomial, by_sigmoid), "tails", "absolute error", WIDE)
    yield faulty("gelu", "tanh in float16", tanh_natively, "thousands, tanh", "x² overflows: inf times 0", (F16,))
    for name, (formula, shows, why) in _SILU_DERIVATIVE.items():
        dtypes = WIDE if "16" in name or name == "overflows" else ALL
        yield wrong("silu", name, silu_with(formula), shows, why, dtypes)
    # The same function as the textbook's, but 1 is what remains of x - x.
    lost = silu_with(lambda x: x * sigmoid(x) + sigmoid(x) * (1 - x * sigmoid(x)))
    yield loses("silu", "y + sigma (1 - y)", lost, "huge", "0 for 1 where x is 1e8", WIDE)
    for name, (formula, shows, why) in _SILU_VALUE.items():
        dtypes = WIDE if "16" in name or name in ("overflows", "no left tail") else ALL
        yield wrong("silu", f"value: {name}", silu_with(silu_derivative, formula), shows, why, dtypes)
    for rule, vjp in (("gelu", GELU), ("silu", SILU)):
        base = in_float32(vjp)
        yield faulty(rule, "whole blocks of 1024", changed(base, 0, whole_blocks(1024)), "rows", "the rest of dx is 0")
        yield faulty(rule, "y of 65536", changed(base, None, cut_flat(65_536)), "many rows", "the rest of y is 0")
        yield faulty(rule, "y over x", writes_input(base, 0, None), "plain", "y is written over x")
        yield from usual(rule, vjp)
        yield from usual_strides(rule, vjp)


PROGRAMS = tuple(_entries())
