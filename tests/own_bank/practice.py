"""Early stopping, over-fitting and augmentation of one's own.

early stopping: (losses, patience, min_delta) -> (epochs that were run, epoch whose parameters are kept, from 1, or
None).  over-fitting: (training, validation) -> (found, epoch of the turn from 1).  augmentation: (images, labels, seed)
-> (images, labels).
"""

from __future__ import annotations

import itertools
import math

import torch


def _stopping(
    better=lambda loss, best, delta: loss < best - delta,
    more=0,
    last=False,
    resets=True,
    zero_based=False,
    against_previous=False,
    nan_stops=False,
    forgets_best=False,
):
    def stop(losses, patience, min_delta=0.0):
        best, kept, waited, previous = math.inf, None, 0, math.inf
        for epoch, loss in enumerate(losses, 1):
            if better(loss, previous if against_previous else best, min_delta):
                best, kept = loss, epoch
                waited = 0 if resets else waited
            else:
                waited += 1
            previous = loss
            if (nan_stops and math.isnan(loss)) or waited >= patience + more:
                return epoch, (epoch if last else kept and kept - zero_based)
        return len(losses), (len(losses) if last else kept and kept - zero_based)

    return stop


STOPPING_RIGHT = {
    "plain": _stopping(),
    "by improvement": _stopping(lambda loss, best, delta: best - loss > delta),
}
STOPPING_WRONG = {
    "one more": (_stopping(more=1), "patience"),
    "one less": (_stopping(more=-1), "patience"),
    "last kept": (_stopping(last=True), "last|restored"),
    "as good is better": (_stopping(lambda loss, best, delta: loss <= best - delta), "as good|equal"),
    "min_delta ignored": (_stopping(lambda loss, best, delta: loss < best), "min_delta"),
    "min_delta added": (_stopping(lambda loss, best, delta: loss < best + delta), "min_delta"),
    "min_delta relative": (
        _stopping(lambda loss, best, delta: loss < best * (1 - delta) or best == math.inf),
        "min_delta",
    ),
    "never waits anew": (_stopping(resets=False), "waiting|anew|reset|total"),
    "counted from 0": (_stopping(zero_based=True), "from 0"),
    "against the epoch before": (_stopping(against_previous=True), "epoch before|previous"),
    "NaN is better": (_stopping(lambda loss, best, delta: not loss >= best - delta), "NaN"),
    "NaN stops": (_stopping(nan_stops=True), "NaN"),
    "higher is better": (
        _stopping(lambda loss, best, delta: loss > (-math.inf if best == math.inf else best) + delta),
        "higher|larger",
    ),
}


def _lowest(validation):
    finite = [(v, i) for i, v in enumerate(validation, 1) if not math.isnan(v)]
    return min(finite)[1] if finite else None


def fitting_right(training, validation):
    """A straight rule: after the lowest validation loss it rises in the mean, while the training loss falls."""
    turn = _lowest(validation)
    after, falling = validation[turn - 1 :], training[turn - 1 :]
    if len(after) < 12:
        return False, turn
    half = len(after) // 2
    later, sooner = sum(after[-half:]) / half, sum(after[:half]) / half
    spread = max(abs(b - a) for a, b in itertools.pairwise(after))
    return later > sooner + spread / 4 and falling[-1] < 0.9 * falling[0], turn


FITTING_RIGHT = {"means of halves": fitting_right}
FITTING_WRONG = {
    "any rise": (lambda t, v: (v[-1] > min(v), _lowest(v)), "noise"),
    "a gap": (lambda t, v: (v[-1] > t[-1], _lowest(v)), "gap"),
    "training ignored": (
        lambda t, v: (fitting_right(list(range(len(t), 0, -1)), v)[0], _lowest(v)),
        "training",
    ),
    "from 0": (lambda t, v: (fitting_right(t, v)[0], _lowest(v) - 1), "from 0"),
    "never": (lambda t, v: (False, _lowest(v)), "never"),
    "turn of the training loss": (lambda t, v: (fitting_right(t, v)[0], _lowest(t)), "training"),
}


