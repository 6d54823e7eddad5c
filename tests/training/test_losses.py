"""Losses and metrics against explicit NumPy formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.training import losses, metrics

DRAW = np.random.default_rng(0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_cross_entropy_equals_definition(K, smoothing):
  """−Σ q log p, term by term. A single logit is that of class 1, where class 0 has logit 0."""
  logits = DRAW.normal(0, 2, (3, 4, K))
  labels = DRAW.integers(0, max(K, 2), (3, 4))
  z = np.concatenate([np.zeros((3, 4, 1)), logits], -1) if K == 1 else logits
  p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  q = (1 - smoothing) * np.eye(max(K, 2))[labels] + smoothing / max(K, 2)
  actual = losses.cross_entropy(jnp.asarray(logits), labels, smoothing)
  np.testing.assert_allclose(actual, -(q * np.log(p)).sum(-1), rtol=1e-12)
  np.testing.assert_array_equal(losses.predict_labels(logits), z.argmax(-1))


@pytest.mark.parametrize("K", [1, 3])
def test_cross_entropy_of_large_logits(K):
  """Neither the value nor the gradient overflows for logits of ±1000."""
  signs = jnp.ones((1, K)).at[0, 0].set(-1)
  loss = lambda scale: losses.cross_entropy(scale * signs, np.array([0]))
  value, slope = jax.jvp(lambda s: loss(s)[0], (1000.0,), (1.0,))
  assert np.isfinite(value) and np.isfinite(slope)


def test_weighted_means_add_up():
  """The sum of the Means of two parts is the Mean of the whole; with weight 0 it is NaN."""
  values, weights = DRAW.normal(size=12), DRAW.integers(0, 3, 12).astype(float)
  expected = np.average(values, weights=weights)
  for cut in (1, 5, 11):
    first, second = (
      metrics.weighted_mean(v, w) for v, w in zip(np.split(values, [cut]), np.split(weights, [cut]))
    )
    np.testing.assert_allclose((first + second).value, expected, rtol=1e-5)
  assert np.isnan(metrics.Mean(0.0, 0.0).value)
