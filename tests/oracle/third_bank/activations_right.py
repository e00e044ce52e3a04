"""Right programs for gelu, silu, softplus and swiglu."""

import math

import torch
import torch.nn.functional as F

from tests.oracle.third_bank.axes import by_autograd
from tests.oracle.third_bank.entry import BF16, F16, F32, F64, SIXTEEN, WIDE, in_precision, loses, native, right

ROOT_2_OVER_PI, CUBIC = math.sqrt(2 / math.pi), 0.044715


def sigmoid(x):
    """Accurate on both sides: no exponential overflows."""
    e = torch.exp(-x.abs())
    return torch.where(x < 0, e, 1) / (1 + e)


def gelu_with(erf_form, tanh_form):
    """A gelu from value and derivative of either form."""

    def gelu(inputs, dy, approximate="none"):
        (x,) = inputs
        y, derivative = (erf_form if approximate == "none" else tanh_form)(x)
        return y, (dy * derivative,)

    return gelu


def density(x):
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def by_erfc(x):
    phi = 0.5 * torch.erfc(-x / math.sqrt(2))
    return x * phi, phi + x.clamp(-60, 60) * density(x)


def by_ndtr(x):
    phi = torch.special.ndtr(x)
    return x * phi, phi + x.clamp(-60, 60) * density(x)


def by_halves(x):
    """erfc of |x|, mirrored for x > 0."""
    tail = 0.5 * torch.erfc(x.abs() / math.sqrt(2))
    phi = torch.where(x > 0, 1 - tail, tail)
    return x * phi, torch.addcmul(phi, x.clamp(-60, 60), density(x))


def by_sigmoid(x):
    """0.5 (1 + tanh u) as a sigmoid of 2u."""
    c = x.clamp(-60, 60)
    u = 2 * ROOT_2_OVER_PI * (c + CUBIC * c**3)
    du = 2 * ROOT_2_OVER_PI * (1 + 3 * CUBIC * c * c)
    s = sigmoid(u)
    return x * s, s + c * s * sigmoid(-u) * du


def by_exponential(x):
    """Sigmoid and its derivative from one exponential of -|2u|."""
    c = x.clamp(-60, 60)
    u = 2 * ROOT_2_OVER_PI * c * (1 + CUBIC * c * c)
    e = torch.exp(-u.abs())
    s = torch.where(u < 0, e, 1) / (1 + e)
    return x * s, s + c * (2 * ROOT_2_OVER_PI * (1 + 3 * CUBIC * c * c)) * (e / (1 + e) ** 2)


def half_erf(x):
    phi = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x * phi, phi + x.clamp(-60, 60) * density(x)


def half_tanh(x):
    c = x.clamp(-60, 60)
    t = torch.tanh(ROOT_2_OVER_PI * (c + CUBIC * c**3))
    du = ROOT_2_OVER_PI * (1 + 3 * CUBIC * c * c)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * c * (1 - t * t) * du


def gelu_autograd(x, approximate="none"):
    if approximate == "none":
        return 0.5 * x * torch.erfc(-x / math.sqrt(2))
    c = x.clamp(-60, 60)
    return x * torch.sigmoid(2 * ROOT_2_OVER_PI * (c + CUBIC * c**3))


def in_blocks(vjp):
    """Blocks of 1024 elements, one after the other."""

    def run(inputs, dy, **hyper):
        results = [
            vjp(tuple(parts[:-1]), parts[-1], **hyper)
            for parts in zip(*(t.reshape(-1).split(1024) for t in (*inputs, dy)), strict=True)
        ]
        if not results:
            return vjp(inputs, dy, **hyper)
        y = torch.cat([r[0] for r in results]).reshape(dy.shape)
        return y, tuple(torch.cat(gs).reshape(dy.shape) for gs in zip(*(r[1] for r in results), strict=True))

    return run


def in_reverse(vjp):
    """Results in memory with their axes in reverse."""

    def run(inputs, dy, **hyper):
        y, grads = vjp(inputs, dy, **hyper)
        order = tuple(reversed(range(y.ndim)))
        return y, tuple(g.permute(order).contiguous().permute(order) for g in grads)

    return run


GELU = gelu_with(by_erfc, by_sigmoid)


def silu_with(derivative, value=lambda x: x * sigmoid(x)):
    def silu(inputs, dy):
        (x,) = inputs
        return value(x), (dy * derivative(x),)

    return silu


def silu_derivative(x):
    s = sigmoid(x)
    return s * (1 + x * sigmoid(-x))


def silu_sum(x):
    return sigmoid(x) + x * sigmoid(x) * sigmoid(-x)


def silu_quotient(x):
    """x e/(1 + e) left of 0, x/(1 + e) right of it."""
    e = torch.exp(-x.abs())
    return torch.where(x < 0, x * e, x) / (1 + e)


def silu_one_minus(x):
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def silu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(0.5 * x))


SILU = silu_with(silu_derivative)


def softplus_with(value, derivative=sigmoid):
    """value(z) beta and derivative(z) at z = beta x."""

    def softplus(inputs, dy, beta=1.0):
        (x,) = inputs
        return value(beta * x) / beta, (dy * derivative(beta * x),)

    return softplus


def positive_part(z):
    return z.clamp_min(0) + torch.log1p(torch.exp(-z.abs()))


def two_branches(z):
    return torch.where(z > 0, z + torch.log1p(torch.exp(-z.abs())), torch.log1p(torch.exp(z.clamp_max(0))))


