"""A training loop as people write it: a plain torch module, an optimiser that keeps its state, one function `train`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from manual_bp.training import Schedule, adam, adamw, sgd
from manual_bp.training.engine import StepRecord
from tests.own_bank.engines import Engine

KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def small():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.act, self.drop = nn.ELU(), nn.Dropout(0.25)

    def forward(self, x):
        return x + self.drop(self.act(self.norm(self.linear(x))))


def deep():
    return nn.Sequential(nn.Linear(5, 6), Block(), Block(), nn.Linear(6, 3))


class Loop:
    """A loop: the module's numbers are set before each step, and its optimiser is its own."""

    build = staticmethod(small)
    schedule = None

    def __init__(self, name, *, optimizer, clip_norm=None, **options):
        torch.manual_seed(0)
        self.module, self.own, self.clip_norm, self.options = self.build(), optimizer, clip_norm, options
        self.optimizer = self.optim(list(self.module.parameters()))
        self.made = 0
        self.begin()

    def begin(self):
        pass

    def optim(self, params):
        return KINDS[self.own.name](params, **self.own.config)

    def step(self, state, x, target):
        params, buffers = list(self.module.parameters()), dict(self.module.named_buffers())
        floating = [b for b in buffers.values() if b.is_floating_point()]
        with torch.no_grad():
            for p, value in zip(params, state.params.values(), strict=True):
                p.copy_(value)
            for b, value in zip(floating, (b for b in state.buffers.values() if b.is_floating_point()), strict=False):
                b.copy_(value)
        self.state = state
        with torch.enable_grad():
            loss = self.train(x, target)
        self.made += 1
        gradients = dict(zip(state.params, (None if p.grad is None else p.grad.clone() for p in params), strict=True))
        running = [n for n, b in state.buffers.items() if b.is_floating_point()]
        shown = getattr(self, "shown", None) or gradients
        return StepRecord(
            loss.detach(),
            {},
            {n: g for n, g in shown.items() if g is not None},
            dict(zip(state.params, (p.detach().clone() for p in params), strict=True)),
            {n: b.detach().clone() for n, b in zip(running, floating, strict=False)},
            {},
        )

    def keep(self):
        """The gradients as they are now are those that are shown."""
        names = self.state.params
        params = zip(names, self.module.parameters(), strict=True)
        self.shown = {n: p.grad.clone() for n, p in params if p.grad is not None}

    def cost(self, x, target):
        return F.cross_entropy(self.module(x), target)

    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss


class Deep(Loop):
    build = staticmethod(deep)


class Masked(Deep):
    """Dropout by the state's masks."""

    def mask(self, name):
        return self.state.buffers[name]

    def begin(self):
        for number, block in enumerate((self.module[1], self.module[2]), 1):
            block.drop = Given(self, f"block{number}.dropout.mask")


class Given(nn.Module):
    def __init__(self, loop, name):
        super().__init__()
        self.loop, self.name = [loop], name

    def forward(self, x):
        return torch.where(self.loop[0].mask(self.name), x / 0.75, 0) if self.training else x


ONE = {"l2": 0.0, "optimizer": sgd(0.05)}
MOMENTUM = {"l2": 0.0, "optimizer": sgd(0.05, momentum=0.9)}
ADAM = {"l2": 0.0, "optimizer": adam(0.01)}
ADAMW = {"l2": 0.0, "optimizer": adamw(0.01, weight_decay=0.1)}
CLIPPED = {"l2": 0.0, "optimizer": sgd(0.05), "clip_norm": 0.05}
CLIPPED_ADAMW = {"l2": 0.0, "optimizer": adamw(0.01), "clip_norm": 0.05}
WARM = {"l2": 0.0, "optimizer": adamw(0.01), "schedule": Schedule(warmup=4)}


@dataclass
class Bank:
    """Loops by name: `wrong` and `right` put a class or a factory there; words and options are those of an Engine."""

    WRONG: dict[str, Engine] = field(default_factory=dict)
    RIGHT: dict[str, Engine] = field(default_factory=dict)

    def wrong(self, name, *words, model="mlp", **options):
        return self._put(self.WRONG, name, words, model, options)

    def right(self, name, model="mlp", **options):
        return self._put(self.RIGHT, name, (), model, options)

    @staticmethod
    def _put(where, name, words, model, options):
        def put(make):
            where[name] = Engine(make, words, model, options or ONE)
            return make

        return put
