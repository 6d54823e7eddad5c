"""Pictures of time series and their forecasts."""

from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR

PANELS_PER_ROW = 2  # panels in a row


def plot_forecasts(
  path,
  values: np.ndarray,
  ends: Sequence[int],
  quantiles: np.ndarray,
  titles: Sequence[str],
  num_past: int,
):
  """Draw what came and what had been foretold, beside the last value, a panel each. A PNG.

  Args:
    path: where to.
    values: [N], the series.
    ends: the last row that was known to each of n forecasts.
    made: [n, L, 3], quantiles of the L rows after those: an interval's lower end, the median, and
      its upper end.
    titles: n of them.
    past: how many known rows are drawn.

  Raises:
    ValueError: titles or forecasts are not as many as ends.
  """
  from matplotlib.figure import Figure

  if np.shape(quantiles)[::2] != (len(ends), 3) or len(titles) != len(ends):
    raise ValueError(
      f"made must be [{len(ends)}, L, 3], with a title each; got {np.shape(quantiles)}, {len(titles)}"
    )
  high = -(-len(ends) // PANELS_PER_ROW)
  figure = Figure(figsize=(5 * PANELS_PER_ROW, 2.6 * high), dpi=DPI, layout="constrained")
  every = [*figure.subplots(high, PANELS_PER_ROW, squeeze=False).flat]
  for axes, t, (low, median, top), title in zip(every, ends, np.moveaxis(quantiles, -1, 1), titles):
    ahead = np.arange(1, len(median) + 1)
    rows = np.arange(max(t + 1 - num_past, 0), min(t + 1 + len(median), len(values)))
    axes.plot(rows - t, values[rows], color=TEXT_COLOR, linewidth=1, label="truth")
    axes.fill_between(ahead, low, top, alpha=0.25, linewidth=0, label="80 % interval")
    axes.plot(ahead, median, label="median")
    axes.hlines(values[t], 0, len(median), color="C1", linestyle=":", label="persistence")
    axes.axvline(0, color=TEXT_COLOR, linewidth=0.5)
    axes.set_title(title, fontsize=9, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
  for axes in every[len(ends) :]:
    axes.remove()
  lines = every[0].get_legend_handles_labels()
  figure.legend(*lines, loc="outside upper right", ncols=4, frameon=False, fontsize=8)
  figure.savefig(path, format="png")
