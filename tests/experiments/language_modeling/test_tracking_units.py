"""Signals of a text against values counted by hand, and planted units."""

import pathlib

import numpy as np
import pytest

from experiments.language_modeling import data
from experiments.language_modeling.tracking_units import (
  TrackingUnit,
  find_tracking_units,
  text_signals,
)

EMBEDDED_TEXT = pathlib.Path(data.__file__).with_name("hello.txt")
T = 2000
PATTERN = {"quotes": np.arange(T) // 25 % 2, "line": np.arange(T) % 60}


def random_units(num_units=40):
  return np.random.default_rng(0).normal(size=(T, num_units)).astype(np.float32)


@pytest.mark.parametrize(
  ("text", "name", "expected"),
  [
    ('a"b"c', "quotes", "01100"),
    ('"a\nb"c', "quotes", "111100"),
    ('"a\n\nb"c"', "quotes", "11100110"),  # the blank line closes the quote
    ('"a\n \t\nb', "quotes", "1111100"),  # whitespace alone is a blank line
    ('"\n\n\n"', "quotes", "11001"),
    ("(a[b]{)}c", "brackets", "112212100"),
    (")](a)", "brackets", "00110"),  # unmatched closing brackets
    ("ab\nc\n\nd", "line", "1201001"),
    ("ab1 c, de", "word", "123010012"),
    ("  a b\n\tc\n \n", "indent", "1222201" + "1010"),
  ],
)
def test_signals_on_small_examples(text, name, expected):
  """The value after each character, one digit each."""
  assert "".join(map(str, text_signals(text)[name])) == expected


def test_constant_signals_are_dropped():
  assert text_signals("") == text_signals("\n") == {}
  assert set(text_signals("ab cd")) == {"line", "word"}
  assert set(text_signals("ab\n  (c)")) == {"line", "word", "brackets", "indent"}


def test_embedded_text_has_all_signals():
  """ASCII, short lines, and quotes and brackets that close within their paragraph."""
  text = EMBEDDED_TEXT.read_text(encoding="ascii")
  signals = text_signals(text)
  assert set(signals) == {"quotes", "brackets", "line", "word", "indent"}
  assert signals["line"].max() <= 70 and signals["brackets"].max() >= 2
  assert 0.2 < signals["quotes"].mean() < 0.7
  ends = np.array([text[:n].endswith("\n\n") for n in range(1, len(text) + 1)])
  assert not signals["brackets"][ends].any()
  assert not signals["quotes"][np.flatnonzero(ends) - 1].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_units_are_found(sign):
  """Among noise, with the correlation that NumPy computes for the second half."""
  hs = random_units()
  hs[:, 7] = 0.3 * hs[:, 7] + sign * PATTERN["quotes"]
  hs[:, 31] = np.tanh(sign * PATTERN["line"] / 30)
  tracked = find_tracking_units(hs, PATTERN)
  assert list(tracked) == ["quotes", "line"] and isinstance(tracked["line"], TrackingUnit)
  for (name, values), unit in zip(PATTERN.items(), (7, 31), strict=True):
    expected = np.corrcoef(hs[T // 2 :, unit], values[T // 2 :])[0, 1]
    assert tracked[name].unit == unit and abs(expected) > 0.8
    np.testing.assert_allclose(tracked[name].correlation, expected, rtol=1e-9)


def test_correlation_is_measured_on_held_out_half():
  """A unit that tracks the signal on the first half only is selected, with its low correlation."""
  hs = random_units()
  hs[: T // 2, 5] = PATTERN["line"][: T // 2]
  tracked = find_tracking_units(hs, PATTERN)["line"]
  assert tracked.unit == 5 and abs(tracked.correlation) < 0.1


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
  with pytest.raises(ValueError, match=r"'line' must have shape \(9,\).* got \(8,\)"):
    find_tracking_units(np.zeros((9, 2)), {"line": np.zeros(8)})
  for shape in ((3, 2), (9,), (9, 0)):
    with pytest.raises(ValueError, match=r"\[T, H\].* got shape"):
      find_tracking_units(np.zeros(shape), {})
  with pytest.raises(ValueError, match="finite"):
    find_tracking_units(np.full((9, 2), np.nan), {"line": np.arange(9)})
