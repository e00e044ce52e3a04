"""Of functions that have no page: what is compared with them is torch's derivative."""

import math

import torch
from torch.nn import functional

from manual_bp.inputs import Index
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def prenorm_block(x, weight, w_out, eps: float = 1e-6):
    """x + W RMSNorm(x)."""
    x_hat = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x + (x_hat * weight) @ w_out.mT


@bank.wrong(
    prenorm_block,
    "dx = branch\n",
    "dx = dy + branch\n",
    cause="dx goes through the branch alone: the residual connection is left out",
    keywords=("residual", "skip", "direct", "identity", "missing", "without", "left out", "lacks", "dropped", "path"),
    inputs={"x": (5, 12), "weight": (12,), "w_out": (12, 12)},
    hyper={"eps": 1e-6},
)
def prenorm_without_the_residual(inputs, dy, eps=1e-6):
    x, weight, w_out = inputs
    rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    x_hat = x * rstd
    dnormed = dy @ w_out
    g = dnormed * weight
    branch = rstd * (g - x_hat * (g * x_hat).mean(-1, keepdim=True))
    dx = branch
    y = x + (x_hat * weight) @ w_out.mT
    return y, (dx, (dnormed * x_hat).sum(0), dy.mT @ (x_hat * weight))


def clamped_swiglu(gate, up, alpha: float = 1.702, limit: float = 2.0):
    gate = gate.clamp(max=limit)
    return (up.clamp(-limit, limit) + 1) * gate * torch.sigmoid(alpha * gate)


@bank.wrong(
    clamped_swiglu,
    "(gate.abs() < limit)",
    "(gate < limit)",
    cause="dgate is 0 below −limit too, where the gate is clamped from above alone",
    keywords=("abs", "|gate|", "-limit", "−limit", "both sides", "two-sided", "below", "lower", "either side"),
    inputs={"gate": (4, 33), "up": (4, 33)},
    hyper={"alpha": 1.702, "limit": 2.0},
)
def clamped_swiglu_gate_cut_on_both_sides(inputs, dy, alpha=1.702, limit=2.0):
    gate, up = inputs
    g, u = gate.clamp(max=limit), up.clamp(-limit, limit) + 1
    s = torch.sigmoid(alpha * g)
    dgate = dy * u * (s + g * alpha * s * (1 - s)) * (gate.abs() < limit)
    dup = dy * g * s * (up.abs() < limit)
    return u * g * s, (dgate, dup)


def capped_attention(q, k, v, cap: float = 3.0):
    s = cap * torch.tanh(q @ k.mT / math.sqrt(q.shape[-1]) / cap)
    return torch.softmax(s, -1) @ v


@bank.wrong(
    capped_attention,
    "(1 - s / cap)",
    "(1 - (s / cap) ** 2)",
    cause="the slope of tanh is 1 − t and not 1 − t²",
    keywords=("tanh", "square", "²", "**2", "** 2", "cap", "pow"),
    inputs={"q": (3, 5, 8), "k": (3, 7, 8), "v": (3, 7, 6)},
    hyper={"cap": 3.0},
)
def capped_attention_tanh_without_its_square(inputs, dy, cap=3.0):
    q, k, v = inputs
    scale = 1 / math.sqrt(q.shape[-1])
    s = cap * torch.tanh(q @ k.mT * scale / cap)
    p = torch.softmax(s, -1)
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    ds = ds * (1 - s / cap) * scale
    return p @ v, (ds @ k, ds.mT @ q, p.mT @ dy)


def mixture(logits, experts):
    """Σ_e p_e x_e, of the outputs x of all experts (rows, experts, width)."""
    return (torch.softmax(logits, -1)[..., None] * experts).sum(-2)


@bank.wrong(
    mixture,
    "gain.mean(-1, keepdim=True)",
    "(p * gain).sum(-1, keepdim=True)",
    cause="the softmax takes the plain mean over experts away, and not the one weighted by p",
    keywords=("mean", "average", "without p", "p left out", "weighted", "softmax"),
    inputs={"logits": (9, 5), "experts": (9, 5, 7)},
)
def mixture_takes_the_plain_mean_away(inputs, dy):
    logits, experts = inputs
    p = torch.softmax(logits, -1)
    gain = (dy[..., None, :] * experts).sum(-1)
    dlogits = p * (gain - gain.mean(-1, keepdim=True))
    return mixture(logits, experts), (dlogits, p[..., None] * dy[..., None, :])


