"""The generated tagged sentences: forward models are limited, bidirectional ones are not."""

import pytest

from experiments.sequence_tagging import bio_tags, synthetic_sentences

TASKS = ("pos", "ner", "chunk")


def pair_up(rows):
  return zip(rows[::2], rows[1::2], strict=True)


def common_prefix_length(one, other):
  """Return the number of words that two sentences have in common at the beginning."""
  same = [a == b for a, b in zip(one, other)]
  return [*same, False].index(False)


@pytest.mark.parametrize("task", TASKS)
def test_pairs_share_prefix_but_not_tags(task):
  for (words, tags), (others, other_tags) in pair_up(
    synthetic_sentences.generate_sentences(600, seed=3, task=task)
  ):
    prefix_length = common_prefix_length(words, others)
    assert words != others
    assert tags[:prefix_length] != other_tags[:prefix_length]


@pytest.mark.parametrize("task", TASKS)
def test_forward_reading_errs_once_per_pair(task):
  """With the best tag of each beginning, one of two ambiguous words is right.

  The table is made of the pair itself, so no forward tagger can be better on the pair."""
  for pair in pair_up(synthetic_sentences.generate_sentences(600, seed=4, task=task)):
    (words, tags), (others, other_tags) = pair
    num_wrong = sum(a != b for a, b in zip(tags[: common_prefix_length(words, others)], other_tags))
    assert num_wrong >= 1
    assert synthetic_sentences.max_forward_accuracy(pair) == pytest.approx(
      1 - num_wrong / (len(words) + len(others))
    )


def test_forward_limit_on_small_example():
  """Of 8 tags: "Teddy" is right in 2 of 3 sentences, the second words always, "a" in 1 of 2."""
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
  """Clearly below 1, although the table is made of the test set itself."""
  *_, test = synthetic_sentences.generate_splits(task)
  assert 0.88 < synthetic_sentences.max_forward_accuracy(test) < 0.93


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_and_share_vocabulary(task):
  """Sentences are distinct, pairs are in one set, and each call returns the same."""
  train, valid, test = splits = synthetic_sentences.generate_splits(task)
  assert [len(split) for split in splits] == [1200, 200, 400]
  assert len({tuple(words) for split in splits for words, _ in split}) == 1800
  for column in (0, 1):
    train_items = {item for row in train for item in row[column]}
    assert {item for row in valid + test for item in row[column]} <= train_items
  for split in splits:
    assert all(len(words) == len(tags) for words, tags in split)
    for (words, tags), (others, other_tags) in pair_up(split):
      prefix_length = common_prefix_length(words, others)
      assert tags[:prefix_length] != other_tags[:prefix_length]
  assert synthetic_sentences.generate_splits(task) == splits


@pytest.mark.parametrize("task", ["ner", "chunk"])
def test_tags_are_legal_bio(task):
  """Legal as `to_bio` checks; the types are entities, or noun phrases."""
  for words, tags in synthetic_sentences.generate_sentences(600, seed=5, task=task):
    assert bio_tags.to_bio(tags) == tags
    types = {span_type for span_type, _, _ in bio_tags.extract_spans(tags)}
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
  """They are among the first 6000 sentences, with or without an opening."""
  sentences = synthetic_sentences.generate_sentences(6000, task=task)
  for beginning, expected in EXAMPLES[task].items():
    words, tags = beginning.split(), expected.split()
    positions = [slice(skip, skip + len(words)) for skip in (0, 2)]
    tags_of_matches = [
      other_tags[position]
      for others, other_tags in sentences
      for position in positions
      if others[position] == words
    ]
    assert tags_of_matches
    assert all(other_tags == tags for other_tags in tags_of_matches)


def test_too_many_sentences_raise(monkeypatch):
  """With few words there are only a few distinct sentences."""
  monkeypatch.setattr(synthetic_sentences, "TEMPLATES", synthetic_sentences.TEMPLATES[:1])
  monkeypatch.setattr(
    synthetic_sentences, "SLOTS", {slot: "one two" for slot in synthetic_sentences.SLOTS}
  )
  assert len(synthetic_sentences.generate_sentences(8)) == 8
  with pytest.raises(ValueError, match=r"at most the number of distinct ner sentences; got 800"):
    synthetic_sentences.generate_sentences(800)
