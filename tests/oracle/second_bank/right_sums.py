"""The same sums and products in other orders, other precisions, other libraries and other layouts of memory."""

import math

import numpy as np
import torch

from tests.oracle.second_bank.entry import ALL, BF16, F16, F32, F64, SIXTEEN, WIDE, Program, all_changed, computed_in
from tests.oracle.second_bank.formulas import (
    RIGHT,
    batch_norm_with,
    checked,
    kept,
    limited,
    on_axis_1,
    penalised,
    rows,
    same_shape,
    shared,
    split,
)

# Sums over axis 0.


def in_order(terms):
    """One after the other in the dtype of the terms: 1000 at a time, then the totals of these blocks likewise."""
    array = terms.numpy()
    if len(array) == 0:
        return terms.sum(0)
    totals = np.stack([np.cumsum(array[i : i + 1000], 0)[-1] for i in range(0, len(array), 1000)])
    return torch.as_tensor(np.asarray(np.cumsum(totals, 0)[-1]))


def in_reverse(terms):
    return in_order(terms.flip(0))


def by_pairs(terms):
    while len(terms) > 1:
        even = len(terms) // 2 * 2
        terms = torch.cat([terms[0:even:2] + terms[1:even:2], terms[even:]])
    return terms.sum(0)


def kahan(terms):
    """Kahan's sum down 64 columns at a time, and across them by pairs."""
    width = 64
    padded = torch.cat([terms, terms.new_zeros((-len(terms) % width, *terms.shape[1:]))])
    total, lost = torch.zeros_like(padded[:width]), torch.zeros_like(padded[:width])
    for block in padded.reshape(len(padded) // width, width, *terms.shape[1:]):
        term = block - lost
        new = total + term
        lost = (new - total) - term
        total = new
    return by_pairs(total) if len(terms) else terms.sum(0)


SUMS = {"in order": in_order, "in reverse": in_reverse, "by pairs": by_pairs, "Kahan": kahan}


def linear_summed(add):
    def linear(inputs, dy):
        x, weight, bias = inputs
        products = rows(dy)[:, :, None] * rows(x)[:, None, :]
        return x @ weight.T + bias, (dy @ weight, add(products), add(rows(dy)))

    return linear


def linear_features_summed(add):
    def linear(inputs, dy):
        x, weight, bias = inputs
        y = add(rows(x).T[:, :, None] * weight.T[:, None, :]) + bias
        dx = add(rows(dy).T[:, :, None] * weight[:, None, :])
        return y.reshape(*x.shape[:-1], len(bias)), (dx.reshape(x.shape), rows(dy).T @ rows(x), rows(dy).sum(0))

    return linear


def l1_summed(add):
    def l1(inputs, dy, lam, n=1):
        _, grads = RIGHT["l1_penalty"](inputs, dy, lam=lam, n=n)
        return penalised(lam, n) * add(inputs[0].abs().reshape(-1)), grads

    return l1


def l2_summed(add):
    def l2(inputs, dy, lam, n=1):
        _, grads = RIGHT["l2_penalty"](inputs, dy, lam=lam, n=n)
        return penalised(lam, n) / 2 * add((inputs[0] * inputs[0]).reshape(-1)), grads

    return l2


def square_loss_summed(add):
    def square_loss(inputs, dy):
        x, target = same_shape(*inputs)
        _, grads = RIGHT["square_loss"](inputs, dy)
        return add(((x - target) ** 2).reshape(-1)) / (2 * x.shape[0]), grads

    return square_loss


def channel_first(x):
    """The values of a channel along axis 0."""
    return x.transpose(0, 1).reshape(x.shape[1], math.prod(x.shape[:1] + x.shape[2:])).T


def batch_norm_summed(add):
    def batch_norm(inputs, dy, eps=1e-5):
        x, weight, bias = inputs
        m = checked(x, eps)
        mean = add(channel_first(x)) / m
        centred = x - on_axis_1(mean, x)
        s = on_axis_1(1 / torch.sqrt(add(channel_first(centred * centred)) / m + eps), x)
        x_hat = centred * s
        dbias, dweight = add(channel_first(dy)), add(channel_first(dy * x_hat))
        total, along = on_axis_1(dbias, x), on_axis_1(dweight, x)
        dx = on_axis_1(weight, x) * s / max(m, 1) * (m * dy - total - x_hat * along)
        return x_hat * on_axis_1(weight, x) + on_axis_1(bias, x), (dx, dweight, dbias)

    return batch_norm


def max_norm_summed(add):
    def max_norm(inputs, dy, limit):
        (weight,) = inputs
        norm = torch.sqrt(add((weight * weight).T))[:, None]
        long = norm > limited(limit)
        safe = torch.where(long, norm, 1)
        u = weight / safe
        along = add((u * dy).T)[:, None]
        return torch.where(long, limit * u, weight), (torch.where(long, limit / safe * (dy - u * along), dy),)

    return max_norm


_SUMMED = (
    ("linear", "rows", linear_summed, ("in order", "in reverse", "Kahan")),
    ("linear", "features", linear_features_summed, ("in order", "by pairs")),
    ("l1_penalty", "weights", l1_summed, ("in order", "Kahan")),
    ("l2_penalty", "weights", l2_summed, ("in reverse", "by pairs")),
    ("square_loss", "numbers", square_loss_summed, ("in order", "by pairs")),
    ("batch_norm", "values", batch_norm_summed, ("in order", "in reverse", "Kahan")),
    ("max_norm", "row", max_norm_summed, ("in order", "by pairs")),
)


def _summed():
    for rule, what, make, orders in _SUMMED:
        for order in orders:
            vjp = computed_in(make(SUMS[order]), F32)
            why = "float32 sums of blocks of at most 1000 terms, whatever their order, are within 1000 roundings"
            yield Program(f"{rule}: {what} summed {order}", rule, vjp, (F32, BF16), "right", why)


# Other orders of products, and forms that are fused.


def linear_einsum(inputs, dy):
    x, weight, bias = inputs
    y = torch.einsum("...i,oi->...o", x, weight) + bias
    return y, (
        torch.einsum("...o,oi->...i", dy, weight),
        torch.einsum("ro,ri->oi", rows(dy), rows(x)),
        torch.einsum("ro->o", rows(dy)),
    )


def linear_outer_products(inputs, dy):
    """dW and db grow by a block of rows, as a kernel that walks over the batch does."""
    x, weight, bias = inputs
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)
    step = 1 if len(rows(x)) <= 300 else 64
    for i in range(0, len(rows(x)), step):
        dweight = dweight + rows(dy)[i : i + step].T @ rows(x)[i : i + step]
        dbias = dbias + rows(dy)[i : i + step].sum(0)
    return torch.addmm(bias, rows(x), weight.T).reshape(*x.shape[:-1], len(bias)), (dy @ weight, dweight, dbias)


