"""Compiled steps: in step with the uncompiled, built once, and honest where they cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch

from manual_bp.compilation import aoti, kept, kernels, program, recomputation
from manual_bp.losses import Loss, names
from manual_bp.models import cnn, gpt, mlp, residual_mlp, resnet
from manual_bp.oracle.cases.layouts import lay_out
from manual_bp.training import Schedule, Step, adam, adamw, sgd, training_step
from manual_bp.training.engine import allowance_of
from tests.compilation.conftest import interpret
from tests.training.examples import targets

# "inductor" where torch cannot load what it compiled ahead of time.
KINDS = {"cpu": {"aoti", "inductor"}, "cuda": {"cuda graph"}}
STEPS = {
    "mlp": (mlp([4, 5, 3], "tanh"), {"optimizer": sgd(0.1), "l2": 0.01}),
    "momentum": (mlp([4, 5, 3], "relu"), {"optimizer": sgd(0.1, momentum=0.9)}),
    "adam": (mlp([4, 5, 3], "elu"), {"optimizer": adam(0.01)}),
    "residual": (residual_mlp(4, 2, "tanh", True, 0.5, inputs=4, outputs=3), {"optimizer": sgd(0.1), "l2": 0.01}),
}


def problem(name, dtype, device="cpu", batch=6, loss="square_loss", **compiled):
    model, options = STEPS[name]
    step = training_step(model, loss, **options, compiled=True, **compiled)
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator, dtype=dtype, device=device)
    x = torch.randn(batch, 4, generator=generator).to(device, dtype)
    target = targets(loss, torch.randn(batch, 3, generator=generator).to(dtype), generator, ignored=1)
    return step, state, x, target.to(device)


@pytest.mark.parametrize("donate", [True, pytest.param(False, marks=pytest.mark.exhaustive)])  # 2 CPU seconds each
def test_a_transformer_is_one_program(built, donate):
    """Two steps: its tables of rotations stay as they are, its tied weight gets both cotangents, and a token that is
    not in the vocabulary is refused, at which no program looks."""
    model = gpt(5, 4, 8, 2, 1, norm="rms", feedforward="swiglu", position="rope", kv_heads=1, dropout=0.2)
    how = {"optimizer": adamw(0.01), "clip_norm": 1.0, "compiled": True, "donate": donate}
    step = training_step(model, "softmax_cross_entropy", **how)
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator, dtype=torch.float64)
    tables = {name: table.clone() for name, table in state.buffers.items()}
    for _ in range(2):
        tokens = torch.randint(5, (3, 5), generator=generator)
        x, target = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        masked = replace(copied(state), buffers={**copied(state).buffers, **step.masks(state, 3)})
        uncompiled = Step(model, step.loss, step.optimizer, clip_norm=1.0)
        widths = allowance_of(uncompiled, masked, x, target, torch.float64, seed=0)
        expected, cost = uncompiled(copied(state), x, target)
        state, found = step(state, x, target)
        assert (found - cost).abs() <= 2 * widths.loss
        for name, p in expected.params.items():
            assert ((p - state.params[name]).abs() <= 2 * widths.params[name]).all(), name
    assert all(torch.equal(table, tables[name]) for name, table in state.buffers.items())
    assert len(step.programs) == 1
    with pytest.raises(ValueError, match="index must be positions on entries, which has 5: 0 to 4; came 7"):
        step(state, torch.full((3, 4), 7), target)


@pytest.mark.parametrize(
    "model", [cnn((1, 9, 8), 3, (20, "max", 5, "avg")), resnet((2, 7, 6), 3, (4, 18))], ids=lambda m: m.name
)
def test_a_network_of_images_is_one_program(model, built):
    """What stands in for its pages works with channels side by side."""
    step = training_step(model, "softmax_cross_entropy", optimizer=sgd(0.1), compiled=True)
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator)
    for number in range(2):
        x, target = torch.randn(5, *model.config["image"], generator=generator), torch.tensor([0, 1, 2, 2, 1])
        state = agreeing(step, state, x, target, number)
    assert len(step.programs) == 1


@pytest.mark.parametrize("optimizer", [sgd(0.1, momentum=0.9), adamw(0.1, weight_decay=0.5)], ids=lambda o: o.name)
def test_one_program_has_the_learning_rate_of_each_step(optimizer, traced_only):
    """Through warm-up and cosine the compiled parameters are the uncompiled ones, bit for bit: a rate that is a tensor
    is rounded like a number."""
    how = {"optimizer": optimizer, "schedule": Schedule(warmup=2, steps=4), "frozen": ["b1"]}
    uncompiled, step = (training_step(mlp([3, 2]), **how, **more) for more in ({}, {"compiled": True, "donate": True}))
    expected, state = (s.init(torch.Generator().manual_seed(0)) for s in (uncompiled, step))
    x, target = torch.ones(4, 3), torch.zeros(4, 2)
    for _ in range(5):
        (expected, _), (state, _) = uncompiled(expected, x, target), step(state, x, target)
        assert all(torch.equal(p, state.params[name]) for name, p in expected.params.items())
    assert len(step.programs) == 1


def everything(state):
    return {**state.params, **state.buffers, **state.optimizer}


def copied(state):
    return replace(
        state,
        **{
            part: {n: t.clone() for n, t in getattr(state, part).items()} for part in ("params", "buffers", "optimizer")
        },
    )


def agreeing(step, state, x, target, number=0):
    """The state after one compiled step, which lies where the uncompiled one's may."""
    uncompiled = Step(step.model, step.loss, step.optimizer, step.l2)
    masked = replace(state, buffers={**state.buffers, **step.masks(state, len(x), str(x.device))})
    allowance = allowance_of(uncompiled, masked, x, target, x.dtype, seed=number)
    expected, cost = uncompiled(state, x, target)
    after, loss = step(state, x, target)
    assert (loss - cost).abs() <= 2 * allowance.loss
    widths = {**allowance.params, **allowance.buffers, **allowance.optimizer}
    for n, t in everything(after).items():
        beyond = (t - everything(expected)[n]).abs() > 2 * widths[n].to(t.device)
        assert not beyond.any(), f"step {number}: {n}"
    assert after.steps == expected.steps
    return after


