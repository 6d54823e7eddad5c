"""Text generation: prompts, samples, and invalid input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_modeling.text_generator import BUCKET_SIZE, TextGenerator
from rnnjax import forward, generate, lstm, make_sampler
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.types import InvalidInputError

SYMBOLS = "abcdefg \n"
WORDS = ["the", "owl", "says", "hello", "to", "a", "mouse", "<eos>"]
MODEL = LanguageModel(nn.Embed(9, 5), forward(lstm(6)), full_softmax(9))


def random_params():
  params = jax.jit(MODEL.init)(jax.random.key(0), np.ones((2, 1), int), np.ones((1, 1)))["params"]
  rng = np.random.default_rng(3)
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 1, p.shape), jnp.float32), params)


@pytest.fixture(scope="module")
def char_generator():
  return TextGenerator(MODEL, random_params(), Vocabulary(SYMBOLS, ()))


@pytest.fixture(scope="module")
def word_generator():
  return TextGenerator(MODEL, random_params(), Vocabulary(WORDS, ("<unk>",)), " ")


@pytest.mark.parametrize("size", [1, 2, BUCKET_SIZE, BUCKET_SIZE + 1, 3 * BUCKET_SIZE])
def test_prompt_padding_does_not_change_samples(char_generator, size):
  prompt = "".join(np.random.default_rng(size).choice([*SYMBOLS], size))
  texts = char_generator.generate(
    prompt, 12, num_samples=2, seed=5, temperature=0.9, top_k=6, top_p=0.95
  )
  ids = np.array([[SYMBOLS.index(symbol)] * 2 for symbol in prompt], np.int32)
  _, tokens = generate(
    MODEL.predict_next,
    char_generator.params,
    ids,
    jax.random.key(5),
    num_tokens=12,
    sampler=make_sampler(0.9, 6, 0.95),
  )
  assert texts == ["".join(SYMBOLS[i] for i in column) for column in np.asarray(tokens).T]


def test_byte_tokens_are_decoded_as_utf8(char_generator):
  """A byte-level model samples the same ids as one whose symbols are the latin-1 characters."""
  symbols = "äöü€ab".encode().decode("latin-1")  # nine bytes
  plain = char_generator._replace(vocabulary=Vocabulary([*dict.fromkeys(symbols)], ()))
  byte_level, name = plain._replace(byte_level=True), "öä".encode().decode("latin-1")
  (text,) = plain.generate(name, 40, seed=1)
  decoded = text.encode("latin-1").decode(errors="replace")
  assert byte_level.generate("öä", 40, seed=1) == [decoded] and {*decoded} & {*"äöü€"}
  with pytest.raises(InvalidInputError, match="do not occur"):
    byte_level.generate("ß", 1)


def test_word_prompt_is_tokenized(word_generator):
  """A word that is not in the vocabulary as it is gets tokenized."""
  one, other = "Hello,a <eos>", "hello <unk> a <eos>"
  assert word_generator.generate(one, 9, seed=1) == word_generator.generate(other, 9, seed=1)


def test_num_samples_seed_and_temperature(char_generator):
  """Samples differ from each other and between seeds. At temperature 0 all are equal."""
  texts = char_generator.generate("ab", 20, num_samples=3, seed=1)
  assert len(set(texts)) == 3 and {len(text) for text in texts} == {20}
  assert char_generator.generate("ab", 20, num_samples=3, seed=1) == texts
  assert char_generator.generate("ab", 20, num_samples=3, seed=2) != texts
  one, two = (
    char_generator.generate("ab", 20, num_samples=2, seed=seed, temperature=0) for seed in (1, 2)
  )
  assert one == two == [one[0]] * 2


def test_one_compilation_per_prompt_bucket(char_generator):
  """Prompts of 1 to 16 symbols share a program, those of 17 to 32 another."""
  before = generate._cache_size()
  sizes = [*range(1, BUCKET_SIZE + 1, 5), BUCKET_SIZE]
  for base, programs in ((0, 1), (BUCKET_SIZE, 2)):
    for size in sizes:
      char_generator.generate(SYMBOLS[size % 9] * (base + size), 3, seed=size, temperature=0.71)
    assert generate._cache_size() == before + programs


def test_most_likely_tokens_equal_softmax(char_generator):
  """Sorted, and equal to the softmax of the logits after the prompt."""
  prompt = "abba\nfed"
  ids = np.array([[SYMBOLS.index(symbol)] for symbol in prompt])
  *_, logits = MODEL.apply({"params": char_generator.params}, ids, method="logits")
  p = np.exp(np.float64(logits[-1, 0]))
  p = dict(zip(SYMBOLS, p / p.sum(), strict=True))
  top_tokens, all_tokens = (
    char_generator.top_next_tokens(prompt, 4),
    char_generator.top_next_tokens(prompt, 20),
  )
  assert [symbol for symbol, _ in all_tokens] == sorted(p, key=p.get, reverse=True)
  assert top_tokens == all_tokens[:4] and sum(q for _, q in top_tokens) < 1
  np.testing.assert_allclose([q for _, q in all_tokens], sorted(p.values())[::-1], rtol=1e-4)
  np.testing.assert_allclose(sum(q for _, q in all_tokens), 1, rtol=1e-6)


def test_zero_temperature_starts_with_most_likely(char_generator):
  for prompt in ("a", "bad", "g\n" * 9):
    assert char_generator.generate(prompt, 1, temperature=0) == [
      char_generator.top_next_tokens(prompt, 1)[0][0]
    ]


def test_words_are_joined_with_spaces(word_generator, char_generator):
  """They have the ids of the corresponding characters. Unknown words are <unk>."""
  (text,) = word_generator.generate("hello owl", 15, seed=4)
  ids = word_generator.vocabulary.encode(["hello", "owl"])
  (same,) = char_generator.generate([SYMBOLS[i] for i in ids], 15, seed=4)
  assert text.split(" ") == [["<unk>", *WORDS][SYMBOLS.index(symbol)] for symbol in same]
  with_unknown_word = word_generator.top_next_tokens("hello squirrel")
  assert (
    with_unknown_word
    == word_generator.top_next_tokens("hello <unk>")
    != word_generator.top_next_tokens("hello owl")
  )


@pytest.mark.parametrize(
  "prompt, options, message",
  [
    ("abxZ", {}, r"^\['Z', 'x'\] do not occur in the training text, which has 9 symbols"),
    ("", {}, "^the prompt must have at least one symbol"),
    ("a", dict(top_k=10), "^top_k must be at most 9, the size of the vocabulary; got 10"),
    ("a", dict(top_k=0), "^top_k must be at least 1; got 0"),
    ("a", dict(temperature=-0.5), r"^temperature must be 0 or more, and finite; got -0\.5"),
    ("a", dict(top_p=1.5), r"^top_p must be in \(0, 1\]; got 1\.5"),
  ],
)
def test_invalid_prompt_or_options_raise(char_generator, prompt, options, message):
  with pytest.raises(InvalidInputError, match=message):
    char_generator.generate(prompt, 5, **options)


@pytest.mark.parametrize(
  "prompt, message", [("aX", r"\['X'\] do not occur"), ("", "at least one symbol")]
)
def test_most_likely_with_invalid_prompt_raises(char_generator, prompt, message):
  with pytest.raises(InvalidInputError, match=message):
    char_generator.top_next_tokens(prompt)
