"""Losses as trainers have them today: heads in chunks, preferences, policies, contrasts, boxes."""

import math

import torch
import torch.nn.functional as F

from tests.oracle.function_bank.entry import WIDE, Function, ids, mask, normal, right, uniform, wrong

# ------------------------ a head in chunks: capped logits, label smoothing, z-loss, rows that are ignored


def chunked_head(x, weight, target, *, cap=20.0, smoothing=0.1, z=1e-2, ignored=0):
    total, count = x.new_zeros(()), (target != ignored).sum()
    for rows, labels in zip(x.split(4), target.split(4), strict=True):
        logits = cap * torch.tanh(rows @ weight.T / cap)
        norm = logits.logsumexp(-1)
        nll = norm - (1 - smoothing) * logits.gather(1, labels[:, None])[:, 0] - smoothing * logits.mean(-1)
        total = total + ((nll + z * norm.square()) * (labels != ignored)).sum()
    return total / count


CHUNKED = Function(chunked_head, {"x": (9, 6), "weight": (7, 6), "target": ids(9, below=7)}, {"cap": 4.0})


def _chunked(inputs, dy, cap, smoothing, z, ignored, *, z_slope=2.0, slope=True, share=True):
    x, weight, target = inputs
    kept = (target != ignored)[:, None]
    t = torch.tanh(x @ weight.T / cap)
    logits = cap * t
    norm = torch.logsumexp(logits, -1, keepdim=True)
    nll = norm - (1 - smoothing) * logits.gather(1, target[:, None]) - smoothing * logits.mean(-1, keepdim=True)
    y = ((nll + z * norm * norm) * kept).sum() / kept.sum()
    p = torch.exp(logits - norm)
    d = p * (1 + z_slope * z * norm)
    d = d.scatter_add(1, target[:, None], torch.full_like(norm, smoothing - 1))
    d = d - smoothing / (weight.shape[0] if share else weight.shape[0] - 1)
    d = d * kept * dy / kept.sum()
    if slope:
        d = d * (1 - t * t)
    return y, (d @ weight, d.T @ x, None)


@right(CHUNKED, "all rows at once")
def chunked_head_at_once(inputs, dy, *, cap=20.0, smoothing=0.1, z=1e-2, ignored=0):
    return _chunked(inputs, dy, cap, smoothing, z, ignored)


@wrong(CHUNKED, "the z-loss is differentiated without its 2", shows=WIDE)
def chunked_head_z_without_two(inputs, dy, *, cap=20.0, smoothing=0.1, z=1e-2, ignored=0):
    return _chunked(inputs, dy, cap, smoothing, z, ignored, z_slope=1.0)


@wrong(CHUNKED, "the slope of the cap is left out")
def chunked_head_without_cap(inputs, dy, *, cap=20.0, smoothing=0.1, z=1e-2, ignored=0):
    return _chunked(inputs, dy, cap, smoothing, z, ignored, slope=False)


@wrong(CHUNKED, "smoothing is shared by the other classes alone in the backward", shows=WIDE)
def chunked_head_smoothing_of_others(inputs, dy, *, cap=20.0, smoothing=0.1, z=1e-2, ignored=0):
    return _chunked(inputs, dy, cap, smoothing, z, ignored, share=False)


# ------------------------------------------------------------------------------------------------ preferences (DPO)


def preference_loss(chosen, rejected, chosen_before, rejected_before, *, beta=0.1, smoothing=0.0):
    logits = beta * ((chosen - chosen_before) - (rejected - rejected_before))
    return (-F.logsigmoid(logits) * (1 - smoothing) - F.logsigmoid(-logits) * smoothing).mean()


DPO = Function(
    preference_loss,
    {name: normal(6, scale=8.0) for name in ("chosen", "rejected", "chosen_before", "rejected_before")},
    {"beta": 0.5, "smoothing": 0.1},
)


def _dpo(inputs, dy, beta, smoothing, *, swapped=False):
    chosen, rejected, chosen_before, rejected_before = inputs
    u = beta * ((chosen - chosen_before) - (rejected - rejected_before))
    lost = torch.log1p(torch.exp(-u.abs()))
    y = ((1 - smoothing) * ((-u).clamp(min=0) + lost) + smoothing * (u.clamp(min=0) + lost)).mean()
    up, down = torch.sigmoid(u), torch.sigmoid(-u)
    g = dy * beta / len(u) * (smoothing * up - (1 - smoothing) * down)
    if swapped:
        g = -dy * beta / len(u) * up
    return y, (g, -g, -g, g.clone())


