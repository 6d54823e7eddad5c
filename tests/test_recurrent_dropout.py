"""Dropout of words and of weights, weight drop and zoneout: by their laws and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rnnjax import bidirectional, dropout, forward, gru, lstm, mingru, stack, vanilla
from rnnjax.recurrent_dropout import weight_drop, zoneout
from tests import numpy_reference
from tests.cell_cases import LENGTHS, B, D, H, random_inputs

KEY = jax.random.key(5)
DROPOUT_RATE = 0.25
CELLS = {
  "lstm": (lstm(H), (0.4, 0.2), numpy_reference.lstm),
  "gru": (gru(H), (0.3,), numpy_reference.gru_reset_after),
}


def test_word_type_dropout_drops_all_occurrences():
  """A word is 0 at all its places or scaled by 1/(1 − rate) at all, as a whole."""
  draw, V = np.random.default_rng(0), 400
  tokens = draw.permutation(np.resize(np.arange(V), 2400)).reshape(60, 40)
  xs = draw.uniform(1, 2, (60, 40, 3)).astype(np.float32)
  ratio = np.asarray(dropout.word_type_dropout(xs, tokens, V, DROPOUT_RATE, KEY)) / xs
  kept = np.zeros(V)
  for word in range(V):
    (kept[word],) = np.unique(ratio[tokens == word].round(5))
  np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - DROPOUT_RATE)], rtol=1e-4)
  assert abs(kept.mean() - 1) < 5 * np.sqrt(DROPOUT_RATE / (1 - DROPOUT_RATE) / V)
  np.testing.assert_array_equal(dropout.word_type_dropout(xs, tokens, V, DROPOUT_RATE, None), xs)
  np.testing.assert_array_equal(dropout.word_type_dropout(xs, tokens, V, 0.0, KEY), xs)


def test_weight_dropout_only_on_recurrent_matrices():
  """Elements of each U, by a draw of its own; all else stays, as all does without key or rate."""
  encoder = stack(forward(gru(30)), bidirectional(gru(30), gru(30)))
  params = jax.tree.map(lambda p: p + 2, encoder.init(KEY, D))
  same = lambda a, b: jax.tree.map(lambda a, b: bool((a == b).all()), a, b)
  assert all(jax.tree.leaves(same(dropout.dropconnect(params, DROPOUT_RATE, None), params)))
  assert all(jax.tree.leaves(same(dropout.dropconnect(params, 0.0, KEY), params)))
  dropped, masks = dropout.dropconnect(params, DROPOUT_RATE, KEY), []
  for path, after in jax.tree.leaves_with_path(dropped):
    before = params
    for entry in path:
      before = before[entry.key]
    if path[-1].key != "U":
      np.testing.assert_array_equal(after, before)
      continue
    ratio = np.asarray(after / before)
    np.testing.assert_allclose(np.unique(ratio.round(4)), [0, 1 / (1 - DROPOUT_RATE)], rtol=1e-4)
    assert abs(ratio.mean() - 1) < 5 * np.sqrt(DROPOUT_RATE / (1 - DROPOUT_RATE) / ratio.size)
    masks.append(ratio > 0)
  for i, one in enumerate(masks):
    assert all((one != other).mean() > DROPOUT_RATE for other in masks[:i])
  assert len(masks) == 3


def infer_recurrent_matrix(xs, ys, params):
  """The U of a vanilla cell that explains all of its steps: atanh(yₜ) = xₜ W + b + yₜ₋₁ U."""
  xs, ys = (np.asarray(a, np.float64) for a in (xs, ys))
  W, b = (np.asarray(params[name], np.float64) for name in "Wb")
  rest = np.arctanh(ys) - xs @ W - b
  np.testing.assert_allclose(rest[0], 0, atol=1e-9)
  before, rest = ys[:-1].reshape(-1, H), rest[1:].reshape(-1, H)
  U, *_ = np.linalg.lstsq(before, rest)
  np.testing.assert_allclose(before @ U, rest, atol=1e-9)
  return U


def is_weight_dropped(U, params):
  """Whether U is that of params with elements dropped, some but not all."""
  gone = abs(U) < 1e-7
  np.testing.assert_allclose(U, np.where(gone, 0, params["U"] / (1 - DROPOUT_RATE)), atol=1e-7)
  return 0 < gone.sum() < U.size


@pytest.mark.usefixtures("float64")
def test_weight_drop_is_the_same_at_every_step():
  """One U explains all steps of all rows, in either direction and in an upper layer."""
  xs, cell = np.random.default_rng(0).normal(size=(12, B, D)), vanilla(H)
  both = weight_drop(bidirectional(cell, cell), DROPOUT_RATE)
  params = jax.tree.map(lambda p: p / 2, both.init(KEY, D))
  _, ys = both.apply(params, xs, key=KEY)
  for name, part, turn in (("forward", ys[..., :H], 1), ("backward", ys[..., H:], -1)):
    assert is_weight_dropped(
      infer_recurrent_matrix(xs[::turn], part[::turn], params[name]), params[name]
    )

  upper = weight_drop(stack(forward(cell), forward(cell)), DROPOUT_RATE)
  low, high = (jax.tree.map(lambda p: p / 2, cell.init(KEY, n)) for n in (D, H))
  low["U"] = jnp.zeros((H, H))  # then what the lower layer says is known
  _, ys = upper.apply({"layer_0": {"forward": low}, "layer_1": {"forward": high}}, xs, key=KEY)
  assert is_weight_dropped(
    infer_recurrent_matrix(np.tanh(xs @ low["W"] + low["b"]), ys, high), high
  )


def test_weight_drop_only_with_key():
  """Without one it is the encoder; another key drops other weights."""
  encoder, xs = stack(forward(lstm(H)), forward(gru(H))), random_inputs(dtype=np.float32)
  weak, params = weight_drop(encoder, 0.5), encoder.init(KEY, D)
  apply = lambda encoder, key=None: np.asarray(encoder.apply(params, xs, LENGTHS, key=key)[1])
  np.testing.assert_array_equal(apply(weak), apply(encoder))
  one, again, two = (apply(weak, jax.random.key(seed)) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, again)
  assert abs(one - two).max() > 1e-4 and abs(one - apply(encoder)).max() > 1e-4
  assert str(weak) == f"weight_drop({encoder}, 0.5)"


def random_params(cell):
  draw = np.random.default_rng(1)
  return jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape), cell.init(KEY, D))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CELLS)
def test_zoneout_without_key_is_expectation(name):
  """carryₜ = rate · carryₜ₋₁ + (1 − rate) · stepₜ, each row to its own end."""
  cell, rates, tick = CELLS[name]
  params, xs = random_params(cell), random_inputs()

  def mixed(params, x, state):
    new, _ = tick(params, x, state)
    kept = [rate * old + (1 - rate) * c for rate, old, c in zip(rates, state, new, strict=True)]
    return kept, kept[0]

  ends, ys = numpy_reference.unroll(mixed, params, xs, [H] * len(rates), LENGTHS)
  encoder = zoneout(cell, *rates)
  carry, got = encoder.apply({"forward": params}, xs, LENGTHS)
  np.testing.assert_allclose(got, ys, atol=1e-12)
  for a, b in zip(carry["forward"], ends, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)
  np.testing.assert_allclose(encoder.final_hidden(carry), ends[0], atol=1e-12)
  assert str(encoder) == f"zoneout({', '.join(map(str, [cell, *rates]))})"


@pytest.mark.parametrize("name", CELLS)
def test_zoneout_with_key_keeps_old_or_new_value(name):
  """Each element of the carry is what it was or what the step makes, the former at its rate."""
  cell, rates, _ = CELLS[name]
  params = jax.tree.map(jnp.float32, random_params(cell))
  encoder, plain = zoneout(cell, *rates, backend="scan"), forward(cell, backend="scan")
  xs = np.random.default_rng(2).normal(size=(4, 500, D)).astype(np.float32)
  old = tuple(jnp.full((500, H), 0.5) for _ in rates)
  kept = [[] for _ in rates]
  for t, x in enumerate(xs):
    args, start = ({"forward": params}, x[None]), {"forward": old}
    carry, ys = encoder.apply(*args, carry=start, key=jax.random.key(t))
    new, got = plain.apply(*args, carry=start)[0]["forward"], carry["forward"]
    np.testing.assert_array_equal(ys[0], got[0])
    for i, (a, b, c) in enumerate(zip(old, new, got, strict=True)):
      stayed = np.asarray(a == c)
      np.testing.assert_allclose(c, np.where(stayed, a, b), atol=1e-6)
      kept[i].append(stayed)
    old = got
  for rate, stayed in zip(rates, map(np.array, kept), strict=True):
    assert abs(stayed.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / stayed.size)
  if len(kept) == 2:  # h and c are drawn apart
    together = np.mean(np.array(kept[0]) & np.array(kept[1]))
    assert abs(together - np.prod(rates)) < 0.02


@pytest.mark.usefixtures("float64")
def test_zoneout_mask_differs_at_each_step():
  """Within one application, too, each h is the old or the new; past its end a row stands still."""
  cell, params, xs = gru(H), random_params(gru(H)), random_inputs()
  encoder = zoneout(cell, 0.5)
  carry, ys = encoder.apply({"forward": params}, xs, LENGTHS, key=KEY)
  masks = []
  for b, length in enumerate(LENGTHS):
    h = np.zeros(H)
    for t in range(length):
      (new,), _ = numpy_reference.gru_reset_after(params, xs[t, b], [h])
      masks.append(abs(ys[t, b] - h) < 1e-12)
      np.testing.assert_allclose(ys[t, b], np.where(masks[-1], h, new), atol=1e-12)
      h = np.asarray(ys[t, b])
    np.testing.assert_allclose(carry["forward"][0][b], h, rtol=0, atol=1e-12)
    assert not np.asarray(ys[length:, b]).any()
  assert len({tuple(mask.tolist()) for mask in masks}) > 2


def test_zoneout_rate_in_bfloat16():
  """A draw in bfloat16 would have but 128 values."""
  xs = jnp.asarray(np.resize([0.2, 0.5, -0.3], (8000, 1, 1)).repeat(D, -1), jnp.bfloat16)
  params = {"W": jnp.ones((D, 8)), "U": jnp.zeros((8, 8)), "b": jnp.zeros(8)}  # h is that of x
  _, ys = zoneout(vanilla(8), 0.005).apply({"forward": params}, xs, key=KEY)
  kept = np.mean(np.asarray(ys[1:] == ys[:-1]))
  assert abs(kept - 0.005) < 5 * np.sqrt(0.005 / ys.size)


def test_zoneout_of_unread_carry_raises():
  with pytest.raises(ValueError, match=r"the h of mingru\(6\) is read by no step"):
    zoneout(mingru(6), 0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_invalid_dropout_rate_raises(rate):
  with pytest.raises(ValueError, match=r"must lie in \[0, 1\); got"):
    dropout.dropout(jnp.ones(3), rate, KEY)


@pytest.mark.parametrize("name", CELLS)
def test_zoneout_with_zero_rate_equals_cell(name):
  """With a key or without; and a rate for h alone leaves the rest to the cell."""
  cell, xs = CELLS[name][0], random_inputs(dtype=np.float32)
  params = {"forward": jax.tree.map(jnp.float32, random_params(cell))}
  expected = forward(cell).apply(params, xs, LENGTHS)
  for key in (None, KEY):
    got = zoneout(cell, 0.0).apply(params, xs, LENGTHS, key=key)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)


def test_weight_drop_and_zoneout_compose():
  """A stack of zoneout under weight drop: plain without a key, and its gradient reaches all."""
  inner = stack(zoneout(lstm(H), 0.1, 0.1), forward(gru(H)))
  encoder, xs = weight_drop(inner, 0.5), random_inputs(dtype=np.float32)
  params = encoder.init(KEY, D)
  np.testing.assert_array_equal(
    encoder.apply(params, xs, LENGTHS)[1], inner.apply(params, xs, LENGTHS)[1]
  )
  loss = lambda params: jnp.sum(encoder.apply(params, xs, LENGTHS, key=KEY)[1] ** 2)
  for path, leaf in jax.tree.leaves_with_path(jax.grad(loss)(params)):
    assert np.isfinite(leaf).all() and abs(leaf).max() > 0, path


def test_weight_drop_without_recurrent_matrix_raises():
  """Of an encoder without U, and by a rate that is none, before any key comes."""
  with pytest.raises(ValueError, match=r"recurrent matrices U, and forward.* has none"):
    weight_drop(forward(mingru(H)), 0.5).init(jax.random.key(0), D)
  with pytest.raises(ValueError, match=r"must lie in \[0, 1\); got 1.5"):
    weight_drop(forward(gru(H)), 1.5)


def test_zoneout_with_explicit_sharding():
  """On a mesh of explicit axes it is what it is on one device."""
  encoder, xs = zoneout(lstm(H), 0.3, 0.2), jnp.asarray(random_inputs(batch=(4,), dtype=np.float32))
  params, key = encoder.init(jax.random.key(0), D), jax.random.key(1)
  expected = [encoder.apply(params, xs, key=k)[1] for k in (None, key)]
  with jax.set_mesh(jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Explicit,))):
    placed = jax.device_put(xs, PartitionSpec(None, "batch"))
    found = [jax.jit(encoder.apply)(params, placed, key=k)[1] for k in (None, key)]
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
