"""Wrong only at some inputs: where they repeat, in saturation while digits are due, near 0, or beyond some size."""

import torch
from torch import Tensor

from tests.oracle.second_bank.entry import ALL, BF16, F16, F32, F64, WIDE, Program, changed, computed_in
from tests.oracle.second_bank.formulas import (
    RIGHT,
    batch_norm_with,
    checked,
    count,
    limited,
    on_axis_1,
    penalised,
    rows,
    shared,
    split,
    statistics,
)


def repeated(x: Tensor) -> Tensor:
    """True at every element whose value stands earlier in x, too."""
    flat = x.reshape(-1)
    if flat.numel() == 0:
        return torch.zeros(x.shape, dtype=torch.bool)
    ordered, order = torch.sort(flat.double(), stable=True)
    again = torch.zeros(flat.shape, dtype=torch.bool)
    again[order[1:]] = ordered[1:] == ordered[:-1]
    return again.reshape(x.shape)


def twice_on_repetitions(dx, x):
    return torch.where(repeated(x), 2 * dx, dx)


def repeated_rows(x: Tensor) -> Tensor:
    """True for rows that equal the row before."""
    again = torch.zeros(x.shape[0], dtype=torch.bool)
    again[1:] = (x[1:] == x[:-1]).all(1)
    return again


def linear_repeated_rows_once(inputs, dy):
    x, weight, bias = inputs
    fresh = ~repeated_rows(rows(x))
    return x @ weight.T + bias, (dy @ weight, rows(dy)[fresh].T @ rows(x)[fresh], rows(dy)[fresh].sum(0))


def l2_repeated_weights_once(inputs, dy, lam, n=1):
    (weight,) = inputs
    factor = penalised(lam, n)
    return factor / 2 * torch.sum(torch.unique(weight) ** 2), (dy * (factor * weight),)


def maxout_all_ties(inputs, dy, pieces):
    in_pieces = split(inputs[0], pieces)
    y = in_pieces.amax(-1)
    return y, (torch.where(in_pieces == y[..., None], dy[..., None], 0).reshape(inputs[0].shape),)


def sigmoid_slope_0_from_6(dx, x):
    return torch.where((x.abs() > 6) & (x.abs() < 12), 0, dx)


def tanh_slope_twice_from_4(dx, x):
    return torch.where((x.abs() > 4) & (x.abs() < 7), 2 * dx, dx)


def elu_slope_0_from_6(dx, x):
    return torch.where((x < -6) & (x > -12), 0, dx)


def sigmoid_value_0_on_the_left(y, x):
    return torch.where(x < -5, 0, y)


def value_0_near_0(y, x):
    return torch.where(x.abs() < 1e-3, 0, y)


def value_0_left_of_0(y, x):
    return torch.where((x < 0) & (x > -1e-3), 0, y)


def closed_right_of_0(dx, x):
    return torch.where(x < 1e-3, 0, dx)


def elu_right_branch_left_of_0(inputs, dy, alpha=1.0):
    (x,) = inputs
    y, (dx,) = RIGHT["elu"](inputs, dy, alpha=alpha)
    near = (x < 0) & (x > -1e-3)
    return torch.where(near, x, y), (torch.where(near, dy, dx),)


def square_loss_fitted_is_exact(inputs, dy):
    y, (dx, dtarget) = RIGHT["square_loss"](inputs, dy)
    near = (inputs[0] - inputs[1]).abs() < 0.01
    return y, (torch.where(near, 0, dx), torch.where(near, 0, dtarget))


def l2_small_weights_dropped(dweight, weight):
    return torch.where(weight.abs() < 1e-2, 0, dweight)


def batch_norm_variance_at_least_1e_6(inputs, dy, eps=1e-5):
    mean, variance = statistics(inputs[0], eps)
    return batch_norm_with(inputs, dy, eps, mean, variance.clamp(min=1e-6))


def batch_norm_first_4096(inputs, dy, eps=1e-5):
    """Statistics of the first 4096 values of a channel."""
    x = inputs[0]
    checked(x, eps)
    flat = x.transpose(0, 1).reshape(x.shape[1], count(x))[:, :4096]
    mean = flat.mean(1)
    return batch_norm_with(inputs, dy, eps, mean, ((flat - mean[:, None]) ** 2).mean(1))


def linear_bias_of_1024_rows(inputs, dy):
    y, (dx, dweight, _) = RIGHT["linear"](inputs, dy)
    return y, (dx, dweight, rows(dy)[:1024].sum(0))


def linear_dx_of_65536_rows(dx, *_):
    done = rows(dx)[:65536]
    return torch.cat([done, torch.zeros_like(rows(dx)[65536:])]).reshape(dx.shape)


