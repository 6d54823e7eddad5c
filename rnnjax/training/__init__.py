"""Training: knows only a Task and its pytrees of arrays."""

from rnnjax.training.device_mesh import mesh
from rnnjax.training.optimizers import adam
from rnnjax.training.saved_run import Saved, load
from rnnjax.training.train_step import State, evaluate, start, train
from rnnjax.training.trainer import Run

__all__ = ["Run", "Saved", "State", "adam", "evaluate", "load", "mesh", "start", "train"]
