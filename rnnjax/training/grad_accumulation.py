"""Gradients of a batch, with optional gradient accumulation and lower-precision compute."""

import jax
import jax.numpy as jnp

from rnnjax.training import sharding
from rnnjax.training.tasks import Task
from rnnjax.types import Array, Carry, Key, Params

DTYPES = ("float32", "bfloat16")


def compute_gradients(
  task: Task,
  params: Params,
  carry: Carry,
  batch,
  key: Key,
  grad_accum_steps: int = 1,
  dtype: str = "float32",
):
  """Return the gradient ∇ (Σ loss / Σ weight) of a batch, the next carry, and the metrics.

  If grad_accum_steps is above 1, the batch is divided into parts that are processed one after
  another, which saves memory. Losses and weights are summed over the parts, so the result is the
  gradient of the whole batch even if the parts have different weights. Each part contains rows from
  every device. Parameters and gradients stay float32; only the model computes in `dtype`.

  Args:
    task: the task.
    params, carry, batch, key: as for `Task.loss`.
    grad_accum_steps: the number of parts; it must divide the rows of each device.
    dtype: the compute dtype, one of DTYPES.

  Returns:
    The gradient, the carry for the next batch, and the metrics {name: Mean}.
  """

  def part_gradients(carry, batch, key):
    """Return (gradient of the summed loss, (carry, metrics)) of one part."""

    def total_loss(params):
      model_params, model_carry = sharding.gather_params(params), carry
      if dtype != "float32":
        model_params = jax.tree.map(lambda p: p.astype(dtype), model_params)
        # Each leaf of the carry has its own dtype: some, such as an LSTM's c, stay float32.
        shapes = jax.tree.map(
          lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (model_params, batch)
        )
        carry_shapes = jax.eval_shape(task.initial_carry, *shapes)
        model_carry = jax.tree.map(lambda c, s: c.astype(s.dtype), carry, carry_shapes)
      new_carry, metrics = task.loss(model_params, model_carry, batch, key)
      # The state's dtypes must not change from step to step, or the step would be recompiled.
      new_carry = jax.tree.map(lambda new, old: new.astype(old.dtype), new_carry, carry)
      return metrics["loss"].total, (new_carry, metrics)

    return jax.grad(total_loss, has_aux=True)(params)

  if grad_accum_steps == 1:
    grads, (carry, metrics) = part_gradients(carry, batch, key)
  else:
    carry_parts = jax.tree.map(lambda c: _split_rows(c, 0, grad_accum_steps), carry)
    batch_parts = jax.tree.map(
      lambda a: _split_rows(a, min(a.ndim - 1, 1), grad_accum_steps), batch
    )

    def accumulate(sums, part):
      index, carry, batch = part
      grads, (carry, metrics) = part_gradients(carry, batch, jax.random.fold_in(key, index))
      return jax.tree.map(jnp.add, sums, (grads, metrics)), carry

    first_parts = jax.tree.map(lambda a: a[0], (carry_parts, batch_parts))
    shapes = jax.eval_shape(part_gradients, *first_parts, key)
    zero_metrics = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1][1])
    zeros = jax.tree.map(jnp.zeros_like, params), zero_metrics
    (grads, metrics), new_carry = jax.lax.scan(
      accumulate, zeros, (jnp.arange(grad_accum_steps), carry_parts, batch_parts)
    )
    carry = jax.tree.map(lambda a, c: jnp.moveaxis(a, 0, 1).reshape(c.shape), new_carry, carry)
  # Dividing after the sum needs one all-reduce per step instead of one per part.
  return jax.tree.map(lambda g: g / metrics["loss"].weight, grads), carry, metrics


def _split_rows(a: Array, axis: int, num_parts: int) -> Array:
  """Reshape [..., B, ...] to [num_parts, ..., B / num_parts, ...].

  Part i has the rows i, i + num_parts, i + 2 num_parts and so on, so that no row moves to another
  device.

  Raises:
    ValueError: the array is a scalar.
  """
  if a.ndim == 0:
    raise ValueError("gradient accumulation needs a carry of arrays [B, ...]; got a scalar")
  shape = *a.shape[:axis], a.shape[axis] // num_parts, num_parts, *a.shape[axis + 1 :]
  return jnp.moveaxis(a.reshape(shape), axis + 1, 0)
