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

from rnnjax.backends.base import unless_floating
from rnnjax.backends.batch_sharding import on_own_rows, varying
from rnnjax.cells.base import Cell, wide
from rnnjax.types import Array, Carry, Params


class Loop(NamedTuple):
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
  apart: int
  names: tuple[tuple[str, int | None], ...]
  reverse: tuple[bool, ...]
  H: int
  echo: bool
  dtype: jnp.dtype
  tiles: "Tiles"
  forward: Callable
  backward: Callable

  def back(self, n: Array):
    """1 where net n walks time backward, else 0."""
    if len(set(self.reverse)) == 1:
      return int(self.reverse[0])
    return sum((n == i).astype(jnp.int32) for i, back in enumerate(self.reverse) if back)

  def small(self, rows: list[Array]) -> Params:
    """The parameters that `pointwise` reads, of their rows [units], each repeated for all rows of
    the batch, over which gradients are then summed later; those that are matrices as lists."""
    wide = [jnp.broadcast_to(row[None], (self.tiles.rows, row.size)) for row in rows]
    return _named(self.names, wide)

  def kept(self, values: list[Array], first) -> list[Array]:
    """Values [rows, units] from the first unit on, 0 of units that the cell does not have: nothing
    that they are may reach others."""
    if self.tiles.width(self.H) == self.H:
      return list(values)
    unit = first + jax.lax.broadcasted_iota(jnp.int32, values[0].shape, 1)
    return [jnp.where(unit < self.H, value, 0) for value in values]


class Tiles(NamedTuple):
  """How a kernel cuts its work.

  Attributes:
    rows: of the batch, in one program.
    columns: units in one program.
    chunk: of the units, in one product; like columns a power of two, and H is filled up to a
      multiple of both.
    warps: of a program, where it has any.
  """

  rows: int
  columns: int
  chunk: int
  warps: int = 4

  def width(self, H: int) -> int:
    """What H units are filled up to."""
    return _multiple(H, max(self.columns, self.chunk))


def layout(cell, gates, dtype, reverse, names, tiles, forward, backward) -> Loop:
  """The loop of a cell of so many gates, its work cut into tiles, by these kernels."""
  tile = jnp.zeros((tiles.rows, cell.features))
  rows = [tile for _, number in names for _ in range(number or 1)]
  small, z = _named(names, rows), [tile] * (gates + cell.apart)
  jaxpr = jax.make_jaxpr(cell.pointwise)(small, cell.start(tile[:, :1]), z).jaxpr
  echo = jaxpr.outvars[-1] is jaxpr.outvars[0]
  return Loop(
    cell.pointwise,
    cell.apart,
    names,
    reverse,
    cell.features,
    echo,
    jnp.dtype(dtype),
    tiles,
    forward,
    backward,
  )


