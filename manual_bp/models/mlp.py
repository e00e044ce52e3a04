"""The course notes' network: z(l+1) = W(l) a(l) + b(l), a(l) = σ(z(l))."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manual_bp import chain
from manual_bp.models.initialization import suited_to
from manual_bp.models.model import Model


def mlp(sizes: Sequence[int], activation: str = "relu", output_activation: str = "identity", **hyper: Any) -> Model:
    """A multilayer perceptron with parameters W1, b1, W2, b2, ...; W of shape (out, in).

    sizes: units per layer, from the input to the output.
    activation: name of a rule of one input, applied after every hidden layer; hyper are its hyperparameters.  A layer
        before maxout has `pieces` times as many outputs.
    output_activation: likewise after the last layer; the notes' network has output_activation=activation.
    Layers are named linear1, activation1, linear2, ...
    Raises ValueError for fewer than two sizes or one below 1, and for a rule that is no activation.
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"mlp: sizes must hold at least an input and an output size, all ≥ 1; came {list(sizes)}.")
    last = len(sizes) - 1
    layers: dict[str, chain.Layer] = {}
    for index in range(1, last + 1):
        name = activation if index < last else output_activation
        given = hyper if name == activation else {}
        layer = chain.activation(name, **given)
        outputs = layer.inputs_for(sizes[index])
        layers[f"linear{index}"] = chain.linear(sizes[index - 1], outputs, weight=f"W{index}", bias=f"b{index}")
        layers[f"activation{index}"] = layer
    config = {"sizes": list(sizes), "activation": activation, "output_activation": output_activation, **hyper}
    return Model("mlp", config, chain.chain(**layers), suited_to(chain.activation(activation, **hyper)))
