"""Right programs for softmax and log_softmax."""

import math

import torch
from torch import Tensor

from tests.oracle.third_bank.axes import by_autograd, on_last_axis, top, total, total_in
from tests.oracle.third_bank.entry import F32, F64, SIXTEEN, WIDE, in_precision, loses, native, right


def softmax_of(x: Tensor) -> Tensor:
    e = torch.exp(x - top(x))
    return e / total(e)


def plain(x, dy):
    y = softmax_of(x)
    return y, y * (dy - total(y * dy))


def online(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Largest number and sum of exponentials in one pass over blocks; blocks that are all -inf add nothing."""
    largest = x.new_full((*x.shape[:-1], 1), -math.inf)
    summed = torch.zeros_like(largest)
    for block in x.split(width, -1) if x.shape[-1] else ():
        new = torch.maximum(largest, top(block))
        shift = torch.where(new == -math.inf, 0, new)
        summed = summed * torch.exp(largest - shift) + total(torch.exp(block - shift))
        largest = new
    return largest, summed


def softmax_online(width):
    def f(x, dy):
        largest, summed = online(x, width)
        y = torch.exp(x - largest) / summed
        along = sum(
            (total(a * b) for a, b in zip(y.split(width, -1), dy.split(width, -1), strict=True)), total(y[..., :0])
        )
        return y, y * (dy - along)

    return f


def softmax_from_lse(x, dy):
    lse = top(x) + torch.log(total(torch.exp(x - top(x))))
    y, again = torch.exp(x - lse), torch.exp(x - lse)
    return y, again * (dy - total(again * dy))


def softmax_distributed(x, dy):
    y = softmax_of(x)
    weighted = y * dy
    return y, weighted - y * total(weighted)


def softmax_jacobian(x, dy):
    """The Jacobian as a matrix, where it is small."""
    y = softmax_of(x)
    if x.shape[-1] > 40 or x.numel() > 10_000:
        return plain(x, dy)
    jacobian = torch.diag_embed(y) - y[..., :, None] * y[..., None, :]
    return y, (jacobian @ dy[..., None])[..., 0]


def softmax_base_2(x, dy):
    e = torch.exp2((x - top(x)) * math.log2(math.e))
    y = e * (1 / total(e))
    return y, y * (dy - total(y * dy))


def softmax_summed_in(width):
    def f(x, dy):
        e = torch.exp(x - top(x))
        y = e / total_in(width)(e)
        return y, y * (dy - total_in(width)(y * dy))

    return f


def softmax_differences(x, dy):
    """sum_j y_j (dy_i - dy_j) with dy taken from its value at the largest logit: a constant in dy changes nothing."""
    if not x.shape[-1]:
        return plain(x, dy)
    y = softmax_of(x)
    moved = dy - dy.gather(-1, x.argmax(-1, keepdim=True))
    return y, y * (moved - total(y * moved))


def transposed_results(f):
    """Results that lie in memory with the axes in reverse."""

    def run(x, dy):
        y, dx = f(x, dy)
        order = tuple(reversed(range(x.ndim)))
        return y.permute(order).contiguous().permute(order), dx.permute(order).contiguous().permute(order)

    return run


def softmax_from_rounded_y(inputs, dy, dim=-1):
    """The backward has y alone, in the dtype of x, as torch's has."""
    y, _ = in_precision(on_last_axis(plain), F32, SIXTEEN)(inputs, dy, dim=dim)
    p, d = y.float(), dy.float()
    return y, ((p * (d - (p * d).sum(dim, keepdim=True))).to(y.dtype),)


def softmax_from_log(x, dy):
    y, _ = log_plain(x, dy)
    p = torch.exp(y)
    return p, p * (dy - total(p * dy))


def log_plain(x, dy):
    shifted = x - top(x)
    y = shifted - torch.log(total(torch.exp(shifted)))
    return y, dy - torch.exp(y) * total(dy)


def log_online(width):
    def f(x, dy):
        largest, summed = online(x, width)
        y = (x - largest) - torch.log(summed)
        along = sum((total(block) for block in dy.split(width, -1)), total(dy[..., :0]))
        return y, dy - torch.exp(y) * along

    return f


def log_from_lse(x, dy):
    lse = top(x) + torch.log(total(torch.exp(x - top(x))))
    return x - lse, dy - torch.exp(x - lse) * total(dy)


def log_by_logsumexp(x, dy):
    y = x - torch.logsumexp(x, -1, keepdim=True)
    return y, dy - torch.exp(y) * total(dy)


def log_recomputed(x, dy):
    y, _ = log_plain(x, dy)
    return y, dy - softmax_of(x) * total(dy)


def log_summed_in(width):
    def f(x, dy):
        shifted = x - top(x)
        y = shifted - torch.log(total_in(width)(torch.exp(shifted)))
        return y, dy - torch.exp(y) * total_in(width)(dy)

    return f


def log_by_log1p(x, dy):
    """log(1 + the others), which keeps the digits of y at the largest logit."""
    if not x.shape[-1]:
        return log_plain(x, dy)
    shifted = x - top(x)
    e = torch.exp(shifted)
    others = total(e.scatter(-1, x.argmax(-1, keepdim=True), 0))
    y = shifted - torch.log1p(others)
    return y, dy - e / (1 + others) * total(dy)


def log_by_matmul(x, dy):
    y, _ = log_plain(x, dy)
    ones = dy.new_ones(dy.shape[-1], 1)
    return y, dy - torch.exp(y) * (dy @ ones)


def log_minus_product(x, dy):
    y, _ = log_plain(x, dy)
    return y, torch.addcmul(dy, torch.exp(y), total(dy), value=-1)


def in_float64(f):
    return in_precision(on_last_axis(f), F64, (F32,))


SOFTMAX = on_last_axis(plain)
LOG_SOFTMAX = on_last_axis(log_plain)

_SOFTMAX = {
    "largest subtracted": (plain, "the textbook's form"),
    "online by 32": (softmax_online(32), "largest and sum in one pass, blocks of 32"),
    "online by 1024": (softmax_online(1024), "largest and sum in one pass, blocks of 1024"),
    "distributed": (softmax_distributed, "y dy - y sum(y dy)"),
    "Jacobian": (softmax_jacobian, "diag(y) - y yT, then a product with dy"),
    "base 2": (softmax_base_2, "exp2 with log2(e), a reciprocal"),
    "summed by 32": (softmax_summed_in(32), "partial sums of 32"),
    "summed by 1024": (softmax_summed_in(1024), "partial sums of 1024"),
    "dy moved": (softmax_differences, "a constant subtracted from dy"),
    "results transposed": (transposed_results(plain), "results that aren't contiguous"),
    "exp of log_softmax": (softmax_from_log, "by way of log_softmax"),
}
_LOG_SOFTMAX = {
    "largest subtracted": (log_plain, "the textbook's form"),
    "online by 32": (log_online(32), "largest and sum in one pass, blocks of 32"),
    "softmax recomputed": (log_recomputed, "backward has x, not y"),
    "summed by 1024": (log_summed_in(1024), "partial sums of 1024"),
    "log1p": (log_by_log1p, "log1p of what isn't the largest"),
    "sum by a product": (log_by_matmul, "the sum of dy as a product with ones"),
    "addcmul": (log_minus_product, "one fused last step"),
    "results transposed": (transposed_results(log_plain), "results that aren't contiguous"),
}

PROGRAMS = (
    *(right("softmax", name, on_last_axis(f), why) for name, (f, why) in _SOFTMAX.items()),
    *(right("log_softmax", name, on_last_axis(f), why) for name, (f, why) in _LOG_SOFTMAX.items()),
    native(
        "softmax", "torch.autograd", by_autograd(lambda x, dim=-1: torch.softmax(x, dim), (True,)), "torch's own", WIDE
    ),
    native(
        "log_softmax",
        "torch.autograd",
        by_autograd(lambda x, dim=-1: torch.log_softmax(x, dim), (True,)),
        "torch's own",
        WIDE,
    ),
    # Far from 0 the rounding of lse is as large as the differences of logits: from 2^24 on y doesn't add up to 1.
    loses("softmax", "from logsumexp", on_last_axis(softmax_from_lse), "far below", "exp(x - lse), lse rounded", WIDE),
    loses("log_softmax", "from logsumexp", on_last_axis(log_from_lse), "far below", "x - lse, lse rounded", WIDE),
    loses("log_softmax", "torch.logsumexp", on_last_axis(log_by_logsumexp), "far below", "x - lse, by torch", WIDE),
    native("softmax", "from a rounded y", softmax_from_rounded_y, "backward has y in 16 bits, as torch's", SIXTEEN),
    right("softmax", "float64 inside", in_float64(plain), "more digits than are asked for", (F32,)),
    right("log_softmax", "float64 inside", in_float64(log_plain), "more digits than are asked for", (F32,)),
)
