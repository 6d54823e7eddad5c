"""Colored text: pixels of the figure, and HTML."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from rnnjax.analysis import colored_text
from rnnjax.analysis.figures import DIVERGING_COLORS


def test_text_wraps_at_newlines_and_limit():
  """A newline is the last character of its line."""
  rows, columns = colored_text.wrap_positions("ab\nabcde\n", 3).T
  assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  assert columns.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_colored_text_pixels(tmp_path):
  """−1 is blue, 1 red and 0 white, in reading order; letters are centered in their cells."""
  text = "a $b$ \t中" + "." * 80 + ":\nc"
  values = np.zeros(len(text))
  values[0], values[text.index(":")], values[-1] = -1, 1, 1
  colored_text.plot_colored_text(
    tmp_path / "a.png", [("one $", text, values), ("two", "a", [-1.0])]
  )
  image = imread(tmp_path / "a.png")[60:, :, :3]  # below the legend
  assert abs(image.shape[1] - 1000) < 100
  near = lambda color: (abs(image - np.array([[to_rgb(color)]])) < 0.02).all(-1)
  blue, white, red = map(near, DIVERGING_COLORS)
  assert white.sum() > 20 * red.sum() > 1000
  # The colon is in the middle of its cell, 88 cells after the first cell.
  left, edge = np.flatnonzero(blue.any(0)), np.flatnonzero(red[:, 500:].any(0)) + 500
  assert text.index(":") == 88 and abs(edge[0] - left[0] - 88 * len(edge)) <= 1
  dark = edge[(image[:, edge].max(-1) < 0.5).any(0)]
  assert len(dark) and abs(dark.mean() - edge.mean()) <= 1
  # The last letter is red and starts a line, between the blue cells that start the two panels.
  red_rows, blue_rows = np.flatnonzero(red[:, left].any(1)), np.flatnonzero(blue.any(1))
  assert blue_rows[0] < red_rows[0] < red_rows[-1] < blue_rows[-1]


def test_invalid_values_raise(tmp_path):
  """Values of wrong length or range, no panels, and empty texts raise and write no file."""
  draw = lambda *panels: colored_text.plot_colored_text(tmp_path / "a.png", panels)
  with pytest.raises(ValueError, match=r"'t': values must have shape \(3,\).* got \(2,\)"):
    draw(("t", "abc", np.zeros(2)))
  for value in (1.5, -2, np.nan):
    with pytest.raises(ValueError, match=r"'t': values must be in \[-1, 1\]"):
      draw(("t", "abc", np.array([0, value, 0])))
  for panels in ((), (("t", "", np.zeros(0)),)):
    with pytest.raises(ValueError, match="one or more"):
      draw(*panels)
  assert not list(tmp_path.iterdir())


def test_colored_words_html():
  """Opacity is proportional to the weight, the largest is opaque; HTML in a word is escaped."""
  text = colored_text.colored_html(["a", "<b>", "c"], [0.2, 0.4, 0])
  opacities = [part.split(")")[0].split(",")[-1] for part in text.split("rgba")[1:]]
  assert opacities == ["0.50", "1.00", "0.00"]
  assert "&lt;b&gt;" in text and "<b>" not in text
  assert 'title="0.200">a</span>' in text
  for weights in ([1, 2], [1, -1, 0], [1, np.nan, 0]):
    with pytest.raises(ValueError, match="3 non-negative numbers"):
      colored_text.colored_html(["a", "b", "c"], weights)
