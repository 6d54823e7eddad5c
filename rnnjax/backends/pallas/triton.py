"""The loop over time as one CUDA kernel, through Pallas and Triton.

Persistent RNNs (Diamos et al., 2016): each program keeps its columns of U on the chip for the whole
loop, and walks all of time for its rows of the batch and its units. What it needs of the others is
hₜ₋₁, forward, and their shares of ∂L/∂hₜ₋₁ = ∂L/∂vₜ Uᵀ with v = h U, backward.

These go through a ring of a few slots, which stays in the GPU's cache. No barrier is waited for: a
slot is full of a mark (all bits set, a NaN that is never written otherwise) until its step is
written, and a program loads a slot until no mark is left in what it loaded. It marks its part of a
slot again as soon as what it got proves that nobody reads that any more.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from rnnjax.backends.batch_sharding import cast_to_varying
from rnnjax.backends.pallas.branchless_tanh import replace_tanh
from rnnjax.backends.pallas.fused import KernelSpec, output_struct
from rnnjax.cells.base import add_preactivations

BIT_DTYPES = {jnp.dtype(jnp.float32): jnp.int32, jnp.dtype(jnp.bfloat16): jnp.int16}
SENTINEL = -1
RING_SLOTS = (
  16  # of the ring; half of them later, memory is fenced, and a mark is there for all to see
)
MAX_POLLS = 2**22  # loads in vain, some seconds, after which a program goes on, with NaN


def forward(
  spec: KernelSpec, pointwise_rows, U, us, initial_carry, mask, save=True, interpret=False
):
  """All steps.

  Returns:
    states, each [T + 1, B, N·H]; zs [T, B, N·Z·H], what entered the nonlinearities, None unless it
    is to be saved; ys [T, B, N·H], None where they are h.
  """
  T, B, _ = us.shape
  (N, H, GH), low, pointwise = U.shape, spec.dtype, replace_tanh(spec.pointwise)
  G, Z, Bt, Hc = (
    GH // H,
    GH // H + spec.num_split_gates,
    spec.tiling.block_batch,
    spec.tiling.block_units,
  )
  R = 0 if pointwise_rows is None else pointwise_rows.shape[1]

  def kernel(
    pointwise_rows, U, us, initial_carry, mask, ring, fences, states, zs, ys, ring_, fences_
  ):
    c, b, n, rows, column = _program_indices(spec, H)
    back, small = (
      spec.is_reverse(n),
      spec.unpack_params([pointwise_rows[n, i, column(0)] for i in range(R)]),
    )
    weights = [
      [U[n, column(g), pl.ds(k, size)] for k, size in _matmul_chunks(spec, H)] for g in range(G)
    ]
    carry = tuple(part[rows, column(n)].astype(jnp.float32) for part in initial_carry)
    first = _to_ring_bits(carry[0].astype(low)), *carry[1:]
    for part, value in zip(states, first):
      part[T * back, rows, column(n)] = value

    def fed(k):
      """The time of step k, and what it need not wait for."""
      t = k + back * (T - 1 - 2 * k)
      return t, [us[t, rows, column(n * G + g)].astype(jnp.float32) for g in range(G)]

    def tick(k, state):
      patience, carry, (t, u) = state
      ahead = fed(jnp.minimum(k + 1, T - 1))
      if Hc == H:
        h = [carry[0].astype(low)]
      else:
        places = [
          (_ring_slot(k), rows, pl.ds(n * H + m, size)) for m, size in _matmul_chunks(spec, H)
        ]
        patience, h = _poll_ring(ring_, places, patience, low)
      v = [sum(_dot_transposed(a, w) for a, w in zip(h, own)) for own in weights]
      z = add_preactivations(u, v, spec.num_split_gates)
      new, y = pointwise(small, carry, z)
      new = spec.zero_padded_units(new, c * Hc)
      if mask is not None:
        row_mask = (mask[t, rows] != 0)[:, None]
        new, y = [jnp.where(row_mask, a, b) for a, b in zip(new, carry)], jnp.where(row_mask, y, 0)
      new = [value.astype(part.dtype) for value, part in zip(new, initial_carry)]
      sent = _to_ring_bits(new[0])
      if Hc != H:
        ring_[_ring_slot(k + 1), rows, column(n)] = sent
        # All have sent hₜ₋₁, and so have read what was sent before.
        ring_[_ring_slot(k - 1), rows, column(n)] = jnp.full((Bt, Hc), SENTINEL, BIT_DTYPES[low])
        _fence(fences_, b, n, k, interpret)
      for part, value in zip(states, (sent, *new[1:])):
        part[t + 1 - back, rows, column(n)] = value
      if ys is not None:
        ys[t, rows, column(n)] = y.astype(low)
      for i, value in enumerate(z if save else []):
        zs[t, rows, column(n * Z + i)] = value.astype(low)
      return patience, tuple(value.astype(jnp.float32) for value in new), ahead

    jax.lax.fori_loop(0, T, tick, (jnp.int32(MAX_POLLS), carry, fed(0)))

  shape = lambda steps, blocks, dtype: output_struct(us, (steps, B, N * blocks * H), dtype)
  slots = lambda dtype: shape(T + 1, 1, dtype)
  states = (
    slots(BIT_DTYPES[low]),
    *(slots(part.dtype) for part in initial_carry[1:]),
  )  # h as it is sent, its bits
  out = states, shape(T, Z, low) if save else None, None if spec.output_is_h else shape(T, 1, low)
  ring = (
    jnp.full((RING_SLOTS, B, N * H), SENTINEL, BIT_DTYPES[low])
    .at[0]
    .set(_to_ring_bits(initial_carry[0]))
  )
  args = pointwise_rows, U.swapaxes(1, 2), us, initial_carry, mask
  (hs, *others), zs, ys = _launch_kernel(
    spec, kernel, args, out, ring, (H // Hc, B // Bt, N), interpret
  )
  return (jax.lax.bitcast_convert_type(hs, low), *others), zs, ys


def backward(spec: KernelSpec, pointwise_rows, U, states, zs, mask, dends, dys, interpret=False):
  """All steps back.

  Returns:
    dstart, each [B, N·H]; dsmalls; dus and dvs [T, B, N·G·H], of u and of v = h U.
  """
  T, B, _ = dys.shape
  (N, H, GH), low, pointwise = U.shape, spec.dtype, replace_tanh(spec.pointwise)
  G, apart, Bt, Hc = GH // H, spec.num_split_gates, spec.tiling.block_batch, spec.tiling.block_units
  Z, C, R = G + apart, H // Hc, 0 if pointwise_rows is None else pointwise_rows.shape[1]

  def kernel(pointwise_rows, U, states, zs, mask, dends, dys, ring, fences, *out):
    dvs, dus, dstart, dsmalls, ring_, fences_ = out
    c, b, n, rows, column = _program_indices(spec, H)
    back, small = (
      spec.is_reverse(n),
      spec.unpack_params([pointwise_rows[n, i, column(0)] for i in range(R)]),
    )
    weights = [
      [U[n, pl.ds(k, size), column(g)] for g in range(G)] for k, size in _matmul_chunks(spec, H)
    ]
    dcarry = tuple(part[rows, column(n)].astype(jnp.float32) for part in dends)
    zeros = [jnp.zeros((Bt, Hc), jnp.float32)] * R

    def saved(k):
      """The time of step k back, and what need not wait: its vjp's leaves, and dy."""
      t = T - 1 - k - back * (T - 1 - 2 * k)
      load = lambda ref, at, block: ref[at, rows, column(block)].astype(jnp.float32)
      z = [load(zs, t, n * Z + i) for i in range(Z)]
      carry = tuple(load(part, t + back, n) for part in states)
      leaves, vjp = jax.tree.flatten(jax.vjp(pointwise, small, carry, z)[1])
      return vjp, (t, leaves, load(dys, t, n))

    vjp, begin = saved(0)

    def tick(k, state):
      patience, dcarry, sums, (t, leaves, dy) = state
      passing = None
      if mask is not None:
        row_mask = (mask[t, rows] != 0)[:, None]
        passing = [jnp.where(row_mask, 0, d) for d in dcarry]
        dcarry, dy = tuple(jnp.where(row_mask, d, 0) for d in dcarry), jnp.where(row_mask, dy, 0)
      dsmall, before, dz = vjp.unflatten(leaves)((dcarry, dy))
      dz = [d.astype(low) for d in spec.zero_padded_units(dz, c * Hc)]
      dv = dz[: G - apart] + dz[G:]
      dh = [sum(_dot_transposed(d, w) for d, w in zip(dv, own)) for own in weights]
      if C > 1:
        everywhere = [pl.ds(n * H + m, size) for m, size in _matmul_chunks(spec, H)]
        for place, part in zip(everywhere, dh):
          ring_[_ring_slot(k), c, rows, place] = _to_ring_bits(part)
        # All have sent their shares of the step before, and so have read those before these.
        for place, part in zip(everywhere, dh):
          ring_[_ring_slot(k - 2), c, rows, place] = jnp.full(part.shape, SENTINEL, jnp.int32)
        _fence(fences_, b, n, k, interpret)
      for g, d in enumerate(dv):
        dvs[t, rows, column(n * G + g)] = d
      for g, d in enumerate(dz[:G] if apart else []):
        dus[t, rows, column(n * G + g)] = d
      _, ahead = saved(jnp.minimum(k + 1, T - 1))  # while the shares of others are waited for
      if C > 1:
        places = [(_ring_slot(k), i, rows, column(n)) for i in range(C)]
        patience, dh = _poll_ring(ring_, places, patience, jnp.float32)
      dcarry = [before[0] + sum(dh), *before[1:]]
      if passing:
        dcarry = [d + p for d, p in zip(dcarry, passing)]
      sums = [total + d for total, d in zip(sums, jax.tree.leaves(dsmall))]
      return patience, tuple(dcarry), sums, ahead

    end = jax.lax.fori_loop(0, T, tick, (jnp.int32(MAX_POLLS), dcarry, zeros, begin))
    for part, value in zip(dstart, end[1]):
      part[rows, column(n)] = value
    for i, total in enumerate(end[2]):
      dsmalls[i, rows, column(n)] = total

  shape = lambda *lead: output_struct(dys, (*lead, N * H), jnp.float32)
  products = output_struct(dys, (T, B, N * GH), low)
  sums = shape(R, B) if R else None
  out = products, products if apart else None, tuple(shape(B) for _ in dends), sums
  ring = jnp.full((RING_SLOTS, C, B, N * H), SENTINEL, jnp.int32)
  args = pointwise_rows, U, states, zs, mask, dends, dys
  dvs, dus, dstart, sums = _launch_kernel(spec, kernel, args, out, ring, (C, B // Bt, N), interpret)
  dsmalls = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dstart, dsmalls, dus if apart else dvs, dvs


def _launch_kernel(spec, kernel, args, out_shape, ring, grid, interpret):
  """The kernel on the grid; it gets the ring and the fences as both arguments and results."""
  fences = jnp.zeros(grid[2] * grid[1], jnp.int32)
  shared = cast_to_varying((ring, fences), args[1])
  first, last = len(jax.tree.leaves(args)), len(jax.tree.leaves(out_shape))
  *results, _, _ = pl.pallas_call(
    kernel,
    (*out_shape, *(output_struct(a, a.shape, a.dtype) for a in shared)),
    grid=grid,
    input_output_aliases={first: last, first + 1: last + 1},
    compiler_params=plgpu.CompilerParams(num_warps=spec.tiling.num_warps, num_stages=1),
    interpret=interpret,
  )(*args, *shared)
  return results


def _program_indices(spec, H):
  """Which program this is: its columns, rows and net; and where its rows, and its units in a block
  of H features, are."""
  c, b, n = (pl.program_id(axis) for axis in range(3))
  rows = pl.ds(b * spec.tiling.block_batch, spec.tiling.block_batch)
  return (
    c,
    b,
    n,
    rows,
    lambda block: pl.ds(block * H + c * spec.tiling.block_units, spec.tiling.block_units),
  )


def _ring_slot(k):
  """Where step k is in the ring, a power of two."""
  return k & (RING_SLOTS - 1)


def _fence(fences, b, n, k, interpret):
  """From time to time, makes what all threads of this program have written visible to all programs
  of its rows, and what these had made visible before, to it."""
  if interpret:  # one program after another
    return

  @pl.when(k & (RING_SLOTS // 2 - 1) == 0)
  def _():
    plgpu.debug_barrier()
    plgpu.atomic_add(fences, (n * pl.num_programs(1) + b,), 1)  # acquires and releases
    plgpu.debug_barrier()


def _to_ring_bits(x):
  """The bits of x, which are never those of the mark."""
  bits = BIT_DTYPES[x.dtype]
  x = jax.lax.bitcast_convert_type(x, bits)
  return jnp.where(x == SENTINEL, jnp.array(jnp.iinfo(bits).max, bits), x)  # another NaN


def _poll_ring(ring, indices, polls_left, dtype):
  """The ring at these places, as soon as no mark is left in any; and what patience is left."""
  load = lambda: [plgpu.load(ring.at[place], volatile=True) for place in indices]

  def missing(tiles):
    found = functools.reduce(jnp.logical_or, [tile == SENTINEL for tile in tiles])
    return jnp.max(found.astype(jnp.int32)) > 0  # one reduction, for each must wait for all warps

  polls_left, *tiles = jax.lax.while_loop(
    lambda state: missing(state[1:]) & (state[0] > 0),
    lambda state: (state[0] - 1, *load()),
    (polls_left, *load()),
  )
  return polls_left, [jax.lax.bitcast_convert_type(tile, dtype) for tile in tiles]


def _matmul_chunks(spec, H):
  """Where each part of H units begins that one product takes, and its size."""
  return [(k, spec.tiling.block_k) for k in range(0, H, spec.tiling.block_k)]


def _dot_transposed(a, w):
  """a wᵀ, summed in float32."""
  return jnp.dot(a, w.T, preferred_element_type=jnp.float32)
