"""Wrong programs for layer_norm."""

from collections.abc import Iterator

import torch

from tests.oracle.third_bank.axes import in_order, rows, total
from tests.oracle.third_bank.entry import ALL, SIXTEEN, WIDE, Entry, faulty, in_float32, loses, wrong
from tests.oracle.third_bank.faults import changed, cut, half, usual, usual_strides, whole_blocks, writes_input
from tests.oracle.third_bank.norms_right import (
    LAYER_NORM,
    count,
    dx_by_means,
    layer_norm_with,
    mean_of,
    sum_down,
    two_passes,
)

RULE = "layer_norm"


def statistics(variance, root=lambda v, eps: torch.rsqrt(v + eps)):
    """Other variances of the centred numbers, other roots."""

    def normalised(x, eps):
        centred = x - mean_of(x)
        s = root(variance(centred), eps)
        return centred * s, s

    return normalised


def mean_square(centred):
    return mean_of(centred * centred)


def unbiased(centred):
    return total(centred * centred) / max(centred.shape[-1] - 1, 1)


def padded_variance(x, eps):
    """The last block of 32 is padded with 0, from which the mean is subtracted too."""
    mean, padding = mean_of(x), -x.shape[-1] % 32
    centred = x - mean
    s = torch.rsqrt((total(centred * centred) + padding * mean * mean) / count(x) + eps)
    return centred * s, s


