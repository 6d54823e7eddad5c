"""The loop over time as one CUDA kernel, through Pallas and Triton.

Persistent RNNs (Diamos et al., 2016): each program keeps its columns of U on the chip for the whole
loop, and walks all of time for its rows of the batch and its units. What it needs of the others is
hₜ, forward, and ∂L/∂vₜ with v = h U, backward; both are outputs that go through memory in any case.

No barrier is needed to wait for them. The exchanged array is full of a mark (all bits set, a NaN
that no arithmetic makes) before the launch; a program loads its step until no mark is left in it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from rnnjax.cells.cell import met
from rnnjax.kernels.branchless import branchless
from rnnjax.kernels.fused import Loop

BITS = {jnp.dtype(jnp.float32): jnp.int32, jnp.dtype(jnp.bfloat16): jnp.int16}
MARK = -1
PATIENCE = 2**22  # loads in vain, some seconds, after which a program goes on, with NaN


def forward(loop: Loop, smalls, U, us, start, alive, interpret=False):
  """All steps.

  Returns:
    states, each [T + 1, B, N·H]; ys [T, B, N·H], None where they are h.
  """
  T, B, _ = us.shape
  (N, H, GH), reverse = U.shape, loop.reverse
  G, Bt, Hc = GH // H, loop.tiles.rows, loop.tiles.columns
  low, bits, pointwise = loop.dtype, BITS[loop.dtype], branchless(loop.pointwise)

  def kernel(smalls, U, us, start, alive, marked, hs, others, ys):
    c, b, n = (pl.program_id(axis) for axis in range(3))
    rows, back = pl.ds(b * Bt, Bt), _direction(reverse, n)
    column = lambda block: pl.ds(block * H + c * Hc, Hc)
    small = _vectors(loop, smalls, n, c)
    weights = [[U[n, column(g), pl.ds(k, size)] for k, size in _chunks(loop, H)] for g in range(G)]
    carry = tuple(part[rows, column(n)].astype(jnp.float32) for part in start)
    for part, first in zip(others, carry[1:]):
      part[T * back, rows, column(n)] = first.astype(part.dtype)

    def fed(k):
      """The time of step k, and what it need not wait for."""
      t = k + back * (T - 1 - 2 * k)
      return t, [us[t, rows, column(n * G + g)].astype(jnp.float32) for g in range(G)]

    def tick(k, state):
      patience, carry, (t, u) = state
      ahead = fed(jnp.minimum(k + 1, T - 1))
      mask = None if alive is None else (alive[t, rows] != 0)[:, None]
      if Hc == H:
        h = [carry[0].astype(low)]
      else:
        places = [(t + back, rows, pl.ds(n * H + k, size)) for k, size in _chunks(loop, H)]
        patience, h = _gather(hs, places, patience)
        h = [jax.lax.bitcast_convert_type(part, low) for part in h]
      v = [sum(_dot(a, w) for a, w in zip(h, own)) for own in weights]
      new, y = pointwise(small, tuple(carry), met(u, v, loop.apart))
      new, y = [*_kept(loop, new, H, c)], y
      if mask is not None:
        new = [jnp.where(mask, one, old) for one, old in zip(new, carry)]
      new[0] = new[0].astype(low)
      hs[t + 1 - back, rows, column(n)] = _unmarked(new[0], bits)
      for part, value in zip(others, new[1:]):
        part[t + 1 - back, rows, column(n)] = value.astype(part.dtype)
      if ys is not None:
        y = y if mask is None else jnp.where(mask, y, 0)
        ys[t, rows, column(n)] = y.astype(low)
      new = tuple(value.astype(jnp.float32) for value in new)
      return patience, new, ahead

    jax.lax.fori_loop(0, T, tick, (jnp.int32(PATIENCE), carry, fed(0)))

  shape = lambda steps, dtype: jax.ShapeDtypeStruct((steps, B, N * H), dtype)
  hs = _marked(T, start[0], bits, reverse)
  out = (
    shape(T + 1, bits), tuple(shape(T + 1, part.dtype) for part in start[1:]),
    None if loop.echo else shape(T, low),
  )  # fmt: skip
  args = smalls, U.swapaxes(1, 2), us, start, alive, hs
  hs, others, ys = _call(loop, kernel, args, out, (H // Hc, B // Bt, N), interpret)
  return (jax.lax.bitcast_convert_type(hs, low), *others), ys


def backward(loop: Loop, smalls, U, states, us, vs, alive, dends, dys, interpret=False):
  """All steps back.

  Args:
    us, vs: what `project` made, and h U; us is their sum and vs None where none is kept apart.

  Returns:
    dstart, each [B, N·H]; dsmalls; dus and dvs [T, B, N·G·H].
  """
  T, B, _ = dys.shape
  (N, H, GH), reverse, apart = U.shape, loop.reverse, loop.apart
  G, Bt, Hc = GH // H, loop.tiles.rows, loop.tiles.columns
  low, pointwise = loop.dtype, branchless(loop.pointwise)
  R = 0 if smalls is None else smalls.shape[1]

  C = H // Hc

  def kernel(smalls, U, states, us, vs, alive, dends, dys, marked, parts, dvs, dus, dstart, dsmalls):
    c, b, n = (pl.program_id(axis) for axis in range(3))
    rows, back = pl.ds(b * Bt, Bt), _direction(reverse, n)
    column = lambda block: pl.ds(block * H + c * Hc, Hc)
    small = _vectors(loop, smalls, n, c)
    weights = [[U[n, pl.ds(k, size), column(g)] for g in range(G)] for k, size in _chunks(loop, H)]
    dcarry = tuple(part[rows, column(n)].astype(jnp.float32) for part in dends)
    zeros = [jnp.zeros((Bt, Hc), jnp.float32)] * R

    def saved(k):
      """The time of step k back, and what of it need not wait: its vjp's leaves, and dy."""
      t = T - 1 - k - back * (T - 1 - 2 * k)
      load = lambda ref, at, block: ref[at, rows, column(block)].astype(jnp.float32)
      z = [load(us, t, n * G + g) for g in range(G)]
      if apart:
        z = met(z, [load(vs, t, n * G + g) for g in range(G)], apart)
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
      dz = [d.astype(low) for d in _kept(loop, dz, H, c)]
      dv = dz[: G - apart] + dz[G:]
      dh = [sum(_dot(d, w) for d, w in zip(dv, own)) for own in weights]
      if C > 1:
        for (m, size), part in zip(_chunks(loop, H), dh):
          parts[k, c, rows, pl.ds(n * H + m, size)] = _unmarked(part, jnp.int32)
      for g, d in enumerate(dv):
        dvs[t, rows, column(n * G + g)] = d
      for g, d in enumerate(dz[:G] if apart else []):
        dus[t, rows, column(n * G + g)] = d
      _, ahead = saved(jnp.minimum(k + 1, T - 1))  # while the parts of others are waited for
      if C > 1:
        patience, dh = _gather(parts, [(k, i, rows, column(n)) for i in range(C)], patience)
        dh = [jax.lax.bitcast_convert_type(part, jnp.float32) for part in dh]
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

  shape = lambda *lead, dtype=jnp.float32: jax.ShapeDtypeStruct((*lead, N * H), dtype)
  products = jax.ShapeDtypeStruct((T, B, N * GH), low)
  marked = jnp.full((T, C, B, N * H) if C > 1 else 1, MARK, jnp.int32)
  out = (
    jax.ShapeDtypeStruct(marked.shape, jnp.int32), products, products if apart else None,
    tuple(shape(B) for _ in dends), shape(R, B) if R else None,
  )  # fmt: skip
  args = smalls, U, states, us, vs, alive, dends, dys, marked
  _, dvs, dus, dstart, sums = _call(loop, kernel, args, out, (C, B // Bt, N), interpret)
  dsmalls = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dstart, dsmalls, dus if apart else dvs, dvs


def _call(loop, kernel, args, out, grid, interpret):
  """The kernel on the grid; its last argument is the memory of its first result."""
  last = len(jax.tree.leaves(args)) - 1
  how = plgpu.CompilerParams(num_warps=loop.tiles.warps, num_stages=1)
  return pl.pallas_call(
    kernel, out, grid=grid, input_output_aliases={last: 0}, compiler_params=how, interpret=interpret
  )(*args)  # fmt: skip


def _marked(T, h, bits, reverse):
  """[T + 1, B, N·H] full of marks, but for the slots that nets start from, where h [B, N·H] is."""
  N, H = len(reverse), h.shape[-1] // len(reverse)
  hs = jnp.full((T + 1, *h.shape), MARK, bits)
  h = _unmarked(h, bits)
  for n, back in enumerate(reverse):
    at = slice(n * H, (n + 1) * H)
    hs = hs.at[T if back else 0, :, at].set(h[:, at])
  return hs


def _unmarked(x, bits):
  """The bits of x, which are never those of the mark."""
  x = jax.lax.bitcast_convert_type(x, bits)
  return jnp.where(x == MARK, jnp.array(jnp.iinfo(bits).max, bits), x)  # another NaN


def _gather(ref, places, patience):
  """ref at these places, as soon as no mark is left in any; and what patience is left."""
  load = lambda: [plgpu.load(ref.at[place], volatile=True) for place in places]

  def missing(tiles):
    found = functools.reduce(jnp.logical_or, [tile == MARK for tile in tiles])
    return jnp.max(found.astype(jnp.int32)) > 0  # one reduction, for each must wait for all warps

  patience, *tiles = jax.lax.while_loop(
    lambda state: missing(state[1:]) & (state[0] > 0),
    lambda state: (state[0] - 1, *load()),
    (patience, *load()),
  )
  return patience, tiles


def _chunks(loop, H):
  """Where each part of H units begins that one product takes, and its size."""
  return [(k, loop.tiles.chunk) for k in range(0, H, loop.tiles.chunk)]


def _direction(reverse, n):
  """1 where net n walks time backward, else 0."""
  if len(set(reverse)) == 1:
    return int(reverse[0])
  return sum(jnp.where(n == i, int(back), 0) for i, back in enumerate(reverse))


def _vectors(loop, smalls, n, c):
  """The parameters of pointwise for a program's units, as wide as its rows, so that their gradients
  are summed over rows once, at the end."""
  if smalls is None:
    return {}
  Bt, Hc = loop.tiles.rows, loop.tiles.columns
  rows = [smalls[n, i, pl.ds(c * Hc, Hc)] for i in range(smalls.shape[1])]
  return loop.small([jnp.broadcast_to(row[None], (Bt, Hc)) for row in rows])


def _kept(loop, values, H, c):
  """Values of units that the cell does not have are 0: nothing that they are may reach others."""
  if loop.H == H:
    return list(values)
  unit = c * loop.tiles.columns + jax.lax.broadcasted_iota(jnp.int32, values[0].shape, 1)
  return [jnp.where(unit < loop.H, value, 0) for value in values]


def _dot(a, w):
  """a wᵀ, summed in float32."""
  return jnp.dot(a, w.T, preferred_element_type=jnp.float32)
