"""Wrong programs for rms_norm."""

from collections.abc import Iterator

import torch

from tests.oracle.third_bank.axes import in_order, rows, total
from tests.oracle.third_bank.entry import ALL, F16, SIXTEEN, WIDE, Entry, faulty, in_float32, wrong
from tests.oracle.third_bank.faults import (
    changed,
    cut_flat,
    dense,
    half,
    usual,
    usual_strides,
    with_input,
    writes_input,
)
from tests.oracle.third_bank.norms_right import RMS_NORM, count, mean_of, rms_dx, rms_norm_with, sum_down

RULE = "rms_norm"


def inverse_of(mean_square, root=lambda v, eps: torch.rsqrt(v + eps)):
    return lambda x, eps: root(mean_square(x), eps)


def offset_taken(y=lambda offset: offset, dx=lambda offset: offset, absent=None):
    """Other offsets in the value and in dx; `absent`: what is taken for an absent weight."""

    def rms_norm(inputs, dy, eps=1e-6, offset=0.0):
        x, weight = inputs
        taken = weight
        if weight is None and absent is not None:
            taken = x.new_full(x.shape[-1:], absent)
        value, grads = RMS_NORM((x, taken), dy, eps=eps, offset=y(offset))
        _, other = RMS_NORM((x, taken), dy, eps=eps, offset=dx(offset))
        return value, (other[0], None if weight is None else grads[1])

    return rms_norm


def dweight_as(formula):
    """Another dweight, from dy, x hat, weight + offset and 1/rms."""

    def rms_norm(inputs, dy, eps=1e-6, offset=0.0):
        x, weight = inputs
        y, (dx, dweight) = RMS_NORM(inputs, dy, eps=eps, offset=offset)
        s = torch.rsqrt(mean_of(x * x) + eps)
        return y, (dx, dweight if weight is None else formula(dy, x * s, offset + weight, s))

    return rms_norm


def weight_outside(inputs, dy, eps=1e-6, offset=0.0):
    """dx of dy, times the weight."""
    x, weight = inputs
    y, (dx, dweight) = RMS_NORM(inputs, dy, eps=eps, offset=offset)
    if weight is None:
        return y, (dx, dweight)
    return y, (RMS_NORM((x, None), dy, eps=eps)[1][0] * (offset + weight), dweight)


def weight_not_in_dx(inputs, dy, eps=1e-6, offset=0.0):
    y, (_, dweight) = RMS_NORM(inputs, dy, eps=eps, offset=offset)
    return y, (RMS_NORM((inputs[0], None), dy, eps=eps)[1][0], dweight)


