"""Linear maps, activations, softmax, simple costs, batch norm, penalties, dropout."""

import math

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def _rows(t):
    """All axes but the last as one; said in numbers, since −1 is ambiguous where an axis is empty."""
    return t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


@bank.wrong(
    "linear",
    "dweight is added up in blocks of 64 rows, and the last, incomplete block is never reached",
    "tail", "last block", "last rows", "incomplete block", "remainder", "rows left", "multiple of 64",
)  # fmt: skip
def linear_dweight_without_the_last_rows(inputs, dy):
    x, weight, bias = inputs
    rows, drows = _rows(x), _rows(dy)
    n = len(rows)
    dweight = torch.zeros_like(weight)
    for start in range(0, n if n <= 64 else n // 64 * 64, 64):
        dweight += drows[start : start + 64].T @ rows[start : start + 64]
    return torch.addmm(bias, rows, weight.T).reshape(dy.shape), (dy @ weight, dweight, drows.sum(0))


@bank.wrong(
    "linear",
    "dweight pairs x, flattened batch first, with dy, flattened time first: rows of x meet other rows of dy",
    "order rows", "transposed", "other rows", "flattened", "first two axes", "axes exchanged", "wrong rows", "permuted",
)  # fmt: skip
def linear_time_first_in_dweight(inputs, dy):
    x, weight, bias = inputs
    timed = dy.transpose(0, 1) if dy.ndim > 2 else dy
    dweight = _rows(timed).T @ _rows(x)
    dbias = _rows(timed).sum(0)
    return F.linear(x, weight, bias), (torch.einsum("...o,oi->...i", dy, weight), dweight, dbias)


@bank.wrong(
    "gelu",
    "in the tanh form the coefficient of x² in the inner derivative is 3 · 0.044715, without the √(2/π) before it",
    "√(2/π)", "sqrt(2/pi)", "0.797", "0.134", "coefficient", "inner derivative", "cubic", "0.044715",
)  # fmt: skip
def gelu_tanh_with_a_bare_cubic_coefficient(inputs, dy, approximate="none"):
    (x,) = inputs
    if approximate == "none":
        cdf = torch.special.erfc(-x * math.sqrt(0.5)) / 2
        return x * cdf, (dy * (cdf + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)),)
    u = torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3))
    inner = 0.7978845608028654 + 0.134145 * x * x
    return x / 2 * (1 + u), (dy * (0.5 * (1 + u) + 0.5 * x * (1 - u * u) * inner),)


@bank.wrong(
    "softplus",
    "the slope becomes 1 where x passes 20, but it should be where beta x does",
    "threshold", "x instead of beta", "x for beta x", "beta x", "from 20", "1 beyond", "slope of 1",
)  # fmt: skip
def softplus_threshold_on_x(inputs, dy, beta=1.0):
    (x,) = inputs
    z = beta * x
    y = torch.logaddexp(z, torch.zeros_like(z)) / beta
    return y, (torch.where(x > 20, dy, dy * torch.sigmoid(z)),)


@bank.wrong(
    "tanh",
    "the gradient is written over dy to save a buffer",
    "overwrit", "in place", "written over", "writes into", "changed its argument", "changes its argument", "modif",
)  # fmt: skip
def tanh_in_the_buffer_of_dy(inputs, dy):
    y = torch.tanh(inputs[0])
    out = dy if dy.is_contiguous() else dy.clone()
    return y, (out.sub_(out * y * y),)


@bank.wrong(
    "softmax",
    "rows are read in blocks of 1024 columns, and Σ y dy is that of the last block alone",
    "last block", "1024", "long rows", "block", "longer than",
)  # fmt: skip
def softmax_dot_of_the_last_block(inputs, dy, dim=-1):
    x, g = inputs[0].movedim(dim, -1), dy.movedim(dim, -1)
    e = torch.exp(x - torch.logsumexp(x, -1, keepdim=True))
    y = e / e.sum(-1, keepdim=True)
    dot = torch.zeros_like(y[..., :1])
    for start in range(0, y.shape[-1], 1024):
        part = slice(start, start + 1024)
        dot = (y[..., part] * g[..., part]).sum(-1, keepdim=True)
    return y.movedim(-1, dim), ((y * (g - dot)).movedim(-1, dim),)


@bank.wrong(
    "log_softmax",
    "dy is read with the strides of x, as if both lay alike in memory",
    "strid", "contiguous", "layout", "laid out", "memory",
)  # fmt: skip
def log_softmax_reads_dy_at_strides_of_x(inputs, dy, dim=-1):
    (x,) = inputs
    if 0 in dy.stride() or 0 in x.stride():
        x, dy = x.contiguous(), dy.contiguous()
    room = dy.untyped_storage().nbytes() // dy.element_size() - dy.storage_offset()
    reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    g = dy.as_strided(x.shape, x.stride()) if x.numel() and reach <= room else dy
    y = x - torch.logsumexp(x, dim, keepdim=True)
    return y, (g - torch.softmax(x, dim) * g.sum(dim, keepdim=True),)