@right(DPO, "σ(u) and σ(-u), each by itself")
def preference_loss_two_sigmoids(inputs, dy, *, beta=0.1, smoothing=0.0):
    return _dpo(inputs, dy, beta, smoothing)


@wrong(DPO, "σ of the logits where σ of their negative is due")
def preference_loss_wrong_side(inputs, dy, *, beta=0.1, smoothing=0.0):
    return _dpo(inputs, dy, beta, smoothing, swapped=True)


@wrong(DPO, "smoothing is left out of the backward")
def preference_loss_unsmoothed(inputs, dy, *, beta=0.1, smoothing=0.0):
    return _dpo(inputs, dy, beta, smoothing)[0], _dpo(inputs, dy, beta, 0.0)[1]


# ----------------------------------------------------------------- policies: clipped ratios and a KL penalty (GRPO)


def clipped_policy_loss(logp, old, reference, advantage, kept, *, low=0.2, high=0.28, beta=0.04):
    ratio = torch.exp(logp - old)
    gain = torch.minimum(ratio * advantage[:, None], ratio.clamp(1 - low, 1 + high) * advantage[:, None])
    apart = reference - logp
    kl = torch.exp(apart) - apart - 1
    each = (beta * kl - gain) * kept
    return (each.sum(-1) / kept.sum(-1)).mean()


GRPO = Function(
    clipped_policy_loss,
    {
        "logp": normal(4, 6, scale=0.5),
        "old": normal(4, 6, scale=0.5),
        "reference": normal(4, 6, scale=0.5),
        "advantage": (4,),
        "kept": mask(4, 6),
    },
)


def _grpo(inputs, dy, low, high, beta, *, clipped=True, kl=True, by_tokens=False):
    logp, old, reference, advantage, kept = inputs
    a = advantage[:, None]
    ratio = torch.exp(logp - old)
    held = ratio.clamp(1 - low, 1 + high)
    plain, other = ratio * a, held * a
    apart = reference - logp
    e = torch.exp(apart)
    each = (beta * (e - apart - 1) - torch.minimum(plain, other)) * kept
    counts = kept.sum(-1, keepdim=True)
    y = (each.sum(-1) / counts[:, 0]).mean()
    share = dy * kept / (kept.sum() if by_tokens else counts * len(kept))
    takes_plain = plain < other
    inside = (ratio >= 1 - low) & (ratio <= 1 + high)
    # Where both are equal each has one half: inside they are one number, and outside equal for an advantage of 0 alone.
    portion = torch.where(takes_plain, 1.0, torch.where(plain == other, 0.5, 0.0)).to(ratio.dtype)
    through = portion + (1 - portion) * inside if clipped else torch.ones_like(ratio)
    dratio = -share * a * through
    dgain_a = -share * (portion * ratio + (1 - portion) * held)
    dapart = share * beta * (e - 1) if kl else torch.zeros_like(e)
    dlogp = dratio * ratio - dapart
    return y, (dlogp, -dratio * ratio, dapart, dgain_a.sum(-1), None)


@right(GRPO, "the minimum and the clamp, each with its own mask")
def clipped_policy_masks(inputs, dy, *, low=0.2, high=0.28, beta=0.04):
    return _grpo(inputs, dy, low, high, beta)


@wrong(GRPO, "a clipped ratio still gets its gradient")
def clipped_policy_unclipped(inputs, dy, *, low=0.2, high=0.28, beta=0.04):
    return _grpo(inputs, dy, low, high, beta, clipped=False)


@wrong(GRPO, "the KL penalty is dropped")
def clipped_policy_without_kl(inputs, dy, *, low=0.2, high=0.28, beta=0.04):
    return _grpo(inputs, dy, low, high, beta, kl=False)


@wrong(GRPO, "the backward divides by all tokens, the forward by those of each row")
def clipped_policy_by_tokens(inputs, dy, *, low=0.2, high=0.28, beta=0.04):
    return _grpo(inputs, dy, low, high, beta, by_tokens=True)


