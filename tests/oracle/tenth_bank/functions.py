"""Of functions that have no page: what is compared with them is torch's derivative."""

import math

import torch
from torch.nn import functional

from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def residual_rms_norm(x, residual, weight, eps: float = 1e-6):
    h = x + residual
    return h / torch.sqrt((h * h).mean(-1, keepdim=True) + eps) * weight, h


NORM = {"inputs": {"x": (4, 33), "residual": (4, 33), "weight": (33,)}, "hyper": {"eps": 1e-6}}


@bank.wrong(
    residual_rms_norm,
    "dh = through_norm\n",
    "dh = through_norm + dy[1]\n",
    cause="the cotangent of h, which is the second output too, is not added",
    keywords=("second output", "ignored", "dy[1]", "dy.1", "dy_1", "dy1", "not used", "dy of h", "cotangent of h"),
    **NORM,
)
def residual_norm_without_the_residual_stream(inputs, dy, eps=1e-6):
    x, residual, weight = inputs
    y, h = residual_rms_norm(x, residual, weight, eps)
    s = 1 / torch.sqrt((h * h).mean(-1, keepdim=True) + eps)
    h_hat, g = h * s, dy[0] * weight
    through_norm = s * (g - h_hat * (g * h_hat).mean(-1, keepdim=True))
    dh = through_norm
    return (y, h), (dh, dh.clone(), (dy[0] * h_hat).sum(0))


@bank.wrong(
    residual_rms_norm,
    "(h * s).bfloat16().to(h.dtype)",
    "h * s",
    cause="the normalised numbers are kept in bfloat16 for backward",
    keywords=("bfloat16", "16 bit", "16-bit", "rounded", "float16", "precision", "digits"),
    **NORM,
)
def residual_norm_kept_in_16_bits(inputs, dy, eps=1e-6):
    x, residual, weight = inputs
    y, h = residual_rms_norm(x, residual, weight, eps)
    s = 1 / torch.sqrt((h * h).mean(-1, keepdim=True) + eps)
    h_hat, g = (h * s).bfloat16().to(h.dtype), dy[0] * weight
    dh = s * (g - h_hat * (g * h_hat).mean(-1, keepdim=True)) + dy[1]
    return (y, h), (dh, dh.clone(), (dy[0] * h_hat).sum(0))


def clamped_glu(gate, up, alpha: float = 1.702, limit: float = 2.0):
    g = torch.clamp(gate, max=limit)
    return g * torch.sigmoid(alpha * g) * (torch.clamp(up, -limit, limit) + 1)


GLU = {"inputs": {"gate": (4, 33), "up": (4, 33)}, "hyper": {"alpha": 1.702, "limit": 2.0}}


@bank.wrong(
    clamped_glu,
    "dy * g * sigma\n",
    "dy * g * sigma * (torch.abs(up) <= limit)\n",
    cause="dup goes through the clamp of up as if there were none, beyond ±limit too",
    keywords=("limit", "beyond", "outside", "mask"),
    **GLU,
)
def clamped_glu_dup_beyond_the_limit(inputs, dy, alpha=1.702, limit=2.0):
    gate, up = inputs
    g = torch.clamp(gate, max=limit)
    sigma = torch.sigmoid(alpha * g)
    factor = torch.clamp(up, -limit, limit) + 1
    slope = sigma * (1 + alpha * g * torch.sigmoid(-alpha * g))
    dgate = dy * factor * slope * (gate <= limit)
    dup = dy * g * sigma
    return g * sigma * factor, (dgate, dup)


@bank.wrong(
    clamped_glu,
    "(1 + g * torch.sigmoid(-alpha * g))",
    "(1 + alpha * g * torch.sigmoid(-alpha * g))",
    cause="alpha, the inner slope of σ(alpha g), is missing in the slope of the gate",
    keywords=("alpha", "1.702"),
    **GLU,
)
def clamped_glu_without_the_inner_slope(inputs, dy, alpha=1.702, limit=2.0):
    gate, up = inputs
    g = torch.clamp(gate, max=limit)
    sigma = torch.sigmoid(alpha * g)
    factor = torch.clamp(up, -limit, limit) + 1
    slope = sigma * (1 + g * torch.sigmoid(-alpha * g))
    dgate = dy * factor * slope * (gate <= limit)
    dup = dy * g * sigma * (torch.abs(up) <= limit)
    return g * sigma * factor, (dgate, dup)


