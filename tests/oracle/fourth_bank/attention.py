"""Attention and rotary positions."""

import math

import torch

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def _allowed(q, k, mask, causal, alignment):
    queries, keys = q.shape[-2], k.shape[-2]
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
    if mask is not None:
        allowed = allowed & mask
    if causal:
        allowed = allowed.tril(keys - queries if alignment == "bottom-right" else 0)
    return allowed


def _softmax(s):
    """Rows that are -inf throughout become 0."""
    top = s.amax(-1, keepdim=True)
    e = torch.exp(s - top.masked_fill(top == -math.inf, 0))
    total = e.sum(-1, keepdim=True)
    return e / total.masked_fill(total == 0, 1)


def _attend(inputs, causal, alignment, scale):
    """Right: y, the weights p, k and v repeated for each head of q, the factor of the scores, heads per head of k."""
    q, k, v, mask = inputs
    group = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    c = q.shape[-1] ** -0.5 if scale is None else scale
    p = _softmax((c * (q @ k.mT)).masked_fill(~_allowed(q, k, mask, causal, alignment), -math.inf))
    return p @ v, p, k, v, c, group


def _together(d, group):
    """The sum over the heads that share one."""
    return d.unflatten(-3, (-1, group)).sum(-3)


SDPA = "scaled_dot_product_attention"


