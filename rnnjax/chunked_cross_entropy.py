"""Cross entropy of a linear layer, computed in chunks of rows to save memory.

Only the logits of one chunk are in memory at a time. The loss is a scalar, so its cotangent is a
scalar that scales all gradients at the end. Therefore the forward pass can also compute the
gradients of each chunk, while the logits of the chunk are in cache:

    z = h Wᵀ + b                            logits [R, V] of a chunk of R rows
    loss += Σ w (log Σᵥ exp zᵥ − z_label)
    g = w (softmax(z) − onehot(label))      ∂loss/∂z
    dh = g W,   dW += gᵀ h,   db += Σ g

Each chunk needs three matrix products. Nothing is recomputed in the backward pass, and the saved
arrays have the sizes of h and W.
"""

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import cast_to_varying, shard_over_batch
from rnnjax.cells.base import accumulation_dtype
from rnnjax.types import Array, Params

CHUNK_LOGITS = 2_600_000  # logits in one chunk; this many fit in cache
MIN_CHUNK_ROWS = 160  # with fewer rows, most time is spent on adding to dW


def sum_over_steps(loss):
  """Convert a loss of arrays with N rows to a loss of arrays with axes [T, *batch] (decorator).

  If the batch is sharded over a mesh, each device sums the loss of its own rows. The devices
  communicate once, to sum the loss or the gradients of the parameters. A label with weight 0 may be
  out of range, because it is replaced by 0.

  Args:
    loss: (params, hs [N, D], labels [N], weights [N]) -> a scalar.

  Returns:
    A function (params, hs [T, *batch, D], labels [T, *batch], weights [T, *batch]) -> a scalar. The
    function raises ValueError if the shape of labels or weights differs from hs.shape[:-1].
  """

  def run(params, hs, targets, _):
    params = cast_to_varying(params, hs)
    rows = hs.reshape(-1, hs.shape[-1])
    labels, weights = (a.reshape(-1) for a in targets)
    labels = jnp.where(weights != 0, labels, 0)
    if rows.size:
      shard_loss = loss(params, rows, labels, weights)
    else:
      shard_loss = rows.sum(dtype=accumulation_dtype(rows.dtype))  # 0, with the sharding of hs
    return shard_loss.reshape((1,) * (hs.ndim - 2)), None

  def total(params: Params, hs: Array, labels: Array, weights: Array) -> Array:
    if not hs.shape[:-1] == labels.shape == weights.shape:
      raise ValueError(
        "an output layer needs hs [T, *batch, D] and a label and a weight for each step, "
        f"[T, *batch]; got hs {hs.shape}, labels {labels.shape}, weights {weights.shape}"
      )
    return shard_over_batch(run)(params, hs, (labels, weights), None)[0].sum()

  return total


def linear_cross_entropy(W: Array, b: Array, h: Array, labels: Array, weights: Array) -> Array:
  """Return the weighted cross entropy of a linear layer, summed over the rows.

      loss = Σ weight · (−log softmax(h Wᵀ + b)_label)

  The loss is a scalar in nats, in float32 or wider. If there is more than one chunk, the rows
  before the first non-zero weight and after the last non-zero weight are skipped. The weights are
  treated as constants: their gradient is 0. Forward-mode differentiation (jvp) is not supported.

  Args:
    W: weights [V, D] of the layer; cast to the dtype of h.
    b: biases [V] of the layer; cast to the dtype of h.
    h: features [N, D].
    labels: integers [N], at least 0 and below V.
    weights: loss weight of each row [N].
  """
  weights = jax.lax.stop_gradient(weights.astype(accumulation_dtype(h.dtype)))
  if _chunk_rows(h.shape[0], W.shape[0]) < h.shape[0]:
    return _chunked_loss(W, b, h, labels, weights)
  # With a single chunk, autodiff is faster: scaling the gradients at the end costs one more pass
  # over dh.
  return _chunk_loss(W.astype(h.dtype), b.astype(h.dtype), h, labels, weights)[0]


@jax.custom_vjp
def _chunked_loss(W, b, h, labels, weights):
  return _run_chunks(_chunk_loss, W, b, h, labels, weights)[0]


