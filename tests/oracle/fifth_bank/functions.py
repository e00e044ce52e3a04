"""Functions without a page: the reference is a forward in plain torch."""

import math

import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def add_rms_norm(x, residual, weight, eps: float = 1e-6):
    h = x + residual
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight, h


@bank.wrong(
    add_rms_norm,
    "the cotangent of the sum, the second output, is added to dx and not to dresidual",
    "dresidual second", "dresidual cotangent", "dresidual ignore", "dresidual lacks", "dresidual without",
    "dresidual output", "dresidual missing",
    inputs={"x": (6, 33), "residual": (6, 33), "weight": (33,)},
)  # fmt: skip
def add_rms_norm_sum_reaches_x_alone(inputs, dy, eps=1e-6):
    x, residual, weight = inputs
    g, dh_out = dy
    h = x + residual
    s = (torch.linalg.vecdot(h, h)[..., None] / h.shape[-1] + eps).rsqrt()
    xhat, scaled = h * s, g * weight
    dh = s * (scaled - xhat * (scaled * xhat).mean(-1, keepdim=True))
    return (xhat * weight, h), (dh + dh_out, dh, (g * xhat).sum_to_size(weight.shape))


def clamped_swiglu(gate, up, alpha: float = 1.702, limit: float = 1.5):
    g, u = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (u + 1) * g * torch.sigmoid(alpha * g)


CLAMPED = {"gate": (6, 33), "up": (6, 33)}


@bank.wrong(
    clamped_swiglu,
    "dup is cut where up is above the limit, and not where it is below minus the limit",
    "clamp", "limit", "below", "lower", "cut", "mask", "-1.5", "slope",
    inputs=CLAMPED, hyper={"alpha": 1.702, "limit": 1.5},
)  # fmt: skip
def clamped_swiglu_lower_limit_passes(inputs, dy, alpha=1.702, limit=1.5):
    gate, up = inputs
    g, u = gate.clamp(max=limit), up.clamp(-limit, limit)
    s = torch.sigmoid(alpha * g)
    dgate = dy * (u + 1) * s * (1 + alpha * g * (1 - s)) * (gate <= limit)
    return (u + 1) * g * s, (dgate, dy * g * s * (up <= limit))


def sink_attention(q, k, v, sink):
    s = q @ k.mT / q.shape[-1] ** 0.5
    column = sink[:, None, None].expand(*s.shape[:-1], 1)
    return torch.softmax(torch.cat((s, column), -1), -1)[..., :-1] @ v


@bank.wrong(
    sink_attention,
    "dsink takes its row sum Σ p dp with p renormalised over the keys, without the sink",
    "row sum", "without the sink", "renormal", "denominator", "normaliser", "projection", "keys alone", "Σ p dp",
    inputs={"q": (2, 5, 8), "k": (2, 7, 8), "v": (2, 7, 6), "sink": (2,)},
)  # fmt: skip
def sink_attention_renormalised_in_dsink(inputs, dy):
    q, k, v, sink = inputs
    c = q.shape[-1] ** -0.5
    s = torch.einsum("hqw,hkw->hqk", q, k) * c
    top = torch.maximum(s.amax(-1), sink[:, None])[..., None]
    e, e_sink = torch.exp(s - top), torch.exp(sink[:, None, None] - top)
    total = e.sum(-1, keepdim=True) + e_sink
    p, p_sink = e / total, e_sink / total
    dp = torch.einsum("hqv,hkv->hqk", dy, v)
    d = (p * dp).sum(-1, keepdim=True)
    ds = p * (dp - d) * c
    dsink = -(p_sink * (e / e.sum(-1, keepdim=True) * dp).sum(-1, keepdim=True)).sum((1, 2))
    return p @ v, (ds @ k, ds.mT @ q, p.mT @ dy, dsink)


def capped_attention(q, k, v, cap: float = 2.0):
    s = cap * torch.tanh(q @ k.mT / (q.shape[-1] ** 0.5 * cap))
    return torch.softmax(s, -1) @ v


@bank.wrong(
    capped_attention,
    "the slope of the cap is 1 − (s/cap)² at the raw score s, where the capped one is due",
    "slope cap", "derivative cap", "score cap", "tanh", "raw", "uncapped",
    inputs={"q": (2, 5, 8), "k": (2, 7, 8), "v": (2, 7, 6)}, hyper={"cap": 2.0},
)  # fmt: skip
def capped_attention_slope_at_the_raw_score(inputs, dy, cap=2.0):
    q, k, v = inputs
    c = 1 / math.sqrt(q.shape[-1])
    raw = q @ k.mT * c
    p = torch.softmax(cap * torch.tanh(raw / cap), -1)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    ds = ds * (1 - (raw / cap) ** 2) * c
    return p @ v, (ds @ k, ds.mT @ q, p.mT @ dy)


