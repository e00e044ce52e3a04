"""More right backwards, written as few would: gates, tables, matrices, and functions without a page."""

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.diagnosis_bank.functions import causal_attention, cosine, low_rank, residual_rms
from benchmarks.diagnosis_bank.program import right, rows


@right("silu")
def by_tanh(inputs, dy):
    """σ(x) = e^(x/2) / (2 cosh(x/2)), and σ' = 1 / (2 cosh(x/2))²."""
    x = inputs[0].double()
    half = x.abs() / 2
    e = torch.exp(-half)
    twice_cosh = (1 + e * e) / e
    slope = torch.exp(x / 2 - torch.log(twice_cosh)) + x / twice_cosh**2
    near = x.abs() < 600
    slope = torch.where(near, slope, torch.where(x.abs() < torch.inf, (x > 0).double(), torch.nan))
    return F.silu(inputs[0]), ((dy.double() * torch.where(x.isnan(), x, slope)).to(dy.dtype),)


@right("swiglu")
def in_one_buffer(inputs, dy):
    """Both cotangents written into one tensor, and handed out as copies of its halves."""
    gate, up, g = (t.double() for t in (*inputs, dy))
    both = torch.empty(2, *gate.shape, dtype=torch.float64, device=gate.device)
    s, c = torch.sigmoid(gate), torch.sigmoid(-gate)
    both[0] = g * up * (s + gate * s * c)
    both[1] = g * gate * s
    return (gate * s * up).to(dy.dtype), tuple(half.to(dy.dtype, copy=True) for half in both)


@right("softplus")
def by_difference_of_logarithms(inputs, dy, beta=1.0):
    """σ(t) = exp(t − log(1 + eᵗ)) = exp(−log(1 + e⁻ᵗ))."""
    t = beta * inputs[0].double()
    y = torch.logaddexp(t, torch.zeros_like(t)) / beta
    slope = torch.exp(-torch.logaddexp(-t, torch.zeros_like(t)))
    return y.to(dy.dtype), ((dy.double() * slope).to(dy.dtype),)


@right("elu")
def by_masks(inputs, dy, alpha=1.0):
    (x,) = inputs
    left = x <= 0
    dx = dy.clone(memory_format=torch.contiguous_format)
    dx[left] = (dy.double()[left] * alpha * torch.exp(x.double()[left])).to(dy.dtype)
    dx[x.isnan()] = torch.nan
    return F.elu(x, alpha), (dx,)


@right("embedding")
def sorted_and_cut(inputs, dy, padding_idx=None):
    """Ids and rows sorted together, and each run of equal ids summed."""
    index, weight = inputs
    ids, order = torch.sort(index.reshape(index.numel()).long(), stable=True)
    grads = dy.reshape(index.numel(), weight.shape[1]).double()[order]
    dweight = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    found, lengths = torch.unique_consecutive(ids, return_counts=True)
    start = 0
    for which, length in zip(found.tolist(), lengths.tolist(), strict=True):
        dweight[which] = grads[start : start + length].sum(0)
        start += length
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return weight[index.long()], (None, dweight.to(weight.dtype))


@right("embedding")
def by_numpy(inputs, dy, padding_idx=None):
    """np.add.at, which adds again where an id is repeated."""
    index, weight = inputs
    ids = index.reshape(index.numel()).cpu().numpy()
    grads = dy.reshape(index.numel(), weight.shape[1]).cpu().numpy()
    dweight = np.zeros(tuple(weight.shape), dtype=np.float64)
    np.add.at(dweight, ids, grads)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return weight[index.long()], (None, torch.from_numpy(dweight).to(weight))


def _as(dtype, y, *grads):
    return y.to(dtype), tuple(grad.to(dtype) for grad in grads)


