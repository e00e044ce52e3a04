"""The transformer: names, options and composition against torch's own modules, and published weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from manual_bp.chain import leaves, takers, trace
from manual_bp.models import gpt
from manual_bp.models.published import load_gpt2
from manual_bp.training import adamw, training_step
from manual_bp.training.engine import ManualEngine, StepRecord, allowance_of
from tests.allowed import assert_agrees
from tests.training.examples import paired
from torch_ref.models import GPT
from torch_ref.training.engine import TorchEngine

SIZES = {"vocabulary": 7, "context": 5, "width": 8, "heads": 4, "depth": 2}
OPTIONS = {
    "norm": ["layer", "rms"],
    "feedforward": ["gelu", "swiglu"],
    "position": ["learned", "rope"],
    "kv_heads": [None, 2, 1],
    "tied": [True, False],
    "dropout": [0.0, 0.3],
    "approximate": ["none", "tanh"],
}


def begun(model, dtype=torch.float64, **options):
    """A step, its state with masks, and tokens of two sequences that are shorter than the context where they may be."""
    step = training_step(model, "softmax_cross_entropy", optimizer=adamw(1e-3), **options)
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator, dtype=dtype)
    # Weights of size 1, so that softmax and norms are far from linear, and nothing is near 0.
    state = replace(state, params={name: 20 * p if p.ndim == 2 else p + 0.1 for name, p in state.params.items()})
    state = replace(state, buffers={**state.buffers, **step.masks(state, 2)})
    positions = model.config["context"] - (0 if model.config["dropout"] else 1)
    tokens = torch.randint(model.config["vocabulary"], (2, positions + 1), generator=generator)
    return step, state, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


@pytest.mark.parametrize(tuple(OPTIONS), paired(*OPTIONS.values()), ids=str)
def test_every_tensor_is_the_module_s(norm, feedforward, position, kv_heads, tied, dropout, approximate):
    """Values, cotangents, gradients, updated parameters and moments of one step, within what rounding may do."""
    model = gpt(
        **{**SIZES, "depth": 1},
        norm=norm,
        feedforward=feedforward,
        position=position,
        kv_heads=kv_heads,
        tied=tied,
        dropout=dropout,
        approximate=approximate,
    )
    step, state, x, target = begun(model, clip_norm=1.0, l2=1e-3)
    how = {"loss": "softmax_cross_entropy", "optimizer": step.optimizer, "clip_norm": 1.0, "l2": 1e-3}
    ours, theirs = (
        ManualEngine(step).step(state, x, target),
        TorchEngine("gpt", **how, **model.config).step(state, x, target),
    )
    assert ours.layers.keys() == theirs.layers.keys() == leaves(model).keys()
    assert ours.params.keys() == theirs.params.keys() == ours.gradients.keys()

    def over_allowance(ours, theirs, allowance):
        return ((ours - theirs).abs() / (2 * allowance)).nan_to_num(0).max()  # 0/0 where nothing rounds

    worst = StepRecord.combine(over_allowance, ours, theirs, allowance_of(step, state, x, target, torch.float64, 0))
    found = [worst.loss, *(ratio for layer in worst.layers.values() for ratio in layer.values())]
    found += [ratio for named in (worst.gradients, worst.params, worst.optimizer) for ratio in named.values()]
    assert max(found) <= 1


@pytest.mark.parametrize(("position", "tied", "kv_heads"), [("learned", True, None), ("rope", False, 2)])
def test_parameters_are_the_module_s(position, tied, kv_heads):
    model = gpt(**SIZES, position=position, tied=tied, kv_heads=kv_heads)
    params, state = model.init(torch.Generator().manual_seed(0))
    module = GPT(**model.config)
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in module.named_parameters()}
    assert all(torch.equal(b, state[n]) for n, b in module.named_buffers())
    assert len(state) == len(list(module.named_buffers()))
    weights = torch.cat([p.flatten() for p in params.values() if p.ndim == 2])
    assert 0.015 < float(weights.std()) < 0.025  # 0.02, of a thousand draws
    assert ("head.weight" in params) != tied


def test_a_trace_shows_a_block_by_name():
    model = gpt(**{**SIZES, "depth": 1})
    _, state, x, target = begun(model)
    found = trace(model, state.params, {}, x, target, "softmax_cross_entropy")
    assert list(found) == [
        "embedding.tokens",
        "embedding.positions",
        "embedding",
        "block1.attention.norm",
        "block1.attention.heads.q",
        "block1.attention.heads.k",
        "block1.attention.heads.v",
        "block1.attention.heads",
        "block1.attention.output",
        "block1.attention",
        "block1.feedforward.norm",
        "block1.feedforward.widen",
        "block1.feedforward.gelu",
        "block1.feedforward.narrow",
        "block1.feedforward",
        "norm",
        "head",
    ]
    assert set(found["block1.attention.heads.q"]) == {"z", "delta", "dW", "db"}
    assert found["block1.attention.heads"]["y"].shape == (2, 4, 4, 2)
    assert set(found["head"]) == {"z", "delta", "dW"}
    assert takers(model.layer)["embedding"] == ["block1.attention", "block1.attention.norm"]
    assert takers(model.layer)["block1.attention.norm"] == [f"block1.attention.heads.{part}" for part in "qkv"]
    assert takers(model.layer)["head"] == []


def test_a_tied_weight_gets_both_cotangents():
    model = gpt(**SIZES)
    step, state, x, target = begun(model)
    layers = trace(model, state.params, {}, x, target, "softmax_cross_entropy")
    _, gradients, _ = step.gradients(model, state, x, target)
    name = "embedding.tokens.weight"
    both = layers["head"]["dW"] + layers["embedding.tokens"]["dweight"]
    assert torch.equal(gradients[name], both)
    assert layers["embedding.tokens"]["dweight"].abs().max() > 0


def test_no_position_sees_a_later_one():
    model = gpt(**SIZES, position="rope", norm="rms")
    _, state, x, _ = begun(model)
    before, _, _ = model.forward(state.params, state.buffers, x)
    after, _, _ = model.forward(state.params, state.buffers, torch.cat([x[:, :-1], (x[:, -1:] + 1) % 7], 1))
    assert torch.equal(before[..., :-1], after[..., :-1])
    assert not torch.equal(before[..., -1], after[..., -1])


def test_a_batch_in_pieces_makes_the_same_step():
    model = gpt(**SIZES, dropout=0.2)
    step, state, x, target = begun(model)
    whole, cost = step(state, x, target)
    pieces, cost_of_pieces = step.accumulate(state, [(x[:1], target[:1]), (x[1:], target[1:])])
    allowance = allowance_of(step, state, x, target, torch.float64, 0)
    assert (cost - cost_of_pieces).abs() <= 2 * allowance.loss
    for name, p in whole.params.items():
        assert ((p - pieces.params[name]).abs() <= 2 * allowance.params[name]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "sizes must be whole numbers, at least 1; came .*'depth': 0"),
        ({"context": 2.5}, "sizes must be whole numbers"),
        ({"heads": 3}, "width must be a multiple of heads; came 8 and 3"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads; came 4 and 3"),
        ({"dropout": 1.0}, "0 ≤ p < 1"),
        ({"dropout": "0.1"}, "0 ≤ p < 1; came '0.1'"),
        ({"tied": "no"}, "tied must be True or False; came 'no'"),
        ({"norm": "batch"}, r"norm must be one of \['layer', 'rms'\]; came 'batch'"),
        ({"feedforward": "relu"}, "feedforward must be one of"),
        ({"position": "sine"}, "position must be one of"),
        ({"approximate": "erf"}, "approximate must be one of"),
        ({"position": "rope", "heads": 8}, "rope turns pairs, so width / heads must be even; came 1"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        gpt(**{**SIZES, **changes})


def test_what_is_too_long_or_unknown_is_refused():
    model = gpt(**SIZES)
    params, state = model.init(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at most 5 positions, the context; came 6"):
        model.forward(params, state, torch.zeros(1, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match="index must be positions on entries, which has 7"):
        model.forward(params, state, torch.full((1, 5), 7))


# ------------------------------------------------------------------------------------------------ published weights


def published(prefix="", width=128, context=6, vocabulary=11, depth=2, head=False):
    """Random numbers in the published layout; masks as some files hold them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)

    found = {"wte.weight": draw(vocabulary, width), "wpe.weight": draw(context, width)}
    for number in range(depth):
        block = f"h.{number}."
        affine = {
            "ln_1": (width,),
            "ln_2": (width,),
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }
        for name, shape in affine.items():
            found |= {f"{block}{name}.weight": draw(*shape), f"{block}{name}.bias": draw(shape[-1])}
        found[f"{block}attn.bias"] = torch.ones(context, context).tril().bool()[None, None]
    found |= {"ln_f.weight": draw(width), "ln_f.bias": draw(width)}
    found |= {"lm_head.weight": draw(vocabulary, width)} if head else {}
    return {prefix + name: tensor for name, tensor in found.items()}


