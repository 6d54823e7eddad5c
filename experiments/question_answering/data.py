"""Stories with questions: the bAbI tasks (Weston et al. 2015), or generated ones.

embedded   people walk about with things: where is someone, something, and where was it before
files      a folder, or an archive with one or more folders, of files like qa1_..._train.txt and
           qa1_..._test.txt, lines "3 a sentence" and "4 a question?<TAB>answer<TAB>facts"; 1
           begins a new story
"""

import logging
import pathlib
import re
from itertools import chain
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, read_lines, use_files
from rnnjax.types import InvalidInputError

FILE_PATTERN = r"qa(\d{1,9})_.*_(train|test)\.txt"
LINE_PATTERN = re.compile(r"([1-9][0-9]{0,8}) ([^\t]+)(?:\t([^\t]+)\t[0-9 ]*)?")
MAX_STORY_LINES = (
  1000  # lines of a story, all of whose sentences stand before each of its questions
)
SPLIT_SIZES = 3000, 300, 300  # of the generated parts, in stories
PEOPLE, OBJECTS = "Ann Ben Cleo Dan".split(), "ball lamp book".split()
PLACES = "garden kitchen cellar attic".split()


class Question(NamedTuple):
  """A question about what a story has told so far.

  Attributes:
    task: the number of its task.
    story: sentences, each a list of words.
    words: of the question.
    answer: a word, or several with commas, which count as one.
  """

  task: int
  story: list[list[str]]
  words: list[str]
  answer: str


class QuestionDataset(NamedTuple):
  """Questions in three parts."""

  name: str
  train: list[Question]
  valid: list[Question]
  test: list[Question]


def load(dataset: str, data_dir: str, subset: str = "en") -> QuestionDataset:
  """Loads questions; of each task's training stories the last tenth validates.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive of the files.
    folder: which folder of an archive that has several.

  Raises:
    BadInput: files that are missing or malformed, each named with its line.
  """
  if use_files(dataset, data_dir, "small generated stories", "PATH reads real ones"):
    return load_files(data_dir, subset)
  draw = np.random.default_rng(0)
  parts = [
    [question for _ in range(size) for question in _generate_questions(draw)]
    for size in SPLIT_SIZES
  ]
  return QuestionDataset("embedded", *parts)


def load_files(data_dir: str, subset: str = "en") -> QuestionDataset:
  """Reads all tasks of a folder, or of a folder in an archive; a task without both parts is left
  out, with a warning."""
  present = [file for file in list_files(data_dir) if re.fullmatch(FILE_PATTERN, file.name)]
  folders = sorted({file.parent.name for file in present})
  if len(folders) != 1:
    present = [file for file in present if file.parent.name == subset]
  found: dict[int, dict[str, File]] = {}
  for file in present:
    number, part = re.fullmatch(FILE_PATTERN, file.name).groups()
    other = found.setdefault(int(number), {}).setdefault(part, file)
    if other is not file:
      raise InvalidInputError(f"{other} and {file} are both the {part} part of task {number}")
  whole = {task: parts for task, parts in sorted(found.items()) if len(parts) == 2}
  if not whole:
    raise InvalidInputError(
      f"{data_dir} must hold files like qa1_..._train.txt and qa1_..._test.txt, and if it has "
      f"several folders, one named {subset!r}; such files are in {folders}"
    )
  for task in found.keys() - whole.keys():
    logging.warning("task %d is left out: it has only its %s part", task, *found[task])
  train, valid, test = [], [], []
  for task, parts in whole.items():
    told = _read_stories(task, parts["train"])
    cut = len(told) - max(len(told) // 10, 1)
    train += chain.from_iterable(told[:cut])
    valid += chain.from_iterable(told[cut:])
    test += chain.from_iterable(_read_stories(task, parts["test"]))
  return QuestionDataset(
    f"{pathlib.Path(data_dir).name} {present[0].parent.name}", train, valid, test
  )


def tokenize_sentence(text: str) -> list[str]:
  """A sentence as lower-case words, without its stop."""
  return re.findall(r"\w+", text.lower())


def _read_stories(task: int, file: File) -> list[list[Question]]:
  """The questions of each story."""
  stories, story = [], []
  for n, (place, line) in enumerate(read_lines(file)):
    found = LINE_PATTERN.fullmatch(line.rstrip("\r\n "))
    if not found or (found[1] != "1" and not stories):
      raise InvalidInputError(
        f'{place} must be like "3 a sentence" or "4 a question?<TAB>answer<TAB>1 2", from 1 on; '
        f"got {line[:60]!r}"
      )
    number, text, answer = found.groups()
    if number == "1":
      stories.append([])
      story, begun = [], n
    if n - begun >= MAX_STORY_LINES:
      raise InvalidInputError(
        f"{place} is line {n - begun + 1} of a story, which may have {MAX_STORY_LINES}. "
        "Does each begin with 1?"
      )
    if answer is not None and not story:
      raise InvalidInputError(
        f"{place} asks before anything was told; a story begins with a sentence"
      )
    if answer is None:
      story.append(tokenize_sentence(text))
    else:
      stories[-1].append(Question(task, [*story], tokenize_sentence(text), answer.strip()))
  told = [story for story in stories if story]
  if len(told) < 2:
    raise InvalidInputError(
      f"{file} must hold two stories with questions at least. Was it cut off?"
    )
  return told


def _generate_questions(rng: np.random.Generator) -> list[Question]:
  """One generated story's questions, one for each of three tasks."""
  one = lambda names: names[rng.integers(len(names))]
  where = {person: one(PLACES) for person in PEOPLE}
  story = [f"{person} is in the {place}" for person, place in where.items()]
  holder, thing, seen = one(PEOPLE), one(OBJECTS), []  # where the thing has been, and who said so
  story.append(f"{holder} has the {thing}")
  seen.append(where[holder])
  for _ in range(rng.integers(2, 7)):
    person = one(PEOPLE)
    if rng.integers(3) or person == holder:
      where[person] = one([place for place in PLACES if place != where[person]])
      story.append(f"{person} goes to the {where[person]}")
    else:
      story.append(f"{holder} throws the {thing} to {person}")
      holder = person
    if where[holder] != seen[-1]:
      seen.append(where[holder])
  person, sentences = one(PEOPLE), [tokenize_sentence(sentence) for sentence in story]
  asked = [(1, f"Where is {person}", where[person]), (2, f"Where is the {thing}", seen[-1])]
  if len(seen) > 1:
    asked.append((3, f"Where was the {thing} before", seen[-2]))
  return [
    Question(task, sentences, tokenize_sentence(text), answer) for task, text, answer in asked
  ]
