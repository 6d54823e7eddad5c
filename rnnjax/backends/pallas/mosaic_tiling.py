"""When the TPU kernel of `mosaic` can run a cell, and how its work is cut."""

import functools

import jax

from rnnjax.backends.pallas.fused import Loop, Tiles, layout, unsuited
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params

LANES, ROWS = 128, 16  # of a tile of bfloat16; one of float32 has half the rows
MEMORY = 12 * 2**20  # bytes of what a core has beside it, 16 MiB by default, for U and the blocks


def tiles(H: int, gates: int, apart: int, itemsize: int) -> Tiles | None:
  """How the work is cut; None where U and the blocks of a step, two of each, do not fit."""
  width = -(-H // LANES) * LANES
  step = ROWS * width * (3 * gates + apart + 8) * 4
  if 2 * (gates * width * width * itemsize + step) > MEMORY:
    return None
  return Tiles(ROWS, width, width)


def loop(interpret: bool, cell: Cell, gates: int, dtype, reverse, names) -> Loop:
  """The loop of a cell of so many gates."""
  from rnnjax.backends.pallas import mosaic  # not every build of jax has Mosaic

  cut = tiles(cell.features, gates, cell.apart, dtype.itemsize)
  ways = (functools.partial(way, interpret=interpret) for way in (mosaic.forward, mosaic.backward))
  return layout(cell, gates, dtype, reverse, names, cut, *ways)


MOSAIC = functools.partial(loop, False)


def refuses(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why the kernel cannot run this here; "" where it can."""
  if why := unsuited(cell, params, xs, carry):
    return why
  if jax.default_backend() != "tpu":
    return f"it needs a TPU; this is a {jax.devices()[0].device_kind}"
  H, gates = cell.features, params["b"].shape[0] // cell.features
  if not tiles(H, gates, cell.apart, xs.dtype.itemsize):
    return f"U, {H} x {gates * H} {xs.dtype} numbers, does not fit into {MEMORY // 2**20} MiB twice"
  return ""
