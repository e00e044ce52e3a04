"""Optimisers as people write them for themselves: labelled before any of them was judged."""

from __future__ import annotations

import torch

from tests.oracle.update_bank.entry import OPTIMIZER, Program


class AdamW(torch.optim.Optimizer):
    """From which the others differ."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for number, group in enumerate(self.param_groups):
            for place, p in enumerate(group["params"]):
                if p.grad is not None:
                    self.one(p, self.held(p, number, place), group)

    def held(self, p, number, place):
        s = self.state[p]
        if not s:
            s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        return s

    def one(self, p, s, group):
        (b1, b2), lr, g = group["betas"], group["lr"], p.grad
        s["t"] += 1
        p.mul_(1 - lr * self.decay(group))
        s["m"] = b1 * s["m"] + (1 - b1) * g
        s["v"] = self.second(s, g, b2)
        m, v = s["m"] / (1 - b1 ** s["t"]), s["v"] / (1 - self.corrects(b1, b2) ** s["t"])
        p.sub_(lr * m / self.below(v, group["eps"]))

    def second(self, s, g, b2):
        return b2 * s["v"] + (1 - b2) * g * g

    def corrects(self, b1, b2):
        return b2

    def below(self, v, eps):
        return v.sqrt() + eps

    def decay(self, group):
        return group["weight_decay"]


class CorrectsWithOneBeta(AdamW):
    def corrects(self, b1, b2):
        return b1


class Belief(AdamW):
    def second(self, s, g, b2):
        return b2 * s["v"] + (1 - b2) * (g - s["m"]) ** 2


class Rootless(AdamW):
    def below(self, v, eps):
        return v + eps


class DecayOfFirstGroup(AdamW):
    def decay(self, group):
        return self.param_groups[0]["weight_decay"]


class HalfMoments(AdamW):
    def one(self, p, s, group):
        super().one(p, s, group)
        for name in ("m", "v"):
            s[name] = s[name].half().to(p.dtype)


class ByPlace(AdamW):
    """State by the place among those that have a gradient, which shifts where one has none."""

    @torch.no_grad()
    def step(self, closure=None):
        self.kept = getattr(self, "kept", {})
        due = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for place, (p, group) in enumerate(due):
            s = self.kept.setdefault((place, p.shape), {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)})
            self.one(p, s, group)

    def state_dict(self):
        return {**super().state_dict(), "kept": self.kept}

    def load_state_dict(self, saved):
        self.kept = saved["kept"]
        super().load_state_dict({k: v for k, v in saved.items() if k != "kept"})


class LoadsRates(AdamW):
    """Every group goes on with the first one's lr."""

    lost = ("lr",)

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        for group in self.param_groups:
            group.update({name: self.param_groups[0][name] for name in self.lost})


class LoadsDecays(LoadsRates):
    lost = ("weight_decay",)


class SavesHalf(AdamW):
    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        for s in self.state.values():
            s["m"], s["v"] = s["m"].bfloat16().to(s["m"]), s["v"].bfloat16().to(s["v"])


class Stable(AdamW):
    """An update whose root mean square is held to lr."""

    def one(self, p, s, group):
        before = p * (1 - group["lr"] * group["weight_decay"])
        super().one(p, s, group)
        size = ((p - before) / group["lr"]).square().mean().sqrt()
        p.copy_(before + (p - before) / size.clamp(min=1.0))


class RootKept(AdamW):
    """Right: the root of v is kept, and m as a sum."""

    def one(self, p, s, group):
        (b1, b2), lr, g = group["betas"], group["lr"], p.grad
        s["t"] += 1
        s["m"] = b1 * s["m"] + g
        s["v"] = torch.hypot(b2**0.5 * s["v"], (1 - b2) ** 0.5 * g)
        m, root = s["m"] * (1 - b1) / (1 - b1 ** s["t"]), s["v"] / (1 - b2 ** s["t"]) ** 0.5
        p.mul_(1 - lr * group["weight_decay"]).sub_(lr * m / (root + group["eps"]))


