"""Optimisers that are right, and unusual."""

import torch
from torch.optim import Adam, AdamW, Optimizer

from tests.oracle.optimizers.bank.engines import Engine
from tests.oracle.optimizers.bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES, "optimizer")


@bank.right("adam_update", "torch's fused kernel")
class AdamFused(Adam):
    def __init__(self, params, **options):
        super().__init__(params, fused=True, **options)


@bank.right("adamw_update", "torch's foreach kernels, which go through lists of tensors")
class AdamWForeach(AdamW):
    def __init__(self, params, **options):
        super().__init__(params, foreach=True, **options)


@bank.right("adam_update", "capturable: the step counter and the corrections are tensors, no branch depends on them")
class AdamCapturable(Engine):
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
class AdamWithMomentsOfEightBits(Engine):
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
class AdamWWithMasterWeights(Engine):
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
class AdamInFlatBuffers(Engine):
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
class AdamWithItsOwnCheckpoint(Engine):
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
