"""Compiled programs: judged as candidates, in step with the uncompiled, built once, and honest where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch

import manual_bp as bp
from manual_bp.compilation import aoti
from manual_bp.models import mlp, residual_mlp
from manual_bp.oracle import compare
from manual_bp.oracle.cases import generated
from manual_bp.oracle.layouts import lay_out
from manual_bp.training import adam, sgd, training_step
from manual_bp.training.engine import allowance_of

# "inductor" where torch cannot load what it compiled ahead of time.
RULE_KINDS = {"cpu": {"aoti", "inductor"}, "cuda": {"triton"}}
STEP_KINDS = {"cpu": {"aoti", "inductor"}, "cuda": {"cuda graph"}}
# Cases of ordinary hyperparameters, which one or two programs serve: each takes a C++ compiler seconds.
REPRESENTATIVE = ("ordinary", "saturation", "tie", "cotangent times 1000", "everything sliced")


@pytest.fixture(autouse=True, scope="module")
def programs_of_these_tests(tmp_path_factory):
    """A user's cache of this run, so that nothing built earlier is judged.  pytest-xdist's processes share it.

    Inductor's variable is not set, as for most users.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def judged_compiled(name, device, names):
    """A compiled rule at the cases of these names; its programs' kinds."""
    rule = bp.RULES[name]
    compiled = bp.compile_rule(name)
    cases = [case for case in generated(rule, torch.float32, device) if case.name in names]
    report = compare(compiled, rule, dtype=torch.float32, device=device, cases=cases, diagnose=0)
    assert not report.mismatches, str(report)
    assert report.cases == len(cases)
    return {program.kind for program in compiled.programs}


def test_kernels_of_every_rule_pass_the_oracle(rule, device, called_from_python):
    """The kernels that a program is made of; AOTInductor puts the same ones together."""
    assert judged_compiled(rule.name, device, REPRESENTATIVE[:1]) <= {"triton"}


FIRST_OF_EACH = {rule.elementwise: name for name, rule in reversed(list(bp.RULES.items()))}.values()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FIRST_OF_EACH else pytest.mark.exhaustive) for n in bp.RULES]
)
def test_compiled_rule_passes_the_oracle(name, device):
    assert judged_compiled(name, device, REPRESENTATIVE) <= RULE_KINDS[device]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_compiled_elu_keeps_all_digits_in_every_dtype(dtype, device, called_from_python):
    cases = [
        case
        for case in generated(bp.elu, dtype, device)
        if not case.hyper.keys() - {"alpha"} and case.hyper["alpha"] == 1
    ]
    report = compare(bp.compile_rule("elu"), "elu", dtype=dtype, device=device, cases=cases, strict=True)
    assert cases
    assert not report.mismatches, str(report)


def test_one_program_serves_all_shapes_of_an_elementwise_rule(device, called_from_python):
    relu = bp.compile_rule("relu")
    for shape in ((), (1,), (3, 4), (2, 1, 3), (7,), (16,), (2, 24), (3, 4, 8)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        y, (dx,) = relu((x,), x)
        assert torch.equal(y, bp.relu.forward(x)[0])
        assert dx.shape == y.shape == shape
    assert len(relu.programs) == {"cpu": 1, "cuda": 2}[device]  # on a GPU one for rows of 16 elements


def test_compiled_rule_refuses_what_the_rule_refuses():
    relu = bp.compile_rule("relu")
    with pytest.raises(ValueError, match=r"dy has axes \(\*shape\)"):
        relu((torch.ones(2, 3),), torch.ones(3))
    with pytest.raises(ValueError, match=r"x must be a torch\.Tensor; came list"):
        relu(([1.0],), torch.ones(1))
    with pytest.raises(ValueError, match=r"0 ≤ p ≤ 1; came 1\.5"):
        bp.compile_rule("dropout")((torch.ones(2), torch.ones(2).bool()), torch.ones(2), p=1.5)
    with pytest.raises(ValueError, match=r"came .*alhpa"):
        bp.compile_rule("elu", alhpa=2.0)


STEPS = {
    "mlp": (mlp([4, 5, 3], "tanh"), {"optimizer": sgd(0.1), "l2": 0.01}),
    "momentum": (mlp([4, 5, 3], "relu"), {"optimizer": sgd(0.1, momentum=0.9)}),
    "adam": (mlp([4, 5, 3], "elu"), {"optimizer": adam(0.01)}),
    "residual": (residual_mlp(4, 2, "tanh", True, 0.5, inputs=4, outputs=3), {"optimizer": sgd(0.1), "l2": 0.01}),
}


def problem(name, dtype, device="cpu", batch=6, **compiled):
    model, options = STEPS[name]
    step = training_step(model, **options, compiled=True, **compiled)
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator, dtype=dtype, device=device)
    x = torch.randn(batch, 4, generator=generator).to(device, dtype)
    return step, state, x, torch.randn(batch, 3, generator=generator).to(device, dtype)


