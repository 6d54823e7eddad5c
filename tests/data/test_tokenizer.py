"""Tokenizer: segmentation, round trips, unknown tokens, dropout, and JSON."""

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
VOCAB_SIZES = {"bpe": 120, "word": 100, "character": 100}


def train_tokenizer(model_type, **options):
  return Tokenizer.train(TEXTS, VOCAB_SIZES[model_type], model_type, **options)


def apply_merges(words, merges):
  """Apply the merges of Sennrich et al. (2016) one after the other, in the order of training."""
  segmented_words = [[*word] for word in words]
  for left, right in merges:
    for tokens in segmented_words:
      i = 0
      while i < len(tokens) - 1:
        if tokens[i : i + 2] == [left, right]:
          tokens[i : i + 2] = [left + right]
        i += 1
  return [token for tokens in segmented_words for token in tokens]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("lowercase", [False, True])
def test_encode_decode_round_trip(model_type, lowercase):
  """Only blanks are normalized. A text may look like a special token or contain the word mark."""
  tokenizer = train_tokenizer(model_type, lowercase=lowercase)
  for text in [*TEXTS, "  lower\n\t ▁ town,  ▁", "", " "]:
    ids = tokenizer.encode(text)
    normalized = " ".join(text.replace("▁", " ").split())
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == (normalized.lower() if lowercase else normalized)
    assert not {PAD, UNKNOWN, BOS, EOS} & {*ids.tolist()}
    assert tokenizer.tokenize(text) == [tokenizer.tokens[i] for i in ids]


def test_bpe_round_trip_for_new_words():
  tokenizer = train_tokenizer("bpe")
  rng = np.random.default_rng(0)
  characters = sorted({*"".join(TEXTS)})
  for _ in range(50):
    text = " ".join("".join(rng.choice(characters, 40)).split())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_come_first():
  """PAD and UNKNOWN equal those of `vocabulary`; decoding omits PAD, BOS and EOS."""
  assert (PAD, UNKNOWN) == (vocabulary.PAD, vocabulary.UNKNOWN) == (0, 1)
  assert (BOS, EOS) == (2, 3)
  for model_type in MODEL_TYPES:
    tokenizer = train_tokenizer(model_type)
    assert tokenizer.tokens[:4] == ["<pad>", "<unk>", "<begin>", "<end>"]
    assert len(tokenizer) == len(tokenizer.tokens) <= VOCAB_SIZES[model_type]
    ids = tokenizer.encode("the town")
    assert tokenizer.decode([BOS, *ids, EOS, PAD, PAD]) == "the town"


@pytest.mark.parametrize(
  "model_type, tokens, decoded",
  [
    ("word", ["▁the", "▁zero", "'", "t", "▁town", "."], "the <unk>'t town."),
    ("character", [*"the▁zero't▁town."], "the <unk>ero't town."),
    ("bpe", None, "the <unk>ero't town."),
  ],
)
def test_unknown_tokens(model_type, tokens, decoded):
  """Ids lose unknown words or characters; tokens keep them, for models that copy."""
  tokenizer = train_tokenizer(model_type)
  text = "the zero't town."
  assert tokenizer.decode(tokenizer.encode(text)) == decoded
  assert tokenizer.detokenize(tokenizer.tokenize(text)) == text
  assert tokens is None or tokenizer.tokenize(text) == tokens


def test_word_vocab_keeps_most_frequent():
  """Words of equal frequency are in alphabetical order."""
  texts = ["b a b, c", "a c b d", "d,e"]
  counts = collections.Counter("▁b ▁a ▁b , ▁c ▁a ▁c ▁b ▁d ▁d , e".split())
  ranked = sorted(counts, key=lambda word: (-counts[word], word))
  assert Tokenizer.train(texts, 100, "word").tokens[4:] == ranked
  assert Tokenizer.train(texts, 7, "word").tokens[4:] == ranked[:3]
  assert Tokenizer.train(texts, 100, "word", min_count=2).tokens[4:] == ranked[:-1]