def linear_fused(inputs, dy):
    """y by fused multiply-adds, from the bias on: each product exact in float64, each sum rounded once to float32."""
    x, weight, bias = inputs
    y = bias.expand(len(rows(x)), len(bias)).clone()
    if weight.shape[1] > 300 or bias.dtype == F64:
        return RIGHT["linear"](inputs, dy)
    for i in range(weight.shape[1]):
        y = (rows(x)[:, i : i + 1].double() * weight[:, i].double() + y.double()).to(bias.dtype)
    _, grads = RIGHT["linear"](inputs, dy)
    return y.reshape(*x.shape[:-1], len(bias)), grads


def inference_fused(inputs, dy, eps=1e-5):
    """y = fma(x, a, b), a and b in float32."""
    x, weight, bias, mean, variance = inputs
    _, grads = RIGHT["batch_norm_inference"](inputs, dy, eps=eps)
    a = weight * torch.rsqrt(variance + eps)
    b = (bias.double() - a.double() * mean.double()).to(x.dtype)
    return (x.double() * on_axis_1(a, x).double() + on_axis_1(b, x).double()).to(x.dtype), grads


def batch_norm_six_formulas(inputs, dy, eps=1e-5):
    """The paper's own chain: through x̂, through the variance, through the mean."""
    x, weight, bias = inputs
    m, axes = checked(x, eps), shared(x)
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = (centred * centred).mean(axes, keepdim=True)
    root = torch.sqrt(variance + eps)
    d_hat = dy * on_axis_1(weight, x)
    d_variance = (d_hat * centred).sum(axes, keepdim=True) * -0.5 / (root * root * root)
    d_mean = -d_hat.sum(axes, keepdim=True) / root + d_variance * -2 * centred.mean(axes, keepdim=True)
    dx = d_hat / root + d_variance * 2 * centred / max(m, 1) + d_mean / max(m, 1)
    y = centred / root * on_axis_1(weight, x) + on_axis_1(bias, x)
    return y, (dx, (dy * centred / root).sum(axes), dy.sum(axes))


