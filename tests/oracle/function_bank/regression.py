"""Losses that compare numbers, masks, distances and densities."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tests.oracle.function_bank.entry import Function, mask, normal, right, uniform, wrong

# ------------------------------------------------------------------------------------------------- focal, dice, huber


def focal_loss(logits, target, *, alpha=0.25, gamma=2.0):
    """target: bool, of the shape of logits."""
    t = target.to(logits.dtype)
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    loss = (alpha * t + (1 - alpha) * (1 - t)) * ce * ((1 - p_t) ** gamma)
    return loss.sum(-1).mean()


FOCAL = Function(focal_loss, {"logits": (4, 6), "target": mask(4, 6)}, {"gamma": 1.5, "alpha": 0.4})


def _focal(inputs, dy, alpha, gamma, *, product_rule=True):
    logits, target = inputs
    t = target.to(logits.dtype)
    sign, weight = 2 * t - 1, alpha * t + (1 - alpha) * (1 - t)
    z = sign * logits  # large: right
    missed, ce = torch.sigmoid(-z), F.softplus(-z)
    slope = -(missed ** (gamma + 1)) - product_rule * gamma * missed**gamma * torch.sigmoid(z) * ce
    return (weight * missed**gamma * ce).sum(-1).mean(), (dy / len(logits) * sign * weight * slope, None)


@right(FOCAL, "by the margin: the logit with the sign of its target")
def focal_by_margin(inputs, dy, *, alpha=0.25, gamma=2.0):
    return _focal(inputs, dy, alpha, gamma)


@wrong(FOCAL, "the factor (1 - p)^gamma counts as a constant")
def focal_factor_constant(inputs, dy, *, alpha=0.25, gamma=2.0):
    return _focal(inputs, dy, alpha, gamma, product_rule=False)


@wrong(FOCAL, "the mean over rows and the sum over classes are both taken as a mean")
def focal_mean_of_all(inputs, dy, *, alpha=0.25, gamma=2.0):
    y, (dlogits, _) = _focal(inputs, dy, alpha, gamma)
    return y, (dlogits / inputs[0].shape[-1], None)


def dice_loss(logits: Float[Tensor, "batch height width"], target: Bool[Tensor, "batch height width"],
              *, smooth: float = 1.0) -> Float[Tensor, ""]:  # fmt: skip
    p = logits.sigmoid().flatten(1)
    t = target.flatten(1).to(p.dtype)
    return (1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)).mean()


DICE = Function(dice_loss, {"logits": (3, 4, 5), "target": mask(3, 4, 5)})


def _dice(inputs, dy, smooth, quotient):
    logits, target = inputs
    p, t = torch.sigmoid(logits), target.to(logits.dtype)
    overlap, total = ((x.sum((1, 2), keepdim=True) + smooth) for x in (2 * p * t, p + t))
    dp = -quotient(t, overlap, total) * dy / len(p)
    return 1 - (overlap / total).mean(), (dp * p * (1 - p), None)


@right(DICE, "by the quotient rule over one denominator")
def dice_quotient(inputs, dy, *, smooth=1.0):
    return _dice(inputs, dy, smooth, lambda t, overlap, total: (2 * t * total - overlap) / total**2)


@wrong(DICE, "the derivative of the denominator is dropped")
def dice_denominator_constant(inputs, dy, *, smooth=1.0):
    return _dice(inputs, dy, smooth, lambda t, overlap, total: 2 * t / total)


def masked_huber(prediction: Float[Tensor, "batch steps"], target: Float[Tensor, "batch steps"],
                 valid: Bool[Tensor, "batch steps"], *, delta: float = 1.0) -> Float[Tensor, ""]:  # fmt: skip
    error = (prediction - target).abs()
    quadratic = torch.minimum(error, torch.full_like(error, delta))
    each = 0.5 * quadratic**2 + delta * (error - quadratic)
    return each.masked_select(valid).mean()


MASKED_HUBER = Function(
    masked_huber, {"prediction": (4, 9), "target": (4, 9), "valid": mask(4, 9)}, {"delta": 0.7}
)  # fmt: skip


@right(MASKED_HUBER, "the difference, clamped")
def masked_huber_clamped(inputs, dy, *, delta=1.0):
    prediction, target, valid = inputs
    difference = prediction - target
    inside = difference.clamp(-delta, delta)
    y = (inside * (difference - 0.5 * inside))[valid].mean()
    d = dy / valid.sum() * inside * valid
    return y, (d, -d, None)


@wrong(MASKED_HUBER, "beyond delta the slope is 1, not delta")
def masked_huber_slope(inputs, dy, *, delta=1.0):
    y, (d, _, _) = masked_huber_clamped(inputs, dy, delta=delta)
    outside = (inputs[0] - inputs[1]).abs() > delta
    d = torch.where(outside, d / delta, d)
    return y, (d, -d, None)


@wrong(MASKED_HUBER, "both arguments get the gradient with the same sign")
def masked_huber_sign(inputs, dy, *, delta=1.0):
    y, (d, _, _) = masked_huber_clamped(inputs, dy, delta=delta)
    return y, (d, d.clone(), None)


# ------------------------------------------------------------------------------------- contrastive: InfoNCE, triplet


def info_nce(image, text, log_scale):
    """Symmetric, as in CLIP; log_scale is a scalar that is learned."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = log_scale.exp() * image @ text.t()
    labels = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


