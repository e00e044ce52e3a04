"""Models: compositions of layers, with their parameters' names and initial values."""

from manual_bp.models.gpt import gpt
from manual_bp.models.mlp import mlp
from manual_bp.models.model import Model
from manual_bp.models.residual_mlp import residual_mlp

__all__ = ["Model", "gpt", "mlp", "residual_mlp"]
