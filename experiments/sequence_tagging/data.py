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
from rnnjax.data.files import File, contents, given, lines
from rnnjax.types import BadInput

TASKS = ("pos", "ner", "chunk")
PARTS = {"train": "train", "valid": "valid|dev", "test": "test"}  # and what is in a file's name
ENDING = r"[^.].*\.(txt|conllu?|tsv)(\.gz)?"  # a leading dot hides a file
READ = {  # of so many columns: the word, what stands between, the tag
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
  document: int  # the number of its document, from 0 in each part
  place: str  # "file:line" of its first word


class Tagged(NamedTuple):
  """Tagged sentences in three parts."""

  name: str
  train: list[Sentence]
  valid: list[Sentence]
  test: list[Sentence]


def load(
  dataset: str, data_dir: str, task: str, limit: int | None = None, columns: bool = True
) -> Tagged:
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
    raise BadInput(f"the task must be one of {TASKS}; got {task!r}")
  if given(dataset, data_dir, "a small generated set", "FOLDER reads real sentences"):
    text = files(data_dir, task)
  else:
    text = _generated(task)
  whole = list if task == "pos" else bio_tags.iobes

  def ready(part, limit=None):
    for words, tags, others, *place in part:
      kept = [column[:limit] for column in others] if columns else []
      yield Sentence(words[:limit], whole(tags[:limit]), kept, *place)

  parts = ready(text.train, limit), ready(text.valid), ready(text.test)
  return Tagged(text.name, *map(list, parts))


def _generated(task: str) -> Tagged:
  place = lambda part, n: f"embedded {part}:{n + 1}"
  return Tagged(
    "embedded",
    *(
      [Sentence(*row, [], n, place(part, n)) for n, row in enumerate(rows)]
      for part, rows in zip(PARTS, synthetic_sentences.splits(task))
    ),
  )


def files(data_dir: str, task: str) -> Tagged:
  """Reads a folder or an archive; tags of spans become BIO, whatever scheme they come in.

  Without a validation file the last tenth of the training sentences is held out.

  Raises:
    BadInput: as for `load`.
  """
  present = contents(data_dir)
  found = {part: [file for file in present if _part(file.name) == part] for part in PARTS}
  if [*map(len, found.values())] not in ([1, 0, 1], [1, 1, 1]):
    names = [file.name for file in present][:12]
    raise BadInput(
      f"{data_dir} must hold one file each with train, test and, if there is one, valid or dev in "
      f"its name, ending in .txt .conll .conllu .tsv (also .gz); it holds {names}"
    )
  parts = {part: [s for f in chosen for s in _sentences(f, task)] for part, chosen in found.items()}
  if not found["valid"]:
    cut = -max(round(len(parts["train"]) / 10), 1)
    parts["train"], held = parts["train"][:cut], parts["train"][cut:]
    parts["valid"] = [s._replace(document=s.document - held[0].document) for s in held]
  for part, sentences in parts.items():
    if not sentences:
      raise BadInput(f"the {part} part of {data_dir} has no sentence. Is its file empty?")
    if len(sentences[0].columns) != len(parts["train"][0].columns):
      raise BadInput(f"{data_dir}: the {part} part has other columns than the training part")
  if task != "pos":
    scheme = bio_tags.scheme(s.tags for sentences in parts.values() for s in sentences)
    parts = {part: [_bio(s, scheme) for s in sentences] for part, sentences in parts.items()}
  return Tagged(pathlib.Path(data_dir).name, **parts)


def _part(name: str) -> str | None:
  """The first part that a file's name speaks of, in their order: "latest_train" is train."""
  name = name.lower()
  found = (part for part, words in PARTS.items() if re.search(words, name))
  return next(found, None) if re.fullmatch(ENDING, name) else None


def _sentences(file: File, task: str) -> list[Sentence]:
  """The sentences of one file."""
  rows = [line.strip(" \t\r") for _, line in lines(file)]
  # "#" may be a word: only where the first other line is of CoNLL-U does it begin a comment.
  first = next((line for line in rows if line and not line.startswith(("#", "-DOCSTART-"))), "")
  blank = "\t" if "\t" in first else " "
  cut = lambda line: [cell.strip(" ") for cell in line.split(blank) if cell.strip(" ")]
  width = len(cut(first))
  tasks = READ.get(width, {})
  if first and task not in tasks:
    has = f"word, {', '.join(tasks)}" if tasks else f"not one of the formats, which have {[*READ]}"
    raise BadInput(f"{file} has no column for {task!r}: {width} columns are {has}")
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
      number = sentences[-1].document + 1 if sentences else 0
    elif line and not (conllu and line.startswith("#")):
      row = cut(line)
      if len(row) != width:
        raise BadInput(
          f"{place} has {len(row)} columns, and the first row {width}: {line[:60]!r}. "
          "Is an empty line or a column missing?"
        )
      # A number alone: neither a contraction (2-3) nor a word that is left out (8.1).
      if not conllu or row[0].isdigit():
        own.append((place, *(row[column] for column in tasks[task])))
  return sentences


def _bio(sentence: Sentence, scheme: str) -> Sentence:
  try:
    return sentence._replace(tags=bio_tags.bio(sentence.tags, scheme))
  except ValueError as error:
    raise BadInput(f"{sentence.place}: {error}, the scheme that all together show") from None