def distillation(student, teacher, temperature: float = 3.0):
    p = torch.softmax(teacher / temperature, -1)
    log_q = torch.log_softmax(student / temperature, -1)
    return -(p * log_q).sum(-1).mean() * temperature**2


@bank.wrong(
    distillation,
    "temperature**2 * (q - p)",
    "temperature * (q - p)",
    cause="dstudent lacks 1/temperature, the inner slope of the logits' division",
    keywords=("temperature", "3 times", "times 3", "inner"),
    inputs={"student": (6, 9), "teacher": (6, 9)},
    hyper={"temperature": 3.0},
)
def distillation_without_the_inner_temperature(inputs, dy, temperature=3.0):
    student, teacher = inputs
    p = torch.softmax(teacher / temperature, -1)
    log_q = torch.log_softmax(student / temperature, -1)
    q = log_q.exp()
    dstudent = dy * temperature**2 * (q - p) / len(student)
    dteacher = -dy * temperature * p * (log_q - (p * log_q).sum(-1, keepdim=True)) / len(student)
    return distillation(student, teacher, temperature), (dstudent, dteacher)


def film(x, gamma, beta):
    """Features (batch, channels, length), of which a condition scales and shifts the channels."""
    return x * (1 + gamma[..., None]) + beta[..., None]


@bank.wrong(
    film,
    "dy * gamma[..., None]",
    "dy * (1 + gamma[..., None])",
    cause="dx lacks the 1 beside gamma",
    keywords=("1 +", "+ 1", "1+", "the 1 ", "offset", "constant", "direct", "without the 1"),
    inputs={"x": (4, 6, 11), "gamma": (4, 6), "beta": (4, 6)},
)
def film_without_the_1(inputs, dy):
    x, gamma, beta = inputs
    return film(x, gamma, beta), (dy * gamma[..., None], (dy * x).sum(-1), dy.sum(-1))


def biased_attention(q, k, v, bias):
    """Of (batch, heads, rows, width); the bias of places (heads, rows, keys) is the same for the whole batch."""
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]) + bias, -1) @ v


@bank.wrong(
    biased_attention,
    "ds[0].clone()",
    "ds.sum(0)",
    cause="dbias is that of the first example, and not the sum over the batch",
    keywords=("first", "batch", "one example", "sum over", "not summed", "index 0", "axis 0"),
    inputs={"q": (3, 2, 5, 8), "k": (3, 2, 7, 8), "v": (3, 2, 7, 6), "bias": (2, 5, 7)},
)
def biased_attention_dbias_of_the_first_example(inputs, dy):
    q, k, v, bias = inputs
    scale = 1 / math.sqrt(q.shape[-1])
    p = torch.softmax(q @ k.mT * scale + bias, -1)
    y = p @ v
    ds = p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True))
    return y, (scale * (ds @ k), scale * (ds.mT @ q), p.mT @ dy, ds[0].clone())


def masked_square_loss(x, target, mask):
    return (mask * (x - target).square()).sum() / mask.sum()


@bank.wrong(
    masked_square_loss,
    "2 * mask * (x - target) / x.numel()",
    "2 * mask * (x - target) / mask.sum()",
    cause="dx is divided by the number of all elements, and not of those that the mask keeps",
    keywords=(
        "number of all",
        "numel",
        "divid",
        "count",
        "all elements",
        "mask.sum",
        "sum of the mask",
        "every element",
    ),
    inputs={
        "x": (6, 11),
        "target": (6, 11),
        "mask": (
            (6, 11),
            lambda shape, generator: (torch.rand(shape, generator=generator) < 0.6).float(),
        ),
    },
)
def masked_loss_divided_by_all(inputs, dy):
    x, target, mask = inputs
    dx = dy * 2 * mask * (x - target) / x.numel()
    of_mask = ((x - target).square() - masked_square_loss(x, target, mask)) / mask.sum()
    dtarget = -dy * 2 * mask * (x - target) / mask.sum()
    return masked_square_loss(x, target, mask), (dx, dtarget, dy * of_mask)


