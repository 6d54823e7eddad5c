"""Training: knows only a Task and its pytrees of arrays."""

from rnnjax.training.devices import mesh
from rnnjax.training.optimizers import adam
from rnnjax.training.run import Run
from rnnjax.training.train import State, evaluate, start, train

__all__ = ["Run", "State", "adam", "evaluate", "mesh", "start", "train"]