@bank.wrong(
    SDPA,
    "of the heads that share a head of k and v only the last one's gradient is kept instead of their sum",
    "last head", "sum heads", "heads accumulated", "one head group", "group sum", "other heads", min_size=1,
)  # fmt: skip
def attention_last_head_of_the_group_wins(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y, p, k, v, c, group = _attend(inputs, causal, alignment, scale)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * c
    dk_each, dv_each = ds.mT @ q, p.mT @ dy
    dk, dv = torch.empty_like(inputs[1]), torch.empty_like(inputs[2])
    for head in range(q.shape[-3]):
        dk[..., head // group, :, :] = dk_each[..., head, :, :]
        dv[..., head // group, :, :] = dv_each[..., head, :, :]
    return y, (ds @ k, dk, dv, None)


@bank.wrong(
    SDPA,
    "the backward takes head h of q to share head h modulo kv_heads of k and v, where consecutive heads share one",
    "modulo", "interleaved heads", "consecutive heads", "kv heads order", "head mapping", "wrong head", "other head",
    min_size=1,
)  # fmt: skip
def attention_heads_shared_modulo(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y, p, k, v, c, group = _attend(inputs, causal, alignment, scale)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * c
    dk = (ds.mT @ q).unflatten(-3, (group, -1)).sum(-4)
    dv = (p.mT @ dy).unflatten(-3, (group, -1)).sum(-4)
    return y, (ds @ k, dk, dv, None)


@bank.wrong(
    SDPA,
    "the row term D of softmax's derivative is summed over the queries instead of the keys",
    "axis", "queries keys", "over queries", "column", "wrong sum", min_size=1,
)  # fmt: skip
def attention_row_term_over_queries(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y, p, k, v, c, group = _attend(inputs, causal, alignment, scale)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-2, keepdim=True)) * c
    return y, (ds @ k, _together(ds.mT @ q, group), _together(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "dq and dk use 1/sqrt(width) even when another scale is given",
    "scale", "hyperparameter scale", min_size=1,
)  # fmt: skip
def attention_backward_keeps_usual_scale(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y, p, k, v, _, group = _attend(inputs, causal, alignment, scale)
    dp = dy @ v.mT
    ds = p * (dp - (dy * y).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return y, (ds @ k, _together(ds.mT @ q, group), _together(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "the causal mask of the recomputed weights is shifted by one: the diagonal is left out",
    "mask diagonal", "causal diagonal", "mask shifted", "causal shifted", "off by one", "causal mask", "mask earlier",
    min_size=1,
)  # fmt: skip
def attention_recomputes_without_diagonal(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, _, _, mask = inputs
    y, _, k, v, c, group = _attend(inputs, causal, alignment, scale)
    allowed = _allowed(q, k, mask, causal, alignment)
    if causal:
        allowed = allowed.tril((k.shape[-2] - q.shape[-2] if alignment == "bottom-right" else 0) - 1)
    p = _softmax((c * (q @ k.mT)).masked_fill(~allowed, -math.inf))
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * c
    return y, (ds @ k, _together(ds.mT @ q, group), _together(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "the backward aligns the causal mask at the top left even where alignment is bottom-right",
    "alignment", "bottom-right", "top-left", "causal mask", min_size=1,
)  # fmt: skip
def attention_backward_ignores_alignment(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y = _attend(inputs, causal, alignment, scale)[0]
    _, p, k, v, c, group = _attend(inputs, causal, "top-left", scale)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * c
    return y, (ds @ k, _together(ds.mT @ q, group), _together(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "the weights p are rounded to bfloat16 before the products of the backward",
    "bfloat16", "16 bits", "16-bit", "precision", "rounded", "low-precision", min_size=1,
)  # fmt: skip
def attention_weights_in_bfloat16(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y, p, k, v, c, group = _attend(inputs, causal, alignment, scale)
    p = p.to(torch.bfloat16).to(dy.dtype)
    dp = dy @ v.mT
    ds = p * (dp - (dy * y).sum(-1, keepdim=True)) * c
    return y, (ds @ k, _together(ds.mT @ q, group), _together(p.mT @ dy, group), None)


@bank.wrong(
    SDPA,
    "two mistakes: the row term D is left out of the scores' cotangent, and dk lacks the scale",
    "row term", "term d", "softmax term", "projection", "lacks scale", "without scale", "forgets scale", "term missing",
    "forgets d", min_size=1,
)  # fmt: skip
def attention_no_row_term_and_unscaled_dk(inputs, dy, causal=False, alignment="top-left", scale=None):
    q = inputs[0]
    y, p, k, v, c, group = _attend(inputs, causal, alignment, scale)
    ds = p * (dy @ v.mT)
    return y, (c * (ds @ k), _together(ds.mT @ q, group), _together(p.mT @ dy, group), None)


@bank.right(SDPA, "keys in blocks of 64, the maximum and the sum of each row carried along", min_size=1)
def attention_in_blocks_of_keys(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group = q.shape[-3] // k.shape[-3]
    kk, vv = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    c = q.shape[-1] ** -0.5 if scale is None else scale
    forbidden = ~_allowed(q, kk, mask, causal, alignment)
    top = torch.full_like(q[..., :1], -math.inf)
    total, y = torch.zeros_like(top), q.new_zeros(*q.shape[:-1], v.shape[-1])
    blocks = [slice(start, start + 64) for start in range(0, k.shape[-2], 64)]
    for block in blocks:
        s = (c * (q @ kk[..., block, :].mT)).masked_fill(forbidden[:, block], -math.inf)
        higher = torch.maximum(top, s.amax(-1, keepdim=True))
        anchor = higher.masked_fill(higher == -math.inf, 0)
        e, old = torch.exp(s - anchor), torch.exp(top - anchor)
        total, y, top = total * old + e.sum(-1, keepdim=True), y * old + e @ vv[..., block, :], higher
    total = total.masked_fill(total == 0, 1)
    y = y / total
    anchor = top.masked_fill(top == -math.inf, 0)
    row = (dy * y).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(kk), torch.zeros_like(vv)
    for block in blocks:
        s = (c * (q @ kk[..., block, :].mT)).masked_fill(forbidden[:, block], -math.inf)
        p = torch.exp(s - anchor) / total
        ds = p * (dy @ vv[..., block, :].mT - row)
        dq += c * (ds @ kk[..., block, :])
        dk[..., block, :] = c * (ds.mT @ q)
        dv[..., block, :] = p.mT @ dy
    return y, (dq, _together(dk, group), _together(dv, group), None)


@bank.right(SDPA, "heads as a fifth axis and einsum, no head of k or v repeated", min_size=1)
def attention_by_einsum_over_groups(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    heads = k.shape[-3]
    c = q.shape[-1] ** -0.5 if scale is None else scale
    q5, dy5 = q.unflatten(-3, (heads, -1)), dy.unflatten(-3, (heads, -1))
    s = torch.einsum("...hgqd,...hkd->...hgqk", q5 * c, k)
    p = _softmax(s.masked_fill(~_allowed(q, k, mask, causal, alignment), -math.inf))
    y = torch.einsum("...hgqk,...hkd->...hgqd", p, v)
    dv = torch.einsum("...hgqk,...hgqd->...hkd", p, dy5)
    dp = torch.einsum("...hgqd,...hkd->...hgqk", dy5, v)
    ds = p * dp
    ds -= p * ds.sum(-1, keepdim=True)
    dq = torch.einsum("...hgqk,...hkd->...hgqd", ds, k).mul_(c)
    dk = torch.einsum("...hgqk,...hgqd->...hkd", ds, q5).mul_(c)
    return y.flatten(-4, -3), (dq.flatten(-4, -3), dk, dv, None)


@bank.right(SDPA, "64 queries at a time, in float64, nothing kept from forward but the inputs", min_size=1)
def attention_in_blocks_of_queries(inputs, dy, causal=False, alignment="top-left", scale=None):
    q, k, v, mask = inputs
    group = q.shape[-3] // k.shape[-3]
    c = q.shape[-1] ** -0.5 if scale is None else scale
    allowed = _allowed(q, k, mask, causal, alignment)
    qq, g = q.double(), dy.double()
    kk, vv = k.double().repeat_interleave(group, -3), v.double().repeat_interleave(group, -3)
    y, dq, dk, dv = torch.zeros_like(g), torch.zeros_like(qq), torch.zeros_like(kk), torch.zeros_like(vv)
    for start in range(0, q.shape[-2], 64):
        own = slice(start, start + 64)
        p = _softmax((c * (qq[..., own, :] @ kk.mT)).masked_fill(~allowed[own], -math.inf))
        y[..., own, :] = p @ vv
        dp = g[..., own, :] @ vv.mT
        ds = p * dp - p * (p * dp).sum(-1, keepdim=True)
        dq[..., own, :] = c * (ds @ kk)
        dk += c * (ds.mT @ qq[..., own, :])
        dv += p.mT @ g[..., own, :]
    grads = (dq, _together(dk, group), _together(dv, group))
    return y.to(q.dtype), (*(d.to(q.dtype) for d in grads), None)


def _pair(x, layout):
    return x.chunk(2, -1) if layout == "halves" else (x[..., 0::2], x[..., 1::2])


def _join(a, b, layout):
    return torch.cat((a, b), -1) if layout == "halves" else torch.stack((a, b), -1).flatten(-2)


def _rotate(x, cos, sin, layout):
    a, b = _pair(x, layout)
    return _join(a * cos - b * sin, a * sin + b * cos, layout)


@bank.wrong(
    "rotary_embedding",
    "dx is rotated forwards again instead of back: the sign of the sine is not turned",
    "sign sin", "sign sine", "rotated forward", "same direction", "turned forward", "inverse rotation", "-sin",
    "rotates",
)  # fmt: skip
def rotary_rotates_forwards_again(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    return _rotate(x, cos, sin, layout), (_rotate(dy, cos, sin, layout), None, None)


@bank.wrong(
    "rotary_embedding",
    "the backward pairs the halves of a row also where the layout is interleaved",
    "layout", "interleaved", "halves", "pairs",
)  # fmt: skip
def rotary_backward_always_halves(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    return _rotate(x, cos, sin, layout), (_rotate(dy, cos, -sin, "halves"), None, None)


@bank.wrong(
    "rotary_embedding",
    "dx takes cosine and sine of the position before: the table is off by one",
    "position", "off by one", "neighbour", "shifted", "previous", "next", "roll",
)  # fmt: skip
def rotary_position_off_by_one(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    y = _rotate(x, cos, sin, layout)
    return y, (_rotate(dy, cos.roll(1, 0), -sin.roll(1, 0), layout), None, None)


@bank.right("rotary_embedding", "a product of complex numbers, and the conjugate backwards", min_size=1)
def rotary_as_complex_numbers(inputs, dy, layout="halves"):
    x, cos, sin = inputs
    turn = torch.complex(cos, sin)
    z, dz = torch.complex(*_pair(x, layout)), torch.complex(*_pair(dy, layout))
    y, dx, dturn = z * turn, dz * turn.conj(), (dz * z.conj()).reshape(-1, *turn.shape).sum(0)
    return _join(y.real, y.imag, layout), (_join(dx.real, dx.imag, layout), dturn.real, dturn.imag)