def gpt2(w, tokens, heads):
    """GPT-2 by its paper's formulas, from the published tensors themselves."""
    x = w["wte.weight"][tokens] + w["wpe.weight"][: tokens.shape[1]]
    n, width = tokens.shape[1], x.shape[-1]
    for number in range(len({name.split(".")[1] for name in w if name.startswith("h.")})):

        def affine(y, name, number=number):
            return y @ w[f"h.{number}.{name}.weight"] + w[f"h.{number}.{name}.bias"]

        def norm(y, name, number=number):
            return F.layer_norm(y, (width,), w[f"h.{number}.{name}.weight"], w[f"h.{number}.{name}.bias"])

        q, k, v = affine(norm(x, "ln_1"), "attn.c_attn").split(width, -1)
        mixed = []
        for head in range(heads):
            own = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[..., own] @ k[..., own].mT / math.sqrt(width // heads)
            scores = scores.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf)
            mixed.append(scores.softmax(-1) @ v[..., own])
        x = x + affine(torch.cat(mixed, -1), "attn.c_proj")
        hidden = affine(norm(x, "ln_2"), "mlp.c_fc")
        tanh = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        x = x + affine(tanh, "mlp.c_proj")
    x = F.layer_norm(x, (width,), w["ln_f.weight"], w["ln_f.bias"])
    return x @ w.get("lm_head.weight", w["wte.weight"]).T


