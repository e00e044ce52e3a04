"""Wrong backwards of rms_norm."""

import torch

from benchmarks.diagnosis_bank.program import OUT, STATE, rounded, rows, wrong

RULE = "rms_norm"


def _forward(inputs, eps, offset):
    x, weight = inputs
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    scale = torch.ones_like(x) if weight is None else (offset + weight).expand_as(x)
    return x * inverse * scale, inverse, scale


def _summed(inputs, dy, inverse):
    return None if inputs[1] is None else rows(dy * inputs[0] * inverse).sum(0)


@wrong(
    RULE,
    "the offset is missing in dx: dy is multiplied by the weight alone",
    "offset",
    OUT + "|0|alone|default|hyperparameter|zero",
)
def plain_weight(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, r, _ = _forward(inputs, eps, offset)
    g = dy if weight is None else dy * weight
    dx = r * g - r**3 * x * (g * x).mean(-1, keepdim=True)
    return y, (dx, _summed(inputs, dy, r))


@wrong(
    RULE,
    "dweight has one factor too many, the scale (offset + weight)",
    "weight|scale",
    "twice|too many|extra|g in place|g for|once more|in place of dy|factor",
)
def weight_times_scale(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, r, scale = _forward(inputs, eps, offset)
    g = dy * scale
    dx = r * (g - x * r * (g * x * r).mean(-1, keepdim=True))
    return y, (dx, None if weight is None else rows(g * x * r).sum(0))


@wrong(
    RULE,
    "the projection has the sum over the row where its mean is due",
    "sum|1/n|divi|n|/ n",
    "mean|projection|features|length|row|divi",
)
def sum_for_mean(inputs, dy, eps=1e-6, offset=0.0):
    x, _ = inputs
    y, r, scale = _forward(inputs, eps, offset)
    xhat, g = x * r, dy * scale
    dot = torch.einsum("...i,...i->...", g, xhat)
    return y, (r * (g - xhat * dot[..., None]), _summed(inputs, dy, r))


@wrong(
    RULE,
    "the variance about the mean is used in backward, as for layer norm",
    "centred|variance|layer norm|x - |subtract|about the mean|mean taken off|mean is taken off",
)
def centred_in_backward(inputs, dy, eps=1e-6, offset=0.0):
    x, _ = inputs
    y, _, scale = _forward(inputs, eps, offset)
    r = torch.rsqrt((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + eps)
    g = dy * scale
    dx = r * (g - x * r * (g * x * r).mean(-1, keepdim=True))
    return y, (dx, _summed(inputs, dy, r))


@wrong(
    RULE,
    "dweight holds the last row alone: each row is assigned, not added",
    "last row alone|last row in place|only the last|assign|not added|overwrit|one row|single row|not accumul",
    "row|sum|batch|added",
)
def dweight_assigned(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, r, scale = _forward(inputs, eps, offset)
    g = dy * scale
    dx = r * (g - x * r * (g * x * r).mean(-1, keepdim=True))
    if weight is None:
        return y, (dx, None)
    each = rows(dy * x * r)
    return y, (dx, each[-1].clone() if len(each) else torch.zeros_like(weight))


@wrong(
    RULE,
    "1/rms is taken for a constant, so the projection is missing",
    "projection|constant|through|second term|s|x̂",
    OUT + "|constant|detach",
)
def detached_scale(inputs, dy, eps=1e-6, offset=0.0):
    y, r, scale = _forward(inputs, eps, offset)
    return y, (dy * scale * r, _summed(inputs, dy, r))


@wrong(
    RULE,
    "1/rms was saved in bfloat16",
    "16 bit|16-bit|half|float16|bfloat16|rounded to",
    "s|rms|rstd|root|1 /|residual",
)
def rstd_in_bfloat16(inputs, dy, eps=1e-6, offset=0.0):
    x, _ = inputs
    y, r, scale = _forward(inputs, eps, offset)
    r = rounded(r, torch.bfloat16)
    g = dy * scale
    dx = r * (g - x * r * (g * x * r).mean(-1, keepdim=True))
    return y, (dx, _summed(inputs, dy, r))


_by_address: dict = {}


@wrong(RULE, "1/rms is remembered by the address of x, also when its numbers have changed", STATE + "|address|changed")
def remembered_by_address(inputs, dy, eps=1e-6, offset=0.0):
    x, _ = inputs
    y, r, scale = _forward(inputs, eps, offset)
    r = _by_address.setdefault((x.data_ptr(), tuple(x.shape), x.stride(), x.dtype), r.clone())
    if len(_by_address) > 512:
        _by_address.clear()
    g = dy * scale
    dx = r * (g - x * r * (g * x * r).mean(-1, keepdim=True))
    return y, (dx, _summed(inputs, dy, r))


@wrong(
    RULE,
    "eight programs take rows // 8 rows each for dweight: the last rows mod 8 are missing",
    "tail|last|rest|remainder|end|after|mod|multiple|block",
    "8|missing|left out|not written|0",
)
def eight_programs(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, r, scale = _forward(inputs, eps, offset)
    g = dy * scale
    dx = r * (g - x * r * (g * x * r).mean(-1, keepdim=True))
    each = rows(dy * x * r)
    per_program = len(each) // 8
    partial = [each[i * per_program : (i + 1) * per_program].sum(0) for i in range(8)]
    return y, (dx, None if weight is None else torch.stack(partial).sum(0))


@wrong(
    RULE,
    "the offset is missing in the projection alone",
    "offset",
    "projection|mean|sum|along|term|x̂|dot",
)
def offset_once(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, r, scale = _forward(inputs, eps, offset)
    xhat = x * r
    inner = dy if weight is None else dy * weight
    dx = r * (dy * scale - xhat * (inner * xhat).mean(-1, keepdim=True))
    return y, (dx, _summed(inputs, dy, r))


@wrong(
    RULE,
    "two mistakes: the projection is added, and eps is left out of backward's root",
    "sign|added|plus|+|negated|-1",
    "eps",
)
def sign_and_no_eps(inputs, dy, eps=1e-6, offset=0.0):
    x, _ = inputs
    y, _, scale = _forward(inputs, eps, offset)
    square = x.square().mean(-1, keepdim=True)
    r = torch.where(square > 0, torch.rsqrt(square), 0)
    g = dy * scale
    dx = r * (g + x * r * (g * x * r).mean(-1, keepdim=True))
    return y, (dx, _summed(inputs, dy, r))