def agreeing_for_three(step, state, x, target):
    """Three steps, which leave the old state as it was; the program that they are."""
    for number in range(3):
        before = copied(state)
        after = agreeing(step, state, x, target, number)
        assert all(torch.equal(t, everything(before)[n]) for n, t in everything(state).items())
        state = after
    (built,) = step.programs  # no recompilation from step to step
    return built


def allocated(call, folder):
    """The bytes of each tensor for which the call asked torch's allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    profiled.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = [event["args"]["Bytes"] for event in events if event.get("name") == "[memory]"]
    return [change for change in changes if change > 0]


OF_EACH = [*((name, torch.float32) for name in STEPS), ("residual", torch.float64), ("mlp", torch.bfloat16)]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_agrees_with_the_uncompiled(name, device, monkeypatch):
    dtype = torch.bfloat16 if name == "mlp" else torch.float32
    interpret(monkeypatch)
    agreeing_for_three(*problem(name, dtype, device))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "dtype"), OF_EACH, ids=str)
def test_a_compiled_step_agrees_with_the_uncompiled(name, dtype, device):
    built = agreeing_for_three(*problem(name, dtype, device))
    assert built.kind in KINDS[device], built.why


def test_a_compiled_step_with_everything(device, monkeypatch, programs_of_these_tests, tmp_path):
    """One program, as users have it, that everything is in: donated, penalised, with batch norm and dropout, with
    updates folded into products, layers' inputs made again, and memory that is kept."""
    monkeypatch.setattr(recomputation, "DEEP", 2)
    monkeypatch.setattr(kept, "LARGE", 32)  # bytes; all but biases
    step, state, x, target = problem("residual", torch.float32, device, donate=True)
    begin = copied(state)
    memory = {n: t.data_ptr() for n, t in everything(state).items()}
    old = state
    for number in range(2):
        state = agreeing(step, state, x, target, number)
    assert {n: t.data_ptr() for n, t in everything(state).items()} == memory
    assert not everything(old)
    with pytest.raises(ValueError, match="was the state donated"):
        step(old, x, target)
    (built,) = step.programs
    assert built.kind in KINDS[device], built.why
    if device == "cpu":
        masked = replace(state, buffers={**state.buffers, **step.masks(state, len(x))})
        assert max(allocated(lambda: step(masked, x, target), tmp_path)) < kept.LARGE
        again, *_ = problem("residual", torch.float32, donate=True)
        again(begin, x, target)
        assert again.programs[0].from_cache
        folder = programs_of_these_tests / "manual_bp"
        assert list(folder.glob("*.pt2"))
        assert list((folder / "inductor").iterdir())  # and so are the files that inductor runs


@pytest.mark.exhaustive
def test_a_donated_state_is_the_same_in_bits(device):
    step, state, x, target = problem("residual", torch.float32, device, donate=True)
    plain, *_ = problem("residual", torch.float32, device)
    expected, _ = plain(copied(state), x, target)
    after = agreeing(step, state, x, target)
    if device == "cpu":  # on a GPU the two programs were seen to differ in bits, each within its allowance
        assert all(torch.equal(t, everything(expected)[n]) for n, t in everything(after).items())


OF_CLASSES = [name for name in names() if Loss(name).takes_classes]


@pytest.mark.parametrize("donate", [pytest.param(False, marks=pytest.mark.exhaustive), True])
@pytest.mark.parametrize("loss", OF_CLASSES)
def test_numbers_of_classes_are_looked_at_before_anything_is_written(loss, donate, device, built):
    step, state, x, target = problem("mlp", torch.float32, device, loss=loss, donate=donate)
    for number in range(2):
        state = agreeing(step, state, x, target, number)
    before = copied(state)
    uncompiled = Step(step.model, step.loss, step.optimizer, step.l2)
    for bad in (3, -1):
        said = []
        for one in (uncompiled, step):
            with pytest.raises(ValueError, match=f"must be positions on .* which has 3.*; came {bad} at") as caught:
                one(state, x, torch.full_like(target, bad))
            said.append(str(caught.value))
        assert said[0] == said[1]
    assert all(torch.equal(t, everything(before)[n]) for n, t in everything(state).items())
    assert len(step.programs) == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("loss", OF_CLASSES)
