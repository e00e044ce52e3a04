"""Lockstep agrees, and names the layer and the rule when it does not."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp import losses, networks
from manual_bp.chain import Joined, Leaf, leaves
from manual_bp.cli import app
from manual_bp.lockstep import branches_differ, brief, brief_shape, lockstep
from manual_bp.models import mlp, residual_mlp
from manual_bp.networks import tiny
from manual_bp.oracle.calling.candidates import engine_factory
from manual_bp.training import adam, sgd, training_step
from manual_bp.training.data import Dataset
from manual_bp.training.judging.judge import Judge
from tests.training.examples import off_defaults
from torch_ref.training.engine import TorchEngine

TORCH = engine_factory("torch")


def data(n=40, features=5, classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, features, generator=generator, dtype=torch.float64)
    return Dataset("made up", x, torch.randint(classes, (n,), generator=generator), (1, features))


def run(model, **options):
    return lockstep(model, data(), engine=TORCH, steps=2, batch_size=8, **options)


MODELS = {
    "notes": lambda: mlp([5, 6, 4, 3], "sigmoid", "sigmoid"),
    "maxout": lambda: mlp([5, 6, 3], "maxout", pieces=2),
    "residual": lambda: residual_mlp(6, 3, "elu", True, 0.25, inputs=5, outputs=3),
    "plain residual": lambda: residual_mlp(6, 2, "relu", False, 0.0, inputs=5, outputs=3),
}


@pytest.fixture(scope="module")
def reports():
    """Of right engines, made once."""
    return functools.cache(lambda name, dtype, device: run(MODELS[name](), dtype=dtype, device=device))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_engines_agree(name, dtype, device, reports):
    report = reports(name, dtype, device)
    assert report.passed, report.verdict
    assert report.losses[0] != report.losses[-1]
    assert len(report.free_losses) == 2
    assert report.not_free == ""
    assert 0 < report.free_drift < 1e-4


def test_every_tensor_of_every_layer_is_judged(reports):
    report = reports("residual", torch.float64, "cpu")
    found = {(row.layer, row.quantity) for row in report.rows}
    for block in ("block1", "block2", "block3"):
        assert {(f"{block}.linear", q) for q in ("z", "delta", "dW", "db", "W", "b", "dx alone")} <= found
        norm = ("y", "dy", "dweight", "dbias", "weight", "bias", "running_mean", "running_var")
        assert {(f"{block}.batch_norm", q) for q in norm} <= found
        assert {(f"{block}.activation", q) for q in ("a", "da")} <= found
    assert ("loss", "J") in found


@pytest.mark.parametrize(
    ("loss", "hyper"),
    [(name, hyper) for name in losses.names() for hyper in ({}, *off_defaults(name))],
    ids=str,
)
def test_every_loss_is_judged_with_its_hyperparameters(loss, hyper):
    """Both engines are told of them: with another one the loss of the other engine would be another."""
    report = lockstep(MODELS["maxout"](), data(), engine=TORCH, steps=1, batch_size=8, loss=loss, loss_hyper=hyper)
    assert report.passed, report.verdict
    plain = lockstep(MODELS["maxout"](), data(), engine=TORCH, steps=1, batch_size=8, loss=loss)
    assert hyper == {} or report.losses != plain.losses


# A factor that is large against the allowance and small against the eye.
WRONG = 1.001


def parts():
    """Every rule of the brief runs, their losses included, with the position of each cotangent that matters there.

    By default a rule of several networks is tried in the first that has it.
    """
    seen = set()
    for name in networks.MODELS:
        model = tiny(name, brief_shape(name), 3)
        found = {leaf.rule.name: _asked_for(leaf) for leaf in leaves(model).values()}
        for rule, positions in {**found, model.usual_loss: [0]}.items():
            marks = [pytest.mark.exhaustive] if rule in seen else []
            yield from (pytest.param(name, rule, position, marks=marks) for position in positions)
        seen |= {*found, model.usual_loss}


def _asked_for(leaf):
    """The positions of the inputs whose cotangents somebody asks for: what comes from before, and parameters."""
    constants = leaf.initial()
    return [
        position
        for position, (local, spec) in enumerate(leaf.rule.inputs.items())
        if spec.cotangent and (position < leaf.takes or leaf.names.get(local, "") not in {"", *constants})
    ]


@pytest.mark.parametrize(("name", "rule", "position"), list(parts()))
def test_wrong_backward_is_named(monkeypatch, name, rule, position):
    """Break one cotangent of one rule by hand: the three steps of `verify` see it, and the sentence names the rule."""
    page = bp.RULES[rule].page
    right = page.backward

    def wrong(residuals, dy):
        grads = list(right(residuals, dy))
        grads[position] = WRONG * grads[position]
        return tuple(grads)

    monkeypatch.setattr(page, "backward", wrong)
    report = brief(name, engine=TORCH, dtype=torch.float64, progress=lambda numbers: itertools.islice(numbers, 1))
    assert not report.passed
    assert report.verdict.startswith("first disagreement in step 1 at ")
    is_loss = bp.RULES[rule].chapter == "loss"
    assert ("the backward of the loss" if is_loss else f"the backward of {rule} is wrong by itself") in report.verdict


def test_wrong_running_statistics_are_named():
    model = MODELS["residual"]()
    wrong = model.map(lambda name, leaf: replace(leaf, momentum=0.2) if hasattr(leaf, "momentum") else leaf)
    report = run(replace(model, layer=wrong), dtype=torch.float64)
    assert {d.quantity for d in report.disagreements} == {"running_mean", "running_var"}


def test_a_flip_at_a_kink_is_seen():
    relu = Leaf(bp.relu)
    x = torch.tensor([1e-9, 1.0, -1.0])
    assert branches_differ(relu, x, torch.tensor([-1e-9, 1.0 + 1e-7, -1.0])).tolist() == [True, False, False]
    maxout = Leaf(bp.maxout, hyper={"pieces": 2})
    assert branches_differ(maxout, torch.tensor([[1.0, 1.0 - 1e-7]]), torch.tensor([[1.0 - 1e-7, 1.0]])).any()


def test_behind_a_flip_nothing_is_judged_but_each_layer_alone():
    """z is 2^-25 here and -2^-24 there, a rounding apart, so that ReLU passes the gradient here and not there."""

    class Below(TorchEngine):
        def step(self, state, x, target):
            below = torch.full((1,), -0.5 - 2.0**-24)
            return super().step(replace(state, params={**state.params, "b1": below}), x, target)

    model, training = mlp([1, 1, 1], "relu"), {"loss": "square_loss", "optimizer": sgd(0.01)}
    step = training_step(model, **training)
    params = {"W1": [[1.0]], "b1": [-0.5 + 2.0**-25], "W2": [[1.0]], "b2": [0.0]}
    state = step.init(torch.Generator(), params={name: torch.tensor(p) for name, p in params.items()})
    judge = Judge(step, Below(model.name, **training, **model.config), torch.float32, against="mine")
    ours, theirs = judge.step(1, state, torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    assert (float(ours.gradients["b1"]), float(theirs.gradients["b1"])) == (-1.0, 0.0)
    assert judge.flips == 1
    assert judge.disagreements == []


def test_sixteen_bits_are_refused():
    with pytest.raises(ValueError, match=r"float64 or float32; came torch\.bfloat16"):
        run(MODELS["notes"](), dtype=torch.bfloat16)


def test_a_wrong_sum_over_branches_is_found_between_the_layers(monkeypatch):
    """float32, where the worst-case bound of a deep chain says nothing."""
    right = Joined.backward

    def backward(self, residuals, dy):
        dx, dparams = right(self, residuals, dy)
        return dx - 0.1 * dy, dparams

    monkeypatch.setattr(Joined, "backward", backward)
    report = run(MODELS["residual"](), dtype=torch.float32)
    assert not report.passed
    assert "every hand-derived layer agrees by itself: torch's step is wrong, or else" in report.verdict
    between = "a sum over the branches of one x, the loss, the penalty or running"
    assert f"the cause is between the layers: {between}" in report.verdict


class Keeping(TorchEngine):
    """A right engine whose optimiser keeps its moments: it takes parameters from the state, and nothing else twice.

    calls: what it was asked for, as the parameters' first number.
    """

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.moments, self.calls = None, 0

    def step(self, state, x, target):
        self.calls += 1
        moments = state.optimizer if self.moments is None else self.moments
        record = super().step(replace(state, optimizer=moments), x, target)
        self.moments = record.optimizer
        for tensor in (*state.params.values(), *state.optimizer.values(), x, target):
            tensor.zero_()  # copies of its own: it may write into them
        return record


def kept(**options):
    engines = []

    def factory(name, **given):
        engines.append(Keeping(name, **given))
        return engines[-1]

    report = lockstep(
        mlp([5, 6, 3], "tanh"),
        data(),
        engine=factory,
        against="mine",
        steps=6,
        batch_size=8,
        dtype=torch.float64,
        **options,
    )
    return report, engines


@pytest.mark.parametrize("optimizer", [adam(1e-3), sgd(0.01, momentum=0.9, dampening=0.1)], ids=lambda o: o.name)
def test_an_engine_that_keeps_its_own_moments_is_judged(optimizer):
    """It makes each step once; the free run is made by a second engine from the same factory."""
    report, engines = kept(optimizer=optimizer)
    assert report.passed, report.verdict
    assert [engine.calls for engine in engines] == [6, 6]
    assert len(report.free_losses) == 6
    assert report.free_drift < 1e-12


def test_one_engine_for_both_runs_is_judged_and_has_no_free_run():
    model = mlp([5, 6, 3], "tanh")
    single = Keeping("mlp", **model.config, loss=model.usual_loss, optimizer=adam(1e-3), l2=1e-4)
    options = {"steps": 3, "batch_size": 8, "optimizer": adam(1e-3), "dtype": torch.float64}
    report = lockstep(model, data(), engine=lambda *_, **__: single, against="mine", **options)
    assert report.passed, report.verdict
    assert single.calls == 3
    assert report.free_losses == []
    assert report.not_free == "no free run: mine's factory gave the same engine again"


def test_a_wrong_kept_moment_is_found(monkeypatch):
    right = Keeping.step

    def step(self, state, x, target):
        record = right(self, state, x, target)
        self.moments = {name: m if name == "step" else WRONG * m for name, m in record.optimizer.items()}
        return record

    monkeypatch.setattr(Keeping, "step", step)
    report, _ = kept(optimizer=adam(1e-3))
    assert report.disagreements[0].step == 2
    assert "it comes from the update (adam)" in report.verdict


def test_a_free_run_that_fails_leaves_the_verdict():
    built = []

    def factory(name, **options):
        built.append(TorchEngine(name, **options))
        if len(built) == 2:
            raise RuntimeError("one engine only")
        return built[0]

    report = lockstep(mlp([5, 6, 3]), data(), engine=factory, steps=2, batch_size=8)
    assert report.passed
    assert report.not_free == "the free run ended after 0 steps: one engine only"


def test_an_engine_s_own_wrong_backward_is_not_said_to_be_between_our_layers():
    class Wrong(TorchEngine):
        def step(self, state, x, target):
            record = super().step(state, x, target)
            delta = WRONG * record.layers["linear1"]["delta"]
            return replace(record, layers={**record.layers, "linear1": {**record.layers["linear1"], "delta": delta}})

    report = lockstep(mlp([5, 6, 3], "tanh"), data(), engine=Wrong, against="mine", steps=1, batch_size=8, l2=0.0)
    assert (report.disagreements[0].layer, report.disagreements[0].quantity) == ("linear1", "delta")
    assert (
        "away from what is due of mine's own tensors; it comes from the backward of tanh (activation1); every "
        "hand-derived layer agrees by itself"
    ) in report.verdict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: replace(r, layers=None),
            "layers is a dictionary with 'linear1', 'activation1', 'linear2'; came NoneType",
        ),
        (
            lambda r: replace(r, layers={**r.layers, "linear2": 0}),
            r"layers\['linear2'\] is a dictionary with 'z', .*int",
        ),
        (lambda r: replace(r, gradients={"W1": 0}), r"gradients\['W1'\] must be a torch.Tensor; came int"),
        (
            lambda r: replace(r, params={n: p[..., None] for n, p in r.params.items()}),
            r"params\['W1'\] must be real and of shape \(6, 5\)",
        ),
        (lambda r: replace(r, loss=0.5), "loss must be a torch.Tensor; came float"),
        (lambda r: None, "loss is due; came a NoneType without it"),
        (lambda r: SimpleNamespace(loss=r.loss), "layers is due; came a SimpleNamespace without it"),
    ],
)
def test_what_is_no_record_is_said(change, message):
    class Odd(TorchEngine):
        def step(self, state, x, target):
            return change(super().step(state, x, target))

    with pytest.raises(ValueError, match=f"mine's step must return a StepRecord, in which {message}"):
        lockstep(mlp([5, 6, 3]), data(), engine=Odd, against="mine", steps=1, batch_size=8, optimizer=adam())


def test_what_is_no_engine_is_said():
    with pytest.raises(ValueError, match=r"mine: an engine must have a method step.*; came a dict without one"):
        lockstep(mlp([5, 6, 3]), data(), engine=lambda *_, **__: {}, against="mine", steps=1)


def test_more_than_is_due_is_no_fault():
    class Generous(TorchEngine):
        def step(self, state, x, target):
            record = super().step(state, x, target)
            return replace(record, layers={**record.layers, "more": {}}, buffers={"more": x})

    assert lockstep(mlp([5, 6, 3]), data(), engine=Generous, steps=2, batch_size=8).passed


@pytest.mark.parametrize(("n", "batch_size"), [(40, 1), (1, 64)])
def test_a_batch_of_one_is_refused_before_training_where_batch_norm_is(n, batch_size):
    with pytest.raises(ValueError, match="it refuses one of 1: batch_norm: a channel must hold more than one value"):
        lockstep(MODELS["residual"](), data(n), engine=None, steps=1, batch_size=batch_size)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "3"])
def test_no_step_is_refused(steps):
    with pytest.raises(ValueError, match="steps must be a whole number, at least 1"):
        lockstep(MODELS["notes"](), data(), engine=TORCH, steps=steps)


def test_small_data_raise_no_false_alarm():
    """A gradient that is small because the data are: what the loss rounds is allowed for."""
    found = data()
    small = replace(found, x=found.x * 1e-6)
    report = lockstep(mlp([5, 3]), small, engine=TORCH, steps=3, batch_size=7, dtype=torch.float32)
    assert report.passed, report.verdict


def test_divergence_is_called_divergence():
    how = {"loss": "square_loss", "optimizer": sgd(lr=1e8), "dtype": torch.float32}
    report = lockstep(mlp([5, 6, 3], "relu"), data(), engine=TORCH, steps=20, batch_size=8, **how)
    assert not report.passed
    assert not report.disagreements
    assert report.verdict.startswith(f"training diverged in step {report.steps + 1}, in both engines: ")
    assert 0 < report.steps < 20


def test_one_engine_that_diverges_is_a_disagreement(monkeypatch):
    right = bp.linear.page.backward

    def wrong(residuals, dy):
        dx, dweight, dbias = right(residuals, dy)
        return dx, dweight * torch.inf, dbias

    monkeypatch.setattr(bp.linear.page, "backward", wrong)
    report = run(MODELS["notes"](), dtype=torch.float64)
    assert report.disagreements
    assert report.disagreements[0].layer != ""


def test_training_is_recorded():
    report = run(MODELS["plain residual"](), optimizer=adam(1e-3), l1=1e-3, clip_norm=0.5)
    assert report.passed, report.verdict
    assert report.to_dict()["training"]["optimizer"]["name"] == "adam"
    assert report.training["clip_norm"] == 0.5
    assert ("optimizer", "step") in {(row.layer, row.quantity) for row in report.rows}


def test_the_command_takes_a_loss(tmp_path):
    """The model's usual one, or what is said."""
    usual = tiny("mlp", (5,), 3).usual_loss
    for loss, given in ((usual, []), *((name, ["--loss", name]) for name in losses.names() if name != usual)):
        file = tmp_path / f"{loss}.json"
        result = CliRunner().invoke(app, ["lockstep", "--model", "mlp", "--steps", "1", *given, "--json", str(file)])
        assert result.exit_code == 0, result.output
        assert f"loss {loss}" in " ".join(result.output.split())
        (report,) = json.loads(file.read_text())["lockstep"]
        assert report["training"]["loss"] == loss
    refused = CliRunner().invoke(app, ["lockstep", "--steps", "1", "--loss-hyper", "no_such=1"])
    assert refused.exit_code == 2
    assert "came ['no_such']" in " ".join(refused.output.split())