def contrastive(a, b, temperature: float = 0.5):
    """Both directions of a batch of pairs."""
    s = a @ b.mT / temperature
    of_rows, of_columns = torch.log_softmax(s, 1).diagonal(), torch.log_softmax(s, 0).diagonal()
    return -(of_rows.mean() + of_columns.mean()) / 2


@bank.wrong(
    contrastive,
    "db = ds @ a",
    "db = ds.mT @ a",
    cause="ds is not transposed in db",
    keywords=("transpos", ".mt", "ᵀ", ".t()", "permute"),
    inputs={"a": (6, 9), "b": (6, 9)},
    hyper={"temperature": 0.5},
)
def contrastive_db_not_transposed(inputs, dy, temperature=0.5):
    a, b = inputs
    s = a @ b.mT / temperature
    eye = torch.eye(len(a), dtype=a.dtype, device=a.device)
    ds = dy * (torch.softmax(s, 1) + torch.softmax(s, 0) - 2 * eye) / (2 * len(a) * temperature)
    db = ds @ a
    return contrastive(a, b, temperature), (ds @ b, db)


def causal_filter(x, weight):
    """Of each channel of (batch, channels, length) the last few places, weighted; then SiLU."""
    taps = weight.shape[-1]
    padded = functional.pad(x, (taps - 1, 0))
    length = x.shape[-1]
    return functional.silu(sum(weight[:, k, None] * padded[..., k : k + length] for k in range(taps)))


@bank.wrong(
    causal_filter,
    "dweight = dweight.flip(-1)",
    "dweight = dweight",
    cause="the taps of dweight are in reverse order",
    keywords=("flip", "revers", "mirror", "backwards", "order"),
    inputs={"x": (3, 5, 11), "weight": (5, 4)},
)
def causal_filter_taps_reversed(inputs, dy):
    x, weight = inputs
    taps, length = weight.shape[-1], x.shape[-1]
    padded = functional.pad(x, (taps - 1, 0))
    z = sum(weight[:, k, None] * padded[..., k : k + length] for k in range(taps))
    s = torch.sigmoid(z)
    dz = dy * s * (1 + z * (1 - s))
    dweight = torch.stack([(dz * padded[..., k : k + length]).sum((0, 2)) for k in range(taps)], -1)
    dweight = dweight.flip(-1)
    dpadded = torch.zeros_like(padded)
    for k in range(taps):
        dpadded[..., k : k + length] += weight[:, k, None] * dz
    return z * s, (dpadded[..., taps - 1 :], dweight)


def gated_scan(decay, u):
    """h_t = σ(a_t) h_(t−1) + u_t along axis 1, with h_0 = 0."""
    h, states = torch.zeros_like(u[:, 0]), []
    for a_t, u_t in zip(decay.unbind(1), u.unbind(1), strict=True):
        h = torch.sigmoid(a_t) * h + u_t
        states.append(h)
    return torch.stack(states, 1)


@bank.wrong(
    gated_scan,
    "states[:, t] * gate",
    "(states[:, t - 1] if t else 0) * gate",
    cause="ddecay is made of the state after the step, and not of the one before",
    keywords=(
        "shift",
        "h_t",
        "step before",
        "previous",
        "stale",
        "after the step",
        "one step",
        "neighbour",
        "roll",
        "later",
    ),
    inputs={"decay": (3, 6, 5), "u": (3, 6, 5)},
)
def gated_scan_of_the_state_after(inputs, dy):
    decay, u = inputs
    states = gated_scan(decay, u)
    ddecay, du = torch.zeros_like(decay), torch.zeros_like(u)
    dh = torch.zeros_like(u[:, 0])
    for t in range(u.shape[1] - 1, -1, -1):
        gate = torch.sigmoid(decay[:, t])
        dh = dh + dy[:, t]
        du[:, t] = dh
        ddecay[:, t] = dh * (states[:, t] * gate * (1 - gate))
        dh = dh * gate
    return states, (ddecay, du)


