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

from rnnjax.data.standardize import Standardizer
from rnnjax.data.tables import read_csv
from rnnjax.types import InvalidInputError

GENERATED_LENGTH, SEASONS = 4000, (24, 168)  # of the embedded series


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
  split_sizes: tuple[int, int, int]
  log_transform: bool = False

  @property
  def scaled(self) -> np.ndarray:
    """The values, or their logarithms, in deviations from the mean of the training part. [N, D]."""
    return self._scaler()(self._transformed_values())

  def unscale(self, scaled: np.ndarray) -> np.ndarray:
    """The values that some scaled ones [..., D] stand for."""
    values = self._scaler().inverse(scaled)
    return np.exp(values) if self.log_transform else values

  def to_json(self) -> dict:
    """What turns values into scaled ones, as what JSON can hold."""
    return {"columns": self.columns, "log": self.log_transform} | self._scaler().to_json()

  def _transformed_values(self):
    return np.log(self.values) if self.log_transform else self.values

  def _scaler(self):
    return Standardizer.fit([self._transformed_values()[: self.split_sizes[0]]])

  def window_ends(self, split_index: int, context_length: int, horizon: int) -> np.ndarray:
    """The last known row of each window: all that it foretells lies in the part, 0, 1 or 2.

    Raises:
      BadInput: there is no such window.
    """
    bounds = np.cumsum((0, *self.split_sizes))
    ends = np.arange(
      max(bounds[split_index], context_length) - 1, bounds[split_index + 1] - horizon
    )
    if not len(ends):
      raise InvalidInputError(
        f"{self.name} has too few rows: its parts have {', '.join(map(str, self.split_sizes))}, and each "
        f"needs the {horizon} of --horizon, of training beside the {context_length} of --window"
      )
    return ends


def load(
  data_dir: str, columns: str = "", split: str = "0.7,0.1,0.2", log_transform: bool = False
) -> Series:
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
    name, names, dates, values = read_table(pathlib.Path(data_dir).expanduser(), columns)
  else:
    logging.warning("training on a generated series; --data_dir=FILE.csv reads a real one")
    name, names, values = "embedded", ["x"], generate_series(GENERATED_LENGTH)
    dates = [str(t) for t in range(GENERATED_LENGTH)]
  if log_transform and not (values > 0).all():
    n, d = np.argwhere(values <= 0)[0]
    raise InvalidInputError(
      f"--log_transform needs numbers above 0; {name}, row {n + 1} of numbers, column {names[d]!r}, has "
      f"{values[n, d]}"
    )
  return Series(name, names, dates, values, parse_split(split, len(values)), log_transform)


def read_table(
  path: pathlib.Path, columns: str = ""
) -> tuple[str, list[str], list[str], np.ndarray]:
  """Reads a CSV file: its name, columns, dates [N] and values [N, D]; arguments as for `load`."""
  if not path.is_file():
    raise InvalidInputError(
      f"--data_dir must be a .csv file (also .gz); there is none at {str(path)!r}"
    )
  (_, header), *rest = [*read_csv(path)] or [("", [])]
  names = [name.strip() for name in columns.split(",")] if columns else header[1:]
  if not names or not {*names} <= {*header[1:]}:
    raise InvalidInputError(
      f"{path} must have a header with dates first and the columns {names or 'of numbers'}; it has "
      f"{header}"
    )
  places, dates, values = [header.index(name) for name in names], [], []
  for where, row in rest:
    dates.append(row[0])
    values.append([_parse_number(row[place], header[place], where) for place in places])
  return path.name.split(".")[0], names, dates, np.array(values).reshape(-1, len(names))


def _parse_number(text: str, column: str, location: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    raise InvalidInputError(
      f"{location}, column {column!r}, must be a number; got {text!r}. Is it a gap? Fill it before, "
      "or leave the column out by --use_extra_columns"
    )
  return number


def parse_split(split: str, num_rows: int) -> tuple[int, int, int]:
  """The rows of the three parts.

  Raises:
    BadInput: the split is no three shares or numbers of rows, or there are not so many.
  """
  try:
    sizes = [float(size) for size in split.split(",")]
    sizes = [int(size * num_rows + 1e-9) if sum(sizes) <= 1 + 1e-9 else int(size) for size in sizes]
  except (ValueError, OverflowError):
    sizes = []
  if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) > num_rows:
    raise InvalidInputError(
      "--fold must be three shares, such as 0.7,0.1,0.2, or three numbers of rows, of training, "
      f"validation and test part, no more than the {num_rows} there are; got {split!r}"
    )
  return tuple(sizes)


def generate_series(N: int, seed: int = 0) -> np.ndarray:
  """Two seasons, of which one decides how strong the other is, a trend, and noise that lasts.

  xₜ = t/1000 + (1.5 + sin 2πt/168) sin 2πt/24 + nₜ,   nₜ = 0.8 nₜ₋₁ + 0.2 εₜ        [N, 1]
  """
  t, draw = np.arange(N), np.random.default_rng(seed)
  day, week = (np.sin(2 * np.pi * t / season) for season in SEASONS)
  noise = scipy.signal.lfilter([0.2], [1, -0.8], draw.normal(size=N))
  return (t / 1000 + (1.5 + week) * day + noise)[:, None]
