"""The models as nn.Modules, with the parameters' names of manual_bp.models."""

from torch_ref.models.cnn import CNN
from torch_ref.models.gpt import GPT
from torch_ref.models.mlp import MLP
from torch_ref.models.recurrent import Recurrent
from torch_ref.models.residual_mlp import ResidualMLP
from torch_ref.models.resnet import ResNet

MODELS = {"cnn": CNN, "gpt": GPT, "mlp": MLP, "recurrent": Recurrent, "residual_mlp": ResidualMLP, "resnet": ResNet}

__all__ = ["CNN", "GPT", "MLP", "MODELS", "Recurrent", "ResNet", "ResidualMLP"]
