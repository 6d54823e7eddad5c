"""Attention: against NumPy loops and PyTorch, and by its laws."""

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
  """One query, the steps of one row's memory -> e by head and step, and the values mixed."""
  if name == "dot()":
    return [[q @ k for k in m]], [m]
  if name == "scaled_dot()":
    return [[q @ k / np.sqrt(len(k)) for k in m]], [m]
  if name == "general()":
    return [[q @ p["W"] @ k for k in m]], [m]
  if name.startswith("additive"):
    c = np.multiply.outer(c, p.get("w_c", np.zeros(A)))
    return [[p["v"] @ np.tanh(q @ p["W"] + k @ p["U"] + p["b"] + x) for k, x in zip(m, c)]], [m]
  shares = np.split(np.arange(A), 2)
  e = [[(q @ p["W_q"][:, i]) @ (k @ p["W_k"][:, i]) / np.sqrt(A / 2) for k in m] for i in shares]
  return e, [m @ p["W_v"][:, i] for i in shares]


def reference_attention(attention, p, queries, memory, lengths, c):
  """Context [T, B, ...] and α [T, S, B], row by row and query by query."""
  rows, α = len(queries[0]), np.zeros((len(queries), *memory.shape[:2]))
  context = np.zeros((len(queries), rows, attention.context_features(memory.shape[-1])))
  for t in range(len(queries)):
    for b in [b for b in range(rows) if lengths[b]]:
      n = lengths[b]
      es, values = reference_scores(attention.name, p, queries[t, b], memory[:n, b], c[:n, b])
      weights = [np.exp(e) / np.exp(e).sum() for e in es]
      α[t, :n, b] = np.mean(weights, 0)
      mixed = np.concatenate([w @ v for w, v in zip(weights, values)])
      context[t, b] = mixed @ p["W_o"] if "W_o" in p else mixed
  return context, α


def random_inputs(attention, dtype=np.float64):
  """params, none of them zero, queries [T, B, Q], a memory [S, B, M], and keywords: coverage."""
  draw = np.random.default_rng(1)
  normal = lambda shape: draw.normal(size=shape).astype(dtype)
  Q = M if "dot" in attention.name else 3
  params = jax.tree.map(lambda p: normal(p.shape), attention.init(KEY, Q, M))
  more = {"coverage": abs(normal((S, B)))} if attention.uses_coverage else {}
  return params, normal((T, B, Q)), normal((S, B, M)), more


def attend_queries(attention, params, queries, memory, lengths=None, **more):
  """All queries, each with the same coverage; the keys are made anew."""
  keys = attention.compute_keys(params, memory, lengths)
  if not more:
    return attend_all(attention, params, queries, keys, memory, lengths)
  one = lambda query: attend(attention, params, query, keys, memory, lengths, **more)
  return jax.vmap(one)(queries)


def assert_trees_close(got, expected, **tolerance):
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, **({"atol": 1e-12} | tolerance))


@pytest.mark.usefixtures("float64")
@all_attentions
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_context_and_weights_equal_reference(attention, lengths):
  """Context and α are the papers', 0 past a row's length; α sums to one where there is a step."""
  params, queries, memory, more = random_inputs(attention)
  got = attend_queries(attention, params, queries, memory, lengths, **more)
  ends = np.full(B, S) if lengths is None else lengths
  c = more.get("coverage", np.zeros((S, B)))
  assert_trees_close(got, reference_attention(attention, params, queries, memory, ends, c))
  np.testing.assert_allclose(got[1].sum(1), np.tile(ends > 0, (T, 1)), atol=1e-12)
  assert got[0].shape == (T, B, attention.context_features(M))


