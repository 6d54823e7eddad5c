"""A loop over time in one launch: what every kernel that walks time on a chip has in common.

A cell of the form of `additive` is nothing but one product and a pointwise function. So a kernel
needs to know no cell: it keeps U on the chip, walks time, and between two products calls the cell's
own `pointwise`, forward, and its vjp, backward. What need not wait for time is done in products
over all steps, before the loop (x W + b) and after it (the gradients of W, U and b).

The N nets of a layer, one or one in each direction, are run in one launch, side by side:

    us  [T, B, N·G·H]    states  N·H features each, T + 1 slots: before step t stands slot t,
    U   [N, H, G·H]              after it t + 1, in reverse the other way round
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.backends.base import requires_floating
from rnnjax.backends.batch_sharding import cast_to_varying, shard_over_batch
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params


class KernelSpec(NamedTuple):
  """What a kernel is made from.

  Attributes:
    pointwise, apart: of the cell.
    names: of the parameters that `pointwise` reads, with how many rows of H numbers each has; None
      for one that is a vector.
    reverse: for each of the N nets, whether it walks time backward.
    H: units, as the cell has them.
    echo: y is h.
    dtype: in which products are computed; sums and carries are wider.
    tiles: how the work is cut.
    forward, backward: the kernels, called as `_loop` does.
  """

  pointwise: Callable
  num_split_gates: int
  pointwise_params: tuple[tuple[str, int | None], ...]
  reverse: tuple[bool, ...]
  H: int
  output_is_h: bool
  dtype: jnp.dtype
  tiling: "Tiling"
  forward: Callable
  backward: Callable

  def is_reverse(self, n: Array):
    """1 where net n walks time backward, else 0."""
    if len(set(self.reverse)) == 1:
      return int(self.reverse[0])
    return sum((n == i).astype(jnp.int32) for i, back in enumerate(self.reverse) if back)

  def unpack_params(self, rows: list[Array]) -> Params:
    """The parameters that `pointwise` reads, of their rows [units], each repeated for all rows of
    the batch, over which gradients are then summed later; those that are matrices as lists."""
    wide = [jnp.broadcast_to(row[None], (self.tiling.block_batch, row.size)) for row in rows]
    return _unpack_rows(self.pointwise_params, wide)

  def zero_padded_units(self, values: list[Array], first) -> list[Array]:
    """Values [rows, units] from the first unit on, 0 of units that the cell does not have: nothing
    that they are may reach others."""
    if self.tiling.padded_size(self.H) == self.H:
      return list(values)
    unit = first + jax.lax.broadcasted_iota(jnp.int32, values[0].shape, 1)
    return [jnp.where(unit < self.H, value, 0) for value in values]


class Tiling(NamedTuple):
  """How a kernel cuts its work.

  Attributes:
    rows: of the batch, in one program.
    columns: units in one program.
    chunk: of the units, in one product; like columns a power of two, and H is filled up to a
      multiple of both.
    warps: of a program, where it has any.
  """

  block_batch: int
  block_units: int
  block_k: int
  num_warps: int = 4

  def padded_size(self, H: int) -> int:
    """What H units are filled up to."""
    return _round_up(H, max(self.block_units, self.block_k))


def make_kernel_spec(
  cell, num_gates, dtype, reverse, pointwise_params, tiling, forward, backward
) -> KernelSpec:
  """The loop of a cell of so many gates, its work cut into tiles, by these kernels."""
  tile = jnp.zeros((tiling.block_batch, cell.features))
  rows = [tile for _, number in pointwise_params for _ in range(number or 1)]
  small, z = _unpack_rows(pointwise_params, rows), [tile] * (num_gates + cell.num_split_gates)
  jaxpr = jax.make_jaxpr(cell.pointwise)(small, cell.initial_carry(tile[:, :1]), z).jaxpr
  echo = jaxpr.outvars[-1] is jaxpr.outvars[0]
  return KernelSpec(
    cell.pointwise,
    cell.num_split_gates,
    pointwise_params,
    reverse,
    cell.features,
    echo,
    jnp.dtype(dtype),
    tiling,
    forward,
    backward,
  )


def why_unsupported(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why no kernel can be made of a cell, or run in a type; "" where one can."""
  if cell.pointwise is None:
    return f"a kernel is made from a cell's pointwise function, and {cell} has none; see `additive`"
  if xs.dtype not in (jnp.float32, jnp.bfloat16):
    return f"a kernel computes in float32 or bfloat16; got {xs.dtype}"
  if why := requires_floating(cell, params, xs, carry):
    return why
  H = cell.features
  if any(c.shape != (*xs.shape[1:-1], H) for c in carry):
    return f"a kernel needs a carry of {H} features; {cell} has {[c.shape[-1] for c in carry]}"
  for name in sorted(set(params) - {"W", "U", "b"}):
    if params[name].shape[-1:] != (H,) or params[name].ndim > 2:
      return (
        f"a kernel needs parameters [H] or [n, H] beside W, U and b, H = {H}; {name} of "
        f"{cell} is {list(params[name].shape)}"
      )
  return ""