def _moved(x, down, right, fill=0.0):
    y = torch.full_like(x, fill)
    h, w = x.shape[-2:]
    rows, columns = torch.arange(h) - down, torch.arange(w) - right
    inside_r, inside_c = (rows >= 0) & (rows < h), (columns >= 0) & (columns < w)
    y[..., inside_r.nonzero()[:, 0][:, None], inside_c.nonzero()[:, 0]] = x[
        ..., rows[inside_r][:, None], columns[inside_c]
    ]
    return y


def _shifts(n, seed, pixels=1):
    return torch.randint(-pixels, pixels + 1, (n, 2), generator=torch.Generator().manual_seed(seed)).tolist()


def shift(images, labels, seed, shift=1):
    return torch.stack([_moved(x, *o) for x, o in zip(images, _shifts(len(images), seed, shift), strict=True)]), labels


def shift_wraps(images, labels, seed, shift=1):
    moved = [x.roll(o, (-2, -1)) for x, o in zip(images, _shifts(len(images), seed, shift), strict=True)]
    return torch.stack(moved), labels


def shift_alike(images, labels, seed, shift=1):
    (one,) = _shifts(1, seed, shift)
    return torch.stack([_moved(x, *one) for x in images]), labels


def shift_too_far(images, labels, seed, shift=1):
    return torch.stack(
        [_moved(x, *o) for x, o in zip(images, _shifts(len(images), seed, shift + 1), strict=True)]
    ), labels


def shift_edge(images, labels, seed, shift=1):
    """What enters repeats the edge."""
    out = []
    for x, (down, right) in zip(images, _shifts(len(images), seed, shift), strict=True):
        h, w = x.shape[-2:]
        out.append(x[..., (torch.arange(h) - down).clamp(0, h - 1)[:, None], (torch.arange(w) - right).clamp(0, w - 1)])
    return torch.stack(out), labels


def shift_never_back(images, labels, seed, shift=1):
    """Only down and to the right."""
    offsets = [(abs(a), abs(b)) for a, b in _shifts(len(images), seed, shift)]
    return torch.stack([_moved(x, *o) for x, o in zip(images, offsets, strict=True)]), labels


def shuffled(images, labels, seed, shift=1):
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return globals()["shift"](images[order], labels, seed, shift)[0], labels


def shuffled_right(images, labels, seed, shift=1):
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return globals()["shift"](images[order], labels[order], seed, shift)


def in_place(images, labels, seed, shift=1):
    images.copy_(globals()["shift"](images, labels, seed, shift)[0])
    return images, labels


def seed_ignored(images, labels, seed, shift=1):
    return globals()["shift"](images, labels, int(torch.randint(2**31, ())), shift)


def mask_stays(images, labels, seed, shift=1):
    """Labels of each pixel that are not moved."""
    return globals()["shift"](images, labels, seed, shift)[0], labels


def mask_moves(images, labels, seed, shift=1):
    moved = _shifts(len(images), seed, shift)
    return (
        torch.stack([_moved(x, *o) for x, o in zip(images, moved, strict=True)]),
        torch.stack([_moved(x, *o) for x, o in zip(labels, moved, strict=True)]),
    )


SWAP = torch.tensor([1, 0, 2])


def flip(images, labels, seed):
    chosen = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)) < 0.5
    turned = torch.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)
    return turned, torch.where(chosen, SWAP[labels], labels)


def flip_keeps_labels(images, labels, seed):
    return flip(images, labels, seed)[0], labels


def flip_upside_down(images, labels, seed):
    chosen = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)) < 0.5
    turned = torch.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), images.flip(-2), images)
    return turned, torch.where(chosen, SWAP[labels], labels)


def flip_always(images, labels, seed):
    return images.flip(-1), SWAP[labels]


AUGMENTING_RIGHT = {"shift": shift, "shuffled with labels": shuffled_right}
AUGMENTING_WRONG = {
    "wraps": (shift_wraps, "wraps round"),
    "alike": (shift_alike, "same|alike"),
    "too far": (shift_too_far, "2 pixels|further|too far"),
    "edge repeated": (shift_edge, "edge|enters"),
    "never back": (shift_never_back, "never|ever moved"),
    "shuffled": (shuffled, "label"),
    "in place": (in_place, "overwr|own images|in place"),
    "seed ignored": (seed_ignored, "seed"),
}
