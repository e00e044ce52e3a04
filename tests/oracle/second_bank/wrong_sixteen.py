"""Wrong in 16 bits, by overflow, by sums that stagnate, by flushing, by NaN; and coarse approximations in more bits."""

import torch

from tests.oracle.second_bank.entry import (
    BF16,
    F16,
    F32,
    F64,
    SIXTEEN,
    WIDE,
    Program,
    all_changed,
    changed,
    computed_in,
    only_in,
)
from tests.oracle.second_bank.formulas import (
    RIGHT,
    batch_norm_with,
    limited,
    on_axis_1,
    penalised,
    rows,
    same_shape,
    shared,
    statistics,
)


def one_after_the_other(terms, axis=0):
    """A sum in which the running total is rounded to the dtype of the terms after every addition."""
    total = torch.zeros_like(terms.select(axis, 0)) if terms.shape[axis] else terms.sum(axis)
    for i in range(terms.shape[axis]):
        total = total + terms.select(axis, i)
    return total


def bias_one_after_the_other(inputs, dy):
    y, (dx, dweight, _) = RIGHT["linear"](inputs, dy)
    return y, (dx, dweight, one_after_the_other(rows(dy)))


def short_sum(terms):
    """Terms beyond the first 3000 are added up in float32, so that a million of them takes no minute."""
    flat = terms.reshape(-1)
    return (one_after_the_other(flat[:3000]).float() + flat[3000:].float().sum()).to(terms.dtype)


def l2_one_after_the_other(inputs, dy, lam, n=1):
    (weight,) = inputs
    _, grads = RIGHT["l2_penalty"](inputs, dy, lam=lam, n=n)
    return (penalised(lam, n) / 2 * short_sum(weight * weight)).to(weight.dtype), grads


def l1_one_after_the_other(inputs, dy, lam, n=1):
    (weight,) = inputs
    _, grads = RIGHT["l1_penalty"](inputs, dy, lam=lam, n=n)
    return (penalised(lam, n) * short_sum(weight.abs())).to(weight.dtype), grads


def square_loss_one_after_the_other(inputs, dy):
    x, target = same_shape(*inputs)
    _, grads = RIGHT["square_loss"](inputs, dy)
    return (short_sum((x - target) ** 2) / torch.tensor(2.0 * x.shape[0])).to(x.dtype), grads


def relu_7_for_nan(inputs, dy):
    y, grads = RIGHT["relu"](inputs, dy)
    return torch.where(y.isnan(), 7, y), grads


def relu_0_for_nan(inputs, dy):
    (x,) = inputs
    return torch.where(x > 0, x, 0), (torch.where(x > 0, dy, 0),)


def leaky_relu_0_for_nan(inputs, dy, negative_slope=0.01):
    y, grads = RIGHT["leaky_relu"](inputs, dy, negative_slope=negative_slope)
    return torch.where(y.isnan(), 0, y), grads


def tanh_1_for_nan(inputs, dy):
    y, grads = RIGHT["tanh"](inputs, dy)
    return torch.nan_to_num(y, nan=1.0), grads


def sigmoid_half_for_nan(inputs, dy):
    y, grads = RIGHT["sigmoid"](inputs, dy)
    return torch.nan_to_num(y, nan=0.5), grads


def maxout_skips_nan(inputs, dy, pieces):
    y, grads = RIGHT["maxout"](inputs, dy, pieces=pieces)
    return torch.where(y.isnan(), -1e4, y), grads


def l1_skips_nan(inputs, dy, lam, n=1):
    (weight,) = inputs
    return RIGHT["l1_penalty"]((torch.where(weight.isnan(), 0, weight),), dy, lam=lam, n=n)


def linear_skips_nan(inputs, dy):
    x, weight, bias = inputs
    return RIGHT["linear"]((torch.where(x.isnan(), 0, x), weight, bias), dy)


