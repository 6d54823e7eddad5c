"""Labeled texts from folders with the layout of aclImdb or with JSON lines.

A folder contains one of

  train/ and test/               one folder of .txt files for each class (the original aclImdb);
                                 valid/ is optional, and train/unsup/ may hold unlabeled texts
  train.jsonl and test.jsonl     lines {"text": ..., "label": ...}, also .gz; valid.jsonl is
                                 optional, and unsup.jsonl may hold unlabeled texts

with two or more classes. Labels are numbers or words.
"""

import logging
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from rnnjax.data.files import read_text
from rnnjax.data.tables import read_jsonl
from rnnjax.types import InvalidInputError

LabeledTexts = list[tuple[str, int]]


class LabeledDataset(NamedTuple):
  """Texts with class indices, in three sets.

  Attributes:
    name: the name of the dataset.
    classes: the label of each class index.
    train: (text, class index) of each training example.
    valid: the validation examples.
    test: the test examples.
  """

  name: str
  classes: tuple[str, ...]
  train: LabeledTexts
  valid: LabeledTexts
  test: LabeledTexts


def load_folder(data_dir: str) -> LabeledDataset:
  """Read the labeled texts of a folder.

  If there are no validation examples, the last tenth of each training class is held out
  (`split_validation`).

  Raises:
    InvalidInputError: a file is missing or malformed (the message names file and line), a label
      does not occur in the training set, or the training set has only one label or is too small for
      a validation set.
  """
  folder = pathlib.Path(data_dir).expanduser()
  if not data_dir or not folder.is_dir():
    raise InvalidInputError(
      "--data_dir must be a folder with train and test reviews, or for imdb a table; got "
      f"{data_dir!r}"
    )
  rows_by_split = {split: _read_split(folder, split) for split in ("train", "valid", "test")}
  for split in ("train", "test"):
    if not rows_by_split[split]:
      raise InvalidInputError(
        f"{folder} has neither {split}.jsonl (or .jsonl.gz) nor a folder {split}/ with one folder "
        f"of .txt files for each class; it holds {sorted(p.name for p in folder.iterdir())[:8]}"
      )
  classes = class_names(folder, (label for _, _, label in rows_by_split["train"]))
  splits = {}
  for split, rows in rows_by_split.items():
    splits[split] = [
      (text, class_index(classes, label, location)) for location, text, label in rows
    ]
    empty = [location for location, text, _ in rows if not text.strip()]
    if empty:
      logging.warning(
        "%d reviews are empty, the first is %s; each is a sequence of length 0",
        len(empty),
        empty[0],
      )
  train, valid = splits["train"], splits["valid"]
  if not valid:
    train, valid = split_validation(train)
  return LabeledDataset(folder.name, classes, train, valid, splits["test"])


def load_unlabeled(data_dir: str) -> list[str]:
  """Return the unlabeled texts of a folder, e.g. to pretrain a language model.

  The texts are the files of train/unsup (50,000 in the original aclImdb), or the "text" of each
  line of unsup.jsonl (also .gz). If the folder has neither, the list is empty.

  Raises:
    InvalidInputError: a file or line is malformed.
  """
  folder = pathlib.Path(data_dir).expanduser()
  for path in (folder / "unsup.jsonl", folder / "unsup.jsonl.gz"):
    if path.exists():
      return [
        _parse_example(location, row | {"label": ""})[1] for location, row in read_jsonl(path)
      ]
  return [read_text(path) for path in _text_files(folder / "train" / "unsup")]


def split_validation(
  examples: LabeledTexts, fraction: float = 0.1
) -> tuple[LabeledTexts, LabeledTexts]:
  """Return (training examples, validation examples): the last `fraction` of each class is held out.

  In IMDB the reviews of one film are neighbors, so few films are in both sets. With a random split,
  most films of the validation set would also be in the training set, and the accuracy would be
  overestimated.

  Raises:
    InvalidInputError: every class has fewer than two examples.
  """
  train, valid = [], []
  for label in sorted({label for _, label in examples}):
    members = [example for example in examples if example[1] == label]
    cut = max(1, len(members) - max(round(fraction * len(members)), 1))
    train += members[:cut]
    valid += members[cut:]
  if not valid:
    raise InvalidInputError(
      f"{len(examples)} training reviews are too few to hold some out for validation"
    )
  return train, valid


def class_names(location: object, labels: Iterable[str]) -> tuple[str, ...]:
  """Return the distinct labels, sorted as numbers if all labels are numbers, else as text.

  Raises:
    InvalidInputError: there is only one distinct label.
  """
  labels = set(labels)
  numeric = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)
  if len(labels) < 2:
    raise InvalidInputError(
      f"{location}: the training set has only one label, {labels.pop()!r}; at least two are needed"
    )
  # The label itself breaks ties such as "1" and "1.0": the order of a set varies between processes.
  return tuple(sorted(labels, key=lambda label: (float(label) if numeric else 0, label)))


def class_index(classes: tuple[str, ...], label: str, location: object) -> int:
  """Return the index of a label.

  Raises:
    InvalidInputError: the label is not one of `classes`.
  """
  if label not in classes:
    raise InvalidInputError(
      f"{location}: the label {label!r} does not occur in the training set, which has {classes}"
    )
  return classes.index(label)


def _read_split(folder: pathlib.Path, split: str) -> list[tuple[str, str, str]]:
  """Return (location, text, label) of each example of one split; [] if the split has no files."""
  for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz"):
    if path.exists():
      return [_parse_example(location, row) for location, row in read_jsonl(path)]
  class_dirs = [p for p in sorted(folder.glob(f"{split}/*")) if p.is_dir() and p.name != "unsup"]
  return [
    (str(path), read_text(path), class_dir.name)
    for class_dir in class_dirs
    for path in _text_files(class_dir)
  ]


def _text_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Return the .txt files of a folder, sorted by the numbers in their names."""

  def sort_key(path):
    numbers = [int(digits) for digits in re.findall(r"\d+", path.stem)]
    return numbers or [0], path.name

  return sorted(folder.glob("*.txt"), key=sort_key)


def _parse_example(location: str, row: dict) -> tuple[str, str, str]:
  match row:
    case {"text": str(text), "label": label} if label is not None:
      return location, text, str(label)
  raise InvalidInputError(
    f'{location} must be {{"text": "...", "label": ...}}; got {str(row)[:80]}'
  )