# -------------------------------------------------------------- images and texts contrasted both ways (CLIP)


def paired_contrast(images, texts, log_scale):
    a, b = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = log_scale.exp() * a @ b.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


CLIP = Function(
    paired_contrast,
    {"images": (5, 8), "texts": (5, 8), "log_scale": uniform(low=0.5, high=1.5)},
)


def _clip(inputs, dy, *, one_way=False, through_norm=True, exponent=True):
    images, texts, log_scale = inputs
    norms = [x.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12) for x in (images, texts)]
    a, b = images / norms[0], texts / norms[1]
    scale = log_scale.exp()
    cosine = a @ b.T
    logits, n = scale * cosine, len(a)
    eye = torch.eye(n, dtype=a.dtype, device=a.device)
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    y = -(rows.diagonal().mean() + columns.diagonal().mean()) / 2
    d = dy * ((rows.exp() - eye) + (columns.exp() - eye)) / (2 * n)
    if one_way:
        d = dy * (rows.exp() - eye) / n
    da, db = scale * d @ b, scale * d.T @ a
    if through_norm:
        da, db = da - a * (a * da).sum(-1, keepdim=True), db - b * (b * db).sum(-1, keepdim=True)
    dlog = (d * cosine).sum() * (scale if exponent else 1)
    return y, (da / norms[0], db / norms[1], dlog)


@right(CLIP, "both softmaxes from one product")
def paired_contrast_one_product(inputs, dy):
    return _clip(inputs, dy)


@wrong(CLIP, "the texts' half of the loss is taken for the images'")
def paired_contrast_one_way(inputs, dy):
    return _clip(inputs, dy, one_way=True)


@wrong(CLIP, "the norms are taken for constants")
def paired_contrast_norms_constant(inputs, dy):
    return _clip(inputs, dy, through_norm=False)


@wrong(CLIP, "the scale is given the cotangent of its exponential")
def paired_contrast_scale_not_log(inputs, dy):
    return _clip(inputs, dy, exponent=False)


# ------------------------------------------------------------------------------------- quantiles (QR-DQN)


def quantile_huber(guess, target, taus, *, kappa=1.0):
    error = target[:, None, :] - guess[:, :, None]
    huber = torch.where(error.abs() <= kappa, 0.5 * error.square(), kappa * (error.abs() - 0.5 * kappa))
    weight = (taus[:, None] - (error.detach() < 0).to(error.dtype)).abs()
    return (weight * huber / kappa).sum(1).mean()


QUANTILES = Function(
    quantile_huber,
    {"guess": (4, 5), "target": (4, 6), "taus": lambda generator: (torch.arange(5.0, dtype=torch.float64) + 0.5) / 5},
    {"kappa": 0.7},
)


def _quantiles(inputs, dy, kappa, *, weighted=True, divided=True):
    guess, target, taus = inputs
    error = target[:, None, :] - guess[:, :, None]
    is_below = (error < 0).to(error.dtype)
    signed = taus[:, None] - is_below
    weight = signed.abs()
    huber = torch.where(error.abs() <= kappa, 0.5 * error**2, kappa * (error.abs() - 0.5 * kappa)) / kappa
    y = (weight * huber).sum(1).mean()
    each = dy / (len(guess) * target.shape[1])
    slope = error.clamp(-kappa, kappa) / (kappa if divided else 1)
    derror = each * slope * (weight if weighted else 1)
    dtaus = (each * huber * signed.sign()).sum((0, 2))
    return y, (-derror.sum(2), derror.sum(1), dtaus)


@right(QUANTILES, "the slope of huber is a clamp")
def quantile_huber_clamp(inputs, dy, *, kappa=1.0):
    return _quantiles(inputs, dy, kappa)


@wrong(QUANTILES, "the weight of the quantile is left out")
def quantile_huber_unweighted(inputs, dy, *, kappa=1.0):
    return _quantiles(inputs, dy, kappa, weighted=False)


@wrong(QUANTILES, "the division by kappa is left out")
def quantile_huber_undivided(inputs, dy, *, kappa=1.0):
    return _quantiles(inputs, dy, kappa, divided=False)


