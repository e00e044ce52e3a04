"""The networks that have a name: the course notes', one with ReLU, a deep one, two of convolutions, a transformer, and
one of recurrent layers.

The command line lists them before it waits for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manual_bp.models import Model
    from manual_bp.training.data import Dataset

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "notes": ("mlp", {"hidden": [32, 32], "activation": "sigmoid", "output_activation": "sigmoid"}),
    "mlp": ("mlp", {"hidden": [64, 32], "activation": "relu"}),
    "residual_mlp": (
        "residual_mlp",
        {"width": 32, "depth": 4, "activation": "elu", "batch_norm": True, "dropout": 0.2},
    ),
    "cnn": ("cnn", {"layers": [32, "max", 64, "max"], "dropout": 0.2}),
    "resnet": ("resnet", {"widths": [16, 32], "blocks": 1}),
    "gpt": (
        "gpt",
        {"context": 64, "width": 96, "heads": 4, "depth": 3, "norm": "rms", "position": "rope", "dropout": 0.0},
    ),
    "recurrent": ("recurrent", {"context": 32, "width": 96, "layers": 1, "cell": "lstm", "dropout": 0.1}),
}
"""The networks of verify, lockstep and train, by name: kind and configuration."""

# With so few units and blocks a network keeps every kind of layer, and takes no time.
TINY: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [6, 5]},
    "residual_mlp": {"width": 5, "depth": 2},
    "cnn": {"layers": [2, "max", 3, "max"]},
    "resnet": {"widths": [2, 3]},
    "gpt": {"width": 8, "heads": 2, "depth": 1},
    "recurrent": {"width": 4, "layers": 2},
}

Shape = tuple[int, ...]
"""Of one example: (features,), (channels, height, width), or of a text (context,)."""


def learns_text(name: str) -> bool:
    """Whether the network takes the numbers of tokens, and gives those that come next."""
    return MODELS[name][0] in ("gpt", "recurrent")


def learns_images(name: str) -> bool:
    """Whether the network takes images as (channels, height, width), and not their pixels in a row."""
    return MODELS[name][0] in ("cnn", "resnet")


def drops(name: str) -> bool:
    """Whether the network has dropout, and is told its probability."""
    return "dropout" in MODELS[name][1]


SHORT = 8
"""Positions of a recurrent network's windows in lockstep.  Rounding errors are followed from step to step, which takes
4 CPU seconds for so many."""


def data_for(name: str, data: str | None = None, *, in_lockstep: bool = False) -> Dataset:
    """What the network learns: the digits or a folder of images; of a text, Python's reference or a file.

    in_lockstep: in windows as they are short enough there.
    Raises ValueError if it cannot be read.
    """
    from manual_bp.training import data as images
    from manual_bp.training import text

    if learns_text(name):
        kind, config = MODELS[name]
        context = SHORT if in_lockstep and kind == "recurrent" else config["context"]
        return text.load(data or text.PYTHON).windows(context)
    found = images.load(data or "digits")
    return found.pictures() if learns_images(name) else found


def network(name: str, example: Shape, classes: int, **changes: Any) -> Model:
    """One of MODELS for examples of that shape, `changes` made to its configuration."""
    from manual_bp.models import cnn, gpt, mlp, recurrent, residual_mlp, resnet

    kind, config = MODELS[name]
    config = {**config, **changes}
    if kind == "recurrent":
        return recurrent(classes, **{**config, "context": example[0]})
    if kind == "gpt":
        return gpt(classes, **{**config, "context": example[0]})
    if kind == "resnet":
        return resnet(example, classes, **config)
    if kind == "cnn":
        return cnn(example, classes, **config)
    if kind == "residual_mlp":
        return residual_mlp(**config, inputs=example[0], outputs=classes)
    options = {key: value for key, value in config.items() if key != "hidden"}
    return mlp([example[0], *config["hidden"], classes], **options)


def tiny(name: str, example: Shape, classes: int) -> Model:
    """One of MODELS with a few units to a layer: the same kinds of layers in the same order."""
    return network(name, example, classes, **TINY[MODELS[name][0]])
