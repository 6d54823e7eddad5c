"""Drawing tokens, and the loop that they feed, against NumPy and against reading all anew."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import forward, generate, lstm, make_sampler, stack
from rnnjax.decoding import filter_top_k, filter_top_p
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
  """Far from 0, so that what is written depends on what was read."""
  made = jax.jit(MODEL.init)(KEY, PROMPT, np.ones((6, B)))["params"]
  draw = np.random.default_rng(7)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 2.5, p.shape), jnp.float32), made)


def next_token_logits(params, tokens):
  """The carry at the end, and what follows each token of [T, B], all of it read in one go."""
  carry, _, logits = jax.jit(lambda p, w: MODEL.apply({"params": p}, w, method="logits"))(
    params, tokens
  )
  return carry, np.asarray(logits)


def assert_trees_close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def most_likely_mask(logits, k, p):
  """Which of logits [V] are among the k likeliest, and then, in falling order, make up p."""
  order = np.argsort(-logits)[:k]
  together, kept, probabilities = 0.0, [], normalize(logits[order])
  for entry, q in zip(order, probabilities, strict=True):
    if together < p:
      kept.append(entry)
    together += q
  return np.isin(np.arange(len(logits)), kept)


@pytest.mark.parametrize("k", [1, 4, V])
def test_top_k_keeps_k_most_likely(k):
  """The k likeliest of each row stay as they are, the others become −∞."""
  kept = np.apply_along_axis(most_likely_mask, -1, LOGITS, k, 1.0)
  np.testing.assert_array_equal(filter_top_k(LOGITS, k), np.where(kept, LOGITS, -np.inf))


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.75, 0.99])
def test_top_p_keeps_smallest_nucleus(p):
  """The shortest falling row of them that has probability p; the likeliest always."""
  kept = np.apply_along_axis(most_likely_mask, -1, LOGITS, V, p)
  np.testing.assert_array_equal(filter_top_p(LOGITS, p), np.where(kept, LOGITS, -np.inf))


@pytest.mark.parametrize("cut", [lambda z: filter_top_k(z, 2), lambda z: filter_top_p(z, 0.5)])
def test_ties_are_kept_together(cut):
  """Of three that are equal two would do; none is preferred."""
  np.testing.assert_array_equal(cut(jnp.array([1.0, 0, 1, 1])), [1, -np.inf, 1, 1])


@pytest.mark.parametrize(
  "temperature, k, p",
  [(1, None, 1), (0.5, None, 1), (3, 3, 1), (1, None, 0.8), (2, 5, 0.75), (1, 1, 1)],
)
def test_sample_frequencies_match_softmax(temperature, k, p):
  """χ² of many draws against softmax(logits / temperature) of those that may be drawn."""
  logits, N = LOGITS[0, 0], 20_000
  kept = most_likely_mask(logits / temperature, k, p)
  expected = N * normalize(np.where(kept, logits / temperature, -np.inf))
  drawn = make_sampler(temperature, k, p)(KEY, jnp.tile(logits, (N, 1)))
  counts = np.bincount(drawn, minlength=V)
  assert not counts[~kept].any()
  χ2 = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
  assert χ2 < 26.1  # at most 8 degrees of freedom: by chance one in a thousand is above


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
    (dict(k=0), "top_k must be at least 1; got 0"),
    (dict(p=0), r"top_p must lie in \(0, 1\]; got 0"),
    (dict(p=1.5), r"top_p must lie in \(0, 1\]; got 1\.5"),
    (dict(p=float("nan")), r"top_p must lie in \(0, 1\]; got nan"),
  ],
)
def test_invalid_options_raise(options, message):
  with pytest.raises(ValueError, match=message):
    make_sampler(**options)


@pytest.mark.parametrize("temperature", [0, 1])
def test_top_k_larger_than_vocab_raises(temperature):
  """How many entries there are shows when there are logits."""
  with pytest.raises(ValueError, match="top_k must be at most the vocabulary's 9 entries; got 10"):
    make_sampler(temperature, 10)(KEY, LOGITS[0])


def test_equal_options_return_same_function():
  """Else each call of generate would compile anew."""
  assert make_sampler(0.7, 5) is make_sampler(0.7, 5)
  assert make_sampler(0.7, top_p=0.9) is make_sampler(0.7, top_p=0.9)
  assert (
    len(
      {make_sampler(0.7, 5), make_sampler(0.7, 4), make_sampler(0.6, 5), make_sampler(0.7, 5, 0.9)}
    )
    == 4
  )


def test_greedy_equals_recomputing_every_step(params):
  """And what it ends with is the carry of prompt and output read in one go."""
  carry, written = generate(MODEL.predict_next, params, PROMPT, KEY, num_tokens=8, sampler=GREEDY)
  tokens = PROMPT
  for _ in range(8):
    following = next_token_logits(params, tokens)[1][-1].argmax(-1)
    tokens = np.concatenate([tokens, following[None].astype(np.int32)])
  np.testing.assert_array_equal(written, tokens[7:])
  assert all(len(set(column)) > 2 for column in tokens[7:].T)  # or nothing was tested
  assert_trees_close(carry, next_token_logits(params, tokens)[0])


def test_greedy_agrees_with_teacher_forcing(params):
  """Each token that was written is the likeliest where the text is given and not written."""
  _, written = generate(MODEL.predict_next, params, PROMPT, KEY, num_tokens=20, sampler=GREEDY)
  _, logits = next_token_logits(params, np.concatenate([PROMPT, written]))
  np.testing.assert_array_equal(logits[6:-1].argmax(-1), written)


def test_prompts_of_different_lengths(params):
  """Each row is written as if it were alone, whatever pads it."""
  rest = np.arange(7)[:, None] >= LENGTHS
  ends = [
    generate(
      MODEL.predict_next,
      params,
      np.where(rest, fill, PROMPT),
      KEY,
      num_tokens=6,
      lengths=LENGTHS,
      sampler=GREEDY,
    )
    for fill in (0, 5)
  ]
  for b, n in enumerate(LENGTHS):
    carry, alone = generate(
      MODEL.predict_next, params, PROMPT[:n, b : b + 1], KEY, num_tokens=6, sampler=GREEDY
    )
    for end, written in ends:
      np.testing.assert_array_equal(written[:, b], alone[:, 0])
      assert_trees_close(
        jax.tree.map(lambda c, b=b: c[b], end), jax.tree.map(lambda c: c[0], carry)
      )


def test_streaming_with_carry_equals_whole_prompt(params):
  """What goes on from a carry is what goes on from all that was read before."""
  carry, _ = MODEL.predict_next(params, PROMPT[:5])
  one, first = generate(
    MODEL.predict_next, params, PROMPT[5:], KEY, num_tokens=4, carry=carry, sampler=GREEDY
  )
  two, second = generate(
    MODEL.predict_next, params, PROMPT[:2], KEY, num_tokens=4, carry=one, sampler=GREEDY
  )
  for end, tokens, parts in [
    (one, first, [PROMPT]),
    (two, second, [PROMPT, first, PROMPT[:2]]),
  ]:
    carry, whole = generate(
      MODEL.predict_next, params, np.concatenate(parts), KEY, num_tokens=4, sampler=GREEDY
    )
    np.testing.assert_array_equal(tokens, whole)
    assert_trees_close(end, carry)


def test_samples_depend_only_on_key(params):
  """The same key writes the same, another something else, and rows with one prompt differ."""
  same = np.tile(PROMPT[:, :1], 4)
  write = lambda seed: np.asarray(
    generate(
      MODEL.predict_next,
      params,
      same,
      jax.random.key(seed),
      num_tokens=12,
      sampler=make_sampler(5.0),
    )[1]
  )
  np.testing.assert_array_equal(write(1), write(1))
  assert (write(1) != write(2)).any(0).all()
  assert len({tuple(column) for column in write(1).T}) == 4


def test_second_token_frequencies_match_model(params):
  """Second tokens of many rows, after each first one: as often as the model says."""
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
  read = np.append(PROMPT[:, :1], [[token]], 0)
  expected = counts.sum() * normalize(next_token_logits(params, read)[1][-1, 0] / 5)
  likely = expected > 5
  χ2 = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
  assert counts.sum() > 2000 and likely.sum() > 2
  assert χ2 < 26.1


def test_compiles_once_for_each_shape(params):
  """Other prompts, lengths and keys of one shape trace nothing anew; another shape does."""
  traces = []

  def read(*args):
    traces.append(args[1].shape)
    return MODEL.predict_next(*args)

  write = lambda prompt, lengths, seed: generate(
    read,
    params,
    prompt,
    jax.random.key(seed),
    num_tokens=5,
    lengths=lengths,
    sampler=make_sampler(0.9, 4),
  )
  write(PROMPT, LENGTHS, 0)
  before = len(traces)
  assert before
  write(PROMPT[::-1], LENGTHS - 1 + (LENGTHS == 1), 1)
  assert len(traces) == before
  write(PROMPT[:4], np.array([4, 1, 2], np.int32), 1)
  assert len(traces) > before


def test_empty_prompt_raises(params):
  with pytest.raises(ValueError, match="the prompt is empty; give at least one token"):
    generate(MODEL.predict_next, params, PROMPT[:0], KEY, num_tokens=3)
