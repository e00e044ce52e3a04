"""Training: data, mini-batches, optimisers and the step that joins them."""

from manual_bp.curves.early_stopping import EarlyStopping
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.factory import training_step
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.optimizers import Optimizer, adam, adamw, sgd
from manual_bp.training.schedules import Schedule
from manual_bp.training.step import Step, TrainingState

__all__ = [
    "EarlyStopping",
    "MiniBatches",
    "Optimizer",
    "Schedule",
    "Step",
    "TrainingState",
    "adam",
    "adamw",
    "clip_by_norm",
    "sgd",
    "training_step",
]
