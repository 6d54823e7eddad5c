"""Language models as tasks: the loss from its definition, over windows, tied, in two directions."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import backward, forward, lstm, stack, training, unroll
from rnnjax.data.bptt_batches import Columns
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full
from rnnjax.training import tasks
from tests.test_training import mesh

V, D, H, T, B = 9, 4, 6, 5, 4
KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
TOKENS = DRAW.integers(0, V, (2 * T + 1, B)).astype(np.int32)
WEIGHTS = (DRAW.random((2 * T, B)) < 0.7).astype(np.float32)
ENCODER = stack(forward(lstm(H)))


def made(width=D, **options):
  return LanguageModel(nn.Embed(V, width), ENCODER, full(V), **options)


def window(begin=0, end=2 * T):
  return {"tokens": TOKENS[begin : end + 1], "weights": WEIGHTS[begin:end]}


def drawn(task):
  """Parameters away from 0."""
  draw = np.random.default_rng(1)
  sized = lambda p: jnp.asarray(draw.normal(0, 0.5, p.shape), jnp.float32)
  return jax.tree.map(sized, task.init(KEY, window()))


def loss(task, params, batch, carry=None, key=None):
  carry = task.start(params, batch) if carry is None else carry
  return jax.jit(task.loss)(params, carry, batch, key)


def nats(logits, targets, weights):
  """Σ weight · −log softmax(logits)[target], step by step."""
  logits, total = np.asarray(logits, np.float64), 0.0
  for place, weight in np.ndenumerate(weights):
    z = logits[place]
    total += weight * (np.log(np.exp(z).sum()) - z[targets[place]])
  return total


def predicted(model, params, tokens):
  """hs and logits, as the model tells them."""
  return model.apply({"params": params}, tokens, method="logits")[1:]


def test_loss_is_minus_log_p_of_what_follows():
  """Over the weighted steps alone, in training without dropout and in evaluation."""
  model = made()
  task = tasks.language(model)
  params = drawn(task)
  expected = nats(predicted(model, params, TOKENS[:-1])[1], TOKENS[1:], WEIGHTS)
  carry, got = loss(task, params, window())
  assert got.keys() == {"loss", "nats"}
  start = task.start(params, window())
  for mean in (*got.values(), task.score(params, start, window())[1]["loss"]):
    np.testing.assert_allclose(mean, (expected, WEIGHTS.sum()), rtol=1e-5)
  assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, carry)
  assert not any(leaf.any() for leaf in jax.tree.leaves(start))


def test_what_weighs_nothing_counts_nothing():
  """A column without weights may hold anything."""
  task = tasks.language(made())
  params, weights = drawn(task), WEIGHTS * (np.arange(B) != 2)
  odd = np.where(np.arange(B) == 2, (TOKENS + 1) % V, TOKENS)
  value = lambda params, tokens: (
    loss(task, params, {"tokens": tokens, "weights": weights})[1]["loss"].total
  )
  one, two = (jax.value_and_grad(value)(params, tokens) for tokens in (TOKENS, odd))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_two_windows_equal_one():
  """What is carried makes the cut invisible."""
  task = tasks.language(made())
  params = drawn(task)
  end, whole = loss(task, params, window())
  carry, first = loss(task, params, window(0, T))
  carry, second = loss(task, params, window(T), carry)
  np.testing.assert_allclose(first["loss"] + second["loss"], whole["loss"], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(end), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_gradient_ends_where_the_window_begins():
  """A step of training takes the carry as it came, as a constant."""
  task, sgd = tasks.language(made()), optax.sgd(1.0)
  state = training.start(task, sgd, window(0, T), KEY)
  steps = training.train(task, sgd, state, [window(0, T), window(T)], mesh=mesh(1))
  seen = [jax.device_get((state.params, state.carry)) for state, _ in steps]
  carried, _ = loss(task, state.params, window(0, T))
  for a, b in zip(jax.tree.leaves(seen[0][1]), jax.tree.leaves(carried), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  (params, carry), (after, _) = seen

  def through(params, constant):
    start = carry if constant else loss(task, params, window(0, T))[0]
    mean = loss(task, params, window(T), start)[1]["loss"]
    return mean.total / mean.weight

  truncated, flowing = (jax.grad(through)(params, constant) for constant in (True, False))
  moved = jax.tree.map(lambda a, b: a - b, params, after)
  for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(truncated), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  U = lambda tree: tree["encoder"]["layer_0"]["forward"]["U"]
  assert abs(U(flowing) - U(truncated)).max() > 1e-5


def test_score_of_a_text_is_its_mean():
  """Each token but the first once, whatever the windows: exp(loss) is the perplexity."""
  model = made()
  task, text = tasks.language(model), np.resize(TOKENS.T.ravel(), 23)
  params = drawn(task)
  _, logits = predicted(model, params, text[:-1, None])
  each = nats(logits, text[1:, None], np.ones((22, 1))) / 22
  for steps in (4, 30):
    columns = Columns(text, 1, steps)
    score = training.evaluate(task, params, columns, mesh(1))
    np.testing.assert_allclose(np.exp(score["loss"]), np.exp(each), rtol=1e-5)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "dropped"])
def test_penalties(key):
  """α Σ drop(h)²/H and β Σ (hₜ − hₜ₋₁)²/H come on top; nats stay what they were."""
  model = made(output_dropout=0.5)
  plain, task = tasks.language(model), tasks.language(model, activation=2.0, temporal=3.0)
  params = drawn(task)
  _, total, hs, dropped = model.apply({"params": params}, TOKENS, WEIGHTS, None, key)
  hs, dropped = (np.asarray(a, np.float64) for a in (hs, dropped))
  if key is None:
    np.testing.assert_array_equal(dropped, hs)
  else:  # each feature vanishes at all steps or at none
    gone = dropped == 0
    assert (gone == gone[:1]).all() and 0 < gone.mean() < 1
    np.testing.assert_allclose(dropped, np.where(gone, 0, 2 * hs), rtol=1e-6)
  _, got = loss(task, params, window(), key=key)
  expected = 2 * sum((h**2).sum() / H for h in dropped)
  expected += 3 * sum(((b - a) ** 2).sum() / H for a, b in itertools.pairwise(hs))
  np.testing.assert_allclose(got["loss"].total - got["nats"].total, expected, rtol=1e-4)
  np.testing.assert_allclose(got["nats"].total, total, rtol=1e-6)
  np.testing.assert_array_equal(got["nats"], loss(plain, params, window(), key=key)[1]["nats"])
  score = task.score(params, task.start(params, window()), window())[1]["loss"]
  np.testing.assert_allclose(score, loss(plain, params, window())[1]["loss"], rtol=1e-6)


@pytest.mark.parametrize("width", [H, D])
def test_tied(width):
  """The table of the embedding is W, behind a bridge where the encoder is wider than it."""
  model = made(width, tied=True)
  params = drawn(tasks.language(model))
  assert params["softmax"].keys() == {"b"} and ("bridge" in params) == (width != H)
  table = np.asarray(params["embedding"]["embedding"], np.float64)
  hs, logits = predicted(model, params, TOKENS)
  read = np.asarray(hs, np.float64)
  if width != H:
    read = read @ np.asarray(params["bridge"]["kernel"], np.float64)
  np.testing.assert_allclose(logits, read @ table.T + np.asarray(params["softmax"]["b"]), atol=1e-5)
  # A word that is not read anywhere moves its own logit alone, by what its row moves.
  rest = np.where(TOKENS == 3, 4, TOKENS)
  shift = np.zeros_like(table)
  shift[3] = np.arange(width)
  moved = params | {"embedding": {"embedding": jnp.asarray(table + shift, jnp.float32)}}
  (hs, one), (_, two) = (predicted(model, p, rest) for p in (params, moved))
  read = np.asarray(hs) @ (np.asarray(params["bridge"]["kernel"]) if width != H else np.eye(H))
  np.testing.assert_allclose(two - one, read @ shift.T, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_back(tied):
  """The other direction predicts each token from those after it; the loss is the mean of both."""
  model = made(back=backward(lstm(H)), tied=tied)
  task = tasks.language(model)
  params = drawn(task)
  xs = params["embedding"]["embedding"][TOKENS]
  _, hs = unroll(lstm(H), params["back"]["backward"], xs[1:], reverse=True)
  W, b = params["softmax"].get("W"), params["softmax"]["b"]
  if tied:
    W, hs = params["embedding"]["embedding"], hs @ params["bridge"]["kernel"]
  logits = np.asarray(hs, np.float64) @ np.asarray(W).T + np.asarray(b)
  before = nats(logits, TOKENS[:-1], WEIGHTS)
  after = nats(predicted(model, params, TOKENS[:-1])[1], TOKENS[1:], WEIGHTS)
  assert abs(before - after) > 0.1
  np.testing.assert_allclose(
    loss(task, params, window())[1]["nats"].total, (before + after) / 2, rtol=1e-5
  )


@pytest.mark.parametrize("kind", ["type_dropout", "input_dropout", "output_dropout"])
def test_dropout_needs_a_key(kind):
  """Each kind acts where a key is given, the same for the same key, and not without."""
  plain, task = tasks.language(made()), tasks.language(made(**{kind: 0.5}))
  params = drawn(task)
  total = lambda task, key: float(loss(task, params, window(), key=key)[1]["loss"].total)
  assert total(task, None) == total(plain, None) == total(plain, KEY)
  one, again, two = (total(task, jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and len({one, two, total(task, None)}) == 3


def test_following_is_what_follows_each_row():
  """Prompts of several lengths side by side, then single tokens, as the whole text would say."""
  model = made()
  params, lengths = drawn(tasks.language(model)), np.array([3, 1, 5, 2])
  hidden = np.where(np.arange(T)[:, None] < lengths, TOKENS[:T], 8)
  carry, logits = model.read(params, hidden, lengths)
  for b, n in enumerate(lengths):
    _, expected = predicted(model, params, TOKENS[:n, b : b + 1])
    np.testing.assert_allclose(logits[b], expected[-1, 0], atol=1e-5)
  _, logits = model.read(params, TOKENS[None, -1], None, carry)
  for b, n in enumerate(lengths):
    row = np.append(TOKENS[:n, b], TOKENS[-1, b])[:, None]
    np.testing.assert_allclose(logits[b], predicted(model, params, row)[1][-1, 0], atol=1e-5)


def steps(devices):
  task, adam = tasks.language(made(output_dropout=0.3), 2.0, 1.0), training.adam(0.01)
  columns = Columns(np.resize(TOKENS.T.ravel(), 80), 4, T, seed=0)
  first = training.start(task, adam, next(columns.stream()), KEY, average=True)
  batches = itertools.islice(columns.stream(), 3)
  for state, metrics in training.train(task, adam, first, batches, mesh=mesh(devices)):
    yield jax.device_get((metrics["loss"].value, state.params, state.average, state.carry))


def test_four_devices_equal_one():
  """Each step's loss, parameters, average and carry agree, to float32's precision."""
  for one, four in zip(steps(1), steps(4), strict=True):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


def test_a_learned_start_is_learnt_where_columns_start_anew():
  encoder = stack(forward(lstm(H), learned_start=True))
  model = LanguageModel(nn.Embed(V, D), encoder, full(V))
  always = tasks.language(model, restart=1.0)
  params, batch = drawn(always), window()
  first = always.start(params, batch)
  learned = params["encoder"]["layer_0"]["forward_start"]["carry_0"]
  for column in first["layer_0"]["forward"][0]:
    np.testing.assert_allclose(column, learned, rtol=1e-6)
  of = lambda params, carry: always.loss(params, carry, batch, KEY)[1]["loss"].total
  zero = jax.tree.map(jnp.zeros_like, first)
  np.testing.assert_allclose(of(params, zero), of(params, first), rtol=1e-6)
  slope = jax.grad(of)(params, zero)["encoder"]["layer_0"]["forward_start"]
  assert all(np.abs(leaf).min() > 1e-6 for leaf in jax.tree.leaves(slope))


def test_columns_start_anew_by_chance():
  """Each goes on from the carry or from nothing, in training; in evaluation all go on."""
  whole, chance = (tasks.language(made(), restart=rate) for rate in (0.0, 0.5))
  params, batch = drawn(whole), window()
  carry = jax.tree.map(lambda c: c + 1.0, whole.start(params, batch))
  went_on, anew = (loss(whole, params, batch, c)[0] for c in (carry, None))
  seen = set()
  for n in range(6):
    after, _ = loss(chance, params, batch, carry, jax.random.key(n))
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