@all_attentions
def test_attend_all_equals_loop_over_queries(attention):
  """One by one, without batch axes and with two, it is the same."""
  params, queries, memory, more = random_inputs(attention, np.float32)
  context, α = attend_queries(attention, params, queries, memory, LENGTHS, **more)
  keys = attention.compute_keys(params, memory, LENGTHS)
  for t, query in enumerate(queries):
    one = attend(attention, params, query, keys, memory, LENGTHS, **more)
    assert_trees_close(one, (context[t], α[t]), atol=1e-6)
  row = {name: c[:, 2] for name, c in more.items()}
  alone = attend_queries(attention, params, queries[:, 2], memory[:, 2], LENGTHS[2], **row)
  assert_trees_close(alone, (context[:, 2], α[:, :, 2]), atol=1e-6)
  square = lambda x: x.reshape(len(x), 2, 2, *x.shape[2:])
  more = {name: square(c) for name, c in more.items()}
  folded = attend_queries(
    attention, params, square(queries), square(memory), LENGTHS.reshape(2, 2), **more
  )
  assert_trees_close(
    [x.reshape(y.shape) for x, y in zip(folded, (context, α))], (context, α), atol=1e-6
  )


@all_attentions
def test_equivariant_to_memory_order(attention):
  """Shuffling the steps shuffles α alike and leaves the context."""
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
  """NaN past a row's length changes neither outputs nor gradients, all of them finite."""
  params, queries, memory, more = random_inputs(attention, np.float32)

  def loss(params, queries, memory):
    context, α = attend_queries(attention, params, queries, memory, LENGTHS, **more)
    return jnp.sum(jnp.sin(context)) + jnp.sum(α**2), (context, α)

  measure = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
  plain, broken = (
    measure(params, queries, np.where(MASK[..., None], memory, filler).astype(np.float32))
    for filler in (7, np.nan)
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(broken))
  jax.tree.map(np.testing.assert_array_equal, plain, broken)
  (_, d_queries, d_memory), (context, α) = broken
  dead = LENGTHS == 0
  assert not np.any(context[:, dead]) and not np.any(α[:, :, dead])
  assert not np.any(d_queries[:, dead]) and not np.any(np.where(MASK[..., None], 0, d_memory))
  assert np.any(d_memory) and np.any(d_queries)


@pytest.mark.usefixtures("float64")
@all_attentions
def test_gradients_equal_finite_differences(attention):
  """With respect to the parameters, the queries, the memory and the coverage."""
  params, queries, memory, more = random_inputs(attention)
  f = lambda params, queries, memory, more: attend_queries(
    attention, params, queries, memory, LENGTHS, **more
  )
  check_grads(f, (params, queries, memory, more), order=1, modes=["fwd", "rev"], atol=1e-5)


@all_attentions
def test_bfloat16_inputs_give_float32_weights(attention):
  """bfloat16 in, bfloat16 out, though the parameters are float32; the weights are float32."""
  params, queries, memory, more = random_inputs(attention, np.float32)
  half = [jnp.asarray(x, jnp.bfloat16) for x in (queries, memory)]
  context, α = attend_queries(attention, params, *half, LENGTHS, **more)
  assert (context.dtype, α.dtype) == (jnp.bfloat16, jnp.float32)
  np.testing.assert_allclose(α.sum(1), np.tile(LENGTHS > 0, (T, 1)), atol=1e-6)
  expected, _ = attend_queries(attention, params, queries, memory, LENGTHS, **more)
  assert abs(np.float32(context) - expected).max() < 0.05 * abs(expected).max()


@pytest.mark.parametrize("width", [M, 8])
def test_one_head_with_identity_projections_is_scaled_dot(width):
  """Projections that leave all as it is: nothing but the scaled dot product remains."""
  draw = np.random.default_rng(2)
  queries, memory = (draw.normal(size=(n, B, width)).astype(np.float32) for n in (T, S))
  params = {name: np.eye(width, dtype=np.float32) for name in ("W_q", "W_k", "W_v", "W_o")}
  one = attend_queries(multi_head_attention(1, width), params, queries, memory, LENGTHS)
  assert_trees_close(
    one, attend_queries(scaled_dot_attention(), {}, queries, memory, LENGTHS), atol=1e-6
  )


