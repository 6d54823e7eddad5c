"""When the TPU kernel of `mosaic` can run a cell, and how its work is cut."""

import functools

import jax

from rnnjax.backends.pallas.fused import KernelSpec, Tiling, make_kernel_spec, why_unsupported
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params

LANES, BLOCK_BATCH = 128, 16  # of a tile of bfloat16; one of float32 has half the rows
VMEM_BUDGET = (
  12 * 2**20
)  # bytes of what a core has beside it, 16 MiB by default, for U and the blocks


def choose_tiling(H: int, num_gates: int, num_split_gates: int, itemsize: int) -> Tiling | None:
  """How the work is cut; None where U and the blocks of a step, two of each, do not fit."""
  width = -(-H // LANES) * LANES
  step = BLOCK_BATCH * width * (3 * num_gates + num_split_gates + 8) * 4
  if 2 * (num_gates * width * width * itemsize + step) > VMEM_BUDGET:
    return None
  return Tiling(BLOCK_BATCH, width, width)


def make_mosaic_spec(
  interpret: bool, cell: Cell, num_gates: int, dtype, reverse, pointwise_params
) -> KernelSpec:
  """The loop of a cell of so many gates."""
  from rnnjax.backends.pallas import mosaic  # not every build of jax has Mosaic

  cut = choose_tiling(cell.features, num_gates, cell.num_split_gates, dtype.itemsize)
  ways = (functools.partial(way, interpret=interpret) for way in (mosaic.forward, mosaic.backward))
  return make_kernel_spec(cell, num_gates, dtype, reverse, pointwise_params, cut, *ways)


device_mosaic_spec = functools.partial(make_mosaic_spec, False)


def why_unavailable(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why the kernel cannot run this here; "" where it can."""
  if why := why_unsupported(cell, params, xs, carry):
    return why
  if jax.default_backend() != "tpu":
    return f"it needs a TPU; this is a {jax.devices()[0].device_kind}"
  H, gates = cell.features, params["b"].shape[0] // cell.features
  if not choose_tiling(H, gates, cell.num_split_gates, xs.dtype.itemsize):
    return (
      f"U, {H} x {gates * H} {xs.dtype} numbers, does not fit into {VMEM_BUDGET // 2**20} MiB twice"
    )
  return ""
