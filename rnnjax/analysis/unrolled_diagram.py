"""The drawing of every lecture: a recurrent net, unrolled, with the shapes of what flows in it."""

from collections.abc import Sequence

import jax.numpy as jnp

from rnnjax.analysis.figures import DPI, TEXT_COLOR
from rnnjax.cells import Cell
from rnnjax.types import Params

FILL_COLORS = {"y": "#d9efdd", "h": "#dce9fb", "x": "#f6e7cf"}


def plot_unrolled(
  path, cell: Cell, params: Params, input_labels: Sequence[str], output_labels: Sequence[str] = ()
):
  """Draw a cell over the pieces of a text. A PNG.

  Args:
    path: where to.
    cell, params: what is unrolled; shapes are read off them.
    read: what stands at each xₜ.
    written: what stands at each yₜ, "" where nothing is put out; none at all for yₜ itself.

  Raises:
    ValueError: written is neither empty nor as long as read.
  """
  from matplotlib.figure import Figure

  T = len(input_labels)
  if output_labels and len(output_labels) != T:
    raise ValueError(
      f"written must have {T} pieces, as read has, or none; got {len(output_labels)}"
    )
  D, H = params["W"].shape[0], cell.features
  start = cell.initial_carry(jnp.zeros(D))
  carry = ", ".join(f"{name} [{part.size}]" for name, part in zip("hc", start))
  figure = Figure((1.9 + 1.5 * T, 3.9), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlim=(-1.1, T - 0.3), ylim=(-0.75, 2.6))
  axes.axis("off")

  def box(x, y, role, text):
    how = dict(
      boxstyle="round,pad=0.5", facecolor=FILL_COLORS[role], edgecolor="#8b949e", linewidth=0.8
    )
    axes.text(
      x, y, text, ha="center", va="center", size=9, color=TEXT_COLOR, bbox=how, parse_math=False
    )

  def arrow(start, end, text=""):
    axes.annotate(
      "", end, start, arrowprops=dict(arrowstyle="-|>", color=TEXT_COLOR, linewidth=0.9)
    )
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1
    axes.text(*middle, text, ha="center", size=7, color="#57606a", parse_math=False)

  box(-0.9, 1, "h", "0")
  for t, piece in enumerate(input_labels):
    box(t, 0, "x", piece)
    box(t, 1, "h", cell.name)
    arrow((t - 0.75 if t == 0 else t - 0.66, 1), (t - 0.36, 1), carry if t == 1 else "")
    arrow((t, 0.22), (t, 0.76))
    if not output_labels or output_labels[t]:
      arrow((t, 1.24), (t, 1.78))
      box(t, 2, "y", output_labels[t] if output_labels else "y")
  own = [f"{name} {list(value.shape)}" for name, value in params.items()]
  note = "   ".join(["the same at every step:", f"x [{D}]", *own, f"y [{H}]"])
  axes.text((T - 1.4) / 2, -0.55, note, ha="center", size=8, color=TEXT_COLOR, parse_math=False)
  figure.savefig(path, format="png")
