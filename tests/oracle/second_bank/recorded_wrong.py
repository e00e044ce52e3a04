"""Recorded results that are wrong: the same sorts of fault, without the program."""

import torch

from manual_bp.oracle import Case
from tests.oracle.second_bank.entry import BF16, F16, F32, F64, Recorded, recorded
from tests.oracle.second_bank.formulas import RIGHT, linear, rows
from tests.oracle.second_bank.wrong_sixteen import (
    batch_norm_coarse_rsqrt,
    elu_by_squaring,
    elu_exponential_clipped,
    linear_11_bits,
    one_after_the_other,
    sigmoid_clipped,
    sigmoid_table,
    tanh_clipped,
    tanh_of_exponentials,
    tanh_rational,
    tanh_table,
)

X = [[-2.5, -0.75, 0.125], [0.5, 1.5, 3.25]]
DY = [[1.0, -0.5, 2.0], [0.75, -1.25, 1.5]]
WEIGHT = [[0.5, -1.0, 0.25], [1.5, 0.75, -0.5], [2.0, -0.25, 1.0], [-0.75, 1.25, 0.5]]
DY_LINEAR = [[1.0, -0.5, 0.25, 2.0], [0.75, 1.5, -1.0, 0.5]]
BIAS = [0.5, -0.25, 1.0, 0.0]
BATCH = [[0.5, -1.0], [1.5, 2.0], [-0.75, 0.25], [2.25, -1.5], [-1.25, 1.0]]
DY_BATCH = [[1.0, 0.5], [-0.5, 1.5], [2.0, -1.0], [0.25, 0.75], [-1.5, 2.0]]

ARGUMENTS = {
    "sigmoid": ((X,), DY, {}),
    "tanh": ((X,), DY, {}),
    "relu": ((X,), DY, {}),
    "leaky_relu": ((X,), DY, {"negative_slope": 0.25}),
    "elu": ((X,), DY, {"alpha": 1.5}),
    "maxout": ((X,), [[1.5], [-0.5]], {"pieces": 3}),
    "linear": ((X, WEIGHT, BIAS), DY_LINEAR, {}),
    "square_loss": ((X, DY), 1.5, {}),
    "l1_penalty": ((WEIGHT,), 2.0, {"lam": 0.3, "n": 4}),
    "l2_penalty": ((WEIGHT,), 2.0, {"lam": 0.3, "n": 4}),
    "dropout": ((X, torch.tensor([[True, False, True], [True, True, False]])), DY, {"p": 0.25}),
    "max_norm": ((WEIGHT,), X + DY, {"limit": 1.5}),
    "batch_norm": ((BATCH, [1.5, -0.5], [0.25, 1.0]), DY_BATCH, {}),
    "batch_norm_inference": ((BATCH, [1.5, -0.5], [0.25, 1.0], [0.5, 0.25], [1.5, 2.0]), DY_BATCH, {}),
}


def right_case(rule: str, dtype: torch.dtype) -> Case:
    inputs, dy, hyper = ARGUMENTS[rule]
    return recorded(RIGHT[rule], inputs, dy, dtype, "right", **hyper)


def with_result(rule, dtype, result, change):
    """A right case in which y (result None) or one cotangent is changed."""
    case = right_case(rule, dtype)
    y = change(case.y) if result is None else case.y
    grads = tuple(change(g) if i == result else g for i, g in enumerate(case.grads))
    return Case(case.inputs, case.dy, case.hyper, "changed", y=y, grads=grads)


def _one_element(result):
    result = result.clone()
    result.view(-1)[-1] = 2 * result.view(-1)[-1] + 1
    return result


