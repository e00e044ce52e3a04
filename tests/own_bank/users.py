"""More training loops as people write them: mixed precision, accumulation, workers, averages, recomputed activations.

Written before any of it was judged, and without a look at how it would be; labels are as in `engines`.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from manual_bp.training import sgd
from tests.own_bank.engines import after, changed, with_gradients
from tests.own_bank.loop import (
    ADAM,
    ADAMW,
    CLIPPED,
    CLIPPED_ADAMW,
    MOMENTUM,
    ONE,
    WARM,
    Bank,
    Loop,
    Masked,
)
from torch_ref.training.modules import engine_of

BANK = Bank()
WRONG, RIGHT, wrong, right = BANK.WRONG, BANK.RIGHT, BANK.wrong, BANK.right


# ---------------------------------------------------------------------------------------------- scaling and half floats


@wrong("unscaled twice", "gradient", "1/1024|0.00097656|2^-10", **ADAM)
class UnscaledTwice(Loop):
    """scaler.unscale_ for the clipping, and once more in its step."""

    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        (loss * 1024).backward()
        for _ in range(2):
            for p in self.module.parameters():
                p.grad /= 1024
        self.keep()
        self.optimizer.step()
        return loss


@wrong("gradients are sent in float16", "float16", **ONE)
class SentInHalf(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        for p in self.module.parameters():
            p.grad = p.grad.half().to(p.dtype)
        self.keep()
        self.optimizer.step()
        return loss


@wrong("computed under autocast", "bfloat16", **ONE)
class Autocast(Loop):
    def cost(self, x, target):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.module(x.float())
        return F.cross_entropy(y.to(x.dtype), target)


# -------------------------------------------------------------------------------------------------- pieces and workers


@wrong("the last micro-batch is dropped", "piece|part|row|batch", **ONE)
class LastDropped(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        total, n = 0.0, len(x) // 3
        for i in range(n):
            loss = self.cost(x[3 * i : 3 * i + 3], target[3 * i : 3 * i + 3]) / n
            loss.backward()
            total = total + loss.detach()
        self.keep()
        self.optimizer.step()
        return total


@wrong("micro-batches of unequal size are averaged", "piece|micro-batch", "unequal|shorter|mean", **ADAM)
class UnequalMean(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        pieces = list(zip(x.split(3), target.split(3), strict=True))
        total = 0.0
        for part, labels in pieces:
            loss = self.cost(part, labels) / len(pieces)
            loss.backward()
            total = total + loss.detach()
        self.keep()
        self.optimizer.step()
        return total


class DataParallel(Loop):
    """Two workers on a shard each, whose gradients are reduced by hand."""

    shards = (slice(0, 4), slice(4, 8))

    def train(self, x, target):
        workers, losses = [copy.deepcopy(self.module) for _ in self.shards], []
        for worker, rows in zip(workers, self.shards, strict=True):
            worker.zero_grad()
            loss = F.cross_entropy(worker(x[rows]), target[rows])
            loss.backward()
            losses.append(loss.detach())
        for p, *others in zip(self.module.parameters(), *(w.parameters() for w in workers), strict=True):
            p.grad = self.reduced([other.grad for other in others])
        self.keep()
        self.optimizer.step()
        return torch.stack(losses).mean()

    def reduced(self, grads):
        return sum(grads) / len(grads)


@wrong("workers of unequal shards, averaged", "piece|shard|micro-batch", "unequal|mean|rows", **ONE)
class UnequalShards(DataParallel):
    shards = (slice(0, 3), slice(3, 8))


@wrong("all-reduce sums", "gradient", "2 times|twice|added up", **MOMENTUM)
class ReduceSums(DataParallel):
    def reduced(self, grads):
        return sum(grads)


@wrong("divided by the world's size twice", "gradient", "1/2|half|0.5", **MOMENTUM)
class DividedTwice(DataParallel):
    def reduced(self, grads):
        return sum(grads) / len(grads) ** 2


@wrong("the all-reduce is forgotten", "gradient", "piece|part|rows|shard|examples", **ONE)
class NotReduced(DataParallel):
    def reduced(self, grads):
        return grads[0]


# ------------------------------------------------------------------------------------------------------ graph and modes


@wrong("a second backward of a kept graph", "gradient", "2 times|twice|added up", **ADAMW)
class BackwardTwice(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward(retain_graph=True)
        loss.backward()
        self.keep()
        self.optimizer.step()
        return loss


@wrong("only the head's gradients are set to zero", "added up|zero", **ONE)
class HeadZeroed(Loop):
    def train(self, x, target):
        self.module[4].zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        self.optimizer.step()
        return loss


@wrong("the body runs under no_grad", "linear1|W1|activation1|linear2|W2|activation2", "back|gradient|detached", **ONE)
class BodyWithoutGrad(Loop):
    def cost(self, x, target):
        with torch.no_grad():
            h = self.module[:4](x)
        return F.cross_entropy(self.module[4](h), target)


@wrong("a bias is forgotten in forward", "linear2|b2", "bias|b2", **ONE)
class ForgetsBias(Loop):
    def cost(self, x, target):
        h = self.module[:2](x)
        h = self.module[3](F.linear(h, self.module[2].weight))
        return F.cross_entropy(self.module[4](h), target)


wrong("LeakyReLU for ReLU", "activation1|activation2", "leaky", model="relu", **ONE)(
    engine_of(
        nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(), nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 3)),
    )
)


@wrong(
    "the recomputation drops other units",
    "dropout",
    "recomputed|another mask|other mask|other units",
    model="residual",
    **ONE,
)
class CheckpointForgetsMasks(Masked):
    """preserve_rng_state=False."""

    again = False

    def mask(self, name):
        found = super().mask(name)
        return found.roll(1, 0) if self.again else found

    def cost(self, x, target):
        h = checkpoint(partial(self.once, []), self.module[0](x), use_reentrant=False)
        return F.cross_entropy(self.module[3](self.module[2](h)), target)

    def once(self, made, x):
        """The statistics are those of the first time."""
        block = self.module[1]
        self.again, block.norm.momentum = bool(made), 0.0 if made else 0.1
        made.append(True)
        y = block(x)
        self.again, block.norm.momentum = False, 0.1
        return y


@wrong("batch norm has Keras's eps", "batch_norm", "eps", model="residual", **ONE)
class KerasEps(Masked):
    def begin(self):
        super().begin()
        for block in (self.module[1], self.module[2]):
            block.norm.eps = 1e-3


@wrong(
    "dropout is scaled for another p",
    "dropout",
    "1/(1 − p)|scale|1.5 times|p = 0.5|p=0.5|p is 0.5",
    model="residual",
    **ONE,
)
class OtherScale(Masked):
    def begin(self):
        super().begin()
        for block in (self.module[1], self.module[2]):
            drop = block.drop
            block.drop = type("Scaled", (nn.Module,), {"forward": lambda self, x, drop=drop: drop(x) * 0.75 / 0.5})()


def tied_twice(record, state, engine):
    """The head's part of the shared weight's gradient is added once more."""
    name = next(n for n in record.gradients if "embedding" in n or n.startswith("token"))
    delta = record.layers["head"]["delta"]
    last = next(reversed([k for k in record.layers if k != "head"]))
    (y,) = (t for k, t in record.layers[last].items() if k in ("y", "a", "z"))
    own = delta.flatten(0, -2).T @ y.flatten(0, -2)
    return with_gradients(record, {**record.gradients, name: record.gradients[name] + own}, state, engine)


wrong("a tied weight's head counts twice", "share|tied|embedding", "twice|2 times", model="gpt", **ONE)(
    after(tied_twice)
)


def constant_embedding(module):
    """Only the head's use of the shared weight has a gradient."""

    class Constant(nn.Embedding):
        def forward(self, index):
            return super().forward(index).detach() + 0 * super().forward(index)

    for part in module.modules():
        if isinstance(part, nn.Embedding) and part.num_embeddings == 3:
            part.__class__ = Constant
    return module


