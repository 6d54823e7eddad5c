"""Word type dropout, DropConnect, weight drop and zoneout: laws and NumPy references."""

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
  """All vectors of a word are 0, or all are scaled by 1/(1 − rate)."""
  rng, V = np.random.default_rng(0), 400
  tokens = rng.permutation(np.resize(np.arange(V), 2400)).reshape(60, 40)
  xs = rng.uniform(1, 2, (60, 40, 3)).astype(np.float32)
  ratio = np.asarray(dropout.word_type_dropout(xs, tokens, V, DROPOUT_RATE, KEY)) / xs
  scales = np.zeros(V)
  for word in range(V):
    (scales[word],) = np.unique(ratio[tokens == word].round(5))
  np.testing.assert_allclose(np.unique(scales), [0, 1 / (1 - DROPOUT_RATE)], rtol=1e-4)
  assert abs(scales.mean() - 1) < 5 * np.sqrt(DROPOUT_RATE / (1 - DROPOUT_RATE) / V)
  np.testing.assert_array_equal(dropout.word_type_dropout(xs, tokens, V, DROPOUT_RATE, None), xs)
  np.testing.assert_array_equal(dropout.word_type_dropout(xs, tokens, V, 0.0, KEY), xs)


def test_dropconnect_only_on_recurrent_matrices():
  """Each U has its own mask; other parameters, and all without key or rate, are unchanged."""
  encoder = stack(forward(gru(30)), bidirectional(gru(30), gru(30)))
  params = jax.tree.map(lambda p: p + 2, encoder.init(KEY, D))
  for rate, key in ((DROPOUT_RATE, None), (0.0, KEY)):
    unchanged = dropout.dropconnect(params, rate, key)
    jax.tree.map(np.testing.assert_array_equal, unchanged, params)
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
  for i, mask in enumerate(masks):
    assert all((mask != other).mean() > DROPOUT_RATE for other in masks[:i])
  assert len(masks) == 3


def infer_recurrent_matrix(xs, ys, params):
  """Return the U of a vanilla cell that solves atanh(yₜ) = xₜ W + b + yₜ₋₁ U for all steps."""
  xs, ys = (np.asarray(a, np.float64) for a in (xs, ys))
  W, b = (np.asarray(params[name], np.float64) for name in "Wb")
  recurrent_term = np.arctanh(ys) - xs @ W - b
  np.testing.assert_allclose(recurrent_term[0], 0, atol=1e-9)
  previous, recurrent_term = ys[:-1].reshape(-1, H), recurrent_term[1:].reshape(-1, H)
  U, *_ = np.linalg.lstsq(previous, recurrent_term)
  np.testing.assert_allclose(previous @ U, recurrent_term, atol=1e-9)
  return U


def is_weight_dropped(U, params):
  """Return whether U is params["U"] with some but not all elements dropped."""
  dropped = abs(U) < 1e-7
  np.testing.assert_allclose(U, np.where(dropped, 0, params["U"] / (1 - DROPOUT_RATE)), atol=1e-7)
  return 0 < dropped.sum() < U.size


@pytest.mark.usefixtures("float64")
def test_weight_drop_is_the_same_at_every_step():
  """One U solves all steps of all rows, in both directions and in a higher layer."""
  xs, cell = np.random.default_rng(0).normal(size=(12, B, D)), vanilla(H)
  encoder = weight_drop(bidirectional(cell, cell), DROPOUT_RATE)
  params = jax.tree.map(lambda p: p / 2, encoder.init(KEY, D))
  _, ys = encoder.apply(params, xs, key=KEY)
  for name, outputs, order in (("forward", ys[..., :H], 1), ("backward", ys[..., H:], -1)):
    U = infer_recurrent_matrix(xs[::order], outputs[::order], params[name])
    assert is_weight_dropped(U, params[name])

  encoder = weight_drop(stack(forward(cell), forward(cell)), DROPOUT_RATE)
  first, second = (jax.tree.map(lambda p: p / 2, cell.init(KEY, n)) for n in (D, H))
  # With U = 0 the outputs of the first layer do not depend on its mask.
  first["U"] = jnp.zeros((H, H))
  params = {"layer_0": {"forward": first}, "layer_1": {"forward": second}}
  _, ys = encoder.apply(params, xs, key=KEY)
  U = infer_recurrent_matrix(np.tanh(xs @ first["W"] + first["b"]), ys, second)
  assert is_weight_dropped(U, second)


