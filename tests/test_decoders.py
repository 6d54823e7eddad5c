"""Decoders: against NumPy loops straight from the equations, and by their laws."""

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
from tests.models.test_tagger import random_params_like
from tests.test_attention import A, reference_scores

KEY = jax.random.key(0)
T, S, B, D, M, L, F = 4, 5, 3, 3, 4, 6, 4
LENGTHS = np.array([5, 2, 3])
PADDING = np.arange(S)[:, None] >= LENGTHS
CELLS, TICKS = (gru(3), lstm(F)), (numpy_reference.gru_reset_after, numpy_reference.lstm)
DECODER_OPTIONS = {
  "none": {},
  "dot": {"attention": dot_attention()},
  "general": {"attention": general_attention()},
  "additive": {"attention": additive_attention(A)},
  "multi_head": {"attention": multi_head_attention(2, A)},
  "fed": {"attention": general_attention(), "feed": True},
  "fed heads": {"attention": multi_head_attention(2, A), "feed": True},
  "coverage": {"attention": additive_attention(A, use_coverage=True), "feed": True},
}
all_decoders = pytest.mark.parametrize("kind", DECODER_OPTIONS)


@functools.cache
def make_decoder(kind, *cells, **more):
  """The same decoder each time, so that it compiles once."""
  return decoder(*(cells or CELLS), **DECODER_OPTIONS[kind], **more)


@functools.cache
def random_params(kind, *cells):
  return random_params_like(make_decoder(kind, *cells).init(KEY, D, M, L))


def random_inputs(seed=0):
  """xs [T, B, D], values [S, B, M] with zeros as padding, and last [B, L]."""
  draw = np.random.default_rng(seed)
  xs, values, last = (
    draw.normal(size=shape).astype(np.float32) for shape in ((T, B, D), (S, B, M), (B, L))
  )
  return xs, np.where(PADDING[..., None], 0, values), last


@functools.partial(jax.jit, static_argnums=0)
def run_decoder(two, params, xs, values, last, lengths, key=None):
  """carry, ys, α from the start."""
  memory = two.prepare_memory(params, values, lengths)
  return two.apply(params, xs, memory, carry=two.initial_carry(params, last, memory), key=key)


def assert_trees_close(got, expected, atol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, expected)


def reference_decoder(kind, params, xs, values, last):
  """ys [T, B, F] and α [T, S, B]: bridge, cells, attention, tanh, row by row and step by step."""
  p = jax.tree.map(np.float64, params)
  how, ys, α = DECODER_OPTIONS[kind], np.zeros((T, B, F)), np.zeros((T, S, B))
  dense = lambda x, layer: np.tanh(x @ layer["W"] + layer["b"])
  names = [f"layer_{i}" for i in range(len(CELLS))]
  for b, n in enumerate(LENGTHS):
    m, seen, y = np.float64(values[:n, b]), np.zeros(n), np.zeros(F)
    states = [[dense(last[b], part) for part in p["bridge"][name].values()] for name in names]
    for t in range(T):
      h = np.concatenate([xs[t, b], y]) if "feed" in how else np.float64(xs[t, b])
      for i, (name, tick) in enumerate(zip(names, TICKS)):
        states[i], h = tick(p["layers"][name]["forward"], h, states[i])
      y = h
      if "attention" in how:
        own = p["attention"]
        es, mixed = reference_scores(how["attention"].name, own, h, m, seen)
        weights = [np.exp(e) / np.exp(e).sum() for e in es]
        context = np.concatenate([w @ v for w, v in zip(weights, mixed)])
        y = dense(np.concatenate([h, context @ own.get("W_o", np.eye(M))]), p["combine"])
        α[t, :n, b] = np.mean(weights, 0)
        seen = seen + α[t, :n, b]
      ys[t, b] = y
  return ys, α