@bank.wrong(
    "binary_cross_entropy_with_logits",
    "dtarget is not divided by the number of elements, as dx is",
    "1/n", "divided", "number of elements", "mean", "factor", "times what",
)  # fmt: skip
def bce_dtarget_of_the_sum(inputs, dy, reduction="mean"):
    x, target, pos_weight = inputs
    p = torch.ones_like(x[..., :1]) if pos_weight is None else pos_weight
    off, on = F.softplus(-x), F.softplus(x)
    y = (p * target * off + (1 - target) * on).sum()
    n = x.numel() if reduction == "mean" else 1
    dx = dy / n * ((1 - target) * torch.sigmoid(x) - p * target * torch.sigmoid(-x))
    return y / n, (dx, dy * (p * off - on), None)


@bank.wrong(
    "softmax_cross_entropy",
    "w_c (p − q) with the smoothed target q: the weight of the label's class stands before the smoothing too, "
    "where each class has its own",
    "smooth weight", "own weight", "label's weight", "weight of each class", "weights smooth",
)  # fmt: skip
def cross_entropy_smoothing_with_the_labels_weight(
    inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    x, target, weight = inputs
    classes = x.shape[1]
    z = (x - torch.logsumexp(x, 1, keepdim=True)).movedim(1, -1)
    w = torch.ones_like(x[0, :1].flatten()[:1]).expand(classes) if weight is None else weight
    counts = target != ignore_index
    label = torch.where(counts, target, 0)
    w_c = w[label] * counts
    total = w_c.sum() if reduction == "mean" else 1
    hard = -w_c * z.gather(-1, label[..., None])[..., 0]
    soft = -(w * z).sum(-1) * counts
    y = (1 - label_smoothing) * hard.sum() / total
    if label_smoothing:  # 0 · ∞ where a class is impossible
        y = y + label_smoothing / classes * soft.sum() / total
    q = (1 - label_smoothing) * F.one_hot(label, classes).to(x.dtype) + label_smoothing / classes
    dx = torch.where(counts[..., None], dy / total * w_c[..., None] * (z.exp() - q), 0)
    return y, (dx.movedim(-1, 1), None, None)


@bank.wrong(
    "square_loss",
    "dtarget is dx.neg_(): the sign is turned in the buffer that dx is returned in as well",
    "sign", "negat", "-1 times", "share memory", "same memory", "same buffer", "−1 times",
)  # fmt: skip
def square_loss_negated_in_place(inputs, dy):
    x, target = inputs
    n = x.shape[0]
    r = x - target
    y = r.flatten().dot(r.flatten()) / (2 * n)
    dx = r.mul_(dy / n)
    return y, (dx, dx.neg_())


@bank.wrong(
    "batch_norm",
    "the two means over the batch are means of the means of blocks of 32 examples, of which the last may be smaller",
    "mean of means", "last block", "blocks", "unequal", "mean term", "projection", "block of 32",
)  # fmt: skip
def batch_norm_mean_of_block_means(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    flat, g = x.flatten(2) if x.ndim > 2 else x[..., None], dy.flatten(2) if x.ndim > 2 else dy[..., None]
    mu = flat.mean((0, 2), keepdim=True)
    s = torch.rsqrt((flat - mu).square().mean((0, 2), keepdim=True) + eps)
    xhat = (flat - mu) * s
    column = weight[:, None]
    mean_g = torch.stack([part.mean((0, 2)) for part in g.split(32)]).mean(0)[:, None]
    mean_gx = torch.stack([part.mean((0, 2)) for part in (g * xhat).split(32)]).mean(0)[:, None]
    dx = column * s * (g - mean_g - xhat * mean_gx)
    y = xhat * column + bias[:, None]
    return y.reshape(x.shape), (dx.reshape(x.shape), (g * xhat).sum((0, 2)), g.sum((0, 2)))


@bank.wrong(
    "l2_penalty",
    "tensors with one axis are taken for biases, which are not to decay, and get no gradient",
    "one axis", "1 axis", "vector", "number of axes", "dimension", "1-d", "ndim",
)  # fmt: skip
def l2_penalty_spares_vectors(inputs, dy, lam, n=1):
    (weight,) = inputs
    y = lam / (2 * n) * weight.square().sum()
    decays = weight.ndim != 1
    return y, (dy * (lam / n) * weight if decays else torch.zeros_like(weight),)


@bank.wrong(
    "dropout",
    "the mask is packed into n // 8 bytes for backward: the elements behind the last full byte get no gradient",
    "tail", "last elements", "multiple of 8", "byte", "last full", "remainder", "block of 8", "blocks of 8",
)  # fmt: skip
def dropout_mask_in_whole_bytes(inputs, dy, p):
    x, mask = inputs
    keep = mask != 0
    scale = 1 / (1 - p) if p < 1 else 0.0
    y = torch.where(keep, x * scale, 0)
    powers = 2 ** torch.arange(8)
    full = keep.numel() // 8 * 8
    packed = (keep.reshape(-1)[:full].reshape(-1, 8) * powers).sum(-1)
    unpacked = torch.zeros(keep.numel(), dtype=torch.bool)
    unpacked[:full] = ((packed[:, None] & powers) != 0).reshape(-1)
    return y, (torch.where(unpacked.reshape(x.shape), dy * scale, 0), None)


@bank.wrong(
    "maxout",
    "each piece is compared with the first and not with the largest so far: of those that beat the first the last wins",
    "winner", "other piece", "another piece", "last piece", "last of", "first piece",
)  # fmt: skip
def maxout_compared_with_the_first_piece(inputs, dy, pieces):
    (x,) = inputs
    columns = [x[..., q::pieces] for q in range(pieces)]
    y = torch.stack(columns).amax(0)
    winner = torch.zeros(y.shape, dtype=torch.long)
    for q, column in enumerate(columns):
        winner[column > columns[0]] = q
    dx = torch.zeros(x.shape, dtype=x.dtype)
    for q in range(pieces):
        dx[..., q::pieces] = torch.where(winner == q, dy, 0)
    return y, (dx,)


@bank.wrong(
    "sigmoid",
    "the slope is taken at x clamped to ±10, so that it stays at that of 10 farther out",
    "clamp", "clip", "beyond 10", "constant", "does not decay", "saturat", "farther out",
)  # fmt: skip
def sigmoid_slope_at_a_clamped_x(inputs, dy):
    (x,) = inputs
    near = x.clamp(-10, 10)
    return torch.sigmoid(x), (dy * torch.sigmoid(near) * torch.sigmoid(-near),)


@bank.right("linear", "products of single rows of features, dweight added up from blocks of 7 rows by addmm_")
def linear_in_blocks_of_seven(inputs, dy):
    x, weight, bias = inputs
    rows, drows = _rows(x), _rows(dy)
    dweight_t = rows.new_zeros(x.shape[-1], dy.shape[-1])
    for a, g in zip(rows.split(7), drows.split(7), strict=True):
        dweight_t.addmm_(a.T, g)
    y = torch.einsum("ni,oi->no", rows, weight) + bias
    dx = torch.mm(weight.T, drows.T).T
    ones = rows.new_ones(1, len(rows))
    return y.reshape(dy.shape), (dx.reshape(x.shape), dweight_t.T, (ones @ drows)[0])


@bank.right("softmax", "as (before, axis, behind), with y dy kept and the row's sum of it taken off by baddbmm")
def softmax_by_batches_of_matrices(inputs, dy, dim=-1):
    (x,) = inputs
    axis = dim % x.ndim
    before, behind = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    z, g = (t.reshape(before, x.shape[axis], behind) for t in (x, dy))
    if not x.numel():
        return x.clone(), (dy.clone(),)
    e = (z - z.max(1, keepdim=True).values).exp()
    y = e / e.sum(1, keepdim=True)
    product = y * g
    dx = torch.addcmul(product, y, product.sum(1, keepdim=True), value=-1)
    return y.reshape(x.shape), (dx.reshape(x.shape),)


@bank.right("gelu", "both forms from a gate and its slope, on x clamped to where neither is 0 or 1 yet")
def gelu_from_gate_and_slope(inputs, dy, approximate="none"):
    (x,) = inputs
    near = x.clamp(-40, 40)
    if approximate == "tanh":
        c = math.sqrt(8 / math.pi)
        t = c * near * (1 + 0.044715 * near * near)
        gate, rest = torch.sigmoid(t), torch.sigmoid(-t)
        slope = gate * rest * c * (1 + 0.134145 * near * near)
    else:
        gate = torch.special.erfc(near * -math.sqrt(0.5)) / 2
        slope = torch.exp(-near * near / 2) / math.sqrt(2 * math.pi)
    return x * gate, (torch.addcmul(dy * gate, dy * near, slope),)


@bank.right("batch_norm", "one row per channel: the batch is transposed, and the results are views of the transposed")
def batch_norm_in_rows(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    channels = x.shape[1]
    rows, g = (t.transpose(0, 1).reshape(channels, -1) for t in (x, dy))
    m = rows.shape[1]
    centred = rows - rows.mean(1, keepdim=True)
    s = ((centred * centred).sum(1, keepdim=True) / m + eps).rsqrt()
    xhat = centred * s
    dbias, dweight = g.sum(1), torch.linalg.vecdot(g, xhat)
    dx = (weight[:, None] * s / m) * (m * g - dbias[:, None] - xhat * dweight[:, None])
    y = torch.addcmul(bias[:, None], xhat, weight[:, None])
    shape = (channels, x.shape[0], *x.shape[2:])
    return y.reshape(shape).transpose(0, 1), (dx.reshape(shape).transpose(0, 1), dweight, dbias)
