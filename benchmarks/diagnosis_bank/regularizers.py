"""Wrong backwards of dropout, the penalties, max_norm and square_loss."""

import torch

from benchmarks.diagnosis_bank.program import OUT, wrong


def _dropped(x, mask, p):
    return torch.where(mask.bool() & (p < 1), x / (1 - p) if p < 1 else x, 0)


@wrong("dropout", "backward does not scale by 1/(1 − p)", "1 - p|scal|p|factor", OUT + "|not scaled|scal|1 - p|factor")
def mask_alone(inputs, dy, p):
    x, mask = inputs
    return _dropped(x, mask, p), (torch.where(mask.bool() & (p < 1), dy, 0), None)


@wrong("dropout", "p = 0 is replaced by ½: `p or 0.5`", "p", "0.5|½|p = 0|default")
def falsy_p(inputs, dy, p):
    x, mask = inputs
    return _dropped(x, mask, p), (_dropped(dy, mask, p or 0.5), None)


@wrong(
    "dropout",
    "backward draws a mask of its own",
    "random|mask|fresh|redrawn|drawn|call|differ",
    "random|fresh|another|own|drawn|call|differ|seed",
)
def another_mask(inputs, dy, p):
    x, mask = inputs
    return _dropped(x, mask, p), (_dropped(dy, torch.rand_like(dy) >= p, p), None)


@wrong(
    "dropout",
    "the mask is read off y: a kept activation of 0 counts as dropped",
    "y|output|activation|x is 0|x = 0|!= 0",
    "mask|kept|dropped",
)
def mask_from_output(inputs, dy, p):
    x, mask = inputs
    y = _dropped(x, mask, p)
    return y, (torch.where(y != 0, dy / (1 - p) if p < 1 else dy, 0), None)


@wrong(
    "dropout",
    "p = 1 is not told apart: what the mask keeps is divided by 0",
    "p = 1|1",
    "inf|divi|not finite|nan|everything",
)
def divided_by_nothing(inputs, dy, p):
    x, mask = inputs
    keep = torch.tensor(1.0 - p, dtype=dy.dtype, device=dy.device)
    return _dropped(x, mask, p), (torch.where(mask.bool(), dy / keep, 0), None)


@wrong("l1_penalty", "a weight of 0 counts as positive", "0|zero", "sign|positive|>=|≥|1|kink")
def sign_of_zero(inputs, dy, lam, n=1):
    (w,) = inputs
    side = (w >= 0).to(w.dtype) * 2 - 1
    return lam / n * w.abs().sum(), (dy * lam / n * side,)


@wrong("l1_penalty", "the division by n is missing", "n", OUT + "|1|default|hyperparameter|lam/n|factor|divi")
def l1_without_n(inputs, dy, lam, n=1):
    (w,) = inputs
    return lam / n * w.abs().sum(), (dy * lam * w.sign(),)


@wrong(
    "l2_penalty",
    "the first column is spared, as if it held biases",
    "first|column|slice",
    "column|bias|0|zero|not written|left|spared",
)
def spares_the_bias_column(inputs, dy, lam, n=1):
    (w,) = inputs
    dw = dy * lam / n * w
    if w.ndim > 1:
        dw = torch.cat([torch.zeros_like(w[..., :1]), dw[..., 1:]], -1)
    return lam / (2 * n) * (w * w).sum(), (dw,)


@wrong(
    "l2_penalty",
    "it divides by the number of weights where n is due",
    "number of|numel|elements|count|size|n|divi",
    "weight|elements|numel|mean|n|divi|factor",
)
def mean_of_the_squares(inputs, dy, lam, n=1):
    (w,) = inputs
    return lam / (2 * n) * (w * w).sum(), (dy * lam / max(w.numel(), 1) * w,)


def _clipped(w, limit):
    norm = w.norm(dim=1, keepdim=True)
    return torch.where(norm > limit, limit * (w / norm), w), norm


@wrong(
    "max_norm",
    "the norm is taken for a constant: the projection is missing",
    "projection|along|through the norm",
    OUT + "|constant|detach",
)
def norm_constant(inputs, dy, limit):
    (w,) = inputs
    y, norm = _clipped(w, limit)
    return y, (torch.where(norm > limit, limit / norm * dy, dy),)


@wrong(
    "max_norm",
    "rows are judged by the square of their norm: the root is missing in the comparison",
    "square|root|sqrt|√|norm²",
    "limit|compar|mask|too long|>|norm|which rows|condition",
)
def square_beside_limit(inputs, dy, limit):
    (w,) = inputs
    y, norm = _clipped(w, limit)
    u = w / torch.where(norm > 0, norm, 1)
    turned = limit / torch.where(norm > 0, norm, 1) * (dy - u * (u * dy).sum(1, keepdim=True))
    return y, (torch.where(norm**2 > limit, turned, dy),)


@wrong(
    "max_norm",
    "the projection goes along the columns",
    "column|axis|dim|axes|transpos",
    "sum|projection|along|norm|column|axis",
)
def dots_of_the_columns(inputs, dy, limit):
    (w,) = inputs
    y, norm = _clipped(w, limit)
    u = w / norm
    turned = limit / norm * (dy - u * (u * dy).sum(0, keepdim=True))
    return y, (torch.where(norm > limit, turned, dy),)


@wrong(
    "max_norm",
    "two mistakes: the factor limit/‖W‖ is missing, and the projection is added",
    "limit|factor|norm|scale",
    "sign|added|plus|+|negat|-1",
)
def unscaled_and_added(inputs, dy, limit):
    (w,) = inputs
    y, norm = _clipped(w, limit)
    u = w / norm
    return y, (torch.where(norm > limit, dy + u * (u * dy).sum(1, keepdim=True), dy),)


@wrong(
    "square_loss", "differences beyond ±1 are clipped, as of a Huber loss", "clamp|clip|huber|beyond|bounded|limited|±1"
)
def clipped_differences(inputs, dy):
    x, target = inputs
    n = x.shape[0]
    dx = dy * (x - target).clamp(-1, 1) / max(n, 1)
    return ((x - target) ** 2).sum() / (2 * n), (dx, -dx)


@wrong(
    "square_loss",
    "it divides by all elements, not by the batch",
    "elements|numel|outputs|number of|all axes|every axis",
    "divi|mean|factor|number|batch",
)
def mean_of_all(inputs, dy):
    x, target = inputs
    dx = dy * (x - target) / max(x.numel(), 1)
    return ((x - target) ** 2).sum() / (2 * x.shape[0]), (dx, -dx)


@wrong(
    "square_loss",
    "the target's cotangent lacks its minus sign",
    "sign|minus|negat|-1|opposite",
    "target",
)
def same_for_the_target(inputs, dy):
    x, target = inputs
    dx = dy * (x - target) / max(x.shape[0], 1)
    return ((x - target) ** 2).sum() / (2 * x.shape[0]), (dx, dx.clone())
