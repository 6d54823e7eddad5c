"""Configurations as frozen dataclasses, each field one absl flag; what all experiments share."""

import atexit
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import signal
import sys
import tempfile

import jax
from absl import app, flags

from rnnjax import (
  bidirectional,
  forward,
  gru,
  lru,
  lstm,
  mingru,
  minlstm,
  stack,
  training,
  vanilla,
)
from rnnjax.diagnostics.influence import radii
from rnnjax.training import averages, devices, hosts, optimizers, records
from rnnjax.training.gradients import PRECISIONS
from rnnjax.types import BadInput
from rnnjax.unroll import BACKENDS

RATE = dict(low=0, below=1)  # what a rate of dropout may be
COMPILED = "~/.cache/rnnjax/compiled"  # what was compiled once is not compiled again
CELLS = {
  "vanilla": vanilla, "lstm": lstm, "gru": gru, "mingru": mingru, "minlstm": minlstm, "lru": lru,
}  # fmt: skip


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


def how(config) -> dict:
  """What every run is told by its configuration; with --diagnose it records the radii of U."""
  names = "mesh", "precision", "accumulate", "save_every", "profile"
  chosen = {name: getattr(config, name) for name in names}
  return chosen | {"watch": radii if config.diagnose else None}


@functools.cache  # what is compiled for one training serves others like it
def optimizer(rate: float, steps: int, decay: str, warmup: float, weight_decay: float, clip: float):
  """Adam, with a learning rate of such a course."""
  rate = optimizers.schedule(rate, steps, decay, warmup)
  return training.adam(rate, decay=weight_decay, clip=clip or math.inf)


def fit(
  config, task, data, decay: str = "linear", warmup: float = 0.05, *, weight_decay: float = 0.0,
  clip: float = 1.0, enough: float = math.inf, lenient: bool = False, **own
) -> training.Run:  # fmt: skip
  """Trains as a configuration says, and chooses on the validation part; returns what can be tested.

  Args:
    config, task, data, **own: as for `training.Run`.
    decay, warmup: of the learning rate, as for `optimizers.schedule`.
    weight_decay, clip: as for `optimizers.adam`; clip 0 for none.
    enough: the score on the validation part, a loss negative, that ends the training.
    lenient: a step that would not be finite ends the training, too, and not the program.
  """
  steps = config.epochs * len(data.train)
  adam = optimizer(config.rate, steps, decay, warmup, weight_decay, clip)
  average = averages.moving(config.average)
  with training.Run(config, task, data, adam, steps, average=average, **how(config), **own) as run:
    try:
      for _ in run.train():
        if run.progress.score >= enough:
          break
    except FloatingPointError as error:
      if not lenient:
        raise
      logging.warning("%s", error)
  return run


def learn(config, task, data, name: str, *args, **own):
  """As `fit`, and tests once, on a data set of that name; returns the parameters that did best, and
  the scores."""
  run = fit(config, task, data, *args, **own)
  scores = {"dataset": name, "cell": config.cell, "seed": config.seed} | run.test()
  return run.best, scores


def restore(config, out: str, beside: str, **changes):
  """What a run with --out has saved, and its configuration, of this class; changes win.

  Raises:
    BadInput: there is none, or of another experiment: of other fields, or without what its
      parameters need beside them.
  """
  saved = training.load(out)
  names = {field.name for field in dataclasses.fields(config)}
  if not names >= set(saved.config) or beside not in saved.beside:
    raise BadInput(f"{out!r} is the --out of another experiment, or of another version of this one")
  return saved, config(**saved.config | changes)


def figure(out: str, name: str) -> pathlib.Path:
  """Where a run's figure goes, OUT/figures/NAME; the folder is made."""
  return place(out, f"figures/{name}")


def place(out: str, name: str) -> pathlib.Path:
  """Where a file of a run goes, OUT/NAME; on hosts that do not write, in a folder that will go."""
  path = pathlib.Path(out if hosts.lead() else _passing()).expanduser() / name
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


@functools.cache
def _passing() -> str:
  """A folder that goes when the process ends."""
  made = tempfile.TemporaryDirectory()
  atexit.register(made.cleanup)
  return made.name


def _ended(*_):
  """Hears SIGTERM where no training runs, which hears it itself."""
  print("ended by SIGTERM; the same command with --out resumes or begins again", file=sys.stderr)
  sys.exit(0)


def define(config):
  """Defines one flag for each field of a configuration class."""
  kinds = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
  for field in dataclasses.fields(config):
    meta = field.metadata
    if meta["choices"]:
      flags.DEFINE_enum(field.name, field.default, meta["choices"], meta["help"])
    else:
      limit = {} if meta["low"] is None else {"lower_bound": meta["low"]}
      kind = kinds.get(type(field.default), flags.DEFINE_string)
      kind(field.name, field.default, meta["help"], **limit)


def lay_out(config):
  """Meets the other hosts and lays out the devices, before jax first looks for them.

  Raises:
    BadInput: hosts do not meet, or the devices are too few or cannot share a batch.
  """
  number = 1
  if config.distributed:
    if not config.out:
      raise BadInput("--distributed needs --out, on a file system that all hosts share")
    number = hosts.parse(config.distributed)[1]
    hosts.join(config.distributed)
  # Where jax alone knows how many hosts there are, each is one device: no batch divides by less.
  devices.use_cores(config.batch, config.mesh, number or config.batch)
  devices.mesh(config.batch, config.mesh)
  if not hosts.lead():
    logging.getLogger().setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")


def leave(message: str):
  """Ends the program with a message and exit code 1, and waits for no other host."""
  if not jax.distributed.is_initialized():
    sys.exit(message)
  print(message, file=sys.stderr, flush=True)
  os._exit(1)


def main(config, run, presets=None):
  """Runs an experiment from the command line; the last line of stdout is one JSON object.

  Args:
    config: its configuration class.
    run: configuration -> {name: value}.
    presets: {name: {field: value}}, chosen by --preset; flags that are given win.
  """
  define(config)
  if presets:
    flags.DEFINE_enum("preset", None, tuple(presets), "a whole set of values; other flags win")

  def start(argv):
    if argv[1:]:
      raise app.UsageError(f"flags look like --name=value; got {' '.join(argv[1:])}")
    values = dict(presets[flags.FLAGS.preset]) if presets and flags.FLAGS.preset else {}
    for field in dataclasses.fields(config):
      if flags.FLAGS[field.name].present or field.name not in values:
        values[field.name] = flags.FLAGS[field.name].value
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if not jax.config.jax_compilation_cache_dir:  # as $JAX_COMPILATION_CACHE_DIR sets it
      jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(COMPILED).expanduser()))
    for name in ("absl", "jax", "orbax"):
      logging.getLogger(name).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _ended)
    try:
      made = config(**values)
      if getattr(made, "out", ""):
        records.check(pathlib.Path(made.out).expanduser(), made)  # before any long work
      if isinstance(made, Common):
        lay_out(made)
      result = run(made)
    except (BadInput, FloatingPointError, OSError) as error:
      leave(f"error: {error}")
    except KeyboardInterrupt:
      sys.exit(130)
    except jax.errors.JaxRuntimeError as error:
      if not jax.distributed.is_initialized():
        raise
      leave(f"error: a host was lost: {error}\nThe same command on all hosts resumes.")
    known = lambda value: not isinstance(value, float) or math.isfinite(value)  # else it is no JSON
    result = {name: value if known(value) else None for name, value in result.items()}
    print(json.dumps({"experiment": sys.modules["__main__"].__spec__.name.split(".")[-1]} | result))

  app.run(start)
