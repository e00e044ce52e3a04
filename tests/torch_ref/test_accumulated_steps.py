"""Training steps that add up .grad over micro-batches, as they are: right ones pass, and what goes wrong is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torch_ref
from manual_bp.oracle import Case, compare


class Cost(nn.Linear):
    def forward(self, x, target):
        return (super().forward(x).tanh() - target).square().mean()


def step(weight=lambda n, of: n / of, before=lambda module: None, after=lambda module: None):
    """A step over pieces of two rows: what each weighs, and what is done before and after it."""

    def run(module, x, target):
        module.zero_grad()
        for own, labels in zip(x.split(2), target.split(2), strict=True):
            before(module)
            (module(own, labels) * weight(len(own), len(x))).backward()
            after(module)
        return module(x, target).detach()

    return run


def clip(module):
    nn.utils.clip_grad_norm_(module.parameters(), 0.1)


WRONG = {
    "it is the mean of the pieces' means": step(lambda n, of: 1 / -(-of // 2)),
    "the means of the pieces are added up": step(lambda n, of: 1.0),
    "the gradient is that of the last of the pieces alone": step(before=nn.Module.zero_grad),
    "what is added up so far is clipped to 0.1 after each of the pieces": step(after=clip),
}


def report_of(run):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (5, 3), "target": (5, 2), "weight": (2, 3), "bias": (2,)}
    cases = [
        Case(tuple(torch.randn(shape, generator=generator) for shape in shapes.values()), torch.tensor(dy))
        for dy in (1.0, -0.5, 2.0)
    ]
    module = Cost(3, 2)
    before = module.weight.detach().clone()
    report = compare(torch_ref.accumulated(run, module, [2]), module, inputs=shapes, cases=cases)
    assert module.weight.grad is None
    assert torch.equal(module.weight, before)
    return report


def test_a_right_step_passes():
    assert report_of(step()).passed


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_step_is_named(words):
    report = report_of(WRONG[words])
    assert not report.passed
    assert report.diagnoses[0].startswith(words), str(report)


def test_statistics_of_a_piece_are_rightly_its_own():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="normalises each piece by the statistics of the piece, rightly"):
        torch_ref.accumulated(step(), module)
    torch_ref.accumulated(step(), module.eval())
