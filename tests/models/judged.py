"""One step of a model by hand and by torch's modules, within what rounding may do."""

from __future__ import annotations

from dataclasses import replace

import torch

from manual_bp.chain import leaves
from manual_bp.training import adam, training_step
from manual_bp.training.engine import ManualEngine, StepRecord, allowance_of
from torch_ref.training.engine import TorchEngine


def worst_of_a_step(model, x, target, **options):
    """The largest error over allowance of all values, cotangents, gradients, parameters, moments and statistics.

    The names are asserted to be the same.  options: of the step.
    """
    how = {"loss": "softmax_cross_entropy", "optimizer": adam(1e-3), **options}
    step = training_step(model, **how)
    state = step.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    # Biases and scales of their own: where all are alike, an axis or a place could be confused unseen.
    generator = torch.Generator().manual_seed(2)
    params = {name: p + 0.1 * torch.randn(p.shape, generator=generator).double() for name, p in state.params.items()}
    state = replace(state, params=params, buffers={**state.buffers, **step.masks(state, len(x))})
    ours = ManualEngine(step).step(state, x, target)
    theirs = TorchEngine(model.name, **how, **model.config).step(state, x, target)
    assert ours.layers.keys() == theirs.layers.keys() == leaves(model).keys()
    assert ours.params.keys() == theirs.params.keys() == ours.gradients.keys()
    # Masks pass through the step by hand, and are no statistics.
    ours, theirs = (
        replace(r, buffers={n: b for n, b in r.buffers.items() if n not in model.masks}) for r in (ours, theirs)
    )
    assert ours.buffers.keys() == theirs.buffers.keys()
    allowance = allowance_of(step, state, x, target, torch.float64, 0)
    allowance = replace(allowance, buffers={name: allowance.buffers[name] for name in ours.buffers})

    def over_allowance(ours, theirs, allowance):
        difference = (ours - theirs).abs().double()
        return (difference / (2 * allowance)).nan_to_num(0).max()  # 0/0 where nothing rounds

    worst = StepRecord.combine(over_allowance, ours, theirs, allowance)
    found = [worst.loss, *(ratio for layer in worst.layers.values() for ratio in layer.values())]
    groups = (worst.gradients, worst.params, worst.optimizer, worst.buffers)
    return max([*found, *(ratio for named in groups for ratio in named.values())])
