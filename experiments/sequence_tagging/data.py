"""Sentences in which each word has a tag: parts of speech, named entities or chunks.

  embedded   generated sentences in which the tag of a word depends on later words
  files      a folder or .zip archive with one training, one test and an optional validation file.
             The file names contain "train", "test", and "valid" or "dev". The file names end in
             .txt, .conll, .conllu or .tsv (also .gz).

Files have one word per line and an empty line between sentences. The number of columns determines
the format:

  2    word, tag; for any task; words may contain spaces if the columns are separated by tabs
  3    word, pos, chunk; the format of CoNLL-2000
  4    word, pos, chunk, ner; the format of CoNLL-2003
  10   CoNLL-U; only the words and the universal parts of speech are used
"""

import pathlib
import re
from typing import NamedTuple

from experiments.sequence_tagging import bio_tags, synthetic_sentences
from rnnjax.data.files import File, list_files, read_lines, use_files
from rnnjax.types import InvalidInputError

TASKS = ("pos", "ner", "chunk")
# {split: regular expression for file names}
SPLIT_PATTERNS = {"train": "train", "valid": "valid|dev", "test": "test"}
FILE_PATTERN = r"[^.].*\.(txt|conllu?|tsv)(\.gz)?"  # excludes hidden files (.name)
# {number of columns: {task: indices of the word column, the extra columns, and the tag column}}
FORMATS = {
  2: {"pos": (0, 1), "chunk": (0, 1), "ner": (0, 1)},
  3: {"pos": (0, 1), "chunk": (0, 1, 2)},
  4: {"pos": (0, 1), "chunk": (0, 1, 2), "ner": (0, 1, 2, 3)},
  10: {"pos": (1, 3)},
}


class Sentence(NamedTuple):
  """A tagged sentence.

  Attributes:
    words: the words of the sentence.
    tags: the tag of each word; [] if unknown.
    columns: the extra columns, between word and tag; each has one value per word.
    document_id: the index of the sentence's document in its split.
    location: "file:line" of the first word.
  """

  words: list[str]
  tags: list[str]
  columns: list[list[str]]
  document_id: int
  location: str


class TaggedDataset(NamedTuple):
  """Tagged sentences in three splits.

  Attributes:
    name: the name of the dataset.
    train: the training set.
    valid: the validation set.
    test: the test set.
  """

  name: str
  train: list[Sentence]
  valid: list[Sentence]
  test: list[Sentence]


def load(
  dataset: str,
  data_dir: str,
  task: str,
  max_train_length: int | None = None,
  use_extra_columns: bool = True,
) -> TaggedDataset:
  """Load tagged sentences; span tags are converted to IOBES.

  Args:
    dataset: "embedded", "files" or "auto". "auto" selects "files" if `data_dir` is non-empty, else
      "embedded".
    data_dir: the folder or archive that contains the files.
    task: one of TASKS.
    max_train_length: maximum number of words of a training sentence; longer sentences are
      truncated. None disables truncation.
    use_extra_columns: whether to keep the columns between word and tag.

  Raises:
    InvalidInputError: a file is missing or malformed (the message names the file and line).
  """
  if task not in TASKS:
    raise InvalidInputError(f"the task must be one of {TASKS}; got {task!r}")
  if use_files(dataset, data_dir, "a small generated set", "FOLDER reads real sentences"):
    loaded = load_files(data_dir, task)
  else:
    loaded = _generate_dataset(task)

  def convert(sentence, max_length=None):
    # Sentences are truncated before conversion to IOBES, so that a truncated span ends with E.
    tags = sentence.tags[:max_length]
    columns = [column[:max_length] for column in sentence.columns] if use_extra_columns else []
    return sentence._replace(
      words=sentence.words[:max_length],
      tags=tags if task == "pos" else bio_tags.to_iobes(tags),
      columns=columns,
    )

  return TaggedDataset(
    loaded.name,
    [convert(sentence, max_train_length) for sentence in loaded.train],
    [convert(sentence) for sentence in loaded.valid],
    [convert(sentence) for sentence in loaded.test],
  )


def _generate_dataset(task: str) -> TaggedDataset:
  splits = {}
  for split, rows in zip(SPLIT_PATTERNS, synthetic_sentences.generate_splits(task)):
    splits[split] = [
      Sentence(words, tags, [], n, f"embedded {split}:{n + 1}")
      for n, (words, tags) in enumerate(rows)
    ]
  return TaggedDataset("embedded", **splits)


