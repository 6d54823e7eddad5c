"""Decoders, compared with NumPy loops written from the equations, and their invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rnnjax import gru, lru, lstm, vanilla
from rnnjax.attention import (
  additive_attention,
  dot_attention,
  general_attention,
  multi_head_attention,
)
from rnnjax.decoders import EncoderMemory, decoder
from tests import numpy_reference
from tests.random_params import random_params_like
from tests.test_attention import A, reference_scores

KEY = jax.random.key(0)
T, S, B, D, M, L, F = 4, 5, 3, 3, 4, 6, 4
LENGTHS = np.array([5, 2, 3])
PADDING = np.arange(S)[:, None] >= LENGTHS
CELLS = (gru(3), lstm(F))
REFERENCE_STEPS = (numpy_reference.gru_reset_after, numpy_reference.lstm)
DECODER_OPTIONS = {
  "none": {},
  "dot": {"attention": dot_attention()},
  "general": {"attention": general_attention()},
  "additive": {"attention": additive_attention(A)},
  "multi_head": {"attention": multi_head_attention(2, A)},
  "fed": {"attention": general_attention(), "input_feeding": True},
  "fed heads": {"attention": multi_head_attention(2, A), "input_feeding": True},
  "coverage": {"attention": additive_attention(A, use_coverage=True), "input_feeding": True},
}
all_decoders = pytest.mark.parametrize("name", DECODER_OPTIONS)


@functools.cache
def make_decoder(name, *cells, **options):
  """Return a decoder; cached, so that it is compiled once."""
  return decoder(*(cells or CELLS), **DECODER_OPTIONS[name], **options)


@functools.cache
def random_params(name, *cells):
  return random_params_like(make_decoder(name, *cells).init(KEY, D, M, L))


def random_inputs(seed=0):
  """Return xs [T, B, D], values [S, B, M] with zeros as padding, and final_hidden [B, L]."""
  draw = np.random.default_rng(seed)
  xs, values, final_hidden = (
    draw.normal(size=shape).astype(np.float32) for shape in ((T, B, D), (S, B, M), (B, L))
  )
  return xs, np.where(PADDING[..., None], 0, values), final_hidden


@functools.partial(jax.jit, static_argnums=0)
def run_decoder(dec, params, xs, values, final_hidden, lengths, key=None):
  """Return carry, ys and α from the initial carry."""
  memory = dec.prepare_memory(params, values, lengths)
  carry = dec.initial_carry(params, final_hidden, memory)
  return dec.apply(params, xs, memory, carry=carry, key=key)


def assert_trees_close(got, expected, atol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, expected)


def reference_decoder(name, params, xs, values, final_hidden):
  """Return ys [T, B, F] and α [T, S, B], computed row by row and step by step."""
  p = jax.tree.map(np.float64, params)
  options, ys, α = DECODER_OPTIONS[name], np.zeros((T, B, F)), np.zeros((T, S, B))
  dense = lambda x, layer: np.tanh(x @ layer["W"] + layer["b"])
  layers = [f"layer_{i}" for i in range(len(CELLS))]
  for b, n in enumerate(LENGTHS):
    m, coverage, y = np.float64(values[:n, b]), np.zeros(n), np.zeros(F)
    carries = [
      [dense(final_hidden[b], part) for part in p["bridge"][layer].values()] for layer in layers
    ]
    for t in range(T):
      h = np.concatenate([xs[t, b], y]) if "input_feeding" in options else np.float64(xs[t, b])
      for i, (layer, step) in enumerate(zip(layers, REFERENCE_STEPS)):
        carries[i], h = step(p["layers"][layer]["forward"], h, carries[i])
      y = h
      if "attention" in options:
        attention = p["attention"]
        es, head_values = reference_scores(options["attention"].name, attention, h, m, coverage)
        weights = [np.exp(e) / np.exp(e).sum() for e in es]
        context = np.concatenate([w @ v for w, v in zip(weights, head_values)])
        y = dense(np.concatenate([h, context @ attention.get("W_o", np.eye(M))]), p["combine"])
        α[t, :n, b] = np.mean(weights, 0)
        coverage = coverage + α[t, :n, b]
      ys[t, b] = y
  return ys, α


@all_decoders
def test_outputs_equal_reference(name):
  """Outputs and weights equal the reference; the carry has the coverage and the last output."""
  params, inputs = random_params(name), random_inputs()
  carry, ys, α = run_decoder(make_decoder(name), params, *inputs, LENGTHS)
  assert_trees_close([ys, α], [*reference_decoder(name, params, *inputs)])
  if "coverage" in carry:
    np.testing.assert_allclose(carry["coverage"], α.sum(0).T, atol=1e-5)
  if "fed" in carry:
    np.testing.assert_array_equal(carry["fed"], ys[-1])


@all_decoders
def test_single_steps_equal_whole_sequence(name):
  """The carry is the only state that is passed from step to step."""
  dec, params, (xs, values, final_hidden) = make_decoder(name), random_params(name), random_inputs()
  whole = run_decoder(dec, params, xs, values, final_hidden, LENGTHS)
  memory = dec.prepare_memory(params, values, LENGTHS)
  carry, steps = dec.initial_carry(params, final_hidden, memory), []
  apply = jax.jit(dec.apply)
  for t in range(T):
    carry, *outputs = apply(params, xs[t : t + 1], memory, carry=carry)
    steps.append(outputs)
  assert_trees_close((carry, *map(jnp.concatenate, zip(*steps))), whole, atol=1e-6)


@all_decoders
def test_memory_padding_does_not_affect_outputs_or_gradients(name):
  """Outputs and gradients for NaN padding equal those for zeros; the padding's gradient is 0."""
  xs, values, final_hidden = random_inputs()
  cotangent = np.random.default_rng(1).normal(size=(T, B, F + S)).astype(np.float32)

  @jax.jit
  def gradients(params, xs, values, final_hidden):
    def loss(*inputs):
      _, ys, α = run_decoder(make_decoder(name), *inputs, LENGTHS)
      return (cotangent * jnp.concatenate([ys, jnp.moveaxis(α, 1, 2)], -1)).sum(), (ys, α)

    return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(params, xs, values, final_hidden)

  nan_values = np.where(PADDING[..., None], np.nan, values).astype(np.float32)
  zero_padding, nan_padding = (
    gradients(random_params(name), xs, v, final_hidden) for v in (values, nan_values)
  )
  jax.tree.map(np.testing.assert_array_equal, zero_padding, nan_padding)
  d_values = np.asarray(zero_padding[0][2])
  assert not d_values[PADDING].any() and d_values[~PADDING].any() == (name != "none")


