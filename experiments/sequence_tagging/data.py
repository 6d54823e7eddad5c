"""Sentences with a tag for each word: parts of speech, named entities, chunks.

  embedded   generated sentences in which the tags hang on later words
  files      a folder or .zip archive with one file each whose name holds train, test and, if there
             is one, valid or dev, and ends in .txt .conll .conllu .tsv (also .gz)

One word a line, an empty line between sentences; the number of columns tells the format:

  2    word, tag, for any task; words may hold blanks where tabs part the columns
  3    word, pos, chunk, as CoNLL-2000
  4    word, pos, chunk, ner, as CoNLL-2003
  10   CoNLL-U, of which the words and the universal parts of speech are read
"""

import pathlib
import re
from typing import NamedTuple

from experiments.sequence_tagging import bio_tags, synthetic_sentences
from rnnjax.data.files import File, list_files, read_lines, use_files
from rnnjax.types import InvalidInputError

TASKS = ("pos", "ner", "chunk")
SPLIT_PATTERNS = {
  "train": "train",
  "valid": "valid|dev",
  "test": "test",
}  # and what is in a file's name
FILE_PATTERN = r"[^.].*\.(txt|conllu?|tsv)(\.gz)?"  # a leading dot hides a file
FORMATS = {  # of so many columns: the word, what stands between, the tag
  2: {"pos": (0, 1), "chunk": (0, 1), "ner": (0, 1)},
  3: {"pos": (0, 1), "chunk": (0, 1, 2)},
  4: {"pos": (0, 1), "chunk": (0, 1, 2), "ner": (0, 1, 2, 3)},
  10: {"pos": (1, 3)},
}


class Sentence(NamedTuple):
  """Words with a tag each."""

  words: list[str]
  tags: list[str]
  columns: list[list[str]]  # those between word and tag, each as long as words
  document_id: int  # the number of its document, from 0 in each part
  location: str  # "file:line" of its first word


class TaggedDataset(NamedTuple):
  """Tagged sentences in three parts."""

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
  """Loads tagged sentences; tags of spans become IOBES.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive of the files.
    task: one of TASKS.
    limit: words of a longer training sentence that are kept; None for all.
    columns: whether those between word and tag are kept.

  Raises:
    BadInput: files that are missing or malformed, each named with its line.
  """
  if task not in TASKS:
    raise InvalidInputError(f"the task must be one of {TASKS}; got {task!r}")
  if use_files(dataset, data_dir, "a small generated set", "FOLDER reads real sentences"):
    text = load_files(data_dir, task)
  else:
    text = _generate_dataset(task)
  whole = list if task == "pos" else bio_tags.to_iobes

  def ready(part, max_length=None):
    for words, tags, others, *place in part:
      kept = [column[:max_length] for column in others] if use_extra_columns else []
      yield Sentence(words[:max_length], whole(tags[:max_length]), kept, *place)

  parts = ready(text.train, max_train_length), ready(text.valid), ready(text.test)
  return TaggedDataset(text.name, *map(list, parts))


def _generate_dataset(task: str) -> TaggedDataset:
  place = lambda part, n: f"embedded {part}:{n + 1}"
  return TaggedDataset(
    "embedded",
    *(
      [Sentence(*row, [], n, place(part, n)) for n, row in enumerate(rows)]
      for part, rows in zip(SPLIT_PATTERNS, synthetic_sentences.generate_splits(task))
    ),
  )


def load_files(data_dir: str, task: str) -> TaggedDataset:
  """Reads a folder or an archive; tags of spans become BIO, whatever scheme they come in.

  Without a validation file the last tenth of the training sentences is held out.

  Raises:
    BadInput: as for `load`.
  """
  present = list_files(data_dir)
  found = {
    part: [file for file in present if _split_of_file(file.name) == part] for part in SPLIT_PATTERNS
  }
  if [*map(len, found.values())] not in ([1, 0, 1], [1, 1, 1]):
    names = [file.name for file in present][:12]
    raise InvalidInputError(
      f"{data_dir} must hold one file each with train, test and, if there is one, valid or dev in "
      f"its name, ending in .txt .conll .conllu .tsv (also .gz); it holds {names}"
    )
  parts = {
    part: [s for f in chosen for s in _read_sentences(f, task)] for part, chosen in found.items()
  }
  if not found["valid"]:
    cut = -max(round(len(parts["train"]) / 10), 1)
    parts["train"], held = parts["train"][:cut], parts["train"][cut:]
    parts["valid"] = [s._replace(document_id=s.document_id - held[0].document_id) for s in held]
  for part, sentences in parts.items():
    if not sentences:
      raise InvalidInputError(f"the {part} part of {data_dir} has no sentence. Is its file empty?")
    if len(sentences[0].columns) != len(parts["train"][0].columns):
      raise InvalidInputError(
        f"{data_dir}: the {part} part has other columns than the training part"
      )
  if task != "pos":
    scheme = bio_tags.detect_scheme(s.tags for sentences in parts.values() for s in sentences)
    parts = {
      part: [_convert_to_bio(s, scheme) for s in sentences] for part, sentences in parts.items()
    }
  return TaggedDataset(pathlib.Path(data_dir).name, **parts)


def _split_of_file(name: str) -> str | None:
  """The first part that a file's name speaks of, in their order: "latest_train" is train."""
  name = name.lower()
  found = (part for part, words in SPLIT_PATTERNS.items() if re.search(words, name))
  return next(found, None) if re.fullmatch(FILE_PATTERN, name) else None


def _read_sentences(file: File, task: str) -> list[Sentence]:
  """The sentences of one file."""
  rows = [line.strip(" \t\r") for _, line in read_lines(file)]
  # "#" may be a word: only where the first other line is of CoNLL-U does it begin a comment.
  first = next((line for line in rows if line and not line.startswith(("#", "-DOCSTART-"))), "")
  blank = "\t" if "\t" in first else " "
  cut = lambda line: [cell.strip(" ") for cell in line.split(blank) if cell.strip(" ")]
  width = len(cut(first))
  tasks = FORMATS.get(width, {})
  if first and task not in tasks:
    has = (
      f"word, {', '.join(tasks)}" if tasks else f"not one of the formats, which have {[*FORMATS]}"
    )
    raise InvalidInputError(f"{file} has no column for {task!r}: {width} columns are {has}")
  conllu = width == 10
  sentences, own, number = [], [], 0
  for n, line in enumerate([*rows, ""], 1):
    place = f"{file}:{n}"
    begins = line.startswith("# newdoc" if conllu else "-DOCSTART-")
    if own and (begins or not line):
      (start, *_), words, *columns, tags = map(list, zip(*own))
      sentences.append(Sentence(words, tags, columns, number, start))
      own = []
    if begins:
      number = sentences[-1].document_id + 1 if sentences else 0
    elif line and not (conllu and line.startswith("#")):
      row = cut(line)
      if len(row) != width:
        raise InvalidInputError(
          f"{place} has {len(row)} columns, and the first row {width}: {line[:60]!r}. "
          "Is an empty line or a column missing?"
        )
      # A number alone: neither a contraction (2-3) nor a word that is left out (8.1).
      if not conllu or row[0].isdigit():
        own.append((place, *(row[column] for column in tasks[task])))
  return sentences


def _convert_to_bio(sentence: Sentence, scheme: str) -> Sentence:
  try:
    return sentence._replace(tags=bio_tags.to_bio(sentence.tags, scheme))
  except ValueError as error:
    raise InvalidInputError(
      f"{sentence.location}: {error}, the scheme that all together show"
    ) from None
