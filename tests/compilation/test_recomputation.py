"""What a deep step makes again is what it would have kept, bit for bit.  How much memory it saves is a benchmark."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from manual_bp.compilation import passes, recomputation
from manual_bp.compilation.products import Product
from manual_bp.losses import Loss, names
from manual_bp.models import cnn, gpt, mlp, residual_mlp, resnet
from manual_bp.training import adam, adamw, sgd, training_step
from tests.compilation.conftest import interpret
from tests.training.examples import targets

WIDTH, DEPTH, BATCH = 64, 6, 96

STEPS = {
    "multiplied": (mlp([WIDTH] * (DEPTH + 1), "relu"), sgd(0.01, weight_decay=0.01)),
    "sums": (residual_mlp(WIDTH, DEPTH, "relu", True, 0.5), adam(0.01)),
    "pieces": (mlp([WIDTH] * (DEPTH + 1), "maxout", pieces=2), sgd(0.001)),
}


def stepped(name, loss, device, steps=3):
    """All that `steps` steps leave."""
    model, optimizer = STEPS[name]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, BATCH, WIDTH, generator=generator)
    target = targets(loss, y, generator).to(device)
    step = training_step(model, loss, optimizer=optimizer, compiled=True, donate=True)
    state = step.init(torch.Generator().manual_seed(1), device=device)
    for _ in range(steps):
        state, cost = step(state, x.to(device), target)
    assert [built.kind for built in step.programs] != ["eager"], step.programs[0].why
    return {**state.params, **state.buffers, **state.optimizer, "loss": cost}


def count_recomputed(monkeypatch):
    """A list of how many nodes `recompute` adds to each graph."""
    added, recompute = [], passes.recompute

    def counting(graph):
        before = len(graph.nodes)
        recompute(graph)
        added.append(len(graph.nodes) - before)

    monkeypatch.setattr(passes, "recompute", counting)
    return added


OF_CLASSES = [name for name in names() if Loss(name).takes_classes][:1]


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        *(
            pytest.param(name, "square_loss", marks=[pytest.mark.exhaustive] * (name in ("sums", "pieces")))
            for name in STEPS
        ),
        *(pytest.param("multiplied", loss, marks=pytest.mark.exhaustive) for loss in OF_CLASSES),
    ],
)
def test_the_same_bits(name, loss, device, built, monkeypatch, tmp_path):
    added, found = count_recomputed(monkeypatch), []
    for what, deep in (("again", DEPTH - 1), ("kept", DEPTH)):
        monkeypatch.setattr(recomputation, "DEEP", deep)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / what))
        found.append(stepped(name, loss, device))
    got, kept = found
    assert added[0] > 0
    assert added[1] == 0
    assert all(t.isfinite().all() for t in kept.values())
    assert not [n for n, t in kept.items() if not torch.equal(got[n], t)]


def test_where_onednn_multiplies_too(device, monkeypatch, tmp_path):
    """On some processors it is faster for every product of a deep step, which then was not compiled."""
    sizes, ways = product((WIDTH, BATCH), repeat=3), list(product((False, True), repeat=2))
    every, rewriting = {Product(*size, *way) for size in sizes for way in ways}, passes.passes
    monkeypatch.setattr(passes, "passes", lambda onednn: rewriting(every))
    interpret(monkeypatch)
    test_the_same_bits("multiplied", "square_loss", device, "interpreted", monkeypatch, tmp_path)


@pytest.mark.parametrize("options", [{}, {"norm": "rms", "feedforward": "swiglu", "position": "rope"}], ids=["", "rms"])
def test_positions_are_the_same_bits(options, built, monkeypatch, tmp_path):
    """Two norms and what the feed-forward layer ends with are made again, in each of two blocks."""
    model = gpt(7, 6, 8, 2, 2, **options)
    x, target = torch.randint(7, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    found, made, copy = [], [], recomputation._Copier.copy

    def counting(copier, node):
        made.append(node)
        return copy(copier, node)

    monkeypatch.setattr(recomputation._Copier, "copy", counting)
    for what in ("again", "kept"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / what))
        if what == "kept":
            monkeypatch.setattr(recomputation, "_positions_again", lambda graph, forward: None)
        step = training_step(model, "softmax_cross_entropy", optimizer=adamw(0.1), compiled=True, donate=True)
        state = step.init(torch.Generator().manual_seed(1))
        for _ in range(3):
            state, cost = step(state, x, target)
        found.append({**state.params, "loss": cost})
        assert len(made) == 3 * 2 + 1  # and the norm in front of the head
    got, kept = found
    assert not [n for n, t in kept.items() if not torch.equal(got[n], t)]


@pytest.mark.exhaustive  # four networks are compiled
@pytest.mark.parametrize(
    "model", [cnn((1, 6, 5), 3, (4, 8, "max", 8)), resnet((2, 7, 6), 3, (4, 18))], ids=lambda m: m.name
)
def test_images_are_the_same_bits(model, device, monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(4, *model.config["image"], generator=generator), torch.randint(3, (4,), generator=generator)
    found, added, again = [], [], recomputation._images_again

    def counting(graph, forward):
        before = len(graph.nodes)
        again(graph, forward)
        added.append(len(graph.nodes) - before)

    for what, rewrite in (("again", counting), ("kept", lambda graph, forward: None)):
        monkeypatch.setattr(recomputation, "_images_again", rewrite)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / what))
        step = training_step(model, "softmax_cross_entropy", optimizer=sgd(0.1), compiled=True, donate=True)
        state = step.init(torch.Generator().manual_seed(1), device=device)
        for _ in range(3):
            state, cost = step(state, x.to(device), target.to(device))
        assert [built.kind for built in step.programs] != ["eager"], step.programs[0].why
        found.append({**state.params, **state.buffers, "loss": cost})
    got, kept = found
    assert added[0] > 0
    assert not [n for n, t in kept.items() if not torch.equal(got[n], t)]