def weight_not_in_projection(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, (_, dweight) = RMS_NORM(inputs, dy, eps=eps, offset=offset)
    s = torch.rsqrt(mean_of(x * x) + eps)
    g = dy if weight is None else dy * (offset + weight)
    return y, (s * (g - x * s * mean_of(dy * x * s)), dweight)


def hat_from_y(inputs, dy, eps=1e-6, offset=0.0):
    """x hat recovered as y / weight."""
    x, weight = inputs
    y, grads = RMS_NORM(inputs, dy, eps=eps, offset=offset)
    if weight is None:
        return y, grads
    hat, s = y / (offset + weight), torch.rsqrt(mean_of(x * x) + eps)
    return y, (rms_dx(dy * (offset + weight), hat, s), rows(dy * hat).sum(0))


def centred(inputs, dy, eps=1e-6, offset=0.0):
    """The mean is subtracted, as by a layer norm."""
    x, weight = inputs
    y, (dx, dweight) = RMS_NORM((x - mean_of(x), weight), dy, eps=eps, offset=offset)
    return y, (dx - mean_of(dx), dweight)


def option_fixed(**fixed):
    return lambda inputs, dy, eps=1e-6, offset=0.0: RMS_NORM(inputs, dy, **{"eps": eps, "offset": offset, **fixed})


def natively_squared(inputs, dy, eps=1e-6, offset=0.0):
    """Squares in float16: beyond 255 they overflow, the row is 0."""
    x, _ = inputs
    inverse = rms_norm_with(lambda _, eps: torch.rsqrt(mean_of((x * x).float()) + eps))
    return in_float32(inverse)(inputs, dy, eps=eps, offset=offset)


def dweight_in_order(inputs, dy, eps=1e-6, offset=0.0):
    """dweight added up row by row in 16 bits."""
    y, (dx, dweight) = in_float32(RMS_NORM)(inputs, dy, eps=eps, offset=offset)
    x = inputs[0].float()
    terms = rows((dy.float() * x * torch.rsqrt(mean_of(x * x) + eps)).to(dy.dtype))
    return y, (dx, None if dweight is None else in_order(terms))


def grouped(x, eps):
    """A group of 32 columns for the whole row."""
    return torch.rsqrt(mean_of(x[..., :32] * x[..., :32]) + eps)


def raises_if_vector(inputs, dy, eps=1e-6, offset=0.0):
    if inputs[0].ndim < 2:
        raise IndexError("rows and columns are expected")
    return RMS_NORM(inputs, dy, eps=eps, offset=offset)


def nan_of_no_rows(inputs, dy, eps=1e-6, offset=0.0):
    """dweight as a mean times the number of rows: 0/0 for an empty batch."""
    y, (dx, dweight) = RMS_NORM(inputs, dy, eps=eps, offset=offset)
    return y, (
        dx,
        None if dweight is None else dweight / len(rows(dy)) * len(rows(dy)) if len(rows(dy)) else dweight / 0,
    )


_INVERSE = {
    "eps outside": (
        inverse_of(lambda x: mean_of(x * x), lambda v, e: 1 / (torch.sqrt(v) + e)),
        "large eps",
        "rms + eps",
    ),
    "eps at least": (
        inverse_of(lambda x: mean_of(x * x), lambda v, e: 1 / torch.sqrt(v).clamp_min(e)),
        "large eps",
        "max",
    ),
    "eps left out": (
        inverse_of(lambda x: mean_of(x * x), lambda v, e: torch.rsqrt(v)),
        "constant rows",
        "nan in rows of 0",
    ),
    "eps in the sum": (
        inverse_of(lambda x: (total(x * x) + 1e-6) / count(x), lambda v, e: torch.rsqrt(v)),
        "large eps",
        "/n",
    ),
    "norm for rms": (inverse_of(lambda x: total(x * x)), "plain", "no division by n"),
    "n - 1": (inverse_of(lambda x: total(x * x) / max(x.shape[-1] - 1, 1)), "plain", "unbiased"),
    "padded count": (
        inverse_of(lambda x: total(x * x) / max(-(-x.shape[-1] // 32) * 32, 1)),
        "plain",
        "a multiple of 32",
    ),
    "1024 columns": (inverse_of(lambda x: total(x[..., :1024] ** 2) / count(x)), "wide", "the sum ends at 1024"),
    "whole blocks": (
        inverse_of(lambda x: total(x[..., : max(x.shape[-1] // 32, 1) * 32] ** 2) / count(x)),
        "wide",
        "of 32",
    ),
    "mean absolute value": (inverse_of(lambda x: mean_of(x.abs()) ** 2), "plain", "another norm"),
    "first row": (lambda x, e: torch.rsqrt(mean_of(rows(x)[:1] ** 2) + e).reshape(-1)[:1], "plain", "for all rows"),
    "32 columns": (grouped, "wide", "a group's statistics for the row"),
}
_DX = {
    "rms constant": (lambda g, h, s: s * g, "plain", "1/rms held constant"),
    "sign": (lambda g, h, s: s * (g + h * mean_of(g * h)), "plain", "plus"),
    "sum for mean": (lambda g, h, s: s * (g - h * total(g * h)), "plain", "1/n is missing"),
    "x hat missing": (lambda g, h, s: s * (g - mean_of(g * h)), "plain", "a factor missing"),
    "x for x hat": (lambda g, h, s: s * (g - h / s * mean_of(g * h)), "plain", "x mean(g x hat)"),
    "1/rms twice": (lambda g, h, s: s * s * (g - h * mean_of(g * h)), "plain", "s²"),
    "1/rms of the projection": (lambda g, h, s: s * g - h * mean_of(g * h), "plain", "s² for s³"),
    "x hat squared": (lambda g, h, s: s * (g - g * mean_of(h * h)), "plain", "the diagonal alone"),
    "mean subtracted": (lambda g, h, s: s * (g - mean_of(g) - h * mean_of(g * h)), "plain", "layer norm's dx"),
    "whole blocks": (
        lambda g, h, s: s * (g - h * total((g * h)[..., : max(g.shape[-1] // 32, 1) * 32]) / count(g)),
        "wide",
        "of 32",
    ),
    "0 where 0": (
        lambda g, h, s: torch.where((h == 0).all(-1, keepdim=True), 0, rms_dx(g, h, s)),
        "constant rows",
        "0",
    ),
}
_DWEIGHT = {
    "dweight of x": (lambda dy, h, w, s: rows(dy * h / s).sum(0), "plain", "x for x hat"),
    "dweight with weight": (lambda dy, h, w, s: rows(dy * w * h).sum(0), "plain", "dy weight for dy"),
    "dweight is a mean": (lambda dy, h, w, s: rows(dy * h).mean(0), "plain", "divided by the rows"),
    "dweight of dy": (lambda dy, h, w, s: rows(dy).sum(0), "plain", "x hat is missing"),
    "dweight of one row": (lambda dy, h, w, s: rows(dy * h)[-1:].sum(0), "plain", "the last row alone"),
    "dweight of whole blocks": (
        lambda dy, h, w, s: sum_down(rows(dy * h)[: max(len(rows(dy)) // 32, 1) * 32]),
        "rows",
        "rows by 32",
    ),
    "dweight of 1024 rows": (lambda dy, h, w, s: sum_down(rows(dy * h)[:1024]), "rows", "the others are left out"),
    "dweight summed over columns": (
        lambda dy, h, w, s: total(rows(dy * h)).sum().expand(w.shape).clone(),
        "plain",
        "a number for all columns",
    ),
}
_OTHER = {
    "offset ignored": (option_fixed(offset=0.0), "offset", "an option ignored"),
    "offset 1": (option_fixed(offset=1.0), "plain", "1 + weight always"),
    "offset not in dx": (offset_taken(dx=lambda offset: 0.0), "offset", "right value"),
    "offset not in y": (offset_taken(y=lambda offset: 0.0), "offset", "right dx"),
    "offset subtracted": (offset_taken(lambda o: -o, lambda o: -o), "offset", "weight - offset"),
    "absent weight is 0": (offset_taken(absent=0.0), "no weight", "y is 0"),
    "eps 1e-5": (option_fixed(eps=1e-5), "large eps", "eps isn't taken"),
    "weight outside": (weight_outside, "plain", "dx of dy, times weight"),
    "weight not in dx": (weight_not_in_dx, "plain", "dy for dy weight"),
    "weight not in projection": (weight_not_in_projection, "plain", "mean(dy x hat)"),
    "x hat from y": (hat_from_y, "weight 0", "0/0 where a weight is 0"),
    "centred": (centred, "plain", "a layer norm"),
    "raises for a vector": (raises_if_vector, "one row", "x without batch axes"),
    "nan of no rows": (nan_of_no_rows, "batch 0", "dweight of an empty batch"),
}


def _entries() -> Iterator[Entry]:
    for name, (inverse, shows, why) in _INVERSE.items():
        yield wrong(RULE, name, rms_norm_with(inverse), shows, why)
    for name, (dx, shows, why) in _DX.items():
        yield wrong(RULE, f"dx: {name}", rms_norm_with(dx=dx), shows, why)
    for name, (formula, shows, why) in _DWEIGHT.items():
        yield wrong(RULE, name, dweight_as(formula), shows, why)
    for name, (vjp, shows, why) in _OTHER.items():
        yield wrong(RULE, name, vjp, shows, why, ALL)
    rounded = rms_norm_with(dx=lambda g, h, s: rms_dx(half(g), half(h), s))
    yield wrong(RULE, "x hat in 16 bits", rounded, "plain", "backward has x hat and g in bfloat16", WIDE)
    yield wrong(
        RULE,
        "1/rms in 16 bits",
        rms_norm_with(lambda x, e: half(torch.rsqrt(mean_of(x * x) + e))),
        "plain",
        "in bfloat16",
        WIDE,
    )
    yield faulty(RULE, "squares in float16", natively_squared, "hundreds", "x² overflows beyond 255", (F16,))
    yield faulty(RULE, "dweight in order", dweight_in_order, "rows alike", "a sum in 16 bits stagnates", SIXTEEN)
    base = in_float32(RMS_NORM)
    yield faulty(RULE, "65536 elements", changed(base, 0, cut_flat(65_536)), "many rows", "dx isn't written after that")
    yield faulty(RULE, "y over x", writes_input(base, 0, None), "plain", "y is written over x")
    yield faulty(
        RULE, "weight read as dense", with_input(base, 1, dense), "strided input", "the weight's stride is ignored"
    )
    yield from usual(RULE, RMS_NORM, 0, 1)
    yield from usual_strides(RULE, RMS_NORM)


PROGRAMS = tuple(_entries())
