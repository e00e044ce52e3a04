"""Optimisers of torch's kind, written by hand: Adam and SGD with momentum, each with one thing done otherwise."""

from __future__ import annotations

import torch


class Adam(torch.optim.Optimizer):
    """AdamW (decoupled=True) or Adam.  fault: what is done otherwise; the state is torch's."""

    fault = ""
    decoupled = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.count = 0
        self.rates = [group["lr"] for group in self.param_groups]
        self.first = {p: group["lr"] for group in self.param_groups for p in group["params"]}

    def begin_step(self):
        self.count += 1

    @torch.no_grad()
    def step(self, closure=None):
        self.begin_step()
        rates = [group["lr"] for group in self.param_groups]
        for number, group in enumerate(self.param_groups):
            lr = self.rates[number] if self.fault == "lr of the step before" else group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.one(p, p.grad, self.state[p], lr, *group["betas"], group["eps"], group["weight_decay"])
        self.rates = rates

    def one(self, p, g, s, lr, b1, b2, eps, decay):
        fault = self.fault
        if not s:
            s.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        if fault == "no decay of vectors" and p.ndim == 1:
            decay = 0.0
        if fault == "decay of vectors alone" and p.ndim > 1:
            decay = 0.0
        s["step"] += 2 if fault == "t counted twice" else 1
        t = s["step"]
        if fault == "accumulated gradients not set to 0":
            s["sum"] = g = g + s.get("sum", 0)
        if fault == "the gradient of the step before":
            g, s["last"] = s.get("last", torch.zeros_like(g)), g.clone()
        if fault == "clipped element by element":
            g = g.clamp(-1, 1)
        if fault == "clipped by its own norm":
            g = g * min(1.0, 1.0 / (g.norm().item() + 1e-6))
        if fault == "the gradient halved":
            g = g / 2
        if fault == "decay in the gradient as well":
            g = g + decay * p
        if self.decoupled:
            if fault == "decay twice":
                p.mul_(1 - lr * decay)
            if fault == "decay by the square of lr":
                p.mul_(1 - lr * lr * decay)
            elif fault == "decay relative to the first lr":
                p.mul_(1 - self.first[p] * decay)
            elif fault not in ("decay after the step", "no decay"):
                p.mul_(1 - (1 if fault == "decay without lr" else lr) * decay)
        else:
            g = g + decay * p
        m, v = s["exp_avg"], s["exp_avg_sq"]
        m.mul_(b1).add_(g, alpha=1 - b1)
        v.mul_(b2).add_(g * g, alpha=1 if fault == "v without 1 - b2" else 1 - b2)
        tc = max(t - 1, 1) if fault == "t late" else t
        m_hat, v_hat = m / (1 - b1**tc), v / (1 - b2**tc)
        if fault == "the root of one mean for the tensor":
            v_hat = v_hat.mean().expand_as(v_hat)
        update = m_hat / (v_hat.sqrt() + eps)
        if fault == "update by its sign":
            update = update.sign()
        if fault == "clipped update":
            update = update.clamp(-1, 1)
        if fault == "eps added to v":
            update = m_hat / (v_hat + eps).sqrt()
        if fault == "eps hat":
            update = m * ((1 - b2**t) ** 0.5 / (1 - b1**t)) / (v.sqrt() + eps)
        p.sub_(lr * update)
        if fault == "decay after the step" and self.decoupled:
            p.mul_(1 - lr * decay)
        if fault == "moments in bfloat16":
            m.copy_(m.bfloat16())
            v.copy_(v.bfloat16())
        if fault == "corrected m stored":
            m.copy_(m_hat)


def adam(fault, decoupled=True, **methods):
    return type("Adam", (Adam,), {"fault": fault, "decoupled": decoupled, **methods})


class SGD(torch.optim.Optimizer):
    """Momentum as torch's, and what is done otherwise."""

    fault = ""

    def __init__(self, params, lr=0.25, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
        given = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**given, "nesterov": nesterov})
        self.shared = {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, momentum, dampening = group["lr"], group["momentum"], group["dampening"]
            for p in group["params"]:
                if p.grad is None:
                    if self.fault == "momentum goes on without a gradient" and "momentum_buffer" in self.state[p]:
                        buffer = self.state[p]["momentum_buffer"].mul_(momentum)
                        p.sub_(lr * buffer)
                    continue
                g = p.grad
                if self.fault == "accumulated gradients not set to 0":
                    self.state[p]["sum"] = g = g + self.state[p].get("sum", 0)
                decay = 0.0 if self.fault == "no decay of vectors" and p.ndim == 1 else group["weight_decay"]
                if self.fault == "decay halved":
                    decay = decay / 2
                if self.fault == "decay doubled":
                    decay = decay * 2
                g = g if self.fault == "no decay" else g + decay * p
                if momentum:
                    state = self.shared.setdefault(p.shape, {}) if self.fault == "one buffer" else self.state[p]
                    buffer = state.get("momentum_buffer")
                    if self.fault == "lr in the velocity":
                        buffer = lr * g if buffer is None else momentum * buffer + lr * (1 - dampening) * g
                        state["momentum_buffer"] = buffer
                        p.sub_(lr * g + momentum * buffer if group["nesterov"] else buffer)
                        continue
                    if self.fault == "buffer aliases the gradient" and buffer is None:
                        buffer = p.grad
                    elif buffer is None:
                        buffer = g.clone()
                    else:
                        buffer.mul_(momentum).add_(g, alpha=1 - dampening)
                    state["momentum_buffer"] = buffer
                    g = g + momentum * buffer if group["nesterov"] else buffer
                p.sub_(lr * g)


def sgd(fault, **methods):
    return type("SGD", (SGD,), {"fault": fault, **methods})
