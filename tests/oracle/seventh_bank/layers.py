"""What goes wrong beyond a size, at a remainder, in a layout, at some elements."""

import torch

import manual_bp as bp
from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def right(name, inputs, dy, **hyper):
    """The page's own answer, as a list of cotangents."""
    y, grads = bp.RULES[name].vjp(inputs, dy, **hyper)
    return y, [None if g is None else g.clone() for g in grads]


@bank.wrong(
    "relu",
    "one block of 1024 threads is launched: what comes after is never written, and is 0",
    "1024",
    "1023",
    "1025",
    "position",
    "number of elements",
)
def relu_in_one_block_of_1024(inputs, dy):
    y, (dx,) = right("relu", inputs, dy)
    index = torch.arange(dx.numel()).reshape(dx.shape)
    return y, (torch.where(index < 1024, dx, 0),)


@bank.wrong(
    "sigmoid", "dy is read in the order of memory, whatever its strides", "contiguous", "layout", "stride", "order"
)
def sigmoid_reads_memory(inputs, dy):
    y, _ = right("sigmoid", inputs, dy)
    flat = torch.as_strided(dy, (dy.numel(),), (1,)) if all(dy.stride()) else dy.reshape(-1)
    return y, (flat.reshape(dy.shape) * y * (1 - y),)


@bank.wrong("silu", "the slope is 0 below -9 where it is thought to underflow", "x <", "x ≤", "smallest", "below")
def silu_cut_off_below(inputs, dy):
    y, (dx,) = right("silu", inputs, dy)
    return y, (torch.where(inputs[0] < -9, dx * 0, dx),)


@bank.wrong(
    "hardswish",
    "for negative x the slope is 0, where it is x/3 + 1/2 from -3 on",
    "x <",
    "negative",
    "min(",
    "max(",
    "largest",
    "y <",
    "|y|",
)
def hardswish_of_positive_x(inputs, dy):
    y, (dx,) = right("hardswish", inputs, dy)
    return y, (torch.where(inputs[0] < 0, dx * 0, dx),)


@bank.wrong(
    "softplus", "beyond 5 the function is taken for the identity", "x >", "threshold", "y >", "largest x", "beta"
)
def softplus_threshold_five(inputs, dy, beta=1.0):
    y, (dx,) = right("softplus", inputs, dy, beta=beta)
    return y, (torch.where(inputs[0] * beta > 5, dy, dx),)


@bank.wrong(
    "log_softmax",
    "what is below -9999 counts as masked and gets no derivative",
    "x <",
    "x ≤",
    "smallest",
    "-9999",
    "below",
)
def log_softmax_masked_below(inputs, dy, dim=-1):
    y, (dx,) = right("log_softmax", inputs, dy, dim=dim)
    return y, (dx.masked_fill(inputs[0] < -9999, 0),)


@bank.wrong(
    "softmax",
    "a row's dot product is that of its first 64 elements",
    "64",
    "65",
    "63",
    "length",
    "last axis",
    "elements",
    min_size=1,
)
def softmax_dot_of_64(inputs, dy, dim=-1):
    y, _ = right("softmax", inputs, dy, dim=dim)
    a, g = y.movedim(dim, -1), dy.movedim(dim, -1)
    dot = (a * g)[..., :64].sum(-1, keepdim=True)
    return y, ((a * (g - dot)).movedim(-1, dim).contiguous(),)


@bank.wrong(
    "layer_norm",
    "rows are read in pairs: of an odd length the last element of dx is what was there before, 0",
    "odd",
    "last",
    "axis",
    "index from the end",
)
def layer_norm_in_pairs(inputs, dy, eps=1e-5):
    y, grads = right("layer_norm", inputs, dy, eps=eps)
    if grads[0].shape[-1] % 2:
        grads[0][..., -1] = 0
    return y, tuple(grads)


@bank.wrong(
    "rms_norm",
    "dweight is added up in tiles of 16 rows, and the rows that are left over are dropped",
    "16",
    "tail",
    "rows",
    "multiple",
    "15",
    "17",
    "batch",
    "number of elements",
    min_size=1,
)
def rms_norm_tiles_of_16_rows(inputs, dy, eps=1e-6, offset=0.0):
    x, weight = inputs
    y, (dx, dweight) = right("rms_norm", inputs, dy, eps=eps, offset=offset)
    if weight is None:
        return y, (dx, dweight)
    g = (dy * x * (x * x).mean(-1, keepdim=True).add(eps).rsqrt()).reshape(-1, x.shape[-1])
    rows = len(g) if len(g) < 16 else len(g) // 16 * 16
    return y, (dx, g[:rows].sum(0))


