"""Layers as fused kernels have them: experts, adapters, quantised weights, images."""

import math

import torch
import torch.nn.functional as F

from tests.oracle.function_bank.entry import WIDE, Function, ids, mask, normal, right, signs, uniform, wrong

# ------------------------------------------------- a router: the best k of a softmax, renormalised, and a balance loss


def renormalised_router(x, weight, *, k=2):
    p = torch.softmax(x @ weight.T, -1)
    best, which = p.topk(k, -1)
    gates = torch.zeros_like(p).scatter(-1, which, best / best.sum(-1, keepdim=True))
    used = torch.zeros_like(p).scatter(-1, which, 1.0).mean(0)
    return gates, weight.shape[0] * (used.detach() * p.mean(0)).sum()


ROUTER = Function(renormalised_router, {"x": (6, 5), "weight": (4, 5)})


def _router(inputs, dy, k, *, renormalised=True, balance=True):
    x, weight = inputs
    p = torch.softmax(x @ weight.T, -1)
    which = p.topk(k, -1).indices
    chosen = torch.zeros_like(p).scatter_(-1, which, 1.0)
    total = (p * chosen).sum(-1, keepdim=True)
    gates = p * chosen / total
    used = chosen.mean(0)
    y = gates, len(weight) * (used * p.mean(0)).sum()
    dp = chosen * (dy[0] - (dy[0] * gates).sum(-1, keepdim=True) * renormalised) / total
    if balance:
        dp = dp + dy[1] * len(weight) * used / len(x)
    dlogits = p * (dp - (dp * p).sum(-1, keepdim=True))
    return y, (dlogits @ weight, dlogits.T @ x)


@right(ROUTER, "the renormalised softmax is one over the chosen")
def router_chosen(inputs, dy, *, k=2):
    return _router(inputs, dy, k)


@wrong(ROUTER, "the sum by which gates are divided is taken for a constant")
def router_total_constant(inputs, dy, *, k=2):
    return _router(inputs, dy, k, renormalised=False)


@wrong(ROUTER, "the balance loss has no gradient")
def router_without_balance(inputs, dy, *, k=2):
    return _router(inputs, dy, k, balance=False)


# ----------------------------------------------------------------- a clamped gated MLP of the expert that each row has


def expert_mlp(x, expert, gate_up, down, *, limit=3.0):
    both = torch.einsum("rf,rhf->rh", x, gate_up[expert])
    gate, up = both.chunk(2, -1)
    hidden = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    return torch.einsum("rh,rfh->rf", hidden, down[expert])


EXPERT = Function(
    expert_mlp,
    {"x": (5, 4), "expert": ids(5, below=3), "gate_up": (3, 6, 4), "down": (3, 4, 3)},
    {"limit": 1.5},
)


def _expert(inputs, dy, limit, *, lower=True, added=True):
    x, expert, gate_up, down = inputs
    gate, up = torch.einsum("rf,rhf->rh", x, gate_up[expert]).chunk(2, -1)
    g, u = gate.clamp(max=limit), up.clamp(-limit, limit)
    s = torch.sigmoid(g)
    hidden = g * s * u
    dhidden = torch.einsum("rf,rfh->rh", dy, down[expert])
    dgate = dhidden * u * s * (1 + g * torch.sigmoid(-g)) * (gate <= limit)
    inside = (up <= limit) & (up >= -limit) if lower else up <= limit
    dboth = torch.cat((dgate, dhidden * g * s * inside), -1)

    def of_experts(like, each):
        found = torch.zeros_like(like)
        return found.index_add_(0, expert, each) if added else found.index_copy_(0, expert, each)

    grads = (
        torch.einsum("rh,rhf->rf", dboth, gate_up[expert]),
        None,
        of_experts(gate_up, dboth[:, :, None] * x[:, None]),
        of_experts(down, dy[:, :, None] * hidden[:, None]),
    )
    return torch.einsum("rh,rfh->rf", hidden, down[expert]), grads


