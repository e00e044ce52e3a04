"""Training loops as strangers write them: plain torch modules, an optimiser that keeps its state, one function `train`.

Written before any of it was judged.  Each is wrong in one place, or right and unusual; labels are as in `engines`.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from manual_bp.training import adam, sgd
from tests.own_bank.loop import (
    ADAM,
    ADAMW,
    CLIPPED,
    CLIPPED_ADAMW,
    MOMENTUM,
    ONE,
    WARM,
    Bank,
    Deep,
    Loop,
    Masked,
    deep,
    small,
)
from torch_ref.training.modules import engine_of

BANK = Bank()
WRONG, RIGHT, wrong, right = BANK.WRONG, BANK.RIGHT, BANK.wrong, BANK.right


# ------------------------------------------------------------------------------------------------- optimiser and rates


@wrong("the scheduler steps before the optimiser", "update", "rate|schedule", "next", **WARM)
class SchedulerFirst(Loop):
    def begin(self):
        self.scheduler = LambdaLR(self.optimizer, lambda made: min((made + 1) / 4, 1))

    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.scheduler.step()
        self.optimizer.step()
        return loss


@wrong("the scheduler is stepped twice", "update", "rate|schedule", "twice", **WARM)
class SchedulerTwice(SchedulerFirst):
    def train(self, x, target):
        loss = Loop.train(self, x, target)
        self.scheduler.step()
        self.scheduler.step()
        return loss


@wrong("the warm-up begins at 0", "update", "rate|schedule|not moved", "before|from 0|not moved|late", **WARM)
class WarmupFromZero(Loop):
    def begin(self):
        self.scheduler = LambdaLR(self.optimizer, lambda made: min(made / 4, 1))

    def train(self, x, target):
        loss = super().train(x, target)
        self.scheduler.step()
        return loss


@wrong("nobody calls the scheduler", "update", "schedule", "left out|warm-up|never", **WARM)
class Unscheduled(Loop):
    pass


def with_optimizer(make, schedule=None):
    return type("WithOptimizer", (Loop,), {"optim": lambda self, params: make(params)})


wrong("betas of another paper", "update", "betas", "0.99", **ADAM)(
    with_optimizer(lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99)))
)
wrong("amsgrad is left on", "update", "amsgrad", l2=0.0, optimizer=adam(0.01, betas=(0.9, 0.5)))(
    with_optimizer(lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.5), amsgrad=True))
)
wrong("NAdam for Adam", "update", "nadam|Nadam|NAdam", **ADAM)(with_optimizer(lambda p: torch.optim.NAdam(p, lr=0.01)))
wrong("RMSprop for Adam", "update", "rmsprop|RMSprop", **ADAM)(
    with_optimizer(lambda p: torch.optim.RMSprop(p, lr=0.01))
)
wrong("SGD for AdamW", "update", "sgd|SGD", **ADAMW)(with_optimizer(lambda p: torch.optim.SGD(p, lr=0.01)))
wrong("Adagrad for SGD", "update", "adagrad|Adagrad", **ONE)(with_optimizer(lambda p: torch.optim.Adagrad(p, lr=0.05)))
wrong("momentum forgotten", "update", "momentum|state is lost", **MOMENTUM)(
    with_optimizer(lambda p: torch.optim.SGD(p, lr=0.05))
)
wrong("biases are not decayed", "update", "decay", "bias", **ADAMW)(
    with_optimizer(
        lambda p: torch.optim.AdamW(
            [
                {"params": [x for x in p if x.ndim > 1]},
                {"params": [x for x in p if x.ndim < 2], "weight_decay": 0.0},
            ],
            lr=0.01,
            weight_decay=0.1,
        )
    )
)
wrong("biases learn twice as fast", "update", "b1|bias", "rate|2 times|twice", **ONE)(
    with_optimizer(
        lambda p: torch.optim.SGD(
            [
                {"params": [x for x in p if x.ndim > 1]},
                {"params": [x for x in p if x.ndim < 2], "lr": 0.1},
            ],
            lr=0.05,
        )
    )
)


class HandAdam(torch.optim.Optimizer):
    """By hand, with t and buffers where subclasses want them."""

    def __init__(self, params, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.t = 0

    def count(self, p):
        self.state[p]["t"] = self.state[p].get("t", 0) + 1
        return self.state[p]["t"]

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, t = self.state[p], self.count(p)
                s["m"] = b1 * s.get("m", torch.zeros_like(p)) + (1 - b1) * p.grad
                s["v"] = b2 * s.get("v", torch.zeros_like(p)) + (1 - b2) * p.grad**2
                p.mul_(1 - group["lr"] * group["weight_decay"])
                self.move(p, s["m"], s["v"], t, group, b1, b2)

    def move(self, p, m, v, t, group, b1, b2):
        p.sub_(group["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"]))


class CountsTensors(HandAdam):
    def count(self, p):
        self.t += 1
        return self.t


class CorrectsOnce(HandAdam):
    def move(self, p, m, v, t, group, b1, b2):
        super().move(p, m, v, 1, group, b1, b2)


class Uncorrected(HandAdam):
    def move(self, p, m, v, t, group, b1, b2):
        p.sub_(group["lr"] * m / (v.sqrt() + group["eps"]))


wrong("t counts tensors", "update", "t is counted|t counts|count", "tensor", **ADAM)(with_optimizer(CountsTensors))
wrong("corrected as in the first step for ever", "update", "first step", **ADAM)(with_optimizer(CorrectsOnce))
wrong("moments uncorrected", "update", "correct", **ADAM)(with_optimizer(Uncorrected))


class SharedMomentum(torch.optim.Optimizer):
    """Buffers by shape: parameters that have one share theirs."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.05})
        self.buffers = {}

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            buffer = self.buffers.setdefault(p.shape, torch.zeros_like(p))
            buffer.mul_(0.9).add_(p.grad)
            p.sub_(0.05 * buffer)


