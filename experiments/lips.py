"""Faces from voices: what is heard moves a face, which may wait a little for the sound to come.

  python -m experiments.lips                                             # a generated face
  python -m experiments.lips --preset=face --data_dir=facegood_audio_blendshape.zip --workdir=runs/face

A net that reads forward answers for frame t when it has heard frame t + delay, so it can close the
lips before the p (Suwajanakorn, Seitz & Kemelmacher-Shlizerman 2017). Validation chooses the delay.
"""

import dataclasses
import functools
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import cli, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.lip_sync import data as faces_data
from experiments.lip_sync import plots as pictures
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
WINDOWS_PER_RECORDING = 10  # batches of each recording, in an epoch


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which recordings", DATASETS)
  test_recordings: str = field_spec(
    "", "names of the recordings to test, with commas; the last one if empty"
  )
  fps: int = field_spec(30, "frames of the face a second", min_value=5)
  delays: str = field_spec(
    "0,8", "frames that the face waits for the sound: one, or some to choose of"
  )
  hidden_size: int = 64
  batch_size: int = 16
  max_train_length: int = field_spec(200, "frames of a window to train on", min_value=2)
  epochs: int = 6
  learning_rate: float = 1e-2
  weight_decay: float = field_spec(0.0, "decay of the weights", min_value=0)
  dropout: float = field_spec(
    0.1, "rate at which features vanish: in, between layers, out", **PROBABILITY
  )
  ema_decay: float = 0.9


def build(config: Config, num_channels: int) -> SequenceLabeler:
  """The model alone; it reads forward, as a stream does."""
  layer = forward(CELLS[config.cell](config.hidden_size), backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  return SequenceLabeler(encoder, num_channels, None, config.dropout, config.dropout)


def prepare(config: Config, data: faces_data.FaceDataset, delay: int):
  """Batches of what is heard, and beside it the face, that much later."""

  def batches(recordings, **batch_options):
    heard = [faces_data.pad_edges(one.audio_features, 0, delay) for one in recordings]
    face = {"face": [faces_data.pad_edges(one.face, delay, 0) for one in recordings]}
    return BucketedBatches(heard, None, config.batch_size, extras=face, **batch_options)

  many = data.train * WINDOWS_PER_RECORDING * config.batch_size  # a window is drawn of each
  train = batches(many, limit=config.max_train_length, keep="window", seed=config.seed)
  return SimpleNamespace(train=train, valid=batches(data.valid), test=batches(data.test))


def compute_metrics(ys, batch, delay: int):
  """Squared errors of the scaled channels, from where there is an answer on."""
  live = padding_mask(ys, batch["lengths"]) & (jnp.arange(len(ys))[:, None] >= delay)
  return {"loss": metrics.weighted_mean(((ys - batch["face"]) ** 2).mean(-1), live)}


def predict_recordings(model: SequenceLabeler, params, recordings, delay: int) -> np.ndarray:
  """What the net makes of whole recordings, each from its beginning to its end, in a row."""
  apply = jax.jit(lambda xs: model.apply({"params": params}, xs, jnp.array([len(xs)])))
  heard = (faces_data.pad_edges(one.audio_features, 0, delay) for one in recordings)
  return np.concatenate([apply(xs[:, None])[delay:, 0] for xs in heard])


def run(config: Config = Config()):
  """Trains with each delay, chooses on the validation part, tests once; returns the scores."""
  delays = config.delays.split(",")
  if not all(delay.isdecimal() and int(delay) < config.max_train_length for delay in delays):
    raise InvalidInputError(
      f"--delays must be like 0,4,8, less than --max_train_length; got {config.delays!r}"
    )
  seen = faces_data.load(config.dataset, config.data_dir, config.test_recordings, config.fps)
  text, skin = faces_data.standardize_dataset(seen)
  model, runs = build(config, len(text.channels)), {}
  for delay in map(int, delays):
    out = str(pathlib.Path(config.workdir) / f"delay_{delay}") if config.workdir else ""
    own = dataclasses.replace(config, delays=str(delay), workdir=out)
    task = tasks.supervised_task(model, functools.partial(compute_metrics, delay=delay))
    data, how = prepare(config, text, delay), dict(weight_decay=config.weight_decay, score="loss")
    runs[delay] = runs.fit(own, task, data, "cosine", **how)
  delay, run = max(runs.items(), key=lambda item: item[1].state.best_score)
  scores = {"dataset": text.name, "cell": config.cell, "seed": config.seed, "delay": delay}
  scores |= run.test()
  scores |= {f"valid/loss_delay_{delay}": -run.state.best_score for delay, run in runs.items()}
  true = np.concatenate([one.face for one in seen.test])
  found = skin.inverse(predict_recordings(model, run.best_params, text.test, delay))
  plain = skin.inverse(pictures.ridge_predictions(text, delay))
  for name, one in (("test", found), ("linear", plain)):
    scores[f"{name}/correlation"] = float(np.nanmean(pictures.correlations(true, one)))
    scores[f"{name}/error"] = float(np.mean(((one - true) / skin.std) ** 2))
  print(pictures.format_score_table(true, found, plain, text.channels))
  if config.workdir:
    places = (runs.figure(config.workdir, name) for name in ("curves.png", "face.gif"))
    pictures.plot_predictions(*places, true, found, text.channels, config.fps)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