@right(EXPERT, "weights' gradients added up by expert")
def expert_mlp_added(inputs, dy, *, limit=3.0):
    return _expert(inputs, dy, limit)


@wrong(EXPERT, "up below -limit still gets its gradient")
def expert_mlp_upper_clamp(inputs, dy, *, limit=3.0):
    return _expert(inputs, dy, limit, lower=False)


@wrong(EXPERT, "an expert of several rows gets what one of them wrote")
def expert_mlp_copied(inputs, dy, *, limit=3.0):
    return _expert(inputs, dy, limit, added=False)


# -------------------------------------------------------------- residual, RMSNorm and the scale of its quantisation


def residual_norm_quantised(x, residual, weight, *, eps=1e-6, largest=127.0):
    h = x + residual
    n = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * weight
    scale = n.abs().amax(-1, keepdim=True) / largest
    return n / scale, scale, h


QUANTISED = Function(residual_norm_quantised, {"x": (4, 7), "residual": (4, 7), "weight": (7,)})


def _quantised(inputs, dy, eps, largest, *, scale_back=True, residual=True):
    x, gone, weight = inputs
    h = x + gone
    s = torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    hhat = h * s
    n = hhat * weight
    top = n.abs().amax(-1, keepdim=True)
    scale = top / largest
    q = n / scale
    dscale = dy[1] - ((dy[0] * q).sum(-1, keepdim=True) / scale if scale_back else 0)
    is_top = (n.abs() == top).to(n.dtype)
    dn = dy[0] / scale + dscale / largest * n.sign() * is_top / is_top.sum(-1, keepdim=True)
    g = dn * weight
    dh = s * (g - hhat * (g * hhat).mean(-1, keepdim=True))
    if residual:
        dh = dh + dy[2]
    return (q, scale, h), (dh, dh.clone(), (dn * hhat).sum(0))


@right(QUANTISED, "the scale's cotangent goes to the largest of each row")
def residual_norm_quantised_to_largest(inputs, dy, *, eps=1e-6, largest=127.0):
    return _quantised(inputs, dy, eps, largest)


@wrong(QUANTISED, "the scale by which is divided is taken for a constant")
def residual_norm_quantised_scale_constant(inputs, dy, *, eps=1e-6, largest=127.0):
    return _quantised(inputs, dy, eps, largest, scale_back=False)


@wrong(QUANTISED, "the residual's own cotangent is dropped", shows=WIDE)  # beside the others it is small
def residual_norm_quantised_without_residual(inputs, dy, *, eps=1e-6, largest=127.0):
    return _quantised(inputs, dy, eps, largest, residual=False)


# ---------------------------------------------------------------- whole weights with a scale for every group of inputs


def grouped_dequantised_linear(x, whole, scale, zero):
    groups = scale.shape[1]
    weight = (whole.to(x.dtype).unflatten(1, (groups, -1)) - zero[..., None]) * scale[..., None]
    return x @ weight.flatten(1).T


DEQUANTISED = Function(
    grouped_dequantised_linear,
    {"x": (4, 8), "whole": ids(5, 8, below=16), "scale": uniform(5, 2, low=0.1, high=0.5), "zero": (5, 2)},
)


def _dequantised(inputs, dy, *, minus_zero=True):
    x, whole, scale, zero = inputs
    apart = whole.to(x.dtype).unflatten(1, (scale.shape[1], -1)) - zero[..., None]
    weight = (apart * scale[..., None]).flatten(1)
    dweight = (dy.T @ x).unflatten(1, (scale.shape[1], -1))
    read = apart if minus_zero else apart + zero[..., None]
    return x @ weight.T, (dy @ weight, None, (dweight * read).sum(-1), -(dweight * scale[..., None]).sum(-1))


@right(DEQUANTISED, "sums over each group")
def dequantised_by_group(inputs, dy):
    return _dequantised(inputs, dy)


@wrong(DEQUANTISED, "the zero point is left out of dscale")
def dequantised_without_zero(inputs, dy):
    return _dequantised(inputs, dy, minus_zero=False)


