"""Wrong programs for log_softmax."""

import math
from collections.abc import Iterator

import torch

from tests.oracle.third_bank.axes import on_last_axis, top, total
from tests.oracle.third_bank.entry import ALL, WIDE, Entry, faulty, in_float32, wrong
from tests.oracle.third_bank.faults import changed, cut, half, usual, usual_strides, whole_blocks, writes_input
from tests.oracle.third_bank.softmax_right import LOG_SOFTMAX, log_plain, softmax_of


def backward_as(formula):
    def f(x, dy):
        y, _ = log_plain(x, dy)
        return y, formula(y, dy)

    return f


def forward_as(formula):
    """Another log_softmax, with the backward that belongs to a right one."""

    def f(x, dy):
        y = formula(x)
        return y, dy - torch.exp(y) * total(dy)

    return f


def value_as(formula):
    """Another value beside a right backward."""

    def f(x, dy):
        _, dx = log_plain(x, dy)
        return formula(x), dx

    return f


def shifted_twice(x):
    return x - 2 * top(x) - torch.log(total(torch.exp(x - top(x))))


def not_shifted_back(x):
    return x - torch.log(total(torch.exp(x - top(x))))


def not_shifted(x):
    return x - torch.log(total(torch.exp(x)))


def from_minus_10000(x):
    largest = top(x).clamp_min(-10_000) if x.shape[-1] else top(x)
    return x - largest - torch.log(total(torch.exp(x - largest)))


def padded_with_0(x):
    padding = -x.shape[-1] % 32
    return x - top(x) - torch.log(total(torch.exp(x - top(x))) + padding * torch.exp(-top(x)))


def base_2(x):
    return (x - top(x)) * math.log2(math.e) - torch.log2(total(torch.exp(x - top(x))))


def finite(x):
    """-inf replaced by the smallest number, "to be safe"."""
    y, _ = log_plain(x, x)
    return torch.where(y == -math.inf, torch.finfo(x.dtype).min, y)


def largest_alone(x):
    """Nothing beside the largest where it is far ahead."""
    y, _ = log_plain(x, x)
    return torch.where(y > -1e-3, 0, y)


