"""Wrong backwards of gelu, silu, softplus and swiglu."""

import math

import torch
import torch.nn.functional as F

from benchmarks.diagnosis_bank.program import OUT, rounded, rows, wrong

C = math.sqrt(2 / math.pi)


def _phi(x):
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _Phi(x):
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _tanh_slope(x):
    t = torch.tanh(C * (x + 0.044715 * x**3))
    inner = C * (1 + 3 * 0.044715 * x**2)
    gate = torch.nan_to_num(0.5 * x * (1 - t * t) * inner)  # far out 0 · ∞
    return 0.5 * (1 + t) + gate


@wrong(
    "gelu",
    "approximate is ignored: always the derivative of the tanh form",
    "approximate|always",
    "ignor|whatever|always|hyperparameter|tanh|other|default",
)
def always_tanh(inputs, dy, approximate="none"):
    (x,) = inputs
    return F.gelu(x, approximate=approximate), (dy * _tanh_slope(x),)


@wrong(
    "gelu",
    "approximate is ignored: always the derivative of the exact form",
    "approximate|always",
    "ignor|whatever|always|hyperparameter|exact|none|other|default|erf",
)
def always_exact(inputs, dy, approximate="none"):
    (x,) = inputs
    return F.gelu(x, approximate=approximate), (dy * (_Phi(x) + x * _phi(x)),)


