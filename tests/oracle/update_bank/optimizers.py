"""Optimisers that are judged over several steps: wrong ones, and right but unusual ones."""

from __future__ import annotations

import torch

from manual_bp.oracle import of_optimizer
from tests.oracle.update_bank.entry import OPTIMIZER, Program
from tests.oracle.update_bank.stepping import Adam, adam, sgd


def wrong(name, words, make, against="adamw_update", **options):
    return Program(name, against, make, OPTIMIZER, "wrong", words, options=options)


def right(name, make, against="adamw_update", **options):
    return Program(name, against, make, OPTIMIZER, "right", options=options)


def convention(name, words, declared, make, against="adamw_update", **options):
    return Program(name, against, make, OPTIMIZER, "convention", words, declared, options)


def loaded(method):
    """A method in place of load_state_dict."""
    return {"load_state_dict": method}


def _no_count(self, saved):
    """The step counts are left at 0, moments kept."""
    Adam.load_state_dict(self, saved)
    for state in self.state.values():
        state["step"] = 0


def _no_moments(self, saved):
    Adam.load_state_dict(self, saved)
    for state in self.state.values():
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()


def _second_moment_lost(self, saved):
    Adam.load_state_dict(self, saved)
    for state in self.state.values():
        state["exp_avg_sq"].zero_()


def _swapped(self, saved):
    """State is given to parameters in another order, where shapes do not tell."""
    Adam.load_state_dict(self, saved)
    for state in self.state.values():
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg_sq"], state["exp_avg"]


class OfFirstGroup(Adam):
    """All hyperparameters but lr are those of param_groups[0]."""

    def one(self, p, g, s, lr, *rest):
        first = self.param_groups[0]
        super().one(p, g, s, lr, *first["betas"], first["eps"], first["weight_decay"])


class DecaysAll(Adam):
    """Parameters without a gradient decay too."""

    @torch.no_grad()
    def begin_step(self):
        super().begin_step()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])


class ByShape(Adam):
    """Parameters of one shape share their moments."""

    def __init__(self, *args, **given):
        super().__init__(*args, **given)
        self.kept = {}

    def one(self, p, g, s, *rest):
        super().one(p, g, self.kept.setdefault(p.shape, {}), *rest)


WRONG = [
    wrong("options of the first group", "all hyperparameters but lr of the first group", lambda: OfFirstGroup),
    wrong("decay without a gradient", "a parameter without a gradient decays", lambda: DecaysAll),
    wrong("moments shared by shape", "kept by shape", lambda: ByShape),
    wrong("decay not of biases", "biases", lambda: adam("no decay of vectors")),
    wrong("decay of biases alone", "one axis alone", lambda: adam("decay of vectors alone")),
    wrong(
        "gradients added up from step to step",
        "gradients are not set to 0",
        lambda: adam("accumulated gradients not set to 0"),
    ),
    wrong(
        "gradients added up, sgd",
        "gradients are not set to 0",
        lambda: sgd("accumulated gradients not set to 0"),
        "sgd_update",
    ),
    wrong(
        "gradient one step late",
        "the gradient is that of the step before",
        lambda: adam("the gradient of the step before"),
    ),
    wrong("gradient clipped by value", "clipped element by element", lambda: adam("clipped element by element")),
    wrong(
        "gradient clipped by each tensor's norm",
        "by the norm of each tensor",
        lambda: adam("clipped by its own norm"),
    ),
    wrong("gradient halved", "1/2 times", lambda: adam("the gradient halved")),
    wrong("t counted twice a step", "t counted twice", lambda: adam("t counted twice")),
    wrong("decay after the step", "decay after the step", lambda: adam("decay after the step")),
    wrong("decay without lr", "decay without lr", lambda: adam("decay without lr")),
    wrong("no decay", "decay forgotten", lambda: adam("no decay")),
    wrong("decay twice", "decay twice", lambda: adam("decay twice")),
    wrong("decay coupled and decoupled", "decay coupled as well", lambda: adam("decay in the gradient as well")),
    wrong("decay by lr²", "decay by lr squared", lambda: adam("decay by the square of lr")),
    wrong("decay at the first lr", "decay by the lr of the first step", lambda: adam("decay relative to the first lr")),
    wrong("L2 in AdamW", "decay coupled", lambda: adam("", decoupled=False)),
    wrong("v without 1 − β₂", "second moment without 1 − β₂", lambda: adam("v without 1 - b2")),
    wrong("corrected m stored", "corrected", lambda: adam("corrected m stored")),
    wrong(
        "one root for the whole tensor",
        "one square for the whole tensor",
        lambda: adam("the root of one mean for the tensor"),
    ),
    wrong("update clipped", "clamped", lambda: adam("clipped update")),
    wrong("lr of the step before", "lr is that of the step before", lambda: adam("lr of the step before")),
    wrong("step count lost", "t begins anew when the state is loaded", lambda: adam("", **loaded(_no_count))),
    wrong("moments lost", "the moments are lost", lambda: adam("", **loaded(_no_moments))),
    wrong("second moment lost", "exp_avg_sq is lost", lambda: adam("", **loaded(_second_moment_lost))),
    wrong("moments exchanged when loaded", "saved and loaded", lambda: adam("", **loaded(_swapped))),
    wrong("moments in bfloat16", "bfloat16", lambda: adam("moments in bfloat16")),
    wrong("sgd: decay not of biases", "biases", lambda: sgd("no decay of vectors"), "sgd_update"),
    wrong("sgd: no decay", "decay forgotten", lambda: sgd("no decay"), "sgd_update"),
    wrong("sgd: half the decay", "decay is 1/2 times", lambda: sgd("decay halved"), "sgd_update"),
    wrong("sgd: twice the decay", "decay is 2 times", lambda: sgd("decay doubled"), "sgd_update"),
    wrong("sgd: buffers shared by shape", "kept by shape", lambda: sgd("one buffer"), "sgd_update"),
    wrong(
        "sgd: momentum rolls on",
        "a parameter without a gradient is stepped",
        lambda: sgd("momentum goes on without a gradient"),
        "sgd_update",
    ),
]


