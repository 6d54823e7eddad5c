"""A model that is asked to write: prompts in, texts out, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_modeling.text_generator import BUCKET, Writer
from rnnjax import forward, generate, lstm, sample
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full
from rnnjax.types import BadInput

SYMBOLS = "abcdefg \n"
WORDS = ["the", "owl", "says", "hello", "to", "a", "mouse", "<eos>"]
MODEL = LanguageModel(nn.Embed(9, 5), forward(lstm(6)), full(9))


def parameters():
  made = jax.jit(MODEL.init)(jax.random.key(0), np.ones((2, 1), int), np.ones((1, 1)))["params"]
  draw = np.random.default_rng(3)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 1, p.shape), jnp.float32), made)


@pytest.fixture(scope="module")
def writer():
  return Writer(MODEL, parameters(), Vocabulary(SYMBOLS, ()))


@pytest.fixture(scope="module")
def speaker():
  """A writer of words."""
  return Writer(MODEL, parameters(), Vocabulary(WORDS, ("<unk>",)), " ")


@pytest.mark.parametrize("size", [1, 2, BUCKET, BUCKET + 1, 3 * BUCKET])
def test_writes_as_from_the_bare_prompt(writer, size):
  """Padding to a bucket changes nothing that is drawn."""
  prompt = "".join(np.random.default_rng(size).choice([*SYMBOLS], size))
  texts = writer.write(prompt, 12, number=2, seed=5, temperature=0.9, top_k=6, top_p=0.95)
  ids = np.array([[SYMBOLS.index(symbol)] * 2 for symbol in prompt], np.int32)
  _, tokens = generate(
    MODEL.read, writer.params, ids, jax.random.key(5), steps=12, choose=sample(0.9, 6, 0.95)
  )
  assert texts == ["".join(SYMBOLS[i] for i in column) for column in np.asarray(tokens).T]


def test_bytes_are_written_as_the_characters_they_make(writer):
  """The same bytes are read and written as under their latin-1 names, only spelt otherwise."""
  symbols = "äöü€ab".encode().decode("latin-1")  # nine bytes
  plain = writer._replace(vocabulary=Vocabulary([*dict.fromkeys(symbols)], ()))
  raw, name = plain._replace(raw=True), "öä".encode().decode("latin-1")
  (text,) = plain.write(name, 40, seed=1)
  spelt = text.encode("latin-1").decode(errors="replace")
  assert raw.write("öä", 40, seed=1) == [spelt] and {*spelt} & {*"äöü€"}
  with pytest.raises(BadInput, match="do not occur"):
    raw.write("ß", 1)


def test_words_are_told_from_marks(speaker):
  """Where a word as it stands is unknown, it is cut as texts are."""
  one, other = "Hello,a <eos>", "hello <unk> a <eos>"
  assert speaker.write(one, 9, seed=1) == speaker.write(other, 9, seed=1)


def test_number_seed_and_temperature(writer):
  """So many texts of such a length, which differ; a seed repeats them; the coldest are one."""
  texts = writer.write("ab", 20, number=3, seed=1)
  assert len(set(texts)) == 3 and {len(text) for text in texts} == {20}
  assert writer.write("ab", 20, number=3, seed=1) == texts
  assert writer.write("ab", 20, number=3, seed=2) != texts
  one, two = (writer.write("ab", 20, number=2, seed=seed, temperature=0) for seed in (1, 2))
  assert one == two == [one[0]] * 2


def test_a_bucket_compiles_once(writer):
  """Prompts of 1 to 16 symbols share a program, those of 17 to 32 another."""
  before = generate._cache_size()
  sizes = [*range(1, BUCKET + 1, 5), BUCKET]
  for base, programs in ((0, 1), (BUCKET, 2)):
    for size in sizes:
      writer.write(SYMBOLS[size % 9] * (base + size), 3, seed=size, temperature=0.71)
    assert generate._cache_size() == before + programs


def test_likeliest(writer):
  """Sorted, and the softmax of what the model says after the prompt; all together have 1."""
  prompt = "abba\nfed"
  ids = np.array([[SYMBOLS.index(symbol)] for symbol in prompt])
  *_, logits = MODEL.apply({"params": writer.params}, ids, method="logits")
  p = np.exp(np.float64(logits[-1, 0]))
  p = dict(zip(SYMBOLS, p / p.sum(), strict=True))
  few, everything = writer.likeliest(prompt, 4), writer.likeliest(prompt, 20)
  assert [symbol for symbol, _ in everything] == sorted(p, key=p.get, reverse=True)
  assert few == everything[:4] and sum(q for _, q in few) < 1
  np.testing.assert_allclose([q for _, q in everything], sorted(p.values())[::-1], rtol=1e-4)
  np.testing.assert_allclose(sum(q for _, q in everything), 1, rtol=1e-6)


def test_likeliest_comes_first(writer):
  """The coldest text begins with it."""
  for prompt in ("a", "bad", "g\n" * 9):
    assert writer.write(prompt, 1, temperature=0) == [writer.likeliest(prompt, 1)[0][0]]


def test_words_stand_between_blanks(speaker, writer):
  """They are those of the same numbers as characters, and what is unknown is read as <unk>."""
  (text,) = speaker.write("hello owl", 15, seed=4)
  ids = speaker.vocabulary.encode(["hello", "owl"])
  (same,) = writer.write([SYMBOLS[i] for i in ids], 15, seed=4)
  assert text.split(" ") == [["<unk>", *WORDS][SYMBOLS.index(symbol)] for symbol in same]
  strange = speaker.likeliest("hello squirrel")
  assert strange == speaker.likeliest("hello <unk>") != speaker.likeliest("hello owl")


@pytest.mark.parametrize(
  "prompt, options, message",
  [
    ("abxZ", {}, r"^\['Z', 'x'\] do not occur in the text that was learnt, which has 9 symbols"),
    ("", {}, "^the prompt is empty; give at least one symbol"),
    ("a", dict(top_k=10), "^top_k must be at most 9, the vocabulary; got 10"),
    ("a", dict(top_k=0), "^top_k must be at least 1; got 0"),
    ("a", dict(temperature=-0.5), r"^temperature must be 0 or more, and finite; got -0\.5"),
    ("a", dict(top_p=1.5), r"^top_p must lie in \(0, 1\]; got 1\.5"),
  ],
)
def test_what_it_refuses(writer, prompt, options, message):
  with pytest.raises(BadInput, match=message):
    writer.write(prompt, 5, **options)


@pytest.mark.parametrize("prompt, message", [("aX", r"\['X'\] do not occur"), ("", "is empty")])
def test_what_likeliest_refuses(writer, prompt, message):
  with pytest.raises(BadInput, match=message):
    writer.likeliest(prompt)
