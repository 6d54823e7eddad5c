"""The cross entropy of a linear layer that never holds all logits at once.

The loss is a sum, its cotangent a scalar that multiplies last. So the way forward, which has the
logits of a chunk of rows in cache, already leaves the gradients of that chunk:

    z = h Wᵀ + b                            [R, V], R rows at a time
    loss += Σ w (log Σᵥ exp zᵥ − z_label)
    g = w (softmax(z) − onehot(label))      ∂loss/∂z
    dh = g W,   dW += gᵀ h,   db += Σ g

Three products in all, nothing is computed twice, and what is kept is as large as h and W.
"""

import jax
import jax.numpy as jnp

from rnnjax.backends.batch_sharding import cast_to_varying, shard_over_batch
from rnnjax.cells.base import accumulation_dtype
from rnnjax.types import Array, Params

# A chunk of this many logits stays in cache; fewer rows than LEAST would wait for adding up dW.
CHUNK_LOGITS, MIN_CHUNK_ROWS = 2_600_000, 160


def sum_over_steps(loss):
  """loss(params, hs [N, D], labels [N], weights [N]), a scalar, as one of [T, *batch] steps.

  Where the batch is cut along a mesh each device sums its own rows and they meet once, to add up
  the loss, or the gradients of the parameters. Labels of weight 0 may be anything: 0 is put there.

  Raises (when that is called):
    ValueError: labels or weights are not of the shape of hs but for its last axis.
  """

  def run(params, hs, targets, _):
    params, rows = cast_to_varying(params, hs), hs.reshape(-1, hs.shape[-1])
    labels, weights = (step.reshape(-1) for step in targets)
    labels = jnp.where(weights != 0, labels, 0)
    each = (
      loss(params, rows, labels, weights)
      if rows.size
      else rows.sum(dtype=accumulation_dtype(rows.dtype))
    )
    return each.reshape((1,) * (hs.ndim - 2)), None

  def total(params: Params, hs: Array, labels: Array, weights: Array) -> Array:
    if not hs.shape[:-1] == labels.shape == weights.shape:
      raise ValueError(
        "a softmax needs hs [T, *batch, D] and a label and a weight for each step, [T, *batch]; "
        f"got hs {hs.shape}, labels {labels.shape}, weights {weights.shape}"
      )
    return shard_over_batch(run)(params, hs, (labels, weights), None)[0].sum()

  return total


def linear_cross_entropy(W: Array, b: Array, h: Array, labels: Array, weights: Array) -> Array:
  """Σ weights · (−log softmax(h Wᵀ + b)_label), in nats and at least float32.

  Of many rows, only those from the first to the last of weight other than 0 are computed. The
  weights are constants: they get no gradient. Not differentiable in forward mode (jvp).

  Args:
    W: [V, D]; computed in the type of h, as is b.
    b: [V].
    h: [N, D].
    labels: [N], below V.
    weights: [N].
  """
  weights = jax.lax.stop_gradient(weights.astype(accumulation_dtype(h.dtype)))
  if _chunk_rows(h.shape[0], W.shape[0]) < h.shape[0]:
    return _chunked_loss(W, b, h, labels, weights)
  # A single chunk gains nothing: the scalar that multiplies last costs one more pass over dh.
  return _chunk_loss(W.astype(h.dtype), b.astype(h.dtype), h, labels, weights)[0]


@jax.custom_vjp
def _chunked_loss(W, b, h, labels, weights):
  return _run_chunks(_chunk_loss, W, b, h, labels, weights)[0]


def _forward(W, b, h, labels, weights):
  loss, dW, db, dh = _run_chunks(_chunk_loss_and_grads, W, b, h, labels, weights)
  # Empty arrays remember the types, which W and b may not share with h.
  return loss, (dW, db, dh, W[:0], b[:0])


def _backward(saved, cotangent):
  dW, db, dh, *like = saved
  types = [a.dtype for a in (*like, dh)]
  return *((cotangent * d).astype(t) for d, t in zip((dW, db, dh), types)), None, None


_chunked_loss.defvjp(_forward, _backward)


def _run_chunks(run, W, b, h, labels, weights):
  """run on chunk after chunk: what it returns, summed; but its dh, if any, put together."""
  N, R = h.shape[0], _chunk_rows(h.shape[0], W.shape[0])
  W, b = W.astype(h.dtype), b.astype(h.dtype)
  alive = weights != 0
  first = jnp.argmax(alive)
  count = jnp.where(alive.any(), N - jnp.argmax(alive[::-1]) - first, 0)

  def chunk(i):
    """The last chunk ends where the rows do, and its rows that an earlier one had weigh 0."""
    begin = first + i * R
    at = jnp.minimum(begin, N - R)
    own = at + jnp.arange(R) >= begin
    hr, label, w = (jax.lax.dynamic_slice_in_dim(a, at, R) for a in (h, labels, weights))
    return at, run(W, b, hr, label, jnp.where(own, w, 0))

  def place(dh, at, new):
    old = jax.lax.dynamic_slice_in_dim(dh, at, R)
    return jax.lax.dynamic_update_slice_in_dim(dh, old + new, at, 0)

  def body(i, sums):
    *totals, dh = sums
    at, (*new, dhr) = chunk(i)
    return *(a + c for a, c in zip(totals, new)), None if dh is None else place(dh, at, dhr)

  at, (*totals, dhr) = chunk(0)  # out of the loop, so that dW need not be set to zero and added to
  dh = None if dhr is None else place(jnp.zeros_like(h), at, dhr)
  return jax.lax.fori_loop(1, (count + R - 1) // R, body, (*totals, dh))


def _chunk_rows(N, V):
  """R: as many rows as have LOGITS in all, but chunks of one size where that divides N evenly."""
  chunks = -(-N // max(MIN_CHUNK_ROWS, CHUNK_LOGITS // V))
  return min(N, 8 * -(-N // (8 * chunks)))


def _chunk_loss(W, b, h, labels, weights):
  """The loss of one chunk of rows, and None for dh."""
  z = _matmul(h, W.T) + b
  log_p = jax.nn.log_softmax(z)
  return -(weights * jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0]).sum(), None


def _chunk_loss_and_grads(W, b, h, labels, weights):
  """The loss of one chunk of rows, dW and db, and dh; one pass of exp."""
  z = _matmul(h, W.T) + b
  top = z.max(-1, keepdims=True)
  e = jnp.exp(z - top)
  total = e.sum(-1, keepdims=True)
  picked = jnp.take_along_axis(z, labels[:, None], 1)
  loss = (weights * (jnp.log(total) + top - picked)[:, 0]).sum()
  hit = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) == labels[:, None]
  g = weights[:, None] / total * jnp.where(hit, e - total, e)
  g, db = g.astype(h.dtype), g.sum(0)
  return loss, _matmul(g.T, h), db, _matmul(g, W).astype(h.dtype)


def _matmul(a, c):
  """a c, summed in at least float32."""
  return jnp.matmul(a, c, preferred_element_type=accumulation_dtype(a.dtype))
