"""Scores and plots of predicted face motion, with a ridge regression as the baseline."""

from collections.abc import Sequence

import numpy as np

from experiments.lip_sync import data as faces_data
from rnnjax.analysis.figures import DPI

CONTEXT_LENGTHS = (5, 15)  # candidate numbers of past frames in the ridge regression's inputs
RIDGE_PENALTIES = (1e3, 1e4)  # candidate penalties of the ridge regression
LINE_COLORS = {"true": "#b0b5bb", "predicted": "#f47362"}
NUM_CURVES = 6  # number of channels in curves.png
CLIP_SECONDS = 10  # duration shown in both figures
GIF_FPS = 10


def context_windows(
  recordings: list[faces_data.FaceRecording], past: int, future: int
) -> np.ndarray:
  """Return the concatenated audio features of frames t − past to t + future for each frame t.

  Returns:
    The windows [ΣT, (past + 1 + future) F] of the frames of all recordings, ΣT in total.
  """
  n = past + 1 + future
  windows = []
  for recording in recordings:
    view = np.lib.stride_tricks.sliding_window_view(
      faces_data.pad_edges(recording.audio_features, past, future), n, 0
    )
    windows.append(view.reshape(len(view), -1))
  return np.concatenate(windows)


def ridge_predictions(dataset: faces_data.FaceDataset, future: int) -> np.ndarray:
  """Fit ridge regressions from audio to face; return the predictions [ΣT, C] for the test set.

  The penalty and the number of past frames are selected by the validation error.

  Args:
    dataset: the standardized data set.
    future: the number of future audio frames in the inputs of the regression.
  """
  from sklearn.linear_model import Ridge

  train_face, valid_face = (
    np.concatenate([recording.face for recording in split])
    for split in (dataset.train, dataset.valid)
  )
  best_error = np.inf
  best_predictions = None
  for past in CONTEXT_LENGTHS:
    splits = dataset.train, dataset.valid, dataset.test
    train_xs, valid_xs, test_xs = (context_windows(split, past, future) for split in splits)
    for penalty in RIDGE_PENALTIES:
      ridge = Ridge(alpha=penalty).fit(train_xs, train_face)
      valid_predictions, test_predictions = (
        ridge.predict(xs).reshape(len(xs), -1) for xs in (valid_xs, test_xs)
      )
      error = np.mean((valid_predictions - valid_face) ** 2)
      if error < best_error:
        best_error = error
        best_predictions = test_predictions
  return best_predictions


def correlations(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """Return Pearson's r [C] between the true and predicted values [T, C] of each channel.

  If the true channel is constant, r is NaN. If only the predicted channel is constant, r is 0.
  """
  true_centered, predicted_centered = true - true.mean(0), predicted - predicted.mean(0)
  scale = np.sqrt((true_centered**2).sum(0) * (predicted_centered**2).sum(0))
  r = (true_centered * predicted_centered).sum(0) / np.where(scale > 0, scale, 1)
  return np.where(np.ptp(true, 0) > 0, r, np.nan)


def format_score_table(
  true: np.ndarray, predicted: np.ndarray, ridge_predicted: np.ndarray, names: Sequence
) -> str:
  """Return a text table with the standard deviation, RMSE and correlation r of each channel.

  The last column is the correlation r of the ridge regression's predictions.
  """
  rmse = np.sqrt(((predicted - true) ** 2).mean(0))
  rows = zip(
    names, true.std(0), rmse, correlations(true, predicted), correlations(true, ridge_predicted)
  )
  lines = [f"{name:>7}{d:11.4f}{e:9.4f}{r:9.3f}{s:9.3f}" for name, d, e, r, s in rows]
  return "\n".join(["channel  deviation    error        r   linear", *lines])


def plot_predictions(
  png_path, gif_path, true: np.ndarray, predicted: np.ndarray, names: Sequence, fps: int
):
  """Plot the channels with the highest correlation as curves; animate all channels as bars.

  Args:
    png_path: the PNG file of the curves.
    gif_path: the GIF file of the animation.
    true: the true values [T, C]. Both figures show the first CLIP_SECONDS.
    predicted: the predicted values [T, C].
    names: the names of the C channels.
    fps: frames per second of `true` and `predicted`.
  """
  r = np.nan_to_num(correlations(true, predicted), nan=-1)
  end = CLIP_SECONDS * fps
  best = np.argsort(-r)[:NUM_CURVES]
  titles = [f"channel {names[c]}\nr = {r[c]:.2f}" for c in best]
  plot_channel_curves(png_path, true[:end, best], predicted[:end, best], titles, fps)
  animate_channels(gif_path, true[:end], predicted[:end], names, fps)


def plot_channel_curves(path, true: np.ndarray, predicted: np.ndarray, names: Sequence, fps: int):
  """Plot the true and predicted values [T, C] of each channel over time to a PNG file."""
  from matplotlib.figure import Figure

  figure = Figure((8, 0.6 + 1.1 * len(names)), dpi=DPI, layout="constrained")
  panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
  time = np.arange(len(true)) / fps
  for axes, name, *both in zip(panels, names, true.T, predicted.T):
    for ys, (label, color) in zip(both, LINE_COLORS.items()):
      axes.plot(time, ys, color=color, linewidth=1.5, label=label)
    axes.set_ylabel(name, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
  panels[0].legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
  panels[-1].set(xlabel="seconds", xlim=(0, time[-1]))
  figure.savefig(path, format="png")


def animate_channels(path, true: np.ndarray, predicted: np.ndarray, names: Sequence, fps: int):
  """Animate the true and predicted values [T, C] of all channels as bars in a GIF file."""
  from matplotlib.animation import PillowWriter
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure((6, 2.6), dpi=80, layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.add_subplot(xlabel="channel", ylabel="weight")
  positions = np.arange(len(names))
  both = true, predicted
  bars = [
    axes.bar(positions + offset, ys[0], 0.4, color=color, label=label)
    for offset, ys, (label, color) in zip((-0.2, 0.2), both, LINE_COLORS.items())
  ]
  axes.set_xticks(positions, names, fontsize=7)
  axes.set_ylim(min(0, np.min(both)), np.max(both))
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
  stride = max(fps // GIF_FPS, 1)
  writer = PillowWriter(fps=fps / stride)
  with writer.saving(figure, str(path), 80):
    for t in range(0, len(true), stride):
      for bar, ys in zip(bars, both):
        for patch, y in zip(bar, ys[t]):
          patch.set_height(y)
      writer.grab_frame()
