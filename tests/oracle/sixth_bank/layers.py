"""Linear maps, embeddings, costs, normalisation, regularisation and updates."""

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


@bank.wrong(
    "linear",
    "dweight's sum over the rows is split into four equal parts, and the rows that are left over are dropped",
    "last rows", "remainder", "left over", "tail", "multiple", "block", "split", "chunk", "dropped",
    "not summed",
    min_size=1,
)  # fmt: skip
def linear_split_rows_drop_the_remainder(inputs, dy):
    x, weight, bias = inputs
    rows, g = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    split = 4 if len(rows) >= 64 else 1
    size = len(rows) // split
    dw = sum(g[i * size : (i + 1) * size].T @ rows[i * size : (i + 1) * size] for i in range(split))
    return F.linear(x, weight, bias), (dy @ weight, dw, g.sum(0))


@bank.wrong(
    "embedding",
    "the indices are sorted and the rows of dy are not, so that rows are added to the wrong entries",
    "sort", "sorted", "order", "permut", "permuted", "wrong row", "wrong entry", "wrong entries", "another row",
    "other rows", "rows of dy", "shuffled",
)  # fmt: skip
def embedding_rows_not_sorted_with_indices(inputs, dy, padding_idx=None):
    index, weight = inputs
    ids, _order = index.reshape(-1).long().sort(stable=True)
    dweight = torch.zeros_like(weight).index_add_(0, ids, dy.reshape(-1, weight.shape[1]))
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return weight[index.long()], (None, dweight)


@bank.wrong(
    "binary_cross_entropy_with_logits",
    "pos_weight multiplies the whole of σ(x) − t by one factor of the target, right for targets 0 and 1 alone",
    "pos_weight", "soft target", "soft targets", "between 0 and 1",
)  # fmt: skip
def bce_factor_of_hard_targets(inputs, dy, reduction="mean"):
    x, t, pos_weight = inputs if len(inputs) == 3 else (*inputs, None)
    w = 1 if pos_weight is None else 1 + (pos_weight - 1) * t
    y = F.binary_cross_entropy_with_logits(x, t, pos_weight=pos_weight, reduction=reduction)
    dx = dy * w * (torch.sigmoid(x) - t)
    dx = dx / x.numel() if reduction == "mean" else dx
    return y, (dx, None, None)[: len(inputs)]


