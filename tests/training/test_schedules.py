"""The learning rate of each step: its course, and that a step is made with it, as torch's schedulers have it."""

from __future__ import annotations

import math

import pytest
import torch

from manual_bp.models import mlp
from manual_bp.training import Schedule, adamw, sgd, training_step
from manual_bp.training.optimizers import Optimizer
from torch_ref.training.optimizers import update


def test_the_course_is_torch_s():
    """Warm-up and cosine as torch.optim.lr_scheduler has them, from the first step to the last and beyond."""
    schedule = Schedule(warmup=5, steps=30)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    warm = torch.optim.lr_scheduler.LinearLR(theirs, start_factor=1 / 5, total_iters=4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=25, eta_min=0.1)
    both = torch.optim.lr_scheduler.SequentialLR(theirs, [warm, cosine], milestones=[4])
    for made in range(30):
        # Both roundings of some ten operations.
        assert math.isclose(schedule.factor(made), theirs.param_groups[0]["lr"], rel_tol=100 * torch.finfo(float).eps)
        theirs.step()
        both.step()
    assert schedule.factor(29) == schedule.factor(300) == 0.1
    assert Schedule(warmup=2).factor(10**6) == Schedule().factor(0) == 1.0


@pytest.mark.parametrize("optimizer", [adamw(0.1), sgd(0.1, momentum=0.9)], ids=lambda o: o.name)
def test_a_step_is_made_with_the_learning_rate_of_its_number(optimizer):
    """Through several steps, each against torch.optim with that rate; the moments know nothing of it."""
    schedule = Schedule(warmup=2, steps=4)
    step = training_step(mlp([3, 2]), optimizer=optimizer, schedule=schedule)
    state = step.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for made in range(5):
        x, target = (torch.randn(4, n, generator=generator, dtype=torch.float64) for n in (3, 2))
        _, gradients, _ = step.gradients(step.model, state, x, target)
        scaled = schedule.at(optimizer, made)
        assert scaled.config["lr"] == 0.1 * schedule.factor(made)
        params, moments = update(scaled, gradients, state.optimizer, state.params)
        state, _ = step(state, x, target)
        for name, p in params.items():
            # A step is some twenty operations on numbers of size 1.
            assert (p - state.params[name]).abs().max() <= 20 * torch.finfo(torch.float64).eps
        assert moments.keys() == state.optimizer.keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(warmup=-1), "at least 0; came -1"),
        (lambda: Schedule(warmup=10, steps=10), "more steps than those of the warm-up; came 10 after 10"),
        (lambda: Schedule(steps=0), "more steps than those of the warm-up; came 0 after 0"),
        (lambda: training_step(mlp([2, 2]), optimizer=sgd(0.1), schedule=0.1), "schedule must be a Schedule"),
        (
            lambda: training_step(mlp([2, 2]), optimizer=Optimizer("own", {}, dict, tuple), schedule=Schedule()),
            r"a schedule is for \['sgd', 'adam', 'adamw'\]; came the optimiser 'own'",
        ),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
