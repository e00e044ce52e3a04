"""Training loops with other inputs, another loss or moments of few bits; and right ones that get gradients unusually.

Labels are as in `engines`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from manual_bp.training import sgd
from tests.own_bank.loop import ADAM, ADAMW, CLIPPED, CLIPPED_ADAMW, KINDS, MOMENTUM, ONE, Bank, Loop

BANK = Bank()
WRONG, RIGHT, wrong, right = BANK.WRONG, BANK.RIGHT, BANK.wrong, BANK.right
SQUARE = {"loss": "square_loss", "l2": 0.0, "optimizer": sgd(0.05)}


def of_input(change):
    return type("OfInput", (Loop,), {"cost": lambda self, x, t: F.cross_entropy(self.module(change(x)), t)})


def of_output(cost):
    return type("OfOutput", (Loop,), {"cost": lambda self, x, t: cost(self.module(x), t)})


def optimised(make):
    return type("Optimised", (Loop,), {"optim": lambda self, params: make(params)})


# --------------------------------------------------------------------------------------------------------------- inputs

wrong("normalised twice", "inputs are 4.55 x − 2.05", "(x − 0.45) / 0.22", **ONE)(of_input(lambda x: (x - 0.45) / 0.22))
wrong("divided by 255 twice", "inputs are divided by 255", **ADAMW)(of_input(lambda x: x / 255))
wrong("standardised by the batch", "inputs are normalised", "each feature", **ONE)(
    of_input(lambda x: (x - x.mean(0)) / (x.std(0) + 1e-5))
)
wrong("BGR for RGB", "inputs are in reverse order along axis 1", **MOMENTUM)(of_input(lambda x: x.flip(1)))


@wrong("mixed with the batch in reverse order", "mixup", "0.7 of each", **ONE)
class Mixed(Loop):
    def cost(self, x, target):
        y = self.module(0.7 * x + 0.3 * x.flip(0))
        return 0.7 * F.cross_entropy(y, target) + 0.3 * F.cross_entropy(y, target.flip(0))


@wrong("mixed in an order that is drawn", "drawn by chance", "mixed", **ADAM)
class MixedByChance(Loop):
    def cost(self, x, target):
        order = torch.randperm(len(x))
        y = self.module(0.7 * x + 0.3 * x[order])
        return 0.7 * F.cross_entropy(y, target) + 0.3 * F.cross_entropy(y, target[order])


# --------------------------------------------------------------------------------------------------------------- losses


def focal(y, target):
    log_p = F.log_softmax(y, 1).gather(1, target[:, None])[:, 0]
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def confident(y, target):
    log_p = F.log_softmax(y, 1)
    return F.cross_entropy(y, target) + 0.1 * (log_p.exp() * log_p).sum(1).mean()


wrong("focal", "focal", "γ = 2", **ONE)(of_output(focal))
wrong("a confidence penalty", "entropy of the softmax, times -0.1", **ONE)(of_output(confident))
wrong("z-loss", "z-loss", "times 0.0001", **ONE)(
    of_output(lambda y, t: F.cross_entropy(y, t) + 1e-4 * y.logsumexp(1).square().mean())
)
wrong("Brier's score", "square_loss of 1 for the right class", "behind softmax", **ONE)(
    of_output(lambda y, t: F.mse_loss(y.softmax(1), F.one_hot(t, 3).to(y)))
)
wrong("binary cross-entropy", "binary_cross_entropy_with_logits of 1 for the right class", **ONE)(
    of_output(lambda y, t: F.binary_cross_entropy_with_logits(y, F.one_hot(t, 3).to(y)))
)
wrong("cross-entropy for the square", "softmax_cross_entropy of the class of the largest target", **SQUARE)(
    of_output(lambda y, t: F.cross_entropy(y, t.argmax(1)))
)


# -------------------------------------------------------------------------------------------------------------- moments


class Rounded(torch.optim.AdamW):
    def step(self, closure=None):
        super().step()
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].copy_(state[name].bfloat16())


class InBfloat16(torch.optim.Optimizer):
    """AdamW whose moments are tensors of bfloat16, as is their arithmetic."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, g = self.state[p], p.grad.bfloat16()
                if not s:
                    s.update(t=0, m=torch.zeros_like(g), v=torch.zeros_like(g))
                s["t"] += 1
                s["m"].mul_(b1).add_(g, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
                m, v = s["m"].to(p) / (1 - b1 ** s["t"]), s["v"].to(p) / (1 - b2 ** s["t"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * m / (v.sqrt() + 1e-8))


wrong("moments are rounded to bfloat16", "update is wrong", "state is rounded to bfloat16", **ADAMW)(
    optimised(lambda p: Rounded(p, 0.01, weight_decay=0.1))
)
wrong("moments in bfloat16", "its state is kept in numbers of bfloat16", **ADAMW)(
    optimised(lambda p: InBfloat16(p, {"lr": 0.01, "betas": (0.9, 0.999), "weight_decay": 0.1}))
)


# ---------------------------------------------------------------------------------------------------------------- right


@right("torch's GradScaler", **CLIPPED_ADAMW)
class Scaled(Loop):
    def begin(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def train(self, x, target):
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.cost(x, target)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.keep()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss


@right("forward mode", **MOMENTUM)
class Forward(Loop):
    def train(self, x, target):
        params = dict(self.module.named_parameters())

        def cost(own):
            return F.cross_entropy(torch.func.functional_call(self.module, own, (x,)), target)

        for name, gradient in torch.func.jacfwd(cost)({n: p.detach() for n, p in params.items()}).items():
            params[name].grad = gradient.clone()
        self.keep()
        loss = cost(params).detach()
        self.optimizer.step()
        return loss


@right("what backward needs is kept as bytes", **ADAM)
class Bytes(Loop):
    def train(self, x, target):
        def packed(t):
            return t.numpy(force=True).tobytes(), t.dtype, t.shape

        def unpacked(kept):
            return torch.frombuffer(bytearray(kept[0]), dtype=kept[1]).reshape(kept[2])

        with torch.autograd.graph.saved_tensors_hooks(packed, unpacked):
            return super().train(x, target)


@right("each half of a tensor has an optimiser", **ADAMW)
class Halves(Loop):
    def optim(self, params):
        self.halves = [[half.clone().requires_grad_() for half in p.detach().view(-1).chunk(2)] for p in params]
        self.each = [KINDS[self.own.name](halves, **self.own.config) for halves in self.halves]

    def train(self, x, target):
        self.module.zero_grad()
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        for p, halves, optimizer in zip(self.module.parameters(), self.halves, self.each, strict=True):
            for half, now, gradient in zip(halves, p.view(-1).chunk(2), p.grad.view(-1).chunk(2), strict=True):
                half.data.copy_(now)
                half.grad = gradient
            optimizer.step()
            p.data.view(-1).copy_(torch.cat([half.detach() for half in halves]))
        return loss


@right("the norm first, then the clipping", **CLIPPED)
class NormFirst(Loop):
    def train(self, x, target):
        params = list(self.module.parameters())
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.cost(x, target)
        torch.autograd.backward(loss, inputs=params)
        self.keep()
        norm = nn.utils.get_total_norm([p.grad for p in params])
        nn.utils.clip_grads_with_norm_(params, self.clip_norm, norm)
        self.optimizer.step()
        return loss
