"""Language models and their task: loss, windows, tied embeddings, backward model, state reset."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import backward, forward, lstm, stack, training, unroll
from rnnjax.data.bptt_batches import BpttBatches
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from tests.training.test_train_step import make_batch_mesh

V, D, H, T, B = 9, 4, 6, 5, 4
KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
TOKENS = DRAW.integers(0, V, (2 * T + 1, B)).astype(np.int32)
WEIGHTS = (DRAW.random((2 * T, B)) < 0.7).astype(np.float32)
ENCODER = stack(forward(lstm(H)))


def make_model(width=D, **options):
  return LanguageModel(nn.Embed(V, width), ENCODER, full_softmax(V), **options)


def make_window(begin=0, end=2 * T):
  return {"tokens": TOKENS[begin : end + 1], "weights": WEIGHTS[begin:end]}


def random_params(task):
  """Return random parameters away from 0."""
  draw = np.random.default_rng(1)
  normal_like = lambda p: jnp.asarray(draw.normal(0, 0.5, p.shape), jnp.float32)
  return jax.tree.map(normal_like, task.init(KEY, make_window()))


def task_loss(task, params, batch, carry=None, key=None):
  carry = task.initial_carry(params, batch) if carry is None else carry
  return jax.jit(task.loss)(params, carry, batch, key)


def reference_nats(logits, targets, weights):
  """Return Σ weight · −log softmax(logits)[target], computed step by step."""
  logits, total = np.asarray(logits, np.float64), 0.0
  for index, weight in np.ndenumerate(weights):
    z = logits[index]
    total += weight * (np.log(np.exp(z).sum()) - z[targets[index]])
  return total


def model_logits(model, params, tokens):
  """Return hs and logits of the model."""
  return model.apply({"params": params}, tokens, method="logits")[1:]


def test_loss_is_next_token_nll():
  """The loss sums over the weighted steps, in training without dropout and in evaluation."""
  model = make_model()
  task = tasks.language_modeling_task(model)
  params = random_params(task)
  expected = reference_nats(model_logits(model, params, TOKENS[:-1])[1], TOKENS[1:], WEIGHTS)
  carry, got = task_loss(task, params, make_window())
  assert got.keys() == {"loss", "nats"}
  first = task.initial_carry(params, make_window())
  for mean in (*got.values(), task.score(params, first, make_window())[1]["loss"]):
    np.testing.assert_allclose(mean, (expected, WEIGHTS.sum()), rtol=1e-5)
  assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, carry)
  assert not any(leaf.any() for leaf in jax.tree.leaves(first))


def test_zero_weight_columns_are_ignored():
  """A column without weights may have any tokens."""
  task = tasks.language_modeling_task(make_model())
  params, weights = random_params(task), WEIGHTS * (np.arange(B) != 2)
  changed = np.where(np.arange(B) == 2, (TOKENS + 1) % V, TOKENS)
  value = lambda params, tokens: (
    task_loss(task, params, {"tokens": tokens, "weights": weights})[1]["loss"].total
  )
  results = (jax.value_and_grad(value)(params, tokens) for tokens in (TOKENS, changed))
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_two_windows_with_carry_equal_one():
  task = tasks.language_modeling_task(make_model())
  params = random_params(task)
  whole_carry, whole = task_loss(task, params, make_window())
  carry, first = task_loss(task, params, make_window(0, T))
  carry, second = task_loss(task, params, make_window(T), carry)
  np.testing.assert_allclose(first["loss"] + second["loss"], whole["loss"], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(whole_carry), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradient_is_truncated_at_window_start():
  """A training step treats the carry of the previous window as a constant."""
  task, sgd = tasks.language_modeling_task(make_model()), optax.sgd(1.0)
  state = training.init_state(task, sgd, make_window(0, T), KEY)
  steps = training.train_loop(
    task, sgd, state, [make_window(0, T), make_window(T)], mesh=make_batch_mesh(1)
  )
  states = [jax.device_get((state.params, state.carry)) for state, _ in steps]
  (params, carry), (new_params, _) = states
  expected_carry, _ = task_loss(task, state.params, make_window(0, T))
  for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(expected_carry), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)

  def second_window_loss(params, truncate):
    first = carry if truncate else task_loss(task, params, make_window(0, T))[0]
    mean = task_loss(task, params, make_window(T), first)[1]["loss"]
    return mean.total / mean.weight

  truncated, full = (jax.grad(second_window_loss)(params, truncate) for truncate in (True, False))
  update = jax.tree.map(lambda a, b: a - b, params, new_params)
  for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(truncated), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  U = lambda tree: tree["encoder"]["layer_0"]["forward"]["U"]
  assert abs(U(full) - U(truncated)).max() > 1e-5


def test_score_is_mean_loss_of_text():
  """Every token but the first counts once for any window size; exp(loss) is the perplexity."""
  model = make_model()
  task, text = tasks.language_modeling_task(model), np.resize(TOKENS.T.ravel(), 23)
  params = random_params(task)
  _, logits = model_logits(model, params, text[:-1, None])
  expected = reference_nats(logits, text[1:, None], np.ones((22, 1))) / 22
  for steps in (4, 30):
    batches = BpttBatches(text, 1, steps)
    score = training.evaluate(task, params, batches, make_batch_mesh(1))
    np.testing.assert_allclose(np.exp(score["loss"]), np.exp(expected), rtol=1e-5)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "dropped"])
def test_activation_regularization(key):
  """The loss adds α Σ drop(h)²/H and β Σ (hₜ − hₜ₋₁)²/H to the nats, which do not change."""
  model = make_model(output_dropout=0.5)
  plain, task = (
    tasks.language_modeling_task(model),
    tasks.language_modeling_task(model, activation_reg=2.0, temporal_reg=3.0),
  )
  params = random_params(task)
  _, total, hs, dropped = model.apply({"params": params}, TOKENS, WEIGHTS, None, key)
  hs, dropped = (np.asarray(a, np.float64) for a in (hs, dropped))
  if key is None:
    np.testing.assert_array_equal(dropped, hs)
  else:  # a feature is dropped at all steps or at none
    is_dropped = dropped == 0
    assert (is_dropped == is_dropped[:1]).all() and 0 < is_dropped.mean() < 1
    np.testing.assert_allclose(dropped, np.where(is_dropped, 0, 2 * hs), rtol=1e-6)
  _, got = task_loss(task, params, make_window(), key=key)
  expected = 2 * sum((h**2).sum() / H for h in dropped)
  expected += 3 * sum(((b - a) ** 2).sum() / H for a, b in itertools.pairwise(hs))
  np.testing.assert_allclose(got["loss"].total - got["nats"].total, expected, rtol=1e-4)
  np.testing.assert_allclose(got["nats"].total, total, rtol=1e-6)
  np.testing.assert_array_equal(
    got["nats"], task_loss(plain, params, make_window(), key=key)[1]["nats"]
  )
  score = task.score(params, task.initial_carry(params, make_window()), make_window())[1]["loss"]
  np.testing.assert_allclose(score, task_loss(plain, params, make_window())[1]["loss"], rtol=1e-6)


@pytest.mark.parametrize("width", [H, D])
def test_tied_embedding(width):
  """W is the embedding table; a linear map is before it if the encoder is wider."""
  model = make_model(width, tied=True)
  params = random_params(tasks.language_modeling_task(model))
  assert params["softmax"].keys() == {"b"} and ("bridge" in params) == (width != H)
  table = np.asarray(params["embedding"]["embedding"], np.float64)
  hs, logits = model_logits(model, params, TOKENS)
  hs = np.asarray(hs, np.float64)
  if width != H:
    hs = hs @ np.asarray(params["bridge"]["kernel"], np.float64)
  np.testing.assert_allclose(logits, hs @ table.T + np.asarray(params["softmax"]["b"]), atol=1e-5)
  # Changing the row of a word that is not in the inputs changes only the word's own logit.
  tokens = np.where(TOKENS == 3, 4, TOKENS)
  shift = np.zeros_like(table)
  shift[3] = np.arange(width)
  shifted = params | {"embedding": {"embedding": jnp.asarray(table + shift, jnp.float32)}}
  (hs, before), (_, after) = (model_logits(model, p, tokens) for p in (params, shifted))
  hs = np.asarray(hs) @ (np.asarray(params["bridge"]["kernel"]) if width != H else np.eye(H))
  np.testing.assert_allclose(after - before, hs @ shift.T, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_backward_language_model(tied):
  """It predicts each token from those after it; the loss is the mean of both directions."""
  model = make_model(backward_encoder=backward(lstm(H)), tied=tied)
  task = tasks.language_modeling_task(model)
  params = random_params(task)
  xs = params["embedding"]["embedding"][TOKENS]
  _, hs = unroll(lstm(H), params["back"]["backward"], xs[1:], reverse=True)
  W, b = params["softmax"].get("W"), params["softmax"]["b"]
  if tied:
    W, hs = params["embedding"]["embedding"], hs @ params["bridge"]["kernel"]
  logits = np.asarray(hs, np.float64) @ np.asarray(W).T + np.asarray(b)
  backward_nats = reference_nats(logits, TOKENS[:-1], WEIGHTS)
  forward_logits = model_logits(model, params, TOKENS[:-1])[1]
  forward_nats = reference_nats(forward_logits, TOKENS[1:], WEIGHTS)
  assert abs(backward_nats - forward_nats) > 0.1
  nats = task_loss(task, params, make_window())[1]["nats"].total
  np.testing.assert_allclose(nats, (backward_nats + forward_nats) / 2, rtol=1e-5)


@pytest.mark.parametrize("field", ["word_type_dropout", "input_dropout", "output_dropout"])
def test_dropout_only_with_key(field):
  """Dropout depends on the key alone, and there is none without a key."""
  plain, task = (
    tasks.language_modeling_task(make_model()),
    tasks.language_modeling_task(make_model(**{field: 0.5})),
  )
  params = random_params(task)
  total = lambda task, key: float(task_loss(task, params, make_window(), key=key)[1]["loss"].total)
  assert total(task, None) == total(plain, None) == total(plain, KEY)
  first, repeated, other = (total(task, jax.random.key(seed)) for seed in (1, 1, 2))
  assert first == repeated and len({first, other, total(task, None)}) == 3


def test_predict_next_handles_prompts_of_different_lengths():
  """Logits after padded prompts, and after one more token, equal those of the whole texts."""
  model = make_model()
  params, lengths = random_params(tasks.language_modeling_task(model)), np.array([3, 1, 5, 2])
  padded = np.where(np.arange(T)[:, None] < lengths, TOKENS[:T], 8)
  carry, logits = model.predict_next(params, padded, lengths)
  for b, n in enumerate(lengths):
    _, expected = model_logits(model, params, TOKENS[:n, b : b + 1])
    np.testing.assert_allclose(logits[b], expected[-1, 0], atol=1e-5)
  _, logits = model.predict_next(params, TOKENS[None, -1], None, carry)
  for b, n in enumerate(lengths):
    row = np.append(TOKENS[:n, b], TOKENS[-1, b])[:, None]
    np.testing.assert_allclose(logits[b], model_logits(model, params, row)[1][-1, 0], atol=1e-5)


def train_steps(devices):
  task, adam = (
    tasks.language_modeling_task(make_model(output_dropout=0.3), 2.0, 1.0),
    training.adam(0.01),
  )
  batches = BpttBatches(np.resize(TOKENS.T.ravel(), 80), 4, T, seed=0)
  first = training.init_state(task, adam, next(batches.stream()), KEY, keep_average=True)
  first_batches = itertools.islice(batches.stream(), 3)
  for state, metrics in training.train_loop(
    task, adam, first, first_batches, mesh=make_batch_mesh(devices)
  ):
    yield jax.device_get((metrics["loss"].value, state.params, state.averaged_params, state.carry))


def test_four_devices_equal_one():
  """Loss, parameters, their average and carry of each step agree to float32 precision."""
  for one, four in zip(train_steps(1), train_steps(4), strict=True):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


def test_learned_initial_carry_gets_gradient_on_reset():
  encoder = stack(forward(lstm(H), learned_initial_carry=True))
  model = LanguageModel(nn.Embed(V, D), encoder, full_softmax(V))
  task = tasks.language_modeling_task(model, state_reset_prob=1.0)
  params, batch = random_params(task), make_window()
  first = task.initial_carry(params, batch)
  learned = params["encoder"]["layer_0"]["forward_start"]["carry_0"]
  for column in first["layer_0"]["forward"][0]:
    np.testing.assert_allclose(column, learned, rtol=1e-6)
  loss = lambda params, carry: task.loss(params, carry, batch, KEY)[1]["loss"].total
  zero = jax.tree.map(jnp.zeros_like, first)
  np.testing.assert_allclose(loss(params, zero), loss(params, first), rtol=1e-6)
  gradient = jax.grad(loss)(params, zero)["encoder"]["layer_0"]["forward_start"]
  assert all(np.abs(leaf).min() > 1e-6 for leaf in jax.tree.leaves(gradient))


def test_state_reset_with_probability():
  """In training each column keeps or resets its carry; in evaluation no carry is reset."""
  never, sometimes = (
    tasks.language_modeling_task(make_model(), state_reset_prob=prob) for prob in (0.0, 0.5)
  )
  params, batch = random_params(never), make_window()
  carry = jax.tree.map(lambda c: c + 1.0, never.initial_carry(params, batch))
  carry_if_kept, carry_if_reset = (task_loss(never, params, batch, c)[0] for c in (carry, None))
  outcomes = set()
  for seed in range(6):
    new_carry, _ = task_loss(sometimes, params, batch, carry, jax.random.key(seed))
    for column in range(B):
      equal = [
        all(
          np.allclose(a[column], b[column]) for a, b in zip(*map(jax.tree.leaves, (new_carry, c)))
        )
        for c in (carry_if_kept, carry_if_reset)
      ]
      assert sum(equal) == 1
      outcomes.add(equal.index(True))
  assert outcomes == {0, 1}
  np.testing.assert_array_equal(
    sometimes.score(params, carry, batch)[1]["loss"], never.score(params, carry, batch)[1]["loss"]
  )
