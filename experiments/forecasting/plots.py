"""Plots of time series and their forecasts."""

from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR

PANELS_PER_ROW = 2


def plot_forecasts(
  path,
  values: np.ndarray,
  ends: Sequence[int],
  quantiles: np.ndarray,
  titles: Sequence[str],
  num_past: int,
):
  """Plot each forecast in a panel with its 80 % interval, median, true values and persistence.

  Persistence is a horizontal line at the last known value.

  Args:
    path: the PNG file to write.
    values: the values of the series [N].
    ends: the index of the last known row of each of the n forecasts.
    quantiles: the forecasts [n, L, 3] of the L rows after each last known row. The last axis
      contains the lower end of the interval, the median and the upper end of the interval.
    titles: the titles of the n panels.
    num_past: the number of known rows to plot before each forecast.

  Raises:
    ValueError: the lengths of `ends`, `quantiles` and `titles` differ.
  """
  from matplotlib.figure import Figure

  if np.shape(quantiles)[::2] != (len(ends), 3) or len(titles) != len(ends):
    raise ValueError(
      f"quantiles must be [{len(ends)}, L, 3], with one title each; "
      f"got {np.shape(quantiles)} and {len(titles)} titles"
    )
  num_rows = -(-len(ends) // PANELS_PER_ROW)
  figure = Figure(figsize=(5 * PANELS_PER_ROW, 2.6 * num_rows), dpi=DPI, layout="constrained")
  all_axes = [*figure.subplots(num_rows, PANELS_PER_ROW, squeeze=False).flat]
  for axes, t, (low, median, high), title in zip(
    all_axes, ends, np.moveaxis(quantiles, -1, 1), titles
  ):
    steps_ahead = np.arange(1, len(median) + 1)
    rows = np.arange(max(t + 1 - num_past, 0), min(t + 1 + len(median), len(values)))
    axes.plot(rows - t, values[rows], color=TEXT_COLOR, linewidth=1, label="truth")
    axes.fill_between(steps_ahead, low, high, alpha=0.25, linewidth=0, label="80 % interval")
    axes.plot(steps_ahead, median, label="median")
    axes.hlines(values[t], 0, len(median), color="C1", linestyle=":", label="persistence")
    axes.axvline(0, color=TEXT_COLOR, linewidth=0.5)
    axes.set_title(title, fontsize=9, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
  for axes in all_axes[len(ends) :]:
    axes.remove()
  handles_and_labels = all_axes[0].get_legend_handles_labels()
  figure.legend(*handles_and_labels, loc="outside upper right", ncols=4, frameon=False, fontsize=8)
  figure.savefig(path, format="png")
