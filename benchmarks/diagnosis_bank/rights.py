"""Right backwards, written as few would: nothing may be found in them."""

import math

import torch
import torch.nn.functional as F

from benchmarks.diagnosis_bank.program import right, rows


@right("softmax")
def whole_jacobian(inputs, dy, dim=-1):
    """diag(y) − y yᵀ of every row, as a matrix, in double precision."""
    y = torch.softmax(inputs[0].double(), dim)
    p, g = y.movedim(dim, -1), dy.double().movedim(dim, -1)
    if p.shape[-1] > 64:  # a matrix of a million numbers for each row
        dx = p * (g - (p * g).sum(-1, keepdim=True))
    else:
        jacobian = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        dx = (jacobian @ g.unsqueeze(-1)).squeeze(-1)
    return y.to(dy.dtype), (dx.movedim(-1, dim).to(dy.dtype),)


@right("softmax")
def through_log_softmax(inputs, dy, dim=-1):
    """y = e^z: dz = dy y, and then the rule of log_softmax."""
    x = inputs[0].double()
    z = torch.log_softmax(x, dim)
    dz = dy.double() * z.exp()
    return torch.softmax(inputs[0], dim), ((dz - z.exp() * dz.sum(dim, keepdim=True)).to(dy.dtype),)


@right("log_softmax")
def from_both_sides(inputs, dy, dim=-1):
    """dy (1 − p) − p (the sum of the others)."""
    x, g = inputs[0].double(), dy.double()
    y = torch.log_softmax(x, dim)
    others = g.sum(dim, keepdim=True) - g
    return y.to(dy.dtype), ((-torch.expm1(y) * g - y.exp() * others).to(dy.dtype),)


@right("log_softmax")
def in_two_blocks(inputs, dy, dim=-1):
    """The sum over blocks of 32 with a partial last one, as a kernel takes it."""
    x = inputs[0].double()
    y = torch.log_softmax(x, dim)
    total = sum((part.sum(dim, keepdim=True) for part in dy.double().split(32, dim)), torch.zeros(()).double())
    return y.to(dy.dtype), ((dy.double() - y.exp() * total).to(dy.dtype),)