_CHANGED = (
    ("sigmoid", F32, 0, torch.zeros_like, "dx is 0"),
    ("sigmoid", BF16, 0, lambda r: 2 * r, "dx is doubled"),
    ("tanh", F32, 0, torch.zeros_like, "dx is 0"),
    ("tanh", F64, 0, lambda r: 1.001 * r, "dx is 0.1 % off"),
    ("tanh", F16, 0, lambda r: torch.full_like(r, 0.5), "dx is a constant"),
    ("relu", BF16, 0, lambda r: -r, "dx has the other sign"),
    ("leaky_relu", F32, 0, lambda r: r / 2, "dx is halved"),
    ("elu", BF16, 0, torch.zeros_like, "dx is 0"),
    ("elu", F16, 0, lambda r: 2 * r, "dx is doubled"),
    ("elu", F32, None, lambda r: 1.001 * r, "y is 0.1 % off"),
    ("maxout", F32, 0, lambda r: 2 * r, "dx is doubled"),
    ("maxout", BF16, None, lambda r: r + 0.5, "0.5 is added to y"),
    ("linear", F32, None, lambda r: r + 0.5, "0.5 is added to y"),
    ("linear", BF16, 1, torch.zeros_like, "dweight is 0"),
    ("linear", F64, 2, _one_element, "one element of dbias is another number"),
    ("linear", F16, 0, lambda r: 2 * r, "dx is doubled"),
    ("square_loss", F32, 1, lambda r: -r, "dtarget has the other sign"),
    ("square_loss", F16, None, lambda r: 2 * r, "y is doubled"),
    ("l1_penalty", F32, 0, torch.zeros_like, "dweight is 0"),
    ("l1_penalty", BF16, None, lambda r: r + 0.5, "0.5 is added to y"),
    ("l2_penalty", F32, None, lambda r: r + 0.5, "0.5 is added to y"),
    ("l2_penalty", F64, 0, lambda r: 1.001 * r, "dweight is 0.1 % off"),
    ("dropout", F32, 0, lambda r: 2 * r, "dx is doubled"),
    ("max_norm", F32, 0, lambda r: 2 * r, "dweight is doubled"),
    ("max_norm", BF16, 0, torch.zeros_like, "dweight is 0"),
    ("batch_norm", F32, 0, lambda r: 1.001 * r, "dx is 0.1 % off"),
    ("batch_norm", BF16, 1, torch.zeros_like, "dweight is 0"),
    ("batch_norm_inference", F16, 0, lambda r: r / 2, "dx is halved"),
)


def _changes():
    for rule, dtype, result, change, why in _CHANGED:
        name = f"{rule}: {why}, {str(dtype).removeprefix('torch.')}"
        yield Recorded(name, rule, with_result(rule, dtype, result, change), dtype, "wrong", f"{why}: no rounding")


