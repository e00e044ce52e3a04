"""Functions without a page, of one position at a time: norms, routers, gated units, losses, pooling."""

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def add_rms_norm(x, residual, weight, eps: float = 1e-6):
    h = x + residual
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight, h


@bank.wrong(
    add_rms_norm,
    "dresidual lacks what comes back to the sum itself, which dx has",
    "second output",
    "dy[1]",
    "y[1]",
    "y1",
    "y.1",
    "lacks",
    "missing",
    "without",
    "ignore",
    "term",
    mend=("(dh + dsum, dh, dweight)", "(dh + dsum, dh + dsum, dweight)"),
    inputs={"x": (4, 33), "residual": (4, 33), "weight": (33,)},
)
def add_rms_norm_forgets_the_stream(inputs, dy, eps=1e-6):
    x, residual, weight = inputs
    dout, dsum = dy
    h = x + residual
    rstd = torch.rsqrt((h * h).mean(-1, keepdim=True) + eps)
    g, xhat = dout * weight, h * rstd
    dh = (g - xhat * (g * xhat).mean(-1, keepdim=True)) * rstd
    dweight = (dout * xhat).reshape(-1, len(weight)).sum(0)
    return (xhat * weight, h), (dh + dsum, dh, dweight)


def routed(logits, experts):
    """(tokens, experts) and (tokens, experts, width): the two best experts, by weights that add up to 1."""
    p = torch.softmax(logits, -1)
    best, place = torch.topk(p, 2, dim=-1)
    best = best / best.sum(-1, keepdim=True)
    picked = torch.gather(experts, 1, place[..., None].expand(-1, -1, experts.shape[-1]))
    return (best[..., None] * picked).sum(1)


@bank.wrong(
    routed,
    "the sum by which the two best are divided is taken for a constant",
    "constant",
    "normalis",
    "denominator",
    "projection",
    "sum",
    "mean",
    "dot product",
    "term",
    "left out",  # of what the quotient gives the part through the sum
    mend=("dbest = dw / total", "dbest = (dw - (dw * w).sum(1, keepdim=True)) / total"),
    inputs={"logits": (6, 5), "experts": (6, 5, 7)},
)
def router_takes_the_sum_for_a_constant(inputs, dy):
    logits, experts = inputs
    p = torch.softmax(logits, -1)
    best, place = torch.topk(p, 2, dim=-1)
    total = best.sum(-1, keepdim=True)
    w = best / total
    at = place[..., None].expand(-1, -1, experts.shape[-1])
    picked = torch.gather(experts, 1, at)
    dexperts = torch.zeros_like(experts).scatter(1, at, w[..., None] * dy[:, None])
    dw = (picked * dy[:, None]).sum(-1)
    dbest = dw / total
    dp = torch.zeros_like(p).scatter(1, place, dbest)
    dlogits = p * (dp - (dp * p).sum(-1, keepdim=True))
    return (w[..., None] * picked).sum(1), (dlogits, dexperts)


def dynamic_tanh(x, alpha, weight, bias):
    return weight * torch.tanh(alpha * x) + bias


@bank.wrong(
    dynamic_tanh,
    "dalpha is added up from dy before it is multiplied by the weight",
    "weight",
    mend=("(dy * slope * x).sum()", "(g * slope * x).sum()"),
    inputs={"x": (4, 33), "alpha": (1,), "weight": (33,), "bias": (33,)},
)
def dynamic_tanh_alpha_without_weight(inputs, dy):
    x, alpha, weight, bias = inputs
    t = torch.tanh(alpha * x)
    slope = 1 / torch.cosh(alpha * x) ** 2
    g = dy * weight
    dalpha = (dy * slope * x).sum()
    width = x.shape[-1]
    dweight, dbias = (dy * t).reshape(-1, width).sum(0), dy.reshape(-1, width).sum(0)
    return weight * t + bias, (g * slope * alpha, dalpha.reshape(1), dweight, dbias)


def gated_mlp(x, w_gate, w_up, w_down):
    return (torch.nn.functional.silu(x @ w_gate) * (x @ w_up)) @ w_down


@bank.wrong(
    gated_mlp,
    "dx is stored for the gate and stored again for w_up, instead of added",
    "w_gate",
    "gate",
    "sum",
    "term",
    "lacks",
    "missing",
    "added",
    "overwrit",
    mend=("dx = du @ w_up.T", "dx = dx + du @ w_up.T"),
    inputs={"x": (5, 8), "w_gate": (8, 12), "w_up": (8, 12), "w_down": (12, 8)},
)
def gated_mlp_keeps_one_branch(inputs, dy):
    x, w_gate, w_up, w_down = inputs
    g, u = x @ w_gate, x @ w_up
    s = torch.sigmoid(g)
    hidden = g * s * u
    dhidden = dy @ w_down.T
    dg = dhidden * u * (s + g * s * torch.sigmoid(-g))
    du = dhidden * g * s
    dx = dg @ w_gate.T
    dx = du @ w_up.T
    return hidden @ w_down, (dx, x.T @ dg, x.T @ du, hidden.T @ dy)


def z_loss_cross_entropy(logits, target, z: float = 0.1):
    lse = torch.logsumexp(logits, -1)
    return (lse - logits.gather(-1, target[:, None])[:, 0] + z * lse**2).mean()


@bank.wrong(
    z_loss_cross_entropy,
    "the gradient of z · lse² lacks the factor lse",
    "lse",
    "logsumexp",
    "log-sum-exp",
    "z_loss",
    "z-loss",
    "`z`",
    "hyperparameter z",
    " z ",
    "term",
    mend=("2 * z * p", "2 * z * lse[:, None] * p"),
    inputs={"logits": (12, 10), "target": lambda generator: torch.randint(10, (12,), generator=generator)},
)
def z_loss_without_lse(inputs, dy, z=0.1):
    logits, target = inputs
    n, dlogits, y = len(logits), torch.empty_like(logits), logits.new_zeros(())
    for start in range(0, n, 4):
        chunk = slice(start, start + 4)
        lse = torch.logsumexp(logits[chunk], -1)
        y = y + (lse - logits[chunk].gather(1, target[chunk, None])[:, 0] + z * lse**2).sum()
        log_p = logits[chunk] - lse[:, None]
        p = torch.exp(log_p)
        hot = torch.zeros_like(p, dtype=torch.bool).scatter(1, target[chunk, None], True)
        dlogits[chunk] = (torch.where(hot, torch.expm1(log_p), p) + 2 * z * p) / n
    return y / n, (dlogits * dy, None)


def masked_mean(x, mask):
    """(batch, time, width) and (batch, time): the mean of what is not padding."""
    kept = mask[..., None].to(x.dtype)
    return (x * kept).sum(1) / kept.sum(1).clamp_min(1)


@bank.wrong(
    masked_mean,
    "backward divides by the length of the axis, not by the number of places that count",
    "mask",
    "count",
    "divi",
    "number of",
    "length",
    mend=("dy[:, None] / x.shape[1]", "(dy / kept.sum(1).clamp_min(1))[:, None]"),
    inputs={"x": (3, 7, 5), "mask": lambda generator: torch.rand(3, 7, generator=generator) < 0.6},
)
def masked_mean_divides_by_the_length(inputs, dy):
    x, mask = inputs
    kept = mask[..., None].to(x.dtype)
    y = (x * kept).sum(1) / kept.sum(1).clamp_min(1)
    return y, (kept * (dy[:, None] / x.shape[1]), None)