@all_decoders
def test_gradients_equal_finite_differences(name):
  """Gradients with respect to parameters, inputs, memory and final hidden state, in float64."""
  with jax.enable_x64(True):
    args = jax.tree.map(np.float64, (random_params(name), *random_inputs()))
    outputs = lambda *args: run_decoder(make_decoder(name), *args, LENGTHS)[1]
    check_grads(outputs, args, order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("input_feeding", [False, True])
def test_carry_dtypes_are_preserved_in_bfloat16(input_feeding):
  """Each part of the initial and final carry has the dtype of the cell's own initial carry."""
  cells = lstm(F), lru(F)
  dec = decoder(*cells, attention=multi_head_attention(2, A), input_feeding=input_feeding)
  to_bfloat16 = lambda tree: jax.tree.map(lambda x: jnp.bfloat16(x), tree)
  xs, values, final_hidden = to_bfloat16(random_inputs())

  def carries(params):
    memory = dec.prepare_memory(params, values, LENGTHS)
    first = dec.initial_carry(params, final_hidden, memory)
    return first, dec.apply(params, xs, memory, carry=first)[0]

  first, last = jax.eval_shape(lambda key: carries(to_bfloat16(dec.init(key, D, M, L))), KEY)
  expected = [[part.dtype for part in cell.initial_carry(final_hidden)] for cell in cells]
  for carry in first, last:
    layers = (carry[f"layer_{i}"]["forward"] for i in range(len(cells)))
    assert [[part.dtype for part in parts] for parts in layers] == expected


@all_decoders
def test_batch_rows_are_independent(name):
  """A row gives the same result as a batch of one without padding, and with other rows."""
  dec, params, b = make_decoder(name), random_params(name), 1
  xs, values, final_hidden = inputs = random_inputs()
  _, ys, α = run_decoder(dec, params, *inputs, LENGTHS)
  n = LENGTHS[b]
  row = xs[:, [b]], values[:n, [b]], final_hidden[[b]]
  _, row_ys, row_α = run_decoder(dec, params, *row, LENGTHS[[b]])
  assert_trees_close((row_ys[:, 0], row_α[..., 0]), (ys[:, b], α[:, :n, b]), atol=1e-6)
  other_rows = (
    np.where(np.arange(B)[:, None] == b, x, other) for x, other in zip(inputs, random_inputs(1))
  )
  _, other_ys, other_α = run_decoder(dec, params, *other_rows, LENGTHS)
  np.testing.assert_array_equal(other_ys[:, b], ys[:, b])
  np.testing.assert_array_equal(other_α[..., b], α[..., b])


@pytest.mark.parametrize("name", ["none", "fed"])
def test_dropout_only_with_key(name):
  """Dropout depends on the key alone. It is between cells, so a single cell has none."""
  params, inputs = random_params(name), random_inputs()
  total = lambda dec, key, params=params: float(
    run_decoder(dec, params, *inputs, LENGTHS, key)[1].sum()
  )
  plain, dropped = make_decoder(name), make_decoder(name, dropout=0.5)
  assert total(dropped, None) == pytest.approx(total(plain, KEY), rel=1e-5)
  first, repeated, other = (total(dropped, jax.random.key(seed)) for seed in (1, 1, 2))
  assert first == repeated and len({first, other, total(plain, None)}) == 3
  single, params = make_decoder(name, lstm(F), dropout=0.5), random_params(name, lstm(F))
  assert total(single, KEY, params) == total(single, None, params)


@pytest.mark.parametrize("name", ["general", "fed"])
def test_dropout_mask_is_shared_over_time(name):
  """The same units of the lower cell are dropped at every step."""
  cells = gru(3), vanilla(F)
  dec, params = make_decoder(name, *cells, dropout=0.5), random_params(name, *cells)
  inputs = [x[..., :1, :] for x in random_inputs()]
  # The upper cell depends on one lower unit only, which is dropped at all steps or doubled at all.
  upper = params["layers"]["layer_1"]["forward"]
  upper = upper | {"W": upper["W"] * np.eye(3, 1)}
  params = params | {"layers": params["layers"] | {"layer_1": {"forward": upper}}}
  total = lambda seed: float(
    run_decoder(dec, params, *inputs, LENGTHS[:1], jax.random.key(seed))[1].sum()
  )
  assert len({*map(total, range(8))}) == 2


def test_eleven_layers_keep_their_order_under_jit():
  """Layer 10 follows layer 9, although jit sorts dict keys alphabetically."""
  cells = [vanilla(n) for n in (*range(1, 11), F)]
  dec = decoder(*cells, attention=general_attention(), input_feeding=True)
  _, ys, _ = run_decoder(dec, random_params_like(dec.init(KEY, D, M, L)), *random_inputs(), LENGTHS)
  assert ys.shape == (T, B, F)


def test_memory_keys_and_repr():
  """Without attention there are no keys; repr() is the call of the factory."""
  _, values, _ = random_inputs()
  memory = make_decoder("none").prepare_memory(random_params("none"), values, LENGTHS)
  assert isinstance(memory, EncoderMemory) and memory.keys == ()
  assert make_decoder("none").features == F
  assert repr(make_decoder("fed")) == "decoder(gru(3), lstm(4), general(), input_feeding=True)"


@pytest.mark.parametrize(
  "cells, options, message",
  [
    ((), {}, "at least one cell"),
    (CELLS, {"input_feeding": True}, "input_feeding=True needs attention"),
    (
      CELLS,
      {"attention": additive_attention(A, use_coverage=True)},
      r"additive\(6, use_coverage=True\) needs input_feeding",
    ),
    (CELLS, {"dropout": 1.0}, r"dropout must lie in \[0, 1\); got 1.0"),
  ],
)
def test_incompatible_options_raise(cells, options, message):
  with pytest.raises(ValueError, match=message):
    decoder(*cells, **options)


@pytest.mark.parametrize("input_feeding", [False, True])
def test_dot_attention_with_unequal_sizes_raises(input_feeding):
  dec = decoder(gru(3), attention=dot_attention(), input_feeding=input_feeding)
  with pytest.raises(ValueError, match="as wide as the keys, 4; got 3"):
    run_decoder(dec, dec.init(KEY, D, M, L), *random_inputs(), LENGTHS)
