"""Right formulas that lose digits as honest programs do: where two numbers near each other are subtracted."""

import torch

from tests.oracle.second_bank.entry import ALL, F32, F64, WIDE, Program, computed_in
from tests.oracle.second_bank.formulas import (
    RIGHT,
    batch_norm_with,
    checked,
    limited,
    on_axis_1,
    same_shape,
    shared,
)


def tanh_one_minus_square(inputs, dy):
    y = torch.tanh(inputs[0])
    return y, (dy * (1 - y * y),)


def tanh_product(inputs, dy):
    y = torch.tanh(inputs[0])
    return y, (dy * ((1 - y) * (1 + y)),)


def tanh_cotangent_distributed(inputs, dy):
    y = torch.tanh(inputs[0])
    finite = dy.isfinite()
    return y, (torch.where(finite, dy - dy * y * y, dy * (1 - y * y)),)


def tanh_of_sigmoid(inputs, dy):
    y = 2 * torch.sigmoid(2 * inputs[0]) - 1
    return y, (dy * (1 - y * y),)


def tanh_of_sigmoid_with_its_slope(inputs, dy):
    s = torch.sigmoid(2 * inputs[0])
    return 2 * s - 1, (dy * 4 * s * (1 - s),)


def tanh_of_exponentials(inputs, dy):
    """|x| is cut at 20, where tanh is 1 in float64 and below."""
    x = inputs[0].clamp(-20, 20)
    up, down = torch.exp(x), torch.exp(-x)
    y = (up - down) / (up + down)
    return y, (dy * (1 - y * y),)


def tanh_of_one_exponential(inputs, dy):
    """1 − 2/(e^2x + 1): e^2x may overflow, and 2/∞ is 0."""
    y = 1 - 2 / (torch.exp(2 * inputs[0]) + 1)
    return y, (dy * (1 - y * y),)


def tanh_secant(inputs, dy):
    """1/cosh²: cosh² overflows only where the slope is below the smallest normal number."""
    (x,) = inputs
    secant = 1 / torch.cosh(x)
    return torch.sinh(x.clamp(-20, 20)) / torch.cosh(x.clamp(-20, 20)), (dy * (secant * secant),)


def sigmoid_y_one_minus_y(inputs, dy):
    y = torch.sigmoid(inputs[0])
    return y, (dy * y * (1 - y),)


def sigmoid_y_minus_square(inputs, dy):
    y = torch.sigmoid(inputs[0])
    return y, (dy * (y - y * y),)


def sigmoid_of_tanh(inputs, dy):
    """Far on the left 1 + tanh cancels."""
    t = torch.tanh(inputs[0] / 2)
    return (1 + t) / 2, (dy * (1 - t * t) / 4,)


def sigmoid_of_tanh_with_its_slope(inputs, dy):
    y = 0.5 * torch.tanh(0.5 * inputs[0]) + 0.5
    return y, (dy * y * (1 - y),)


def sigmoid_complement(inputs, dy):
    """1 − 1/(1 + eˣ): cancels on the left."""
    y = 1 - 1 / (1 + torch.exp(inputs[0]))
    return y, (dy * y * (1 - y),)


def elu_y_plus_alpha(inputs, dy, alpha=1.0):
    (x,) = inputs
    y = torch.where(x <= 0, alpha * torch.expm1(x), x)
    return y, (torch.where(x > 0, dy, dy * (y + alpha)),)


def elu_exponential_minus_1(inputs, dy, alpha=1.0):
    (x,) = inputs
    e = torch.exp(x.clamp(max=0))
    return torch.where(x <= 0, alpha * (e - 1), x), (torch.where(x > 0, dy, dy * (alpha * e)),)


def elu_distributed(inputs, dy, alpha=1.0):
    (x,) = inputs
    e = torch.exp(x.clamp(max=0))
    y = torch.where(x <= 0, alpha * e - alpha, x)
    return y, (torch.where(x > 0, dy, dy * (y + alpha)),)


def batch_norm_of_squares(inputs, dy, eps=1e-5):
    """E[x²] − μ², not below 0."""
    x = inputs[0]
    checked(x, eps)
    mean = x.mean(shared(x))
    variance = (x * x).mean(shared(x)) - mean * mean
    return batch_norm_with(inputs, dy, eps, mean, variance.clamp(min=0))


def batch_norm_of_power_sums(inputs, dy, eps=1e-5):
    """Σx, Σx², Σdy and Σdy x, and nothing else of the size of x is kept."""
    x, weight, bias = inputs
    m, axes = max(checked(x, eps), 1), shared(x)
    mean = x.sum(axes) / m
    rstd = (((x * x).sum(axes) / m - mean * mean).clamp(min=0) + eps) ** -0.5
    dbias = dy.sum(axes)
    dweight = rstd * ((dy * x).sum(axes) - mean * dbias)
    slope = weight * rstd
    of_x = -slope * rstd * dweight / m
    offset = -slope * dbias / m - of_x * mean
    y = x * on_axis_1(slope, x) + on_axis_1(bias - mean * slope, x)
    dx = on_axis_1(slope, x) * dy + on_axis_1(of_x, x) * x + on_axis_1(offset, x)
    return y, (dx, dweight, dbias)


def batch_norm_scale_and_shift(inputs, dy, eps=1e-5):
    """y = a x + b with b = bias − a μ, which cancels if the mean is large."""
    x, weight, bias = inputs
    _, grads = RIGHT["batch_norm"](inputs, dy, eps=eps)
    mean = x.mean(shared(x))
    variance = ((x - on_axis_1(mean, x)) ** 2).mean(shared(x))
    a = weight / torch.sqrt(variance + eps)
    return x * on_axis_1(a, x) + on_axis_1(bias - a * mean, x), grads


