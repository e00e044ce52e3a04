"""`manual-bp train`: whole runs, killed runs, resumed runs, and everything that can go wrong."""

from __future__ import annotations

import datetime
import errno
import functools
import hashlib
import json
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp import losses, networks
from manual_bp.cli import app
from manual_bp.cli.session import Session
from manual_bp.files import write_atomically
from manual_bp.training import checkpoint as checkpoints
from manual_bp.training import data, history
from manual_bp.training.run import CHECKPOINT, METRICS, MODEL
from manual_bp.training.step import Step
from tests.documents import valid
from tests.training.examples import off_defaults

MODULE = [sys.executable, "-m", "manual_bp.cli", "train"]


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Five pictures take as long as the training of these runs: they are drawn where a test asks for `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Session, "_pictures", lambda *_: [])


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """To read the digits takes as long as an epoch."""
    monkeypatch.setattr(data, "digits", DIGITS)


DIGITS = functools.cache(data.digits)


@pytest.fixture
def drawn():
    pytest.importorskip("matplotlib")


def run(*arguments):
    return CliRunner().invoke(app, ["train", *(str(a) for a in arguments)])


def words(result):
    return " ".join(result.output.split())


def same(first, second):
    """Everything that a checkpoint holds, bit for bit."""
    ours, theirs = (checkpoints.load(folder / CHECKPOINT) for folder in (first, second))
    for group, tensors in ours.groups().items():
        others = theirs.groups()[group]
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[name], others[name]) for name in tensors), group
    assert (ours.epoch, ours.stopping, ours.state.steps) == (theirs.epoch, theirs.stopping, theirs.state.steps)
    rows = [[valid(line, "train") for line in (f / METRICS).read_text().splitlines()] for f in (first, second)]
    for row in rows[0] + rows[1]:
        del row["seconds"]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == list(range(1, ours.epoch + 1))


PICTURES = ("learning_curves", "gradient_norms", "saturation", "confusion", "misclassified")

# Everything that has a state: dropout, batch norm, augmentation, Adam, and early stopping that has found a best epoch.
FULL = ("--model", "residual_mlp", "--dropout", 0.2, "--augment", "--epochs", 4, "--batch-size", 300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = run("--out", folder, *FULL)
    assert result.exit_code == 0, result.output
    return folder


def test_a_run(tmp_path, monkeypatch, drawn):
    """Pictures included, which name what was trained, and are made whatever the clock says."""

    class Clock(datetime.datetime):
        @classmethod
        def today(cls):
            raise OverflowError("timestamp too large to convert to C _PyTime_t")

    monkeypatch.setattr("matplotlib.backends.backend_svg.datetime", SimpleNamespace(datetime=Clock, date=datetime.date))
    monkeypatch.chdir(tmp_path)
    result = run("--epochs", 12)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "mlp-1"
    pictures = {f"{name}.svg" for name in PICTURES}
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT, METRICS, MODEL, *pictures}
    (accuracy,) = (line for line in result.output.splitlines() if line.startswith("test accuracy"))
    for name in pictures:
        assert f"mlp on digits, adam, lr 0.005: {accuracy}" in (folder / name).read_text(), name
    assert "Dead units: share of each layer" in (folder / "saturation.svg").read_text()
    lines = result.output.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 12
    records = history.read(folder / METRICS, 12)
    assert [record.steps for record in records] == [20 * epoch for epoch in range(1, 13)]
    assert records[-1].training_loss < records[0].training_loss
    checkpoint = checkpoints.load(folder / CHECKPOINT)
    assert checkpoint.stopping.best == min(record.validation_loss for record in records)
    model = load_file(folder / MODEL)
    assert all(torch.equal(model[name], p) for name, p in checkpoint.best_params.items())
    verdicts = (
        "test accuracy 9",
        "359 are misclassified; most often ",
        "over-fitting: too few epochs to say: 12",
        "the gradient arrives: ",
        "activation1 (relu): ",
    )
    for verdict in verdicts:
        assert any(verdict in line for line in lines), verdict
    monkeypatch.setattr(Session, "_pictures", lambda *_: [])
    assert run("--epochs", 1).exit_code == 0
    assert (tmp_path / "runs" / "mlp-2" / CHECKPOINT).exists()


def test_early_stopping_takes_the_best_parameters(tmp_path):
    result = run("--out", tmp_path, "--patience", 1, "--lr", 0.02, "--epochs", 60)
    assert result.exit_code == 0, result.output
    records = history.read(tmp_path / METRICS, checkpoints.load(tmp_path / CHECKPOINT).epoch)
    assert len(records) < 60
    assert records[-1].validation_loss >= records[-2].validation_loss
    said = f"stopped after epoch {len(records)}, 1 without a better one: best validation loss"
    assert said in words(result)
    assert f"in epoch {len(records) - 1}, whose parameters are taken" in words(result)
    again = run("--out", tmp_path, "--resume")
    assert again.exit_code == 0
    assert said in words(again)


def test_the_same_options_are_the_same_run(tmp_path, whole):
    run("--out", tmp_path, *FULL)
    same(tmp_path, whole)


@pytest.mark.parametrize("kill", [0, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(1, 10))])
def test_kill_9_and_resume(tmp_path, whole, kill):
    """At random moments, start and end included; however often it is killed, it ends as if it had never been."""
    moments = random.Random(kill)
    command = [*MODULE, "--out", str(tmp_path / "run"), *(str(a) for a in FULL)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (tmp_path / "run" / CHECKPOINT).exists():
        assert process.poll() is None, f"the training ended early, with status {process.returncode}"
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.8))
    process.kill()
    process.wait()
    resumed = run("--out", tmp_path / "run", "--resume")
    assert resumed.exit_code == 0, resumed.output
    same(tmp_path / "run", whole)


@pytest.mark.parametrize("after", ["history.append", "checkpoints.save"])
def test_killed_on_either_side_of_the_checkpoint(tmp_path, monkeypatch, whole, after):
    """A line of metrics without its checkpoint is removed; half a line too; no epoch is doubled or lost."""
    module, name = {"history.append": (history, "append"), "checkpoints.save": (checkpoints, "save")}[after]
    right = getattr(module, name)
    calls = iter(range(100))

    def killed(*arguments):
        right(*arguments)
        if next(calls) == 2:
            raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        assert run("--out", tmp_path, *FULL).exit_code == 9
    if after == "history.append":
        with (tmp_path / METRICS).open("a") as file:
            file.write('{"epoch": 4, "st')
    assert run("--out", tmp_path, "--resume").exit_code == 0
    same(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_steps(tmp_path, whole, number, monkeypatch):
    """The step that is being made is made, the state is saved, and the run ends as if nothing had been."""
    right, calls = Step.__call__, iter(range(100))

    def signalled(self, *arguments):
        if next(calls) == 7:
            signal.raise_signal(number)
        return right(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", signalled)
        result = run("--out", tmp_path, *FULL)
    assert result.exit_code == 128 + number
    assert f"interrupted by {number.name} after step 8; the state is saved" in words(result)
    assert checkpoints.load(tmp_path / CHECKPOINT).state.steps == 8
    assert run("--out", tmp_path, "--resume").exit_code == 0
    same(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_a_signal_saves_the_state_and_prints_the_command(tmp_path, number):
    options = ["--epochs", "400", "--patience", "0", "--batch-size", "32"]
    process = subprocess.Popen([*MODULE, "--out", str(tmp_path / "a run"), *options], stdout=subprocess.PIPE, text=True)
    while "epoch   2" not in (line := process.stdout.readline()):
        assert line, f"it ended with status {process.wait()}"
    process.send_signal(number)
    rest, _ = process.communicate()
    assert process.returncode == 128 + number
    *_, said, command = rest.splitlines()
    assert said.startswith(f"interrupted by {number.name} after step")
    assert command == f"manual-bp train --out '{tmp_path}/a run' --resume"
    found = checkpoints.load(tmp_path / "a run" / CHECKPOINT)
    assert f"after step {found.state.steps};" in said
    assert found.state.steps >= found.epoch * 40 > 0  # 40 mini-batches an epoch
    target = found.epoch + 1
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--epochs", str(target)])
    assert result.exit_code == 0, result.output
    options[1] = str(target)
    assert run("--out", tmp_path / "whole", *options).exit_code == 0
    same(tmp_path / "a run", tmp_path / "whole")


def test_more_epochs_for_a_finished_run(tmp_path, whole):
    run("--out", tmp_path, *FULL, "--epochs", 2)
    assert run("--out", tmp_path, "--resume", "--epochs", 4).exit_code == 0
    same(tmp_path, whole)


def test_a_loss_that_is_not_finite(tmp_path):
    result = run("--out", tmp_path, "--optimizer", "sgd", "--lr", 1e9, "--epochs", 3)
    assert result.exit_code == 1
    assert "training stopped in step " in words(result)
    assert "layer " in words(result)
    assert "is whole, of epoch 0" in words(result)
    found = checkpoints.load(tmp_path / CHECKPOINT)
    assert all(bool(p.isfinite().all()) for p in found.state.params.values())


@pytest.mark.parametrize("failing", ["checkpoints.write_atomically", "history.append"])
def test_a_full_disk(tmp_path, monkeypatch, whole, failing):
    module, name = (checkpoints, "write_atomically") if failing.startswith("checkpoints") else (history, "append")
    right = getattr(module, name)
    calls = iter(range(100))

    def full(*arguments):
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        right(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        result = run("--out", tmp_path, *FULL)
    assert result.exit_code == 1
    assert "No space left on device" in words(result)
    done = 1 if failing.startswith("checkpoints") else 2
    assert f"is whole, of epoch {done}. Make room" in words(result)
    assert checkpoints.load(tmp_path / CHECKPOINT).epoch == done
    assert run("--out", tmp_path, "--resume").exit_code == 0
    same(tmp_path, whole)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_disk_that_is_full_from_the_start(tmp_path, monkeypatch, failing):
    """Before there is a checkpoint there is nothing to resume: the same command begins anew."""
    right, calls = checkpoints.write_atomically, iter(range(100))

    def full(*arguments):
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        right(*arguments)

    options = ("--out", tmp_path / "run", "--epochs", 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomically", full)
        result = run(*options)
    assert result.exit_code == 1
    if failing == 0:
        assert "There is no checkpoint yet. Make room, then give the same command again" in words(result)
        assert "--resume" not in result.output
        assert run(*options).exit_code == 0
    else:
        assert "of epoch 0. Make room, then go on with: manual-bp train --out" in words(result)
        assert run(*options[:2], "--resume").exit_code == 0


LINKED = [
    f".{CHECKPOINT}.partial",
    CHECKPOINT,
    METRICS,
    MODEL,
    f".{MODEL}.partial",
    "confusion.svg",
    ".confusion.svg.partial",
]


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("name", LINKED)
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch, mnist, name, dangling):
    """Files of a run are made in its folder, or refused; what a link in it points to is left as it is."""
    target, folder = tmp_path / "target", tmp_path / "run"
    folder.mkdir()
    if not dangling:
        target.write_text("mine")
    (folder / name).symlink_to(target)
    monkeypatch.setattr(Session, "_pictures", lambda *_: write_atomically(folder / "confusion.svg", b"picture") or [])
    result = run("--out", folder, "--data", mnist, "--epochs", 1)
    refused = name in (CHECKPOINT, METRICS)
    assert result.exit_code == (2 if refused else 0), result.output
    assert target.read_text() == "mine" if not dangling else not target.exists()
    if refused:
        assert "--out must name a folder without a run" in words(result)
    else:
        assert not any(path.is_symlink() for path in folder.iterdir())


def test_metrics_that_became_a_link_are_not_followed(tmp_path):
    folder, target = tmp_path / "run", tmp_path / "target"
    assert run("--out", folder, "--epochs", 1).exit_code == 0
    (folder / METRICS).rename(target)
    (folder / METRICS).symlink_to(target)
    before = target.read_bytes()
    result = run("--out", folder, "--resume", "--epochs", 2)
    assert result.exit_code == 2
    assert "it is a symbolic link, which is not followed" in words(result)
    assert target.read_bytes() == before


def resealed(path, change):
    """Change what a checkpoint says and holds, and give it the digest of that."""
    raw = path.read_bytes()
    about = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    content, tensors = json.loads(about["content"]), load_file(path)
    content = change(content, tensors) or content
    named = {} if content == "nothing" else {"content": content if isinstance(content, str) else json.dumps(content)}
    raw = checkpoints.tensors_as_bytes(tensors, {**named, "digest": checkpoints.PLACEHOLDER})
    digest = hashlib.sha256(raw).hexdigest()
    path.write_bytes(raw.replace(checkpoints.PLACEHOLDER.encode(), digest.encode(), 1))


def setting(*path, to):
    def change(content, tensors):
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = to

    return change


def without(*path):
    def change(content, tensors):
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


ODD = {
    "no content": (lambda c, t: "nothing", "must hold __metadata__ with a text named content"),
    "no JSON": (lambda c, t: "{", "it is no checkpoint of a run"),
    "nested": (lambda c, t: "[" * 100_000, "it is no checkpoint of a run"),
    "a list": (lambda c, t: "[1]", "it must be an object with names; came [1]"),
    "another format": (setting("format", to="checkpoint 0"), "the format must be 'manual-bp checkpoint 1'"),
    "no epoch": (without("epoch"), "it must have 'epoch'"),
    "another name": (setting("odd", to=1), "it must have no other names"),
    "an epoch of true": (setting("epoch", to=True), "epoch must be a whole number; came True"),
    "steps below 0": (setting("steps", to=-1), "steps must be a whole number from 0"),
    "seed beyond 2^63": (setting("seed", to=10**30), "seed must be a whole number from 0 to 2^63 - 1"),
    "another epoch": (setting("epoch", to=1), "the checkpoint must be of epoch 4, after 20 steps of 5 an epoch"),
    "a best of a text": (setting("stopping", "best", to="a"), "best must be a finite number; came 'a'"),
    "waiting below 0": (setting("stopping", "waited", to=-1), "stopping must count from 0"),
    "waited too long": (
        setting("stopping", "waited", to=9),
        "how early stopping with patience 15 stands after epoch 4",
    ),
    "no best epoch": (setting("stopping", "best_epoch", to=None), "how early stopping with patience 15 stands"),
    "verified a text": (setting("verified", to={"steps": "many"}), "steps must be a whole number; came 'many'"),
    "configuration a list": (setting("configuration", to=[]), "configuration must be an object"),
    "lr a text": (setting("configuration", "lr", to="fast"), "lr must be a finite number or null; came 'fast'"),
    "lr NaN": (setting("configuration", "lr", to=float("nan")), "lr must be a finite number or null; came nan"),
    "unknown option": (setting("configuration", "odd", to=1), "it must have no other names"),
    "no digest of the data": (without("configuration", "data_digest"), "the data must be those"),
    "no batches": (setting("configuration", "batch_size", to=0), "batch_size ≥ 1"),
    "a seed below 0": (setting("configuration", "seed", to=-1), "seed must be a whole number"),
    "no tensor": (
        lambda c, t: t.pop("params/input.weight") is None,
        "the params of residual_mlp; 'input.weight' is to be",
    ),
    "another tensor": (lambda c, t: t.update(odd=torch.ones(1)), "its tensors must be named params/..."),
    "a group too many": (lambda c, t: t.update({"odd/W1": torch.ones(1)}), "its tensors must be named params/..."),
    "a name too many": (lambda c, t: t.update({"params/odd": torch.ones(1)}), "'odd' is to be absent"),
    "no best": (lambda c, t: {t.pop(n) for n in list(t) if n.startswith("best")} and None, "the best_params of"),
    "another shape": (lambda c, t: t.update({"params/output.bias": torch.ones(3)}), "'output.bias' is to be ((10,)"),
    "another dtype": (lambda c, t: t.update({"params/output.bias": torch.ones(10).half()}), "torch.float32"),
    "NaN": (
        lambda c, t: t.update({"params/output.bias": torch.full((10,), torch.nan)}),
        "its numbers must be finite; came NaN",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_checkpoint_with_a_right_digest_is_refused_in_words(tmp_path, whole, name):
    change, message = ODD[name]
    for file in (CHECKPOINT, METRICS):
        (tmp_path / file).write_bytes((whole / file).read_bytes())
    resealed(tmp_path / CHECKPOINT, change)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    result = run("--out", tmp_path, "--resume", "--epochs", 5)
    assert result.exit_code == 2, result.output
    assert message in words(result)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_resealed_checkpoint_is_taken(tmp_path, whole):
    """So that what is refused above is refused for what it says."""
    for file in (CHECKPOINT, METRICS):
        (tmp_path / file).write_bytes((whole / file).read_bytes())
    resealed(tmp_path / CHECKPOINT, lambda c, t: None)
    assert run("--out", tmp_path, "--resume").exit_code == 0


def test_a_damaged_checkpoint_changes_nothing(tmp_path):
    run("--out", tmp_path, "--epochs", 1)
    path = tmp_path / CHECKPOINT
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    for content in (bytes(raw), bytes(raw[:1000])):
        path.write_bytes(content)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        result = run("--out", tmp_path, "--resume")
        assert result.exit_code == 2
        assert "changed after it was written" in words(result) or "truncated" in words(result)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "there must be 4 epochs, as many as the checkpoint has; came 0"),
        (lambda text: text.splitlines()[1] + "\n", "line 1 must be of epoch 1; came epoch 2"),
        (lambda text: "hello\n" + text, "line 1 must be one epoch's record"),
        (lambda text: text.replace('"training_loss": ', '"training_loss": "low", "was": ', 1), "no other names"),
        (
            lambda text: text.replace('"validation_loss": ', '"validation_loss": null, "x":', 1).replace(
                ', "x":', ', "seconds": ', 1
            ),
            "validation_loss must be a finite number; came None",
        ),
        (lambda text: text.replace('"input"', '"input9"', 1), "line 2 must be of the layers of line 1"),
        (lambda text: "[" * 100_000 + "\n", "line 1 must be one epoch's record"),
    ],
)
def test_damaged_metrics(tmp_path, whole, damage, message):
    folder = shutil.copytree(whole, tmp_path / "run")
    path = folder / METRICS
    path.write_text(damage(path.read_text()))
    result = run("--out", folder, "--resume", "--epochs", 5)
    assert result.exit_code == 2
    assert message in words(result)
    assert checkpoints.load(folder / CHECKPOINT).epoch == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", 0.1), "has --lr 0.005; came 0.1"),
        (("--model", "notes"), "has --model residual_mlp; came notes"),
        (("--batch-size", 10), "has --batch-size 300; came 10"),
        (("--seed", 1), "has --seed 0; came 1"),
        (("--epochs", 3), "--epochs must be at least the 4 that are done; came 3"),
    ],
)
def test_options_that_contradict_the_checkpoint(whole, options, message):
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    result = run("--out", whole, "--resume", *options)
    assert result.exit_code == 2
    assert message in words(result)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before


@pytest.mark.parametrize("loss", losses.names())
def test_the_loss_and_its_hyperparameters_are_remembered(tmp_path, loss):
    hyper = next(iter(off_defaults(loss)), {})
    given = [f"--loss-hyper={name}={value}" for name, value in hyper.items()]
    first = run("--out", tmp_path, "--loss", loss, *given, "--epochs", 1)
    assert first.exit_code == 0, first.output
    said = ", ".join([f"to test; {loss}", *(f"{name} {value}" for name, value in hyper.items()), "adam"])
    assert said in words(first)
    assert said in words(run("--out", tmp_path, "--resume", "--epochs", 2))
    configuration = checkpoints.load(tmp_path / CHECKPOINT).configuration
    assert (configuration["loss"], configuration["loss_hyper"]) == (loss, hyper)
    others = [("--loss", name) for name in losses.names() if name != loss][:1]
    for other in [*others, ("--loss-hyper", "more=1")]:
        refused = run("--out", tmp_path, "--resume", *other)
        assert refused.exit_code == 2
        assert f"has {other[0]} {configuration[other[0].removeprefix('--').replace('-', '_')]}; came" in words(refused)


def test_a_checkpoint_of_the_time_when_there_was_one_loss(tmp_path):
    """It named none, and was trained with half the squared error: so it goes on."""
    assert run("--out", tmp_path, "--loss", "square_loss", "--epochs", 1).exit_code == 0

    def aged(content, tensors):
        del content["configuration"]["loss"], content["configuration"]["loss_hyper"]

    resealed(tmp_path / CHECKPOINT, aged)
    assert "; square_loss, adam" in words(run("--out", tmp_path, "--resume", "--epochs", 2))
    assert checkpoints.load(tmp_path / CHECKPOINT).configuration["loss"] == "square_loss"


def test_options_that_agree_with_the_checkpoint(whole):
    assert run("--out", whole, "--resume", *FULL, "--lr", 0.005).exit_code == 0


def test_other_data_are_refused(tmp_path, monkeypatch, whole):
    right = data.digits()
    monkeypatch.setattr(data, "digits", lambda: data.Dataset("digits", right.x.flip(0), right.labels, right.image))
    result = run("--out", whole, "--resume")
    assert result.exit_code == 2
    assert "the data must be those with which the run began" in words(result)


def idx(values):
    """An IDX file of unsigned bytes."""
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + bytes(values.flatten().tolist())
    )


def test_a_folder_of_images_that_moves(tmp_path, monkeypatch):
    """Resumed from elsewhere the relative path still holds; once the folder has moved, --data says where to."""
    images = torch.randint(256, (60, 4, 5), generator=torch.Generator().manual_seed(0))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "images" / "train-labels-idx1-ubyte").write_bytes(idx(torch.arange(60) % 3))
    monkeypatch.chdir(tmp_path)
    result = run("--data", "images", "--out", "run", "--epochs", 1, "--augment")
    assert result.exit_code == 0, result.output
    assert "mlp on images: 42 examples to learn from, 6 to stop by, 12 to test" in words(result)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("--out", "../run", "--resume", "--epochs", 2).exit_code == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    gone = run("--out", "../run", "--resume", "--epochs", 3)
    assert gone.exit_code == 2
    assert "which is no folder" in words(gone)
    assert run("--out", "../run", "--resume", "--epochs", 3, "--data", "../moved").exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert run("--out", "run", "--resume", "--epochs", 4).exit_code == 0


@pytest.fixture
def mnist(tmp_path):
    """A folder under MNIST's names: 40 images to train with, 7 to test with, one of a class that is not trained."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for which, labels in (("train", torch.arange(40) % 3), ("t10k", torch.tensor([0, 1, 2, 0, 1, 2, 3]))):
        images = torch.randint(256, (len(labels), 4, 5), generator=generator)
        (folder / f"{which}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{which}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_mnist_s_own_test_is_the_test(tmp_path, mnist):
    options = ("--data", mnist, "--epochs", 1, "--batch-size", 9)
    result = run(*options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "36 examples to learn from, 4 to stop by, 7 to test (all of t10k-* and nothing else)" in words(result)
    assert " of 7)" in words(result)
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    for given in (options, ("--resume", "--epochs", 2)):
        result = run(*given, "--out", tmp_path / ("run" if "--resume" in given else "other"))
        assert result.exit_code == 2
        assert "a file t10k-labels* must be there" in words(result)
        assert "Add it, or take the other t10k-* file away" in words(result)
    (mnist / "t10k-images-idx3-ubyte").unlink()
    result = run("--resume", "--epochs", 2, "--out", tmp_path / "run")
    assert "the data must be those with which the run began" in words(result)
    assert "28 examples to learn from, 4 to stop by, 8 to test;" in words(run(*options, "--out", tmp_path / "other"))


def test_a_run_is_not_overwritten(whole):
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    result = run("--out", whole, *FULL)
    assert result.exit_code == 2
    assert "Add --resume to go on with it" in words(result)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before


def test_two_processes_in_one_folder(tmp_path):
    from manual_bp.training.run import alone

    with alone(tmp_path):
        result = run("--out", tmp_path, "--epochs", 1)
    assert result.exit_code == 2
    assert "another process is training into it" in words(result)
    assert run("--out", tmp_path, "--epochs", 1).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "transformer"), "--model must be one of"),
        (("--data", "/nowhere"), "folder with IDX files"),
        (("--optimizer", "lion"), "--optimizer must be one of"),
        (("--dtype", "bfloat16"), "--dtype must be float32 or float64"),
        (("--loss", "relu"), "loss must be a rule of the chapter loss that takes x and a target"),
        (("--loss", "sqare_loss"), "there is no rule 'sqare_loss'. Did you mean square_loss"),
        (("--loss", "square_loss", "--loss-hyper", "beta=1"), "square_loss: hyperparameters are []; came ['beta']"),
        (("--loss-hyper", "beta"), "--loss-hyper must be NAME=VALUE"),
        (("--lr", -1), "lr must be a finite number and not negative"),
        (("--dropout", 0.1), "--dropout is for --model residual_mlp"),
        (("--model", "residual_mlp", "--dropout", 1), "dropout must be a probability"),
        (("--epochs", 0), "epochs"),
        (("--label-smoothing", 2), "label_smoothing ≤ 1; came 2.0"),
        (("--loss", "huber", "--loss-hyper", "delta=-1"), "delta must be positive; came -1.0"),
        (("--frozen", "W9"), "frozen must be names of"),
        (("--optimizer", "adamw", "--decayed", "W9"), "decayed must be 'weights' or names of"),
        (("--warmup", 10**6, "--cosine"), "train longer (--epochs"),
        (("--lr", "nan"), "lr must be a finite number and not negative; came nan"),
        (("--seed", 10**20), "seed"),
        (("--model", "residual_mlp", "--batch-size", 1), "refuses one of 1: batch_norm: a channel must hold more than"),
        (("--model", "residual_mlp", "--batch-size", 1257), "refuses one of 1, the last of every epoch: batch_norm:"),
        (("--data", "/" + "a" * 300), "cannot be read"),
        (("--resume",), "--resume needs --out"),
        (("--resume", "--out", "/nowhere/run"), "is no folder"),
        (("--out", "/proc/run"), "--out must name a folder that can be made"),
    ],
)
def test_bad_usage_is_status_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in words(result)
    assert not list(tmp_path.iterdir())


def test_verify_judges_every_step_and_changes_none(tmp_path, mnist):
    options = ("--data", mnist, "--model", "residual_mlp", "--batch-size", 18, "--augment", "--frozen", "input.weight")
    options += ("--optimizer", "adamw", "--decayed", "weights")
    result = run("--out", tmp_path / "run", *options, "--epochs", 1, "--verify")
    assert result.exit_code == 0, result.output
    assert "2 of 2 steps judged against torch, each from the same state: worst error / allowance 0." in words(result)
    assert "every step agrees" in result.output
    unverified = run("--out", tmp_path / "run", "--resume", "--epochs", 2)
    assert unverified.exit_code == 0
    again = run("--out", tmp_path / "run", "--resume", "--epochs", 3, "--verify")
    assert "4 of 6 steps judged against torch, each from the same state (2 others ran without --verify)" in words(again)
    assert run("--out", tmp_path / "plain", *options, "--epochs", 3).exit_code == 0
    judged, plain = (checkpoints.load(tmp_path / name / CHECKPOINT) for name in ("run", "plain"))
    assert judged.verified["steps"] == 4
    assert judged.configuration["frozen"] == ["input.weight"]
    assert judged.configuration["decayed"] == ["weights"]
    assert not judged.state.optimizer["exp_avg.input.weight"].any()
    assert all(torch.equal(judged.state.params[name], p) for name, p in plain.state.params.items())


def test_images_as_images(tmp_path, monkeypatch, mnist):
    """With the folder's own test files, changed at random if nothing else is said."""
    kind, config = networks.MODELS["cnn"]
    monkeypatch.setitem(networks.MODELS, "cnn", (kind, {**config, "layers": [2, "max", 3, "max"]}))
    options = ("--data", mnist, "--model", "cnn", "--batch-size", 18, "--dropout", 0.1)
    result = run("--out", tmp_path / "run", *options, "--epochs", 1, "--verify")
    assert result.exit_code == 0, result.output
    assert "7 to test (all of t10k-* and nothing else)" in words(result)
    assert "from output back to block1.convolution" in words(result)
    assert "every step agrees" in result.output
    configuration = checkpoints.load(tmp_path / "run" / CHECKPOINT).configuration
    assert (configuration["augment"], configuration["cosine"]) == (True, True)
    other = run("--out", tmp_path / "run", "--resume", "--no-augment")
    assert "has --augment True; came False" in words(other)


def test_verify_fails_for_a_wrong_backward(tmp_path, monkeypatch, mnist):
    page = bp.relu.page
    right = page.backward
    monkeypatch.setattr(page, "backward", lambda residuals, dy: tuple(1.001 * d for d in right(residuals, dy)))
    result = run("--out", tmp_path / "run", "--data", mnist, "--epochs", 1, "--batch-size", 36, "--verify")
    assert result.exit_code == 1
    assert "first disagreement in step 1 at activation2: the backward of relu is wrong by itself" in words(result)
    monkeypatch.undo()
    again = run("--out", tmp_path / "run", "--resume", "--epochs", 2, "--verify")
    assert again.exit_code == 1
    assert "first disagreement in step 1" in words(again)
