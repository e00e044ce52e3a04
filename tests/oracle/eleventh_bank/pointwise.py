"""Of activations, norms and losses."""

import torch
from torch.nn import functional

import manual_bp as bp
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def channelwise(t, x):
    return t.reshape(1, -1, *[1] * (x.ndim - 2))


@bank.wrong(
    "log_softmax",
    "dy.sum(-1, keepdim=True)",
    "dy.sum(dim, keepdim=True)",
    cause="the sum of dy goes along the last axis, and not along dim",
    keywords=("dim", "axis", "axes"),
)
def log_softmax_sum_along_the_last_axis(inputs, dy, dim=-1):
    (x,) = inputs
    y, _ = bp.log_softmax.forward(x, dim=dim)
    return y, (dy - torch.exp(y) * dy.sum(-1, keepdim=True),)


@bank.wrong(
    "mish",
    "x * (1 - t * t)",
    "x * (1 - t * t) * torch.sigmoid(x)",
    cause="σ(x), the inner slope of softplus, is missing",
    keywords=("sigmoid", "σ", "inner", "softplus"),
)
def mish_without_the_slope_of_softplus(inputs, dy):
    (x,) = inputs
    y, _ = bp.mish.forward(x)
    t = torch.tanh(functional.softplus(x))
    return y, (dy * (t + x * (1 - t * t)),)


@bank.wrong(
    "maxout",
    "won.mT",
    "won",
    cause="pieces of a unit are taken to lie units apart, and not beside each other",
    keywords=("interleav", "transpos", "stride", "layout", "apart", "consecutive", "order", "reshape", "permut"),
)
def maxout_pieces_lie_units_apart(inputs, dy, pieces):
    (x,) = inputs
    y, kept = bp.maxout.forward(x, pieces=pieces)
    won = functional.one_hot(kept.winner, pieces) * dy[..., None]
    return y, (won.mT.reshape(x.shape),)


@bank.wrong(
    "softplus",
    "beta * dy *",
    "dy *",
    cause="beta multiplies dx, where it cancels with the 1/beta of forward",
    keywords=("beta",),
)
def softplus_beta_once_too_often(inputs, dy, beta=1.0):
    (x,) = inputs
    y, _ = bp.softplus.forward(x, beta=beta)
    return y, (beta * dy * torch.sigmoid(beta * x),)


@bank.wrong(
    "l2_normalize",
    "x * (along / norm)",
    "x / norm * (along / norm)",
    cause="the projection goes along x itself, and not along its direction: it is divided by the norm once too rarely",
    keywords=("norm", "‖x‖", "direction", "unit length", "x in place of y", "`x` in place of `y`"),
)
def l2_normalize_projection_along_x(inputs, dy, dim=-1, eps=1e-12):
    (x,) = inputs
    y, _ = bp.l2_normalize.forward(x, dim=dim, eps=eps)
    norm = (x * x).sum(dim, keepdim=True).sqrt()
    along = (x * dy).sum(dim, keepdim=True) / norm
    projection = x * (along / norm)
    return y, (torch.where(norm < eps, dy / eps, dy / norm - projection),)


