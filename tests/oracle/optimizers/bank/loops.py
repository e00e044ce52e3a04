"""What stands around an update: gradients of pieces, masks that a dropout draws itself, and when to stop."""

import torch
from torch.nn import functional as F

from tests.oracle.optimizers.bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
accumulation = Bank(ENTRIES, "accumulation")
dropout = Bank(ENTRIES, "dropout")
stopping = Bank(ENTRIES, "early stopping")


def _head(x, weight, target, ignore_index, label_smoothing):
    """A piece, right: the sum of its costs, the rows that count, and the cotangents of x and weight for that sum."""
    logits = x @ weight.T
    counts = target != ignore_index
    labels = target.long().where(counts, 0)
    cost = F.cross_entropy(
        logits, target.long(), ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="sum"
    )
    share = (1 - label_smoothing) * F.one_hot(labels, len(weight)).to(x.dtype) + label_smoothing / len(weight)
    d = torch.where(counts[:, None], torch.softmax(logits, 1) - share, 0)
    return cost, counts.sum(), d @ weight, d.T @ x


HEAD = "fused_linear_cross_entropy"


@accumulation.wrong(
    HEAD,
    "the mean of the pieces' means, though the pieces have unequal numbers of rows that count",
    "mean means", "unequal", "pieces", "number rows", "rows that count", "ignored", "ignore_index", "divided", "piece",
    min_size=1,
)  # fmt: skip
def mean_of_the_pieces_means(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    y, dxs, dweight = torch.zeros((), dtype=x.dtype, device=x.device), [], torch.zeros_like(weight)
    size = -(-len(x) // 3)
    pieces = list(zip(x.split(size), target.split(size), strict=True))
    for rows, labels in pieces:
        cost, count, dx, dw = _head(rows, weight, labels, ignore_index, label_smoothing)
        share = 1 / (count.clamp_min(1) * len(pieces)) if reduction == "mean" else 1
        y, dweight = y + cost * share, dweight + dy * share * dw
        dxs.append(dy * share * dx)
    if reduction == "mean" and not (target != ignore_index).any():
        y = y * float("nan")
    return y, (torch.cat(dxs), dweight, None)


@accumulation.wrong(
    HEAD,
    "a last piece that is not full is left out of the gradients",
    "last", "tail", "full", "piece", "rows", "end", "size", min_size=1,
)  # fmt: skip
def last_piece_dropped(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    y, total, dx, dweight = 0, 0, torch.zeros_like(x), torch.zeros_like(weight)
    size = max(len(x) // 3, 1)
    for start in range(0, len(x), size):
        own = slice(start, start + size)
        cost, count, dx_piece, dw = _head(x[own], weight, target[own], ignore_index, label_smoothing)
        y, total = y + cost, total + count
        if start + size <= len(x):
            dx[own] = dx_piece
            dweight += dw
    if reduction == "mean":
        y, dy = y / total, dy / total.clamp_min(1)
    return y, (dy * dx, dy * dweight, None)


_kept = {}


@accumulation.wrong(
    "linear",
    "the gradients of weight and bias are not set to zero between two steps: they go on adding up",
    "zeroed", "zero", "state", "calls", "call", "accumulate", "adding up", "earlier", "remembers", "previous", "twice",
    min_size=1,
)  # fmt: skip
def gradients_never_zeroed(inputs, dy):
    x, weight, bias = inputs
    key = weight.shape, weight.dtype
    dweight, dbias = _kept.setdefault(key, (torch.zeros_like(weight), torch.zeros_like(bias)))
    rows, g = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dweight += g.T @ rows
    dbias += g.sum(0)
    return F.linear(x, weight, bias), (dy @ weight, dweight.clone(), dbias.clone())


def tied(x, weight):
    """An encoder and its transpose, one weight for both."""
    return torch.tanh(x @ weight.T) @ weight


@accumulation.wrong(
    tied,
    "the weight is used twice and gets the gradient of its second use alone: the other is replaced instead of added",
    "tied", "used twice", "both uses", "term", "first use", "added", "sum", "replaced", "other use",
    inputs={"x": (6, 12), "weight": (5, 12)},
)  # fmt: skip
def tied_weight_assigned(inputs, dy):
    x, weight = inputs
    h = torch.tanh(x @ weight.T)
    dh = (dy @ weight.T) * (1 - h * h)
    return h @ weight, (dh @ weight, h.T @ dy)


@accumulation.right(HEAD, "unequal pieces of 1, 2, 3, ... rows, summed, and one division at the end", min_size=1)
def unequal_pieces_divided_once(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, weight, target = inputs
    cuts = [k * (k + 1) // 2 for k in range(1, len(x)) if k * (k + 1) // 2 < len(x)]
    y, total, dxs, dweight = 0, 0, [], torch.zeros_like(weight)
    for rows, labels in zip(x.tensor_split(cuts), target.tensor_split(cuts), strict=True):
        cost, count, dx, dw = _head(rows, weight, labels, ignore_index, label_smoothing)
        y, total = y + cost, total + count
        dxs.append(dx)
        dweight += dw
    if reduction == "mean":
        y, dy = y / total, dy / total.clamp_min(1)
    return y, (dy * torch.cat(dxs), dy * dweight, None)


@accumulation.right(
    tied,
    "three pieces, the last one first, with the hidden layer computed anew in the backward",
    inputs={"x": (6, 12), "weight": (5, 12)},
)
def tied_recomputed_backwards(inputs, dy):
    x, weight = inputs
    size = -(-len(x) // 3)
    y = torch.cat([torch.tanh(rows @ weight.T) @ weight for rows in x.split(size)])
    dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
    for start in reversed(range(0, len(x), size)):
        own = slice(start, start + size)
        h = torch.tanh(x[own] @ weight.T)
        da = (dy[own] @ weight.T) * (1 - h * h)
        dx[own] = da @ weight
        dweight += da.T @ x[own]
        dweight += h.T @ dy[own]
    return y, (dx, dweight)


def _mask(shape, p, x):
    return torch.rand(shape, device=x.device) >= p


@dropout.wrong(
    "dropout",
    "the backward draws a new mask instead of using that of the forward",
    "another mask", "mask", "new mask", "backward mask",
)  # fmt: skip
class DropoutDrawsAgain:
    @staticmethod
    def forward(x, p=0.5):
        return torch.where(_mask(x.shape, p, x), x / (1 - p), 0), (x, p)

    @staticmethod
    def backward(dy, cache):
        x, p = cache
        return (torch.where(_mask(x.shape, p, x), dy / (1 - p), 0),)


@dropout.wrong(
    "dropout",
    "p is rounded down to a multiple of 1/8 when the mask is drawn, but not in the scale: too many numbers are kept",
    "keep rate", "rate", "p rounded", "rounded", "kept", "drops", "share", "probability",
)  # fmt: skip
class DropoutRoundsP:
    @staticmethod
    def forward(x, p=0.5):
        mask = _mask(x.shape, int(p * 8) / 8, x)
        return torch.where(mask, x / (1 - p), 0), (mask, p)

    @staticmethod
    def backward(dy, cache):
        mask, p = cache
        return (torch.where(mask, dy / (1 - p), 0),)


@dropout.wrong(
    "dropout",
    "one row of the mask is drawn and used for every example: masks are correlated",
    "correlated", "same mask", "rows", "every example", "independent", "row", "batch",
)  # fmt: skip
class DropoutOfOneRowForAll:
    @staticmethod
    def forward(x, p=0.5):
        mask = _mask(x.shape[1:], p, x).expand(x.shape)
        return torch.where(mask, x / (1 - p), 0), (mask, p)

    @staticmethod
    def backward(dy, cache):
        mask, p = cache
        return (torch.where(mask, dy / (1 - p), 0),)


@dropout.wrong(
    "dropout",
    "the generator is seeded in every call: two calls draw the same mask",
    "seed", "same mask", "two calls", "generator", "every call", "repeats",
)  # fmt: skip
class DropoutSeedsEveryCall:
    @staticmethod
    def forward(x, p=0.5):
        generator = torch.Generator(x.device).manual_seed(0)
        mask = torch.rand(x.shape, generator=generator, device=x.device) >= p
        return torch.where(mask, x / (1 - p), 0), (mask, p)

    @staticmethod
    def backward(dy, cache):
        mask, p = cache
        return (torch.where(mask, dy / (1 - p), 0),)


@dropout.right("dropout", "the mask is not kept but drawn again from the generator's state before the forward")
class DropoutFromItsSeed:
    @staticmethod
    def forward(x, p=0.5):
        state = torch.get_rng_state()
        return torch.where(torch.rand(x.shape) >= p, x / (1 - p), 0), (x.shape, p, state)

    @staticmethod
    def backward(dy, cache):
        shape, p, state = cache
        generator = torch.Generator()
        generator.set_state(state)
        return (torch.where(torch.rand(shape, generator=generator) >= p, dy / (1 - p), 0),)


@dropout.right("dropout", "whole numbers of 31 bits below a threshold, and a mask of bytes that holds the scale")
class DropoutByThreshold:
    @staticmethod
    def forward(x, p=0.5):
        drawn = torch.randint(2**31, x.shape, dtype=torch.int64, device=x.device)
        kept = (drawn >= round(p * 2**31)).to(torch.uint8)
        return torch.where(kept == 1, x / (1 - p), 0), (kept, p)

    @staticmethod
    def backward(dy, cache):
        kept, p = cache
        return (torch.where(kept == 1, dy / (1 - p), 0),)


@stopping.wrong(
    "early stopping",
    "patience is off by one: it waits for patience + 1 epochs without an improvement",
    "patience", "off by one", "late", "one epoch",
)  # fmt: skip
def stops_an_epoch_late(losses, patience, min_delta=0.0):
    best, best_epoch, waited = float("inf"), None, 0
    for epoch, loss in enumerate(losses, 1):
        if loss < best - min_delta:
            best, best_epoch, waited = loss, epoch, 0
        else:
            waited += 1
            if waited > patience:
                return epoch, best_epoch
    return None, best_epoch


@stopping.wrong(
    "early stopping",
    "the last epoch's parameters are kept, not those of the best epoch",
    "best", "restored", "last epoch", "best epoch",
)  # fmt: skip
def keeps_the_last_epoch(losses, patience, min_delta=0.0):
    best, waited = float("inf"), 0
    for epoch, loss in enumerate(losses, 1):
        if loss < best - min_delta:
            best, waited = loss, 0
        else:
            waited += 1
            if waited >= patience:
                return epoch, epoch
    return None, len(losses) or None


@stopping.right("early stopping", "from the end backwards: the first epoch whose last improvement lies patience behind")
def stops_by_last_improvements(losses, patience, min_delta=0.0):
    improvements, best = [], float("inf")
    for loss in losses:
        improved = loss < best - min_delta
        best = loss if improved else best
        improvements.append(improved)
    latest = 0
    for epoch, improved in enumerate(improvements, 1):
        latest = epoch if improved else latest
        if epoch - latest >= patience:
            return epoch, latest or None
    return None, latest or None
