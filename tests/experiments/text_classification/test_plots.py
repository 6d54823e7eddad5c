"""Bar plots, read back from their pixels."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from experiments.text_classification import plots

BLUE = to_rgb("#64a2ec")


def test_bar_lengths(tmp_path):
  path = tmp_path / "bars.png"
  plots.plot_bars(path, {"a": 1.0, "b": 0.25}, "share", {"chance": 0.5})
  image = imread(path)[..., :3]
  rows, columns = np.argwhere(np.abs(image - np.array(BLUE)).max(-1) < 0.02).T
  top, bottom = (columns[rows == row] for row in (rows.min() + 5, rows.max() - 5))
  lengths = [np.ptp(some) for some in (top, bottom)]
  assert lengths[1] == pytest.approx(0.25 * lengths[0], rel=0.05)
