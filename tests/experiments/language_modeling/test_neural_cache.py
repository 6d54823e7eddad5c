"""The neural cache against a loop from its definition."""

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
DRAW = np.random.default_rng(0)
TOKENS = DRAW.integers(0, V, (3 * T + 1, B)).astype(np.int32)
WEIGHTS = (DRAW.random((3 * T, B)) < 0.8).astype(np.float32)
SHAPES = MODEL.init(jax.random.key(0), TOKENS, WEIGHTS)["params"]
PARAMS = jax.tree.map(lambda p: jnp.asarray(DRAW.normal(size=p.shape), jnp.float32), SHAPES)
WINDOWS = [
  {"tokens": TOKENS[at : at + T + 1], "weights": WEIGHTS[at : at + T]} for at in range(0, 3 * T, T)
]


def evaluate_loss(task, batches=WINDOWS):
  return training.evaluate(task, PARAMS, batches, make_batch_mesh(1))["loss"]


def reference_loss(size, flatness, share):
  """The mean loss, from the definition, token by token."""
  _, hs, logits = MODEL.apply({"params": PARAMS}, TOKENS[:-1], method="logits")
  hs, logits, total = np.asarray(hs, np.float64), np.asarray(logits, np.float64), 0.0
  for b in range(B):
    for t in range(3 * T):
      word = TOKENS[t + 1, b]
      p = np.exp(logits[t, b, word]) / np.exp(logits[t, b]).sum()
      near = {i: np.exp(flatness * hs[t, b] @ hs[i, b]) for i in range(max(0, t - size), t)}
      if near:
        hit = sum(weight for i, weight in near.items() if TOKENS[i + 1, b] == word)
        p = (1 - share) * p + share * hit / sum(near.values())
      total -= WEIGHTS[t, b] * np.log(p)
  return total / WEIGHTS.sum()


@pytest.mark.parametrize("size", [1, 3, 6, 50])
def test_loss_equals_reference_loop(size):
  """Over three windows, with a memory of fewer steps than a window, of more, and of all."""
  np.testing.assert_allclose(
    evaluate_loss(neural_cache_task(MODEL, size, 0.7, 0.4)), reference_loss(size, 0.7, 0.4), 1e-5
  )


def test_result_independent_of_window_size():
  """One long window scores what three score."""
  task, whole = neural_cache_task(MODEL, 5, 0.7, 0.4), [{"tokens": TOKENS, "weights": WEIGHTS}]
  np.testing.assert_allclose(evaluate_loss(task, whole), evaluate_loss(task), rtol=1e-5)


def test_probabilities_sum_to_one():
  """Over all words that may follow the same past."""
  past = np.broadcast_to(TOKENS[:, :1], (3 * T + 1, V)).copy()
  past[-1] = np.arange(V)
  batch = {"tokens": past, "weights": np.ones((3 * T, V), np.float32)}
  sure = 0.0
  for word in range(V):
    only = np.zeros((3 * T, V), np.float32)
    only[-1, word] = 1
    sure += np.exp(
      -evaluate_loss(neural_cache_task(MODEL, 50, 0.7, 0.4), [batch | {"weights": only}])
    )
  np.testing.assert_allclose(sure, 1, rtol=1e-5)


def test_zero_share_equals_plain_model():
  """The same loss as without a cache; and at a text's first step, whatever the share."""
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
  """log p far below the smallest number there is: −log((1 − λ) p) is not −log 0."""
  sharp = PARAMS | {"softmax": jax.tree.map(lambda p: 500 * p, PARAMS["softmax"])}
  evaluate = lambda task: training.evaluate(task, sharp, WINDOWS, make_batch_mesh(1))["loss"]
  plain = evaluate(tasks.language_modeling_task(MODEL))
  assert 100 < evaluate(neural_cache_task(MODEL, 1, 0.7, 0.4)) < plain - np.log(0.6)


def test_cache_lowers_loss_on_repeated_text():
  """A model that never learnt a text finds it in the cache, the better the sharper."""
  text = np.resize([3, 1, 4, 1, 5, 0, 2, 6], 65)
  tokens = np.tile(text[:, None], B).astype(np.int32)
  batch = [{"tokens": tokens, "weights": np.ones((64, B), np.float32)}]
  blurred, sharp = (evaluate_loss(neural_cache_task(MODEL, 64, θ, 0.5), batch) for θ in (0.0, 10.0))
  assert sharp < blurred < evaluate_loss(tasks.language_modeling_task(MODEL), batch)
