"""Subwords: what they are cut into, that they give the text again, and what is unknown."""

import collections
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from rnnjax.data import vocabulary
from rnnjax.data.tokenizer import BOS, EOS, MODEL_TYPES, PAD, UNKNOWN, Tokenizer
from rnnjax.types import InvalidInputError

TEXTS = [
  "The low lights of the lower town, lowest of all.",
  'He said: "It isn\'t (really) new ..." and wore a T-shirt.',
  "Ein großer Löwe schläft; l'été est là, à côté!",
  "<pad> and <unk> are 2 words, <end> is 1",
]
SIZES = {"bpe": 120, "word": 100, "character": 100}


def train_tokenizer(kind, **options):
  return Tokenizer.train(TEXTS, SIZES[kind], kind, **options)


def apply_merges(words, merges):
  """Sennrich et al. (2016), naively: merges the pairs in the order in which they were learnt."""
  cut = [[*word] for word in words]
  for one, other in merges:
    for parts in cut:
      i = 0
      while i < len(parts) - 1:
        if parts[i : i + 2] == [one, other]:
          parts[i : i + 2] = [one + other]
        i += 1
  return [part for parts in cut for part in parts]


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("lower", [False, True])
def test_encode_decode_round_trip(kind, lower):
  """Up to blanks; even one that looks like a special, or holds the mark of a blank."""
  subwords = train_tokenizer(kind, lowercase=lower)
  for text in [*TEXTS, "  lower\n\t ▁ town,  ▁", "", " "]:
    ids = subwords.encode(text)
    plain = " ".join(text.replace("▁", " ").split())
    assert ids.dtype == np.int32
    assert subwords.decode(ids) == (plain.lower() if lower else plain)
    assert not {PAD, UNKNOWN, BOS, EOS} & {*ids.tolist()}
    assert subwords.tokenize(text) == [subwords.tokens[i] for i in ids]


def test_bpe_round_trip_for_new_words():
  """Words that were never seen too."""
  subwords = train_tokenizer("bpe")
  draw = np.random.default_rng(0)
  letters = sorted({*"".join(TEXTS)})
  for _ in range(50):
    text = " ".join("".join(draw.choice(letters, 40)).split())
    assert subwords.decode(subwords.encode(text)) == text


def test_special_tokens_come_first():
  """Where `vocabulary` has them; decoding leaves out those that are no text."""
  assert (PAD, UNKNOWN) == (vocabulary.PAD, vocabulary.UNKNOWN) == (0, 1)
  assert (BOS, EOS) == (2, 3)
  for kind in MODEL_TYPES:
    subwords = train_tokenizer(kind)
    assert subwords.tokens[:4] == ["<pad>", "<unk>", "<begin>", "<end>"]
    assert len(subwords) == len(subwords.tokens) <= SIZES[kind]
    ids = subwords.encode("the town")
    assert subwords.decode([BOS, *ids, EOS, PAD, PAD]) == "the town"


@pytest.mark.parametrize(
  "kind, cut, known",
  [
    ("word", ["▁the", "▁zero", "'", "t", "▁town", "."], "the <unk>'t town."),
    ("character", [*"the▁zero't▁town."], "the <unk>ero't town."),
    ("bpe", None, "the <unk>ero't town."),
  ],
)
def test_unknown_tokens(kind, cut, known):
  """A word or a character; the pieces keep it, to be copied from there."""
  subwords = train_tokenizer(kind)
  text = "the zero't town."
  assert subwords.decode(subwords.encode(text)) == known
  assert subwords.detokenize(subwords.tokenize(text)) == text
  assert cut is None or subwords.tokenize(text) == cut


def test_word_vocab_keeps_most_frequent():
  """As counted by hand; of words equally frequent the alphabet decides."""
  texts = ["b a b, c", "a c b d", "d,e"]
  counts = collections.Counter("▁b ▁a ▁b , ▁c ▁a ▁c ▁b ▁d ▁d , e".split())
  ranked = sorted(counts, key=lambda word: (-counts[word], word))
  assert Tokenizer.train(texts, 100, "word").tokens[4:] == ranked
  assert Tokenizer.train(texts, 7, "word").tokens[4:] == ranked[:3]
  assert Tokenizer.train(texts, 100, "word", min_count=2).tokens[4:] == ranked[:-1]


