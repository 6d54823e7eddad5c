"""Plots of frame labels over time as colored strips."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR
from rnnjax.types import InvalidInputError

STRIP_HEIGHT = 0.2  # height of a strip, in inches
GAP_HEIGHT = 0.34  # height of the gap between two panels, in inches


def plot_timelines(path, panels: Sequence[tuple[str, Mapping[str, np.ndarray]]], num_classes: int):
  """Plot label sequences as strips with one color per label.

  Args:
    path: the PNG file to write.
    panels: one (title, {name: labels [T]}) per panel. Each name is plotted as one strip.
    num_classes: K, the number of classes; label 0 is white.

  Raises:
    InvalidInputError: `panels` is empty, or the strips of a panel differ in length.
  """
  from matplotlib import colormaps
  from matplotlib.colors import ListedColormap
  from matplotlib.figure import Figure

  if not panels or any(len({len(strip) for strip in strips.values()}) != 1 for _, strips in panels):
    raise InvalidInputError(
      "there must be at least one panel, and the strips of a panel must be equally long"
    )
  # Each pair of colors in tab20 is a dark and a light shade. All dark shades are used first.
  tab20 = colormaps["tab20"].colors
  shades = [*tab20[::2], *tab20[1::2]]
  colors = ListedColormap(["white", *(shades[k % len(shades)] for k in range(num_classes - 1))])
  heights = [STRIP_HEIGHT * len(strips) + GAP_HEIGHT for _, strips in panels]
  figure = Figure((8, sum(heights)), dpi=DPI, layout="constrained")
  all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
  for axes, (title, strips) in zip(all_axes, panels):
    axes.imshow(
      np.stack([*strips.values()]),
      colors,
      vmin=0,
      vmax=num_classes - 1,
      aspect="auto",
      interpolation="nearest",
    )
    axes.set_title(title, size=8, color=TEXT_COLOR, loc="left", pad=3, parse_math=False)
    axes.set_yticks(range(len(strips)), strips, size=7, parse_math=False)
    # White lines between the strips.
    axes.hlines(
      np.arange(1, len(strips)) - 0.5,
      -0.5,
      len(next(iter(strips.values()))) - 0.5,
      "white",
      linewidth=2,
    )
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set(color="#d5d9de", linewidth=0.5)
  all_axes[-1].set_xlabel("frames", size=7)
  figure.savefig(path, format="png")
