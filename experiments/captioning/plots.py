"""Plots of captioned images and of the attention weights of each word over the image."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR

IMAGES_PER_ROW = 4
CHARS_PER_LINE = 30  # maximum characters in a line of a caption


def plot_captions(path, images: Sequence[np.ndarray], captions: Sequence[str]):
  """Plot images, with a caption below each image, to a PNG file.

  Args:
    path: the file to write.
    images: the images [height, width, 3], uint8.
    captions: the caption of each image.

  Raises:
    ValueError: `images` is empty, or the numbers of images and captions differ.
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
  """Plot the attention weights of each caption word over its image to a PNG file.

  The figure has one row per image: the image, and one copy per word that is darker where the word's
  attention weight is small.

  Args:
    path: the file to write.
    images: the images [height, width, 3], uint8.
    words: the T words of each caption.
    α: for each image, the attention weights [T, S] at S grid positions in row-major order. The grid
      has the aspect ratio of the image.

  Raises:
    ValueError: `images` is empty, `images`, `words` and `α` differ in length, or the image cannot
      be divided into S equal squares.
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
  """Return a copy of an image that is darker where the attention weight is small.

  Args:
    image: the image [height, width, 3].
    α: the attention weights [S] of the grid positions; the brightness depends on α / max(α).

  Raises:
    ValueError: the image cannot be divided into S equal squares.
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