def batch_norm_skips_nan(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    return RIGHT["batch_norm"]((torch.where(x.isnan(), 0, x), weight, bias), dy, eps=eps)


def nan_beyond_4(dx, x):
    return torch.where(x.abs() > 4, float("nan"), dx)


def infinite_beyond_2(y, x):
    return torch.where(x > 2, float("inf"), y)


def sigmoid_of_exponentials(inputs, dy):
    """In float16 arithmetic e⁻ˣ overflows from x = -11.1 on."""
    (x,) = inputs
    e = torch.exp(-x)
    return 1 / (1 + e), (dy * e / ((1 + e) * (1 + e)),)


def tanh_of_exponentials(inputs, dy):
    """In float16 arithmetic eˣ overflows from |x| = 11.1 on, and infinity over infinity is NaN."""
    (x,) = inputs
    up, down = torch.exp(x), torch.exp(-x)
    y = (up - down) / (up + down)
    return y, (dy * (1 - y * y),)


def below_a_twentieth_is_0(result):
    return torch.where(result.abs() < 0.05, 0, result)


def _sixteen():
    wrong = (
        ("linear: dbias one after the other", bias_one_after_the_other, (BF16,), "1025 alike stop at 256 to 512"),
        ("l2_penalty: y one after the other", l2_one_after_the_other, (BF16,), "2000 squares stop near 256 to 512"),
        ("l1_penalty: y one after the other", l1_one_after_the_other, (BF16,), "2000 weights stop near 256 to 512"),
        ("square_loss: y one after the other", square_loss_one_after_the_other, (BF16,), "3000 squares stop near 512"),
        ("relu: 7 for NaN", relu_7_for_nan, (BF16, F32), "y of NaN is NaN, and 7 is a number"),
        ("relu: 0 for NaN", relu_0_for_nan, (BF16, F16), "y of NaN is NaN, and 0 is a number"),
        ("leaky_relu: 0 for NaN", leaky_relu_0_for_nan, (BF16,), "y of NaN is NaN, and 0 is a number"),
        ("tanh: 1 for NaN", tanh_1_for_nan, (BF16, F64), "y of NaN is NaN, and 1 is a number"),
        ("sigmoid: ½ for NaN", sigmoid_half_for_nan, (F16, F32), "y of NaN is NaN, and ½ is a number"),
        ("maxout: -1e4 for NaN", maxout_skips_nan, (BF16, F32), "the maximum of NaN is NaN"),
        ("l1_penalty: NaN left out", l1_skips_nan, (BF16, F32), "a sum with NaN is NaN"),
        ("linear: NaN left out", linear_skips_nan, (BF16, F32), "y of a row with NaN is NaN"),
        ("batch_norm: NaN left out", batch_norm_skips_nan, (BF16, F32), "a channel with NaN has the mean NaN"),
        (
            "sigmoid: exponentials of float16",
            sigmoid_of_exponentials,
            (F16,),
            "dx is NaN at -17, where 0 or 4e-8 is due",
        ),
        ("tanh: exponentials of float16", tanh_of_exponentials, (F16,), "y is NaN at 19, where 1 is due"),
        (
            "tanh: exponentials, unclipped",
            tanh_of_exponentials,
            (F32, F64),
            "y is NaN at ±400 in float32, ±inf anywhere",
        ),
        (
            "tanh: NaN beyond 4",
            changed(RIGHT["tanh"], 0, nan_beyond_4, True),
            (*SIXTEEN, F32),
            "tanh' is a number everywhere",
        ),
        (
            "elu: infinite beyond 2",
            changed(RIGHT["elu"], None, infinite_beyond_2, True),
            (*SIXTEEN, F32),
            "elu(3) is 3",
        ),
    )
    yield from (Program(name, name.split(":")[0], vjp, dtypes, "wrong", why) for name, vjp, dtypes, why in wrong)


def _everything():
    changes = (
        (
            "all 0",
            torch.zeros_like,
            SIXTEEN,
            "nothing is computed",
            ("tanh", "elu", "linear", "batch_norm", "max_norm"),
        ),
        ("doubled", lambda r: 2 * r, SIXTEEN, "every result is twice what is due", ("elu", "l2_penalty", "max_norm")),
        (
            "flushed below 0.05",
            below_a_twentieth_is_0,
            SIXTEEN,
            "0.05 has all its digits in 16 bits",
            ("sigmoid", "linear", "dropout", "batch_norm_inference"),
        ),
        ("one constant", lambda r: torch.full_like(r, 0.5), SIXTEEN, "nothing is computed", ("tanh", "maxout")),
    )
    for what, change, dtypes, why, rules in changes:
        for rule in rules:
            vjp = only_in(SIXTEEN, all_changed(RIGHT[rule], change), RIGHT[rule])
            yield Program(f"{rule}: {what} in 16 bits", rule, vjp, dtypes, "wrong", why)


def tanh_rational(inputs, dy):
    x = inputs[0].clamp(-3, 3)
    y = x * (27 + x * x) / (27 + 9 * x * x)
    return y, (dy * (1 - y * y),)


def tanh_polynomial(inputs, dy):
    """Taylor's x − x³/3 + 2x⁵/15 − 17x⁷/315 for |x| < ½, tanh beyond: 3 to 4 digits at ½."""
    (x,) = inputs
    square = x * x
    near = x * (1 + square * (-1 / 3 + square * (2 / 15 - square * 17 / 315)))
    y = torch.where(x.abs() < 0.5, near, torch.tanh(x))
    return y, (dy * (1 - y * y),)


def table(function, x, step=1 / 16, limit=16.0):
    """Linear interpolation in a table: about step²/8 off where the second derivative is 1."""
    knots = torch.arange(-limit, limit + 2 * step, step, dtype=torch.float64)
    values = function(knots).to(x.dtype)
    place = (torch.nan_to_num(x, nan=0.0).clamp(-limit, limit) + limit) / step
    low = place.floor().long()
    y = values[low] + (place - low) * (values[low + 1] - values[low])
    return torch.where(x.isnan(), x, y)


def tanh_table(inputs, dy):
    y = table(torch.tanh, inputs[0])
    return y, (dy * (1 - y * y),)


def sigmoid_table(inputs, dy):
    y = table(torch.sigmoid, inputs[0])
    return y, (dy * table(lambda k: torch.sigmoid(k) * torch.sigmoid(-k), inputs[0]),)


def tanh_clipped(inputs, dy):
    y = torch.tanh(inputs[0].clamp(-4, 4))
    return y, (dy * (1 - y * y),)


def sigmoid_clipped(inputs, dy):
    y = torch.sigmoid(inputs[0].clamp(-7, 7))
    return y, (dy * y * (1 - y),)


def exponential_by_squaring(x):
    """(1 + x/1024)^1024, relatively x²/2048 off."""
    e = (1 + x.clamp(-1000, 0) / 1024).clamp(min=0)
    for _ in range(10):
        e = e * e
    return e


def elu_by_squaring(inputs, dy, alpha=1.0):
    (x,) = inputs
    e = exponential_by_squaring(x)
    y = torch.where(x <= 0, alpha * (e - 1), x)
    return y, (torch.where(x > 0, dy, dy * alpha * e),)


def elu_exponential_clipped(inputs, dy, alpha=1.0):
    (x,) = inputs
    e = torch.exp(x.clamp(-6, 0))
    return torch.where(x <= 0, alpha * (e - 1), x), (torch.where(x > 0, dy, dy * alpha * e),)


def to_11_bits(x):
    """Rounded to the 11 bits of TF32 and of float16, range kept."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2048) / 2048, exponent)


def linear_11_bits(inputs, dy):
    x, weight, bias = inputs
    return RIGHT["linear"]((to_11_bits(x), to_11_bits(weight), bias), to_11_bits(dy))


def coarse_rsqrt(x):
    """One step of Newton's from a start that is 1.7 % off leaves 0.04 %."""
    start = 1.017 / torch.sqrt(x)
    return start * (1.5 - 0.5 * x * start * start)


def batch_norm_coarse_rsqrt(inputs, dy, eps=1e-5):
    mean, variance = statistics(inputs[0], eps)
    s = coarse_rsqrt(variance + eps)
    return batch_norm_with(inputs, dy, 0.0, mean, 1 / (s * s))


def batch_norm_inference_coarse_rsqrt(inputs, dy, eps=1e-5):
    x, weight, bias, running_mean, running_var = inputs
    s = coarse_rsqrt(running_var + eps)
    x_hat = (x - on_axis_1(running_mean, x)) * on_axis_1(s, x)
    y = x_hat * on_axis_1(weight, x) + on_axis_1(bias, x)
    axes = shared(x)
    return y, (dy * on_axis_1(weight * s, x), (dy * x_hat).sum(axes), dy.sum(axes), None, None)


def max_norm_coarse_rsqrt(inputs, dy, limit):
    (weight,) = inputs
    square = torch.sum(weight * weight, 1, keepdim=True)
    long = torch.sqrt(square) > limited(limit)
    inverse = coarse_rsqrt(torch.where(long, square, 1))
    u = weight * inverse
    along = torch.sum(u * dy, 1, keepdim=True)
    return torch.where(long, limit * u, weight), (torch.where(long, limit * inverse * (dy - u * along), dy),)


def l2_factor_of_3_digits(inputs, dy, lam, n=1):
    return RIGHT["l2_penalty"](inputs, dy, lam=float(f"{penalised(lam, n):.2e}") * 1.0004)


def _approximations():
    programs = (
        ("tanh", tanh_rational, WIDE, "27 + x² over 27 + 9x² is 1e-3 to 2e-2 off"),
        ("tanh", tanh_polynomial, WIDE, "the term 62x⁹/2835 left out is 4e-5 at x = ½"),
        ("tanh", tanh_table, WIDE, "a step of 1/16 leaves 3e-4"),
        ("sigmoid", sigmoid_table, WIDE, "a step of 1/16 leaves 5e-5"),
        ("tanh", tanh_clipped, WIDE, "tanh(4) is 7e-4 from 1, 10 000 roundings of float32"),
        ("sigmoid", sigmoid_clipped, WIDE, "σ(7) is 9e-4 from 1, 15 000 roundings of float32"),
        ("elu", elu_by_squaring, WIDE, "e is 5e-4 off at x = -1"),
        ("elu", elu_exponential_clipped, WIDE, "e⁻⁶ is 2.5e-3, and at -9 it is 20 times what is due"),
        ("linear", linear_11_bits, WIDE, "factors of 11 bits are 2⁻¹² off, float32's 2⁻²⁴"),
        ("batch_norm", batch_norm_coarse_rsqrt, WIDE, "s is 0.04 % off"),
        ("batch_norm_inference", batch_norm_inference_coarse_rsqrt, WIDE, "s is 0.04 % off"),
        ("max_norm", max_norm_coarse_rsqrt, WIDE, "1/‖W‖ is 0.04 % off"),
        ("l2_penalty", l2_factor_of_3_digits, WIDE, "lam/n is 0.04 % off or more"),
    )
    for rule, vjp, dtypes, why in programs:
        yield Program(f"{rule}: {vjp.__name__}", rule, vjp, dtypes, "wrong", why)
    for rule in ("sigmoid", "linear", "batch_norm", "max_norm", "dropout"):
        vjp = computed_in(RIGHT[rule], BF16, only=(F32,))
        yield Program(f"{rule}: bfloat16 for float32", rule, vjp, (F32,), "wrong", "8 bits where 24 are due")
    for rule in ("tanh", "elu", "square_loss", "l2_penalty", "batch_norm_inference", "leaky_relu"):
        vjp = computed_in(RIGHT[rule], F32, only=(F64,))
        yield Program(f"{rule}: float32 for float64", rule, vjp, (F64,), "wrong", "24 bits where 53 are due")
    vjp = computed_in(RIGHT["l1_penalty"], F16, only=(F32,))
    yield Program("l1_penalty: float16 for float32", "l1_penalty", vjp, (F32,), "wrong", "11 bits where 24 are due")


PROGRAMS = (*_sixteen(), *_everything(), *_approximations())
