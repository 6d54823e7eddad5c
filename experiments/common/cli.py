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

from experiments.common.train_config import Common
from rnnjax.backends import malloc
from rnnjax.training import device_mesh, distributed, run_dir
from rnnjax.types import BadInput

COMPILED = "~/.cache/rnnjax/compiled"  # what was compiled once is not compiled again


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
    number = distributed.parse(config.distributed)[1]
    distributed.join(config.distributed)
  # Where jax alone knows how many hosts there are, each is one device: no batch divides by less.
  device_mesh.use_cores(config.batch, config.mesh, number or config.batch)
  device_mesh.mesh(config.batch, config.mesh)
  if not distributed.lead():
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
    malloc.keep()
    try:
      made = config(**values)
      if getattr(made, "out", ""):
        run_dir.check(pathlib.Path(made.out).expanduser(), made)  # before any long work
      if isinstance(made, Common):
        lay_out(made)
      result = run(made)
    except (BadInput, FloatingPointError, OSError) as error:
      leave(f"error: {error}")
    except KeyboardInterrupt:
      sys.exit(130)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" in str(error):
        leave(f"error: too little memory: {error}\nA smaller --batch, or --accumulate, needs less.")
      if not jax.distributed.is_initialized():
        raise
      leave(f"error: a host was lost: {error}\nThe same command on all hosts resumes.")
    known = lambda value: not isinstance(value, float) or math.isfinite(value)  # else it is no JSON
    result = {name: value if known(value) else None for name, value in result.items()}
    print(json.dumps({"experiment": run_dir.program()} | result))

  app.run(start)