@pytest.mark.parametrize(("prefix", "head"), [("", False), ("transformer.", False), ("", True)])
def test_published_weights_give_what_gpt2_gives(tmp_path, prefix, head):
    weights = published(prefix, head=head)
    save_file(weights, tmp_path / "model.safetensors")
    model, params = load_gpt2(tmp_path / "model.safetensors")
    assert model.config["heads"] == 2
    assert model.config["tied"] is not head
    tokens = torch.tensor([[3, 1, 10, 0, 2], [5, 5, 6, 7, 4]])
    plain = {name.removeprefix("transformer."): w for name, w in weights.items()}

    def run(*values):
        y, _, _ = model.forward(dict(zip(params, values, strict=True)), {}, tokens)
        return [y.transpose(1, 2)]

    assert_agrees(run, tuple(params.values()), [gpt2(plain, tokens, 2)])
    step = training_step(model, "softmax_cross_entropy", optimizer=adamw(1e-4))
    state, cost = step(step.init(torch.Generator(), params=params, dtype=torch.float64), tokens, tokens)
    assert float(step(state, tokens, tokens)[1]) < float(cost)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("h.1.mlp.c_fc.bias"), r"h\.1\.mlp\.c_fc\.bias must be there, with 1 axes; came no such"),
        (lambda w: w.update({"score.weight": torch.ones(2)}), r"no other tensors; came \['score.weight'\]"),
        (lambda w: w.update({"ln_f.bias": w["ln_f.bias"].to(torch.int8)}), r"\['ln_f.bias of torch.int8'\]"),
        (lambda w: w.update({"wpe.weight": torch.ones(6, 64)}), r"of one width, 128; came \[\('embedding.positions"),
        (lambda w: w.update({"wte.weight": torch.ones(6, 96)}), "multiple of 64, as a published head has it; came 96"),
        (lambda w: w.update({"h.0.attn.c_attn.weight": torch.ones(128, 128)}), "q, k and v of 128 features each"),
    ],
)
def test_another_file_is_refused(tmp_path, change, message):
    weights = published()
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_gpt2(tmp_path / "model.safetensors")


def test_what_is_no_such_file_is_said(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for name in ("none", "empty"):
        with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
            load_gpt2(tmp_path / name)
