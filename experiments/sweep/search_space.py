"""What a sweep tries: a grid, or draws, as flags that an experiment takes."""

import dataclasses
import importlib
import itertools
import json
import math
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnjax.training import run_dir
from rnnjax.types import InvalidInputError

FLAG_PARSERS = {bool: {"true": True, "false": False}.__getitem__}  # a flag's text as its value


class Trial(NamedTuple):
  """A run: the values that are varied in it, its seed aside; all its flags; its folder."""

  hyperparams: tuple[tuple[str, str], ...]
  flags: tuple[str, ...]
  workdir: pathlib.Path

  @property
  def result(self) -> dict | None:
    """What it has found; None where it has not finished."""
    path = self.workdir / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def field_types(module) -> dict[str, type]:
  """The fields of an experiment's Config, and what each is."""
  return {field.name: type(field.default) for field in dataclasses.fields(module.Config)}


def sample_value(rng: np.random.Generator, spec: str, value_type: type | None) -> str:
  """A value of a field: of A,B,... one, of LOW:HIGH any, of log:LOW:HIGH any of the logarithm.

  >>> draw(np.random.default_rng(0), "log:1e-4:1e-2", float)
  '0.00188'
  """
  if ":" not in spec:
    return str(rng.choice(spec.split(",")))
  try:
    low, high = map(float, spec.removeprefix("log:").split(":"))
    to, back = (math.log, math.exp) if spec.startswith("log:") else (float, float)
    value = back(rng.uniform(to(low), to(high)))
  except (ValueError, OverflowError):
    raise InvalidInputError(
      f"a range is LOW:HIGH, or log:LOW:HIGH from above 0; got {spec!r}"
    ) from None
  return str(round(value)) if value_type is int else f"{value:.3g}"


def make_config(module, flags: dict[str, str]):
  """The configuration that an experiment makes of these flags.

  Raises:
    BadInput: a flag that it does not have, or a value that it does not take.
  """
  known, presets = field_types(module), getattr(module, "PRESETS", {})
  values = dict(presets.get(flags.get("preset"), {}))
  for name, text in flags.items():
    if name == "preset" and text in presets:
      continue
    if name not in known:
      raise InvalidInputError(
        f"{name}={text} names none of its flags, which are {', '.join(known)}"
      )
    try:
      values[name] = FLAG_PARSERS.get(known[name], known[name])(text)
    except (KeyError, ValueError):
      raise InvalidInputError(
        f"--{name} must be of type {known[name].__name__}; got {text!r}"
      ) from None
  return module.Config(**values)


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
  """All runs of a sweep: each point of the grid with each draw and each seed, in folders of `out`.

  Args:
    experiment: its name.
    out: where to.
    fixed: flags of all runs, --NAME=VALUE.
    grid: NAME=A,B,...
    random: NAME=..., as for `draw`.
    trials: how often is drawn; the first of more are those of fewer.
    seed: of these draws.
    seeds: runs of each point, with --seed=0, 1, ...

  Raises:
    BadInput: what the experiment would refuse; a folder of a run with other flags.
  """
  try:
    module = importlib.import_module(f"experiments.{experiment}")
    known = field_types(module)
  except (ModuleNotFoundError, AttributeError):
    raise InvalidInputError(f"there is no experiment {experiment}") from None
  split = lambda texts: [text.removeprefix("--").partition("=")[::2] for text in texts]
  rng, made = np.random.default_rng(seed), {}
  axes = [[(name, one) for one in text.split(",")] for name, text in split(grid)]
  each = lambda: [(name, sample_value(rng, text, known.get(name))) for name, text in split(random)]
  draws = [each() for _ in range(num_trials if random else 1)]
  own = [[("seed", str(n))] if num_seeds > 1 else [] for n in range(num_seeds)]
  for *point, drawn, seeded in itertools.product(*axes, draws, own):
    varied = (*point, *drawn, *seeded)
    place = ",".join(f"{name}={urllib.parse.quote(text, '')}" for name, text in varied)
    folder = workdir / place
    every = (*split(fixed_flags), *varied, ("out", str(folder)))
    flags = dict(every)
    if len(flags) < len(every):
      raise InvalidInputError(f"a flag is given twice among {', '.join(name for name, _ in every)}")
    run_dir.check_run_dir(folder, make_config(module, flags))
    text = tuple(f"--{name}={value}" for name, value in flags.items())
    made[folder] = Trial((*point, *drawn), text, folder)
  return list(made.values())
