"""y = x / (1 − p) where kept, 0 where dropped."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("dropout")


def dropped(x, mask, p):
    return torch.where(mask.bool(), x / (1 - p), 0) if p < 1 else torch.zeros_like(x)


@bank.right()
def twice_the_same(x, mask, dy, p):
    return dropped(x, mask, p), dropped(dy, mask, p), None


@bank.right("numpy")
def textbook(x, mask, dy, p):
    if p == 1:
        return np.zeros_like(x), np.zeros_like(dy), None
    kept = mask.astype(bool)
    return np.where(kept, x / (1 - p), 0), np.where(kept, dy / (1 - p), 0), None


@bank.right()
def in_place(x, mask, dy, p):
    gone = ~mask.bool() | (p == 1)
    y, dx = x.clone(), dy.clone()
    for each in (y, dx):
        each[gone] = 0
        each /= max(1 - p, 1e-9)
    return y, dx, None


@bank.right()
def scale_multiplied(x, mask, dy, p):
    scale = 1 / (1 - p) if p < 1 else 0.0
    kept = mask.bool()
    wide = torch.where(kept, dy.double(), 0) * scale if p < 1 else torch.zeros_like(dy)
    y = torch.where(kept, x.double(), 0) * scale if p < 1 else torch.zeros_like(x)
    return y.to(x.dtype), wide.to(x.dtype), None


@bank.wrong("scale", r"scale forgotten|1-p|1 − p")
def scale_forgotten(x, mask, dy, p):
    return dropped(x, mask, p), torch.where(mask.bool(), dy, 0), None


@bank.wrong("scale", r"scaled twice|1/\(1-p\)", "numpy")
def scaled_twice(x, mask, dy, p):
    kept = mask.astype(bool)
    scale = 1 / (1 - p) if p < 1 else 0.0
    y = np.where(kept, x * scale, 0) if p < 1 else np.zeros_like(x)
    return y, np.where(kept, dy * scale * scale, 0), None


@bank.wrong("scale", r"1-p|1 − p|\(1-p\)²")
def multiplied_by_the_keep_probability(x, mask, dy, p):
    return dropped(x, mask, p), torch.where(mask.bool(), dy * (1 - p), 0), None


@bank.wrong("drop", r"mask forgotten|mask.*ignored|dropped")
def mask_not_applied(x, mask, dy, p):
    return dropped(x, mask, p), dy / (1 - p) if p < 1 else torch.zeros_like(dy), None


@bank.wrong("drop", r"identity", "numpy")
def inference_in_backward(x, mask, dy, p):
    y = np.where(mask.astype(bool), x / (1 - p), 0) if p < 1 else np.zeros_like(x)
    return y, dy.copy(), None


@bank.wrong("branch", r"complement")
def complement(x, mask, dy, p):
    return dropped(x, mask, p), dropped(dy, 1 - mask.to(x.dtype), p), None


@bank.wrong("formula", r"p for 1 − p|p for 1 - p|1/p|\(1-p\)/p")
def divided_by_p(x, mask, dy, p):
    return dropped(x, mask, p), torch.where(mask.bool(), dy / p, 0) if p > 0 else torch.zeros_like(dy), None


@bank.wrong("hyperparameter", r"p is ignored|p=0\.5|\bp\b")
def half_always(x, mask, dy, p):
    return dropped(x, mask, p), torch.where(mask.bool(), 2 * dy, 0), None


@bank.wrong("flip", r"wrong sign")
def minus(x, mask, dy, p):
    return dropped(x, mask, p), dropped(-dy, mask, p), None


@bank.wrong("cotangent", r"for ones|taken for 1|`dy` left out|forgets dy|dropped")
def mask_alone(x, mask, dy, p):
    return dropped(x, mask, p), dropped(torch.ones_like(dy), mask, p), None


@bank.wrong("formula", r"dy·x|times x|\bx\b|\by\b")
def times_the_output(x, mask, dy, p):
    y = dropped(x, mask, p)
    return y, dy * y, None


@bank.wrong("scale", r"1-p|1 − p")
def scaled_by_what_was_kept(x, mask, dy, p):
    kept = mask.bool()
    return dropped(x, mask, p), torch.where(kept, dy, 0) * (1 + p), None


@bank.wrong("formula", r"√|sqrt|root")
def root_of_the_scale(x, mask, dy, p):
    return dropped(x, mask, p), torch.where(mask.bool(), dy / (1 - p) ** 0.5, 0) if p < 1 else 0 * dy, None


@bank.wrong("order", r"fresh mask|another mask|shifted|other mask|mask")
def drawn_again(x, mask, dy, p):
    again = mask.reshape(-1).roll(1).reshape(mask.shape)
    return dropped(x, mask, p), dropped(dy, again, p), None


@bank.wrong("branch", r"x = 0|ratio|x is 0", "numpy")
def mask_from_the_ratio(x, mask, dy, p):
    y = np.where(mask.astype(bool), x / (1 - p), 0) if p < 1 else np.zeros_like(x)
    return y, np.where(x == 0, dy, dy * y / np.where(x == 0, 1, x)), None


@bank.wrong("scale", r"2 times")
def accumulated_twice(x, mask, dy, p):
    dx = dropped(dy, mask, p)
    return dropped(x, mask, p), dx + dx, None
