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

TaggedWords = tuple[list[str], list[str]]  # words and their tags
SPLIT_SIZES = (1200, 200, 400)

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
WORD_TYPES = {  # of words and slots: the type of an entity, or else a part of speech
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
TEMPLATES = (  # what twins share, and how each goes on by the mark that this gives the words with a *
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
SPAN_TYPES = {  # the types of spans by mark: entities, and noun phrases that hold no other
  "ner": {"PER": "PER", "LOC": "LOC", "ORG": "ORG"},
  "chunk": dict.fromkeys(("PER", "LOC", "ORG", "DET", "ADJ", "NOUN"), "NP"),
}


def generate_splits(task: str) -> tuple[list[TaggedWords], list[TaggedWords], list[TaggedWords]]:
  """Sentences to learn from, to choose with and to test; no pair of twins is divided."""
  made = generate_sentences(sum(SPLIT_SIZES), task=task)
  train, valid, _ = np.cumsum(SPLIT_SIZES)
  return made[:train], made[train:valid], made[valid:]


def generate_sentences(num_sentences: int, seed: int = 0, task: str = "ner") -> list[TaggedWords]:
  """Distinct sentences, each beside its twin.

  Args:
    number: of sentences, even.
    seed: of what is drawn.
    task: "pos", "ner" or "chunk"; twins differ in its tags. Those of spans are BIO.

  Raises:
    ValueError: there are not so many.
  """
  differ = lambda one, other: _types_to_tags([one], task) != _types_to_tags([other], task)
  forms = [form for form in TEMPLATES if differ(*form[1])]
  made = {}
  for n in range(10 * num_sentences):
    twins = dict(_sentence_pair(np.random.default_rng((seed, n)), *forms[n % len(forms)]))
    if not twins.keys() & made.keys():
      made.update(twins)
    if len(made) == num_sentences:
      return [([*words], _types_to_tags(marks, task)) for words, marks in made.items()]
  raise ValueError(
    f"{num_sentences} distinct sentences for {task} cannot be made in pairs of twins"
  )


def max_forward_accuracy(tagged_sentences: Iterable[TaggedWords]) -> float:
  """The best accuracy, over all tags, of whatever knows at each word only those up to it."""
  counts = collections.defaultdict(collections.Counter)
  for words, tags in tagged_sentences:
    for t, tag in enumerate(tags, 1):
      counts[tuple(words[:t])][tag] += 1
  right = sum(max(count.values()) for count in counts.values())
  return right / sum(count.total() for count in counts.values())


def _sentence_pair(rng, prefix: str, continuations: dict[str, str]):
  """Two sentences of one form, as words and marks."""
  words = {slot: iter(rng.permutation(some.split()).tolist()) for slot, some in SLOTS.items()}
  marks = {word: mark for mark, some in WORD_TYPES.items() for word in some.split()}
  fill = lambda text: [next(words[token]) if token in SLOTS else token for token in text.split()]
  opening = "OPENING , " if rng.random() < 0.8 else ""
  begun = fill(opening + prefix.replace("*", ""))
  for mark, rest in continuations.items():
    tokens = f"{opening}{prefix} {rest}".split()
    yield (*begun, *fill(rest)), [mark if t.endswith("*") else marks[t] for t in tokens]


def _types_to_tags(word_types: list[str], task: str) -> list[str]:
  if task == "pos":
    return ["PROPN" if mark in SPAN_TYPES["ner"] else mark for mark in word_types]
  types = SPAN_TYPES[task]
  return bio_tags.to_bio(
    [f"I-{types[mark]}" if mark in types else "O" for mark in word_types], "iob1"
  )
