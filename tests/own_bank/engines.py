"""Engines: one training step, wrong in one place each, or right and unusual.

A label is words that the first sentence must hold: for each group one of its alternatives, split at "|".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manual_bp.models import gpt, mlp, residual_mlp
from manual_bp.training import Schedule, adam, adamw, sgd
from torch_ref.training.engine import TorchEngine
from torch_ref.training.optimizers import update


@dataclass(frozen=True)
class Engine:
    """make: the factory for lockstep. words: groups of alternatives; none of a right one. options: of the run."""

    make: Any
    words: tuple[str, ...] = ()
    model: str = "mlp"
    options: dict[str, Any] = field(default_factory=dict)


MODELS = {
    "mlp": lambda: mlp([5, 6, 4, 3], "tanh"),
    "relu": lambda: mlp([5, 6, 4, 3], "relu"),
    "residual": lambda: residual_mlp(6, 2, "elu", True, 0.25, inputs=5, outputs=3),
    "gpt": lambda: gpt(3, 5, width=8, heads=2, depth=1),
}


def changed(change):
    """Torch's engine whose module `change` has been at."""

    def make(name, **options):
        engine = TorchEngine(name, **options)
        inner = engine._module
        engine._module = lambda **config: change(inner(**config))
        return engine

    return make


def after(change):
    """Torch's engine whose record `change(record, state, engine)` has been at."""

    class After(TorchEngine):
        def __init__(self, name, **options):
            super().__init__(name, **options)
            self.options, self.kept = options, {}

        def step(self, state, x, target):
            self.data = (x, target)
            return change(super().step(state, x, target), state, self)

    return After


def before(change):
    """Torch's engine to which `change(state, x, target, engine)` gives something else."""

    class Before(TorchEngine):
        def __init__(self, name, **options):
            super().__init__(name, **options)
            self.options, self.kept = options, {}

        def step(self, state, x, target):
            return super().step(*change(state, x, target, self))

    return Before


def with_gradients(record, gradients, state, engine):
    """The record of an engine that has made its update of these gradients."""
    optimizer = engine.options["optimizer"]
    schedule = engine.options.get("schedule")
    made = schedule.at(optimizer, state.steps) if schedule else optimizer
    params, moments = update(made, gradients, state.optimizer, state.params)
    return replace(record, gradients=gradients, params=params, optimizer=moments)


# ---------------------------------------------------------------------------------------------------------- modules


class WrongTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(a := z.tanh())
        return a

    @staticmethod
    def backward(ctx, da):
        (a,) = ctx.saved_tensors
        return da * (1 - a)  # a is not squared


class LeakyBackward(torch.autograd.Function):
    """ReLU forward, the slope 1 backward."""

    @staticmethod
    def forward(ctx, z):
        return z.relu()

    @staticmethod
    def backward(ctx, da):
        return da


class BiasMean(torch.autograd.Function):
    """z + b whose db is the mean over the batch."""

    @staticmethod
    def forward(ctx, z, b):
        ctx.n = len(z)
        return z + b

    @staticmethod
    def backward(ctx, dz):
        return dz, dz.mean(0)


def activation(position, function):
    def change(module):
        module.activations[position] = function
        return module

    return changed(change)


def bias_mean(module):
    class Meaning(type(module)):
        def forward(self, x, masks=None, tape=lambda layer, letter, t: t):
            z = tape("linear1", "z", BiasMean.apply(x @ self.W1.T, self.b1))
            a = tape("activation1", "a", z.tanh())
            z = tape("linear2", "z", F.linear(a, self.W2, self.b2))
            a = tape("activation2", "a", z.tanh())
            return tape("linear3", "z", F.linear(a, self.W3, self.b3))

    module.__class__ = Meaning
    return module


def block(change):
    """Of the residual network: its second block's forward is another function of its parts."""

    def at(module):
        kind = type(module.block2)

        class Other(kind):
            def forward(self, x, name, masks, tape):
                return change(self, x, name, masks, tape)

        module.block2.__class__ = Other
        return module

    return changed(at)


def _branch(self, x, name, masks, tape, norm=None, drop=None):
    y = tape(f"{name}.linear", "z", self.linear(x))
    y = tape(f"{name}.batch_norm", "y", (norm or self.batch_norm)(y))
    y = tape(f"{name}.activation", "a", self.activation(y))
    mask = masks[f"{name}.dropout.mask"]
    return tape(f"{name}.dropout", "y", (drop or (lambda y, mask: torch.where(mask, y / (1 - self.p), 0)))(y, mask))


