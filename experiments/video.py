"""What is being done, frame by frame: noisy scores of single frames in, a label for each out.

python -m experiments.video                                       # generated recipes
python -m experiments.video --preset=salads --data_dir=video      # 50 Salads: 0.640 of frames
"""

import dataclasses
import functools
import pathlib
from types import SimpleNamespace

import jax
import numpy as np

from experiments.action_segmentation import data as video_data
from experiments.action_segmentation import segment_metrics
from experiments.action_segmentation.plots import timelines
from experiments.common import cli, runner, train_config
from experiments.common.train_config import RATE, option
from rnnjax import crf
from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.files import DATASETS
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks
from rnnjax.types import BadInput

PRESETS = {"salads": dict(split=0, epochs=60, dropout=0.5, input_dropout=0.2)}
HELD, SHOWN, LOOK = 7, 5, 5  # one in so many validates; videos in a figure; epochs per look


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  dataset: str = option("auto", "which videos", DATASETS)
  level: str = option("mid", "how finely actions are told apart", video_data.LEVELS)
  split: int = option(1, "the fold that tests; 0 for each in turn, and their mean", low=0)
  cell: str = "gru"
  hidden: int = 64
  batch: int = 8
  rate: float = 5e-3
  epochs: int = 20
  bidirectional: bool = option(True, "read in both directions")
  crf: bool = option(True, "labels of a video as a whole, instead of each by itself")
  input_dropout: float = option(0.0, "rate at which scores of a class vanish", **RATE)
  dropout: float = option(0.2, "rate between layers and before the last one", **RATE)
  average: float = 0.98


def build(config: Config, classes: int) -> Tagger:
  """The model alone."""
  last = crf.linear_chain(classes) if config.crf else crf.independent(classes)
  rates = dict(input_dropout=config.input_dropout, output_dropout=config.dropout)
  return Tagger(jax.nn.identity, train_config.encoder(config), last, **rates)


def batches(videos: list[video_data.Video], batch: int, seed: int | None = None) -> Batches:
  """Scores, and labels as tags."""
  how = dict(seed=seed, buckets=1, beside={"tags": [one.labels for one in videos]})
  return Batches([one.scores for one in videos], range(len(videos)), batch, **how)


def prepare(config: Config, data: video_data.Folds):
  """The fold that tests, and the others, of which some videos validate, as batches."""
  rest = [one for n, fold in enumerate(data.folds, 1) if n != config.split for one in fold]
  if len(rest) < 2:
    raise BadInput(f"{data.name} must have two videos beside those that test; it has {len(rest)}")
  train = batches([one for n, one in enumerate(rest) if n % HELD], config.batch, config.seed)
  valid, test = (batches(p, config.batch) for p in (rest[::HELD], data.folds[config.split - 1]))
  return SimpleNamespace(train=train, valid=valid, test=test)


@functools.partial(jax.jit, static_argnums=0)
def read(model: Tagger, params, batch):
  """The likeliest labels [T, B]."""
  last, scores = model.apply({"params": params}, batch["tokens"], batch["lengths"])
  return model.tags.best(last, scores, batch["lengths"])


def learn(config: Config, data: video_data.Folds, model: Tagger, task: tasks.Task):
  """Trains for one split; returns its scores, and the labels [T] found in each of its videos."""
  parts, videos = prepare(config, data), data.folds[config.split - 1]
  run = runner.fit(config, task, parts, warmup=0.1, every=LOOK * len(parts.train))
  scores = run.test()
  whole = next(iter(batches(videos, len(videos))))  # by length
  best = np.asarray(read(model, run.best, whole))
  found = [best[: whole["lengths"][b], b] for b in np.argsort(whole["labels"])]
  true, said = [one.labels for one in videos], [one.said for one in videos]
  for name, labels in (("test", found), ("input", said)):
    scores |= {
      f"{name}/{key}": score for key, score in segment_metrics.judge(labels, true, 0).items()
    }
  return scores, found


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once, for each split; returns mean scores."""
  data = video_data.load(config.dataset, config.data_dir, config.level)
  if config.split > len(data.folds):
    raise BadInput(f"--split must be one of {len(data.folds)}, or 0 for all; got {config.split}")
  out, model = pathlib.Path(config.out).expanduser(), build(config, data.classes)
  task, rows, every = tasks.tagging(model), [], []
  for n in [config.split] if config.split else range(1, len(data.folds) + 1):
    own = dataclasses.replace(config, split=n, out=config.out and str(out / f"split_{n}"))
    scores, found = learn(own, data, model, task)
    every.append(scores)
    for one, labels in [*zip(data.folds[n - 1], found)][: SHOWN if config.split else 1]:
      rows.append((f"split {n}", {"truth": one.labels, "input": one.said, "ours": labels}))
  if config.out:
    timelines(runner.figure(config.out, "timelines.png"), rows, data.classes)
  mean = {name: float(np.mean([one[name] for one in every])) for name in every[0]}
  mean["parameters"] = every[0]["parameters"]
  return {"dataset": data.name, "cell": config.cell, "seed": config.seed} | mean


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
