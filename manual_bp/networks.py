"""The networks that have a name: the course notes', one with ReLU, a deep one, and a transformer.

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
    "gpt": ("gpt", {"context": 64, "width": 96, "heads": 4, "depth": 3, "norm": "rms", "position": "rope"}),
}
"""The networks of verify, lockstep and train, by name: kind and configuration."""

# With so few units and blocks a network keeps every kind of layer, and takes no time.
TINY: dict[str, Any] = {"hidden": [6, 5], "width": 5, "depth": 2}
TINY_GPT: dict[str, Any] = {"width": 8, "heads": 2, "depth": 1}


def learns_text(name: str) -> bool:
    """Whether the network takes the numbers of tokens, and gives those that come next."""
    return MODELS[name][0] == "gpt"


def data_for(name: str, data: str | None = None) -> Dataset:
    """What the network learns: the digits or a folder of images; of a text, Python's reference or a file.

    Raises ValueError if it cannot be read.
    """
    from manual_bp.training import data as images
    from manual_bp.training import text

    if learns_text(name):
        return text.load(data or text.PYTHON).windows(MODELS[name][1]["context"])
    return images.load(data or "digits")


def network(name: str, features: int, classes: int, **changes: Any) -> Model:
    """One of MODELS, `changes` made to its configuration; of a text `features` is the context."""
    from manual_bp.models import gpt, mlp, residual_mlp

    kind, config = MODELS[name]
    config = {**config, **changes}
    if kind == "gpt":
        return gpt(classes, **{**config, "context": features})
    if kind == "residual_mlp":
        return residual_mlp(**config, inputs=features, outputs=classes)
    options = {key: value for key, value in config.items() if key != "hidden"}
    return mlp([features, *config["hidden"], classes], **options)


def tiny(name: str, features: int, classes: int) -> Model:
    """One of MODELS with a few units to a layer: the same kinds of layers in the same order."""
    few = TINY_GPT if learns_text(name) else TINY
    return network(name, features, classes, **{key: value for key, value in few.items() if key in MODELS[name][1]})