@wrong(
    "gelu",
    "in the tanh form the factor 3 of the cube's derivative is missing",
    "3|three|cub|0.044715|t'|_dt|dt",
    OUT + "|1 in place|factor|1|instead|in place|/3|1/3|constant",
)
def cube_without_3(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "none":
        return F.gelu(x), (dy * (_Phi(x) + x * _phi(x)),)
    t = torch.tanh(C * (x + 0.044715 * x * x * x))
    gate = torch.nan_to_num(0.5 * x * (1 - t.square()) * C * (1 + 0.044715 * x * x))
    return F.gelu(x, approximate="tanh"), (dy * (0.5 + 0.5 * t + gate),)


@wrong(
    "gelu",
    "the density is e^(−x²): ½ is missing in its exponent",
    "½|half|/ 2|1/2|2|exponent|0.5|x²|square",
    "exp|density|φ|exponent|x²|gate|term|x_density|gaussian|power",
)
def density_too_narrow(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "tanh":
        return F.gelu(x, approximate="tanh"), (dy * _tanh_slope(x),)
    density = torch.exp(-x * x) / math.sqrt(2 * math.pi)
    return F.gelu(x), (dy * (_Phi(x) + x * density),)


@wrong(
    "gelu",
    "x is rounded to a table of steps of 1/16",
    "round|table|grid|step|quanti|16 bit|precision|coarse|1/16",
)
def looked_up(inputs, dy, approximate="none"):
    (x,) = inputs
    at = torch.round(x * 16) / 16
    slope = _tanh_slope(at) if approximate == "tanh" else _Phi(at) + at * _phi(at)
    return F.gelu(x, approximate=approximate), (dy * slope,)


@wrong("gelu", "beyond ±2 the slope is set to 1 and 0", "clamp|beyond|±2|above 2|limit|saturat|threshold|> 2|outside")
def saturated_early(inputs, dy, approximate="none"):
    (x,) = inputs
    slope = _tanh_slope(x) if approximate == "tanh" else _Phi(x) + x * _phi(x)
    slope = torch.where(x > 2, 1.0, torch.where(x < -2, 0.0, slope))
    return F.gelu(x, approximate=approximate), (dy * slope,)


@wrong(
    "gelu", "tanh's derivative is 1 − tanh: the square is missing", "square|tanh²|1 - t|power", "tanh|gate|derivative|t"
)
def tanh_not_squared(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "none":
        return F.gelu(x), (dy * (_Phi(x) + x * _phi(x)),)
    t = torch.tanh(C * (x + 0.044715 * x.pow(3)))
    gate = torch.nan_to_num(0.5 * x * (1 - t) * C * (1 + 0.134145 * x.pow(2)))
    return F.gelu(x, approximate="tanh"), (dy * (0.5 * (1 + t) + gate),)


@wrong(
    "silu",
    "y stands for x inside: σ (1 + y (1 − σ))",
    "y|output",
    "in place of x|instead of x|for x|y in place|y instead|stands",
)
def output_for_input(inputs, dy):
    (x,) = inputs
    s = torch.sigmoid(x)
    y = F.silu(x)
    return y, (dy * s * (1 + y * torch.sigmoid(-x)),)


@wrong(
    "silu",
    "the gate's part is taken off where it must be added",
    "sign|minus|subtract|taken off|negat|- in place of +|-1",
)
def minus_the_gate(inputs, dy):
    (x,) = inputs
    s = torch.sigmoid(x)
    return F.silu(x), (dy * (s - x * s * torch.sigmoid(-x)),)


@wrong(
    "silu",
    "the form for x ≥ 0 is taken on both sides, with |x| for x",
    "abs|magnitude|size|negative|x < 0|sign|branch|both sides|even|x ≥ 0",
)
def as_if_positive(inputs, dy):
    (x,) = inputs
    e = torch.exp(-x.abs())
    return F.silu(x), (dy * (1 + e + x.abs() * e) / (1 + e) ** 2,)


@wrong(
    "silu",
    "two elements at a time: the last of an odd number is not written",
    "last|odd|tail|rest|remainder|multiple of 2|pairs|end|after",
    "not written|unwritten|left|0|zero|missing|element",
)
def pairs_of_elements(inputs, dy):
    (x,) = inputs
    s = torch.sigmoid(x)
    dx = (dy * (s + x * s * torch.sigmoid(-x))).reshape(x.numel())
    pairs = x.numel() // 2 * 2
    return F.silu(x), (torch.cat([dx[:pairs], torch.zeros_like(dx[pairs:])]).reshape(x.shape),)


@wrong("silu", "the derivative is that of x σ(1.702 x)", "1.702|beta|factor|constant|scale|quick")
def quick_gelu(inputs, dy):
    (x,) = inputs
    s = torch.sigmoid(1.702 * x)
    return F.silu(x), (dy * (s + 1.702 * x * s * torch.sigmoid(-1.702 * x)),)


def _softplus(x, beta):
    return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


@wrong(
    "softplus",
    "beta is left as a factor of the slope",
    "beta",
    "factor|times|multipl|too many|divi|twice|/ beta|cancel",
)
def beta_not_cancelled(inputs, dy, beta=1.0):
    (x,) = inputs
    return _softplus(x, beta), (dy * beta * torch.sigmoid(beta * x),)


@wrong(
    "softplus",
    "the threshold is compared with x and not with beta x: from x = 20 on the slope is 1",
    "20|threshold|large|above|saturat|big|beyond|> 2",
)
def threshold_on_x(inputs, dy, beta=1.0):
    (x,) = inputs
    return _softplus(x, beta), (torch.where(x > 20, dy, dy * torch.sigmoid(beta * x)),)


@wrong(
    "softplus",
    "the slope is read off y without beta: 1 − e^−y",
    "beta",
    OUT + "|1 in place|default|hyperparameter|e^-y",
)
def from_y_without_beta(inputs, dy, beta=1.0):
    (x,) = inputs
    y = _softplus(x, beta)
    return y, (dy * -torch.expm1(-y),)


@wrong(
    "softplus",
    "the size of beta is taken: for a negative one the slope does not fall",
    "abs|magnitude|negative|sign|beta < 0|size",
)
def beta_without_sign(inputs, dy, beta=1.0):
    (x,) = inputs
    return _softplus(x, beta), (dy / (1 + torch.exp(-abs(beta) * x)),)


@wrong(
    "swiglu", "dup has σ(gate) where silu(gate) is due", "σ|sigmoid|gate|silu|swish", OUT + "|in place|instead|σ|factor"
)
def sigmoid_for_silu(inputs, dy):
    gate, up = inputs
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    return F.silu(gate) * up, (dy * up * (s + gate * s * c), dy * s)


@wrong(
    "swiglu",
    "the two cotangents are exchanged",
    "exchang|swap|interchang|each other|order|in place of dup|in place of dgate|page's dup|equals dup|that of dup",
)
def wrong_half_first(inputs, dy):
    gate, up = inputs
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    return F.silu(gate) * up, (dy * F.silu(gate), dy * up * s * (1 + gate * c))


@wrong("swiglu", "dgate lacks the factor up", "up", OUT + "|1|factor")
def gate_alone(inputs, dy):
    gate, up = inputs
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    return F.silu(gate) * up, (dy * s * (1 + gate * c), dy * F.silu(gate))


@wrong(
    "swiglu",
    "where gate is above 7 its cotangent is 0, as of a gate that was clamped in forward",
    "7|clamp|limit|above|large|beyond|saturat",
    "0|zero|clamp|gate|vanish|nothing",
)
def clamp_of_another_model(inputs, dy):
    gate, up = inputs
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    dgate = torch.where(gate > 7.0, 0.0, dy * up * s * (1 + gate * c))
    return F.silu(gate) * up, (dgate, dy * F.silu(gate))


@wrong(
    "swiglu",
    "dgate reads up with twice the stride from row to row: the row 2r in place of r",
    "row|stride",
    "up|2r|twice|stride|another row|other row",
)
def stride_of_both_halves(inputs, dy):
    gate, up = inputs
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    if up.ndim:
        flat = rows(up)
        read = flat[torch.arange(flat.shape[0], device=up.device) * 2 % max(flat.shape[0], 1)].reshape(up.shape)
    else:
        read = up
    return F.silu(gate) * up, (dy * read * s * (1 + gate * c), dy * F.silu(gate))


@wrong(
    "swiglu",
    "two mistakes: up is rounded to bfloat16 in dgate, and dup has gate where silu(gate) is due",
    "16 bit|16-bit|half|float16|bfloat16|rounded to",
    "σ|sigmoid|silu|swish|gate",
)
def rounded_up_and_raw_gate(inputs, dy):
    gate, up = inputs
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    return F.silu(gate) * up, (dy * rounded(up, torch.bfloat16) * s * (1 + gate * c), dy * gate)