@wrong("steps every second time", "update", "every 2nd|every second", **MOMENTUM)
class EverySecond(Loop):
    def train(self, x, target):
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        if self.made % 2:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)
        return loss


@wrong("the average of the weights is handed on", "update", "average|EMA|mean of parameters", **MOMENTUM)
class HandsOnTheAverage(Loop):
    def train(self, x, target):
        before = [p.detach().clone() for p in self.module.parameters()]
        loss = super().train(x, target)
        with torch.no_grad():
            for p, old in zip(self.module.parameters(), before, strict=True):
                p.copy_(0.9 * old + 0.1 * p)
        return loss


# --------------------------------------------------------------------------------------------------- clipping, scaling


@wrong("clipped before the scale is taken off", "update", "clip", "scale", **CLIPPED)
class ClipsScaled(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        (loss * 1024).backward()
        self.keep()
        self.shown = {n: g / 1024 for n, g in self.shown.items()}
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        for p in self.module.parameters():
            p.grad /= 1024
        self.optimizer.step()
        return loss


@wrong("the scale of the loss stays in the gradient", "gradient", "1024", **ONE)
class NeverUnscaled(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        (loss * 1024).backward()
        self.keep()
        self.optimizer.step()
        return loss


@wrong("each tensor is clipped, with AdamW", "update", "clip", "each tensor", **CLIPPED_ADAMW)
class ClipsEach(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        for p in self.module.parameters():
            nn.utils.clip_grad_norm_(p, self.clip_norm)
        self.optimizer.step()
        return loss


@wrong("the gradients are set to zero between backward and step", "gradient", "0|zero", **ONE)
class ZeroedTooLate(Loop):
    def train(self, x, target):
        loss = self.cost(x, target)
        loss.backward()
        self.optimizer.zero_grad(set_to_none=False)
        self.optimizer.step()
        return loss


# ------------------------------------------------------------------------------------------------------------- losses


def of_loss(loss, build=small, **more):
    return type("OfLoss", (Loop,), {"cost": lambda self, x, t: loss(self.module(x), t), "build": staticmethod(build)})


wrong("labels are smoothed", "label_smoothing", "0.1", **ONE)(
    of_loss(lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1))
)
wrong("nll_loss takes logits", "log_softmax", **ONE)(of_loss(F.nll_loss))
wrong("cross-entropy takes probabilities", "softmax", **ONE)(of_loss(lambda y, t: F.cross_entropy(y.softmax(1), t)))


@wrong("cost and penalty are divided by the pieces", "1/4|0.25|4", "penalty", l2=0.05, optimizer=sgd(0.05))
class ScaledTogether(Loop):
    def cost(self, x, target):
        penalty = sum(p.square().sum() for p in self.module.parameters() if p.ndim > 1)
        return (super().cost(x, target) + 0.05 / 2 * penalty) / 4


@wrong("the pieces' means are added up", "loss|gradient", "2|piece", **ONE)
class MeansAdded(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        total = 0.0
        for part, labels in zip(x.chunk(2), target.chunk(2), strict=True):
            loss = self.cost(part, labels)
            loss.backward()
            total = total + loss.detach() / 2
        self.keep()
        self.optimizer.step()
        return total


@wrong("zero_grad stands within the pieces", "piece|half|last 4 of the 8 examples", **ONE)
class LastPieceAlone(Loop):
    def train(self, x, target):
        total = 0.0
        for part, labels in zip(x.chunk(2), target.chunk(2), strict=True):
            self.optimizer.zero_grad()
            loss = self.cost(part, labels) / 2
            loss.backward()
            total = total + loss.detach()
        self.keep()
        self.optimizer.step()
        return total


# ------------------------------------------------------------------------------------------------ modes and statistics


@wrong("eval() is forgotten to be taken back", "evaluation|eval", model="residual", **ONE)
class Evaluates(Deep):
    def train(self, x, target):
        self.module.eval()
        return super().train(x, target)


wrong("module.eval() while it trains, as a module", "evaluation|eval", model="residual", **ONE)(
    engine_of(deep().eval())
)


@wrong("the velocity is shared", "update", "share", "moment|velocity|state", model="residual", **MOMENTUM)
class SharesVelocity(Masked):
    def optim(self, params):
        return SharedMomentum(params)


@wrong("statistics of each piece", "batch_norm|batch norm|batch", "piece", model="residual", **ONE)
class StatisticsOfPieces(Masked):
    def mask(self, name):
        return self.state.buffers[name][self.rows]

    def train(self, x, target):
        self.optimizer.zero_grad()
        total = 0.0
        for rows in (slice(0, 4), slice(4, 8)):
            self.rows = rows
            loss = self.cost(x[rows], target[rows]) / 2
            loss.backward()
            total = total + loss.detach()
        self.keep()
        self.optimizer.step()
        return total


@wrong("the running variance is biased", "running", "biased", model="residual", **ONE)
class BiasedVariance(Masked):
    def train(self, x, target):
        n, old = len(x), [block.norm.running_var.clone() for block in (self.module[1], self.module[2])]
        loss = super().train(x, target)
        with torch.no_grad():
            for block, before in zip((self.module[1], self.module[2]), old, strict=True):
                fresh = (block.norm.running_var - 0.9 * before) / 0.1
                block.norm.running_var.copy_(0.9 * before + 0.1 * fresh * (n - 1) / n)
        return loss


@wrong("recomputed with other masks", "dropout", "recomputed|backward|another mask|other mask", model="residual", **ONE)
class Recomputes(Masked):
    """A checkpoint that does not keep the state of the generator: backward drops others than forward."""

    def train(self, x, target):
        self.optimizer.zero_grad()
        h = self.module[1](self.module[0](x))
        block = self.module[2]
        inner = h.detach().requires_grad_()
        with torch.no_grad():
            out = block(inner)
        out = out.requires_grad_()
        loss = F.cross_entropy(self.module[3](out), target)
        loss.backward()
        block.norm.momentum, kept = 0.0, block.norm.momentum
        given, block.drop = block.drop, nn.Dropout(0.25)
        block(inner).backward(out.grad)
        block.drop, block.norm.momentum = given, kept
        h.backward(inner.grad)
        self.keep()
        self.optimizer.step()
        return loss


@wrong("one mask for all layers", "dropout", "mask", "same|one|other layer|another layer", model="residual", **ONE)
class OneMask(Masked):
    def mask(self, name):
        return super().mask("block1.dropout.mask")


# -------------------------------------------------------------------------------------------------------------- right


@right("scaled, taken off, clipped", **CLIPPED)
class Scaled(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        (loss * 1024).backward()
        for p in self.module.parameters():
            p.grad /= 1024
        self.keep()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss


@right("workers of unequal shards, weighed by rows", **ADAMW)
class Workers(Loop):
    def train(self, x, target):
        shards, workers = [slice(0, 3), slice(3, 8)], []
        for _ in shards:
            workers.append(copy.deepcopy(self.module))
        total = 0.0
        for worker, rows in zip(workers, shards, strict=True):
            worker.zero_grad()
            loss = F.cross_entropy(worker(x[rows]), target[rows]) * (rows.stop - rows.start) / len(x)
            loss.backward()
            total = total + loss.detach()
        for p, *others in zip(self.module.parameters(), *(w.parameters() for w in workers), strict=True):
            p.grad = sum(other.grad for other in others)
        self.keep()
        self.optimizer.step()
        return total


@right("log_softmax and nll_loss", **MOMENTUM)
class LogProbabilities(Loop):
    def cost(self, x, target):
        return F.nll_loss(F.log_softmax(self.module(x), 1), target)


@right("targets as probabilities", **ADAM)
class SoftTargets(Loop):
    def cost(self, x, target):
        return F.cross_entropy(self.module(x), F.one_hot(target, 3).float())


@right("torch.func", **ADAM)
class Functional(Loop):
    def train(self, x, target):
        params = {n: p.detach() for n, p in self.module.named_parameters()}

        def cost(params):
            return F.cross_entropy(torch.func.functional_call(self.module, params, (x,)), target)

        gradients, loss = torch.func.grad_and_value(cost)(params)
        for name, p in self.module.named_parameters():
            p.grad = gradients[name]
        self.keep()
        self.optimizer.step()
        return loss


@right("each parameter steps in a hook behind its gradient", **ADAMW)
class StepsInHooks(Loop):
    def begin(self):
        self.each = {p: self.optim([p]) for p in self.module.parameters()}
        self.seen = {}
        for p, own in self.each.items():
            p.register_post_accumulate_grad_hook(lambda p, own=own: self.hook(p, own))

    def hook(self, p, own):
        self.seen[p] = p.grad.clone()
        own.step()
        p.grad = None

    def train(self, x, target):
        loss = self.cost(x, target)
        loss.backward()
        self.shown = {n: self.seen[p] for n, p in zip(self.state.params, self.module.parameters(), strict=True)}
        return loss


@right("one flat parameter, seen through views", **MOMENTUM)
class Flat(Loop):
    def train(self, x, target):
        params = list(self.module.parameters())
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in params]))
        pieces = flat.split([p.numel() for p in params])
        named = {n: t.view_as(p) for (n, p), t in zip(self.module.named_parameters(), pieces, strict=True)}
        loss = F.cross_entropy(torch.func.functional_call(self.module, named, (x,)), target)
        loss.backward()
        parts = flat.grad.split([p.numel() for p in params])
        for p, g in zip(params, parts, strict=True):
            p.grad = g.view_as(p).clone()
        self.keep()
        self.optimizer.step()
        return loss


@right("activations recomputed in backward", **ADAM)
class Checkpoints(Loop):
    def cost(self, x, target):
        h = torch.utils.checkpoint.checkpoint(self.module[:3], x, use_reentrant=False)
        return F.cross_entropy(self.module[3:](h), target)


@right("evaluates between steps, and trains again", model="residual", **ADAM)
class BackAndForth(Masked):
    def train(self, x, target):
        self.module.eval()
        with torch.no_grad():
            self.module(x)
        self.module.train()
        return super().train(x, target)


right("a scheduler of torch's", **WARM)(
    engine_of(small(), scheduler=lambda o: LambdaLR(o, lambda made: min((made + 1) / 4, 1)))
)
right("groups that agree with one", **ADAMW)(
    engine_of(
        small(),
        optimizer=lambda p: torch.optim.AdamW([{"params": [x]} for x in p], lr=0.01, weight_decay=0.1, foreach=True),
    )
)
right("an average of the weights is kept beside", **MOMENTUM)(
    type(
        "Averages",
        (Loop,),
        {"begin": lambda self: setattr(self, "average", torch.optim.swa_utils.AveragedModel(self.module))},
    )
)
