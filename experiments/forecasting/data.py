"""Time series: columns of numbers over time, split chronologically and standardized.

  embedded   a generated series with two seasons, a trend, and autoregressive noise
  files      .csv (also .gz) with a header row, dates in the first column, and numbers in all other
             columns

The first rows are the training set, followed by the validation set and the test set. All sets are
standardized by the mean and standard deviation of the training set.
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

GENERATED_LENGTH = 4000  # number of rows of the embedded series
SEASONS = (24, 168)  # periods of the embedded series, in steps


class Series(NamedTuple):
  """A time series of N rows of D variables.

  Attributes:
    name: the name of the data set.
    columns: the names of the D variables.
    dates: the N dates, as text.
    values: the values [N, D].
    split_sizes: the numbers of consecutive rows in the training, validation and test set. Any rows
      after the test set are unused.
    log_transform: whether the model forecasts the logarithms of the values.
  """

  name: str
  columns: list[str]
  dates: list[str]
  values: np.ndarray
  split_sizes: tuple[int, int, int]
  log_transform: bool = False

  @property
  def scaled(self) -> np.ndarray:
    """The standardized values [N, D], or the standardized logarithms if `log_transform`."""
    return self._scaler()(self._transformed_values())

  def unscale(self, scaled: np.ndarray) -> np.ndarray:
    """Convert standardized values [..., D] to the units of `values`."""
    values = self._scaler().inverse(scaled)
    return np.exp(values) if self.log_transform else values

  def to_json(self) -> dict:
    """Return a JSON object with the parameters of the scaling."""
    return {"columns": self.columns, "log": self.log_transform} | self._scaler().to_json()

  def _transformed_values(self):
    return np.log(self.values) if self.log_transform else self.values

  def _scaler(self):
    return Standardizer.fit([self._transformed_values()[: self.split_sizes[0]]])

  def window_ends(self, split_index: int, context_length: int, horizon: int) -> np.ndarray:
    """Return the last input row of each window whose forecast steps are all in one split.

    Args:
      split_index: 0 for the training, 1 for the validation, 2 for the test set.
      context_length: the number of input steps of a window.
      horizon: the number of forecast steps.

    Raises:
      InvalidInputError: the split has no such window.
    """
    bounds = np.cumsum((0, *self.split_sizes))
    ends = np.arange(
      max(bounds[split_index], context_length) - 1, bounds[split_index + 1] - horizon
    )
    if not len(ends):
      raise InvalidInputError(
        f"{self.name} has too few rows: its splits have {', '.join(map(str, self.split_sizes))} "
        f"rows. Each needs the {horizon} of --horizon, and the training set also the "
        f"{context_length} of --context_length"
      )
    return ends


def load(
  data_dir: str, columns: str = "", split: str = "0.7,0.1,0.2", log_transform: bool = False
) -> Series:
  """Load a time series from a CSV file, or generate one.

  Args:
    data_dir: a .csv file (also .gz), or "" for the embedded series.
    columns: comma-separated names of the columns to read; "" for all columns.
    split: the sizes of the training, validation and test set, as three comma-separated fractions or
      numbers of rows.
    log_transform: whether the model forecasts the logarithms of the values.

  Raises:
    InvalidInputError: the file is missing or malformed, the split is invalid or larger than the
      series, or `log_transform` is True and a value is zero or negative.
  """
  if data_dir:
    name, names, dates, values = read_table(pathlib.Path(data_dir).expanduser(), columns)
  else:
    logging.warning("training on a generated series; --data_dir=FILE.csv reads a real one")
    name = "embedded"
    names = ["x"]
    values = generate_series(GENERATED_LENGTH)
    dates = [str(t) for t in range(GENERATED_LENGTH)]
  if log_transform and not (values > 0).all():
    n, d = np.argwhere(values <= 0)[0]
    raise InvalidInputError(
      f"--log_transform needs values above 0; {name}, data row {n + 1}, column {names[d]!r}, has "
      f"{values[n, d]}"
    )
  return Series(name, names, dates, values, parse_split(split, len(values)), log_transform)


def read_table(
  path: pathlib.Path, columns: str = ""
) -> tuple[str, list[str], list[str], np.ndarray]:
  """Read a CSV file.

  Args:
    path: a .csv file (also .gz).
    columns: comma-separated names of the columns to read; "" for all columns.

  Returns:
    The name of the file, the names of the columns [D], the dates [N], and the values [N, D].

  Raises:
    InvalidInputError: the file is missing or malformed, or does not contain one of the columns.
  """
  if not path.is_file():
    raise InvalidInputError(
      f"--data_dir must be a .csv file (also .gz); {str(path)!r} does not exist"
    )
  (_, header), *rows = [*read_csv(path)] or [("", [])]
  names = [name.strip() for name in columns.split(",")] if columns else header[1:]
  if not names or not {*names} <= {*header[1:]}:
    raise InvalidInputError(
      f"{path} must have a header with dates first and the columns {names or 'of numbers'}; it has "
      f"{header}"
    )
  indices = [header.index(name) for name in names]
  dates = []
  values = []
  for location, row in rows:
    dates.append(row[0])
    values.append([_parse_number(row[index], header[index], location) for index in indices])
  return path.name.split(".")[0], names, dates, np.array(values).reshape(-1, len(names))


def _parse_number(text: str, column: str, location: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    raise InvalidInputError(
      f"{location}, column {column!r}, must be a number; got {text!r}. Is the value missing? Fill "
      "it in, or leave the column out by --columns"
    )
  return number


def parse_split(split: str, num_rows: int) -> tuple[int, int, int]:
  """Parse a split and return the numbers of training, validation and test rows.

  Args:
    split: three comma-separated fractions with a sum of at most 1, or three numbers of rows.
    num_rows: the number of rows in the series.

  Raises:
    InvalidInputError: `split` is malformed, or the series has too few rows.
  """
  try:
    sizes = [float(size) for size in split.split(",")]
    are_fractions = sum(sizes) <= 1 + 1e-9
    sizes = [int(size * num_rows + 1e-9) if are_fractions else int(size) for size in sizes]
  except (ValueError, OverflowError):
    sizes = []
  if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) > num_rows:
    raise InvalidInputError(
      "--split must be three fractions, such as 0.7,0.1,0.2, or three numbers of rows of the "
      f"training, validation and test set, with a sum of at most {num_rows}, the rows of the "
      f"series; got {split!r}"
    )
  return tuple(sizes)


def generate_series(N: int, seed: int = 0) -> np.ndarray:
  """Generate a series [N, 1] with a trend, two seasons and AR(1) noise.

      xₜ = t/1000 + (1.5 + sin 2πt/168) sin 2πt/24 + nₜ,   nₜ = 0.8 nₜ₋₁ + 0.2 εₜ

  The amplitude of the daily season (24 steps) varies with the weekly season (168 steps).
  """
  t = np.arange(N)
  rng = np.random.default_rng(seed)
  day, week = (np.sin(2 * np.pi * t / season) for season in SEASONS)
  noise = scipy.signal.lfilter([0.2], [1, -0.8], rng.normal(size=N))
  return (t / 1000 + (1.5 + week) * day + noise)[:, None]