def unsuited(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why no kernel can be made of a cell, or run in a type; "" where one can."""
  if cell.pointwise is None:
    return f"a kernel is made from a cell's pointwise function, and {cell} has none; see `additive`"
  if xs.dtype not in (jnp.float32, jnp.bfloat16):
    return f"a kernel computes in float32 or bfloat16; got {xs.dtype}"
  if why := unless_floating(cell, params, xs, carry):
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


def fused(
  make: Callable[..., Loop],
  cell: Cell,
  nets: tuple[Params, ...],
  xs: Array,
  alive: Array | None,
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

  def run(nets, xs, alive, carries):
    nets, carries = (varying(tree, xs) for tree in (nets, carries))
    return tuple(zip(*_fused(make, cell, nets, xs, alive, carries, reverse)))

  return [*zip(*on_own_rows(run, known=False)(nets, xs, alive, carries))]


def _fused(make, cell, nets, xs, alive, carries, reverse):
  T, *batch, _ = xs.shape
  H, B = cell.features, math.prod(batch)
  G = nets[0]["b"].shape[0] // H
  small = sorted(set(nets[0]) - {"W", "U", "b"})
  names = tuple((name, None if nets[0][name].ndim == 1 else len(nets[0][name])) for name in small)
  loop = make(cell, G, xs.dtype, reverse, names)
  width = loop.tiles.width(H)
  rows = _multiple(B, loop.tiles.rows)

  def grow(a, axis, to):
    return jnp.pad(a, [(0, to - a.shape[axis] if i == axis % a.ndim else 0) for i in range(a.ndim)])

  def gates(a):  # [..., G·H] -> [..., G·width]
    return grow(a.reshape(*a.shape[:-1], G, H), -1, width).reshape(*a.shape[:-1], G * width)

  W = jnp.concatenate([gates(net["W"]) for net in nets], -1)
  b = jnp.concatenate([gates(net["b"]) for net in nets], -1)
  U = jnp.stack([grow(gates(net["U"]), 0, width) for net in nets])
  vectors = [[net[name].reshape(-1, H) for name in small] for net in nets]
  smalls = None
  if small:
    smalls = jnp.stack([jnp.concatenate(own) for own in vectors]).astype(wide(xs.dtype))
    smalls = grow(smalls, -1, width)

  flat = lambda a, to: grow(a.reshape(T, B, *a.shape[1 + len(batch) :]), 1, to)
  us = flat(xs, rows) @ W + b
  if alive is not None:
    alive = flat(alive, rows).astype(jnp.int32)
  start = [grow(grow(c.reshape(B, H), 0, rows), 1, width) for carry in carries for c in carry]
  parts = len(carries[0])
  start = tuple(_beside(start[i::parts]) for i in range(parts))
  ends, ys = _loop(loop, smalls, U, us, start, alive)

  def own(a, n, *lead):  # the features of net n alone, as the caller's batch
    return a[..., :B, n * width : n * width + H].reshape(*lead, *batch, H)

  return [(tuple(own(end, n) for end in ends), own(ys, n, T)) for n in range(len(nets))]


def shaped(like: Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
  """What a kernel puts out, which differs among the devices of a shard_map as `like` does."""
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)


def _multiple(size, of):
  return -(-size // of) * of


def _named(names, rows):
  rows, found = iter(rows), {}
  for name, number in names:
    found[name] = next(rows) if number is None else [next(rows) for _ in range(number)]
  return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(loop, smalls, U, us, start, alive):
  """-> ends, each [B, N·H], and ys [T, B, N·H]."""
  return _forward(loop, smalls, U, us, start, alive, save=False)[0]


def _forward(loop, smalls, U, us, start, alive, save=True):
  states, zs, ys = loop.forward(loop, smalls, U, us, start, alive, save=save)
  if ys is None:
    ys = _slots(loop, states[0], 1)
    ys = ys if alive is None else jnp.where(alive[..., None] != 0, ys, 0)
  ends = tuple(_ends(loop, part) for part in states)
  return (ends, ys), (smalls, U, states, zs, alive)


def _backward(loop, saved, cotangents):
  smalls, U, states, zs, alive = saved
  made = loop.backward(loop, smalls, U, states, zs, alive, *cotangents)
  dstart, dsmalls, dus, dvs = made
  flat = lambda a, width: [part.reshape(-1, width) for part in jnp.split(a, len(U), -1)]
  pairs = zip(flat(_slots(loop, states[0], 0), U.shape[1]), flat(dvs, U.shape[2]))
  dU = [jnp.matmul(h.T, dv, preferred_element_type=wide(U.dtype)) for h, dv in pairs]
  dstart = tuple(d.astype(part.dtype) for d, part in zip(dstart, states))
  return dsmalls, jnp.stack(dU).astype(U.dtype), dus, dstart, None


def _slots(loop, states, after):
  """Of states [T + 1, B, N·H] those before each step (after = 0), or after it (1), in its time."""
  parts = jnp.split(states, len(loop.reverse), -1)
  return _beside(
    [part[1:] if back != after else part[:-1] for part, back in zip(parts, loop.reverse)]
  )


def _ends(loop, states):
  """Of states [T + 1, B, N·H] what each net comes to."""
  parts = jnp.split(states, len(loop.reverse), -1)
  return _beside([part[0 if back else -1] for part, back in zip(parts, loop.reverse)])


def _beside(parts):
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


_loop.defvjp(_forward, _backward)
