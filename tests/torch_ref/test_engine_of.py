"""nn.Modules as they are, as engines: parameters bound by name or by order, layers shown where they can be told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torch_ref
from manual_bp.lockstep import lockstep
from manual_bp.models import gpt, mlp, residual_mlp
from manual_bp.training import adamw, sgd
from manual_bp.training.text import BYTES, Text
from tests.test_own_engines import data
from torch_ref.models import GPT


def plain():
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


class Named(nn.Module):
    """By the model's names, weights as (in, out), and functions for activations."""

    def __init__(self):
        super().__init__()
        for k, (a, b) in enumerate(((5, 6), (6, 4), (4, 3)), 1):
            self.register_parameter(f"W{k}", nn.Parameter(torch.zeros(a, b)))
            self.register_parameter(f"b{k}", nn.Parameter(torch.zeros(b)))

    def forward(self, x):
        for k in (1, 2):
            x = (x @ self.get_parameter(f"W{k}") + self.get_parameter(f"b{k}")).relu()
        return x @ self.W3 + self.b3


def run(engine, model=None, **options):
    how = {"steps": 2, "batch_size": 8, "free": False, "l2": 0.0, **options}
    return lockstep(model or mlp([5, 6, 4, 3], "relu"), data(), engine=engine, against="mine", **how)


@pytest.mark.parametrize(
    "engine",
    [
        torch_ref.engine_of(plain()),
        torch_ref.engine_of(plain().double(), optimizer=lambda p: torch.optim.AdamW(p, 0.01, foreach=True)),
        torch_ref.engine_of(Named(), transposed=("W1", "W2", "W3")),
    ],
    ids=["sequential", "float64", "named"],
)
def test_right_modules_pass(engine):
    report = run(engine, optimizer=adamw(0.01))
    assert report.passed, report.verdict


def test_layers_of_a_module_are_judged_alone():
    report = run(torch_ref.engine_of(plain()), optimizer=sgd(0.1))
    judged = {(row.layer, row.quantity) for row in report.rows}
    for layer, letters in (("linear2", ("z", "delta")), ("activation1", ("a", "da"))):
        assert {(layer, f"{letter} of mine alone") for letter in letters} <= judged
    assert report.unshown == []


@pytest.mark.parametrize("options", [{}, {"position": "rope", "tied": False}], ids=["a weight", "tables"])
def test_what_two_layers_share_is_told_apart(options):
    """A head is tied to an embedding; one part, whose result is two tensors, serves several layers."""
    tokens = Text("some", torch.randint(7, (41,), generator=torch.Generator().manual_seed(0)), BYTES[:7]).windows(5)
    model = gpt(7, 5, 12, 3, 1, **options)
    engine = torch_ref.engine_of(GPT(**model.config))
    report = lockstep(model, tokens, engine=engine, against="mine", steps=1, batch_size=2, free=False)
    assert report.passed, report.verdict
    judged = {(row.layer, row.quantity) for row in report.rows}
    assert {("embedding.tokens", "y of mine alone"), ("head", "z of mine alone")} <= judged


def test_a_wrong_module_is_named_at_its_layer():
    module = plain()
    module[3] = nn.Tanh()
    report = run(torch_ref.engine_of(module), optimizer=sgd(0.1))
    assert "at activation2: tanh stands in place of relu" in report.verdict


def test_batch_norm_and_dropout_are_taken_as_they_are():
    class Block(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.linear, self.batch_norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
            self.activation, self.dropout = nn.ELU(), nn.Dropout(p)

        def forward(self, x):
            return x + self.dropout(self.activation(self.batch_norm(self.linear(x))))

    def network(p):
        return nn.Sequential(nn.Linear(5, 6), Block(p), Block(0.25), nn.Linear(6, 3))

    model = residual_mlp(6, 2, "elu", True, 0.25, inputs=5, outputs=3)
    assert run(torch_ref.engine_of(network(0.25)), model, optimizer=sgd(0.1)).passed
    report = run(torch_ref.engine_of(network(0.5)), model, optimizer=sgd(0.1))
    assert "at block1.dropout: " in report.verdict, report.verdict


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (
            nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)),
            {},
            r"model's without one: W1 .*, b3 \(3,\); the module's left",
        ),
        (Named(), {}, r"W1 of the module must have the shape \(6, 5\).*it has \(5, 6\).*transposed=\('W1',\)"),
        (plain(), {"parameters": {"W1": "first"}}, "the module has no 'first'"),
    ],
)
def test_what_does_not_bind_is_said(module, options, message):
    with pytest.raises(ValueError, match=message):
        run(torch_ref.engine_of(module, **options), optimizer=sgd(0.1))