def l1_scaled_first(inputs, dy, lam, n=1):
    factor = penalised(lam, n)
    return torch.sum(factor * inputs[0].abs()), (dy * factor * torch.sign(inputs[0]),)


def l1_by_choice(inputs, dy, lam, n=1):
    (weight,) = inputs
    penalised(lam, n)
    step = dy * lam / n
    y = torch.sum(weight.abs()) * lam / n
    return y, (torch.where(weight > 0, step, torch.where(weight < 0, -step, 0 * weight)),)


def l2_scaled_first(inputs, dy, lam, n=1):
    (weight,) = inputs
    scaled = math.sqrt(penalised(lam, n) / 2) * weight
    return torch.sum(scaled * scaled), (dy * lam * weight / n,)


def l2_dot(inputs, dy, lam, n=1):
    (weight,) = inputs
    factor = penalised(lam, n)
    flat = weight.reshape(-1)
    return torch.dot(flat, flat) * 0.5 * factor, (weight * (dy * factor),)


def l2_halves_of_the_gradient(inputs, dy, lam, n=1):
    (weight,) = inputs
    gradient = penalised(lam, n) * weight
    return torch.sum(gradient * weight) / 2, (gradient * dy,)


def max_norm_scale_of_rows(inputs, dy, limit):
    """min(1, limit/‖W‖) times the row."""
    (weight,) = inputs
    norm = (weight * weight).sum(1, keepdim=True).sqrt()
    scale = (limited(limit) / norm).clamp(max=1)
    unit = weight / torch.where(norm > 0, norm, 1)
    dweight = scale * (dy - torch.where(norm > limit, unit * (unit * dy).sum(1, keepdim=True), 0))
    return torch.where(norm > limit, scale * weight, weight), (dweight,)


def elu_cotangent_first(inputs, dy, alpha=1.0):
    (x,) = inputs
    y = torch.where(x <= 0, torch.expm1(x) * alpha, x)
    return y, (torch.where(x > 0, dy, dy * alpha * torch.exp(x.clamp(max=0))),)


def sigmoid_both_sides(inputs, dy):
    (x,) = inputs
    return 1 / (1 + torch.exp(-x)), (dy * torch.sigmoid(x) * torch.sigmoid(-x),)


def leaky_relu_by_parts(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    slope = torch.where(x > 0, torch.ones_like(x), negative_slope)
    return slope * x, (dy * slope,)


def dropout_reciprocal(inputs, dy, p):
    x, mask = inputs
    keep = kept(mask, p)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return torch.where(keep, x * scale, 0), (torch.where(keep, dy * scale, 0), None)


def square_loss_divided_late(inputs, dy):
    x, target = same_shape(*inputs)
    difference = target - x
    dx = dy * -difference / x.shape[0]
    return 0.5 * difference.square().reshape(len(x), math.prod(x.shape[1:])).sum(1).mean(), (dx, -dx)


def maxout_running(inputs, dy, pieces):
    """A running maximum from the first piece on: a later piece wins only if it is larger, or NaN."""
    in_pieces = split(inputs[0], pieces)
    y, winner = in_pieces[..., 0], torch.zeros(in_pieces.shape[:-1], dtype=torch.int64)
    for q in range(1, pieces):
        larger = (in_pieces[..., q] > y) | (in_pieces[..., q].isnan() & ~y.isnan())
        y, winner = torch.where(larger, in_pieces[..., q], y), torch.where(larger, q, winner)
    dx = torch.stack([torch.where(winner == q, dy, 0) for q in range(pieces)], -1)
    return y.clone(), (dx.reshape(inputs[0].shape),)


_ORDERS = (
    ("linear", linear_einsum, ALL, "the same sums, by einsum"),
    ("linear", linear_outer_products, ALL, "the same sums, grown by outer products"),
    ("linear", linear_fused, (F32, BF16, F16), "a fused multiply-add rounds less often than a product and a sum"),
    ("batch_norm_inference", inference_fused, (F32, BF16, F16), "|a μ| u is lost if the mean is large, as by a x + b"),
    ("batch_norm", batch_norm_six_formulas, ALL, "the paper's formulas, from which the page's follows"),
    ("l1_penalty", l1_scaled_first, ALL, "each term is rounded once more"),
    ("l1_penalty", l1_by_choice, ALL, "the sign is chosen, and lam multiplied before 1/n"),
    ("l2_penalty", l2_scaled_first, ALL, "√(lam/2n) w is squared: two roundings more per term"),
    ("l2_penalty", l2_dot, ALL, "the same sum, as a product of w with itself"),
    ("l2_penalty", l2_halves_of_the_gradient, ALL, "½ Σ (lam/n w) w is the same sum"),
    ("max_norm", max_norm_scale_of_rows, ALL, "limit/‖W‖ is rounded first"),
    (
        "elu",
        elu_cotangent_first,
        ALL,
        "(dy alpha) eˣ in place of dy (alpha eˣ): an eˣ below the normal numbers is far below alpha u",
    ),
    ("sigmoid", sigmoid_both_sides, ALL, "σ(x) σ(-x) keeps all its digits down to the smallest normal number"),
    ("leaky_relu", leaky_relu_by_parts, WIDE, "the slope of the branch times x"),
    ("dropout", dropout_reciprocal, ALL, "1/(1 − p) is rounded first"),
    ("square_loss", square_loss_divided_late, ALL, "a mean of the examples' costs"),
    ("maxout", maxout_running, ALL, "the first of equal pieces stays the winner"),
)


# Other libraries: numbers of NumPy, and Python's own.


def numpy_tanh(inputs, dy):
    x, g = inputs[0].numpy(), dy.numpy()
    with np.errstate(over="ignore"):
        dx = g / np.cosh(x) ** 2
    return torch.as_tensor(np.asarray(np.tanh(x))), (torch.as_tensor(np.asarray(dx)),)


def numpy_linear(inputs, dy):
    x, weight, bias = (t.numpy() for t in inputs)
    g = dy.numpy()
    flat_x, flat_g = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), g.reshape(math.prod(g.shape[:-1]), g.shape[-1])
    y, dx = np.matmul(x, weight.T) + bias, np.matmul(g, weight)
    return torch.as_tensor(y), tuple(torch.as_tensor(a) for a in (dx, flat_g.T @ flat_x, flat_g.sum(0)))


