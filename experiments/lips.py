"""Lip sync: predict the motion of a face from speech, frame by frame.

  python -m experiments.lips                                # a generated face
  python -m experiments.lips --preset=face --data_dir=facegood_audio_blendshape.zip

The encoder is unidirectional. It outputs the face of frame t after the audio of frame t + delay,
so it can close the lips before a p (Suwajanakorn, Seitz & Kemelmacher-Shlizerman 2017). One model
is trained for each delay, and the model with the lowest validation loss is tested.
"""

import dataclasses
import functools
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.lip_sync import data as faces_data
from experiments.lip_sync import plots
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import DATASETS
from rnnjax.masking import padding_mask
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import metrics, tasks
from rnnjax.types import InvalidInputError

PRESETS = {
  "face": dict(
    test_recordings="1114_2_05,1114_3_16",
    delays="0,3,6",
    hidden_size=128,
    epochs=5,
    learning_rate=4e-3,
    dropout=0.3,
    weight_decay=0.3,
    ema_decay=0.99,
  ),
}
WINDOWS_PER_RECORDING = 10  # batches of random windows per recording and epoch


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "source of the recordings", DATASETS)
  test_recordings: str = field_spec(
    "", "comma-separated names of the test recordings; empty for the last one"
  )
  fps: int = field_spec(30, "frames of the face per second", min_value=5)
  delays: str = field_spec(
    "0,8", "comma-separated delays of the face after the audio, in frames; validation selects one"
  )
  hidden_size: int = 64
  batch_size: int = 16
  max_train_length: int = field_spec(200, "frames of a training window", min_value=2)
  epochs: int = 6
  learning_rate: float = 1e-2
  weight_decay: float = field_spec(0.0, "weight decay of AdamW", min_value=0)
  dropout: float = field_spec(
    0.1, "dropout rate of the inputs, between layers and before the output layer", **PROBABILITY
  )
  ema_decay: float = 0.9


def build(config: Config, num_channels: int) -> SequenceLabeler:
  """Return the unidirectional model that the configuration specifies."""
  layer = forward(make_cell(config.cell, config.hidden_size), backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  return SequenceLabeler(encoder, num_channels, None, config.dropout, config.dropout)


def prepare(config: Config, data: faces_data.FaceDataset, delay: int):
  """Return a namespace with the batches `train`, `valid` and `test`.

  The inputs are audio features. The targets batch["face"] are delayed by `delay` frames.
  """

  def make_batches(recordings, **batch_options):
    audio = [faces_data.pad_edges(rec.audio_features, 0, delay) for rec in recordings]
    extras = {"face": [faces_data.pad_edges(rec.face, delay, 0) for rec in recordings]}
    return BucketedBatches(audio, None, config.batch_size, extras=extras, **batch_options)

  # An epoch contains one random window of each copy of a recording.
  train = make_batches(
    data.train * WINDOWS_PER_RECORDING * config.batch_size,
    max_length=config.max_train_length,
    truncation="window",
    seed=config.seed,
  )
  return SimpleNamespace(train=train, valid=make_batches(data.valid), test=make_batches(data.test))


def compute_metrics(ys, batch, delay: int):
  """Return {"loss": mean squared error over steps and standardized channels}.

  Args:
    ys: predictions [T, B, C].
    batch: {"face": [T, B, C], "lengths": [B]}.
    delay: the number of initial steps to exclude. At these steps, the model predicts frames before
      the start of the recording.
  """
  mask = padding_mask(ys, batch["lengths"]) & (jnp.arange(len(ys))[:, None] >= delay)
  return {"loss": metrics.weighted_mean(((ys - batch["face"]) ** 2).mean(-1), mask)}


def predict_recordings(model: SequenceLabeler, params, recordings, delay: int) -> np.ndarray:
  """Predict the faces of full recordings; return all frames concatenated, [ΣT, C]."""
  apply = jax.jit(lambda xs: model.apply({"params": params}, xs, jnp.array([len(xs)])))
  audio = (faces_data.pad_edges(rec.audio_features, 0, delay) for rec in recordings)
  return np.concatenate([apply(xs[:, None])[delay:, 0] for xs in audio])


def run(config: Config = Config()):
  """Train one model per delay, select one by validation loss, and evaluate it on the test set.

  Returns:
    The scores of the model, and the scores of a ridge regression ("linear/...").

  Raises:
    InvalidInputError: --delays is not a list of integers less than --max_train_length, or the data
      are invalid.
  """
  delays = config.delays.split(",")
  if not all(delay.isdecimal() and int(delay) < config.max_train_length for delay in delays):
    raise InvalidInputError(
      f"--delays must be like 0,4,8, each less than --max_train_length; got {config.delays!r}"
    )
  dataset = faces_data.load(config.dataset, config.data_dir, config.test_recordings, config.fps)
  scaled_dataset, face_scaler = faces_data.standardize_dataset(dataset)
  channels = scaled_dataset.channels
  model = build(config, len(channels))
  runs = {}
  for delay in map(int, delays):
    workdir = str(pathlib.Path(config.workdir) / f"delay_{delay}") if config.workdir else ""
    delay_config = dataclasses.replace(config, delays=str(delay), workdir=workdir)
    task = tasks.supervised_task(model, functools.partial(compute_metrics, delay=delay))
    batches = prepare(config, scaled_dataset, delay)
    runs[delay] = runner.train(
      delay_config, task, batches, "cosine", weight_decay=config.weight_decay, metric="loss"
    )
  # `best_score` is the negative of the validation loss.
  best_delay = max(runs, key=lambda delay: runs[delay].state.best_score)
  best_run = runs[best_delay]
  scores = {
    "dataset": scaled_dataset.name,
    "cell": config.cell,
    "seed": config.seed,
    "delay": best_delay,
  }
  scores |= best_run.test()
  scores |= {f"valid/loss_delay_{delay}": -run.state.best_score for delay, run in runs.items()}
  true = np.concatenate([recording.face for recording in dataset.test])
  predicted = face_scaler.inverse(
    predict_recordings(model, best_run.best_params, scaled_dataset.test, best_delay)
  )
  # The regression and the model use the same number of future frames.
  ridge_predicted = face_scaler.inverse(plots.ridge_predictions(scaled_dataset, best_delay))
  for name, predictions in (("test", predicted), ("linear", ridge_predicted)):
    scores[f"{name}/correlation"] = float(np.nanmean(plots.correlations(true, predictions)))
    scores[f"{name}/error"] = float(np.mean(((predictions - true) / face_scaler.std) ** 2))
  print(plots.format_score_table(true, predicted, ridge_predicted, channels))
  if config.workdir:
    png_path, gif_path = (
      runner.figure_file(config.workdir, name) for name in ("curves.png", "face.gif")
    )
    plots.plot_predictions(png_path, gif_path, true, predicted, channels, config.fps)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
