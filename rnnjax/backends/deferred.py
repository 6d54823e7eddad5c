"""Backpropagation through time with deferred weight gradients.

Only the gradient of the carry must be propagated step by step, so the backward loop computes only
this gradient. The weight gradients are computed after the loop, as products over many steps at
once:

    dzₜ = ∂L/∂zₜ                 in the loop, because dzₜ depends on dhₜ
    dU = Σₜ hₜ₋₁ᵀ dzₜ            after the loop: one product [H, TB] [TB, GH], not T small products

The backward pass runs over chunks of steps. There is one implementation for additive cells, and a
slower implementation for all other cells.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.backends import malloc
from rnnjax.backends.interface import (
  Backend,
  cast_to_varying,
  project_steps,
  requires_independent_rows,
  shard_over_batch,
  tree_add,
  where_mask,
)
from rnnjax.cells.base import Cell, accumulation_dtype, preactivations
from rnnjax.types import Array, Carry, Params


class DeferredOptions(NamedTuple):
  """Options of `deferred`. They change speed and memory use, but not the results.

  Attributes:
    save_gates: save the gates of every step for the backward pass. If False, the backward pass
      recomputes the gates, with one product per chunk. The carry of every step is always saved.
    chunk_size: steps of the backward loop between two updates of the weight gradients; None for
      one update after all steps. It must divide T.
    precompute_inputs: project the inputs of all steps before the loop, in one product. If False,
      each step projects its own input.
    concat_gates: concatenate the gradients of an additive cell's gates at each step. If False, the
      gradients are written into one array, gate by gate.
    unroll: number of steps per iteration of the compiled loop, as for `lax.scan`.
  """

  save_gates: bool = True
  chunk_size: int | None = None
  precompute_inputs: bool = False
  concat_gates: bool = False
  unroll: int = 1


def choose_options(cell: Cell, params: Params, xs: Array) -> DeferredOptions:
  """Return the fastest options for a cell and xs [T, ..., D] on one device.

  The choice is based on the measurements in the README of this folder.
  """
  if jax.default_backend() != "cpu":
    # Accelerators have enough memory, and every kernel launch costs time, so large operations over
    # many steps are fastest.
    return DeferredOptions(precompute_inputs=True, concat_gates=True, unroll=4)
  T, D = xs.shape[0], xs.shape[-1]
  batch_size = math.prod(xs.shape[1:-1])
  # Products over 512 rows are as fast as larger products, and the operands still fit in the cache.
  chunk_size = next((k for k in range(1, T) if k * batch_size >= 512 and T % k == 0), None)
  # Saving the gates is slower than recomputing the gates only if two conditions hold: every call
  # allocates new memory from the system, and recomputing is cheap.
  us = jax.tree.leaves(jax.eval_shape(functools.partial(project_steps, cell), params, xs))
  gate_bytes = sum(u.size * u.dtype.itemsize for u in us)
  save_gates = malloc.malloc_tuned or D + cell.features > 256 or gate_bytes < 20 * 2**20
  return DeferredOptions(save_gates=save_gates, chunk_size=chunk_size)


def deferred(
  cell: Cell,
  params: Params,
  xs: Array,
  mask: Array | None,
  carry: Carry,
  reverse: bool,
  options: DeferredOptions | None = None,
) -> tuple[Carry, Array]:
  """Run a cell over a sequence, with deferred weight gradients.

  If the batch is sharded over a mesh, each device runs the loop over its own rows, and the devices
  synchronize once, to sum the weight gradients. Forward-mode differentiation (jvp) is not
  supported.

  Args:
    cell, params, xs, mask, carry, reverse: as for `rnnjax.backends.scan.scan`.
    options: `choose_options(cell, params, xs)` if None.

  Returns:
    The final carry and the outputs ys [T, ..., H].
  """

  def run(params, xs, mask, carry):
    params, carry = (cast_to_varying(tree, xs) for tree in (params, carry))
    chosen = options or choose_options(cell, params, xs)
    return _run(cell, chosen, reverse, params, xs, mask, carry)

  return shard_over_batch(run)(params, xs, mask, carry)


BACKEND = Backend(deferred, requires_independent_rows)


# Forward pass


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(cell, options, reverse, params, xs, mask, carry):
  outputs, _ = _forward(cell, options, reverse, params, xs, mask, carry)
  return outputs


def _forward(cell, options, reverse, params, xs, mask, carry):
  """Run the loop; return (carry, ys), and the arrays saved for the backward pass.

  The saved arrays are the inputs, the carry before each step and, if `options.save_gates` is set,
  the preactivations of additive cells.
  """

  def step(carry, inputs):
    x, mask_t = inputs
    u = x if options.precompute_inputs else cell.project(params, x)
    z = None
    if cell.pointwise:
      z = _cell_preactivations(cell, params, u, carry[0])
      new_carry, y = cell.pointwise(params, carry, z)
    else:
      new_carry, y = cell.step(params, carry, u)
    new_carry = where_mask(mask_t, new_carry, carry)
    y = where_mask(mask_t, y, jnp.zeros_like(y))
    return new_carry, (y, carry, z if options.save_gates else None)

  inputs = project_steps(cell, params, xs) if options.precompute_inputs else xs
  final_carry, (ys, prev_carries, zs) = jax.lax.scan(
    step, carry, (inputs, mask), reverse=reverse, unroll=options.unroll
  )
  return (final_carry, ys), (params, xs, mask, prev_carries, zs)


def _cell_preactivations(cell, params, u, h):
  """Return the preactivations of an additive cell's gates, from u = x W + b and h."""
  return preactivations(u, h @ params["U"], _num_gates(cell, params), cell.num_split_gates)


