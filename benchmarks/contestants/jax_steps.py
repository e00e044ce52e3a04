"""jax's step: value_and_grad and the update in one jitted program, its parameters donated."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from benchmarks.steps import L2, LR, Result, Start, StepProblem
from manual_bp.chain import BatchNorm, leaves

MOMENTUM = 0.1
"""Of batch norm's running statistics."""


def unavailable(device: str) -> str | None:
    """Why jax cannot take part, or None."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of a GPU, with the first call
    try:
        import jax
    except ImportError:
        return "jax is not installed: pip install 'manual-bp[peers]'"
    platform = "cpu" if device == "cpu" else "gpu"
    try:
        jax.devices(platform)
    except RuntimeError:
        return f"this jax has no {platform} device"
    return None


class JaxStep:
    """A step in plain jax.numpy."""

    threads = None  # XLA keeps threads of its own, one a core

    def __init__(self, problem: StepProblem) -> None:
        import jax

        self.name = "jax.jit"
        self._problem = problem
        self._step = jax.jit(self._one_step, donate_argnums=(0, 1, 2))

    def load(self, start: Start) -> None:
        import jax

        device = jax.devices("cpu" if start.x.device.type == "cpu" else "gpu")[0]

        def enter(t: torch.Tensor) -> Any:
            if t.dtype == torch.bfloat16:  # which numpy does not have
                return enter(t.float()).astype("bfloat16")
            return jax.device_put(np.array(t.detach().cpu().numpy()), device)  # memory of its own: it is donated

        self._params = {name: enter(p) for name, p in start.params.items()}
        self._buffers = {name: enter(b) for name, b in start.buffers.items()}
        self._masks = None if start.masks is None else {name: enter(m) for name, m in start.masks.items()}
        self._key = jax.device_put(jax.random.key(0), device)
        self._data = enter(start.x), enter(start.target)
        # On a GPU jax multiplies float32 in TF32 unless it is told not to.
        exact = start.x.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
        self._precision = "highest" if exact else None

    def __call__(self) -> None:
        self._params, self._buffers, self._key, self._loss = self._step(
            self._params, self._buffers, self._key, self._masks, *self._data
        )

    def wait(self) -> None:
        """Steps return before they are done."""
        self._loss.block_until_ready()

    def read(self) -> Result:
        def leave(array: Any) -> torch.Tensor:
            return torch.from_numpy(np.array(array, dtype=np.float32))

        params = {name: leave(p) for name, p in self._params.items()}
        buffers = {name: leave(b) for name, b in self._buffers.items()}
        return Result(leave(self._loss), params, buffers, penalised=False)

    def _one_step(self, params: Any, buffers: Any, key: Any, masks: Any, x: Any, target: Any) -> Any:
        import jax
        import jax.numpy as jnp

        key, drawing = jax.random.split(key)

        def cost(params: Any) -> Any:
            with jax.default_matmul_precision(self._precision):
                y, after = self._forward(params, buffers, drawing, masks, x)
            return jnp.sum((y - target) ** 2) / (2 * x.shape[0]), after

        (loss, after), gradients = jax.value_and_grad(cost, has_aux=True)(params)
        updated = {n: p - LR * (gradients[n] + L2 * p if p.ndim == 2 else gradients[n]) for n, p in params.items()}
        return updated, after, key, loss

    def _forward(self, params: Any, buffers: Any, key: Any, masks: Any, x: Any) -> Any:
        """Leaf by leaf in the model's order; a block begins with its linear layer and ends with the sum."""
        import jax

        after = dict(buffers)
        into = x
        for name, leaf in leaves(self._problem.model).items():
            if name.endswith(".linear"):
                into = x
            if leaf.rule.name == "linear":
                x = x @ params[leaf.names["weight"]].T + params[leaf.names["bias"]]
            elif isinstance(leaf, BatchNorm):
                x = _batch_norm(leaf, params, after, x)
            elif leaf.rule.name == "dropout":
                p = leaf.hyper["p"]
                key, drawing = jax.random.split(key)
                kept = jax.random.bernoulli(drawing, 1 - p, x.shape) if not masks else masks[leaf.names["mask"]]
                x = jax.numpy.where(kept, x / (1 - p), 0)
            elif leaf.rule.name == "add":
                x = into + x
            else:
                x = _activation(leaf.rule.name, leaf.hyper, x)
        return x, after


def _activation(name: str, hyper: Any, x: Any) -> Any:
    import jax

    if name == "maxout":
        return x.reshape(*x.shape[:-1], -1, hyper["pieces"]).max(-1)
    return getattr(jax.nn, name)(x, **hyper)


def _batch_norm(leaf: BatchNorm, params: Any, buffers: dict[str, Any], x: Any) -> Any:
    import jax

    eps = leaf.rule.check_hyper(leaf.hyper)["eps"]
    mean, variance = x.mean(0), x.var(0)
    fresh = (mean, variance * (x.shape[0] / (x.shape[0] - 1)))
    for name, statistic in zip(leaf.running, fresh, strict=True):
        buffers[name] = (1 - MOMENTUM) * buffers[name] + MOMENTUM * statistic
    scale = params[leaf.names["weight"]] * jax.lax.rsqrt(variance + eps)
    return (x - mean) * scale + params[leaf.names["bias"]]
