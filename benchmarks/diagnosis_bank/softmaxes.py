"""Wrong backwards of softmax and log_softmax."""

import numpy as np
import torch

from benchmarks.diagnosis_bank.program import OUT, STATE, as_if_contiguous, rounded, rows, wrong


@wrong(
    "softmax",
    "the sum of y dy over a row is kept in 16 bits",
    "16 bit|16-bit|half|float16|bfloat16",
    "sum|Σ|y dy|y * dy|y·dy|along|projection",
)
def dot_in_half(inputs, dy, dim=-1):
    y = torch.softmax(inputs[0], dim)
    dot = rounded((y * dy).sum(dim, keepdim=True), torch.float16)
    return y, (y * (dy - dot),)


@wrong(
    "softmax",
    "the sum of y dy takes only the first 128 elements of a row, one block",
    "128",
    "sum|Σ|past|longer|beyond|size|length|first|block|row",
)
def one_block(inputs, dy, dim=-1):
    y = torch.softmax(inputs[0], dim)
    weighted = (y * dy).movedim(dim, -1)
    dot = weighted[..., :128].sum(-1, keepdim=True).movedim(-1, dim)
    return y, (y * (dy - dot),)


@wrong(
    "softmax",
    "the sum of y dy goes along the last axis, whatever dim is",
    "dim|axis|axes",
    "last|-1|ignor|other|another|wrong|whatever|instead|in place",
)
def keepdim_of_the_last(inputs, dy, dim=-1):
    p = torch.softmax(inputs[0], dim)
    inner = torch.einsum("...k,...k->...", p, dy)[..., None]
    return p, (p * dy - p * inner,)


@wrong(
    "softmax",
    "the Jacobian is diag(y (1 − y)) − y yᵀ: on its diagonal y² is taken off twice",
    "twice|y²|y * y|y**2|square|1 - y|y (1 - y)|y(1 - y)",
)
def diagonal_twice(inputs, dy, dim=-1):
    s = torch.softmax(inputs[0], dim)
    from_itself = s * (1 - s) * dy
    from_all = s * (s * dy).sum(dim, keepdim=True)
    return s, (from_itself - from_all,)


@wrong(
    "softmax",
    "the saved exponentials are not divided by their sum",
    "divi|normali|denominator|sum|e / |/",
    OUT + "|in place of|exponential|unnormali",
)
def unnormalised(inputs, dy, dim=-1):
    x = inputs[0]
    e = torch.exp(x - x.amax(dim, keepdim=True)) if x.numel() else x
    z = e.sum(dim, keepdim=True)
    y = e / z
    return y, (e * (dy - (e * dy).sum(dim, keepdim=True)),)


_captured: dict = {}


@wrong("softmax", "y is that of the first call with inputs of this shape", STATE)
def captured_graph(inputs, dy, dim=-1):
    y = torch.softmax(inputs[0], dim)
    saved = _captured.setdefault((tuple(y.shape), y.dtype, dim), y.clone())
    return y, (saved * (dy - (saved * dy).sum(dim, keepdim=True)),)


@wrong(
    "softmax",
    "dy is read as if it were contiguous",
    "stride|contiguous|layout|transposed dy|expanded|memory order|sliced",
)
def walks_through_dy(inputs, dy, dim=-1):
    y = torch.softmax(inputs[0], dim)
    dy = as_if_contiguous(dy)
    return y, (y * (dy - (y * dy).sum(dim, keepdim=True)),)


@wrong(
    "softmax",
    "each row takes the sum of the row before it",
    "row|batch|neighbour|slice",
    "before|neighbour|previous|next|roll|shift|another|other row|moved",
)
def dot_of_the_row_before(inputs, dy, dim=-1):
    y = torch.softmax(inputs[0], dim)
    p, g = y.movedim(dim, -1), dy.movedim(dim, -1)
    flat_p, flat_g = rows(p), rows(g)
    dots = (flat_p * flat_g).sum(1).roll(1)
    dx = flat_p * (flat_g - dots[:, None])
    return y, (dx.reshape(p.shape).movedim(-1, dim),)


@wrong("softmax", "y is clamped to at least 0.01", "clamp|floor|at least|below|smaller than|minimum|0.01|limit")
def probabilities_with_a_floor(inputs, dy, dim=-1):
    y = torch.softmax(inputs[0], dim)
    p = torch.clamp(y, min=1e-2)
    return y, (p * (dy - (p * dy).sum(dim, keepdim=True)),)


@wrong(
    "log_softmax",
    "each element takes its own dy where the sum of dy is due",
    "sum|Σ",
    OUT + "|in place of|instead|own",
)
def dy_not_summed(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    return y, (dy - torch.exp(y) * dy,)


@wrong("log_softmax", "the probabilities are the softmax of dy, not of x", "dy", "softmax|probab|p|exp|e^y|y")
def arguments_exchanged(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    p = torch.softmax(dy, dim)
    return y, (dy - p * dy.sum(dim, keepdim=True),)


@wrong(
    "log_softmax",
    "the sum of dy goes over all axes, the batch too",
    "sum|Σ|reduc",
    "all axes|whole|every axis|other axes|batch|all rows|over everything|over all|axes",
)
def sum_without_axis(inputs, dy, dim=-1):
    x = inputs[0]
    y = torch.log_softmax(x, dim)
    logp, g = y.cpu().numpy(), dy.cpu().numpy()
    dx = g - np.exp(logp) * np.sum(g)
    return y, (torch.from_numpy(np.asarray(dx, dtype=logp.dtype)).reshape(x.shape),)


@wrong(
    "log_softmax",
    "y was saved in bfloat16",
    "16 bit|16-bit|bfloat16|half|float16|rounded to",
    "y|p|prob|exp|output|residual",
)
def saved_in_bfloat16(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    p = rounded(y, torch.bfloat16).exp()
    return y, (dy - p * dy.sum(dim, keepdim=True),)


@wrong(
    "log_softmax",
    "the probabilities are 2 to the power of y: exp2 without log2(e)",
    "exp2|2 **|2^|2**|base 2|power of 2|power of two|log2|ln 2|log 2",
)
def exp2_of_natural_logarithms(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    return y, (dy - torch.exp2(y) * dy.sum(dim, keepdim=True),)


@wrong(
    "log_softmax",
    "the last n mod 4 elements of a row are not written",
    "tail|last|rest|remainder|end|after the last|multiple of 4|mod 4|% 4",
    "not written|left|0|zero|missing|unwritten|nothing|block|4",
)
def loads_of_four(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    logp, g = y.movedim(dim, -1), dy.movedim(dim, -1)
    whole = g.shape[-1] // 4 * 4
    dx = torch.zeros_like(g)
    dx[..., :whole] = g[..., :whole] - logp[..., :whole].exp() * g.sum(-1, keepdim=True)
    return y, (dx.movedim(-1, dim),)


@wrong(
    "log_softmax",
    "two mistakes: the projection is added, and it has the mean of dy for its sum",
    "sign|added|plus|+|negated|-1",
    "mean|average|1/n|divided by",
)
def mean_and_sign(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    return y, (dy + y.exp() * dy.mean(dim, keepdim=True),)


@wrong(
    "log_softmax",
    "it takes for granted that dy sums to −1, as below a negative log-likelihood",
    "sum|Σ",
    "-1|one|constant|assum|replaced|in place of|left out|instead",
)
def below_a_likelihood(inputs, dy, dim=-1):
    y = torch.log_softmax(inputs[0], dim)
    return y, (dy + torch.exp(y),)
