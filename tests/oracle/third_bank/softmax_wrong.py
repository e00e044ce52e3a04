"""Wrong programs for softmax."""

import math
from collections.abc import Iterator

import torch

from tests.oracle.third_bank.axes import on_last_axis, top, total
from tests.oracle.third_bank.entry import F32, F64, WIDE, Entry, faulty, in_float32, wrong
from tests.oracle.third_bank.faults import changed, cut, half, usual, usual_strides, writes_input
from tests.oracle.third_bank.softmax_right import SOFTMAX, softmax_of


def backward_as(formula):
    def f(x, dy):
        y = softmax_of(x)
        return y, formula(y, dy)

    return f


def forward_as(formula):
    """Another softmax, with the backward that belongs to a right one."""

    def f(x, dy):
        y = formula(x)
        return y, y * (dy - total(y * dy))

    return f


def online_unguarded(x):
    largest = x.new_full((*x.shape[:-1], 1), -math.inf)
    summed = torch.zeros_like(largest)
    for block in x.split(32, -1) if x.shape[-1] else ():
        new = torch.maximum(largest, top(block))
        summed = summed * torch.exp(largest - new) + total(torch.exp(block - new))
        largest = new
    return torch.exp(x - largest) / summed


def online_not_rescaled(x):
    largest = x.new_full((*x.shape[:-1], 1), -math.inf)
    summed = torch.zeros_like(largest)
    for block in x.split(32, -1) if x.shape[-1] else ():
        largest = torch.maximum(largest, top(block))
        summed = summed + total(torch.exp(block - largest))
    return torch.exp(x - largest) / summed


def from_minus_10000(x):
    largest = top(x).clamp_min(-10_000) if x.shape[-1] else top(x)
    e = torch.exp(x - largest)
    return e / total(e)


def padded_with_0(x):
    e = torch.exp(x - top(x))
    padding = -x.shape[-1] % 32
    return e / (total(e) + padding * torch.exp(-top(x)))


def largest_of_first(x):
    e = torch.exp(x - top(x[..., :1024]))
    return e / total(e)


def summed_over_first(x):
    e = torch.exp(x - top(x))
    return e / total(e[..., :1024])


def largest_of_all(x):
    e = torch.exp(x - (x.max() if x.numel() else 0))
    return e / total(e)


def uniform_if_masked(x):
    return torch.where(top(x) == -math.inf, 1 / max(x.shape[-1], 1), softmax_of(x))


def zero_if_masked(x):
    return torch.where(top(x) == -math.inf, 0, softmax_of(x))


def masked_below_10000(x):
    return softmax_of(torch.where(x < -10_000, -math.inf, x)).nan_to_num(0)


def two_classes(x):
    if x.shape[-1] != 2:
        return softmax_of(x)
    first = torch.sigmoid(x[..., 1:] - x[..., :1])
    return torch.cat([first, 1 - first], -1)


def fast_exp(x):
    """2^t from its integer part and a parabola for the rest."""
    t = (x - top(x)) * math.log2(math.e)
    whole = torch.floor(t).clamp(-120, 0)
    part = t - torch.floor(t)
    e = torch.exp2(whole) * (1 + part * (0.6565 + 0.3435 * part))
    return e / total(e)


