"""Experiment configurations: frozen dataclasses in which every field is a command line flag."""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Callable

from experiments.common.cells import CELLS, check_cell, make_cell
from rnnjax import bidirectional, forward, stack
from rnnjax.training.grad_accumulation import DTYPES
from rnnjax.types import InvalidInputError
from rnnjax.unroll import BACKENDS

PROBABILITY = dict(min_value=0, less_than=1)  # limits of a dropout rate

# {heading in --help: patterns of field names}. If `field_spec` sets no group, a field belongs to
# the first group with a matching pattern, or to the group "model" if no pattern matches.
FLAG_GROUPS = {
  "devices": ("mesh", "coordinator", "backend", "dtype"),
  "output": (
    "workdir",
    "predict",
    "sample_*",
    "prompt*",
    "temperature",
    "num_samples",
    "top_*",
    "beam_size",
    "length_penalty",
    "coverage_penalty",
    "no_repeat_ngram_size",
    "max_length",
    "ensemble",
    "cache_*",
    "dynamic_eval_lr",
    "checkpoint_every",
    "profile",
    "log_gradients",
  ),
  "training": (
    "batch_size",
    "learning_rate",
    "epochs",
    "seed",
    "optimizer",
    "ema_decay",
    "*dropout",
    "*_drop",
    "zoneout",
    "*_reg",
    "*_prob",
    "*_lr",
    "weight_decay",
    "max_grad_norm",
    "grad_accum_steps",
    "label_smoothing",
    "coverage_weight",
    "asgd_start",
    "bptt_length",
    "target_loss_ratio",
    "init_from",
    "freeze_*",
  ),
  "data": (
    "dataset",
    "data_dir",
    "text_file",
    "*_column",
    "columns",
    "*_language",
    "subset",
    "split",
    "fold",
    "task",
    "problem",
    "lengths",
    "delays",
    "fps",
    "stride",
    "test_*",
    "min_*",
    "max_*",
    "num_train_*",
    "speed_perturbation",
    "steps_per_quarter",
    "view",
    "granularity",
    "horizontal_flip",
    "log_transform",
    "per_variable",
    "horizon",
    "context_length",
    "season_length",
    "vocab_size",
    "tokenizer",
    "target_tokenizer",
    "shared_vocab",
    "lowercase",
    "byte_level",
    "strip_lines",
    "truncation",
    "padding",
  ),
  "model": ("*",),
}


def field_spec(
  default,
  help: str,
  choices=None,
  min_value=None,
  less_than=None,
  is_file=False,
  affects_training=True,
  group: str | None = None,
  check: Callable[[str], object] | None = None,
):
  """Return a dataclass field whose metadata defines a command line flag.

  Args:
    default: the default value; its type is the type of the flag.
    help: the help text of the flag, a noun phrase with the unit and special values.
    choices: the allowed values; None for any.
    min_value: the smallest allowed value.
    less_than: the exclusive upper bound of the value.
    is_file: whether a non-empty value must be the path of an existing file.
    affects_training: whether the value affects the trained parameters. If False, a run can be
      resumed with another value.
    group: the heading under which --help lists the flag, a key of FLAG_GROUPS; None for the first
      heading with a pattern that matches the field's name.
    check: a function that raises InvalidInputError if a non-empty value is invalid.
  """
  metadata = {
    "help": help,
    "choices": tuple(choices) if choices else None,
    "min_value": min_value,
    "less_than": less_than,
    "is_file": is_file,
    "affects_training": affects_training,
    "group": group,
    "check": check,
  }
  return dataclasses.field(default=default, metadata=metadata)


def flag_group(field: dataclasses.Field) -> str:
  """Return the heading under which --help lists the flag of a field."""
  return field.metadata.get("group") or next(
    group
    for group, patterns in FLAG_GROUPS.items()
    if any(fnmatch.fnmatch(field.name, pattern) for pattern in patterns)
  )


