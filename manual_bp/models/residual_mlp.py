"""A deep network whose blocks add to their input, so that the gradient reaches the first of them."""

from __future__ import annotations

from typing import Any

from manual_bp import chain
from manual_bp.models.initialization import suited_to
from manual_bp.models.model import Model


def residual_mlp(
    width: int,
    depth: int,
    activation: str = "relu",
    batch_norm: bool = True,
    dropout: float = 0.0,
    *,
    inputs: int | None = None,
    outputs: int | None = None,
    momentum: float | None = 0.1,
    **hyper: Any,
) -> Model:
    """`depth` blocks y = x + dropout(activation(batch_norm(linear(x)))), all `width` wide.

    activation: name of a rule; hyper are its hyperparameters.
    batch_norm: whether each block normalises.
    dropout: probability to drop in each block; 0 leaves dropout out.
    inputs, outputs: if given, a linear layer `input` before the blocks and `output` after them.
    momentum: of batch norm's running statistics; None for the average over all batches.
    Layers are named block1.linear, block1.batch_norm, block1.activation, block1.dropout, block2.linear, ...; parameters
    block1.linear.weight and so on.
    Raises ValueError for a width or depth below 1, or a dropout that is not a probability below 1.
    """
    if width < 1 or depth < 1:
        raise ValueError(f"residual_mlp: width and depth must be at least 1; came {width} and {depth}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"residual_mlp: dropout must be a probability, 0 ≤ p < 1; came {dropout}.")
    layers: dict[str, chain.Layer] = {}
    if inputs is not None:
        layers["input"] = _linear(inputs, width, "input.")
    for index in range(1, depth + 1):
        layers[f"block{index}"] = chain.residual(
            _block(width, activation, batch_norm, dropout, f"block{index}.", momentum, hyper)
        )
    if outputs is not None:
        layers["output"] = _linear(width, outputs, "output.")
    config = {
        "width": width,
        "depth": depth,
        "activation": activation,
        "batch_norm": batch_norm,
        "dropout": dropout,
        "inputs": inputs,
        "outputs": outputs,
        "momentum": momentum,
        **hyper,
    }
    return Model("residual_mlp", config, chain.chain(**layers), suited_to(chain.activation(activation, **hyper)))


def _block(
    width: int,
    activation: str,
    batch_norm: bool,
    dropout: float,
    prefix: str,
    momentum: float | None,
    hyper: dict[str, Any],
) -> chain.Layer:
    last = chain.activation(activation, **hyper)
    widened = last.inputs_for(width)
    layers: dict[str, chain.Layer] = {"linear": _linear(width, widened, f"{prefix}linear.")}
    if batch_norm:
        layers["batch_norm"] = chain.batch_norm(widened, prefix=f"{prefix}batch_norm.", momentum=momentum)
    layers["activation"] = last
    if dropout:
        layers["dropout"] = chain.dropout(width, dropout, mask=f"{prefix}dropout.mask")
    return chain.chain(**layers)


def _linear(inputs: int, outputs: int, prefix: str) -> chain.Leaf:
    return chain.linear(inputs, outputs, weight=f"{prefix}weight", bias=f"{prefix}bias")
