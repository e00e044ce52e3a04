"""Losses over classes: heads in chunks, label smoothing, z-loss, distillation."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tests.oracle.function_bank.entry import F64, Function, ids, right, uniform, wrong


def targets(*shape, below, ignored):
    """Class numbers, of which about a third is -100 and the first is not."""

    def draw(generator):
        drawn = torch.randint(below, shape, generator=generator)
        if ignored:
            drawn[torch.rand(shape, generator=generator) < 0.3] = -100
            drawn.view(-1)[0] = 0
        return drawn

    return draw


# -------------------------------------------------------------------------------- the loss head, in chunks of rows


def chunked_head_loss(hidden, weight, target, *, chunk=4, ignore_index=-100):
    total = hidden.new_zeros(())
    for rows, labels in zip(hidden.split(chunk), target.split(chunk)):  # noqa: B905 (as people write it)
        logits = F.linear(rows, weight)
        total = total + F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / (target != ignore_index).sum()


CHUNKED_HEAD = Function(
    chunked_head_loss, {"hidden": (10, 5), "weight": (7, 5), "target": targets(10, below=7, ignored=True)}
)


def _head_chunks(hidden, weight, target, ignore_index):
    """Per row the loss and the cotangent of its logits, for a sum over the rows that count."""
    logits = hidden @ weight.T
    counts = target != ignore_index
    log_p = logits.log_softmax(-1)
    labels = target.where(counts, 0)
    dlogits = log_p.exp()
    dlogits[torch.arange(len(labels)), labels] -= 1
    return -log_p.gather(1, labels[:, None])[:, 0] * counts, dlogits * counts[:, None], counts.sum()


@right(CHUNKED_HEAD, "without chunks")
def chunked_head_whole(inputs, dy, *, chunk=4, ignore_index=-100):
    hidden, weight, target = inputs
    loss, dlogits, n = _head_chunks(hidden, weight, target, ignore_index)
    dlogits = dlogits * (dy / n)
    return loss.sum() / n, (dlogits @ weight, dlogits.T @ hidden, None)


@right(CHUNKED_HEAD, "gradients made in the forward, in chunks of three, and scaled by dy at the end")
def chunked_head_eager(inputs, dy, *, chunk=4, ignore_index=-100):
    hidden, weight, target = inputs
    n = (target != ignore_index).sum()
    y, dhidden, dweight = 0, torch.empty_like(hidden), torch.zeros_like(weight)
    for start in range(0, len(hidden), 3):
        rows = slice(start, start + 3)
        loss, dlogits, _ = _head_chunks(hidden[rows], weight, target[rows], ignore_index)
        y = y + loss.sum() / n
        dhidden[rows] = dlogits @ weight / n
        dweight += dlogits.T @ hidden[rows] / n
    return y, (dhidden.mul_(dy), dweight.mul_(dy), None)


@wrong(CHUNKED_HEAD, "dy is not multiplied into the weight's gradient")
def chunked_head_forgot_dy(inputs, dy, *, chunk=4, ignore_index=-100):
    y, (dhidden, _, _) = chunked_head_eager(inputs, dy, chunk=chunk, ignore_index=ignore_index)
    _, (_, dweight, _) = chunked_head_eager(inputs, torch.ones_like(dy), chunk=chunk, ignore_index=ignore_index)
    return y, (dhidden, dweight, None)


@wrong(CHUNKED_HEAD, "the mean divides by all rows, also by those that are ignored")
def chunked_head_divided_by_all(inputs, dy, *, chunk=4, ignore_index=-100):
    y, (dhidden, dweight, _) = chunked_head_whole(inputs, dy, ignore_index=ignore_index)
    share = (inputs[2] != ignore_index).sum() / len(inputs[2])
    return y, (dhidden * share, dweight * share, None)


@wrong(CHUNKED_HEAD, "the weight's gradient is that of the last chunk: chunks overwrite each other")
def chunked_head_last_chunk(inputs, dy, *, chunk=4, ignore_index=-100):
    hidden, weight, target = inputs
    y, (dhidden, _, _) = chunked_head_whole(inputs, dy, ignore_index=ignore_index)
    _, dlogits, n = _head_chunks(hidden, weight, target, ignore_index)
    last = slice((len(hidden) - 1) // chunk * chunk, None)
    return y, (dhidden, dy / n * dlogits[last].T @ hidden[last], None)


# ------------------------------------------------------------------------- cross-entropy with z-loss and smoothing


def z_loss_cross_entropy(logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"],
                         *, z_weight: float = 1e-4) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:  # fmt: skip
    lse = torch.logsumexp(logits, dim=-1)
    nll = lse - logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    z_loss = z_weight * lse.pow(2)
    return (nll + z_loss).mean(), z_loss.mean()


Z_LOSS = Function(z_loss_cross_entropy, {"logits": (6, 9), "target": ids(6, below=9)}, {"z_weight": 0.05})


def _z_loss(inputs, dy, z_weight, z_factor):
    logits, target = inputs
    lse = logits.logsumexp(-1, keepdim=True)
    p = (logits - lse).exp()
    picked = F.one_hot(target, logits.shape[1]).to(p.dtype)
    nll, z = lse[:, 0] - (picked * logits).sum(-1), z_weight * lse[:, 0] ** 2
    dloss, dz = dy
    dlogits = dloss * (p - picked) + (z_factor(dloss, dz)) * z_weight * 2 * lse * p
    return ((nll + z).mean(), z.mean()), (dlogits / len(target), None)


@right(Z_LOSS, "by one-hot rows")
def z_loss_one_hot(inputs, dy, *, z_weight=1e-4):
    return _z_loss(inputs, dy, z_weight, lambda dloss, dz: dloss + dz)


@wrong(Z_LOSS, "the cotangent of the second output, the z-loss, is ignored")
def z_loss_second_output_ignored(inputs, dy, *, z_weight=1e-4):
    return _z_loss(inputs, dy, z_weight, lambda dloss, dz: dloss)


@wrong(Z_LOSS, "the gradient of the z-loss is added without multiplying by the cotangent of the loss")
def z_loss_forgot_dy(inputs, dy, *, z_weight=1e-4):
    return _z_loss(inputs, dy, z_weight, lambda dloss, dz: 1)


def smoothed_cross_entropy(logits, target, *, smoothing=0.1, ignore_index=-100):
    log_p = F.log_softmax(logits, dim=-1)
    valid = target.ne(ignore_index)
    nll = -log_p.gather(-1, target.masked_fill(~valid, 0).unsqueeze(-1)).squeeze(-1)
    loss = (1 - smoothing) * nll - smoothing * log_p.mean(-1)
    return loss.masked_fill(~valid, 0.0).sum() / valid.sum()


SMOOTHED = Function(
    smoothed_cross_entropy, {"logits": (2, 5, 6), "target": targets(2, 5, below=6, ignored=True)}, {"smoothing": 0.25}
)


def _smoothed(inputs, dy, smoothing, ignore_index, *, spread=None, held_in=None):
    """The loss, the cotangent of the logits before the mask and the mean, the mask, and the factor of the mean."""
    logits, target = inputs
    classes = logits.shape[-1]
    valid = (target != ignore_index)[..., None]
    picked = F.one_hot(target.where(valid[..., 0], 0), classes).to(held_in or logits.dtype)
    wanted = picked * (1 - smoothing) + smoothing / classes
    loss = -(wanted * logits.log_softmax(-1) * valid).sum() / valid.sum()
    wanted = wanted if spread is None else spread(picked)
    return loss, logits.softmax(-1) - wanted, valid, dy / valid.sum()


@right(SMOOTHED, "against the smoothed distribution as a tensor")
def smoothed_as_distribution(inputs, dy, *, smoothing=0.1, ignore_index=-100):
    loss, dlogits, valid, scale = _smoothed(inputs, dy, smoothing, ignore_index)
    return loss, (dlogits * valid * scale, None)


@wrong(SMOOTHED, "the smoothed distribution is held in float32, also beside float64", shows=(F64,))
def smoothed_in_float32(inputs, dy, *, smoothing=0.1, ignore_index=-100):
    loss, dlogits, valid, scale = _smoothed(inputs, dy, smoothing, ignore_index, held_in=torch.float32)
    return loss, (dlogits * valid * scale, None)


@wrong(SMOOTHED, "ignored positions get the gradient of the smoothing term")
def smoothed_ignored_smooth(inputs, dy, *, smoothing=0.1, ignore_index=-100):
    loss, dlogits, valid, scale = _smoothed(inputs, dy, smoothing, ignore_index)
    uniform_part = smoothing * (inputs[0].softmax(-1) - 1 / inputs[0].shape[-1])
    return loss, (torch.where(valid, dlogits, uniform_part) * scale, None)


@wrong(SMOOTHED, "smoothing is spread over the classes but the right one: smoothing / (classes - 1)")
def smoothed_other_classes(inputs, dy, *, smoothing=0.1, ignore_index=-100):
    others = inputs[0].shape[-1] - 1
    loss, dlogits, valid, scale = _smoothed(
        inputs,
        dy,
        smoothing,
        ignore_index,
        spread=lambda picked: picked * (1 - smoothing) + (1 - picked) * smoothing / others,
    )
    return loss, (dlogits * valid * scale, None)


# ------------------------------------------------------------------------------------------------- distillation


def distillation_loss(student, teacher, *, temperature=2.0):
    """Both get gradients; temperature² keeps their size."""
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_q, p, reduction="batchmean") * temperature**2


DISTILLATION = Function(distillation_loss, {"student": (5, 8), "teacher": (5, 8)}, {"temperature": 3.0})


@right(DISTILLATION, "the teacher's gradient with the row's divergence in place of the softmax's inner product")
def distillation_by_divergence(inputs, dy, *, temperature=2.0):
    log_q, log_p = ((x / temperature).log_softmax(-1) for x in inputs)
    p, n = log_p.exp(), len(log_p)
    divergence = (p * (log_p - log_q)).sum(-1, keepdim=True)
    scale = dy * temperature / n
    dteacher = scale * p * (log_p - log_q - divergence)
    return temperature**2 * divergence.sum() / n, (scale * (log_q.exp() - p), dteacher)


@wrong(DISTILLATION, "the derivative of the division by the temperature is left out")
def distillation_forgot_temperature(inputs, dy, *, temperature=2.0):
    y, (dstudent, dteacher) = distillation_by_divergence(inputs, dy, temperature=temperature)
    return y, (dstudent * temperature, dteacher * temperature)


@wrong(DISTILLATION, "the teacher counts as a constant: its gradient is 0")
def distillation_teacher_constant(inputs, dy, *, temperature=2.0):
    y, (dstudent, _) = distillation_by_divergence(inputs, dy, temperature=temperature)
    return y, (dstudent, torch.zeros_like(inputs[1]))


def jensen_shannon(student, teacher, *, beta=0.5):
    """Mixture of beta teacher and 1 - beta student."""
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    mixture = beta * log_p.exp() + (1 - beta) * log_q.exp()
    to_teacher = (log_p.exp() * (log_p - mixture.log())).sum(-1)
    to_student = (log_q.exp() * (log_q - mixture.log())).sum(-1)
    return (beta * to_teacher + (1 - beta) * to_student).mean()


JENSEN_SHANNON = Function(jensen_shannon, {"student": (4, 7), "teacher": (4, 7)}, {"beta": 0.3})


def _jensen_shannon(inputs, dy, beta, student_share):
    log_q, log_p = (x.log_softmax(-1) for x in inputs)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    q, p = log_q.exp(), log_p.exp()
    to_p, to_q = (p * (log_p - log_m)).sum(-1, keepdim=True), (q * (log_q - log_m)).sum(-1, keepdim=True)
    scale = dy / len(q)
    dq, dp = student_share * q * (log_q - log_m - to_q), beta * p * (log_p - log_m - to_p)
    return (beta * to_p + (1 - beta) * to_q).mean(), (scale * dq, scale * dp)


@right(JENSEN_SHANNON, "in float64 throughout; the derivative through the mixture vanishes and is not formed")
def jensen_shannon_mixture_cancelled(inputs, dy, *, beta=0.5):
    dtype = inputs[0].dtype
    y, grads = _jensen_shannon([x.double() for x in inputs], dy.double(), beta, 1 - beta)
    return y.to(dtype), tuple(grad.to(dtype) for grad in grads)


@wrong(JENSEN_SHANNON, "the student's term is weighted by beta, not by 1 - beta")
def jensen_shannon_weight(inputs, dy, *, beta=0.5):
    return _jensen_shannon(inputs, dy, beta, beta)


# --------------------------------------------------------------------------------------------------- preferences


def preference_loss(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1, label_smoothing=0.0):
    """DPO over log-probabilities of answers (batch,)."""
    logits = (chosen - rejected) - (reference_chosen - reference_rejected)
    losses = -F.logsigmoid(beta * logits) * (1 - label_smoothing) - F.logsigmoid(-beta * logits) * label_smoothing
    return losses.mean()


ANSWERS = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PREFERENCE = Function(
    preference_loss, {name: uniform(6, low=-30, high=-10) for name in ANSWERS}, {"label_smoothing": 0.2, "beta": 0.3}
)


@right(PREFERENCE, "σ(z) - (1 - smoothing), both sides at once")
def preference_closed(inputs, dy, *, beta=0.1, label_smoothing=0.0):
    chosen, rejected, reference_chosen, reference_rejected = inputs
    z = beta * (chosen - rejected - reference_chosen + reference_rejected)
    losses = (1 - label_smoothing) * F.softplus(-z) + label_smoothing * F.softplus(z)
    dz = label_smoothing * torch.sigmoid(z) - (1 - label_smoothing) * torch.sigmoid(-z)
    d = dy * beta * dz / len(z)
    return losses.mean(), (d, -d, -d, d)


@wrong(PREFERENCE, "the smoothed term has the wrong sign")
def preference_smoothing_sign(inputs, dy, *, beta=0.1, label_smoothing=0.0):
    y, (d, *_) = preference_closed(inputs, dy, beta=beta, label_smoothing=label_smoothing)
    chosen, rejected, reference_chosen, reference_rejected = inputs
    z = beta * (chosen - rejected - reference_chosen + reference_rejected)
    d = d - 2 * dy * beta * label_smoothing * torch.sigmoid(z) / len(z)
    return y, (d, -d, -d, d)
