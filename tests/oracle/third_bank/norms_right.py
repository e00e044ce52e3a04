"""Right programs for layer_norm and rms_norm."""

import torch
import torch.nn.functional as F

from tests.oracle.third_bank.axes import by_autograd, column_total_in, rows, total, total_in
from tests.oracle.third_bank.entry import F32, F64, SIXTEEN, WIDE, in_precision, loses, native, right


def count(x):
    return max(x.shape[-1], 1)


def mean_of(x):
    return total(x) / count(x)


def two_passes(x, eps):
    """x hat and 1/sigma."""
    centred = x - mean_of(x)
    s = torch.rsqrt(mean_of(centred * centred) + eps)
    return centred * s, s


def sum_down(terms):
    return terms.sum(0)


def dx_by_means(g, hat, s):
    return s * (g - mean_of(g) - hat * mean_of(g * hat))


def layer_norm_with(normalised=two_passes, dx=dx_by_means, down=sum_down):
    """A layer norm from its statistics, its dx and its sums over rows."""

    def layer_norm(inputs, dy, eps=1e-5):
        x, weight, bias = inputs
        hat, s = normalised(x, eps)
        y = hat if weight is None else hat * weight
        y = y if bias is None else y + bias
        g = dy if weight is None else dy * weight
        dweight = None if weight is None else down(rows(dy * hat))
        dbias = None if bias is None else down(rows(dy))
        return y, (dx(g, hat, s), dweight, dbias)

    return layer_norm


def in_sums(add):
    def normalised(x, eps):
        centred = x - add(x) / count(x)
        s = torch.rsqrt(add(centred * centred) / count(x) + eps)
        return centred * s, s

    return normalised


def welford(x, eps):
    """Blocks of 32 columns merged with Chan's formula."""
    n, mean, m2 = 0, x.new_zeros(*x.shape[:-1], 1), x.new_zeros(*x.shape[:-1], 1)
    for block in x.split(32, -1) if x.shape[-1] else ():
        k = block.shape[-1]
        own = total(block) / k
        delta = own - mean
        m2 = m2 + total((block - own) ** 2) + delta * delta * (n * k / (n + k))
        mean = mean + delta * (k / (n + k))
        n += k
    s = torch.rsqrt(m2 / max(n, 1) + eps)
    return (x - mean) * s, s


def welford_in_order(x, eps):
    """Column by column, where there aren't many."""
    if x.shape[-1] > 300:
        return welford(x, eps)
    mean, m2 = x.new_zeros(*x.shape[:-1], 1), x.new_zeros(*x.shape[:-1], 1)
    for i in range(x.shape[-1]):
        delta = x[..., i : i + 1] - mean
        mean = mean + delta / (i + 1)
        m2 = m2 + delta * (x[..., i : i + 1] - mean)
    s = torch.rsqrt(m2 / count(x) + eps)
    return (x - mean) * s, s


def root_and_division(x, eps):
    centred = x - mean_of(x)
    sigma = torch.sqrt(mean_of(centred * centred) + eps)
    return centred / sigma, 1 / sigma


def mean_corrected(x, eps):
    """The two-pass variance with what rounding left in the sum of deviations taken out."""
    centred = x - mean_of(x)
    centred = centred - mean_of(centred)
    s = torch.rsqrt(mean_of(centred * centred) + eps)
    return centred * s, s


def one_pass(x, eps):
    mean = mean_of(x)
    s = torch.rsqrt((mean_of(x * x) - mean * mean).clamp_min(0) + eps)
    return (x - mean) * s, s


def dx_by_sums(g, hat, s):
    """s/n (n g - sum(g) - x hat sum(g x hat))."""
    n = count(g)
    return s / n * (n * g - total(g) - hat * total(g * hat))


def dx_in_sums(add):
    return lambda g, hat, s: s * (g - (add(g) + hat * add(g * hat)) / count(g))


def dx_by_projection(g, hat, s):
    """First the part along ones is taken out, then the part along x hat."""
    centred = g - mean_of(g)
    return s * (centred - hat * mean_of(centred * hat))


def down_by_product(terms):
    return (terms.new_ones(1, terms.shape[0]) @ terms)[0]


def layer_norm_recomputed(inputs, dy, eps=1e-5):
    """Backward has x, mean and 1/sigma, and scales x hat's parts apart."""
    x, weight, _ = inputs
    mean = mean_of(x)
    s = torch.rsqrt(mean_of((x - mean) ** 2) + eps)
    y, grads = LAYER_NORM(inputs, dy, eps=eps)
    g = dy if weight is None else dy * weight
    c1, c2 = mean_of((x - mean) * s * g), mean_of(g)
    return y, ((g - ((x - mean) * s * c1 + c2)) * s, *grads[1:])


def layer_norm_transposed(inputs, dy, eps=1e-5):
    """dx in memory with its axes in reverse, as a kernel over columns writes it."""
    y, (dx, dweight, dbias) = LAYER_NORM(inputs, dy, eps=eps)
    order = tuple(reversed(range(dx.ndim)))
    return y, (dx.permute(order).contiguous().permute(order), dweight, dbias)