def cell_field(default: str = "lstm", help: str = "recurrent cell, with options as in lstm(...)"):
  """Return a dataclass field whose flag specifies a cell in the syntax of `make_cell`."""
  return field_spec(default, f"{help}: {', '.join(CELLS)}", check=check_cell)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Configuration fields shared by all training experiments.

  To change only the default of a field, a subclass assigns the value:

      class Config(train_config.TrainConfig):
        hidden_size: int = 64

  Raises:
    InvalidInputError: the value of a field is invalid.
  """

  cell: str = cell_field()
  hidden_size: int = field_spec(128, "hidden units of each cell", min_value=1)
  num_layers: int = field_spec(1, "stacked recurrent layers", min_value=1)
  data_dir: str = field_spec("", "folder of the data set's original files")
  batch_size: int = field_spec(64, "rows of a batch", min_value=1)
  learning_rate: float = field_spec(1e-3, "peak learning rate of Adam", min_value=0)
  epochs: int = field_spec(10, "passes over the training set", min_value=1)
  ema_decay: float = field_spec(
    0.998, "decay of the exponential moving average of the parameters; 0 for none", **PROBABILITY
  )
  seed: int = field_spec(0, "seed of initialization, dropout and batch order", min_value=0)
  workdir: str = field_spec(
    "", "run directory for config, metrics and checkpoints; an existing run in it is resumed"
  )
  backend: str = field_spec(
    "auto", "implementation of the loop over time", ("auto", *BACKENDS), group="devices"
  )
  dtype: str = field_spec("float32", "compute dtype; parameters stay float32", DTYPES)
  grad_accum_steps: int = field_spec(
    1, "gradient accumulation steps of a batch, to save memory", min_value=1
  )
  mesh: str = field_spec(
    "",
    "device mesh, such as batch:4 or batch:2,fsdp:2; all devices if empty",
    affects_training=False,
  )
  coordinator: str = field_spec(
    "",
    "multi-host setup: auto, or HOST:PORT,NUMBER,INDEX; one host if empty",
    affects_training=False,
  )
  checkpoint_every: int = field_spec(
    0,
    "training steps between checkpoints; 0 saves after every epoch",
    min_value=0,
    affects_training=False,
  )
  profile: bool = field_spec(
    False, "write a profiler trace of a few steps to WORKDIR/profile", affects_training=False
  )
  log_gradients: bool = field_spec(
    False, "log gradient norms and the spectral radii of U", affects_training=False
  )

  def __init_subclass__(cls):
    # A plain value in a subclass would drop the metadata of the inherited field.
    for field in dataclasses.fields(cls):
      default = cls.__dict__.get(field.name)
      if default is not None and not isinstance(default, dataclasses.Field):
        setattr(cls, field.name, dataclasses.field(default=default, metadata=field.metadata))

  def __post_init__(self):
    for field in dataclasses.fields(self):
      check_value(field, getattr(self, field.name))


def check_value(field: dataclasses.Field, value):
  """Check the type and the limits of the value of a field.

  Raises:
    InvalidInputError: the value is invalid.
  """
  limits, expected = field.metadata, type(field.default)
  accepted = (int, float) if expected is float else expected
  # bool is a subclass of int, but True is not a valid number.
  if not isinstance(value, accepted) or isinstance(value, bool) != (expected is bool):
    raise InvalidInputError(f"--{field.name} must be of type {expected.__name__}; got {value!r}")
  choices, minimum, bound = (limits.get(key) for key in ("choices", "min_value", "less_than"))
  if choices and value not in choices:
    raise InvalidInputError(f"--{field.name} must be one of {', '.join(choices)}; got {value!r}")
  if minimum is not None and not value >= minimum:
    raise InvalidInputError(f"--{field.name} must be at least {minimum}; got {value}")
  if bound is not None and not value < bound:
    raise InvalidInputError(f"--{field.name} must be less than {bound}; got {value}")
  if limits.get("is_file") and value and not pathlib.Path(value).expanduser().is_file():
    raise InvalidInputError(f"--{field.name} must be a file; {value!r} does not exist")
  if limits.get("check") and value:
    limits["check"](value)


def build_encoder(config):
  """Build the stack of unidirectional or bidirectional layers that a configuration specifies."""
  cell = make_cell(config.cell, config.hidden_size)
  if config.bidirectional:
    layer = bidirectional(cell, cell, backend=config.backend)
  else:
    layer = forward(cell, backend=config.backend)
  return stack(*[layer] * config.num_layers, dropout=config.dropout)
