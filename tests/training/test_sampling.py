"""What a network of text writes: drawn as it expects, from its last tokens; and the file that it is kept in."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

from manual_bp.chain import Moved
from manual_bp.models import gpt
from manual_bp.training.attention_map import weights
from manual_bp.training.sampling import sample
from manual_bp.training.saved import SavedModel, load_model
from manual_bp.training.text import BYTES


def always(probabilities, seen=None):
    """A network that expects the same of every place, and notes what it is shown."""

    def there(tokens):
        if seen is not None:
            seen.append(tokens.shape[1])
        y = torch.tensor(probabilities).log()[None, :, None]
        return y.expand(1, len(probabilities), tokens.shape[1])

    return Moved(there, lambda dy: dy)


def test_tokens_are_drawn_as_often_as_they_are_expected():
    drawn = sample(always([0.5, 0.3, 0.2, 0.0]), {}, {}, torch.tensor([0]), 1000, context=4)
    counts = Counter(drawn[1:].tolist())
    # 1000 draws: 5 σ is at most 5 √(0.25 · 1000) = 79.
    assert all(abs(counts[token] - 1000 * p) < 79 for token, p in enumerate([0.5, 0.3, 0.2, 0.0]))
    assert counts[3] == 0


def test_the_lower_the_temperature_the_likelier_the_token():
    layer, prompt = always([0.3, 0.4, 0.3]), torch.tensor([2])
    for temperature in (0.0, 1e-300, 1e-3):
        found = sample(layer, {}, {}, prompt, 20, context=4, temperature=temperature)
        assert found.tolist() == [2] + 20 * [1]
    assert len(set(sample(layer, {}, {}, prompt, 50, context=4, temperature=100.0).tolist())) == 3


def test_the_network_sees_the_last_tokens_and_no_more():
    seen = []
    sample(always([0.5, 0.5], seen), {}, {}, torch.zeros(6, dtype=torch.int64), 3, context=4)
    sample(always([0.5, 0.5], seen), {}, {}, torch.zeros(2, dtype=torch.int64), 4, context=4)
    assert seen == [4, 4, 4, 2, 3, 4, 4]


def test_a_seed_is_a_text():
    layer, prompt = always([0.5, 0.5]), torch.tensor([0])
    first, again, other = (sample(layer, {}, {}, prompt, 30, context=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "prompt must have a token"),
        ([[0]], {}, r"prompt must be a tensor of tokens, \(n,\); came \(1, 1\)"),
        ([0], {"context": 0}, "context must be a number of tokens, at least 1; came 0"),
        ([0], {"length": -1}, "length must be a number of tokens, at least 0; came -1"),
        ([0], {"temperature": -0.1}, "temperature must be a finite number, at least 0"),
        ([0], {"temperature": float("nan")}, "temperature must be a finite number"),
    ],
)
def test_bad_requests_are_refused(prompt, options, message):
    with pytest.raises(ValueError, match=message):
        sample(always([1.0]), {}, {}, torch.tensor(prompt, dtype=torch.int64), **{"length": 1, "context": 4, **options})


def test_a_prompt_that_is_no_tensor_is_refused():
    with pytest.raises(ValueError, match=r"prompt must be a tensor of tokens, .*; came list"):
        sample(always([1.0]), {}, {}, [0], 1, context=4)


def saved():
    model = gpt(256, 4, 8, 2, 1, position="rope")
    params, buffers = model.init(torch.Generator().manual_seed(0))
    return SavedModel(model, params, buffers, BYTES)


def test_a_saved_network_comes_back(tmp_path):
    ours = saved()
    ours.save(tmp_path / "model", {"note": "kept"})
    found = load_model(tmp_path / "model")
    assert found.model.config == ours.model.config
    assert found.symbols == BYTES
    for before, after in ((ours.params, found.params), (ours.buffers, found.buffers)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], t) for name, t in after.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, about: tensors.pop("norm.bias"), r"\['norm.bias'\] are not"),
        (lambda tensors, about: tensors.update(extra=torch.ones(1)), r"\['extra'\] are not"),
        (lambda tensors, about: about.update(symbols=json.dumps(["a"])), "the symbols are not"),
        (lambda tensors, about: about.pop("config"), "must say how its network is made"),
        (lambda tensors, about: about.update(config='{"depth": 1}'), "must say how its network is made"),
        (lambda tensors, about: about.update(config='{"depth": '), "must say how its network is made"),
    ],
)
def test_another_file_is_refused(tmp_path, change, message):
    saved().save(tmp_path / "model", {})
    tensors, raw = load_file(tmp_path / "model"), (tmp_path / "model").read_bytes()
    about = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    change(tensors, about)
    save_file(tensors, tmp_path / "model", about)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model")


def test_what_is_no_file_of_tensors_is_said(tmp_path):
    (tmp_path / "odd").write_bytes(b"12345678 and so on")
    for name, why in (("odd", "as a safetensors file"), ("none", "No such file")):
        with pytest.raises(ValueError, match=f"cannot be read.*{why}"):
            load_model(tmp_path / name)


def test_the_weights_of_attention_add_up_and_do_not_look_ahead():
    model = gpt(7, 6, 8, 4, 2, kv_heads=2)
    params, state = model.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    found = weights(model, params, state, torch.tensor([3, 1, 0, 6, 2]))
    assert list(found) == ["block1.attention.heads", "block2.attention.heads"]
    for each in found.values():
        assert each.shape == (4, 5, 5)
        assert not each.triu(1).any()
        assert torch.equal(each[:, 0, 0], torch.ones(4, dtype=torch.float64))
        # Five numbers of at most 1.
        assert ((each.sum(-1) - 1).abs() <= 5 * torch.finfo(torch.float64).eps).all()