# ------------------------------------------------------- a low-rank adapter with a mask and 1/√rank


def masked_adapter(x, weight, down, up, kept, *, alpha=8.0, p=0.25):
    low = torch.where(kept, x / (1 - p), 0.0) @ down.T
    return x @ weight.T + alpha / math.sqrt(down.shape[0]) * low @ up.T


ADAPTER = Function(
    masked_adapter, {"x": (5, 6), "weight": (4, 6), "down": (3, 6), "up": (4, 3), "kept": mask(5, 6)}, {"alpha": 2.0}
)


def _adapter(inputs, dy, alpha, p, *, masked=True, root=True):
    x, weight, down, up, kept = inputs
    scale = alpha / (math.sqrt(down.shape[0]) if root else down.shape[0])
    dropped = torch.where(kept, x / (1 - p), torch.zeros_like(x))
    low = dropped @ down.T
    dlow = scale * dy @ up
    back = dlow @ down
    dx = dy @ weight + (torch.where(kept, back / (1 - p), torch.zeros_like(x)) if masked else back)
    y = x @ weight.T + alpha / math.sqrt(down.shape[0]) * low @ up.T
    return y, (dx, dy.T @ x, dlow.T @ dropped, scale * dy.T @ low, None)


@right(ADAPTER, "the branch's cotangent, scaled once")
def masked_adapter_scaled_once(inputs, dy, *, alpha=8.0, p=0.25):
    return _adapter(inputs, dy, alpha, p)


@wrong(ADAPTER, "the mask is not applied to dx")
def masked_adapter_unmasked(inputs, dy, *, alpha=8.0, p=0.25):
    return _adapter(inputs, dy, alpha, p, masked=False)


@wrong(ADAPTER, "the backward divides by the rank, the forward by its root")
def masked_adapter_by_rank(inputs, dy, *, alpha=8.0, p=0.25):
    return _adapter(inputs, dy, alpha, p, root=False)


# ---------------------------------------------------------------- layer scale with paths that are dropped


def scaled_path(x, branch, gamma, path, *, keep=0.8):
    return x + gamma * branch * (path / keep)[:, None, None]


PATH = Function(
    scaled_path,
    {"x": (4, 3, 5), "branch": (4, 3, 5), "gamma": (5,), "path": lambda generator: torch.tensor([1.0, 0, 1, 1])},
)


@right(PATH, "one product of all three for gamma")
def scaled_path_plain(inputs, dy, *, keep=0.8):
    x, branch, gamma, path = inputs
    kept = (path / keep)[:, None, None]
    dpath = (dy * branch * gamma).sum((1, 2)) / keep
    return x + gamma * branch * kept, (dy.clone(), dy * gamma * kept, (dy * branch * kept).sum((0, 1)), dpath)


@wrong(PATH, "gamma's gradient is also of the paths that were dropped")
def scaled_path_gamma_of_all(inputs, dy, *, keep=0.8):
    y, (dx, dbranch, _, dpath) = scaled_path_plain(inputs, dy, keep=keep)
    return y, (dx, dbranch, (dy * inputs[1]).sum((0, 1)) / keep, dpath)


# ------------------------------------------------------------------------------- weights standardised, then convolved


def standardised_conv(x, weight, gain, *, eps=1e-4):
    mean = weight.mean((1, 2), keepdim=True)
    var = weight.var((1, 2), keepdim=True, unbiased=False)
    fan = weight[0].numel()
    return F.conv1d(x, (weight - mean) * torch.rsqrt(var * fan + eps) * gain[:, None, None], padding=1)


STANDARDISED = Function(standardised_conv, {"x": (2, 3, 6), "weight": (4, 3, 3), "gain": (4,)})


