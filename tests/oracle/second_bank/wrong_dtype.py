"""Wrong in one dtype, right in every other."""

import torch

from tests.oracle.second_bank.entry import BF16, F16, F32, F64, Program, Vjp, changed, computed_in, only_in
from tests.oracle.second_bank.formulas import (
    COTANGENTS,
    RIGHT,
    batch_norm_with,
    kept,
    limited,
    on_axis_1,
    penalised,
    rows,
    same_shape,
    shared,
    split,
    statistics,
)

SHORT = {F64: "float64", F32: "float32", BF16: "bfloat16", F16: "float16"}


def zero(result):
    return torch.zeros_like(result)


def twice(result):
    return 2 * result


def half(result):
    return 0.5 * result


def slightly_more(result):
    return 1.001 * result


def sign(result):
    return -result


def constant(result):
    return torch.full_like(result, 0.25)


def first_element(result):
    result = result.clone(memory_format=torch.contiguous_format)
    if result.numel():
        result.view(-1)[0] = 2 * result.view(-1)[0] + 1
    return result


def plus_half(result):
    return result + 0.5


WHY = {
    zero: "it is 0, and the derivative is not",
    twice: "it is 100 % off",
    half: "it is 50 % off",
    slightly_more: "it is 0.1 % off, some 10 000 roundings of float32",
    sign: "it has the other sign",
    constant: "it does not depend on the inputs, and the derivative does",
    first_element: "its first element is 2 g + 1 where g is due",
    plus_half: "0.5 is added, more than any rounding of numbers near 1",
}

# Four changes for each cotangent, taken in turn, so that every change meets every dtype and many rules.
PLANS = (
    ((zero, F32), (twice, BF16), (slightly_more, F64), (sign, F16)),
    ((twice, F32), (zero, F16), (constant, BF16), (first_element, F64)),
    ((half, F32), (constant, F64), (zero, BF16), (slightly_more, F32)),
    ((slightly_more, F32), (sign, BF16), (twice, F16), (zero, F32)),
    ((first_element, BF16), (half, F16), (twice, F32), (zero, F64)),
    ((constant, F32), (half, BF16), (twice, F64), (first_element, F16)),
    ((sign, F32), (half, F64), (constant, F16), (first_element, F32)),
)


def _cotangents():
    cotangents = [(rule, i, name) for rule, names in COTANGENTS.items() for i, name in enumerate(names)]
    for number, (rule, i, name) in enumerate(cotangents):
        for change, dtype in PLANS[number % len(PLANS)]:
            yield Program(
                f"{rule}: {name} {change.__name__} in {SHORT[dtype]}",
                rule,
                only_in((dtype,), changed(RIGHT[rule], i, change), RIGHT[rule]),
                (dtype,),
                "wrong",
                f"in {SHORT[dtype]} {name} is wrong: {WHY[change]}",
            )


def _values():
    for number, rule in enumerate(RIGHT):
        for change, dtype in ((plus_half, F32), (twice, (BF16, F64, F16)[number % 3])):
            yield Program(
                f"{rule}: y {change.__name__} in {SHORT[dtype]}",
                rule,
                only_in((dtype,), changed(RIGHT[rule], None, change), RIGHT[rule]),
                (dtype,),
                "wrong",
                f"in {SHORT[dtype]} the value is wrong: {WHY[change]}",
            )


def without_one_minus_y(inputs, dy):
    y = torch.sigmoid(inputs[0])
    return y, (dy * y,)


def without_square(inputs, dy):
    y = torch.tanh(inputs[0])
    return y, (dy * (1 - y),)


def without_alpha(inputs, dy, alpha=1.0):
    (x,) = inputs
    y = torch.where(x <= 0, alpha * torch.expm1(x), x)
    return y, (dy * torch.exp(torch.clamp(x, max=0)),)


