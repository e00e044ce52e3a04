"""Models, losses, penalties and optimisers: two steps in lockstep with torch, and every tensor of them judged.

By default every two of them are together in some combination; all combinations with --exhaustive.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manual_bp import losses
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import adam, adamw, sgd, training_step
from manual_bp.training.judging.judge import Judge
from tests.conftest import short
from tests.training.examples import paired, targets
from tests.training.wrong_optimizers import WRONG
from torch_ref.training.engine import TorchEngine

MODELS = {
    "notes": lambda: mlp([4, 5, 3], "sigmoid", "sigmoid"),
    "maxout": lambda: mlp([4, 5, 3], "maxout", pieces=2),
    "residual": lambda: residual_mlp(5, 2, "elu", True, 0.25, inputs=4, outputs=3),
    "cumulative": lambda: residual_mlp(5, 1, "tanh", inputs=4, outputs=3, momentum=None),
}
LOSSES = losses.names()
PENALTIES = {
    "none": {},
    "l1": {"l1": 0.01},
    "l2": {"l2": 0.01},
    "clip": {"l1": 1e-3, "clip_norm": 0.1},
    "max_norm": {"l2": 1e-3, "max_norm": 0.75},
}
OPTIMIZERS = {
    "sgd": sgd(0.1, weight_decay=1e-3),
    "momentum": sgd(0.1, momentum=0.9, dampening=0.25),
    "nesterov": sgd(0.1, momentum=0.9, nesterov=True),
    "adam": adam(0.01, weight_decay=0.01),
    "adamw": adamw(0.01),
}


def judged(model, loss, optimizer, dtype, steps=2, by=None, **options):
    """A judge who has seen some steps; `by` trains in place of `optimizer`, which torch has."""
    step = training_step(model, loss, optimizer=by or optimizer, **options)
    engine = TorchEngine(model.name, loss=loss, optimizer=optimizer, **options, **model.config)
    judge = Judge(step, engine, dtype, against="torch")
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator, dtype=dtype)
    for number in range(1, steps + 1):
        x = torch.randn(8, 4, generator=generator, dtype=torch.float64).to(dtype)
        target = targets(loss, torch.empty(8, 3, dtype=dtype), generator, ignored=number - 1)
        with_masks = {**state.buffers, **step.masks(state, 8)}
        judge.step(number, replace(state, buffers=with_masks), x, target, seed=number)
        state, _ = step(state, x, target)
    return judge


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("model", "loss", "penalty", "optimizer"), paired(MODELS, LOSSES, PENALTIES, OPTIMIZERS))
def test_step_is_torch_s(model, loss, penalty, optimizer):
    dtype = torch.float32 if len(penalty) % 2 else torch.float64
    judge = judged(MODELS[model](), loss, OPTIMIZERS[optimizer], dtype, **PENALTIES[penalty])
    assert not judge.diverged
    assert not judge.disagreements, [f"{d.layer} {d.quantity}: {d.sentence}" for d in judge.disagreements]
    kinds = {row.quantity.split()[0] for row in judge.rows}
    assert {"J", "dW", "W", "b"} <= kinds
    if optimizer in ("adam", "adamw"):
        assert {"exp_avg", "exp_avg_sq", "step"} <= kinds
    if optimizer in ("momentum", "nesterov"):
        assert "momentum_buffer" in kinds


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("notes", torch.float32),
        *(
            pytest.param(*row, marks=pytest.mark.exhaustive)
            for row in (("notes", torch.float64), ("residual", torch.float64), ("residual", torch.float32))
        ),
    ],
    ids=short,
)
def test_a_wrong_optimizer_is_named_as_the_update(name, model, dtype):
    wrong = WRONG[name]()
    right = {"sgd": sgd, "adam": adam, "adamw": adamw}[wrong.name](**wrong.config)
    judge = judged(MODELS[model](), "square_loss", right, dtype, by=wrong)
    assert judge.disagreements, f"{name} went unnoticed"
    assert all("it comes from the update" in d.sentence for d in judge.disagreements), name
