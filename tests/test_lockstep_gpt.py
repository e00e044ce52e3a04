"""A transformer in lockstep: what goes wrong in one is named at its layer, whichever engine has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import manual_bp as bp
from manual_bp import chain
from manual_bp.lockstep import lockstep
from manual_bp.models import gpt
from manual_bp.oracle.calling.candidates import engine_factory
from manual_bp.training import adamw
from manual_bp.training.text import BYTES, Text
from torch_ref.models import gpt as torch_gpt

CONTEXT, VOCABULARY = 6, 5


def tokens():
    generator = torch.Generator().manual_seed(0)
    return Text("made up", torch.randint(VOCABULARY, (61,), generator=generator), BYTES[:VOCABULARY]).windows(CONTEXT)


def model(**options):
    config = {"depth": 1, "position": "rope", "norm": "rms", "feedforward": "swiglu", **options}
    return gpt(VOCABULARY, CONTEXT, 8, 2, **config)


def run(network, steps=1, dtype=torch.float32):
    how = {"steps": steps, "batch_size": 2, "dtype": dtype, "free": steps > 1}
    return lockstep(network, tokens(), engine=engine_factory("torch"), **how)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.exhaustive), torch.float32], ids=str)
def test_engines_agree(dtype):
    report = run(model(depth=2, kv_heads=1, dropout=0.2), steps=2, dtype=dtype)
    assert report.passed, report.verdict
    assert report.training["optimizer"]["name"] == adamw().name
    found = {(row.layer, row.quantity) for row in report.rows}
    for block in ("block1", "block2"):
        for layer in ("attention.heads.q", "attention.heads.v", "attention.output", "feedforward.swiglu.gate"):
            assert {(f"{block}.{layer}", q) for q in ("z", "delta", "dW", "db", "W", "exp_avg W", "dx alone")} <= found
        for layer in ("attention.heads.q.rotary", "attention.heads", "feedforward.swiglu", "attention", "feedforward"):
            assert {(f"{block}.{layer}", q) for q in ("y", "dy", "y alone")} <= found
        assert {(f"{block}.attention.norm", q) for q in ("y", "dy", "dweight", "weight", "exp_avg_sq weight")} <= found
    assert {("head", "delta"), ("embedding.tokens", "dweight"), ("norm", "dweight"), ("loss", "J")} <= found


def changed(network, rule, **hyper):
    """The network with other hyperparameters of one rule: a forward and backward that fit together, and not torch."""
    return replace(
        network,
        layer=network.map(
            lambda _, leaf: replace(leaf, hyper={**leaf.hyper, **hyper}) if leaf.rule.name == rule else leaf
        ),
    )


def named_at(report, layer, rule):
    assert not report.passed
    first = report.disagreements[0]
    assert (first.step, first.layer) == (1, layer), report.verdict
    assert rule in report.verdict


ATTENTION = "scaled_dot_product_attention"


@pytest.mark.parametrize(
    ("rule", "hyper", "layer"),
    [
        (ATTENTION, {"causal": False}, "block1.attention.heads"),
        (ATTENTION, {"scale": 1.0}, "block1.attention.heads"),
        ("rotary_embedding", {"layout": "interleaved"}, "block1.attention.heads.q.rotary"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(rule, hyper, layer):
    report = run(changed(model(), rule, **hyper))
    named_at(report, layer, f"it comes from the forward of {rule}")


def test_a_wrong_mask_of_torch_s_is_named(monkeypatch):
    right = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, is_causal, **how: right(q, k, v, is_causal=False, **how)
    )
    report = run(model())
    named_at(report, "block1.attention.heads", f"the forward of {ATTENTION}")


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "torch's"])
def test_rotation_the_other_way_is_named(monkeypatch, ours):
    page = bp.rotary_embedding.page
    forward, turned = page.forward, torch_gpt.turned
    if ours:
        monkeypatch.setattr(page, "forward", lambda x, cos, sin, **how: forward(x, cos, -sin, **how))
    else:
        monkeypatch.setattr(torch_gpt, "turned", lambda x, cos, sin: turned(x, cos, -sin))
    named_at(run(model()), "block1.attention.heads.q.rotary", "the forward of rotary_embedding")


def test_rotation_by_the_next_position_is_named(monkeypatch):
    """No known mistake; and what q.rotary gives back has not the shape that q puts out, as heads are split between."""
    turned = torch_gpt.turned
    monkeypatch.setattr(torch_gpt, "turned", lambda x, cos, sin: turned(x, cos.roll(-1, 0), sin.roll(-1, 0)))
    report = run(model())
    named_at(report, "block1.attention.heads.q.rotary", "the forward of rotary_embedding")
    assert "shape must be" not in report.verdict


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "torch's"])
def test_a_missing_residual_sum_is_named(monkeypatch, ours):
    if ours:
        right = bp.add.page.forward
        monkeypatch.setattr(bp.add.page, "forward", lambda x, other: right(torch.zeros_like(x), other))
        named_at(run(model()), "block1.attention", "the forward of add")
        return
    block = torch_gpt.Feedforward.forward

    def without_sum(self, x, name, masks, tape):
        y = block(self, x, name, masks, lambda layer, letter, t: t if layer == name else tape(layer, letter, t)) - x
        return tape(name, "y", y)

    monkeypatch.setattr(torch_gpt.Feedforward, "forward", without_sum)
    named_at(run(model()), "block1.feedforward", "the forward of add")


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "torch's"])
def test_an_untied_head_is_named(monkeypatch, ours):
    """The head's cotangent replaces the embedding's, or gets lost."""
    if ours:
        monkeypatch.setattr(chain, "summed", lambda first, second: {**first, **second})
    else:
        forward = torch_gpt.GPT.forward

        def untied(self, *given):
            self.head.weight = torch.nn.Parameter(self.head.weight.detach().clone())
            return forward(self, *given)

        monkeypatch.setattr(torch_gpt.GPT, "forward", untied)
    report = run(model())
    shared = "added up over embedding.tokens and head, which share embedding.tokens.weight"
    named_at(report, "embedding.tokens", shared)
    assert report.disagreements[0].quantity == "dweight"


def test_a_branch_that_brings_nothing_back_is_found_between_the_layers(monkeypatch):
    """What k brings back to the norm's output is left out of the sum."""
    right = chain.Joined.backward

    def backward(self, residuals, dy):
        if "k" not in self.branches:
            return right(self, residuals, dy)
        dead = chain.Chain({"stop": chain.Moved(lambda x: x, torch.zeros_like), "": self.branches["k"]})
        (q, k, v), kept = residuals
        return right(chain.Joined(self.join, {**self.branches, "k": dead}), ((q, (None, k), v), kept), dy)

    monkeypatch.setattr(chain.Joined, "backward", backward)
    report = run(model())
    named_at(report, "block1.attention.norm", "or of linear (block1.attention.heads.k)")
    assert "or else the cause is between the layers: a sum over the branches of one x" in report.verdict