def _standardised(inputs, dy, eps, *, mean=True, fan_back=True):
    x, weight, gain = inputs
    n = weight[0].numel()
    centred = weight - weight.mean((1, 2), keepdim=True)
    s = torch.rsqrt(centred.square().sum((1, 2), keepdim=True) + eps)
    what = centred * s
    used = what * gain[:, None, None]
    y = F.conv1d(x, used, padding=1)
    dx = F.conv_transpose1d(dy, used, padding=1)
    windows = F.pad(x, (1, 1)).unfold(2, weight.shape[2], 1)
    dused = torch.einsum("bfl,bclk->fck", dy, windows)
    g = dused * gain[:, None, None]
    dweight = s * (g - what * (g * what).sum((1, 2), keepdim=True) * (1 if fan_back else 1 / n))
    if mean:
        dweight = dweight - dweight.mean((1, 2), keepdim=True)
    return y, (dx, dweight, (dused * what).sum((1, 2)))


@right(STANDARDISED, "windows unfolded; then as a norm over each filter")
def standardised_conv_unfolded(inputs, dy, *, eps=1e-4):
    return _standardised(inputs, dy, eps)


@wrong(STANDARDISED, "the mean over each filter is not taken off")
def standardised_conv_without_mean(inputs, dy, *, eps=1e-4):
    return _standardised(inputs, dy, eps, mean=False)


@wrong(STANDARDISED, "the projection is divided by the fan")
def standardised_conv_by_fan(inputs, dy, *, eps=1e-4):
    return _standardised(inputs, dy, eps, fan_back=False)


# ------------------------------------------------------------------------------------ one step of a spectral norm


def spectral_linear(x, weight, u, *, eps=1e-12):
    with torch.no_grad():
        v = F.normalize(weight.T @ u, dim=0, eps=eps)
        left = F.normalize(weight @ v, dim=0, eps=eps)
    sigma = left @ weight @ v
    return x @ (weight / sigma).T


SPECTRAL = Function(spectral_linear, {"x": (4, 5), "weight": (3, 5), "u": (3,)})


def _spectral(inputs, dy, eps, *, through_sigma=True):
    x, weight, u = inputs
    v = weight.T @ u
    v = v / v.norm().clamp(min=eps)
    left = weight @ v
    left = left / left.norm().clamp(min=eps)
    sigma = left @ weight @ v
    dscaled = dy.T @ x
    dweight = dscaled / sigma
    if through_sigma:
        dweight = dweight - (dscaled * weight).sum() / sigma**2 * torch.outer(left, v)
    return x @ weight.T / sigma, (dy @ weight / sigma, dweight, torch.zeros_like(u))


@right(SPECTRAL, "both vectors are constants, the norm is not")
def spectral_linear_outer(inputs, dy, *, eps=1e-12):
    return _spectral(inputs, dy, eps)


@wrong(SPECTRAL, "the norm is taken for a constant")
def spectral_linear_constant(inputs, dy, *, eps=1e-12):
    return _spectral(inputs, dy, eps, through_sigma=False)


# --------------------------------------------------------------- depthwise convolution and a gated linear unit


def depthwise_glu(x, weight, bias):
    y = F.conv1d(F.pad(x, (2, 0)), weight[:, None], bias, groups=x.shape[1])
    return F.glu(y, 1)


DEPTHWISE = Function(depthwise_glu, {"x": (2, 6, 5), "weight": (6, 3), "bias": (6,)})


def _depthwise(inputs, dy, *, flipped=True, slope=True):
    x, weight, bias = inputs
    windows = F.pad(x, (2, 0)).unfold(2, 3, 1)
    z = (windows * weight[:, None]).sum(-1) + bias[:, None]
    a, b = z.chunk(2, 1)
    s = torch.sigmoid(b)
    dz = torch.cat((dy * s, dy * a * s * ((1 - s) if slope else 1)), 1)
    taps = weight.flip(-1) if flipped else weight
    dx = (F.pad(dz, (0, 2)).unfold(2, 3, 1) * taps[:, None]).sum(-1)
    return a * s, (dx, (dz[..., None] * windows).sum((0, 2)), dz.sum((0, 2)))


@right(DEPTHWISE, "taps read the other way round")
def depthwise_glu_flipped(inputs, dy):
    return _depthwise(inputs, dy)


