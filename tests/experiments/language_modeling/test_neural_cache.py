"""The neural cache against a loop written from its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_modeling.neural_cache import neural_cache_task
from rnnjax import forward, gru, stack, training
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from tests.training.test_train_step import make_batch_mesh

V, D, H, T, B = 8, 3, 5, 4, 4
MODEL = LanguageModel(nn.Embed(V, D), stack(forward(gru(H))), full_softmax(V))
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (3 * T + 1, B)).astype(np.int32)
WEIGHTS = (RNG.random((3 * T, B)) < 0.8).astype(np.float32)
SHAPES = MODEL.init(jax.random.key(0), TOKENS, WEIGHTS)["params"]
PARAMS = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32), SHAPES)
WINDOWS = [
  {"tokens": TOKENS[start : start + T + 1], "weights": WEIGHTS[start : start + T]}
  for start in range(0, 3 * T, T)
]


def evaluate_loss(task, batches=WINDOWS):
  return training.evaluate(task, PARAMS, batches, make_batch_mesh(1))["loss"]


def reference_loss(cache_size, theta, lam):
  """Return the mean loss, computed token by token from the definition."""
  _, hs, logits = MODEL.apply({"params": PARAMS}, TOKENS[:-1], method="logits")
  hs, logits, total = np.asarray(hs, np.float64), np.asarray(logits, np.float64), 0.0
  for b in range(B):
    for t in range(3 * T):
      word = TOKENS[t + 1, b]
      p = np.exp(logits[t, b, word]) / np.exp(logits[t, b]).sum()
      weights = {i: np.exp(theta * hs[t, b] @ hs[i, b]) for i in range(max(0, t - cache_size), t)}
      if weights:
        mass = sum(weight for i, weight in weights.items() if TOKENS[i + 1, b] == word)
        p = (1 - lam) * p + lam * mass / sum(weights.values())
      total -= WEIGHTS[t, b] * np.log(p)
  return total / WEIGHTS.sum()


@pytest.mark.parametrize("size", [1, 3, 6, 50])
def test_loss_equals_reference_loop(size):
  """Three windows; caches of fewer steps than a window, of more, and of all steps."""
  np.testing.assert_allclose(
    evaluate_loss(neural_cache_task(MODEL, size, 0.7, 0.4)), reference_loss(size, 0.7, 0.4), 1e-5
  )


def test_result_independent_of_window_size():
  """One long window and three short ones give the same loss."""
  task, whole = neural_cache_task(MODEL, 5, 0.7, 0.4), [{"tokens": TOKENS, "weights": WEIGHTS}]
  np.testing.assert_allclose(evaluate_loss(task, whole), evaluate_loss(task), rtol=1e-5)


def test_probabilities_sum_to_one():
  """Over all words that may follow the same context."""
  tokens_by_next_word = np.broadcast_to(TOKENS[:, :1], (3 * T + 1, V)).copy()
  tokens_by_next_word[-1] = np.arange(V)
  batch = {"tokens": tokens_by_next_word, "weights": np.ones((3 * T, V), np.float32)}
  total = 0.0
  for word in range(V):
    last_weight = np.zeros((3 * T, V), np.float32)
    last_weight[-1, word] = 1
    total += np.exp(
      -evaluate_loss(neural_cache_task(MODEL, 50, 0.7, 0.4), [batch | {"weights": last_weight}])
    )
  np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_zero_share_equals_plain_model():
  """λ = 0 gives the loss without a cache; so does an empty cache with any λ."""
  plain = tasks.language_modeling_task(MODEL)
  np.testing.assert_allclose(
    evaluate_loss(neural_cache_task(MODEL, 9, 0.3, 0.0)), evaluate_loss(plain), rtol=1e-5
  )
  first = [{"tokens": TOKENS[:2], "weights": np.ones((1, B), np.float32)}]
  np.testing.assert_allclose(
    evaluate_loss(neural_cache_task(MODEL, 9, 0.3, 0.9), first),
    evaluate_loss(plain, first),
    rtol=1e-5,
  )


def test_zero_model_probability_gives_finite_loss():
  """p_model is less than the smallest float: the loss is −log((1 − λ) p_model), not −log 0."""
  scaled = PARAMS | {"softmax": jax.tree.map(lambda p: 500 * p, PARAMS["softmax"])}
  evaluate = lambda task: training.evaluate(task, scaled, WINDOWS, make_batch_mesh(1))["loss"]
  plain = evaluate(tasks.language_modeling_task(MODEL))
  assert 100 < evaluate(neural_cache_task(MODEL, 1, 0.7, 0.4)) < plain - np.log(0.6)


def test_cache_lowers_loss_on_repeated_text():
  """An untrained model finds a repeated text in the cache; more so with a larger θ."""
  text = np.resize([3, 1, 4, 1, 5, 0, 2, 6], 65)
  tokens = np.tile(text[:, None], B).astype(np.int32)
  batch = [{"tokens": tokens, "weights": np.ones((64, B), np.float32)}]
  uniform, sharp = (evaluate_loss(neural_cache_task(MODEL, 64, θ, 0.5), batch) for θ in (0.0, 10.0))
  assert sharp < uniform < evaluate_loss(tasks.language_modeling_task(MODEL), batch)
