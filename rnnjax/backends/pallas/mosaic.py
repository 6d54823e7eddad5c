"""The loop over time as one TPU kernel, through Pallas and Mosaic.

A TPU walks the grid of a kernel in order, so time is simply its last axis: U stays where it is, the
carry waits in scratch memory, and while a step is computed the next one's numbers are fetched.
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
  """All steps; arguments and results as those of `rnnjax.backends.pallas.triton.forward`."""
  (T, B, _), (N, H, GH), Bt, low = us.shape, U.shape, spec.tiling.block_batch, spec.dtype
  G, Z, R = (
    GH // H,
    GH // H + spec.num_split_gates,
    0 if pointwise_rows is None else pointwise_rows.shape[1],
  )
  at = _BlockSpecs(spec, Bt, lambda n, k: k + spec.is_reverse(n) * (T - 1 - 2 * k))

  def kernel(pointwise_rows, U, us, initial_carry, mask, after, zs, ys, carries):
    @pl.when(pl.program_id(2) == 0)
    def _():
      for carry, first in zip(carries, initial_carry):
        carry[...] = first[...].astype(carry.dtype)

    carry = tuple(part[...] for part in carries)
    v = jnp.dot(carry[0].astype(low), U[...], preferred_element_type=jnp.float32)
    z = add_preactivations(
      _split_gates(us[...].astype(jnp.float32), G), _split_gates(v, G), spec.num_split_gates
    )
    new, y = spec.pointwise(spec.unpack_params([pointwise_rows[i] for i in range(R)]), carry, z)
    new = spec.zero_padded_units(new, 0)
    if mask is not None:
      row_mask = mask[...] != 0
      new, y = [jnp.where(row_mask, a, b) for a, b in zip(new, carry)], jnp.where(row_mask, y, 0)
    for part, saved, value in zip(carries, after, new):
      saved[...] = value.astype(saved.dtype)
      part[...] = value.astype(saved.dtype).astype(jnp.float32)
    if ys is not None:
      ys[...] = y.astype(low)
    for i, value in enumerate(z if save else []):
      zs[:, i * H : (i + 1) * H] = value.astype(low)

  shape = lambda blocks, dtype: output_struct(us, (T, B, N * blocks * H), dtype)
  out = (
    tuple(shape(1, part.dtype) for part in initial_carry),
    shape(Z, low) if save else None,
    None if spec.output_is_h else shape(1, low),
  )
  rows = tuple(at.carry_block(H) for _ in initial_carry)
  ins = at.param_block(R, H), at.param_block(H, GH), at.step_block(GH), rows, at.mask_block()
  outs = tuple(at.step_block(H) for _ in initial_carry), at.step_block(Z * H), at.step_block(H)
  args = pointwise_rows, U, us, initial_carry, _mask_column(mask)
  carries = tuple(pltpu.VMEM((Bt, H), jnp.float32) for _ in initial_carry)
  after, zs, ys = _launch_kernel(
    kernel, args, ins, out, outs, [carries], (N, B // Bt, T), interpret
  )
  states = tuple(_with_initial_slot(spec, first, part) for first, part in zip(initial_carry, after))
  return states, zs, ys


def backward(spec: KernelSpec, pointwise_rows, U, states, zs, mask, dends, dys, interpret=False):
  """All steps back; arguments and results as those of `rnnjax.backends.pallas.triton.backward`."""
  (T, B, _), (N, H, GH), Bt, low = dys.shape, U.shape, spec.tiling.block_batch, spec.dtype
  G, apart, R = (
    GH // H,
    spec.num_split_gates,
    0 if pointwise_rows is None else pointwise_rows.shape[1],
  )
  at = _BlockSpecs(spec, Bt, lambda n, k: T - 1 - k - spec.is_reverse(n) * (T - 1 - 2 * k))

  def kernel(pointwise_rows, U, states, zs, mask, dends, dys, dvs, dus, dstart, sums, dcarries):
    @pl.when(pl.program_id(2) == 0)
    def _():
      for part, last in zip(dcarries, dends):
        part[...] = last[...].astype(jnp.float32)
      if R:
        sums[...] = jnp.zeros_like(sums)

    dcarry, dy, passing = tuple(part[...] for part in dcarries), dys[...].astype(jnp.float32), None
    if mask is not None:
      row_mask = mask[...] != 0
      passing = [jnp.where(row_mask, 0, d) for d in dcarry]
      dcarry, dy = tuple(jnp.where(row_mask, d, 0) for d in dcarry), jnp.where(row_mask, dy, 0)
    carry = tuple(part[...].astype(jnp.float32) for part in states)
    z = _split_gates(zs[...].astype(jnp.float32), G + apart)
    _, vjp = jax.vjp(
      spec.pointwise, spec.unpack_params([pointwise_rows[i] for i in range(R)]), carry, z
    )
    dsmall, before, dz = vjp((dcarry, dy))
    dz = [d.astype(low) for d in spec.zero_padded_units(dz, 0)]
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

  shape = lambda *lead: output_struct(dys, (*lead, N * H), jnp.float32)
  products = output_struct(dys, (T, B, N * GH), low)
  sums = shape(R, B) if R else None
  out = products, products if apart else None, tuple(shape(B) for _ in dends), sums
  rows = tuple(at.carry_block(H) for _ in dends)
  ins = (
    at.param_block(R, H),
    at.param_block(H, GH),
    tuple(at.state_block(H) for _ in states),
    at.step_block((G + apart) * H),
    at.mask_block(),
    rows,
    at.step_block(H),
  )
  outs = at.step_block(GH), at.step_block(GH), rows, at.param_grad_block(R, H)
  args = pointwise_rows, U, states, zs, _mask_column(mask), dends, dys
  carries = tuple(pltpu.VMEM((Bt, H), jnp.float32) for _ in dends)
  made = _launch_kernel(kernel, args, ins, out, outs, [carries], (N, B // Bt, T), interpret)
  dvs, dus, dstart, sums = made
  dsmalls = sums.sum(1).reshape(R, N, H).swapaxes(0, 1) if R else None
  return dstart, dsmalls, dus if apart else dvs, dvs


class _BlockSpecs:
  """Which block of an array a program (n, b, k) of the grid has before it: net, rows and step."""

  def __init__(self, spec, Bt, time_index):
    self.spec, self.Bt, self.time_index = spec, Bt, time_index

  def param_block(self, *sizes):
    return pl.BlockSpec((None, *sizes), lambda n, b, k: (n, *[0] * len(sizes)))

  def carry_block(self, width):
    return pl.BlockSpec((self.Bt, width), lambda n, b, k: (b, n))

  def param_grad_block(self, num_rows, width):
    return pl.BlockSpec((num_rows, self.Bt, width), lambda n, b, k: (0, b, n))

  def step_block(self, width):
    return pl.BlockSpec((None, self.Bt, width), lambda n, b, k: (self.time_index(n, k), b, n))

  def state_block(self, width):
    """Of states the slot before the step."""
    time = lambda n, k: self.time_index(n, k) + self.spec.is_reverse(n)
    return pl.BlockSpec((None, self.Bt, width), lambda n, b, k: (time(n, k), b, n))

  def mask_block(self):
    return pl.BlockSpec((None, self.Bt, 1), lambda n, b, k: (self.time_index(n, k), b, 0))


def _launch_kernel(kernel, args, in_specs, out_shape, out_specs, scratch_shapes, grid, interpret):
  """The kernel on the grid; None among arguments and results has no block."""
  given = lambda specs, arrays: tuple(s if a is not None else None for s, a in zip(specs, arrays))
  return pl.pallas_call(
    kernel,
    out_shape,
    grid=grid,
    in_specs=given(in_specs, args),
    out_specs=given(out_specs, out_shape),
    scratch_shapes=scratch_shapes,
    interpret=interpret,
  )(*args)


def _mask_column(mask):
  """[T, B, 1]: a TPU lays the last two axes out in tiles."""
  return None if mask is None else mask[..., None]


def _with_initial_slot(spec, initial_carry, after):
  """[T + 1, B, N·H] of start [B, N·H], the first slot of each net, and what comes after it."""
  N = len(spec.reverse)
  nets = zip(spec.reverse, jnp.split(initial_carry[None], N, -1), jnp.split(after, N, -1))
  return jnp.concatenate([jnp.concatenate([b, a] if back else [a, b]) for back, a, b in nets], -1)


def _split_gates(a, num_gates):
  """a [..., number·H] as blocks [..., H]."""
  H = a.shape[-1] // num_gates
  return [a[:, i * H : (i + 1) * H] for i in range(num_gates)]