def sink_attention(q, k, v, sink):
    """Softmax over the scores and one more, of which nothing is taken."""
    s = q @ k.mT / math.sqrt(q.shape[-1])
    sinks = sink[:, None, None].expand(*s.shape[:-1], 1)
    return torch.softmax(torch.cat([s, sinks], -1), -1)[..., :-1] @ v


SINK = {"inputs": {"q": (3, 5, 8), "k": (3, 7, 8), "v": (3, 7, 6), "sink": (3,)}}


@bank.wrong(
    sink_attention,
    "p = torch.softmax(s, -1)\n",
    "p = p_all[..., :-1]\n",
    cause="the probabilities of the keys are made again without the sink in their sum",
    keywords=(
        "without the sink",
        "sink left",
        "sink is left",
        "sink missing",
        "without sink",
        "sinks",
        "p_sink",
        "cat",
    ),
    **SINK,
)
def sink_attention_normalised_without_the_sink(inputs, dy):
    q, k, v, sink = inputs
    y = sink_attention(q, k, v, sink)
    scale = 1 / math.sqrt(q.shape[-1])
    s = q @ k.mT * scale
    p_all = torch.softmax(torch.cat([s, sink[:, None, None].expand(*s.shape[:-1], 1)], -1), -1)
    p = torch.softmax(s, -1)
    along = (dy * y).sum(-1, keepdim=True)
    ds = p * (dy @ v.mT - along)
    dsink = -(p_all[..., -1:] * along).sum((-2, -1))
    return y, (ds @ k * scale, ds.mT @ q * scale, p.mT @ dy, dsink)


@bank.wrong(
    sink_attention,
    "dsink = (p",
    "dsink = -(p",
    cause="dsink has the other sign",
    keywords=("sign", "-1", "−1", "negat"),
    **SINK,
)
def sink_attention_sign_of_dsink(inputs, dy):
    q, k, v, sink = inputs
    y = sink_attention(q, k, v, sink)
    scale = 1 / math.sqrt(q.shape[-1])
    s = q @ k.mT * scale
    p_all = torch.softmax(torch.cat([s, sink[:, None, None].expand(*s.shape[:-1], 1)], -1), -1)
    p = p_all[..., :-1]
    along = (dy * y).sum(-1, keepdim=True)
    ds = p * (dy @ v.mT - along)
    dsink = (p_all[..., -1:] * along).sum((-2, -1))
    return y, (ds @ k * scale, ds.mT @ q * scale, p.mT @ dy, dsink)


def alibi_attention(q, k, v, slopes):
    """Causal, with a penalty for the distance of a key."""
    place = torch.arange(q.shape[-2], device=q.device)
    distance = place[:, None] - place
    s = q @ k.mT / math.sqrt(q.shape[-1]) - slopes[:, None, None] * distance
    return torch.softmax(s.masked_fill(distance < 0, -math.inf), -1) @ v


@bank.wrong(
    alibi_attention,
    "distance < -1",
    "distance < 0",
    cause="in backward a query sees one later key too: the causal mask is off by one",
    keywords=("later", "causal", "mask", "off by one", "one key", "next", "diagonal"),
    inputs={"q": (3, 5, 8), "k": (3, 5, 8), "v": (3, 5, 6), "slopes": (3,)},
)
def alibi_mask_off_by_one(inputs, dy):
    q, k, v, slopes = inputs
    y = alibi_attention(q, k, v, slopes)
    scale = 1 / math.sqrt(q.shape[-1])
    place = torch.arange(q.shape[-2], device=q.device)
    distance = place[:, None] - place
    s = q @ k.mT * scale - slopes[:, None, None] * distance
    p = torch.softmax(s.masked_fill(distance < -1, -math.inf), -1)
    ds = p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True))
    return y, (ds @ k * scale, ds.mT @ q * scale, p.mT @ dy, -(ds * distance).sum((-2, -1)))


def focal_loss(x, target, gamma: float = 2.0):
    """Of logits, and of labels 0 and 1."""
    z = x * (2 * target - 1)
    return (-(torch.sigmoid(-z) ** gamma) * functional.logsigmoid(z)).mean()