@right("softmax_cross_entropy")
def with_soft_targets(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """The target as a distribution t of its own, weighted; then s (p Σ t − t)."""
    x, target, weight = inputs
    k = x.shape[1]
    table = torch.log_softmax(x.double().movedim(1, -1), -1)
    counts = target != ignore_index
    label = torch.where(counts, target, 0).long()
    w = torch.ones(k, dtype=torch.float64, device=x.device) if weight is None else weight.double()
    t = torch.full_like(table, label_smoothing / k)
    t.scatter_add_(-1, label.unsqueeze(-1), torch.full_like(table[..., :1], 1 - label_smoothing))
    t = t * (w if label_smoothing else w[label].unsqueeze(-1))
    of_all = t.sum(-1, keepdim=True)
    at_label = torch.expm1(table) * of_all + (of_all - t)
    found = torch.where(F.one_hot(label, k).bool(), at_label, table.exp() * of_all - t)
    s = dy.double() / (w[label] * counts).sum() if reduction == "mean" else dy.double()
    dx = torch.where(counts.unsqueeze(-1), s * found, 0).movedim(-1, 1).to(x.dtype)
    y = F.cross_entropy(
        x.double(),
        target.long(),
        None if weight is None else weight.double(),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return y.to(x.dtype), (dx, None, None)


@right("layer_norm")
def one_node_at_a_time(inputs, dy, eps=1e-5):
    """Back through the graph: weight, product, root, variance, difference, mean."""
    x, weight, bias = (None if t is None else t.double() for t in inputs)
    g = dy.double()
    n = max(x.shape[-1], 1)
    mu = x.sum(-1, keepdim=True) / n
    d = x - mu
    root = torch.sqrt((d * d).sum(-1, keepdim=True) / n + eps)
    xhat = d / root
    y = xhat if weight is None else xhat * weight
    y = y if bias is None else y + bias
    dxhat = g if weight is None else g * weight
    droot = -(dxhat * d).sum(-1, keepdim=True) / root**2
    dvar = droot / (2 * root)
    dd = dxhat / root + 2 * d * dvar / n
    dmu = -dd.sum(-1, keepdim=True)
    dx = dd + dmu / n
    grads = (dx, None if weight is None else rows(g * xhat).sum(0), None if bias is None else rows(g).sum(0))
    return y.to(dy.dtype), tuple(None if grad is None else grad.to(dy.dtype) for grad in grads)


@right("layer_norm")
def times_n(inputs, dy, eps=1e-5):
    """s/n (n g − Σ g − x̂ Σ g x̂), the form of the course notes, and dweight as a product of matrices."""
    x, weight, bias = (None if t is None else t.double() for t in inputs)
    n = max(x.shape[-1], 1)
    centred = x - x.mean(-1, keepdim=True)
    s = (centred.square().mean(-1, keepdim=True) + eps) ** -0.5
    xhat = centred * s
    g = dy.double() if weight is None else dy.double() * weight
    dx = s / n * (n * g - g.sum(-1, keepdim=True) - xhat * (g * xhat).sum(-1, keepdim=True))
    y = xhat if weight is None else xhat * weight
    y = y if bias is None else y + bias
    ones = torch.ones(1, rows(dy).shape[0], dtype=torch.float64, device=dy.device)
    dweight = None if weight is None else (ones @ rows(dy.double() * xhat))[0].to(dy.dtype)
    dbias = None if bias is None else (ones @ rows(dy.double()))[0].to(dy.dtype)
    return y.to(dy.dtype), (dx.to(dy.dtype), dweight, dbias)


@right("rms_norm")
def with_s_cubed(inputs, dy, eps=1e-6, offset=0.0):
    """s g − s³ x mean(g x), without x̂."""
    x, weight = (None if t is None else t.double() for t in inputs)
    s = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    scale = 1.0 if weight is None else offset + weight
    g = dy.double() * scale
    dx = s * g - s.pow(3) * x * (g * x).mean(-1, keepdim=True)
    dweight = None if weight is None else rows(dy.double() * x * s).sum(0).to(dy.dtype)
    return (x * s * scale).to(dy.dtype), (dx.to(dy.dtype), dweight)


@right("rms_norm")
def partial_sums(inputs, dy, eps=1e-6, offset=0.0):
    """dweight in eight partial sums, the rows dealt out in turn; the last axis with a padded block and its mask."""
    x, weight = (None if t is None else t.double() for t in inputs)
    n = x.shape[-1]
    block = max(1 << max(n - 1, 0).bit_length(), 16)
    lanes = torch.arange(block, device=x.device) < n
    wide = F.pad(x, (0, block - n))
    s = torch.rsqrt(wide.square().sum(-1, keepdim=True) / max(n, 1) + eps)
    scale = 1.0 if weight is None else offset + weight
    g = F.pad(dy.double() * scale, (0, block - n))
    dot = torch.where(lanes, g * wide * s, 0).sum(-1, keepdim=True) / max(n, 1)
    dx = (s * (g - wide * s * dot))[..., :n]
    dweight = None
    if weight is not None:
        each = rows(dy.double() * x * s)
        dweight = torch.stack([each[program::8].sum(0) for program in range(8)]).sum(0).to(dy.dtype)
    return (x * s * scale).to(dy.dtype), (dx.to(dy.dtype), dweight)


@right("batch_norm")
def six_formulas(inputs, dy, eps=1e-5):
    """The paper's, in its order."""
    x, weight, bias = (t.double() for t in inputs)
    g = dy.double()
    axes = (0, *range(2, x.ndim))
    shape = (1, -1, *[1] * (x.ndim - 2))
    m = max(x.numel() // max(x.shape[1], 1), 1)
    mu = x.sum(axes, keepdim=True) / m
    var = ((x - mu) ** 2).sum(axes, keepdim=True) / m
    xhat = (x - mu) / (var + eps).sqrt()
    dxhat = g * weight.view(shape)
    dvar = (dxhat * (x - mu)).sum(axes, keepdim=True) * -0.5 * (var + eps) ** -1.5
    dmu = (-dxhat / (var + eps).sqrt()).sum(axes, keepdim=True) + dvar * (-2 * (x - mu)).sum(axes, keepdim=True) / m
    dx = dxhat / (var + eps).sqrt() + dvar * 2 * (x - mu) / m + dmu / m
    y = xhat * weight.view(shape) + bias.view(shape)
    return y.to(dy.dtype), (dx.to(dy.dtype), (g * xhat).sum(axes).to(dy.dtype), g.sum(axes).to(dy.dtype))


@right("batch_norm")
def channels_first(inputs, dy, eps=1e-5):
    """A matrix with a row for each channel, and there the rule of layer norm."""
    x, weight, bias = (t.double() for t in inputs)

    def table(t):
        return t.transpose(0, 1).reshape(x.shape[1], x.shape[0] * x.shape[2:].numel())

    def back(t):
        return t.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).to(dy.dtype)

    a, g = table(x), table(dy.double())
    a = a - a.mean(1, keepdim=True)
    s = torch.rsqrt(a.square().mean(1, keepdim=True) + eps)
    xhat = a * s
    core = g - g.mean(1, keepdim=True) - xhat * (g * xhat).mean(1, keepdim=True)
    y = xhat * weight[:, None] + bias[:, None]
    return back(y), (back(weight[:, None] * s * core), (g * xhat).sum(1).to(dy.dtype), g.sum(1).to(dy.dtype))


@right("batch_norm_inference")
def folded(inputs, dy, eps=1e-5):
    """As the affine map that it is: y = a x + b, and dweight from Σ dy x and Σ dy."""
    x, weight, bias, mean, var = (t.double() for t in inputs)
    g = dy.double()
    axes = (0, *range(2, x.ndim))
    shape = (1, -1, *[1] * (x.ndim - 2))
    s = (var + eps).rsqrt()
    y = (x - mean.view(shape)) * (s * weight).view(shape) + bias.view(shape)
    dbias = g.sum(axes)
    dweight = s * (g * (x - mean.view(shape))).sum(axes)
    dx = g * (weight * s).view(shape)
    return y.to(dy.dtype), (dx.to(dy.dtype), dweight.to(dy.dtype), dbias.to(dy.dtype), None, None)


@right("gelu")
def in_double_precision(inputs, dy, approximate="none"):
    x = inputs[0].double()
    near = x.clamp(-40, 40)
    if approximate == "tanh":
        c = math.sqrt(8 / math.pi)
        t = c * near * (1 + 0.044715 * near**2)
        s = torch.sigmoid(t)
        slope = s + near * c * (1 + 0.134145 * near**2) * s * torch.sigmoid(-t)
        y = x * torch.sigmoid(c * x * (1 + 0.044715 * x**2))
    else:
        phi = torch.exp(-near * near / 2) / math.sqrt(2 * math.pi)
        slope = torch.special.ndtr(near) + near * phi
        y = x * torch.special.ndtr(x)
    return y.to(dy.dtype), ((dy.double() * slope).to(dy.dtype),)