def _num_gates(cell, params):
  return params["b"].shape[0] // cell.features


# Backward pass


def _backward(cell, options, reverse, saved, cotangents):
  """Run the backward loop chunk by chunk, and sum the weight gradients over the chunks."""
  params, xs, mask, prev_carries, zs = saved
  dcarry, dys = cotangents
  T = dys.shape[0]
  chunk_size = options.chunk_size or T
  make_backward = _additive_backward if cell.pointwise else _generic_backward
  backward_chunk = make_backward(cell, params, reverse, chunk_size, options)

  def add_chunk(carry, first_step):
    dcarry, dparams = carry
    try:
      dcarry, chunk_dparams, dxs = backward_chunk(
        first_step, dcarry, xs, mask, prev_carries, zs, dys
      )
    except Exception as error:
      error.add_note(f"This happened when one step of {cell} was differentiated.")
      raise
    return (dcarry, tree_add(dparams, chunk_dparams)), dxs

  zeros = jax.tree.map(lambda p: jnp.zeros_like(p, accumulation_dtype(p.dtype)), params)
  first_steps = jnp.arange(0, T, chunk_size)
  (dcarry, dparams), dxs = jax.lax.scan(
    add_chunk, (dcarry, zeros), first_steps, reverse=not reverse
  )
  dparams = jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, params)
  return dparams, dxs.reshape(T, *dxs.shape[2:]), None, dcarry


_run.defvjp(_forward, _backward)


