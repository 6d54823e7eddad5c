"""Training: knows only a Task and its pytrees of arrays."""

from rnnjax.training.devices import mesh
from rnnjax.training.optimizers import adam
from rnnjax.training.run import Run
from rnnjax.training.saved import Saved, load
from rnnjax.training.train import State, evaluate, start, train

__all__ = ["Run", "Saved", "State", "adam", "evaluate", "load", "mesh", "start", "train"]