def residual_forgotten(self, x, name, masks, tape):
    return tape(name, "y", _branch(self, x, name, masks, tape) + 0 * x)


def residual_detached(self, x, name, masks, tape):
    return tape(name, "y", _branch(self, x, name, masks, tape) + x.detach())


def dropout_unscaled(self, x, name, masks, tape):
    return tape(name, "y", x + _branch(self, x, name, masks, tape, drop=lambda y, mask: torch.where(mask, y, 0)))


def dropout_off(self, x, name, masks, tape):
    return tape(name, "y", x + _branch(self, x, name, masks, tape, drop=lambda y, mask: y * 1))


def norm_evaluating(self, x, name, masks, tape):
    self.batch_norm.eval()
    return tape(name, "y", x + _branch(self, x, name, masks, tape))


def norm_twice(self, x, name, masks, tape):
    self.batch_norm(self.linear(x).detach())
    return tape(name, "y", x + _branch(self, x, name, masks, tape))


def norm_unbiased(self, x, name, masks, tape):
    bn = self.batch_norm

    def norm(z):
        bn(z.detach())
        return (z - z.mean(0)) / torch.sqrt(z.var(0, unbiased=True) + bn.eps) * bn.weight + bn.bias

    return tape(name, "y", x + _branch(self, x, name, masks, tape, norm=norm))


def norm_constant(self, x, name, masks, tape):
    """The statistics are taken for constants backward."""
    bn = self.batch_norm

    def norm(z):
        bn(z.detach())
        s = torch.rsqrt(z.var(0, unbiased=False) + bn.eps).detach()
        return (z - z.mean(0).detach()) * s * bn.weight + bn.bias

    return tape(name, "y", x + _branch(self, x, name, masks, tape, norm=norm))


# ------------------------------------------------------------------------------------------------------------ changes


def former_batch(state, x, target, engine):
    """Trains on the batch of the step before."""
    now = engine.kept.get("data", (x, target))
    engine.kept["data"] = (x, target)
    return state, *now


def former_gradient(record, state, engine):
    now = engine.kept.get("gradients", record.gradients)
    engine.kept["gradients"] = record.gradients
    return with_gradients(record, now, state, engine)


def not_zeroed(record, state, engine):
    total = engine.kept.get("gradients")
    total = record.gradients if total is None else {n: g + total[n] for n, g in record.gradients.items()}
    engine.kept["gradients"] = total
    return with_gradients(record, total, state, engine)


def not_zeroed_beside_decay(record, state, engine):
    """As where torch's optimiser decays: .grad has no penalty, and what is left in it neither."""
    decay = {n: engine.options["l2"] * w if n.startswith("W") else 0.0 for n, w in state.params.items()}
    left = engine.kept.get("gradients", {})
    total = {n: g - decay[n] + left.get(n, 0.0) for n, g in record.gradients.items()}
    engine.kept["gradients"] = total
    return with_gradients(record, {n: g + decay[n] for n, g in total.items()}, state, engine)


def scaled(factor):
    def change(record, state, engine):
        c = factor(len(engine.data[0]))
        layers = {
            name: {k: c * t if k in ("delta", "da", "dy") else t for k, t in found.items()}
            for name, found in record.layers.items()
        }
        gradients = {n: c * g for n, g in record.gradients.items()}
        return replace(with_gradients(record, gradients, state, engine), layers=layers, loss=c * record.loss)

    return after(change)


def labels_shifted(state, x, target, engine):
    return state, x, target.roll(1, 0)


def labels_next(state, x, target, engine):
    return state, x, (target + 1) % 3


def state_reset(state, x, target, engine):
    return replace(state, optimizer=engine.options["optimizer"].init(state.params)), x, target


def other_update(change):
    """The update of another optimiser: change(optimizer, state) -> optimizer."""

    def at(record, state, engine):
        own = engine.options["optimizer"]
        params, moments = update(change(own), record.gradients, state.optimizer, state.params)
        return replace(record, params=params, optimizer=moments)

    return after(at)


def next_lr(record, state, engine):
    made = engine.options["schedule"].at(engine.options["optimizer"], state.steps + 1)
    params, moments = update(made, record.gradients, state.optimizer, state.params)
    return replace(record, params=params, optimizer=moments)


def former_lr(record, state, engine):
    made = engine.options["schedule"].at(engine.options["optimizer"], max(state.steps - 1, 0))
    params, moments = update(made, record.gradients, state.optimizer, state.params)
    return replace(record, params=params, optimizer=moments)


def penalised_biases(record, state, engine):
    l2 = engine.options["l2"]
    gradients = {n: g + l2 * state.params[n] if n.startswith("b") else g for n, g in record.gradients.items()}
    return with_gradients(record, gradients, state, engine)