def soft_mixture(x, router, experts):
    p = torch.softmax(x @ router.T, -1)
    return torch.einsum("ne,nd,edo->no", p, x, experts)


@bank.wrong(
    soft_mixture,
    "dx comes through the experts alone: the way through the router is left out",
    "router", "softmax", "term", "path", "constant", "way through",
    inputs={"x": (6, 8), "router": (4, 8), "experts": (4, 8, 5)},
)  # fmt: skip
def soft_mixture_dx_without_the_router(inputs, dy):
    x, router, experts = inputs
    p = torch.softmax(x @ router.T, 1)
    outs = torch.stack([x @ expert for expert in experts], 1)
    dp = torch.einsum("no,neo->ne", dy, outs)
    dz = p * (dp - torch.linalg.vecdot(p, dp)[:, None])
    douts = p[..., None] * dy[:, None]
    dexperts = torch.einsum("nd,neo->edo", x, douts)
    return (p[..., None] * outs).sum(1), (torch.einsum("neo,edo->nd", douts, experts), dz.T @ x, dexperts)


def focal_loss(x, target, gamma: float = 2.0):
    z = torch.where(target > 0, x, -x)
    return -((1 - torch.sigmoid(z)) ** gamma * F.logsigmoid(z)).mean()


@bank.wrong(
    focal_loss,
    "the modulating factor (1 − p)^γ is taken for a constant",
    "constant", "modulat", "factor", "term", "focal", "(1 − p)", "detach",
    inputs={"x": (6, 20), "target": lambda generator: torch.randint(2, (6, 20), generator=generator)},
    hyper={"gamma": 2.0},
)  # fmt: skip
def focal_loss_factor_is_constant(inputs, dy, gamma=2.0):
    x, target = inputs
    sign = torch.where(target > 0, 1.0, -1.0).to(x.dtype)
    q = torch.sigmoid(-sign * x)
    y = (q**gamma * F.softplus(-sign * x)).mean()
    return y, (-dy / x.numel() * sign * q**gamma * q, None)


def info_nce(a, b, temperature: float = 0.5):
    z = a @ b.T / temperature
    right = torch.arange(len(a))
    return (F.cross_entropy(z, right) + F.cross_entropy(z.T, right)) / 2


PAIRED = {"a": (6, 16), "b": (6, 16)}


@bank.wrong(
    info_nce,
    "the cotangent of the transposed logits is added without transposing it back",
    "transpos", "columns", "second cross-entropy",
    inputs=PAIRED, hyper={"temperature": 0.5},
)  # fmt: skip
def info_nce_columns_not_transposed_back(inputs, dy, temperature=0.5):
    a, b = inputs
    n = len(a)
    z = a @ b.T / temperature
    by_row, by_column = z.log_softmax(1), z.T.log_softmax(1)
    y = -(by_row.diagonal().mean() + by_column.diagonal().mean()) / 2
    dz = by_row.exp() + by_column.exp()
    dz.diagonal().sub_(2)
    dz *= dy / (2 * n * temperature)
    return y, (dz @ b, dz.T @ a)


def linear_scan(a, b):
    h, states = torch.zeros_like(b[0]), []
    for a_t, b_t in zip(a, b, strict=True):
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states)


STEPS = {"a": (6, 10), "b": (6, 10)}


@bank.wrong(
    linear_scan,
    "da_t is multiplied by the state after the step in place of the one before it",
    "after step", "before step", "state", "shift", "one step", "previous", "h_t",
    inputs=STEPS,
)  # fmt: skip
def linear_scan_da_from_the_state_after(inputs, dy):
    a, b = inputs
    y = torch.empty_like(b)
    h = torch.zeros_like(b[0])
    for t in range(len(b)):
        h = torch.addcmul(b[t], a[t], h)
        y[t] = h
    db = torch.empty_like(dy)
    carry = torch.zeros_like(h)
    for t in reversed(range(len(b))):
        carry = carry + dy[t]
        db[t] = carry
        carry = carry * a[t]
    return y, (db * y, db)


