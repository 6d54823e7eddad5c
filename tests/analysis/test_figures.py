"""Heat maps, curves, states and diagrams, checked by their pixels."""

import jax
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from rnnjax import gru
from rnnjax.analysis import figures

RED, BLUE = (to_rgb(color) for color in ("#f47362", "#64a2ec"))


def read_pixels(path):
  return imread(path)[..., :3]


def blueness(image):
  """Return how blue each pixel is: near 0 for white and black."""
  return image[..., 2] - image[..., 0]


def plot_heatmap(path, weights, column_labels=None, row_labels=None):
  T, S = np.shape(weights)
  column_labels = column_labels or list("acemn")[:S]
  figures.plot_heatmap(path, column_labels, row_labels or list("acemn")[:T], weights)
  return read_pixels(path)


def mask_center(mask):
  """Return the mean row and column of the mask."""
  return np.argwhere(mask).mean(0)


def test_heatmap_cell_positions(tmp_path):
  """The first row is at the top, the first column on the left, and cells are equal squares."""
  T, S, centers = 3, 5, {}
  for cell in np.ndindex(T, S):
    weights = np.zeros((T, S))
    weights[cell] = 1
    image = plot_heatmap(tmp_path / "a.png", weights)
    mask = blueness(image) > 0.25
    centers[cell] = mask_center(mask)
    side = np.ptp(np.argwhere(mask), 0) + 1
    assert abs(side[0] - side[1]) <= 2 and mask.sum() > 0.9 * side.prod()
  (y, x), down, right = centers[0, 0], centers[1, 0] - centers[0, 0], centers[0, 1] - centers[0, 0]
  np.testing.assert_allclose([down[1], right[0]], 0, atol=1)
  np.testing.assert_allclose(down[0], right[1], atol=2)
  for (t, s), center in centers.items():
    np.testing.assert_allclose(center, (y + t * down[0], x + s * right[1]), atol=2)


def test_larger_weight_is_darker(tmp_path):
  """The color scale is fixed from 0 to 1, independent of the other weights."""
  weights, shades = np.linspace(0, 1, 5), []
  image = plot_heatmap(tmp_path / "a.png", weights[None])
  uniform = plot_heatmap(tmp_path / "b.png", [[0.5, 0.5, 0.5, 0.5, 0.5]])
  row = round(mask_center(blueness(image) > 0.25)[0])
  columns = np.flatnonzero(blueness(uniform)[row] > 0.1)
  for cell in np.array_split(columns, 5):
    shades.append(image[row, cell[len(cell) // 2]].sum())
  assert (np.diff(shades) < -0.1).all()
  np.testing.assert_allclose(shades[2], uniform[row, columns[len(columns) // 2]].sum(), atol=0.02)


def test_heatmap_labels_are_drawn_literally(tmp_path):
  """Labels are drawn as text, not as formulas."""
  weights = [[0.2, 0.8]]
  formula = plot_heatmap(tmp_path / "a.png", weights, ["▁low", "⏎"], ["▁$^$"])
  letter = plot_heatmap(tmp_path / "b.png", weights, ["▁low", "⏎"], ["▁a"])
  dark = [(image.max(-1) < 0.5).sum() for image in (formula, letter)]
  assert min(dark) > 50 and dark[0] != dark[1]


@pytest.mark.parametrize("shape", [(2, 3), (3,), (3, 2, 1)])
def test_heatmap_of_mismatched_shape_raises(tmp_path, shape):
  with pytest.raises(ValueError, match=r"weights must have shape \(3, 2\), .*got \("):
    figures.plot_heatmap(tmp_path / "a.png", list("ab"), list("cde"), np.zeros(shape))
  assert not list(tmp_path.iterdir())


def test_curve_and_reference_line(tmp_path):
  """A curve over 1, 2, 3, and a horizontal line halfway between its highest and lowest value."""
  figures.plot_curves(tmp_path / "a.png", {"model": [1, 0, 0]}, {"level": 0.5}, "epoch", "accuracy")
  image = read_pixels(tmp_path / "a.png")
  near = lambda color: (abs(image - np.array(to_rgb(color))) < 0.1).all(-1)
  line, dark = near("#1f77b4"), near(figures.TEXT_COLOR)
  columns = np.flatnonzero(line.any(0))
  top, bottom = (int(np.flatnonzero(line[:, c]).mean()) for c in columns[[2, -3]])
  level = top + 30 + dark[top + 30 : bottom - 30, columns].sum(1).argmax()
  assert abs((top + bottom) / 2 - level) < 3
  # The curve falls in the left half and is flat in the right half. The legend is above it.
  lowest = np.array([np.flatnonzero(line[:, c]).max() for c in columns])
  half = columns < (columns[0] + columns[-1]) / 2
  assert np.ptp(lowest[half]) > 100 and np.ptp(lowest[~half]) < 10


def test_curves_have_different_colors(tmp_path):
  """Two curves of different lengths have different colors."""
  lines = {"one": [0.0, 0.4], "two": [1.0, 0.6, 0.8, 0.9]}
  figures.plot_curves(tmp_path / "a.png", lines, {}, "epoch", "accuracy")
  image = read_pixels(tmp_path / "a.png")
  one, two = (
    (abs(image - np.array(to_rgb(color))) < 0.1).all(-1) for color in ("#1f77b4", "#ff7f0e")
  )
  assert min(one.sum(), two.sum()) > 200
  # The first curve ends after a third of the second one.
  assert np.median(np.flatnonzero(one.any(0))) < np.median(np.flatnonzero(two.any(0)))


def pixels_of_color(path, color):
  """Return the rows and columns [N, 2] of the pixels of a color."""
  return np.argwhere(np.abs(imread(path)[..., :3] - np.array(color)[None, None]).max(-1) < 0.02)


def test_state_heatmap_positions(tmp_path):
  """Units are rows, steps are columns, and the first panel is at the top."""
  path = tmp_path / "states.png"
  top, bottom = np.zeros((4, 3)), np.zeros((4, 3))
  top[3, 0], bottom[0, 2] = 1, -1
  figures.plot_states(path, list("abcd"), {"top": top, "bottom": bottom})
  width = imread(path).shape[1]
  red, blue = pixels_of_color(path, RED), pixels_of_color(path, BLUE)
  # Without the color bar.
  red, blue = (pixels[pixels[:, 1] < 0.8 * width] for pixels in (red, blue))
  assert len(red) > 100 and len(blue) > 100
  assert red[:, 0].max() < blue[:, 0].min()
  assert blue[:, 1].max() < red[:, 1].min()
  with pytest.raises(ValueError, match="'top' must have one row for each of the 3 tokens; got 4"):
    figures.plot_states(path, list("abc"), {"top": top})


def test_unrolled_diagram(tmp_path):
  """There is a cell for each input, and an output box for each label that is not empty."""
  cell, path = gru(5), tmp_path / "net.png"
  params = cell.init(jax.random.key(0), 3)
  areas = []
  for output_labels in ("", ["", "", "x"], ["x", "x", "x"]):
    figures.plot_unrolled(path, cell, params, list("abc"), output_labels)
    areas.append(
      {box: len(pixels_of_color(path, to_rgb(c))) for box, c in figures.FILL_COLORS.items()}
    )
  default, one, three = areas
  assert one["h"] == three["h"] and one["x"] == three["x"]
  assert three["y"] == pytest.approx(3 * one["y"], rel=0.05)
  assert default["y"] == pytest.approx(three["y"], rel=0.2)
  with pytest.raises(ValueError, match="output_labels must be empty or have 3 entries"):
    figures.plot_unrolled(path, cell, params, list("abc"), ["x", "y"])
