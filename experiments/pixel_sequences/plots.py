"""What a net believes of an image, the further it has read."""

from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR
from rnnjax.types import InvalidInputError

IMAGES_PER_ROW, CORRECT_COLOR, WRONG_COLOR = (
  6,
  "#2da44e",
  "#cf222e",
)  # images in a line, and what marks their labels


def plot_class_probabilities(
  path, images: np.ndarray, probabilities: np.ndarray, labels: Sequence[int]
):
  """Draw each image beside the probability of every class at each moment, which runs down. A PNG.

  Args:
    path: where to.
    images: [N, R, C].
    believed: [N, S, K], at S moments evenly from the image's first row to its last.
    labels: [N]; the title says what is believed in the end, and where that is wrong, the label.
  """
  from matplotlib.figure import Figure

  N, _, K = np.shape(probabilities)
  if not N == len(images) == len(labels) > 0:
    raise InvalidInputError(
      f"there must be as many of each; got {len(images)}, {N} and {len(labels)}"
    )
  lines = -(-N // IMAGES_PER_ROW)
  figure = Figure((1.6 * IMAGES_PER_ROW, 1.25 * lines), dpi=DPI, layout="constrained")
  grid = figure.subplots(
    lines, 2 * IMAGES_PER_ROW, squeeze=False, width_ratios=[1.4, 1] * IMAGES_PER_ROW
  ).ravel()
  for axes in grid:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="#d5d9de", linewidth=0.5, visible=False)
  for left, right, image, shares, label in zip(
    grid[::2], grid[1::2], images, probabilities, labels
  ):
    said = int(shares[-1].argmax())
    how = dict(size=8, color=CORRECT_COLOR if said == label else WRONG_COLOR)
    left.imshow(image, "gray_r", vmin=0, vmax=1, aspect="auto")
    left.set_title(f"{said}" if said == label else f"{said}, is {label}", pad=2, **how)
    right.imshow(shares, "Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    right.spines[:].set_visible(True)
    right.set_xticks(range(K), range(K), size=3.5, color=TEXT_COLOR)
    right.tick_params(length=0, pad=1)
  figure.savefig(path, format="png")
