"""Time series: CSV files and their errors, splits, standardization, and the generated series."""

import gzip

import numpy as np
import pytest

from experiments.forecasting import data as series_data
from rnnjax.types import InvalidInputError

TABLE = "date,load,OT\n2016-07-01,1,10\n2016-07-02,2.5,20\n2016-07-03,3,-1e1\n"


def write_csv(folder, text, name="series.csv"):
  path = folder / name
  path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
  return path


@pytest.mark.parametrize("name", ["series.csv", "series.csv.gz"])
def test_csv_table_columns(tmp_path, name):
  """All columns but the dates, or the named ones in the order of their names."""
  path = write_csv(tmp_path, TABLE, name)
  file_name, columns, dates, values = series_data.read_table(path)
  assert file_name == "series" and columns == ["load", "OT"]
  assert dates == ["2016-07-01", "2016-07-02", "2016-07-03"]
  np.testing.assert_array_equal(values, [[1, 10], [2.5, 20], [3, -10]])
  *_, values = series_data.read_table(path, "OT, load")
  np.testing.assert_array_equal(values, [[10, 1], [20, 2.5], [-10, 3]])


@pytest.mark.parametrize(
  "text, columns, words",
  [
    ("", "", r"series\.csv must have a header"),
    ("date\n1\n", "", r"must have a header with dates first"),
    ("date,a,a\n1,2,3\n", "", r"series\.csv must have each column once"),
    (TABLE, "OT,oil", r"the columns \['OT', 'oil'\].* it has \['date', 'load', 'OT'\]"),
    (TABLE, "date", r"the columns \['date'\]"),
    (
      "date,a\n1,2\n2,\n",
      "",
      r"series\.csv:3, column 'a', must be a number; got ''\. Is the value missing",
    ),
    ("date,a,b\n1,2,2\n2,none,2\n", "", r"series\.csv:3, column 'a', must be a number; got 'none'"),
    ("date,a\n1,nan\n", "", r"series\.csv:2, column 'a', must be a number; got 'nan'"),
    ("date,a\n1,2\n2,3,4\n", "", r"series\.csv:3 is not CSV: 3 fields, and the header has 2"),
  ],
  ids=["empty", "dates", "twice", "column", "dates-named", "gap", "text", "nan", "ragged"],
)
def test_malformed_table_raises(tmp_path, text, columns, words):
  with pytest.raises(InvalidInputError, match=words):
    series_data.read_table(write_csv(tmp_path, text), columns)


def test_unread_column_may_hold_text(tmp_path):
  path = write_csv(tmp_path, "date,a,note\n1,2,\n2,3,strike\n")
  *_, values = series_data.read_table(path, "a")
  assert values.tolist() == [[2], [3]]


def test_missing_file_raises():
  with pytest.raises(
    InvalidInputError, match=r"--data_dir must be a \.csv file .* '/nowhere' does not exist"
  ):
    series_data.load("/nowhere")


@pytest.mark.parametrize(
  "split, sizes",
  [("0.7,0.1,0.2", (70, 10, 20)), ("50,20,20", (50, 20, 20)), ("0.5,0.25,0.25", (50, 25, 25))],
)
def test_split_sizes(split, sizes):
  assert series_data.parse_split(split, 100) == sizes


SPLITS = ["0.9,0.1", "80,20,20", "1,0,0", "a,b,c", "", "nan,1,1", "inf,1,1"]


@pytest.mark.parametrize("split", SPLITS)
def test_invalid_split_raises(split):
  with pytest.raises(InvalidInputError, match="--split must be three fractions"):
    series_data.parse_split(split, 100)


def make_series(values, split_sizes, log_transform=False):
  values = np.asarray(values, float).reshape(len(values), -1)
  columns, dates = ["a"] * values.shape[1], [""] * len(values)
  return series_data.Series("series", columns, dates, values, split_sizes, log_transform)


def test_scaling_uses_training_rows_only():
  """Later rows change neither the mean nor the standard deviation."""
  values = np.random.default_rng(0).normal(3, 5, (100, 2))
  data = make_series(values, (70, 10, 20))
  np.testing.assert_allclose(data.scaled[:70].mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(data.scaled[:70].std(0), 1)
  changed = values.copy()
  changed[70:] += 1e6
  np.testing.assert_array_equal(make_series(changed, (70, 10, 20)).scaled[:70], data.scaled[:70])


@pytest.mark.parametrize("log", [False, True])
def test_scaling_round_trip(log):
  values = np.exp(np.random.default_rng(0).normal(3, 0.5, (100, 2)))
  data = make_series(values, (70, 10, 20), log)
  np.testing.assert_allclose(data.unscale(data.scaled), values)
  if log:  # a constant factor has no effect on differences of logarithms
    steps = np.diff(make_series(values * 10, (70, 10, 20), log).scaled, axis=0)
    np.testing.assert_allclose(steps, np.diff(data.scaled, axis=0))


def test_a_constant_column_stays_finite():
  assert not make_series(np.full(10, 4.0), (7, 1, 2)).scaled.any()


def test_windows_forecast_within_one_split():
  """At every start for which the whole forecast fits: n − horizon + 1 windows of n rows."""
  data = make_series(np.arange(60.0), (30, 10, 15))
  for split, rows in enumerate((range(8, 30), range(30, 40), range(40, 55))):
    ends = data.window_ends(split, 8, 4)
    assert ends.tolist() == [*range(rows[0] - 1, rows[-1] - 3)]
    assert len(ends) == len(rows) - 4 + 1


@pytest.mark.parametrize("split_sizes, horizon", [((9, 6, 6), 2), ((20, 3, 6), 4), ((20, 6, 3), 4)])
def test_too_few_rows_raise(split_sizes, horizon):
  data = make_series(np.arange(30.0), split_sizes)
  with pytest.raises(
    InvalidInputError, match=r"series has too few rows: its splits have \d+, \d+, \d+"
  ):
    for split in range(3):
      data.window_ends(split, 8, horizon)


def test_log_of_non_positive_value_raises(tmp_path):
  path = write_csv(tmp_path, "date,a,b\n1,2,3\n2,3,0\n3,4,5\n")
  with pytest.raises(
    InvalidInputError, match=r"--log_transform needs .* series, data row 2, column 'b', has 0\.0"
  ):
    series_data.load(str(path), log_transform=True)


def test_informer_setting_window_count():
  """A test set of 4 months of hours, with 24 steps ahead."""
  data = make_series(np.zeros(17420), (8640, 2880, 2880))
  assert len(data.window_ends(2, 96, 24)) == 2880 - 24 + 1


def test_synthetic_series_equals_definition():
  """Without the seasons and the trend, AR(1) noise remains."""
  x, t = series_data.generate_series(4000)[:, 0], np.arange(4000)
  day, week = np.sin(2 * np.pi * t / 24), np.sin(2 * np.pi * t / 168)
  noise = x - t / 1000 - (1.5 + week) * day
  shock = noise[1:] - 0.8 * noise[:-1]
  assert shock.std() == pytest.approx(0.2, rel=0.05)
  assert abs(np.corrcoef(shock[1:], shock[:-1])[0, 1]) < 0.05