wrong("the embedding's use of a tied weight is detached", "share|tied|embedding", model="gpt", **ONE)(
    changed(constant_embedding)
)


# ------------------------------------------------------------------------------------------------------ loss and data


wrong("a class weighs twice", "loss", "weight|class", **ONE)(
    type(
        "Weighted",
        (Loop,),
        {"cost": lambda self, x, t: F.cross_entropy(self.module(x), t, torch.tensor([1, 2, 1]).to(x))},
    )
)
wrong("class 0 is taken for padding", "loss|target|class", "ignore|class|left out", **ONE)(
    type("Padding", (Loop,), {"cost": lambda self, x, t: F.cross_entropy(self.module(x), t, ignore_index=0)})
)


@wrong("rows are shuffled, and their labels are not", "row|shuffled|permut|order", **ONE)
class Shuffles(Loop):
    def train(self, x, target):
        return super().train(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))], target)


# ---------------------------------------------------------------------------------------------------- step and schedule


@wrong("clipped after the step", "update", "clip", "left out|forgotten|not clipped", **CLIPPED)
class ClipsLate(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        self.optimizer.step()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        return loss


@wrong("the head alone is clipped", "update", "clipping is of|clipped", "part|some|W3|linear3|alone", **CLIPPED_ADAMW)
class ClipsHead(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        nn.utils.clip_grad_norm_(self.module[4].parameters(), self.clip_norm)
        self.optimizer.step()
        return loss


@wrong("the scheduler is called every second step", "update", "rate|schedule", **WARM)
class SchedulesSeldom(Loop):
    def begin(self):
        self.scheduler = LambdaLR(self.optimizer, lambda made: min((made + 1) / 4, 1))

    def train(self, x, target):
        loss = super().train(x, target)
        if self.made % 2:
            self.scheduler.step()
        return loss


@wrong("the optimiser has the parameters of a copy", "update", "not moved|stay|no parameter", **ADAM)
class OfACopy(Loop):
    def optim(self, params):
        return super().optim([p.detach().clone().requires_grad_() for p in params])


class MomentumByHand(Loop):
    """SGD whose velocity is somebody's formula."""

    def begin(self):
        self.velocity = [torch.zeros_like(p) for p in self.module.parameters()]

    def train(self, x, target):
        self.module.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        with torch.no_grad():
            for p, v in zip(self.module.parameters(), self.velocity, strict=True):
                self.move(p, v)
        return loss


@wrong("velocity as an average", "update", "dampen|average|1 − momentum|0.1", **MOMENTUM)
class Averaged(MomentumByHand):
    def move(self, p, v):
        v.mul_(0.9).add_(p.grad, alpha=0.1)
        p.sub_(0.05 * v)


@wrong(
    "Nesterov forgets the gradient",
    "update",
    "esterov|lookahead",
    l2=0.0,
    optimizer=sgd(0.05, momentum=0.9, nesterov=True),
)
class HalfNesterov(MomentumByHand):
    def move(self, p, v):
        v.mul_(0.9).add_(p.grad)
        p.sub_(0.05 * 0.9 * v)


@wrong("sharpness-aware, unasked", "gradient|network", "other parameters|moved|perturbed|sharpness|elsewhere", **ONE)
class SharpnessAware(Loop):
    def train(self, x, target):
        loss = self.cost(x, target)
        params = list(self.module.parameters())
        grads = torch.autograd.grad(loss, params)
        size = torch.stack([g.norm() for g in grads]).norm()
        moves = [0.05 * g / size for g in grads]
        with torch.no_grad():
            for p, move in zip(params, moves, strict=True):
                p.add_(move)
        self.optimizer.zero_grad()
        self.cost(x, target).backward()
        with torch.no_grad():
            for p, move in zip(params, moves, strict=True):
                p.sub_(move)
        self.keep()
        self.optimizer.step()
        return loss


# -------------------------------------------------------------------------------------------------------------- right


@right("a closure", **MOMENTUM)
class Closure(Loop):
    def train(self, x, target):
        def closure():
            self.optimizer.zero_grad()
            loss = self.cost(x, target)
            loss.backward()
            self.keep()
            return loss

        return self.optimizer.step(closure)


@right("velocity with its lr and sign", **MOMENTUM)
class OtherVelocity(MomentumByHand):
    def move(self, p, v):
        v.mul_(0.9).sub_(0.05 * p.grad)
        p.add_(v)


@right("by hand, without autograd", **ADAMW)
class WithoutAutograd(Loop):
    def train(self, x, target):
        first, _, second, _, third = self.module
        with torch.no_grad():
            a = (x @ first.weight.T + first.bias).tanh()
            b = (a @ second.weight.T + second.bias).tanh()
            p = (b @ third.weight.T + third.bias).softmax(1)
            loss = -p.gather(1, target[:, None]).log().mean()
            delta = (p - F.one_hot(target, 3)) / len(x)
            for layer, given in ((third, b), (second, a), (first, x)):
                layer.weight.grad, layer.bias.grad = delta.T @ given, delta.sum(0)
                if given is not x:
                    delta = (delta @ layer.weight) * (1 - given) * (1 + given)
        self.keep()
        self.optimizer.step()
        return loss


@right("gradients of each row, averaged", **ADAM)
class EachRow(Loop):
    def train(self, x, target):
        params = {n: p.detach() for n, p in self.module.named_parameters()}

        def cost(params, row, label):
            return F.cross_entropy(torch.func.functional_call(self.module, params, (row[None],)), label[None])

        each, losses = torch.func.vmap(torch.func.grad_and_value(cost), (None, 0, 0))(params, x, target)
        for name, p in self.module.named_parameters():
            p.grad = each[name].mean(0)
        self.keep()
        self.optimizer.step()
        return losses.mean()


@right("workers that step by themselves", **ADAM)
class Replicas(Loop):
    """Each has an optimiser of its own, and the same reduced gradients."""

    def begin(self):
        self.other = copy.deepcopy(self.module)
        self.others = self.optim(list(self.other.parameters()))

    def train(self, x, target):
        self.other.load_state_dict(self.module.state_dict())
        losses = []
        for module, rows in ((self.module, slice(0, 2)), (self.other, slice(2, 8))):
            module.zero_grad()
            loss = F.cross_entropy(module(x[rows]), target[rows], reduction="sum") / len(x)
            loss.backward()
            losses.append(loss.detach())
        for p, q in zip(self.module.parameters(), self.other.parameters(), strict=True):
            p.grad += q.grad
            q.grad = p.grad.clone()
        self.keep()
        self.optimizer.step()
        self.others.step()
        return sum(losses)


@right("accumulated, scaled, clipped", **CLIPPED_ADAMW)
class Accumulates(Loop):
    def train(self, x, target):
        self.optimizer.zero_grad()
        total = 0.0
        for part, labels in zip(x.split(3), target.split(3), strict=True):
            loss = F.cross_entropy(self.module(part), labels, reduction="sum") / len(x)
            (loss * 2**12).backward()
            total = total + loss.detach()
        for p in self.module.parameters():
            p.grad.mul_(2.0**-12)
        self.keep()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm, foreach=True)
        self.optimizer.step()
        return total


@right("blocks recomputed, with their masks", model="residual", **MOMENTUM)
class CheckpointKeepsMasks(CheckpointForgetsMasks):
    def mask(self, name):
        return Masked.mask(self, name)


@right("an average is swapped in for evaluation, and out again", model="residual", **ADAM)
class SwapsAverage(Masked):
    def begin(self):
        super().begin()
        self.average = torch.optim.swa_utils.AveragedModel(
            self.module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )

    def train(self, x, target):
        loss = super().train(x, target)
        self.average.update_parameters(self.module)
        self.average.eval()
        with torch.no_grad():
            self.average(x)
        return loss
