"""`manual-bp train --model gpt` and `manual-bp sample`: a run of text, interrupted and resumed, and what it writes."""

from __future__ import annotations

import signal

import pytest
import torch
from typer.testing import CliRunner

from manual_bp import networks
from manual_bp.cli import app
from manual_bp.cli.text_session import TextSession
from manual_bp.training import checkpoint as checkpoints
from manual_bp.training import history
from manual_bp.training.run import CHECKPOINT, METRICS, MODEL
from manual_bp.training.step import Step
from tests.documents import valid


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(result):
    return " ".join(result.output.split())


@pytest.fixture(scope="module", autouse=True)
def small():
    """The same parts, a context of eight tokens."""
    kind, config = networks.MODELS["gpt"]
    _, recurrent = networks.MODELS["recurrent"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.MODELS, "gpt", (kind, {**config, "context": 8, "width": 8, "heads": 2, "depth": 2}))
        patch.setitem(networks.MODELS, "recurrent", ("recurrent", {**recurrent, "context": 8, "width": 8}))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Thirty windows of 8 bytes, three to validate with."""
    file = tmp_path_factory.mktemp("text") / "some.txt"
    file.write_bytes(("The quick brown für jumps over the lazy dog.\n" * 9).encode()[: 30 * 8 + 1])
    return file


def options(text):
    return ("--model", "gpt", "--data", text, "--epochs", 2, "--batch-size", 9, "--warmup", 2, "--dropout", 0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text):
    """A run that nothing interrupts, with its pictures."""
    folder = tmp_path_factory.mktemp("whole")
    result = run("train", "--out", folder, *options(text))
    assert result.exit_code == 0, result.output
    return folder, result


def test_a_run(whole):
    folder, result = whole
    pictures = {"attention.svg", "gradient_norms.svg", "learning_curves.svg", "saturation.svg"}
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT, METRICS, MODEL, *pictures}
    said = words(result)
    assert "27 windows of 8 tokens to learn from, the 3 last ones to stop by; 256 different tokens" in said
    assert "softmax_cross_entropy, adamw, lr 0.004" in said
    assert "nats per byte" in said
    records = history.read(folder / METRICS, 2)
    assert [record.steps for record in records] == [3, 6]
    assert records[1].validation_loss < records[0].validation_loss
    assert all(valid(line, "train") for line in (folder / METRICS).read_text().splitlines())
    drawn = (folder / "attention.svg").read_text()
    assert "<!-- head 2 -->" in drawn
    assert "<!-- block2.attention.heads -->" in drawn


def test_interrupted_and_resumed_is_the_same_bit_for_bit(tmp_path, whole, text, monkeypatch):
    right, calls = Step.__call__, iter(range(100))

    def signalled(self, *arguments):
        if next(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return right(self, *arguments)

    monkeypatch.setattr(TextSession, "_pictures", lambda *_: [])
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", signalled)
        assert run("train", "--out", tmp_path, *options(text)).exit_code == 128 + signal.SIGINT
    assert checkpoints.load(tmp_path / CHECKPOINT).state.steps == 2
    grown = run("train", "--out", tmp_path, "--resume", "--epochs", 3)
    assert grown.exit_code == 2
    assert "--epochs must stay 2, with which the learning rate has fallen; came 3" in words(grown)
    assert run("train", "--out", tmp_path, "--resume").exit_code == 0
    ours, theirs = (checkpoints.load(folder / CHECKPOINT) for folder in (tmp_path, whole[0]))
    assert ours.state.steps == theirs.state.steps == 6
    for group, tensors in ours.groups().items():
        assert all(torch.equal(t, theirs.groups()[group][name]) for name, t in tensors.items()), group


def test_a_sample(whole):
    folder, _ = whole
    first, again, other = (
        run("sample", "--model", folder, "--prompt", "The", "--length", 20, "--seed", seed) for seed in (1, 1, 2)
    )
    assert first.exit_code == 0, first.output
    assert first.output.startswith("The")
    assert first.output == again.output
    assert first.output != other.output
    assert run("sample", "--model", folder / MODEL, "--length", 0, "--prompt", "für").output == "für\n"


def test_a_recurrent_network_learns_and_writes(tmp_path, text):
    """As a transformer does, without a map of attention."""
    result = run("train", "--out", tmp_path, *options(text), "--model", "recurrent")
    assert result.exit_code == 0, result.output
    assert "27 windows of 8 tokens to learn from" in words(result)
    records = history.read(tmp_path / METRICS, 2)
    assert records[1].validation_loss < records[0].validation_loss
    pictures = {path.name for path in tmp_path.iterdir() if path.suffix == ".svg"}
    assert pictures == {"gradient_norms.svg", "learning_curves.svg"}
    sampled = run("sample", "--model", tmp_path, "--prompt", "The", "--length", 20)
    assert sampled.exit_code == 0, sampled.output
    assert sampled.output.startswith("The")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--model", "gpt", "--data", "/nowhere"), "data must be 'python' or a file that can be read"),
        (("train", "--model", "gpt", "--augment"), "--augment is for images"),
        (("train", "--model", "gpt", "--loss", "square_loss"), "loss must take the number of the right token"),
        (("train", "--model", "gpt", "--warmup", 10**6), "train longer (--epochs"),
        (("train", "--model", "mlp", "--data", "python"), "folder with IDX files"),
        (("sample", "--model", "/nowhere"), "No such file"),
        (("sample", "--model", "."), "holds no model.safetensors"),
        (("lockstep", "--model", "gpt", "--data", "/nowhere"), "data must be 'python' or a file that can be read"),
    ],
)
def test_bad_usage_is_status_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in words(result)
    assert not list(tmp_path.iterdir())


def test_an_empty_prompt_is_refused(whole):
    result = run("sample", "--model", whole[0], "--prompt", "")
    assert result.exit_code == 2
    assert "the prompt must have a token" in words(result)


def test_every_step_can_be_judged(tmp_path, text):
    (tmp_path / "few").write_bytes(text.read_bytes()[: 10 * 8 + 1])
    given = ("--model", "gpt", "--data", tmp_path / "few", "--epochs", 1, "--batch-size", 5, "--warmup", 1, "--verify")
    result = run("train", "--out", tmp_path / "run", *given)
    assert result.exit_code == 0, result.output
    assert "2 of 2 steps judged against torch, each from the same state" in words(result)
    assert "every step agrees" in result.output
