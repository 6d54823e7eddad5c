"""Film reviews with a label: IMDB (Maas et al. 2011), or one's own files in the same formats.

embedded       generated reviews in which order is all; needs no file
imdb_reviews   from TensorFlow Datasets (TensorFlow itself is not needed)
files          a folder: either train/ and test/ with one folder of .txt files for each class (the
               original aclImdb), or train.jsonl and test.jsonl (also .gz), each line
               {"text": ..., "label": ...}; any number of classes, labels numbers or words.
               Or columns of a .csv, .jsonl or .json (also .gz), as `table` reads them
"""

import contextlib
import logging
import pathlib
import re
import socket
import threading
from typing import NamedTuple

from experiments.seq2seq import data as pairs_data
from experiments.text_classification import synthetic_reviews
from rnnjax.data.files import read_text
from rnnjax.data.tables import read_jsonl
from rnnjax.types import InvalidInputError

DATASETS = ("auto", "embedded", "imdb_reviews", "files")
DOWNLOAD_HOST = ("ai.stanford.edu", 80)  # whence tfds downloads the reviews
LabeledTexts = list[tuple[str, int]]


class ReviewDataset(NamedTuple):
  """Texts with labels, in three parts, and the names of the labels."""

  name: str
  classes: tuple[str, ...]
  train: LabeledTexts
  valid: LabeledTexts
  test: LabeledTexts


def load(
  dataset: str = "auto",
  data_dir: str = "",
  seed: int = 0,
  text_column: str = "text",
  label_column: str = "label",
) -> ReviewDataset:
  """Loads film reviews.

  Args:
    dataset: one of DATASETS. "auto" is the files of data_dir where one is given, else what tfds
      has prepared, else what it can download, else the embedded set, with a warning.
    data_dir: the folder of the files, a table, or tfds's folder.
    seed: of the embedded set.
    text, label: of a table, as for `table`.

  Raises:
    BadInput: files that are missing or malformed, each named with its line; data that is neither
      prepared nor in reach.
  """
  if dataset not in DATASETS:
    raise InvalidInputError(f"dataset must be one of {DATASETS}; got {dataset!r}")
  if dataset == "files" or (dataset == "auto" and data_dir):
    path = pathlib.Path(data_dir).expanduser()
    return load_table(path, text_column, label_column) if path.is_file() else load_files(data_dir)
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


def load_embedded(seed: int = 0) -> ReviewDataset:
  """The generated set; no pair of twins is divided among the parts."""
  rows = synthetic_reviews.generate_reviews(2000, seed)
  return ReviewDataset(
    "embedded", ("negative", "positive"), rows[:3000], rows[3000:3400], rows[3400:]
  )


def load_files(data_dir: str) -> ReviewDataset:
  """Reads a folder of files."""
  folder = pathlib.Path(data_dir).expanduser()
  if not data_dir or not folder.is_dir():
    raise InvalidInputError(
      "--data_dir must be a folder with train and test reviews, or for imdb a table; got "
      f"{data_dir!r}"
    )
  parts = {part: _read_split(folder, part) for part in ("train", "valid", "test")}
  for part in ("train", "test"):
    if not parts[part]:
      raise InvalidInputError(
        f"{folder} has neither {part}.jsonl (or .jsonl.gz) nor a folder {part}/ with one folder of "
        f".txt files for each class; it holds {sorted(p.name for p in folder.iterdir())[:8]}"
      )
  classes, made = _class_names(folder, (label for _, _, label in parts["train"])), {}
  for part, rows in parts.items():
    made[part] = [(text, _class_index(classes, label, where)) for where, text, label in rows]
    empty = [where for where, text, _ in rows if not text.strip()]
    if empty:
      logging.warning(
        "%d reviews are empty, the first %s; each counts as a sequence of length 0",
        len(empty),
        empty[0],
      )
  train, valid = (
    (made["train"], made["valid"]) if made["valid"] else split_validation(made["train"])
  )
  return ReviewDataset(str(folder.name), classes, train, valid, made["test"])


