"""Engines of one's own: each wrong one is named with its cause in the first sentence, each right one passes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy, dropout, layer_norm
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from typer.testing import CliRunner

from manual_bp.cli import app
from manual_bp.lockstep import brief, lockstep
from manual_bp.models import mlp
from manual_bp.training import adam, sgd, training_step
from manual_bp.training.data import Dataset
from manual_bp.training.engine import StepRecord
from manual_bp.training.judging.own_options import OwnOptions
from manual_bp.training.text import BYTES, Text
from tests.own_bank import engines, inputs_and_losses, strangers, trainers, users
from tests.own_bank.loop import Loop
from torch_ref.training.engine import TorchEngine
from torch_ref.training.modules import engine_of


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    return Dataset("made up", x, torch.randint(3, (40,), generator=generator), (1, 5))


def text():
    tokens = torch.randint(3, (61,), generator=torch.Generator().manual_seed(0))
    return Text("made up", tokens, BYTES[:3]).windows(5)


def run(engine, steps=2):
    is_text = engine.model == "gpt"
    return lockstep(
        engines.MODELS[engine.model](),
        text() if is_text else data(),
        engine=engine.make,
        against="mine",
        steps=steps,
        batch_size=2 if is_text else 8,
        free=False,
        **engine.options,
    )


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", engines.WRONG)
def test_a_wrong_engine_is_named(name):
    report = run(engines.WRONG[name])
    assert not report.passed
    for words in engines.WRONG[name].words:
        assert any(word in report.verdict for word in words.split("|")), (words, report.verdict)


BANKS = (strangers, users, trainers, inputs_and_losses)
WRONG_LOOPS = {name: loop for bank in BANKS for name, loop in bank.WRONG.items()}
RIGHT_LOOPS = {name: loop for bank in BANKS for name, loop in bank.RIGHT.items()}


@pytest.mark.thinned(10)
@pytest.mark.parametrize("name", WRONG_LOOPS)
def test_a_strangers_wrong_loop_is_named(name):
    """By what it does in three steps: one leaves several causes."""
    report = run(WRONG_LOOPS[name], steps=3)
    assert not report.passed
    for words in WRONG_LOOPS[name].words:
        assert any(word in report.verdict for word in words.split("|")), (words, report.verdict)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("name", RIGHT_LOOPS)
def test_a_strangers_right_loop_passes(name):
    report = run(RIGHT_LOOPS[name], steps=3)
    assert report.passed, report.verdict


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", engines.RIGHT)
def test_a_right_engine_passes(name):
    report = run(engines.RIGHT[name])
    assert report.passed, report.verdict


@pytest.mark.parametrize("own", ["LeftOut", "BuiltAnew"])
def test_an_update_that_is_wrong_in_one_step_alone_is_seen(own):
    """In a step in which what is right is not judged alone."""
    report = run(engines.Engine(getattr(trainers, own), options=engines.MOMENTUM), steps=3)
    assert report.verdict.startswith("first disagreement in step 3 at linear1: the update is wrong")


class Evaluating(TorchEngine):
    """words: of what is wrong in evaluation; none of a right one."""

    how, words = "right", ""

    def evaluate(self, state, x):
        module = self._module(**self._config).train(self.how == "trains")
        self._load(module, state)
        masks = {name: torch.rand(len(x), 6) >= 0.25 for name in state.buffers if "mask" in name}
        for block in (module.block1, module.block2):
            block.train(self.how in ("trains", "drops"))
            block.batch_norm.train(self.how in ("trains", "batch"))
        return module(x, masks).detach()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("right", ""),
        ("drops", "two evaluations of the same numbers differ: dropout is left on"),
        ("batch", "batch norm normalises by the batch's own statistics in evaluation"),
    ],
)
def test_evaluation_is_judged(how, words):
    make = type("Evaluating", (Evaluating,), {"how": how})
    report = run(engines.Engine(make, model="residual", options=engines.ONE), steps=1)
    assert report.passed == (not words), report.verdict
    assert words in report.verdict


def test_the_command_takes_an_engine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch_ref\n"
        "from torch.nn import Linear, ReLU, Sequential, Tanh\n"
        "net = Sequential(Linear(64, 64), Tanh(), Linear(64, 32), ReLU(), Linear(32, 10))\n"
        "factory = torch_ref.engine_of(net)\n"
    )
    result = CliRunner().invoke(app, ["lockstep", "--model", "mlp", "--steps", "1", "--engine", f"{file}:factory"])
    assert result.exit_code == 1, result.output
    assert "at activation1: tanh stands in place of relu" in " ".join(result.output.split())


def test_the_command_declares_what_is_frozen_and_scheduled(tmp_path):
    """Of a module whose first layer is frozen, and whose scheduler warms up."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch_ref\n"
        "from torch.nn import Linear, ReLU, Sequential\n"
        "from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR\n"
        "net = Sequential(Linear(64, 64), ReLU(), Linear(64, 32), ReLU(), Linear(32, 10))\n"
        "net[0].requires_grad_(False)\n"
        "factory = torch_ref.engine_of(net, scheduler=lambda o: LambdaLR(o, lambda made: min((made + 1) / 3, 1)))\n"
    )
    declared = ("--optimizer", "adamw", "--lr", "0.01", "--warmup", "3", "--frozen", "W1", "--frozen", "b1")
    run = ("lockstep", "--model", "mlp", "--steps", "2", "--engine", f"{file}:factory")
    assert CliRunner().invoke(app, [*run, *declared]).exit_code == 0
    undeclared = CliRunner().invoke(app, [*run, *declared[:-2]])
    assert undeclared.exit_code == 1
    assert "b1 is left out of the update and not moved" in " ".join(undeclared.output.split())


