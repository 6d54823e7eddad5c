"""Encoders, pooling and dropout: NumPy references and laws."""

import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import (
  backward,
  bidirectional,
  dropout,
  forward,
  gru,
  lru,
  lstm,
  mingru,
  minlstm,
  stack,
  vanilla,
)
from rnnjax.encoders import MERGE_MODES
from rnnjax.models.classifier import Classifier
from rnnjax.pooling import POOLINGS, attention_pooling
from rnnjax.types import flatten_with_names
from tests import numpy_reference
from tests.cell_cases import CASES, LENGTHS, NAMES, B, D, H, T, random_inputs

FORWARD_CASE, BACKWARD_CASE = (CASES[NAMES.index(name)] for name in ("lstm(5)", "gru(5)"))
NUMPY = {
  "concat": lambda a, b: np.concatenate([a, b], -1),
  "sum": lambda a, b: a + b,
  "mean": lambda a, b: 0.5 * a + 0.5 * b,
  "product": lambda a, b: a * b,
}
KEY = jax.random.key(3)
DROPOUT_RATE = 0.25
MASK = np.arange(T)[:, None, None] < LENGTHS[:, None]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("merge", sorted(MERGE_MODES))
def test_bidirectional_equals_reference(merge):
  """Outputs and `final_hidden` merge both directions over each row's valid steps."""
  encoder = bidirectional(FORWARD_CASE.cell, BACKWARD_CASE.cell, merge)
  params = {"forward": FORWARD_CASE.params(), "backward": BACKWARD_CASE.params()}
  xs = random_inputs()
  carry, ys = encoder.apply(params, xs, LENGTHS)
  ((h_f, c_f), ys_f), ((h_b,), ys_b) = (
    numpy_reference.unroll(case.reference, case.params(), xs, case.carry_sizes, LENGTHS, reverse)
    for case, reverse in ((FORWARD_CASE, False), (BACKWARD_CASE, True))
  )
  np.testing.assert_allclose(ys, NUMPY[merge](ys_f, ys_b), atol=1e-12)
  np.testing.assert_allclose(encoder.final_hidden(carry), NUMPY[merge](h_f, h_b), atol=1e-12)
  np.testing.assert_allclose(carry["forward"][1], c_f, atol=1e-12)
  assert encoder.features == ys.shape[-1]


def test_final_hidden_is_output_at_row_end():
  """It is the output at the last valid step (forward) or first step (backward); 0 for length 0."""
  xs = random_inputs(dtype=np.float32)
  for make_encoder, steps in ((forward, LENGTHS - 1), (backward, np.zeros(B, int))):
    encoder = make_encoder(lstm(H))
    carry, ys = encoder.apply(encoder.init(KEY, D), xs, LENGTHS)
    expected = np.where(LENGTHS[:, None] > 0, ys[steps, np.arange(B)], 0)
    np.testing.assert_array_equal(encoder.final_hidden(carry), expected)


@pytest.mark.parametrize("residual", [False, True])
def test_stack_applies_layers_in_order(residual):
  """Each layer reads the previous one; a residual is added only if the sizes are equal."""
  layers = [forward(gru(H)), bidirectional(lstm(2), lstm(3)), backward(vanilla(3))]
  encoder, xs = stack(*layers, residual=residual), random_inputs(dtype=np.float32)
  params = encoder.init(KEY, D)
  _, actual = encoder.apply(params, xs, LENGTHS)
  for i, layer in enumerate(layers):
    _, ys = layer.apply(params[f"layer_{i}"], xs, LENGTHS)
    xs = ys + xs if residual and i == 1 else ys
  np.testing.assert_allclose(actual, xs, atol=1e-6)


