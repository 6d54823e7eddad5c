"""Figures of memory: which length is solved, and how a gradient fades on its way back."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR


def plot_loss_vs_length(
  path, sequence_lengths: Sequence, losses: Mapping[str, Sequence[float]], guess_loss: float
):
  """Draw the loss of each cell over the length of a problem, as a share of a guess's. A PNG.

  Args:
    path: where to.
    over: the lengths.
    losses: {cell: loss at each length}.
    guess: the loss of who keeps nothing, dashed.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 3.5), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlabel="length", ylabel="loss / loss of a guess", yscale="log")
  for name, values in losses.items():
    axes.plot(
      range(len(sequence_lengths)),
      np.asarray(values) / guess_loss,
      marker="o",
      markersize=4,
      label=name,
    )
  axes.axhline(1, color=TEXT_COLOR, linestyle="--", linewidth=1, label="a guess")
  axes.set_xticks(range(len(sequence_lengths)), sequence_lengths)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(frameon=False, fontsize=8, loc="outside right center")
  figure.savefig(path, format="png")


def plot_gradient_norms(path, panels: Mapping[str, Mapping[str, np.ndarray]]):
  """Draw how much the last state hears of the states before it, a panel beside another. A PNG.

  Args:
    path: where to.
    panels: {title: {cell: norms [T + 1]}}, of ∂h_T/∂carry_r over T − r = 0, 1, ...
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7.5, 3.5), dpi=DPI, layout="constrained")
  side = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axes, (title, lines) in zip(side, panels.items()):
    for name, norms in lines.items():
      axes.plot(np.maximum(norms, 1e-12), label=name, linewidth=1.5)
    axes.axhline(1, color=TEXT_COLOR, linestyle="--", linewidth=0.8)
    axes.set(title=title, xlabel="steps back, T − r", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
  side[0].set_ylabel("‖∂h_T/∂carry_r‖ / √H")
  figure.legend(
    *side[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center"
  )
  figure.savefig(path, format="png")