def decay_on_weights_alone(record, state, engine):
    """AdamW that spares biases, where all are to be decayed."""
    own = engine.options["optimizer"]
    plain = adamw(own.config["lr"], weight_decay=0.0)
    spared, _ = update(plain, record.gradients, state.optimizer, state.params)
    params = {n: spared[n] if p.ndim < 2 else p for n, p in record.params.items()}
    return replace(record, params=params)


def frozen(record, state, engine):
    """b2 stays as it was."""
    return replace(record, params={**record.params, "b2": state.params["b2"]})


def clip_forgotten(record, state, engine):
    return with_gradients(record, record.gradients, state, engine)


def clip_each(record, state, engine):
    limit = engine.options["clip_norm"]
    clipped = {n: g * torch.clamp(limit / (g.norm() + 1e-6), max=1) for n, g in record.gradients.items()}
    return replace(with_gradients(record, clipped, state, engine), gradients=record.gradients)


def stepped_twice(record, state, engine):
    own = engine.options["optimizer"]
    params, moments = update(own, record.gradients, record.optimizer, record.params)
    return replace(record, params=params, optimizer=moments)


def uphill(record, state, engine):
    moved = {n: 2 * state.params[n] - p for n, p in record.params.items()}
    return replace(record, params=moved)


def running_by_old(record, state, engine):
    """The share of the old is taken for that of the new."""
    buffers = {}
    for name, after_ in record.buffers.items():
        old = state.buffers[name]
        fresh = (after_ - 0.9 * old) / 0.1
        buffers[name] = 0.1 * old + 0.9 * fresh
    return replace(record, buffers=buffers)