INFO_NCE = Function(info_nce, {"image": (5, 8), "text": (5, 8), "log_scale": uniform(low=0.5, high=1.5)})


def _info_nce(inputs, dy, *, both=True, normalised=True):
    (image, text, log_scale), n = inputs, len(inputs[0])
    lengths = [x.norm(dim=-1, keepdim=True) for x in (image, text)]
    a, b = image / lengths[0], text / lengths[1]
    scale = log_scale.exp()
    logits = scale * a @ b.T
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    y = -(rows.diagonal() + columns.diagonal()).mean() / 2
    dlogits = (rows.exp() + (columns.exp() if both else rows.exp())) / 2 - torch.eye(n, dtype=a.dtype)
    dlogits = dy / n * dlogits
    grads = []
    for unit, d, length in zip((a, b), (scale * dlogits @ b, scale * dlogits.T @ a), lengths, strict=True):
        grads.append((d - normalised * unit * (d * unit).sum(-1, keepdim=True)) / length)
    return y, (*grads, (dlogits * logits).sum())


@right(INFO_NCE, "both softmaxes of one matrix")
def info_nce_both(inputs, dy):
    return _info_nce(inputs, dy)


@wrong(INFO_NCE, "the columns' half has the rows' softmax")
def info_nce_rows_twice(inputs, dy):
    return _info_nce(inputs, dy, both=False)


@wrong(INFO_NCE, "the derivative of the normalisation lacks its projection")
def info_nce_not_projected(inputs, dy):
    return _info_nce(inputs, dy, normalised=False)


def triplet_loss(anchor, positive, negative, *, margin=1.0, eps=1e-6):
    near = torch.sqrt((anchor - positive).pow(2).sum(1) + eps)
    far = torch.sqrt((anchor - negative).pow(2).sum(1) + eps)
    return torch.clamp(near - far + margin, min=0).mean()


TRIPLET = Function(triplet_loss, {"anchor": (8, 4), "positive": (8, 4), "negative": (8, 4)}, {"margin": 0.5})


@right(TRIPLET, "over the active triplets alone")
def triplet_active(inputs, dy, *, margin=1.0, eps=1e-6):
    anchor, positive, negative = inputs
    to_near, to_far = anchor - positive, anchor - negative
    near, far = ((x * x).sum(1, keepdim=True).add(eps).sqrt() for x in (to_near, to_far))
    hinge = near - far + margin
    active = (hinge > 0).squeeze(1)
    d_near, d_far = torch.zeros_like(anchor), torch.zeros_like(anchor)
    d_near[active] = (dy / len(anchor) * to_near / near)[active]
    d_far[active] = (dy / len(anchor) * to_far / far)[active]
    return hinge.relu().mean(), (d_near - d_far, -d_near, d_far)


@wrong(TRIPLET, "the hinge is ignored: triplets that are satisfied get gradients")
def triplet_hinge_ignored(inputs, dy, *, margin=1.0, eps=1e-6):
    y, _ = triplet_active(inputs, dy, margin=margin, eps=eps)
    anchor, positive, negative = inputs
    d_near, d_far = (
        dy / len(anchor) * x / (x * x).sum(1, keepdim=True).add(eps).sqrt()
        for x in (anchor - positive, anchor - negative)
    )
    return y, (d_near - d_far, -d_near, d_far)


@wrong(TRIPLET, "the mean divides by the active triplets, the forward's by all")
def triplet_mean_of_active(inputs, dy, *, margin=1.0, eps=1e-6):
    y, grads = triplet_active(inputs, dy, margin=margin, eps=eps)
    active = (grads[1].abs().sum(1) > 0).sum().clamp(min=1)
    return y, tuple(grad * len(grad) / active for grad in grads)