def numpy_batch_norm(inputs, dy, eps=1e-5):
    x = inputs[0]
    checked(x, eps)
    if x.numel() == 0:
        return RIGHT["batch_norm"](inputs, dy, eps=eps)
    array = np.ascontiguousarray(channel_first(x).T.numpy())
    mean, variance = array.mean(1), array.var(1)
    return batch_norm_with(inputs, dy, eps, torch.as_tensor(mean), torch.as_tensor(variance))


def numpy_square_loss(inputs, dy):
    x, target = (t.numpy() for t in same_shape(*inputs))
    if len(x) == 0:
        return RIGHT["square_loss"](inputs, dy)
    difference = (x - target).reshape(-1)
    dx = torch.as_tensor(np.array(dy.numpy() * ((x - target) / x.dtype.type(len(x)))))
    y = torch.as_tensor(np.array(np.dot(difference, difference) / x.dtype.type(2 * len(x))))
    return y, (dx, -dx)


def of_numbers(function, *tensors):
    """A function of Python's numbers at every element, in float64."""
    values = [function(*numbers) for numbers in zip(*(t.reshape(-1).tolist() for t in tensors), strict=True)]
    return torch.tensor(values, dtype=torch.float64).reshape(tensors[0].shape).to(tensors[0].dtype)


def python_sigmoid(inputs, dy):
    def value(x):
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x)) if x < 0 else x

    def slope(x, g):
        return g * (value(x) * value(-x))

    return of_numbers(value, inputs[0]), (of_numbers(slope, inputs[0], dy),)


def python_tanh(inputs, dy):
    def slope(x, g):
        return g * (1 - math.tanh(x) ** 2)

    return of_numbers(math.tanh, inputs[0]), (of_numbers(slope, inputs[0], dy),)


def python_elu(inputs, dy, alpha=1.0):
    def value(x):
        return alpha * math.expm1(x) if x <= 0 else x

    def slope(x, g):
        return g if x > 0 else g * alpha * math.exp(x) if x <= 0 else x

    return of_numbers(value, inputs[0]), (of_numbers(slope, inputs[0], dy),)


def python_l1(inputs, dy, lam, n=1):
    _, grads = RIGHT["l1_penalty"](inputs, dy, lam=lam, n=n)
    return torch.tensor(penalised(lam, n) * sum(map(abs, inputs[0].reshape(-1).tolist())), dtype=dy.dtype), grads


