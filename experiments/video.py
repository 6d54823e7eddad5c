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
from experiments.action_segmentation.plots import plot_timelines
from experiments.common import cli, runner, train_config
from experiments.common.train_config import PROBABILITY, field_spec
from rnnjax import crf
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import DATASETS
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

PRESETS = {"salads": dict(fold=0, epochs=60, dropout=0.5, input_dropout=0.2)}
VALIDATION_STRIDE, NUM_PLOTTED_VIDEOS, EPOCHS_PER_VALIDATION = (
  7,
  5,
  5,
)  # one in so many validates; videos in a figure; epochs per look


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which videos", DATASETS)
  granularity: str = field_spec(
    "mid", "how finely actions are told apart", video_data.GRANULARITIES
  )
  fold: int = field_spec(1, "the fold that tests; 0 for each in turn, and their mean", min_value=0)
  cell: str = "gru"
  hidden_size: int = 64
  batch_size: int = 8
  learning_rate: float = 5e-3
  epochs: int = 20
  bidirectional: bool = field_spec(True, "read in both directions")
  crf: bool = field_spec(True, "labels of a video as a whole, instead of each by itself")
  input_dropout: float = field_spec(0.0, "rate at which scores of a class vanish", **PROBABILITY)
  dropout: float = field_spec(0.2, "rate between layers and before the last one", **PROBABILITY)
  ema_decay: float = 0.98


def build(config: Config, num_classes: int) -> Tagger:
  """The model alone."""
  last = crf.linear_chain(num_classes) if config.crf else crf.independent(num_classes)
  rates = dict(input_dropout=config.input_dropout, output_dropout=config.dropout)
  return Tagger(jax.nn.identity, train_config.build_encoder(config), last, **rates)


def make_batches(
  videos: list[video_data.Video], batch_size: int, seed: int | None = None
) -> BucketedBatches:
  """Scores, and labels as tags."""
  how = dict(seed=seed, buckets=1, beside={"tags": [one.labels for one in videos]})
  return BucketedBatches([one.scores for one in videos], range(len(videos)), batch_size, **how)


def prepare(config: Config, data: video_data.VideoFolds):
  """The fold that tests, and the others, of which some videos validate, as batches."""
  rest = [one for n, fold in enumerate(data.folds, 1) if n != config.fold for one in fold]
  if len(rest) < 2:
    raise InvalidInputError(
      f"{data.name} must have two videos beside those that test; it has {len(rest)}"
    )
  train = make_batches(
    [one for n, one in enumerate(rest) if n % VALIDATION_STRIDE], config.batch_size, config.seed
  )
  valid, test = (
    make_batches(p, config.batch_size)
    for p in (rest[::VALIDATION_STRIDE], data.folds[config.fold - 1])
  )
  return SimpleNamespace(train=train, valid=valid, test=test)


@functools.partial(jax.jit, static_argnums=0)
def predict_labels(model: Tagger, params, batch):
  """The likeliest labels [T, B]."""
  last, scores = model.apply({"params": params}, batch["tokens"], batch["lengths"])
  return model.tag_layer.best_tags(last, scores, batch["lengths"])


def train_fold(config: Config, data: video_data.VideoFolds, model: Tagger, task: tasks.Task):
  """Trains for one split; returns its scores, and the labels [T] found in each of its videos."""
  parts, videos = prepare(config, data), data.folds[config.fold - 1]
  run = runner.train(
    config, task, parts, warmup_fraction=0.1, every=EPOCHS_PER_VALIDATION * len(parts.train)
  )
  scores = run.test()
  whole = next(iter(make_batches(videos, len(videos))))  # by length
  best = np.asarray(predict_labels(model, run.best_params, whole))
  found = [best[: whole["lengths"][b], b] for b in np.argsort(whole["labels"])]
  true, said = [one.labels for one in videos], [one.predictions for one in videos]
  for name, labels in (("test", found), ("input", said)):
    scores |= {
      f"{name}/{key}": score
      for key, score in segment_metrics.segmentation_scores(labels, true, 0).items()
    }
  return scores, found


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once, for each split; returns mean scores."""
  data = video_data.load(config.dataset, config.data_dir, config.granularity)
  if config.fold > len(data.folds):
    raise InvalidInputError(
      f"--fold must be one of {len(data.folds)}, or 0 for all; got {config.fold}"
    )
  out, model = pathlib.Path(config.workdir).expanduser(), build(config, data.num_classes)
  task, rows, every = tasks.tagging_task(model), [], []
  for n in [config.fold] if config.fold else range(1, len(data.folds) + 1):
    own = dataclasses.replace(config, fold=n, workdir=config.workdir and str(out / f"split_{n}"))
    scores, found = train_fold(own, data, model, task)
    every.append(scores)
    for one, labels in [*zip(data.folds[n - 1], found)][: NUM_PLOTTED_VIDEOS if config.fold else 1]:
      rows.append((f"split {n}", {"truth": one.labels, "input": one.predictions, "ours": labels}))
  if config.workdir:
    plot_timelines(runner.figure_file(config.workdir, "timelines.png"), rows, data.num_classes)
  mean = {name: float(np.mean([one[name] for one in every])) for name in every[0]}
  mean["parameters"] = every[0]["parameters"]
  return {"dataset": data.name, "cell": config.cell, "seed": config.seed} | mean


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