# ---------------------------------------------------------------------------------------------------- densities


def gaussian_nll(mean, raw, target, *, floor=0.05):
    """The variance is softplus(raw), at least `floor`."""
    variance = F.softplus(raw).clamp(min=floor)
    return 0.5 * (variance.log() + (target - mean) ** 2 / variance).mean()


GAUSSIAN = Function(gaussian_nll, {"mean": (3, 7), "raw": normal(3, 7, scale=2), "target": (3, 7)}, {"floor": 0.2})


@right(GAUSSIAN, "with the inverse variance")
def gaussian_precision(inputs, dy, *, floor=0.05):
    mean, raw, target = inputs
    soft = torch.logaddexp(raw, torch.zeros_like(raw))
    precision = 1 / soft.clamp(min=floor)
    difference, scale = mean - target, dy / mean.numel()
    dmean = scale * difference * precision
    dvariance = 0.5 * scale * precision * (1 - difference**2 * precision)
    draw = dvariance * torch.sigmoid(raw) * (soft >= floor)
    return 0.5 * (difference**2 * precision - precision.log()).mean(), (dmean, draw, -dmean)


@wrong(GAUSSIAN, "the floor is not seen: where the variance is held at it, raw still gets a gradient")
def gaussian_floor_forgotten(inputs, dy, *, floor=0.05):
    y, (dmean, _, dtarget) = gaussian_precision(inputs, dy, floor=floor)
    mean, raw, target = inputs
    variance = F.softplus(raw).clamp(min=floor)
    dvariance = 0.5 * dy / mean.numel() * (1 - (mean - target) ** 2 / variance) / variance
    return y, (dmean, dvariance * torch.sigmoid(raw), dtarget)


@wrong(GAUSSIAN, "the variance's gradient lacks the term of its logarithm")
def gaussian_log_dropped(inputs, dy, *, floor=0.05):
    y, (dmean, draw, dtarget) = gaussian_precision(inputs, dy, floor=floor)
    soft = F.softplus(inputs[1])
    log_term = 0.5 * dy / inputs[0].numel() / soft.clamp(min=floor) * torch.sigmoid(inputs[1]) * (soft >= floor)
    return y, (dmean, draw - log_term, dtarget)


def mixture_nll(logits, mean, log_scale, target):
    """A mixture of Gaussians per row: logits, mean and log_scale (rows, components), target (rows,)."""
    z = (target[:, None] - mean) * torch.exp(-log_scale)
    log_density = -0.5 * z**2 - log_scale - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(F.log_softmax(logits, dim=-1) + log_density, dim=-1).mean()


MIXTURE = Function(
    mixture_nll,
    {"logits": (6, 3), "mean": (6, 3), "log_scale": uniform(6, 3, low=-0.7, high=0.7), "target": (6,)},
)


@right(MIXTURE, "by responsibilities")
def mixture_responsibilities(inputs, dy):
    logits, mean, log_scale, target = inputs
    z = (target[:, None] - mean) / log_scale.exp()
    joint = logits.log_softmax(-1) - 0.5 * z**2 - log_scale - 0.5 * math.log(2 * math.pi)
    share, scale = joint.softmax(-1), dy / len(target)
    dmean = -scale * share * z / log_scale.exp()
    return -joint.logsumexp(-1).mean(), (
        scale * (logits.softmax(-1) - share),
        dmean,
        scale * share * (1 - z * z),
        -dmean.sum(-1),
    )


@wrong(MIXTURE, "the scale's gradient lacks the 1 of the normalising constant")
def mixture_constant_dropped(inputs, dy):
    logits, mean, log_scale, target = inputs
    y, (dlogits, dmean, dlog_scale, dtarget) = mixture_responsibilities(inputs, dy)
    z = (target[:, None] - mean) / log_scale.exp()
    share = (logits.log_softmax(-1) - 0.5 * z**2 - log_scale).softmax(-1)
    return y, (dlogits, dmean, dlog_scale - dy / len(target) * share, dtarget)


@wrong(MIXTURE, "the responsibilities count as the mixture's own weights, so that the logits get no gradient")
def mixture_logits_zero(inputs, dy):
    y, (dlogits, *others) = mixture_responsibilities(inputs, dy)
    return y, (torch.zeros_like(dlogits), *others)