def padded_count(x, eps):
    """Sums divided by the padded width."""
    n = max(-(-x.shape[-1] // 32) * 32, 1)
    centred = x - total(x) / n
    s = torch.rsqrt(total(centred * centred) / n + eps)
    return centred * s, s


def first_1024(x, eps):
    _, s = two_passes(x[..., :1024], eps)
    mean = mean_of(x[..., :1024])
    return (x - mean) * s, s


def over_two_axes(x, eps):
    """Statistics over the last two axes where there are three."""
    if x.ndim < 3:
        return two_passes(x, eps)
    centred = x - x.mean((-2, -1), keepdim=True)
    s = torch.rsqrt((centred * centred).mean((-2, -1), keepdim=True) + eps)
    return centred * s, s


def over_block_of_rows(x, eps):
    """Statistics over pairs of rows: sums of a block taken over both of its axes."""
    pairs = rows(x)
    if len(pairs) % 2 or not len(pairs):
        return two_passes(x, eps)
    hat, s = two_passes(pairs.reshape(len(pairs) // 2, 2 * x.shape[-1]), eps)
    return hat.reshape(x.shape), s.repeat_interleave(2, 0).reshape(*x.shape[:-1], 1)


def one_pass_unclamped(x, eps):
    """A variance below 0 gives nan."""
    mean = mean_of(x)
    s = torch.rsqrt(mean_of(x * x) - mean * mean + eps)
    return (x - mean) * s, s


def from_first_row(x, eps):
    """Mean and variance of the first row for all."""
    if x.ndim < 2 or not x.numel():
        return two_passes(x, eps)
    mean = mean_of(rows(x)[:1])
    s = torch.rsqrt(mean_of((rows(x)[:1] - mean) ** 2) + eps)
    return (x - mean) * s, s.expand(*x.shape[:-1], 1)


def zero_where_constant(g, hat, s):
    """No gradient through rows without spread."""
    return torch.where((hat == 0).all(-1, keepdim=True), 0, dx_by_means(g, hat, s))


def hat_from_y(inputs, dy, eps=1e-5):
    """x hat recovered as (y - bias)/weight."""
    _, weight, bias = inputs
    y, (_, _, dbias) = LAYER_NORM(inputs, dy, eps=eps)
    hat = y if bias is None else y - bias
    hat = hat if weight is None else hat / weight
    _, s = two_passes(inputs[0], eps)
    g = dy if weight is None else dy * weight
    return y, (dx_by_means(g, hat, s), None if weight is None else rows(dy * hat).sum(0), dbias)


def y_for_hat(inputs, dy, eps=1e-5):
    """Backward takes y, with weight and bias in it, for x hat."""
    _, weight, _ = inputs
    y, (_, _, dbias) = LAYER_NORM(inputs, dy, eps=eps)
    _, s = two_passes(inputs[0], eps)
    g = dy if weight is None else dy * weight
    return y, (dx_by_means(g, y, s), None if weight is None else rows(dy * y).sum(0), dbias)


def with_results(change):
    """Other cotangents, made from x hat, 1/sigma, dy, weight and the right ones."""

    def layer_norm(inputs, dy, eps=1e-5):
        x, weight, _ = inputs
        y, grads = LAYER_NORM(inputs, dy, eps=eps)
        hat, s = two_passes(x, eps)
        return y, change(hat, s, dy, weight, grads)

    return layer_norm


def parameters(dweight=None, dbias=None):
    """Other cotangents of weight or bias, from dy, x hat and dx."""

    def change(hat, s, dy, weight, grads):
        dx, dw, db = grads
        dw = dw if dw is None or dweight is None else dweight(dy, hat, weight)
        db = db if db is None or dbias is None else dbias(dy, hat, dx)
        return dx, dw, db

    return with_results(change)


def no_weight_in_dx(hat, s, dy, weight, grads):
    return dx_by_means(dy, hat, s), *grads[1:]


def weight_outside_means(hat, s, dy, weight, grads):
    dx = dx_by_means(dy, hat, s)
    return dx if weight is None else dx * weight, *grads[1:]


def eps_fixed(eps_taken):
    return lambda inputs, dy, eps=1e-5: LAYER_NORM(inputs, dy, eps=eps_taken)


def bias_needs_weight(inputs, dy, eps=1e-5):
    """A bias without a weight is ignored."""
    x, weight, bias = inputs
    if weight is not None or bias is None:
        return LAYER_NORM(inputs, dy, eps=eps)
    y, grads = LAYER_NORM((x, None, None), dy, eps=eps)
    return y, (*grads[:2], torch.zeros_like(bias))


def weight_needs_bias(inputs, dy, eps=1e-5):
    """dx lacks the weight where there is no bias."""
    x, weight, bias = inputs
    y, grads = LAYER_NORM(inputs, dy, eps=eps)
    if weight is None or bias is not None:
        return y, grads
    return y, (LAYER_NORM((x, None, None), dy, eps=eps)[1][0], *grads[1:])


def weight_plus_1(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    return LAYER_NORM((x, None if weight is None else 1 + weight, bias), dy, eps=eps)


def mean_down(terms):
    return terms.mean(0)


def whole_blocks_down(terms):
    whole = len(terms) // 32 * 32
    return terms[:whole].sum(0) if whole else terms.sum(0)


def overlapping_blocks_down(terms):
    """The last block of 32 rows starts at rows - 32: some rows are added twice."""
    whole = len(terms) // 32 * 32
    return terms.sum(0) if whole in (0, len(terms)) else terms[:whole].sum(0) + terms[-32:].sum(0)


def in_order_16(inputs, dy, eps=1e-5):
    """dweight and dbias added up row by row in 16 bits."""
    y, (dx, dweight, dbias) = in_float32(LAYER_NORM)(inputs, dy, eps=eps)
    hat, _ = two_passes(inputs[0].float(), eps)
    down = rows((dy.float() * hat).to(dy.dtype))
    return y, (dx, None if dweight is None else in_order(down), None if dbias is None else in_order(rows(dy)))


_STATISTICS = {
    "unbiased": (statistics(unbiased), "plain", "divided by n - 1", ALL),
    "eps outside": (statistics(mean_square, lambda v, eps: 1 / (torch.sqrt(v) + eps)), "large eps", "sigma + eps", ALL),
    "eps at least": (statistics(mean_square, lambda v, eps: torch.rsqrt(v.clamp_min(eps))), "large eps", "max", ALL),
    "eps twice": (statistics(mean_square, lambda v, eps: torch.rsqrt(v + 2 * eps)), "large eps", "2 eps", ALL),
    "eps squared": (statistics(mean_square, lambda v, eps: torch.rsqrt(v + eps * eps)), "large eps", "eps²", ALL),
    "no eps": (statistics(mean_square, lambda v, eps: torch.rsqrt(v)), "constant rows", "nan in constant rows", ALL),
    "mean absolute deviation": (statistics(lambda c: mean_of(c.abs()) ** 2), "plain", "not the variance", ALL),
    "padded variance": (padded_variance, "plain", "the padding's deviation is counted", ALL),
    "padded count": (padded_count, "plain", "divided by a multiple of 32", ALL),
    "1024 columns": (first_1024, "wide", "statistics of the first 1024 columns", ALL),
    "two axes": (over_two_axes, "spaces", "normalised over the last two axes", ALL),
    "block of rows": (over_block_of_rows, "even rows", "statistics over two rows together", ALL),
    "first row": (from_first_row, "plain", "the first row's statistics for all", ALL),
    "x hat in 16 bits": (lambda x, eps: (half(two_passes(x, eps)[0]), two_passes(x, eps)[1]), "plain", "bf16", WIDE),
    "mean in 16 bits": (
        lambda x, eps: ((x - half(mean_of(x))) * two_passes(x, eps)[1], two_passes(x, eps)[1]),
        "plain",
        "bf16",
        WIDE,
    ),
    "not centred": (lambda x, eps: (x * two_passes(x, eps)[1], two_passes(x, eps)[1]), "plain", "x/sigma", ALL),
}
_DX = {
    "statistics constant": (lambda g, h, s: s * g, "plain", "mean and variance held constant"),
    "mean term missing": (lambda g, h, s: s * (g - h * mean_of(g * h)), "plain", "RMS norm's dx"),
    "projection missing": (lambda g, h, s: s * (g - mean_of(g)), "plain", "the variance held constant"),
    "projection's sign": (lambda g, h, s: s * (g - mean_of(g) + h * mean_of(g * h)), "plain", "plus"),
    "sums for means": (lambda g, h, s: s * (g - total(g) - h * total(g * h)), "plain", "1/n is missing"),
    "projection without x hat": (lambda g, h, s: s * (g - mean_of(g) - mean_of(g * h)), "plain", "a factor missing"),
    "1/sigma twice": (lambda g, h, s: s * s * (g - mean_of(g) - h * mean_of(g * h)), "plain", "s²"),
    "1/sigma missing": (lambda g, h, s: g - mean_of(g) - h * mean_of(g * h), "plain", "s is dropped"),
    "n - 1": (
        lambda g, h, s: s * (g - mean_of(g) - h * total(g * h) / max(g.shape[-1] - 1, 1)),
        "plain",
        "unbiased",
    ),
    "product of means": (
        lambda g, h, s: s * (g - mean_of(g) - h * mean_of(g) * mean_of(h)),
        "plain",
        "not a mean of g h",
    ),
    "0 where constant": (zero_where_constant, "constant rows", "no gradient through constant rows"),
    "means over all rows": (lambda g, h, s: s * (g - g.mean() - h * (g * h).mean()), "plain", "not per row"),
}
_PARAMETERS = {
    "dweight is dbias": (parameters(lambda dy, h, w: rows(dy).sum(0)), "plain", "x hat is missing"),
    "dweight with weight": (parameters(lambda dy, h, w: rows(dy * w * h).sum(0)), "plain", "dy weight for dy"),
    "dweight of one row": (parameters(lambda dy, h, w: rows(dy * h)[:1].sum(0)), "plain", "not summed over rows"),
    "dbias of dx": (parameters(dbias=lambda dy, h, dx: rows(dx).sum(0)), "plain", "the buffer of dy was reused for dx"),
    "dbias counts": (parameters(dbias=lambda dy, h, dx: dy.new_full(dy.shape[-1:], len(rows(dy)))), "plain", "rows"),
    "dbias for one dy": (
        parameters(dbias=lambda dy, h, dx: mean_of(rows(dy)).sum(0).expand(dy.shape[-1])),
        "plain",
        "mean",
    ),
    "weight not in dx": (with_results(no_weight_in_dx), "plain", "dy for dy weight"),
    "weight outside": (with_results(weight_outside_means), "plain", "dx of dy, times weight"),
    "mean over rows": (layer_norm_with(down=mean_down), "plain", "dweight and dbias divided by the rows"),
    "whole blocks of rows": (layer_norm_with(down=whole_blocks_down), "rows", "rows after the last full 32"),
    "blocks overlap": (layer_norm_with(down=overlapping_blocks_down), "rows", "some rows are counted twice"),
    "1024 rows": (layer_norm_with(down=lambda t: sum_down(t[:1024])), "rows", "sums of the first 1024 rows"),
    "sums in bfloat16": (layer_norm_with(down=lambda t: half(sum_down(half(t)))), "plain", "terms in bfloat16"),
}


def _entries() -> Iterator[Entry]:
    for name, (normalised, shows, why, dtypes) in _STATISTICS.items():
        yield wrong(RULE, name, layer_norm_with(normalised), shows, why, dtypes)
    for name, (dx, shows, why) in _DX.items():
        yield wrong(RULE, f"dx: {name}", layer_norm_with(dx=dx), shows, why)
    for name, (vjp, shows, why) in _PARAMETERS.items():
        yield wrong(RULE, name, vjp, shows, why, WIDE if "bfloat16" in name else ALL)
    yield loses(RULE, "one pass, not clamped", layer_norm_with(one_pass_unclamped), "mean far", "nan", WIDE)
    yield wrong(RULE, "eps 1e-5", eps_fixed(1e-5), "large eps", "eps isn't taken")
    yield wrong(RULE, "eps 0", eps_fixed(0.0), "constant rows", "eps isn't taken")
    yield wrong(RULE, "x hat from y", hat_from_y, "weight 0", "0/0 where a weight is 0")
    yield wrong(RULE, "y for x hat", y_for_hat, "plain", "weight and bias aren't undone")
    yield wrong(RULE, "bias needs weight", bias_needs_weight, "bias alone", "bias ignored without a weight")
    yield wrong(RULE, "weight needs bias", weight_needs_bias, "weight alone", "dx without the weight")
    yield wrong(RULE, "weight from 0", weight_plus_1, "plain", "1 + weight")
    blocks = changed(LAYER_NORM, 0, whole_blocks(1024))
    yield wrong(RULE, "whole blocks of 1024", blocks, "rows", "elements after the last whole block are 0")
    yield wrong(RULE, "65535 rows", changed(LAYER_NORM, 0, cut(65_535)), "many rows", "dx isn't written after that")
    yield faulty(RULE, "sums in order in 16 bits", in_order_16, "rows alike", "they stagnate", SIXTEEN)
    yield faulty(RULE, "y over x", writes_input(in_float32(LAYER_NORM), 0, None), "plain", "y is written over x")
    yield from usual(RULE, LAYER_NORM, 0, 1)
    yield from usual_strides(RULE, LAYER_NORM)


PROGRAMS = tuple(_entries())
