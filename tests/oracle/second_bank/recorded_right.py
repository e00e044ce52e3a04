"""Recorded results that are right: digits lost as honest programs lose them, 16-bit arithmetic, extreme inputs."""

import math

import torch

from manual_bp.oracle import Case
from tests.oracle.second_bank import right_digits as digits
from tests.oracle.second_bank import right_sums as sums
from tests.oracle.second_bank import wrong_sixteen
from tests.oracle.second_bank.entry import BF16, F16, F32, F64, Recorded, computed_in, recorded
from tests.oracle.second_bank.formulas import RIGHT
from tests.oracle.second_bank.recorded_wrong import ARGUMENTS, BIAS, WEIGHT, X, right_case

SATURATED = [0.5, -2.0, 6.0, -7.0, 10.0, 20.0]
SMALL = [-0.00178, 0.0625, 0.005127, -0.3, 1.5, -1e-5]
G = [1.0, -0.5, 2.0, 1.5, -0.75, 0.25]


def _digits():
    rows = (
        ("tanh", digits.tanh_one_minus_square, SATURATED, F32, "1 − y² cancels in saturation; |dy| u is lost"),
        ("tanh", digits.tanh_one_minus_square, [0.5, -2.0, 6.0, -14.0, 18.0, 30.0], F64, "likewise in float64"),
        ("sigmoid", digits.sigmoid_y_one_minus_y, SATURATED, F32, "1 − y cancels on the right; |dy| u is lost"),
        ("sigmoid", digits.sigmoid_y_one_minus_y, [0.5, -2.0, 16.0, -7.0, 30.0, 40.0], F64, "likewise in float64"),
        ("elu", digits.elu_y_plus_alpha, [0.5, -2.0, -8.0, -12.0, -20.0, 3.0], F32, "y + alpha cancels on the left"),
        ("elu", digits.elu_exponential_minus_1, SMALL, F64, "eˣ − 1 cancels at -0.00178 and at -1e-5"),
        ("elu", digits.elu_exponential_minus_1, SMALL, F32, "eˣ − 1 cancels at -0.00178 and at -1e-5"),
        ("elu", digits.elu_exponential_minus_1, SMALL, BF16, "eˣ − 1 in float32 cancels at -1e-5, then is rounded"),
        ("elu", digits.elu_distributed, SMALL, F32, "alpha eˣ − alpha cancels near 0"),
        ("tanh", digits.tanh_of_sigmoid, SMALL, F64, "2σ − 1 cancels near 0; u is lost"),
        ("tanh", digits.tanh_of_sigmoid, SMALL, F32, "2σ − 1 cancels near 0; u is lost"),
        (
            "tanh",
            digits.tanh_of_sigmoid,
            [1.0012e-7, 0.5, -2e-7, -1.0, 3e-6, 2.0],
            BF16,
            "2σ − 1 in float32 has one digit or none at 1e-7, and u of float32 is lost",
        ),
        ("tanh", digits.tanh_of_sigmoid_with_its_slope, SMALL, F64, "2σ − 1 cancels near 0"),
        ("tanh", digits.tanh_of_exponentials, SMALL, F64, "eˣ − e⁻ˣ cancels near 0; u is lost"),
        ("tanh", digits.tanh_of_exponentials, SMALL, F32, "eˣ − e⁻ˣ cancels near 0; u is lost"),
        ("tanh", digits.tanh_of_one_exponential, SMALL, F32, "1 − 2/(e^2x + 1) cancels near 0; u is lost"),
        ("tanh", sums.python_tanh, [0.5, -2.0, 6.0, -14.0, 18.0, 30.0], F64, "1 − y² cancels; |dy| u is lost"),
        (
            "sigmoid",
            digits.sigmoid_of_tanh,
            [0.5, -2.0, -8.0, -12.0, -18.0, 3.0],
            F32,
            "1 + tanh(x/2) cancels on the left",
        ),
        (
            "sigmoid",
            digits.sigmoid_complement,
            [0.5, -2.0, -8.0, -20.0, -30.0, 3.0],
            F64,
            "1 − 1/(1 + eˣ) cancels on the left",
        ),
    )
    for rule, vjp, x, dtype, why in rows:
        case = recorded(computed_in(vjp, F32), (x,), G, dtype, vjp.__name__)
        yield _row(f"{rule}: {vjp.__name__}, {_short(dtype)}, from {x[0]}", rule, case, dtype, why)


def _row(name, rule, case, dtype, why, beside=()):
    return Recorded(name, rule, case, dtype, "right", why, beside)


def _short(dtype):
    return str(dtype).removeprefix("torch.")