def test_a_compiled_loss_of_classes(loss, device):
    built = agreeing_for_three(*problem("mlp", torch.float32, device, loss=loss))
    assert built.kind in KINDS[device], built.why


def test_no_state_is_kept_alive(device, built):
    step, state, x, target = problem("mlp", torch.float32, device, donate=True)
    for _ in range(2):
        state, _ = step(state, x, target)
    tensors = [weakref.ref(t) for t in everything(state).values()]
    del state
    assert [t() for t in tensors] == [None] * len(tensors)


def test_two_donated_states_by_turns_are_two_trainings(device, built):
    """A program that knows the memory of the one must not step it in place of the other."""
    step, state, x, target = problem("momentum", torch.float32, device, donate=True)
    alone = copied(state)
    for _ in range(2):
        alone, _ = step(alone, x, target)
    one, other = copied(state), copied(state)
    for _ in range(2):
        one, loss = step(one, x, target)
        other, same_loss = step(other, x, target)
        assert torch.equal(loss, same_loss)
    for turns in (one, other):
        assert all(torch.equal(t, everything(alone)[n]) for n, t in everything(turns).items())


def test_donated_tensors_have_memory_of_their_own(traced_only):
    step, state, x, target = problem("adam", torch.float32, donate=True)
    shared = {**state.optimizer, "exp_avg_sq.W1": state.optimizer["exp_avg.W1"]}
    with pytest.raises(ValueError, match=r"exp_avg\.W1 and exp_avg_sq\.W1 share memory"):
        step(replace(state, optimizer=shared), x, target)
    after, _ = step(state, x, target)  # as optimizers make it, it is their own
    with pytest.raises(ValueError, match=r"W2 and exp_avg\.W2 share memory"):
        step(replace(after, params={**after.params, "W2": after.optimizer["exp_avg.W2"]}), x, target)


def test_another_batch_size_is_another_program_and_other_layouts_are_not(built):
    step, state, x, target = problem("mlp", torch.float32)
    expected, _ = step(state, x, target)
    transposed = {n: lay_out(t, "transposed").requires_grad_() for n, t in state.params.items()}
    after, loss = step(replace(state, params=transposed), lay_out(x, "transposed"), target)
    assert len(step.programs) == 1
    assert not loss.requires_grad
    assert all(torch.equal(t, expected.params[n]) for n, t in after.params.items())
    step(after, x[:4], target[:4])
    step(after, x, target)
    assert len(step.programs) == 2


def test_donate_needs_compiled():
    with pytest.raises(ValueError, match="donate must come with compiled=True"):
        training_step(mlp([2, 2]), optimizer=sgd(0.1), donate=True)


def aborting(monkeypatch):
    """torch's loader ends the process, as on a machine where it was seen to."""
    monkeypatch.setattr(aoti, "kept_text", lambda name: None)  # that the loader works is not known
    monkeypatch.setattr(aoti, "LOAD", "import os; os.abort()")


@pytest.mark.exhaustive
def test_where_programs_cannot_be_loaded_python_calls_them(monkeypatch):
    aborting(monkeypatch)
    step, state, x, target = problem("mlp", torch.float32)
    agreeing(step, state, x, target)
    assert [built.kind for built in step.programs] == ["inductor"]
    assert "loader of ahead-of-time programs fails here (status -6)" in step.programs[0].why


def test_where_the_loader_ends_the_process_the_kernels_are_built(monkeypatch, tmp_path):
    aborting(monkeypatch)
    monkeypatch.setattr(aoti, "kept", lambda name: tmp_path / name)
    monkeypatch.setattr(aoti, "_is_whole", lambda path: True)
    monkeypatch.setattr(kernels, "compiled", lambda graph, choice: (lambda flat: [flat[0] + 1], False))
    x = torch.ones(2)
    built = program.build(lambda x: [x + 1], [x])
    assert built.kind == "inductor"
    assert "loader of ahead-of-time programs fails here (status -6)" in built.why
    assert torch.equal(built.run([x])[0], x + 1)


WITHOUT_COMPILER = """
import os, tempfile, warnings, torch
os.environ.update(CXX="no-such-compiler", PATH="", TORCHINDUCTOR_CACHE_DIR=tempfile.mkdtemp())
import manual_bp as bp
x = torch.tensor([-1.0, 2.0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    relu = bp.compile_rule("relu")
    y, _ = relu((x,), x)
    relu((x,), x)
said = [str(w.message) for w in caught if "no C++ compiler" in str(w.message)]
print(relu.programs[0].kind, len(said), y.tolist(), "CXX" in relu.programs[0].why)
"""


@pytest.mark.exhaustive
def test_without_a_compiler_it_says_so_and_runs():
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "eager 1 [0.0, 2.0] True", done.stdout + done.stderr