class Kahan(torch.optim.Optimizer):
    """AdamW of 16-bit parameters whose lost low bits are kept beside."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            (b1, b2), lr, eps, decay = group["betas"], group["lr"], group["eps"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s, g = self.state[p], p.grad.float()
                if not s:
                    wide = torch.zeros_like(p, dtype=torch.float32)
                    s.update(step=0, m=wide.clone(), v=wide, low=torch.zeros_like(p))
                s["step"] += 1
                t = s["step"]
                s["m"].mul_(b1).add_(g, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
                whole = p.float() + s["low"].float()
                update = -lr * decay * whole - lr * (s["m"] / (1 - b1**t)) / ((s["v"] / (1 - b2**t)).sqrt() + eps)
                s["low"].add_(update.to(p.dtype))
                before = p.clone()
                p.add_(s["low"])
                s["low"].add_(before - p)


class Masters(torch.optim.Optimizer):
    """torch's AdamW on float32 copies, rounded into the parameters."""

    def __init__(self, params, **given):
        super().__init__(params, given)
        self.masters = [
            {**g, "params": [p.detach().float().requires_grad_() for p in g["params"]]} for g in self.param_groups
        ]
        self.inner = torch.optim.AdamW(self.masters, **given)

    @torch.no_grad()
    def step(self, closure=None):
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner["lr"] = group["lr"]
            for p, master in zip(group["params"], inner["params"], strict=True):
                master.grad = None if p.grad is None else p.grad.float()
        self.inner.step()
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            for p, master in zip(group["params"], inner["params"], strict=True):
                p.copy_(master)

    def state_dict(self):
        return {
            "inner": self.inner.state_dict(),
            "masters": [[p.detach() for p in g["params"]] for g in self.inner.param_groups],
        }

    def load_state_dict(self, saved):
        self.inner.load_state_dict(saved["inner"])
        for group, own in zip(self.inner.param_groups, saved["masters"], strict=True):
            for p, x in zip(group["params"], own, strict=True):
                p.data.copy_(x)


class EightBit(Adam):
    """AdamW whose moments are stored in 8 bits, one scale for a tensor."""

    def one(self, p, g, s, *rest):
        for name in ("exp_avg", "exp_avg_sq"):
            if s:
                s[name] = s[name][0].float() * s[name][1]
        super().one(p, g, s, *rest)
        for name in ("exp_avg", "exp_avg_sq"):
            scale = (s[name].abs().max() / 127).clamp(min=1e-30)
            s[name] = (torch.round(s[name] / scale).to(torch.int8), scale)

    def load_state_dict(self, saved):
        held = {k: dict(v) for k, v in saved["state"].items()}
        super().load_state_dict(saved)
        for (_, own), kept in zip(self.state.items(), held.values(), strict=True):
            own.update(kept)