def whole_blocks_summed(y, dy):
    whole = max(y.shape[-1] // 32 * 32, min(y.shape[-1], 32))
    return y * (dy - total((y * dy)[..., :whole]))


def halves_summed(y, dy):
    """A tree of pairs that takes the width for even at every step."""
    terms = y * dy
    while terms.shape[-1] > 1:
        middle = terms.shape[-1] // 2
        terms = terms[..., :middle] + terms[..., middle : 2 * middle]
    return y * (dy - total(terms))


def own_axes(forward_last, backward_last):
    """Along the last axis whatever dim says, in the forward, in the backward, or in both."""

    def softmax(inputs, dy, dim=-1):
        (x,) = inputs
        y = torch.softmax(x, -1 if forward_last else dim)
        along = (y * dy).sum(-1 if backward_last else dim, keepdim=True)
        return y, (y * (dy - along),)

    return softmax


def dim_counted_from_front(inputs, dy, dim=-1):
    return SOFTMAX(inputs, dy, dim=-1 if dim == -1 else abs(dim) % max(inputs[0].ndim, 1))


def raises_if_empty(inputs, dy, dim=-1):
    y, grads = SOFTMAX(inputs, dy, dim=dim)
    if y.numel() == 0:
        raise RuntimeError("an empty grid of blocks")
    return y, grads


_BACKWARD = {
    "diagonal only": (lambda y, d: y * (1 - y) * d, "plain", "the derivative of one probability by its own logit"),
    "dy not weighted": (lambda y, d: y * (d - total(d)), "plain", "the sum of dy, not of y dy"),
    "mean for sum": (lambda y, d: y * (d - (y * d).mean(-1, keepdim=True)), "plain", "divided by the classes"),
    "sign": (lambda y, d: y * (total(y * d) - d), "plain", "the sign of everything"),
    "plus": (lambda y, d: y * (d + total(y * d)), "plain", "the sign of one term"),
    "rule of log_softmax": (lambda y, d: d - y * total(d), "plain", "another rule's derivative"),
    "y twice": (lambda y, d: y * y * (d - total(y * d)), "plain", "a factor y too many"),
    "sum over everything": (lambda y, d: y * (d - (y * d).sum()), "plain", "rows are summed together"),
    "sum is dropped": (lambda y, d: y * d, "plain", "as if probabilities were independent"),
    "y clamped": (lambda y, d: y.clamp_min(1e-7) * (d - total(y * d)), "large", "small probabilities raised to 1e-7"),
    "whole blocks": (whole_blocks_summed, "blocks", "the last block of classes isn't in the sum"),
    "pairs": (halves_summed, "plain", "odd widths lose their last term"),
    "one class": (
        lambda y, d: y * d if y.shape[-1] == 1 else y * (d - total(y * d)),
        "one class",
        "y dy for one class",
    ),
    "sum in 16 bits": (lambda y, d: y * (d - half(total(half(y) * half(d)))), "plain", "products in bfloat16"),
    "near 1": (lambda y, d: torch.where(y > 0.999, 0, y * (d - total(y * d))), "peaked", "0 once a class is certain"),
    "even dy": (
        lambda y, d: torch.where((d == d[..., :1]).all(-1, keepdim=True), y * d, y * (d - total(y * d))),
        "constant dy",
        "y dy where dy is alike along a row",
    ),
}
_FORWARD = {
    "largest not subtracted": (lambda x: torch.exp(x) / total(torch.exp(x)), "large", "overflows", WIDE),
    "largest of all rows": (largest_of_all, "rows apart", "rows far below the largest number underflow", WIDE),
    "from -10000": (from_minus_10000, "far below", "the running largest starts at -10000", WIDE),
    "1e-5 in the denominator": (lambda x: softmax_eps(x), "plain", "probabilities don't add up to 1", WIDE),
    "padded with 0": (padded_with_0, "plain", "the last block of 32 is padded with logits of 0", None),
    "largest of 1024": (largest_of_first, "largest late", "overflows where the largest comes after 1024", WIDE),
    "sum of 1024": (summed_over_first, "wide", "classes after 1024 aren't in the sum", None),
    "not rescaled": (online_not_rescaled, "wide", "online, but the sum isn't rescaled to a new largest", None),
    "not guarded": (online_unguarded, "first masked", "-inf - -inf where the first block is masked", None),
    "uniform if masked": (
        uniform_if_masked,
        "all masked",
        "1/n where every logit is -inf: the limit doesn't exist",
        None,
    ),
    "0 if masked": (zero_if_masked, "all masked", "0 where every logit is -inf", None),
    "masked below -10000": (masked_below_10000, "far below", "logits below -10000 count as masked", WIDE),
    "two classes": (two_classes, "two classes", "a sigmoid of the wrong difference", None),
    "fast exp": (fast_exp, "plain", "exp to 3 digits", WIDE),
    "exp in 16 bits": (lambda x: half(torch.exp(x - top(x))) / total(torch.exp(x - top(x))), "plain", "bfloat16", WIDE),
    "temperature": (
        lambda x: softmax_of(x / math.sqrt(max(x.shape[-1], 1))),
        "plain",
        "attention's scale left in",
        None,
    ),
}


def softmax_eps(x):
    e = torch.exp(x - top(x))
    return e / (total(e) + 1e-5)


def _entries() -> Iterator[Entry]:
    for name, (formula, shows, why) in _BACKWARD.items():
        dtypes = (
            WIDE if shows == "large" or name in ("sum in 16 bits", "near 1") else (*WIDE, torch.bfloat16, torch.float16)
        )
        yield wrong("softmax", name, on_last_axis(backward_as(formula)), shows, why, dtypes)
    for name, (formula, shows, why, dtypes) in _FORWARD.items():
        every = dtypes or (F64, F32, torch.bfloat16, torch.float16)
        yield wrong("softmax", name, on_last_axis(forward_as(formula)), shows, why, every)
    yield wrong("softmax", "dim ignored", own_axes(True, True), "dim 0", "always along the last axis")
    yield wrong("softmax", "dim ignored by backward", own_axes(False, True), "dim 0", "sums along the last axis")
    yield wrong("softmax", "dim from the front", dim_counted_from_front, "dim -2", "|dim| for a dim below -1")
    yield wrong("softmax", "raises if empty", raises_if_empty, "batch 0", "no launch of nothing")
    yield wrong("softmax", "1024 rows", changed(SOFTMAX, 0, cut(1024)), "rows", "dx of rows after 1024 isn't written")
    yield faulty("softmax", "y over x", writes_input(in_float32(SOFTMAX), 0, None), "plain", "y is written over x")
    yield from usual("softmax", SOFTMAX)
    yield from usual_strides("softmax", SOFTMAX)


PROGRAMS = tuple(_entries())
