"""Dropouts that draw their own mask: a label is words of which the first diagnosis must hold one of each group."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def torchs(inputs, dy, p):
    (x,) = inputs
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = F.dropout(x, p)
        (dx,) = torch.autograd.grad(y, x, dy)
    return y.detach(), (dx,)


def seeded(inputs, dy, p, seed):
    (x,) = inputs
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator) >= p
    return _of(x, dy, kept, p)


def numpys(inputs, dy, p):
    (x,) = inputs
    kept = torch.from_numpy(np.random.random(tuple(x.shape)) >= p)  # noqa: NPY002 - what people write
    return _of(x, dy, kept, p)


_STREAM = torch.Generator().manual_seed(0)


def own_stream(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, torch.rand(x.shape, generator=_STREAM) >= p, p)


def multiplied(inputs, dy, p):
    (x,) = inputs
    scale = (torch.rand(x.shape) >= p).to(x.dtype) * (1 / (1 - p) if p < 1 else 0.0)
    return x * scale, (dy * scale,)


def mask_too(inputs, dy, p):
    """It also returns None for the mask that a page has."""
    y, (dx,) = torchs(inputs, dy, p)
    return y, (dx, None)


def bits32(inputs, dy, p):
    (x,) = inputs
    drawn = torch.randint(2**32, x.shape)
    return _of(x, dy, drawn >= round(p * 2**32), p)


def _of(x, dy, kept, p, scale=None, back=None, back_scale=None):
    scale = scale if scale is not None else (1 / (1 - p) if p < 1 else 0.0)
    back = kept if back is None else back
    back_scale = scale if back_scale is None else back_scale
    return torch.where(kept, x * scale, 0), (torch.where(back, dy * back_scale, 0),)


def _rand(x):
    return torch.rand(x.shape)


def backward_draws_again(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) >= p, p, back=_rand(x) >= p)


def backward_of_the_call_before(inputs, dy, p):
    (x,) = inputs
    kept = _rand(x) >= p
    before, backward_of_the_call_before.kept = getattr(backward_of_the_call_before, "kept", None), kept
    return _of(x, dy, kept, p, back=before if before is not None and before.shape == kept.shape else kept)


def backward_keeps_all(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) >= p, p, back=torch.ones(x.shape, dtype=torch.bool))


def eight_bits(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, torch.randint(256, x.shape) >= round(256 * p), p)


def seven_bits_down(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, torch.randint(128, x.shape) >= int(128 * p), p)


def percents(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, torch.randint(100, x.shape) >= round(100 * p), p)


def keeps_with_p(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) < p, p)


def unscaled(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) >= p, p, scale=1.0)


def scaled_by_p(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) >= p, p, scale=1 / p if p else 1.0)


def scaled_by_keep(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) >= p, p, scale=1 - p)


def scaled_by_the_kept(inputs, dy, p):
    """By how many were kept, and not by how many are due."""
    (x,) = inputs
    kept = _rand(x) >= p
    return _of(x, dy, kept, p, scale=float(kept.numel() / max(int(kept.sum()), 1)))


def forward_alone_scaled(inputs, dy, p):
    (x,) = inputs
    return _of(x, dy, _rand(x) >= p, p, back_scale=1.0)


def rows_alike(inputs, dy, p):
    (x,) = inputs
    kept = torch.rand(x.shape[1:]) >= p
    return _of(x, dy, kept.expand(x.shape), p)


def channels_alike(inputs, dy, p):
    (x,) = inputs
    kept = torch.rand((*x.shape[:-1], 1)) >= p if x.ndim else _rand(x) >= p
    return _of(x, dy, kept.expand(x.shape), p)


def pairs_alike(inputs, dy, p):
    """Four lanes get two random numbers."""
    (x,) = inputs
    n = x.numel()
    kept = (torch.rand((n + 1) // 2) >= p).repeat_interleave(2)[:n].reshape(x.shape)
    return _of(x, dy, kept, p)


def blocks_alike(inputs, dy, p):
    """The generator begins anew in every block of 1024."""
    (x,) = inputs
    n = x.numel()
    kept = (torch.rand(min(n, 1024)) >= p).repeat(-(-n // 1024))[:n].reshape(x.shape)
    return _of(x, dy, kept, p)


def calls_alike(inputs, dy, p):
    (x,) = inputs
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) >= p
    return _of(x, dy, kept, p)


def every_other_call(inputs, dy, p):
    (x,) = inputs
    calls = every_other_call.calls = getattr(every_other_call, "calls", -1) + 1
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(calls // 2)) >= p
    return _of(x, dy, kept, p)


def exact_number(inputs, dy, p):
    """Drops exactly p of all elements: they are not independent."""
    (x,) = inputs
    n = x.numel()
    kept = torch.ones(n, dtype=torch.bool)
    kept[torch.randperm(n)[: round(p * n)]] = False
    return _of(x, dy, kept.reshape(x.shape), p)


def striped(inputs, dy, p):
    """A lattice: every 1/p-th element, from a random beginning."""
    (x,) = inputs
    place = (torch.arange(x.numel()) + int(torch.randint(1000, ()))) * p
    kept = (place + p).floor() == place.floor()
    return _of(x, dy, kept.reshape(x.shape), p)


def seed_ignored(inputs, dy, p, seed):
    (x,) = inputs
    return _of(x, dy, torch.rand(x.shape) >= p, p)


def one_seed(inputs, dy, p, seed):
    (x,) = inputs
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) >= p
    return _of(x, dy, kept, p)


def seeds_shifted(inputs, dy, p, seed):
    """Element i of seed s is element i + 1 of seed s − 1."""
    (x,) = inputs
    stream = torch.rand(x.numel() + 64, generator=torch.Generator().manual_seed(7))
    kept = stream[seed % 64 : seed % 64 + x.numel()].reshape(x.shape) >= p
    return _of(x, dy, kept, p)


def nan_at_one(inputs, dy, p):
    """0 times infinity where everything is dropped."""
    (x,) = inputs
    scale = (_rand(x) >= p).to(x.dtype) / torch.tensor(1 - p, dtype=x.dtype)
    return x * scale, (dy * scale,)


def evaluates(inputs, dy, p):
    (x,) = inputs
    return x.clone(), (dy.clone(),)


def noise(inputs, dy, p):
    """Gaussian noise, and nothing dropped."""
    (x,) = inputs
    scale = 1 + torch.randn(x.shape, dtype=x.dtype) * (p / (1 - p) if p < 1 else 0) ** 0.5
    return x * scale, (dy * scale,)


RIGHT = {f.__name__: f for f in (torchs, seeded, numpys, own_stream, multiplied, mask_too, bits32)}
RIGHT.pop("multiplied")  # 0 · x is −0, and 0 · inf NaN: with finite numbers it is right
RIGHT["multiplied"] = multiplied

WRONG = {
    backward_draws_again: ("backward", "another mask"),
    backward_of_the_call_before: ("backward", "another mask"),
    backward_keeps_all: ("mask forgotten|another mask|no mask",),
    eight_bits: ("1/256",),
    seven_bits_down: ("1/128",),
    percents: ("1/100",),
    keeps_with_p: ("keeps|kept", "probability to drop"),
    unscaled: ("scale", "missing|not scaled|1/(1 − p)"),
    scaled_by_p: ("1/p",),
    scaled_by_keep: ("1 − p",),
    scaled_by_the_kept: ("scale", "kept"),
    forward_alone_scaled: ("scale forgotten|1/(1 − p)",),
    rows_alike: ("rows",),
    channels_alike: ("neighbours|elements of a row|channels|along the last axis",),
    pairs_alike: ("neighbours|pairs|1 apart",),
    blocks_alike: ("1024",),
    calls_alike: ("calls",),
    every_other_call: ("calls",),
    exact_number: ("exactly|number",),
    striped: ("apart|neighbours|pattern",),
    seed_ignored: ("seed",),
    one_seed: ("seeds",),
    seeds_shifted: ("seed", "shift"),
    nan_at_one: ("p = 1", "NaN|nan"),
    evaluates: ("nothing is dropped|drops nothing",),
    noise: ("nothing is dropped|drops nothing|no mask",),
}
