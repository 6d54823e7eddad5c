"""Parameter averaging against explicit loops and means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training import averaging, tasks
from rnnjax.training.metrics import Mean

STEPS = 30
PATH = np.random.default_rng(0).normal(size=(STEPS, 3))  # the parameters after each step


def running_average(average, path, mean=0.0):
  """Yield θ̄ ← (1 − μ) θ̄ + μ θ after each step."""
  for step, params in enumerate(path):
    μ = float(average(jnp.int32(step)))
    mean = (1 - μ) * mean + μ * params
    yield mean


@pytest.mark.parametrize("begin", [0, 1, 12, 29, 50])
def test_polyak_is_mean_from_begin_step(begin):
  """Before that step the average is the newest parameters, whatever its initial value."""
  for step, mean in enumerate(running_average(averaging.polyak(begin), PATH, 1e6)):
    expected = PATH[begin : step + 1].mean(0) if step >= begin else PATH[step]
    np.testing.assert_allclose(mean, expected, atol=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.998])
def test_ema_decay_warms_up(decay):
  """μ is 9/10, 9/11, 9/12 ..., until 1 − decay is larger."""
  mean = np.ones(3)
  for step, actual in enumerate(running_average(averaging.ema(decay), PATH, np.ones(3))):
    μ = max(1 - decay, 9 / (10 + step))
    mean = (1 - μ) * mean + μ * PATH[step]
    np.testing.assert_allclose(actual, mean, rtol=1e-5, atol=1e-6)


def test_ema_of_constant_is_constant():
  (*_, last) = running_average(averaging.ema(0.9), np.full((200, 3), 7.0))
  np.testing.assert_allclose(last, 7, rtol=1e-5)


def test_zero_decay_disables_ema():
  assert averaging.ema(0) is None
  assert averaging.ema(0.0) is None


@pytest.mark.parametrize("average", [averaging.polyak(4), averaging.ema(0.8)])
def test_train_averages_params_after_each_step(average):
  """The average follows the recurrence over the parameters after steps 1, 2, ..."""

  def loss(params, carry, batch, key):
    errors = (params["w"] - batch["x"]) ** 2
    return carry, {"loss": Mean(errors.sum(), errors.size)}

  task = tasks.Task(lambda key, batch: {"w": jnp.float32(3)}, loss, loss)
  xs = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
  optimizer, batches = optax.sgd(0.3), [{"x": x} for x in xs]
  first = training.init_state(task, optimizer, batches[0], jax.random.key(0), keep_average=True)
  path, means = [], []
  for state, _ in training.train_loop(task, optimizer, first, batches, averaging=average):
    path.append(float(state.params["w"]))
    means.append(float(state.averaged_params["w"]))
    assert float(state.eval_params["w"]) == means[-1]
  np.testing.assert_allclose(means, list(running_average(average, path, 3.0)), rtol=1e-5)
  w = 3.0  # averaging does not change the parameters: they are those of gradient descent
  for x, actual in zip(xs, path, strict=True):
    w -= 0.3 * 2 * (w - x).mean()
    np.testing.assert_allclose(actual, w, rtol=1e-4)