def test_residual_output_is_zero_at_padding():
  """Outputs at padding are 0 for any padding of the inputs."""
  encoder = stack(forward(lstm(D)), forward(gru(D)), residual=True)
  xs, padding = random_inputs(dtype=np.float32), np.arange(T)[:, None] >= LENGTHS
  params = encoder.init(KEY, D)
  with_zeros, with_nan = (
    encoder.apply(params, jnp.where(padding[..., None], value, xs), LENGTHS)[1]
    for value in (0.0, jnp.nan)
  )
  np.testing.assert_array_equal(with_zeros, with_nan)
  assert not with_nan[padding].any() and with_nan[~padding].all()


def test_stack_dropout_only_between_layers():
  """Dropout needs a key and a rate, and is applied only to the inputs of later layers."""
  xs, layer = random_inputs(dtype=np.float32), forward(gru(H))
  plain, dropped = stack(layer, layer), stack(layer, layer, dropout=0.5)
  params = plain.init(KEY, D)

  def apply(encoder, **keys):
    return np.asarray(encoder.apply(params, xs, **keys)[1])

  np.testing.assert_array_equal(apply(dropped), apply(plain))
  np.testing.assert_array_equal(apply(plain, key=KEY), apply(plain))
  np.testing.assert_array_equal(apply(dropped, key=KEY), apply(dropped, key=KEY))
  assert abs(apply(dropped, key=KEY) - apply(dropped)).max() > 1e-3
  single = stack(layer, dropout=0.5)
  params = {"layer_0": params["layer_0"]}
  np.testing.assert_array_equal(apply(single, key=KEY), apply(single))


def test_residual_adds_input_without_dropout():
  """If a layer's output is 0, the residual output is its input before dropout."""
  xs, layer = random_inputs(dtype=np.float32), forward(gru(H))
  encoder = stack(layer, layer, residual=True, dropout=0.5)
  params = encoder.init(KEY, D)
  params["layer_1"] = jax.tree.map(jnp.zeros_like, params["layer_1"])
  expected = layer.apply(params["layer_0"], xs)[1]
  np.testing.assert_array_equal(encoder.apply(params, xs, key=KEY)[1], expected)


@pytest.mark.parametrize(
  "drop", [dropout.dropout, dropout.variational_dropout, dropout.word_dropout]
)
def test_dropout_keeps_the_expectation(drop):
  """A fraction 1 − rate of the elements stays, scaled by 1/(1 − rate); masks have their shapes."""
  xs = np.ones((40, 30, 20), np.float32)
  ys = np.asarray(drop(xs, DROPOUT_RATE, KEY))
  np.testing.assert_allclose(np.unique(ys), [0, 1 / (1 - DROPOUT_RATE)], rtol=1e-6)
  independent_values = {
    dropout.dropout: ys,
    dropout.variational_dropout: ys[0],
    dropout.word_dropout: ys[..., 0],
  }[drop]
  std = np.sqrt(DROPOUT_RATE / (1 - DROPOUT_RATE) / independent_values.size)
  assert abs(independent_values.mean() - 1) < 5 * std
  if drop is dropout.variational_dropout:
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[:1], ys.shape))
  if drop is dropout.word_dropout:
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[..., :1], ys.shape))
  np.testing.assert_array_equal(drop(xs, DROPOUT_RATE, None), xs)
  np.testing.assert_array_equal(drop(xs, 0.0, KEY), xs)


@pytest.mark.parametrize("make_encoder", [forward, backward])
@pytest.mark.parametrize("cell", [lstm(H), gru(H)], ids=str)
def test_learned_initial_carry(make_encoder, cell):
  """It is initialized to zeros, all its parts have gradients, and T = 0 returns it."""
  encoder, plain = make_encoder(cell, learned_initial_carry=True), make_encoder(cell)
  xs = random_inputs(dtype=np.float32)
  params = encoder.init(KEY, D)
  np.testing.assert_array_equal(
    encoder.apply(params, xs, LENGTHS)[1], plain.apply(params, xs, LENGTHS)[1]
  )

  def loss(params):
    return jnp.sum(encoder.apply(params, xs, LENGTHS)[1] ** 2)

  (gradients,) = (v for k, v in jax.grad(loss)(params).items() if k.endswith("_start"))
  assert len(gradients) == len(cell.initial_carry(xs[0]))
  assert all(abs(gradient).min() > 0 for gradient in gradients.values())
  carry, _ = encoder.apply(jax.tree.map(jnp.ones_like, params), xs[:0])
  np.testing.assert_array_equal(encoder.final_hidden(carry), np.ones((B, H)))


