"""The only place where autograd lives: torch's own derivative of every rule, and the same models as nn.Modules."""

from torch_ref.candidate import twin, vjp

__all__ = ["twin", "vjp"]