def test_a_dropout_that_the_model_does_not_have_is_named():
    """And not the layer behind it."""
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 6),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(6, 4),
        torch.nn.Tanh(),
        torch.nn.Linear(4, 3),
    )
    report = run(engines.Engine(engine_of(net), options=engines.ONE), steps=1)
    assert "the module drops by chance where the model does not: Dropout(p=0.5) at '2' (" in report.verdict
    assert run(engines.Engine(engine_of(net.eval()), options=engines.ONE), steps=1).passed


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("net", "wrap it: torch_ref.engine_of(module)"),
        ("lambda name, **options: net", "wrap it: torch_ref.engine_of(module)"),
        ("lambda name, **options: None", "an engine must have a method step(state, x, target)"),
        ("lambda: None", "a factory of engines is due, factory(name, **options)"),
        ("torch_ref.engine_of(net)", "the module's parameters must be the model's"),
    ],
)
def test_the_command_says_in_one_line_what_is_no_engine(tmp_path, factory, words):
    file = tmp_path / "mine.py"
    file.write_text(f"import torch, torch_ref\nnet = torch.nn.Linear(3, 2)\nfactory = {factory}\n")
    result = CliRunner().invoke(app, ["lockstep", "--model", "mlp", "--steps", "1", "--engine", f"{file}:factory"])
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert len(result.output.splitlines()) == 1, result.output


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": lambda y, target: None}, "the loss of .* must be a tensor of one number.*; came None"),
        ({"loss": lambda y, target: y}, "the loss of .* came a tensor of shape"),
        ({"optimizer": lambda params: None}, "optimizer must return a torch.optim.Optimizer; came None"),
        ({"optimizer": torch.optim.SGD([torch.ones(1)])}, "optimizer must be a function.* came an object of SGD"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer must step once.* came LBFGS, whose step .* closure"),
    ],
)
def test_a_module_with_no_loss_or_optimizer_is_refused(given, words):
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    )
    with pytest.raises(ValueError, match=words):
        run(engines.Engine(engine_of(net, **given), options={}), steps=1)


def test_what_a_bare_engine_does_not_show_is_said():
    report = run(engines.RIGHT["bare Adam"], steps=1)
    assert report.verdict == (
        "what mine shows agrees in 1 step; it does not show, so not judged were: layers, the optimiser's state"
    )


def test_a_trusted_engine_is_judged_alone_once_it_disagrees():
    """As verify does: replaying every layer of torch's made its networks dearer by half."""
    right, wrong = brief("mlp", engine=TorchEngine), brief("mlp", engine=engines.activation(0, torch.sigmoid))
    assert right.passed
    assert not [row for row in right.rows if row.quantity.endswith("torch alone")]
    assert "at activation1: a is" in wrong.verdict or "activation1: sigmoid" in wrong.verdict, wrong.verdict
    assert [row for row in wrong.rows if row.quantity.endswith("torch alone")]


@pytest.mark.parametrize(("late", "words"), [(0, ""), (1, "the learning rate is that of the next step")])
def test_a_module_is_clipped_limited_and_scheduled(late, words):
    """late: how much further than the schedule the module's own scheduler is."""

    def halved(made):
        return 0.5**made

    net = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    )
    options = {**engines.CLIPPED, "schedule": halved, "max_norm": 0.5}
    own = {"scheduler": lambda made: LambdaLR(made, lambda step: halved(step + late))} if late else {}
    report = run(engines.Engine(engine_of(net, **own), options=options))
    assert report.passed == (not words), report.verdict
    assert words in report.verdict