@wrong(DEPTHWISE, "taps are not turned round for dx")
def depthwise_glu_not_flipped(inputs, dy):
    return _depthwise(inputs, dy, flipped=False)


@wrong(DEPTHWISE, "1 - σ is left out of the gate")
def depthwise_glu_without_slope(inputs, dy):
    return _depthwise(inputs, dy, slope=False)


# ------------------------------------------------------------------------------ channels squeezed and excited


def squeeze_excite(x, w1, b1, w2, b2):
    pooled = x.mean((2, 3))
    gate = F.relu6(F.relu(pooled @ w1.T + b1) @ w2.T + b2 + 3) / 6
    return x * gate[:, :, None, None]


SQUEEZE = Function(squeeze_excite, {"x": (2, 4, 3, 3), "w1": (3, 4), "b1": (3,), "w2": (4, 3), "b2": (4,)})


def _squeeze(inputs, dy, *, pooled_back=True, sixth=True):
    x, w1, b1, w2, b2 = inputs
    area = x.shape[2] * x.shape[3]
    pooled = x.sum((2, 3)) / area
    h = (pooled @ w1.T + b1).clamp(min=0)
    z = h @ w2.T + b2
    gate = ((z + 3) / 6).clamp(0, 1)
    dgate = (dy * x).sum((2, 3))
    dz = dgate * ((z > -3) & (z < 3)) / (6 if sixth else 1)
    dh = (dz @ w2) * (h > 0)
    dx = dy * gate[:, :, None, None]
    if pooled_back:
        dx = dx + (dh @ w1 / area)[:, :, None, None]
    return x * gate[:, :, None, None], (dx, dh.T @ pooled, dh.sum(0), dz.T @ h, dz.sum(0))


@right(SQUEEZE, "the mean's share goes to every place")
def squeeze_excite_shared(inputs, dy):
    return _squeeze(inputs, dy)


@wrong(SQUEEZE, "dx lacks what goes through the gate")
def squeeze_excite_direct(inputs, dy):
    return _squeeze(inputs, dy, pooled_back=False)


@wrong(SQUEEZE, "the slope 1/6 of the hard sigmoid is left out")
def squeeze_excite_without_sixth(inputs, dy):
    return _squeeze(inputs, dy, sixth=False)


# ----------------------------------------------------------------- bilinear pooling: signed roots, then length 1


def bilinear_pool(a, b, *, eps=1e-3):
    z = torch.einsum("bip,bjp->bij", a, b).flatten(1) / a.shape[2]
    z = z.sign() * torch.sqrt(z.abs() + eps)
    return F.normalize(z, dim=1)


BILINEAR = Function(bilinear_pool, {"a": (3, 2, 6), "b": (3, 4, 6)})


def _bilinear(inputs, dy, eps, *, project=True, places=True):
    a, b = inputs
    z = torch.einsum("bip,bjp->bij", a, b).flatten(1) / a.shape[2]
    root = torch.sqrt(z.abs() + eps)
    r = z.sign() * root
    norm = r.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)  # as F.normalize has it
    y = r / norm
    dr = (dy - y * (y * dy).sum(1, keepdim=True) * project) / norm
    dz = (dr * z.sign().square() / (2 * root)).unflatten(1, (a.shape[1], -1)) / (a.shape[2] if places else 1)
    return y, (torch.einsum("bij,bjp->bip", dz, b), torch.einsum("bij,bip->bjp", dz, a))


@right(BILINEAR, "through length, root and product by turns")
def bilinear_pool_by_turns(inputs, dy, *, eps=1e-3):
    return _bilinear(inputs, dy, eps)


@wrong(BILINEAR, "the length is taken for a constant")
def bilinear_pool_length_constant(inputs, dy, *, eps=1e-3):
    return _bilinear(inputs, dy, eps, project=False)


@wrong(BILINEAR, "the mean over places is a sum in the backward")
def bilinear_pool_sum(inputs, dy, *, eps=1e-3):
    return _bilinear(inputs, dy, eps, places=False)


