"""The loop over time as one TPU kernel, through Pallas and Mosaic.

A TPU walks the grid of a kernel in order, so time is simply its last axis: U stays where it is, the
carry waits in scratch memory, and while a step is computed the next one's numbers are fetched.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rnnjax.backends.pallas.fused import Loop, shaped
from rnnjax.cells.base import met


def forward(loop: Loop, smalls, U, us, start, alive, save=True, interpret=False):
  """All steps; arguments and results as those of `rnnjax.backends.pallas.triton.forward`."""
  (T, B, _), (N, H, GH), Bt, low = us.shape, U.shape, loop.tiles.rows, loop.dtype
  G, Z, R = GH // H, GH // H + loop.apart, 0 if smalls is None else smalls.shape[1]
  at = _Blocks(loop, Bt, lambda n, k: k + loop.back(n) * (T - 1 - 2 * k))

  def kernel(smalls, U, us, start, alive, after, zs, ys, carries):
    @pl.when(pl.program_id(2) == 0)
    def _():
      for carry, first in zip(carries, start):
        carry[...] = first[...].astype(carry.dtype)

    carry = tuple(part[...] for part in carries)
    v = jnp.dot(carry[0].astype(low), U[...], preferred_element_type=jnp.float32)
    z = met(_split(us[...].astype(jnp.float32), G), _split(v, G), loop.apart)
    new, y = loop.pointwise(loop.small([smalls[i] for i in range(R)]), carry, z)
    new = loop.kept(new, 0)
    if alive is not None:
      mask = alive[...] != 0
      new, y = [jnp.where(mask, a, b) for a, b in zip(new, carry)], jnp.where(mask, y, 0)
    for part, saved, value in zip(carries, after, new):
      saved[...] = value.astype(saved.dtype)
      part[...] = value.astype(saved.dtype).astype(jnp.float32)
    if ys is not None:
      ys[...] = y.astype(low)
    for i, value in enumerate(z if save else []):
      zs[:, i * H : (i + 1) * H] = value.astype(low)

  shape = lambda blocks, dtype: shaped(us, (T, B, N * blocks * H), dtype)
  out = (
    tuple(shape(1, part.dtype) for part in start),
    shape(Z, low) if save else None,
    None if loop.echo else shape(1, low),
  )
  rows = tuple(at.row(H) for _ in start)
  ins = at.net(R, H), at.net(H, GH), at.step(GH), rows, at.mask()
  outs = tuple(at.step(H) for _ in start), at.step(Z * H), at.step(H)
  args = smalls, U, us, start, _column(alive)
  carries = tuple(pltpu.VMEM((Bt, H), jnp.float32) for _ in start)
  after, zs, ys = _call(kernel, args, ins, out, outs, [carries], (N, B // Bt, T), interpret)
  states = tuple(_after(loop, first, part) for first, part in zip(start, after))
  return states, zs, ys


def backward(loop: Loop, smalls, U, states, zs, alive, dends, dys, interpret=False):
  """All steps back; arguments and results as those of `rnnjax.backends.pallas.triton.backward`."""
  (T, B, _), (N, H, GH), Bt, low = dys.shape, U.shape, loop.tiles.rows, loop.dtype
  G, apart, R = GH // H, loop.apart, 0 if smalls is None else smalls.shape[1]
  at = _Blocks(loop, Bt, lambda n, k: T - 1 - k - loop.back(n) * (T - 1 - 2 * k))

  def kernel(smalls, U, states, zs, alive, dends, dys, dvs, dus, dstart, sums, dcarries):
    @pl.when(pl.program_id(2) == 0)
    def _():
      for part, last in zip(dcarries, dends):
        part[...] = last[...].astype(jnp.float32)
      if R:
        sums[...] = jnp.zeros_like(sums)

    dcarry, dy, passing = tuple(part[...] for part in dcarries), dys[...].astype(jnp.float32), None
    if alive is not None:
      mask = alive[...] != 0
      passing = [jnp.where(mask, 0, d) for d in dcarry]
      dcarry, dy = tuple(jnp.where(mask, d, 0) for d in dcarry), jnp.where(mask, dy, 0)
    carry = tuple(part[...].astype(jnp.float32) for part in states)
    z = _split(zs[...].astype(jnp.float32), G + apart)
    _, vjp = jax.vjp(loop.pointwise, loop.small([smalls[i] for i in range(R)]), carry, z)
    dsmall, before, dz = vjp((dcarry, dy))
    dz = [d.astype(low) for d in loop.kept(dz, 0)]
    for ref, blocks in ((dvs, dz[: G - apart] + dz[G:]), (dus, dz[:G] if apart else [])):
      for g, d in enumerate(blocks):
        ref[:, g * H : (g + 1) * H] = d
    over_gates = ((1,), (1,)), ((), ())
    dh = jax.lax.dot_general(dvs[...], U[...], over_gates, preferred_element_type=jnp.float32)
    dcarry = [before[0] + dh, *before[1:]]
    if passing:
      dcarry = [d + p for d, p in zip(dcarry, passing)]
    for part, first, value in zip(dcarries, dstart, dcarry):
      part[...] = first[...] = value
    for i, d in enumerate(jax.tree.leaves(dsmall)):
      sums[i] += d

  shape = lambda *lead: shaped(dys, (*lead, N * H), jnp.float32)
  products = shaped(dys, (T, B, N * GH), low)
  sums = shape(R, B) if R else None
  out = products, products if apart else None, tuple(shape(B) for _ in dends), sums
  rows = tuple(at.row(H) for _ in dends)
  ins = (
    at.net(R, H),
    at.net(H, GH),
    tuple(at.slot(H) for _ in states),
    at.step((G + apart) * H),
    at.mask(),
    rows,
    at.step(H),
  )
  outs = at.step(GH), at.step(GH), rows, at.rows(R, H)
  args = smalls, U, states, zs, _column(alive), dends, dys
  carries = tuple(pltpu.VMEM((Bt, H), jnp.float32) for _ in dends)
  made = _call(kernel, args, ins, out, outs, [carries], (N, B // Bt, T), interpret)
  dvs, dus, dstart, sums = made
  dsmalls = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dstart, dsmalls, dus if apart else dvs, dvs


class _Blocks:
  """Which block of an array a program (n, b, k) of the grid has before it: net, rows and step."""

  def __init__(self, loop, Bt, time):
    self.loop, self.Bt, self.time = loop, Bt, time

  def net(self, *sizes):
    return pl.BlockSpec((None, *sizes), lambda n, b, k: (n, *[0] * len(sizes)))

  def row(self, width):
    return pl.BlockSpec((self.Bt, width), lambda n, b, k: (b, n))

  def rows(self, number, width):
    return pl.BlockSpec((number, self.Bt, width), lambda n, b, k: (0, b, n))

  def step(self, width):
    return pl.BlockSpec((None, self.Bt, width), lambda n, b, k: (self.time(n, k), b, n))

  def slot(self, width):
    """Of states the slot before the step."""
    time = lambda n, k: self.time(n, k) + self.loop.back(n)
    return pl.BlockSpec((None, self.Bt, width), lambda n, b, k: (time(n, k), b, n))

  def mask(self):
    return pl.BlockSpec((None, self.Bt, 1), lambda n, b, k: (self.time(n, k), b, 0))


def _call(kernel, args, ins, out, outs, scratch, grid, interpret):
  """The kernel on the grid; None among arguments and results has no block."""
  given = lambda specs, arrays: tuple(s if a is not None else None for s, a in zip(specs, arrays))
  return pl.pallas_call(
    kernel,
    out,
    grid=grid,
    in_specs=given(ins, args),
    out_specs=given(outs, out),
    scratch_shapes=scratch,
    interpret=interpret,
  )(*args)


def _column(alive):
  """[T, B, 1]: a TPU lays the last two axes out in tiles."""
  return None if alive is None else alive[..., None]


def _after(loop, start, after):
  """[T + 1, B, N·H] of start [B, N·H], the first slot of each net, and what comes after it."""
  N = len(loop.reverse)
  nets = zip(loop.reverse, jnp.split(start[None], N, -1), jnp.split(after, N, -1))
  return jnp.concatenate([jnp.concatenate([b, a] if back else [a, b]) for back, a, b in nets], -1)


def _split(a, number):
  """a [..., number·H] as blocks [..., H]."""
  H = a.shape[-1] // number
  return [a[:, i * H : (i + 1) * H] for i in range(number)]
