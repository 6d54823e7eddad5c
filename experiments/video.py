"""Action segmentation: label every video frame, given the noisy scores of a frame classifier.

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
VALIDATION_STRIDE = 7  # every 7th video outside the test fold is used for validation
NUM_PLOTTED_VIDEOS = 5  # number of videos in the figure for one fold
EPOCHS_PER_VALIDATION = 5


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "source of the videos", DATASETS)
  granularity: str = field_spec("mid", "granularity of the actions", video_data.GRANULARITIES)
  fold: int = field_spec(1, "test fold; 0 for the mean over all folds", min_value=0)
  cell: str = "gru"
  hidden_size: int = 64
  batch_size: int = 8
  learning_rate: float = 5e-3
  epochs: int = 20
  bidirectional: bool = field_spec(True, "bidirectional encoder")
  crf: bool = field_spec(True, "CRF output layer instead of independent labels")
  input_dropout: float = field_spec(0.0, "dropout rate of the input scores", **PROBABILITY)
  dropout: float = field_spec(
    0.2, "dropout rate between layers and before the output layer", **PROBABILITY
  )
  ema_decay: float = 0.98


def build(config: Config, num_classes: int) -> Tagger:
  """Return the model that the configuration specifies."""
  tag_layer = crf.linear_chain(num_classes) if config.crf else crf.independent(num_classes)
  return Tagger(
    jax.nn.identity,
    train_config.build_encoder(config),
    tag_layer,
    input_dropout=config.input_dropout,
    output_dropout=config.dropout,
  )


def make_batches(
  videos: list[video_data.Video], batch_size: int, seed: int | None = None
) -> BucketedBatches:
  """Return batches of classifier scores.

  batch["tags"] are the frame labels, and batch["labels"] are the video indices.
  """
  return BucketedBatches(
    [video.scores for video in videos],
    range(len(videos)),
    batch_size,
    max_buckets=1,
    seed=seed,
    extras={"tags": [video.labels for video in videos]},
  )


def prepare(config: Config, data: video_data.VideoFolds):
  """Return a namespace with the batches `train`, `valid` and `test`.

  `test` contains the videos of fold `config.fold`. `train` and `valid` contain all other videos.

  Raises:
    InvalidInputError: the other folds contain fewer than two videos.
  """
  other_videos = [
    video for n, fold in enumerate(data.folds, 1) if n != config.fold for video in fold
  ]
  if len(other_videos) < 2:
    raise InvalidInputError(
      f"{data.name} must have at least two videos outside the test fold; it has {len(other_videos)}"
    )
  train = [video for n, video in enumerate(other_videos) if n % VALIDATION_STRIDE]
  return SimpleNamespace(
    train=make_batches(train, config.batch_size, config.seed),
    valid=make_batches(other_videos[::VALIDATION_STRIDE], config.batch_size),
    test=make_batches(data.folds[config.fold - 1], config.batch_size),
  )


@functools.partial(jax.jit, static_argnums=0)
def predict_labels(model: Tagger, params, batch):
  """Return the most likely frame labels [T, B]."""
  tag_params, scores = model.apply({"params": params}, batch["tokens"], batch["lengths"])
  return model.tag_layer.best_tags(tag_params, scores, batch["lengths"])


def train_fold(config: Config, data: video_data.VideoFolds, model: Tagger, task: tasks.Task):
  """Train on all folds except the test fold `config.fold`.

  Returns:
    The scores of the model ("test/...") and of the classifier whose scores are the model's input
    ("input/..."), and the predicted labels [T] of each test video.
  """
  batches = prepare(config, data)
  videos = data.folds[config.fold - 1]
  trainer = runner.train(
    config,
    task,
    batches,
    warmup_fraction=0.1,
    eval_every=EPOCHS_PER_VALIDATION * len(batches.train),
  )
  scores = trainer.test()
  test_batch = next(iter(make_batches(videos, len(videos))))  # all test videos, sorted by length
  tags = np.asarray(predict_labels(model, trainer.best_params, test_batch))
  predicted = [
    tags[: test_batch["lengths"][b], b] for b in np.argsort(test_batch["labels"])
  ]  # in the order of the fold
  true = [video.labels for video in videos]
  input_predicted = [video.predictions for video in videos]
  for name, labels in (("test", predicted), ("input", input_predicted)):
    segment_scores = segment_metrics.segmentation_scores(labels, true, 0)
    scores |= {f"{name}/{key}": score for key, score in segment_scores.items()}
  return scores, predicted


def run(config: Config = Config()):
  """Train and evaluate once for each test fold, and return the mean scores.

  Raises:
    InvalidInputError: the fold does not exist, or the data are invalid.
  """
  data = video_data.load(config.dataset, config.data_dir, config.granularity)
  if config.fold > len(data.folds):
    raise InvalidInputError(
      f"--fold must be 1 to {len(data.folds)}, or 0 for all folds; got {config.fold}"
    )
  workdir = pathlib.Path(config.workdir).expanduser()
  model = build(config, data.num_classes)
  task = tasks.tagging_task(model)
  panels = []
  fold_scores = []
  for n in [config.fold] if config.fold else range(1, len(data.folds) + 1):
    fold_config = dataclasses.replace(
      config, fold=n, workdir=config.workdir and str(workdir / f"split_{n}")
    )
    scores, predicted = train_fold(fold_config, data, model, task)
    fold_scores.append(scores)
    num_shown = NUM_PLOTTED_VIDEOS if config.fold else 1
    for video, labels in [*zip(data.folds[n - 1], predicted)][:num_shown]:
      strips = {"truth": video.labels, "input": video.predictions, "ours": labels}
      panels.append((f"split {n}", strips))
  if config.workdir:
    plot_timelines(runner.figure_file(config.workdir, "timelines.png"), panels, data.num_classes)
  mean = {name: float(np.mean([scores[name] for scores in fold_scores])) for name in fold_scores[0]}
  mean["parameters"] = fold_scores[0]["parameters"]
  return {"dataset": data.name, "cell": config.cell, "seed": config.seed} | mean


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
