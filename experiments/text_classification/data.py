"""Labeled film reviews: IMDB (Maas et al. 2011), or other texts in the same formats.

embedded       generated reviews in which only word order determines the label; needs no files
imdb_reviews   IMDB from TensorFlow Datasets; TensorFlow need not be installed
files          a folder in a format of `rnnjax.data.labeled_texts`, or two columns of a .csv,
               .jsonl or .json table (also .gz) that `load_table` reads
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
DOWNLOAD_HOST = ("ai.stanford.edu", 80)  # tfds downloads IMDB from this host
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
    dataset: one of DATASETS. "auto" reads the files of `data_dir` if `data_dir` is non-empty.
      Otherwise "auto" loads IMDB if tfds has prepared it or can download it. If IMDB is
      unavailable, "auto" logs a warning and returns the embedded dataset.
    data_dir: a folder of files, the path of a table, or the data folder of tfds.
    seed: random seed of the embedded dataset.
    text_column: table column that holds the texts; see `load_table`.
    label_column: table column that holds the labels.

  Raises:
    InvalidInputError: a file is missing or malformed (the message names the file and line), or IMDB
      is unavailable: tfds has not prepared it and cannot download it.
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
  """Generate the embedded reviews and split them.

  Two reviews with the same words in different orders are in the same split.
  """
  reviews = synthetic_reviews.generate_reviews(2000, seed)
  return LabeledDataset(
    "embedded", ("negative", "positive"), reviews[:3000], reviews[3000:3400], reviews[3400:]
  )


def load_table(path: str | pathlib.Path, text_column: str, label_column: str) -> LabeledDataset:
  """Read texts and labels from a table and split the rows 80/10/10 by a hash of the text.

  Args:
    path: the path of the table; `rnnjax.data.text_pairs` describes its formats.
    text_column: the column that holds the texts. "Title,Text" prepends the title to the text in
      each row that has a title.
    label_column: the column that holds the labels.

  Raises:
    InvalidInputError: the table is malformed, or a label is absent from the training set.
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
    InvalidInputError: the download host cannot be reached, or IMDB was prepared in tfrecord format.
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
  """Raise InvalidInputError if a host cannot be reached within `timeout` seconds."""
  reached = []

  def connect():
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout):
      reached.append(host)

  # A thread is used because a socket timeout does not limit DNS lookup, which may take minutes.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(timeout)
  if not reached:
    raise InvalidInputError(
      f"IMDB is not prepared here, and {host} cannot be reached to download it"
    )
