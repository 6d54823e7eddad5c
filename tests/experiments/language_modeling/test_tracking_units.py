"""Signals against values counted by hand, units that were planted, and pixels of the figure."""

import pathlib

import numpy as np
import pytest

from experiments.language_modeling.tracking_units import (
  TrackingUnit,
  find_tracking_units,
  text_signals,
)

HELLO = pathlib.Path(__file__).parents[3] / "rnnjax" / "data" / "hello.txt"
T = 2000
PATTERN = {"quotes": np.arange(T) // 25 % 2, "line": np.arange(T) % 60}


def random_units(units=40):
  return np.random.default_rng(0).normal(size=(T, units)).astype(np.float32)


@pytest.mark.parametrize(
  ("text", "name", "expected"),
  [
    ('a"b"c', "quotes", "01100"),
    ('"a\nb"c', "quotes", "111100"),
    ('"a\n\nb"c"', "quotes", "11100110"),  # the blank line closes a stray quote
    ('"a\n \t\nb', "quotes", "1111100"),  # blank is what shows nothing
    ('"\n\n\n"', "quotes", "11001"),
    ("(a[b]{)}c", "brackets", "112212100"),
    (")](a)", "brackets", "00110"),  # what closes nothing counts nothing
    ("ab\nc\n\nd", "line", "1201001"),
    ("ab1 c, de", "word", "123010012"),
    ("  a b\n\tc\n \n", "indent", "1222201" + "1010"),
  ],
)
def test_signals_on_small_examples(text, name, expected):
  """The value after each character, one digit each."""
  assert "".join(map(str, text_signals(text)[name])) == expected


def test_constant_signals_are_dropped():
  """Only what changes somewhere in the text is there."""
  assert text_signals("") == text_signals("\n") == {}
  assert set(text_signals("ab cd")) == {"line", "word"}
  assert set(text_signals("ab\n  (c)")) == {"line", "word", "brackets", "indent"}


def test_embedded_text_has_all_signals():
  """Plain characters, short lines, quotes and brackets that close within their paragraph."""
  text = HELLO.read_text(encoding="ascii")
  found = text_signals(text)
  assert set(found) == {"quotes", "brackets", "line", "word", "indent"}
  assert found["line"].max() <= 70 and found["brackets"].max() >= 2
  assert 0.2 < found["quotes"].mean() < 0.7
  ends = np.array([text[:n].endswith("\n\n") for n in range(1, len(text) + 1)])
  assert not found["brackets"][ends].any()
  assert not found["quotes"][np.flatnonzero(ends) - 1].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_units_are_found(sign):
  """Each is found among noise, with the correlation that NumPy has for the second half."""
  hs = random_units()
  hs[:, 7] = 0.3 * hs[:, 7] + sign * PATTERN["quotes"]
  hs[:, 31] = np.tanh(sign * PATTERN["line"] / 30)
  found = find_tracking_units(hs, PATTERN)
  assert list(found) == ["quotes", "line"] and isinstance(found["line"], TrackingUnit)
  for (name, values), unit in zip(PATTERN.items(), (7, 31), strict=True):
    expected = np.corrcoef(hs[T // 2 :, unit], values[T // 2 :])[0, 1]
    assert found[name].unit == unit and abs(expected) > 0.8
    np.testing.assert_allclose(found[name].correlation, expected, rtol=1e-9)


def test_correlation_is_measured_on_held_out_half():
  """A unit that follows on the first half alone is chosen, and reported for what it is."""
  hs = random_units()
  hs[: T // 2, 5] = PATTERN["line"][: T // 2]
  found = find_tracking_units(hs, PATTERN)["line"]
  assert found.unit == 5 and abs(found.correlation) < 0.1


def test_constant_units_have_zero_correlation():
  """No division by zero, and no correlation of rounding errors."""
  hs = np.full((T, 3), 0.1)
  assert find_tracking_units(hs, PATTERN)["line"].correlation == 0
  hs[:, 2] = PATTERN["line"]
  assert find_tracking_units(hs, PATTERN)["line"] == (2, pytest.approx(1))
  late = np.where(np.arange(T) < T // 2, 0.1, PATTERN["line"])
  assert find_tracking_units(hs, {"never": np.full(T, 0.1), "late": late}) == {
    "never": (0, 0),
    "late": (0, 0),
  }
  hs[T // 2 :, 2] = 0.1
  assert find_tracking_units(hs, PATTERN)["line"] == (2, 0)
  assert find_tracking_units(hs, {}) == {}


def test_mismatched_shapes_raise():
  """The error names what was expected and what came."""
  with pytest.raises(ValueError, match=r"'line' must be \(9,\).* got \(8,\)"):
    find_tracking_units(np.zeros((9, 2)), {"line": np.zeros(8)})
  for shape in ((3, 2), (9,), (9, 0)):
    with pytest.raises(ValueError, match=r"\[T, H\].* got shape"):
      find_tracking_units(np.zeros(shape), {})
  with pytest.raises(ValueError, match="finite"):
    find_tracking_units(np.full((9, 2), np.nan), {"line": np.arange(9)})


@pytest.fixture(scope="module")
def plots_module():
  from rnnjax.analysis import figures

  return figures


def test_text_wraps_at_newlines_and_limit(plots_module):
  """A newline stands at the end of the line that it ends."""
  rows, columns = plots_module.wrapped("ab\nabcde\n", 3).T
  assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  assert columns.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_colored_text_pixels(plots_module, tmp_path):
  """−1 is blue, 1 red and 0 white, in reading order; letters stand in their cells to the end."""
  from matplotlib.colors import to_rgb
  from matplotlib.image import imread

  text = "a $b$ \t中" + "." * 80 + ":\nc"
  values = np.zeros(len(text))
  values[0], values[text.index(":")], values[-1] = -1, 1, 1
  plots_module.coloured_text(tmp_path / "a.png", [("one $", text, values), ("two", "a", [-1.0])])
  image = imread(tmp_path / "a.png")[60:, :, :3]  # below the key
  assert abs(image.shape[1] - 1000) < 100
  near = lambda colour: (abs(image - np.array([[to_rgb(colour)]])) < 0.02).all(-1)
  blue, white, red = map(near, plots_module.COLOURS)
  assert white.sum() > 20 * red.sum() > 1000
  # The colon is in the middle of its cell, 88 cells after the first.
  left, edge = np.flatnonzero(blue.any(0)), np.flatnonzero(red[:, 500:].any(0)) + 500
  assert text.index(":") == 88 and abs(edge[0] - left[0] - 88 * len(edge)) <= 1
  dark = edge[(image[:, edge].max(-1) < 0.5).any(0)]
  assert len(dark) and abs(dark.mean() - edge.mean()) <= 1
  # The last letter starts a line: red, between the blue ones that start the two panels.
  below, blues = np.flatnonzero(red[:, left].any(1)), np.flatnonzero(blue.any(1))
  assert blues[0] < below[0] < below[-1] < blues[-1]


def test_invalid_values_raise(plots_module, tmp_path):
  """Lengths, ranges, and nothing at all."""
  draw = lambda *rows: plots_module.coloured_text(tmp_path / "a.png", rows)
  with pytest.raises(ValueError, match=r"'t': values must be \(3,\).* got \(2,\)"):
    draw(("t", "abc", np.zeros(2)))
  for wrong in (1.5, -2, np.nan):
    with pytest.raises(ValueError, match=r"'t': values must lie in \[-1, 1\]"):
      draw(("t", "abc", np.array([0, wrong, 0])))
  for rows in ((), (("t", "", np.zeros(0)),)):
    with pytest.raises(ValueError, match="one or more"):
      draw(*rows)
  assert not list(tmp_path.iterdir())