def _forward(W, b, h, labels, weights):
  loss, dW, db, dh = _run_chunks(_chunk_loss_and_grads, W, b, h, labels, weights)
  # The empty slices only save the dtypes of W and b, which may differ from the dtype of h.
  return loss, (dW, db, dh, W[:0], b[:0])


def _backward(saved, cotangent):
  dW, db, dh, *empty = saved
  dtypes = [a.dtype for a in (*empty, dh)]
  return *((cotangent * d).astype(dtype) for d, dtype in zip((dW, db, dh), dtypes)), None, None


_chunked_loss.defvjp(_forward, _backward)


def _run_chunks(run, W, b, h, labels, weights):
  """Call `run` on each chunk of rows, and sum its results over the chunks.

  Args:
    run: `_chunk_loss` or `_chunk_loss_and_grads`.
    W, b, h, labels, weights: as for `linear_cross_entropy`.

  Returns:
    The summed results of `run`. The last result is dh [N, D], or None for `_chunk_loss`.
  """
  N = h.shape[0]
  R = _chunk_rows(N, W.shape[0])
  W, b = W.astype(h.dtype), b.astype(h.dtype)
  # Skip the rows before the first non-zero weight and after the last non-zero weight.
  nonzero = weights != 0
  first = jnp.argmax(nonzero)
  count = jnp.where(nonzero.any(), N - jnp.argmax(nonzero[::-1]) - first, 0)

  def chunk(i):
    """Return the first row of chunk i, and the results of `run` on the chunk.

    The last chunk is shifted so that it does not exceed row N. Rows that also belong to the chunk
    before it get weight 0.
    """
    begin = first + i * R
    start = jnp.minimum(begin, N - R)
    is_new = start + jnp.arange(R) >= begin
    hr, label, w = (jax.lax.dynamic_slice_in_dim(a, start, R) for a in (h, labels, weights))
    return start, run(W, b, hr, label, jnp.where(is_new, w, 0))

  def add_rows(dh, start, dhr):
    rows = jax.lax.dynamic_slice_in_dim(dh, start, R)
    return jax.lax.dynamic_update_slice_in_dim(dh, rows + dhr, start, 0)

  def body(i, sums):
    *totals, dh = sums
    start, (*terms, dhr) = chunk(i)
    dh = None if dh is None else add_rows(dh, start, dhr)
    return *(total + term for total, term in zip(totals, terms)), dh

  # The first chunk runs before the loop, so that dW needs no initial array of zeros.
  start, (*totals, dhr) = chunk(0)
  dh = None if dhr is None else add_rows(jnp.zeros_like(h), start, dhr)
  return jax.lax.fori_loop(1, (count + R - 1) // R, body, (*totals, dh))


def _chunk_rows(N, V):
  """Return R, the number of rows in a chunk, for N rows and a vocabulary of size V.

  A chunk has about CHUNK_LOGITS logits, but at least about MIN_CHUNK_ROWS rows. The chunks have
  nearly equal numbers of rows.
  """
  chunks = -(-N // max(MIN_CHUNK_ROWS, CHUNK_LOGITS // V))
  return min(N, 8 * -(-N // (8 * chunks)))  # a multiple of 8


def _chunk_loss(W, b, h, labels, weights):
  """Return (loss, None) for a chunk of rows: no gradients are computed, so dh is None."""
  z = _matmul(h, W.T) + b
  log_p = jax.nn.log_softmax(z)
  return -(weights * jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0]).sum(), None


def _chunk_loss_and_grads(W, b, h, labels, weights):
  """Return (loss, dW, db, dh) for a chunk of rows. Each exponential is evaluated only once."""
  z = _matmul(h, W.T) + b
  z_max = z.max(-1, keepdims=True)
  e = jnp.exp(z - z_max)
  total = e.sum(-1, keepdims=True)
  z_label = jnp.take_along_axis(z, labels[:, None], 1)
  loss = (weights * (jnp.log(total) + z_max - z_label)[:, 0]).sum()
  is_label = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) == labels[:, None]
  g = weights[:, None] / total * jnp.where(is_label, e - total, e)
  g, db = g.astype(h.dtype), g.sum(0)
  return loss, _matmul(g.T, h), db, _matmul(g, W).astype(h.dtype)


def _matmul(a, c):
  """Return a @ c, accumulated in float32 or wider."""
  return jnp.matmul(a, c, preferred_element_type=accumulation_dtype(a.dtype))
