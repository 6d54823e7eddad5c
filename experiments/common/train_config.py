"""Configurations as frozen dataclasses, each field one flag; what all experiments share."""

import dataclasses
import pathlib

from rnnjax import (
  bidirectional,
  forward,
  gru,
  lru,
  lstm,
  mingru,
  minlstm,
  stack,
  vanilla,
)
from rnnjax.training.grad_accumulation import PRECISIONS
from rnnjax.types import BadInput
from rnnjax.unroll import BACKENDS

RATE = dict(low=0, below=1)  # what a rate of dropout may be
CELLS = {
  "vanilla": vanilla,
  "lstm": lstm,
  "gru": gru,
  "mingru": mingru,
  "minlstm": minlstm,
  "lru": lru,
}


def option(default, help: str, choices=None, low=None, below=None, file=False, aside=False):
  """A field of a configuration: its default, help text, and the values it may take.

  What stands `aside` does not decide what is learnt: a run resumes whatever its value.
  """
  choices = tuple(choices) if choices else None
  limits = {"choices": choices, "low": low, "below": below, "file": file}
  return dataclasses.field(default=default, metadata={"help": help, "aside": aside} | limits)


@dataclasses.dataclass(frozen=True)
class Common:
  """What every experiment can be asked. A class that changes no more than a default gives a value.

      class Config(options.Common):
        hidden: int = 64

  Raises:
    BadInput: a value that a field may not take.
  """

  cell: str = option("lstm", "the recurrent cell", CELLS)
  hidden: int = option(128, "hidden units of each cell", low=1)
  layers: int = option(1, "layers on top of one another", low=1)
  data_dir: str = option("", "folder of the data set's original files")
  batch: int = option(64, "rows of a batch", low=1)
  rate: float = option(1e-3, "peak learning rate", low=0)
  epochs: int = option(10, "passes over the training part", low=1)
  average: float = option(0.998, "decay of the parameters' moving average; 0 for none", **RATE)
  seed: int = option(0, "seed of everything drawn", low=0)
  out: str = option("", "folder for configuration, metrics and checkpoints; resumes a run in it")
  backend: str = option("auto", "how the loop over time is run", ("auto", *BACKENDS))
  precision: str = option("float32", "in which a model computes; weights stay float32", PRECISIONS)
  accumulate: int = option(1, "parts that a batch is taken in, for the memory of one", low=1)
  mesh: str = option("", "devices: batch:4, or batch:2,fsdp:2; all where empty", aside=True)
  distributed: str = option("", "auto, or HOST:PORT,NUMBER,INDEX of many hosts", aside=True)
  save_every: int = option(0, "steps between checkpoints; 0: after epochs", low=0, aside=True)
  profile: bool = option(False, "trace a few steps into OUT/profile", aside=True)
  diagnose: bool = option(False, "record gradients' norms and U's radii", aside=True)

  def __init_subclass__(cls):
    for field in dataclasses.fields(cls):
      default = cls.__dict__.get(field.name)
      if default is not None and not isinstance(default, dataclasses.Field):
        setattr(cls, field.name, dataclasses.field(default=default, metadata=field.metadata))

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, meta, kind = getattr(self, field.name), field.metadata, type(field.default)
      good = (int, float) if kind is float else kind
      if not isinstance(value, good) or isinstance(value, bool) != (kind is bool):
        raise BadInput(f"--{field.name} must be of type {kind.__name__}; got {value!r}")
      if meta["choices"] and value not in meta["choices"]:
        raise BadInput(f"--{field.name} must be one of {', '.join(meta['choices'])}; got {value!r}")
      if meta["low"] is not None and not value >= meta["low"]:
        raise BadInput(f"--{field.name} must be at least {meta['low']}; got {value}")
      if meta["below"] is not None and not value < meta["below"]:
        raise BadInput(f"--{field.name} must be less than {meta['below']}; got {value}")
      if meta["file"] and value and not pathlib.Path(value).expanduser().is_file():
        raise BadInput(f"--{field.name} must be a file; there is none at {value!r}")


def encoder(config):
  """The stack of layers that a configuration describes, in one direction or both."""
  cell = CELLS[config.cell](config.hidden)
  cells, direction = ([cell] * 2, bidirectional) if config.bidirectional else ([cell], forward)
  layers = [direction(*cells, backend=config.backend)] * config.layers
  return stack(*layers, dropout=config.dropout)
