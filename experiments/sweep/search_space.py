"""Search spaces of sweeps: grids and random values for the flags of an experiment."""

import itertools
import json
import math
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.common import cli, commands
from rnnjax.training import run_dir
from rnnjax.types import InvalidInputError

Assignment = tuple[str, str]  # (flag name, value)


class Trial(NamedTuple):
  """One run of a sweep.

  Attributes:
    hyperparams: the swept (flag, value) pairs, without the seed.
    flags: all flags of the run, as --NAME=VALUE.
    workdir: the run directory.
  """

  hyperparams: tuple[Assignment, ...]
  flags: tuple[str, ...]
  workdir: pathlib.Path

  @property
  def result(self) -> dict | None:
    """The result of the run; None if the run is unfinished."""
    path = self.workdir / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def field_types(config_class) -> dict[str, type]:
  """Return {field name: type} of a configuration class."""
  return {name: type(field.default) for name, field in config_class.__dataclass_fields__.items()}


def sample_value(rng: np.random.Generator, spec: str, value_type: type | None) -> str:
  """Draw a random value for a flag, and return it as text.

  >>> sample_value(np.random.default_rng(0), "log:1e-4:1e-2", float)
  '0.00188'

  Args:
    rng: the random generator.
    spec: the distribution: "A,B,..." for one of these values, "LOW:HIGH" for a uniform number, or
      "log:LOW:HIGH" for a log-uniform number.
    value_type: the type of the flag. If it is int, the number is rounded.

  Raises:
    InvalidInputError: the syntax is wrong, or a bound of a log-uniform number is zero or negative.
  """
  if ":" not in spec:
    return str(rng.choice(spec.split(",")))
  is_log = spec.startswith("log:")
  try:
    low, high = map(float, spec.removeprefix("log:").split(":"))
    if is_log:
      value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
      value = rng.uniform(low, high)
  except (ValueError, OverflowError):
    raise InvalidInputError(
      f"a range must be LOW:HIGH, or log:LOW:HIGH with LOW above 0; got {spec!r}"
    ) from None
  return str(round(value)) if value_type is int else f"{value:.3g}"


def make_trials(
  experiment: str,
  workdir: pathlib.Path,
  fixed_flags: Sequence[str] = (),
  grid: Sequence[str] = (),
  random: Sequence[str] = (),
  num_trials: int = 20,
  seed: int = 0,
  num_seeds: int = 1,
) -> list[Trial]:
  """Return all runs of a sweep: each combination of grid point, random draw and seed.

  Args:
    experiment: the name of the experiment.
    workdir: the parent folder of all run directories.
    fixed_flags: the flags that all runs share, as --NAME=VALUE.
    grid: the flags of the grid, as NAME=A,B,...
    random: the randomly drawn flags, as NAME=SPEC, with SPEC in the syntax of `sample_value`.
    num_trials: the number of random draws. If it is increased, the earlier draws stay the same.
    seed: the seed of the random draws.
    num_seeds: the number of runs per combination, with --seed=0, 1, ...; 1 leaves --seed unset.

  Raises:
    InvalidInputError: the experiment does not exist or rejects the flags, a flag occurs twice, or
      an existing run directory was created with other flags.
  """
  module = commands.load_command(experiment)
  types, presets = field_types(module.Config), getattr(module, "PRESETS", None)
  rng = np.random.default_rng(seed)
  axes = [[(name, value) for value in spec.split(",")] for name, spec in _split_flags(grid)]
  draws = [
    [(name, sample_value(rng, spec, types.get(name))) for name, spec in _split_flags(random)]
    for _ in range(num_trials if random else 1)
  ]
  seeds = [[("seed", str(n))] if num_seeds > 1 else [] for n in range(num_seeds)]
  trials = {}
  for *point, draw, seed_flag in itertools.product(*axes, draws, seeds):
    swept = (*point, *draw, *seed_flag)
    folder = workdir / ",".join(f"{name}={urllib.parse.quote(text, '')}" for name, text in swept)
    assignments = (*_split_flags(fixed_flags), *swept, ("workdir", str(folder)))
    names = [name for name, _ in assignments]
    if len(set(names)) < len(names):
      raise InvalidInputError(f"each flag must be given once; got {', '.join(names)}")
    flags = tuple(f"--{name}={value}" for name, value in assignments)
    # Check all flags and folders before the first run starts.
    run_dir.check_run_dir(folder, cli.parse_config(module.Config, flags, presets))
    trials[folder] = Trial((*point, *draw), flags, folder)  # identical draws become a single run
  return list(trials.values())


def _split_flags(texts: Sequence[str]) -> list[Assignment]:
  """Return the (name, value) pairs of texts such as NAME=VALUE or --NAME=VALUE."""
  return [text.removeprefix("--").partition("=")[::2] for text in texts]