def _overflowing_batch_norm():
    """Float16 arithmetic at deviations of 100: the sum of squares overflows, so that s is 0 and y only the bias."""
    x = 100 * torch.randn(16, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    dy = torch.randn(16, 3, generator=torch.Generator().manual_seed(4), dtype=F64)
    case = recorded(RIGHT["batch_norm"], (x, [1.0, 0.5, 1.5], [-0.5, 0.25, -0.75]), dy, F16)
    y = case.inputs[2].expand(16, 3).clone()
    grads = (torch.zeros_like(case.grads[0]), torch.zeros_like(case.grads[1]), case.grads[2])
    return Case(case.inputs, case.dy, {}, "overflow", y=y, grads=grads)


def _overflowing_max_norm():
    """Float16 squares of 300 overflow: the norm is infinite, y and dweight 0."""
    weight, dy = [[300.0, -400.0], [0.5, 0.25]], [[2.0, 1.0], [-1.0, 0.5]]
    case = recorded(RIGHT["max_norm"], (weight,), dy, F16, limit=1.5)
    y, dweight = case.y.clone(), case.grads[0].clone()
    y[0], dweight[0] = 0, 0
    return Case(case.inputs, case.dy, case.hyper, "overflow", y=y, grads=(dweight,))


def _stagnating_bias(dtype, n):
    x = [[1.0, -0.5], [0.25, 2.0], [-1.0, 0.5], [0.75, -1.5]] * (n // 4)
    dy = torch.ones(n, 3, dtype=dtype) * torch.tensor([1.0, -1.0, 2.0], dtype=dtype)
    case = recorded(RIGHT["linear"], (x, [[0.5, 1.0], [-1.0, 0.25], [2.0, -0.5]], [0.5, -0.25, 1.0]), dy, dtype)
    grads = (*case.grads[:2], one_after_the_other(rows(case.dy)))
    return Case(case.inputs, case.dy, {}, "stagnates", y=case.y, grads=grads)


def _stagnating_loss():
    x = torch.arange(1200, dtype=F64).reshape(600, 2) % 3 + 1
    case = recorded(RIGHT["square_loss"], (x, torch.zeros(600, 2)), 1.0, BF16)
    squares = ((case.inputs[0] - case.inputs[1]) ** 2).reshape(-1)
    y = (one_after_the_other(squares) / torch.tensor(1200.0)).to(BF16)
    return Case(case.inputs, case.dy, {}, "stagnates", y=y, grads=case.grads)


def _stagnating_penalty():
    weight = torch.arange(2000, dtype=F64).reshape(40, 50) % 3 - 1
    case = recorded(RIGHT["l2_penalty"], (weight,), 1.0, BF16, lam=0.5)
    y = (0.25 * one_after_the_other((case.inputs[0] ** 2).reshape(-1))).to(BF16)
    return Case(case.inputs, case.dy, case.hyper, "stagnates", y=y, grads=case.grads)


def _number_for_nan(number):
    x, dy = [[float("nan"), -1.0, 2.0], [0.5, -3.0, 4.0]], DY
    case = recorded(RIGHT["relu"], (x,), dy, BF16)
    return Case(case.inputs, case.dy, {}, "NaN", y=torch.nan_to_num(case.y, nan=number), grads=case.grads)


def _nan_for_number(rule, dtype):
    case = right_case(rule, dtype)
    dx = case.grads[0].clone()
    dx.view(-1)[1] = float("nan")
    return Case(case.inputs, case.dy, case.hyper, "NaN", y=case.y, grads=(dx, *case.grads[1:]))


def _infinity_for_number(rule, dtype):
    case = right_case(rule, dtype)
    y = case.y.clone()
    y.view(-1)[0] = float("inf")
    return Case(case.inputs, case.dy, case.hyper, "infinite", y=y, grads=case.grads)


def _saturated(rule, change, x=(-3.0, 5.0, 0.5, -8.0), dtype=F32):
    """dx changed at 5 and -8, where σ' is 6.6e-3 and 3.4e-4, tanh' 1.8e-4, eˣ 3.4e-4."""
    case = recorded(RIGHT[rule], (list(x),), [1.0, -0.5, 2.0, 1.5], dtype)
    dx = case.grads[0].clone()
    dx[1], dx[3] = change(dx[1]), change(dx[3])
    return Case(case.inputs, case.dy, {}, "saturated", y=case.y, grads=(dx,))


def _repeated():
    """x holds 0.5 three times; the second and third slopes are doubled."""
    case = recorded(RIGHT["tanh"], ([0.5, 0.5, -1.0, 0.5],), [1.0, 1.0, 0.5, -2.0], F32)
    dx = case.grads[0] * torch.tensor([1.0, 2.0, 1.0, 2.0])
    return Case(case.inputs, case.dy, {}, "repeated", y=case.y, grads=(dx,))


def _near_0(rule):
    """y is 0 at ±0.0005, eight thousand roundings of 1."""
    case = recorded(RIGHT[rule], ([-0.0005, 0.5, -0.001, 2.0],), [1.0, -1.0, 0.5, 2.0], F32)
    y = torch.where(case.inputs[0].abs() < 0.01, 0, case.y)
    return Case(case.inputs, case.dy, {}, "near 0", y=y, grads=case.grads)


def _lost_row():
    """One row of 1025 is missing in dbias, and all rows are alike."""
    x = torch.tensor([0.5, -1.0, 2.0]).expand(1025, 3)
    dy = torch.tensor([1.0, 0.5, -0.25, 2.0]).expand(1025, 4)
    case = recorded(linear, (x, WEIGHT, BIAS), dy, F32)
    grads = (*case.grads[:2], rows(case.dy)[:1024].sum(0))
    return Case(case.inputs, case.dy, {}, "lost row", y=case.y, grads=grads)


def _made_by(rule, vjp, dtype=F32):
    inputs, dy, hyper = ARGUMENTS[rule]
    return recorded(vjp, inputs, dy, dtype, vjp.__name__, **hyper)


def _between_knots(vjp, dtype=F32):
    """At inputs that are no multiples of 1/16."""
    return recorded(vjp, ([[-2.47, -0.78, 0.16], [0.53, 1.47, 3.21]],), DY, dtype, vjp.__name__)


def _others():
    found = (
        ("batch_norm: variance overflows", "batch_norm", _overflowing_batch_norm(), F16, "10⁴ is a normal float16"),
        ("max_norm: norm overflows", "max_norm", _overflowing_max_norm(), F16, "y is (0.9, -1.2), not 0"),
        ("linear: 1600 stop at 256", "linear", _stagnating_bias(BF16, 1600), BF16, "1600 is due, and 256 comes"),
        ("linear: 4000 stop at 2048", "linear", _stagnating_bias(F16, 4000), F16, "4000 is due, and 2048 comes"),
        ("square_loss: squares stop", "square_loss", _stagnating_loss(), BF16, "4.67 is due; 14/3 of 1200 stop below"),
        ("l2_penalty: squares stop", "l2_penalty", _stagnating_penalty(), BF16, "333 is due, and 64 comes"),
        ("relu: 7 for NaN", "relu", _number_for_nan(7.0), BF16, "the value at NaN is NaN"),
        ("relu: 0 for NaN", "relu", _number_for_nan(0.0), BF16, "the value at NaN is NaN"),
        ("tanh: NaN for a number", "tanh", _nan_for_number("tanh", BF16), BF16, "tanh' is a number"),
        ("linear: NaN for a number", "linear", _nan_for_number("linear", F16), F16, "dx is a number"),
        ("sigmoid: infinite", "sigmoid", _infinity_for_number("sigmoid", F16), F16, "σ is at most 1"),
        ("elu: infinite", "elu", _infinity_for_number("elu", F32), F32, "elu(-2.5) is -1.38"),
        ("sigmoid: 0 in saturation", "sigmoid", _saturated("sigmoid", torch.zeros_like), F32, "σ'(-8) is 3.4e-4"),
        ("sigmoid: doubled in saturation", "sigmoid", _saturated("sigmoid", lambda r: 2 * r), F32, "σ'(5) is 6.6e-3"),
        (
            "tanh: 0 in saturation",
            "tanh",
            _saturated("tanh", torch.zeros_like, x=(-0.5, 3.0, 0.5, -4.0)),
            F32,
            "tanh'(4) is 1.3e-3, 20 000 roundings of 1",
        ),
        (
            "tanh: doubled in saturation",
            "tanh",
            _saturated("tanh", lambda r: 2 * r, x=(-0.5, 12.0, 0.5, -14.0), dtype=F64),
            F64,
            "tanh'(14) is 2.8e-12, 20 000 roundings of 1 in float64",
        ),
        (
            "elu: 0 in saturation",
            "elu",
            _saturated("elu", torch.zeros_like, x=(-0.5, -7.0, 0.5, -8.0)),
            F32,
            "e⁻⁸ is 3.4e-4, 5000 roundings of 1",
        ),
        ("tanh: doubled on repetitions", "tanh", _repeated(), F32, "equal inputs have equal slopes"),
        ("tanh: y 0 near 0", "tanh", _near_0("tanh"), F32, "tanh(-0.0005) is -0.0005"),
        ("elu: y 0 near 0", "elu", _near_0("elu"), F32, "elu(-0.0005) is -0.0005"),
        ("linear: one row of 1025 lost", "linear", _lost_row(), F32, "0.1 % is missing, and the sums are exact"),
        ("tanh: rational", "tanh", _between_knots(tanh_rational), F32, "1e-3 to 2e-2 off"),
        ("tanh: table", "tanh", _between_knots(tanh_table), F32, "up to 3e-4 off; slopes 1 − y² likewise"),
        ("sigmoid: table", "sigmoid", _between_knots(sigmoid_table, F64), F64, "slopes interpolated at 1/16"),
        ("elu: by squaring", "elu", _made_by("elu", elu_by_squaring), F32, "(1 + x/1024)^1024 is 3e-3 off at -2.5"),
        ("linear: 11 bits", "linear", _inexact_linear(), F32, "factors of 11 bits are 2⁻¹² off"),
        ("batch_norm: coarse root", "batch_norm", _made_by("batch_norm", batch_norm_coarse_rsqrt), F32, "0.04 % off"),
        ("tanh: clipped at 4", "tanh", _beyond(tanh_clipped, "tanh", 5.0), F32, "tanh(5) is 6e-4 from tanh(4)"),
        ("sigmoid: clipped at 7", "sigmoid", _beyond(sigmoid_clipped, "sigmoid", 9.0), F32, "σ(9) is 8e-4 from σ(7)"),
        ("elu: clipped at -6", "elu", _beyond(elu_exponential_clipped, "elu", -9.0), F32, "e⁻⁹ is a twentieth of e⁻⁶"),
        ("tanh: overflown", "tanh", _beyond(tanh_of_exponentials, "tanh", 100.0), F32, "y is NaN where 1 is due"),
    )
    yield from (Recorded(name, rule, case, dtype, "wrong", why) for name, rule, case, dtype, why in found)


def _inexact_linear():
    thirds = [[1 / 3, 2 / 7, -5 / 9], [-4 / 11, 8 / 13, 7 / 17]]
    return recorded(linear_11_bits, (thirds, WEIGHT, BIAS), DY_LINEAR, F32)


def _beyond(vjp, rule, x):
    return recorded(vjp, ([0.5, x, -0.75],), [1.0, 2.0, -1.5], F32)


RECORDED = (*_changes(), *_others())