def quantile_loss(x, target, quantile: float = 0.9):
    r = target - x
    return torch.maximum(quantile * r, (quantile - 1) * r).mean()


@bank.wrong(
    quantile_loss,
    "quantile and 1 − quantile are exchanged: the branch is chosen by the sign of x − target",
    "exchang", "swap", "branch", "other side", "sign", "1 − quantile", "1 - quantile",
    inputs={"x": (6, 20), "target": (6, 20)}, hyper={"quantile": 0.9},
)  # fmt: skip
def quantile_loss_sides_exchanged(inputs, dy, quantile=0.9):
    x, target = inputs
    r = target - x
    y = (quantile * r.clamp(min=0) + (1 - quantile) * (-r).clamp(min=0)).mean()
    dx = dy / r.numel() * torch.where(r < 0, -quantile, 1 - quantile).to(x.dtype)
    return y, (dx, -dx)


def lora_with_dropout(x, weight, down, up, mask, scale: float = 2.0):
    return x @ weight.T + scale * ((x * mask) @ down.T) @ up.T


@bank.wrong(
    lora_with_dropout,
    "what comes back through the low-rank branch is added to dx without the mask of its dropout",
    "mask", "dropout",
    inputs={
        "x": (6, 16), "weight": (12, 16), "down": (4, 16), "up": (12, 4),
        "mask": lambda generator: torch.rand(6, 16, generator=generator) < 0.75,
    },
    hyper={"scale": 2.0},
)  # fmt: skip
def lora_mask_forgotten_in_dx(inputs, dy, scale=2.0):
    x, weight, down, up, mask = inputs
    kept = x * mask
    inner = kept @ down.T
    dinner = scale * dy @ up
    dx = dy @ weight + dinner @ down
    y = torch.addmm(x @ weight.T, inner, up.T, alpha=scale)
    return y, (dx, dy.T @ x, dinner.T @ kept, scale * dy.T @ inner, None)


def masked_mean(x, mask):
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@bank.wrong(
    masked_mean,
    "backward divides by the number of all positions and not of those that the mask keeps",
    "divided", "number", "count", "positions", "length", "mean over",
    inputs={"x": (5, 7, 8), "mask": lambda generator: torch.rand(5, 7, generator=generator) < 0.6 + torch.eye(5, 7)},
)  # fmt: skip
def masked_mean_over_all_positions(inputs, dy):
    x, mask = inputs
    n = mask.sum(1, keepdim=True)
    y = torch.einsum("btf,bt->bf", x, mask.to(x.dtype)) / n
    return y, (mask[..., None] * dy[:, None] / x.shape[1], None)


def running_total(x):
    return torch.cumsum(x, 0)


@bank.wrong(
    running_total,
    "the sum from behind is made in chunks of 16 steps, and no chunk takes over the total of the one behind it",
    "chunk", "16 steps", "first 16", "block", "carry", "carried", "later steps", "longer",
    inputs={"x": (40, 6)},
)  # fmt: skip
def running_total_without_the_carry(inputs, dy):
    (x,) = inputs
    parts = [part.flip(0).cumsum(0).flip(0) for part in dy.split(16)]
    return x.cumsum(0), (torch.cat(parts),)


def cosine_scores(q, k, log_scale):
    return log_scale.exp() * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).T


@bank.wrong(
    cosine_scores,
    "dlog_scale is the cotangent of the scale itself: the exponential's slope is left out",
    "exponential", "exp(", "e^", "factor", "slope", "times what",
    inputs={"q": (5, 8), "k": (7, 8), "log_scale": (1,)},
)  # fmt: skip
def cosine_scores_scale_without_its_exponential(inputs, dy):
    q, k, log_scale = inputs
    t = torch.exp(log_scale)
    nq, nk = q.norm(dim=1, keepdim=True), k.norm(dim=1, keepdim=True)
    u, v = q / nq, k / nk
    cos = u @ v.T
    du, dv = t * dy @ v, t * dy.T @ u
    dq = (du - u * (u * du).sum(1, keepdim=True)) / nq
    dk = (dv - v * (v * dv).sum(1, keepdim=True)) / nk
    return t * cos, (dq, dk, (dy * cos).sum().reshape(1))


def distillation(student, teacher, temperature: float = 2.0):
    log_p = torch.log_softmax(student / temperature, -1)
    q = torch.softmax(teacher / temperature, -1)
    return temperature**2 * (q * (torch.log_softmax(teacher / temperature, -1) - log_p)).sum() / len(student)