def frozen(how):
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    )
    net[0].requires_grad_(how != "requires_grad")
    first = 2 if how == "left out" else 0
    return engine_of(net, optimizer=lambda params: torch.optim.Adam(params[first:], lr=0.01))


@pytest.mark.parametrize(
    ("how", "declared", "words"),
    [
        ("requires_grad", True, ""),
        ("left out", True, ""),
        ("trained", True, "what is frozen (W1 and b1) is trained"),
        ("requires_grad", False, "W1 and b1 are left out of the update and not moved"),
    ],
)
def test_frozen_parameters_are_judged(how, declared, words):
    names = {"frozen": ("W1", "b1")} if declared else {}
    report = run(engines.Engine(frozen(how), options={**engines.ADAM, "clip_norm": 0.05, **names}))
    assert report.passed == (not words), report.verdict
    assert words in report.verdict


class Groups(Loop):
    """AdamW's parameter groups: those that decay, by name, and all others."""

    decayed = ""

    def optim(self, params):
        named = dict(zip(("W1", "b1", "W2", "b2", "W3", "b3"), params, strict=True))
        groups = [{"params": [named[n] for n in self.decayed.split()]}]
        groups += [{"params": [p for n, p in named.items() if n not in self.decayed.split()], "weight_decay": 0.0}]
        return torch.optim.AdamW([g for g in groups if g["params"]], **self.own.config)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    ("decayed", "words"),
    [
        ("W1 b1 W2 b2 W3 b3", "weight decay is on biases (b1 and b2 and b3) too, where it is due on weights"),
        ("W1 W2 W3", ""),
        ("b1 b2 b3", "weight decay's groups are exchanged: it is on biases (b1 and b2 and b3), and not on weights ("),
        ("W2 W3", "weight decay leaves weights (W1) out"),
        ("b1 W2 W3", "weight decay is on biases (b1), where none is due, and leaves weights (W1) out"),
        ("", "weight decay is left out"),
    ],
)
def test_which_parameters_decay_is_judged(decayed, words, bare):
    """As it is declared; bare: without the gradients."""
    make = type("Own", (Groups,), {"decayed": decayed})
    if bare:
        shown = make.step
        make.step = lambda *args: replace(shown(*args), gradients={})
    report = run(engines.Engine(make, options={**engines.ADAMW, "decayed": "weights"}))
    assert report.passed == (not words), report.verdict
    assert words in report.verdict


@pytest.mark.parametrize(
    ("made", "declared", "words"),
    [
        (lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), weight_decay=0.1), engines.ADAMW, ""),
        (lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.95, 0.999), weight_decay=0.1), engines.ADAMW, "its betas is"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, weight_decay=0.1), engines.ADAMW, "its amsgrad is on"),
        (lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1), engines.ADAMW, "its lr is 0.02, where 0.01 is"),
        (lambda p: torch.optim.LBFGS(p, lr=0.05), engines.ONE, "it is LBFGS, where sgd is due"),
        (
            lambda p: torch.optim.SGD([{"params": p}, {"params": [torch.zeros(1)], "lr": 0.1}], lr=0.05),
            engines.ONE,
            "groups with a learning rate of their own cannot be declared",
        ),
    ],
)
def test_what_an_optimiser_says_otherwise_is_told(made, declared, words):
    options = OwnOptions(training_step(mlp([5, 6, 3], "relu"), optimizer=declared["optimizer"]))
    options.read(SimpleNamespace(optimizer=made([torch.ones(1)])))
    said = options.otherwise({})
    assert (words in said) if words else not said, said


def test_no_option_is_told_that_a_scheduler_has_gone_on_to():
    """Behind two steps the learning rate is 0, which no step was made with."""
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([weight], 0.01)
    scheduler = CosineAnnealingLR(optimizer, 2)
    options = OwnOptions(training_step(mlp([5, 3], "relu"), optimizer=adam(0.01)))
    options.read(SimpleNamespace())  # the optimiser is made in the first step, and read behind it alone
    said = []
    for _ in range(2):
        optimizer.step()
        scheduler.step()
        options.read(SimpleNamespace(optimizer=optimizer))
        said.append(options.otherwise({}))
    unknown, known = said
    assert not unknown
    assert "its lr is not the same in every step, where 0.01 is declared" in known