def test_weight_drop_only_with_key():
  """Without a key the encoder is unchanged; another key drops other weights."""
  encoder, xs = stack(forward(lstm(H)), forward(gru(H))), random_inputs(dtype=np.float32)
  dropped, params = weight_drop(encoder, 0.5), encoder.init(KEY, D)

  def apply(encoder, key=None):
    return np.asarray(encoder.apply(params, xs, LENGTHS, key=key)[1])

  np.testing.assert_array_equal(apply(dropped), apply(encoder))
  ys, same_key, other_key = (apply(dropped, jax.random.key(seed)) for seed in (1, 1, 2))
  np.testing.assert_array_equal(ys, same_key)
  assert abs(ys - other_key).max() > 1e-4 and abs(ys - apply(encoder)).max() > 1e-4
  assert str(dropped) == f"weight_drop({encoder}, 0.5)"


def random_params(cell):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda p: rng.normal(0, 0.5, p.shape), cell.init(KEY, D))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CELLS)
def test_zoneout_without_key_is_expectation(name):
  """carryₜ = rate · carryₜ₋₁ + (1 − rate) · stepₜ, over the valid steps of each row."""
  cell, rates, reference = CELLS[name]
  params, xs = random_params(cell), random_inputs()

  def expected_step(params, x, state):
    new_state, _ = reference(params, x, state)
    mixed = [
      rate * old + (1 - rate) * new for rate, old, new in zip(rates, state, new_state, strict=True)
    ]
    return mixed, mixed[0]

  expected_carry, expected = numpy_reference.unroll(
    expected_step, params, xs, [H] * len(rates), LENGTHS
  )
  encoder = zoneout(cell, *rates)
  carry, ys = encoder.apply({"forward": params}, xs, LENGTHS)
  np.testing.assert_allclose(ys, expected, atol=1e-12)
  for a, b in zip(carry["forward"], expected_carry, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)
  np.testing.assert_allclose(encoder.final_hidden(carry), expected_carry[0], atol=1e-12)
  assert str(encoder) == f"zoneout({', '.join(map(str, [cell, *rates]))})"


@pytest.mark.parametrize("name", CELLS)
def test_zoneout_with_key_keeps_old_or_new_value(name):
  """Each element of the carry is unchanged with probability rate, else the step's result."""
  cell, rates, _ = CELLS[name]
  params = jax.tree.map(jnp.float32, random_params(cell))
  encoder, plain = zoneout(cell, *rates, backend="scan"), forward(cell, backend="scan")
  xs = np.random.default_rng(2).normal(size=(4, 500, D)).astype(np.float32)
  carry = {"forward": tuple(jnp.full((500, H), 0.5) for _ in rates)}
  masks = [[] for _ in rates]
  for t, x in enumerate(xs):
    args = {"forward": params}, x[None]
    zoned, ys = encoder.apply(*args, carry=carry, key=jax.random.key(t))
    stepped, _ = plain.apply(*args, carry=carry)
    np.testing.assert_array_equal(ys[0], zoned["forward"][0])
    arrays = carry["forward"], stepped["forward"], zoned["forward"]
    for i, (old, new, actual) in enumerate(zip(*arrays, strict=True)):
      unchanged = np.asarray(old == actual)
      np.testing.assert_allclose(actual, np.where(unchanged, old, new), atol=1e-6)
      masks[i].append(unchanged)
    carry = zoned
  for rate, unchanged in zip(rates, map(np.array, masks), strict=True):
    assert abs(unchanged.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / unchanged.size)
  if len(masks) == 2:  # the masks of h and c are independent
    both_unchanged = np.mean(np.array(masks[0]) & np.array(masks[1]))
    assert abs(both_unchanged - np.prod(rates)) < 0.02