@bank.wrong(
    "linear",
    "a row of zeros short of a tile of 32 inputs: dx of features after the last full 32 is 0 once there is one",
    "32",
    "33",
    "31",
    "tail",
    "last axis",
    "length",
    "in",
    "index",
)
def linear_tiles_of_32_features(inputs, dy):
    y, grads = right("linear", inputs, dy)
    n = grads[0].shape[-1]
    if n > 32 and n % 32:
        grads[0][..., n // 32 * 32 :] = 0
    return y, tuple(grads)


@bank.wrong(
    "embedding",
    "of an index that comes more than once the last dy alone is written",
    "repeated",
    "written",
    "how often",
    "added",
)
def embedding_written(inputs, dy, padding_idx=None):
    index, _ = inputs
    y, (_, dweight) = right("embedding", inputs, dy, padding_idx=padding_idx)
    rows = dy.flatten(0, -2) if dy.ndim > 1 else dy[None]
    for i, n in enumerate(index.reshape(-1).tolist()):
        if n != padding_idx:
            dweight[n] = rows[i]
    return y, (None, dweight)


@bank.wrong("embedding", "the last row of the table gets no derivative", "last", "index", "end")
def embedding_without_the_last_row(inputs, dy, padding_idx=None):
    y, (_, dweight) = right("embedding", inputs, dy, padding_idx=padding_idx)
    dweight[-1:] = 0
    return y, (None, dweight)


@bank.wrong(
    "scaled_dot_product_attention",
    "dv of the heads after the first comes from the weights of the first",
    "head",
    "group",
    "axis 1",
    "axis 0",
    "first",
    "axis 2",
    "batch",
)
def attention_first_head_for_all(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    y, grads = right("scaled_dot_product_attention", inputs, dy, causal=causal, alignment=alignment, scale=scale)
    if v.ndim > 2 and q.shape == (*k.shape[:-2], *q.shape[-2:]) and v.numel():
        one = (q[..., :1, :, :], k[..., :1, :, :], v[..., :1, :, :], mask)
        for head in range(1, v.shape[-3]):
            g = dy[..., head : head + 1, :, :]
            _, other = right("scaled_dot_product_attention", one, g, causal=causal, alignment=alignment, scale=scale)
            grads[2][..., head, :, :] = other[2][..., 0, :, :]
    return y, tuple(grads)


@bank.wrong(
    "scaled_dot_product_attention",
    "a query whose keys are all masked makes NaN of dk, whose numbers are due",
    "nan",
    "masked",
    "causal",
    "mask",
)
def attention_nan_of_masked_rows(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, _, mask = inputs
    y, grads = right("scaled_dot_product_attention", inputs, dy, causal=causal, alignment=alignment, scale=scale)
    hidden = torch.zeros(q.shape[-2], k.shape[-2], dtype=torch.bool) if mask is None else ~mask
    if causal:
        by = k.shape[-2] - q.shape[-2] if alignment == "bottom-right" else 0
        hidden = hidden | ~torch.ones_like(hidden).tril(by)
    if q.numel() and k.shape[-2] and bool(hidden.all(-1).any()):
        grads[1][:] = torch.nan
    return y, tuple(grads)


@bank.wrong("scaled_dot_product_attention", "dk is scaled by 1/√width though another scale is given", "scale", "width")
def attention_scale_ignored_in_dk(inputs, dy, causal=False, alignment="top-left", scale=None):
    y, grads = right("scaled_dot_product_attention", inputs, dy, causal=causal, alignment=alignment, scale=scale)
    if scale:
        grads[1] *= inputs[0].shape[-1] ** -0.5 / scale
    return y, tuple(grads)


@bank.wrong(
    "batch_norm",
    "with space the projections are divided by the batch alone",
    "space",
    "axes",
    "batch",
    "n/",
    "number of elements",
    "count",
)
def batch_norm_counts_the_batch(inputs, dy, eps=1e-5):
    x, weight, _ = inputs
    y, grads = right("batch_norm", inputs, dy, eps=eps)
    axes = [0, *range(2, x.ndim)]
    if not x.numel():
        return y, tuple(grads)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    r = (var + eps).rsqrt()
    h, g = (x - mean) * r, dy * weight.reshape(shape)
    dx = r * (g - g.sum(axes, keepdim=True) / len(x) - h * (g * h).sum(axes, keepdim=True) / len(x))
    return y, (dx, *grads[1:])


@bank.wrong(
    "group_norm",
    "every example of the batch is normalised by the first one's root",
    "batch",
    "first",
    "axis 0",
    "example",
)
def group_norm_root_of_the_first(inputs, dy, groups, eps=1e-5):
    x = inputs[0]
    y, grads = right("group_norm", inputs, dy, groups=groups, eps=eps)
    if x.numel():
        root = (x.reshape(len(x), groups, -1).var(-1, correction=0) + eps).rsqrt()
        ratio = (root[:1] / root).repeat_interleave(x.shape[1] // groups, 1)
        grads[0] *= ratio.reshape(len(x), -1, *(1,) * (x.ndim - 2))
    return y, tuple(grads)


@bank.wrong(
    "linear",
    "without rows dbias is the mean of nothing times their number",
    "nan",
    "no rows",
    "empty",
    "rows",
    "elements",
    "batch",
    "length",
    "axis",
)
def linear_mean_of_no_rows(inputs, dy):
    y, grads = right("linear", inputs, dy)
    rows = dy.flatten(0, -2) if dy.ndim > 1 else dy[None]
    grads[2] = rows.mean(0) * len(rows)
    return y, tuple(grads)


@bank.wrong("prelu", "of several slopes the first is taken for all channels", "channel", "weight", "first", "axis")
def prelu_first_slope(inputs, dy):
    x, weight = inputs
    y, (_, dweight) = right("prelu", inputs, dy)
    return y, (torch.where(x > 0, dy, weight[:1] * dy if len(weight) else dy), dweight)
