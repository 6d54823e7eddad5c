"""Stories with questions: the bAbI tasks (Weston et al. 2015), or generated stories.

embedded   generated stories in which people carry objects between places. The questions ask where a
           person is, where an object is, and where the object was before.
files      a folder, or an archive with one or more folders. Each task has two files, such as
           qa1_..._train.txt and qa1_..._test.txt. A line is "3 a sentence" or
           "4 a question?<TAB>answer<TAB>facts", where 3 and 4 are the line numbers in the story.
           Line number 1 begins a new story.
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
# Each question stores all previous sentences of its story. Memory use is therefore quadratic in the
# length of a story.
MAX_STORY_LINES = 1000
SPLIT_SIZES = 3000, 300, 300  # numbers of generated stories
PEOPLE, OBJECTS = "Ann Ben Cleo Dan".split(), "ball lamp book".split()
PLACES = "garden kitchen cellar attic".split()


class Question(NamedTuple):
  """A question about the previous sentences of a story.

  Attributes:
    task: the number of the bAbI task.
    story: the sentences before the question; each sentence is a list of words.
    words: the words of the question.
    answer: the answer. An answer of several words, separated by commas, is one class.
  """

  task: int
  story: list[list[str]]
  words: list[str]
  answer: str


class QuestionDataset(NamedTuple):
  """Questions in three splits.

  Attributes:
    name: the name of the dataset.
    train: the training set.
    valid: the validation set.
    test: the test set.
  """

  name: str
  train: list[Question]
  valid: list[Question]
  test: list[Question]


def load(dataset: str, data_dir: str, subset: str = "en") -> QuestionDataset:
  """Load questions from files, or generate them.

  Args:
    dataset: one of `files.DATASETS`. "auto" reads files if `data_dir` is non-empty, else it uses
      the embedded data.
    data_dir: the path of a folder or archive.
    subset: the subfolder to read if `data_dir` contains several.

  Raises:
    InvalidInputError: a file is missing or malformed (the message names the file and line).
  """
  if use_files(dataset, data_dir, "small generated stories", "PATH reads real ones"):
    return load_files(data_dir, subset)
  rng = np.random.default_rng(0)
  splits = [
    [question for _ in range(size) for question in _generate_questions(rng)] for size in SPLIT_SIZES
  ]
  return QuestionDataset("embedded", *splits)


def load_files(data_dir: str, subset: str = "en") -> QuestionDataset:
  """Read all tasks of a folder or archive.

  The last 10 % of each task's training stories are the validation set. A task without a training or
  test file is skipped with a warning.

  Args:
    data_dir: the path of a folder or archive.
    subset: the subfolder to read if `data_dir` contains several.

  Raises:
    InvalidInputError: no task has both files, two files belong to the same split of a task, or a
      line is malformed.
  """
  files = [file for file in list_files(data_dir) if re.fullmatch(FILE_PATTERN, file.name)]
  folders = sorted({file.parent.name for file in files})
  if len(folders) != 1:
    files = [file for file in files if file.parent.name == subset]
  files_by_task: dict[int, dict[str, File]] = {}
  for file in files:
    number, split = re.fullmatch(FILE_PATTERN, file.name).groups()
    first = files_by_task.setdefault(int(number), {}).setdefault(split, file)
    if first is not file:
      raise InvalidInputError(f"{first} and {file} are both the {split} file of task {number}")
  complete = {task: split for task, split in sorted(files_by_task.items()) if len(split) == 2}
  if not complete:
    raise InvalidInputError(
      f"{data_dir} must hold files like qa1_..._train.txt and qa1_..._test.txt, and if it has "
      f"several folders, one named {subset!r}; such files are in {folders}"
    )
  for task in files_by_task.keys() - complete.keys():
    logging.warning("task %d is skipped: it has only a %s file", task, *files_by_task[task])
  train, valid, test = [], [], []
  for task, task_files in complete.items():
    stories = _read_stories(task, task_files["train"])
    num_train = len(stories) - max(len(stories) // 10, 1)
    train += chain.from_iterable(stories[:num_train])
    valid += chain.from_iterable(stories[num_train:])
    test += chain.from_iterable(_read_stories(task, task_files["test"]))
  name = f"{pathlib.Path(data_dir).name} {files[0].parent.name}"
  return QuestionDataset(name, train, valid, test)


def tokenize_sentence(text: str) -> list[str]:
  """Return the words of a sentence in lower case, without punctuation."""
  return re.findall(r"\w+", text.lower())


def _read_stories(task: int, file: File) -> list[list[Question]]:
  """Return the list of questions of each story in a file. Stories without questions are omitted.

  Raises:
    InvalidInputError: a line is malformed, a story is too long or begins with a question, or fewer
      than two stories have questions.
  """
  stories, story = [], []
  for n, (location, line) in enumerate(read_lines(file)):
    match = LINE_PATTERN.fullmatch(line.rstrip("\r\n "))
    if not match or (match[1] != "1" and not stories):
      raise InvalidInputError(
        f'{location} must be like "3 a sentence" or "4 a question?<TAB>answer<TAB>1 2", with '
        f"numbers from 1; got {line[:60]!r}"
      )
    number, text, answer = match.groups()
    if number == "1":
      stories.append([])
      story, story_start = [], n
    if n - story_start >= MAX_STORY_LINES:
      raise InvalidInputError(
        f"{location} is line {n - story_start + 1} of a story; the maximum is {MAX_STORY_LINES}. "
        "Does each story begin with line number 1?"
      )
    if answer is not None and not story:
      raise InvalidInputError(
        f"{location} is a question before any sentence; a story must begin with a sentence"
      )
    if answer is None:
      story.append(tokenize_sentence(text))
    else:
      stories[-1].append(Question(task, [*story], tokenize_sentence(text), answer.strip()))
  stories_with_questions = [questions for questions in stories if questions]
  if len(stories_with_questions) < 2:
    raise InvalidInputError(
      f"{file} must hold at least two stories with questions. Was the file cut off?"
    )
  return stories_with_questions


def _generate_questions(rng: np.random.Generator) -> list[Question]:
  """Generate a story; return one question each for tasks 1, 2 and, if the object moved, 3."""

  def choose(names):
    return names[rng.integers(len(names))]

  person_place = {person: choose(PLACES) for person in PEOPLE}
  story = [f"{person} is in the {place}" for person, place in person_place.items()]
  holder, thing = choose(PEOPLE), choose(OBJECTS)
  story.append(f"{holder} has the {thing}")
  thing_places = [person_place[holder]]  # all places where the object has been
  for _ in range(rng.integers(2, 7)):
    person = choose(PEOPLE)
    if rng.integers(3) or person == holder:
      person_place[person] = choose([p for p in PLACES if p != person_place[person]])
      story.append(f"{person} goes to the {person_place[person]}")
    else:
      story.append(f"{holder} throws the {thing} to {person}")
      holder = person
    if person_place[holder] != thing_places[-1]:
      thing_places.append(person_place[holder])
  person = choose(PEOPLE)
  questions = [
    (1, f"Where is {person}", person_place[person]),
    (2, f"Where is the {thing}", thing_places[-1]),
  ]
  if len(thing_places) > 1:  # only a moved object has a previous place
    questions.append((3, f"Where was the {thing} before", thing_places[-2]))
  sentences = [tokenize_sentence(sentence) for sentence in story]
  return [
    Question(task, sentences, tokenize_sentence(text), answer) for task, text, answer in questions
  ]