def run_fused(
  make_spec: Callable[..., KernelSpec],
  cell: Cell,
  param_sets: tuple[Params, ...],
  xs: Array,
  mask: Array | None,
  carries: tuple[Carry, ...],
  reverse: tuple[bool, ...],
) -> list[tuple[Carry, Array]]:
  """N nets of one cell over the same xs, as `scan` would run each of them.

  Args:
    make: cell, gates, dtype, reverse, names -> the loop, as `layout` makes it for a kernel.
    cell: of the form of `additive`.
    nets, carries, reverse: parameters, first carry and direction of each net.
    xs, alive: as for `scan`.

  Returns:
    [(carry, ys)], one for each net.
  """

  def run(param_sets, xs, mask, carries):
    param_sets, carries = (cast_to_varying(tree, xs) for tree in (param_sets, carries))
    return tuple(zip(*_run_fused(make_spec, cell, param_sets, xs, mask, carries, reverse)))

  return [*zip(*shard_over_batch(run, check_vma=False)(param_sets, xs, mask, carries))]


def _run_fused(make_spec, cell, param_sets, xs, mask, carries, reverse):
  T, *batch, _ = xs.shape
  H, B = cell.features, math.prod(batch)
  G = param_sets[0]["b"].shape[0] // H
  small = sorted(set(param_sets[0]) - {"W", "U", "b"})
  names = tuple(
    (name, None if param_sets[0][name].ndim == 1 else len(param_sets[0][name])) for name in small
  )
  loop = make_spec(cell, G, xs.dtype, reverse, names)
  width = loop.tiling.padded_size(H)
  rows = _round_up(B, loop.tiling.block_batch)

  def grow(a, axis, size):
    return jnp.pad(
      a, [(0, size - a.shape[axis] if i == axis % a.ndim else 0) for i in range(a.ndim)]
    )

  def gates(a):  # [..., G·H] -> [..., G·width]
    return grow(a.reshape(*a.shape[:-1], G, H), -1, width).reshape(*a.shape[:-1], G * width)

  W = jnp.concatenate([gates(net["W"]) for net in param_sets], -1)
  b = jnp.concatenate([gates(net["b"]) for net in param_sets], -1)
  U = jnp.stack([grow(gates(net["U"]), 0, width) for net in param_sets])
  vectors = [[net[name].reshape(-1, H) for name in small] for net in param_sets]
  smalls = None
  if small:
    smalls = jnp.stack([jnp.concatenate(own) for own in vectors]).astype(
      accumulation_dtype(xs.dtype)
    )
    smalls = grow(smalls, -1, width)

  flat = lambda a, to: grow(a.reshape(T, B, *a.shape[1 + len(batch) :]), 1, to)
  us = flat(xs, rows) @ W + b
  if mask is not None:
    mask = flat(mask, rows).astype(jnp.int32)
  start = [grow(grow(c.reshape(B, H), 0, rows), 1, width) for carry in carries for c in carry]
  parts = len(carries[0])
  start = tuple(_concat_features(start[i::parts]) for i in range(parts))
  ends, ys = _fused_loop(loop, smalls, U, us, start, mask)

  def own(a, n, *lead):  # the features of net n alone, as the caller's batch
    return a[..., :B, n * width : n * width + H].reshape(*lead, *batch, H)

  return [(tuple(own(end, n) for end in ends), own(ys, n, T)) for n in range(len(param_sets))]


def output_struct(like: Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
  """What a kernel puts out, which differs among the devices of a shard_map as `like` does."""
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)


def _round_up(size, multiple):
  return -(-size // multiple) * multiple


def _unpack_rows(pointwise_params, rows):
  rows, found = iter(rows), {}
  for name, number in pointwise_params:
    found[name] = next(rows) if number is None else [next(rows) for _ in range(number)]
  return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused_loop(spec, pointwise_rows, U, us, initial_carry, mask):
  """-> ends, each [B, N·H], and ys [T, B, N·H]."""
  return _forward(spec, pointwise_rows, U, us, initial_carry, mask, save=False)[0]


def _forward(spec, pointwise_rows, U, us, initial_carry, mask, save=True):
  states, zs, ys = spec.forward(spec, pointwise_rows, U, us, initial_carry, mask, save=save)
  if ys is None:
    ys = _states_at_steps(spec, states[0], 1)
    ys = ys if mask is None else jnp.where(mask[..., None] != 0, ys, 0)
  ends = tuple(_final_states(spec, part) for part in states)
  return (ends, ys), (pointwise_rows, U, states, zs, mask)


def _backward(spec, saved, cotangents):
  smalls, U, states, zs, alive = saved
  made = spec.backward(spec, smalls, U, states, zs, alive, *cotangents)
  dstart, dsmalls, dus, dvs = made
  flat = lambda a, width: [part.reshape(-1, width) for part in jnp.split(a, len(U), -1)]
  pairs = zip(flat(_states_at_steps(spec, states[0], 0), U.shape[1]), flat(dvs, U.shape[2]))
  dU = [jnp.matmul(h.T, dv, preferred_element_type=accumulation_dtype(U.dtype)) for h, dv in pairs]
  dstart = tuple(d.astype(part.dtype) for d, part in zip(dstart, states))
  return dsmalls, jnp.stack(dU).astype(U.dtype), dus, dstart, None


def _states_at_steps(spec, states, after):
  """Of states [T + 1, B, N·H] those before each step (after = 0), or after it (1), in its time."""
  parts = jnp.split(states, len(spec.reverse), -1)
  return _concat_features(
    [part[1:] if back != after else part[:-1] for part, back in zip(parts, spec.reverse)]
  )


def _final_states(spec, states):
  """Of states [T + 1, B, N·H] what each net comes to."""
  parts = jnp.split(states, len(spec.reverse), -1)
  return _concat_features([part[0 if back else -1] for part, back in zip(parts, spec.reverse)])


def _concat_features(parts):
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


_fused_loop.defvjp(_forward, _backward)
