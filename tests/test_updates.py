"""Of pages without backward what only a precision can show, and what torch's own classes do over many steps."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp


@pytest.mark.parametrize("tracker", [0, 1])
def test_a_scale_stays_finite_as_torch_s_does(tracker):
    scale = torch.tensor(2.0**127)
    inputs = (torch.ones(2), scale, torch.tensor(tracker))
    _, ours, counted, found_inf = bp.scale_loss.values_alone(inputs, interval=2)
    theirs, torch_counted = scale.reshape(1).clone(), torch.tensor([tracker], dtype=torch.int32)
    torch._amp_update_scale_(theirs, torch_counted, torch.zeros(1), 2.0, 0.5, 2)
    assert not found_inf
    assert (ours, counted) == (theirs, torch_counted)
    assert ours == scale


def test_scales_and_skipped_steps_are_grad_scaler_s():
    """A hundred steps, a fifth of which overflow."""
    leaf = torch.nn.Parameter(torch.zeros(4))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    optimizer = torch.optim.SGD([leaf], lr=1.0)
    scale, tracker = torch.tensor(1024.0), torch.tensor(0)
    param = leaf.detach().clone()
    generator = torch.Generator().manual_seed(0)
    skipped = 0
    for _ in range(100):
        g = torch.randn(4, generator=generator)
        g[0] = torch.where(torch.rand((), generator=generator) < 0.2, torch.inf, g[0])
        scaler.scale((leaf * g).sum()).backward()
        inputs = (leaf.grad.clone(), scale, tracker)
        ours, scale, tracker, found_inf = bp.scale_loss.values_alone(inputs, interval=3)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if found_inf:
            skipped += 1
        else:
            param = bp.sgd_update.values_alone((param, ours), lr=1.0).param
        assert torch.equal(leaf.detach(), param)
        assert scaler.get_scale() == scale
        assert scaler._get_growth_tracker() == tracker
    assert 0 < skipped < 100