@all_decoders
def test_outputs_equal_reference(kind):
  """Outputs and weights, whatever the memory is asked by and whatever is fed."""
  params, inputs = random_params(kind), random_inputs()
  carry, *found = run_decoder(make_decoder(kind), params, *inputs, LENGTHS)
  assert_trees_close(found, [*reference_decoder(kind, params, *inputs)])
  if "coverage" in carry:
    np.testing.assert_allclose(carry["coverage"], found[1].sum(0).T, atol=1e-5)
  if "fed" in carry:
    np.testing.assert_array_equal(carry["fed"], found[0][-1])


@all_decoders
def test_single_steps_equal_whole_sequence(kind):
  """The carry is all that one step leaves to the next."""
  two, params, (xs, values, last) = make_decoder(kind), random_params(kind), random_inputs()
  whole = run_decoder(two, params, xs, values, last, LENGTHS)
  memory = two.prepare_memory(params, values, LENGTHS)
  carry, rows = two.initial_carry(params, last, memory), []
  apply = jax.jit(two.apply)
  for t in range(T):
    carry, *row = apply(params, xs[t : t + 1], memory, carry=carry)
    rows.append(row)
  assert_trees_close((carry, *map(jnp.concatenate, zip(*rows))), whole, atol=1e-6)


@all_decoders
def test_memory_padding_does_not_affect_outputs_or_gradients(kind):
  """NaN stands there, and outputs and gradients are those of zeros; of padding they are 0."""
  (xs, values, last), probe = random_inputs(), np.random.default_rng(1).normal(size=(T, B, F + S))
  probe = probe.astype(np.float32)

  @jax.jit
  def gradients(params, xs, values, last):
    def loss(*inputs):
      _, ys, α = run_decoder(make_decoder(kind), *inputs, LENGTHS)
      return (probe * jnp.concatenate([ys, jnp.moveaxis(α, 1, 2)], -1)).sum(), (ys, α)

    return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(params, xs, values, last)

  broken = np.where(PADDING[..., None], np.nan, values).astype(np.float32)
  one, two = (gradients(random_params(kind), xs, v, last) for v in (values, broken))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  own = np.asarray(one[0][2])
  assert not own[PADDING].any() and own[~PADDING].any() == (kind != "none")


