"""Sampling and generation, compared with NumPy and with recomputing the whole text."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import forward, generate, lstm, make_sampler, stack
from rnnjax.decoding.sampling import filter_top_k, filter_top_p
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax

V, B = 9, 3
KEY = jax.random.key(0)
MODEL = LanguageModel(nn.Embed(V, 5), stack(forward(lstm(6)), forward(lstm(6))), full_softmax(V))
DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(0, 2, (2, 3, V)).astype(np.float32)
PROMPT = DRAW.integers(0, V, (7, B)).astype(np.int32)
LENGTHS = np.array([7, 1, 4], np.int32)
GREEDY = make_sampler(0.0)


def normalize(z):
  z = np.exp(np.float64(z) - np.max(z))
  return z / z.sum()


@pytest.fixture(scope="module")
def params():
  """Large random parameters, so that the output depends on the prompt."""
  params = jax.jit(MODEL.init)(KEY, PROMPT, np.ones((6, B)))["params"]
  draw = np.random.default_rng(7)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 2.5, p.shape), jnp.float32), params)


def next_token_logits(params, tokens):
  """Return the final carry and the logits after each token of [T, B], in one unroll."""
  carry, _, logits = jax.jit(lambda p, w: MODEL.apply({"params": p}, w, method="logits"))(
    params, tokens
  )
  return carry, np.asarray(logits)


def assert_trees_close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def most_likely_mask(logits, k, p):
  """Return which of logits [V] are in the nucleus of probability p of the k most likely."""
  order = np.argsort(-logits)[:k]
  total, nucleus = 0.0, []
  for token, q in zip(order, normalize(logits[order]), strict=True):
    if total < p:
      nucleus.append(token)
    total += q
  return np.isin(np.arange(len(logits)), nucleus)


@pytest.mark.parametrize("k", [1, 4, V])
def test_top_k_keeps_k_most_likely(k):
  """The k largest logits of each row are unchanged, the others become −∞."""
  mask = np.apply_along_axis(most_likely_mask, -1, LOGITS, k, 1.0)
  np.testing.assert_array_equal(filter_top_k(LOGITS, k), np.where(mask, LOGITS, -np.inf))


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.75, 0.99])
def test_top_p_keeps_smallest_nucleus(p):
  """The most likely token is kept even if its probability is larger than p."""
  mask = np.apply_along_axis(most_likely_mask, -1, LOGITS, V, p)
  np.testing.assert_array_equal(filter_top_p(LOGITS, p), np.where(mask, LOGITS, -np.inf))


@pytest.mark.parametrize(
  "filter_fn", [lambda z: filter_top_k(z, 2), lambda z: filter_top_p(z, 0.5)]
)
def test_ties_are_kept_together(filter_fn):
  """Two of three equal logits would be enough, but all three are kept."""
  np.testing.assert_array_equal(filter_fn(jnp.array([1.0, 0, 1, 1])), [1, -np.inf, 1, 1])


@pytest.mark.parametrize(
  "temperature, k, p",
  [(1, None, 1), (0.5, None, 1), (3, 3, 1), (1, None, 0.8), (2, 5, 0.75), (1, 1, 1)],
)
def test_sample_frequencies_match_softmax(temperature, k, p):
  """χ² test of many samples against softmax(logits / temperature) of the allowed tokens."""
  logits, N = LOGITS[0, 0], 20_000
  allowed = most_likely_mask(logits / temperature, k, p)
  expected = N * normalize(np.where(allowed, logits / temperature, -np.inf))
  samples = make_sampler(temperature, k, p)(KEY, jnp.tile(logits, (N, 1)))
  counts = np.bincount(samples, minlength=V)
  assert not counts[~allowed].any()
  χ2 = ((counts - expected)[allowed] ** 2 / expected[allowed]).sum()
  assert χ2 < 26.1  # with 8 degrees of freedom, exceeded with probability 0.001


@pytest.mark.parametrize("k, p", [(None, 1.0), (3, 0.5)])
def test_zero_temperature_is_argmax(k, p):
  for seed in range(5):
    tokens = make_sampler(0, k, p)(jax.random.key(seed), LOGITS[0])
    np.testing.assert_array_equal(tokens, LOGITS[0].argmax(-1))


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(temperature=-1), "temperature must be 0 or more, and finite; got -1"),
    (dict(temperature=float("inf")), "temperature must be .* got inf"),
    (dict(temperature=float("nan")), "temperature must be .* got nan"),
    (dict(top_k=0), "top_k must be at least 1; got 0"),
    (dict(top_p=0), r"top_p must be in \(0, 1\]; got 0"),
    (dict(top_p=1.5), r"top_p must be in \(0, 1\]; got 1\.5"),
    (dict(top_p=float("nan")), r"top_p must be in \(0, 1\]; got nan"),
  ],
)
def test_invalid_options_raise(options, message):
  with pytest.raises(ValueError, match=message):
    make_sampler(**options)


@pytest.mark.parametrize("temperature", [0, 1])
def test_top_k_larger_than_vocab_raises(temperature):
  """The vocabulary size is known only when the sampler gets logits."""
  with pytest.raises(ValueError, match="top_k must be at most the vocabulary size 9; got 10"):
    make_sampler(temperature, 10)(KEY, LOGITS[0])


def test_equal_options_return_same_function():
  """Otherwise each call of `generate` would recompile."""
  assert make_sampler(0.7, 5) is make_sampler(0.7, 5)
  assert make_sampler(0.7, top_p=0.9) is make_sampler(0.7, top_p=0.9)
  options = [(0.7, 5), (0.7, 4), (0.6, 5), (0.7, 5, 0.9)]
  assert len({make_sampler(*args) for args in options}) == len(options)


def test_greedy_equals_recomputing_every_step(params):
  """The final carry equals that of prompt and output in one unroll."""
  carry, generated = generate(MODEL.predict_next, params, PROMPT, KEY, num_tokens=8, sampler=GREEDY)
  tokens = PROMPT
  for _ in range(8):
    next_token = next_token_logits(params, tokens)[1][-1].argmax(-1)
    tokens = np.concatenate([tokens, next_token[None].astype(np.int32)])
  np.testing.assert_array_equal(generated, tokens[7:])
  assert all(len(set(column)) > 2 for column in tokens[7:].T)  # the outputs are not trivial
  assert_trees_close(carry, next_token_logits(params, tokens)[0])


def test_greedy_agrees_with_teacher_forcing(params):
  """Each generated token is the most likely one given the tokens before it."""
  _, generated = generate(MODEL.predict_next, params, PROMPT, KEY, num_tokens=20, sampler=GREEDY)
  _, logits = next_token_logits(params, np.concatenate([PROMPT, generated]))
  np.testing.assert_array_equal(logits[6:-1].argmax(-1), generated)


def test_prompts_of_different_lengths(params):
  """The output of a row depends neither on the padding nor on the other rows."""
  is_padding = np.arange(7)[:, None] >= LENGTHS
  results = [
    generate(
      MODEL.predict_next,
      params,
      np.where(is_padding, padding, PROMPT),
      KEY,
      num_tokens=6,
      lengths=LENGTHS,
      sampler=GREEDY,
    )
    for padding in (0, 5)
  ]
  for b, n in enumerate(LENGTHS):
    row_carry, row_tokens = generate(
      MODEL.predict_next, params, PROMPT[:n, b : b + 1], KEY, num_tokens=6, sampler=GREEDY
    )
    for carry, tokens in results:
      np.testing.assert_array_equal(tokens[:, b], row_tokens[:, 0])
      assert_trees_close(
        jax.tree.map(lambda c, b=b: c[b], carry), jax.tree.map(lambda c: c[0], row_carry)
      )


def test_streaming_with_carry_equals_whole_prompt(params):
  """Generation from a carry equals generation from all tokens that the carry has processed."""
  carry, _ = MODEL.predict_next(params, PROMPT[:5])
  carry_1, tokens_1 = generate(
    MODEL.predict_next, params, PROMPT[5:], KEY, num_tokens=4, carry=carry, sampler=GREEDY
  )
  carry_2, tokens_2 = generate(
    MODEL.predict_next, params, PROMPT[:2], KEY, num_tokens=4, carry=carry_1, sampler=GREEDY
  )
  for carry, tokens, parts in [
    (carry_1, tokens_1, [PROMPT]),
    (carry_2, tokens_2, [PROMPT, tokens_1, PROMPT[:2]]),
  ]:
    whole_carry, whole_tokens = generate(
      MODEL.predict_next, params, np.concatenate(parts), KEY, num_tokens=4, sampler=GREEDY
    )
    np.testing.assert_array_equal(tokens, whole_tokens)
    assert_trees_close(carry, whole_carry)


def test_samples_depend_only_on_key(params):
  """Equal keys give equal samples; other keys and other rows give different ones."""
  repeated_prompt = np.tile(PROMPT[:, :1], 4)
  sample = lambda seed: np.asarray(
    generate(
      MODEL.predict_next,
      params,
      repeated_prompt,
      jax.random.key(seed),
      num_tokens=12,
      sampler=make_sampler(5.0),
    )[1]
  )
  np.testing.assert_array_equal(sample(1), sample(1))
  assert (sample(1) != sample(2)).any(0).all()
  assert len({tuple(column) for column in sample(1).T}) == 4


def test_second_token_frequencies_match_model(params):
  """χ² test of the second tokens of many rows, given the most frequent first token."""
  N = 20_000
  _, (first, second) = generate(
    MODEL.predict_next,
    params,
    np.tile(PROMPT[:, :1], N),
    KEY,
    num_tokens=2,
    sampler=make_sampler(5.0),
  )
  token = np.bincount(first).argmax()
  counts = np.bincount(second[first == token], minlength=V)
  context = np.append(PROMPT[:, :1], [[token]], 0)
  expected = counts.sum() * normalize(next_token_logits(params, context)[1][-1, 0] / 5)
  likely = expected > 5
  χ2 = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
  assert counts.sum() > 2000 and likely.sum() > 2
  assert χ2 < 26.1


def test_compiles_once_for_each_shape(params):
  """Other prompts, lengths and keys of the same shape do not retrace; another shape does."""
  traces = []

  def traced_fn(*args):
    traces.append(args[1].shape)
    return MODEL.predict_next(*args)

  run = lambda prompt, lengths, seed: generate(
    traced_fn,
    params,
    prompt,
    jax.random.key(seed),
    num_tokens=5,
    lengths=lengths,
    sampler=make_sampler(0.9, 4),
  )
  run(PROMPT, LENGTHS, 0)
  num_traces = len(traces)
  assert num_traces
  run(PROMPT[::-1], LENGTHS - 1 + (LENGTHS == 1), 1)
  assert len(traces) == num_traces
  run(PROMPT[:4], np.array([4, 1, 2], np.int32), 1)
  assert len(traces) > num_traces


def test_empty_prompt_raises(params):
  with pytest.raises(ValueError, match="the prompt is empty; it needs at least one token"):
    generate(MODEL.predict_next, params, PROMPT[:0], KEY, num_tokens=3)
