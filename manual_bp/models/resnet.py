"""A small residual network of convolutions.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from manual_bp import chain, images
from manual_bp.chain import Chain, Identity, Layer
from manual_bp.inputs import require
from manual_bp.models.model import Model


def resnet(
    image: Sequence[int],
    outputs: int,
    widths: Sequence[int] = (16, 32),
    blocks: int = 1,
    *,
    momentum: float | None = 0.1,
) -> Model:
    """Stages of residual blocks relu(shortcut(x) + f(x)), f of two convolutions of 3 x 3, for images (batch, *image).

    image: channels, height and width.
    widths: filters of each stage.  Before the first there is a convolution alone; each later stage begins with a stride
        of 2, so that height and width halve, rounded up.
    blocks: how many each stage has.  A shortcut is x itself, and where the stride or the number of channels is
        another, a convolution of 1 x 1 with that stride.
    momentum: of batch norm's running statistics; None for the average over all batches.

    Batch norm follows each convolution, none of which has a bias; at the end are the mean over height and width, and a
    linear layer.  Layers are named stem.convolution, stem.batch_norm, stem.activation, stage1.block1.convolution1,
    stage1.block1.batch_norm1, ..., stage2.block1.shortcut.convolution, the sum stage1.block1, pool, output.
    Raises ValueError for sizes below 1.
    """
    require(len(image) == 3, "resnet: image must be channels, height and width", list(image), "")
    sizes = [*image, outputs, *widths, blocks]
    require(len(widths) > 0 and min(sizes) >= 1, "resnet: sizes must be at least 1, of one stage or more", sizes, "")
    channels, height, width = image

    def normed(filters: int, kernel: int, stride: int, name: str, number: str = "") -> dict[str, Layer]:
        how = {"stride": stride, "padding": kernel // 2}
        prefix = f"{name}.convolution{number}."
        convolution = images.convolution(channels, filters, kernel, prefix=prefix, bias=False, **how)
        norm = chain.batch_norm(filters, prefix=f"{name}.batch_norm{number}.", momentum=momentum)
        return {f"convolution{number}": convolution, f"batch_norm{number}": norm}

    relu = images.activation("relu")
    made: dict[str, Layer] = {"stem": chain.chain(**normed(widths[0], 3, 1, "stem"), activation=relu)}
    channels = widths[0]
    for stage, filters in enumerate(widths, 1):
        for block in range(1, blocks + 1):
            name, stride = f"stage{stage}.block{block}", 2 if stage > 1 and block == 1 else 1
            shortcut: Layer = Identity()
            if stride > 1 or channels != filters:
                shortcut = chain.chain(**normed(filters, 1, stride, f"{name}.shortcut"))
            first = normed(filters, 3, stride, name, "1")
            channels = filters
            inner = chain.chain(**first, activation1=relu, **normed(filters, 3, 1, name, "2"))
            joined = chain.joined("add", {"shortcut": shortcut, "": inner})
            made[name] = Chain({"": joined, "activation2": relu})
            height, width = -(-height // stride), -(-width // stride)
    made["pool"] = images.pool("avg", (height, width))
    made["flattened"] = images.flattened((channels, 1, 1))
    made["output"] = chain.linear(channels, outputs, weight="output.weight", bias="output.bias")
    config = {
        "image": list(image),
        "outputs": outputs,
        "widths": list(widths),
        "blocks": blocks,
        "momentum": momentum,
    }
    return Model("resnet", config, Chain(made), "he")
