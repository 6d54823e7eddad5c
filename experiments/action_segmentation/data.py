"""Videos with a label for every frame, in folds.

  embedded   generated recipes, in which what one sees is not enough
  files      a folder or .zip archive with one MATLAB file for each fold, such as
             50salads_mid_split1.mat to 50salads_mid_split5.mat (Stein & McKenna 2013; Lea et al.
             2017): Y labels, S scores of each class, P the classes that these would say, a cell
             for each video

Label 0 is the background.
"""

import itertools
import pathlib
import re
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, use_files
from rnnjax.data.mat import read_cells
from rnnjax.types import InvalidInputError

GRANULARITIES = ("mid", "eval")
NUM_OBJECTS, NUM_FOLDS, RECIPES_PER_FOLD = 3, 5, 100  # of the generated ones; recipes in a fold
NOISE_STD = 1.0  # in their scores, whose truth is 1 or 0


class Video(NamedTuple):
  """Of every frame the scores [T, K] that a classifier of single frames gives, the label [T], and
  the label that the classifier would say [T]."""

  scores: np.ndarray
  labels: np.ndarray
  predictions: np.ndarray


class VideoFolds(NamedTuple):
  """Videos in folds, of which each is a test part once; labels lie below `classes`."""

  name: str
  num_classes: int
  folds: list[list[Video]]


def load(dataset: str = "auto", data_dir: str = "", granularity: str = "mid") -> VideoFolds:
  """Loads videos.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive of the files.
    level: one of LEVELS: how finely the files tell actions apart.

  Raises:
    BadInput: files that are missing, damaged, or do not fit one another.
  """
  if granularity not in GRANULARITIES:
    raise InvalidInputError(f"the level must be one of {GRANULARITIES}; got {granularity!r}")
  if use_files(dataset, data_dir, "generated recipes", "FOLDER reads 50 Salads"):
    return load_files(data_dir, granularity)
  draw = np.random.default_rng(0)
  made = [[generate_recipe(draw) for _ in range(RECIPES_PER_FOLD)] for _ in range(NUM_FOLDS)]
  return VideoFolds("embedded", 1 + 2 * NUM_OBJECTS, made)


def generate_recipe(rng: np.random.Generator) -> Video:
  """A recipe: each of three things is taken once, and put back later.

  Taking (1, 2, 3) and putting back (4, 5, 6) look alike, and scores are noisy. So single frames
  tell at best half of the actions, many frames together what is in hand, and only who has seen
  whether it was in hand before can know which it is.
  """
  frames, seen = [], set()
  order = rng.permutation([*range(NUM_OBJECTS)] * 2)
  while any(a == b for a, b in itertools.pairwise(order)):
    order = rng.permutation(order)
  for look in order:
    label = 1 + look + NUM_OBJECTS * (look in seen)
    seen.add(look)
    frames += [0] * rng.integers(1, 6) + [label] * rng.integers(6, 25)
  labels = np.array([*frames, 0])
  look = np.where(labels > 0, (labels - 1) % NUM_OBJECTS + 1, 0)
  known = np.array([0, *[1 + i % NUM_OBJECTS for i in range(2 * NUM_OBJECTS)]])
  scores = (look[:, None] == known) + NOISE_STD * rng.normal(
    size=(len(labels), 1 + 2 * NUM_OBJECTS)
  )
  return Video(scores.astype(np.float32), labels, scores.argmax(1))


def load_files(data_dir: str, granularity: str) -> VideoFolds:
  """Reads one file for each fold.

  Raises:
    BadInput: as for `load`.
  """
  present = list_files(data_dir)
  named = {
    file: re.fullmatch(rf".*_{granularity}_split(\d{{1,9}})\.mat", file.name) for file in present
  }
  numbered = ((int(name[1]), file) for file, name in named.items() if name)
  found = sorted(numbered, key=lambda one: one[0])
  if len(found) < 2 or [n for n, _ in found] != [*range(1, len(found) + 1)]:
    raise InvalidInputError(
      f"{data_dir} must hold *_{granularity}_split1.mat, *_{granularity}_split2.mat and so on, two at least; "
      f"it holds {[file.name for file in present][:12]}"
    )
  folds = [_read_fold(file) for _, file in found]
  widths = {video.scores.shape[1] for fold in folds for video in fold}
  if len(widths) > 1:
    raise InvalidInputError(
      f"{data_dir}: all videos must have scores of as many classes; got {widths}"
    )
  return VideoFolds(f"{pathlib.Path(data_dir).name} {granularity}", widths.pop(), folds)


def _read_fold(file: File) -> list[Video]:
  """The videos of one file."""
  held = read_cells(file, "SYP")
  if len(held) < 3:
    raise InvalidInputError(
      f"{file} must hold Y, S and P, a cell for each video; it holds {sorted(held)}"
    )
  sizes = {name: len(held[name]) for name in "SYP"}
  if len({*sizes.values()}) > 1 or not sizes["S"]:
    raise InvalidInputError(f"{file} must hold as many S, Y and P; it holds {[*sizes.values()]}")
  rows = zip(*map(held.get, "SYP"))
  return [_make_video(f"{file}, video {n}", *row) for n, row in enumerate(rows, 1)]


def _make_video(location: str, scores, labels, predictions) -> Video:
  scores, labels, predictions = np.asarray(scores), np.ravel(labels), np.ravel(predictions)
  T = len(labels)
  if scores.ndim != 2 or len(scores) != T or len(predictions) != T or not T:
    raise InvalidInputError(
      f"{location} must have S [T, K], Y [T] and P [T] of as many frames T; "
      f"got {scores.shape}, {labels.shape} and {predictions.shape}"
    )
  with np.errstate(over="ignore"):
    scores = scores.astype(np.float32)
  if not np.isfinite(scores).all():
    raise InvalidInputError(f"{location}: the scores S must be finite numbers")
  K = scores.shape[1]
  for name, ids in (("Y", labels), ("P", predictions)):
    if not np.issubdtype(ids.dtype, np.integer) or not 0 <= ids.min() <= ids.max() < K:
      raise InvalidInputError(f"{location}: {name} must be integers from 0 below K = {K}")
  return Video(scores, labels.astype(np.int32), predictions.astype(np.int32))
