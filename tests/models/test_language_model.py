"""Language models as tasks: the loss from its definition, over windows, tied, in two directions."""

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
  """Parameters away from 0."""
  draw = np.random.default_rng(1)
  sized = lambda p: jnp.asarray(draw.normal(0, 0.5, p.shape), jnp.float32)
  return jax.tree.map(sized, task.init(KEY, make_window()))


def task_loss(task, params, batch, carry=None, key=None):
  carry = task.initial_carry(params, batch) if carry is None else carry
  return jax.jit(task.loss)(params, carry, batch, key)


def reference_nats(logits, targets, weights):
  """Σ weight · −log softmax(logits)[target], step by step."""
  logits, total = np.asarray(logits, np.float64), 0.0
  for place, weight in np.ndenumerate(weights):
    z = logits[place]
    total += weight * (np.log(np.exp(z).sum()) - z[targets[place]])
  return total


def model_logits(model, params, tokens):
  """hs and logits, as the model tells them."""
  return model.apply({"params": params}, tokens, method="logits")[1:]


def test_loss_is_next_token_nll():
  """Over the weighted steps alone, in training without dropout and in evaluation."""
  model = make_model()
  task = tasks.language_modeling_task(model)
  params = random_params(task)
  expected = reference_nats(model_logits(model, params, TOKENS[:-1])[1], TOKENS[1:], WEIGHTS)
  carry, got = task_loss(task, params, make_window())
  assert got.keys() == {"loss", "nats"}
  start = task.initial_carry(params, make_window())
  for mean in (*got.values(), task.score(params, start, make_window())[1]["loss"]):
    np.testing.assert_allclose(mean, (expected, WEIGHTS.sum()), rtol=1e-5)
  assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, carry)
  assert not any(leaf.any() for leaf in jax.tree.leaves(start))


def test_zero_weight_columns_are_ignored():
  """A column without weights may hold anything."""
  task = tasks.language_modeling_task(make_model())
  params, weights = random_params(task), WEIGHTS * (np.arange(B) != 2)
  odd = np.where(np.arange(B) == 2, (TOKENS + 1) % V, TOKENS)
  value = lambda params, tokens: (
    task_loss(task, params, {"tokens": tokens, "weights": weights})[1]["loss"].total
  )
  one, two = (jax.value_and_grad(value)(params, tokens) for tokens in (TOKENS, odd))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_two_windows_with_carry_equal_one():
  """What is carried makes the cut invisible."""
  task = tasks.language_modeling_task(make_model())
  params = random_params(task)
  end, whole = task_loss(task, params, make_window())
  carry, first = task_loss(task, params, make_window(0, T))
  carry, second = task_loss(task, params, make_window(T), carry)
  np.testing.assert_allclose(first["loss"] + second["loss"], whole["loss"], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(end), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradient_is_truncated_at_window_start():
  """A step of training takes the carry as it came, as a constant."""
  task, sgd = tasks.language_modeling_task(make_model()), optax.sgd(1.0)
  state = training.init_state(task, sgd, make_window(0, T), KEY)
  steps = training.train_loop(
    task, sgd, state, [make_window(0, T), make_window(T)], mesh=make_batch_mesh(1)
  )
  seen = [jax.device_get((state.params, state.carry)) for state, _ in steps]
  carried, _ = task_loss(task, state.params, make_window(0, T))
  for a, b in zip(jax.tree.leaves(seen[0][1]), jax.tree.leaves(carried), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  (params, carry), (after, _) = seen

  def through(params, constant):
    start = carry if constant else task_loss(task, params, make_window(0, T))[0]
    mean = task_loss(task, params, make_window(T), start)[1]["loss"]
    return mean.total / mean.weight

  truncated, flowing = (jax.grad(through)(params, constant) for constant in (True, False))
  moved = jax.tree.map(lambda a, b: a - b, params, after)
  for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(truncated), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  U = lambda tree: tree["encoder"]["layer_0"]["forward"]["U"]
  assert abs(U(flowing) - U(truncated)).max() > 1e-5


def test_score_is_mean_loss_of_text():
  """Each token but the first once, whatever the windows: exp(loss) is the perplexity."""
  model = make_model()
  task, text = tasks.language_modeling_task(model), np.resize(TOKENS.T.ravel(), 23)
  params = random_params(task)
  _, logits = model_logits(model, params, text[:-1, None])
  each = reference_nats(logits, text[1:, None], np.ones((22, 1))) / 22
  for steps in (4, 30):
    columns = BpttBatches(text, 1, steps)
    score = training.evaluate(task, params, columns, make_batch_mesh(1))
    np.testing.assert_allclose(np.exp(score["loss"]), np.exp(each), rtol=1e-5)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "dropped"])
