"""How many times as fast, over the length: curves above and below 1."""

from collections.abc import Mapping

from rnnjax.analysis.figures import DPI, TEXT_COLOR

LINE_STYLES = ("-", ":", "--", "-.")


def plot_speedups(path, panels: Mapping[tuple[str, str], Mapping[tuple[int, int, int], float]]):
  """Draw gains over T, both logarithmic: a colour for each H, a line style for each B. A PNG.

  Args:
    path: where to.
    panels: {(row, column): {(H, B, T): gain}}; a title for each row and column of panels.
  """
  from matplotlib import colormaps
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D

  downs, acrosses = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
  widths, rows = (sorted({key[i] for values in panels.values() for key in values}) for i in (0, 1))
  colours = {H: colormaps["viridis"](0.85 * i / len(widths)) for i, H in enumerate(widths)}
  style = dict(zip(rows, LINE_STYLES))
  figure = Figure((2.1 * len(acrosses) + 0.6, 2 * len(downs) + 0.6), dpi=DPI, layout="constrained")
  grid = figure.subplots(len(downs), len(acrosses), sharex=True, sharey=True, squeeze=False)
  for (down, across), values in panels.items():
    axes = grid[downs.index(down)][acrosses.index(across)]
    axes.axhline(1, color=TEXT_COLOR, linewidth=0.8)
    for H in widths:
      for B in rows:
        points = sorted((T, gain) for (h, b, T), gain in values.items() if (h, b) == (H, B))
        axes.plot(*zip(*points), style[B], color=colours[H], marker="o", markersize=3)
    axes.set(xscale="log", yscale="log")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
  for axes, across in zip(grid[0], acrosses):
    axes.set_title(across, size=9, color=TEXT_COLOR)
  for axes in grid[-1]:
    axes.set_xlabel("T, steps", size=8)
  for axes, down in zip(grid[:, 0], downs):
    axes.set_ylabel(f"{down}\ntimes as fast as the loop", size=8)
  lines = [
    Line2D([], [], color=colours[H], marker="o", markersize=3, label=f"H = {H}") for H in widths
  ]
  lines += [Line2D([], [], color=TEXT_COLOR, linestyle=style[B], label=f"B = {B}") for B in rows]
  figure.legend(
    handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=8
  )
  figure.savefig(path, format="png")
