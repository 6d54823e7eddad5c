"""Tag layers, compared with an enumeration of all tag sequences, in float64."""

import itertools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from rnnjax import crf

T, B, K = 5, 4, 3
LENGTHS = np.array([5, 3, 1, 0])
ALLOWED = {  # tag 2 cannot be first, 2 cannot follow 0, nor 0 follow 2, and 1 cannot be last
  "start": np.array([1, 1, 0], bool),
  "inner": np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool),
  "end": np.array([1, 0, 1], bool),
}
FREE = {name: np.ones_like(allowed) for name, allowed in ALLOWED.items()}
CASES = {"free": ({}, FREE), "constrained": (ALLOWED, ALLOWED)}


def random_scores(seed=0):
  """Return scores [T, B, K] and parameters, float64."""
  draw = np.random.default_rng(seed)
  params = {name: draw.normal(size=allowed.shape) for name, allowed in FREE.items()}
  return draw.normal(size=(T, B, K)), params


def enumerate_sequences(scores, params, allowed):
  """Return {y: s(y)} of all allowed sequences of one row [n, K]."""
  sequence_scores = {}
  for y in itertools.product(range(K), repeat=len(scores)):
    pairs = list(itertools.pairwise(y))
    legal = allowed["start"][y[0]] and allowed["end"][y[-1]]
    if legal and all(allowed["inner"][i, j] for i, j in pairs):
      score = sum(scores[t, tag] for t, tag in enumerate(y)) + params["start"][y[0]]
      score += sum(params["inner"][i, j] for i, j in pairs) + params["end"][y[-1]]
      sequence_scores[y] = score
  return sequence_scores


@pytest.fixture(params=CASES, ids=str)
def crf_case(request, float64):
  """A layer, scores, parameters, and the sequence scores of each row that is not empty."""
  constraints, allowed = CASES[request.param]
  scores, params = random_scores()
  rows = [enumerate_sequences(scores[:n, b], params, allowed) for b, n in enumerate(LENGTHS) if n]
  return crf.linear_chain(K, **constraints), jnp.array(scores), params, rows


def test_likelihood_equals_enumeration(crf_case):
  """log p(y) = s(y) − log Σ exp s for every y, and the probabilities sum to one."""
  layer, scores, params, rows = crf_case
  for b, row in enumerate(rows):
    log_Z = np.logaddexp.reduce(list(row.values()))
    num_sequences = len(row)
    tags = np.zeros((T, num_sequences), int)
    tags[: LENGTHS[b]] = np.array(list(row)).T
    repeated = jnp.repeat(scores[:, b : b + 1], num_sequences, 1)
    lengths = jnp.full(num_sequences, LENGTHS[b])
    p = layer.log_likelihood(params, repeated, jnp.array(tags), lengths)
    np.testing.assert_allclose(p, np.array(list(row.values())) - log_Z, atol=1e-12)
    np.testing.assert_allclose(np.exp(p).sum(), 1, atol=1e-12)


def test_marginals_equal_enumeration(crf_case):
  layer, scores, params, rows = crf_case
  marginals = np.asarray(layer.marginals(params, scores, jnp.array(LENGTHS)))
  expected = np.zeros((T, B, K))
  for b, row in enumerate(rows):
    log_Z = np.logaddexp.reduce(list(row.values()))
    for y, s in row.items():
      expected[np.arange(len(y)), b, y] += np.exp(s - log_Z)
  np.testing.assert_allclose(marginals, expected, atol=1e-12)


def test_best_path_equals_enumeration(crf_case):
  layer, scores, params, rows = crf_case
  best = np.asarray(layer.best_tags(params, scores, jnp.array(LENGTHS)))
  for b, row in enumerate(rows):
    assert tuple(best[: LENGTHS[b], b]) == max(row, key=row.get)
  is_padding = np.arange(T)[:, None] >= LENGTHS
  assert not best[is_padding].any()


