"""The only place where autograd lives: torch's own derivative of every rule, and the same models as nn.Modules."""

from torch_ref.accumulating import accumulated
from torch_ref.candidate import twin, vjp
from torch_ref.training.modules import engine_of

__all__ = ["accumulated", "engine_of", "twin", "vjp"]