@bank.wrong(
    "group_norm",
    "(g * x_hat).sum(-1, keepdim=True) / members",
    "(g * x_hat).mean(-1, keepdim=True)",
    cause="the projection is divided by the number of a group's channels, and not by that of its values",
    keywords=("divid", "divisor", "mean", "count", "number of", "/ n", "1/n", "sum", "space"),
)
def group_norm_divided_by_channels(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    y, _ = bp.group_norm.forward(x, weight, bias, groups=groups, eps=eps)
    members = x.shape[1] // groups
    rows = x.reshape(x.shape[0], groups, x.shape[1:].numel() // groups)
    centred = rows - rows.mean(-1, keepdim=True)
    centred = centred - centred.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    x_hat = centred * rstd
    g = (dy if weight is None else dy * channelwise(weight, dy)).reshape(rows.shape)
    projection = x_hat * ((g * x_hat).sum(-1, keepdim=True) / members)
    dx = rstd * (g - g.mean(-1, keepdim=True) - projection)
    axes = (0, *range(2, x.ndim))
    dweight = None if weight is None else (dy * x_hat.reshape(x.shape)).sum(axes)
    return y, (dx.reshape(x.shape), dweight, None if bias is None else dy.sum(axes))


@bank.wrong(
    "batch_norm_inference",
    "x.mean(axes)",
    "running_mean",
    cause="dweight takes the mean of the batch away, and not the running one",
    keywords=("running", "batch's", "of the batch", "batch mean", "mean of x", "statistic"),
)
def batch_norm_inference_dweight_by_the_batch(inputs, dy, eps=1e-5):
    x, weight, bias, running_mean, running_var = inputs
    y, _ = bp.batch_norm_inference.forward(x, weight, bias, running_mean, running_var, eps=eps)
    axes = (0, *range(2, x.ndim))
    rstd = 1 / torch.sqrt(running_var + eps)
    x_hat = (x - channelwise(x.mean(axes), x)) * channelwise(rstd, x)
    return y, (dy * channelwise(weight * rstd, x), (dy * x_hat).sum(axes), dy.sum(axes), None, None)


@bank.wrong(
    "rms_norm",
    "(dy * x)",
    "(dy * x * rstd)",
    cause="dweight is made of x, and not of the normalised x",
    keywords=("normalis", "normaliz", "x̂", "x_hat", "rstd", "without s", "x · s", "x s", "x * s", "s left", "s is"),
)
def rms_norm_dweight_of_x_itself(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, _ = bp.rms_norm.forward(x, weight, eps=eps, offset=offset)
    rstd = 1 / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)
    g = dy if weight is None else dy * (weight + offset)
    dx = rstd * (g - x * rstd * (g * x * rstd).mean(-1, keepdim=True))
    dweight = None if weight is None else (dy * x).sum_to_size(weight.shape)
    return y, (dx, dweight)


@bank.wrong(
    "layer_norm",
    "dy.mean(-1, keepdim=True)",
    "g.mean(-1, keepdim=True)",
    cause="the mean term is that of dy, before the weight",
    keywords=("weight", "mean(dy)", "dy in place of g", "`dy` in place of `g`", "mean of dy"),
)
def layer_norm_mean_of_dy(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    y, _ = bp.layer_norm.forward(x, weight, bias, eps=eps)
    centred = x - x.mean(-1, keepdim=True)
    centred = centred - centred.mean(-1, keepdim=True)
    rstd = 1 / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)
    x_hat = centred * rstd
    g = dy if weight is None else dy * weight
    dx = rstd * (g - dy.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True))
    dweight = None if weight is None else (dy * x_hat).sum_to_size(weight.shape)
    return y, (dx, dweight, None if bias is None else dy.sum_to_size(bias.shape))


@bank.wrong(
    "max_norm",
    "(dy - u * along) / norm",
    "limit * (dy - u * along) / norm",
    cause="the cotangent of a row that was too long lacks the limit",
    keywords=("limit",),
)
def max_norm_without_the_limit(inputs, dy, limit):
    (weight,) = inputs
    y, _ = bp.max_norm.forward(weight, limit=limit)
    norm = weight.square().sum(1, keepdim=True).sqrt()
    u = weight / norm
    along = (u * dy).sum(1, keepdim=True)
    return y, (torch.where(norm > limit, (dy - u * along) / norm, dy),)


@bank.wrong(
    "kl_div",
    "(target.log() - x)",
    "(target.log() + 1 - x)",
    cause="dtarget lacks the 1 that comes of t · 1/t",
    keywords=("+ 1", "+1", "the 1", "1 is", "1 left out", "product rule", "log t − x", "1/t", "constant 1"),
)
def kl_div_dtarget_without_the_1(inputs, dy, reduction="batchmean"):
    x, target = inputs
    y, _ = bp.kl_div.forward(x, target, reduction=reduction)
    share = dy / len(x) if reduction == "batchmean" and len(x) else dy
    return y, (-share * target, share * (target.log() - x))


@bank.wrong(
    "multi_margin",
    "-over.sum(1)",
    "1 - over.sum(1)",
    cause="the right class is counted among those that violate the margin",
    keywords=("right class", "itself", "own", "target", "count", "one more", "k ≠ c", "is_right"),
)
def multi_margin_counts_the_right_class(inputs, dy, margin=1.0):
    x, target = inputs
    y, _ = bp.multi_margin.forward(x, target, margin=margin)
    rows = torch.arange(len(x), device=x.device)
    over = (x - x[rows, target.long()][:, None] + margin > 0).to(x.dtype)
    over[rows, target.long()] = 1
    slope = over.clone()
    slope[rows, target.long()] = -over.sum(1)
    return y, (dy * slope / max(x.numel(), 1), None)


@bank.wrong(
    "softmax_cross_entropy",
    "label_smoothing / (classes - 1)",
    "label_smoothing / classes",
    cause="backward spreads the smoothing over K − 1 classes, and forward over K",
    keywords=("k − 1", "k - 1", "classes − 1", "classes - 1", "smoothing", "n − 1", "n - 1", "(n − 1)"),
    min_size=2,
)
def cross_entropy_smoothed_over_the_other_classes(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    hyper = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    y, kept = bp.softmax_cross_entropy.forward(x, target, weight, **hyper)
    classes = x.shape[1]
    each = torch.ones(classes, dtype=x.dtype, device=x.device) if weight is None else weight
    counts = target != ignore_index
    label = torch.where(counts, target, 0).long()
    wanted = torch.zeros_like(x).scatter(1, label[:, None], 1)
    of_label = each[label][:, None]
    p, minus = torch.exp(kept.log_p), torch.expm1(kept.log_p)
    hard = of_label * torch.where(wanted > 0, minus, p)
    soft = p * each.sum() - channelwise(each, x)
    dx = (1 - label_smoothing) * hard + label_smoothing / (classes - 1) * soft
    n = (each[label] * counts).sum() if reduction == "mean" else 1
    return y, (torch.where(counts[:, None], dy * dx / n, 0), None, None)


@bank.wrong(
    "fused_linear_cross_entropy",
    "dy * kept.dx, kept.dweight",
    "dy * kept.dx, dy * kept.dweight",
    cause="dweight, which forward made, is not multiplied by dy",
    keywords=("dy", "cotangent", "upstream"),
)
def fused_cross_entropy_dweight_without_dy(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    hyper = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    y, kept = bp.fused_linear_cross_entropy.forward(x, weight, target, **hyper)
    return y, (dy * kept.dx, kept.dweight, None)