def layer_norm_torch(x, weight=None, bias=None, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


LAYER_NORM = layer_norm_with()


def root_mean_square(x, eps):
    return torch.rsqrt(mean_of(x * x) + eps)


def rms_dx(g, hat, s):
    return s * (g - hat * mean_of(g * hat))


def rms_norm_with(inverse=root_mean_square, dx=rms_dx, down=sum_down):
    """An RMS norm from 1/rms, its dx and its sum over rows."""

    def rms_norm(inputs, dy, eps=1e-6, offset=0.0):
        x, weight = inputs
        s = inverse(x, eps)
        hat = x * s
        scale = None if weight is None else offset + weight
        y = hat if scale is None else hat * scale
        g = dy if scale is None else dy * scale
        return y, (dx(g, hat, s), None if weight is None else down(rows(dy * hat)))

    return rms_norm


def rms_recomputed(inputs, dy, eps=1e-6, offset=0.0):
    """dx = s g - s³ x mean(g x), from x."""
    x, weight = inputs
    s = torch.rsqrt(mean_of(x * x) + eps)
    g = dy if weight is None else dy * (offset + weight)
    y = x * s if weight is None else x * s * (offset + weight)
    hat = x * s
    dx = s * g - hat * (s * mean_of(g * hat))
    return y, (dx, None if weight is None else rows(dy * hat).sum(0))


def rms_transposed(inputs, dy, eps=1e-6, offset=0.0):
    y, (dx, dweight) = RMS_NORM(inputs, dy, eps=eps, offset=offset)
    order = tuple(reversed(range(dx.ndim)))
    return y.permute(order).contiguous().permute(order), (dx.permute(order).contiguous().permute(order), dweight)


def rms_expanded_weight(inputs, dy, eps=1e-6, offset=0.0):
    """The weight laid out for every row, its cotangent summed from that."""
    x, weight = inputs
    if weight is None:
        return RMS_NORM(inputs, dy, eps=eps, offset=offset)
    wide = weight.expand(x.shape).contiguous() + offset
    y, (dx, _) = RMS_NORM((x, None), dy * wide, eps=eps)
    return y * wide, (dx, rows(dy * y).T.sum(1))


def rms_norm_torch(x, weight=None, eps=1e-6, offset=0.0):
    return F.rms_norm(x, x.shape[-1:], None if weight is None else weight + offset, eps)


RMS_NORM = rms_norm_with()

_LAYER_NORM = {
    "two passes": (LAYER_NORM, "the textbook's form"),
    "Welford, by 32": (layer_norm_with(welford), "blocks merged with Chan's formula"),
    "Welford, by 1": (layer_norm_with(welford_in_order), "a column at a time"),
    "root and division": (layer_norm_with(root_and_division), "centred / sigma"),
    "mean corrected": (layer_norm_with(mean_corrected), "the mean's rounding taken out"),
    "scaled by n": (layer_norm_with(dx=dx_by_sums), "s/n (n g - ...)"),
    "two projections": (layer_norm_with(dx=dx_by_projection), "ones first, then x hat"),
    "summed by 32": (layer_norm_with(in_sums(total_in(32)), dx_in_sums(total_in(32))), "partial sums of 32 columns"),
    "rows by 32": (layer_norm_with(down=column_total_in(32)), "partial dweight and dbias of 32 rows"),
    "rows by 1024": (layer_norm_with(down=column_total_in(1024)), "partial dweight and dbias of 1024 rows"),
    "rows by a product": (layer_norm_with(down=down_by_product), "ones times the matrix"),
    "recomputed": (layer_norm_recomputed, "backward has x, mean and 1/sigma"),
    "results transposed": (layer_norm_transposed, "a result that isn't contiguous"),
}
_RMS_NORM = {
    "textbook": (RMS_NORM, "s (g - x hat mean(g x hat))"),
    "root and division": (
        rms_norm_with(lambda x, eps: 1 / torch.sqrt(mean_of(x * x) + eps)),
        "a root, then its reciprocal",
    ),
    "summed by 32": (rms_norm_with(lambda x, eps: torch.rsqrt(total_in(32)(x * x) / count(x) + eps)), "sums of 32"),
    "summed by 1024": (rms_norm_with(lambda x, eps: torch.rsqrt(total_in(1024)(x * x) / count(x) + eps)), "of 1024"),
    "scaled by n": (
        rms_norm_with(dx=lambda g, hat, s: s / count(g) * (count(g) * g - hat * total(g * hat))),
        "s/n (n g - ...)",
    ),
    "rows by 32": (rms_norm_with(down=column_total_in(32)), "partial dweight of 32 rows"),
    "rows by 1024": (rms_norm_with(down=column_total_in(1024)), "partial dweight of 1024 rows"),
    "rows by a product": (rms_norm_with(down=down_by_product), "ones times the matrix"),
    "recomputed": (rms_recomputed, "from x and 1/rms"),
    "results transposed": (rms_transposed, "results that aren't contiguous"),
    "weight laid out": (rms_expanded_weight, "a weight for every row"),
}

PROGRAMS = (
    *(right("layer_norm", name, vjp, why) for name, (vjp, why) in _LAYER_NORM.items()),
    *(right("rms_norm", name, vjp, why) for name, (vjp, why) in _RMS_NORM.items()),
    native("layer_norm", "torch.autograd", by_autograd(layer_norm_torch, (True, True, True)), "torch's own", WIDE),
    native("rms_norm", "torch.autograd", by_autograd(rms_norm_torch, (True, True)), "torch's own", WIDE),
    right("layer_norm", "autograd, 16 bits", by_autograd(layer_norm_torch, (True,) * 3), "in float32", SIXTEEN),
    right("rms_norm", "autograd, 16 bits", by_autograd(rms_norm_torch, (True,) * 2), "in float32", SIXTEEN),
    right("layer_norm", "float64 inside", in_precision(LAYER_NORM, F64, (F32,)), "more digits", (F32,)),
    right("rms_norm", "float64 inside", in_precision(RMS_NORM, F64, (F32,)), "more digits", (F32,)),
    loses("layer_norm", "one pass", layer_norm_with(one_pass), "mean far", "E[x²] - mean² cancels", WIDE),
)
