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
from rnnjax.types import BadInput

READ = {bool: {"true": True, "false": False}.__getitem__}  # a flag's text as its value


class Trial(NamedTuple):
  """A run: the values that are varied in it, its seed aside; all its flags; its folder."""

  point: tuple[tuple[str, str], ...]
  flags: tuple[str, ...]
  out: pathlib.Path

  @property
  def result(self) -> dict | None:
    """What it has found; None where it has not finished."""
    path = self.out / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def kinds(module) -> dict[str, type]:
  """The fields of an experiment's Config, and what each is."""
  return {field.name: type(field.default) for field in dataclasses.fields(module.Config)}


def draw(rng: np.random.Generator, text: str, kind: type | None) -> str:
  """A value of a field: of A,B,... one, of LOW:HIGH any, of log:LOW:HIGH any of the logarithm.

  >>> draw(np.random.default_rng(0), "log:1e-4:1e-2", float)
  '0.00188'
  """
  if ":" not in text:
    return str(rng.choice(text.split(",")))
  try:
    low, high = map(float, text.removeprefix("log:").split(":"))
    to, back = (math.log, math.exp) if text.startswith("log:") else (float, float)
    value = back(rng.uniform(to(low), to(high)))
  except (ValueError, OverflowError):
    raise BadInput(f"a range is LOW:HIGH, or log:LOW:HIGH from above 0; got {text!r}") from None
  return str(round(value)) if kind is int else f"{value:.3g}"


def configure(module, flags: dict[str, str]):
  """The configuration that an experiment makes of these flags.

  Raises:
    BadInput: a flag that it does not have, or a value that it does not take.
  """
  known, presets = kinds(module), getattr(module, "PRESETS", {})
  values = dict(presets.get(flags.get("preset"), {}))
  for name, text in flags.items():
    if name == "preset" and text in presets:
      continue
    if name not in known:
      raise BadInput(f"{name}={text} names none of its flags, which are {', '.join(known)}")
    try:
      values[name] = READ.get(known[name], known[name])(text)
    except (KeyError, ValueError):
      raise BadInput(f"--{name} must be of type {known[name].__name__}; got {text!r}") from None
  return module.Config(**values)


def plan(
  experiment: str,
  out: pathlib.Path,
  fixed: Sequence[str] = (),
  grid: Sequence[str] = (),
  random: Sequence[str] = (),
  trials: int = 20,
  seed: int = 0,
  seeds: int = 1,
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
    known = kinds(module)
  except (ModuleNotFoundError, AttributeError):
    raise BadInput(f"there is no experiment {experiment}") from None
  split = lambda texts: [text.removeprefix("--").partition("=")[::2] for text in texts]
  rng, made = np.random.default_rng(seed), {}
  axes = [[(name, one) for one in text.split(",")] for name, text in split(grid)]
  each = lambda: [(name, draw(rng, text, known.get(name))) for name, text in split(random)]
  draws = [each() for _ in range(trials if random else 1)]
  own = [[("seed", str(n))] if seeds > 1 else [] for n in range(seeds)]
  for *point, drawn, seeded in itertools.product(*axes, draws, own):
    varied = (*point, *drawn, *seeded)
    place = ",".join(f"{name}={urllib.parse.quote(text, '')}" for name, text in varied)
    folder = out / place
    every = (*split(fixed), *varied, ("out", str(folder)))
    flags = dict(every)
    if len(flags) < len(every):
      raise BadInput(f"a flag is given twice among {', '.join(name for name, _ in every)}")
    run_dir.check(folder, configure(module, flags))
    text = tuple(f"--{name}={value}" for name, value in flags.items())
    made[folder] = Trial((*point, *drawn), text, folder)
  return list(made.values())
