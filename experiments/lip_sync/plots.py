"""How a face moved and how a net moves it, beside a linear regression: a table and pictures."""

from collections.abc import Sequence

import numpy as np

from experiments.lip_sync import data as faces_data
from rnnjax.analysis.figures import DPI

CONTEXT_LENGTHS, RIDGE_PENALTIES = (5, 15), (1e3, 1e4)  # of the linear regression
LINE_COLORS = {"true": "#b0b5bb", "predicted": "#f47362"}
NUM_CURVES, CLIP_SECONDS = 6, 10  # channels of the curves, and how long the pictures last
GIF_FPS = 10  # pictures a second


def context_windows(
  recordings: list[faces_data.FaceRecording], past: int, future: int
) -> np.ndarray:
  """What is heard around each frame, of all recordings: [ΣT, (past + 1 + future) F]."""
  n, rows = past + 1 + future, []
  for one in recordings:
    view = np.lib.stride_tricks.sliding_window_view(
      faces_data.pad_edges(one.audio_features, past, future), n, 0
    )
    rows.append(view.reshape(len(view), -1))
  return np.concatenate(rows)


def ridge_predictions(dataset: faces_data.FaceDataset, future: int) -> np.ndarray:
  """What a ridge regression makes of the same sound, for all recordings to test: [ΣT, C].

  Validation chooses how much of the past it hears, and its penalty.
  """
  from sklearn.linear_model import Ridge

  true, valid = (
    np.concatenate([one.face for one in part]) for part in (dataset.train, dataset.valid)
  )
  tried = []
  for past in CONTEXT_LENGTHS:
    parts = dataset.train, dataset.valid, dataset.test
    ours, theirs, others = (context_windows(part, past, future) for part in parts)
    for penalty in RIDGE_PENALTIES:
      ridge = Ridge(alpha=penalty).fit(ours, true)
      chosen, found = (ridge.predict(xs).reshape(len(xs), -1) for xs in (theirs, others))
      tried.append((np.mean((chosen - valid) ** 2), found))
  return min(tried, key=lambda pair: pair[0])[1]


def correlations(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """Pearson's r of each channel: [T, C] twice -> [C].

  It is nan where the truth stands still, and 0 where only the prediction does.
  """
  one, other = true - true.mean(0), predicted - predicted.mean(0)
  scale = np.sqrt((one**2).sum(0) * (other**2).sum(0))
  r = (one * other).sum(0) / np.where(scale > 0, scale, 1)
  return np.where(np.ptp(true, 0) > 0, r, np.nan)


def format_score_table(
  true: np.ndarray, predicted: np.ndarray, ridge_predicted: np.ndarray, names: Sequence
) -> str:
  """The root mean squared error and r of each channel, and r of a linear regression."""
  error = np.sqrt(((predicted - true) ** 2).mean(0))
  rows = zip(
    names, true.std(0), error, correlations(true, predicted), correlations(true, ridge_predicted)
  )
  lines = [f"{name:>7}{d:11.4f}{e:9.4f}{r:9.3f}{s:9.3f}" for name, d, e, r, s in rows]
  return "\n".join(["channel  deviation    error        r   linear", *lines])


def plot_predictions(
  png_path, gif_path, true: np.ndarray, predicted: np.ndarray, names: Sequence, fps: int
):
  """The channels that are followed best as curves, a PNG, and all of them as bars in motion, a GIF.

  Args:
    still, moving: where to.
    true, found: [T, C], of which the first seconds are drawn.
    names: of the channels, C.
    fps: frames a second.
  """
  r, end = np.nan_to_num(correlations(true, predicted), nan=-1), CLIP_SECONDS * fps
  best = np.argsort(-r)[:NUM_CURVES]
  titles = [f"channel {names[c]}\nr = {r[c]:.2f}" for c in best]
  plot_channel_curves(png_path, true[:end, best], predicted[:end, best], titles, fps)
  animate_channels(gif_path, true[:end], predicted[:end], names, fps)


def plot_channel_curves(path, true: np.ndarray, predicted: np.ndarray, names: Sequence, fps: int):
  """Draw each channel over time, as it was and as it was predicted: [T, C] twice. A PNG."""
  from matplotlib.figure import Figure

  figure = Figure((8, 0.6 + 1.1 * len(names)), dpi=DPI, layout="constrained")
  panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
  time = np.arange(len(true)) / fps
  for axes, name, *both in zip(panels, names, true.T, predicted.T):
    for ys, (label, colour) in zip(both, LINE_COLORS.items()):
      axes.plot(time, ys, color=colour, linewidth=1.5, label=label)
    axes.set_ylabel(name, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
  panels[0].legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
  panels[-1].set(xlabel="seconds", xlim=(0, time[-1]))
  figure.savefig(path, format="png")


def animate_channels(path, true: np.ndarray, predicted: np.ndarray, names: Sequence, fps: int):
  """Draw the channels as bars that move, as they did beside as predicted: [T, C] twice. A GIF."""
  from matplotlib.animation import PillowWriter
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure((6, 2.6), dpi=80, layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.add_subplot(xlabel="channel", ylabel="weight")
  places, both = np.arange(len(names)), (true, predicted)
  bars = [
    axes.bar(places + side, ys[0], 0.4, color=colour, label=label)
    for side, ys, (label, colour) in zip((-0.2, 0.2), both, LINE_COLORS.items())
  ]
  axes.set_xticks(places, names, fontsize=7)
  axes.set_ylim(min(0, np.min(both)), np.max(both))
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
  every = max(fps // GIF_FPS, 1)
  writer = PillowWriter(fps=fps / every)
  with writer.saving(figure, str(path), 80):
    for t in range(0, len(true), every):
      for bar, ys in zip(bars, both):
        for patch, y in zip(bar, ys[t]):
          patch.set_height(y)
      writer.grab_frame()
