"""Optimisers as strangers write them: labelled before any of them was judged."""

from __future__ import annotations

import torch

from manual_bp.oracle.optimizers import of_optimizer
from tests.oracle.update_bank.entry import OPTIMIZER, Program


class Plain(torch.optim.Optimizer):
    """Adam, from which the others differ."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    s = self.state[p]
                    if not s:
                        s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                    s["t"] += 1
                    self.one(p, p.grad + group["weight_decay"] * p, s, group)

    def one(self, p, g, s, group):
        b1, b2 = self.betas(group)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        m, v = s["m"] / (1 - b1 ** s["t"]), s["v"] / (1 - b2 ** s["t"])
        p.sub_(group["lr"] * m / (v.sqrt() + self.eps(group)))

    def betas(self, group):
        return group["betas"]

    def eps(self, group):
        return group["eps"]


class BetasAsUsual(Plain):
    def betas(self, group):
        return 0.9, 0.999


class EpsAsUsual(Plain):
    def eps(self, group):
        return 1e-8


class MomentBegunWithGradient(Plain):
    def one(self, p, g, s, group):
        if s["t"] == 1:
            s["m"].copy_(g)
        super().one(p, g, s, group)


def optimizer(name, against, make, words="", **options):
    return Program(name, against, make, OPTIMIZER, "wrong" if words else "right", words, options=options)


PROGRAMS = [
    optimizer("stranger: NAdam", "adam_update", lambda: torch.optim.NAdam, "NAdam"),
    optimizer("stranger: RMSprop", "adam_update", lambda: torch.optim.RMSprop, "rmsprop"),
    optimizer("stranger: SGD for AdamW", "adamw_update", lambda: torch.optim.SGD, "sgd"),
    optimizer("stranger: betas as usual", "adam_update", lambda: BetasAsUsual, "betas is ignored"),
    optimizer("stranger: eps as usual", "adam_update", lambda: EpsAsUsual, "eps is ignored"),
    optimizer("stranger: m begun with g", "adam_update", lambda: MomentBegunWithGradient, "begun with the gradient"),
    optimizer("stranger: plain", "adam_update", lambda: Plain),
    optimizer("stranger: differentiable", "adam_update", lambda: of_optimizer(torch.optim.Adam, differentiable=True)),
]