@bank.wrong(
    distillation,
    "T² stays before dstudent: the 1/T of the softmax's argument is left out",
    "temperature", "factor", "times what", "twice", "inner derivative",
    inputs={"student": (5, 9), "teacher": (5, 9)}, hyper={"temperature": 2.0},
)  # fmt: skip
def distillation_without_the_inner_temperature(inputs, dy, temperature=2.0):
    student, teacher = inputs
    n, t = len(student), temperature
    log_p, log_q = (student / t).log_softmax(-1), (teacher / t).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    ratio = log_q - log_p
    dstudent = dy * t**2 / n * (p - q)
    dteacher = dy * t / n * q * (ratio - (q * ratio).sum(-1, keepdim=True))
    return t**2 / n * (q * ratio).sum(), (dstudent, dteacher)


def biased_scores(q, k, table):
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 + table, -1)


@bank.wrong(
    biased_scores,
    "dtable is the mean over the batch, where its sum is due",
    "mean", "averag", "sum over", "summed", "1/3", "divided",
    inputs={"q": (3, 2, 5, 8), "k": (3, 2, 7, 8), "table": (2, 5, 7)},
)  # fmt: skip
def biased_scores_table_averaged(inputs, dy):
    q, k, _ = inputs
    c = 1 / math.sqrt(q.shape[-1])
    p = torch.softmax(torch.einsum("bhqw,bhkw->bhqk", q * c, k) + inputs[2], -1)
    ds = torch.addcmul(p * dy, p, (p * dy).sum(-1, keepdim=True), value=-1)
    return p, (c * ds @ k, c * ds.mT @ q, ds.mean(0))


def packed_glu(x):
    a, b = x.chunk(2, -1)
    return a * torch.sigmoid(b)


@bank.wrong(
    packed_glu,
    "the two halves of dx are packed in the wrong order",
    "exchang", "swap", "order", "halves", "permut",
    inputs={"x": (6, 24)},
)  # fmt: skip
def packed_glu_halves_exchanged(inputs, dy):
    x = inputs[0]
    half = x.shape[-1] // 2
    gate = torch.sigmoid(x[..., half:])
    y = gate * x[..., :half]
    dx = torch.empty_like(x)
    dx[..., half:], dx[..., :half] = dy * gate, dy * y * (1 - gate)
    return y, (dx,)


def scaled_branch(x, weight, gamma):
    return x + gamma * torch.relu(x @ weight.T)


@bank.wrong(
    scaled_branch,
    "dgamma is made of the branch before its ReLU",
    "before relu", "without relu", "pre-activation", "negative", "relu",
    inputs={"x": (6, 12), "weight": (12, 12), "gamma": (12,)},
)  # fmt: skip
def scaled_branch_dgamma_before_relu(inputs, dy):
    x, weight, gamma = inputs
    z = x @ weight.T
    dz = dy * gamma * (z > 0)
    return x + gamma * z.clamp(min=0), (dy + dz @ weight, dz.T @ x, torch.einsum("ni,ni->i", dy, z))


def gated_norm(x, z, weight, eps: float = 1e-5):
    h = x * F.silu(z)
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight


GATED = {"x": (6, 20), "z": (6, 20), "weight": (20,)}


@bank.wrong(
    gated_norm,
    "dz takes the norm's statistic for a constant, and dx does not",
    "dz projection", "dz constant", "dz statistic", "dz term",
    inputs=GATED,
)  # fmt: skip
def gated_norm_dz_without_projection(inputs, dy, eps=1e-5):
    x, z, weight = inputs
    s = torch.sigmoid(z)
    gate = z * s
    h = x * gate
    r = (h.square().mean(-1, keepdim=True) + eps).rsqrt()
    g = dy * weight
    dh = r * (g - h * r * r * (g * h).mean(-1, keepdim=True))
    dz = r * g * x * (s + gate * (1 - s))
    return h * r * weight, (dh * gate, dz, (dy * h * r).sum_to_size(weight.shape))


def dice_loss(x, target):
    p = torch.sigmoid(x)
    return (1 - (2 * (p * target).sum(-1) + 1) / (p.sum(-1) + target.sum(-1) + 1)).mean()


