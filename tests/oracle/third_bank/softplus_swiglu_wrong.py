"""Wrong programs for softplus and swiglu."""

from collections.abc import Iterator

import torch

from tests.oracle.third_bank.activations_right import (
    SOFTPLUS,
    positive_part,
    sigmoid,
    silu_derivative,
    softplus_with,
    swiglu,
)
from tests.oracle.third_bank.entry import ALL, WIDE, Entry, faulty, in_float32, loses, wrong
from tests.oracle.third_bank.faults import (
    changed,
    cut_flat,
    dense,
    half,
    usual,
    usual_strides,
    whole_blocks,
    with_input,
    writes_input,
)


def softplus_as(value=lambda x, beta: positive_part(beta * x) / beta, derivative=lambda x, beta: sigmoid(beta * x)):
    """Value and derivative from x and beta."""

    def softplus(inputs, dy, beta=1.0):
        (x,) = inputs
        return value(x, beta), (dy * derivative(x, beta),)

    return softplus


def from_limit(limit):
    """z alone above a limit, whose derivative is 1."""

    def softplus(inputs, dy, beta=1.0):
        (x,) = inputs
        z = beta * x
        y, (dx,) = SOFTPLUS(inputs, dy, beta=beta)
        return torch.where(z > limit, x, y), (torch.where(z > limit, dy, dx),)

    return softplus


def limit_on_x(inputs, dy, beta=1.0):
    """x for softplus where x, not beta x, is above 20."""
    (x,) = inputs
    y, (dx,) = SOFTPLUS(inputs, dy, beta=beta)
    return torch.where(x > 20, x, y), (torch.where(x > 20, dy, dx),)


def not_beyond(limit):
    """0 below -limit."""
    return softplus_as(
        lambda x, beta: torch.where(beta * x < -limit, 0, positive_part(beta * x) / beta),
        lambda x, beta: torch.where(beta * x < -limit, 0, sigmoid(beta * x)),
    )


_DERIVATIVE = {
    "beta not in the derivative": (lambda x, b: sigmoid(x), "beta", "sigma(x)"),
    "times beta": (lambda x, b: b * sigmoid(b * x), "beta", "the 1/beta is forgotten"),
    "over beta": (lambda x, b: sigmoid(b * x) / b, "beta", "the inner derivative is forgotten"),
    "complement": (lambda x, b: sigmoid(-b * x), "plain", "sigma(-z)"),
    "sigma'": (lambda x, b: sigmoid(b * x) * sigmoid(-b * x), "plain", "the second derivative"),
    "relu's": (lambda x, b: (x > 0).to(x.dtype), "plain", "the limit's derivative"),
    "tanh": (lambda x, b: torch.tanh(b * x), "plain", "another function"),
    "e^y - 1": (lambda x, b: torch.expm1(positive_part(b * x)), "plain", "e^-y is missing"),
    "sigma of y": (lambda x, b: sigmoid(positive_part(b * x)), "plain", "y for x"),
    "overflows": (lambda x, b: torch.exp(b * x) / (1 + torch.exp(b * x)), "tails", "inf/inf"),
    "no left tail": (lambda x, b: torch.where(b * x < -15, 0, sigmoid(b * x)), "tails", "0 below -15"),
    "0 at 0": (lambda x, b: torch.where(x == 0, 0, sigmoid(b * x)), "zeros", "a mask of x == 0"),
    "in 16 bits": (lambda x, b: half(sigmoid(b * x)), "plain", "bfloat16"),
}
_VALUE = {
    "beta ignored in the value": (lambda x, b: positive_part(x), "beta", "right derivative"),
    "not divided": (lambda x, b: positive_part(b * x), "beta", "1/beta is missing"),
    "multiplied": (lambda x, b: positive_part(b * x) * b, "beta", "times beta for divided"),
    "beta outside": (lambda x, b: positive_part(x) / b, "beta", "z is x"),
    "overflows": (lambda x, b: torch.log1p(torch.exp(b * x)) / b, "tails", "inf beyond 88"),
    "base 2": (lambda x, b: torch.log2(1 + torch.exp((b * x).clamp_max(20))) / b, "plain", "log2"),
    "1 missing": (lambda x, b: x.clamp_min(0), "plain", "log e^z"),
    "in 16 bits": (lambda x, b: half(positive_part(b * x)) / b, "plain", "bfloat16"),
}


