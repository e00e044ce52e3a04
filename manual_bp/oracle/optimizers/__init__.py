"""Optimisers as they are, judged over several steps by the page of their update."""

from manual_bp.oracle.optimizers.comparison import compare_optimizer
from manual_bp.oracle.optimizers.driven import Driven, of_optimizer, of_transformation

__all__ = ["Driven", "compare_optimizer", "of_optimizer", "of_transformation"]
