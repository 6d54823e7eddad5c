"""Beam search against NumPy: every text there is, and a beam that is a plain loop over lists."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import forward, generate, lstm, make_sampler, stack
from rnnjax.decoding import beam_search
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax

V, B, S, M = 4, 3, 3, 499
END = 2
FIRST = np.array([0, 3, 1], np.int32)
MODEL = LanguageModel(nn.Embed(V, 5), stack(forward(lstm(6)), forward(lstm(6))), full_softmax(V))
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


def random_tables(seed=0, B=B):
  """Of each row: logits and attention after each of M histories, told apart by a hash."""
  draw = np.random.default_rng(seed)
  table = lambda n: draw.normal(0, 2, (B, M, n)).astype(np.float32)
  return {"logits": table(V), "attention": table(S)}


def hash_state(state, token):
  return (state * 31 + token * 7 + 1) % M


def read_step(params, tokens, lengths=None, carry=None):
  """The carry is a hash of all that was read, and how much attention each source had."""
  assert tokens.shape == (1, len(params["logits"])) and lengths is None
  state, had = carry or (jnp.zeros_like(tokens[0]), jnp.zeros_like(params["attention"][:, 0]))
  state = hash_state(state, tokens[0])
  now = lambda table: jnp.take_along_axis(table, state[:, None, None], 1)[:, 0]
  return (state, had + jax.nn.softmax(now(params["attention"]))), now(params["logits"])


def log_coverage(carry):
  return jnp.log(jnp.minimum(carry[1], 1)).sum(-1)


def next_token_lookup(tables, b, first):
  """What `read` says in row b: a text -> logits and attention of what follows."""

  def follow(tokens):
    state = functools.reduce(hash_state, (first, *tokens), 0)
    return tables["logits"][b, state], tables["attention"][b, state]

  return follow


def softmax(z):
  z = np.exp(np.float64(z) - np.max(z))
  return z / z.sum()


class Hypothesis(NamedTuple):
  tokens: tuple = ()
  log_p: float = 0.0
  coverage: np.ndarray = np.zeros(S)

  @property
  def is_finished(self):
    return END in self.tokens

  def score(self, α, β):
    c = np.log(np.minimum(self.coverage, 1)).sum() if β else 0
    return self.log_p / ((5 + len(self.tokens)) / 6) ** α + β * c

  def extensions(self, follow, block):
    """All that is possible with one token more."""
    logits, attention = follow(self.tokens)
    for token, p in enumerate(softmax(logits)):
      tokens = (*self.tokens, token)
      grams = [tokens[i : i + block] for i in range(len(tokens) - block + 1)] if block else []
      if p and len(set(grams)) == len(grams):
        yield Hypothesis(tokens, self.log_p + np.log(p), self.coverage + softmax(attention))


def reference_beam_search(follow, width, steps, α=0.0, β=0.0, block=0):
  """Beam search that forgets no finished text and stops at `steps` alone."""
  finished, live = [], [Hypothesis()]
  for _ in range(steps):
    grown = [new for text in live for new in text.extensions(follow, block)]
    grown.sort(key=lambda text: -text.log_p)
    finished += [text for text in grown[:width] if text.is_finished]
    live = [text for text in grown if not text.is_finished][:width]
  best = lambda texts: sorted(texts, key=lambda text: -text.score(α, β))
  return (best(finished) + best(live))[:width]


exhaustive_search = functools.partial(reference_beam_search, width=None)  # every text there is


def assert_hypotheses_equal(found, b, texts, α=0.0, β=0.0):
  """Row b of what was found holds these texts, in this order, and no more."""
  (k, T), n = found.tokens.shape[:2], len(texts)
  ends = [text.is_finished for text in texts]
  padded = [(*text.tokens, *[END] * (T - len(text.tokens))) for text in texts]
  lengths = [len(text.tokens) - text.is_finished for text in texts]
  equal = np.testing.assert_array_equal
  equal(found.tokens[..., b], padded + [[END] * T] * (k - n))
  equal(found.lengths[:, b], lengths + [0] * (k - n))
  equal(found.finished[:, b], ends + [False] * (k - n))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  close(found.log_p[:, b], [text.log_p for text in texts] + [-np.inf] * (k - n))
  close(found.scores[:, b], [text.score(α, β) for text in texts] + [-np.inf] * (k - n))


def run_beam_search(params, width, steps, α=0.0, β=0.0, block=0, first=FIRST, read=read_step):
  return beam_search(
    read,
    params,
    None,
    first,
    width=width,
    steps=steps,
    end=END,
    length_penalty=α,
    coverage=log_coverage if β else None,
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
def test_full_width_beam_is_exhaustive(α, β, block):
  """And beyond them, for its width is above their number, there is nothing."""
  T = random_tables()
  found = run_beam_search(T, V**4, 4, α, β, block)
  for b, first in enumerate(FIRST):
    assert_hypotheses_equal(
      found,
      b,
      exhaustive_search(next_token_lookup(T, b, first), steps=4, α=α, β=β, block=block),
      α,
      β,
    )


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("α, β, block", PENALTIES)
def test_early_stopping_equals_full_search(width, α, β, block):
  """What the plain loop finds that reads on to the end, in rows of many models."""
  T, first = random_tables(1, 24), np.arange(24, dtype=np.int32) % V
  found = run_beam_search(T, width, 7, α, β, block, first)
  for b in range(24):
    assert_hypotheses_equal(
      found,
      b,
      reference_beam_search(next_token_lookup(T, b, first[b]), width, 7, α, β, block),
      α,
      β,
    )


def test_lstm_equals_exhaustive_search(params):
  """Every text of an LSTM that has read a prompt, each read anew from its beginning."""
  prompt = np.array([[1, 3, 0], [0, 0, 3], FIRST], np.int32)
  carry, _ = MODEL.predict_next(params, prompt[:2])
  found = beam_search(
    MODEL.predict_next, params, carry, FIRST, width=V**4, steps=4, end=END, length_penalty=1.0
  )

  whole = jax.jit(lambda tokens, length: MODEL.predict_next(params, tokens, length)[1])
  for b in range(B):

    def follow(tokens, b=b):
      padded = np.array([*prompt[:, b], *tokens, *[0] * (3 - len(tokens))], np.int32)
      return whole(padded[:, None], np.array([3 + len(tokens)]))[0], np.zeros(S)

    assert_hypotheses_equal(found, b, exhaustive_search(follow, steps=4, α=1.0), 1.0)


def test_width_one_equals_greedy_decoding(params):
  """What `generate` writes that always takes the likeliest, up to its end."""
  N = 32
  first = np.arange(N, dtype=np.int32) % V
  carry, _ = MODEL.predict_next(params, np.random.default_rng(3).integers(0, V, (5, N)))
  _, written = generate(
    MODEL.predict_next,
    params,
    first[None],
    jax.random.key(0),
    num_tokens=12,
    carry=carry,
    sampler=make_sampler(0.0),
  )
  found = beam_search(MODEL.predict_next, params, carry, first, width=1, steps=12, end=END)
  ended = (written == END).any(0)
  lengths = np.where(ended, (written == END).argmax(0), 12)
  past = np.arange(12)[:, None] >= lengths
  np.testing.assert_array_equal(found.tokens[0], np.where(past, END, written))
  np.testing.assert_array_equal(found.lengths[0], lengths)
  np.testing.assert_array_equal(found.finished[0], ended)
  assert ended.any() and not ended.all() and len(set(lengths)) > 2  # or nothing was tested


@pytest.mark.parametrize("block", [0, 2])
def test_hypotheses_sorted_unique_and_without_repeated_ngrams(block):
  """Best first, all different, none above what there is, and of no n-gram two."""
  T = random_tables(2)
  found, short = run_beam_search(T, 5, 10, block=block), run_beam_search(T, 5, 4, block=block)
  for b, first in enumerate(FIRST):
    n = (found.log_p[:, b] > -np.inf).sum()
    texts = [tuple(found.tokens[i, : found.lengths[i, b], b].tolist()) for i in range(n)]
    assert len({*zip(texts, found.finished[:, b].tolist())}) == n
    order = [*zip(~found.finished[:, b], -found.scores[:, b])]
    assert order == sorted(order)
    for text in texts:
      grams = [text[i : i + block] for i in range(len(text) - block + 1)] if block else []
      assert len(set(grams)) == len(grams)
    best = exhaustive_search(next_token_lookup(T, b, first), steps=4, block=block)[0]
    assert best.is_finished and short.scores[0, b] <= best.log_p + 1e-5


def chain_model(probabilities):
  """A `read` of one row whose text alone decides: the text -> p [V] of what follows."""
  logits = np.full((M, V), -np.inf, np.float32)
  logits[:, 0] = 0
  for text, p in probabilities.items():
    with np.errstate(divide="ignore"):
      logits[functools.reduce(hash_state, (0, *text), 0)] = np.log(p)
  return {"logits": logits[None], "attention": np.zeros((1, M, S), np.float32)}


def best_tokens(found):
  return found.tokens[0, : found.lengths[0, 0], 0].tolist()


def test_finished_hypothesis_is_kept():
  """It ends early, two unfinished ones pass it, and both then fall behind it."""
  even = [0.25] * V
  T = chain_model({(): [0.7, 0, 0.3, 0], (0,): [0.5, 0.5, 0, 0], (0, 0): even, (0, 1): even})
  found = run_beam_search(T, 2, 4, first=FIRST[:1])
  assert found.finished[0, 0] and best_tokens(found) == []
  np.testing.assert_allclose(np.exp(found.log_p[0, 0]), 0.3, rtol=1e-5)


def test_longer_hypothesis_wins_with_length_penalty():
  """Its log p is lower, its score higher: the search may not stop at the first that ends."""
  ends = [0, 0, 1, 0]
  T = chain_model(
    {(): [0.45, 0, 0.55, 0], **{(0,) * i: [1, 0, 0, 0] for i in (1, 2, 3)}, (0,) * 4: ends}
  )
  assert best_tokens(run_beam_search(T, 1, 6, first=FIRST[:1])) == []
  assert best_tokens(run_beam_search(T, 1, 6, α=1.0, first=FIRST[:1])) == [0] * 4


def test_negative_length_penalty_keeps_searching():
  """Though a penalty below 0 is against it: the search may not stop when it has two."""
  T = chain_model({(): [0.6, 0, 0.4, 0], (0,): [0.7, 0, 0.3, 0], (0, 0): [0, 0, 1, 0]})
  found = run_beam_search(T, 2, 50, α=-1.0, first=FIRST[:1])
  assert_hypotheses_equal(
    found, 0, [Hypothesis((END,), np.log(0.4)), Hypothesis((0, 0, END), np.log(0.42))], α=-1.0
  )


def test_search_stops_early():
  """What would come later is no number, and is not read."""
  T = chain_model({(): [0.1, 0.1, 0.8, 0]} | {(i,): [0, 0, 1, 0] for i in (0, 1)})

  def counted(params, tokens, lengths, carry):
    count, carry = carry or (jnp.zeros_like(tokens[0]), None)
    carry, logits = read_step(params, tokens, lengths, carry)
    return (count + 1, carry), jnp.where(count[:, None] < 3, logits, jnp.nan)

  found = run_beam_search(T, 3, 50, first=FIRST[:1], read=counted)
  np.testing.assert_allclose(np.exp(found.scores[:, 0]), [0.8, 0.1, 0.1], rtol=1e-5)
  assert found.finished.all() and found.lengths[:, 0].tolist() == [0, 1, 1]


def test_unfinished_hypotheses_are_returned():
  """Unfinished texts come back, as such; impossible ones do not."""
  T = random_tables(3)
  T["logits"][..., END] = -np.inf
  found = run_beam_search(T, 5, 6, α=0.5)
  assert not found.finished.any() and (found.lengths == 6).all() and (found.tokens != END).all()
  for b, first in enumerate(FIRST):
    assert_hypotheses_equal(
      found, b, reference_beam_search(next_token_lookup(T, b, first), 5, 6, 0.5), 0.5
    )


def test_impossible_tokens_are_never_selected():
  """−∞ everywhere else, and in one place nothing can follow at all."""
  T = chain_model({(): [0.7, 0.3, 0, 0], (0,): [0] * V, (1,): [0, 0, 0, 1], (1, 3): [0, 0, 1, 0]})
  found = run_beam_search(T, 3, 5, first=FIRST[:1])
  assert_hypotheses_equal(found, 0, [Hypothesis((1, 3, END), np.log(0.3))])
  assert_hypotheses_equal(
    run_beam_search(T, 3, 2, first=FIRST[:1]), 0, [Hypothesis((1, 3), np.log(0.3))]
  )


def test_batch_rows_are_independent():
  """A batch is what each row is alone, whenever the others end."""
  T = random_tables(4)
  T["logits"][0, :, END] += 3
  found = run_beam_search(T, 3, 8, 0.5, 0.2, 2)
  for b in range(B):
    row = slice(b, b + 1)
    alone = run_beam_search({k: v[row] for k, v in T.items()}, 3, 8, 0.5, 0.2, 2, FIRST[row])
    jax.tree.map(lambda a, c, row=row: np.testing.assert_array_equal(a[..., row], c), found, alone)


def test_bfloat16_logits_are_summed_in_float32():
  """Their probabilities are summed in float32."""
  T = random_tables(5)
  half = lambda *args: (lambda carry, z: (carry, z.astype(jnp.bfloat16)))(*read_step(*args))
  found = run_beam_search(T, 4, 6, read=half)
  T["logits"] = np.asarray(T["logits"].astype(jnp.bfloat16), np.float32)
  jax.tree.map(np.testing.assert_array_equal, found, run_beam_search(T, 4, 6))
  assert found.log_p.dtype == jnp.float32


def test_float64_model_gives_same_tokens(float64):
  """Finds the same, whatever the precision of the model."""
  T = random_tables(6)
  double = jax.tree.map(np.float64, T)
  found, same = (run_beam_search(t, 4, 6, 0.5, 0.2, 2) for t in (T, double))
  np.testing.assert_array_equal(found.tokens, same.tokens)
  assert same.log_p.dtype == same.scores.dtype == jnp.float32


def test_new_parameters_do_not_retrace():
  """Other parameters, beginnings and penalties trace nothing anew."""
  traces = []

  def traced(*args):
    traces.append(args)
    return read_step(*args)

  run_beam_search(random_tables(0), 2, 5, 0.5, 0.1, read=traced)
  before = len(traces)
  run_beam_search(random_tables(1), 2, 5, 1.0, 0.3, first=FIRST[::-1], read=traced)
  assert before and len(traces) == before


def test_compiled_program_does_not_sort_vocabulary():
  """Where XLA does not see that few of k V are wanted, a step takes seventy times as long."""
  made = (
    beam_search.lower(read_step, random_tables(), None, FIRST, width=5, steps=3, end=END)
    .compile()
    .as_text()
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
def test_invalid_options_raise(options, message):
  with pytest.raises(ValueError, match=message):
    beam_search(
      read_step, random_tables(), None, FIRST, **dict(width=2, steps=3, end=END) | options
    )


def test_one_symbol_vocabulary_raises():
  T = {name: table[..., :1] for name, table in random_tables().items()}
  with pytest.raises(ValueError, match="end must be one of at least 2 symbols; got 0 of 1"):
    beam_search(read_step, T, None, FIRST, width=2, steps=3, end=0)
