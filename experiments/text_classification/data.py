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
from rnnjax.data.tables import objects
from rnnjax.types import BadInput

DATASETS = ("auto", "embedded", "imdb_reviews", "files")
HOST = ("ai.stanford.edu", 80)  # whence tfds downloads the reviews
Rows = list[tuple[str, int]]


class Reviews(NamedTuple):
  """Texts with labels, in three parts, and the names of the labels."""

  name: str
  classes: tuple[str, ...]
  train: Rows
  valid: Rows
  test: Rows


def load(
  dataset: str = "auto",
  data_dir: str = "",
  seed: int = 0,
  text: str = "text",
  label: str = "label",
) -> Reviews:
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
    raise BadInput(f"dataset must be one of {DATASETS}; got {dataset!r}")
  if dataset == "files" or (dataset == "auto" and data_dir):
    path = pathlib.Path(data_dir).expanduser()
    return table(path, text, label) if path.is_file() else files(data_dir)
  if dataset == "embedded":
    return embedded(seed)
  try:
    return prepared(data_dir)
  except BadInput as error:
    if dataset != "auto":
      raise
    logging.warning(
      "\n%s\n  NOT IMDB: %s.\n  Training on the small embedded set instead. For real reviews give "
      "--data_dir=FOLDER\n  with the original aclImdb or with train.jsonl and test.jsonl.\n%s",
      "*" * 88,
      error,
      "*" * 88,
    )
    return embedded(seed)


def embedded(seed: int = 0) -> Reviews:
  """The generated set; no pair of twins is divided among the parts."""
  rows = synthetic_reviews.pairs(2000, seed)
  return Reviews("embedded", ("negative", "positive"), rows[:3000], rows[3000:3400], rows[3400:])


def files(data_dir: str) -> Reviews:
  """Reads a folder of files."""
  folder = pathlib.Path(data_dir).expanduser()
  if not data_dir or not folder.is_dir():
    raise BadInput(
      "--data_dir must be a folder with train and test reviews, or for imdb a table; got "
      f"{data_dir!r}"
    )
  parts = {part: _part(folder, part) for part in ("train", "valid", "test")}
  for part in ("train", "test"):
    if not parts[part]:
      raise BadInput(
        f"{folder} has neither {part}.jsonl (or .jsonl.gz) nor a folder {part}/ with one folder of "
        f".txt files for each class; it holds {sorted(p.name for p in folder.iterdir())[:8]}"
      )
  classes, made = _classes(folder, (label for _, _, label in parts["train"])), {}
  for part, rows in parts.items():
    made[part] = [(text, _index(classes, label, where)) for where, text, label in rows]
    empty = [where for where, text, _ in rows if not text.strip()]
    if empty:
      logging.warning(
        "%d reviews are empty, the first %s; each counts as a sequence of length 0",
        len(empty),
        empty[0],
      )
  train, valid = (made["train"], made["valid"]) if made["valid"] else hold_out(made["train"])
  return Reviews(str(folder.name), classes, train, valid, made["test"])


def unlabelled(data_dir: str) -> list[str]:
  """Reviews without a label beside a folder's training part, from which a language model learns.

  Those of train/unsup, which the original aclImdb has 50,000 of, or of unsup.jsonl (also .gz), of
  whose lines only "text" is read; none where there is neither.

  Raises:
    BadInput: a file or line that is malformed, named.
  """
  folder = pathlib.Path(data_dir).expanduser()
  for path in (folder / "unsup.jsonl", folder / "unsup.jsonl.gz"):
    if path.exists():
      return [_row(place, row | {"label": ""})[1] for place, row in objects(path)]
  return [read_text(path) for path in _texts(folder / "train" / "unsup")]


