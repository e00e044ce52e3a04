"""A convolutional network as LeCun's, and VGG's: convolutions and poolings by turns, and a linear layer at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manual_bp import chain, images
from manual_bp.chain import Layer, Leaf
from manual_bp.inputs import require
from manual_bp.models.initialization import suited_to
from manual_bp.models.model import Model

POOLS = ("max", "avg")


def cnn(
    image: Sequence[int],
    outputs: int,
    layers: Sequence[int | str] = (32, "max", 64, "max"),
    *,
    kernel: int = 3,
    activation: str = "relu",
    batch_norm: bool = True,
    dropout: float = 0.0,
    momentum: float | None = 0.1,
    **hyper: Any,
) -> Model:
    """Blocks activation(batch_norm(convolution(x))) and poolings, and a linear layer, for images (batch, *image).

    image: channels, height and width.
    layers: in order, a number for a block with so many filters, "max" or "avg" for a pooling of windows of 2 x 2 that
        lie side by side; what is left of an odd length is dropped.
    kernel: taps of a window along either axis, an odd number; padding keeps height and width.
    activation: name of a rule that takes each number by itself; hyper are its hyperparameters.
    batch_norm: whether each block normalises; its convolution then has no bias, for which the norm has one.
    dropout: probability to drop before the linear layer; 0 leaves dropout out.
    momentum: of batch norm's running statistics; None for the average over all batches.

    Layers are named block1.convolution, block1.batch_norm, block1.activation, pool1, block2.convolution, ..., dropout,
    output; parameters block1.convolution.weight and so on.
    Raises ValueError for sizes below 1, an even kernel, another pooling, and where nothing is left to pool.
    """
    require(len(image) == 3, "cnn: image must be channels, height and width", list(image), "")
    require(min((*image, outputs)) >= 1, "cnn: image and outputs must be at least 1", [*image, outputs], "")
    require(kernel >= 1 and kernel % 2 == 1, "cnn: kernel must be odd, so that height and width stay", kernel, "")
    require(0 <= dropout < 1, "cnn: dropout must be a probability, 0 ≤ p < 1", dropout, "0 leaves it out.")
    channels, height, width = image
    made: dict[str, Layer] = {}
    blocks = pools = 0
    for each in layers:
        if isinstance(each, str):
            require(each in POOLS, f"cnn: a layer must be a number of filters, or one of {list(POOLS)}", repr(each), "")
            require(min(height, width) >= 2, "cnn: a pooling must have 2 x 2 to pool", f"{height} x {width}", "")
            pools += 1
            made[f"pool{pools}"] = images.pool(each, 2)
            height, width = height // 2, width // 2
            continue
        require(each >= 1, "cnn: a block must have at least 1 filter", each, "")
        blocks += 1
        name = f"block{blocks}"
        parts: dict[str, Layer] = {"convolution": _convolution(channels, each, kernel, not batch_norm, name)}
        if batch_norm:
            parts["batch_norm"] = chain.batch_norm(each, prefix=f"{name}.batch_norm.", momentum=momentum)
        made[name] = chain.chain(**parts, activation=images.activation(activation, **hyper))
        channels = each
    features = channels * height * width
    made["flattened"] = images.flattened((channels, height, width))
    if dropout:
        made["dropout"] = chain.dropout(features, dropout, mask="dropout.mask")
    made["output"] = chain.linear(features, outputs, weight="output.weight", bias="output.bias")
    config = {
        "image": list(image),
        "outputs": outputs,
        "layers": list(layers),
        "kernel": kernel,
        "activation": activation,
        "batch_norm": batch_norm,
        "dropout": dropout,
        "momentum": momentum,
        **hyper,
    }
    return Model("cnn", config, chain.chain(**made), suited_to(chain.activation(activation, **hyper)))


def _convolution(channels: int, filters: int, kernel: int, bias: bool, name: str) -> Leaf:
    return images.convolution(channels, filters, kernel, prefix=f"{name}.convolution.", padding=kernel // 2, bias=bias)