def everything(state):
    return {**state.params, **state.buffers, **state.optimizer}


def copied(state):
    return replace(
        state,
        **{
            part: {n: t.clone() for n, t in getattr(state, part).items()} for part in ("params", "buffers", "optimizer")
        },
    )


def agreeing(name, step, state, x, target, number=0):
    """The state after one compiled step, which lies where the uncompiled one's may."""
    model, options = STEPS[name]
    uncompiled = training_step(model, **options)
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


STEPS_OF_EACH = [
    *((name, torch.float32) for name in STEPS),
    ("residual", torch.float64),
    ("mlp", torch.bfloat16),
]
WHOLE = [("residual", torch.float32), ("adam", torch.float32)]
"""They have every layer and every kind of update between them; the others' programs take ten seconds each."""


def agreeing_for_three(name, dtype, device):
    """Three steps; the program that they are."""
    step, state, x, target = problem(name, dtype, device)
    for number in range(3):
        before = copied(state)
        after = agreeing(name, step, state, x, target, number)
        assert all(torch.equal(t, everything(before)[n]) for n, t in everything(state).items())
        state = after
    (program,) = step.programs  # no recompilation from step to step
    return program


@pytest.mark.parametrize(
    ("name", "dtype"),
    [pytest.param(*each, marks=[] if each in WHOLE else pytest.mark.exhaustive) for each in STEPS_OF_EACH],
    ids=str,
)
def test_compiled_step_agrees_with_the_uncompiled(name, dtype, device):
    program = agreeing_for_three(name, dtype, device)
    assert program.kind in STEP_KINDS[device], program.why


def test_donated_state_is_updated_in_place_and_emptied(device):
    step, state, x, target = problem("residual", torch.float32, device, donate=True)
    kept = copied(state)
    memory = {n: t.data_ptr() for n, t in everything(state).items()}
    after = agreeing("residual", step, state, x, target)
    assert {n: t.data_ptr() for n, t in everything(after).items()} == memory
    assert not everything(state)
    with pytest.raises(ValueError, match="was the state donated"):
        step(state, x, target)
    if device == "cpu":  # on a GPU the two programs were seen to differ in bits, each within its allowance
        plain, *_ = problem("residual", torch.float32, device)
        expected, _ = plain(kept, x, target)
        assert all(torch.equal(t, everything(expected)[n]) for n, t in everything(after).items())


def test_no_state_is_kept_alive(device, called_from_python):
    step, state, x, target = problem("mlp", torch.float32, device, donate=True)
    for _ in range(2):
        state, _ = step(state, x, target)
    tensors = [weakref.ref(t) for t in everything(state).values()]
    del state
    assert [t() for t in tensors] == [None] * len(tensors)


def test_two_donated_states_by_turns_are_two_trainings(device, called_from_python):
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


def test_another_batch_size_is_another_program_and_other_layouts_are_not(called_from_python):
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


def test_programs_are_kept_in_the_user_s_cache(programs_of_these_tests):
    first, state, x, target = problem("mlp", torch.float32)
    first(state, x, target)  # perhaps from another test
    second, *_ = problem("mlp", torch.float32)
    second(state, x, target)
    assert second.programs[0].from_cache
    kept = programs_of_these_tests / "manual_bp"
    assert list(kept.glob("*.pt2"))
    assert list((kept / "inductor").iterdir())  # and so are the files that inductor runs


def test_where_programs_cannot_be_loaded_python_calls_them(monkeypatch):
    monkeypatch.setattr(aoti, "kept_text", lambda name: None)  # that the loader works is not known
    monkeypatch.setattr(aoti, "LOAD", "import os; os.abort()")
    step, state, x, target = problem("mlp", torch.float32)
    agreeing("mlp", step, state, x, target)
    assert [program.kind for program in step.programs] == ["inductor"]
    assert "loader of ahead-of-time programs fails here (status -6)" in step.programs[0].why


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


def test_without_a_compiler_it_says_so_and_runs():
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "eager 1 [0.0, 2.0] True", done.stdout + done.stderr