@pytest.mark.exhaustive  # 1 s: no cause is found before the options are asked
def test_options_are_read_at_every_step_of_a_run():
    net = torch.nn.Linear(5, 3)
    make = engine_of(net, optimizer=lambda p: torch.optim.Adam(p, 0.01), scheduler=lambda o: CosineAnnealingLR(o, 2))
    declared = {"optimizer": adam(0.01), "l2": 0.0}
    report = lockstep(mlp([5, 3], "relu"), data(), engine=make, steps=2, batch_size=4, free=False, **declared)
    assert "its lr is not the same in every step, where 0.01 is declared" in report.verdict, report.verdict


def test_a_groups_decay_is_compared_with_what_is_declared_for_its_parameters():
    step = training_step(mlp([5, 6, 3], "relu"), **engines.ADAMW, decayed="weights")
    params = step.init(torch.Generator()).params
    weights, biases = ([p.requires_grad_() for n, p in params.items() if n[0] == kind] for kind in "Wb")

    def said(**own):
        options = OwnOptions(step)
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, **own}]
        options.read(SimpleNamespace(optimizer=torch.optim.AdamW(groups, lr=0.01)))
        return options.otherwise(params)

    assert "its weight_decay is 0.01 in a group where 0.0 is declared (for b1 and b2)" in said()
    assert not said(weight_decay=0.0)


@pytest.mark.exhaustive
def test_adams_first_step_alone_tells_no_wrong_gradient():
    """It is the gradients' signs: a decay that was left out was told as a mean of unequal pieces."""
    make = type("Own", (Groups,), {"decayed": "W2 W3"})
    shown, torch_adam = make.step, torch.optim.Adam
    make.step = lambda *args: replace(shown(*args), gradients={})
    options = {"l2": 0.0, "optimizer": adam(0.01, weight_decay=0.1), "decayed": "weights"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", torch_adam)
        report = run(engines.Engine(make, options=options))
    assert "weight decay leaves weights (W1) out (as the parameters alone tell" in report.verdict


class NotZeroed(Loop):
    def train(self, x, target):
        loss = self.cost(x, target)
        loss.backward()
        self.keep()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss


@pytest.mark.parametrize("bare", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_gradients_left_clipped_are_told(bare):
    """Not as a multiple of a bias, which one step from 0 is the same."""
    make = type("Own", (NotZeroed,), {})
    if bare:
        make.step = lambda *args: replace(NotZeroed.step(*args), gradients={})
    report = run(engines.Engine(make, options=engines.CLIPPED))
    assert "not set to zero: those of" in report.verdict
    assert "what clipping has left of" in report.verdict


def test_a_module_and_the_reference_decay_what_is_declared():
    """Each by groups of torch's AdamW; and undeclared groups are told with what declares them."""
    options = {**engines.ADAMW, "decayed": ["W1", "b2"]}
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    )
    for factory in (TorchEngine, engine_of(net)):
        report = run(engines.Engine(factory, options=options))
        assert report.passed, report.verdict
        assert report.training["decayed"] == ["W1", "b2"]
    undeclared = run(engines.Engine(type("Own", (Groups,), {"decayed": "W1 W2 W3"}), options=engines.ADAMW))
    assert "if that is meant, declare it: decayed='weights'" in undeclared.verdict


@pytest.mark.parametrize(
    ("decayed", "optimizer", "words"),
    [
        (["W9"], engines.ADAMW["optimizer"], "decayed must be .weights. or names of .*; came .*W9"),
        ("weights", sgd(0.05), "decayed is for one of .* with a weight_decay above 0; came sgd with 0.0"),
    ],
)
def test_a_declared_decay_that_cannot_be_is_refused(decayed, optimizer, words):
    with pytest.raises(ValueError, match=words):
        run(engines.Engine(TorchEngine, options={"decayed": decayed, "optimizer": optimizer}))


def test_frozen_parameters_shown_with_gradients_of_0_are_told():
    """Not as a layer that passes nothing back."""

    def make(name, **options):
        engine = frozen("requires_grad")(name, **options)
        bare = engine.step

        def step(state, x, target):
            record = bare(state, x, target)
            zeros = {n: torch.zeros_like(p) for n, p in record.params.items()}
            return replace(record, layers={}, gradients={**zeros, **record.gradients})

        engine.step = step
        return engine

    report = run(engines.Engine(make, options=engines.ADAM), steps=1)
    assert "declare it: frozen=('W1', 'b1')" in report.verdict


def test_causes_that_one_update_does_not_tell_apart_are_all_said(monkeypatch):
    """Adam's first step is the gradients' signs, whether they are clipped by value or not at all."""
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", torch.nn.utils.clip_grad_value_)
    report = run(engines.Engine(frozen("trained"), options={**engines.ADAM, "clip_norm": 1e-3}), steps=1)
    assert "clipping is by value" in report.verdict
    assert "this step does not tell which" in report.verdict


def test_a_twin_with_frozen_parameters_passes():
    assert run(engines.Engine(TorchEngine, options={**engines.ADAM, "clip_norm": 0.05, "frozen": ("W1",)})).passed


class Adding(Loop):
    """Behind the first activation stands what the model does not have."""

    def cost(self, x, target):
        return cross_entropy(self.module[2:](self.added(self.module[:2](x))), target)


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (
            lambda h: dropout(h, 0.1),
            "drawn by chance that the model does not have: two steps from the same num",
        ),
        (lambda h: layer_norm(h, h.shape[1:]), "at activation1: behind it stands a layer_norm that is not due ("),
    ],
)
def test_what_a_bare_loop_has_beside_is_named(added, words):
    make = type("Own", (Adding,), {"added": staticmethod(added)})
    assert words in run(engines.Engine(make, options=engines.ONE), steps=1).verdict


