"""Videos with a label for every frame, divided into cross-validation folds.

  embedded   generated recipes, in which a frame is ambiguous without the earlier frames
  files      a folder or .zip archive with one MATLAB file for each fold, such as
             50salads_mid_split1.mat to 50salads_mid_split5.mat (Stein & McKenna 2013; Lea et al.
             2017). Each file has the cell arrays Y (labels), S (class scores) and P (classes
             predicted from the scores), with one cell per video

Label 0 is the background.
"""

import itertools
import operator
import pathlib
import re
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, use_files
from rnnjax.data.mat import read_cells
from rnnjax.types import InvalidInputError

GRANULARITIES = ("mid", "eval")
NUM_OBJECTS = 3  # number of objects in the generated recipes
NUM_FOLDS = 5
RECIPES_PER_FOLD = 100
NOISE_STD = 1.0  # of generated scores; their mean is 1 for classes of the visible object, else 0


class Video(NamedTuple):
  """A video of T frames with K classes.

  Attributes:
    scores: the class scores [T, K] of a single-frame classifier.
    labels: the true classes [T].
    predictions: the classes [T] that the single-frame classifier predicts.
  """

  scores: np.ndarray
  labels: np.ndarray
  predictions: np.ndarray


class VideoFolds(NamedTuple):
  """Videos in folds for cross-validation.

  Attributes:
    name: the name of the data set.
    num_classes: K, the number of classes; labels are in [0, K).
    folds: one list of videos per fold. Each fold is the test set once.
  """

  name: str
  num_classes: int
  folds: list[list[Video]]


def load(dataset: str = "auto", data_dir: str = "", granularity: str = "mid") -> VideoFolds:
  """Load videos.

  Args:
    dataset: one of files.DATASETS. "auto" reads files if data_dir is non-empty, else it uses the
      embedded data.
    data_dir: the folder or .zip archive of the files.
    granularity: the level of detail of the actions, one of GRANULARITIES. The file names contain
      the granularity.

  Raises:
    InvalidInputError: files are missing, damaged or inconsistent.
  """
  if granularity not in GRANULARITIES:
    raise InvalidInputError(f"granularity must be one of {GRANULARITIES}; got {granularity!r}")
  if use_files(dataset, data_dir, "generated recipes", "FOLDER reads 50 Salads"):
    return load_files(data_dir, granularity)
  rng = np.random.default_rng(0)
  folds = [[generate_recipe(rng) for _ in range(RECIPES_PER_FOLD)] for _ in range(NUM_FOLDS)]
  return VideoFolds("embedded", 1 + 2 * NUM_OBJECTS, folds)


def generate_recipe(rng: np.random.Generator) -> Video:
  """Generate a video in which each of three objects is taken once and put back later.

  Classes 1, 2 and 3 mean that an object is taken, and classes 4, 5 and 6 that it is put back. Both
  classes of an object have the same mean score in a frame, so a single frame cannot distinguish
  them. They can only be distinguished by whether the object was taken earlier in the video. The
  scores are noisy, so the object must be identified from many frames.
  """
  frames = []
  taken = set()
  order = rng.permutation([*range(NUM_OBJECTS)] * 2)
  while any(a == b for a, b in itertools.pairwise(order)):
    order = rng.permutation(order)
  for item in order:
    label = 1 + item + NUM_OBJECTS * (item in taken)
    taken.add(item)
    frames += [0] * rng.integers(1, 6) + [label] * rng.integers(6, 25)
  labels = np.array([*frames, 0])
  # The object (1, 2, 3) of each frame and of each class; 0 for the background.
  visible = np.where(labels > 0, (labels - 1) % NUM_OBJECTS + 1, 0)
  class_objects = np.array([0, *[1 + i % NUM_OBJECTS for i in range(2 * NUM_OBJECTS)]])
  scores = (visible[:, None] == class_objects) + NOISE_STD * rng.normal(
    size=(len(labels), 1 + 2 * NUM_OBJECTS)
  )
  return Video(scores.astype(np.float32), labels, scores.argmax(1))


def load_files(data_dir: str, granularity: str) -> VideoFolds:
  """Read the videos of all folds, one file per fold.

  Raises:
    InvalidInputError: files are missing, damaged or inconsistent.
  """
  all_files = list_files(data_dir)
  matches = {
    file: re.fullmatch(rf".*_{granularity}_split(\d{{1,9}})\.mat", file.name) for file in all_files
  }
  numbered = ((int(match[1]), file) for file, match in matches.items() if match)
  fold_files = sorted(numbered, key=operator.itemgetter(0))
  if len(fold_files) < 2 or [n for n, _ in fold_files] != [*range(1, len(fold_files) + 1)]:
    raise InvalidInputError(
      f"{data_dir} must contain *_{granularity}_split1.mat, *_{granularity}_split2.mat and so on, "
      f"at least two; it contains {[file.name for file in all_files][:12]}"
    )
  folds = [_read_fold(file) for _, file in fold_files]
  class_counts = {video.scores.shape[1] for fold in folds for video in fold}
  if len(class_counts) > 1:
    raise InvalidInputError(
      f"{data_dir}: the scores of all videos must have the same number of classes; "
      f"got {class_counts}"
    )
  return VideoFolds(f"{pathlib.Path(data_dir).name} {granularity}", class_counts.pop(), folds)


def _read_fold(file: File) -> list[Video]:
  """Return the videos of one file."""
  cells = read_cells(file, "SYP")
  if len(cells) < 3:
    raise InvalidInputError(
      f"{file} must contain the cell arrays Y, S and P; it contains {sorted(cells)}"
    )
  sizes = {name: len(cells[name]) for name in "SYP"}
  if len({*sizes.values()}) > 1 or not sizes["S"]:
    raise InvalidInputError(
      f"{file}: S, Y and P must have the same number of cells, one per video; "
      f"got {[*sizes.values()]}"
    )
  rows = zip(*map(cells.get, "SYP"))
  return [_make_video(f"{file}, video {n}", *row) for n, row in enumerate(rows, 1)]


def _make_video(location: str, scores, labels, predictions) -> Video:
  scores = np.asarray(scores)
  labels = np.ravel(labels)
  predictions = np.ravel(predictions)
  T = len(labels)
  if scores.ndim != 2 or len(scores) != T or len(predictions) != T or not T:
    raise InvalidInputError(
      f"{location} must have S [T, K], Y [T] and P [T] with the same number of frames T; "
      f"got {scores.shape}, {labels.shape} and {predictions.shape}"
    )
  with np.errstate(over="ignore"):
    scores = scores.astype(np.float32)
  if not np.isfinite(scores).all():
    raise InvalidInputError(f"{location}: the scores S must be finite")
  K = scores.shape[1]
  for name, ids in (("Y", labels), ("P", predictions)):
    if not np.issubdtype(ids.dtype, np.integer) or not 0 <= ids.min() <= ids.max() < K:
      raise InvalidInputError(f"{location}: {name} must be integers from 0 to K − 1 = {K - 1}")
  return Video(scores, labels.astype(np.int32), predictions.astype(np.int32))