@pytest.mark.parametrize("name", ["last", "mean", "max", "max_mean"])
def test_pooling_ignores_padding(name):
  """Only valid steps are pooled, even if the padding is NaN; a row of length 0 gives zeros."""
  ys = np.where(MASK, random_inputs(dtype=np.float32) - 3, np.nan)
  final_hidden = np.ones((B, D), np.float32)
  rows = [ys[:n, b] if n else np.zeros((1, D)) for b, n in enumerate(LENGTHS)]
  mean, maximum = (np.stack([f(row, 0) for row in rows]) for f in (np.mean, np.max))
  expected = {
    "last": final_hidden,
    "mean": mean,
    "max": maximum,
    "max_mean": np.concatenate([maximum, mean], -1),
  }
  actual = POOLINGS[name].apply(POOLINGS[name].init(KEY, D), final_hidden, ys, LENGTHS)
  np.testing.assert_allclose(actual, expected[name], rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_attention_pooling_equals_reference():
  """α sums to one over the valid steps and is 0 at padding."""
  hs, rng = random_inputs(), np.random.default_rng(5)
  shapes = {"W": (D, D), "b": D, "u_w": D}
  params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  actual = attention_pooling(params, hs, LENGTHS)
  expected = numpy_reference.word_attention(params, hs, LENGTHS)
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)
  _, α = attention_pooling(params, np.where(MASK, hs, 0), LENGTHS)
  np.testing.assert_allclose(α.sum(0), LENGTHS > 0, atol=1e-12)
  assert not np.where(MASK[..., 0], 0, α).any()


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_pooling_of_empty_row_is_zero(name):
  """A row of length 0 gives zeros and finite gradients."""
  pooling = POOLINGS[name]
  params, ys = pooling.init(KEY, D), random_inputs(dtype=np.float32)

  def pool(params, ys):
    return pooling.apply(params, jnp.zeros((B, D)), ys, np.zeros(B, int))

  assert not pool(params, ys).any()
  gradients = jax.grad(lambda *args: jnp.sum(jnp.cos(pool(*args))), (0, 1))(params, ys)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def parameter_layouts():
  """Return the names and shapes of the parameters of some encoders and a classifier."""
  encoders = [
    forward(vanilla(3), learned_initial_carry=True),
    bidirectional(lstm(3, peepholes=True, cell_size=2), gru(4), learned_initial_carry=True),
    bidirectional(mingru(2), minlstm(3), learned_initial_carry=True),
    forward(lru(3, num_states=2), learned_initial_carry=True),
    stack(bidirectional(gru(3), gru(3, reset="before")), backward(lstm(2, coupled=True))),
  ]
  trees = {repr(encoder): jax.eval_shape(lambda e=encoder: e.init(KEY, D)) for encoder in encoders}
  model = Classifier(nn.Embed(9, D), encoders[-1], 3, pooling="attention")
  tokens = jnp.zeros((T, B), int)
  trees["Classifier"] = jax.eval_shape(lambda: model.init(KEY, tokens, LENGTHS))["params"]
  return {
    title: {name: list(p.shape) for name, p in flatten_with_names(tree).items()}
    for title, tree in trees.items()
  }


LAYOUT = pathlib.Path(__file__).parent / "golden" / "layout.json"


def test_parameter_layout_is_unchanged():
  """Names and shapes do not change, because checkpoints are loaded by them."""
  assert parameter_layouts() == json.loads(LAYOUT.read_text()), (
    "names or shapes of parameters changed: old checkpoints cannot be loaded. "
    "If this is intended, run python -m tests.test_encoders"
  )


if __name__ == "__main__":
  LAYOUT.write_text(json.dumps(parameter_layouts(), indent=1) + "\n")