def test_tied_scores_give_allowed_path(float64):
  """If all sequences have the same score, the best path is one of the allowed sequences."""
  layer = crf.linear_chain(K, **ALLOWED)
  params = layer.init(jax.random.key(0))
  path = tuple(np.asarray(layer.best_tags(params, jnp.zeros((T, 1, K))))[:, 0])
  zero = {name: np.zeros(np.shape(p)) for name, p in params.items()}
  assert path in enumerate_sequences(np.zeros((T, K)), zero, ALLOWED)


@pytest.mark.parametrize("layer", [crf.linear_chain(K, **ALLOWED), crf.independent(K)], ids=str)
def test_padding_does_not_affect_likelihood_or_gradients(float64, layer):
  """NaN in the padding affects neither the likelihood nor its gradient."""
  scores, params = random_scores(1)
  tags, lengths = np.zeros((T, B), int), jnp.array(LENGTHS)
  nan_scores = np.where(np.arange(T)[:, None, None] >= LENGTHS[:, None], np.nan, scores)
  f = jax.value_and_grad(
    lambda params, s: layer.log_likelihood(params, s, tags, lengths).sum(), (0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, f(params, scores), f(params, nan_scores))


def test_gradients_equal_finite_differences(float64):
  layer, (scores, params) = crf.linear_chain(K), random_scores(2)
  tags = jnp.array(np.random.default_rng(3).integers(0, K, (T, B)))
  f = lambda params, s: layer.log_likelihood(params, s, tags, jnp.array(LENGTHS)).sum()
  jax.test_util.check_grads(f, (params, jnp.array(scores)), order=1, modes=["rev"])


def test_chain_without_transitions_equals_independent_softmax(float64):
  """Marginals, best tags and likelihoods of the two layers are equal."""
  scores, _ = random_scores(4)
  tags, lengths = np.random.default_rng(5).integers(0, K, (T, B)), jnp.array(LENGTHS)
  tags = jnp.where(np.arange(T)[:, None] < LENGTHS, tags, 0)
  chain = crf.linear_chain(K)
  layers = [(chain, chain.init(jax.random.key(0))), (crf.independent(K), {})]
  scores = jnp.array(scores)
  for name, atol in (("marginals", 1e-12), ("best_tags", 0)):
    results = [getattr(layer, name)(params, scores, lengths) for layer, params in layers]
    np.testing.assert_allclose(*results, atol=atol)
  likelihoods = [layer.log_likelihood(params, scores, tags, lengths) for layer, params in layers]
  np.testing.assert_allclose(*likelihoods, atol=1e-12)


def test_long_sequences_stay_finite():
  """The log likelihood of the best path of 10,000 steps in float32 is finite and at most 0."""
  layer = crf.linear_chain(K, **ALLOWED)
  scores = jnp.array(np.random.default_rng(6).normal(size=(10_000, 1, K)), jnp.float32)
  params = layer.init(jax.random.key(0))
  p = layer.log_likelihood(params, scores, layer.best_tags(params, scores))
  assert np.isfinite(p).all() and (p <= 0).all()


@pytest.mark.parametrize("layer", [crf.linear_chain(K, **ALLOWED), crf.independent(K)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_scores_are_summed_in_float32(dtype, layer):
  """Likelihoods, marginals and best tags equal those of the same scores in float32."""
  scores = jnp.array(3 * np.random.default_rng(7).normal(size=(60, 2, K)), dtype)
  params, scores32 = layer.init(jax.random.key(0)), scores.astype(jnp.float32)
  tags = layer.best_tags(params, scores32)
  np.testing.assert_array_equal(layer.best_tags(params, scores), tags)
  for half, full in zip(
    (layer.log_likelihood(params, scores, tags), layer.marginals(params, scores)),
    (layer.log_likelihood(params, scores32, tags), layer.marginals(params, scores32)),
  ):
    np.testing.assert_allclose(jnp.float32(half), full, atol=1e-2 if half.dtype == dtype else 1e-4)
