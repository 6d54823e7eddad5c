"""Pictures of weights and of curves, read back from their pixels."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from rnnjax.analysis import figures


def read_pixels(path):
  return imread(path)[..., :3]


def blueness(image):
  """How blue each pixel is: near 0 for white and for black letters."""
  return image[..., 2] - image[..., 0]


def plot_heatmap(path, weights, across=None, down=None):
  T, S = np.shape(weights)
  figures.plot_heatmap(path, across or list("acemn")[:S], down or list("acemn")[:T], weights)
  return read_pixels(path)


def mask_center(mask):
  """Row and column."""
  return np.argwhere(mask).mean(0)


def test_heatmap_cell_positions(tmp_path):
  """The first written is on top, the first read on the left, and all of one size."""
  T, S, places = 3, 5, {}
  for place in np.ndindex(T, S):
    weights = np.zeros((T, S))
    weights[place] = 1
    image = plot_heatmap(tmp_path / "a.png", weights)
    found = blueness(image) > 0.25
    places[place] = mask_center(found)
    side = np.ptp(np.argwhere(found), 0) + 1
    assert abs(side[0] - side[1]) <= 2 and found.sum() > 0.9 * side.prod()
  (y, x), down, right = places[0, 0], places[1, 0] - places[0, 0], places[0, 1] - places[0, 0]
  np.testing.assert_allclose([down[1], right[0]], 0, atol=1)
  np.testing.assert_allclose(down[0], right[1], atol=2)
  for (t, s), place in places.items():
    np.testing.assert_allclose(place, (y + t * down[0], x + s * right[1]), atol=2)


def test_larger_weight_is_darker(tmp_path):
  """On a scale from 0 to 1, whatever else there is in the picture."""
  weights, shades = np.linspace(0, 1, 5), []
  image = plot_heatmap(tmp_path / "a.png", weights[None])
  alone = plot_heatmap(tmp_path / "b.png", [[0.5, 0.5, 0.5, 0.5, 0.5]])
  row = round(mask_center(blueness(image) > 0.25)[0])
  columns = np.flatnonzero(blueness(alone)[row] > 0.1)
  for one in np.array_split(columns, 5):
    shades.append(image[row, one[len(one) // 2]].sum())
  assert (np.diff(shades) < -0.1).all()
  np.testing.assert_allclose(shades[2], alone[row, columns[len(columns) // 2]].sum(), atol=0.02)


def test_heatmap_labels_are_drawn_literally(tmp_path):
  """What an encoder reads, marks and all, and not as formulas; other letters move the pixels."""
  weights = [[0.2, 0.8]]
  one = plot_heatmap(tmp_path / "a.png", weights, ["▁low", "⏎"], ["▁$^$"])
  two = plot_heatmap(tmp_path / "b.png", weights, ["▁low", "⏎"], ["▁a"])
  dark = [(image.max(-1) < 0.5).sum() for image in (one, two)]
  assert min(dark) > 50 and dark[0] != dark[1]


@pytest.mark.parametrize("shape", [(2, 3), (3,), (3, 2, 1)])
def test_heatmap_of_mismatched_shape_raises(tmp_path, shape):
  with pytest.raises(ValueError, match=r"weights must be \(3, 2\); got \("):
    figures.plot_heatmap(tmp_path / "a.png", list("ab"), list("cde"), np.zeros(shape))
  assert not list(tmp_path.iterdir())


def test_curve_and_reference_level(tmp_path):
  """A line over 1, 2, 3 through its values, and a level across, in the middle of them."""
  figures.plot_curves(tmp_path / "a.png", {"net": [1, 0, 0]}, {"level": 0.5}, "epoch", "accuracy")
  image = read_pixels(tmp_path / "a.png")
  near = lambda colour: (abs(image - np.array(to_rgb(colour))) < 0.1).all(-1)
  line, dark = near("#1f77b4"), near(figures.TEXT_COLOR)
  columns = np.flatnonzero(line.any(0))
  top, bottom = (int(np.flatnonzero(line[:, c]).mean()) for c in columns[[2, -3]])
  level = top + 30 + dark[top + 30 : bottom - 30, columns].sum(1).argmax()
  assert abs((top + bottom) / 2 - level) < 3
  # It falls up to the middle, and is flat behind; the legend is above.
  lowest = np.array([np.flatnonzero(line[:, c]).max() for c in columns])
  half = columns < (columns[0] + columns[-1]) / 2
  assert np.ptp(lowest[half]) > 100 and np.ptp(lowest[~half]) < 10


def test_curves_have_different_colors(tmp_path):
  """Each name in the legend, and lines that differ in length."""
  lines = {"one": [0.0, 0.4], "two": [1.0, 0.6, 0.8, 0.9]}
  figures.plot_curves(tmp_path / "a.png", lines, {}, "epoch", "accuracy")
  image = read_pixels(tmp_path / "a.png")
  one, two = (
    (abs(image - np.array(to_rgb(colour))) < 0.1).all(-1) for colour in ("#1f77b4", "#ff7f0e")
  )
  assert min(one.sum(), two.sum()) > 200
  # The first ends after a third of the second's way.
  assert np.median(np.flatnonzero(one.any(0))) < np.median(np.flatnonzero(two.any(0)))