@right("linear")
def products_of_columns(inputs, dy):
    """dW by einsum, dx as a sum of outer products of columns."""
    x, weight, bias = (t.double() for t in inputs)
    g = dy.double()
    dx = torch.zeros_like(x)
    for o in range(weight.shape[0]):
        dx = dx + g[..., o, None] * weight[o]
    dweight = torch.einsum("no,ni->oi", rows(g), rows(x))
    y = torch.einsum("...i,oi->...o", x, weight) + bias
    return _as(dy.dtype, y, dx, dweight, rows(g).sum(0))


@right("linear")
def bias_as_a_column(inputs, dy):
    """A column of ones beside x, and the bias as the weight's last column."""
    x, weight, bias = (t.double() for t in inputs)
    wide = torch.cat([x, torch.ones(*x.shape[:-1], 1, dtype=x.dtype, device=x.device)], -1)
    matrix = torch.cat([weight, bias[:, None]], 1)
    both = rows(dy.double()).T @ rows(wide)
    dx = (dy.double() @ matrix)[..., :-1]
    return _as(dy.dtype, wide @ matrix.T, dx, both[:, :-1], both[:, -1])


@right("maxout")
def by_scatter(inputs, dy, pieces):
    (x,) = inputs
    split = x.unflatten(-1, (x.shape[-1] // pieces, pieces))
    y, winner = split.max(-1, keepdim=True)
    return y.squeeze(-1), (torch.zeros_like(split).scatter_(-1, winner, dy.unsqueeze(-1)).flatten(-2),)


@right("max_norm")
def row_by_row(inputs, dy, limit):
    """A projection matrix for every row that is too long."""
    (w,) = inputs
    y, dw = w.clone(), dy.clone(memory_format=torch.contiguous_format)
    norm = w.double().square().sum(1).sqrt()
    for row in torch.nonzero((norm > limit) & (w.norm(dim=1) > limit)).flatten().tolist():
        u = w[row].double() / norm[row]
        y[row] = (limit * u).to(w.dtype)
        g = dy[row].double()
        dw[row] = (limit / norm[row] * (g - u * torch.dot(u, g))).to(w.dtype)
    return y, (dw,)


@right(causal_attention, inputs={"q": (2, 6, 4), "k": (2, 6, 4), "v": (2, 6, 4)})
def delta_from_the_output(inputs, dy):
    """Σ_j p_ij dp_ij = dy_i · y_i, as flash attention takes it."""
    q, k, v = inputs
    scale = q.shape[-1] ** -0.5
    scores = q @ k.mT * scale
    scores = scores + torch.full_like(scores, -torch.inf).triu(1)
    p = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    y = p @ v
    ds = p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True)) * scale
    return y, (ds @ k, ds.mT @ q, p.mT @ dy)


@right(cosine, inputs={"a": (6, 5), "b": (6, 5)})
def of_unit_vectors(inputs, dy):
    """Back through b/|b| and a/|a|."""
    a, b = inputs
    na, nb = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / na, b / nb
    g = dy.unsqueeze(-1)
    du, dv = g * v, g * u
    da = (du - u * (u * du).sum(-1, keepdim=True)) / na
    db = (dv - v * (v * dv).sum(-1, keepdim=True)) / nb
    return (u * v).sum(-1), (da, db)


@right(low_rank, inputs={"x": (5, 6), "down": (2, 6), "up": (4, 2)})
def merged_weight(inputs, dy):
    """With the product of both factors as one matrix."""
    x, down, up = inputs
    dmatrix = 2 * (dy.T @ x)
    return 2 * (x @ (up @ down).T), (2 * dy @ (up @ down), up.T @ dmatrix, dmatrix @ down.T)


@right(residual_rms, inputs={"x": (4, 9), "residual": (4, 9), "weight": (9,)})
def both_ways(inputs, dy):
    x, residual, weight = inputs
    h = x + residual
    r = (h.square().mean(-1, keepdim=True) + 1e-6) ** -0.5
    g = dy[0] * weight
    dh = torch.addcmul(dy[1] + r * g, h, r**3 * (g * h).mean(-1, keepdim=True), value=-1)
    return (h * r * weight, h.clone()), (dh, dh.clone(), torch.einsum("nf,nf->f", dy[0], h * r))
