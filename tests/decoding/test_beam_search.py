"""Beam search, compared with exhaustive search and with a plain loop over lists, in NumPy."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import forward, generate, lstm, make_sampler, stack
from rnnjax.decoding.beam_search import beam_search
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax

V, B, S, M = 4, 3, 3, 499
END = 2
FIRST = np.array([0, 3, 1], np.int32)
MODEL = LanguageModel(nn.Embed(V, 5), stack(forward(lstm(6)), forward(lstm(6))), full_softmax(V))
PENALTIES = [  # α, β, ngram_size
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
  """Return a model as tables: the logits and attention of each row for each of M history hashes."""
  draw = np.random.default_rng(seed)
  table = lambda n: draw.normal(0, 2, (B, M, n)).astype(np.float32)
  return {"logits": table(V), "attention": table(S)}


def hash_state(state, token):
  return (state * 31 + token * 7 + 1) % M


def table_logits(params, tokens, lengths=None, carry=None):
  """A `logits_fn` that looks up tables; its carry is a hash of all tokens and the coverage."""
  assert tokens.shape == (1, len(params["logits"])) and lengths is None
  state, coverage = carry or (jnp.zeros_like(tokens[0]), jnp.zeros_like(params["attention"][:, 0]))
  state = hash_state(state, tokens[0])
  look_up = lambda table: jnp.take_along_axis(table, state[:, None, None], 1)[:, 0]
  attention = jax.nn.softmax(look_up(params["attention"]))
  return (state, coverage + attention), look_up(params["logits"])


def log_coverage(carry):
  return jnp.log(jnp.minimum(carry[1], 1)).sum(-1)


def next_token_lookup(tables, b, first):
  """Return row b of `table_logits` as a function: tokens -> logits and attention of the next."""

  def next_token(tokens):
    state = functools.reduce(hash_state, (first, *tokens), 0)
    return tables["logits"][b, state], tables["attention"][b, state]

  return next_token


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

  def extensions(self, next_token, ngram_size):
    """Yield all possible extensions by one token."""
    logits, attention = next_token(self.tokens)
    for token, p in enumerate(softmax(logits)):
      tokens = (*self.tokens, token)
      ngrams = (
        [tokens[i : i + ngram_size] for i in range(len(tokens) - ngram_size + 1)]
        if ngram_size
        else []
      )
      if p and len(set(ngrams)) == len(ngrams):
        yield Hypothesis(tokens, self.log_p + np.log(p), self.coverage + softmax(attention))


def reference_beam_search(next_token, beam_size, max_length, α=0.0, β=0.0, ngram_size=0):
  """Beam search that keeps all finished hypotheses and always runs for `max_length` steps."""
  finished, unfinished = [], [Hypothesis()]
  for _ in range(max_length):
    extended = [new for old in unfinished for new in old.extensions(next_token, ngram_size)]
    extended.sort(key=lambda hypothesis: -hypothesis.log_p)
    finished += [new for new in extended[:beam_size] if new.is_finished]
    unfinished = [new for new in extended if not new.is_finished][:beam_size]
  best_first = lambda hypotheses: sorted(hypotheses, key=lambda h: -h.score(α, β))
  return (best_first(finished) + best_first(unfinished))[:beam_size]


exhaustive_search = functools.partial(reference_beam_search, beam_size=None)


def assert_hypotheses_equal(results, b, expected, α=0.0, β=0.0):
  """Row b of the results has the expected hypotheses, in this order, and no others."""
  (k, T), n = results.tokens.shape[:2], len(expected)
  finished = [h.is_finished for h in expected]
  padded = [(*h.tokens, *[END] * (T - len(h.tokens))) for h in expected]
  lengths = [len(h.tokens) - h.is_finished for h in expected]
  equal = np.testing.assert_array_equal
  equal(results.tokens[..., b], padded + [[END] * T] * (k - n))
  equal(results.lengths[:, b], lengths + [0] * (k - n))
  equal(results.finished[:, b], finished + [False] * (k - n))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  close(results.log_p[:, b], [h.log_p for h in expected] + [-np.inf] * (k - n))
  close(results.scores[:, b], [h.score(α, β) for h in expected] + [-np.inf] * (k - n))


def run_beam_search(
  params,
  beam_size,
  max_length,
  α=0.0,
  β=0.0,
  ngram_size=0,
  first_tokens=FIRST,
  logits_fn=table_logits,
):
  return beam_search(
    logits_fn,
    params,
    None,
    first_tokens,
    beam_size=beam_size,
    max_length=max_length,
    eos_id=END,
    length_penalty=α,
    coverage_fn=log_coverage if β else None,
    coverage_penalty=β,
    no_repeat_ngram_size=ngram_size,
  )


@pytest.fixture(scope="module")
def params():
  """Large random parameters, so that the output depends on all tokens before it."""
  params = jax.jit(MODEL.init)(jax.random.key(0), np.zeros((3, B), int), np.ones((2, B)))["params"]
  draw = np.random.default_rng(7)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 1.5, p.shape), jnp.float32), params)


@pytest.mark.parametrize("α, β, ngram_size", PENALTIES)
def test_full_width_beam_is_exhaustive(α, β, ngram_size):
  """A beam larger than the number of sequences returns all of them, and nothing else."""
  tables = random_tables()
  results = run_beam_search(tables, V**4, 4, α, β, ngram_size)
  for b, first in enumerate(FIRST):
    next_token = next_token_lookup(tables, b, first)
    expected = exhaustive_search(next_token, max_length=4, α=α, β=β, ngram_size=ngram_size)
    assert_hypotheses_equal(results, b, expected, α, β)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("α, β, ngram_size", PENALTIES)
def test_early_stopping_equals_full_search(beam_size, α, β, ngram_size):
  """Stopping early does not change the result, for many random models."""
  tables, first = random_tables(1, 24), np.arange(24, dtype=np.int32) % V
  results = run_beam_search(tables, beam_size, 7, α, β, ngram_size, first)
  for b in range(24):
    next_token = next_token_lookup(tables, b, first[b])
    expected = reference_beam_search(next_token, beam_size, 7, α, β, ngram_size)
    assert_hypotheses_equal(results, b, expected, α, β)


def test_lstm_equals_exhaustive_search(params):
  """The search from the carry after a prompt equals recomputing every sequence of an LSTM."""
  prompt = np.array([[1, 3, 0], [0, 0, 3], FIRST], np.int32)
  carry, _ = MODEL.predict_next(params, prompt[:2])
  results = beam_search(
    MODEL.predict_next,
    params,
    carry,
    FIRST,
    beam_size=V**4,
    max_length=4,
    eos_id=END,
    length_penalty=1.0,
  )

  logits = jax.jit(lambda tokens, length: MODEL.predict_next(params, tokens, length)[1])
  for b in range(B):

    def next_token(tokens, b=b):
      padded = np.array([*prompt[:, b], *tokens, *[0] * (3 - len(tokens))], np.int32)
      return logits(padded[:, None], np.array([3 + len(tokens)]))[0], np.zeros(S)

    assert_hypotheses_equal(results, b, exhaustive_search(next_token, max_length=4, α=1.0), 1.0)


def test_beam_size_one_equals_greedy_decoding(params):
  """A beam of one returns the output of a greedy `generate` up to its first end token."""
  N = 32
  first = np.arange(N, dtype=np.int32) % V
  carry, _ = MODEL.predict_next(params, np.random.default_rng(3).integers(0, V, (5, N)))
  _, generated = generate(
    MODEL.predict_next,
    params,
    first[None],
    jax.random.key(0),
    num_tokens=12,
    carry=carry,
    sampler=make_sampler(0.0),
  )
  results = beam_search(
    MODEL.predict_next, params, carry, first, beam_size=1, max_length=12, eos_id=END
  )
  finished = (generated == END).any(0)
  lengths = np.where(finished, (generated == END).argmax(0), 12)
  after_end = np.arange(12)[:, None] >= lengths
  np.testing.assert_array_equal(results.tokens[0], np.where(after_end, END, generated))
  np.testing.assert_array_equal(results.lengths[0], lengths)
  np.testing.assert_array_equal(results.finished[0], finished)
  # The outputs are not trivial.
  assert finished.any() and not finished.all() and len(set(lengths)) > 2


@pytest.mark.parametrize("ngram_size", [0, 2])
def test_hypotheses_sorted_unique_and_without_repeated_ngrams(ngram_size):
  """No hypothesis has a higher score than the best of all sequences either."""
  tables = random_tables(2)
  results = run_beam_search(tables, 5, 10, ngram_size=ngram_size)
  short = run_beam_search(tables, 5, 4, ngram_size=ngram_size)
  for b, first in enumerate(FIRST):
    n = (results.log_p[:, b] > -np.inf).sum()
    sequences = [tuple(results.tokens[i, : results.lengths[i, b], b].tolist()) for i in range(n)]
    assert len({*zip(sequences, results.finished[:, b].tolist())}) == n
    order = [*zip(~results.finished[:, b], -results.scores[:, b])]
    assert order == sorted(order)
    for tokens in sequences if ngram_size else []:
      ngrams = [tokens[i : i + ngram_size] for i in range(len(tokens) - ngram_size + 1)]
      assert len(set(ngrams)) == len(ngrams)
    next_token = next_token_lookup(tables, b, first)
    best = exhaustive_search(next_token, max_length=4, ngram_size=ngram_size)[0]
    assert best.is_finished and short.scores[0, b] <= best.log_p + 1e-5


def sequence_model(probabilities):
  """Return tables of one row from {tokens so far: p [V] of the next token}."""
  logits = np.full((M, V), -np.inf, np.float32)
  logits[:, 0] = 0
  for tokens, p in probabilities.items():
    with np.errstate(divide="ignore"):
      logits[functools.reduce(hash_state, (0, *tokens), 0)] = np.log(p)
  return {"logits": logits[None], "attention": np.zeros((1, M, S), np.float32)}


def best_tokens(results):
  return results.tokens[0, : results.lengths[0, 0], 0].tolist()


def test_finished_hypothesis_is_kept():
  """It is finished early; two unfinished ones are better for one step, and then worse."""
  uniform = [0.25] * V
  tables = sequence_model(
    {(): [0.7, 0, 0.3, 0], (0,): [0.5, 0.5, 0, 0], (0, 0): uniform, (0, 1): uniform}
  )
  results = run_beam_search(tables, 2, 4, first_tokens=FIRST[:1])
  assert results.finished[0, 0] and best_tokens(results) == []
  np.testing.assert_allclose(np.exp(results.log_p[0, 0]), 0.3, rtol=1e-5)


def test_longer_hypothesis_wins_with_length_penalty():
  """It has a lower log p but a higher score, so the search must not stop at the first finished."""
  end = [0, 0, 1, 0]
  tables = sequence_model(
    {(): [0.45, 0, 0.55, 0], **{(0,) * i: [1, 0, 0, 0] for i in (1, 2, 3)}, (0,) * 4: end}
  )
  assert best_tokens(run_beam_search(tables, 1, 6, first_tokens=FIRST[:1])) == []
  assert best_tokens(run_beam_search(tables, 1, 6, α=1.0, first_tokens=FIRST[:1])) == [0] * 4


def test_negative_length_penalty_keeps_searching():
  """α < 0 lowers the scores of longer hypotheses, but the third finished one is still second."""
  tables = sequence_model({(): [0.6, 0, 0.4, 0], (0,): [0.7, 0, 0.3, 0], (0, 0): [0, 0, 1, 0]})
  results = run_beam_search(tables, 2, 50, α=-1.0, first_tokens=FIRST[:1])
  assert_hypotheses_equal(
    results, 0, [Hypothesis((END,), np.log(0.4)), Hypothesis((0, 0, END), np.log(0.42))], α=-1.0
  )


def test_search_stops_early():
  """The logits of later steps are NaN, and they are not used."""
  tables = sequence_model({(): [0.1, 0.1, 0.8, 0]} | {(i,): [0, 0, 1, 0] for i in (0, 1)})

  def nan_after_three_steps(params, tokens, lengths, carry):
    count, carry = carry or (jnp.zeros_like(tokens[0]), None)
    carry, logits = table_logits(params, tokens, lengths, carry)
    return (count + 1, carry), jnp.where(count[:, None] < 3, logits, jnp.nan)

  results = run_beam_search(tables, 3, 50, first_tokens=FIRST[:1], logits_fn=nan_after_three_steps)
  np.testing.assert_allclose(np.exp(results.scores[:, 0]), [0.8, 0.1, 0.1], rtol=1e-5)
  assert results.finished.all() and results.lengths[:, 0].tolist() == [0, 1, 1]


def test_unfinished_hypotheses_are_returned():
  """If nothing can end, the results are unfinished hypotheses of the maximum length."""
  tables = random_tables(3)
  tables["logits"][..., END] = -np.inf
  results = run_beam_search(tables, 5, 6, α=0.5)
  assert not results.finished.any() and (results.lengths == 6).all()
  assert (results.tokens != END).all()
  for b, first in enumerate(FIRST):
    expected = reference_beam_search(next_token_lookup(tables, b, first), 5, 6, 0.5)
    assert_hypotheses_equal(results, b, expected, 0.5)


def test_impossible_tokens_are_never_selected():
  """Only one sequence has p > 0. After the token 0 no token is possible at all."""
  tables = sequence_model(
    {(): [0.7, 0.3, 0, 0], (0,): [0] * V, (1,): [0, 0, 0, 1], (1, 3): [0, 0, 1, 0]}
  )
  results = run_beam_search(tables, 3, 5, first_tokens=FIRST[:1])
  assert_hypotheses_equal(results, 0, [Hypothesis((1, 3, END), np.log(0.3))])
  truncated = run_beam_search(tables, 3, 2, first_tokens=FIRST[:1])
  assert_hypotheses_equal(truncated, 0, [Hypothesis((1, 3), np.log(0.3))])


def test_batch_rows_are_independent():
  """Each row gives the result of a batch of one, although the rows end at different steps."""
  tables = random_tables(4)
  tables["logits"][0, :, END] += 3
  results = run_beam_search(tables, 3, 8, 0.5, 0.2, 2)
  for b in range(B):
    row = slice(b, b + 1)
    single = run_beam_search({k: v[row] for k, v in tables.items()}, 3, 8, 0.5, 0.2, 2, FIRST[row])
    jax.tree.map(
      lambda a, c, row=row: np.testing.assert_array_equal(a[..., row], c), results, single
    )


def test_bfloat16_logits_are_summed_in_float32():
  tables = random_tables(5)

  def bfloat16_logits(*args):
    carry, logits = table_logits(*args)
    return carry, logits.astype(jnp.bfloat16)

  results = run_beam_search(tables, 4, 6, logits_fn=bfloat16_logits)
  tables["logits"] = np.asarray(tables["logits"].astype(jnp.bfloat16), np.float32)
  jax.tree.map(np.testing.assert_array_equal, results, run_beam_search(tables, 4, 6))
  assert results.log_p.dtype == jnp.float32


def test_float64_model_gives_same_tokens(float64):
  tables = random_tables(6)
  tables64 = jax.tree.map(np.float64, tables)
  results, results64 = (run_beam_search(t, 4, 6, 0.5, 0.2, 2) for t in (tables, tables64))
  np.testing.assert_array_equal(results.tokens, results64.tokens)
  assert results64.log_p.dtype == results64.scores.dtype == jnp.float32


def test_new_parameters_do_not_retrace():
  """Other parameters, first tokens and penalties use the compiled program."""
  traces = []

  def traced(*args):
    traces.append(args)
    return table_logits(*args)

  run_beam_search(random_tables(0), 2, 5, 0.5, 0.1, logits_fn=traced)
  num_traces = len(traces)
  run_beam_search(random_tables(1), 2, 5, 1.0, 0.3, first_tokens=FIRST[::-1], logits_fn=traced)
  assert num_traces and len(traces) == num_traces


def test_compiled_program_does_not_sort_vocabulary():
  """A step takes seventy times as long if XLA sorts all k V candidates instead of selecting 2k."""
  lowered = beam_search.lower(
    table_logits, random_tables(), None, FIRST, beam_size=5, max_length=3, eos_id=END
  )
  program = lowered.compile().as_text()
  sorts = [line for line in program.splitlines() if " sort(" in line]
  assert sorts and not [line for line in sorts if f"[{B},{5 * V}]" in line]


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(beam_size=0), "beam_size must be at least 1; got 0"),
    (dict(max_length=0), "max_length must be at least 1; got 0"),
    (dict(no_repeat_ngram_size=-1), "no_repeat_ngram_size must be at least 0; got -1"),
    (dict(eos_id=4), r"eos_id must be in \[0, V\) .* got eos_id=4 and V=4"),
    (dict(eos_id=-1), r"eos_id must be in \[0, V\) .* got eos_id=-1 and V=4"),
  ],
)
def test_invalid_options_raise(options, message):
  options = dict(beam_size=2, max_length=3, eos_id=END) | options
  with pytest.raises(ValueError, match=message):
    beam_search(table_logits, random_tables(), None, FIRST, **options)


def test_one_symbol_vocabulary_raises():
  tables = {name: table[..., :1] for name, table in random_tables().items()}
  with pytest.raises(ValueError, match=r"eos_id must be in \[0, V\) .* got eos_id=0 and V=1"):
    beam_search(table_logits, tables, None, FIRST, beam_size=2, max_length=3, eos_id=0)
