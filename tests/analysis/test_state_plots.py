"""Pictures of what happens within a net, read back from their pixels."""

import jax
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from experiments.text_classification import plots
from rnnjax import gru
from rnnjax.analysis import run_history, state_plots, unrolled_diagram
from rnnjax.types import InvalidInputError

RED, BLUE = (to_rgb(colour) for colour in ("#f47362", "#64a2ec"))


def pixels_of_color(path, colour):
  """Where pixels have a colour, [N, 2], rows and columns."""
  return np.argwhere(np.abs(imread(path)[..., :3] - np.array(colour)[None, None]).max(-1) < 0.02)


def test_state_heatmap_positions(tmp_path):
  """Units run down, steps to the right; of two panels the first is on top."""
  path = tmp_path / "states.png"
  one, other = np.zeros((4, 3)), np.zeros((4, 3))
  one[3, 0], other[0, 2] = 1, -1
  state_plots.plot_states(path, list("abcd"), {"one": one, "other": other})
  width = imread(path).shape[1]
  red, blue = pixels_of_color(path, RED), pixels_of_color(path, BLUE)
  red, blue = (some[some[:, 1] < 0.8 * width] for some in (red, blue))  # without the key
  assert len(red) > 100 and len(blue) > 100
  assert red[:, 0].max() < blue[:, 0].min()
  assert blue[:, 1].max() < red[:, 1].min()
  with pytest.raises(ValueError, match="one must have a row for each of 3 pieces; got 4"):
    state_plots.plot_states(path, list("abc"), {"one": one})


def test_colored_words_html():
  """The largest weight has the full colour, half of it half; what is HTML is text."""
  text = state_plots.colored_html(["a", "<b>", "c"], [0.2, 0.4, 0])
  shares = [part.split(")")[0].split(",")[-1] for part in text.split("rgba")[1:]]
  assert shares == ["0.50", "1.00", "0.00"]
  assert "&lt;b&gt;" in text and "<b>" not in text
  assert 'title="0.200">a</span>' in text
  for wrong in ([1, 2], [1, -1, 0], [1, np.nan, 0]):
    with pytest.raises(ValueError, match="3 numbers, none negative"):
      state_plots.colored_html(["a", "b", "c"], wrong)


def test_unrolled_diagram(tmp_path):
  """As many cells as pieces, and an output only where one is written."""
  cell, path = gru(5), tmp_path / "net.png"
  params = cell.init(jax.random.key(0), 3)
  drawn = {}
  for written in ("", ["", "", "x"], ["x", "x", "x"]):
    unrolled_diagram.plot_unrolled(path, cell, params, list("abc"), written)
    drawn[str(written)] = {
      k: len(pixels_of_color(path, to_rgb(fill)))
      for k, fill in unrolled_diagram.FILL_COLORS.items()
    }
  none, one, every = drawn.values()
  assert one["h"] == every["h"] and one["x"] == every["x"]
  assert every["y"] == pytest.approx(3 * one["y"], rel=0.05)
  assert none["y"] == pytest.approx(every["y"], rel=0.2)
  with pytest.raises(ValueError, match="written must have 3 pieces, as read has, or none; got 2"):
    unrolled_diagram.plot_unrolled(path, cell, params, list("abc"), ["x", "y"])


def test_bar_lengths(tmp_path):
  path = tmp_path / "bars.png"
  plots.plot_bars(path, {"a": 1.0, "b": 0.25}, "share", {"chance": 0.5})
  rows, columns = pixels_of_color(path, BLUE).T
  top, bottom = (columns[rows == row] for row in (rows.min() + 5, rows.max() - 5))
  long = [np.ptp(some) for some in (top, bottom)]
  assert long[1] == pytest.approx(0.25 * long[0], rel=0.05)


def test_metric_history_and_plot(tmp_path):
  """Each metric with the steps at which it was recorded; pictures of it are drawn."""
  rows = ['{"step": 5, "train/loss": 2.0}', '{"step": 9, "train/loss": 1.0, "valid/loss": 3.0}']
  rows.append('{"step": 9, "train/gradient/W": 0.1}')
  (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
  read = run_history.read_history(str(tmp_path))
  assert read["train/loss"] == ([5, 9], [2.0, 1.0])
  assert read["valid/loss"] == ([9], [3.0])
  one, two = tmp_path / "one.png", tmp_path / "two.png"
  run_history.plot_history(one, {name: line for name, line in read.items() if "W" not in name})
  run_history.plot_history(two, read)
  assert imread(two).shape[1] == pytest.approx(2 * imread(one).shape[1], abs=2)
  with pytest.raises(
    InvalidInputError, match=r"must be the --workdir of a run; it has no metrics\.jsonl"
  ):
    run_history.read_history(str(tmp_path / "none"))
