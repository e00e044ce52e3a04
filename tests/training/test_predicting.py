"""A saved network of any kind comes back, and answers as it did; data of its own in every form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from manual_bp.cli import app
from manual_bp.models import KINDS
from manual_bp.networks import MODELS, learns_images, tiny
from manual_bp.training.predicting import predict, read
from manual_bp.training.saved import SavedModel, load_model
from tests.documents import valid

FEATURES, IMAGE, CLASSES = 4, (1, 5, 4), 3


def saved(name="mlp", loss="softmax_cross_entropy"):
    model = tiny(name, IMAGE if learns_images(name) else (FEATURES,), CLASSES)
    params, buffers = model.init(torch.Generator().manual_seed(0))
    return SavedModel(model, params, buffers, loss=loss)


def examples(n=7):
    return torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(1))


def test_rows_of_pixels_are_made_images():
    ours, x = saved("cnn"), torch.rand(7, *IMAGE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(predict(ours, x).outputs, predict(ours, x.flatten(1)).outputs)
    with pytest.raises(ValueError, match="images of 1 x 5 x 4 = 20 numbers; came 4 in a row"):
        predict(ours, examples())


@pytest.mark.parametrize("name", ["mlp", "residual_mlp", "notes"])
def test_a_saved_network_answers_as_before(tmp_path, name):
    ours, x = saved(name), examples()
    ours.save(tmp_path / "model.safetensors", {})
    found = load_model(tmp_path / "model.safetensors")
    assert (found.model.name, found.model.config, found.loss) == (ours.model.name, ours.model.config, ours.loss)
    assert torch.equal(predict(found, x).outputs, predict(ours, x).outputs)


def test_every_model_says_how_it_is_made():
    for name in MODELS:
        model = tiny(name, IMAGE if learns_images(name) else (FEATURES,), CLASSES)
        again = KINDS[model.name](**model.config)
        assert again.config == model.config


def test_probabilities_are_those_of_the_loss():
    x = examples()
    found = predict(saved(), x)
    assert torch.allclose(found.probabilities.sum(1), torch.ones(len(x)))
    assert torch.equal(found.answers, found.outputs.argmax(1))
    assert predict(saved(loss="square_loss"), x).probabilities is None


@pytest.mark.parametrize("form", ["npz", "npz without labels", "npy", "csv", "csv with labels"])
def test_data_in_every_form(tmp_path, form):
    x, labels = examples().double().numpy(), np.array([0, 1, 2, 0, 1, 2, 0])
    path = tmp_path / f"data.{form[:3]}"
    if form == "npy":
        np.save(path, x.reshape(7, 2, 2))
    elif form.startswith("npz"):
        np.savez(path, x=x, **({} if "without" in form else {"labels": labels}))
    else:
        np.savetxt(path, np.column_stack([x, labels]) if "labels" in form else x, delimiter=",")
    found, classes = read(str(path), labelled="with labels" in form)
    assert np.allclose(found.numpy(), x)
    assert classes is None if form in ("npz without labels", "npy", "csv") else classes.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.npz", None, "cannot be read"),
        ("odd.csv", "a,b", "cannot be read"),
        ("other.npz", {"y": np.ones((2, 2))}, "of a .npz under x"),
        ("flat.npz", {"x": np.ones(3)}, "one row for each example"),
        ("few.npz", {"x": np.ones((3, 2)), "labels": np.ones(2)}, "a label for each of 3"),
    ],
)
def test_data_that_cannot_be_meant(tmp_path, name, content, words):
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    elif content:
        np.savez(tmp_path / name, **content)
    with pytest.raises(ValueError, match=words):
        read(str(tmp_path / name))


def test_the_command(tmp_path):
    ours, x = saved(), examples()
    ours.save(tmp_path / "model.safetensors", {})
    right = predict(ours, x).answers
    np.savez(tmp_path / "data.npz", x=x.numpy(), labels=torch.cat([right[:-1], 1 - right[-1:].clamp(max=1)]).numpy())
    written = tmp_path / "out.json"
    arguments = ["predict", str(tmp_path / "data.npz"), "--model", str(tmp_path), "--json", str(written)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = valid(written.read_text(), "predict")
    assert found["answers"] == right.tolist()
    assert found["accuracy"] == pytest.approx(6 / 7)
    assert f"example 0: {int(right[0])} (" in result.output
    assert ", and is " in result.output
    assert "85.71 % of 7 are right" in result.output
    np.save(tmp_path / "wide.npy", np.ones((2, 5)))
    wide = CliRunner().invoke(app, ["predict", str(tmp_path / "wide.npy"), "--model", str(tmp_path)])
    assert wide.exit_code == 2
    assert "linear" in wide.output
    empty = CliRunner().invoke(app, ["predict", "digits", "--model", str(tmp_path / "none")])
    assert empty.exit_code == 2
