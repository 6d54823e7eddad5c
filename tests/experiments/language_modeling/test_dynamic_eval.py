"""Dynamic evaluation against a loop written from its definition."""

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
from rnnjax.training import device_mesh, sharding, tasks

V, D, H, T = 7, 3, 5, 4
MODEL = LanguageModel(nn.Embed(V, D), stack(forward(gru(H))), full_softmax(V))
TASK = tasks.language_modeling_task(MODEL)
TOKENS = np.random.default_rng(0).integers(0, V, (3 * T + 1, 1)).astype(np.int32)
WINDOWS = [
  {"tokens": TOKENS[start : start + T + 1], "weights": np.ones((T, 1), np.float32)}
  for start in range(0, 3 * T, T)
]
PARAMS = TASK.init(jax.random.key(0), WINDOWS[0])


def evaluate_loss(task, batches=WINDOWS):
  return training.evaluate(task, PARAMS, batches, device_mesh.single_device_mesh())["loss"]


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_loss_equals_reference_loop(decay):
  """θₙ₊₁ = θₙ − η ∇lossₙ(θₙ) + λ (θ − θₙ); each window is scored before the update."""
  carry, adapted, total = TASK.initial_carry(PARAMS, WINDOWS[0]), PARAMS, 0.0

  def mean(params, carry, window):
    carry, scores = TASK.score(params, carry, window)
    return scores["loss"].total / T, carry

  for window in WINDOWS:
    (value, after), grads = jax.value_and_grad(mean, has_aux=True)(adapted, carry, window)
    total, carry = total + value, after
    move = lambda a, g, p: a - 0.5 * g + decay * (p - a)
    adapted = jax.tree.map(move, adapted, grads, PARAMS)
  loss = evaluate_loss(dynamic_eval_task(MODEL, optax.sgd(0.5), decay))
  np.testing.assert_allclose(loss, total / 3, rtol=1e-5)
  assert abs(loss - evaluate_loss(TASK)) > 1e-3


def test_zero_learning_rate_equals_static_evaluation():
  np.testing.assert_allclose(
    evaluate_loss(dynamic_eval_task(MODEL, optax.adam(0.0))), evaluate_loss(TASK), rtol=1e-6
  )


def test_zero_weight_window_does_not_update_params():
  window = WINDOWS[0] | {"weights": np.zeros((T, 1), np.float32)}
  task = dynamic_eval_task(MODEL, optax.adam(0.1))
  carry, _ = task.score(PARAMS, task.initial_carry(PARAMS, window), window)
  jax.tree.map(np.testing.assert_array_equal, carry[1], PARAMS)


def test_repeated_text_lowers_loss():
  repeated = [WINDOWS[0]] * 60
  assert evaluate_loss(dynamic_eval_task(MODEL, optax.adam(0.03)), repeated) < 0.6 * evaluate_loss(
    TASK, repeated
  )


def test_scalar_in_carry_is_replicated():
  """A scalar, such as Adam's step count, has no batch axis to shard."""
  carry = {"count": jnp.int32(3), "h": jnp.ones((jax.device_count(), 2))}
  rows = sharding.shard_carry(training.make_mesh(), carry)
  assert int(rows["count"]) == 3
  assert rows["h"].sharding.spec == jax.sharding.PartitionSpec("batch")