def from_20(z):
    """z alone from 20 on: what is left out is 1e-10 of it."""
    return torch.where(z > 20, z, torch.log1p(torch.exp(z.clamp_max(20))))


def softplus_torch(x, beta=1.0):
    return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


SOFTPLUS = softplus_with(positive_part)


def swiglu(inputs, dy):
    gate, up = inputs
    s = sigmoid(gate)
    return gate * s * up, (dy * up * (s * (1 + gate * sigmoid(-gate))), dy * (gate * s))


def swiglu_shared(inputs, dy):
    """dy sigma made once for both cotangents."""
    gate, up = inputs
    s = sigmoid(gate)
    ds = dy * s
    return silu_quotient(gate) * up, (ds * (1 + gate * sigmoid(-gate)) * up, ds * gate)


def swiglu_one_buffer(inputs, dy):
    """Both cotangents in one memory beside each other, as for one weight matrix of both."""
    gate, up = inputs
    y, (dgate, dup) = swiglu((gate, up), dy)
    both = torch.stack([dgate, dup], -1)
    return y, (both[..., 0], both[..., 1])


def swiglu_sum(inputs, dy):
    gate, up = inputs
    s = sigmoid(gate)
    silu = gate * s
    return silu * up, (dy * (s + silu * sigmoid(-gate)) * up, dy * silu)


def inside(vjp, dtype):
    return in_precision(vjp, dtype, (F32,))


_RIGHT = {
    "gelu": {
        "erfc and sigmoid": (GELU, "both tails accurate"),
        "erfc and one exponential": (gelu_with(by_erfc, by_exponential), "sigma and sigma' from e^-|2u|"),
        "mirrored": (gelu_with(by_halves, by_sigmoid), "erfc of |x|"),
        "autograd of these": (by_autograd(gelu_autograd, (True,)), "torch.autograd of the accurate forms"),
        "blocks of 1024": (in_blocks(GELU), "one after the other"),
        "results in reverse": (in_reverse(GELU), "a result that isn't contiguous"),
    },
    "silu": {
        "sigma (1 + x sigma(-x))": (SILU, "the textbook's form"),
        "sum": (silu_with(silu_sum), "sigma + x sigma sigma(-x)"),
        "quotient": (silu_with(silu_derivative, silu_quotient), "from e^-|x|"),
        "1 - sigma": (silu_with(silu_one_minus), "1 - sigma is small against 1 where it cancels"),
        "blocks of 1024": (in_blocks(SILU), "one after the other"),
        "results in reverse": (in_reverse(SILU), "a result that isn't contiguous"),
    },
    "softplus": {
        "positive part": (SOFTPLUS, "max(z, 0) + log1p(e^-|z|)"),
        "two branches": (softplus_with(two_branches), "one formula a side"),
        "logaddexp": (softplus_with(lambda z: torch.logaddexp(z, torch.zeros_like(z))), "torch's own"),
        "log sigma": (softplus_with(lambda z: -F.logsigmoid(-z)), "-log sigma(-z)"),
        "autograd": (by_autograd(softplus_torch, (True,)), "torch.autograd of logaddexp"),
        "blocks of 1024": (in_blocks(SOFTPLUS), "one after the other"),
        "results in reverse": (in_reverse(SOFTPLUS), "a result that isn't contiguous"),
    },
    "swiglu": {
        "textbook": (swiglu, "dy up silu', dy silu"),
        "shared": (swiglu_shared, "dy sigma made once"),
        "sum": (swiglu_sum, "sigma + silu sigma(-gate)"),
        "one buffer": (swiglu_one_buffer, "both cotangents interleaved in one memory"),
        "blocks of 1024": (in_blocks(swiglu), "one after the other"),
        "results in reverse": (in_reverse(swiglu), "results that aren't contiguous"),
    },
}

PROGRAMS = (
    *(right(rule, name, vjp, why) for rule, table in _RIGHT.items() for name, (vjp, why) in table.items()),
    right("gelu", "float64 inside", inside(GELU, F64), "more digits", (F32,)),
    right("silu", "float64 inside", inside(SILU, F64), "more digits", (F32,)),
    right("softplus", "float64 inside", inside(SOFTPLUS, F64), "more digits", (F32,)),
    right("swiglu", "float64 inside", inside(swiglu, F64), "more digits", (F32,)),
    native("silu", "torch.autograd", by_autograd(F.silu, (True,)), "torch's own", WIDE),
    native("swiglu", "torch.autograd", by_autograd(lambda g, u: F.silu(g) * u, (True, True)), "torch's own", WIDE),
    right("silu", "autograd, 16 bits", by_autograd(F.silu, (True,)), "torch's own in float32", SIXTEEN),
    right("softplus", "x alone from 20 on", softplus_with(from_20), "1e-10 of y is left out", (F32, BF16, F16)),
    loses("softplus", "x alone from 20 on, float64", softplus_with(from_20), "tails", "1e-10 of y is left out", (F64,)),
    loses("gelu", "ndtr", gelu_with(by_ndtr, by_sigmoid), "tails", "torch.special.ndtr is 1 + erf", WIDE),
    loses("gelu", "erf", gelu_with(half_erf, by_sigmoid), "tails", "1 + erf cancels in the left tail", WIDE),
    loses("gelu", "tanh", gelu_with(by_erfc, half_tanh), "tails, tanh", "1 + tanh cancels in the left tail", WIDE),
    loses("silu", "tanh", silu_with(silu_derivative, silu_tanh), "tails", "1 + tanh cancels in the left tail", WIDE),
)