def normed_query_attention(q, k, v, weight, eps: float = 1e-6):
    """With queries of length √width, times a weight."""
    q_hat = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + eps)
    return torch.softmax((q_hat * weight) @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@bank.wrong(
    normed_query_attention,
    "dq = rstd * g\n",
    "dq = rstd * (g - q_hat * (g * q_hat).mean(-1, keepdim=True))\n",
    cause="the length of the queries is taken for a constant in dq",
    keywords=("constant", "projection", "statistic", "detach", "rsqrt", "term", "left out", "norm"),
    inputs={"q": (3, 5, 8), "k": (3, 7, 8), "v": (3, 7, 6), "weight": (8,)},
    hyper={"eps": 1e-6},
)
def normed_query_length_constant(inputs, dy, eps=1e-6):
    q, k, v, weight = inputs
    scale = 1 / math.sqrt(q.shape[-1])
    rstd = torch.rsqrt(q.square().mean(-1, keepdim=True) + eps)
    q_hat = q * rstd
    p = torch.softmax((q_hat * weight) @ k.mT * scale, -1)
    y = p @ v
    ds = scale * p * (dy @ v.mT - (dy * y).sum(-1, keepdim=True))
    dscaled = ds @ k
    g = dscaled * weight
    dq = rstd * g
    return y, (dq, ds.mT @ (q_hat * weight), p.mT @ dy, (dscaled * q_hat).sum((0, 1)))


def bilinear(left, weight, right):
    return torch.einsum("bi,oij,bj->bo", left, weight, right)


@bank.wrong(
    bilinear,
    "(dright, dweight, dleft)",
    "(dleft, dweight, dright)",
    cause="dleft and dright are exchanged",
    keywords=("exchang", "swap", "dright", "order of", "each other"),
    inputs={"left": (5, 7), "weight": (4, 7, 7), "right": (5, 7)},
)
def bilinear_sides_exchanged(inputs, dy):
    left, weight, right = inputs
    of_right = torch.einsum("bo,oij->bij", dy, weight)
    dleft = (of_right * right[:, None, :]).sum(-1)
    dright = (of_right * left[:, :, None]).sum(-2)
    dweight = torch.einsum("bo,bi,bj->oij", dy, left, right)
    return bilinear(left, weight, right), (dright, dweight, dleft)


def charbonnier(x, target, eps: float = 0.1):
    return torch.sqrt((x - target).square() + eps**2).mean()


@bank.wrong(
    charbonnier,
    "(r.square() + eps)",
    "(r.square() + eps**2)",
    cause="in backward eps stands in the root without its square",
    keywords=("eps",),
    inputs={"x": (5, 9), "target": (5, 9)},
    hyper={"eps": 0.1},
)
def charbonnier_eps_without_its_square(inputs, dy, eps=0.1):
    x, target = inputs
    r = x - target
    dx = dy * r / torch.sqrt(r.square() + eps) / r.numel()
    return charbonnier(x, target, eps), (dx, -dx)


def weight_norm_linear(x, v, g):
    return x @ (g[:, None] * v / v.norm(dim=1, keepdim=True)).mT


@bank.wrong(
    weight_norm_linear,
    "dw + u *",
    "dw - u *",
    cause="in dv the part along v is added, and not taken away",
    keywords=("sign", "+ for", "added", "negat", "in place of -", "subtract", "plus", "+ in place", "`+`", "−"),
    inputs={"x": (5, 9), "v": (4, 9), "g": (4,)},
)
def weight_norm_projection_added(inputs, dy):
    x, v, g = inputs
    norm = v.square().sum(1, keepdim=True).sqrt()
    u = v / norm
    dw = dy.mT @ x
    along = (dw * u).sum(1, keepdim=True)
    dv = g[:, None] / norm * (dw + u * along)
    return x @ (g[:, None] * u).mT, (dy @ (g[:, None] * u), dv, along[:, 0])


def tied(ids, table):
    """Scores of all rows of a table by the mean of those that were asked for."""
    return table[ids].mean(1) @ table.mT


@bank.wrong(
    tied,
    "dtable = of_scores\n",
    "dtable = of_scores.index_add(0, ids.flatten(), (dy @ table / ids.shape[1]).repeat_interleave(ids.shape[1], 0))\n",
    cause="dtable is that of the scores alone: the table was read by its ids too",
    keywords=("ids", "lookup", "index", "two", "twice", "one of", "gather", "path", "missing", "lacks", "left out"),
    inputs={"ids": ((4, 3), Index("table.shape[0]")), "table": (13, 6)},
)
def tied_table_of_the_scores_alone(inputs, dy):
    ids, table = inputs
    mean = table[ids].mean(1)
    of_scores = dy.mT @ mean
    dtable = of_scores
    return mean @ table.mT, (None, dtable)