class LoadsNoOptions(AdamW):
    """Right: the options of its groups are those that it was made with, whatever was saved."""

    def load_state_dict(self, saved):
        own = [{name: x for name, x in group.items() if name != "params"} for group in self.param_groups]
        super().load_state_dict(saved)
        for group, given in zip(self.param_groups, own, strict=True):
            group.update(given)


class SGD(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-2, momentum=0.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.one(p, p.grad, self.state[p], **{k: v for k, v in group.items() if k != "params"})

    def one(self, p, g, s, lr, momentum, weight_decay):
        raise NotImplementedError


class DecoupledSGD(SGD):
    def one(self, p, g, s, lr, momentum, weight_decay):
        s["v"] = momentum * s.get("v", 0) + g
        p.sub_(lr * (s["v"] + weight_decay * p))


class NegatedSGD(SGD):
    """Right: the velocity has the other sign."""

    def one(self, p, g, s, lr, momentum, weight_decay):
        s["v"] = momentum * s.get("v", 0) - (g + weight_decay * p)
        p.add_(lr * s["v"])


class Lion(torch.optim.Optimizer):
    """That steps by the sign of the momentum, and not of what lies between it and the gradient."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["betas"][1])
                    p.sub_(group["lr"] * m.sign())


class Adagrad(torch.optim.Optimizer):
    """That adds up magnitudes for squares."""

    def __init__(self, params, lr=1e-2, eps=1e-10, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    g = p.grad + group["weight_decay"] * p
                    total = self.state[p].setdefault("sum", torch.zeros_like(p))
                    total.add_(g.abs())
                    p.sub_(group["lr"] * g / (total.sqrt() + group["eps"]))


class InDouble(AdamW):
    """Right: moments in float64, and the correction as one size of step."""

    def held(self, p, number, place):
        s = self.state[p]
        if not s:
            wide = torch.zeros_like(p, dtype=torch.float64)
            s.update(t=torch.tensor(0.0), m=wide, v=wide.clone())
        return s

    def one(self, p, s, group):
        (b1, b2), lr, g = group["betas"], torch.tensor(group["lr"], dtype=torch.float64), p.grad.double()
        s["t"] += 1
        t = int(s["t"])
        s["m"] = s["m"].double().lerp(g, 1 - b1)
        s["v"] = (s["v"].double() * b2).addcmul(g, g, value=1 - b2)
        root = (1 - b2**t) ** 0.5
        step = lr * root / (1 - b1**t) * s["m"] / (s["v"].sqrt() + group["eps"] * root)
        p.copy_(p.double() * (1 - lr * group["weight_decay"]) - step)


def wrong(name, against, make, words):
    return Program(f"own: {name}", against, lambda: make, OPTIMIZER, "wrong", words)


def right(name, against, make):
    return Program(f"own: {name}", against, lambda: make, OPTIMIZER, "right")


PROGRAMS = [
    wrong("both moments are corrected with one beta", "adamw_update", CorrectsWithOneBeta, "β₁"),
    wrong("AdaBelief", "adamw_update", Belief, "AdaBelief"),
    wrong("the root is forgotten", "adamw_update", Rootless, "root"),
    wrong("the decay of the first group", "adamw_update", DecayOfFirstGroup, "group"),
    wrong("moments in float16", "adamw_update", HalfMoments, "float16"),
    wrong("state by place", "adamw_update", ByPlace, "place"),
    wrong("a group's lr is lost", "adamw_update", LoadsRates, "lr of the first group is used for all, once the state"),
    wrong(
        "a group's decay is lost", "adamw_update", LoadsDecays, "weight_decay of the first group is used for all, once"
    ),
    wrong("saved in bfloat16", "adamw_update", SavesHalf, "the state is saved in bfloat16"),
    wrong("StableAdamW", "adamw_update", Stable, "root mean square held to lr"),
    wrong("decay beside the momentum", "sgd_update", DecoupledSGD, "decay"),
    wrong("the sign of the momentum", "lion_update", Lion, "sign"),
    wrong("magnitudes are added up", "adagrad_update", Adagrad, "square"),
    right("a velocity of the other sign", "sgd_update", NegatedSGD),
    right("the root of v is kept", "adamw_update", RootKept),
    right("options that are not loaded", "adamw_update", LoadsNoOptions),
    right("moments in float64", "adamw_update", InDouble),
]