def table(path: str | pathlib.Path, text: str, label: str) -> Reviews:
  """Reads columns of a table, and divides its rows by their texts, 80/10/10: `pairs.table`.

  Args:
    path: the table.
    text: the column of the texts; "Title,Text" puts titles before the texts that have one.
    label: the column of the labels.

  Raises:
    BadInput: as for `pairs.table`; a label that does not occur in training.
  """
  *before, last = text.split(",")
  name, *parts, _ = pairs_data.table(path, last, label)
  known = [dict(pairs_data.columns(path, last, column)) for column in before]
  classes = _classes(path, (label for _, label in parts[0]))

  def row(text, label):
    whole = " ".join([own[text] for own in known if text in own] + [text])
    return whole, _index(classes, label, f"{path}, {text[:40]!r}")

  return Reviews(name, classes, *([row(*pair) for pair in part] for part in parts))


def hold_out(rows: Rows, share: float = 0.1) -> tuple[Rows, Rows]:
  """Keeps the last share of each class, in the order of the files, for validation.

  In IMDB the reviews of one film stand together, so few films are on both sides; a random part
  would share most of its films with the rest, and flatter.
  """
  train, valid = [], []
  for label in sorted({label for _, label in rows}):
    own = [row for row in rows if row[1] == label]
    cut = max(1, len(own) - max(round(share * len(own)), 1))
    train += own[:cut]
    valid += own[cut:]
  if not valid:
    raise BadInput(f"{len(rows)} training reviews are too few to hold some out for validation")
  return train, valid


def _classes(place, labels) -> tuple[str, ...]:
  """The labels of the training part, in the order of numbers where they are numbers."""
  labels = set(labels)
  number = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)
  if len(labels) < 2:
    raise BadInput(f"{place}: the training part has but one label, {labels.pop()!r}")
  return tuple(sorted(labels, key=lambda label: (float(label) if number else 0, label)))


def _index(classes, label, where):
  if label not in classes:
    raise BadInput(f"{where}: the label {label!r} does not occur in training, which has {classes}")
  return classes.index(label)


def _part(folder, part):
  """[(where, text, label)] of one part, from JSON lines or folders; empty where there is none."""
  for path in (folder / f"{part}.jsonl", folder / f"{part}.jsonl.gz"):
    if path.exists():
      return [_row(place, row) for place, row in objects(path)]
  labels = [p for p in sorted(folder.glob(f"{part}/*")) if p.is_dir() and p.name != "unsup"]
  return [(str(path), read_text(path), label.name) for label in labels for path in _texts(label)]


def _texts(folder):
  """The .txt files of a folder, by the numbers in their names."""
  number = lambda path: [int(n) for n in re.findall(r"\d+", path.stem)] or [0]
  return sorted(folder.glob("*.txt"), key=lambda path: (number(path), path.name))


def _row(place, row):
  match row:
    case {"text": str(text), "label": label} if label is not None:
      return place, text, str(label)
  raise BadInput(f'{place} must be {{"text": "...", "label": ...}}; got {str(row)[:80]}')


def prepared(data_dir: str = "") -> Reviews:
  """IMDB from TensorFlow Datasets, downloaded where it must be and can be."""
  import tensorflow_datasets as tfds

  builder = tfds.builder("imdb_reviews", data_dir=data_dir or None)
  if not builder.is_prepared():
    _reach(*HOST)
    builder.download_and_prepare(file_format="array_record")
  try:
    source = builder.as_data_source()
  except NotImplementedError:
    raise BadInput(
      f"IMDB is prepared in {builder.data_path}, but as tfrecord, which only TensorFlow reads; "
      "prepare it with file_format='array_record'"
    ) from None
  part = lambda split: [(row["text"].decode(), int(row["label"])) for row in source[split]]
  train, valid = hold_out(part("train"))
  return Reviews("imdb_reviews", ("negative", "positive"), train, valid, part("test"))


def _reach(host, port, seconds=4.0):
  """Learns within seconds whether a host can be reached; name look-ups alone may take minutes."""
  reached = []

  def call():
    with contextlib.suppress(OSError), socket.create_connection((host, port), seconds):
      reached.append(host)

  caller = threading.Thread(target=call, daemon=True)
  caller.start()
  caller.join(seconds)
  if not reached:
    raise BadInput(f"IMDB is not prepared here, and {host} cannot be reached to download it")