def without_slope(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    return torch.where(x <= 0, negative_slope * x, x), (torch.where(x > 0, dy, 0),)


def without_mask(inputs, dy):
    return torch.where(inputs[0] <= 0, 0, inputs[0]), (dy,)


def all_pieces(inputs, dy, pieces):
    y = split(inputs[0], pieces).amax(-1)
    return y, (torch.repeat_interleave(dy, pieces, -1),)


def without_last_output(inputs, dy):
    x, weight, bias = inputs
    return x @ weight.T + bias, (dy[..., :-1] @ weight[:-1], rows(dy).T @ rows(x), rows(dy).sum(0))


def without_last_row(inputs, dy):
    x, weight, bias = inputs
    return x @ weight.T + bias, (dy @ weight, rows(dy)[:-1].T @ rows(x)[:-1], rows(dy).sum(0))


def without_first_row(inputs, dy):
    x, weight, bias = inputs
    return x @ weight.T + bias, (dy @ weight, rows(dy).T @ rows(x), rows(dy)[1:].sum(0))


def without_target(inputs, dy):
    x, target = same_shape(*inputs)
    n = x.shape[0]
    return torch.sum((x - target) ** 2) / (2 * n), (dy * x / n, dy * (target - x) / n)


def l1_without_n(inputs, dy, lam, n=1):
    y = penalised(lam, n) * torch.sum(torch.abs(inputs[0]))
    return y, (dy * lam * torch.sign(inputs[0]),)


def l2_without_n(inputs, dy, lam, n=1):
    y = penalised(lam, n) / 2 * torch.sum(inputs[0] ** 2)
    return y, (dy * lam * inputs[0],)


def without_scale(inputs, dy, p):
    x, mask = inputs
    keep = kept(mask, p)
    return torch.where(keep, x / (1 - p if p < 1 else 1), 0), (torch.where(keep, dy, 0), None)


def without_projection(inputs, dy, limit):
    (weight,) = inputs
    norm = torch.sqrt(torch.sum(weight * weight, 1, keepdim=True))
    scale = torch.where(norm > limited(limit), limit / norm, 1)
    return scale * weight, (scale * dy,)


def without_mean_term(inputs, dy, eps=1e-5):
    return batch_norm_with(inputs, dy, eps, *statistics(inputs[0], eps), mean_term=0.0)


def without_projection_term(inputs, dy, eps=1e-5):
    return batch_norm_with(inputs, dy, eps, *statistics(inputs[0], eps), projection=0.0)


def without_running_mean(inputs, dy, eps=1e-5):
    x, weight, bias, running_mean, running_var = inputs
    s = on_axis_1(1 / torch.sqrt(running_var + eps), x)
    y = (x - on_axis_1(running_mean, x)) * s * on_axis_1(weight, x) + on_axis_1(bias, x)
    return y, (dy * (on_axis_1(weight, x) * s), (dy * x * s).sum(shared(x)), dy.sum(shared(x)), None, None)


DROPPED: tuple[tuple[str, Vjp, torch.dtype, str], ...] = (
    ("sigmoid", without_one_minus_y, F32, "σ' = y(1 − y), and the second factor is left out"),
    ("tanh", without_square, BF16, "tanh' = 1 − y², and it is 1 − y"),
    ("elu", without_alpha, F32, "the slope on the left is alpha eˣ, and alpha is left out"),
    ("leaky_relu", without_slope, F64, "the slope on the left is left out"),
    ("relu", without_mask, F16, "the mask is left out"),
    ("maxout", all_pieces, BF16, "the losing pieces get dy too"),
    ("linear", without_last_output, F32, "dx lacks the last output's term"),
    ("linear", without_last_row, F16, "dW lacks the last row's term"),
    ("linear", without_first_row, BF16, "db lacks the first row's term"),
    ("square_loss", without_target, F32, "dx is taken at target 0"),
    ("l1_penalty", l1_without_n, F32, "1/n is left out"),
    ("l2_penalty", l2_without_n, F16, "1/n is left out"),
    ("dropout", without_scale, F32, "1/(1 − p) is left out"),
    ("max_norm", without_projection, F32, "the projection term is left out"),
    ("batch_norm", without_mean_term, F32, "the mean term is left out"),
    ("batch_norm", without_projection_term, BF16, "the projection term is left out"),
    ("batch_norm_inference", without_running_mean, F64, "dweight is taken from x that is not centred"),
)


def _dropped():
    for rule, vjp, dtype, why in DROPPED:
        yield Program(
            f"{rule}: {vjp.__name__} in {SHORT[dtype]}",
            rule,
            only_in((dtype,), computed_in(vjp, F32), RIGHT[rule]),
            (dtype,),
            "wrong",
            f"in {SHORT[dtype]} {why}",
        )


PROGRAMS = (*_cotangents(), *_values(), *_dropped())
