"""Attention, compared with NumPy loops and PyTorch, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rnnjax.attention import (
  additive_attention,
  attend,
  attend_all,
  coverage_loss,
  dot_attention,
  general_attention,
  multi_head_attention,
  scaled_dot_attention,
)

T, S, B, M, A = 3, 5, 4, 4, 6
LENGTHS = np.array([5, 0, 3, 1])
MASK = np.arange(S)[:, None] < LENGTHS
KEY = jax.random.key(0)
ATTENTIONS = [
  dot_attention(),
  scaled_dot_attention(),
  general_attention(),
  additive_attention(A),
  additive_attention(A, use_coverage=True),
  multi_head_attention(2, A),
]
all_attentions = pytest.mark.parametrize("attention", ATTENTIONS, ids=str)


def reference_scores(name, p, q, m, c):
  """Return the scores by head and step, and the values of each head, for one query and one row."""
  if name == "dot()":
    return [[q @ k for k in m]], [m]
  if name == "scaled_dot()":
    return [[q @ k / np.sqrt(len(k)) for k in m]], [m]
  if name == "general()":
    return [[q @ p["W"] @ k for k in m]], [m]
  if name.startswith("additive"):
    c = np.multiply.outer(c, p.get("w_c", np.zeros(A)))
    return [[p["v"] @ np.tanh(q @ p["W"] + k @ p["U"] + p["b"] + x) for k, x in zip(m, c)]], [m]
  heads = np.split(np.arange(A), 2)
  e = [[(q @ p["W_q"][:, i]) @ (k @ p["W_k"][:, i]) / np.sqrt(A / 2) for k in m] for i in heads]
  return e, [m @ p["W_v"][:, i] for i in heads]


def reference_attention(attention, p, queries, memory, lengths, c):
  """Return context [T, B, ...] and α [T, S, B], computed row by row and query by query."""
  rows, α = len(queries[0]), np.zeros((len(queries), *memory.shape[:2]))
  context = np.zeros((len(queries), rows, attention.context_features(memory.shape[-1])))
  for t in range(len(queries)):
    for b in [b for b in range(rows) if lengths[b]]:
      n = lengths[b]
      es, values = reference_scores(attention.name, p, queries[t, b], memory[:n, b], c[:n, b])
      weights = [np.exp(e) / np.exp(e).sum() for e in es]
      α[t, :n, b] = np.mean(weights, 0)
      heads = np.concatenate([w @ v for w, v in zip(weights, values)])
      context[t, b] = heads @ p["W_o"] if "W_o" in p else heads
  return context, α


def random_inputs(attention, dtype=np.float64):
  """Return non-zero params, queries [T, B, Q], a memory [S, B, M], and {"coverage"} if used."""
  draw = np.random.default_rng(1)
  normal = lambda shape: draw.normal(size=shape).astype(dtype)
  Q = M if "dot" in attention.name else 3
  params = jax.tree.map(lambda p: normal(p.shape), attention.init(KEY, Q, M))
  more = {"coverage": abs(normal((S, B)))} if attention.uses_coverage else {}
  return params, normal((T, B, Q)), normal((S, B, M)), more


def attend_queries(attention, params, queries, memory, lengths=None, **more):
  """Compute keys and attend with all queries, each with the same coverage."""
  keys = attention.compute_keys(params, memory, lengths)
  if not more:
    return attend_all(attention, params, queries, keys, memory, lengths)
  attend_one = lambda query: attend(attention, params, query, keys, memory, lengths, **more)
  return jax.vmap(attend_one)(queries)


def assert_trees_close(got, expected, **tolerance):
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, **({"atol": 1e-12} | tolerance))


@pytest.mark.usefixtures("float64")
@all_attentions
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_context_and_weights_equal_reference(attention, lengths):
  """Context and α are 0 for padding; α sums to one for rows with at least one step."""
  params, queries, memory, more = random_inputs(attention)
  got = attend_queries(attention, params, queries, memory, lengths, **more)
  ends = np.full(B, S) if lengths is None else lengths
  c = more.get("coverage", np.zeros((S, B)))
  assert_trees_close(got, reference_attention(attention, params, queries, memory, ends, c))
  np.testing.assert_allclose(got[1].sum(1), np.tile(ends > 0, (T, 1)), atol=1e-12)
  assert got[0].shape == (T, B, attention.context_features(M))


@all_attentions
def test_attend_all_equals_loop_over_queries(attention):
  """The result does not depend on the number of batch axes either: none, one or two."""
  params, queries, memory, more = random_inputs(attention, np.float32)
  context, α = attend_queries(attention, params, queries, memory, LENGTHS, **more)
  keys = attention.compute_keys(params, memory, LENGTHS)
  for t, query in enumerate(queries):
    single = attend(attention, params, query, keys, memory, LENGTHS, **more)
    assert_trees_close(single, (context[t], α[t]), atol=1e-6)
  row = {name: c[:, 2] for name, c in more.items()}
  unbatched = attend_queries(attention, params, queries[:, 2], memory[:, 2], LENGTHS[2], **row)
  assert_trees_close(unbatched, (context[:, 2], α[:, :, 2]), atol=1e-6)
  two_axes = lambda x: x.reshape(len(x), 2, 2, *x.shape[2:])
  more = {name: two_axes(c) for name, c in more.items()}
  results = attend_queries(
    attention, params, two_axes(queries), two_axes(memory), LENGTHS.reshape(2, 2), **more
  )
  assert_trees_close(
    [x.reshape(y.shape) for x, y in zip(results, (context, α))], (context, α), atol=1e-6
  )


@all_attentions
def test_equivariant_to_memory_order(attention):
  """A permutation of the memory permutes α and leaves the context unchanged."""
  params, queries, memory, more = random_inputs(attention, np.float32)
  order = np.array([3, 0, 4, 2, 1])
  context, α = attend_queries(attention, params, queries, memory, **more)
  more = {name: c[order] for name, c in more.items()}
  assert_trees_close(
    attend_queries(attention, params, queries, memory[order], **more),
    (context, α[:, order]),
    atol=1e-6,
  )


@all_attentions
def test_padding_affects_neither_outputs_nor_gradients(attention):
  """NaN in the padding changes neither outputs nor gradients, and all of them are finite."""
  params, queries, memory, more = random_inputs(attention, np.float32)

  def loss(params, queries, memory):
    context, α = attend_queries(attention, params, queries, memory, LENGTHS, **more)
    return jnp.sum(jnp.sin(context)) + jnp.sum(α**2), (context, α)

  gradients = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
  finite_padding, nan_padding = (
    gradients(params, queries, np.where(MASK[..., None], memory, padding).astype(np.float32))
    for padding in (7, np.nan)
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nan_padding))
  jax.tree.map(np.testing.assert_array_equal, finite_padding, nan_padding)
  (_, d_queries, d_memory), (context, α) = nan_padding
  empty = LENGTHS == 0
  assert not np.any(context[:, empty]) and not np.any(α[:, :, empty])
  assert not np.any(d_queries[:, empty]) and not np.any(np.where(MASK[..., None], 0, d_memory))
  assert np.any(d_memory) and np.any(d_queries)


@pytest.mark.usefixtures("float64")
@all_attentions
def test_gradients_equal_finite_differences(attention):
  """Gradients with respect to the parameters, the queries, the memory and the coverage."""
  params, queries, memory, more = random_inputs(attention)
  f = lambda params, queries, memory, more: attend_queries(
    attention, params, queries, memory, LENGTHS, **more
  )
  check_grads(f, (params, queries, memory, more), order=1, modes=["fwd", "rev"], atol=1e-5)


@all_attentions
def test_bfloat16_inputs_give_float32_weights(attention):
  """The context is bfloat16 even if the parameters are float32; the weights are float32."""
  params, queries, memory, more = random_inputs(attention, np.float32)
  half = [jnp.asarray(x, jnp.bfloat16) for x in (queries, memory)]
  context, α = attend_queries(attention, params, *half, LENGTHS, **more)
  assert (context.dtype, α.dtype) == (jnp.bfloat16, jnp.float32)
  np.testing.assert_allclose(α.sum(1), np.tile(LENGTHS > 0, (T, 1)), atol=1e-6)
  expected, _ = attend_queries(attention, params, queries, memory, LENGTHS, **more)
  assert abs(np.float32(context) - expected).max() < 0.05 * abs(expected).max()


@pytest.mark.parametrize("width", [M, 8])
def test_one_head_with_identity_projections_is_scaled_dot(width):
  draw = np.random.default_rng(2)
  queries, memory = (draw.normal(size=(n, B, width)).astype(np.float32) for n in (T, S))
  params = {name: np.eye(width, dtype=np.float32) for name in ("W_q", "W_k", "W_v", "W_o")}
  multi_head = attend_queries(multi_head_attention(1, width), params, queries, memory, LENGTHS)
  assert_trees_close(
    multi_head, attend_queries(scaled_dot_attention(), {}, queries, memory, LENGTHS), atol=1e-6
  )


def test_coverage_has_no_effect_at_init_but_a_gradient():
  attention = additive_attention(A, use_coverage=True)
  _, queries, memory, more = random_inputs(attention, np.float32)
  params = attention.init(KEY, 3, M)
  without = attend_queries(additive_attention(A), params, queries, memory)
  assert_trees_close(attend_queries(attention, params, queries, memory, **more), without, atol=1e-6)
  loss = lambda params: jnp.sum(attend_queries(attention, params, queries, memory, **more)[0] ** 2)
  assert abs(jax.grad(loss)(params)["w_c"]).min() > 0


def test_coverage_loss_on_small_example():
  """α₁ = (.5 .5 0), α₂ = (.2 .3 .5), α₃ = (0 .9 .1) give losses 0, .2 + .3, .8 + .1."""
  α = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 0.9, 0.1]], np.float32)
  np.testing.assert_allclose(coverage_loss(α), [0, 0.5, 0.9], atol=1e-6)
  rows = np.stack([α, α, α], -1)
  rows[2:, :, 1] = np.nan
  lengths = np.array([3, 2, 0])
  expected = [[0, 0, 0], [0.5, 0.5, 0], [0.9, 0, 0]]
  np.testing.assert_allclose(coverage_loss(rows, lengths), expected, atol=1e-6)
  gradient = jax.grad(lambda α: jnp.sum(coverage_loss(α, lengths)))(rows)
  assert np.isfinite(gradient).all() and not np.any(gradient[:, :, 2])


@pytest.mark.parametrize(
  "make",
  [
    dot_attention,
    scaled_dot_attention,
    general_attention,
    lambda: additive_attention(A, use_coverage=True),
    lambda: multi_head_attention(2, A),
  ],
)
def test_repeated_factory_call_does_not_retrace(make):
  """A repeated call of a factory returns the same object, so that jit does not recompile."""
  traces = []

  def f(attention, *args, **more):
    traces.append(attention)
    return attend_queries(attention, *args, **more)

  f = jax.jit(f, static_argnums=0)
  for _ in range(2):
    params, queries, memory, more = random_inputs(make(), np.float32)
    f(make(), params, queries, memory, LENGTHS, **more)
  assert len(traces) == 1


def test_multi_head_equals_pytorch():
  """torch.nn.MultiheadAttention without biases, with a padded memory; PyTorch stores Wᵀ."""
  torch = pytest.importorskip("torch")
  params, queries, memory, _ = random_inputs(multi_head_attention(2, A), np.float32)
  queries = np.pad(queries, ((0, 0), (0, 0), (0, 3)))  # PyTorch needs queries of width A
  params["W_q"] = np.pad(params["W_q"], ((0, 3), (0, 0)))
  module = torch.nn.MultiheadAttention(A, 2, bias=False, kdim=M, vdim=M)
  lengths = np.maximum(LENGTHS, 1)  # PyTorch returns NaN for empty rows
  with torch.no_grad():
    for name in "qkv":
      getattr(module, f"{name}_proj_weight").copy_(torch.tensor(params[f"W_{name}"].T))
    module.out_proj.weight.copy_(torch.tensor(params["W_o"].T))
    is_padding = torch.tensor(np.arange(S) >= lengths[:, None])
    q, m = torch.tensor(queries), torch.tensor(memory)
    context, α = (x.numpy() for x in module(q, m, m, key_padding_mask=is_padding))
  assert_trees_close(
    attend_queries(multi_head_attention(2, A), params, queries, memory, lengths),
    (context, np.moveaxis(α, 0, -1)),
    atol=1e-5,
  )


Z = np.zeros
INVALID_CALLS = {
  "width": (
    lambda: attend_queries(dot_attention(), {}, Z((T, B, 3)), Z((S, B, M))),
    "as wide as the keys, 4; got 3",
    "general_attention()",
  ),
  "lengths": (
    lambda: attend_queries(dot_attention(), {}, Z((T, B, M)), Z((B, S, M)), LENGTHS),
    "shape (5,) of memory",
    "int32 (4,)",
    "Is memory batch-major?",
  ),
  "float lengths": (
    lambda: dot_attention().compute_keys({}, Z((S, B, M)), np.ones(B, "f")),
    "must be integers",
    "float32",
  ),
  "batch": (
    lambda: attend(dot_attention(), {}, Z((B, M)), Z((B, S, M)), Z((B, S, M))),
    "batch shape (5,)",
    "got (4, 4)",
    "Is memory batch-major?",
  ),
  "heads": (lambda: multi_head_attention(4, 6), "heads that divides A", "got 4 heads and A=6"),
  "hidden": (lambda: additive_attention(0), "at least one hidden unit", "got A=0"),
  "unread": (
    lambda: attend_queries(dot_attention(), {}, Z((T, B, M)), Z((S, B, M)), coverage=Z((S, B))),
    "dot() does not use coverage",
    "got coverage of shape (5, 4)",
  ),
  "coverage": (
    lambda: attend_queries(ATTENTIONS[4], *random_inputs(ATTENTIONS[4])[:3]),
    "needs coverage of shape (5, 4)",
    "got None",
    "once for each query",
  ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "call, phrases", [(call, phrases) for call, *phrases in INVALID_CALLS.values()], ids=INVALID_CALLS
)
def test_invalid_input_raises(call, phrases):
  """The message says what was expected, what was given, and the likely cause."""
  with pytest.raises(ValueError) as error:
    call()
  message = str(error.value).replace("int64", "int32")
  assert all(phrase in message for phrase in phrases), message
