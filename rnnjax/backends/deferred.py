"""Backpropagation through time with deferred weight gradients.

The gradient of the carry has to be propagated step by step, those of the weights do not. So the
backward loop propagates the gradient of the carry only. The weight gradients are computed after it,
as products over many steps at once:

    dzₜ = ∂L/∂zₜ                 in the loop, because it depends on dhₜ
    dU = Σₜ hₜ₋₁ᵀ dzₜ            after it, one product [H, TB] [TB, GH] instead of T small ones

This file has the options, the forward pass, and the backward pass. The backward pass runs over
chunks of steps, of an additive cell or of any cell.
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
  """Options that change the time and memory of `deferred`, but not its results.

  Attributes:
    save_gates: save the gates of every step for the backward pass. Otherwise they are recomputed
      there, those of a chunk in one product. The carry of every step is saved in any case.
    chunk_size: steps of the backward loop between two updates of the weight gradients; None for
      one update after all steps. It must divide T.
    precompute_inputs: project the inputs of all steps before the loop, in one product. Otherwise
      each step projects its own.
    concat_gates: concatenate the gradients of an additive cell's gates at each step. Otherwise
      they are written into one array, gate by gate.
    unroll: steps per iteration of the compiled loop.
  """

  save_gates: bool = True
  chunk_size: int | None = None
  precompute_inputs: bool = False
  concat_gates: bool = False
  unroll: int = 1


def choose_options(cell: Cell, params: Params, xs: Array) -> DeferredOptions:
  """Return the options that were measured to be fastest for xs [T, ..., D] on one device.

  The measurements are in the README of this folder.
  """
  if jax.default_backend() != "cpu":
    # Accelerators have memory, and every kernel launch costs time: do as much as possible at once.
    return DeferredOptions(precompute_inputs=True, concat_gates=True, unroll=4)
  T, D = xs.shape[0], xs.shape[-1]
  batch_size = math.prod(xs.shape[1:-1])
  # Products over 512 rows are as fast as larger ones, and their operands are still in the cache.
  chunk_size = next((k for k in range(1, T) if k * batch_size >= 512 and T % k == 0), None)
  # Saving gates is slower only if they need fresh memory from the system at every call, and are
  # cheap to recompute.
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
    options: options; those of `choose_options` if None.

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
  """Run the loop; return (carry, ys), and what is saved for the backward pass.

  Saved are the carry before each step and, with `options.save_gates`, the preactivations.
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
  """Return the inputs of an additive cell's nonlinearities, from u = x W + b and h."""
  return preactivations(u, h @ params["U"], _num_gates(cell, params), cell.num_split_gates)


def _num_gates(cell, params):
  return params["b"].shape[0] // cell.features


# Backward pass


def _backward(cell, options, reverse, saved, cotangents):
  """Run the backward loop chunk by chunk; sum the weight gradients of the chunks."""
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
  """Return the backward pass of an additive cell over one chunk of steps.

  It is called as

      backward_chunk(first_step, dcarry, xs, mask, prev_carries, zs, dys) -> dcarry, dparams, dxs

  with the first step of the chunk, the gradient of the carry after the chunk, and the arrays of all
  steps, of which it reads those of the chunk.

  The matrix products read the gradients of all gates from one array: at each step to compute dhₜ₋₁,
  and after the loop to compute the weight gradients. Concatenating the gates is slow on a CPU, and
  writing them one by one into the array is slow on a GPU; `options.concat_gates` selects either.
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
    # A sum over the batch is one more kernel launch per step on a GPU. So there each row sums its
    # own gradients of the pointwise parameters, and the rows are summed after the loop.
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

    # Both functions return the buffers, the row dv of this step, and what the scan stacks.
    def write_gates(buffers, du_gates, dv_gates, k):
      du, dv = buffers
      du = _write_row(du, du_gates, k)
      dv = _write_row(dv, dv_gates, k) if num_split else None  # without split gates, dv is du
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
      # Split gates come twice in z: as they are in u, then as they are in v = h U.
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

    # The deferred weight gradients: one product each over all steps and rows of the chunk.
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
  """Return the backward pass of any cell over one chunk of steps; called as that of additive cells.

  In the loop the vjp of the step is taken for the carry only; after it, once for the parameters and
  inputs of all steps. So the step is computed twice more.
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

    # vmap over the steps instead of merging steps and rows into one axis: a step may mix its rows.
    def all_steps(params, us):
      return jax.vmap(cell.step, (None, 0, 0))(params, chunk_carries, us)

    _, steps_vjp = jax.vjp(all_steps, params, us)
    step_dparams, dus = steps_vjp(cotangents)
    project_dparams, dxs = project_vjp(dus)
    return dcarry, tree_add(step_dparams, project_dparams), dxs

  return backward_chunk


def _split_cotangents(mask, dcarry, dy):
  """Return the cotangents (dcarry, dy) of unmasked rows, and the dcarry of padded rows.

  A padded step returns its carry unchanged, so the gradient bypasses the vjp of the step.
  """
  zeros = jax.tree.map(jnp.zeros_like, (dcarry, dy))
  unmasked = where_mask(mask, (dcarry, dy), zeros)
  padded_dcarry = zeros[0] if mask is None else where_mask(mask, zeros[0], dcarry)
  return unmasked, padded_dcarry


def _at_step(arrays, t):
  """Return the arrays [T, ...] at step t, read in place: slicing a chunk first would copy it."""
  return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, keepdims=False), arrays)


def _write_row(buffer, gates, k):
  """Return the buffer [K, ..., GH] with the gates, each [..., H], concatenated in row k."""
  H = gates[0].shape[-1]
  for i, gate in enumerate(gates):
    start = (k, *[0] * (gate.ndim - 1), i * H)
    buffer = jax.lax.dynamic_update_slice(buffer, gate[None], start)
  return buffer


def _merge_leading_axes(a):
  """Return a [..., N] as [rows, N]: XLA multiplies matrices faster than it contracts two axes."""
  return a.reshape(-1, a.shape[-1])