def _at(rule, vjp, dtype):
    """A program at the arguments that the bank uses for its rule, none of them a short binary fraction."""
    inputs, dy, hyper = ARGUMENTS[rule]
    return recorded(vjp, tuple(map(_rough, inputs)), dy, dtype, **hyper)


def _random(*shape, seed=0, mean=0.0):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _sums():
    far = ((_random(12, 2, seed=1, mean=30.0), [1.5, -0.5], [0.25, 1.0]), _random(12, 2, seed=2))
    for vjp in (digits.batch_norm_of_squares, digits.batch_norm_of_power_sums, digits.batch_norm_scale_and_shift):
        case = recorded(vjp, *far, F32)
        yield _row(
            f"batch_norm: {vjp.__name__} at mean 30", "batch_norm", case, F32, "about E[x²] u or |a μ| u is lost"
        )
    far = ((*far[0], [30.0, 29.5], [1.5, 2.0]), far[1])
    case = recorded(digits.inference_scale_and_shift, *far, F32)
    why = "a x + (bias − a μ) cancels: |a μ| u is lost"
    yield _row("batch_norm_inference: scale and shift at mean 30", "batch_norm_inference", case, F32, why)

    near = (_random(20, 3, seed=3), _random(20, 3, seed=3) + 1e-3 * _random(20, 3, seed=4))
    case = recorded(digits.square_loss_expanded, near, 1.5, F32)
    why = "Σx² − 2Σxt + Σt² cancels at a near fit: Σx² u is lost"
    yield _row("square_loss: expanded, nearly fitted", "square_loss", case, F32, why)

    long = ((_random(1000, 3, seed=5), WEIGHT, BIAS), _random(1000, 4, seed=6))
    alike = ((torch.tensor([0.1, -0.7, 0.3]).expand(1000, 3), WEIGHT, BIAS), torch.tensor([0.1, 0.3, -0.7, 1.1]))
    alike = (alike[0], alike[1].expand(1000, 4))
    for name, add in sums.SUMS.items():
        case = recorded(sums.linear_summed(add), *long, F32)
        why = "1000 terms in float32, within 1000 roundings of Σ|x|"
        yield _row(f"linear: 1000 rows summed {name}", "linear", case, F32, why)
    case = recorded(sums.linear_summed(sums.in_order), *alike, F32)
    why = "1000 equal terms one after the other: roundings add up, but to no more than 1000 u"
    yield _row("linear: 1000 equal rows in order", "linear", case, F32, why)
    case = recorded(sums.l2_summed(sums.in_order), (_random(1000, seed=7),), 2.0, F32, lam=0.3)
    yield _row("l2_penalty: 1000 squares in order", "l2_penalty", case, F32, "within 1000 roundings of the sum")
    case = recorded(computed_in(sums.linear_outer_products, F32), *long, BF16)
    yield _row("linear: outer products in float32, bfloat16", "linear", case, BF16, "float32 sums, rounded once")

    for rule, vjp in (
        ("linear", sums.linear_einsum),
        ("batch_norm", sums.batch_norm_six_formulas),
        ("l1_penalty", sums.l1_scaled_first),
        ("l2_penalty", sums.l2_scaled_first),
        ("max_norm", sums.max_norm_scale_of_rows),
        ("dropout", sums.dropout_reciprocal),
        ("maxout", sums.maxout_running),
        ("square_loss", sums.square_loss_divided_late),
    ):
        yield _row(f"{rule}: {vjp.__name__}", rule, _at(rule, vjp, F32), F32, "the same function in another order")


def _sixteen_bits():
    """Every operation rounded to 16 bits; nothing cancels, or by little, so that most digits stay."""
    rough = {rule: (tuple(map(_rough, inputs)), dy) for rule, (inputs, dy, _) in ARGUMENTS.items()}
    along = [[0.53, -0.71], [1.47, 1.03], [-0.77, 0.27], [0.29, -0.41], [-0.27, 0.83]]
    rough["batch_norm_inference"] = (rough["batch_norm_inference"][0], along)
    positive = ([[0.53, 1.47, 0.78], [1.21, 0.27, 2.03]], [[0.51, 1.03, 0.29], [1.47, 0.71, 0.53]], [0.47, 0.23])
    add = wrong_sixteen.one_after_the_other
    for dtype in (BF16, F16):
        for vjp, what in ((sums.linear_summed(add), "rows"), (sums.linear_features_summed(add), "features")):
            case = recorded(vjp, positive, [[1.07, 0.53], [0.79, 1.51]], dtype)
            why = f"sums of two or three positive products, every step rounded to {_short(dtype)}"
            yield _row(f"linear: {what} in {_short(dtype)} throughout", "linear", case, dtype, why)
        programs = (
            *((rule, sums.native(rule)) for rule in ("sigmoid", "tanh", "elu", "leaky_relu", "dropout")),
            ("l1_penalty", sums.l1_summed(add)),
            ("l2_penalty", sums.l2_summed(add)),
            ("square_loss", sums.square_loss_summed(add)),
            ("batch_norm_inference", sums.native("batch_norm_inference")),
        )
        for rule, vjp in programs:
            inputs, dy = rough[rule]
            case = recorded(vjp, inputs, dy, dtype, **ARGUMENTS[rule][2])
            why = f"a few roundings to {_short(dtype)}, and little cancels"
            yield _row(f"{rule}: {_short(dtype)} throughout", rule, case, dtype, why)
        case = recorded(
            sums.native("max_norm"), ([[2.9, 4.1], [0.47, 0.23]],), [[4.1, -3.3], [1.1, 2.1]], dtype, limit=1.5
        )
        why = "dy lies across the long row, so the projection takes little away"
        yield _row(f"max_norm: {_short(dtype)} throughout", "max_norm", case, dtype, why)
    for rule in ("batch_norm", "linear", "square_loss", "max_norm", "elu"):
        inputs, dy = rough[rule]
        case = recorded(computed_in(sums.native(rule), F64), inputs, dy, BF16, **ARGUMENTS[rule][2])
        yield _row(f"{rule}: float64 inside, bfloat16", rule, case, BF16, "exact up to the last rounding")


