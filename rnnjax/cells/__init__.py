"""Recurrent cells, one paper a file."""

from rnnjax.cells.cell import Cell, factory
from rnnjax.cells.gru import gru
from rnnjax.cells.lstm import lstm
from rnnjax.cells.vanilla import vanilla

__all__ = ["Cell", "factory", "gru", "lstm", "vanilla"]
