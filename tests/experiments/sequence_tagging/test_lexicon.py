"""Vocabularies of a tagger: encoding, thresholds and the JSON round trip."""

import json

import numpy as np
import pytest

from experiments.sequence_tagging.data import Sentence
from experiments.sequence_tagging.lexicon import (
  MAX_WORD_LENGTH,
  Lexicon,
  normalize_word,
  word_shape,
)
from rnnjax.data.vocabulary import PAD, UNKNOWN


def make_sentence(words, tags="", *columns):
  return Sentence(words.split(), tags.split(), [column.split() for column in columns], 0, "")


TRAIN = [
  make_sentence("Anna saw Anna 1996", "S-PER O S-PER O", "N V N C"),
  make_sentence("anna saw a Zoo", "S-PER O O S-LOC", "N V D N"),
  make_sentence("so 2024", "O O", "V C"),
]
TAGS = ["S-PER", "O", "S-LOC", "S-ORG", "O"]
LEXICON = Lexicon.from_sentences(TRAIN, TAGS, min_count=2)
UNSEEN = make_sentence("ZÖE saw 1/2 anna", "", "N X C N")


def test_word_normalization_and_shapes():
  assert [normalize_word(word) for word in ("Anna", "1996", "R2D2", "²³")] == [
    "anna",
    "0000",
    "r0d0",
    "²³",
  ]
  written = ["McCoy", "a-B", "U.S.", "12:30", "...", "Öl", "日本", ""]
  assert [word_shape(word) for word in written] == [
    "XxXx",
    "x-X",
    "X.X.",
    "0:0",
    ".",
    "Xx",
    "x",
    "",
  ]


def test_vocabularies_and_frequency_thresholds():
  """Normalized words occur at least min_count times; characters and shapes at least three times."""
  assert set(LEXICON.words.words[2:]) == {"anna", "saw", "0000"}
  assert set(LEXICON.characters.words[2:]) == {*"anso"}
  shapes, pos_tags = LEXICON.columns
  assert set(shapes.words[2:]) == {"Xx", "x"} and set(pos_tags.words[2:]) == {*"NVCD"}
  assert LEXICON.tags == ["O", "S-LOC", "S-ORG", "S-PER"]


def test_tag_missing_from_training_warns(caplog):
  Lexicon.from_sentences(TRAIN, TAGS)
  (record,) = caplog.records
  assert "['S-ORG']" in record.getMessage() and "never be predicted" in record.getMessage()


def test_encoding_of_known_words():
  """Unknown is 1 and padding 0."""
  encoded = LEXICON.encode(TRAIN[1])
  assert LEXICON.words.decode(encoded["tokens"]) == ["anna", "saw", "<unk>", "<unk>"]
  characters = [LEXICON.characters.decode(row[row != PAD]) for row in encoded["characters"]]
  assert characters == [[*"anna"], ["s", "a", "<unk>"], ["a"], ["<unk>", "o", "o"]]
  assert encoded["characters"].shape == (4, MAX_WORD_LENGTH)
  decoded = [
    vocabulary.decode(ids)
    for vocabulary, ids in zip(LEXICON.columns, encoded["columns"].T, strict=True)
  ]
  assert decoded == [["x", "x", "x", "Xx"], [*"NVDN"]]
  assert encoded["tags"].tolist() == [3, 0, 0, 1]


def test_encoding_of_unknown_words():
  """Word, characters, shape and extra columns are unknown independently of each other."""
  encoded = LEXICON.encode(UNSEEN)
  assert encoded.keys() == {"tokens", "characters", "columns"}  # untagged
  word_ids = LEXICON.words.ids
  assert encoded["tokens"].tolist() == [UNKNOWN, word_ids["saw"], UNKNOWN, word_ids["anna"]]
  assert encoded["characters"][0, :4].tolist() == [UNKNOWN] * 3 + [PAD]
  shapes, pos_tags = (vocabulary.ids for vocabulary in LEXICON.columns)
  assert encoded["columns"][:, 0].tolist() == [UNKNOWN, shapes["x"], UNKNOWN, shapes["x"]]
  assert encoded["columns"][:, 1].tolist() == [pos_tags["N"], UNKNOWN, pos_tags["C"], pos_tags["N"]]


def test_long_words_are_truncated_in_the_middle():
  """The omitted middle does not matter, whatever its length."""
  head, tail = "as" * (MAX_WORD_LENGTH // 4), "no" * (MAX_WORD_LENGTH // 4)
  characters = lambda word: LEXICON.encode(make_sentence(f"{word} saw", "", "N V"))["characters"][0]
  expected = characters(head + tail)
  assert LEXICON.characters.decode(expected) == [*head, *tail]
  for middle in ("w", "wwww", "z" * 10_000):
    np.testing.assert_array_equal(characters(head + middle + tail), expected)
  shorter = characters((head + tail)[1:])
  assert LEXICON.characters.decode(shorter) == [*(head + tail)[1:], "<pad>"]


def test_json_round_trip():
  """The restored lexicon encodes equally and has the same JSON."""
  restored = Lexicon.from_json(json.loads(json.dumps(LEXICON.to_json())))
  for sentence in (*TRAIN, UNSEEN):
    expected, restored_ids = LEXICON.encode(sentence), restored.encode(sentence)
    assert expected.keys() == restored_ids.keys()
    for name, ids in expected.items():
      np.testing.assert_array_equal(restored_ids[name], ids)
  assert restored.tags == LEXICON.tags and restored.to_json() == LEXICON.to_json()


def test_shape_column_without_extra_columns():
  lexicon = Lexicon.from_sentences([sentence._replace(columns=[]) for sentence in TRAIN], TAGS)
  assert len(lexicon.columns) == 1
  assert lexicon.encode(make_sentence("Anna saw"))["columns"].shape == (2, 1)


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_encoded_sentences(seed):
  """Each sentence once, labeled by its index, and 0 in the padding."""
  indices = []
  for batch in LEXICON.make_batches(TRAIN, 2, seed):
    assert batch.keys() == {
      "tokens",
      "lengths",
      "weights",
      "labels",
      "characters",
      "columns",
      "tags",
    }
    for b in np.flatnonzero(batch["weights"]):
      row, n = batch["labels"][b], batch["lengths"][b]
      indices.append(int(row))
      for name, ids in LEXICON.encode(TRAIN[row]).items():
        np.testing.assert_array_equal(batch[name][:n, b], ids)
        assert not batch[name][n:, b].any()
  assert sorted(indices) == [0, 1, 2]