@all_decoders
def test_gradients_equal_finite_differences(kind):
  """Of parameters, inputs, memory and start alike, in float64."""
  with jax.enable_x64(True):
    at = jax.tree.map(np.float64, (random_params(kind), *random_inputs()))
    loss = lambda *at: run_decoder(make_decoder(kind), *at, LENGTHS)[1]
    check_grads(loss, at, order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("feed", [False, True])
def test_carry_dtypes_are_preserved_in_bfloat16(feed):
  """Computing in bfloat16, each part has the type that its cell gives it, before and after."""
  cells = lstm(F), lru(F)
  two = decoder(*cells, attention=multi_head_attention(2, A), input_feeding=feed)
  low = lambda tree: jax.tree.map(lambda x: jnp.bfloat16(x), tree)
  xs, values, last = low(random_inputs())

  def carries(params):
    memory = two.prepare_memory(params, values, LENGTHS)
    start = two.initial_carry(params, last, memory)
    return start, two.apply(params, xs, memory, carry=start)[0]

  start, end = jax.eval_shape(lambda key: carries(low(two.init(key, D, M, L))), KEY)
  expected = [[part.dtype for part in cell.initial_carry(last)] for cell in cells]
  for carry in start, end:
    layers = (carry[f"layer_{i}"]["forward"] for i in range(len(cells)))
    assert [[part.dtype for part in parts] for parts in layers] == expected


@all_decoders
def test_batch_rows_are_independent(kind):
  """One alone, its memory cut at its end, is as in company; and so in other company."""
  two, params, (xs, values, last), b = make_decoder(kind), random_params(kind), random_inputs(), 1
  _, ys, α = run_decoder(two, params, xs, values, last, LENGTHS)
  n = LENGTHS[b]
  _, y, a = run_decoder(two, params, xs[:, [b]], values[:n, [b]], last[[b]], LENGTHS[[b]])
  assert_trees_close((y[:, 0], a[..., 0]), (ys[:, b], α[:, :n, b]), atol=1e-6)
  inputs = (
    np.where(np.arange(B)[:, None] == b, one, two)
    for one, two in zip((xs, values, last), random_inputs(1))
  )
  _, y, a = run_decoder(two, params, *inputs, LENGTHS)
  np.testing.assert_array_equal(y[:, b], ys[:, b])
  np.testing.assert_array_equal(a[..., b], α[..., b])


@pytest.mark.parametrize("kind", ["none", "fed"])
def test_dropout_only_with_key(kind):
  """And two cells, for it acts between them; it is the same for the same key."""
  params, inputs = random_params(kind), random_inputs()
  total = lambda two, key, params=params: float(
    run_decoder(two, params, *inputs, LENGTHS, key)[1].sum()
  )
  plain, dropped = make_decoder(kind), make_decoder(kind, dropout=0.5)
  assert total(dropped, None) == pytest.approx(total(plain, KEY), rel=1e-5)
  one, again, other = (total(dropped, jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and len({one, other, total(plain, None)}) == 3
  single, params = make_decoder(kind, lstm(F), dropout=0.5), random_params(kind, lstm(F))
  assert total(single, KEY, params) == total(single, None, params)


@pytest.mark.parametrize("kind", ["general", "fed"])
def test_dropout_mask_is_shared_over_time(kind):
  """Of what the lower cell says the same is lost at every step."""
  two, params = (
    make_decoder(kind, gru(3), vanilla(F), dropout=0.5),
    random_params(kind, gru(3), vanilla(F)),
  )
  inputs = [x[..., :1, :] for x in random_inputs()]
  # The upper cell hears one lower unit alone: it comes through at all steps, doubled, or at none.
  upper = params["layers"]["layer_1"]["forward"]
  upper = upper | {"W": upper["W"] * np.eye(3, 1)}
  params = params | {"layers": params["layers"] | {"layer_1": {"forward": upper}}}
  total = lambda seed: float(
    run_decoder(two, params, *inputs, LENGTHS[:1], jax.random.key(seed))[1].sum()
  )
  assert len({*map(total, range(8))}) == 2


def test_eleven_layers_keep_their_order_under_jit():
  """Layer 10 stands above layer 9, also where `jit` has sorted the names."""
  cells = [vanilla(n) for n in (*range(1, 11), F)]
  two = decoder(*cells, attention=general_attention(), input_feeding=True)
  _, ys, _ = run_decoder(two, random_params_like(two.init(KEY, D, M, L)), *random_inputs(), LENGTHS)
  assert ys.shape == (T, B, F)


def test_memory_keys_and_repr():
  """Without attention nothing is prepared; the name is the call."""
  _, values, _ = random_inputs()
  memory = make_decoder("none").prepare_memory(random_params("none"), values, LENGTHS)
  assert isinstance(memory, EncoderMemory) and memory.keys == ()
  assert make_decoder("none").features == F
  assert repr(make_decoder("fed")) == "decoder(gru(3), lstm(4), general(), feed=True)"


@pytest.mark.parametrize(
  "cells, options, message",
  [
    ((), {}, "at least one cell"),
    (CELLS, {"feed": True}, "feed=True needs attention"),
    (
      CELLS,
      {"attention": additive_attention(A, use_coverage=True)},
      r"additive\(6, coverage=True\) needs feed",
    ),
    (CELLS, {"dropout": 1.0}, r"dropout must lie in \[0, 1\); got 1.0"),
  ],
)
def test_incompatible_options_raise(cells, options, message):
  with pytest.raises(ValueError, match=message):
    decoder(*cells, **options)


@pytest.mark.parametrize("feed", [False, True])
def test_dot_attention_with_unequal_sizes_raises(feed):
  """The error says what would learn to compare them."""
  two = decoder(gru(3), attention=dot_attention(), input_feeding=feed)
  with pytest.raises(ValueError, match="as wide as the keys, 4; got 3"):
    run_decoder(two, two.init(KEY, D, M, L), *random_inputs(), LENGTHS)
