"""A transformer that predicts the next token: GPT-2's, or with the parts that later ones have."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from manual_bp import chain, sequences
from manual_bp.chain import Chain, Layer, Leaf
from manual_bp.inputs import require
from manual_bp.models.model import Model
from manual_bp.registry import RULES


def gpt(
    vocabulary: int,
    context: int,
    width: int,
    heads: int,
    depth: int,
    *,
    norm: Literal["layer", "rms"] = "layer",
    feedforward: Literal["gelu", "swiglu"] = "gelu",
    position: Literal["learned", "rope"] = "learned",
    kv_heads: int | None = None,
    tied: bool = True,
    dropout: float = 0.0,
    approximate: Literal["none", "tanh"] = "none",
) -> Model:
    """`depth` blocks x ← x + attention(norm(x)), x ← x + feedforward(norm(x)) between an embedding and a head.

    The model takes the numbers of tokens, (batch, positions), at most `context` of them, and gives for each position
    a number for each token that may come next, (batch, vocabulary, positions): softmax_cross_entropy takes these, and
    as the target the numbers of the tokens that do come next, (batch, positions).

    norm: layer_norm with weight and bias, or rms_norm with a weight.
    feedforward: gelu between layers of 4 width features, or swiglu between layers of 8/3 width (as many weights).
    position: a learned table that is added to the embedding, or rotary embedding of q and k in every block.
    kv_heads: heads of k and v, each of which serves heads / kv_heads consecutive heads of q; by default as many.
    tied: the head's weight is the embedding's.  The head has no bias; all other linear layers have one.
    dropout: probability to drop after the embedding and at the end of each branch, which then takes whole contexts
        alone; the weights of attention are never dropped.
    approximate: which gelu; published GPT-2 has "tanh".

    Layers: embedding.tokens, embedding.positions and their sum, embedding; in a block block1.attention.norm,
    block1.attention.heads.q (k, v), block1.attention.heads, block1.attention.output and the sum block1.attention;
    block1.feedforward.norm and so on; norm, head.  A parameter has its layer's name: block1.attention.output.weight.
    Raises ValueError for sizes below 1 that do not divide as they must, and for other options.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    _check(vocabulary, context, width, heads, depth, kv_heads, dropout)
    for name, value, choices in (
        ("norm", norm, ("layer", "rms")),
        ("feedforward", feedforward, ("gelu", "swiglu")),
        ("position", position, ("learned", "rope")),
        ("approximate", approximate, ("none", "tanh")),
    ):
        require(value in choices, f"gpt: {name} must be one of {list(choices)}", repr(value), "Check the spelling.")
    if position == "rope":
        remedy = "Choose other heads."
        require(width // heads % 2 == 0, "gpt: rope turns pairs, so width / heads must be even", width // heads, remedy)
    normalised = partial(_norm, norm, width)
    dropped = partial(_dropped, (context, width), dropout)
    per_head = width // heads

    def projection(name: str, number: int, turned: bool) -> Layer:
        found: dict[str, Layer] = {"": _linear(width, number * per_head, name), "heads": sequences.heads(number)}
        if turned:
            found["rotary"] = sequences.rotary(context, per_head, prefix="rotary.")
        return Chain(found)

    def attention(name: str) -> Layer:
        turned = position == "rope"
        q = projection(f"{name}.heads.q", heads, turned)
        k = projection(f"{name}.heads.k", kv_heads, turned)
        v = projection(f"{name}.heads.v", kv_heads, False)
        return chain.residual(
            chain.chain(
                norm=normalised(f"{name}.norm"),
                heads=sequences.causal_attention(q, k, v),
                merged=sequences.merged(heads),
                output=_linear(width, width, f"{name}.output"),
                **dropped(f"{name}.dropout"),
            )
        )

    def feeding(name: str) -> Layer:
        if feedforward == "gelu":
            hidden = 4 * width
            inner: dict[str, Layer] = {
                "widen": _linear(width, hidden, f"{name}.widen"),
                "gelu": chain.activation("gelu", approximate=approximate),
            }
        else:
            hidden = 8 * width // 3
            branches = {part: _linear(width, hidden, f"{name}.swiglu.{part}") for part in ("gate", "up")}
            inner = {"swiglu": chain.joined("swiglu", branches)}
        narrow = _linear(hidden, width, f"{name}.narrow")
        return chain.residual(
            chain.chain(norm=normalised(f"{name}.norm"), **inner, narrow=narrow, **dropped(f"{name}.dropout"))
        )

    tokens = "embedding.tokens.weight"
    blocks = {
        f"block{number}": chain.chain(
            attention=attention(f"block{number}.attention"), feedforward=feeding(f"block{number}.feedforward")
        )
        for number in range(1, depth + 1)
    }
    layer = chain.chain(
        embedding=_embedding(vocabulary, context if position == "learned" else None, width, tokens),
        **dropped("dropout"),
        **blocks,
        norm=normalised("norm"),
        head=sequences.linear_without_bias(width, vocabulary, weight=tokens if tied else "head.weight"),
        classes=sequences.classes_first(),
    )
    config: dict[str, Any] = {
        "vocabulary": vocabulary,
        "context": context,
        "width": width,
        "heads": heads,
        "depth": depth,
        "norm": norm,
        "feedforward": feedforward,
        "position": position,
        "kv_heads": kv_heads,
        "tied": tied,
        "dropout": dropout,
        "approximate": approximate,
    }
    return Model("gpt", config, layer, "normal")


def _check(vocabulary: int, context: int, width: int, heads: int, depth: int, kv_heads: int, dropout: float) -> None:
    sizes = (vocabulary, context, width, heads, depth, kv_heads)
    must = "gpt: vocabulary, context, width, heads, depth and kv_heads must be at least 1"
    require(all(size >= 1 for size in sizes), must, sizes, "Choose others.")
    require(width % heads == 0, "gpt: width must be a multiple of heads", f"{width} and {heads}", "Each head is alike.")
    must = "gpt: heads must be a multiple of kv_heads"
    require(heads % kv_heads == 0, must, f"{heads} and {kv_heads}", "Each head of k and v serves as many of q.")
    require(0 <= dropout < 1, "gpt: dropout must be a probability, 0 ≤ p < 1", dropout, "0 leaves it out.")


def _embedding(vocabulary: int, positions: int | None, width: int, tokens: str) -> Layer:
    """The tokens' rows, and the positions' added to them; with rope (None) the tokens' alone."""
    rows = sequences.embedding(vocabulary, width, weight=tokens)
    if positions is None:
        return chain.chain(tokens=rows)
    table = sequences.embedding(positions, width, weight="embedding.positions.weight")
    return chain.joined("add", {"tokens": rows, "positions": Chain({"places": sequences.places(positions), "": table})})


def _linear(inputs: int, outputs: int, name: str) -> Leaf:
    return chain.linear(inputs, outputs, weight=f"{name}.weight", bias=f"{name}.bias")


def _norm(kind: str, width: int, name: str) -> Leaf:
    names = {"weight": f"{name}.weight", **({"bias": f"{name}.bias"} if kind == "layer" else {})}
    return Leaf(RULES[f"{kind}_norm"], names, shapes=dict.fromkeys(names.values(), (width,)))


def _dropped(shape: tuple[int, int], p: float, name: str) -> dict[str, Layer]:
    return {"dropout": chain.dropout(shape, p, mask=f"{name}.mask")} if p else {}
