"""Wrong backwards of layer_norm."""

import torch

from benchmarks.diagnosis_bank.program import OUT, STATE, rounded, rows, wrong

RULE = "layer_norm"


def _forward(inputs, eps):
    x, weight, bias = inputs
    mean = x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps)
    xhat = (x - mean) * rstd
    y = xhat if weight is None else xhat * weight
    return y if bias is None else y + bias, xhat, rstd


def _sums(inputs, dy, xhat):
    """dweight and dbias."""
    _, weight, bias = inputs
    return (
        None if weight is None else rows(dy * xhat).sum(0),
        None if bias is None else rows(dy).sum(0),
    )


def _scaled(inputs, dy):
    return dy if inputs[1] is None else dy * inputs[1]


@wrong(
    RULE,
    "the mean that is taken off is that of dy, before the weight is multiplied",
    "dy",
    "mean",
    "before|without|in place|instead|weight is|of dy|" + OUT,
)
def mean_of_dy(inputs, dy, eps=1e-5):
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    dx = rstd * (g - dy.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    return y, (dx, *_sums(inputs, dy, xhat))


@wrong(
    RULE,
    "backward's factor is 1/(√v + eps): eps is outside the root",
    "eps",
    "outside|root|sqrt|after|√|place|moved|added",
)
def eps_outside(inputs, dy, eps=1e-5):
    x = inputs[0]
    y, xhat, _ = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    spread = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    inverse = 1 / (spread.sqrt() + eps)
    dx = inverse * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    return y, (dx, *_sums(inputs, dy, xhat))


@wrong(
    RULE,
    "the variance's part has s² where s³ is due, a power too few",
    "power|exponent|s²|s**2|s ** 2|square|x - mean|x - μ|centred",
    "projection|variance|dvar|s³|term|x̂|x_hat",
)
def power_of_minus_one(inputs, dy, eps=1e-5):
    x = inputs[0]
    n = max(x.shape[-1], 1)
    y, xhat, rstd = _forward(inputs, eps)
    centred = x - x.mean(-1, keepdim=True)
    dxhat = _scaled(inputs, dy)
    dvar = (dxhat * centred).sum(-1, keepdim=True) * -0.5 * rstd**2
    dmean = -(dxhat * rstd).sum(-1, keepdim=True) - dvar * 2 * centred.mean(-1, keepdim=True)
    dx = dxhat * rstd + dvar * 2 * centred / n + dmean / n
    return y, (dx, *_sums(inputs, dy, xhat))


@wrong(
    RULE,
    "dweight and dbias miss the rows after the last whole block of 16",
    "tail|last|rest|remainder|end|after|block|multiple of 16|partial",
    "16|row|block|0",
)
def whole_blocks_of_rows(inputs, dy, eps=1e-5):
    _, weight, bias = inputs
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    dx = rstd * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    n = g.shape[-1]
    blocks = rows(dy).shape[0] // 16
    partial_w = rows(dy * xhat)[: blocks * 16].reshape(blocks, 16, n).sum(1)
    partial_b = rows(dy)[: blocks * 16].reshape(blocks, 16, n).sum(1)
    return y, (dx, None if weight is None else partial_w.sum(0), None if bias is None else partial_b.sum(0))


@wrong(RULE, "dbias sums dy times the weight", "weight|g", "dbias|bias")
def bias_of_g(inputs, dy, eps=1e-5):
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    dx = rstd * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    dweight, _ = _sums(inputs, dy, xhat)
    return y, (dx, dweight, None if inputs[2] is None else rows(g).sum(0))


@wrong(
    RULE,
    "the weight is multiplied after both means were taken off, not before",
    "weight",
    "after|outside|at the end|at last|result|order|moved",
)
def weight_at_the_end(inputs, dy, eps=1e-5):
    y, xhat, rstd = _forward(inputs, eps)
    core = dy - dy.mean(-1, keepdim=True) - xhat * (dy * xhat).mean(-1, keepdim=True)
    dx = rstd * core if inputs[1] is None else inputs[1] * (rstd * core)
    return y, (dx, *_sums(inputs, dy, xhat))


@wrong(
    RULE, "the mean was saved in bfloat16", "16 bit|16-bit|half|float16|bfloat16|rounded to", "mean|μ|x̂|x_hat|statistic"
)
def mean_in_bfloat16(inputs, dy, eps=1e-5):
    x = inputs[0]
    y, _, rstd = _forward(inputs, eps)
    mean = rounded(x.mean(-1, keepdim=True), torch.bfloat16)
    xhat = (x - mean) * rstd
    g = _scaled(inputs, dy)
    dx = rstd * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    return y, (dx, *_sums(inputs, dy, xhat))


@wrong(
    RULE,
    "eps is 1e-6 in backward, whatever was given",
    "eps",
    "1e-6|1e-06|0.000001|fixed|constant|hard-coded|whatever|ignor|hyperparameter|another|other|default",
)
def eps_of_another_library(inputs, dy, eps=1e-5):
    y, _, _ = _forward(inputs, eps)
    _, xhat, rstd = _forward(inputs, 1e-6)
    g = _scaled(inputs, dy)
    dx = rstd * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    return y, (dx, *_sums(inputs, dy, xhat))


_accumulators: dict = {}


@wrong(
    RULE,
    "dweight is added to what the last call with these features left there",
    STATE + "|accumul|added to|grows|call",
)
def accumulator_not_zeroed(inputs, dy, eps=1e-5):
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    dx = rstd * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    dweight, dbias = _sums(inputs, dy, xhat)
    if dweight is not None:
        key = (dweight.shape[0], dweight.dtype)
        dweight = dweight + torch.nan_to_num(_accumulators.get(key, torch.zeros_like(dweight)))
        _accumulators[key] = dweight.clone()
    return y, (dx, dweight, dbias)


@wrong(
    RULE,
    "the means divide by the row's length rounded up to a power of two",
    "power of 2|power of two|power-of-two|2^|block|rounded up|padded|next|multiple",
    "divi|mean|n|length|count|features|1/",
)
def means_over_the_block(inputs, dy, eps=1e-5):
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    block = 1 << max(g.shape[-1] - 1, 0).bit_length()
    c1 = (xhat * g).sum(-1, keepdim=True) / block
    c2 = g.sum(-1, keepdim=True) / block
    return y, (rstd * (g - c2 - xhat * c1), *_sums(inputs, dy, xhat))


@wrong(
    RULE,
    "two mistakes: the mean term is left out, and dweight sums dy x in place of dy x̂",
    "mean",
    "x in place|x instead|x for|dy * x|dy x|not normali|x̂|x_hat|raw x|input",
)
def no_mean_and_raw_weight(inputs, dy, eps=1e-5):
    x, weight, _ = inputs
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    dx = rstd * (g - xhat * (g * xhat).mean(-1, keepdim=True))
    _, dbias = _sums(inputs, dy, xhat)
    return y, (dx, None if weight is None else rows(dy * x).sum(0), dbias)


@wrong(
    RULE,
    "each row's rstd is that of the row before it",
    "row|batch|neighbour",
    "before|neighbour|previous|next|roll|shift|another|other row|moved",
)
def rstd_off_by_one(inputs, dy, eps=1e-5):
    y, xhat, rstd = _forward(inputs, eps)
    g = _scaled(inputs, dy)
    inverse = rstd.reshape(-1).roll(1).reshape(rstd.shape)
    dx = inverse * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
    return y, (dx, *_sums(inputs, dy, xhat))
