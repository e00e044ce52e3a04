"""A transformer that predicts the next token: GPT-2's, or with the parts that later ones have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from manual_bp import chain, sequences
from manual_bp.arguments import check_bool, is_finite
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
    made = _Parts(
        vocabulary,
        context,
        width,
        heads,
        depth,
        norm,
        feedforward,
        position,
        heads if kv_heads is None else kv_heads,
        tied,
        dropout,
        approximate,
    )
    return Model("gpt", asdict(made), made.whole(), "normal")


CHOICES = {
    "norm": ("layer", "rms"),
    "feedforward": ("gelu", "swiglu"),
    "position": ("learned", "rope"),
    "approximate": ("none", "tanh"),
}
TOKENS = "embedding.tokens.weight"


@dataclass(frozen=True)
class _Parts:
    """The arguments of `gpt`, and what it is made of; a parameter has the name of its layer, which each is told."""

    vocabulary: int
    context: int
    width: int
    heads: int
    depth: int
    norm: str
    feedforward: str
    position: str
    kv_heads: int
    tied: bool
    dropout: float
    approximate: str

    def __post_init__(self) -> None:
        names = ("vocabulary", "context", "width", "heads", "depth", "kv_heads")
        sizes = {name: getattr(self, name) for name in names}
        must = "gpt: sizes must be whole numbers, at least 1"
        require(all(type(size) is int and size >= 1 for size in sizes.values()), must, sizes, "Choose others.")
        for size, of in (("width", "heads"), ("heads", "kv_heads")):
            must = f"gpt: {size} must be a multiple of {of}"
            require(sizes[size] % sizes[of] == 0, must, f"{sizes[size]} and {sizes[of]}", "Choose another number.")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            require(value in choices, f"gpt: {name} must be one of {list(choices)}", repr(value), "Check the spelling.")
        is_paired = self.position == "learned" or self.per_head % 2 == 0
        require(is_paired, "gpt: rope turns pairs, so width / heads must be even", self.per_head, "Choose other heads.")
        must = "gpt: dropout must be a probability, 0 ≤ p < 1"
        is_probability = is_finite(self.dropout) and 0 <= self.dropout < 1
        require(is_probability, must, repr(self.dropout), "0 leaves it out.")
        check_bool("gpt", tied=self.tied)

    @property
    def per_head(self) -> int:
        return self.width // self.heads

    def whole(self) -> Layer:
        blocks = {f"block{number}": self.block(f"block{number}") for number in range(1, self.depth + 1)}
        weight = TOKENS if self.tied else "head.weight"
        return chain.chain(
            embedding=self.embedding(),
            **self.dropped("dropout"),
            **blocks,
            norm=self.normalised("norm"),
            head=sequences.linear_without_bias(self.width, self.vocabulary, weight=weight),
            classes=sequences.classes_first(),
        )

    def embedding(self) -> Layer:
        """The tokens' rows, and the positions' added to them; with rope the tokens' alone."""
        tokens = sequences.embedding(self.vocabulary, self.width, weight=TOKENS)
        if self.position == "rope":
            return chain.chain(tokens=tokens)
        table = sequences.embedding(self.context, self.width, weight="embedding.positions.weight")
        positions = Chain({"places": sequences.places(self.context), "": table})
        return chain.joined("add", {"tokens": tokens, "positions": positions})

    def block(self, name: str) -> Layer:
        attention = self.branch(f"{name}.attention", self.attention)
        return chain.chain(attention=attention, feedforward=self.branch(f"{name}.feedforward", self.fed_forward))

    def branch(self, name: str, inner: Callable[[str], dict[str, Layer]]) -> Layer:
        """x + dropout(inner(norm(x)))."""
        layers = {"norm": self.normalised(f"{name}.norm"), **inner(name), **self.dropped(f"{name}.dropout")}
        return chain.residual(Chain(layers))

    def attention(self, name: str) -> dict[str, Layer]:
        turned = self.position == "rope"
        q = self.projection(f"{name}.heads.q", self.heads, turned)
        k = self.projection(f"{name}.heads.k", self.kv_heads, turned)
        v = self.projection(f"{name}.heads.v", self.kv_heads, False)
        return {
            "heads": sequences.causal_attention(q, k, v),
            "merged": sequences.merged(self.heads),
            "output": _linear(self.width, self.width, f"{name}.output"),
        }

    def projection(self, name: str, number: int, turned: bool) -> Layer:
        """So many heads of x; turned: by their positions."""
        linear = _linear(self.width, number * self.per_head, name)
        found: dict[str, Layer] = {"": linear, "heads": sequences.heads(number)}
        if turned:
            found["rotary"] = sequences.rotary(self.context, self.per_head, prefix="rotary.")
        return Chain(found)

    def fed_forward(self, name: str) -> dict[str, Layer]:
        inner: dict[str, Layer]
        if self.feedforward == "gelu":
            hidden = 4 * self.width
            widen = _linear(self.width, hidden, f"{name}.widen")
            inner = {"widen": widen, "gelu": chain.activation("gelu", approximate=self.approximate)}
        else:
            hidden = 8 * self.width // 3
            branches = {part: _linear(self.width, hidden, f"{name}.swiglu.{part}") for part in ("gate", "up")}
            inner = {"swiglu": chain.joined("swiglu", branches)}
        return {**inner, "narrow": _linear(hidden, self.width, f"{name}.narrow")}

    def normalised(self, name: str) -> Leaf:
        names = {"weight": f"{name}.weight", **({"bias": f"{name}.bias"} if self.norm == "layer" else {})}
        return Leaf(RULES[f"{self.norm}_norm"], names, shapes=dict.fromkeys(names.values(), (self.width,)))

    def dropped(self, name: str) -> dict[str, Layer]:
        """Nothing where nothing is dropped."""
        shape = (self.context, self.width)
        return {"dropout": chain.dropout(shape, self.dropout, mask=f"{name}.mask")} if self.dropout else {}


def _linear(inputs: int, outputs: int, name: str) -> Leaf:
    return chain.linear(inputs, outputs, weight=f"{name}.weight", bias=f"{name}.bias")
