"""Models: compositions of layers, with their parameters' names and initial values."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from manual_bp.models.cnn import cnn
from manual_bp.models.gpt import gpt
from manual_bp.models.mlp import mlp
from manual_bp.models.model import Model
from manual_bp.models.recurrent import recurrent
from manual_bp.models.residual_mlp import residual_mlp
from manual_bp.models.resnet import resnet

KINDS: Mapping[str, Callable[..., Model]] = MappingProxyType(
    {f.__name__: f for f in (cnn, gpt, mlp, recurrent, residual_mlp, resnet)}
)
"""What makes a model, by its `name`: KINDS[model.name](**model.config) is it again."""

__all__ = ["KINDS", "Model", "cnn", "gpt", "mlp", "recurrent", "residual_mlp", "resnet"]