@pytest.mark.usefixtures("float64")
def test_zoneout_mask_differs_at_each_step():
  """Each element of h is the old or the new one, with another mask at each valid step."""
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
  """The rate of 0.005 holds in bfloat16, although a draw in bfloat16 has only 128 values."""
  xs = jnp.asarray(np.resize([0.2, 0.5, -0.3], (8000, 1, 1)).repeat(D, -1), jnp.bfloat16)
  # With U = 0, h depends only on x, which changes at every step.
  params = {"W": jnp.ones((D, 8)), "U": jnp.zeros((8, 8)), "b": jnp.zeros(8)}
  _, ys = zoneout(vanilla(8), 0.005).apply({"forward": params}, xs, key=KEY)
  unchanged = np.mean(np.asarray(ys[1:] == ys[:-1]))
  assert abs(unchanged - 0.005) < 5 * np.sqrt(0.005 / ys.size)


def test_zoneout_of_unread_carry_raises():
  with pytest.raises(ValueError, match=r"needs a cell whose step reads h; .* mingru\(6\) does not"):
    zoneout(mingru(6), 0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_invalid_dropout_rate_raises(rate):
  with pytest.raises(ValueError, match=r"must lie in \[0, 1\); got"):
    dropout.dropout(jnp.ones(3), rate, KEY)


@pytest.mark.parametrize("name", CELLS)
def test_zoneout_with_zero_rate_equals_cell(name):
  """With and without a key; arrays of the carry without a rate are also those of the cell."""
  cell, xs = CELLS[name][0], random_inputs(dtype=np.float32)
  params = {"forward": jax.tree.map(jnp.float32, random_params(cell))}
  expected = forward(cell).apply(params, xs, LENGTHS)
  for key in (None, KEY):
    actual = zoneout(cell, 0.0).apply(params, xs, LENGTHS, key=key)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)


def test_weight_drop_and_zoneout_compose():
  """Without a key only zoneout acts; with a key all parameters have gradients."""
  inner = stack(zoneout(lstm(H), 0.1, 0.1), forward(gru(H)))
  encoder, xs = weight_drop(inner, 0.5), random_inputs(dtype=np.float32)
  params = encoder.init(KEY, D)
  np.testing.assert_array_equal(
    encoder.apply(params, xs, LENGTHS)[1], inner.apply(params, xs, LENGTHS)[1]
  )

  def loss(params):
    return jnp.sum(encoder.apply(params, xs, LENGTHS, key=KEY)[1] ** 2)

  for path, leaf in jax.tree.leaves_with_path(jax.grad(loss)(params)):
    assert np.isfinite(leaf).all() and abs(leaf).max() > 0, path


def test_weight_drop_without_recurrent_matrix_raises():
  """Encoders without U raise in `init`; an invalid rate raises at once."""
  with pytest.raises(ValueError, match=r"recurrent matrices U, and forward.* has none"):
    weight_drop(forward(mingru(H)), 0.5).init(jax.random.key(0), D)
  with pytest.raises(ValueError, match=r"must lie in \[0, 1\); got 1.5"):
    weight_drop(forward(gru(H)), 1.5)


def test_zoneout_with_explicit_sharding():
  """On a mesh of explicit axes the outputs equal those of one device."""
  encoder, xs = zoneout(lstm(H), 0.3, 0.2), jnp.asarray(random_inputs(batch=(4,), dtype=np.float32))
  params, key = encoder.init(jax.random.key(0), D), jax.random.key(1)
  expected = [encoder.apply(params, xs, key=k)[1] for k in (None, key)]
  with jax.set_mesh(jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Explicit,))):
    sharded = jax.device_put(xs, PartitionSpec(None, "batch"))
    actual = [jax.jit(encoder.apply)(params, sharded, key=k)[1] for k in (None, key)]
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
