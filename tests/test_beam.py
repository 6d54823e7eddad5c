"""Beam search against NumPy: every text there is, and a beam that is a plain loop over lists."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import forward, generate, lstm, sample, stack
from rnnjax.decoding import beam_search
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full

V, B, S, M = 4, 3, 3, 499
END = 2
FIRST = np.array([0, 3, 1], np.int32)
MODEL = LanguageModel(nn.Embed(V, 5), stack(forward(lstm(6)), forward(lstm(6))), full(V))
PENALTIES = [  # α, β, block
  (0.0, 0.0, 0),
  (0.6, 0.0, 0),
  (-0.5, 0.0, 0),
  (2.0, 0.0, 0),
  (0.0, 0.5, 0),
  (0.7, 0.3, 0),
  (0.0, 0.0, 1),
  (0.0, 0.0, 2),
  (0.9, 0.2, 2),
  (0.0, 0.0, 3),
]


def tables(seed=0, B=B):
  """Of each row: logits and attention after each of M histories, told apart by a hash."""
  draw = np.random.default_rng(seed)
  table = lambda n: draw.normal(0, 2, (B, M, n)).astype(np.float32)
  return {"logits": table(V), "attention": table(S)}


def hashed(state, token):
  return (state * 31 + token * 7 + 1) % M


def read(params, tokens, lengths=None, carry=None):
  """The carry is a hash of all that was read, and how much attention each source had."""
  assert tokens.shape == (1, len(params["logits"])) and lengths is None
  state, had = carry or (jnp.zeros_like(tokens[0]), jnp.zeros_like(params["attention"][:, 0]))
  state = hashed(state, tokens[0])
  now = lambda table: jnp.take_along_axis(table, state[:, None, None], 1)[:, 0]
  return (state, had + jax.nn.softmax(now(params["attention"]))), now(params["logits"])


def coverage(carry):
  return jnp.log(jnp.minimum(carry[1], 1)).sum(-1)


def looked_up(tables, b, first):
  """What `read` says in row b: a text -> logits and attention of what follows."""

  def follow(tokens):
    state = functools.reduce(hashed, (first, *tokens), 0)
    return tables["logits"][b, state], tables["attention"][b, state]

  return follow


def softmax(z):
  z = np.exp(np.float64(z) - np.max(z))
  return z / z.sum()


class Text(NamedTuple):
  tokens: tuple = ()
  log_p: float = 0.0
  had: np.ndarray = np.zeros(S)

  @property
  def ended(self):
    return END in self.tokens

  def score(self, α, β):
    c = np.log(np.minimum(self.had, 1)).sum() if β else 0
    return self.log_p / ((5 + len(self.tokens)) / 6) ** α + β * c

  def continued(self, follow, block):
    """All that is possible with one token more."""
    logits, attention = follow(self.tokens)
    for token, p in enumerate(softmax(logits)):
      tokens = (*self.tokens, token)
      grams = [tokens[i : i + block] for i in range(len(tokens) - block + 1)] if block else []
      if p and len(set(grams)) == len(grams):
        yield Text(tokens, self.log_p + np.log(p), self.had + softmax(attention))


def plain(follow, width, steps, α=0.0, β=0.0, block=0):
  """Beam search that forgets no finished text and stops at `steps` alone."""
  finished, live = [], [Text()]
  for _ in range(steps):
    grown = [new for text in live for new in text.continued(follow, block)]
    grown.sort(key=lambda text: -text.log_p)
    finished += [text for text in grown[:width] if text.ended]
    live = [text for text in grown if not text.ended][:width]
  best = lambda texts: sorted(texts, key=lambda text: -text.score(α, β))
  return (best(finished) + best(live))[:width]


exhaustive = functools.partial(plain, width=None)  # every text there is


def check(found, b, texts, α=0.0, β=0.0):
  """Row b of what was found holds these texts, in this order, and no more."""
  (k, T), n = found.tokens.shape[:2], len(texts)
  ends = [text.ended for text in texts]
  padded = [(*text.tokens, *[END] * (T - len(text.tokens))) for text in texts]
  lengths = [len(text.tokens) - text.ended for text in texts]
  equal = np.testing.assert_array_equal
  equal(found.tokens[..., b], padded + [[END] * T] * (k - n))
  equal(found.lengths[:, b], lengths + [0] * (k - n))
  equal(found.finished[:, b], ends + [False] * (k - n))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  close(found.log_p[:, b], [text.log_p for text in texts] + [-np.inf] * (k - n))
  close(found.scores[:, b], [text.score(α, β) for text in texts] + [-np.inf] * (k - n))


def search(params, width, steps, α=0.0, β=0.0, block=0, first=FIRST, read=read):
  return beam_search(
    read,
    params,
    None,
    first,
    width=width,
    steps=steps,
    end=END,
    length_penalty=α,
    coverage=coverage if β else None,
    coverage_penalty=β,
    block=block,
  )


@pytest.fixture(scope="module")
def params():
  """Far from 0, so that what follows depends on all that was read."""
  made = jax.jit(MODEL.init)(jax.random.key(0), np.zeros((3, B), int), np.ones((2, B)))["params"]
  draw = np.random.default_rng(7)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 1.5, p.shape), jnp.float32), made)


@pytest.mark.parametrize("α, β, block", PENALTIES)
def test_a_beam_of_all_texts_is_exhaustive(α, β, block):
  """And beyond them, for its width is above their number, there is nothing."""
  T = tables()
  found = search(T, V**4, 4, α, β, block)
  for b, first in enumerate(FIRST):
    check(found, b, exhaustive(looked_up(T, b, first), steps=4, α=α, β=β, block=block), α, β)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("α, β, block", PENALTIES)
def test_stopping_early_loses_nothing(width, α, β, block):
  """What the plain loop finds that reads on to the end, in rows of many models."""
  T, first = tables(1, 24), np.arange(24, dtype=np.int32) % V
  found = search(T, width, 7, α, β, block, first)
  for b in range(24):
    check(found, b, plain(looked_up(T, b, first[b]), width, 7, α, β, block), α, β)


def test_a_recurrent_net(params):
  """Every text of an LSTM that has read a prompt, each read anew from its beginning."""
  prompt = np.array([[1, 3, 0], [0, 0, 3], FIRST], np.int32)
  carry, _ = MODEL.read(params, prompt[:2])
  found = beam_search(
    MODEL.read, params, carry, FIRST, width=V**4, steps=4, end=END, length_penalty=1.0
  )

  whole = jax.jit(lambda tokens, length: MODEL.read(params, tokens, length)[1])
  for b in range(B):

    def follow(tokens, b=b):
      padded = np.array([*prompt[:, b], *tokens, *[0] * (3 - len(tokens))], np.int32)
      return whole(padded[:, None], np.array([3 + len(tokens)]))[0], np.zeros(S)

    check(found, b, exhaustive(follow, steps=4, α=1.0), 1.0)


def test_a_width_of_one_is_greedy(params):
  """What `generate` writes that always takes the likeliest, up to its end."""
  N = 32
  first = np.arange(N, dtype=np.int32) % V
  carry, _ = MODEL.read(params, np.random.default_rng(3).integers(0, V, (5, N)))
  _, written = generate(
    MODEL.read, params, first[None], jax.random.key(0), steps=12, carry=carry, choose=sample(0.0)
  )
  found = beam_search(MODEL.read, params, carry, first, width=1, steps=12, end=END)
  ended = (written == END).any(0)
  lengths = np.where(ended, (written == END).argmax(0), 12)
  past = np.arange(12)[:, None] >= lengths
  np.testing.assert_array_equal(found.tokens[0], np.where(past, END, written))
  np.testing.assert_array_equal(found.lengths[0], lengths)
  np.testing.assert_array_equal(found.finished[0], ended)
  assert ended.any() and not ended.all() and len(set(lengths)) > 2  # or nothing was tested


@pytest.mark.parametrize("block", [0, 2])
def test_laws(block):
  """Best first, all different, none above what there is, and of no n-gram two."""
  T = tables(2)
  found, short = search(T, 5, 10, block=block), search(T, 5, 4, block=block)
  for b, first in enumerate(FIRST):
    n = (found.log_p[:, b] > -np.inf).sum()
    texts = [tuple(found.tokens[i, : found.lengths[i, b], b].tolist()) for i in range(n)]
    assert len({*zip(texts, found.finished[:, b].tolist())}) == n
    order = [*zip(~found.finished[:, b], -found.scores[:, b])]
    assert order == sorted(order)
    for text in texts:
      grams = [text[i : i + block] for i in range(len(text) - block + 1)] if block else []
      assert len(set(grams)) == len(grams)
    best = exhaustive(looked_up(T, b, first), steps=4, block=block)[0]
    assert best.ended and short.scores[0, b] <= best.log_p + 1e-5


def chain(probabilities):
  """A `read` of one row whose text alone decides: the text -> p [V] of what follows."""
  logits = np.full((M, V), -np.inf, np.float32)
  logits[:, 0] = 0
  for text, p in probabilities.items():
    with np.errstate(divide="ignore"):
      logits[functools.reduce(hashed, (0, *text), 0)] = np.log(p)
  return {"logits": logits[None], "attention": np.zeros((1, M, S), np.float32)}


def first_of(found):
  return found.tokens[0, : found.lengths[0, 0], 0].tolist()


def test_a_finished_text_stays():
  """It ends early, two unfinished ones pass it, and both then fall behind it."""
  even = [0.25] * V
  T = chain({(): [0.7, 0, 0.3, 0], (0,): [0.5, 0.5, 0, 0], (0, 0): even, (0, 1): even})
  found = search(T, 2, 4, first=FIRST[:1])
  assert found.finished[0, 0] and first_of(found) == []
  np.testing.assert_allclose(np.exp(found.log_p[0, 0]), 0.3, rtol=1e-5)


def test_a_longer_text_overtakes():
  """Its log p is lower, its score higher: the search may not stop at the first that ends."""
  ends = [0, 0, 1, 0]
  T = chain({(): [0.45, 0, 0.55, 0], **{(0,) * i: [1, 0, 0, 0] for i in (1, 2, 3)}, (0,) * 4: ends})
  assert first_of(search(T, 1, 6, first=FIRST[:1])) == []
  assert first_of(search(T, 1, 6, α=1.0, first=FIRST[:1])) == [0] * 4


def test_a_longer_text_comes_in():
  """Though a penalty below 0 is against it: the search may not stop when it has two."""
  T = chain({(): [0.6, 0, 0.4, 0], (0,): [0.7, 0, 0.3, 0], (0, 0): [0, 0, 1, 0]})
  found = search(T, 2, 50, α=-1.0, first=FIRST[:1])
  check(found, 0, [Text((END,), np.log(0.4)), Text((0, 0, END), np.log(0.42))], α=-1.0)


def test_it_stops_early():
  """What would come later is no number, and is not read."""
  T = chain({(): [0.1, 0.1, 0.8, 0]} | {(i,): [0, 0, 1, 0] for i in (0, 1)})

  def counted(params, tokens, lengths, carry):
    count, carry = carry or (jnp.zeros_like(tokens[0]), None)
    carry, logits = read(params, tokens, lengths, carry)
    return (count + 1, carry), jnp.where(count[:, None] < 3, logits, jnp.nan)

  found = search(T, 3, 50, first=FIRST[:1], read=counted)
  np.testing.assert_allclose(np.exp(found.scores[:, 0]), [0.8, 0.1, 0.1], rtol=1e-5)
  assert found.finished.all() and found.lengths[:, 0].tolist() == [0, 1, 1]


def test_what_never_ends():
  """Unfinished texts come back, as such; impossible ones do not."""
  T = tables(3)
  T["logits"][..., END] = -np.inf
  found = search(T, 5, 6, α=0.5)
  assert not found.finished.any() and (found.lengths == 6).all() and (found.tokens != END).all()
  for b, first in enumerate(FIRST):
    check(found, b, plain(looked_up(T, b, first), 5, 6, 0.5), 0.5)


def test_what_can_happen_in_one_way():
  """−∞ everywhere else, and in one place nothing can follow at all."""
  T = chain({(): [0.7, 0.3, 0, 0], (0,): [0] * V, (1,): [0, 0, 0, 1], (1, 3): [0, 0, 1, 0]})
  found = search(T, 3, 5, first=FIRST[:1])
  check(found, 0, [Text((1, 3, END), np.log(0.3))])
  check(search(T, 3, 2, first=FIRST[:1]), 0, [Text((1, 3), np.log(0.3))])


def test_rows_are_independent():
  """A batch is what each row is alone, whenever the others end."""
  T = tables(4)
  T["logits"][0, :, END] += 3
  found = search(T, 3, 8, 0.5, 0.2, 2)
  for b in range(B):
    row = slice(b, b + 1)
    alone = search({k: v[row] for k, v in T.items()}, 3, 8, 0.5, 0.2, 2, FIRST[row])
    jax.tree.map(lambda a, c, row=row: np.testing.assert_array_equal(a[..., row], c), found, alone)


def test_logits_in_half_precision():
  """Their probabilities are summed in float32."""
  T = tables(5)
  half = lambda *args: (lambda carry, z: (carry, z.astype(jnp.bfloat16)))(*read(*args))
  found = search(T, 4, 6, read=half)
  T["logits"] = np.asarray(T["logits"].astype(jnp.bfloat16), np.float32)
  jax.tree.map(np.testing.assert_array_equal, found, search(T, 4, 6))
  assert found.log_p.dtype == jnp.float32


def test_double_precision(float64):
  """Finds the same, whatever the precision of the model."""
  T = tables(6)
  double = jax.tree.map(np.float64, T)
  found, same = (search(t, 4, 6, 0.5, 0.2, 2) for t in (T, double))
  np.testing.assert_array_equal(found.tokens, same.tokens)
  assert same.log_p.dtype == same.scores.dtype == jnp.float32


def test_compiles_once():
  """Other parameters, beginnings and penalties trace nothing anew."""
  traces = []

  def traced(*args):
    traces.append(args)
    return read(*args)

  search(tables(0), 2, 5, 0.5, 0.1, read=traced)
  before = len(traces)
  search(tables(1), 2, 5, 1.0, 0.3, first=FIRST[::-1], read=traced)
  assert before and len(traces) == before


def test_the_vocabulary_is_not_sorted():
  """Where XLA does not see that few of k V are wanted, a step takes seventy times as long."""
  made = (
    beam_search.lower(read, tables(), None, FIRST, width=5, steps=3, end=END).compile().as_text()
  )
  sorts = [line for line in made.splitlines() if " sort(" in line]
  assert sorts and not [line for line in sorts if f"[{B},{5 * V}]" in line]


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(width=0), "width must be at least 1; got 0"),
    (dict(steps=0), "steps must be at least 1; got 0"),
    (dict(block=-1), "block must be at least 0; got -1"),
    (dict(end=4), "end must be one of at least 2 symbols; got 4 of 4"),
    (dict(end=-1), "end must be one of at least 2 symbols; got -1 of 4"),
  ],
)
def test_wrong_options(options, message):
  with pytest.raises(ValueError, match=message):
    beam_search(read, tables(), None, FIRST, **dict(width=2, steps=3, end=END) | options)


def test_one_symbol():
  T = {name: table[..., :1] for name, table in tables().items()}
  with pytest.raises(ValueError, match="end must be one of at least 2 symbols; got 0 of 1"):
    beam_search(read, T, None, FIRST, width=2, steps=3, end=0)
