"""Time series: columns of numbers over time, and what is to be foretold of them.

  embedded   generated: two seasons, a trend, and noise that lasts
  files      .csv (also .gz): a header, dates in the first column, numbers in the others

The first rows teach, the next choose and the last judge; means and deviations are of the first
alone.
"""

import logging
import math
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.signal

from rnnjax.data.standardize import Scale
from rnnjax.data.tables import rows
from rnnjax.types import BadInput

SIZE, SEASONS = 4000, (24, 168)  # of the embedded series


class Series(NamedTuple):
  """A series, N rows of D variables.

  Attributes:
    name: of the data set.
    columns: the names of the variables.
    dates: what stands in the first column, [N].
    values: [N, D].
    parts: the rows of the three parts, which follow one another; what is left over is not used.
    log: logarithms are foretold.
  """

  name: str
  columns: list[str]
  dates: list[str]
  values: np.ndarray
  parts: tuple[int, int, int]
  log: bool = False

  @property
  def scaled(self) -> np.ndarray:
    """The values, or their logarithms, in deviations from the mean of the training part. [N, D]."""
    return self._scale()(self._read())

  def restore(self, scaled: np.ndarray) -> np.ndarray:
    """The values that some scaled ones [..., D] stand for."""
    values = self._scale().inverse(scaled)
    return np.exp(values) if self.log else values

  def json(self) -> dict:
    """What turns values into scaled ones, as what JSON can hold."""
    return {"columns": self.columns, "log": self.log} | self._scale().json()

  def _read(self):
    return np.log(self.values) if self.log else self.values

  def _scale(self):
    return Scale.of([self._read()[: self.parts[0]]])

  def ends(self, part: int, window: int, horizon: int) -> np.ndarray:
    """The last known row of each window: all that it foretells lies in the part, 0, 1 or 2.

    Raises:
      BadInput: there is no such window.
    """
    bounds = np.cumsum((0, *self.parts))
    ends = np.arange(max(bounds[part], window) - 1, bounds[part + 1] - horizon)
    if not len(ends):
      raise BadInput(
        f"{self.name} has too few rows: its parts have {', '.join(map(str, self.parts))}, and each "
        f"needs the {horizon} of --horizon, of training beside the {window} of --window"
      )
    return ends


def load(data_dir: str, columns: str = "", split: str = "0.7,0.1,0.2", log: bool = False) -> Series:
  """Loads a series.

  Args:
    data_dir: a .csv file (also .gz), or "" for the embedded series.
    columns: names of the columns that are read, between commas; all where it is empty.
    split: shares or rows of the three parts, between commas.
    log: logarithms are foretold.

  Raises:
    BadInput: a file that is missing or malformed, named with its row; a split that does not fit;
      logarithms of what is not positive.
  """
  if data_dir:
    name, names, dates, values = table(pathlib.Path(data_dir).expanduser(), columns)
  else:
    logging.warning("training on a generated series; --data_dir=FILE.csv reads a real one")
    name, names, values = "embedded", ["x"], generated(SIZE)
    dates = [str(t) for t in range(SIZE)]
  if log and not (values > 0).all():
    n, d = np.argwhere(values <= 0)[0]
    raise BadInput(
      f"--log needs numbers above 0; {name}, row {n + 1} of numbers, column {names[d]!r}, has "
      f"{values[n, d]}"
    )
  return Series(name, names, dates, values, parts(split, len(values)), log)


def table(path: pathlib.Path, columns: str = "") -> tuple[str, list[str], list[str], np.ndarray]:
  """Reads a CSV file: its name, columns, dates [N] and values [N, D]; arguments as for `load`."""
  if not path.is_file():
    raise BadInput(f"--data_dir must be a .csv file (also .gz); there is none at {str(path)!r}")
  (_, header), *rest = [*rows(path)] or [("", [])]
  names = [name.strip() for name in columns.split(",")] if columns else header[1:]
  if not names or not {*names} <= {*header[1:]}:
    raise BadInput(
      f"{path} must have a header with dates first and the columns {names or 'of numbers'}; it has "
      f"{header}"
    )
  places, dates, values = [header.index(name) for name in names], [], []
  for where, row in rest:
    dates.append(row[0])
    values.append([_number(row[place], header[place], where) for place in places])
  return path.name.split(".")[0], names, dates, np.array(values).reshape(-1, len(names))


def _number(text: str, column: str, where: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    raise BadInput(
      f"{where}, column {column!r}, must be a number; got {text!r}. Is it a gap? Fill it before, "
      "or leave the column out by --columns"
    )
  return number


def parts(split: str, rows: int) -> tuple[int, int, int]:
  """The rows of the three parts.

  Raises:
    BadInput: the split is no three shares or numbers of rows, or there are not so many.
  """
  try:
    sizes = [float(size) for size in split.split(",")]
    sizes = [int(size * rows + 1e-9) if sum(sizes) <= 1 + 1e-9 else int(size) for size in sizes]
  except (ValueError, OverflowError):
    sizes = []
  if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) > rows:
    raise BadInput(
      "--split must be three shares, such as 0.7,0.1,0.2, or three numbers of rows, of training, "
      f"validation and test part, no more than the {rows} there are; got {split!r}"
    )
  return tuple(sizes)


def generated(N: int, seed: int = 0) -> np.ndarray:
  """Two seasons, of which one decides how strong the other is, a trend, and noise that lasts.

  xₜ = t/1000 + (1.5 + sin 2πt/168) sin 2πt/24 + nₜ,   nₜ = 0.8 nₜ₋₁ + 0.2 εₜ        [N, 1]
  """
  t, draw = np.arange(N), np.random.default_rng(seed)
  day, week = (np.sin(2 * np.pi * t / season) for season in SEASONS)
  noise = scipy.signal.lfilter([0.2], [1, -0.8], draw.normal(size=N))
  return (t / 1000 + (1.5 + week) * day + noise)[:, None]
