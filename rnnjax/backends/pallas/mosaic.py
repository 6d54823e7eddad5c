"""The loop over time as one TPU kernel, through Pallas and Mosaic.

A TPU runs the grid of a kernel in order, so time is the last axis of the grid. U stays in VMEM, the
carry is kept in scratch memory, and the arrays of the next step are loaded while the current step
is computed.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rnnjax.backends.pallas.fused import KernelSpec, output_struct
from rnnjax.cells.base import add_preactivations


def forward(
  spec: KernelSpec, pointwise_rows, U, us, initial_carry, mask, save=True, interpret=False
):
  """Run the forward pass; arguments and results are as for `triton.forward`."""
  T, B, _ = us.shape
  N, H, GH = U.shape
  dtype, block_batch = spec.dtype, spec.tiling.block_batch
  G, Z = GH // H, GH // H + spec.num_split_gates  # gates, preactivations
  R = 0 if pointwise_rows is None else pointwise_rows.shape[1]

  def time_index(n, k):
    return k + spec.is_reverse(n) * (T - 1 - 2 * k)

  blocks = _BlockSpecs(spec, block_batch, time_index)

  def kernel(pointwise_rows, U, us, initial_carry, mask, new_states, zs, ys, carry_refs):
    @pl.when(pl.program_id(2) == 0)
    def _():
      for carry_ref, initial in zip(carry_refs, initial_carry):
        carry_ref[...] = initial[...].astype(carry_ref.dtype)

    carry = tuple(part[...] for part in carry_refs)
    v = jnp.dot(carry[0].astype(dtype), U[...], preferred_element_type=jnp.float32)
    z = add_preactivations(
      _split_gates(us[...].astype(jnp.float32), G), _split_gates(v, G), spec.num_split_gates
    )
    params = spec.unpack_params([pointwise_rows[i] for i in range(R)])
    new_carry, y = spec.pointwise(params, carry, z)
    new_carry = spec.zero_padded_units(new_carry, 0)
    if mask is not None:
      row_mask = mask[...] != 0
      new_carry = [jnp.where(row_mask, new, old) for new, old in zip(new_carry, carry)]
      y = jnp.where(row_mask, y, 0)
    for carry_ref, state_ref, value in zip(carry_refs, new_states, new_carry):
      state_ref[...] = value.astype(state_ref.dtype)
      # The carry is rounded to the dtype of the saved state.
      carry_ref[...] = value.astype(state_ref.dtype).astype(jnp.float32)
    if ys is not None:
      ys[...] = y.astype(dtype)
    for i, value in enumerate(z if save else []):
      zs[:, i * H : (i + 1) * H] = value.astype(dtype)

  def step_outputs(num_blocks, dtype):
    return output_struct(us, (T, B, N * num_blocks * H), dtype)

  out_shape = (
    tuple(step_outputs(1, part.dtype) for part in initial_carry),
    step_outputs(Z, dtype) if save else None,
    None if spec.output_is_h else step_outputs(1, dtype),
  )
  in_specs = (
    blocks.param_block(R, H),
    blocks.param_block(H, GH),
    blocks.step_block(GH),
    tuple(blocks.carry_block(H) for _ in initial_carry),
    blocks.mask_block(),
  )
  out_specs = (
    tuple(blocks.step_block(H) for _ in initial_carry),
    blocks.step_block(Z * H),
    blocks.step_block(H),
  )
  args = pointwise_rows, U, us, initial_carry, _mask_column(mask)
  scratch = tuple(pltpu.VMEM((block_batch, H), jnp.float32) for _ in initial_carry)
  grid = N, B // block_batch, T
  new_states, zs, ys = _launch_kernel(
    kernel, args, in_specs, out_shape, out_specs, [scratch], grid, interpret
  )
  states = tuple(
    _with_initial_slot(spec, initial, part) for initial, part in zip(initial_carry, new_states)
  )
  return states, zs, ys


def backward(spec: KernelSpec, pointwise_rows, U, states, zs, mask, dends, dys, interpret=False):
  """Run the backward pass; arguments and results are as for `triton.backward`."""
  T, B, _ = dys.shape
  N, H, GH = U.shape
  dtype, block_batch = spec.dtype, spec.tiling.block_batch
  G, num_split = GH // H, spec.num_split_gates
  R = 0 if pointwise_rows is None else pointwise_rows.shape[1]

  def time_index(n, k):
    return T - 1 - k - spec.is_reverse(n) * (T - 1 - 2 * k)

  blocks = _BlockSpecs(spec, block_batch, time_index)

  def kernel(
    pointwise_rows, U, states, zs, mask, dends, dys, dvs, dus, dinitial_carry, sums, dcarry_refs
  ):
    @pl.when(pl.program_id(2) == 0)
    def _():
      for dcarry_ref, dend in zip(dcarry_refs, dends):
        dcarry_ref[...] = dend[...].astype(jnp.float32)
      if R:
        sums[...] = jnp.zeros_like(sums)

    dcarry, dy = tuple(part[...] for part in dcarry_refs), dys[...].astype(jnp.float32)
    padded_dcarry = None
    if mask is not None:
      row_mask = mask[...] != 0
      padded_dcarry = [jnp.where(row_mask, 0, d) for d in dcarry]
      dcarry, dy = tuple(jnp.where(row_mask, d, 0) for d in dcarry), jnp.where(row_mask, dy, 0)
    carry = tuple(part[...].astype(jnp.float32) for part in states)
    z = _split_gates(zs[...].astype(jnp.float32), G + num_split)
    params = spec.unpack_params([pointwise_rows[i] for i in range(R)])
    _, vjp = jax.vjp(spec.pointwise, params, carry, z)
    dparams, prev_dcarry, dz = vjp((dcarry, dy))
    dz = [d.astype(dtype) for d in spec.zero_padded_units(dz, 0)]
    for ref, gates in ((dvs, dz[: G - num_split] + dz[G:]), (dus, dz[:G] if num_split else [])):
      for g, d in enumerate(gates):
        ref[:, g * H : (g + 1) * H] = d
    over_gates = ((1,), (1,)), ((), ())
    dh = jax.lax.dot_general(dvs[...], U[...], over_gates, preferred_element_type=jnp.float32)
    dcarry = [prev_dcarry[0] + dh, *prev_dcarry[1:]]
    if padded_dcarry:
      dcarry = [d + p for d, p in zip(dcarry, padded_dcarry)]
    for dcarry_ref, dinitial, value in zip(dcarry_refs, dinitial_carry, dcarry):
      # Every step overwrites `dinitial`. The last iteration writes the gradient of the initial
      # carry.
      dcarry_ref[...] = dinitial[...] = value
    for i, d in enumerate(jax.tree.leaves(dparams)):
      sums[i] += d

  def row_outputs(*leading):
    return output_struct(dys, (*leading, N * H), jnp.float32)

  gate_outputs = output_struct(dys, (T, B, N * GH), dtype)
  out_shape = (
    gate_outputs,
    gate_outputs if num_split else None,
    tuple(row_outputs(B) for _ in dends),
    row_outputs(R, B) if R else None,
  )
  carry_blocks = tuple(blocks.carry_block(H) for _ in dends)
  in_specs = (
    blocks.param_block(R, H),
    blocks.param_block(H, GH),
    tuple(blocks.state_block(H) for _ in states),
    blocks.step_block((G + num_split) * H),
    blocks.mask_block(),
    carry_blocks,
    blocks.step_block(H),
  )
  out_specs = (
    blocks.step_block(GH),
    blocks.step_block(GH),
    carry_blocks,
    blocks.param_grad_block(R, H),
  )
  args = pointwise_rows, U, states, zs, _mask_column(mask), dends, dys
  scratch = tuple(pltpu.VMEM((block_batch, H), jnp.float32) for _ in dends)
  grid = N, B // block_batch, T
  dvs, dus, dinitial_carry, sums = _launch_kernel(
    kernel, args, in_specs, out_shape, out_specs, [scratch], grid, interpret
  )
  dpointwise_rows = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dinitial_carry, dpointwise_rows, dus if num_split else dvs, dvs


class _BlockSpecs:
  """Block specs of the arrays that program (n, b, k) of the grid reads and writes.

  n is the index of the parameter set, b the index of the block of rows, and k the iteration.
  """

  def __init__(self, spec, block_batch, time_index):
    self.spec = spec
    self.block_batch = block_batch
    self.time_index = time_index

  def param_block(self, *sizes):
    """Return the block spec of parameters [N, *sizes]."""
    return pl.BlockSpec((None, *sizes), lambda n, b, k: (n, *[0] * len(sizes)))

  def carry_block(self, width):
    """Return the block spec of a carry [B, N·width]."""
    return pl.BlockSpec((self.block_batch, width), lambda n, b, k: (b, n))

  def param_grad_block(self, num_rows, width):
    """Return the block spec of gradients [num_rows, B, N·width] that are summed over the steps."""
    return pl.BlockSpec((num_rows, self.block_batch, width), lambda n, b, k: (0, b, n))

  def step_block(self, width):
    """Return the block spec of an array [T, B, N·width] at the time step of iteration k."""
    return pl.BlockSpec(
      (None, self.block_batch, width), lambda n, b, k: (self.time_index(n, k), b, n)
    )

  def state_block(self, width):
    """Return the block spec of the state before a step, in states [T + 1, B, N·width]."""

    def index(n, b, k):
      return self.time_index(n, k) + self.spec.is_reverse(n), b, n

    return pl.BlockSpec((None, self.block_batch, width), index)

  def mask_block(self):
    """Return the block spec of the mask [T, B, 1]."""
    return pl.BlockSpec((None, self.block_batch, 1), lambda n, b, k: (self.time_index(n, k), b, 0))


def _launch_kernel(kernel, args, in_specs, out_shape, out_specs, scratch_shapes, grid, interpret):
  """Run the kernel on the grid; arguments and results that are None get no block spec."""

  def drop_missing(specs, arrays):
    return tuple(spec if array is not None else None for spec, array in zip(specs, arrays))

  return pl.pallas_call(
    kernel,
    out_shape,
    grid=grid,
    in_specs=drop_missing(in_specs, args),
    out_specs=drop_missing(out_specs, out_shape),
    scratch_shapes=scratch_shapes,
    interpret=interpret,
  )(*args)


def _mask_column(mask):
  """Reshape the mask to [T, B, 1], since a TPU stores the last two axes of an array in tiles."""
  return None if mask is None else mask[..., None]


def _with_initial_slot(spec, initial_carry, new_states):
  """Return the initial carry and the states after each step in one array [T + 1, B, N·H]."""
  N = len(spec.reverse)
  first_parts, next_parts = jnp.split(initial_carry[None], N, -1), jnp.split(new_states, N, -1)
  parts = []
  for is_reverse, first, states in zip(spec.reverse, first_parts, next_parts):
    parts.append(jnp.concatenate([states, first] if is_reverse else [first, states]))
  return jnp.concatenate(parts, -1)


def _split_gates(a, num_gates):
  """Split a [rows, num_gates·H] into a list of num_gates arrays [rows, H]."""
  H = a.shape[-1] // num_gates
  return [a[:, i * H : (i + 1) * H] for i in range(num_gates)]
