"""Plots of the loss over the sequence length and of gradient norms over the time lag."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnnjax.analysis.figures import DPI, TEXT_COLOR


def plot_loss_vs_length(
  path, sequence_lengths: Sequence, losses: Mapping[str, Sequence[float]], guess_loss: float
):
  """Plot the relative loss of each cell against the sequence length to a PNG file.

  The relative loss is the loss divided by `guess_loss`.

  Args:
    path: the file to write.
    sequence_lengths: the sequence lengths, used as labels of the x axis.
    losses: {cell: loss at each sequence length}.
    guess_loss: the loss of a constant prediction. A dashed line marks the relative loss 1.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 3.5), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlabel="length", ylabel="loss / loss of a guess", yscale="log")
  xs = range(len(sequence_lengths))
  for name, values in losses.items():
    axes.plot(xs, np.asarray(values) / guess_loss, marker="o", markersize=4, label=name)
  axes.axhline(1, color=TEXT_COLOR, linestyle="--", linewidth=1, label="a guess")
  axes.set_xticks(xs, sequence_lengths)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(frameon=False, fontsize=8, loc="outside right center")
  figure.savefig(path, format="png")


def plot_gradient_norms(path, panels: Mapping[str, Mapping[str, np.ndarray]]):
  """Plot the gradient norm of the last hidden state h_T against the time lag k to a PNG file.

  Args:
    path: the file to write.
    panels: {title: {cell: norms [T + 1]}}, with one panel per title. Element k of the norms is
      ‖∂h_T/∂carry_{T−k}‖ / √H, where H is the hidden size.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7.5, 3.5), dpi=DPI, layout="constrained")
  panel_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axes, (title, lines) in zip(panel_axes, panels.items()):
    for name, norms in lines.items():
      axes.plot(np.maximum(norms, 1e-12), label=name, linewidth=1.5)  # a log scale cannot show 0
    axes.axhline(1, color=TEXT_COLOR, linestyle="--", linewidth=0.8)
    axes.set(title=title, xlabel="steps back, T − r", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
  panel_axes[0].set_ylabel("‖∂h_T/∂carry_r‖ / √H")
  handles, labels = panel_axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
  figure.savefig(path, format="png")