def _additive_backward(cell, params, reverse, chunk_size, options):
  """Return a function that runs the backward pass of an additive cell over one chunk of steps.

      backward_chunk(first_step, dcarry, xs, mask, prev_carries, zs, dys) -> dcarry, dparams, dxs

  `first_step` is the first step of the chunk, and `dcarry` is the gradient of the carry after the
  chunk. The other arguments contain all T steps; the function reads only the steps of the chunk.

  The matrix products need the gradients of all gates in one array: at each step to compute dhₜ₋₁,
  and after the loop to compute the weight gradients. `options.concat_gates` selects how this array
  is built. Concatenating the gates is slow on a CPU. Writing the gates one by one is slow on a GPU.
  """
  G, H, num_split = _num_gates(cell, params), cell.features, cell.num_split_gates
  # Parameters that `pointwise` reads, such as peepholes: their gradients are summed in the loop.
  pointwise_params = {name: p for name, p in params.items() if name not in ("W", "U", "b")}
  U_transposed = params["U"].T

  def backward_chunk(first_step, dcarry, xs, mask, prev_carries, zs, dys):
    x = jax.lax.dynamic_slice_in_dim(xs, first_step, chunk_size)
    h = jax.lax.dynamic_slice_in_dim(prev_carries[0], first_step, chunk_size)
    step_shape = h.shape[:-1]  # (chunk_size, *batch)
    x, h = _merge_leading_axes(x), _merge_leading_axes(h)
    # On a GPU, a sum over the batch costs one more kernel launch per step. So on a GPU the loop
    # keeps the gradients of the pointwise parameters separate for each row of the batch; the sum
    # over the batch is taken after the loop.
    batch = step_shape[1:] if options.concat_gates else ()
    row_params = jax.tree.map(lambda p: jnp.broadcast_to(p, (*batch, *p.shape)), pointwise_params)
    pointwise = cell.pointwise
    for _ in batch:
      pointwise = jax.vmap(pointwise)
    recomputed_zs = None
    if zs is None:
      recomputed_zs = [
        z.reshape(*step_shape, H)
        for z in _cell_preactivations(cell, params, cell.project(params, x), h)
      ]

    # Both functions return (buffers, dv, stacked): the updated buffers, the gradient dv of v = h U
    # at this step, and the values that the scan stacks over steps.
    def write_gates(buffers, du_gates, dv_gates, k):
      du, dv = buffers
      du = _write_row(du, du_gates, k)
      dv = _write_row(dv, dv_gates, k) if num_split else None  # without split gates, dv equals du
      return (du, dv), _at_step(dv if num_split else du, k), None

    def concat_gates(buffers, du_gates, dv_gates, k):
      del k
      dv = jnp.concatenate(dv_gates, -1)
      return buffers, dv, (dv, du_gates[G - num_split :])

    collect_gates = concat_gates if options.concat_gates else write_gates

    def backward_step(carry, inputs):
      dcarry, dpointwise, buffers = carry
      k, recomputed_z = inputs
      dy, mask_t, prev_carry, saved_z = _at_step((dys, mask, prev_carries, zs), first_step + k)
      cotangents, padded_dcarry = _split_cotangents(mask_t, dcarry, dy)
      _, vjp = jax.vjp(pointwise, row_params, prev_carry, saved_z or recomputed_z)
      dparams, (dh, *dstate), dz = vjp(cotangents)
      # z contains each split gate twice: first its block of u, then its block of v = h U.
      du_gates, dv_gates = dz[:G], dz[: G - num_split] + dz[G:]
      buffers, dv, stacked = collect_gates(buffers, du_gates, dv_gates, k)
      dcarry = tree_add((dh + dv @ U_transposed, *dstate), padded_dcarry)
      return (dcarry, tree_add(dpointwise, dparams), buffers), stacked

    # Gradients of bfloat16 parameters are summed in float32.
    dpointwise = jax.tree.map(lambda p: jnp.zeros_like(p, accumulation_dtype(p.dtype)), row_params)
    du = None
    if not options.concat_gates:
      du = jnp.zeros_like(prev_carries[0], xs.dtype, shape=(*step_shape, G * H))
    (dcarry, dpointwise, (du, dv)), stacked = jax.lax.scan(
      backward_step,
      (dcarry, dpointwise, (du, du if num_split else None)),
      (jnp.arange(chunk_size), recomputed_zs),
      reverse=not reverse,
      unroll=options.unroll,
    )
    dpointwise = jax.tree.map(lambda d: d.sum(tuple(range(len(batch)))), dpointwise)
    if options.concat_gates:
      dv, split_du_gates = stacked
      du = dv
      if num_split:
        du = jnp.concatenate([dv[..., : (G - num_split) * H], *split_du_gates], -1)
    du, dv = _merge_leading_axes(du), _merge_leading_axes(dv if num_split else du)

    # Deferred weight gradients: one product per parameter, over all steps and rows of the chunk.
    sum_dtype = accumulation_dtype(x.dtype)
    dparams = {
      "W": jnp.matmul(x.T, du, preferred_element_type=sum_dtype),
      "U": jnp.matmul(h.T, dv, preferred_element_type=sum_dtype),
      "b": du.sum(0, sum_dtype),
    }
    dxs = (du @ params["W"].T).reshape(*step_shape, xs.shape[-1])
    return dcarry, dparams | dpointwise, dxs

  return backward_chunk


