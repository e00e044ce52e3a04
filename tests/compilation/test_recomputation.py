"""What a deep step makes again is what it would have kept, bit for bit.  How much memory it saves is a benchmark."""

from __future__ import annotations

import pytest
import torch

from manual_bp.compilation import recomputation
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import adam, sgd, training_step

WIDTH, DEPTH, BATCH = 64, 6, 96

STEPS = {
    "multiplied": (mlp([WIDTH] * (DEPTH + 1), "relu"), sgd(0.01, weight_decay=0.01)),
    "sums": (residual_mlp(WIDTH, DEPTH, "relu", True, 0.5), adam(0.01)),
}


def stepped(name, steps=3):
    """All that `steps` steps leave."""
    model, optimizer = STEPS[name]
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, BATCH, WIDTH, generator=generator)

    def build():
        step = training_step(model, optimizer=optimizer, compiled=True, donate=True)
        state = step.init(torch.Generator().manual_seed(1))
        buffers = {**state.buffers, **step.masks(state, BATCH)}
        held = [type(state)(state.params, buffers, state.optimizer, state.seed)]

        def run():
            held[0], loss = step(held[0], x, target)
            return held[0], loss

        return run

    run = build()
    for _ in range(steps):
        state, loss = run()
    return {**state.params, **state.buffers, **state.optimizer, "loss": loss}


@pytest.mark.parametrize("name", STEPS)
def test_the_same_bits(name, monkeypatch, tmp_path):
    found = {}
    for what, deep in (("again", DEPTH - 1), ("kept", DEPTH)):
        monkeypatch.setattr(recomputation, "DEEP", deep)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / what))
        found[what] = stepped(name)
    got, kept = found["again"], found["kept"]
    assert all(t.isfinite().all() for t in kept.values())
    assert not [n for n, t in kept.items() if not torch.equal(got[n], t)]