def load_unlabeled(data_dir: str) -> list[str]:
  """Reviews without a label beside a folder's training part, from which a language model learns.

  Those of train/unsup, which the original aclImdb has 50,000 of, or of unsup.jsonl (also .gz), of
  whose lines only "text" is read; none where there is neither.

  Raises:
    BadInput: a file or line that is malformed, named.
  """
  folder = pathlib.Path(data_dir).expanduser()
  for path in (folder / "unsup.jsonl", folder / "unsup.jsonl.gz"):
    if path.exists():
      return [_parse_example(place, row | {"label": ""})[1] for place, row in read_jsonl(path)]
  return [read_text(path) for path in _text_files(folder / "train" / "unsup")]


def load_table(path: str | pathlib.Path, text_column: str, label_column: str) -> ReviewDataset:
  """Reads columns of a table, and divides its rows by their texts, 80/10/10: `pairs.table`.

  Args:
    path: the table.
    text: the column of the texts; "Title,Text" puts titles before the texts that have one.
    label: the column of the labels.

  Raises:
    BadInput: as for `pairs.table`; a label that does not occur in training.
  """
  *before, last = text_column.split(",")
  name, *parts, _ = pairs_data.load_table(path, last, label_column)
  known = [dict(pairs_data.read_columns(path, last, column)) for column in before]
  classes = _class_names(path, (label for _, label in parts[0]))

  def row(text, label):
    whole = " ".join([own[text] for own in known if text in own] + [text])
    return whole, _class_index(classes, label, f"{path}, {text[:40]!r}")

  return ReviewDataset(name, classes, *([row(*pair) for pair in part] for part in parts))


def split_validation(
  examples: LabeledTexts, fraction: float = 0.1
) -> tuple[LabeledTexts, LabeledTexts]:
  """Keeps the last share of each class, in the order of the files, for validation.

  In IMDB the reviews of one film stand together, so few films are on both sides; a random part
  would share most of its films with the rest, and flatter.
  """
  train, valid = [], []
  for label in sorted({label for _, label in examples}):
    own = [row for row in examples if row[1] == label]
    cut = max(1, len(own) - max(round(fraction * len(own)), 1))
    train += own[:cut]
    valid += own[cut:]
  if not valid:
    raise InvalidInputError(
      f"{len(examples)} training reviews are too few to hold some out for validation"
    )
  return train, valid


def _class_names(location, labels) -> tuple[str, ...]:
  """The labels of the training part, in the order of numbers where they are numbers."""
  labels = set(labels)
  number = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)
  if len(labels) < 2:
    raise InvalidInputError(f"{location}: the training part has but one label, {labels.pop()!r}")
  return tuple(sorted(labels, key=lambda label: (float(label) if number else 0, label)))


def _class_index(classes, label, location):
  if label not in classes:
    raise InvalidInputError(
      f"{location}: the label {label!r} does not occur in training, which has {classes}"
    )
  return classes.index(label)


def _read_split(folder, split):
  """[(where, text, label)] of one part, from JSON lines or folders; empty where there is none."""
  for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz"):
    if path.exists():
      return [_parse_example(place, row) for place, row in read_jsonl(path)]
  labels = [p for p in sorted(folder.glob(f"{split}/*")) if p.is_dir() and p.name != "unsup"]
  return [
    (str(path), read_text(path), label.name) for label in labels for path in _text_files(label)
  ]


def _text_files(folder):
  """The .txt files of a folder, by the numbers in their names."""
  number = lambda path: [int(n) for n in re.findall(r"\d+", path.stem)] or [0]
  return sorted(folder.glob("*.txt"), key=lambda path: (number(path), path.name))


def _parse_example(location, row):
  match row:
    case {"text": str(text), "label": label} if label is not None:
      return location, text, str(label)
  raise InvalidInputError(
    f'{location} must be {{"text": "...", "label": ...}}; got {str(row)[:80]}'
  )


def load_tfds(data_dir: str = "") -> ReviewDataset:
  """IMDB from TensorFlow Datasets, downloaded where it must be and can be."""
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
  part = lambda split: [(row["text"].decode(), int(row["label"])) for row in source[split]]
  train, valid = split_validation(part("train"))
  return ReviewDataset("imdb_reviews", ("negative", "positive"), train, valid, part("test"))


def _check_reachable(host, port, timeout=4.0):
  """Learns within seconds whether a host can be reached; name look-ups alone may take minutes."""
  reached = []

  def call():
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout):
      reached.append(host)

  caller = threading.Thread(target=call, daemon=True)
  caller.start()
  caller.join(timeout)
  if not reached:
    raise InvalidInputError(
      f"IMDB is not prepared here, and {host} cannot be reached to download it"
    )
