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

from rnnjax.backends.batch_sharding import varying
from rnnjax.backends.pallas.branchless_tanh import branchless
from rnnjax.backends.pallas.fused import Loop, shaped
from rnnjax.cells.base import met

BITS = {jnp.dtype(jnp.float32): jnp.int32, jnp.dtype(jnp.bfloat16): jnp.int16}
MARK = -1
SLOTS = 16  # of the ring; half of them later, memory is fenced, and a mark is there for all to see
PATIENCE = 2**22  # loads in vain, some seconds, after which a program goes on, with NaN


def forward(loop: Loop, smalls, U, us, start, alive, save=True, interpret=False):
  """All steps.

  Returns:
    states, each [T + 1, B, N·H]; zs [T, B, N·Z·H], what entered the nonlinearities, None unless it
    is to be saved; ys [T, B, N·H], None where they are h.
  """
  T, B, _ = us.shape
  (N, H, GH), low, pointwise = U.shape, loop.dtype, branchless(loop.pointwise)
  G, Z, Bt, Hc = GH // H, GH // H + loop.apart, loop.tiles.rows, loop.tiles.columns
  R = 0 if smalls is None else smalls.shape[1]

  def kernel(smalls, U, us, start, alive, ring, fences, states, zs, ys, ring_, fences_):
    c, b, n, rows, column = _place(loop, H)
    back, small = loop.back(n), loop.small([smalls[n, i, column(0)] for i in range(R)])
    weights = [[U[n, column(g), pl.ds(k, size)] for k, size in _chunks(loop, H)] for g in range(G)]
    carry = tuple(part[rows, column(n)].astype(jnp.float32) for part in start)
    first = _unmarked(carry[0].astype(low)), *carry[1:]
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
        places = [(_slot(k), rows, pl.ds(n * H + m, size)) for m, size in _chunks(loop, H)]
        patience, h = _gather(ring_, places, patience, low)
      v = [sum(_dot(a, w) for a, w in zip(h, own)) for own in weights]
      z = met(u, v, loop.apart)
      new, y = pointwise(small, carry, z)
      new = loop.kept(new, c * Hc)
      if alive is not None:
        mask = (alive[t, rows] != 0)[:, None]
        new, y = [jnp.where(mask, a, b) for a, b in zip(new, carry)], jnp.where(mask, y, 0)
      new = [value.astype(part.dtype) for value, part in zip(new, start)]
      sent = _unmarked(new[0])
      if Hc != H:
        ring_[_slot(k + 1), rows, column(n)] = sent
        # All have sent hₜ₋₁, and so have read what was sent before.
        ring_[_slot(k - 1), rows, column(n)] = jnp.full((Bt, Hc), MARK, BITS[low])
        _fence(fences_, b, n, k, interpret)
      for part, value in zip(states, (sent, *new[1:])):
        part[t + 1 - back, rows, column(n)] = value
      if ys is not None:
        ys[t, rows, column(n)] = y.astype(low)
      for i, value in enumerate(z if save else []):
        zs[t, rows, column(n * Z + i)] = value.astype(low)
      return patience, tuple(value.astype(jnp.float32) for value in new), ahead

    jax.lax.fori_loop(0, T, tick, (jnp.int32(PATIENCE), carry, fed(0)))

  shape = lambda steps, blocks, dtype: shaped(us, (steps, B, N * blocks * H), dtype)
  slots = lambda dtype: shape(T + 1, 1, dtype)
  states = slots(BITS[low]), *(slots(part.dtype) for part in start[1:])  # h as it is sent, its bits
  out = states, shape(T, Z, low) if save else None, None if loop.echo else shape(T, 1, low)
  ring = jnp.full((SLOTS, B, N * H), MARK, BITS[low]).at[0].set(_unmarked(start[0]))
  args = smalls, U.swapaxes(1, 2), us, start, alive
  (hs, *others), zs, ys = _call(loop, kernel, args, out, ring, (H // Hc, B // Bt, N), interpret)
  return (jax.lax.bitcast_convert_type(hs, low), *others), zs, ys


def backward(loop: Loop, smalls, U, states, zs, alive, dends, dys, interpret=False):
  """All steps back.

  Returns:
    dstart, each [B, N·H]; dsmalls; dus and dvs [T, B, N·G·H], of u and of v = h U.
  """
  T, B, _ = dys.shape
  (N, H, GH), low, pointwise = U.shape, loop.dtype, branchless(loop.pointwise)
  G, apart, Bt, Hc = GH // H, loop.apart, loop.tiles.rows, loop.tiles.columns
  Z, C, R = G + apart, H // Hc, 0 if smalls is None else smalls.shape[1]

  def kernel(smalls, U, states, zs, alive, dends, dys, ring, fences, *out):
    dvs, dus, dstart, dsmalls, ring_, fences_ = out
    c, b, n, rows, column = _place(loop, H)
    back, small = loop.back(n), loop.small([smalls[n, i, column(0)] for i in range(R)])
    weights = [[U[n, pl.ds(k, size), column(g)] for g in range(G)] for k, size in _chunks(loop, H)]
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
      if alive is not None:
        mask = (alive[t, rows] != 0)[:, None]
        passing = [jnp.where(mask, 0, d) for d in dcarry]
        dcarry, dy = tuple(jnp.where(mask, d, 0) for d in dcarry), jnp.where(mask, dy, 0)
      dsmall, before, dz = vjp.unflatten(leaves)((dcarry, dy))
      dz = [d.astype(low) for d in loop.kept(dz, c * Hc)]
      dv = dz[: G - apart] + dz[G:]
      dh = [sum(_dot(d, w) for d, w in zip(dv, own)) for own in weights]
      if C > 1:
        everywhere = [pl.ds(n * H + m, size) for m, size in _chunks(loop, H)]
        for place, part in zip(everywhere, dh):
          ring_[_slot(k), c, rows, place] = _unmarked(part)
        # All have sent their shares of the step before, and so have read those before these.
        for place, part in zip(everywhere, dh):
          ring_[_slot(k - 2), c, rows, place] = jnp.full(part.shape, MARK, jnp.int32)
        _fence(fences_, b, n, k, interpret)
      for g, d in enumerate(dv):
        dvs[t, rows, column(n * G + g)] = d
      for g, d in enumerate(dz[:G] if apart else []):
        dus[t, rows, column(n * G + g)] = d
      _, ahead = saved(jnp.minimum(k + 1, T - 1))  # while the shares of others are waited for
      if C > 1:
        places = [(_slot(k), i, rows, column(n)) for i in range(C)]
        patience, dh = _gather(ring_, places, patience, jnp.float32)
      dcarry = [before[0] + sum(dh), *before[1:]]
      if passing:
        dcarry = [d + p for d, p in zip(dcarry, passing)]
      sums = [total + d for total, d in zip(sums, jax.tree.leaves(dsmall))]
      return patience, tuple(dcarry), sums, ahead

    end = jax.lax.fori_loop(0, T, tick, (jnp.int32(PATIENCE), dcarry, zeros, begin))
    for part, value in zip(dstart, end[1]):
      part[rows, column(n)] = value
    for i, total in enumerate(end[2]):
      dsmalls[i, rows, column(n)] = total

  shape = lambda *lead: shaped(dys, (*lead, N * H), jnp.float32)
  products = shaped(dys, (T, B, N * GH), low)
  sums = shape(R, B) if R else None
  out = products, products if apart else None, tuple(shape(B) for _ in dends), sums
  ring = jnp.full((SLOTS, C, B, N * H), MARK, jnp.int32)
  args = smalls, U, states, zs, alive, dends, dys
  dvs, dus, dstart, sums = _call(loop, kernel, args, out, ring, (C, B // Bt, N), interpret)
  dsmalls = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dstart, dsmalls, dus if apart else dvs, dvs


def _call(loop, kernel, args, out, ring, grid, interpret):
  """The kernel on the grid; it gets the ring and the fences as both arguments and results."""
  fences = jnp.zeros(grid[2] * grid[1], jnp.int32)
  shared = varying((ring, fences), args[1])
  first, last = len(jax.tree.leaves(args)), len(jax.tree.leaves(out))
  *results, _, _ = pl.pallas_call(
    kernel,
    (*out, *(shaped(a, a.shape, a.dtype) for a in shared)),
    grid=grid,
    input_output_aliases={first: last, first + 1: last + 1},
    compiler_params=plgpu.CompilerParams(num_warps=loop.tiles.warps, num_stages=1),
    interpret=interpret,
  )(*args, *shared)
  return results


def _place(loop, H):
  """Which program this is: its columns, rows and net; and where its rows, and its units in a block
  of H features, are."""
  c, b, n = (pl.program_id(axis) for axis in range(3))
  rows = pl.ds(b * loop.tiles.rows, loop.tiles.rows)
  return c, b, n, rows, lambda block: pl.ds(block * H + c * loop.tiles.columns, loop.tiles.columns)


def _slot(k):
  """Where step k is in the ring, a power of two."""
  return k & (SLOTS - 1)


def _fence(fences, b, n, k, interpret):
  """From time to time, makes what all threads of this program have written visible to all programs
  of its rows, and what these had made visible before, to it."""
  if interpret:  # one program after another
    return

  @pl.when(k & (SLOTS // 2 - 1) == 0)
  def _():
    plgpu.debug_barrier()
    plgpu.atomic_add(fences, (n * pl.num_programs(1) + b,), 1)  # acquires and releases
    plgpu.debug_barrier()


def _unmarked(x):
  """The bits of x, which are never those of the mark."""
  bits = BITS[x.dtype]
  x = jax.lax.bitcast_convert_type(x, bits)
  return jnp.where(x == MARK, jnp.array(jnp.iinfo(bits).max, bits), x)  # another NaN


def _gather(ring, places, patience, dtype):
  """The ring at these places, as soon as no mark is left in any; and what patience is left."""
  load = lambda: [plgpu.load(ring.at[place], volatile=True) for place in places]

  def missing(tiles):
    found = functools.reduce(jnp.logical_or, [tile == MARK for tile in tiles])
    return jnp.max(found.astype(jnp.int32)) > 0  # one reduction, for each must wait for all warps

  patience, *tiles = jax.lax.while_loop(
    lambda state: missing(state[1:]) & (state[0] > 0),
    lambda state: (state[0] - 1, *load()),
    (patience, *load()),
  )
  return patience, [jax.lax.bitcast_convert_type(tile, dtype) for tile in tiles]


def _chunks(loop, H):
  """Where each part of H units begins that one product takes, and its size."""
  return [(k, loop.tiles.chunk) for k in range(0, H, loop.tiles.chunk)]


def _dot(a, w):
  """a wᵀ, summed in float32."""
  return jnp.dot(a, w.T, preferred_element_type=jnp.float32)
