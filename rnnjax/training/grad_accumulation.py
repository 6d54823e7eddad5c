"""The gradient of a batch, taken whole or in parts, in float32 or a narrower type."""

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
  """∇ (Σ loss / Σ weight) of a batch; returns it, the carry to the next, and {name: Mean}.

  A batch may be taken in parts one after another, for the memory of one: their sums are added, and
  so the gradient is that of the whole batch, whatever the weights of the parts. Each part has some
  rows of each device. Parameters and their gradient stay in float32 whatever the precision, in
  which the model alone computes.

  Args:
    task: what is learnt.
    params, carry, batch, key: as for `Task.loss`.
    accumulate: how many parts; they divide the rows of each device.
    precision: one of PRECISIONS.
  """

  def one(carry, batch, key):
    def total(params):
      whole, begin = sharding.gather_params(params), carry
      if dtype != "float32":
        whole = jax.tree.map(lambda p: p.astype(dtype), whole)
        plain = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (whole, batch))
        kinds = jax.eval_shape(task.initial_carry, *plain)
        begin = jax.tree.map(lambda c, kind: c.astype(kind.dtype), carry, kinds)
      after, metrics = task.loss(whole, begin, batch, key)
      after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, carry)
      return metrics["loss"].total, (after, metrics)

    return jax.grad(total, has_aux=True)(params)

  if grad_accum_steps == 1:
    grads, (carry, metrics) = one(carry, batch, key)
  else:
    axis = lambda a: min(a.ndim - 1, 1)
    state = jax.tree.map(lambda c: _split_rows(c, 0, grad_accum_steps), carry)
    batch = jax.tree.map(lambda a: _split_rows(a, axis(a), grad_accum_steps), batch)

    def step(sums, part):
      n, carry, batch = part
      grads, (carry, metrics) = one(carry, batch, jax.random.fold_in(key, n))
      return jax.tree.map(jnp.add, sums, (grads, metrics)), carry

    shapes = jax.eval_shape(one, *jax.tree.map(lambda a: a[0], (state, batch)), key)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1][1])
    start = jax.tree.map(jnp.zeros_like, params), zero
    (grads, metrics), after = jax.lax.scan(
      step, start, (jnp.arange(grad_accum_steps), state, batch)
    )
    carry = jax.tree.map(lambda a, c: jnp.moveaxis(a, 0, 1).reshape(c.shape), after, carry)
  # The weight divides at the end, so that devices meet once, when all is summed.
  return jax.tree.map(lambda g: g / metrics["loss"].weight, grads), carry, metrics


def _split_rows(a: Array, axis: int, num_parts: int) -> Array:
  """[..., B, ...] as [parts, ..., B / parts, ...]: every so manieth row, which moves none of them
  from one device to another."""
  if a.ndim == 0:
    raise ValueError("a carry of numbers beside rows cannot be cut into parts")
  shape = *a.shape[:axis], a.shape[axis] // num_parts, num_parts, *a.shape[axis + 1 :]
  return jnp.moveaxis(a.reshape(shape), axis + 1, 0)