def whole_blocks_summed(y, dy):
    whole = max(y.shape[-1] // 32 * 32, min(y.shape[-1], 32))
    return dy - torch.exp(y) * total(dy[..., :whole])


def first_1024(y, dy):
    return dy - torch.exp(y) * total(dy[..., :1024])


def only_where_dy(y, dy):
    """Nothing for classes that have no dy of their own."""
    return torch.where(dy == 0, 0, dy - torch.exp(y) * total(dy))


def one_hot_dy(y, dy):
    """The sum of dy taken for its entry of largest size: right for one-hot rows."""
    if not y.shape[-1]:
        return dy - torch.exp(y) * total(dy)
    return dy - torch.exp(y) * dy.gather(-1, dy.abs().argmax(-1, keepdim=True))


def backward_on_last_axis(inputs, dy, dim=-1):
    y, _ = LOG_SOFTMAX(inputs, dy, dim=dim)
    return y, (dy - torch.exp(y) * dy.sum(-1, keepdim=True),)


def dim_ignored(inputs, dy, dim=-1):
    return LOG_SOFTMAX(inputs, dy)


def raises_if_empty(inputs, dy, dim=-1):
    if inputs[0].numel() == 0:
        raise RuntimeError("an empty grid of blocks")
    return LOG_SOFTMAX(inputs, dy, dim=dim)


_BACKWARD = {
    "rule of softmax": (
        lambda y, d: torch.exp(y) * (d - total(torch.exp(y) * d)),
        "plain",
        "another rule's derivative",
        ALL,
    ),
    "diagonal only": (lambda y, d: d - torch.exp(y) * d, "plain", "the derivative by the own logit", ALL),
    "y for exp(y)": (lambda y, d: d - y * total(d), "plain", "the log isn't undone", ALL),
    "mean for sum": (lambda y, d: d - torch.exp(y) * d.mean(-1, keepdim=True), "plain", "divided by the classes", ALL),
    "sum over everything": (lambda y, d: d - torch.exp(y) * d.sum(), "plain", "rows are summed together", ALL),
    "sum taken for 1": (lambda y, d: d - torch.exp(y), "plain", "right for one-hot dy", ALL),
    "sum taken for -1": (lambda y, d: d + torch.exp(y), "plain", "right below a mean of cross-entropies", ALL),
    "plus": (lambda y, d: d + torch.exp(y) * total(d), "plain", "the sign of one term", ALL),
    "sum is dropped": (lambda y, d: d.clone(), "plain", "the normaliser is a constant", ALL),
    "identity missing": (lambda y, d: -torch.exp(y) * total(d), "plain", "only the normaliser's term", ALL),
    "absolute dy": (lambda y, d: d - torch.exp(y) * total(d.abs()), "plain", "a sum of |dy|", ALL),
    "one-hot dy": (one_hot_dy, "plain", "the sum is the entry of largest size", ALL),
    "only where dy": (only_where_dy, "one-hot dy", "0 for classes that have no dy", ALL),
    "whole blocks": (whole_blocks_summed, "blocks", "the last block of classes isn't in the sum", ALL),
    "1024 classes": (first_1024, "wide", "classes after 1024 aren't in the sum", ALL),
    "y in 16 bits": (lambda y, d: d - torch.exp(half(y)) * total(d), "plain", "y kept in bfloat16 for backward", WIDE),
}
_FORWARD = {
    "largest not subtracted": (not_shifted, "large", "overflows", WIDE),
    "from -10000": (from_minus_10000, "far below", "the running largest starts at -10000", WIDE),
    "padded with 0": (padded_with_0, "plain", "the last block of 32 is padded with logits of 0", ALL),
    "largest of all rows": (
        lambda x: x - (x.max() if x.numel() else 0) - torch.log(total(torch.exp(x - (x.max() if x.numel() else 0)))),
        "rows apart",
        "rows far below the largest number underflow",
        WIDE,
    ),
}
_VALUE = {
    "log of softmax": (lambda x: torch.log(softmax_of(x)), "large", "-inf where a probability underflows", WIDE),
    "log of softmax + 1e-7": (lambda x: torch.log(softmax_of(x) + 1e-7), "large", "never below -16", WIDE),
    "largest twice": (shifted_twice, "plain", "the largest is subtracted twice", ALL),
    "largest not added back": (not_shifted_back, "plain", "x minus a logsumexp of shifted logits", ALL),
    "base 2": (base_2, "plain", "log2 of the probabilities", ALL),
    "-inf made finite": (finite, "one masked", "the smallest number for -inf", WIDE),
    "0 near 0": (largest_alone, "peaked", "rounded away, as arithmetic in 16 bits would too", WIDE),
    "clamped": (lambda x: log_plain(x, x)[0].clamp_min(-100), "large", "log-probabilities above -100", WIDE),
    "sum in 16 bits": (
        lambda x: x - top(x) - half(torch.log(total(torch.exp(x - top(x))))),
        "plain",
        "the log kept in bfloat16",
        WIDE,
    ),
}


def _entries() -> Iterator[Entry]:
    for make, table in ((backward_as, _BACKWARD), (forward_as, _FORWARD), (value_as, _VALUE)):
        for name, (formula, shows, why, dtypes) in table.items():
            yield wrong("log_softmax", name, on_last_axis(make(formula)), shows, why, dtypes)
    yield wrong("log_softmax", "dim ignored", dim_ignored, "dim 0", "always along the last axis")
    yield wrong("log_softmax", "dim ignored by backward", backward_on_last_axis, "dim 0", "sums along the last axis")
    yield wrong("log_softmax", "raises if empty", raises_if_empty, "batch 0", "no launch of nothing")
    blocks = changed(LOG_SOFTMAX, 0, whole_blocks(1024))
    yield wrong("log_softmax", "whole blocks of 1024", blocks, "rows", "elements after the last whole block are 0")
    yield wrong("log_softmax", "y of 1024 rows", changed(LOG_SOFTMAX, None, cut(1024)), "rows", "y isn't written")
    yield faulty("log_softmax", "y over x", writes_input(in_float32(LOG_SOFTMAX), 0, None), "plain", "in place")
    yield from usual("log_softmax", LOG_SOFTMAX)
    yield from usual_strides("log_softmax", LOG_SOFTMAX)


PROGRAMS = tuple(_entries())