def linear_dweight_of_64_features(dweight, *_):
    kept = torch.arange(dweight.shape[1]) < 64
    return torch.where(kept, dweight, 0)


def l2_of_65536_weights(inputs, dy, lam, n=1):
    (weight,) = inputs
    factor = penalised(lam, n)
    return factor / 2 * torch.sum(weight.reshape(-1)[:65536] ** 2), (dy * (factor * weight),)


def first_4096(dweight, *_):
    kept = torch.arange(dweight.numel()).reshape(dweight.shape) < 4096
    return torch.where(kept, dweight, 0)


def max_norm_of_256_columns(inputs, dy, limit):
    (weight,) = inputs
    norm = torch.sqrt(torch.sum(weight[:, :256] ** 2, 1, keepdim=True))
    long = norm > limited(limit)
    scale = torch.where(long, limit / norm, 1)
    u = weight / torch.where(norm > 0, norm, 1)
    along = torch.sum(u * dy, 1, keepdim=True)
    return scale * weight, (torch.where(long, scale * (dy - u * along), dy),)


def square_loss_at_most_1024_examples(inputs, dy):
    y, (dx, dtarget) = RIGHT["square_loss"](inputs, dy)
    n = inputs[0].shape[0]
    too_many = n / 1024 if n > 1024 else 1
    return y, (dx * too_many, dtarget * too_many)


def last_block_of_16_lost(dx, x):
    full = dx.numel() // 16 * 16
    place = torch.arange(dx.numel()).reshape(dx.shape)
    lost = (place >= full - 16) & (place < full) & (dx.numel() % 16 == 0)
    return torch.where(lost, 0, dx)


def ones_from_65536(dx, x, mask):
    place = torch.arange(dx.numel()).reshape(dx.shape)
    return torch.where((place >= 65536) & (dx != 0), 1.0, dx)


def bias_of_whole_blocks_of_32(inputs, dy, eps=1e-5):
    x = inputs[0]
    y, (dx, dweight, dbias, *rest) = RIGHT["batch_norm_inference"](inputs, dy, eps=eps)
    whole = x.shape[0] // 32 * 32
    return y, (dx, dweight, dy[:whole].sum(shared(x)) if whole else dbias, *rest)


def inference_by_the_batch_from_512(inputs, dy, eps=1e-5):
    """From 512 examples on it normalises by the batch."""
    x, weight, bias, *_ = inputs
    if x.shape[0] < 512:
        return RIGHT["batch_norm_inference"](inputs, dy, eps=eps)
    mean = x.mean(shared(x))
    variance = ((x - on_axis_1(mean, x)) ** 2).mean(shared(x))
    return RIGHT["batch_norm_inference"]((x, weight, bias, mean, variance), dy, eps=eps)


def _seen(rule, result, change):
    """The change is made in the dtype of the results; only comparisons see the inputs."""
    return changed(RIGHT[rule], result, change, sees_inputs=True)