def test_coverage_has_no_effect_at_init_but_a_gradient():
  """w_c begins at 0, but its gradient does not."""
  attention = additive_attention(A, use_coverage=True)
  _, queries, memory, more = random_inputs(attention, np.float32)
  params = attention.init(KEY, 3, M)
  plain = attend_queries(additive_attention(A), params, queries, memory)
  assert_trees_close(attend_queries(attention, params, queries, memory, **more), plain, atol=1e-6)
  loss = lambda params: jnp.sum(attend_queries(attention, params, queries, memory, **more)[0] ** 2)
  assert abs(jax.grad(loss)(params)["w_c"]).min() > 0


def test_coverage_loss_on_small_example():
  """α₁ = (.5 .5 0), α₂ = (.2 .3 .5), α₃ = (0 .9 .1): 0, .2 + .3, .8 + .1."""
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
  """A factory called again gives the same attention, so that jit does not compile anew."""
  traced = []

  def f(attention, *args, **more):
    traced.append(attention)
    return attend_queries(attention, *args, **more)

  f = jax.jit(f, static_argnums=0)
  for _ in range(2):
    params, queries, memory, more = random_inputs(make(), np.float32)
    f(make(), params, queries, memory, LENGTHS, **more)
  assert len(traced) == 1


def test_multi_head_equals_pytorch():
  """torch.nn.MultiheadAttention without biases, its memory padded; torch keeps Wᵀ."""
  torch = pytest.importorskip("torch")
  params, queries, memory, _ = random_inputs(multi_head_attention(2, A), np.float32)
  queries = np.pad(queries, ((0, 0), (0, 0), (0, 3)))  # torch has one width A for q and the rest
  params["W_q"] = np.pad(params["W_q"], ((0, 3), (0, 0)))
  net = torch.nn.MultiheadAttention(A, 2, bias=False, kdim=M, vdim=M)
  lengths = np.maximum(LENGTHS, 1)  # torch gives NaN where there is no step
  with torch.no_grad():
    for name in "qkv":
      getattr(net, f"{name}_proj_weight").copy_(torch.tensor(params[f"W_{name}"].T))
    net.out_proj.weight.copy_(torch.tensor(params["W_o"].T))
    dead = torch.tensor(np.arange(S) >= lengths[:, None])
    q, m = torch.tensor(queries), torch.tensor(memory)
    context, α = (x.numpy() for x in net(q, m, m, key_padding_mask=dead))
  assert_trees_close(
    attend_queries(multi_head_attention(2, A), params, queries, memory, lengths),
    (context, np.moveaxis(α, 0, -1)),
    atol=1e-5,
  )


Z = np.zeros
WRONG = {
  "width": (
    lambda: attend_queries(dot_attention(), {}, Z((T, B, 3)), Z((S, B, M))),
    "as wide as the keys, 4; got 3",
    "general()",
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
  "heads": (lambda: multi_head_attention(4, 6), "divide its A features", "got 4 and 6"),
  "hidden": (lambda: additive_attention(0), "additive needs a positive number", "got 0"),
  "unread": (
    lambda: attend_queries(dot_attention(), {}, Z((T, B, M)), Z((S, B, M)), coverage=Z((S, B))),
    "dot() reads no coverage",
    "got (5, 4)",
  ),
  "coverage": (
    lambda: attend_queries(ATTENTIONS[4], *random_inputs(ATTENTIONS[4])[:3]),
    "reads coverage (5, 4)",
    "got None",
    "one query after another",
  ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("call, phrases", [(w[0], w[1:]) for w in WRONG.values()], ids=WRONG)
def test_invalid_input_raises(call, phrases):
  """Each mistake has a message of its own: what was expected, what came, why."""
  with pytest.raises(ValueError) as raised:
    call()
  message = str(raised.value).replace("int64", "int32")
  assert all(phrase in message for phrase in phrases), message
