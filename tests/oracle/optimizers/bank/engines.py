"""Optimisers of torch's kind, as people write them: a class with groups, a state and a step."""

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from tests.oracle.optimizers.bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES, "optimizer")


class _Base(Optimizer):
    """A right Adam, AdamW or whatever `update` makes of it, from which the others differ in one place."""

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
class AdamCountsParameters(_Base):
    count = 0

    def update(self, p, grad, state, group):
        self.count += 1
        self.adam(p, grad + group["weight_decay"] * p, state, group, self.count)


@bank.wrong(
    "adam_update",
    "the step counter is never increased: the bias correction stays that of the first step",
    "step", "bias correction", "frozen", "counter", "t",
)  # fmt: skip
class AdamAtStepOneForEver(_Base):
    def update(self, p, grad, state, group):
        self.adam(p, grad + group["weight_decay"] * p, state, group, 1)


@bank.wrong(
    "adam_update",
    "the step counter is no part of the state that is saved: it begins anew after loading",
    "saved loaded", "loaded", "checkpoint", "restored", "load_state_dict", "saved",
)  # fmt: skip
class AdamForgetsItsStep(_Base):
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
class AdamWithTheDefaultsForAllGroups(_Base):
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
class AdamSkipsZeroGradients(_Base):
    def update(self, p, grad, state, group):
        if grad.any():
            super().update(p, grad, state, group)


@bank.wrong(
    "adamw_update",
    "the loop over groups leaves its variable behind: all parameters step with the last group's lr and weight decay",
    "group", "groups", "last group",
)  # fmt: skip
class AdamWUsesTheLastGroupForAll(_Base):
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
class AdamKeepsItsStateByShape(_Base):
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
class AdamWithMomentsOfSixteenBits(_Base):
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


@bank.right("adam_update", "torch's fused kernel")
class AdamFused(Adam):
    def __init__(self, params, **options):
        super().__init__(params, fused=True, **options)


@bank.right("adamw_update", "torch's foreach kernels, which go through lists of tensors")
class AdamWForeach(AdamW):
    def __init__(self, params, **options):
        super().__init__(params, foreach=True, **options)


@bank.right("adam_update", "capturable: the step counter and the corrections are tensors, no branch depends on them")
class AdamCapturable(_Base):
    def fresh(self, p):
        return {**super().fresh(p), "step": torch.zeros((), dtype=torch.float64, device=p.device)}

    def update(self, p, grad, state, group):
        beta1, beta2 = group["betas"]
        state["step"] += 1
        grad = grad + group["weight_decay"] * p
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        first, second = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
        root = (state["exp_avg_sq"] / second).sqrt_().add_(group["eps"])
        p.sub_((group["lr"] / first * state["exp_avg"]).to(p.dtype).div_(root))


@bank.right(
    "adam_update",
    "both moments in 8 bits, declared: off by up to 1/127 of the largest of their 64, the second (its root) never down",
    declared="exp_avg and exp_avg_sq in 8 bits",
)
class AdamWithMomentsOfEightBits(_Base):
    @staticmethod
    def in_blocks(t, whole):
        """Numbers as whole multiples, from -127 to 127, of a scale for each 64 of them."""
        flat = t.flatten()
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny) / 127
        codes = whole(blocks / scale).clamp(-127, 127).to(torch.int8)
        return (codes * scale).flatten()[: len(flat)].reshape(t.shape)

    def update(self, p, grad, state, group):
        super().update(p, grad, state, group)
        state["exp_avg"].copy_(self.in_blocks(state["exp_avg"], torch.round))
        state["exp_avg_sq"].copy_(self.in_blocks(state["exp_avg_sq"].sqrt(), torch.ceil).square())


@bank.right(
    "sgd_update",
    "parameters of bfloat16 with Kahan's compensation: what rounding takes from a step is given back later",
    dtype=torch.bfloat16,
)
class SgdWithKahanCompensation(Optimizer):
    def __init__(self, params, lr=1e-3, momentum=0.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                lost = state.setdefault("compensation", torch.zeros_like(p))
                g = p.grad.float() + group["weight_decay"] * p.float()
                if group["momentum"]:
                    buffer = state.get("momentum_buffer")
                    g = g if buffer is None else group["momentum"] * buffer.float() + g
                    state["momentum_buffer"] = g.to(p.dtype)
                wanted = lost.float() - group["lr"] * g
                before = p.float()
                p.copy_(before + wanted)
                lost.copy_(wanted - (p.float() - before))


@bank.right(
    "adamw_update",
    "parameters of bfloat16, each the rounded copy of a master in float32 that takes the steps",
    dtype=torch.bfloat16,
)
class AdamWWithMasterWeights(_Base):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps, weight_decay)

    def fresh(self, p):
        return {**super().fresh(p.detach().float()), "master": p.detach().float().clone()}

    def update(self, p, grad, state, group):
        state["step"] += 1
        state["master"].mul_(1 - group["lr"] * group["weight_decay"])
        self.adam(state["master"], grad.float(), state, group, state["step"])
        p.copy_(state["master"])

    def load_state_dict(self, state_dict):
        """torch casts what it loads to the parameter's dtype; masters and moments must not be."""
        super().load_state_dict(state_dict)
        numbers = [p for group in self.param_groups for p in group["params"]]
        for number, saved in state_dict["state"].items():
            for name, value in saved.items():
                if torch.is_tensor(value):
                    self.state[numbers[number]][name] = value.clone()


@bank.right(
    "adam_update", "one flat buffer of parameters, gradients and moments for each group, made at the first step"
)
class AdamInFlatBuffers(_Base):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            by_step = {}
            for p in used:
                if not self.state[p]:
                    self.state[p].update(self.fresh(p))
                self.state[p]["step"] += 1
                by_step.setdefault(self.state[p]["step"], []).append(p)
            for step, params in by_step.items():
                names = ("exp_avg", "exp_avg_sq")
                state = {name: torch.cat([self.state[p][name].flatten() for p in params]) for name in names}
                flat = torch.cat([p.flatten() for p in params])
                grad = torch.cat([p.grad.flatten() for p in params])
                self.adam(flat, grad + group["weight_decay"] * flat, state, group, step)
                sizes = [p.numel() for p in params]
                for p, part, *moments in zip(
                    params, flat.split(sizes), *(state[n].split(sizes) for n in names), strict=True
                ):
                    p.copy_(part.reshape(p.shape))
                    for name, moment in zip(names, moments, strict=True):
                        self.state[p][name].copy_(moment.reshape(p.shape))


@bank.right("sgd_update", "gradients that are sparse are coalesced and reach only their rows; dense ones as ever")
class SgdForSparseGradients(Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    grad = p.grad.coalesce()
                    p.index_add_(0, grad.indices()[0], grad.values(), alpha=-group["lr"])
                else:
                    p.sub_(group["lr"] * p.grad)


@bank.right("adam_update", "its state is saved in a format of its own, one dictionary of names, and read back from it")
class AdamWithItsOwnCheckpoint(_Base):
    def state_dict(self):
        params = [p for group in self.param_groups for p in group["params"]]
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        moments = {
            f"{i}.{name}": value.clone() if torch.is_tensor(value) else value
            for i, p in enumerate(params)
            for name, value in self.state[p].items()
        }
        return {"format": 2, "groups": groups, "moments": moments}

    def load_state_dict(self, state_dict):
        params = [p for group in self.param_groups for p in group["params"]]
        for group, saved in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(saved)
        self.state.clear()
        for key, value in state_dict["moments"].items():
            i, name = key.split(".")
            self.state[params[int(i)]][name] = value.clone() if torch.is_tensor(value) else value
