"""Bar charts of named scores."""

from collections.abc import Mapping

from rnnjax.analysis.figures import DPI, TEXT_COLOR


def plot_bars(path, values: Mapping[str, float], xlabel: str, reference_lines: Mapping[str, float]):
  """Save a horizontal bar chart with dashed vertical reference lines as a PNG file.

  Args:
    path: the file to write.
    values: {bar name: value}; the first bar is on top.
    xlabel: label of the value axis.
    reference_lines: {line name: value}.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 0.8 + 0.38 * len(values)), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlabel=xlabel)
  bars = axes.barh(list(values), list(values.values()), color="#64a2ec", height=0.65)
  axes.bar_label(bars, fmt="%.3f", padding=4, size=9, color=TEXT_COLOR)
  for name, value in reference_lines.items():
    axes.axvline(value, color=TEXT_COLOR, linestyle="--", linewidth=1, label=f"{name}: {value:.3f}")
  axes.invert_yaxis()
  axes.margins(x=0.1)
  axes.spines[["top", "right"]].set_visible(False)
  if reference_lines:
    figure.legend(frameon=False, fontsize=8, loc="outside upper right")
  figure.savefig(path, format="png")
