"""Generated tagged sentences in which the tag of a word depends on later words.

Both sentences of a pair begin with the same words, but the tags of these words differ. Example:
"Teddy bears are on sale !" and "Teddy Roosevelt was a great president !". A forward model predicts
the same tags for the common beginning, so it tags each ambiguous word correctly in at most one
sentence. A bidirectional model can tag both sentences correctly. `max_forward_accuracy` returns the
maximum accuracy of forward models.
"""

import collections
from collections.abc import Iterable

import numpy as np

from experiments.sequence_tagging import bio_tags

TaggedWords = tuple[list[str], list[str]]  # (words, tags)
SPLIT_SIZES = (1200, 200, 400)

SLOTS = {  # {slot of a template: words that can fill the slot}
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
WORD_TYPES = {  # {entity type or part of speech: its words and slots}
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
# (common beginning of a pair, {type: continuation}). The continuation determines the type of the
# words marked with *.
TEMPLATES = (
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
# {task: {word type: span type}}. Chunks are noun phrases that contain no other noun phrase.
SPAN_TYPES = {
  "ner": {"PER": "PER", "LOC": "LOC", "ORG": "ORG"},
  "chunk": dict.fromkeys(("PER", "LOC", "ORG", "DET", "ADJ", "NOUN"), "NP"),
}


def generate_splits(task: str) -> tuple[list[TaggedWords], list[TaggedWords], list[TaggedWords]]:
  """Return the training, validation and test set. Both sentences of a pair are in the same set."""
  sentences = generate_sentences(sum(SPLIT_SIZES), task=task)
  train_end, valid_end, _ = np.cumsum(SPLIT_SIZES)
  return sentences[:train_end], sentences[train_end:valid_end], sentences[valid_end:]


def generate_sentences(num_sentences: int, seed: int = 0, task: str = "ner") -> list[TaggedWords]:
  """Return distinct tagged sentences; the two sentences of a pair are adjacent.

  Args:
    num_sentences: the number of sentences, even.
    seed: the random seed.
    task: "pos", "ner" or "chunk". Only pairs whose tags differ in this task are generated. Spans
      are tagged in BIO.

  Raises:
    ValueError: num_sentences exceeds the number of distinct sentences found.
  """
  templates = [
    (prefix, continuations)
    for prefix, continuations in TEMPLATES
    if len({tuple(_types_to_tags([word_type], task)) for word_type in continuations}) > 1
  ]
  types_by_sentence = {}
  for n in range(10 * num_sentences):
    rng = np.random.default_rng((seed, n))
    pair = dict(_sentence_pair(rng, *templates[n % len(templates)]))
    if not pair.keys() & types_by_sentence.keys():
      types_by_sentence.update(pair)
    if len(types_by_sentence) == num_sentences:
      return [
        ([*words], _types_to_tags(word_types, task))
        for words, word_types in types_by_sentence.items()
      ]
  raise ValueError(
    f"num_sentences must be at most the number of distinct {task} sentences; got {num_sentences}, "
    f"but {10 * num_sentences} draws gave only {len(types_by_sentence)}"
  )


def max_forward_accuracy(tagged_sentences: Iterable[TaggedWords]) -> float:
  """Return the maximum accuracy of models that predict a tag from this and earlier words."""
  tag_counts = collections.defaultdict(collections.Counter)
  for words, tags in tagged_sentences:
    for t, tag in enumerate(tags, 1):
      tag_counts[tuple(words[:t])][tag] += 1
  num_correct = sum(max(counts.values()) for counts in tag_counts.values())
  return num_correct / sum(counts.total() for counts in tag_counts.values())


def _sentence_pair(rng: np.random.Generator, prefix: str, continuations: dict[str, str]):
  """Fill in the slots of a template; yield (words, word types) of each sentence."""
  words_left = {
    slot: iter(rng.permutation(words.split()).tolist()) for slot, words in SLOTS.items()
  }
  type_of_word = {
    word: word_type for word_type, words in WORD_TYPES.items() for word in words.split()
  }

  def fill_slots(text):
    return [next(words_left[token]) if token in SLOTS else token for token in text.split()]

  opening = "OPENING , " if rng.random() < 0.8 else ""
  beginning = fill_slots(opening + prefix.replace("*", ""))
  for ambiguous_type, continuation in continuations.items():
    tokens = f"{opening}{prefix} {continuation}".split()
    word_types = [ambiguous_type if t.endswith("*") else type_of_word[t] for t in tokens]
    yield (*beginning, *fill_slots(continuation)), word_types


def _types_to_tags(word_types: list[str], task: str) -> list[str]:
  if task == "pos":
    return ["PROPN" if word_type in SPAN_TYPES["ner"] else word_type for word_type in word_types]
  span_types = SPAN_TYPES[task]
  iob1 = [f"I-{span_types[name]}" if name in span_types else "O" for name in word_types]
  return bio_tags.to_bio(iob1, "iob1")
