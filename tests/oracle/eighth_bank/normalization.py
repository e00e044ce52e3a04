"""Layer, RMS, group and batch norm: programs of a row each, partial buffers, saved statistics."""

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


@bank.wrong(
    "layer_norm",
    "each program sums the same number of rows into its partial dweight and dbias, and the rows left over have none",
    "rows",
    "row",
    "remainder",
    "multiple of",
    "last",
    "tail",
    mend=("len(xhat) // programs", "-(-len(xhat) // programs)"),
    min_size=1,
)
def layer_norm_drops_the_last_rows(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    width = x.shape[-1]
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    centred = centred - centred.mean(-1, keepdim=True)
    rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    normal = centred * rstd
    y = normal if weight is None else normal * weight
    y = y if bias is None else y + bias

    wdy = dy if weight is None else dy * weight
    c1 = (normal * wdy).mean(-1, keepdim=True)
    c2 = wdy.mean(-1, keepdim=True)
    dx = (wdy - (normal * c1 + c2)) * rstd

    xhat, flat = normal.reshape(-1, width), dy.reshape(-1, width)
    programs = max(1, min(4, len(xhat)))
    rows = len(xhat) // programs
    partial_w, partial_b = x.new_zeros(programs, width), x.new_zeros(programs, width)
    for program in range(programs):
        mine = slice(program * rows, (program + 1) * rows)
        partial_w[program] = (flat[mine] * xhat[mine]).sum(0)
        partial_b[program] = flat[mine].sum(0)
    dweight = None if weight is None else partial_w.sum(0)
    return y, (dx, dweight, None if bias is None else partial_b.sum(0))


@bank.wrong(
    "layer_norm",
    "a row wider than a tile of 32 columns has its two means taken over each tile alone",
    "mean",
    "tile",
    "block",
    "32",
    "33",
    "columns",
    "features",
    "last axis",
    "projection",
    mend=("c1, c2 = means(g[..., cols] * xhat[..., cols]), means(g[..., cols])", "c1, c2 = means(g * xhat), means(g)"),
    min_size=1,
)
def layer_norm_means_of_a_tile(inputs, dy, eps=1e-5):
    x, weight, bias = inputs

    def means(part):
        return part.mean(-1, keepdim=True)

    centred = x - means(x)
    centred = centred - means(centred)
    rstd = torch.rsqrt(means(centred * centred) + eps)
    xhat = centred * rstd
    y = xhat if weight is None else xhat * weight
    y = y if bias is None else y + bias

    g = dy if weight is None else dy * weight
    dx = torch.empty_like(x)
    for start in range(0, x.shape[-1], 32):
        cols = slice(start, start + 32)
        c1, c2 = means(g[..., cols] * xhat[..., cols]), means(g[..., cols])
        dx[..., cols] = rstd * (g[..., cols] - c2 - xhat[..., cols] * c1)
    dweight = None if weight is None else (dy * xhat).reshape(-1, x.shape[-1]).sum(0)
    return y, (dx, dweight, None if bias is None else dy.reshape(-1, x.shape[-1]).sum(0))


@bank.wrong(
    "rms_norm",
    "the projection takes the mean of dy · x̂ and leaves the weight out of it",
    "weight",
    "projection",
    mend=("c = (dy * xhat).mean(-1, keepdim=True)", "c = (wdy * xhat).mean(-1, keepdim=True)"),
    min_size=1,
)
def rms_norm_projection_without_weight(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    rstd = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    xhat = x * rstd
    scale = 1.0 if weight is None else weight + offset
    wdy = dy * scale
    c = (dy * xhat).mean(-1, keepdim=True)
    dx = (wdy - xhat * c) * rstd
    dweight = None if weight is None else (dy * xhat).reshape(-1, x.shape[-1]).sum(0)
    return xhat * scale, (dx, dweight)


@bank.wrong(
    "rms_norm",
    "dweight is added up in bfloat16",
    "bfloat16",
    "16 bits",
    "16-bit",
    "precision",
    "round",
    "digits",
    "bits",
    mend=("dtype=torch.bfloat16", "dtype=x.dtype"),
    min_size=1,
)
def rms_norm_adds_in_sixteen_bits(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    rstd = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    xhat = x * rstd
    scale = 1.0 if weight is None else weight + offset
    wdy = dy * scale
    dx = (wdy - xhat * (wdy * xhat).mean(-1, keepdim=True)) * rstd
    if weight is None:
        return xhat * scale, (dx, None)
    dweight = torch.zeros(x.shape[-1], dtype=torch.bfloat16)
    for part in (dy * xhat).reshape(-1, x.shape[-1]).split(64):  # an atomic add of each program
        dweight += part.sum(0)
    return xhat * scale, (dx, dweight.to(x.dtype))


@bank.wrong(
    "group_norm",
    "the two sums over a group are divided by its channels, and not by its places too",
    "space",
    "mean",
    "divide",
    "number of",
    "group",
    "sum",
    mend=("n = x.shape[1] // groups", "n = xhat.shape[-1]"),
    min_size=1,
)
def group_norm_counts_channels(inputs, dy, groups, eps=1e-5):
    x, weight, bias = inputs
    batch, channels = x.shape[:2]
    like = (1, channels) + (1,) * (x.ndim - 2)
    rows = x.reshape(batch, groups, -1)
    centred = rows - rows.mean(-1, keepdim=True)
    centred = centred - centred.mean(-1, keepdim=True)
    rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    xhat = centred * rstd
    y = xhat.reshape(x.shape)
    y = y if weight is None else y * weight.view(like)
    y = y if bias is None else y + bias.view(like)

    g = (dy if weight is None else dy * weight.view(like)).reshape(rows.shape)
    n = x.shape[1] // groups
    ds, db = (g * xhat).sum(-1, keepdim=True), g.sum(-1, keepdim=True)
    dx = rstd * (g - db / n - xhat * ds / n)
    others = (0, *range(2, x.ndim))
    dweight = None if weight is None else (dy * xhat.reshape(x.shape)).sum(others)
    return y, (dx.reshape(x.shape), dweight, None if bias is None else dy.sum(others))


@bank.wrong(
    "batch_norm",
    "the means of backward are divided by n − 1, as the running variance is",
    "n - 1",
    "n − 1",
    "unbiased",
    "bessel",
    "mean",
    "divide",
    mend=("count = xhat.shape[1] - 1", "count = xhat.shape[1]"),
)
def batch_norm_divides_by_one_less(inputs, dy, eps=1e-5):
    x, weight, bias = inputs
    channels = x.shape[1]
    rows = x.transpose(0, 1).reshape(channels, -1)
    g = dy.transpose(0, 1).reshape(channels, -1)
    centred = rows - rows.mean(1, keepdim=True)
    centred = centred - centred.mean(1, keepdim=True)
    rstd = torch.rsqrt((centred * centred).mean(1, keepdim=True) + eps)
    xhat = centred * rstd
    sum_dy, sum_dy_xhat = g.sum(1, keepdim=True), (g * xhat).sum(1, keepdim=True)
    count = xhat.shape[1] - 1
    dx = weight[:, None] * rstd * (g - sum_dy / count - xhat * sum_dy_xhat / count)
    y = xhat * weight[:, None] + bias[:, None]

    def back(flat):
        return flat.reshape(channels, x.shape[0], *x.shape[2:]).transpose(0, 1)

    return back(y), (back(dx), sum_dy_xhat[:, 0], sum_dy[:, 0])
