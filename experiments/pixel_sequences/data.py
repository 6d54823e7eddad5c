"""Images of digits: MNIST (LeCun et al. 1998), or any data set in its file format.

embedded   1,797 digits of 8 x 8 pixels from scikit-learn (Alpaydin & Kaynak 1998)
files      a folder or .zip archive with the four idx files of MNIST, train-images-idx3-ubyte and
           so on (also .gz)
"""

import math
import pathlib
import re
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, read_bytes, reraise_decode_errors, use_files
from rnnjax.types import InvalidInputError

VIEWS = ("rows", "pixels", "permuted", "whole")
FILE_PATTERNS = {"images": r"images[-.]idx3-ubyte(\.gz)?", "labels": r"labels[-.]idx1-ubyte(\.gz)?"}
UBYTE = 8  # the type code of unsigned bytes in idx files
VALID_FRACTION = 1 / 12  # fraction of the training images used for validation; 5,000 for MNIST


class LabeledImages(NamedTuple):
  """Images with labels.

  Attributes:
    images: pixel values [N, R, C], float32 in [0, 1].
    labels: the class indices [N].
  """

  images: np.ndarray
  labels: np.ndarray


class DigitDataset(NamedTuple):
  """Images in three splits.

  Attributes:
    name: the name of the data set.
    num_classes: the number of classes, at least 10; labels are in [0, num_classes).
    train: the training set.
    valid: the validation set.
    test: the test set.
  """

  name: str
  num_classes: int
  train: LabeledImages
  valid: LabeledImages
  test: LabeledImages


def load(dataset: str = "auto", data_dir: str = "") -> DigitDataset:
  """Load a data set. The last VALID_FRACTION of the training images is the validation set.

  Args:
    dataset: one of files.DATASETS. "auto" reads files if data_dir is non-empty, else it uses the
      embedded data.
    data_dir: the folder or .zip archive of the files.

  Raises:
    InvalidInputError: files are missing, damaged or inconsistent.
  """
  if use_files(dataset, data_dir, "8 x 8 digits", "FOLDER reads MNIST's own files"):
    name, train, test = pathlib.Path(data_dir).name, *load_files(data_dir)
  else:
    name, train, test = "embedded", *load_embedded()
  num_classes = max(10, int(train.labels.max()) + 1)
  num_train = len(train.labels) - math.ceil(VALID_FRACTION * len(train.labels))
  valid, train = (
    LabeledImages(*(array[rows] for array in train))
    for rows in (slice(num_train, None), slice(num_train))
  )
  return DigitDataset(name, num_classes, train, valid, test)


def load_embedded() -> tuple[LabeledImages, LabeledImages]:
  """Return scikit-learn's digits as a training set (first 1,440) and a test set (last 357)."""
  from sklearn.datasets import load_digits

  digits = load_digits()
  images, labels = (digits.images / 16).astype(np.float32), digits.target
  return LabeledImages(images[:1440], labels[:1440]), LabeledImages(images[1440:], labels[1440:])


def load_files(data_dir: str) -> tuple[LabeledImages, LabeledImages]:
  """Read the labeled training images and the labeled test images.

  Raises:
    InvalidInputError: files are missing, damaged or inconsistent.
  """
  all_files = list_files(data_dir)
  splits = []
  for prefix in ("train", "t10k|test"):
    matches = {
      content: [file for file in all_files if re.fullmatch(f"({prefix})-{pattern}", file.name)]
      for content, pattern in FILE_PATTERNS.items()
    }
    if [*map(len, matches.values())] != [1, 1]:
      raise InvalidInputError(
        f"{data_dir} must contain train-images-idx3-ubyte, train-labels-idx1-ubyte and both files "
        f"of t10k, each once (also .gz); it contains {[file.name for file in all_files][:12]}"
      )
    (images,), (labels,) = matches.values()
    splits.append(
      LabeledImages(read_idx(images, 3).astype(np.float32) / 255, read_idx(labels, 1).astype(int))
    )
    if len(splits[-1].images) != len(splits[-1].labels):
      raise InvalidInputError(
        f"{images} and {labels} must have equal lengths; they contain {len(splits[-1].images)} "
        f"images and {len(splits[-1].labels)} labels"
      )
  train, test = splits
  if train.images.shape[1:] != test.images.shape[1:]:
    raise InvalidInputError(
      f"all images must be of one size; those of {data_dir} are {train.images.shape[1:]} in the "
      f"training set and {test.images.shape[1:]} in the test set"
    )
  if len(train.labels) < 2 or not len(test.labels):
    raise InvalidInputError(
      f"{data_dir} must contain at least two training images and one test image; "
      f"it contains {len(train.labels)} and {len(test.labels)}"
    )
  unseen = set(test.labels) - set(train.labels)
  if unseen:
    raise InvalidInputError(f"{labels}: the label {min(unseen)} does not occur in the training set")
  return train, test


def read_idx(file: File, ndim: int) -> np.ndarray:
  """Read an array of unsigned bytes from an idx file.

  The file contains two zero bytes, the type code, the number of axes, the size of each axis, and
  the data.

  Raises:
    InvalidInputError: the type is not unsigned bytes, the number of axes is not `ndim`, or the file
      is shorter or longer than its header declares.
  """
  data = read_bytes(file)
  header_size = 4 + 4 * ndim
  if len(data) < header_size or data[:4] != bytes([0, 0, UBYTE, ndim]):
    raise InvalidInputError(
      f"{file} must be an idx file of unsigned bytes with {ndim} axes and begin with "
      f"{bytes([0, 0, UBYTE, ndim]).hex(' ')}; it begins with {data[:4].hex(' ') or 'nothing'}"
    )
  shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, 4))
  if len(data) - header_size != math.prod(shape):
    raise InvalidInputError(
      f"{file} must contain {math.prod(shape)} bytes of data for its shape {shape}; it contains "
      f"{len(data) - header_size}. Was it cut off?"
    )
  # Even if one axis has size 0, NumPy rejects an array whose other axes are too large.
  with reraise_decode_errors(file, f"as {shape}"):
    return np.frombuffer(data, np.uint8, offset=header_size).reshape(shape)


def to_sequences(images: np.ndarray, view: str, seed: int = 0) -> np.ndarray:
  """Convert images to sequences [N, T, D].

  Args:
    images: the images [N, R, C].
    view: one of VIEWS. "rows" returns [N, R, C], one pixel row per step. "pixels" returns
      [N, RC, 1], one pixel per step. "permuted" is "pixels" in a random order that is the same for
      all images (Le, Jaitly & Hinton 2015). "whole" returns [N, 1, RC], a single step.
    seed: the seed of the random pixel order of "permuted".

  Raises:
    InvalidInputError: the view is not one of VIEWS.
  """
  N, R, C = images.shape
  if view not in VIEWS:
    raise InvalidInputError(f"view must be one of {VIEWS}; got {view!r}")
  if view == "permuted":
    order = np.random.default_rng(seed).permutation(R * C)
    return images.reshape(N, R * C, 1)[:, order]
  return images.reshape(N, *{"rows": (R, C), "pixels": (R * C, 1), "whole": (1, R * C)}[view])
