"""The networks that have a name: the course notes', one with ReLU, and a deep one with everything in it.

The command line lists them before it waits for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manual_bp.models import Model

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "notes": ("mlp", {"hidden": [32, 32], "activation": "sigmoid", "output_activation": "sigmoid"}),
    "mlp": ("mlp", {"hidden": [64, 32], "activation": "relu"}),
    "residual_mlp": (
        "residual_mlp",
        {"width": 32, "depth": 4, "activation": "elu", "batch_norm": True, "dropout": 0.2},
    ),
}
"""The networks of verify, lockstep and train, by name: kind and configuration."""

# With so few units and blocks a network keeps every kind of layer, and takes no time.
TINY: dict[str, Any] = {"hidden": [6, 5], "width": 5, "depth": 2}


def network(name: str, features: int, classes: int, **changes: Any) -> Model:
    """One of MODELS, `changes` made to its configuration."""
    from manual_bp.models import mlp, residual_mlp

    kind, config = MODELS[name]
    config = {**config, **changes}
    if kind == "residual_mlp":
        return residual_mlp(**config, inputs=features, outputs=classes)
    options = {key: value for key, value in config.items() if key != "hidden"}
    return mlp([features, *config["hidden"], classes], **options)


def tiny(name: str, features: int, classes: int) -> Model:
    """One of MODELS with a few units to a layer: the same kinds of layers in the same order."""
    return network(name, features, classes, **{key: few for key, few in TINY.items() if key in MODELS[name][1]})
