"""Recurrent cells: the `Cell` interface, helpers for custom cells, and one module per cell type."""

from rnnjax.cells.base import Cell, additive, cell_factory, linear_recurrence, project, zero_carry
from rnnjax.cells.gru import gru
from rnnjax.cells.initializers import chrono_bias, init_dense, init_gates
from rnnjax.cells.lru import lru
from rnnjax.cells.lstm import lstm
from rnnjax.cells.mingru import mingru
from rnnjax.cells.minlstm import minlstm
from rnnjax.cells.vanilla import vanilla

__all__ = [
  "Cell",
  "additive",
  "cell_factory",
  "chrono_bias",
  "gru",
  "init_dense",
  "init_gates",
  "linear_recurrence",
  "lru",
  "lstm",
  "mingru",
  "minlstm",
  "project",
  "vanilla",
  "zero_carry",
]
