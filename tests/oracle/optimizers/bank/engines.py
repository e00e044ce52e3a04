"""Optimisers of torch's kind, as people write them: a class with groups, a state and a step.  All are wrong."""

import torch
from torch.optim import SGD, Optimizer

from tests.oracle.optimizers.bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES, "optimizer")


class Engine(Optimizer):
    """A right Adam, or whatever `update` makes of it, from which the others differ in one place."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def fresh(self, p):
        return {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if not self.state[p]:
                        self.state[p].update(self.fresh(p))
                    self.update(p, p.grad, self.state[p], group)
        return loss

    def update(self, p, grad, state, group):
        state["step"] += 1
        self.adam(p, grad + group["weight_decay"] * p, state, group, state["step"])

    def adam(self, p, grad, state, group, step):
        beta1, beta2 = group["betas"]
        state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        p.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - beta1**step))


@bank.wrong(
    "adam_update",
    "one step counter for all parameters is increased once per parameter: the later ones count too fast",
    "step", "bias correction", "counter", "counts", "per parameter", "t",
)  # fmt: skip
class AdamCountsParameters(Engine):
    count = 0

    def update(self, p, grad, state, group):
        self.count += 1
        self.adam(p, grad + group["weight_decay"] * p, state, group, self.count)


@bank.wrong(
    "adam_update",
    "the step counter is never increased: the bias correction stays that of the first step",
    "step", "bias correction", "frozen", "counter", "t",
)  # fmt: skip
class AdamAtStepOneForEver(Engine):
    def update(self, p, grad, state, group):
        self.adam(p, grad + group["weight_decay"] * p, state, group, 1)


@bank.wrong(
    "adam_update",
    "the step counter is no part of the state that is saved: it begins anew after loading",
    "saved loaded", "loaded", "checkpoint", "restored", "load_state_dict", "saved",
)  # fmt: skip
class AdamForgetsItsStep(Engine):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = {}

    def update(self, p, grad, state, group):
        self.steps[p] = self.steps.get(p, 0) + 1
        self.adam(p, grad + group["weight_decay"] * p, state, group, self.steps[p])

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.steps = {}


@bank.wrong(
    "adam_update",
    "every group steps with the default lr, not with its own",
    "group", "groups", "lr", "default",
)  # fmt: skip
class AdamWithTheDefaultsForAllGroups(Engine):
    def update(self, p, grad, state, group):
        super().update(p, grad, state, {**group, "lr": self.defaults["lr"]})


@bank.wrong(
    "sgd_update",
    "lr is remembered from the constructor: what a schedule sets later has no effect",
    "lr", "schedule", "changes", "constructor",
)  # fmt: skip
class SgdKeepsItsFirstLr(SGD):
    def __init__(self, params, lr=1e-3, momentum=0.0, weight_decay=0.0):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.first = [group["lr"] for group in self.param_groups]

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        if hasattr(self, "first"):
            self.first.append(self.param_groups[-1]["lr"])

    def step(self, closure=None):
        scheduled = [group["lr"] for group in self.param_groups]
        for group, lr in zip(self.param_groups, self.first, strict=True):
            group["lr"] = lr
        loss = super().step(closure)
        for group, lr in zip(self.param_groups, scheduled, strict=True):
            group["lr"] = lr
        return loss


@bank.wrong(
    "adam_update",
    "parameters whose gradient is 0 throughout are skipped: neither their moments decay nor do they move on",
    "gradient 0", "zero gradient", "gradients 0", "0 gradient", "zero gradients", "skipped", "skips",
)  # fmt: skip
class AdamSkipsZeroGradients(Engine):
    def update(self, p, grad, state, group):
        if grad.any():
            super().update(p, grad, state, group)


@bank.wrong(
    "adamw_update",
    "the loop over groups leaves its variable behind: all parameters step with the last group's lr and weight decay",
    "group", "groups", "last group",
)  # fmt: skip
class AdamWUsesTheLastGroupForAll(Engine):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps, weight_decay)

    @torch.no_grad()
    def step(self, closure=None):
        params = []
        for group in self.param_groups:
            params += [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p].update(self.fresh(p))
            self.state[p]["step"] += 1
            p.mul_(1 - group["lr"] * group["weight_decay"])
            self.adam(p, p.grad, self.state[p], group, self.state[p]["step"])


@bank.wrong(
    "adam_update",
    "the moments are kept by shape: parameters of one shape share theirs",
    "share", "shared", "shape", "another parameter", "other parameter", "exp_avg",
)  # fmt: skip
class AdamKeepsItsStateByShape(Engine):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.buffers = {}

    def fresh(self, p):
        if p.shape not in self.buffers:
            self.buffers[p.shape] = super().fresh(p)
        return {**self.buffers[p.shape]}


@bank.wrong(
    "rmsprop_update",
    "the mean of squares begins at 1 instead of 0",
    "begins", "starts", "initial", "first step", "at 1", "square_avg", "1",
)  # fmt: skip
class RmspropStartsAtOne(Optimizer):
    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["square_avg"] = torch.ones_like(p)
                g = p.grad + group["weight_decay"] * p
                state["square_avg"].mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
                p.addcdiv_(g, state["square_avg"].sqrt().add_(group["eps"]), value=-group["lr"])


@bank.wrong(
    "adam_update",
    "the moments are kept in bfloat16 though the parameters are float32, and nobody is told",
    "bfloat16", "16 bits", "16-bit", "precision", "rounded", "digits", "low-precision",
)  # fmt: skip
class AdamWithMomentsOfSixteenBits(Engine):
    def update(self, p, grad, state, group):
        super().update(p, grad, state, group)
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment].copy_(state[moment].to(torch.bfloat16))


@bank.wrong(
    "sgd_update",
    "lr is inside the velocity: after lr has changed old gradients still go with the old one",
    "lr velocity", "lr buffer", "momentum_buffer lr", "velocity", "lr changes", "lr inside", "lr",
)  # fmt: skip
class SgdWithLrInItsVelocity(Optimizer):
    def __init__(self, params, lr=1e-3, momentum=0.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    step = group["lr"] * (p.grad + group["weight_decay"] * p)
                    if "velocity" in self.state[p]:
                        step += group["momentum"] * self.state[p]["velocity"]
                    self.state[p]["velocity"] = step
                    p.sub_(step)
