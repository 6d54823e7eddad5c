"""Figures: curves, heat maps, hidden states, a diagram of the unrolled network."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from rnnjax.cells import Cell
from rnnjax.types import Params

DIVERGING_COLORS = ("#64a2ec", "#ffffff", "#f47362")  # colors of −1, 0, 1
TEXT_COLOR = "#1f2328"
BACKGROUND_COLOR = "#f6f7f9"
FILL_COLORS = {"y": "#d9efdd", "h": "#dce9fb", "x": "#f6e7cf"}  # boxes of `plot_unrolled`
DPI = 150


def plot_curves(
  path,
  lines: dict,
  reference_lines: dict,
  xlabel: str,
  ylabel: str,
  tick_labels: Sequence[str] = (),
):
  """Plot curves over x = 1, 2, ... and horizontal reference lines.

  Args:
    path: the PNG file to write.
    lines: {name: values} of the curves.
    reference_lines: {name: value} of the dashed horizontal lines.
    xlabel: label of the x axis.
    ylabel: label of the y axis.
    tick_labels: labels of the ticks 1, 2, ... on the x axis; if empty, the numbers are shown.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 3.5), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
  for name, values in lines.items():
    axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
  for name, value in reference_lines.items():
    axes.axhline(value, color=TEXT_COLOR, linestyle="--", linewidth=1, label=f"{name}: {value:.3f}")
  if tick_labels:
    axes.set_xticks(range(1, len(tick_labels) + 1), tick_labels)
  else:
    axes.xaxis.get_major_locator().set_params(integer=True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
  figure.savefig(path, format="png")


def plot_heatmap(
  path, column_labels: Sequence[str], row_labels: Sequence[str], weights: np.ndarray
):
  """Plot a matrix of weights in [0, 1], such as attention weights; larger weights are darker.

  Args:
    path: the PNG file to write.
    column_labels: labels of the S columns, e.g. the source tokens.
    row_labels: labels of the T rows, e.g. the output tokens.
    weights: array [T, S].

  Raises:
    ValueError: the shape of `weights` does not match the numbers of labels.
  """
  from matplotlib.figure import Figure

  if np.shape(weights) != (len(row_labels), len(column_labels)):
    raise ValueError(
      f"weights must have shape {(len(row_labels), len(column_labels))}, rows × columns; "
      f"got {np.shape(weights)}"
    )
  column_label_size, row_label_size = (
    0.09 * max(map(len, labels))
    for labels in (column_labels, row_labels)  # inches
  )
  size = (
    0.8 + row_label_size + column_label_size / 2 + 0.3 * len(column_labels),
    0.6 + column_label_size + 0.3 * len(row_labels),
  )
  figure = Figure(figsize=size, dpi=DPI, layout="constrained")
  axes = figure.add_subplot()
  axes.imshow(weights, "Blues", vmin=0, vmax=1, aspect="equal")
  axes.set_xticks(
    range(len(column_labels)),
    column_labels,
    rotation=60,
    ha="left",
    rotation_mode="anchor",
    parse_math=False,
  )
  axes.set_yticks(range(len(row_labels)), row_labels, parse_math=False)
  axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
  axes.spines[:].set_visible(False)
  figure.savefig(path, format="png")


def plot_states(path, tokens: Sequence[str], panels: Mapping[str, np.ndarray], vmin: float = -1.0):
  """Plot hidden states or gates over time, in vertically stacked panels.

  The color scale goes from blue at `vmin` to red at 1.

  Args:
    path: the PNG file to write.
    tokens: the T inputs, e.g. words or characters.
    panels: {title: array [T, H]}, such as hidden states, or gates σ(z) with vmin=0.
    vmin: the lowest value of the color scale.

  Raises:
    ValueError: the number of steps of a panel differs from the number of tokens.
  """
  from matplotlib.colors import LinearSegmentedColormap
  from matplotlib.figure import Figure

  for title, values in panels.items():
    if len(values) != len(tokens):
      raise ValueError(
        f"panel {title!r} must have one row for each of the {len(tokens)} tokens; got {len(values)}"
      )
  colormap = LinearSegmentedColormap.from_list("signed", DIVERGING_COLORS)
  width = max(4.0, 1.2 + 0.32 * len(tokens))
  units = [np.shape(v)[1] for v in panels.values()]
  label_size = 0.09 * max(map(len, tokens))  # inches
  heights = [min(0.4 + 0.05 * H, 2.0) for H in units]
  size = width, sum(heights) + 0.3 * len(units) + label_size
  figure = Figure(size, dpi=DPI, layout="constrained")
  grid = figure.subplots(len(units), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
  for axes, (title, values) in zip(grid, panels.items()):
    values = np.asarray(values, float).T
    image = axes.imshow(values, colormap, vmin=vmin, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_ylabel(title, size=8, rotation=0, ha="right", va="center", parse_math=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
  grid[-1].set_xticks(
    range(len(tokens)),
    tokens,
    rotation=60,
    ha="right",
    size=8,
    rotation_mode="anchor",
    parse_math=False,
  )
  figure.colorbar(image, ax=list(grid), aspect=30, fraction=0.03)
  figure.savefig(path, format="png")


def plot_unrolled(
  path, cell: Cell, params: Params, input_labels: Sequence[str], output_labels: Sequence[str] = ()
):
  """Plot a diagram of a cell unrolled over time, with the shapes of its arrays.

  Args:
    path: the PNG file to write.
    cell: the recurrent cell.
    params: the parameters of the cell.
    input_labels: the text of each input box.
    output_labels: the text of each output box; "" omits the box. If `output_labels` is empty, every
      output box has the text "y".

  Raises:
    ValueError: `output_labels` is non-empty and its length differs from the length of
      `input_labels`.
  """
  from matplotlib.figure import Figure

  T = len(input_labels)
  if output_labels and len(output_labels) != T:
    raise ValueError(
      f"output_labels must be empty or have {T} entries like input_labels; got {len(output_labels)}"
    )
  D, H = params["W"].shape[0], cell.features
  start = cell.initial_carry(jnp.zeros(D))
  carry = ", ".join(f"{name} [{part.size}]" for name, part in zip("hc", start))
  figure = Figure((1.9 + 1.5 * T, 3.9), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlim=(-1.1, T - 0.3), ylim=(-0.75, 2.6))
  axes.axis("off")

  def box(x, y, role, text):
    style = dict(boxstyle="round,pad=0.5", edgecolor="#8b949e", linewidth=0.8)
    axes.text(
      x,
      y,
      text,
      ha="center",
      va="center",
      size=9,
      color=TEXT_COLOR,
      bbox=style | {"facecolor": FILL_COLORS[role]},
      parse_math=False,
    )

  def arrow(start, end, text=""):
    axes.annotate(
      "", end, start, arrowprops=dict(arrowstyle="-|>", color=TEXT_COLOR, linewidth=0.9)
    )
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1
    axes.text(*middle, text, ha="center", size=7, color="#57606a", parse_math=False)

  box(-0.9, 1, "h", "0")
  for t, label in enumerate(input_labels):
    box(t, 0, "x", label)
    box(t, 1, "h", cell.name)
    arrow((t - 0.75 if t == 0 else t - 0.66, 1), (t - 0.36, 1), carry if t == 1 else "")
    arrow((t, 0.22), (t, 0.76))
    if not output_labels or output_labels[t]:
      arrow((t, 1.24), (t, 1.78))
      box(t, 2, "y", output_labels[t] if output_labels else "y")
  param_shapes = [f"{name} {list(value.shape)}" for name, value in params.items()]
  note = "   ".join([f"x [{D}]", f"y [{H}]", "shared parameters:", *param_shapes])
  axes.text((T - 1.4) / 2, -0.55, note, ha="center", size=8, color=TEXT_COLOR, parse_math=False)
  figure.savefig(path, format="png")