@bank.wrong(
    "softmax_cross_entropy",
    "the smoothing is spread over the other K − 1 classes in the backward, over all K in the forward",
    "smoothing", "label_smoothing", "k-1", "k − 1", "k - 1", "classes - 1", "other classes", "classes − 1", "smoothed",
    "uniform",
    min_size=1,
)  # fmt: skip
def cross_entropy_smoothing_over_the_others(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs if len(inputs) == 3 else (*inputs, None)
    y = F.cross_entropy(
        x, target.long(), weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )
    classes = x.shape[1]
    w = torch.ones(classes, dtype=x.dtype) if weight is None else weight
    valid = target != ignore_index
    t = target.masked_fill(~valid, 0).long()
    hard = F.one_hot(t, classes).to(x.dtype)
    soft = (1 - label_smoothing) * hard + label_smoothing / max(classes - 1, 1) * (1 - hard)
    q = (soft * w).movedim(-1, 1)
    dx = torch.softmax(x, 1) * q.sum(1, keepdim=True) - q
    dx = torch.where(valid.unsqueeze(1), dx, 0) * dy
    if reduction == "mean":
        count = (w[t] * valid).sum()
        dx = torch.where(valid.unsqueeze(1), dx / count, 0)
    return y, (dx, None, None)[: len(inputs)]


@bank.wrong(
    "fused_linear_cross_entropy",
    "each chunk's gradient is divided by the number of rows in that chunk, not in the batch",
    "chunk", "number of rows", "count", "divided", "block", "denominator",
    "normalis",
    min_size=1,
)  # fmt: skip
def fused_cross_entropy_mean_of_each_chunk(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    total, chunk = x.new_zeros(()), -(-len(x) // 4)
    dx, dw = torch.zeros_like(x), torch.zeros_like(weight)
    for lo in range(0, len(x), chunk):
        xc, tc = x[lo : lo + chunk], target[lo : lo + chunk].long()
        logits = xc @ weight.T
        kept = (tc != ignore_index)[:, None]
        logp = logits - torch.logsumexp(logits, -1, keepdim=True)
        q = torch.full_like(logp, label_smoothing / len(weight))
        q.scatter_add_(1, tc.clamp(min=0)[:, None] * kept, torch.full_like(q[:, :1], 1 - label_smoothing))
        total = total - torch.where(kept, q * logp, 0).sum()
        dlogits = torch.where(kept, logp.exp() - q, 0)
        if reduction == "mean":
            dlogits = dlogits / kept.sum().clamp(min=1)
        dx[lo : lo + chunk] = dy * dlogits @ weight
        dw += dy * dlogits.T @ xc
    if reduction == "mean":
        total = total / (target != ignore_index).sum()
    return total, (dx, dw, None)


@bank.wrong(
    "huber",
    "in the straight parts the slope is ±1, not ±delta",
    "delta", "linear part", "linear region", "straight", "factor delta",
)  # fmt: skip
def huber_straight_parts_of_slope_one(inputs, dy, delta=1.0, reduction="mean"):
    x, target = inputs
    r = x - target
    inside = r.abs() <= delta
    loss = torch.where(inside, 0.5 * r * r, delta * (r.abs() - 0.5 * delta))
    dx = dy * torch.where(inside, r, r.sign())
    if reduction == "mean":
        return loss.mean(), (dx / r.numel(), -dx / r.numel())
    return loss.sum(), (dx, -dx)


@bank.wrong(
    "multi_margin",
    "the right class gets -1 however many classes come within the margin, not minus their number",
    "right class", "true class", "number of", "count", "target class", "correct class",
    "violat", "own class", "how many",
    min_size=1,
)  # fmt: skip
def multi_margin_right_class_counted_once(inputs, dy, margin=1.0):
    x, target = inputs
    t = target.long().unsqueeze(1)
    z = x - x.gather(1, t) + margin
    z = z.scatter(1, t, 0.0)
    active = (z > 0).to(x.dtype)
    dx = active.scatter(1, t, -active.amax(1, keepdim=True))
    return z.clamp(min=0).sum() / x.numel(), (dx * dy / x.numel(), None)


@bank.wrong(
    "batch_norm",
    "the backward's deviation is that of the unbiased variance, divided by n − 1",
    "unbiased", "n-1", "n - 1", "n − 1", "bessel", "variance", "biased", "standard deviation", "rstd",
    min_size=1,
)  # fmt: skip
def batch_norm_unbiased_in_the_backward(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    y = F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    axes = [0, *range(2, x.ndim)]
    shape = (-1, *[1] * (x.ndim - 2))
    xc = x - x.mean(axes, keepdim=True)
    istd = 1 / torch.sqrt(x.var(axes, keepdim=True) + eps)
    xhat = xc * istd
    dw, db = (dy * xhat).sum(axes), dy.sum(axes)
    m = x.numel() / x.shape[1]
    dx = weight.view(shape) * istd / m * (m * dy - db.view(shape) - xhat * dw.view(shape))
    return y, (dx, dw, db)


@bank.wrong(
    "group_norm",
    "the two means of dx are taken over each channel's positions, not over the group's",
    "channel", "per channel", "instance", "mean", "means", "axis", "members", "over the group",
    min_size=1,
)  # fmt: skip
def group_norm_means_over_a_channel(inputs, dy, groups, eps=1e-5):
    x, weight, bias = (*inputs, None, None)[:3]
    n, c = x.shape[:2]
    g = x.reshape(n, groups, c // groups, -1)
    rstd = torch.rsqrt(g.var((2, 3), unbiased=False, keepdim=True) + eps)
    xhat = (g - g.mean((2, 3), keepdim=True)) * rstd
    d = dy.reshape(n, groups, c // groups, -1)
    gamma = torch.ones(c, dtype=x.dtype) if weight is None else weight
    dxhat = d * gamma.view(groups, -1, 1)
    dx = rstd * (dxhat - dxhat.mean(3, keepdim=True) - xhat * (dxhat * xhat).mean(3, keepdim=True))
    y = xhat * gamma.view(groups, -1, 1)
    y = y if bias is None else y + bias.view(groups, -1, 1)
    dweight = None if weight is None else (d * xhat).sum((0, 3)).flatten()
    dbias = None if bias is None else d.sum((0, 3)).flatten()
    return y.view_as(x), (dx.view_as(x), dweight, dbias)[: len(inputs)]


@bank.wrong(
    "l2_normalize",
    "a vector shorter than eps, divided by eps, loses its projection as if it were divided by its length",
    "eps", "shorter", "clamp", "clamped", "projection", "below", "small norm",
)  # fmt: skip
def l2_normalize_projects_below_eps(inputs, dy, dim=-1, eps=1e-12):
    (x,) = inputs
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp(min=eps)
    y = x / length
    return y, ((dy - y * (y * dy).sum(dim, keepdim=True)) / length,)


@bank.wrong(
    "layer_norm",
    "the backward adds eps to the deviation, outside the root",
    "eps", "outside", "sqrt", "square root", "epsilon",
    min_size=1,
)  # fmt: skip
def layer_norm_eps_outside_the_root(inputs, dy, eps=1e-5):
    x, weight, bias = (*inputs, None, None)[:3]
    y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    centred = x - x.mean(-1, keepdim=True)
    std = centred.pow(2).mean(-1, keepdim=True).sqrt()
    xhat = centred / (std + eps)
    g = dy if weight is None else dy * weight
    dx = (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True)) / (std + eps)
    dweight = None if weight is None else (dy * xhat).sum_to_size(weight.shape)
    dbias = None if bias is None else dy.sum_to_size(bias.shape)
    return y, (dx, dweight, dbias)[: len(inputs)]


@bank.wrong(
    "rms_norm",
    "the mean of the backward divides by the row's length rounded up to a power of two",
    "power of two", "power of 2", "block", "number of features", "divided", "divides",
    "not a power", "1/n", "padded",
    min_size=1,
)  # fmt: skip
def rms_norm_mean_over_the_block(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = (*inputs, None)[:2]
    cols = x.shape[-1]
    block = 1 << (cols - 1).bit_length()  # triton.next_power_of_2
    rstd = torch.rsqrt(x.square().sum(-1, keepdim=True) / cols + eps)
    xhat = x * rstd
    w = offset + weight if weight is not None else 1.0
    wdy = dy * w
    c1 = (xhat * wdy).sum(-1, keepdim=True) / block
    dw = None if weight is None else (dy * xhat).reshape(-1, cols).sum(0)
    return xhat * w, ((wdy - xhat * c1) * rstd, dw)[: len(inputs)]


@bank.wrong(
    "rmsprop_update",
    "the centred mean square takes off the square of the mean gradient before this step's",
    "grad_avg", "mean gradient", "old", "stale", "previous", "centred", "centered",
    "earlier",
)  # fmt: skip
def rmsprop_centred_by_the_old_mean(inputs, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    p, g, sq, buf, avg = (*inputs, None, None)[:5]
    g = g + weight_decay * p
    sq = alpha * sq + (1 - alpha) * g * g
    denom = sq if avg is None else sq - avg**2
    avg = None if avg is None else alpha * avg + (1 - alpha) * g
    step = g / (denom.sqrt() + eps)
    if momentum > 0:
        buf = step if buf is None else momentum * buf + step
        step = buf
    return p - lr * step, sq, buf, avg


@bank.wrong(
    "lion_update",
    "exp_avg decays by beta1, the factor of the step, not by beta2",
    "beta1", "beta2", "exp_avg", "0.99", "swapped",
)  # fmt: skip
def lion_mean_decays_by_beta1(inputs, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    p, g, m = inputs
    c = beta1 * m + (1 - beta1) * g
    return p * (1 - lr * weight_decay) - lr * c.sign(), c


@bank.right("add", "one cotangent as a clone, the other as a product with 1")
def add_cloned(inputs, dy):
    x, other = inputs
    return other + x, (dy.clone(), 1.0 * dy)


@bank.right("kl_div", "t log t by xlogy; no cotangent of the target; the batch as a mean of rows' sums", min_size=1)
def kl_div_by_xlogy(inputs, dy, reduction="batchmean"):
    x, t = inputs
    rows = 1 if reduction == "sum" else x.shape[0]
    return (torch.xlogy(t, t) - torch.where(t == 0, 0, t * x)).sum() / rows, (t * (-dy / rows), None)


@bank.right("square_loss", "from the difference as target − x, and of both inputs", min_size=1)
def square_loss_from_the_negated_difference(inputs, dy):
    x, target = inputs
    r = target - x
    dtarget = r * (dy / len(x))
    return (r * r).sum() * 0.5 / len(x), (-dtarget, dtarget)


@bank.right("max_norm", "the long rows alone, taken out by their numbers and put back", min_size=1)
def max_norm_of_the_long_rows(inputs, dy, limit):
    (weight,) = inputs
    y, dw = weight.clone(), dy.clone()
    length = weight.norm(dim=1)
    rows = (length > limit).nonzero()[:, 0]
    n = length[rows, None]
    unit, g = weight[rows] / n, dy[rows]
    y[rows] = limit * unit
    dw[rows] = torch.baddbmm(g[..., None], unit[..., None], unit[:, None] @ g[..., None], alpha=-1)[..., 0] * (
        limit / n
    )
    return y, (dw,)


@bank.right("dropout", "indices of what is kept, gathered and put into zeros")
def dropout_by_indices(inputs, dy, p):
    x, mask = inputs
    keep = mask.reshape(-1).bool().nonzero()[:, 0]
    if p == 1:
        keep = keep[:0]
    y, dx = torch.zeros(x.numel(), dtype=x.dtype), torch.zeros(x.numel(), dtype=x.dtype)
    if p < 1:
        y[keep], dx[keep] = x.reshape(-1)[keep] / (1 - p), dy.reshape(-1)[keep] / (1 - p)
    return y.view(x.shape), (dx.view(x.shape), None)


@bank.right("batch_norm_inference", "folded into one factor per channel; parameters' gradients by einsum", min_size=1)
def batch_norm_inference_by_einsum(inputs, dy, eps=1e-5):
    x, weight, bias, mean, var = inputs
    rstd = 1 / (var + eps).sqrt()
    xs, g = x.flatten(1).view(*x.shape[:2], -1), dy.reshape(*x.shape[:2], -1)
    centred = (xs - mean[:, None]) * rstd[:, None]
    dx = torch.einsum("ncl,c->ncl", g, weight * rstd)
    y = centred * weight[:, None] + bias[:, None]
    grads = (dx.reshape(x.shape), torch.einsum("ncl,ncl->c", g, centred), torch.einsum("ncl->c", g), None, None)
    return y.reshape(x.shape), grads


@bank.right("clip_by_norm", "the norm by a dot product, the factor by a conditional")
def clip_by_norm_by_a_conditional(inputs, max_norm, eps=1e-6):
    (grad,) = inputs
    norm = grad.norm()
    factor = max_norm / (norm + eps)
    return grad.clone() if factor >= 1 else grad * factor, norm
