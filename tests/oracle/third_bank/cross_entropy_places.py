"""Programs for softmax_cross_entropy that are wrong at some places, sizes, labels or extremes, or in some precision."""

from collections.abc import Iterator

import torch

from tests.oracle.third_bank.axes import in_order, top, total
from tests.oracle.third_bank.cross_entropy_right import CROSS_ENTROPY, log_probabilities, times
from tests.oracle.third_bank.cross_entropy_wrong import (
    RULE,
    both,
    cross_entropy,
    replaced,
    right_gradient,
    right_loss,
)
from tests.oracle.third_bank.entry import ALL, BF16, SIXTEEN, WIDE, Entry, faulty, in_float32, native, wrong
from tests.oracle.third_bank.faults import changed, cut_flat, dense, half, usual, with_input, writes_input


def by_log_p(log_p):
    """Loss and gradient from other log-probabilities of the logits."""
    return cross_entropy(
        lambda t: -times(t.q, log_p(t.logits)).sum() / t.n,
        lambda t: (torch.exp(log_p(t.logits)) * total(t.q) - t.q) * (t.dy / t.n),
    )


def not_shifted(logits):
    return logits - torch.log(total(torch.exp(logits)))


def from_minus_10000(logits):
    largest = top(logits).clamp_min(-10_000) if logits.shape[1] else top(logits)
    return logits - largest - torch.log(total(torch.exp(logits - largest)))


def padded_with_0(logits):
    padding = -logits.shape[1] % 32
    return logits - top(logits) - torch.log(total(torch.exp(logits - top(logits))) + padding * torch.exp(-top(logits)))


def first_1024(logits):
    return logits - torch.logsumexp(logits[:, :1024], 1, keepdim=True)


def shifted_twice(logits):
    return log_probabilities(logits) - top(logits)


def softcapped(logits):
    return log_probabilities(30 * torch.tanh(logits / 30))


def one_based(t):
    labels = (t.labels - 1) % max(t.logits.shape[1], 1)
    return replaced(
        t,
        q=t.q.gather(1, (torch.arange(t.logits.shape[1]) + 1).expand_as(t.q) % max(t.logits.shape[1], 1)),
        labels=labels,
    )


