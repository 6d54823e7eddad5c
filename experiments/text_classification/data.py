"""Film reviews with labels: IMDB (Maas et al. 2011), or other texts in the same formats.

embedded       generated reviews in which only word order carries the label; needs no file
imdb_reviews   from TensorFlow Datasets (TensorFlow itself is not needed)
files          a folder as `rnnjax.data.labeled_texts` describes, or columns of a .csv, .jsonl or
               .json file (also .gz), see `load_table`
"""

import contextlib
import logging
import pathlib
import socket
import threading

from experiments.text_classification import synthetic_reviews
from rnnjax.data import text_pairs
from rnnjax.data.labeled_texts import (
  LabeledDataset,
  class_index,
  class_names,
  load_folder,
  split_validation,
)
from rnnjax.types import InvalidInputError

DATASETS = ("auto", "embedded", "imdb_reviews", "files")
DOWNLOAD_HOST = ("ai.stanford.edu", 80)  # from which tfds downloads the reviews
REACH_TIMEOUT = 4.0  # seconds


def load(
  dataset: str = "auto",
  data_dir: str = "",
  seed: int = 0,
  text_column: str = "text",
  label_column: str = "label",
) -> LabeledDataset:
  """Load film reviews.

  Args:
    dataset: one of DATASETS. "auto" reads the files of `data_dir` if it is given. Otherwise it
      takes IMDB if tfds has prepared it or can download it, or else the embedded set, with a
      warning.
    data_dir: the folder of the files, a table, or the data folder of tfds.
    seed: seed of the embedded set.
    text_column: column of the texts of a table, see `load_table`.
    label_column: column of the labels of a table.

  Raises:
    InvalidInputError: a file is missing or malformed (the message names file and line), or IMDB is
      neither prepared nor can be downloaded.
  """
  if dataset not in DATASETS:
    raise InvalidInputError(f"dataset must be one of {DATASETS}; got {dataset!r}")
  if dataset == "files" or (dataset == "auto" and data_dir):
    path = pathlib.Path(data_dir).expanduser()
    return load_table(path, text_column, label_column) if path.is_file() else load_folder(data_dir)
  if dataset == "embedded":
    return load_embedded(seed)
  try:
    return load_tfds(data_dir)
  except InvalidInputError as error:
    if dataset != "auto":
      raise
    logging.warning(
      "\n%s\n  NOT IMDB: %s.\n  Training on the small embedded set instead. For real reviews give "
      "--data_dir=FOLDER\n  with the original aclImdb or with train.jsonl and test.jsonl.\n%s",
      "*" * 88,
      error,
      "*" * 88,
    )
    return load_embedded(seed)


def load_embedded(seed: int = 0) -> LabeledDataset:
  """Return the generated reviews; both reviews of a pair are in the same set."""
  reviews = synthetic_reviews.generate_reviews(2000, seed)
  return LabeledDataset(
    "embedded", ("negative", "positive"), reviews[:3000], reviews[3000:3400], reviews[3400:]
  )


def load_table(path: str | pathlib.Path, text_column: str, label_column: str) -> LabeledDataset:
  """Read columns of a table and split its rows 80/10/10 by a hash of the text.

  Args:
    path: the table, read and split by `rnnjax.data.text_pairs`.
    text_column: the column of the texts. "Title,Text" puts the title in front of the text of each
      row that has one.
    label_column: the column of the labels.

  Raises:
    InvalidInputError: the table is malformed, or a label does not occur in the training set.
  """
  *title_columns, last_column = text_column.split(",")
  name = pathlib.Path(path).name
  pairs = text_pairs.read_columns(path, last_column, label_column)
  splits = text_pairs.split_by_hash(name, pairs)
  titles = [dict(text_pairs.read_columns(path, last_column, title)) for title in title_columns]
  classes = class_names(path, (label for _, label in splits["train"]))

  def make_example(text, label):
    full_text = " ".join([*(column[text] for column in titles if text in column), text])
    return full_text, class_index(classes, label, f"{path}, {text[:40]!r}")

  return LabeledDataset(
    name, classes, *([make_example(*row) for row in split] for split in splits.values())
  )


def load_tfds(data_dir: str = "") -> LabeledDataset:
  """Load IMDB from TensorFlow Datasets; download and prepare it if necessary.

  Raises:
    InvalidInputError: the download host cannot be reached, or IMDB is prepared as tfrecord.
  """
  import tensorflow_datasets as tfds

  builder = tfds.builder("imdb_reviews", data_dir=data_dir or None)
  if not builder.is_prepared():
    _check_reachable(*DOWNLOAD_HOST)
    builder.download_and_prepare(file_format="array_record")
  try:
    source = builder.as_data_source()
  except NotImplementedError:
    raise InvalidInputError(
      f"IMDB is prepared in {builder.data_path}, but as tfrecord, which only TensorFlow reads; "
      "prepare it with file_format='array_record'"
    ) from None

  def read_split(split):
    return [(row["text"].decode(), int(row["label"])) for row in source[split]]

  train, valid = split_validation(read_split("train"))
  return LabeledDataset("imdb_reviews", ("negative", "positive"), train, valid, read_split("test"))


def _check_reachable(host: str, port: int, timeout: float = REACH_TIMEOUT):
  """Raise an error if a host cannot be reached within `timeout` seconds."""
  reached = []

  def connect():
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout):
      reached.append(host)

  # In a thread: the timeout of a socket does not limit the name lookup, which may take minutes.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(timeout)
  if not reached:
    raise InvalidInputError(
      f"IMDB is not prepared here, and {host} cannot be reached to download it"
    )