class Flat(torch.optim.Optimizer):
    """All parameters of a group as one flat vector, with one closure-less step (as ZeRO and apex do)."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            (b1, b2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if not s:
                    s.update(step=torch.tensor(0.0), m=torch.zeros(p.numel()), v=torch.zeros(p.numel()))
                s["step"] += 1
                t, g, flat = int(s["step"]), p.grad.reshape(-1), p.reshape(-1)
                s["m"] = torch.lerp(s["m"], g, 1 - b1)
                s["v"] = s["v"] * b2 + g * g * (1 - b2)
                size = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
                eps = group["eps"] * (1 - b2**t) ** 0.5
                flat = flat * (1 - lr * group["weight_decay"]) - size * s["m"] / (s["v"].sqrt() + eps)
                p.copy_(flat.reshape(p.shape))


class Closured(torch.optim.AdamW):
    """One that insists on a closure, as LBFGS does."""

    def step(self, closure):
        with torch.enable_grad():
            closure()
        return super().step()


class DictState(Adam):
    """One whose step is called with gradients of its own making: sparse ones made dense."""

    def one(self, p, g, *rest):
        super().one(p, g.to_sparse().to_dense(), *rest)


BF16 = torch.bfloat16
RIGHT = [
    right("written by hand", lambda: adam("")),
    right("written by hand, coupled", lambda: adam("", decoupled=False), "adam_update"),
    right("sgd by hand", lambda: sgd(""), "sgd_update"),
    right("options that are passed on", lambda: of_optimizer(lambda p, **given: torch.optim.AdamW(p, **given))),
    right("foreach", lambda: of_optimizer(torch.optim.AdamW, foreach=True)),
    right("fused", lambda: of_optimizer(torch.optim.AdamW, fused=True)),
    right("fused sgd", lambda: of_optimizer(torch.optim.SGD, fused=True), "sgd_update"),
    right("fused adagrad", lambda: of_optimizer(torch.optim.Adagrad, fused=True), "adagrad_update"),
    wrong(
        "capturable, which torch refuses here", "capturable", lambda: of_optimizer(torch.optim.AdamW, capturable=True)
    ),
    right("lr a tensor", lambda: of_optimizer(_TensorLr)),
    right("differentiable", lambda: of_optimizer(torch.optim.AdamW, differentiable=True)),
    right("decoupled_weight_decay", lambda: of_optimizer(torch.optim.Adam, decoupled_weight_decay=True)),
    right("flat vectors, eps moved through the correction", lambda: Flat),
    right("a closure", lambda: Closured),
    right("sparse made dense", lambda: DictState),
    right("Kahan's sum", lambda: Kahan, dtype=BF16),
    right("masters", lambda: Masters, dtype=BF16),
    right("masters, strict", lambda: Masters, dtype=BF16, strict=True),
    right("8-bit states, declared", lambda: EightBit, state_error=1 / 127),
    right("sparse gradients, sgd", lambda: of_optimizer(torch.optim.SGD, sparse=True), "sgd_update"),
    right("sparse gradients, adagrad", lambda: of_optimizer(torch.optim.Adagrad, sparse=True), "adagrad_update"),
    convention(
        "SparseAdam",
        "eps before the correction",
        {"eps": "before the correction", "sparse": "lazy"},
        lambda: of_optimizer(torch.optim.SparseAdam, sparse=True),
        "adam_update",
    ),
    convention(
        "eps of TensorFlow", "eps before the correction", {"eps": "before the correction"}, lambda: adam("eps hat")
    ),
    convention("eps below the root", "eps inside the root", {"eps": "inside the root"}, lambda: adam("eps added to v")),
    convention("decay after the step", "decay after the step", {"decay": "last"}, lambda: adam("decay after the step")),
    convention("L2", "decay coupled", {"decay": "coupled"}, lambda: adam("", decoupled=False)),
    convention(
        "lr in the velocity",
        "lr in the velocity",
        {"lr": "in the velocity"},
        lambda: sgd("lr in the velocity"),
        "sgd_update",
    ),
    convention(
        "lr late",
        "lr is that of the step before",
        {"schedule": "the step before"},
        lambda: adam("lr of the step before"),
    ),
]


class _TensorLr(torch.optim.AdamW):
    """The lr is a tensor, as capturable programs have it."""

    def __init__(self, params, **given):
        super().__init__(params, **{**given, "foreach": False, "capturable": False})

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"])
        super().step()


PROGRAMS = WRONG + RIGHT
