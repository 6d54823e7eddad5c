"""The loop over time as one CUDA kernel, through Pallas and Triton.

Persistent RNNs (Diamos et al., 2016): each program runs all steps of a block of batch rows and a
block of hidden units, and keeps its columns of U on the chip during the loop. At each step of the
forward pass, a program needs hₜ₋₁ from the other programs. At each step of the backward pass, a
program needs the other programs' contributions to ∂L/∂hₜ₋₁ = ∂L/∂vₜ Uᵀ, where v = h U.

Programs exchange these values through a ring buffer of a few slots, which stays in the GPU's cache.
There is no barrier. An empty slot is filled with a sentinel: all bits set, which is a NaN that is
never written as a value. A program repeats its load until the loaded values contain no sentinel. A
program resets its part of a slot to the sentinel as soon as the loaded values imply that all other
programs have read this part.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from rnnjax.backends.interface import cast_to_varying
from rnnjax.backends.pallas.branchless_tanh import replace_tanh
from rnnjax.backends.pallas.fused import KernelSpec, output_struct
from rnnjax.cells.base import add_preactivations

BIT_DTYPES = {jnp.dtype(jnp.float32): jnp.int32, jnp.dtype(jnp.bfloat16): jnp.int16}
SENTINEL = -1
# Number of slots of the ring buffer, a power of two. There is a memory fence every RING_SLOTS / 2
# steps, so the sentinel in a slot is visible to all programs before the slot is used again.
RING_SLOTS = 16
# Maximum number of repeated loads over the entire loop (a few seconds). After that, a program
# continues with NaN instead of hanging.
MAX_POLLS = 2**22


def forward(
  spec: KernelSpec, pointwise_rows, U, us, initial_carry, mask, save=True, interpret=False
):
  """Run the forward pass over all steps.

  Args:
    spec: specification of the kernel.
    pointwise_rows: parameters that `pointwise` reads, [N, R, H], or None.
    U: recurrent matrices [N, H, G·H].
    us: projected inputs x W + b of all steps, [T, B, N·G·H].
    initial_carry: a tuple of arrays [B, N·H].
    mask: padding mask [T, B] as int32, or None.
    save: save the preactivations for the backward pass.
    interpret: run the kernel in interpret mode, without a GPU.

  Returns:
    states: one array [T + 1, B, N·H] for each array of the carry.
    zs: preactivations [T, B, N·Z·H] with Z = G + num_split_gates; None if `save` is False.
    ys: outputs [T, B, N·H]; None if the outputs are equal to h.
  """
  T, B, _ = us.shape
  N, H, GH = U.shape
  dtype, pointwise = spec.dtype, replace_tanh(spec.pointwise)
  G, Z = GH // H, GH // H + spec.num_split_gates  # number of gates, number of preactivations
  block_batch, block_units = spec.tiling.block_batch, spec.tiling.block_units
  R = 0 if pointwise_rows is None else pointwise_rows.shape[1]

  def kernel(
    pointwise_rows, U, us, initial_carry, mask, ring_in, fences_in, states, zs, ys, ring, fences
  ):
    del ring_in, fences_in  # the same memory as ring and fences
    c, b, n, rows, units_of = _program_indices(spec, H)
    is_reverse = spec.is_reverse(n)
    params = spec.unpack_params([pointwise_rows[n, i, units_of(0)] for i in range(R)])
    # The columns of U of this program, in chunks of rows. They stay in shared memory.
    weights = [
      [U[n, units_of(g), pl.ds(k, size)] for k, size in _matmul_chunks(spec, H)] for g in range(G)
    ]
    carry = tuple(part[rows, units_of(n)].astype(jnp.float32) for part in initial_carry)
    first = _to_ring_bits(carry[0].astype(dtype)), *carry[1:]
    for part, value in zip(states, first):
      part[T * is_reverse, rows, units_of(n)] = value

    def load_step(k):
      """Return the time step t of iteration k, and the projected inputs u at step t."""
      t = k + is_reverse * (T - 1 - 2 * k)
      return t, [us[t, rows, units_of(n * G + g)].astype(jnp.float32) for g in range(G)]

    def step(k, state):
      polls_left, carry, (t, u) = state
      next_step = load_step(jnp.minimum(k + 1, T - 1))  # loaded early to hide the latency
      if block_units == H:  # One program has all units, so the ring is not needed.
        h = [carry[0].astype(dtype)]
      else:
        indices = [
          (_ring_slot(k), rows, pl.ds(n * H + m, size)) for m, size in _matmul_chunks(spec, H)
        ]
        polls_left, h = _poll_ring(ring, indices, polls_left, dtype)
      v = [sum(_dot_transposed(a, w) for a, w in zip(h, chunks)) for chunks in weights]
      z = add_preactivations(u, v, spec.num_split_gates)
      new_carry, y = pointwise(params, carry, z)
      new_carry = spec.zero_padded_units(new_carry, c * block_units)
      if mask is not None:
        row_mask = (mask[t, rows] != 0)[:, None]
        new_carry = [jnp.where(row_mask, new, old) for new, old in zip(new_carry, carry)]
        y = jnp.where(row_mask, y, 0)
      new_carry = [value.astype(part.dtype) for value, part in zip(new_carry, initial_carry)]
      h_bits = _to_ring_bits(new_carry[0])
      if block_units != H:
        ring[_ring_slot(k + 1), rows, units_of(n)] = h_bits
        # All programs have sent hₜ₋₁, so all programs have read hₜ₋₂. Reset the slot of hₜ₋₂.
        sentinels = jnp.full((block_batch, block_units), SENTINEL, BIT_DTYPES[dtype])
        ring[_ring_slot(k - 1), rows, units_of(n)] = sentinels
        _fence(fences, b, n, k, interpret)
      for part, value in zip(states, (h_bits, *new_carry[1:])):
        part[t + 1 - is_reverse, rows, units_of(n)] = value
      if ys is not None:
        ys[t, rows, units_of(n)] = y.astype(dtype)
      for i, value in enumerate(z if save else []):
        zs[t, rows, units_of(n * Z + i)] = value.astype(dtype)
      return polls_left, tuple(value.astype(jnp.float32) for value in new_carry), next_step

    jax.lax.fori_loop(0, T, step, (jnp.int32(MAX_POLLS), carry, load_step(0)))

  def step_outputs(num_steps, num_blocks, dtype):
    return output_struct(us, (num_steps, B, N * num_blocks * H), dtype)

  state_structs = (
    step_outputs(T + 1, 1, BIT_DTYPES[dtype]),  # h as integers, with the bits in the ring
    *(step_outputs(T + 1, 1, part.dtype) for part in initial_carry[1:]),
  )
  out_shape = (
    state_structs,
    step_outputs(T, Z, dtype) if save else None,
    None if spec.output_is_h else step_outputs(T, 1, dtype),
  )
  ring = jnp.full((RING_SLOTS, B, N * H), SENTINEL, BIT_DTYPES[dtype])
  ring = ring.at[0].set(_to_ring_bits(initial_carry[0]))
  args = pointwise_rows, U.swapaxes(1, 2), us, initial_carry, mask
  grid = H // block_units, B // block_batch, N
  (hs, *other_states), zs, ys = _launch_kernel(spec, kernel, args, out_shape, ring, grid, interpret)
  return (jax.lax.bitcast_convert_type(hs, dtype), *other_states), zs, ys


def backward(spec: KernelSpec, pointwise_rows, U, states, zs, mask, dends, dys, interpret=False):
  """Run the backward pass over all steps.

  Args:
    spec, pointwise_rows, U, mask, interpret: as for `forward`.
    states, zs: as returned by `forward`.
    dends: gradient of the final carry, a tuple of arrays [B, N·H].
    dys: gradient of the outputs, [T, B, N·H].

  Returns:
    dinitial_carry: gradient of the initial carry, a tuple of arrays [B, N·H].
    dpointwise_rows: gradient of pointwise_rows [N, R, H], or None.
    dus: gradient of us, [T, B, N·G·H].
    dvs: gradient of v = h U at all steps, [T, B, N·G·H].
  """
  T, B, _ = dys.shape
  N, H, GH = U.shape
  dtype, pointwise = spec.dtype, replace_tanh(spec.pointwise)
  G, num_split = GH // H, spec.num_split_gates
  block_batch, block_units = spec.tiling.block_batch, spec.tiling.block_units
  # Z is the number of preactivations, C the number of programs that together have all units.
  Z, C = G + num_split, H // block_units
  R = 0 if pointwise_rows is None else pointwise_rows.shape[1]

  def kernel(pointwise_rows, U, states, zs, mask, dends, dys, ring_in, fences_in, *outputs):
    del ring_in, fences_in  # the same memory as ring and fences
    dvs, dus, dinitial_carry, dparam_sums, ring, fences = outputs
    c, b, n, rows, units_of = _program_indices(spec, H)
    is_reverse = spec.is_reverse(n)
    params = spec.unpack_params([pointwise_rows[n, i, units_of(0)] for i in range(R)])
    weights = [
      [U[n, pl.ds(k, size), units_of(g)] for g in range(G)] for k, size in _matmul_chunks(spec, H)
    ]
    dcarry = tuple(part[rows, units_of(n)].astype(jnp.float32) for part in dends)
    zeros = [jnp.zeros((block_batch, block_units), jnp.float32)] * R

    def load_step(k):
      """Return (vjp_structure, (t, leaves, dy)) for iteration k.

      t is the time step. vjp_structure and leaves are the flattened vjp of `pointwise` at t. The
      result does not depend on other programs.
      """
      t = T - 1 - k - is_reverse * (T - 1 - 2 * k)

      def load(ref, index, block):
        return ref[index, rows, units_of(block)].astype(jnp.float32)

      z = [load(zs, t, n * Z + i) for i in range(Z)]
      carry = tuple(load(part, t + is_reverse, n) for part in states)
      _, vjp = jax.vjp(pointwise, params, carry, z)
      leaves, vjp_structure = jax.tree.flatten(vjp)
      return vjp_structure, (t, leaves, load(dys, t, n))

    vjp_structure, first_step = load_step(0)

    def step(k, state):
      polls_left, dcarry, sums, (t, leaves, dy) = state
      padded_dcarry = None
      if mask is not None:
        row_mask = (mask[t, rows] != 0)[:, None]
        padded_dcarry = [jnp.where(row_mask, 0, d) for d in dcarry]
        dcarry, dy = tuple(jnp.where(row_mask, d, 0) for d in dcarry), jnp.where(row_mask, dy, 0)
      vjp = vjp_structure.unflatten(leaves)
      dparams, prev_dcarry, dz = vjp((dcarry, dy))
      dz = [d.astype(dtype) for d in spec.zero_padded_units(dz, c * block_units)]
      dv = dz[: G - num_split] + dz[G:]
      dh = [sum(_dot_transposed(d, w) for d, w in zip(dv, gates)) for gates in weights]
      if C > 1:
        all_units = [pl.ds(n * H + m, size) for m, size in _matmul_chunks(spec, H)]
        for units, part in zip(all_units, dh):
          ring[_ring_slot(k), c, rows, units] = _to_ring_bits(part)
        # All programs have sent their parts of iteration k − 1, so all programs have read the parts
        # of iteration k − 2. Reset the slot of iteration k − 2.
        for units, part in zip(all_units, dh):
          ring[_ring_slot(k - 2), c, rows, units] = jnp.full(part.shape, SENTINEL, jnp.int32)
        _fence(fences, b, n, k, interpret)
      for g, d in enumerate(dv):
        dvs[t, rows, units_of(n * G + g)] = d
      for g, d in enumerate(dz[:G] if num_split else []):
        dus[t, rows, units_of(n * G + g)] = d
      # Load the next step while waiting for the other programs.
      _, next_step = load_step(jnp.minimum(k + 1, T - 1))
      if C > 1:
        indices = [(_ring_slot(k), i, rows, units_of(n)) for i in range(C)]
        polls_left, dh = _poll_ring(ring, indices, polls_left, jnp.float32)
      dcarry = [prev_dcarry[0] + sum(dh), *prev_dcarry[1:]]
      if padded_dcarry:
        dcarry = [d + p for d, p in zip(dcarry, padded_dcarry)]
      sums = [total + d for total, d in zip(sums, jax.tree.leaves(dparams))]
      return polls_left, tuple(dcarry), sums, next_step

    init = jnp.int32(MAX_POLLS), dcarry, zeros, first_step
    _, dcarry, sums, _ = jax.lax.fori_loop(0, T, step, init)
    for part, value in zip(dinitial_carry, dcarry):
      part[rows, units_of(n)] = value
    for i, total in enumerate(sums):
      dparam_sums[i, rows, units_of(n)] = total

  def row_outputs(*leading):
    return output_struct(dys, (*leading, N * H), jnp.float32)

  gate_outputs = output_struct(dys, (T, B, N * GH), dtype)
  out_shape = (
    gate_outputs,
    gate_outputs if num_split else None,
    tuple(row_outputs(B) for _ in dends),
    row_outputs(R, B) if R else None,
  )
  ring = jnp.full((RING_SLOTS, C, B, N * H), SENTINEL, jnp.int32)
  args = pointwise_rows, U, states, zs, mask, dends, dys
  grid = C, B // block_batch, N
  dvs, dus, dinitial_carry, sums = _launch_kernel(
    spec, kernel, args, out_shape, ring, grid, interpret
  )
  dpointwise_rows = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dinitial_carry, dpointwise_rows, dus if num_split else dvs, dvs


def _launch_kernel(spec, kernel, args, out_shape, ring, grid, interpret):
  """Run the kernel on the grid.

  The ring and the fence counters are scratch buffers that all programs share. They are passed as
  additional arguments that are aliased to additional results, which are discarded.
  """
  fences = jnp.zeros(grid[2] * grid[1], jnp.int32)
  shared = cast_to_varying((ring, fences), args[1])
  first_in, first_out = len(jax.tree.leaves(args)), len(jax.tree.leaves(out_shape))
  *results, _, _ = pl.pallas_call(
    kernel,
    (*out_shape, *(output_struct(a, a.shape, a.dtype) for a in shared)),
    grid=grid,
    input_output_aliases={first_in: first_out, first_in + 1: first_out + 1},
    compiler_params=plgpu.CompilerParams(num_warps=spec.tiling.num_warps, num_stages=1),
    interpret=interpret,
  )(*args, *shared)
  return results


def _program_indices(spec, H):
  """Return the indices of this program, and the slices of its rows and units.

  Returns:
    c: index of the block of units.
    b: index of the block of batch rows.
    n: index of the parameter set.
    rows: slice of the program's rows of the batch.
    units_of: i -> slice of the program's units in the i-th block of H features.
  """
  c, b, n = (pl.program_id(axis) for axis in range(3))
  rows = pl.ds(b * spec.tiling.block_batch, spec.tiling.block_batch)
  block_units = spec.tiling.block_units

  def units_of(block):
    return pl.ds(block * H + c * block_units, block_units)

  return c, b, n, rows, units_of


def _ring_slot(k):
  """Return the index of the ring slot for iteration k."""
  return k & (RING_SLOTS - 1)


def _fence(fences, b, n, k, interpret):
  """Execute a memory fence among the programs of the same rows, every RING_SLOTS / 2 iterations.

  Earlier writes of this program become visible to the other programs. Writes of another program
  before its latest fence become visible to this program. This is not a barrier: no program waits.
  """
  if interpret:  # Interpreted programs run one after another.
    return

  @pl.when(k & (RING_SLOTS // 2 - 1) == 0)
  def _():
    plgpu.debug_barrier()
    plgpu.atomic_add(fences, (n * pl.num_programs(1) + b,), 1)  # acquires and releases
    plgpu.debug_barrier()


def _to_ring_bits(x):
  """Return the bits of x as integers; a NaN equal to the sentinel is replaced by another NaN."""
  bits = BIT_DTYPES[x.dtype]
  x = jax.lax.bitcast_convert_type(x, bits)
  return jnp.where(x == SENTINEL, jnp.array(jnp.iinfo(bits).max, bits), x)


def _poll_ring(ring, indices, polls_left, dtype):
  """Load tiles of the ring repeatedly until no tile contains a sentinel or polls_left is 0.

  Returns:
    The number of polls left, and the loaded tiles.
  """

  def load():
    return [plgpu.load(ring.at[index], volatile=True) for index in indices]

  def is_incomplete(tiles):
    has_sentinel = functools.reduce(jnp.logical_or, [tile == SENTINEL for tile in tiles])
    # A single reduction over all tiles, since each reduction synchronizes all warps.
    return jnp.max(has_sentinel.astype(jnp.int32)) > 0

  polls_left, *tiles = jax.lax.while_loop(
    lambda state: is_incomplete(state[1:]) & (state[0] > 0),
    lambda state: (state[0] - 1, *load()),
    (polls_left, *load()),
  )
  return polls_left, [jax.lax.bitcast_convert_type(tile, dtype) for tile in tiles]


def _matmul_chunks(spec, H):
  """Return a list of (first unit, number of units), one tuple for each matrix product."""
  return [(k, spec.tiling.block_k) for k in range(0, H, spec.tiling.block_k)]


def _dot_transposed(a, w):
  """Return the product a wᵀ, accumulated in float32."""
  return jnp.dot(a, w.T, preferred_element_type=jnp.float32)
