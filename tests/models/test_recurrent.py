"""Recurrent networks: names, options and composition against torch's own modules."""

from __future__ import annotations

import pytest
import torch

from manual_bp.chain import leaves, trace
from manual_bp.models import recurrent
from manual_bp.training import adam, training_step
from tests.models.judged import worst_of_a_step
from tests.training.examples import paired
from torch_ref.models import Recurrent

VOCABULARY, CONTEXT, WIDTH = 5, 4, 3
CELLS = {"lstm": {}, "gru": {}, "rnn": {}, "relu": {"cell": "rnn", "nonlinearity": "relu"}}


def made(cell, **options):
    return recurrent(VOCABULARY, CONTEXT, WIDTH, **{"cell": cell, **CELLS[cell], **options})


def tokens(n=3, positions=CONTEXT):
    drawn = torch.randint(VOCABULARY, (n, positions + 1), generator=torch.Generator().manual_seed(1))
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


@pytest.mark.parametrize(("cell", "layers", "dropout"), paired(CELLS, [1, 2], [0.0, 0.3]), ids=str)
def test_every_tensor_is_the_module_s(cell, layers, dropout):
    """Values, cotangents, gradients, updated parameters and moments of one step, within what rounding may do."""
    model = made(cell, layers=layers, dropout=dropout)
    assert worst_of_a_step(model, *tokens(), clip_norm=1.0, l2=1e-3, max_norm=0.5) <= 1


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_are_the_module_s(cell):
    model = made(cell, layers=2)
    params, state = model.init(torch.Generator().manual_seed(0))
    module = Recurrent(**model.config)
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in module.named_parameters()}
    assert state == {}
    weights = training_step(model, "softmax_cross_entropy", optimizer=adam()).weights
    assert weights == [name for name, p in params.items() if p.ndim == 2]
    assert all(bool(params[name].any()) == (name in weights) for name in params)


def test_a_trace_shows_each_layer_by_name():
    model = made("gru", layers=2, dropout=0.2)
    step = training_step(model, "softmax_cross_entropy", optimizer=adam())
    state, (x, target) = step.init(torch.Generator().manual_seed(0), dtype=torch.float64), tokens()
    found = trace(model, state.params, step.masks(state, 3), x, target, "softmax_cross_entropy")
    assert list(found) == list(leaves(model)) == ["embedding", "layer1", "dropout1", "layer2", "dropout2", "head"]
    assert set(found["layer1"]) == {"y", "dy", "dweight_ih", "dweight_hh", "dbias_ih", "dbias_hh", "dh0"}
    assert found["layer1"]["y"].shape == (CONTEXT, 3, WIDTH)


@pytest.mark.parametrize("cell", CELLS)
def test_no_position_sees_a_later_one_and_each_sees_the_first(cell):
    model = made(cell, layers=2)
    params, _ = model.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    x, _ = tokens(1, 9)  # more than the context

    def run(x):
        return model.forward(params, {}, x)[0]

    first, last = ((x + torch.eye(9, dtype=torch.int64)[place]) % VOCABULARY for place in (0, 8))
    assert torch.equal(run(x)[..., :-1], run(last)[..., :-1])
    assert not torch.equal(run(x)[..., -1], run(last)[..., -1])
    assert (run(x) != run(first)).any(1).all()


def test_a_batch_in_pieces_makes_the_same_step():
    model = made("lstm", dropout=0.2)
    step = training_step(model, "softmax_cross_entropy", optimizer=adam())
    state, (x, target) = step.init(torch.Generator().manual_seed(0), dtype=torch.float64), tokens()
    whole, _ = step(state, x, target)
    pieces, _ = step.accumulate(state, [(x[:1], target[:1]), (x[1:], target[1:])])
    # Adam's first step is lr times the sign of a gradient; nothing here is so near 0 that rounding decides it
    assert all(torch.allclose(p, pieces.params[name], rtol=0, atol=1e-9) for name, p in whole.params.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 0}, "must be at least 1"),
        ({"cell": "lstn"}, r"cell must be one of \['lstm', 'gru', 'rnn'\]; came 'lstn'"),
        ({"dropout": 1.0}, "0 ≤ p < 1"),
        ({"nonlinearity": "relu"}, "nonlinearity"),
    ],
)
def test_bad_options_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        recurrent(VOCABULARY, CONTEXT, WIDTH, **given)


def test_a_reset_that_torch_has_not_is_said():
    with pytest.raises(ValueError, match=r"nn\.GRU resets after the product"):
        Recurrent(**made("gru", reset="before").config)