def test_bpe_equals_reference_merges():
  """The first merge is the most frequent pair; applying all merges in order gives the tokens."""
  tokenizer = train_tokenizer("bpe")
  marked_texts = ["▁" + "▁".join(text.split()) for text in TEXTS]
  words = [word for text in marked_texts for word in re.findall(r"▁?(?:\w+|[^\w▁])", text)]
  pairs = collections.Counter(p for word in words for p in itertools.pairwise(word))
  merges = [tuple(p) for p in tokenizer.to_json()["tokenizer"]["model"]["merges"]]
  assert pairs[merges[0]] == max(pairs.values())
  tokens = [token for text in TEXTS for token in tokenizer.tokenize(text)]
  assert tokens == apply_merges(words, merges)
  # A dropout of almost 0 changes nothing; a dropout of 1 leaves characters.
  for text, characters in zip(TEXTS, marked_texts, strict=True):
    np.testing.assert_array_equal(tokenizer.encode(text, dropout=1e-12), tokenizer.encode(text))
    assert [tokenizer.tokens[i] for i in tokenizer.encode(text, dropout=1.0)] == [*characters]


def test_bpe_dropout_varies_segmentation():
  """The segmentation depends on the seed; more dropout gives more tokens; the text is the same."""
  tokenizer = train_tokenizer("bpe")
  text = TEXTS[0]

  def encode(dropout, seed):
    return tuple(tokenizer.encode(text, dropout, seed).tolist())

  def mean_length(dropout):
    return np.mean([len(encode(dropout, seed)) for seed in range(20)])

  assert encode(0.3, (1, 2)) == encode(0.3, (1, 2))
  segmentations = {encode(0.3, seed) for seed in range(20)}
  assert len(segmentations) > 10
  assert {tokenizer.decode(ids) for ids in segmentations} == {text}
  assert mean_length(0) < mean_length(0.3) < mean_length(0.7) < mean_length(1.0)
  assert encode(0.3, 0) != encode(0, 0)
  word_tokenizer = train_tokenizer("word")
  np.testing.assert_array_equal(word_tokenizer.encode(text, 0.9), word_tokenizer.encode(text))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_json_round_trip(model_type):
  """Encoding is the same, also of special tokens in a text and with dropout."""
  tokenizer = train_tokenizer(model_type, lowercase=True)
  loaded = Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))
  assert loaded.tokens == tokenizer.tokens
  for text in [*TEXTS, "Unseen Ω <pad>"]:
    for options in ({}, {"dropout": 0.5, "seed": 3}):
      expected = tokenizer.encode(text, **options)
      np.testing.assert_array_equal(loaded.encode(text, **options), expected)
    assert loaded.tokenize(text) == tokenizer.tokenize(text)
  assert loaded.to_json() == tokenizer.to_json()


def test_training_is_deterministic_across_processes():
  """The iteration order of sets, which differs between processes, has no effect."""
  code = (
    "import json, sys; from rnnjax.data.tokenizer import Tokenizer;"
    "texts, size = json.load(sys.stdin); print(json.dumps(Tokenizer.train(texts, size).tokens))"
  )
  stdin = json.dumps([TEXTS, VOCAB_SIZES["bpe"]])
  process = subprocess.run(
    [sys.executable, "-c", code], input=stdin, capture_output=True, text=True, check=True
  )
  assert json.loads(process.stdout) == train_tokenizer("bpe").tokens


def test_shared_vocab_of_two_languages():
  """A joint tokenizer encodes both; letters of a language it was not trained on are unknown."""
  english, german = TEXTS[:1], TEXTS[2:3]
  joint = Tokenizer.train([*english, *german], 80)
  assert [joint.decode(joint.encode(text)) for text in english + german] == english + german
  english_only = Tokenizer.train(english, 80)
  assert UNKNOWN in english_only.encode(german[0])


@pytest.mark.parametrize(
  "texts, vocab_size, model_type, message",
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
def test_invalid_training_input_raises(texts, vocab_size, model_type, message):
  with pytest.raises(InvalidInputError, match=message):
    Tokenizer.train(texts, vocab_size, model_type)


@pytest.mark.parametrize("value", [{}, None, {"kind": "bpe", "lower": False, "tokenizer": {}}])
def test_invalid_json_raises(value):
  with pytest.raises(InvalidInputError, match=r"a tokenizer must be what to_json returned; got "):
    Tokenizer.from_json(value)
