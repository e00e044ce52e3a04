"""Gated units, low-rank linear layers and other pieces of an MLP."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tests.oracle.function_bank.entry import WIDE, Function, normal, right, uniform, wrong

# ------------------------------------------------------------------- clamped SwiGLU, gate and up interleaved (gpt-oss)


def clamped_swiglu(x, *, alpha=1.702, limit=7.0):
    gate, up = x[..., ::2], x[..., 1::2]
    gate = gate.clamp(min=None, max=limit)
    up = up.clamp(min=-limit, max=limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


CLAMPED_SWIGLU = Function(clamped_swiglu, {"x": normal(5, 24, scale=2.0)}, {"limit": 2.5})


def _clamped_swiglu(x, dy, alpha, limit, slope):
    """The value, and both gradients before the clamps, for a given derivative of gate σ(α gate)."""
    gate, up = x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
    s = torch.sigmoid(alpha * gate)
    return gate * s * (up + 1), dy * (up + 1) * slope(gate, s), dy * gate * s


def _interleaved(dgate, dup):
    return torch.stack((dgate, dup), -1).flatten(-2)


@right(CLAMPED_SWIGLU, "gates multiplied by 0 or 1")
def clamped_swiglu_closed(inputs, dy, *, alpha=1.702, limit=7.0):
    (x,) = inputs
    y, dgate, dup = _clamped_swiglu(x, dy, alpha, limit, lambda gate, s: s * (1 + alpha * gate * (1 - s)))
    inside_gate, inside_up = x[..., ::2] <= limit, x[..., 1::2].abs() <= limit
    return y, (_interleaved(dgate * inside_gate, dup * inside_up),)


@wrong(CLAMPED_SWIGLU, "up below -limit is not gated: the mask looks at the upper limit alone")
def clamped_swiglu_upper_limit_alone(inputs, dy, *, alpha=1.702, limit=7.0):
    (x,) = inputs
    y, dgate, dup = _clamped_swiglu(x, dy, alpha, limit, lambda gate, s: s * (1 + alpha * gate * (1 - s)))
    return y, (_interleaved(dgate, dup) * (x <= limit),)


@wrong(CLAMPED_SWIGLU, "alpha is missing in the derivative of the sigmoid")
def clamped_swiglu_forgot_alpha(inputs, dy, *, alpha=1.702, limit=7.0):
    (x,) = inputs
    y, dgate, dup = _clamped_swiglu(x, dy, alpha, limit, lambda gate, s: s * (1 + gate * (1 - s)))
    inside_gate, inside_up = x[..., ::2] <= limit, x[..., 1::2].abs() <= limit
    return y, (_interleaved(dgate * inside_gate, dup * inside_up),)


@wrong(CLAMPED_SWIGLU, "gradients are written in halves, where the forward reads gate and up interleaved")
def clamped_swiglu_halves(inputs, dy, *, alpha=1.702, limit=7.0):
    y, (dx,) = clamped_swiglu_closed(inputs, dy, alpha=alpha, limit=limit)
    return y, (torch.cat((dx[..., ::2], dx[..., 1::2]), -1),)


# ------------------------------------------------------------------------------------------------ GEGLU with a bias


def biased_geglu(x: Float[Tensor, "... two_width"], bias: Float[Tensor, " two_width"]) -> Float[Tensor, "... width"]:
    gate, up = (x + bias).chunk(2, dim=-1)
    return F.gelu(gate) * up


BIASED_GEGLU = Function(biased_geglu, {"x": (2, 3, 14), "bias": (14,)})


def _gelu(gate):
    """gelu and its derivative: Φ(x) by erfc, which keeps its digits in the left tail."""
    phi = 0.5 * torch.erfc(-gate / math.sqrt(2))
    return gate * phi, phi + gate * torch.exp(-0.5 * gate * gate) / math.sqrt(2 * math.pi)


@right(BIASED_GEGLU, "Φ by erfc")
def biased_geglu_erfc(inputs, dy):
    x, bias = inputs
    gate, up = (x + bias).chunk(2, -1)
    gelu, slope = _gelu(gate)
    dx = torch.cat((dy * up * slope, dy * gelu), -1)
    return gelu * up, (dx, dx.sum((0, 1)))


@wrong(BIASED_GEGLU, "the derivative is that of the tanh approximation, the forward that of erf", shows=WIDE)
def biased_geglu_tanh(inputs, dy):
    x, bias = inputs
    gate, up = (x + bias).chunk(2, -1)
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (gate + 0.044715 * gate**3))
    slope = 0.5 * (1 + t) + 0.5 * gate * (1 - t * t) * c * (1 + 3 * 0.044715 * gate**2)
    dx = torch.cat((dy * up * slope, dy * F.gelu(gate)), -1)
    return F.gelu(gate) * up, (dx, dx.sum((0, 1)))


@wrong(BIASED_GEGLU, "the bias's gradient is summed over the first axis alone and the first token kept")
def biased_geglu_first_token(inputs, dy):
    y, (dx, _) = biased_geglu_erfc(inputs, dy)
    return y, (dx, dx.sum(0)[0])


@wrong(
    BIASED_GEGLU,
    "Φ is recovered as gelu / gate, which is nan where the gate is 0",
    shown_by={"x": normal(2, 3, 14, scale=0), "bias": lambda generator: torch.arange(14.0)},
)
def biased_geglu_divided(inputs, dy):
    x, bias = inputs
    gate, up = (x + bias).chunk(2, -1)
    gelu = F.gelu(gate)
    slope = gelu / gate + gate * torch.exp(-0.5 * gate * gate) / math.sqrt(2 * math.pi)
    dx = torch.cat((dy * up * slope, dy * gelu), -1)
    return gelu * up, (dx, dx.sum((0, 1)))


# ------------------------------------------------------------------------------------------------------ ReLU² MLP


def relu_squared_mlp(x: Float[Tensor, "rows features"], up: Float[Tensor, "hidden features"],
                     down: Float[Tensor, "features hidden"]) -> Float[Tensor, "rows features"]:  # fmt: skip
    return F.relu(x @ up.T).square() @ down.T


RELU_SQUARED_MLP = Function(relu_squared_mlp, {"x": (4, 6), "up": (9, 6), "down": (6, 9)})


@right(RELU_SQUARED_MLP, "the hidden layer in two halves, each recomputed")
def relu_squared_mlp_in_halves(inputs, dy):
    x, up, down = inputs
    y, dx = torch.zeros_like(x), torch.zeros_like(x)
    dup, ddown = torch.empty_like(up), torch.empty_like(down)
    for units in (slice(None, up.shape[0] // 2), slice(up.shape[0] // 2, None)):
        h = (x @ up[units].T).clamp(min=0)
        y += (h * h) @ down[:, units].T
        ddown[:, units] = dy.T @ (h * h)
        dh = 2 * h * (dy @ down[:, units])
        dup[units] = dh.T @ x
        dx += dh @ up[units]
    return y, (dx, dup, ddown)


@wrong(RELU_SQUARED_MLP, "the factor 2 of the square is missing in the gradient of the first weight")
def relu_squared_mlp_forgot_two(inputs, dy):
    y, (dx, dup, ddown) = relu_squared_mlp_in_halves(inputs, dy)
    return y, (dx, dup / 2, ddown)


_PARTIAL: dict[tuple[int, ...], Tensor] = {}


@wrong(RELU_SQUARED_MLP, "the buffer of the second weight's gradient is not cleared between calls")
def relu_squared_mlp_stale_buffer(inputs, dy):
    y, (dx, dup, ddown) = relu_squared_mlp_in_halves(inputs, dy)
    total = _PARTIAL.setdefault(tuple(ddown.shape), torch.zeros_like(ddown, dtype=torch.float64))
    total += ddown
    return y, (dx, dup, total.to(ddown.dtype))


# ---------------------------------------------------------------------------------------------------- LoRA and DoRA


def lora_linear(x, weight, a, b, bias=None, *, alpha=16.0):
    """`a` (rank, in), `b` (out, rank); the update is scaled by alpha / rank."""
    return F.linear(x, weight, bias) + F.linear(F.linear(x, a), b) * (alpha / a.shape[0])


LORA_LINEAR = Function(lora_linear, {"x": (3, 4, 7), "weight": (5, 7), "a": (2, 7), "b": (5, 2), "bias": (5,)})
LORA_LINEAR_PLAIN = Function(lora_linear, {"x": (6, 7), "weight": (5, 7), "a": (2, 7), "b": (5, 2)}, {"alpha": 3.0})


@right(LORA_LINEAR, "products with the merged weight")
def lora_linear_merged(inputs, dy, *, alpha=16.0):
    x, weight, a, b, bias = inputs
    scale = alpha / a.shape[0]
    merged = weight + scale * (b @ a)
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dweight = drows.T @ rows
    y = x @ merged.T + (0 if bias is None else bias)
    dbias = None if bias is None else drows.sum(0)
    return y, (dy @ merged, dweight, scale * (b.T @ dweight), scale * (dweight @ a.T), dbias)


@right(LORA_LINEAR_PLAIN, "without the bias, which is not passed")
def lora_linear_plain(inputs, dy, *, alpha=16.0):
    y, grads = lora_linear_merged((*inputs, None), dy, alpha=alpha)
    return y, grads[:4]


@wrong(LORA_LINEAR, "alpha / rank is missing in the gradient of a")
def lora_linear_forgot_scale(inputs, dy, *, alpha=16.0):
    y, (dx, dweight, da, db, dbias) = lora_linear_merged(inputs, dy, alpha=alpha)
    return y, (dx, dweight, da * inputs[2].shape[0] / alpha, db, dbias)


@wrong(LORA_LINEAR_PLAIN, "the gradient of x lacks the path through the low-rank update")
def lora_linear_one_path(inputs, dy, *, alpha=16.0):
    y, (_, *others) = lora_linear_plain(inputs, dy, alpha=alpha)
    return y, (dy @ inputs[1], *others)


def dora_linear(x, weight, a, b, magnitude, *, scaling=2.0):
    """The norm counts as a constant, as the method says."""
    adapted = weight + scaling * b @ a
    norm = adapted.norm(p=2, dim=1, keepdim=True).detach()
    return F.linear(x, magnitude[:, None] * adapted / norm)


DORA_LINEAR = Function(dora_linear, {"x": (6, 7), "weight": (5, 7), "a": (2, 7), "b": (5, 2), "magnitude": (5,)})


@right(DORA_LINEAR, "the norm as a constant")
def dora_linear_constant_norm(inputs, dy, *, scaling=2.0):
    x, weight, a, b, magnitude = inputs
    adapted = weight + scaling * b @ a
    direction = adapted / adapted.square().sum(1, keepdim=True).sqrt()
    dmerged = dy.T @ x
    dadapted = dmerged * (magnitude / adapted.square().sum(1).sqrt())[:, None]
    dmagnitude = (dmerged * direction).sum(1)
    merged = magnitude[:, None] * direction
    return x @ merged.T, (dy @ merged, dadapted, scaling * b.T @ dadapted, scaling * dadapted @ a.T, dmagnitude)


@wrong(DORA_LINEAR, "the norm is differentiated, which the forward detaches")
def dora_linear_norm_differentiated(inputs, dy, *, scaling=2.0):
    _, weight, a, b, _ = inputs
    y, (dx, dadapted, _, _, dmagnitude) = dora_linear_constant_norm(inputs, dy, scaling=scaling)
    adapted = weight + scaling * b @ a
    direction = adapted / adapted.square().sum(1, keepdim=True).sqrt()
    dadapted = dadapted - direction * (dadapted * direction).sum(1, keepdim=True)
    return y, (dx, dadapted, scaling * b.T @ dadapted, scaling * dadapted @ a.T, dmagnitude)


# ------------------------------------------------------------------------------------- weight norm, Fourier features


def weight_norm_linear(x, v, g, bias=None):
    return F.linear(x, g.unsqueeze(1) * v / torch.linalg.vector_norm(v, dim=1, keepdim=True), bias)


WEIGHT_NORM = Function(weight_norm_linear, {"x": (4, 6), "v": (3, 6), "g": (3,), "bias": (3,)})


@right(WEIGHT_NORM, "the projection as a product with the directions")
def weight_norm_projected(inputs, dy):
    x, v, g, bias = inputs
    length = v.square().sum(1, keepdim=True).sqrt()
    direction = v / length
    dw = dy.T @ x
    dg = torch.einsum("oi,oi->o", dw, direction)
    dv = g[:, None] / length * (dw - dg[:, None] * direction)
    return x @ (g[:, None] * direction).T + bias, (dy @ (g[:, None] * direction), dv, dg, dy.sum(0))


@wrong(WEIGHT_NORM, "the gradient of v lacks the projection: the norm is taken as a constant")
def weight_norm_constant(inputs, dy):
    x, v, g, _ = inputs
    y, (dx, _, dg, dbias) = weight_norm_projected(inputs, dy)
    return y, (dx, (dy.T @ x) * (g / v.square().sum(1).sqrt())[:, None], dg, dbias)


def fourier_features(coordinates: Float[Tensor, "points space"], frequencies: Float[Tensor, "features space"],
                     phase: Float[Tensor, " features"]) -> Float[Tensor, "points two_features"]:  # fmt: skip
    angle = 2 * torch.pi * coordinates @ frequencies.T + phase
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


FOURIER = Function(
    fourier_features, {"coordinates": uniform(6, 2, low=0, high=1), "frequencies": (5, 2), "phase": (5,)}
)


@right(FOURIER, "sin and cos of the value used again")
def fourier_features_reused(inputs, dy):
    coordinates, frequencies, phase = inputs
    angle = 2 * math.pi * (coordinates @ frequencies.T) + phase
    sin, cos = angle.sin(), angle.cos()
    dsin, dcos = dy.chunk(2, -1)
    dangle = dsin * cos - dcos * sin
    return torch.cat((sin, cos), -1), (
        2 * math.pi * dangle @ frequencies,
        2 * math.pi * dangle.T @ coordinates,
        dangle.sum(0),
    )


@wrong(FOURIER, "the derivative of cos has the sign +")
def fourier_features_sign(inputs, dy):
    dsin, dcos = dy.chunk(2, -1)
    return fourier_features_reused(inputs, dy)[0], fourier_features_reused(inputs, torch.cat((dsin, -dcos), -1))[1]


@wrong(FOURIER, "2π is missing in the gradient of the frequencies")
def fourier_features_forgot_two_pi(inputs, dy):
    y, (dcoordinates, dfrequencies, dphase) = fourier_features_reused(inputs, dy)
    return y, (dcoordinates, dfrequencies / (2 * math.pi), dphase)