def labels_as(dtype):
    """Labels kept in a type that is too small for a large vocabulary; what wraps below 0 counts from the end."""

    def vjp(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        x, target, weight = inputs
        counts = target != ignore_index
        small = target.to(dtype).long()
        small = torch.where(small < 0, small + x.shape[1], small)
        return CROSS_ENTROPY(
            (x, torch.where(counts, small, target), weight), dy, ignore_index, label_smoothing, reduction
        )

    return vjp


def with_labels(change):
    """Other labels than those given; `change` sees them, the classes and ignore_index."""

    def vjp(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        x, target, weight = inputs
        target = change(target, x.shape[1], ignore_index)
        return CROSS_ENTROPY((x, target, weight), dy, ignore_index, label_smoothing, reduction)

    return vjp


def last_class_ignored(target, classes, ignore_index):
    return torch.where(target == classes - 1, ignore_index, target) if classes > 1 else target


def class_0_ignored(target, classes, ignore_index):
    return torch.where(target == 0, ignore_index, target) if classes > 1 else target


def transposed(target, classes, ignore_index):
    """Height and width of the target mistaken for each other, where it can't be seen from their lengths."""
    if target.ndim < 3 or target.shape[-1] != target.shape[-2]:
        return target
    return target.transpose(-1, -2)


def classes_taken_last(inputs, dy, **hyper):
    """(batch, classes, ...) reshaped to (tokens, classes) without moving the axis."""
    x, target, weight = inputs
    if x.ndim == 2:
        return CROSS_ENTROPY(inputs, dy, **hyper)
    y, (dx, _, _) = CROSS_ENTROPY((x.reshape(target.numel(), x.shape[1]), target.reshape(-1), weight), dy, **hyper)
    return y, (dx.reshape(x.shape), None, None)


def not_moved_back(inputs, dy, **hyper):
    """The loss is right, and dx is reshaped from (tokens, classes) without moving the axis."""
    x = inputs[0]
    y, (dx, _, _) = CROSS_ENTROPY(inputs, dy, **hyper)
    return y, (dx.movedim(1, -1).reshape(x.shape), None, None)


def spaces_transposed_back(inputs, dy, **hyper):
    y, (dx, _, _) = CROSS_ENTROPY(inputs, dy, **hyper)
    square = dx.ndim == 4 and dx.shape[2] == dx.shape[3]
    return y, (dx.transpose(2, 3) if square else dx, None, None)


def first_sample_only(inputs, dy, **hyper):
    """Space axes: the strides of the batch aren't added, every sample reads the labels of the first."""
    x, target, weight = inputs
    if target.ndim < 2 or not len(target):
        return CROSS_ENTROPY(inputs, dy, **hyper)
    return CROSS_ENTROPY((x, target[:1].expand_as(target), weight), dy, **hyper)


def loss_of_last_block(t):
    """Each block of 1024 tokens writes the sum over the one before."""
    start = (len(t.labels) - 1) // 1024 * 1024 if len(t.labels) else 0
    return -times(t.q, t.log_p)[start:].sum() / t.n


def loss_by_products(t):
    return -(t.q * t.log_p).sum() / t.n


def clamped_loss(t):
    return -times(t.q, t.log_p.clamp_min(-100)).sum() / t.n


def loss_with_eps(t):
    return -times(t.q, torch.log(torch.exp(t.log_p) + 1e-8)).sum() / t.n


def loss_with_z(t):
    return right_loss(t) + 1e-4 * (torch.logsumexp(t.logits, 1) ** 2 * t.counts).sum() / t.n


def zero_of_empty(t):
    return right_loss(t) if len(t.labels) else t.dy.new_zeros(())


def gradient_by_rounded_p(rounded):
    return lambda t: (rounded(torch.exp(t.log_p)) * total(t.q) - t.q) * (t.dy / t.n)


def rounded_then_less_1(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """p is written in 16 bits, and 1 subtracted from what was written, which is rounded again."""
    dtype = dy.dtype
    x, target, weight = inputs

    def gradient(t):
        rounded = (torch.exp(t.log_p) * total(t.q)).to(dtype)
        return (rounded - t.q.to(dtype)).float() * (t.dy / t.n)

    wide = (x.float(), target, None if weight is None else weight.float())
    y, (dx, _, _) = cross_entropy(gradient=gradient)(wide, dy.float(), ignore_index, label_smoothing, reduction)
    return y.to(dtype), (dx.to(dtype), None, None)


def summed_in_16_bits(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """The loss is added up token by token in 16 bits."""
    dtype = dy.dtype
    x, target, weight = inputs

    def loss(t):
        return (
            in_order(-times(t.q, t.log_p).sum(1).to(dtype)[:, None])[0].float() / t.n
            if len(t.labels)
            else right_loss(t)
        )

    wide = (x.float(), target, None if weight is None else weight.float())
    y, (dx, _, _) = cross_entropy(loss=loss)(wide, dy.float(), ignore_index, label_smoothing, reduction)
    return y.to(dtype), (dx.to(dtype), None, None)


def logits_in_16_bits(inputs, dy, **hyper):
    """log_softmax written in the dtype of the logits, as a 16-bit graph of operations does."""
    dtype = dy.dtype
    vjp = by_log_p(lambda logits: log_probabilities(logits).to(dtype).to(logits.dtype))
    return in_float32(vjp)(inputs, dy, **hyper)


def binary(t):
    """Two classes by the sigmoid of the second logit alone."""
    if t.logits.shape[1] != 2:
        return t
    return replaced(t, logits=torch.cat([torch.zeros_like(t.logits[:, :1]), t.logits[:, 1:]], 1))


def sigmoid_of_one_class(t):
    return -torch.nn.functional.logsigmoid(t.logits).sum() / t.n if t.logits.shape[1] == 1 else right_loss(t)


def certain_rows_dropped(t):
    """Gradients below the resolution of bfloat16 are left out."""
    dx = right_gradient(t)
    return torch.where(torch.exp(t.log_p) < 2**-12, torch.where(t.q > 0, dx, 0), dx)


def raises_if_one_token(inputs, dy, **hyper):
    if inputs[1].numel() == 1:
        raise ValueError("more than one token is expected")
    return CROSS_ENTROPY(inputs, dy, **hyper)


def first_tokens(limit):
    return lambda t: replaced(t, q=torch.cat([t.q[:limit], torch.zeros_like(t.q[limit:])]))


_PLACES = {
    "largest not subtracted": (by_log_p(not_shifted), "large", "overflows", WIDE),
    "from -10000": (by_log_p(from_minus_10000), "far below", "the running largest starts at -10000", WIDE),
    "padded with 0": (by_log_p(padded_with_0), "plain", "the last block of 32 classes is padded with 0", ALL),
    "1024 classes": (by_log_p(first_1024), "wide", "classes after 1024 aren't in the normaliser", ALL),
    "largest twice": (by_log_p(shifted_twice), "plain", "the largest is subtracted twice", ALL),
    "softcap": (by_log_p(softcapped), "plain", "logits capped at 30, and not in the gradient", WIDE),
    "labels from 1": (both(one_based), "plain", "classes are counted from 1", ALL),
    "int16 labels": (labels_as(torch.int16), "vocabulary", "labels wrap at 32768", ALL),
    "uint16 labels": (labels_as(torch.uint16), "vocabulary", "labels wrap at 65536", ALL),
    "last class": (with_labels(last_class_ignored), "last class", "the last class counts as out of range", ALL),
    "class 0": (with_labels(class_0_ignored), "class 0", "class 0 counts as padding", ALL),
    "target transposed": (with_labels(transposed), "squares", "height and width of the target", ALL),
    "classes taken last": (classes_taken_last, "spaces", "the axis of classes isn't moved", ALL),
    "dx not moved back": (not_moved_back, "spaces", "right loss, dx with its axes mixed", ALL),
    "dx transposed": (spaces_transposed_back, "squares", "right loss, height and width of dx", ALL),
    "labels of the first sample": (first_sample_only, "spaces", "no stride of the batch in the target", ALL),
    "last block's loss": (cross_entropy(loss=loss_of_last_block), "rows", "blocks of 1024 overwrite each other", ALL),
    "1024 tokens": (both(first_tokens(1024)), "rows", "tokens after 1024 have neither loss nor gradient", ALL),
    "65535 tokens": (both(first_tokens(65_535)), "many rows", "the limit of a grid's second axis", ALL),
    "0 times inf": (cross_entropy(loss=loss_by_products), "one masked", "nan from a weight 0 and a logit -inf", ALL),
    "loss clamped": (cross_entropy(loss=clamped_loss), "large", "log-probabilities above -100", WIDE),
    "1e-8 in the log": (cross_entropy(loss=loss_with_eps), "large", "losses below 18.4", WIDE),
    "z-loss": (cross_entropy(loss=loss_with_z), "plain", "1e-4 lse² in the loss alone", WIDE),
    "0 if empty": (cross_entropy(loss=zero_of_empty), "batch 0", "a mean over nothing is nan", ALL),
    "two classes": (both(binary), "two classes", "a sigmoid of the second logit", ALL),
    "one class": (cross_entropy(loss=sigmoid_of_one_class), "one class", "a sigmoid, where the loss is 0", ALL),
    "one token": (raises_if_one_token, "one token", "a scalar isn't expected", ALL),
    "small p filtered": (cross_entropy(gradient=certain_rows_dropped), "large", "gradients below bfloat16's eps", WIDE),
    "p in 16 bits": (cross_entropy(gradient=gradient_by_rounded_p(half)), "plain", "p - 1 from a bfloat16 p", WIDE),
    "log p in 16 bits": (by_log_p(lambda x: half(log_probabilities(x))), "plain", "log_softmax in bfloat16", WIDE),
}


def _entries() -> Iterator[Entry]:
    for name, (vjp, shows, why, dtypes) in _PLACES.items():
        yield wrong(RULE, name, vjp, shows, why, dtypes)
    base = in_float32(CROSS_ENTROPY)
    yield faulty(
        RULE, "1 from a rounded p", rounded_then_less_1, "certain", "nothing is left where p is near 1", SIXTEEN
    )
    yield faulty(RULE, "loss in 16 bits", summed_in_16_bits, "rows", "a sum that stagnates", SIXTEEN)
    yield native(RULE, "log p in 16 bits, 16-bit logits", logits_in_16_bits, "every operation rounds", (BF16,))
    yield faulty(RULE, "dx over x", writes_input(base, 0, 0), "plain", "the gradient is written over the logits")
    yield faulty(RULE, "x read as dense", with_input(base, 0, dense), "strided input", "the strides of x are ignored")
    yield faulty(RULE, "target read as dense", with_input(base, 1, dense), "strided input", "the target's are ignored")
    flat_cut = changed(base, 0, cut_flat(65_536))
    yield faulty(RULE, "65536 entries", flat_cut, "many rows", "entries of dx after 65536 aren't written")
    yield from usual(RULE, CROSS_ENTROPY)


PROGRAMS = tuple(_entries())