def _generic_backward(cell, params, reverse, chunk_size, options):
  """Return a function that runs the backward pass of any cell over one chunk of steps.

  The signature is the same as in `_additive_backward`. In the loop, the vjp of the step is taken
  only with respect to the carry. After the loop, one vjp over all steps gives the gradients of the
  parameters and inputs. So each step is recomputed twice.
  """

  def backward_chunk(first_step, dcarry, xs, mask, prev_carries, zs, dys):
    del zs

    def slice_chunk(a):
      return jax.lax.dynamic_slice_in_dim(a, first_step, chunk_size)

    us, project_vjp = jax.vjp(functools.partial(project_steps, cell), params, slice_chunk(xs))

    def backward_step(dcarry, inputs):
      k, u = inputs
      dy, mask_t, prev_carry = _at_step((dys, mask, prev_carries), first_step + k)
      cotangents, padded_dcarry = _split_cotangents(mask_t, dcarry, dy)
      _, vjp = jax.vjp(lambda carry: cell.step(params, carry, u), prev_carry)
      (step_dcarry,) = vjp(cotangents)
      return tree_add(step_dcarry, padded_dcarry), cotangents

    dcarry, cotangents = jax.lax.scan(
      backward_step,
      dcarry,
      (jnp.arange(chunk_size), us),
      reverse=not reverse,
      unroll=options.unroll,
    )
    chunk_carries = jax.tree.map(slice_chunk, prev_carries)

    # vmap over the steps. Steps and rows cannot be merged into one axis, since a step may mix rows.
    def all_steps(params, us):
      return jax.vmap(cell.step, (None, 0, 0))(params, chunk_carries, us)

    _, steps_vjp = jax.vjp(all_steps, params, us)
    step_dparams, dus = steps_vjp(cotangents)
    project_dparams, dxs = project_vjp(dus)
    return dcarry, tree_add(step_dparams, project_dparams), dxs

  return backward_chunk


def _split_cotangents(mask, dcarry, dy):
  """Split the gradients of a step's results into unpadded and padded rows.

  A padded step returns its carry unchanged, so the dcarry of padded rows bypasses the step's vjp.

  Returns:
    (dcarry, dy) with padded rows set to 0, and dcarry with unpadded rows set to 0.
  """
  zeros = jax.tree.map(jnp.zeros_like, (dcarry, dy))
  unmasked = where_mask(mask, (dcarry, dy), zeros)
  padded_dcarry = zeros[0] if mask is None else where_mask(mask, zeros[0], dcarry)
  return unmasked, padded_dcarry


def _at_step(arrays, t):
  """Return a[t] for each array a [T, ...]. If a chunk were sliced first, it would be copied."""
  return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, keepdims=False), arrays)


def _write_row(buffer, gates, k):
  """Return `buffer` [K, ..., GH] with buffer[k] replaced by the concatenated gates.

  `gates` is a list of G arrays [..., H].
  """
  H = gates[0].shape[-1]
  for i, gate in enumerate(gates):
    start = (k, *[0] * (gate.ndim - 1), i * H)
    buffer = jax.lax.dynamic_update_slice(buffer, gate[None], start)
  return buffer


def _merge_leading_axes(a):
  """Reshape a [..., N] to [rows, N], because XLA's matrix products are fastest with two axes."""
  return a.reshape(-1, a.shape[-1])
