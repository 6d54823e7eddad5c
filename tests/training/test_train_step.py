"""The train step: optimizer, schedules, masked losses, and equality on one and four devices."""

import itertools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from rnnjax import forward, gru, training
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.models.classifier import Classifier
from rnnjax.training import optimizers, tasks

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
TASK = tasks.classification_task(
  Classifier(nn.Embed(9, 3), forward(gru(4)), 3), label_smoothing=0.1
)
SEQUENCES = [DRAW.integers(2, 9, size) for size in (3, 8, 1, 12, 16, 9, 0, 5)]
BATCHES = BucketedBatches(
  SEQUENCES, [0, 1, 2, 0, 1, 2, 0, 1], batch_size=4, max_length=16, max_buckets=2, seed=0
)
OPTIMIZER = training.adam(0.01, weight_decay=0.1)


def make_batch_mesh(devices):
  return jax.make_mesh(
    (devices,), ("batch",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,)
  )


def test_weight_decay_shrinks_only_matrices():
  """With gradient 0, a step subtracts learning_rate · weight_decay · W from matrices only."""
  params = {"W": jnp.array([[2.0, -3.0]]), "b": jnp.array([4.0, -5.0])}
  optimizer = training.adam(0.1, weight_decay=0.5)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  after = optax.apply_updates(params, updates)
  np.testing.assert_allclose(after["W"], 0.95 * params["W"], rtol=1e-6)
  np.testing.assert_array_equal(after["b"], params["b"])


def test_first_adam_step_is_sign_of_gradient():
  """The first step is −learning_rate · sign(gradient), also if the gradient is clipped."""
  params = {"W": jnp.zeros((1, 3))}
  optimizer = training.adam(0.01)
  for scale in (1e-2, 1.0, 1e4):
    grads = {"W": scale * jnp.array([[1.0, -2.0, 0.5]])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["W"], [[-0.01, 0.01, -0.01]], rtol=1e-4)


@pytest.mark.parametrize(
  "name, values",
  [
    ("constant", [0, 0.5, 1, 1, 1, 1]),
    ("linear", [0, 0.5, 1, 0.75, 0.5, 0]),
    ("cosine", [0, 0.5, 1, (1 + np.sqrt(0.5)) / 2, 0.5, 0]),
  ],
)
def test_learning_rate_schedules(name, values):
  """Linear warm-up from 0, then the decay, which is 0 from the last step on."""
  rate = optimizers.make_schedule(0.2, 10, name, warmup_fraction=0.2)
  steps = [0, 1, 2, 4, 6, 10]
  np.testing.assert_allclose([rate(s) for s in steps], 0.2 * np.array(values), atol=1e-7)
  np.testing.assert_allclose(optimizers.make_schedule(0.2, 10, name)(0), 0.2, rtol=1e-6)
  np.testing.assert_allclose(rate(15), 0.2 * values[-1], atol=1e-7)


def test_zero_weight_rows_are_ignored():
  """Rows of weight 0 change neither the loss nor the scores nor the gradient."""
  batch = next(BATCHES.stream())
  params = TASK.init(KEY, batch)
  fill = {
    "tokens": np.full((len(batch["tokens"]), 2), 5, np.int32),
    "lengths": np.array([3, 0]),
    "labels": np.array([2, 0]),
    "weights": np.zeros(2, np.float32),
  }
  longer = {name: np.concatenate([batch[name], fill[name]], -1) for name in batch}
  loss = jax.value_and_grad(lambda p, b: operator.truediv(*TASK.loss(p, (), b, None)[1]["loss"]))
  for a, b in zip(*(jax.tree.leaves(loss(params, b)) for b in (batch, longer)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  one, two = (TASK.score(params, (), b)[1] for b in (batch, longer))
  for name in one:
    np.testing.assert_allclose(one[name].value, two[name].value, rtol=1e-6)


def train_losses(devices, steps=6):
  first = training.init_state(TASK, OPTIMIZER, next(BATCHES.stream()), KEY, keep_average=True)
  batches = itertools.islice(BATCHES.stream(), steps)
  for state, metrics in training.train_loop(
    TASK, OPTIMIZER, first, batches, mesh=make_batch_mesh(devices)
  ):
    yield metrics["loss"].value, jax.device_get((state.params, state.averaged_params))


def test_four_devices_equal_one():
  """The loss, parameters and average of each step agree, up to float32 rounding."""
  for one, four in zip(train_losses(1), train_losses(4), strict=True):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_evaluation_on_four_devices_equals_one():
  """The scores are those of one device, and means over rows, not over batches."""
  params = TASK.init(KEY, next(BATCHES.stream()))
  one, four = (training.evaluate(TASK, params, BATCHES, make_batch_mesh(n)) for n in (1, 4))
  assert one.keys() == four.keys() == {"loss", "accuracy"}
  for name in one:
    np.testing.assert_allclose(one[name], four[name], rtol=1e-6)
  uneven = BucketedBatches(SEQUENCES[:5], [0, 1, 2, 0, 1], batch_size=4, max_length=16)
  whole = BucketedBatches(SEQUENCES[:5], [0, 1, 2, 0, 1], batch_size=5, max_length=16)
  for name, value in training.evaluate(TASK, params, uneven, make_batch_mesh(1)).items():
    expected = training.evaluate(TASK, params, whole, make_batch_mesh(1))[name]
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_training_lowers_the_loss():
  """The model overfits eight rows within a few epochs."""
  values = [value for value, _ in train_losses(1, steps=200)]
  assert np.mean(values[-2:]) < 0.6 * np.mean(values[:2])


def test_compiles_once_for_each_length():
  """In three epochs the loss is traced once for each value of T."""
  traced = []

  def loss(params, carry, batch, key):
    traced.append(batch["tokens"].shape)
    return TASK.loss(params, carry, batch, key)

  task = TASK._replace(loss=loss)
  state = training.init_state(task, OPTIMIZER, next(BATCHES.stream()), KEY)
  batches = itertools.islice(BATCHES.stream(), 3 * len(BATCHES))
  assert (
    len(list(training.train_loop(task, OPTIMIZER, state, batches, mesh=make_batch_mesh(1)))) == 6
  )
  assert sorted(traced) == [(T, 4) for T in BATCHES.boundaries]


def test_logged_gradient_norms():
  """The metrics contain the norm of each gradient of the mean loss; training is not affected."""
  state = training.init_state(TASK, OPTIMIZER, next(BATCHES.stream()), KEY)
  steps = lambda diagnose: training.train_loop(
    TASK, OPTIMIZER, state, BATCHES.stream(), log_gradients=diagnose
  )
  after, metrics = next(steps(True))
  key = jax.random.fold_in(state.key, 0)
  mean = lambda p: operator.truediv(*TASK.loss(p, (), next(BATCHES.stream()), key)[1]["loss"])
  grads = jax.grad(mean)(state.params)
  norms = {name: mean.value for name, mean in metrics.items() if name.startswith("gradient/")}
  assert len(norms) == len(jax.tree.leaves(grads))
  U = grads["encoder"]["forward"]["U"]
  assert norms["gradient/encoder/forward/U"] == pytest.approx(np.linalg.norm(U), rel=1e-5)
  plain, metrics = next(steps(False))
  assert not norms.keys() & metrics.keys()
  jax.tree.map(np.testing.assert_array_equal, after.params, plain.params)
