"""Encoders, poolings, attention and dropout: against NumPy, and by their laws."""

import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import (
  attention,
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
from rnnjax.pooling import POOLINGS
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
  """Both directions over each row's own steps, merged; `last` is where each direction ends."""
  encoder = bidirectional(FORWARD_CASE.cell, BACKWARD_CASE.cell, merge)
  params, xs = (
    {"forward": FORWARD_CASE.params(), "backward": BACKWARD_CASE.params()},
    random_inputs(),
  )
  carry, ys = encoder.apply(params, xs, LENGTHS)
  ((h, c), a), ((g,), b) = (
    numpy_reference.unroll(case.reference, case.params(), xs, case.carry_sizes, LENGTHS, reverse)
    for case, reverse in ((FORWARD_CASE, False), (BACKWARD_CASE, True))
  )
  np.testing.assert_allclose(ys, NUMPY[merge](a, b), atol=1e-12)
  np.testing.assert_allclose(encoder.final_hidden(carry), NUMPY[merge](h, g), atol=1e-12)
  np.testing.assert_allclose(carry["forward"][1], c, atol=1e-12)
  assert encoder.features == ys.shape[-1]


def test_last_is_output_at_row_end():
  """Forward ends at each row's last step, backward at its first; without steps it is 0."""
  xs = random_inputs(dtype=np.float32)
  for make, steps in ((forward, LENGTHS - 1), (backward, np.zeros(B, int))):
    encoder = make(lstm(H))
    carry, ys = encoder.apply(encoder.init(KEY, D), xs, LENGTHS)
    expected = np.where(LENGTHS[:, None] > 0, ys[steps, np.arange(B)], 0)
    np.testing.assert_array_equal(encoder.final_hidden(carry), expected)


@pytest.mark.parametrize("residual", [False, True])
def test_stack_applies_layers_in_order(residual):
  """Each layer reads the one below; a residual is added where the widths agree, and only there."""
  layers = [forward(gru(H)), bidirectional(lstm(2), lstm(3)), backward(vanilla(3))]
  encoder, xs = stack(*layers, residual=residual), random_inputs(dtype=np.float32)
  params = encoder.init(KEY, D)
  _, got = encoder.apply(params, xs, LENGTHS)
  for i, layer in enumerate(layers):
    _, ys = layer.apply(params[f"layer_{i}"], xs, LENGTHS)
    xs = ys + xs if residual and i == 1 else ys
  np.testing.assert_allclose(got, xs, atol=1e-6)


def test_residual_output_is_zero_at_padding():
  """Where a row is over the output is 0, whatever stood there in the inputs."""
  encoder = stack(forward(lstm(D)), forward(gru(D)), residual=True)
  xs, over = random_inputs(dtype=np.float32), np.arange(T)[:, None] >= LENGTHS
  params = encoder.init(KEY, D)
  found = [
    encoder.apply(params, jnp.where(over[..., None], filled, xs), LENGTHS)[1]
    for filled in (0.0, jnp.nan)
  ]
  np.testing.assert_array_equal(*found)
  assert not found[1][over].any() and found[1][~over].all()


def test_stack_dropout_only_between_layers():
  """Dropout needs a key and a rate, acts on what a later layer reads, and on nothing else."""
  xs, layer = random_inputs(dtype=np.float32), forward(gru(H))
  plain, dropped = stack(layer, layer), stack(layer, layer, dropout=0.5)
  params = plain.init(KEY, D)
  apply = lambda encoder, **keys: np.asarray(encoder.apply(params, xs, **keys)[1])
  np.testing.assert_array_equal(apply(dropped), apply(plain))
  np.testing.assert_array_equal(apply(plain, key=KEY), apply(plain))
  np.testing.assert_array_equal(apply(dropped, key=KEY), apply(dropped, key=KEY))
  assert abs(apply(dropped, key=KEY) - apply(dropped)).max() > 1e-3
  one = stack(layer, dropout=0.5)
  only = {"layer_0": params["layer_0"]}
  np.testing.assert_array_equal(one.apply(only, xs, key=KEY)[1], one.apply(only, xs)[1])


def test_residual_adds_input_without_dropout():
  """A layer that says nothing leaves what it was to read as it stood."""
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
  """What survives is scaled by 1/(1 − rate), a share of 1 − rate survives, by the mask's shape."""
  xs = np.ones((40, 30, 20), np.float32)
  ys = np.asarray(drop(xs, DROPOUT_RATE, KEY))
  np.testing.assert_allclose(np.unique(ys), [0, 1 / (1 - DROPOUT_RATE)], rtol=1e-6)
  draws = {
    dropout.dropout: ys,
    dropout.variational_dropout: ys[0],
    dropout.word_dropout: ys[..., 0],
  }[drop]
  assert abs(draws.mean() - 1) < 5 * np.sqrt(DROPOUT_RATE / (1 - DROPOUT_RATE) / draws.size)
  if drop is dropout.variational_dropout:
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[:1], ys.shape))
  if drop is dropout.word_dropout:
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[..., :1], ys.shape))
  np.testing.assert_array_equal(drop(xs, DROPOUT_RATE, None), xs)
  np.testing.assert_array_equal(drop(xs, 0.0, KEY), xs)


