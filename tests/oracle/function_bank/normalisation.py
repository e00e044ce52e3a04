"""Normalisations as they are fused in practice."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tests.oracle.function_bank.entry import BF16, WIDE, Function, as_if_contiguous, normal, right, wrong

# ------------------------------------------------------------------------------------- residual + RMSNorm, two outputs


def residual_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, *, eps=1e-6):
    h = x + residual
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight, h


RESIDUAL_RMS_NORM = Function(residual_rms_norm, {"x": (4, 33), "residual": (4, 33), "weight": (33,)})


def _rms_backward(h, rstd, dn):
    """Cotangent of h for n = h · rstd."""
    n = h * rstd
    return rstd * (dn - n * (dn * n).mean(-1, keepdim=True))


@right(RESIDUAL_RMS_NORM, "the usual closed form")
def residual_rms_norm_closed(inputs, dy, *, eps=1e-6):
    x, residual, weight = inputs
    dout, dh = dy
    h = x + residual
    rstd = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    dx = _rms_backward(h, rstd, dout * weight) + dh
    return (h * rstd * weight, h), (dx, dx.clone(), (dout * h * rstd).sum(0))


@right(RESIDUAL_RMS_NORM, "row by row, the weight's gradient gathered over blocks of two rows, 1/sqrt for rsqrt")
def residual_rms_norm_by_rows(inputs, dy, *, eps=1e-6):
    x, residual, weight = inputs
    dout, dh = dy
    out, h, dx = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    dweight = torch.zeros_like(weight)
    for start in range(0, x.shape[0], 2):
        rows = slice(start, start + 2)
        h[rows] = x[rows] + residual[rows]
        root = ((h[rows] * h[rows]).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
        out[rows] = h[rows] / root * weight
        inner = (dout[rows] * weight * h[rows]).sum(-1, keepdim=True)
        dx[rows] = dout[rows] * weight / root - h[rows] * inner / (x.shape[-1] * root**3) + dh[rows]
        dweight += (dout[rows] * h[rows] / root).sum(0)
    return (out, h), (dx, dx, dweight)


@wrong(RESIDUAL_RMS_NORM, "the cotangent of the second output, the residual stream, is ignored")
def residual_rms_norm_stream_ignored(inputs, dy, *, eps=1e-6):
    x, residual, weight = inputs
    h = x + residual
    rstd = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    dx = _rms_backward(h, rstd, dy[0] * weight)
    return (h * rstd * weight, h), (dx, dx, (dy[0] * h * rstd).sum(0))


@wrong(
    RESIDUAL_RMS_NORM,
    "the weight's gradient leaves out the rows past 1024",
    shown_by={"x": (1030, 4), "residual": (1030, 4), "weight": (4,)},
)
def residual_rms_norm_1024_rows(inputs, dy, *, eps=1e-6):
    y, (dx, dresidual, _) = residual_rms_norm_closed(inputs, dy, eps=eps)
    h = inputs[0] + inputs[1]
    normal = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return y, (dx, dresidual, (dy[0] * normal)[:1024].sum(0))


@wrong(RESIDUAL_RMS_NORM, "the weight's gradient is added up in bfloat16, row after row", shows=(BF16,), inside=False,
       shown_by={"x": (700, 5), "residual": (700, 5), "weight": (5,)})  # fmt: skip
def residual_rms_norm_added_in_bf16(inputs, dy, *, eps=1e-6):
    y, (dx, dresidual, _) = residual_rms_norm_closed(inputs, dy, eps=eps)
    h = (inputs[0] + inputs[1]).float()
    rows = (dy[0] * h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)).to(inputs[0].dtype)
    total = torch.zeros_like(inputs[2])
    for row in rows:
        total += row
    return y, (dx, dresidual, total)


# ------------------------------------------------------------------------------------------- LayerNorm with 1 + weight


def layer_norm_1p(
    x: Float[Tensor, "batch tokens features"],
    weight: Float[Tensor, " features"],
    bias: Float[Tensor, " features"] | None = None,
    *,
    eps: float = 1e-5,
) -> Float[Tensor, "batch tokens features"]:
    mean = x.mean(-1, keepdim=True)
    var = x.var(-1, unbiased=False, keepdim=True)
    y = (x - mean) / torch.sqrt(var + eps) * (1 + weight)
    return y if bias is None else y + bias


LAYER_NORM_1P = Function(layer_norm_1p, {"x": (2, 3, 17), "weight": (17,), "bias": (17,)})
LAYER_NORM_1P_WITHOUT_BIAS = Function(layer_norm_1p, {"x": (2, 3, 17), "weight": (17,), "bias": None}, {"eps": 1e-3})


def _layer_norm(x, eps):
    centred = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    return centred * rstd, rstd


def _layer_norm_backward(normal, rstd, dn):
    return rstd * (dn - dn.mean(-1, keepdim=True) - normal * (dn * normal).mean(-1, keepdim=True))


@right(LAYER_NORM_1P, "the usual closed form, in place on its own copies")
def layer_norm_1p_in_place(inputs, dy, *, eps=1e-5):
    x, weight, bias = inputs
    normal, rstd = _layer_norm(x, eps)
    y = normal * (1 + weight) + (0 if bias is None else bias)
    dn = dy * (1 + weight)
    dweight = (dy * normal).sum((0, 1))
    inner = dn.mul(normal).mean(-1, keepdim=True)
    dn.sub_(dn.mean(-1, keepdim=True)).sub_(normal.mul_(inner)).mul_(rstd)
    return y, (dn, dweight, None if bias is None else dy.sum((0, 1)))


@right(LAYER_NORM_1P_WITHOUT_BIAS, "without the bias")
def layer_norm_1p_without_bias(inputs, dy, *, eps=1e-5):
    return layer_norm_1p_in_place(inputs, dy, eps=eps)


@wrong(LAYER_NORM_1P, "the gradient of x uses weight where the forward has 1 + weight")
def layer_norm_1p_forgot_one(inputs, dy, *, eps=1e-5):
    x, weight, bias = inputs
    normal, rstd = _layer_norm(x, eps)
    y = normal * (1 + weight) + bias
    dx = _layer_norm_backward(normal, rstd, dy * weight)
    return y, (dx, (dy * normal).sum((0, 1)), dy.sum((0, 1)))


@wrong(
    LAYER_NORM_1P,
    "eps is forgotten in the root that the backward recomputes",
    shown_by={"x": normal(2, 3, 17, scale=0.01), "weight": (17,), "bias": (17,)},
)
def layer_norm_1p_forgot_eps(inputs, dy, *, eps=1e-5):
    x, weight, bias = inputs
    y = _layer_norm(x, eps)[0] * (1 + weight) + bias
    normal, rstd = _layer_norm(x, 0.0)
    return y, (_layer_norm_backward(normal, rstd, dy * (1 + weight)), (dy * normal).sum((0, 1)), dy.sum((0, 1)))


@wrong(LAYER_NORM_1P_WITHOUT_BIAS, "the weight's gradient is averaged over the tokens of a sequence, not summed")
def layer_norm_1p_mean_over_tokens(inputs, dy, *, eps=1e-5):
    x, weight, _ = inputs
    normal, rstd = _layer_norm(x, eps)
    dweight = (dy * normal).mean(1).sum(0)
    return normal * (1 + weight), (_layer_norm_backward(normal, rstd, dy * (1 + weight)), dweight, None)


# ------------------------------------------------------------------------------------------ modulated LayerNorm (DiT)


def modulated_layer_norm(x, shift, scale, *, eps=1e-6):
    normal = F.layer_norm(x, x.shape[-1:], eps=eps)
    return normal * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


MODULATED = Function(modulated_layer_norm, {"x": (2, 5, 16), "shift": (2, 16), "scale": (2, 16)})


@right(MODULATED, "the sums over tokens as products with a row of ones")
def modulated_layer_norm_sums_by_product(inputs, dy, *, eps=1e-6):
    x, shift, scale = inputs
    normal, rstd = _layer_norm(x, eps)
    factor = 1 + scale[:, None]
    ones = torch.ones(1, 1, x.shape[1], dtype=x.dtype)
    dshift, dscale = (ones @ dy)[:, 0], (ones @ (dy * normal))[:, 0]
    return normal * factor + shift[:, None], (_layer_norm_backward(normal, rstd, dy * factor), dshift, dscale)


@wrong(MODULATED, "the gradient of scale is formed with x in place of the normalised x")
def modulated_layer_norm_raw_x(inputs, dy, *, eps=1e-6):
    x, shift, scale = inputs
    normal, rstd = _layer_norm(x, eps)
    factor = 1 + scale[:, None]
    dx = _layer_norm_backward(normal, rstd, dy * factor)
    return normal * factor + shift[:, None], (dx, dy.sum(1), (dy * x).sum(1))


@wrong(MODULATED, "shift and scale get the sum over the whole batch in every row")
def modulated_layer_norm_batch_summed(inputs, dy, *, eps=1e-6):
    x, shift, scale = inputs
    normal, rstd = _layer_norm(x, eps)
    factor = 1 + scale[:, None]
    dshift = dy.sum((0, 1)).expand_as(shift)
    dscale = (dy * normal).sum((0, 1)).expand_as(scale)
    return normal * factor + shift[:, None], (_layer_norm_backward(normal, rstd, dy * factor), dshift, dscale)


# ------------------------------------------------------------------------------------------- RMSNorm of heads (QK-norm)


def qk_norm(q, k, q_weight, k_weight, *, eps=1e-6):
    def norm(x, weight):
        return weight * (x / torch.sqrt(torch.mean(x * x, dim=-1, keepdim=True) + eps))

    return norm(q, q_weight), norm(k, k_weight)


QK_NORM = Function(qk_norm, {"q": (2, 4, 3, 8), "k": (2, 2, 3, 8), "q_weight": (8,), "k_weight": (8,)})


def _head_norm(x, weight, dy, eps):
    rstd = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return x * rstd * weight, _rms_backward(x, rstd, dy * weight), dy * x * rstd


@right(QK_NORM, "the weights' gradients as one einsum")
def qk_norm_einsum(inputs, dy, *, eps=1e-6):
    q, k, q_weight, k_weight = inputs
    yq, dq, _ = _head_norm(q, q_weight, dy[0], eps)
    yk, dk, _ = _head_norm(k, k_weight, dy[1], eps)
    root_q, root_k = (x.pow(2).mean(-1).add(eps).sqrt() for x in (q, k))
    dq_weight = torch.einsum("bhtd,bhtd,bht->d", dy[0], q, 1 / root_q)
    dk_weight = torch.einsum("bhtd,bhtd,bht->d", dy[1], k, 1 / root_k)
    return (yq, yk), (dq, dk, dq_weight, dk_weight)


@wrong(QK_NORM, "the gradient of the key's weight is taken from the last head alone")
def qk_norm_last_head(inputs, dy, *, eps=1e-6):
    q, k, q_weight, k_weight = inputs
    yq, dq, wq = _head_norm(q, q_weight, dy[0], eps)
    yk, dk, wk = _head_norm(k, k_weight, dy[1], eps)
    return (yq, yk), (dq, dk, wq.sum((0, 1, 2)), wk[:, -1].sum((0, 1)))


@wrong(QK_NORM, "the cotangent of the normalised query is read as if it were contiguous")
def qk_norm_strides_assumed(inputs, dy, *, eps=1e-6):
    return qk_norm_einsum(inputs, (as_if_contiguous(dy[0]), dy[1]), eps=eps)


# ------------------------------------------------------------------------------------------------- gated RMSNorm, Mamba


def gated_rms_norm(x: Float[Tensor, "rows width"], z: Float[Tensor, "rows width"], weight: Float[Tensor, " width"],
                   *, groups: int = 2, eps: float = 1e-5) -> Float[Tensor, "rows width"]:  # fmt: skip
    """`width` is a multiple of `groups`; each group has a root mean square of its own."""
    h = (x * F.silu(z)).unflatten(-1, (groups, -1))
    return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)).flatten(-2) * weight


GATED_RMS_NORM = Function(gated_rms_norm, {"x": (5, 12), "z": (5, 12), "weight": (12,)}, {"groups": 3})


@right(GATED_RMS_NORM, "silu' as s + silu (1 - s)")
def gated_rms_norm_closed(inputs, dy, *, groups=2, eps=1e-5):
    x, z, weight = inputs
    s = torch.sigmoid(z)
    silu = z * s
    h = (x * silu).unflatten(-1, (groups, -1))
    rstd = torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    normal = (h * rstd).flatten(-2)
    dh = _rms_backward(h, rstd, (dy * weight).unflatten(-1, (groups, -1))).flatten(-2)
    return normal * weight, (dh * silu, dh * x * (s + silu * (1 - s)), (dy * normal).sum(0))


@wrong(GATED_RMS_NORM, "the projection is formed over the whole row, not over each group")
def gated_rms_norm_groups_ignored(inputs, dy, *, groups=2, eps=1e-5):
    x, z, weight = inputs
    s = torch.sigmoid(z)
    h = (x * z * s).unflatten(-1, (groups, -1))
    rstd = torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    normal = (h * rstd).flatten(-2)
    dn = dy * weight
    dh = (dn - normal * (dn * normal).mean(-1, keepdim=True)) * rstd.expand_as(h).flatten(-2)
    return normal * weight, (dh * z * s, dh * x * (s + z * s * (1 - s)), (dy * normal).sum(0))


@wrong(GATED_RMS_NORM, "the gradient of the gate lacks the term z s (1 - s) of the derivative of silu")
def gated_rms_norm_gate_term_dropped(inputs, dy, *, groups=2, eps=1e-5):
    x, z, weight = inputs
    y, (dx, _, dweight) = gated_rms_norm_closed(inputs, dy, groups=groups, eps=eps)
    s = torch.sigmoid(z)
    h = (x * z * s).unflatten(-1, (groups, -1))
    rstd = torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    dh = _rms_backward(h, rstd, (dy * weight).unflatten(-1, (groups, -1))).flatten(-2)
    return y, (dx, dh * x * s, dweight)


# ------------------------------------------------------------------------------------------------ GroupNorm and SiLU


def group_norm_silu(x, weight, bias, *, groups=2, eps=1e-5):
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


GROUP_NORM_SILU = Function(group_norm_silu, {"x": (3, 6, 5), "weight": (6,), "bias": (6,)}, {"groups": 3})


def _group_norm(x, groups, eps):
    normal, rstd = _layer_norm(x.reshape(x.shape[0], groups, -1), eps)
    return normal.view(x.shape), rstd


@right(GROUP_NORM_SILU, "the derivative of silu as s (1 + h (1 - s)); the sums by bmm")
def group_norm_silu_closed(inputs, dy, *, groups=2, eps=1e-5):
    x, weight, bias = inputs
    normal, rstd = _group_norm(x, groups, eps)
    h = normal * weight[:, None] + bias[:, None]
    s = torch.sigmoid(h)
    dh = dy * (s * (1 + h * (1 - s)))
    split = (x.shape[0], groups, -1)
    dn = (dh * weight[:, None]).reshape(split)
    dx = _layer_norm_backward(normal.reshape(split), rstd, dn).view(x.shape)
    return h * s, (dx, (dh * normal).sum((0, 2)), dh.sum((0, 2)))


@wrong(GROUP_NORM_SILU, "the derivative of silu is taken where the bias has not been added")
def group_norm_silu_before_bias(inputs, dy, *, groups=2, eps=1e-5):
    x, weight, bias = inputs
    normal, rstd = _group_norm(x, groups, eps)
    h = normal * weight[:, None]
    s = torch.sigmoid(h)
    dh = dy * (s * (1 + h * (1 - s)))
    split = (x.shape[0], groups, -1)
    dx = _layer_norm_backward(normal.reshape(split), rstd, (dh * weight[:, None]).reshape(split)).view(x.shape)
    return F.silu(h + bias[:, None]), (dx, (dh * normal).sum((0, 2)), dh.sum((0, 2)))


@wrong(GROUP_NORM_SILU, "every gradient is too large by one part in a thousand", shows=WIDE)
def group_norm_silu_factor(inputs, dy, *, groups=2, eps=1e-5):
    y, grads = group_norm_silu_closed(inputs, dy, groups=groups, eps=eps)
    return y, tuple(grad * (1 + 1e-3) for grad in grads)