def swiglu_as(dgate=None, dup=None, value=None):
    """Other cotangents or another value, from dy, gate, up and sigma(gate)."""

    def run(inputs, dy):
        gate, up = inputs
        y, grads = swiglu(inputs, dy)
        s = sigmoid(gate)
        new = [g if f is None else f(dy, gate, up, s) for f, g in zip((dgate, dup), grads, strict=True)]
        return y if value is None else value(gate, up), tuple(new)

    return run


def exchanged(inputs, dy):
    """silu of up, times gate."""
    gate, up = inputs
    y, (dup, dgate) = swiglu((up, gate), dy)
    return y, (dgate, dup)


def cotangents_exchanged(inputs, dy):
    y, (dgate, dup) = swiglu(inputs, dy)
    return y, (dup, dgate)


def one_memory(inputs, dy):
    """dup is written where dgate was."""
    y, (_, dup) = swiglu(inputs, dy)
    return y, (dup, dup)


def clamped(inputs, dy):
    """gate cut off above 7, up on both sides."""
    gate, up = inputs
    return swiglu((gate.clamp_max(7), up.clamp(-7, 7)), dy)


def alpha(inputs, dy):
    """gate sigma(1.702 gate)."""
    gate, up = inputs
    s = sigmoid(1.702 * gate)
    return gate * s * up, (dy * up * s * (1 + 1.702 * gate * (1 - s)), dy * gate * s)


def up_plus_1(inputs, dy):
    gate, up = inputs
    return swiglu((gate, up + 1), dy)


def sigma_from_y(inputs, dy):
    """silu recovered as y/up."""
    gate, up = inputs
    y, _ = swiglu(inputs, dy)
    s = sigmoid(gate)
    silu = y / up
    return y, (dy * up * (s + silu * (1 - s)), dy * silu)


def pairs(inputs, dy):
    """gate and up taken for interleaved columns of one matrix."""
    gate, up = inputs
    if gate.ndim == 0 or gate.shape[-1] < 2:
        return swiglu(inputs, dy)
    columns = torch.stack([gate, up], -1).flatten(-2)
    n = gate.shape[-1]
    return swiglu((columns[..., :n], columns[..., n:]), dy)


_SWIGLU = {
    "dgate without up": ({"dgate": lambda d, g, u, s: d * silu_derivative(g)}, "plain", "a factor is missing"),
    "dgate with silu": ({"dgate": lambda d, g, u, s: d * u * g * s}, "plain", "silu, not its derivative"),
    "dgate with sigma": ({"dgate": lambda d, g, u, s: d * u * s}, "plain", "the second term is missing"),
    "dgate with sigma'": ({"dgate": lambda d, g, u, s: d * u * s * (1 - s)}, "plain", "GLU's derivative"),
    "dgate's sign": ({"dgate": lambda d, g, u, s: d * u * s * (1 - g * (1 - s))}, "plain", "of one term"),
    "dgate of up": ({"dgate": lambda d, g, u, s: d * u * silu_derivative(u)}, "plain", "silu' at up"),
    "dgate with y": ({"dgate": lambda d, g, u, s: d * (u * s + g * s * u * (1 - s) * u)}, "plain", "up twice"),
    "dgate at 0": ({"dgate": lambda d, g, u, s: d * u * (g * s / g) * (1 + g * (1 - s))}, "zeros", "silu/gate at 0"),
    "dgate in 16 bits": ({"dgate": lambda d, g, u, s: d * half(u * silu_derivative(g))}, "plain", "bfloat16"),
    "dup with sigma": ({"dup": lambda d, g, u, s: d * s}, "plain", "gate is missing"),
    "dup with up": ({"dup": lambda d, g, u, s: d * g * s * u}, "plain", "y for silu"),
    "dup with silu'": ({"dup": lambda d, g, u, s: d * silu_derivative(g)}, "plain", "the derivative"),
    "dup with gate": ({"dup": lambda d, g, u, s: d * g}, "plain", "sigma is missing"),
    "dup in 16 bits": ({"dup": lambda d, g, u, s: d * half(g * s)}, "plain", "silu in bfloat16"),
    "dup of relu": ({"dup": lambda d, g, u, s: d * g.clamp_min(0)}, "plain", "a limit of silu"),
    "value of gelu": ({"value": lambda g, u: torch.nn.functional.gelu(g) * u}, "plain", "right cotangents"),
    "value of GLU": ({"value": lambda g, u: sigmoid(g) * u}, "plain", "right cotangents"),
    "value with silu in 16 bits": ({"value": lambda g, u: half(g * sigmoid(g)) * u}, "plain", "right cotangents"),
}
_SWIGLU_WHOLE = {
    "operands exchanged": (exchanged, "plain", "silu(up) gate"),
    "cotangents exchanged": (cotangents_exchanged, "plain", "dgate for dup"),
    "one memory for both": (one_memory, "plain", "dup written over dgate"),
    "clamped": (clamped, "tails", "a limit of 7 that wasn't asked for"),
    "alpha": (alpha, "plain", "1.702 gate"),
    "up + 1": (up_plus_1, "plain", "an offset on the linear half"),
    "silu from y": (sigma_from_y, "zeros", "y/up at 0"),
    "interleaved": (pairs, "plain", "columns of the wrong layout"),
}


