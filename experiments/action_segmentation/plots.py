"""Labels over time as coloured strips: what is, and what was said, one under the other."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR
from rnnjax.types import InvalidInputError

STRIP_HEIGHT, GAP_HEIGHT = 0.2, 0.34  # inches: a strip, and what stands between two timelines


def plot_timelines(path, panels: Sequence[tuple[str, Mapping[str, np.ndarray]]], num_classes: int):
  """Draw strips of labels, a colour for each. A PNG.

  Args:
    path: where to.
    rows: (title, {name: labels [T]}) for each timeline; the strips of one are equally long.
    classes: K, how many labels there are; 0 is left white.
  """
  from matplotlib import colormaps
  from matplotlib.colors import ListedColormap
  from matplotlib.figure import Figure

  if not panels or any(len({len(strip) for strip in strips.values()}) != 1 for _, strips in panels):
    raise InvalidInputError("there must be a timeline, and the strips of each must be equally long")
  # Neighbouring colours of tab20 are two shades of one: the darker ones come first.
  shades = colormaps["tab20"].colors
  shades = [*shades[::2], *shades[1::2]]
  colours = ListedColormap(["white", *(shades[k % len(shades)] for k in range(num_classes - 1))])
  heights = [STRIP_HEIGHT * len(strips) + GAP_HEIGHT for _, strips in panels]
  figure = Figure((8, sum(heights)), dpi=DPI, layout="constrained")
  every = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
  for axes, (title, strips) in zip(every, panels):
    axes.imshow(
      np.stack([*strips.values()]),
      colours,
      vmin=0,
      vmax=num_classes - 1,
      aspect="auto",
      interpolation="nearest",
    )
    axes.set_title(title, size=8, color=TEXT_COLOR, loc="left", pad=3, parse_math=False)
    axes.set_yticks(range(len(strips)), strips, size=7, parse_math=False)
    axes.hlines(
      np.arange(1, len(strips)) - 0.5,
      -0.5,
      len(next(iter(strips.values()))) - 0.5,
      "white",
      linewidth=2,
    )
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set(color="#d5d9de", linewidth=0.5)
  every[-1].set_xlabel("frames", size=7)
  figure.savefig(path, format="png")
