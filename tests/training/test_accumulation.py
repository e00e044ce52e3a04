"""A batch in pieces of unequal size gives the whole batch's step."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from manual_bp import losses
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import sgd, training_step
from tests.allowed import assert_agrees
from tests.training.examples import paired, targets

LOSSES = losses.names()
MODELS = {
    "mlp": lambda: mlp([4, 5, 3], "tanh", "sigmoid"),
    "dropout": lambda: residual_mlp(5, 2, "elu", False, 0.5, inputs=4, outputs=3),
}
PENALTIES = {
    "none": {},
    "l1": {"l1": 0.1},
    "l2": {"l2": 0.1},
    "clipped": {"l2": 0.1, "clip_norm": 0.01},
    "max_norm": {"max_norm": 0.5},
}
PIECES = [(4, 3), (1, 5, 1), (1,) * 7]
IGNORED = 2
"""Examples without a target, where a loss knows such: the first, so that all of a piece of one or two are."""


def problem(name, loss, penalty):
    step = training_step(MODELS[name](), loss, optimizer=sgd(0.5, momentum=0.5), **PENALTIES[penalty])
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator, dtype=torch.float64)
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    y, _, _ = step.model.forward(state.params, {**state.buffers, **step.masks(state, 7)}, x)
    return step, state, x, targets(loss, y, generator, IGNORED)


def cut(x, lengths):
    ends = list(itertools.accumulate(lengths))
    return [x[end - length : end] for length, end in zip(lengths, ends, strict=True)]


def judge(accumulate, step, state, x, target, pieces):
    """The pieces' step against the whole batch's, within what rounding may do."""
    names = list(state.params)
    whole, loss = step(state, x, target)

    def run(x, *params):
        given = replace(state, params=dict(zip(names, params, strict=True)))
        after, cost = accumulate(given, list(zip(cut(x, pieces), cut(target, pieces), strict=True)))
        return cost, *after.params.values(), *after.optimizer.values()

    assert_agrees(run, (x, *state.params.values()), (loss, *whole.params.values(), *whole.optimizer.values()))


@pytest.mark.parametrize(("name", "loss", "penalty", "pieces"), paired(MODELS, LOSSES, PENALTIES, PIECES), ids=str)
def test_pieces_give_the_whole_batch_s_step(name, loss, penalty, pieces):
    step, state, x, target = problem(name, loss, penalty)
    judge(step.accumulate, step, state, x, target, pieces)


def mean_of_means(step, state, batches):
    found = [step.gradients(step.model, state, x, target) for x, target in batches]
    gradients = {name: sum(g[name] for _, g, _ in found) / len(found) for name in state.params}
    return step.update(state, gradients, found[-1][2]), sum(cost for cost, _, _ in found) / len(found)


def penalty_by_piece(step, state, batches):
    n = sum(len(x) for x, _ in batches)
    found = [(len(x) / n, *step.gradients(step.model, state, x, target)) for x, target in batches]
    gradients = {name: sum(share * g[name] for share, _, g, _ in found) for name in state.params}
    extra = {name: (len(batches) - 1) * step.l2 * state.params[name] for name in step.weights}
    gradients = {name: g + extra.get(name, 0) for name, g in gradients.items()}
    return step.update(state, gradients, found[-1][3]), sum(share * cost for share, cost, _, _ in found)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("wrong", "penalty"), [(mean_of_means, "none"), (penalty_by_piece, "l2")])
def test_a_wrong_sum_is_rejected(wrong, penalty, loss):
    step, state, x, target = problem("mlp", loss, penalty)
    with pytest.raises(AssertionError, match="result"):
        judge(lambda given, batches: wrong(step, given, batches), step, state, x, target, (3, 4))


def test_one_piece_is_the_step_itself_bit_for_bit():
    step, state, x, target = problem("dropout", "square_loss", "l2")
    (whole, loss), (pieces, cost) = step(state, x, target), step.accumulate(state, [(x, target)])
    assert torch.equal(loss, cost)
    assert all(torch.equal(whole.params[name], pieces.params[name]) for name in whole.params)


def test_chosen_masks_are_cut_with_the_batch():
    step, state, x, target = problem("dropout", "square_loss", "none")
    chosen = step.model.draw_masks(7, torch.Generator().manual_seed(9))
    given = replace(state, buffers={**state.buffers, **chosen})
    judge(step.accumulate, step, given, x, target, (3, 4))


def test_batch_norm_sees_each_piece():
    """Its running statistics are those of the pieces one after the other, and one step is counted."""
    step = training_step(residual_mlp(4, 1, "relu", momentum=None, inputs=4, outputs=3), optimizer=sgd(0.1))
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator)
    x, target = torch.randn(7, 4, generator=generator), torch.randn(7, 3, generator=generator)
    after, _ = step.accumulate(state, list(zip(cut(x, (3, 4)), cut(target, (3, 4)), strict=True)))
    buffers = state.buffers
    for piece in cut(x, (3, 4)):
        _, _, buffers = step.model.forward(state.params, buffers, piece)
    assert after.steps == state.steps + 1
    assert after.buffers["block1.batch_norm.num_batches_tracked"] == 2
    assert all(torch.equal(after.buffers[name], buffers[name]) for name in buffers)


def test_what_is_no_batch_in_pieces():
    step, state, x, target = problem("mlp", "square_loss", "none")
    with pytest.raises(ValueError, match="at least one"):
        step.accumulate(state, [])
    wrong = {
        r"x \(3, 4\) with torch.float64 \(3, 3\), x \(4, 4\) with torch.float32 \(4, 3\)": target[3:].float(),
        r"x \(4, 4\) with torch.float64 \(4, 2\)": target[3:, :2],
        r"x \(4, 4\) with torch.float64 \(3, 3\)": target[4:],
    }
    for words, second in wrong.items():
        with pytest.raises(ValueError, match=f"each piece must have a target for each example, .*{words}"):
            step.accumulate(state, [(x[:3], target[:3]), (x[3:], second)])
    with pytest.raises(ValueError, match="each piece must have a target for each example"):
        step.accumulate(state, [(x[:3], target[:4]), (x[3:], target[4:])])