@bank.wrong(
    focal_loss,
    "(-q)",
    "(gamma * torch.sigmoid(z) * functional.logsigmoid(z) - q)",
    cause="the factor (1 − p)^gamma is taken for a constant: its own slope is missing",
    keywords=("gamma", "constant", "factor (", "modulat", "pow", "power"),
    inputs={
        "x": (4, 33),
        "target": ((4, 33), lambda shape, generator: torch.randint(0, 2, shape, generator=generator)),
    },
    hyper={"gamma": 2.0},
)
def focal_loss_factor_held_constant(inputs, dy, gamma=2.0):
    x, target = inputs
    sign = 2 * target - 1
    z = x * sign
    q = torch.sigmoid(-z)
    dz = q**gamma * (-q)
    return focal_loss(x, target, gamma), (dy * sign * dz / x.numel(), None)


def low_rank_linear(x, weight, a, b, scale: float = 0.5):
    return x @ weight.mT + scale * (x @ a.mT @ b.mT)


LOW_RANK = {"inputs": {"x": (4, 33), "weight": (17, 33), "a": (5, 33), "b": (17, 5)}, "hyper": {"scale": 0.5}}


@bank.wrong(
    low_rank_linear,
    "da = dz.mT @ x",
    "da = scale * dz.mT @ x",
    cause="scale is missing in da",
    keywords=("scale", "1/scale", "2 times", "0.5", "twice"),
    **LOW_RANK,
)
def low_rank_da_without_the_scale(inputs, dy, scale=0.5):
    x, weight, a, b = inputs
    z, dz = x @ a.mT, dy @ b
    da = dz.mT @ x
    dx = dy @ weight + scale * dz @ a
    return low_rank_linear(x, weight, a, b, scale), (dx, dy.mT @ x, da, scale * dy.mT @ z)


@bank.wrong(
    low_rank_linear,
    "dx = dy @ weight\n",
    "dx = dy @ weight + scale * dz @ a\n",
    cause="dx goes through the weight alone, and not through the adapter",
    keywords=("adapter", "missing", "without", "left out", "term", "lacks", "dropped"),
    **LOW_RANK,
)
def low_rank_dx_past_the_adapter(inputs, dy, scale=0.5):
    x, weight, a, b = inputs
    z, dz = x @ a.mT, dy @ b
    dx = dy @ weight
    return low_rank_linear(x, weight, a, b, scale), (dx, dy.mT @ x, scale * dz.mT @ x, scale * dy.mT @ z)


def squared_relu_glu(gate, up):
    return torch.relu(gate) ** 2 * up


@bank.wrong(
    squared_relu_glu,
    "2 * gate * up",
    "2 * torch.relu(gate) * up",
    cause="dgate is 2 gate up where gate is negative too: relu is forgotten",
    keywords=("relu", "negative", "mask", "below 0", "gate > 0", "clamp", "max(gate"),
    inputs={"gate": (4, 33), "up": (4, 33)},
)
def squared_relu_glu_slope_of_negative_gates(inputs, dy):
    gate, up = inputs
    return squared_relu_glu(gate, up), (dy * (2 * gate * up), dy * torch.relu(gate) ** 2)


def cross_entropy_with_z(x, target, smoothing: float = 0.1, z_weight: float = 0.01):
    """With smoothed labels, and a cost of the square of the log-sum-exp."""
    log_p = torch.log_softmax(x, -1)
    of_target = -torch.gather(log_p, -1, target[:, None])[:, 0]
    each = (1 - smoothing) * of_target - smoothing * log_p.mean(-1)
    return (each + z_weight * torch.logsumexp(x, -1) ** 2).mean()


@bank.wrong(
    cross_entropy_with_z,
    "z_weight * torch.logsumexp(",
    "2 * z_weight * torch.logsumexp(",
    cause="the slope of the square of the log-sum-exp lacks its factor 2",
    keywords=("half", "1/2", "2 ·", "twice", "factor 2", "square", "logsumexp", "**"),
    inputs={
        "x": (4, 9),
        "target": ((4,), lambda shape, generator: torch.randint(0, 9, shape, generator=generator)),
    },
    hyper={"smoothing": 0.1, "z_weight": 0.01},
)
def cross_entropy_with_z_half_of_its_slope(inputs, dy, smoothing=0.1, z_weight=0.01):
    x, target = inputs
    log_p = torch.log_softmax(x, -1)
    p = torch.exp(log_p)
    is_target = target[:, None] == torch.arange(x.shape[-1], device=x.device)
    from_target = torch.where(is_target, torch.expm1(log_p), p)
    from_z = z_weight * torch.logsumexp(x, -1, keepdim=True) * p
    each = (1 - smoothing) * from_target + smoothing * (p - 1 / x.shape[-1]) + from_z
    return cross_entropy_with_z(x, target, smoothing, z_weight), (dy * each / len(x), None)
