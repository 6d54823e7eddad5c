"""Training of a `Task`. This package accesses a model only through its task."""

from rnnjax.training.device_mesh import make_mesh
from rnnjax.training.optimizers import adam
from rnnjax.training.run_dir import SavedRun, load_saved_run
from rnnjax.training.train_step import TrainState, evaluate, init_state, train_loop
from rnnjax.training.trainer import Trainer

__all__ = [
  "SavedRun",
  "TrainState",
  "Trainer",
  "adam",
  "evaluate",
  "init_state",
  "load_saved_run",
  "make_mesh",
  "train_loop",
]
