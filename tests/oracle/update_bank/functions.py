"""Updates as functions of their inputs, judged one call at a time: wrong ones, and right but unusual ones."""

from __future__ import annotations

import math

import torch

from tests.oracle.update_bank.entry import COMPARE, Program


def wrong(name, against, words, function, **options):
    return Program(name, against, lambda: function, COMPARE, "wrong", words, options=options)


def right(name, against, function, **options):
    return Program(name, against, lambda: function, COMPARE, "right", options=options)


def convention(name, against, words, declared, function, **options):
    return Program(name, against, lambda: function, COMPARE, "convention", words, declared, options)


def adamw(
    decay="before",
    eps_at="outside",
    amsgrad="torch",
    moments="float",
    c1=lambda b, t: 1 - b**t,
    c2=lambda b, t: 1 - b**t,
    lr_in="step",
    by=1.0,
):
    """An AdamW with one thing done in another way."""

    def update(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
        p, g, m, v, largest = inputs
        g = g * by
        if decay == "coupled":
            g = g + weight_decay * p
        rate = {"without lr": weight_decay, "squared": lr * lr * weight_decay}.get(decay, lr * weight_decay)
        if decay in ("before", "without lr", "squared"):
            p = p - rate * p
        if moments == "lerp":
            m, v = m + (g - m) * (1 - beta1), v + (g * g - v) * (1 - beta2)
        elif moments == "float32 constants":
            b1, b2 = torch.tensor(beta1, dtype=p.dtype), torch.tensor(beta2, dtype=p.dtype)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        else:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        k1, k2 = c1(beta1, step), c2(beta2, step)
        used = v
        if largest is not None:
            largest = torch.maximum(largest, v / k2 if amsgrad == "corrected" else v)
            used = largest * k2 if amsgrad == "corrected" else largest
        if eps_at == "outside":
            below = (used / k2).sqrt() + eps
        elif eps_at == "inside":
            below = (used / k2 + eps).sqrt()
        elif eps_at == "squared inside":
            below = (used / k2 + eps * eps).sqrt()
        elif eps_at == "hat":
            below = (used.sqrt() + eps) / math.sqrt(k2)
        elif eps_at == "moved":
            below = (used.sqrt() + eps * math.sqrt(k2)) / math.sqrt(k2)
        else:
            below = (used / k2).sqrt()
        if decay == "in the update":
            return p - lr * (m / k1 / below + weight_decay * p), m, v, largest
        after = p - lr * (m / k1) / below
        return after - lr * weight_decay * after if decay == "after" else after, m, v, largest

    return update


def _from_0(beta, step):
    return torch.tensor(1 - beta ** (step - 1))


def sgd(inputs, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    """Sutskever's form: lr in the velocity."""
    p, g, v = inputs
    g = g + weight_decay * p if weight_decay else g  # 0 times an infinite parameter is NaN
    if not momentum:
        return p - lr * g, v
    v = lr * g if v is None else momentum * v + lr * (1 - dampening) * g
    return p - (lr * g + momentum * v if nesterov else v), v


def sgd_no_decay(inputs, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    p, g, v = inputs
    if not momentum:
        return p - lr * g, v
    v = g.clone() if v is None else momentum * v + (1 - dampening) * g
    return p - lr * (g + momentum * v if nesterov else v), v


def rmsprop(inside=False, lr_in_buffer=False):
    def update(inputs, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
        p, g, s, b, a = inputs
        g = g + weight_decay * p
        s = alpha * s + (1 - alpha) * g * g
        a = None if a is None else alpha * a + (1 - alpha) * g
        v = s if a is None else s - a * a
        r = (v + eps).sqrt() if inside else v.sqrt() + eps
        if not momentum:
            return p - lr * g / r, s, b, a
        step = lr * g / r if lr_in_buffer else g / r
        b = step if b is None else momentum * b + step
        return p - (b if lr_in_buffer else lr * b), s, b, a

    return update


def adagrad(inside=False):
    def update(inputs, step, lr, lr_decay=0.0, eps=1e-10, weight_decay=0.0):
        p, g, s = inputs
        g = g + weight_decay * p
        s = s + g * g
        rate = lr / (1 + (step - 1) * lr_decay)
        return p - rate * g / ((s + eps).sqrt() if inside else s.sqrt() + eps), s

    return update


def clip(scale=1.0, eps_at="norm", strictly=False, root=True, parts=None, before=1.0):
    """Clipping by the norm, done in another way.  scale: what was not taken off; before: by what it is divided."""

    def update(inputs, max_norm, eps=1e-6):
        (g,) = inputs
        g = g * scale * before
        norm = g.norm() if root else (g * g).sum()
        below = {"norm": norm + eps, "none": norm, "root": (norm * norm + eps).sqrt(), "max": norm.clamp(min=eps)}
        factor = (max_norm / below.get(eps_at, norm)).clamp(max=1.0)
        if eps_at == "outside":
            factor = (max_norm / norm + eps).clamp(max=1.0)
        if strictly:
            factor = torch.where(norm > max_norm, max_norm / below[eps_at], 1.0)
        return g * factor / (scale if parts else 1.0), norm

    return update


def running(share_of_old=False, biased=False):
    def update(inputs, momentum=0.1):
        x, mean, var = inputs
        if not x.numel():
            return mean.clone(), var.clone()
        new = x.transpose(0, 1).reshape(x.shape[1], -1)
        share = 1 - momentum if share_of_old else momentum
        return mean + share * (new.mean(1) - mean), var + share * (new.var(1, unbiased=not biased) - var)

    return update


def lion(order="first"):
    def update(inputs, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
        p, g, m = inputs
        u = torch.sign(beta1 * m + (1 - beta1) * g)
        if order == "after":
            p = p - lr * u
            p = p - lr * weight_decay * p
        else:
            p = p * (1 - lr * weight_decay) - lr * u
        return p, beta2 * m + (1 - beta2) * g

    return update


def ema(kind):
    def update(inputs, decay):
        average, param = inputs
        if kind == "lerp":
            return average + (1 - decay) * (param - average)
        return (1 - decay) * average + decay * param

    return update


def unscale(by_new=False, keeps=False):
    def update(inputs, growth=2.0, backoff=0.5, interval=2000):
        g, scale, tracker = inputs
        inf = ~torch.isfinite(g).all()
        counted = tracker + 1
        grown = scale * growth
        due = counted == interval
        new = torch.where(inf, scale * backoff, torch.where(due & torch.isfinite(grown), grown, scale))
        after = torch.where(inf | due, 0, counted)
        return g / (1 if keeps else new if by_new else scale), new, after, inf

    return update


WRONG = [
    wrong("no correction", "adamw", "moments uncorrected", adamw(c1=lambda b, t: 1, c2=lambda b, t: 1)),
    wrong("t from 0", "adamw", "t from 0", adamw(c1=_from_0, c2=_from_0)),
    wrong("t frozen", "adamw", "t frozen", adamw(c1=lambda b, t: 1 - b, c2=lambda b, t: 1 - b)),
    wrong("second correction alone", "adamw", "first moment uncorrected", adamw(c1=lambda b, t: 1)),
    wrong(
        "root of the correction forgotten", "adamw", "root of the correction", adamw(c2=lambda b, t: (1 - b**t) ** 0.5)
    ),
    wrong("eps forgotten", "adamw", "eps forgotten", adamw(eps_at="none")),
    wrong("eps² below the root", "adamw", "eps", adamw(eps_at="squared inside")),
    wrong("decay without lr", "adamw", "decay without lr", adamw("without lr")),
    wrong("decay by lr²", "adamw", "decay by lr squared", adamw("squared")),
    wrong("no decay", "adamw", "decay forgotten", adamw("none")),
    wrong("gradient halved", "adamw", "1/2", adamw(by=0.5)),
    wrong("gradient of 4 pieces added up", "adamw", "multiplied by 4", adamw(by=4.0)),
    wrong("sgd without decay", "sgd", "weight_decay", sgd_no_decay),
    wrong("clip, the scale still on", "clip_by_norm", "scale", clip(scale=1024.0)),
    wrong("clip with the scale on, then taken off", "clip_by_norm", "scale", clip(scale=65536.0, parts=True)),
    wrong("clip of a mean of four", "clip_by_norm", "1/4", clip(before=0.25)),
    wrong("clip by the square of the norm", "clip_by_norm", "no root", clip(root=False)),
    wrong("clip with eps below the root", "clip_by_norm", "eps within the root", clip(eps_at="root")),
    wrong("clip with eps on the factor", "clip_by_norm", "eps", clip(eps_at="outside")),
    wrong("unscaled by the new scale", "scale_loss", "unscaled by the new scale", unscale(by_new=True)),
    wrong("not unscaled", "scale_loss", "not unscaled", unscale(keeps=True)),
    wrong("ema swapped", "ema", "swapped", ema("swapped")),
]
RIGHT = [
    right("adamw by hand", "adamw", adamw()),
    right("moments by lerp", "adamw", adamw(moments="lerp")),
    right("1 − β in float32", "adamw", adamw(moments="float32 constants")),
    right("eps through the correction", "adamw", adamw(eps_at="moved")),
    right("decay in the update", "adamw", adamw("in the update")),
    right("corrections by expm1", "adamw", adamw(c1=lambda b, t: -math.expm1(t * math.log(b)) if b else 1)),
    right("rmsprop by hand", "rmsprop", rmsprop()),
    right("adagrad by hand", "adagrad", adagrad()),
    right("lion by hand", "lion", lion()),
    right("clip by hand", "clip_by_norm", clip()),
    right("running statistics by hand", "running_statistics", running()),
    right("ema as lerp", "ema", ema("lerp")),
    right("unscale by hand", "scale_loss", unscale()),
    convention(
        "TensorFlow's eps", "adamw", "eps before the correction", {"eps": "before the correction"}, adamw(eps_at="hat")
    ),
    convention("eps_root", "adamw", "eps inside the root", {"eps": "inside the root"}, adamw(eps_at="inside")),
    convention(
        "optax's amsgrad", "adamw", "largest of the corrected", {"amsgrad": "corrected"}, adamw(amsgrad="corrected")
    ),
    convention("decay after the step", "adamw", "decay after the step", {"decay": "last"}, adamw("after")),
    convention("L2", "adamw", "decay coupled", {"decay": "coupled"}, adamw("coupled")),
    convention("Lion, decay after", "lion", "decay after the step", {"decay": "last"}, lion("after")),
    convention("Sutskever's velocity", "sgd", "lr in the velocity", {"lr": "in the velocity"}, sgd),
    convention("optax's RMSprop", "rmsprop", "eps inside the root", {"eps": "inside the root"}, rmsprop(inside=True)),
    convention(
        "TensorFlow 1's buffer", "rmsprop", "lr in the buffer", {"lr": "in the buffer"}, rmsprop(lr_in_buffer=True)
    ),
    convention("Keras' RMSprop", "rmsprop", "", {"eps": "inside the root", "lr": "in the buffer"}, rmsprop(True, True)),
    convention("Keras' Adagrad", "adagrad", "eps inside the root", {"eps": "inside the root"}, adagrad(inside=True)),
    convention("optax's clip", "clip_by_norm", "no eps", {"eps": "none"}, clip(eps_at="none", strictly=True)),
    convention(
        "Keras' statistics",
        "running_statistics",
        "share of the old",
        {"momentum": "share of the old"},
        running(share_of_old=True),
    ),
    convention(
        "flax's variance", "running_statistics", "biased variance", {"variance": "biased"}, running(biased=True)
    ),
]

PROGRAMS = WRONG + RIGHT