# -------------------------------------------------------------------- a head of cosines with a margin (CosFace)


def cosine_head(x, weight, target, *, scale=8.0, margin=0.2):
    cosine = F.normalize(x, dim=-1) @ F.normalize(weight, dim=-1).T
    at_target = F.one_hot(target, weight.shape[0]).to(x.dtype)
    return F.cross_entropy(scale * (cosine - margin * at_target), target)


COSINE_HEAD = Function(cosine_head, {"x": (5, 6), "weight": (4, 6), "target": ids(5, below=4)})


def _cosine_head(inputs, dy, scale, margin, *, margin_back=True, project=True):
    x, weight, target = inputs
    nx, nw = (t.pow(2).sum(-1, keepdim=True).sqrt() for t in (x, weight))
    a, b = x / nx, weight / nw
    hot = torch.zeros(len(x), len(weight), dtype=x.dtype, device=x.device).scatter_(1, target[:, None], 1.0)
    logits = scale * (a @ b.T - margin * hot)
    logp = logits.log_softmax(-1)
    y = -(logp * hot).sum() / len(x)
    p = logp.exp() if margin_back else (scale * (a @ b.T)).softmax(-1)
    d = dy * scale * (p - hot) / len(x)
    da, db = d @ b, d.T @ a
    if project:
        da, db = da - a * (a * da).sum(-1, keepdim=True), db - b * (b * db).sum(-1, keepdim=True)
    return y, (da / nx, db / nw, None)


@right(COSINE_HEAD, "projections of both")
def cosine_head_projected(inputs, dy, *, scale=8.0, margin=0.2):
    return _cosine_head(inputs, dy, scale, margin)


@wrong(COSINE_HEAD, "probabilities of the backward are without the margin")
def cosine_head_without_margin(inputs, dy, *, scale=8.0, margin=0.2):
    return _cosine_head(inputs, dy, scale, margin, margin_back=False)


@wrong(COSINE_HEAD, "the norms are taken for constants")
def cosine_head_norms_constant(inputs, dy, *, scale=8.0, margin=0.2):
    return _cosine_head(inputs, dy, scale, margin, project=False)


# ------------------------------------------------------------------- focal loss over classes, weighted by class


def class_focal(x, target, balance, *, gamma=2.0):
    logp = x.log_softmax(-1).gather(1, target[:, None])[:, 0]
    return -(balance[target] * (1 - logp.exp()) ** gamma * logp).sum()


CLASS_FOCAL = Function(
    class_focal,
    {"x": (6, 5), "target": ids(6, below=5), "balance": uniform(5, low=0.2, high=2.0)},
    {"gamma": 2.0},
)


def _class_focal(inputs, dy, gamma, *, inner=True):
    x, target, balance = inputs
    logp = x.log_softmax(-1)
    own = logp.gather(1, target[:, None])
    p, alpha = own.exp(), balance[target][:, None]
    rest = 1 - p
    each = -(rest**gamma) * own
    down = -alpha * rest**gamma
    if inner:
        down = down + alpha * gamma * rest ** (gamma - 1) * p * own
    dx = dy * down * (torch.zeros_like(x).scatter_(1, target[:, None], 1.0) - logp.exp())
    dbalance = torch.zeros_like(balance).index_add_(0, target, dy * each[:, 0])
    return (alpha * each).sum(), (dx, None, dbalance)


@right(CLASS_FOCAL, "through the log-probability of the target")
def class_focal_by_target(inputs, dy, *, gamma=2.0):
    return _class_focal(inputs, dy, gamma)


@wrong(CLASS_FOCAL, "the focal weight is taken for a constant")
def class_focal_weight_constant(inputs, dy, *, gamma=2.0):
    return _class_focal(inputs, dy, gamma, inner=False)


# ------------------------------------------------------------------------------------- boxes that overlap (GIoU)


def box_loss(a, b):
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - overlap
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    return 2 - overlap / union - union / around


