"""Numbers beside one another."""

from collections.abc import Mapping

from rnnjax.analysis.figures import DPI, TEXT_COLOR


def plot_bars(path, values: Mapping[str, float], xlabel: str, reference_lines: Mapping[str, float]):
  """Draw a bar for each value, the first on top, and levels across them. A PNG.

  Args:
    path: where to.
    values: {name: value}.
    across: what the axis says.
    levels: {name: value}, dashed.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 0.8 + 0.38 * len(values)), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlabel=xlabel)
  drawn = axes.barh(list(values), list(values.values()), color="#64a2ec", height=0.65)
  axes.bar_label(drawn, fmt="%.3f", padding=4, size=9, color=TEXT_COLOR)
  for name, value in reference_lines.items():
    axes.axvline(value, color=TEXT_COLOR, linestyle="--", linewidth=1, label=f"{name}: {value:.3f}")
  axes.invert_yaxis()
  axes.margins(x=0.1)
  axes.spines[["top", "right"]].set_visible(False)
  if reference_lines:
    figure.legend(frameon=False, fontsize=8, loc="outside upper right")
  figure.savefig(path, format="png")
