"""Training loops that go wrong in some steps, by a number, or in how pieces of a batch are put together.

Labels are as in `engines`.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR

from manual_bp.training import sgd
from tests.own_bank.loop import ADAM, ADAMW, CLIPPED, KINDS, MOMENTUM, ONE, WARM, Bank, Loop, Masked

BANK = Bank()
WRONG, RIGHT, wrong, right = BANK.WRONG, BANK.RIGHT, BANK.wrong, BANK.right


class Parts(Loop):
    """`change` is done to the gradients that are shown before they go into the update."""

    def change(self, params):
        pass

    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        self.change(list(self.module.parameters()))
        self.optimizer.step()
        return loss


def changing(change):
    return type("Changes", (Parts,), {"change": lambda self, params: change(params)})


# --------------------------------------------------------------------------------------------------------------- pieces


class Pieces(Loop):
    """Micro-batches, each divided by their number; `behind` is done behind each, `before` before each."""

    size = 2

    def before(self):
        pass

    def behind(self, x):
        pass

    def end(self):
        self.keep()
        self.optimizer.step()

    def train(self, x, target):
        self.optimizer.zero_grad()
        pieces = list(zip(x.split(self.size), target.split(self.size), strict=True))
        total = 0.0
        for part, labels in pieces:
            self.before()
            loss = self.cost(part, labels) / len(pieces)
            loss.backward()
            total = total + loss.detach()
            self.behind(part)
        self.end()
        return total


@wrong("clipped in the loop over the pieces", "clipped behind each of the 4 pieces of 2", **CLIPPED)
class ClippedSoFar(Pieces):
    def behind(self, x):
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)


@wrong("each piece is clipped", "each of the 4 pieces of 2 is clipped by itself", **CLIPPED)
class ClippedAlone(Pieces):
    def before(self):
        """What has been added up so far is kept elsewhere."""
        self.total = [0 if p.grad is None else p.grad for p in self.module.parameters()]
        self.optimizer.zero_grad()

    def behind(self, x):
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        for p, t in zip(self.module.parameters(), self.total, strict=True):
            p.grad = p.grad + t


@wrong("zero_grad in the loop over the pieces", "the last 2 of the 8 examples", "divided by 4", **MOMENTUM)
class ZeroedInside(Pieces):
    def before(self):
        self.optimizer.zero_grad()


wrong(
    "zero_grad in the loop, and the penalty with it",
    "the last 2 of the 8 examples",
    "the penalty too",
    l2=0.05,
    optimizer=sgd(0.05),
)(
    type(
        "Penalised",
        (ZeroedInside,),
        {
            "cost": lambda self, x, target: (
                Loop.cost(self, x, target)
                + 0.025 * sum(p.square().sum() for p in self.module.parameters() if p.ndim > 1)
            )
        },
    )
)


@wrong("a step for each piece", "a step for each of the 4 pieces of 2", **ADAM)
class StepsEach(Pieces):
    def before(self):
        self.optimizer.zero_grad()

    def behind(self, x):
        self.keep()
        self.optimizer.step()

    def end(self):
        pass


# ----------------------------------------------------------------------------------------------------- some steps alone


@wrong("the optimiser is built anew at each epoch", "lost", "anew in step 3 alone", **ADAM)
class BuiltAnew(Loop):
    def train(self, x, target):
        if self.made and self.made % 2 == 0:
            self.optimizer = self.optim(list(self.module.parameters()))
        return super().train(x, target)


@wrong("the state of a layer is lost", "lost", "step 3 alone, of W1 and b1", **MOMENTUM)
class LayerLost(Loop):
    def train(self, x, target):
        if self.made == 2:
            for p in list(self.module.parameters())[:2]:
                self.optimizer.state.pop(p, None)
        return super().train(x, target)


@wrong("a step is left out", "no update is made in step 3 alone", **MOMENTUM)
class LeftOut(Parts):
    def change(self, params):
        if self.made == 2:
            for p in params:
                p.grad = None


@wrong("layers are trained in turn", "no update is made of some parameters in some steps", **ONE)
class InTurn(Parts):
    def change(self, params):
        for k, p in enumerate(params):
            p.grad = p.grad if k // 2 == self.made % 3 else None


@wrong("gradients are two steps late", "gradients of 2 steps before", **ADAM)
class Late(Parts):
    def begin(self):
        self.queue = []

    def change(self, params):
        self.queue = [*self.queue, [p.grad.clone() for p in params]][-3:]
        for p, g in zip(params, self.queue[0], strict=True):
            p.grad = g


# -------------------------------------------------------------------------------------------------------------- numbers


wrong("clipped, and nobody said so", "all together to a norm of 0.2", "clip_norm=0.2", **ADAMW)(
    changing(lambda params: nn.utils.clip_grad_norm_(params, 0.2))
)
wrong("clipped by value, and nobody said so", "±0.03", **MOMENTUM)(
    changing(lambda params: nn.utils.clip_grad_value_(params, 0.03))
)


@wrong(
    "StepLR's gamma",
    "learning rate is 0.01, 0.001, 0.0001",
    "0.01, 0.005, 0.0025 is due",
    l2=0.0,
    optimizer=ADAM["optimizer"],
    schedule=lambda made: 0.5**made,
)
class Gamma(Loop):
    def begin(self):
        self.scheduler = StepLR(self.optimizer, 1, 0.1)

    def train(self, x, target):
        loss = super().train(x, target)
        self.scheduler.step()
        return loss


@wrong("the first group alone is scheduled", "schedule of the learning rate is left out; of b1", **WARM)
class FirstGroup(Loop):
    def optim(self, params):
        groups = [{"params": [p for p in params if (p.ndim > 1) == is_weight]} for is_weight in (True, False)]
        return KINDS[self.own.name](groups, **self.own.config)

    def train(self, x, target):
        self.optimizer.param_groups[0]["lr"] = self.own.config["lr"] * min((self.made + 1) / 4, 1)
        return super().train(x, target)


class WrittenBack(Loop):
    """An average of the weights, in place of these."""

    def begin(self):
        self.average = None

    def train(self, x, target):
        params = list(self.module.parameters())
        self.average = self.average or [p.detach().clone() for p in params]
        loss = super().train(x, target)
        with torch.no_grad():
            self.put(params)
        return loss


@wrong("the average is written back", "average of themselves over the steps, of decay 0.9", **ADAM)
class Ema(WrittenBack):
    def put(self, params):
        for a, p in zip(self.average, params, strict=True):
            p.copy_(a.lerp_(p, 0.1))


@wrong("Lookahead that nobody asked for", "set back, to 0.5 of their way", **ONE)
class Lookahead(WrittenBack):
    def put(self, params):
        if self.made % 2:
            for a, p in zip(self.average, params, strict=True):
                p.copy_(a.lerp_(p, 0.5))


@wrong("t counts micro-steps", "t is counted 4 times in each step", **ADAM)
class CountsPieces(Loop):
    def train(self, x, target):
        for state in self.optimizer.state.values():
            state["step"] += 3
        return super().train(x, target)


wrong("L2 that nobody declared", "penalty (l2) is 0.02, where none is due", "declare it: l2=0.02", **ONE)(
    type(
        "Penalised",
        (Loop,),
        {
            "cost": lambda self, x, t: (
                Loop.cost(self, x, t) + 0.01 * sum(p.square().sum() for p in self.module.parameters() if p.ndim > 1)
            )
        },
    )
)
wrong("a weight decay that nobody declared", "weight_decay is 0.03, where 0.0 is due", **MOMENTUM)(
    type("Decays", (Loop,), {"optim": lambda self, p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.03)})
)
wrong("a temperature", "multiplied before the loss is 0.5", **ONE)(
    type("Warm", (Loop,), {"cost": lambda self, x, t: F.cross_entropy(self.module(x) / 2, t)})
)
wrong(
    "labels are not smoothed",
    "label_smoothing of the loss is 0.0, where 0.07 is due",
    **ONE,
    loss="softmax_cross_entropy",
    loss_hyper={"label_smoothing": 0.07},
)(Loop)


@wrong(
    "running statistics are slow", "running statistics go 0.1 of the way", "momentum is 0.01", model="residual", **ONE
)
class Slow(Masked):
    def begin(self):
        super().begin()
        for block in (self.module[1], self.module[2]):
            block.norm.momentum = 0.01


# ------------------------------------------------------------------------------------------------------------ gradients


@wrong("clipped by the sum of norms", "sum of the tensors' norms", **CLIPPED)
class SumOfNorms(Parts):
    def change(self, params):
        by = min(1.0, self.clip_norm / float(sum(p.grad.norm() for p in params)))
        for p in params:
            p.grad.mul_(by)


wrong("centred", "centred", **MOMENTUM)(
    changing(lambda params: [p.grad.sub_(p.grad.mean(1, keepdim=True)) for p in params if p.ndim > 1])
)
wrong("signs", "the signs of the gradients", **ONE)(changing(lambda params: [p.grad.sign_() for p in params]))
wrong("noise", "drawn by chance", "noise on gradients", **ONE)(
    changing(lambda params: [p.grad.add_(torch.randn_like(p), alpha=0.01) for p in params])
)


# ---------------------------------------------------------------------------------------------------------------- right


class Masters(Loop):
    """The optimiser has copies in float64."""

    def optim(self, params):
        self.masters = [p.detach().double().requires_grad_() for p in params]
        return super().optim(self.masters)

    def train(self, x, target):
        self.module.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        pairs = list(zip(self.masters, self.module.parameters(), strict=True))
        with torch.no_grad():
            for master, p in pairs:
                master.copy_(p)
                master.grad = p.grad.double()
            self.optimizer.step()
            for master, p in pairs:
                p.copy_(master)
        return loss


class Saved(Loop):
    """The optimiser is made anew in each step, with its state."""

    def train(self, x, target):
        saved = copy.deepcopy(self.optimizer.state_dict())
        self.optimizer = self.optim(list(self.module.parameters()))
        self.optimizer.load_state_dict(saved)
        return super().train(x, target)


class Each(Loop):
    """An optimiser for each parameter."""

    def optim(self, params):
        self.each = [KINDS[self.own.name]([p], **self.own.config) for p in params]

    def train(self, x, target):
        self.module.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        for optimizer in self.each:
            optimizer.step()
        return loss


right("masters in float64", **ADAM)(Masters)
right("saved and loaded in each step", **ADAMW)(Saved)
right("an optimiser for each parameter", **ADAMW)(Each)
right("maximises the negative", **ADAM)(
    type(
        "Maximises",
        (Parts,),
        {
            "optim": lambda self, params: torch.optim.Adam(params, 0.01, maximize=True),
            "change": lambda self, params: [p.grad.neg_() for p in params],
        },
    )
)
right("a scheduler that is declared", **{**ADAM, "schedule": lambda made: 0.1**made})(Gamma)


@right("pieces that are clipped together", **CLIPPED)
class Together(Pieces):
    def end(self):
        self.keep()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