# ---------------------------------------- tanh in place of a norm, one alpha for all


def dynamic_tanh(x, alpha, weight, bias):
    return weight * torch.tanh(alpha * x) + bias


DYT = Function(dynamic_tanh, {"x": (3, 4, 5), "alpha": uniform(low=0.3, high=0.8), "weight": (5,), "bias": (5,)})


@right(DYT, "1 - tanh² as it is written everywhere")
def dynamic_tanh_plain(inputs, dy):
    x, alpha, weight, bias = inputs
    t = torch.tanh(alpha * x)
    dz = dy * weight * (1 - t * t)
    return weight * t + bias, (dz * alpha, (dz * x).sum(), (dy * t).sum((0, 1)), dy.sum((0, 1)))


@wrong(DYT, "alpha's gradient is the mean over elements")
def dynamic_tanh_mean_alpha(inputs, dy):
    y, (dx, dalpha, dweight, dbias) = dynamic_tanh_plain(inputs, dy)
    return y, (dx, dalpha / inputs[0].numel(), dweight, dbias)


# -------------------------------------------------------------------------------------------------- sparsemax


def sparsemax(x):
    z = x.sort(-1, descending=True).values
    order = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    above = z.cumsum(-1) - 1
    count = (order * z > above).sum(-1, keepdim=True)
    threshold = above.gather(-1, count - 1) / count.to(x.dtype)
    return (x - threshold).clamp(min=0)


SPARSEMAX = Function(sparsemax, {"x": (5, 6)})


def _sparsemax(inputs, dy, *, of_support=True):
    (x,) = inputs
    z = x.sort(-1, descending=True).values
    above = z.cumsum(-1) - 1
    order = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    count = (order * z > above).sum(-1, keepdim=True)
    y = (x - above.gather(-1, count - 1) / count).clamp(min=0)
    support = (y > 0).to(x.dtype)
    divisor = support.sum(-1, keepdim=True) if of_support else x.shape[-1]
    return y, (support * (dy - (support * dy).sum(-1, keepdim=True) / divisor),)


@right(SPARSEMAX, "the mean over the support is taken off")
def sparsemax_support(inputs, dy):
    return _sparsemax(inputs, dy)


@wrong(SPARSEMAX, "the mean is over all classes")
def sparsemax_mean_of_all(inputs, dy):
    return _sparsemax(inputs, dy, of_support=False)


# ---------------------------------------- a grouped convolution gated by another, places shuffled into images


def shuffled_conv(x, weight, gate):
    y = F.conv2d(x, weight, padding=1, groups=2) * torch.tanh(F.conv2d(x, gate))
    return F.pixel_shuffle(y, 2)


SHUFFLED = Function(
    shuffled_conv,
    {"x": (2, 4, 3, 3), "weight": normal(8, 2, 3, 3, scale=0.4), "gate": normal(8, 4, 1, 1, scale=0.5)},
)


def _shuffled(inputs, dy, *, gate_back=True):
    x, weight, gate = inputs
    a = F.conv2d(x, weight, padding=1, groups=2)
    t = torch.tanh(torch.einsum("bchw,oc->bohw", x, gate[:, :, 0, 0]))
    dz = F.pixel_unshuffle(dy, 2)
    da, dt = dz * t, dz * a * (1 - t * t)
    dx = F.conv_transpose2d(da, weight, padding=1, groups=2)
    if gate_back:
        dx = dx + torch.einsum("bohw,oc->bchw", dt, gate[:, :, 0, 0])
    windows = F.unfold(x, 3, padding=1).unflatten(1, (2, 2, 9))
    parted = da.flatten(2).unflatten(1, (2, 4))
    dweight = torch.einsum("bgop,bgckp->gock", parted, windows).reshape(weight.shape)
    dgate = torch.einsum("bohw,bchw->oc", dt, x)[:, :, None, None]
    return F.pixel_shuffle(a * t, 2), (dx, dweight, dgate)


