"""A small generated set of tagged sentences in which later words decide.

Every sentence has a twin that begins alike and yet is tagged otherwise there: "Teddy bears are on
sale !", "Teddy Roosevelt was a great president !". Whatever reads forward alone tags the beginning
of both alike, so each ambiguous word is right in at most one of them, while a net that reads in
both directions can be right in both. `ceiling` counts how far reading forward can get.
"""

import collections
from collections.abc import Iterable

import numpy as np

from experiments.sequence_tagging import bio_tags

Row = tuple[list[str], list[str]]  # words and their tags
SIZES = (1200, 200, 400)

SLOTS = {  # each stands for one of these words
  "OPENING": "well now today yesterday look listen",
  "NICKNAME": "Teddy Daisy Robin Olive Rose Heather Ruby Ginger",
  "NAME": "Mark Bill Sue Rob Grant Chase Pat Frank Nick Josh",
  "GIVEN": "Sachin John Louis George Indira Ronald",
  "SURNAME": "Roosevelt Tendulkar Hilton Miller Jackson Turner Gandhi Kennedy",
  "PLACE": "Paris Jordan Washington Sydney Florence Austin Chelsea Georgia Charlotte Madison",
  "MAKER": "Ford Disney Dell Wilson Chanel Porsche Boeing Lincoln Benz Gillette",
  "FIRM": "Ford Target Shell Dodge Google Hoover Xerox Skype",
  "CREW": "man train host judge guide nurse pilot cook coach guard",
  "AGE": "old young rich poor",
  "WARES": "bears chains cars cards rings cakes dolls books shoes seeds",
  "ROLE": "president singer teacher doctor painter writer player",
  "THING": "boat page bank house river company garden ball",
  "SEASON": "spring summer autumn winter",
}
MARKS = {  # of words and slots: the type of an entity, or else a part of speech
  "PER": "SURNAME",
  "LOC": "Stadium",
  "ADJ": "AGE great full",
  "ADP": "in of on",
  "AUX": "is are was",
  "CCONJ": "and",
  "DET": "the a",
  "INTJ": "OPENING",
  "NOUN": "WARES ROLE THING SEASON sale member parliament shares cities sisters firms brothers",
  "PUNCT": "! . ,",
  "VERB": "like likes sold rose",
}
FORMS = (  # what twins share, and how each goes on by the mark that this gives the words with a *
  ("NICKNAME*", {"NOUN": "WARES are on sale !", "PER": "SURNAME was a great ROLE !"}),
  ("PLACE*", {"LOC": "is great in SEASON .", "PER": "SURNAME is a AGE ROLE ."}),
  ("PLACE* , PLACE* and PLACE* are", {"LOC": "AGE cities .", "PER": "AGE sisters ."}),
  ("MAKER*", {"ORG": "shares rose in SEASON .", "PER": "was a AGE ROLE ."}),
  ("MAKER* and MAKER* are", {"ORG": "AGE firms .", "PER": "AGE brothers ."}),
  ("GIVEN* SURNAME*", {"PER": "is a member of parliament .", "LOC": "Stadium is full in SEASON ."}),
  ("NAME*", {"VERB": "the THING !", "PER": "likes the THING ."}),
  ("NAME* and NAME*", {"VERB": "the THING !", "PER": "like the THING ."}),
  ("FIRM*", {"VERB": "the THING !", "ORG": "sold the THING ."}),
  ("the AGE CREW*", {"VERB": "the THING !", "NOUN": "likes the THING ."}),
)
SPANS = {  # the types of spans by mark: entities, and noun phrases that hold no other
  "ner": {"PER": "PER", "LOC": "LOC", "ORG": "ORG"},
  "chunk": dict.fromkeys(("PER", "LOC", "ORG", "DET", "ADJ", "NOUN"), "NP"),
}


def splits(task: str) -> tuple[list[Row], list[Row], list[Row]]:
  """Sentences to learn from, to choose with and to test; no pair of twins is divided."""
  made = sentences(sum(SIZES), task=task)
  train, valid, _ = np.cumsum(SIZES)
  return made[:train], made[train:valid], made[valid:]


def sentences(number: int, seed: int = 0, task: str = "ner") -> list[Row]:
  """Distinct sentences, each beside its twin.

  Args:
    number: of sentences, even.
    seed: of what is drawn.
    task: "pos", "ner" or "chunk"; twins differ in its tags. Those of spans are BIO.

  Raises:
    ValueError: there are not so many.
  """
  differ = lambda one, other: _tags([one], task) != _tags([other], task)
  forms = [form for form in FORMS if differ(*form[1])]
  made = {}
  for n in range(10 * number):
    twins = dict(_twins(np.random.default_rng((seed, n)), *forms[n % len(forms)]))
    if not twins.keys() & made.keys():
      made.update(twins)
    if len(made) == number:
      return [([*words], _tags(marks, task)) for words, marks in made.items()]
  raise ValueError(f"{number} distinct sentences for {task} cannot be made in pairs of twins")


def ceiling(rows: Iterable[Row]) -> float:
  """The best accuracy, over all tags, of whatever knows at each word only those up to it."""
  counts = collections.defaultdict(collections.Counter)
  for words, tags in rows:
    for t, tag in enumerate(tags, 1):
      counts[tuple(words[:t])][tag] += 1
  right = sum(max(count.values()) for count in counts.values())
  return right / sum(count.total() for count in counts.values())


def _twins(draw, shared: str, readings: dict[str, str]):
  """Two sentences of one form, as words and marks."""
  words = {slot: iter(draw.permutation(some.split()).tolist()) for slot, some in SLOTS.items()}
  marks = {word: mark for mark, some in MARKS.items() for word in some.split()}
  fill = lambda text: [next(words[token]) if token in SLOTS else token for token in text.split()]
  opening = "OPENING , " if draw.random() < 0.8 else ""
  begun = fill(opening + shared.replace("*", ""))
  for mark, rest in readings.items():
    tokens = f"{opening}{shared} {rest}".split()
    yield (*begun, *fill(rest)), [mark if t.endswith("*") else marks[t] for t in tokens]


def _tags(marks: list[str], task: str) -> list[str]:
  if task == "pos":
    return ["PROPN" if mark in SPANS["ner"] else mark for mark in marks]
  types = SPANS[task]
  return bio_tags.bio([f"I-{types[mark]}" if mark in types else "O" for mark in marks], "iob1")
