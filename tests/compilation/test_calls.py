"""What compiled steps and rules are called with: tensors that share memory, and what the uncompiled refuses.

Programs are traced, which decides all of it, and not compiled.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import manual_bp as bp
from manual_bp.compilation import tracing
from manual_bp.models import residual_mlp
from manual_bp.training import sgd, training_step
from tests.compilation.conftest import trace_only

SIZE, BATCH = 3, 4
MODEL = residual_mlp(SIZE, 2, "tanh", batch_norm=False, dropout=0.5)
W1, W2 = "block1.linear.weight", "block2.linear.weight"
OPTIONS = {"optimizer": sgd(0.1, momentum=0.9), "l2": 0.1}
UNCOMPILED = training_step(MODEL, **OPTIONS)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def begin(step):
    """A state with masks, x and target, none of which share memory."""
    state = step.init(torch.Generator().manual_seed(0))
    state = replace(state, buffers=step.masks(state, BATCH))
    return state, drawn(BATCH, SIZE, seed=1), drawn(BATCH, SIZE, seed=2)


def x_is_target(state, x, target):
    return state, x, x


def x_and_target_overlap(state, x, target):
    rows = drawn(BATCH + 1, SIZE, seed=3)
    return state, rows[:-1], rows[1:]


def two_weights_are_one(state, x, target):
    return replace(state, params={**state.params, W2: state.params[W1]}), x, target


def two_weights_overlap(state, x, target):
    rows = drawn(SIZE + 1, SIZE, seed=3)
    return replace(state, params={**state.params, W1: rows[1:], W2: rows[:-1]}), x, target


def x_lies_in_a_weight(state, x, target):
    rows = drawn(2 * SIZE, SIZE, seed=3)
    return replace(state, params={**state.params, W1: rows[:SIZE]}), rows[1 : BATCH + 1], target


def target_lies_in_a_momentum(state, x, target):
    rows = drawn(2 * SIZE, SIZE, seed=3)
    return replace(state, optimizer={**state.optimizer, f"momentum_buffer.{W2}": rows[SIZE:]}), x, rows[:BATCH]


def everything_overlaps(state, x, target):
    rows = drawn(BATCH + 3, SIZE, seed=3)
    params = {**state.params, W1: rows[:SIZE], W2: rows[1 : SIZE + 1]}
    return replace(state, params=params), rows[2 : BATCH + 2], rows[3 : BATCH + 3]


TOGETHER = [x_is_target, x_and_target_overlap, x_lies_in_a_weight, target_lies_in_a_momentum]
STATES_TOGETHER = [two_weights_are_one, two_weights_overlap]


def copied(state):
    parts = ("params", "buffers", "optimizer")
    return replace(state, **{part: {n: t.clone() for n, t in getattr(state, part).items()} for part in parts})


def assert_same_step(step, state, x, target):
    expected, cost = UNCOMPILED(copied(state), x.clone(), target.clone())
    after, loss = step(state, x, target)
    torch.testing.assert_close(loss, cost)
    torch.testing.assert_close((after.params, after.optimizer), (expected.params, expected.optimizer))


@pytest.mark.parametrize("share", [x_is_target, everything_overlaps])
def test_a_step_first_called_with_shared_memory_serves_other_calls(share, traced_only):
    step = training_step(MODEL, **OPTIONS, compiled=True)
    assert_same_step(step, *share(*begin(step)))
    assert_same_step(step, *begin(step))
    assert len(step.programs) == 1


@pytest.fixture(scope="module")
def donated_once():
    """A donated step that has been called."""
    step = training_step(MODEL, **OPTIONS, compiled=True, donate=True)
    with pytest.MonkeyPatch.context() as patch:
        trace_only(patch)
        step(*begin(step))
    return step


@pytest.mark.parametrize("share", TOGETHER)
def test_a_donated_step_reads_nothing_that_it_writes(share, donated_once, monkeypatch):
    (built,) = donated_once._built.values()
    run, written = built.program.run, len(built._kinds)

    def watched(flat):
        spans = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in flat]
        assert all(a >= d or c >= b for a, b in spans[:written] for c, d in spans[written:])
        return run(flat)

    monkeypatch.setattr(built, "program", replace(built.program, run=watched))
    assert_same_step(donated_once, *share(*begin(donated_once)))


@pytest.mark.parametrize("share", STATES_TOGETHER)
def test_a_donated_state_that_shares_memory_is_refused(share, donated_once):
    with pytest.raises(ValueError, match=r"block.\.linear\.weight and block.\.linear\.weight share memory"):
        donated_once(*share(*begin(donated_once)))


X, TARGET = drawn(BATCH, SIZE, seed=1), drawn(BATCH, SIZE, seed=2)
BAD = {
    "NumPy": lambda t: t.numpy(),
    "a list": lambda t: t.tolist(),
    "nothing": lambda t: None,
    "another dtype": lambda t: t.double(),
    "integers": lambda t: t.int(),
    "another device": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "one example": lambda t: t[0],
    "too wide": lambda t: torch.cat([t, t], 1),
    "too many": lambda t: torch.cat([t, t]),
}


def with_param(state, name, bad):
    return replace(state, params={**state.params, name: bad(state.params[name])})


def with_mask(state, bad):
    (name, *_) = MODEL.masks
    return replace(state, buffers={**state.buffers, name: bad(state.buffers[name])})


BAD_CALLS = {
    **{f"x: {kind}": lambda s, x, t, bad=bad: (s, bad(x), t) for kind, bad in BAD.items()},
    **{f"target: {kind}": lambda s, x, t, bad=bad: (s, x, bad(t)) for kind, bad in BAD.items()},
    **{f"weight: {kind}": lambda s, x, t, bad=bad: (with_param(s, W1, bad), x, t) for kind, bad in BAD.items()},
    "mask: NumPy": lambda s, x, t: (with_mask(s, lambda mask: mask.numpy()), x, t),
    "mask: too wide": lambda s, x, t: (with_mask(s, lambda mask: torch.cat([mask, mask], 1)), x, t),
    "mask: another device": lambda s, x, t: (with_mask(s, lambda mask: mask.to("meta")), x, t),
    "no state": lambda s, x, t: (s.params, x, t),
    "a parameter is missing": lambda s, x, t: (replace(s, params={W1: s.params[W1]}), x, t),
}


@pytest.fixture(scope="module")
def called_once():
    """A compiled step that has been called as it should be."""
    step = training_step(MODEL, **OPTIONS, compiled=True)
    with pytest.MonkeyPatch.context() as patch:
        trace_only(patch)
        step(*begin(step))
        yield step


@pytest.mark.parametrize("bad", BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_bad_call_gets_the_sentence_of_the_uncompiled(bad, called_once):
    said = []
    for step in (UNCOMPILED, called_once):
        with pytest.raises(ValueError, match="; came ") as caught:
            step(*bad(*begin(step)))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert_same_step(called_once, *begin(called_once))


def test_autocast_is_refused_alike(called_once):
    for step in (UNCOMPILED, called_once):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="Leave autocast"):
            step(*begin(step))


def test_a_rule_under_autocast_is_the_rule(traced_only):
    inputs, dy = (drawn(BATCH, SIZE), drawn(SIZE, SIZE), drawn(SIZE)), drawn(BATCH, SIZE, seed=1)
    linear = bp.compile_rule("linear")
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(linear(inputs, dy), bp.linear.vjp(inputs, dy), rtol=0, atol=0)
        torch.testing.assert_close(linear(inputs, dy), bp.linear.vjp(inputs, dy))


def test_no_program_has_autocast_in_it():
    x = drawn(SIZE, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        graph = tracing.traced(lambda x: [x @ x], [x])
    assert torch.equal(graph(x)[0], x @ x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_hyperparameter_is_refused_after_its_equal_was_taken(device, traced_only):
    elu, x = bp.compile_rule("elu"), torch.ones(2, device=device)
    elu((x,), x, alpha=1.0)
    with pytest.raises(ValueError, match="alpha must be a real number; came True"):
        elu((x,), x, alpha=True)


def test_numpy_arrays_get_the_sentence_of_the_rule(traced_only):
    relu, x = bp.compile_rule("relu"), np.ones(2)
    relu((torch.ones(2),), torch.ones(2))
    with pytest.raises(ValueError, match=r"x must be a torch\.Tensor; came ndarray"):
        relu((x,), x)