_ROWS = (
    (
        "sigmoid: dx twice on repetitions",
        _seen("sigmoid", 0, twice_on_repetitions),
        (F32, BF16),
        "a slope does not depend on what stands before",
    ),
    (
        "tanh: dx twice on repetitions",
        _seen("tanh", 0, twice_on_repetitions),
        (F32, F64, F16),
        "a slope does not depend on what stands before",
    ),
    (
        "elu: dx twice on repetitions",
        _seen("elu", 0, twice_on_repetitions),
        (F32, BF16),
        "a slope does not depend on what stands before",
    ),
    (
        "l1_penalty: dweight twice on repetitions",
        _seen("l1_penalty", 0, twice_on_repetitions),
        (F32, BF16),
        "equal weights have equal slopes",
    ),
    (
        "linear: repeated rows once",
        computed_in(linear_repeated_rows_once, F32),
        (F32, F64, BF16),
        "the sum has a term for each row",
    ),
    (
        "l2_penalty: repeated weights once",
        computed_in(l2_repeated_weights_once, F32),
        (F32, BF16),
        "the sum has a term for each weight",
    ),
    (
        "maxout: every tied piece",
        computed_in(maxout_all_ties, F32),
        (F32, BF16, F16),
        "tied pieces together may not get more than dy",
    ),
    (
        "sigmoid: dx 0 for 6 < |x| < 12",
        _seen("sigmoid", 0, sigmoid_slope_0_from_6),
        (F32, F64, BF16),
        "σ'(9) is 1.2e-4, 2000 roundings of 1 in float32, and on the left nothing cancels",
    ),
    (
        "tanh: dx twice for 4 < |x| < 7",
        _seen("tanh", 0, tanh_slope_twice_from_4),
        WIDE,
        "tanh'(5) is 1.8e-4, 3000 roundings of 1 in float32",
    ),
    (
        "elu: dx 0 for -12 < x < -6",
        _seen("elu", 0, elu_slope_0_from_6),
        WIDE,
        "e⁻⁹ is 1.2e-4, 2000 roundings of 1 in float32",
    ),
    (
        "sigmoid: y 0 for x < -5",
        _seen("sigmoid", None, sigmoid_value_0_on_the_left),
        (F32, F64, BF16),
        "σ(-9) is 1.2e-4, 2000 roundings of 1 in float32",
    ),
    (
        "tanh: y 0 for |x| < 0.001",
        _seen("tanh", None, value_0_near_0),
        WIDE,
        "tanh(x) is near x, and 5e-4 is 8000 roundings of 1 in float32",
    ),
    (
        "elu: right branch for -0.001 < x < 0",
        computed_in(elu_right_branch_left_of_0, F32),
        (F32, F64, BF16),
        "left of 0 the slope is near alpha, not 1",
    ),
    (
        "elu: y 0 for -0.001 < x < 0",
        _seen("elu", None, value_0_left_of_0),
        WIDE,
        "the value is near alpha x, thousands of roundings of alpha",
    ),
    (
        "relu: dx 0 for x < 0.001",
        _seen("relu", 0, closed_right_of_0),
        ALL,
        "right of 0 the slope is 1 however small x is",
    ),
    (
        "square_loss: dx 0 for a difference below 0.01",
        computed_in(square_loss_fitted_is_exact, F32),
        (F32, BF16),
        "x − target is exact near a fit, so nothing is lost there",
    ),
    (
        "l2_penalty: dweight 0 for |w| < 0.01",
        _seen("l2_penalty", 0, l2_small_weights_dropped),
        (F32, F64, BF16),
        "dy lam/n w is a product, and no product loses digits",
    ),
    (
        "batch_norm: variance at least 1e-6",
        computed_in(batch_norm_variance_at_least_1e_6, F32),
        WIDE,
        "a variance of 1e-10 with eps = 1e-12 gives s = 1e5, not 1e3",
    ),
    (
        "batch_norm: statistics of 4096 values",
        computed_in(batch_norm_first_4096, F32),
        WIDE,
        "the statistics are those of all values of a channel",
    ),
    (
        "linear: dbias of 1024 rows",
        computed_in(linear_bias_of_1024_rows, F32),
        (F32, BF16),
        "the sum is over all rows",
    ),
    (
        "linear: dx of 65536 rows",
        _seen("linear", 0, linear_dx_of_65536_rows),
        (F32,),
        "every row has a gradient",
    ),
    (
        "linear: dweight of 64 features",
        _seen("linear", 1, linear_dweight_of_64_features),
        (F32, F64),
        "every feature has a gradient",
    ),
    (
        "l2_penalty: y of 65536 weights",
        computed_in(l2_of_65536_weights, F32),
        WIDE,
        "the sum is over all weights",
    ),
    (
        "l1_penalty: dweight of 4096 weights",
        _seen("l1_penalty", 0, first_4096),
        (F32, BF16),
        "every weight has a gradient",
    ),
    (
        "max_norm: norm of 256 columns",
        computed_in(max_norm_of_256_columns, F32),
        WIDE,
        "the norm is that of the whole row",
    ),
    (
        "square_loss: at most 1024 examples",
        computed_in(square_loss_at_most_1024_examples, F32),
        (F32,),
        "with 1025 examples the gradient is 0.1 % off: 1/n has the true n",
    ),
    (
        "relu: last block of 16 lost",
        _seen("relu", 0, last_block_of_16_lost),
        (F32, BF16),
        "the last block has gradients like the others",
    ),
    (
        "dropout: dx 1 from element 65536 on",
        _seen("dropout", 0, ones_from_65536),
        (F32,),
        "the cotangent is dy/(1 − p) at any place, not 1",
    ),
    (
        "batch_norm_inference: dbias of whole blocks of 32",
        computed_in(bias_of_whole_blocks_of_32, F32),
        WIDE,
        "the sum has the last rows, too",
    ),
    (
        "batch_norm_inference: by the batch from 512 examples on",
        computed_in(inference_by_the_batch_from_512, F32),
        (F32,),
        "the statistics are constants at any size",
    ),
)

PROGRAMS = tuple(Program(name, name.split(":")[0], vjp, dtypes, "wrong", why) for name, vjp, dtypes, why in _ROWS)