class Bare:
    """A loop that shows a loss, and gradients or parameters."""

    made = 0

    def __init__(self, how, shows):
        self.how, self.shows = how, shows

    def step(self, state, x, target):
        how, params = self.how, {n: p.clone().requires_grad_() for n, p in state.params.items()}
        used = {n: p + (p.bfloat16() - p).detach() for n, p in params.items()} if how == "rounded" else params
        h = torch.relu(x @ used["W1"].T + used["b1"])
        h = h.detach() if how == "detached" else h
        z = h @ used["W2"].T + used["b2"]
        pieces = {"added": 2, "unequal": 3}.get(how, 8)
        cost = sum(map(torch.nn.functional.cross_entropy, z.split(pieces), target.split(pieces)))
        if how != "forgotten":
            cost = cost + 0.005 * sum(p.square().sum() for n, p in params.items() if n[0] == "W")
        found = torch.autograd.grad(cost, list(params.values()), allow_unused=True)
        gradients = {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), found, strict=True)
        }
        if how == "clipped":
            gradients = {n: g.clamp(-0.01, 0.01) for n, g in gradients.items()}
        if how == "summed":
            self.made = {n: g + (self.made[n] if self.made else 0) for n, g in gradients.items()}
        moved = self.made if how == "summed" else gradients
        after = {n: p.detach() - 0.05 * moved[n] for n, p in params.items()}
        after = {n: p.bfloat16().to(p.dtype) for n, p in after.items()} if how == "stored" else after
        shown = {"gradients": gradients} if "g" in self.shows else {}
        return StepRecord(cost.detach(), **shown, **({"params": after} if "p" in self.shows else {}))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("how", "shows", "words"),
    [
        ("forgotten", "g", "at loss: the penalty (l2) is left out ("),
        ("forgotten", "p", "at loss: the penalty (l2) is left out ("),
        ("detached", "g", "at activation1: nothing passes back through it: it is detached, or"),
        (
            "added",
            "gp",
            "the means of 4 micro-batches of 2 are added up, and not divided by 4; the penalty counts once (",
        ),
        ("unequal", "p", "the means of 3 micro-batches of 3, the last of which is shorter, are added up, and not"),
        ("clipped", "g", "the gradients that are shown are clipped, each number by its value, to ±0.01 ("),
        ("clipped", "p", "the gradients are clipped, each number by its value, to ±0.01 (as the parameters alone tell"),
        ("rounded", "g", "the network is computed with parameters that are rounded to bfloat16 ("),
        ("stored", "gp", "the update is wrong: the parameters are rounded to bfloat16 ("),
        ("summed", "p", "the gradients of all steps so far are added up: they are not set to zero ("),
    ],
)
def test_a_bare_loop_is_named(how, shows, words):
    made = data()
    made = replace(made, x=made.x - 0.5)
    report = lockstep(
        mlp([5, 6, 3], "relu"),
        made,
        engine=lambda name, **options: Bare(how, shows),
        against="mine",
        steps=3,
        batch_size=8,
        loss="softmax_cross_entropy",
        l2=0.01,
        optimizer=sgd(lr=0.05),
        free=False,
    )
    assert words in report.verdict
