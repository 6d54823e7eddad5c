"""What a tagger knows of its language: by hand, and that nothing is lost on the way to a file."""

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
STRANGE = make_sentence("ZÖE saw 1/2 anna", "", "N X C N")


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
  """Words in lower case and with digits masked, from `least` on; the rest from three on."""
  assert set(LEXICON.words.words[2:]) == {"anna", "saw", "0000"}
  assert set(LEXICON.characters.words[2:]) == {*"anso"}
  shapes, marks = LEXICON.columns
  assert set(shapes.words[2:]) == {"Xx", "x"} and set(marks.words[2:]) == {*"NVCD"}
  assert LEXICON.tags == ["O", "S-LOC", "S-ORG", "S-PER"]


def test_tag_missing_from_training_warns(caplog):
  Lexicon.from_sentences(TRAIN, TAGS)
  (record,) = caplog.records
  assert "['S-ORG']" in record.getMessage() and "missed" in record.getMessage()


def test_encoding_of_known_words():
  """Each kind by its own ids; what is unknown is 1, what lies beyond a word's end 0."""
  made = LEXICON.encode(TRAIN[1])
  assert LEXICON.words.decode(made["tokens"]) == ["anna", "saw", "<unk>", "<unk>"]
  spelt = [LEXICON.characters.decode(row[row != PAD]) for row in made["characters"]]
  assert spelt == [[*"anna"], ["s", "a", "<unk>"], ["a"], ["<unk>", "o", "o"]]
  assert made["characters"].shape == (4, MAX_WORD_LENGTH)
  told = [own.decode(ids) for own, ids in zip(LEXICON.columns, made["columns"].T, strict=True)]
  assert told == [["x", "x", "x", "Xx"], [*"NVDN"]]
  assert made["tags"].tolist() == [3, 0, 0, 1]


def test_encoding_of_unknown_words():
  """A word, its characters, its shape and what stands beside it, each by itself."""
  made = LEXICON.encode(STRANGE)
  assert made.keys() == {"tokens", "characters", "columns"}  # no tags, where it has none
  known = LEXICON.words.ids
  assert made["tokens"].tolist() == [UNKNOWN, known["saw"], UNKNOWN, known["anna"]]
  assert made["characters"][0, :4].tolist() == [UNKNOWN] * 3 + [PAD]
  shapes, marks = (own.ids for own in LEXICON.columns)
  assert made["columns"][:, 0].tolist() == [UNKNOWN, shapes["x"], UNKNOWN, shapes["x"]]
  assert made["columns"][:, 1].tolist() == [marks["N"], UNKNOWN, marks["C"], marks["N"]]


def test_long_words_are_truncated_in_the_middle():
  """Half of what is read from each; what stands between is no matter, nor how much it is."""
  head, tail = "as" * (MAX_WORD_LENGTH // 4), "no" * (MAX_WORD_LENGTH // 4)
  spelt = lambda word: LEXICON.encode(make_sentence(f"{word} saw", "", "N V"))["characters"][0]
  whole = spelt(head + tail)
  assert LEXICON.characters.decode(whole) == [*head, *tail]
  for middle in ("w", "wwww", "z" * 10_000):
    np.testing.assert_array_equal(spelt(head + middle + tail), whole)
  shorter = spelt((head + tail)[1:])
  assert LEXICON.characters.decode(shorter) == [*(head + tail)[1:], "<pad>"]


def test_json_round_trip():
  """What comes back encodes as what went, and goes again as the same."""
  back = Lexicon.from_json(json.loads(json.dumps(LEXICON.to_json())))
  for one in (*TRAIN, STRANGE):
    mine, theirs = LEXICON.encode(one), back.encode(one)
    assert mine.keys() == theirs.keys()
    for name, ids in mine.items():
      np.testing.assert_array_equal(theirs[name], ids)
  assert back.tags == LEXICON.tags and back.to_json() == LEXICON.to_json()


def test_shape_column_without_extra_columns():
  bare = Lexicon.from_sentences([one._replace(columns=[]) for one in TRAIN], TAGS)
  assert len(bare.columns) == 1 and bare.encode(make_sentence("Anna saw"))["columns"].shape == (
    2,
    1,
  )


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_encoded_sentences(seed):
  """Each sentence once, under its number, as `encode` gives it; nothing stands beyond its end."""
  seen = []
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
      seen.append(int(row))
      for name, ids in LEXICON.encode(TRAIN[row]).items():
        np.testing.assert_array_equal(batch[name][:n, b], ids)
        assert not batch[name][n:, b].any()
  assert sorted(seen) == [0, 1, 2]
