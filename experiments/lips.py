"""Faces from voices: what is heard moves a face, which may wait a little for the sound to come.

  python -m experiments.lips                                             # a generated face
  python -m experiments.lips --preset=face --data_dir=facegood_audio_blendshape.zip --out=runs/face

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
from experiments.common.train_config import CELLS, RATE, option
from experiments.lip_sync import data as faces_data
from experiments.lip_sync import plots as pictures
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.files import DATASETS
from rnnjax.masking import alive
from rnnjax.models.sequence_labeler import Frames
from rnnjax.training import metrics, tasks
from rnnjax.types import BadInput

PRESETS = {
  "face": dict(
    test="1114_2_05,1114_3_16",
    delays="0,3,6",
    hidden=128,
    epochs=5,
    rate=4e-3,
    dropout=0.3,
    decay=0.3,
    average=0.99,
  ),
}
WINDOWS = 10  # batches of each recording, in an epoch


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  dataset: str = option("auto", "which recordings", DATASETS)
  test: str = option("", "names of the recordings to test, with commas; the last one if empty")
  fps: int = option(30, "frames of the face a second", low=5)
  delays: str = option("0,8", "frames that the face waits for the sound: one, or some to choose of")
  hidden: int = 64
  batch: int = 16
  window: int = option(200, "frames of a window to train on", low=2)
  epochs: int = 6
  rate: float = 1e-2
  decay: float = option(0.0, "decay of the weights", low=0)
  dropout: float = option(0.1, "rate at which features vanish: in, between layers, out", **RATE)
  average: float = 0.9


def build(config: Config, channels: int) -> Frames:
  """The model alone; it reads forward, as a stream does."""
  layer = forward(CELLS[config.cell](config.hidden), backend=config.backend)
  encoder = stack(*[layer] * config.layers, dropout=config.dropout)
  return Frames(encoder, channels, None, config.dropout, config.dropout)


def prepare(config: Config, text: faces_data.Faces, delay: int):
  """Batches of what is heard, and beside it the face, that much later."""

  def batches(takes, **how):
    heard = [faces_data.longer(one.heard, 0, delay) for one in takes]
    face = {"face": [faces_data.longer(one.face, delay, 0) for one in takes]}
    return Batches(heard, None, config.batch, beside=face, **how)

  many = text.train * WINDOWS * config.batch  # a window is drawn of each
  train = batches(many, limit=config.window, keep="window", seed=config.seed)
  return SimpleNamespace(train=train, valid=batches(text.valid), test=batches(text.test))


def measure(ys, batch, delay: int):
  """Squared errors of the scaled channels, from where there is an answer on."""
  live = alive(ys, batch["lengths"]) & (jnp.arange(len(ys))[:, None] >= delay)
  return {"loss": metrics.mean(((ys - batch["face"]) ** 2).mean(-1), live)}


def follow(model: Frames, params, takes, delay: int) -> np.ndarray:
  """What the net makes of whole recordings, each from its beginning to its end, in a row."""
  apply = jax.jit(lambda xs: model.apply({"params": params}, xs, jnp.array([len(xs)])))
  heard = (faces_data.longer(one.heard, 0, delay) for one in takes)
  return np.concatenate([apply(xs[:, None])[delay:, 0] for xs in heard])


def run(config: Config = Config()):
  """Trains with each delay, chooses on the validation part, tests once; returns the scores."""
  delays = config.delays.split(",")
  if not all(delay.isdecimal() and int(delay) < config.window for delay in delays):
    raise BadInput(f"--delays must be like 0,4,8, less than --window; got {config.delays!r}")
  seen = faces_data.load(config.dataset, config.data_dir, config.test, config.fps)
  text, skin = faces_data.scaled(seen)
  model, runs = build(config, len(text.channels)), {}
  for delay in map(int, delays):
    out = str(pathlib.Path(config.out) / f"delay_{delay}") if config.out else ""
    own = dataclasses.replace(config, delays=str(delay), out=out)
    task = tasks.supervised(model, functools.partial(measure, delay=delay))
    data, how = prepare(config, text, delay), dict(weight_decay=config.decay, score="loss")
    runs[delay] = runs.fit(own, task, data, "cosine", **how)
  delay, run = max(runs.items(), key=lambda item: item[1].progress.score)
  scores = {"dataset": text.name, "cell": config.cell, "seed": config.seed, "delay": delay}
  scores |= run.test()
  scores |= {f"valid/loss_delay_{delay}": -run.progress.score for delay, run in runs.items()}
  true = np.concatenate([one.face for one in seen.test])
  found = skin.inverse(follow(model, run.best, text.test, delay))
  plain = skin.inverse(pictures.linear(text, delay))
  for name, one in (("test", found), ("linear", plain)):
    scores[f"{name}/correlation"] = float(np.nanmean(pictures.correlations(true, one)))
    scores[f"{name}/error"] = float(np.mean(((one - true) / skin.deviation) ** 2))
  print(pictures.table(true, found, plain, text.channels))
  if config.out:
    places = (runs.figure(config.out, name) for name in ("curves.png", "face.gif"))
    pictures.draw(*places, true, found, text.channels, config.fps)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