def test_activation_regularization(key):
  """α Σ drop(h)²/H and β Σ (hₜ − hₜ₋₁)²/H come on top; nats stay what they were."""
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
  else:  # each feature vanishes at all steps or at none
    gone = dropped == 0
    assert (gone == gone[:1]).all() and 0 < gone.mean() < 1
    np.testing.assert_allclose(dropped, np.where(gone, 0, 2 * hs), rtol=1e-6)
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
  """The table of the embedding is W, behind a bridge where the encoder is wider than it."""
  model = make_model(width, tied=True)
  params = random_params(tasks.language_modeling_task(model))
  assert params["softmax"].keys() == {"b"} and ("bridge" in params) == (width != H)
  table = np.asarray(params["embedding"]["embedding"], np.float64)
  hs, logits = model_logits(model, params, TOKENS)
  read = np.asarray(hs, np.float64)
  if width != H:
    read = read @ np.asarray(params["bridge"]["kernel"], np.float64)
  np.testing.assert_allclose(logits, read @ table.T + np.asarray(params["softmax"]["b"]), atol=1e-5)
  # A word that is not read anywhere moves its own logit alone, by what its row moves.
  rest = np.where(TOKENS == 3, 4, TOKENS)
  shift = np.zeros_like(table)
  shift[3] = np.arange(width)
  moved = params | {"embedding": {"embedding": jnp.asarray(table + shift, jnp.float32)}}
  (hs, one), (_, two) = (model_logits(model, p, rest) for p in (params, moved))
  read = np.asarray(hs) @ (np.asarray(params["bridge"]["kernel"]) if width != H else np.eye(H))
  np.testing.assert_allclose(two - one, read @ shift.T, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_backward_language_model(tied):
  """The other direction predicts each token from those after it; the loss is the mean of both."""
  model = make_model(back=backward(lstm(H)), tied=tied)
  task = tasks.language_modeling_task(model)
  params = random_params(task)
  xs = params["embedding"]["embedding"][TOKENS]
  _, hs = unroll(lstm(H), params["back"]["backward"], xs[1:], reverse=True)
  W, b = params["softmax"].get("W"), params["softmax"]["b"]
  if tied:
    W, hs = params["embedding"]["embedding"], hs @ params["bridge"]["kernel"]
  logits = np.asarray(hs, np.float64) @ np.asarray(W).T + np.asarray(b)
  before = reference_nats(logits, TOKENS[:-1], WEIGHTS)
  after = reference_nats(model_logits(model, params, TOKENS[:-1])[1], TOKENS[1:], WEIGHTS)
  assert abs(before - after) > 0.1
  np.testing.assert_allclose(
    task_loss(task, params, make_window())[1]["nats"].total, (before + after) / 2, rtol=1e-5
  )


@pytest.mark.parametrize("kind", ["type_dropout", "input_dropout", "output_dropout"])
def test_dropout_only_with_key(kind):
  """Each kind acts where a key is given, the same for the same key, and not without."""
  plain, task = (
    tasks.language_modeling_task(make_model()),
    tasks.language_modeling_task(make_model(**{kind: 0.5})),
  )
  params = random_params(task)
  total = lambda task, key: float(task_loss(task, params, make_window(), key=key)[1]["loss"].total)
  assert total(task, None) == total(plain, None) == total(plain, KEY)
  one, again, two = (total(task, jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and len({one, two, total(task, None)}) == 3


def test_read_handles_prompts_of_different_lengths():
  """Prompts of several lengths side by side, then single tokens, as the whole text would say."""
  model = make_model()
  params, lengths = random_params(tasks.language_modeling_task(model)), np.array([3, 1, 5, 2])
  hidden = np.where(np.arange(T)[:, None] < lengths, TOKENS[:T], 8)
  carry, logits = model.predict_next(params, hidden, lengths)
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
  columns = BpttBatches(np.resize(TOKENS.T.ravel(), 80), 4, T, seed=0)
  first = training.init_state(task, adam, next(columns.stream()), KEY, keep_average=True)
  batches = itertools.islice(columns.stream(), 3)
  for state, metrics in training.train_loop(
    task, adam, first, batches, mesh=make_batch_mesh(devices)
  ):
    yield jax.device_get((metrics["loss"].value, state.params, state.averaged_params, state.carry))


def test_four_devices_equal_one():
  """Each step's loss, parameters, average and carry agree, to float32's precision."""
  for one, four in zip(train_steps(1), train_steps(4), strict=True):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


def test_learned_initial_carry_gets_gradient_on_reset():
  encoder = stack(forward(lstm(H), learned_initial_carry=True))
  model = LanguageModel(nn.Embed(V, D), encoder, full_softmax(V))
  always = tasks.language_modeling_task(model, state_reset_prob=1.0)
  params, batch = random_params(always), make_window()
  first = always.initial_carry(params, batch)
  learned = params["encoder"]["layer_0"]["forward_start"]["carry_0"]
  for column in first["layer_0"]["forward"][0]:
    np.testing.assert_allclose(column, learned, rtol=1e-6)
  of = lambda params, carry: always.loss(params, carry, batch, KEY)[1]["loss"].total
  zero = jax.tree.map(jnp.zeros_like, first)
  np.testing.assert_allclose(of(params, zero), of(params, first), rtol=1e-6)
  slope = jax.grad(of)(params, zero)["encoder"]["layer_0"]["forward_start"]
  assert all(np.abs(leaf).min() > 1e-6 for leaf in jax.tree.leaves(slope))


def test_state_reset_with_probability():
  """Each goes on from the carry or from nothing, in training; in evaluation all go on."""
  whole, chance = (
    tasks.language_modeling_task(make_model(), state_reset_prob=rate) for rate in (0.0, 0.5)
  )
  params, batch = random_params(whole), make_window()
  carry = jax.tree.map(lambda c: c + 1.0, whole.initial_carry(params, batch))
  went_on, anew = (task_loss(whole, params, batch, c)[0] for c in (carry, None))
  seen = set()
  for n in range(6):
    after, _ = task_loss(chance, params, batch, carry, jax.random.key(n))
    for column in range(B):
      same = [
        all(np.allclose(a[column], b[column]) for a, b in zip(*map(jax.tree.leaves, (after, c))))
        for c in (went_on, anew)
      ]
      assert sum(same) == 1
      seen.add(same.index(True))
  assert seen == {0, 1}
  np.testing.assert_array_equal(
    chance.score(params, carry, batch)[1]["loss"], whole.score(params, carry, batch)[1]["loss"]
  )