def _boxes(generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(6, 2, generator=generator, dtype=torch.float64)
    return torch.cat((corners, corners + 0.3 + torch.rand(6, 2, generator=generator, dtype=torch.float64)), -1)


BOXES = Function(box_loss, {"a": _boxes, "b": _boxes}, dtypes=(torch.float64, torch.float32))


def _box_loss(a, b, dy, *, around=True):
    la, ha, lb, hb = a[:, :2], a[:, 2:], b[:, :2], b[:, 2:]
    inner = torch.minimum(ha, hb) - torch.maximum(la, lb)
    side, outer = inner.clamp(min=0), torch.maximum(ha, hb) - torch.minimum(la, lb)
    overlap, size_a, size_b = side.prod(-1), (ha - la).prod(-1), (hb - lb).prod(-1)
    union, whole = size_a + size_b - overlap, outer.prod(-1)
    dunion = dy * (overlap / union / union - 1 / whole)
    doverlap = -dy / union - dunion
    dwhole = dy * union / whole / whole if around else torch.zeros_like(dy)
    dinner = doverlap[:, None] * side.flip(-1) * (inner >= 0)
    douter = dwhole[:, None] * outer.flip(-1)

    def share(x, other, is_larger):
        return torch.where(x == other, 0.5, ((x > other) == is_larger).to(x.dtype)).to(x.dtype)

    def grads(low, high, low_other, high_other):
        dsize = dunion[:, None] * (high - low).flip(-1)
        dlow = -dsize - dinner * share(low, low_other, True) - douter * share(low, low_other, False)
        dhigh = dsize + dinner * share(high, high_other, False) + douter * share(high, high_other, True)
        return torch.cat((dlow, dhigh), -1)

    return 2 - overlap / union - union / whole, (grads(la, ha, lb, hb), grads(lb, hb, la, ha))


@right(BOXES, "sides, and what each is taken from")
def box_loss_by_sides(inputs, dy):
    return _box_loss(*inputs, dy)


@wrong(BOXES, "the box around both is taken for a constant")
def box_loss_around_constant(inputs, dy):
    return _box_loss(*inputs, dy, around=False)


# ---------------------------------------------------------------- Gumbel-softmax with the noise given, straight through


def straight_gumbel(logits, noise, *, tau=0.7):
    soft = ((logits + noise) / tau).softmax(-1)
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


GUMBEL = Function(
    straight_gumbel,
    {
        "logits": (4, 5),
        "noise": lambda generator: -torch.log(-torch.log(0.05 + 0.9 * torch.rand(4, 5, generator=generator).double())),
    },
)


@right(GUMBEL, "the gradient of the softmax, whatever the value")
def straight_gumbel_soft(inputs, dy, *, tau=0.7):
    p = ((inputs[0] + inputs[1]) / tau).softmax(-1)
    d = p * (dy - (p * dy).sum(-1, keepdim=True)) / tau
    return torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0), (d, d.clone())


@wrong(GUMBEL, "the temperature is left out")
def straight_gumbel_without_tau(inputs, dy, *, tau=0.7):
    y, grads = straight_gumbel_soft(inputs, dy, tau=tau)
    return y, tuple(g * tau for g in grads)


@wrong(GUMBEL, "the softmax is passed through too, as if it were the identity")
def straight_gumbel_identity(inputs, dy, *, tau=0.7):
    y, _ = straight_gumbel_soft(inputs, dy, tau=tau)
    return y, (dy.clone(), dy.clone())


# --------------------------------------------------------------------------------- entropy of a masked policy


def masked_entropy(logits, allowed):
    logp = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    return -(logp.exp() * logp.masked_fill(~allowed, 0.0)).sum(-1).mean()


ENTROPY = Function(masked_entropy, {"logits": (4, 6), "allowed": mask(4, 6)})


@right(ENTROPY, "p (log p + H)")
def masked_entropy_closed(inputs, dy):
    logits, allowed = inputs
    logp = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    p = logp.exp()
    safe = torch.where(allowed, logp, 0.0)
    h = -(p * safe).sum(-1, keepdim=True)
    return h.mean(), (-dy / len(h) * p * (safe + h), None)


@wrong(ENTROPY, "H is left out: -p log p alone")
def masked_entropy_without_h(inputs, dy):
    logits, allowed = inputs
    y, _ = masked_entropy_closed(inputs, dy)
    logp = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    return y, (-dy / len(logits) * logp.exp() * torch.where(allowed, logp, 0.0), None)