def load_files(data_dir: str, task: str) -> TaggedDataset:
  """Read a folder or an archive; span tags of any scheme are converted to BIO.

  If there is no validation file, the last 10 % of the training sentences are the validation set.

  Raises:
    InvalidInputError: a file is missing or malformed (the message names the file and line).
  """
  files = list_files(data_dir)
  files_by_split = {
    split: [file for file in files if _split_of_file(file.name) == split]
    for split in SPLIT_PATTERNS
  }
  if [*map(len, files_by_split.values())] not in ([1, 0, 1], [1, 1, 1]):
    names = [file.name for file in files][:12]
    raise InvalidInputError(
      f"{data_dir} must hold one file each with train, test and, if there is one, valid or dev in "
      f"its name, ending in .txt .conll .conllu .tsv (also .gz); it holds {names}"
    )
  splits = {
    split: [sentence for file in split_files for sentence in _read_sentences(file, task)]
    for split, split_files in files_by_split.items()
  }
  if not files_by_split["valid"]:
    cut = -max(round(len(splits["train"]) / 10), 1)
    splits["train"], held_out = splits["train"][:cut], splits["train"][cut:]
    splits["valid"] = [
      sentence._replace(document_id=sentence.document_id - held_out[0].document_id)
      for sentence in held_out
    ]
  for split, sentences in splits.items():
    if not sentences:
      raise InvalidInputError(f"the {split} set of {data_dir} has no sentences. Is its file empty?")
    if len(sentences[0].columns) != len(splits["train"][0].columns):
      raise InvalidInputError(
        f"{data_dir}: the {split} set must have as many columns as the training set"
      )
  if task != "pos":
    scheme = bio_tags.detect_scheme(s.tags for sentences in splits.values() for s in sentences)
    splits = {
      split: [_convert_to_bio(sentence, scheme) for sentence in sentences]
      for split, sentences in splits.items()
    }
  return TaggedDataset(pathlib.Path(data_dir).name, **splits)


def _split_of_file(name: str) -> str | None:
  """Return the first split whose pattern matches a file name; None if no pattern matches.

  "latest_train.txt" is in the training split, because "train" is matched before "test".
  """
  name = name.lower()
  if not re.fullmatch(FILE_PATTERN, name):
    return None
  matches = (split for split, pattern in SPLIT_PATTERNS.items() if re.search(pattern, name))
  return next(matches, None)


def _read_sentences(file: File, task: str) -> list[Sentence]:
  """Read the sentences of one file."""
  lines = [line.strip(" \t\r") for _, line in read_lines(file)]
  # "#" begins a comment in CoNLL-U, but may be a word in other formats. Therefore the first line
  # with another beginning determines the format.
  first = next((line for line in lines if line and not line.startswith(("#", "-DOCSTART-"))), "")
  separator = "\t" if "\t" in first else " "

  def split_columns(line):
    return [cell.strip(" ") for cell in line.split(separator) if cell.strip(" ")]

  num_columns = len(split_columns(first))
  tasks = FORMATS.get(num_columns, {})
  if first and task not in tasks:
    description = f"not one of the formats, which have {[*FORMATS]}"
    if tasks:
      description = f"word, {', '.join(tasks)}"
    raise InvalidInputError(
      f"{file} has no column for {task!r}: {num_columns} columns are {description}"
    )
  is_conllu = num_columns == 10
  sentences, rows, document_id = [], [], 0
  for n, line in enumerate([*lines, ""], 1):  # "" ends the last sentence
    location = f"{file}:{n}"
    starts_document = line.startswith("# newdoc" if is_conllu else "-DOCSTART-")
    if rows and (starts_document or not line):
      (start, *_), words, *columns, tags = map(list, zip(*rows))
      sentences.append(Sentence(words, tags, columns, document_id, start))
      rows = []
    if starts_document:
      # Documents without sentences get no id.
      document_id = sentences[-1].document_id + 1 if sentences else 0
    elif line and not (is_conllu and line.startswith("#")):
      cells = split_columns(line)
      if len(cells) != num_columns:
        raise InvalidInputError(
          f"{location} has {len(cells)} columns, and the first row {num_columns}: {line[:60]!r}. "
          "Is an empty line or a column missing?"
        )
      # In CoNLL-U, contractions (2-3) and omitted words (8.1) have no integer id.
      if not is_conllu or cells[0].isdigit():
        rows.append((location, *(cells[column] for column in tasks[task])))
  return sentences


def _convert_to_bio(sentence: Sentence, scheme: str) -> Sentence:
  try:
    return sentence._replace(tags=bio_tags.to_bio(sentence.tags, scheme))
  except ValueError as error:
    raise InvalidInputError(
      f"{sentence.location}: {error}, the scheme detected from all sentences"
    ) from None
