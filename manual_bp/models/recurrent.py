"""A recurrent network that predicts the next token: an embedding, layers of one cell, and a linear head."""

from __future__ import annotations

from typing import Any, Literal

from manual_bp import chain, sequences
from manual_bp.chain import Chain, Layer
from manual_bp.inputs import require
from manual_bp.models.model import Model

CELLS = ("lstm", "gru", "rnn")


def recurrent(
    vocabulary: int,
    context: int,
    width: int,
    layers: int = 1,
    *,
    cell: Literal["lstm", "gru", "rnn"] = "lstm",
    dropout: float = 0.0,
    **hyper: Any,
) -> Model:
    """`layers` of one cell, each of which reads what the one before gave at every position.

    The model takes the numbers of tokens, (batch, positions), and gives for each position a number for each token that
    may come next, (batch, vocabulary, positions): softmax_cross_entropy takes these, and as the target the numbers of
    the tokens that do come next, (batch, positions).  The states before the first position are 0, and what is behind
    the last one is left out: nothing is carried from one window to the next.

    context: the positions that it is trained on, and that sampling looks back on; without dropout it takes any number.
    width: features of a token and of each layer's state.
    cell: name of a rule; hyper are its hyperparameters, such as nonlinearity="relu" of rnn.
    dropout: probability to drop of what each layer gives, which then takes whole contexts alone; states are never
        dropped.

    Layers: embedding, layer1, dropout1, layer2, ..., head; parameters embedding.weight, layer1.weight_ih_l0 and so on,
    as torch's modules of one layer have them, head.weight, head.bias.  In a trace y of a layer is (positions, batch,
    width).
    Raises ValueError for sizes below 1 and for another cell.
    """
    sizes = (vocabulary, context, width, layers)
    must = "recurrent: vocabulary, context, width and layers must be at least 1"
    require(all(size >= 1 for size in sizes), must, sizes, "Choose others.")
    require(cell in CELLS, f"recurrent: cell must be one of {list(CELLS)}", repr(cell), "Check the spelling.")
    require(0 <= dropout < 1, "recurrent: dropout must be a probability, 0 ≤ p < 1", dropout, "0 leaves it out.")
    made: dict[str, Layer] = {"embedding": sequences.embedding(vocabulary, width, weight="embedding.weight")}
    for number in range(1, layers + 1):
        name = f"layer{number}"
        made[name] = Chain(
            {
                "time_first": sequences.swapped(),
                "": sequences.recurrent(cell, width, width, prefix=f"{name}.", **hyper),
                "batch_first": sequences.swapped(),
            }
        )
        if dropout:
            made[f"dropout{number}"] = chain.dropout((context, width), dropout, mask=f"dropout{number}.mask")
    made["head"] = chain.linear(width, vocabulary, weight="head.weight", bias="head.bias")
    made["classes"] = sequences.classes_first()
    config = {
        "vocabulary": vocabulary,
        "context": context,
        "width": width,
        "layers": layers,
        "cell": cell,
        "dropout": dropout,
        **hyper,
    }
    return Model("recurrent", config, chain.chain(**made), "xavier")
