"""Plots of piano rolls."""

from collections.abc import Sequence

import numpy as np

from experiments.polyphonic_music.piano_roll import LOWEST_PITCH, NUM_KEYS
from rnnjax.analysis.figures import DPI

SEMITONES_PER_OCTAVE = 12


def plot_rolls(path, panels: Sequence[tuple[str, np.ndarray]]):
  """Plot piano rolls in vertically stacked panels, with time on the x and pitch on the y axis.

  Args:
    path: the PNG file to write.
    panels: one (title, roll [T, 88]) per panel. Values are in [0, 1]; larger values are darker.

  Raises:
    ValueError: a roll does not have 88 keys.
  """
  from matplotlib.figure import Figure

  for title, roll in panels:
    if np.ndim(roll) != 2 or np.shape(roll)[1] != NUM_KEYS:
      raise ValueError(f"{title!r}: a roll must be [T, {NUM_KEYS}]; got {list(np.shape(roll))}")
  # All panels show the same keys, from the lowest to the highest key that sounds in any panel.
  sounding = np.flatnonzero(np.concatenate([roll for _, roll in panels]).max(0) > 0.5)
  low, high = sounding[[0, -1]] if len(sounding) else (0, NUM_KEYS - 1)
  num_steps = max(len(roll) for _, roll in panels)
  size = (1.2 + 0.1 * num_steps, len(panels) * (0.6 + 0.05 * (high - low + 1)))
  figure = Figure(figsize=size, dpi=DPI, layout="constrained")
  for axes, (title, roll) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels):
    axes.imshow(
      roll.T, "Blues", vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest"
    )
    c_keys = [
      key for key in range(low, high + 1) if (key + LOWEST_PITCH) % SEMITONES_PER_OCTAVE == 0
    ]
    axes.set_yticks(
      c_keys, [f"C{(key + LOWEST_PITCH) // SEMITONES_PER_OCTAVE - 1}" for key in c_keys]
    )
    axes.set(xlim=(-0.5, num_steps - 0.5), ylim=(low - 1.5, high + 1.5))
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  figure.axes[-1].set_xlabel("step")
  figure.savefig(path, format="png")
