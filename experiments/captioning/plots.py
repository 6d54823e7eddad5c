"""Plots of images with captions, and of the image regions that each word attends to."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR

IMAGES_PER_ROW = 4
CHARS_PER_LINE = 30  # of a caption


def plot_captions(path, images: Sequence[np.ndarray], captions: Sequence[str]):
  """Plot images with a caption below each; write a PNG.

  Args:
    path: the file to write.
    images: [height, width, 3], uint8.
    captions: one text an image.

  Raises:
    ValueError: there are no images, or the number of captions differs.
  """
  from matplotlib.figure import Figure

  if not len(images) or len(images) != len(captions):
    raise ValueError(
      f"each image needs a caption; got {len(images)} images and {len(captions)} captions"
    )
  num_rows = math.ceil(len(images) / IMAGES_PER_ROW)
  figure = Figure(figsize=(2.2 * IMAGES_PER_ROW, 2.7 * num_rows), dpi=DPI, layout="constrained")
  for i, axes in enumerate(figure.subplots(num_rows, IMAGES_PER_ROW, squeeze=False).flat):
    axes.axis("off")
    if i < len(images):
      axes.imshow(images[i])
      text = "\n".join(textwrap.wrap(captions[i], CHARS_PER_LINE))
      style = dict(size=8, color=TEXT_COLOR, ha="center", va="top", parse_math=False)
      axes.text(0.5, -0.04, text, transform=axes.transAxes, **style)
  figure.savefig(path, format="png")


def plot_word_attention(
  path, images: Sequence[np.ndarray], words: Sequence[Sequence[str]], α: Sequence
):
  """Plot each image once and again for each word, bright where the word attends; write a PNG.

  Args:
    path: the file to write.
    images: [height, width, 3], uint8; one row of the figure each.
    words: the T words of each image's caption.
    α: attention weights [T, S] of each image, S the positions of a grid with the image's
      proportions, row by row.

  Raises:
    ValueError: there are no images, the numbers of images, words and α differ, or a grid does not
      fit its image.
  """
  from matplotlib.figure import Figure

  if not len(images) or not len(images) == len(words) == len(α):
    raise ValueError(
      f"each image needs words and α; got {len(images)} images, {len(words)} lists of words and "
      f"{len(α)} α"
    )
  num_columns = 1 + max(map(len, words))
  figsize = 1.1 * num_columns, 1.3 * len(images)
  figure = Figure(figsize=figsize, dpi=DPI, layout="constrained")
  grid = figure.subplots(len(images), num_columns, squeeze=False)
  for row, image, image_words, weights in zip(grid, images, words, α):
    panels = [image] + [dim_unattended(image, step_weights) for step_weights in weights]
    for axes in row:
      axes.axis("off")
    for axes, panel, title in zip(row, panels, ["", *image_words]):
      axes.imshow(panel)
      axes.set_title(title, size=8, color=TEXT_COLOR, parse_math=False)
  figure.savefig(path, format="png")


def dim_unattended(image: np.ndarray, α: np.ndarray) -> np.ndarray:
  """Return the image [height, width, 3], darker where α [S] is small relative to its maximum.

  Raises:
    ValueError: S positions do not form a grid of squares over the image.
  """
  height, width = image.shape[:2]
  side = math.isqrt(height * width // len(α))  # pixels of a grid cell
  if len(α) * side**2 != height * width:
    raise ValueError(
      f"{len(α)} positions do not form a grid over an image of {height} x {width} pixels"
    )
  grid = (α / α.max()).reshape(height // side, width // side)
  brightness = np.kron(grid, np.ones((side, side)))[..., None]
  return (image * (0.15 + 0.85 * brightness)).astype(np.uint8)