@bank.wrong(
    dice_loss,
    "the denominator is taken for a constant",
    "denominator", "constant", "term", "quotient",
    inputs={"x": (5, 30), "target": lambda generator: (torch.rand(5, 30, generator=generator) < 0.4).float()},
)  # fmt: skip
def dice_loss_denominator_is_constant(inputs, dy):
    x, target = inputs
    p = torch.sigmoid(x)
    top, below = 2 * (p * target).sum(-1) + 1, p.sum(-1) + target.sum(-1) + 1
    dp = -2 * target / below[:, None]
    dtarget = -(2 * p / below[:, None] - (top / below**2)[:, None])
    g = dy / len(x)
    return (1 - top / below).mean(), (g * dp * p * (1 - p), g * dtarget)


def causal_filter(x, taps):
    steps = x.shape[0]
    padded = F.pad(x, (0, 0, taps.shape[0] - 1, 0))
    return sum(taps[k] * padded[taps.shape[0] - 1 - k :][:steps] for k in range(taps.shape[0]))


@bank.wrong(
    causal_filter,
    "dtaps is written in the order of memory, oldest first, where the taps are newest first",
    "order", "revers", "flip", "turned", "backwards", "permut",
    inputs={"x": (12, 6), "taps": (4, 6)},
)  # fmt: skip
def causal_filter_taps_reversed(inputs, dy):
    x, taps = inputs
    steps, width = len(x), len(taps)
    y, dx, dtaps = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(taps)
    for k in range(min(width, steps)):
        y[k:] += taps[k] * x[: steps - k]
        dx[: steps - k] += taps[k] * dy[k:]
        dtaps[width - 1 - k] = (dy[k:] * x[: steps - k]).sum(0)
    return y, (dx, dtaps)


@bank.right(clamped_swiglu, "the limits as sums of two masks, the slope from silu itself", inputs=CLAMPED,
            hyper={"alpha": 1.702, "limit": 1.5})  # fmt: skip
def clamped_swiglu_by_masks(inputs, dy, alpha=1.702, limit=1.5):
    gate, up = inputs
    g, u = torch.minimum(gate, torch.full_like(gate, limit)), up.clamp(-limit, limit)
    s, rest = torch.sigmoid(alpha * g), torch.sigmoid(-alpha * g)
    act = g * s
    dgate = torch.where(gate > limit, 0, dy * (u + 1) * (s + alpha * act * rest))
    return (u + 1) * act, (dgate, torch.where(up.abs() > limit, 0, dy * act))


@bank.right(info_nce, "both softmaxes in one square buffer, its diagonal mended in place", inputs=PAIRED,
            hyper={"temperature": 0.5})  # fmt: skip
def info_nce_in_one_buffer(inputs, dy, temperature=0.5):
    a, b = inputs
    n = len(a)
    z = a @ b.T / temperature
    rows, columns = z.logsumexp(1), z.logsumexp(0)
    y = ((rows + columns) / 2 - z.diagonal()).mean()
    dz = torch.exp(z - rows[:, None]) + torch.exp(z - columns)
    dz.diagonal().sub_(2)
    dz = dz * (dy / (2 * n * temperature))
    return y, (torch.einsum("ij,jw->iw", dz, b), torch.einsum("ij,iw->jw", dz, a))


@bank.right(linear_scan, "one loop that goes backwards and writes both cotangents, the states shifted by a step",
            inputs=STEPS)  # fmt: skip
def linear_scan_in_one_loop(inputs, dy):
    a, b = inputs
    states = [torch.zeros_like(b[0])]
    for a_t, b_t in zip(a.unbind(), b.unbind(), strict=True):
        states.append(states[-1] * a_t + b_t)
    da, db = torch.empty_like(dy), torch.empty_like(dy)
    flow = dy[-1].clone()
    for t in range(len(b) - 1, -1, -1):
        torch.mul(flow, states[t], out=da[t])
        db[t] = flow
        if t:
            flow = torch.addcmul(dy[t - 1], flow, a[t])
    return torch.stack(states[1:]), (da, db)


@bank.right(gated_norm, "through 1/h̄ of the row, the gate's slope from its complement", inputs=GATED)
def gated_norm_by_the_gate_and_its_complement(inputs, dy, eps=1e-5):
    x, z, weight = inputs
    s, rest = torch.sigmoid(z), torch.sigmoid(-z)
    silu = z * s
    h = x * silu
    r = 1 / torch.sqrt(torch.linalg.vecdot(h, h)[..., None] / h.shape[-1] + eps)
    xhat = h * r
    g = dy * weight
    dh = r * (g - xhat * (g * xhat).mean(-1, keepdim=True))
    return xhat * weight, (dh * silu, dh * x * s * (1 + z * rest), torch.einsum("nf,nf->f", dy, xhat))
