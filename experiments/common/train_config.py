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
from rnnjax.training.grad_accumulation import DTYPES
from rnnjax.types import InvalidInputError
from rnnjax.unroll import BACKENDS

PROBABILITY = dict(min_value=0, less_than=1)  # what a rate of dropout may be
CELLS = {
  "vanilla": vanilla,
  "lstm": lstm,
  "gru": gru,
  "mingru": mingru,
  "minlstm": minlstm,
  "lru": lru,
}


def field_spec(
  default,
  help: str,
  choices=None,
  min_value=None,
  less_than=None,
  is_file=False,
  affects_training=True,
):
  """A field of a configuration: its default, help text, and the values it may take.

  What stands `aside` does not decide what is learnt: a run resumes whatever its value.
  """
  choices = tuple(choices) if choices else None
  limits = {
    "choices": choices,
    "min_value": min_value,
    "less_than": less_than,
    "is_file": is_file,
  }
  return dataclasses.field(
    default=default, metadata={"help": help, "affects_training": affects_training} | limits
  )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What every experiment can be asked. A class that changes no more than a default gives a value.

      class Config(options.Common):
        hidden: int = 64

  Raises:
    BadInput: a value that a field may not take.
  """

  cell: str = field_spec("lstm", "the recurrent cell", CELLS)
  hidden_size: int = field_spec(128, "hidden units of each cell", min_value=1)
  num_layers: int = field_spec(1, "layers on top of one another", min_value=1)
  data_dir: str = field_spec("", "folder of the data set's original files")
  batch_size: int = field_spec(64, "rows of a batch", min_value=1)
  learning_rate: float = field_spec(1e-3, "peak learning rate", min_value=0)
  epochs: int = field_spec(10, "passes over the training part", min_value=1)
  ema_decay: float = field_spec(
    0.998, "decay of the parameters' moving average; 0 for none", **PROBABILITY
  )
  seed: int = field_spec(0, "seed of everything drawn", min_value=0)
  workdir: str = field_spec(
    "", "folder for configuration, metrics and checkpoints; resumes a run in it"
  )
  backend: str = field_spec("auto", "how the loop over time is run", ("auto", *BACKENDS))
  dtype: str = field_spec("float32", "in which a model computes; weights stay float32", DTYPES)
  grad_accum_steps: int = field_spec(
    1, "parts that a batch is taken in, for the memory of one", min_value=1
  )
  mesh: str = field_spec(
    "", "devices: batch:4, or batch:2,fsdp:2; all where empty", affects_training=False
  )
  coordinator: str = field_spec(
    "", "auto, or HOST:PORT,NUMBER,INDEX of many hosts", affects_training=False
  )
  checkpoint_every: int = field_spec(
    0, "steps between checkpoints; 0: after epochs", min_value=0, affects_training=False
  )
  profile: bool = field_spec(False, "trace a few steps into OUT/profile", affects_training=False)
  log_gradients: bool = field_spec(
    False, "record gradients' norms and U's radii", affects_training=False
  )

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
        raise InvalidInputError(f"--{field.name} must be of type {kind.__name__}; got {value!r}")
      if meta["choices"] and value not in meta["choices"]:
        raise InvalidInputError(
          f"--{field.name} must be one of {', '.join(meta['choices'])}; got {value!r}"
        )
      if meta["min_value"] is not None and not value >= meta["min_value"]:
        raise InvalidInputError(f"--{field.name} must be at least {meta['low']}; got {value}")
      if meta["less_than"] is not None and not value < meta["less_than"]:
        raise InvalidInputError(f"--{field.name} must be less than {meta['below']}; got {value}")
      if meta["is_file"] and value and not pathlib.Path(value).expanduser().is_file():
        raise InvalidInputError(f"--{field.name} must be a file; there is none at {value!r}")


def build_encoder(config):
  """The stack of layers that a configuration describes, in one direction or both."""
  cell = CELLS[config.cell](config.hidden_size)
  cells, direction = ([cell] * 2, bidirectional) if config.bidirectional else ([cell], forward)
  layers = [direction(*cells, backend=config.backend)] * config.num_layers
  return stack(*layers, dropout=config.dropout)