@right(SHUFFLED, "windows unfolded by group")
def shuffled_conv_unfolded(inputs, dy):
    return _shuffled(inputs, dy)


@wrong(SHUFFLED, "dx lacks what goes through the gate")
def shuffled_conv_without_gate(inputs, dy):
    return _shuffled(inputs, dy, gate_back=False)


# ------------------------------------------------------------------------- messages on a graph, averaged by node


def mean_messages(x, source, sink, weight):
    messages = torch.relu(x @ weight.T)[source]
    total = torch.zeros_like(messages[:1]).expand(x.shape[0], -1).index_add(0, sink, messages)
    count = torch.zeros(x.shape[0], dtype=x.dtype).index_add(0, sink, torch.ones(len(sink), dtype=x.dtype))
    return total / count.clamp(min=1)[:, None]


MESSAGES = Function(mean_messages, {"x": (5, 4), "source": ids(9, below=5), "sink": ids(9, below=5), "weight": (3, 4)})


def _messages(inputs, dy, *, averaged=True):
    x, source, sink, weight = inputs
    z = x @ weight.T
    h = z.clamp(min=0)
    count = torch.bincount(sink, minlength=len(x)).clamp(min=1).to(x.dtype)[:, None]
    y = torch.zeros_like(h).index_add_(0, sink, h[source]) / count
    each = (dy / count if averaged else dy)[sink]
    dz = torch.zeros_like(h).index_add_(0, source, each) * (z > 0)
    return y, (dz @ weight, None, None, dz.T @ x)


@right(MESSAGES, "back along the edges")
def mean_messages_back(inputs, dy):
    return _messages(inputs, dy)


@wrong(MESSAGES, "what is averaged is added up in the backward")
def mean_messages_sum(inputs, dy):
    return _messages(inputs, dy, averaged=False)


# ------------------------------------------------------- signs of a linear layer, straight through where |x| ≤ 1


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x.abs() <= 1).to(dy.dtype)


def binary_linear(x, weight):
    scale = weight.abs().mean(1)
    return _Sign.apply(x) @ _Sign.apply(weight).T * scale


BINARY = Function(binary_linear, {"x": (4, 6), "weight": (3, 6)})


def _binary(inputs, dy, *, clipped=True, scale_back=True):
    x, weight = inputs
    sx, sw, scale = x.sign(), weight.sign(), weight.abs().mean(1)
    plain = sx @ sw.T
    d = dy * scale
    dx, dweight = d @ sw, d.T @ sx
    if clipped:
        dx, dweight = dx * (x.abs() <= 1), dweight * (weight.abs() <= 1)
    if scale_back:
        dweight = dweight + (dy * plain).sum(0)[:, None] * sw / weight.shape[1]
    return plain * scale, (dx, dweight)


@right(BINARY, "a declared derivative: the slope of a clamp")
def binary_linear_straight(inputs, dy):
    return _binary(inputs, dy)


@wrong(BINARY, "beyond 1 gradients pass too")
def binary_linear_unclipped(inputs, dy):
    return _binary(inputs, dy, clipped=False)


@wrong(BINARY, "the scale is taken for a constant")
def binary_linear_scale_constant(inputs, dy):
    return _binary(inputs, dy, scale_back=False)


# ------------------------------------------------------------------------- complex numbers as pairs of signs and sizes


def signed_power(x, signed, *, power=1.5):
    return signed * (x.square() + 1) ** (power / 2)


SIGNED = Function(signed_power, {"x": (3, 4), "signed": signs(3, 4)})


@right(SIGNED, "by the root that the value has")
def signed_power_plain(inputs, dy, *, power=1.5):
    x, signed = inputs
    r = x.square() + 1
    y = r ** (power / 2)
    return signed * y, (dy * signed * power * x * y / r, dy * y)


@wrong(SIGNED, "the exponent is not lowered")
def signed_power_not_lowered(inputs, dy, *, power=1.5):
    x, signed = inputs
    y = (x.square() + 1) ** (power / 2)
    return signed * y, (dy * signed * power * x * y, dy * y)
