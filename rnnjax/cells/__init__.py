"""Recurrent cells, one paper a file."""

from rnnjax.cells.base import Cell, cell_factory
from rnnjax.cells.gru import gru
from rnnjax.cells.lru import lru
from rnnjax.cells.lstm import lstm
from rnnjax.cells.mingru import mingru
from rnnjax.cells.minlstm import minlstm
from rnnjax.cells.vanilla import vanilla

__all__ = ["Cell", "cell_factory", "gru", "lru", "lstm", "mingru", "minlstm", "vanilla"]
