"""Pages of pictures, each with what was said of it, and with where each word looked."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR

IMAGES_PER_ROW, CHARS_PER_LINE = (
  4,
  30,
)  # pictures beside one another, and letters in a line under each


def plot_captions(path, images: Sequence[np.ndarray], captions: Sequence[str]):
  """Draw pictures [height, width, 3], uint8, with a text under each. A PNG.

  Raises:
    ValueError: there are no pictures, or not as many texts.
  """
  from matplotlib.figure import Figure

  if not len(images) or len(images) != len(captions):
    raise ValueError(
      f"each picture needs a text; got {len(images)} pictures, {len(captions)} texts"
    )
  lines = -(-len(images) // IMAGES_PER_ROW)
  figure = Figure(figsize=(2.2 * IMAGES_PER_ROW, 2.7 * lines), dpi=DPI, layout="constrained")
  for place, axes in enumerate(figure.subplots(lines, IMAGES_PER_ROW, squeeze=False).flat):
    axes.axis("off")
    if place < len(images):
      axes.imshow(images[place])
      written = "\n".join(textwrap.wrap(captions[place], CHARS_PER_LINE))
      style = dict(size=8, color=TEXT_COLOR, ha="center", va="top", parse_math=False)
      axes.text(0.5, -0.04, written, transform=axes.transAxes, **style)
  figure.savefig(path, format="png")


def plot_word_attention(
  path, images: Sequence[np.ndarray], words: Sequence[Sequence[str]], α: Sequence
):
  """Draw pictures [height, width, 3], uint8, one a line, each once again for each of its words,
  bright where the word attended: α [T, S] of a picture's T words to the places of a grid of the
  picture's proportions, line by line. A PNG.

  Raises:
    ValueError: there are no pictures, or not as many texts or α; a grid does not fit its picture.
  """
  from matplotlib.figure import Figure

  if not len(images) or not len(images) == len(words) == len(α):
    raise ValueError(
      f"each picture needs words and α; got {len(images)} pictures, {len(words)} texts, {len(α)} α"
    )
  columns = 1 + max(map(len, words))
  size = 1.1 * columns, 1.3 * len(images)
  figure = Figure(figsize=size, dpi=DPI, layout="constrained")
  places = figure.subplots(len(images), columns, squeeze=False)
  for line, image, own, looks in zip(places, images, words, α):
    bright = [image] + [dim_unattended(image, one) for one in looks]
    for axes in line:
      axes.axis("off")
    for axes, shown, word in zip(line, bright, ["", *own]):
      axes.imshow(shown)
      axes.set_title(word, size=8, color=TEXT_COLOR, parse_math=False)
  figure.savefig(path, format="png")


def dim_unattended(image, α):
  """A picture, dark where α [S] is small beside the largest."""
  height, width = image.shape[:2]
  side = math.isqrt(height * width // len(α))
  if len(α) * side**2 != height * width:
    raise ValueError(f"{len(α)} places are no grid over a picture of {height} x {width} pixels")
  grid = (α / α.max()).reshape(height // side, width // side)
  light = np.kron(grid, np.ones((side, side)))[..., None]
  return (image * (0.15 + 0.85 * light)).astype(np.uint8)
