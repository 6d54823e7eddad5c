"""Pages of pictures, each with what was said of it."""

import textwrap
from collections.abc import Sequence

import numpy as np

from rnnjax.diagnostics.figures import DPI, INK

COLUMNS, LETTERS = 4, 30  # pictures beside one another, and letters in a line under each


def captioned(path, images: Sequence[np.ndarray], texts: Sequence[str]):
  """Draw pictures [height, width, 3], uint8, with a text under each. A PNG.

  Raises:
    ValueError: there are no pictures, or not as many texts.
  """
  from matplotlib.figure import Figure

  if not len(images) or len(images) != len(texts):
    raise ValueError(f"each picture needs a text; got {len(images)} pictures, {len(texts)} texts")
  lines = -(-len(images) // COLUMNS)
  figure = Figure(figsize=(2.2 * COLUMNS, 2.7 * lines), dpi=DPI, layout="constrained")
  for place, axes in enumerate(figure.subplots(lines, COLUMNS, squeeze=False).flat):
    axes.axis("off")
    if place < len(images):
      axes.imshow(images[place])
      written = "\n".join(textwrap.wrap(texts[place], LETTERS))
      style = dict(size=8, color=INK, ha="center", va="top", parse_math=False)
      axes.text(0.5, -0.04, written, transform=axes.transAxes, **style)
  figure.savefig(path, format="png")
