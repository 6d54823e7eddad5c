"""An experiment as a command: its configuration's fields as flags, its scores as a JSON line."""

import dataclasses
import json
import logging
import math
import os
import pathlib
import signal
import sys

import jax
from absl import app, flags

from experiments.common.train_config import TrainConfig
from rnnjax.backends import malloc
from rnnjax.training import device_mesh, distributed, run_dir
from rnnjax.types import InvalidInputError

COMPILATION_CACHE_DIR = "~/.cache/rnnjax/compiled"  # what was compiled once is not compiled again


def _exit_on_sigterm(*_):
  """Hears SIGTERM where no training runs, which hears it itself."""
  print(
    "ended by SIGTERM; the same command with --workdir resumes or begins again", file=sys.stderr
  )
  sys.exit(0)


def define_flags(config_class):
  """Defines one flag for each field of a configuration class."""
  kinds = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
  for field in dataclasses.fields(config_class):
    meta = field.metadata
    if meta["choices"]:
      flags.DEFINE_enum(field.name, field.default, meta["choices"], meta["help"])
    else:
      limit = {} if meta["min_value"] is None else {"lower_bound": meta["min_value"]}
      kind = kinds.get(type(field.default), flags.DEFINE_string)
      kind(field.name, field.default, meta["help"], **limit)


def setup_devices(config):
  """Meets the other hosts and lays out the devices, before jax first looks for them.

  Raises:
    BadInput: hosts do not meet, or the devices are too few or cannot share a batch.
  """
  number = 1
  if config.coordinator:
    if not config.workdir:
      raise InvalidInputError(
        "--coordinator needs --workdir, on a file system that all hosts share"
      )
    number = distributed.parse_coordinator(config.coordinator)[1]
    distributed.initialize_distributed(config.coordinator)
  # Where jax alone knows how many hosts there are, each is one device: no batch divides by less.
  device_mesh.use_cpu_cores_as_devices(config.batch_size, config.mesh, number or config.batch_size)
  device_mesh.make_mesh(config.batch_size, config.mesh)
  if not distributed.is_primary_host():
    logging.getLogger().setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")


def exit_with_error(message: str):
  """Ends the program with a message and exit code 1, and waits for no other host."""
  if not jax.distributed.is_initialized():
    sys.exit(message)
  print(message, file=sys.stderr, flush=True)
  os._exit(1)


def main(config_class, run, presets=None):
  """Runs an experiment from the command line; the last line of stdout is one JSON object.

  Args:
    config: its configuration class.
    run: configuration -> {name: value}.
    presets: {name: {field: value}}, chosen by --preset; flags that are given win.
  """
  define_flags(config_class)
  if presets:
    flags.DEFINE_enum("preset", None, tuple(presets), "a whole set of values; other flags win")

  def start(argv):
    if argv[1:]:
      raise app.UsageError(f"flags look like --name=value; got {' '.join(argv[1:])}")
    values = dict(presets[flags.FLAGS.preset]) if presets and flags.FLAGS.preset else {}
    for field in dataclasses.fields(config_class):
      if flags.FLAGS[field.name].present or field.name not in values:
        values[field.name] = flags.FLAGS[field.name].value
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if not jax.config.jax_compilation_cache_dir:  # as $JAX_COMPILATION_CACHE_DIR sets it
      jax.config.update(
        "jax_compilation_cache_dir", str(pathlib.Path(COMPILATION_CACHE_DIR).expanduser())
      )
    for name in ("absl", "jax", "orbax"):
      logging.getLogger(name).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    malloc.tune_malloc()
    try:
      made = config_class(**values)
      if getattr(made, "workdir", ""):
        run_dir.check_run_dir(pathlib.Path(made.workdir).expanduser(), made)  # before any long work
      if isinstance(made, TrainConfig):
        setup_devices(made)
      result = run(made)
    except (InvalidInputError, FloatingPointError, OSError) as error:
      exit_with_error(f"error: {error}")
    except KeyboardInterrupt:
      sys.exit(130)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" in str(error):
        exit_with_error(
          f"error: too little memory: {error}\nA smaller --batch_size, or --grad_accum_steps, needs less."
        )
      if not jax.distributed.is_initialized():
        raise
      exit_with_error(f"error: a host was lost: {error}\nThe same command on all hosts resumes.")
    known = lambda value: not isinstance(value, float) or math.isfinite(value)  # else it is no JSON
    result = {name: value if known(value) else None for name, value in result.items()}
    print(json.dumps({"experiment": run_dir.program_name()} | result))

  app.run(start)