@pytest.mark.parametrize("make", [forward, backward])
@pytest.mark.parametrize("cell", [lstm(H), gru(H)], ids=str)
def test_learned_initial_carry(make, cell):
  """It starts as zeros do, the gradient reaches each of its parts, and T = 0 gives it back."""
  encoder, plain, xs = make(cell, learned_start=True), make(cell), random_inputs(dtype=np.float32)
  params = encoder.init(KEY, D)
  np.testing.assert_array_equal(
    encoder.apply(params, xs, LENGTHS)[1], plain.apply(params, xs, LENGTHS)[1]
  )
  loss = lambda params: jnp.sum(encoder.apply(params, xs, LENGTHS)[1] ** 2)
  (start,) = (v for k, v in jax.grad(loss)(params).items() if k.endswith("_start"))
  assert len(start) == len(cell.initial_carry(xs[0]))
  assert all(abs(d).min() > 0 for d in start.values())
  carry, _ = encoder.apply(jax.tree.map(jnp.ones_like, params), xs[:0])
  np.testing.assert_array_equal(encoder.final_hidden(carry), np.ones((B, H)))


@pytest.mark.parametrize("name", ["last", "mean", "max", "max_mean"])
def test_pooling_ignores_padding(name):
  """Each row's own steps and no others, were the rest NaN; a row without steps gives zeros."""
  ys = np.where(MASK, random_inputs(dtype=np.float32) - 3, np.nan)
  last = np.ones((B, D), np.float32)
  rows = [ys[:n, b] if n else np.zeros((1, D)) for b, n in enumerate(LENGTHS)]
  mean, top = (np.stack([f(row, 0) for row in rows]) for f in (np.mean, np.max))
  expected = {"last": last, "mean": mean, "max": top, "max_mean": np.concatenate([top, mean], -1)}
  got = POOLINGS[name].apply(POOLINGS[name].init(KEY, D), last, ys, LENGTHS)
  np.testing.assert_allclose(got, expected[name], rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_word_attention_equals_reference():
  """s and α are the paper's; α sums to one over the living steps and is 0 elsewhere."""
  hs, draw = random_inputs(), np.random.default_rng(5)
  shapes = {"W": (D, D), "b": D, "u_w": D}
  params = {name: draw.normal(size=shape) for name, shape in shapes.items()}
  for got, expected in zip(
    attention.attention_pooling(params, hs, LENGTHS),
    numpy_reference.word_attention(params, hs, LENGTHS),
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, atol=1e-12)
  _, α = attention.attention_pooling(params, np.where(MASK, hs, 0), LENGTHS)
  np.testing.assert_allclose(α.sum(0), LENGTHS > 0, atol=1e-12)
  assert not np.where(MASK[..., 0], 0, α).any()


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_pooling_of_empty_row_is_zero(name):
  """A row of length 0 gives zeros, and no gradient is NaN."""
  pooling = POOLINGS[name]
  params, ys = pooling.init(KEY, D), random_inputs(dtype=np.float32)
  pool = lambda params, ys: pooling.apply(params, jnp.zeros((B, D)), ys, np.zeros(B, int))
  assert not pool(params, ys).any()
  gradients = jax.grad(lambda *args: jnp.sum(jnp.cos(pool(*args))), (0, 1))(params, ys)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def parameter_layouts():
  """Names and shapes of the parameters of a few encoders and of a classifier."""
  encoders = [
    forward(vanilla(3), learned_initial_carry=True),
    bidirectional(lstm(3, peepholes=True, cell_size=2), gru(4), learned_initial_carry=True),
    bidirectional(mingru(2), minlstm(3), learned_initial_carry=True),
    forward(lru(3, num_states=2), learned_initial_carry=True),
    stack(bidirectional(gru(3), gru(3, reset="before")), backward(lstm(2, coupled=True))),
  ]
  made = {repr(encoder): jax.eval_shape(lambda e=encoder: e.init(KEY, D)) for encoder in encoders}
  model = Classifier(nn.Embed(9, D), encoders[-1], 3, pooling="attention")
  tokens = jnp.zeros((T, B), int)
  made["Classifier"] = jax.eval_shape(lambda: model.init(KEY, tokens, LENGTHS))["params"]
  name = lambda path: "/".join(entry.key for entry in path)
  return {
    title: {name(path): list(p.shape) for path, p in jax.tree.leaves_with_path(tree)}
    for title, tree in made.items()
  }


LAYOUT = pathlib.Path(__file__).parent / "golden" / "layout.json"


def test_parameter_layout_is_unchanged():
  """Names and shapes stay, for checkpoints are read by them."""
  assert parameter_layouts() == json.loads(LAYOUT.read_text()), (
    "parameters changed their names or shapes: old checkpoints become unreadable. "
    "If that is meant: python -m tests.test_encoders"
  )


if __name__ == "__main__":
  LAYOUT.write_text(json.dumps(parameter_layouts(), indent=1) + "\n")