def python_l2(inputs, dy, lam, n=1):
    _, grads = RIGHT["l2_penalty"](inputs, dy, lam=lam, n=n)
    y = penalised(lam, n) / 2 * sum(w * w for w in inputs[0].reshape(-1).tolist())
    return torch.tensor(y, dtype=dy.dtype), grads


_LIBRARIES = (
    ("tanh", numpy_tanh, "NumPy's tanh and cosh"),
    ("linear", numpy_linear, "NumPy's products"),
    ("batch_norm", numpy_batch_norm, "NumPy's mean and var"),
    ("square_loss", numpy_square_loss, "NumPy's dot"),
    ("sigmoid", python_sigmoid, "Python's exp, in float64, rounded once"),
    ("tanh", python_tanh, "Python's tanh, in float64, rounded once; in float64 itself 1 − y² loses |dy| u"),
    ("elu", python_elu, "Python's exp and expm1, in float64, rounded once"),
    ("l1_penalty", python_l1, "Python's sum, in float64, rounded once"),
    ("l2_penalty", python_l2, "Python's sum, in float64, rounded once"),
)


# Other layouts, subnormal results, and arithmetic in 16 bits.


def every_other(result):
    """The same numbers, with a gap behind each."""
    return torch.stack([result, torch.full_like(result, 9)], -1)[..., 0]


def reversed_axes(result):
    """The same numbers, first axis innermost in memory."""
    order = tuple(range(result.ndim))[::-1]
    return result.permute(order).contiguous().permute(order)


def from_an_expanded_one(result):
    """A scalar as one of several elements that share its memory; others as they are."""
    return result.reshape(1).expand(3)[1] if result.ndim == 0 else result


def flushed(result):
    return torch.where(result.abs() < torch.finfo(result.dtype).tiny, 0, result)


_CHANGED = (
    (every_other, "lie with gaps", ("relu", "linear", "batch_norm", "l2_penalty")),
    (reversed_axes, "lie transposed", ("elu", "linear", "max_norm", "batch_norm_inference")),
    (from_an_expanded_one, "come from an expanded tensor", ("square_loss", "l1_penalty")),
)


def _variants():
    for rule, vjp in RIGHT.items():
        yield Program(f"{rule}: plain", rule, vjp, ALL, "right", "the textbook's formula, in float32 for 16 bits")
    for rule in ("sigmoid", "elu", "linear", "square_loss", "l2_penalty", "max_norm", "batch_norm"):
        vjp = computed_in(RIGHT[rule], F64, only=(F32, BF16, F16))
        yield Program(f"{rule}: float64 inside", rule, vjp, (F32, BF16, F16), "right", "exact up to the last rounding")
    for rule, vjp, dtypes, why in _ORDERS:
        yield Program(f"{rule}: {vjp.__name__}", rule, computed_in(vjp, F32), dtypes, "right", why)
    for rule, vjp, why in _LIBRARIES:
        yield Program(f"{rule}: {vjp.__name__}", rule, computed_in(vjp, F32), (F64, F32, BF16), "right", why)
    for change, how, rules in _CHANGED:
        for rule in rules:
            vjp = all_changed(RIGHT[rule], change)
            yield Program(f"{rule}: results {how}", rule, vjp, (F32, F16), "right", "only the layout is another")
    for rule in ("sigmoid", "tanh", "elu", "batch_norm_inference"):
        vjp = all_changed(RIGHT[rule], flushed)
        why = "0 is right for what is below the smallest normal number"
        yield Program(f"{rule}: subnormal results flushed", rule, vjp, (F32, F64, F16), "right", why)


def native(rule):
    """The plain program without its float32: every operation rounds to 16 bits."""
    return RIGHT[rule].__wrapped__


_NATIVE = (
    ("relu", SIXTEEN, "nothing is computed, only chosen"),
    ("leaky_relu", SIXTEEN, "one product, rounded once"),
    ("dropout", SIXTEEN, "one quotient, rounded once"),
    ("maxout", SIXTEEN, "nothing is computed, only chosen"),
    ("elu", (BF16,), "four roundings, and nothing cancels; float16 has not the range for a large alpha"),
    ("tanh", SIXTEEN, "six roundings, and nothing cancels"),
    ("sigmoid", SIXTEEN, "six roundings, and nothing cancels"),
)


def _arithmetic():
    for rule, dtypes, why in _NATIVE:
        yield Program(f"{rule}: 16 bits throughout", rule, native(rule), dtypes, "right", why)


PROGRAMS = (*_variants(), *_summed(), *_arithmetic())
