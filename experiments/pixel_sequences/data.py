"""Images of digits: MNIST (LeCun et al. 1998), or whatever comes in its format.

embedded   1,797 digits of 8 x 8 pixels, which scikit-learn brings (Alpaydin & Kaynak 1998)
files      a folder or .zip archive with the four original idx files, train-images-idx3-ubyte and
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
UBYTE = 8  # what idx calls unsigned bytes
VALID_FRACTION = 1 / 12  # share of the training images, its last, that validates: 5,000 of MNIST's


class LabeledImages(NamedTuple):
  """images [N, R, C], float32 in [0, 1], and labels [N]."""

  images: np.ndarray
  labels: np.ndarray


class DigitDataset(NamedTuple):
  """Images with labels below `classes`, which are ten or more, in three parts."""

  name: str
  num_classes: int
  train: LabeledImages
  valid: LabeledImages
  test: LabeledImages


def load(dataset: str = "auto", data_dir: str = "") -> DigitDataset:
  """Loads digits; the last of the training images validate.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive of the files.

  Raises:
    BadInput: files that are missing, damaged, or do not fit one another.
  """
  if use_files(dataset, data_dir, "8 x 8 digits", "FOLDER reads MNIST's own files"):
    name, train, test = pathlib.Path(data_dir).name, *load_files(data_dir)
  else:
    name, train, test = "embedded", *load_embedded()
  classes = max(10, int(train.labels.max()) + 1)
  cut = len(train.labels) - math.ceil(VALID_FRACTION * len(train.labels))
  valid, train = (
    LabeledImages(*(a[part] for a in train)) for part in (slice(cut, None), slice(cut))
  )
  return DigitDataset(name, classes, train, valid, test)


def load_embedded() -> tuple[LabeledImages, LabeledImages]:
  """scikit-learn's digits, to learn from and to test: the first 1,440, the last 357."""
  from sklearn.datasets import load_digits

  made = load_digits()
  images, labels = (made.images / 16).astype(np.float32), made.target
  return LabeledImages(images[:1440], labels[:1440]), LabeledImages(images[1440:], labels[1440:])


def load_files(data_dir: str) -> tuple[LabeledImages, LabeledImages]:
  """Reads training and test images with their labels.

  Raises:
    BadInput: as for `load`.
  """
  present, parts = list_files(data_dir), []
  for part in ("train", "t10k|test"):
    found = {
      kind: [file for file in present if re.fullmatch(f"({part})-{ending}", file.name)]
      for kind, ending in FILE_PATTERNS.items()
    }
    if [*map(len, found.values())] != [1, 1]:
      raise InvalidInputError(
        f"{data_dir} must hold train-images-idx3-ubyte, train-labels-idx1-ubyte, and the same of "
        f"t10k, each once (also .gz); it holds {[file.name for file in present][:12]}"
      )
    (images,), (labels,) = found.values()
    parts.append(
      LabeledImages(read_idx(images, 3).astype(np.float32) / 255, read_idx(labels, 1).astype(int))
    )
    if len(parts[-1].images) != len(parts[-1].labels):
      raise InvalidInputError(
        f"{images} and {labels} must belong together; they hold {len(parts[-1].images)} images and "
        f"{len(parts[-1].labels)} labels"
      )
  train, test = parts
  if train.images.shape[1:] != test.images.shape[1:]:
    raise InvalidInputError(
      f"images must be of one size; those of {data_dir} are {train.images.shape[1:]} in training "
      f"and {test.images.shape[1:]} in the test part"
    )
  if len(train.labels) < 2 or not len(test.labels):
    raise InvalidInputError(
      f"{data_dir} must hold two training images and a test image at least; "
      f"it holds {len(train.labels)} and {len(test.labels)}"
    )
  unseen = set(test.labels) - set(train.labels)
  if unseen:
    raise InvalidInputError(f"{labels}: the label {min(unseen)} does not occur in training")
  return train, test


def read_idx(file: File, ndim: int) -> np.ndarray:
  """Reads an array of bytes as idx holds it: 0, 0, type, number of axes, their lengths, the rest.

  Raises:
    BadInput: it is another type or another number of axes, or it is shorter or longer than it says.
  """
  data = read_bytes(file)
  head = 4 + 4 * ndim
  if len(data) < head or data[:4] != bytes([0, 0, UBYTE, ndim]):
    raise InvalidInputError(
      f"{file} must be idx with {ndim} axes of unsigned bytes and begin with "
      f"{bytes([0, 0, UBYTE, ndim]).hex(' ')}; it begins with {data[:4].hex(' ') or 'nothing'}"
    )
  shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, 4))
  if len(data) - head != math.prod(shape):
    raise InvalidInputError(
      f"{file} must hold {math.prod(shape)} bytes after its head, as {shape} says; it holds "
      f"{len(data) - head}. Was it cut off?"
    )
  with reraise_decode_errors(
    file, f"as {shape}"
  ):  # where one is 0, the others may be too large for an array
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def to_sequences(images: np.ndarray, mode: str, seed: int = 0) -> np.ndarray:
  """Images as sequences.

  Args:
    images: [N, R, C].
    kind: one of VIEWS: "rows" [N, R, C]; "pixels" [N, RC, 1]; "permuted", pixels in an order drawn
      once for all images (Le, Jaitly & Hinton 2015); "whole" [N, 1, RC].
    seed: of that order.
  """
  N, R, C = images.shape
  if mode not in VIEWS:
    raise InvalidInputError(f"view must be one of {VIEWS}; got {mode!r}")
  if mode == "permuted":
    order = np.random.default_rng(seed).permutation(R * C)
    return images.reshape(N, R * C, 1)[:, order]
  return images.reshape(N, *{"rows": (R, C), "pixels": (R * C, 1), "whole": (1, R * C)}[mode])