def test_bpe_equals_reference_merges():
  """The first merge is of the most frequent pair; merging by hand, in order, gives the pieces."""
  subwords = train_tokenizer("bpe")
  marked = ["▁" + "▁".join(text.split()) for text in TEXTS]
  words = [word for text in marked for word in re.findall(r"▁?(?:\w+|[^\w▁])", text)]
  pairs = collections.Counter(p for word in words for p in itertools.pairwise(word))
  merges = [tuple(p) for p in subwords.to_json()["tokenizer"]["model"]["merges"]]
  assert pairs[merges[0]] == max(pairs.values())
  assert [piece for text in TEXTS for piece in subwords.tokenize(text)] == apply_merges(
    words, merges
  )
  # So does dropout that drops nothing, and what drops all leaves characters.
  for text, characters in zip(TEXTS, marked, strict=True):
    np.testing.assert_array_equal(subwords.encode(text, dropout=1e-12), subwords.encode(text))
    assert [subwords.tokens[i] for i in subwords.encode(text, dropout=1.0)] == [*characters]


def test_bpe_dropout_varies_segmentation():
  """A function of text and seed; always the same text; the more dropout the more pieces."""
  subwords = train_tokenizer("bpe")
  text = TEXTS[0]
  encode = lambda rate, seed: tuple(subwords.encode(text, rate, seed).tolist())
  assert encode(0.3, (1, 2)) == encode(0.3, (1, 2))
  cuts = {encode(0.3, seed) for seed in range(20)}
  assert len(cuts) > 10
  assert {subwords.decode(cut) for cut in cuts} == {text}
  mean = lambda rate: np.mean([len(encode(rate, seed)) for seed in range(20)])
  assert mean(0) < mean(0.3) < mean(0.7) < mean(1.0)
  assert encode(0.3, 0) != encode(0, 0)
  words = train_tokenizer("word")
  np.testing.assert_array_equal(words.encode(text, 0.9), words.encode(text))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_json_round_trip(kind):
  """Through JSON text; specials in a text stay text, and dropout draws the same."""
  subwords = train_tokenizer(kind, lowercase=True)
  again = Tokenizer.from_json(json.loads(json.dumps(subwords.to_json())))
  assert again.tokens == subwords.tokens
  for text in [*TEXTS, "Unseen Ω <pad>"]:
    for options in ({}, {"dropout": 0.5, "seed": 3}):
      np.testing.assert_array_equal(again.encode(text, **options), subwords.encode(text, **options))
    assert again.tokenize(text) == subwords.tokenize(text)
  assert again.to_json() == subwords.to_json()


def test_training_is_deterministic_across_processes():
  """Whatever the order of its sets and tables."""
  code = (
    "import json, sys; from rnnjax.data.tokenizer import Tokenizer;"
    "texts, size = json.load(sys.stdin); print(json.dumps(Tokenizer.train(texts, size).tokens))"
  )
  given = json.dumps([TEXTS, SIZES["bpe"]])
  made = subprocess.run(
    [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True
  )
  assert json.loads(made.stdout) == train_tokenizer("bpe").tokens


def test_shared_vocab_of_two_languages():
  """Learnt from both, a text of either comes back; from one, letters of the other are unknown."""
  english, german = TEXTS[:1], TEXTS[2:3]
  both = Tokenizer.train([*english, *german], 80)
  assert [both.decode(both.encode(text)) for text in english + german] == english + german
  one = Tokenizer.train(english, 80)
  assert UNKNOWN in one.encode(german[0])


@pytest.mark.parametrize(
  "texts, size, kind, message",
  [
    (TEXTS, 100, "syllable", r"model_type must be one of \('bpe', .*; got 'syllable'"),
    ([], 100, "bpe", r"got 100, and 0 texts of 0 characters\. Are they empty\?"),
    ([" ", ""], 100, "word", r"got 100, and 2 texts of 0 characters"),
    (
      ["abc abc"],
      7,
      "bpe",
      r"vocab_size must be at least 8, .* got 7, and 1 texts of 4 characters",
    ),
    (["abc abc"], 4, "word", r"vocab_size must be at least 5, "),
  ],
)
def test_invalid_training_input_raises(texts, size, kind, message):
  with pytest.raises(InvalidInputError, match=message):
    Tokenizer.train(texts, size, kind)


@pytest.mark.parametrize("value", [{}, None, {"kind": "bpe", "lower": False, "tokenizer": {}}])
def test_invalid_json_raises(value):
  with pytest.raises(InvalidInputError, match=r"a tokenizer must be what to_json returned; got "):
    Tokenizer.from_json(value)