def _entries() -> Iterator[Entry]:
    for name, (derivative, shows, why) in _DERIVATIVE.items():
        dtypes = WIDE if "16" in name or shows == "tails" else ALL
        yield wrong("softplus", name, softplus_as(derivative=derivative), shows, why, dtypes)
    for name, (value, shows, why) in _VALUE.items():
        dtypes = WIDE if shows == "tails" or "16" in name else ALL
        yield wrong("softplus", f"value: {name}", softplus_as(value), shows, why, dtypes)
    without_beta = softplus_as(lambda x, beta: positive_part(x), lambda x, beta: sigmoid(x))
    yield wrong("softplus", "beta ignored", without_beta, "beta", "an option ignored")
    yield wrong("softplus", "x alone from 8 on", from_limit(8), "tails", "3e-4 is left out", WIDE)
    yield wrong("softplus", "limit on x", limit_on_x, "small beta", "x alone where x is above 20")
    yield wrong("softplus", "0 below -10", not_beyond(10), "tails", "no left tail")
    plain = softplus_with(lambda z: torch.where(z > 40, z, torch.log(1 + torch.exp(z.clamp_max(40)))))
    yield loses("softplus", "value: log(1 + e)", plain, "tails", "0 in the left tail", WIDE)
    lost = softplus_with(positive_part, lambda z: 1 - torch.exp(-positive_part(z)))
    yield loses("softplus", "1 - e^-y", lost, "tails", "cancels in the left tail", WIDE)
    other = softplus_with(positive_part, lambda z: 1 - sigmoid(-z))
    yield loses("softplus", "1 - sigma(-z)", other, "tails", "cancels in the left tail", WIDE)
    for name, (changes, shows, why) in _SWIGLU.items():
        yield wrong("swiglu", name, swiglu_as(**changes), shows, why, WIDE if "16" in name else ALL)
    for name, (vjp, shows, why) in _SWIGLU_WHOLE.items():
        yield wrong("swiglu", name, vjp, shows, why)
    for rule, vjp in (("softplus", SOFTPLUS), ("swiglu", swiglu)):
        base = in_float32(vjp)
        yield faulty(rule, "whole blocks of 1024", changed(base, 0, whole_blocks(1024)), "rows", "the rest of dx is 0")
        yield faulty(rule, "y of 65536", changed(base, None, cut_flat(65_536)), "many rows", "the rest of y is 0")
        yield faulty(rule, "y over the first input", writes_input(base, 0, None), "plain", "in place")
        yield from usual(rule, vjp)
        yield from usual_strides(rule, vjp)
    base = in_float32(swiglu)
    yield faulty("swiglu", "up read as dense", with_input(base, 1, dense), "strided input", "the strides of up")
    yield faulty("swiglu", "dup over up", writes_input(base, 1, 1), "plain", "dup is written over up")


PROGRAMS = tuple(_entries())
