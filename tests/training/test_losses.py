"""Losses and metrics against explicit NumPy."""

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
  """−Σ q log p, term by term; a single logit is two classes of which the other has logit 0."""
  logits = DRAW.normal(0, 2, (3, 4, K))
  labels = DRAW.integers(0, max(K, 2), (3, 4))
  z = np.concatenate([np.zeros((3, 4, 1)), logits], -1) if K == 1 else logits
  p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  q = (1 - smoothing) * np.eye(max(K, 2))[labels] + smoothing / max(K, 2)
  got = losses.cross_entropy(jnp.asarray(logits), labels, smoothing)
  np.testing.assert_allclose(got, -(q * np.log(p)).sum(-1), rtol=1e-12)
  np.testing.assert_array_equal(losses.predict_labels(logits), z.argmax(-1))


@pytest.mark.parametrize("K", [1, 3])
def test_cross_entropy_of_large_logits(K):
  """Logits of ±1000 neither overflow nor lose their gradient."""
  signs = jnp.ones((1, K)).at[0, 0].set(-1)
  loss = lambda scale: losses.cross_entropy(scale * signs, np.array([0]))
  value, slope = jax.jvp(lambda s: loss(s)[0], (1000.0,), (1.0,))
  assert np.isfinite(value) and np.isfinite(slope)


def test_weighted_means_add_up():
  """Cut anywhere, weighted as one will: the mean is that of the whole; of nothing it is nan."""
  values, weights = DRAW.normal(size=12), DRAW.integers(0, 3, 12).astype(float)
  whole = np.average(values, weights=weights)
  for cut in (1, 5, 11):
    parts = [
      metrics.weighted_mean(v, w) for v, w in zip(np.split(values, [cut]), np.split(weights, [cut]))
    ]
    np.testing.assert_allclose((parts[0] + parts[1]).value, whole, rtol=1e-5)
  assert np.isnan(metrics.Mean(0.0, 0.0).value)
