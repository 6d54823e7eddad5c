"""Plots of speedup versus sequence length."""

from collections.abc import Mapping

from rnnjax.analysis.figures import DPI, TEXT_COLOR

LINE_STYLES = ("-", ":", "--", "-.")


def plot_speedups(path, panels: Mapping[tuple[str, str], Mapping[tuple[int, int, int], float]]):
  """Plot speedup versus sequence length T on log-log axes; colors show H, line styles show B.

  Args:
    path: the PNG file to write.
    panels: {(row title, column title): {(H, B, T): speedup}}, one panel per key.
  """
  from matplotlib import colormaps
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D

  row_titles, column_titles = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
  hidden_sizes, batch_sizes = (
    sorted({key[i] for speedups in panels.values() for key in speedups}) for i in (0, 1)
  )
  viridis = colormaps["viridis"]
  colors = {H: viridis(0.85 * i / len(hidden_sizes)) for i, H in enumerate(hidden_sizes)}
  styles = dict(zip(batch_sizes, LINE_STYLES))
  num_rows, num_columns = len(row_titles), len(column_titles)
  figure = Figure((2.1 * num_columns + 0.6, 2 * num_rows + 0.6), dpi=DPI, layout="constrained")
  grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
  for (row_title, column_title), speedups in panels.items():
    axes = grid[row_titles.index(row_title)][column_titles.index(column_title)]
    axes.axhline(1, color=TEXT_COLOR, linewidth=0.8)
    for H in hidden_sizes:
      for B in batch_sizes:
        points = sorted((T, value) for (h, b, T), value in speedups.items() if (h, b) == (H, B))
        axes.plot(*zip(*points), styles[B], color=colors[H], marker="o", markersize=3)
    axes.set(xscale="log", yscale="log")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
  for axes, title in zip(grid[0], column_titles):
    axes.set_title(title, size=9, color=TEXT_COLOR)
  for axes in grid[-1]:
    axes.set_xlabel("T, steps", size=8)
  for axes, title in zip(grid[:, 0], row_titles):
    axes.set_ylabel(f"{title}\nspeed relative to the loop", size=8)
  handles = [
    Line2D([], [], color=colors[H], marker="o", markersize=3, label=f"H = {H}")
    for H in hidden_sizes
  ]
  handles += [
    Line2D([], [], color=TEXT_COLOR, linestyle=styles[B], label=f"B = {B}") for B in batch_sizes
  ]
  figure.legend(
    handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
  )
  figure.savefig(path, format="png")
