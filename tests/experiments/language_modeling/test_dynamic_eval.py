"""Dynamic evaluation against a loop from its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.language_modeling.dynamic_eval import dynamic_eval_task
from rnnjax import forward, gru, stack, training
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks

V, D, H, T = 7, 3, 5, 4
MODEL = LanguageModel(nn.Embed(V, D), stack(forward(gru(H))), full_softmax(V))
TASK = tasks.language_modeling_task(MODEL)
TOKENS = np.random.default_rng(0).integers(0, V, (3 * T + 1, 1)).astype(np.int32)
WINDOWS = [
  {"tokens": TOKENS[at : at + T + 1], "weights": np.ones((T, 1), np.float32)}
  for at in range(0, 3 * T, T)
]
PARAMS = TASK.init(jax.random.key(0), WINDOWS[0])


def evaluate_loss(task, batches=WINDOWS):
  return training.evaluate(task, PARAMS, batches, training.devices.first())["loss"]


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_loss_equals_reference_loop(decay):
  """θₙ₊₁ = θₙ − η ∇lossₙ(θₙ) + λ (θ − θₙ), each window scored before it is learnt from."""
  carry, adapted, total = TASK.initial_carry(PARAMS, WINDOWS[0]), PARAMS, 0.0

  def mean(params, carry, window):
    carry, scores = TASK.score(params, carry, window)
    return scores["loss"].total / T, carry

  for window in WINDOWS:
    (value, after), grads = jax.value_and_grad(mean, has_aux=True)(adapted, carry, window)
    total, carry = total + value, after
    move = lambda a, g, p: a - 0.5 * g + decay * (p - a)
    adapted = jax.tree.map(move, adapted, grads, PARAMS)
  got = evaluate_loss(dynamic_eval_task(MODEL, optax.sgd(0.5), decay))
  np.testing.assert_allclose(got, total / 3, rtol=1e-5)
  assert abs(got - evaluate_loss(TASK)) > 1e-3


def test_zero_learning_rate_equals_static_evaluation():
  np.testing.assert_allclose(
    evaluate_loss(dynamic_eval_task(MODEL, optax.adam(0.0))), evaluate_loss(TASK), rtol=1e-6
  )


def test_zero_weight_window_does_not_update_params():
  """A window of weight 0 leaves the parameters as they were."""
  silent = WINDOWS[0] | {"weights": np.zeros((T, 1), np.float32)}
  task = dynamic_eval_task(MODEL, optax.adam(0.1))
  carry, _ = task.score(PARAMS, task.initial_carry(PARAMS, silent), silent)
  jax.tree.map(np.testing.assert_array_equal, carry[1], PARAMS)


def test_repeated_text_lowers_loss():
  """A text that says the same over and over becomes certain."""
  again = [WINDOWS[0]] * 60
  assert evaluate_loss(dynamic_eval_task(MODEL, optax.adam(0.03)), again) < 0.6 * evaluate_loss(
    TASK, again
  )


def test_scalar_in_carry_is_replicated():
  """Adam counts its steps: a scalar is whole on each device."""
  carry = {"count": jnp.int32(3), "h": jnp.ones((jax.device_count(), 2))}
  rows = training.placement.rows(training.make_mesh(), carry)
  assert int(rows["count"]) == 3
  assert rows["h"].sharding.spec == jax.sharding.PartitionSpec("batch")
