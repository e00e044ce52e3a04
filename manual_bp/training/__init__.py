"""Training: data, mini-batches, optimisers and the step that joins them."""

from manual_bp.training.optimizers import Optimizer, sgd
from manual_bp.training.step import Step, TrainingState, training_step

__all__ = ["Optimizer", "Step", "TrainingState", "sgd", "training_step"]
