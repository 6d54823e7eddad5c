"""The generated set of tagged sentences: later words decide, and reading forward cannot know."""

import pytest

from experiments.sequence_tagging import bio_tags, synthetic_sentences

TASKS = ("pos", "ner", "chunk")


def pair_up(rows):
  return zip(rows[::2], rows[1::2], strict=True)


def common_prefix_length(one, other):
  """How many words two sentences have in common before they part."""
  same = [a == b for a, b in zip(one, other)]
  return [*same, False].index(False)


@pytest.mark.parametrize("task", TASKS)
def test_pairs_share_prefix_but_not_tags(task):
  for (words, tags), (others, marks) in pair_up(
    synthetic_sentences.generate_sentences(600, seed=3, task=task)
  ):
    begun = common_prefix_length(words, others)
    assert words != others
    assert tags[:begun] != marks[:begun]


@pytest.mark.parametrize("task", TASKS)
def test_forward_reading_errs_once_per_pair(task):
  """A table of the best tag for each beginning: among ambiguous words exactly one in two is right.

  The table is made of the pair alone, so no tagger that reads forward does better on the pair.
  """
  for pair in pair_up(synthetic_sentences.generate_sentences(600, seed=4, task=task)):
    (words, tags), (others, marks) = pair
    wrong = sum(a != b for a, b in zip(tags[: common_prefix_length(words, others)], marks))
    assert wrong >= 1
    assert synthetic_sentences.max_forward_accuracy(pair) == pytest.approx(
      1 - wrong / (len(words) + len(others))
    )


def test_forward_limit_on_small_example():
  """Of 8 tags, "Teddy" is right in two of three, what follows always, "a" in one of two."""
  rows = [
    (["Teddy", "bears"], ["O", "O"]),
    (["Teddy", "Roosevelt"], ["B-PER", "I-PER"]),
    (["Teddy", "sings"], ["B-PER", "O"]),
    (["a"], ["O"]),
    (["a"], ["B-LOC"]),
  ]
  assert synthetic_sentences.max_forward_accuracy(rows) == 6 / 8


@pytest.mark.parametrize("task", TASKS)
def test_forward_limit_of_test_set(task):
  """Clearly below 1, though the table is made of the test part itself."""
  *_, test = synthetic_sentences.generate_splits(task)
  assert 0.88 < synthetic_sentences.max_forward_accuracy(test) < 0.93


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_and_share_vocabulary(task):
  """Distinct sentences of known words and tags; no twins are divided, and each draw is the same."""
  train, valid, test = parts = synthetic_sentences.generate_splits(task)
  assert [len(part) for part in parts] == [1200, 200, 400]
  assert len({tuple(words) for part in parts for words, _ in part}) == 1800
  for column in (0, 1):
    known = {item for row in train for item in row[column]}
    assert {item for row in valid + test for item in row[column]} <= known
  for part in parts:
    assert all(len(words) == len(tags) for words, tags in part)
    for (words, tags), (others, marks) in pair_up(part):
      begun = common_prefix_length(words, others)
      assert tags[:begun] != marks[:begun]
  assert synthetic_sentences.generate_splits(task) == parts


@pytest.mark.parametrize("task", ["ner", "chunk"])
def test_tags_are_legal_bio(task):
  """Legal, as the converter checks; of entities, or of noun phrases alone."""
  for words, tags in synthetic_sentences.generate_sentences(600, seed=5, task=task):
    assert bio_tags.to_bio(tags) == tags
    types = {kind for kind, _, _ in bio_tags.extract_spans(tags)}
    assert types <= ({"NP"} if task == "chunk" else {"PER", "LOC", "ORG"}), words


EXAMPLES = {
  "ner": {
    "Teddy bears are on sale !": "O O O O O O",
    "Teddy Roosevelt was a great": "B-PER I-PER O O O",
    "Sachin Tendulkar is a member of parliament .": "B-PER I-PER O O O O O O",
    "Paris is great in spring .": "B-LOC O O O O O",
    "Ford shares rose in": "B-ORG O O O",
  },
  "pos": {
    "Teddy bears are on sale !": "NOUN NOUN AUX ADP NOUN PUNCT",
    "Teddy Roosevelt was a great": "PROPN PROPN AUX DET ADJ",
    "the old man the": "DET ADJ VERB DET",
  },
  "chunk": {
    "the old man the": "B-NP I-NP O B-NP",
    "the old man likes": "B-NP I-NP I-NP O",
    "Ford the": "O B-NP",
  },
}


@pytest.mark.parametrize("task", TASKS)
def test_lecture_sentences_are_generated(task):
  """They are among the first thousands, whatever opens them, and tagged as one would."""
  made = synthetic_sentences.generate_sentences(6000, task=task)
  for begun, expected in EXAMPLES[task].items():
    words, tags = begun.split(), expected.split()
    spots = [slice(skip, skip + len(words)) for skip in (0, 2)]
    found = [marks[spot] for others, marks in made for spot in spots if others[spot] == words]
    assert found
    assert all(marks == tags for marks in found)


def test_too_many_sentences_raise(monkeypatch):
  """Where words are few, the pairs come to an end, and that is said."""
  monkeypatch.setattr(synthetic_sentences, "TEMPLATES", synthetic_sentences.TEMPLATES[:1])
  monkeypatch.setattr(
    synthetic_sentences, "SLOTS", {slot: "one two" for slot in synthetic_sentences.SLOTS}
  )
  assert len(synthetic_sentences.generate_sentences(8)) == 8
  with pytest.raises(ValueError, match=r"^800 distinct sentences for ner cannot be made"):
    synthetic_sentences.generate_sentences(800)