def inference_scale_and_shift(inputs, dy, eps=1e-5):
    x, weight, bias, mean, variance = inputs
    s = 1 / torch.sqrt(variance + eps)
    a = weight * s
    dbias = dy.sum(shared(x))
    dweight = s * ((dy * x).sum(shared(x)) - mean * dbias)
    y = x * on_axis_1(a, x) + on_axis_1(bias - a * mean, x)
    return y, (dy * on_axis_1(a, x), dweight, dbias, None, None)


def square_loss_expanded(inputs, dy):
    x, target = same_shape(*inputs)
    n = x.shape[0]
    y = ((x * x).sum() - 2 * (x * target).sum() + (target * target).sum()) / (2 * n)
    return y, (dy * ((x - target) / n), dy * ((target - x) / n))


def square_loss_distributed(inputs, dy):
    x, target = same_shape(*inputs)
    n = x.shape[0]
    y = torch.sum((x - target) ** 2) / n / 2
    dx = dy * (x / n) - dy * (target / n)
    return y, (dx, -dx)


def square_loss_halved_first(inputs, dy):
    """dy/(2n) first, then 2 (x − target): loses digits where dy/(2n) is below the smallest normal number."""
    x, target = same_shape(*inputs)
    factor = dy / (2 * x.shape[0])
    difference = x - target
    return torch.sum(difference**2) / (2 * x.shape[0]), (factor * (2 * difference), factor * (-2 * difference))


def max_norm_not_factored(inputs, dy, limit):
    """dy/‖W‖ − W (W · dy)/‖W‖³."""
    (weight,) = inputs
    norm = torch.sqrt(torch.sum(weight * weight, 1, keepdim=True))
    long = norm > limited(limit)
    safe = torch.where(long, norm, 1)
    along = torch.sum(weight * dy, 1, keepdim=True)
    dweight = limit * (dy / safe - weight * (along / (safe * safe * safe)))
    return torch.where(long, weight * (limit / safe), weight), (torch.where(long, dweight, dy),)


_ROWS = (
    (tanh_one_minus_square, ALL, "y² is near 1 in saturation; |dy| u is lost"),
    (tanh_product, ALL, "1 − |y| cancels in saturation; |dy| u is lost"),
    (tanh_cotangent_distributed, ALL, "dy − dy y² cancels in saturation; |dy| times a few u is lost"),
    (tanh_of_sigmoid, ALL, "2σ − 1 cancels near 0, 1 − y² in saturation"),
    (tanh_of_sigmoid_with_its_slope, ALL, "2σ − 1 cancels near 0, 1 − σ in saturation"),
    (tanh_of_exponentials, ALL, "eˣ − e⁻ˣ cancels near 0; beyond 20 nothing is left to lose"),
    (tanh_of_one_exponential, ALL, "1 − 2/(e^2x + 1) cancels near 0 and on the left keeps 1's digits"),
    (tanh_secant, ALL, "no digits are lost, and what overflows has an inverse below the smallest normal number"),
    (sigmoid_y_one_minus_y, ALL, "1 − y cancels on the right; |dy| u is lost"),
    (sigmoid_y_minus_square, ALL, "y − y² cancels on the right; |dy| u is lost"),
    (sigmoid_of_tanh, ALL, "1 + tanh(x/2) cancels on the left; u is lost"),
    (sigmoid_of_tanh_with_its_slope, ALL, "1 + tanh(x/2) cancels on the left; u is lost, in the slope too"),
    (sigmoid_complement, ALL, "1 − 1/(1 + eˣ) cancels on the left; u is lost"),
    (elu_y_plus_alpha, ALL, "y + alpha cancels on the left; |dy alpha| u is lost"),
    (elu_exponential_minus_1, ALL, "eˣ − 1 cancels near 0; alpha u is lost"),
    (elu_distributed, ALL, "alpha eˣ − alpha cancels near 0 and y + alpha on the left; a few alpha u are lost"),
    (batch_norm_of_squares, ALL, "E[x²] − μ² cancels if the mean is large; E[x²] u is lost"),
    (batch_norm_of_power_sums, (F32, F64), "Σdy x − μ Σdy and a x + b cancel if the mean is large"),
    (batch_norm_scale_and_shift, ALL, "a x + (bias − a μ) cancels if the mean is large; |a μ| u is lost"),
    (inference_scale_and_shift, ALL, "a x + (bias − a μ) cancels if the mean is large; |a μ| u is lost"),
    (square_loss_expanded, ALL, "Σx² − 2Σxt + Σt² cancels near a fit; Σx² u is lost"),
    (square_loss_distributed, ALL, "dy x/n − dy t/n cancels near a fit; |dy x/n| u is lost"),
    (square_loss_halved_first, WIDE, "torch's own order: only a subnormal dy/(2n) loses digits"),
    (max_norm_not_factored, ALL, "the same two terms, divided in another order"),
)

_RULES = {"inference": "batch_norm_inference", "batch": "batch_norm", "square": "square_loss", "max": "max_norm"}


def rule_of(vjp):
    first = vjp.__name__.split("_")[0]
    return _RULES.get(first, first)


PROGRAMS = tuple(
    Program(f"{rule_of(vjp)}: {vjp.__name__}", rule_of(vjp), computed_in(vjp, F32), dtypes, "right", why)
    for vjp, dtypes, why in _ROWS
)