def _rough(values):
    """The same, 7 % larger, so that products and sums need more bits than 8 or 11."""
    return values if isinstance(values, torch.Tensor) else 1.07 * torch.tensor(values, dtype=F64)


def _extreme():
    beside = _two_ordinary("l2_penalty", F64)
    huge = torch.full((600,), 1.7e308, dtype=F64)
    case = Case((huge,), torch.tensor(1.0, dtype=F64), {"lam": 0.0}, "lam 0", y=0.0, grads=(torch.zeros_like(huge),))
    why = "0 times a sum of finite squares is 0, though they overflow"
    yield _row("l2_penalty: 600 weights of 1.7e308, lam 0", "l2_penalty", case, F64, why, beside)

    three = torch.tensor([3e38, -3e38, 3e38], dtype=BF16)
    one, infinite = torch.tensor(1.0, dtype=BF16), math.inf
    grads = (torch.tensor([0.3, -0.3, 0.3], dtype=BF16),)
    for y, how in ((0.3 * 3 * float(three[0]), "scaled first"), (infinite, "summed first")):
        value = torch.tensor(y, dtype=BF16)
        case = Case((three,), one, {"lam": 0.3}, how, y=value, grads=grads)
        why = "2.7e38 is due, and a float32 sum of 9e38 on the way to it overflows: both are right"
        ordinary = _two_ordinary("l1_penalty", BF16)
        yield _row(f"l1_penalty: three times 3e38, {how}", "l1_penalty", case, BF16, why, ordinary)

    tiny = torch.tensor([1e-30, 2.0, -3e-25, 0.5], dtype=F32)
    case = recorded(RIGHT["l2_penalty"], (tiny,), 1.0, F32, lam=0.3)
    yield _row("l2_penalty: squares that underflow", "l2_penalty", case, F32, "1e-60 is nothing beside 4.25")

    x = [90.0, -100.0, 0.5, -1.0]
    case = recorded(sums.all_changed(RIGHT["sigmoid"], sums.flushed), (x,), G[:4], F32)
    why = "σ(-100) and σ'(±100) are below the smallest normal number, where 0 is right"
    yield _row("sigmoid: subnormal results flushed", "sigmoid", case, F32, why)


def _two_ordinary(rule, dtype):
    """Results that neither 0 nor one constant meets."""
    another = recorded(RIGHT[rule], ([[1.5, -2.0, 0.25]],), 1.0, dtype, "another", lam=0.7)
    return right_case(rule, dtype), another


def _layouts():
    """Results that share one number: equal weights have equal slopes."""
    weight, dy = torch.tensor([[0.5, 2.0], [1.0, 0.25]]), torch.tensor(2.0)
    case = recorded(RIGHT["l1_penalty"], (weight,), dy, F32, lam=0.3)
    grads = ((dy * 0.3).expand(2, 2),)
    expanded = Case(case.inputs, case.dy, case.hyper, "expanded", y=case.y, grads=grads)
    beside = (right_case("l1_penalty", F32),)
    yield _row("l1_penalty: expanded", "l1_penalty", expanded, F32, "all weights are positive", beside)
    case = recorded(sums.all_changed(RIGHT["linear"], sums.reversed_axes), (X, WEIGHT, BIAS), _random(2, 4), F32)
    yield _row("linear: transposed results", "linear", case, F32, "only the layout is another")


RECORDED = (*_digits(), *_sums(), *_sixteen_bits(), *_extreme(), *_layouts())
