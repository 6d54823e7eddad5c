"""Plots of class probabilities over time, for images that are processed as sequences."""

from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR
from rnnjax.types import InvalidInputError

IMAGES_PER_ROW = 6
CORRECT_COLOR = "#2da44e"  # title color of a correctly classified image
WRONG_COLOR = "#cf222e"


def plot_class_probabilities(
  path, images: np.ndarray, probabilities: np.ndarray, labels: Sequence[int]
):
  """Plot each image next to its class probabilities over time.

  Time runs from top to bottom. The title of an image is the final prediction. If the prediction is
  wrong, the title also contains the label.

  Args:
    path: the PNG file to write.
    images: the images [N, R, C].
    probabilities: the class probabilities [N, S, K] at S evenly spaced times, from the first to the
      last row of the image.
    labels: the true classes [N].

  Raises:
    InvalidInputError: the arguments have different lengths N, or N is 0.
  """
  from matplotlib.figure import Figure

  N, _, K = np.shape(probabilities)
  if not N == len(images) == len(labels) > 0:
    raise InvalidInputError(
      f"images, probabilities and labels must have the same length of 1 or more; "
      f"got {len(images)}, {N} and {len(labels)}"
    )
  num_rows = -(-N // IMAGES_PER_ROW)
  figure = Figure((1.6 * IMAGES_PER_ROW, 1.25 * num_rows), dpi=DPI, layout="constrained")
  grid = figure.subplots(
    num_rows, 2 * IMAGES_PER_ROW, squeeze=False, width_ratios=[1.4, 1] * IMAGES_PER_ROW
  ).ravel()
  for axes in grid:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="#d5d9de", linewidth=0.5, visible=False)
  for left, right, image, probs, label in zip(grid[::2], grid[1::2], images, probabilities, labels):
    prediction = int(probs[-1].argmax())
    left.imshow(image, "gray_r", vmin=0, vmax=1, aspect="auto")
    if prediction == label:
      left.set_title(f"{prediction}", pad=2, size=8, color=CORRECT_COLOR)
    else:
      left.set_title(f"{prediction}, is {label}", pad=2, size=8, color=WRONG_COLOR)
    right.imshow(probs, "Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    right.spines[:].set_visible(True)
    right.set_xticks(range(K), range(K), size=3.5, color=TEXT_COLOR)
    right.tick_params(length=0, pad=1)
  figure.savefig(path, format="png")