class UpdatedTooEarly(TorchEngine):
    """Each layer is updated as soon as its gradient is there, and the cotangent then passes its new weights."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.options = options

    def step(self, state, x, target):
        record = super().step(state, x, target)
        own, gradients, layers = self.options["optimizer"], dict(record.gradients), dict(record.layers)
        delta = layers["linear3"]["delta"]
        params, moments = dict(state.params), dict(state.optimizer)
        for k in (3, 2, 1):
            a = layers[f"activation{k - 1}"]["a"] if k > 1 else x
            gradients[f"W{k}"], gradients[f"b{k}"] = delta.T @ a, delta.sum(0)
            new, found = update(own, gradients, state.optimizer, state.params)
            for name in (f"W{k}", f"b{k}"):
                params[name] = new[name]
                moments |= {n: t for n, t in found.items() if n.endswith(f".{name}") or n == "step"}
            layers[f"linear{k}"] = {**layers[f"linear{k}"], "delta": delta}
            if k > 1:
                da = delta @ params[f"W{k}"]
                layers[f"activation{k - 1}"] = {**layers[f"activation{k - 1}"], "da": da}
                delta = da * (1 - a**2)
        return replace(record, gradients=gradients, layers=layers, params=params, optimizer=moments)


def tied_once(record, state, engine):
    """The head's part of the gradient of the embedding's weight is forgotten."""
    name = next(n for n in record.gradients if "embedding" in n or n.startswith("token"))
    delta = record.layers["head"]["delta"]
    last = next(reversed([k for k in record.layers if k != "head"]))
    (y,) = (t for k, t in record.layers[last].items() if k in ("y", "a", "z"))
    own = delta.flatten(0, -2).T @ y.flatten(0, -2)
    gradients = {**record.gradients, name: record.gradients[name] - own}
    return with_gradients(record, gradients, state, engine)


def bare(make):
    """Of an engine the loss, the gradients and the new parameters, and nothing else."""

    def factory(name, **options):
        engine = make(name, **options)
        inner = engine.step

        def step(state, x, target):
            record = inner(state, x, target)
            return replace(record, layers={}, optimizer={}, buffers={})

        engine.step = step
        return engine

    return factory


MOMENTUM = {"optimizer": sgd(0.05, momentum=0.9), "l2": 0.0}
ADAM = {"optimizer": adam(0.01), "l2": 0.0}
ADAMW = {"optimizer": adamw(0.01, weight_decay=0.1), "l2": 0.0}
ONE = {"l2": 0.0, "optimizer": sgd(0.05)}
CLIPPED = {"optimizer": sgd(0.05), "l2": 0.0, "clip_norm": 0.05}
SCHEDULED = {"optimizer": sgd(0.05), "l2": 0.0, "schedule": Schedule(warmup=10)}

WRONG = {
    "forward of one layer": Engine(activation(1, torch.sigmoid), ("activation2", "forward of tanh"), options=ONE),
    "forward a little off": Engine(
        activation(0, lambda z: (1.001 * z).tanh()), ("activation1", "forward of tanh"), options=ONE
    ),
    "backward of one layer": Engine(activation(0, WrongTanh.apply), ("linear1", "backward of tanh"), options=ONE),
    "relu passes everything back": Engine(
        activation(1, LeakyBackward.apply), ("linear2", "backward of relu"), "relu", ONE
    ),
    "db is a mean": Engine(changed(bias_mean), ("linear1", "db", "backward of linear|mean"), options=ONE),
    "residual forgotten": Engine(block(residual_forgotten), ("block2", "residual|skip"), "residual", ONE),
    "residual without its gradient": Engine(
        block(residual_detached), ("block2|block1", "residual|skip|branch"), "residual", ONE
    ),
    "dropout not scaled": Engine(block(dropout_unscaled), ("block2.dropout", "scale|1/(1 − p)|0.75"), "residual", ONE),
    "dropout off": Engine(block(dropout_off), ("block2.dropout", "dropout|drop"), "residual", ONE),
    "batch norm evaluates": Engine(
        block(norm_evaluating), ("block2.batch_norm", "running statistics"), "residual", ONE
    ),
    "batch norm updated twice": Engine(block(norm_twice), ("block2.batch_norm", "running", "twice"), "residual", ONE),
    "batch norm unbiased": Engine(block(norm_unbiased), ("block2.batch_norm", "n − 1|unbiased"), "residual", ONE),
    "batch norm's statistics as constants": Engine(
        block(norm_constant), ("block2.linear|block2.batch_norm", "batch_norm", "constant|projection"), "residual", ONE
    ),
    "momentum for its complement": Engine(
        after(running_by_old), ("batch_norm", "running", "share|momentum"), "residual", ONE
    ),
    "batch of the step before": Engine(before(former_batch), ("batch", "before|former"), options=ONE),
    "gradient of the step before": Engine(after(former_gradient), ("gradient", "before|former"), options=ONE),
    "gradients not zeroed": Engine(after(not_zeroed), ("zero|added up",), options=ONE),
    "gradients not zeroed, beside decay": Engine(
        after(not_zeroed_beside_decay), ("zero|added up",), options={**ONE, "l2": 0.05}
    ),
    "sum for a mean": Engine(scaled(lambda n: n), ("loss", "sum"), options=ONE),
    "mean over outputs too": Engine(scaled(lambda n: 1 / 3), ("loss", "classes|outputs|1/3"), options=ONE),
    "labels shifted along the batch": Engine(
        before(labels_shifted), ("target|label", "shifted|one further|row"), options=ONE
    ),
    "labels of the next class": Engine(before(labels_next), ("target|label", "class|shifted|one further"), options=ONE),
    "updated too early": Engine(UpdatedTooEarly, ("updated before|new weights|updated weights",), options=ONE),
    "tied weight counted once": Engine(after(tied_once), ("share|tied|embedding", "head|embedding|linear"), "gpt", ONE),
    "state of the optimiser lost": Engine(before(state_reset), ("update", "lost|begins anew|reset"), options=MOMENTUM),
    "Adam's state lost": Engine(before(state_reset), ("update", "lost|begins anew|reset"), options=ADAM),
    "penalty on biases": Engine(after(penalised_biases), ("penalty|decay", "bias"), options={**ONE, "l2": 0.05}),
    "decay spares biases": Engine(after(decay_on_weights_alone), ("update", "decay", "bias"), options={**ADAMW}),
    "decay coupled": Engine(
        other_update(lambda o: adam(o.config["lr"], weight_decay=o.config["weight_decay"])),
        ("update", "decay|coupled|L2|l2"),
        options=ADAMW,
    ),
    "parameter left out of the update": Engine(
        after(frozen), ("update", "linear2", "not moved|stays|left"), options=ONE
    ),
    "clipping forgotten": Engine(after(clip_forgotten), ("update", "clip", "left out"), options=CLIPPED),
    "clipping of each tensor": Engine(after(clip_each), ("update", "clip", "each|tensor"), options=CLIPPED),
    "learning rate of the next step": Engine(after(next_lr), ("update", "learning rate", "next"), options=SCHEDULED),
    "learning rate of the step before": Engine(
        after(former_lr), ("update", "learning rate", "step before"), options=SCHEDULED
    ),
    "two updates": Engine(after(stepped_twice), ("update", "twice|two"), options=MOMENTUM),
    "uphill": Engine(after(uphill), ("update", "sign|uphill|-1|−1"), options=ONE),
    "nesterov for momentum": Engine(
        other_update(lambda o: sgd(o.config["lr"], momentum=0.9, nesterov=True)),
        ("update", "esterov|lookahead"),
        options=MOMENTUM,
    ),
    "another lr": Engine(other_update(lambda o: sgd(2 * o.config["lr"])), ("update", "2 times|twice|lr"), options=ONE),
}

for _name in (
    "sum for a mean",
    "gradients not zeroed",
    "batch of the step before",
    "labels of the next class",
    "state of the optimiser lost",
    "penalty on biases",
    "updated too early",
):
    _found = WRONG[_name]
    WRONG[f"bare: {_name}"] = replace(_found, make=bare(_found.make))
for _name in ("residual forgotten", "batch norm evaluates", "dropout off"):
    _found = WRONG[_name]
    WRONG[f"bare: {_name}"] = replace(_found, make=bare(_found.make))


# -------------------------------------------------------------------------------------------------------------- right


class Keeping:
    """A module of plain torch and its optimiser, which nobody resets: loss, gradients and parameters are shown."""

    def __init__(self, dtype=None, pieces=1, **how):
        self.dtype, self.pieces, self.how, self.module = dtype, pieces, how, None

    def __call__(self, name, *, optimizer, **options):
        return Kept(self, optimizer)


class Kept:
    def __init__(self, asked, optimizer):
        self.asked, self.own = asked, optimizer
        self.module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
        if asked.dtype:
            self.module.to(asked.dtype)
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        self.optimizer = kinds[optimizer.name](self.module.parameters(), **optimizer.config, **asked.how)

    def step(self, state, x, target):
        from manual_bp.training.engine import StepRecord

        named = dict(zip(["W1", "b1", "W2", "b2", "W3", "b3"], self.module.parameters(), strict=True))
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(state.params[name])
        self.optimizer.zero_grad()
        n, total = len(x), 0.0
        with torch.enable_grad():
            for part, labels in zip(x.chunk(self.asked.pieces), target.chunk(self.asked.pieces), strict=True):
                y = self.module(part.to(self.asked.dtype or part.dtype))
                cost = F.cross_entropy(y, labels, reduction="sum") / n
                cost.backward()
                total = total + cost.detach()
        gradients = {name: p.grad.clone() for name, p in named.items()}
        self.optimizer.step()
        return StepRecord(total, {}, gradients, {name: p.detach().clone() for name, p in named.items()}, {}, {})


def some_layers(record, state, engine):
    """What a fused layer keeps inside is not shown."""
    return replace(record, layers={k: v for k, v in record.layers.items() if k.startswith("linear")})


def values_alone(record, state, engine):
    letters = ("z", "a", "y")
    return replace(record, layers={k: {m: t for m, t in v.items() if m in letters} for k, v in record.layers.items()})


def with_history(record, state, engine):
    """Results that autograd still knows, and that are not contiguous."""

    def odd(t):
        return t.detach().T.contiguous().T.requires_grad_() if t.ndim == 2 else t

    return replace(record, gradients={n: odd(t) for n, t in record.gradients.items()})


def no_gradients(record, state, engine):
    return replace(record, gradients={}, layers={}, optimizer={})


RIGHT = {
    "torch's": Engine(TorchEngine, options=ADAM),
    "torch's residual": Engine(TorchEngine, model="residual", options=MOMENTUM),
    "bare SGD": Engine(Keeping(), options=MOMENTUM),
    "bare Adam": Engine(Keeping(), options=ADAM),
    "bare AdamW, fused": Engine(Keeping(fused=True), options=ADAMW),
    "bare AdamW, foreach": Engine(Keeping(foreach=True), options=ADAMW),
    "bare in float64": Engine(Keeping(dtype=torch.float64), options=ADAM),
    "bare in two pieces": Engine(Keeping(pieces=2), options=MOMENTUM),
    "some layers": Engine(after(some_layers), options=MOMENTUM),
    "values alone": Engine(after(values_alone), options=MOMENTUM),
    "residual, some layers": Engine(after(some_layers), model="residual", options=MOMENTUM),
    "recorded, strided": Engine(after(with_history), options=ADAM),
    "parameters alone": Engine(after(no_gradients), options=MOMENTUM),
    "bare residual": Engine(bare(TorchEngine), model="residual", options=ADAM),
    "clipped": Engine(TorchEngine, options=CLIPPED),
    "penalised": Engine(TorchEngine, options={**ONE, "l2": 0.05, "l1": 0.01}),
    "tied": Engine(TorchEngine, model="gpt", options=ONE),
}
