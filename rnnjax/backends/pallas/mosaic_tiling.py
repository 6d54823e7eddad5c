"""Tiling of the TPU kernel `mosaic`, and the conditions under which it is available."""

import functools

import jax

from rnnjax.backends.pallas.fused import (
  KernelSpec,
  Tiling,
  make_kernel_backend,
  make_kernel_spec,
  why_unsupported,
)
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params

LANES = 128  # number of columns of a memory tile on a TPU
BLOCK_BATCH = 16  # number of rows of a bfloat16 memory tile; a float32 tile has 8 rows
# Maximum number of bytes for U and the blocks. By default a core has 16 MiB of VMEM, and a kernel
# needs some of it for temporaries.
VMEM_BUDGET = 12 * 2**20


def choose_tiling(H: int, num_gates: int, num_split_gates: int, itemsize: int) -> Tiling | None:
  """Return the tiling of a cell; None if U and the blocks of a step do not fit into VMEM.

  All sizes count twice: Pallas allocates two buffers per block, so that the next block is loaded
  while the current block is in use.
  """
  padded_size = -(-H // LANES) * LANES
  step_bytes = BLOCK_BATCH * padded_size * (3 * num_gates + num_split_gates + 8) * 4
  if 2 * (num_gates * padded_size * padded_size * itemsize + step_bytes) > VMEM_BUDGET:
    return None
  return Tiling(BLOCK_BATCH, padded_size, padded_size)


def make_mosaic_spec(
  interpret: bool, cell: Cell, num_gates: int, dtype, reverse, pointwise_params
) -> KernelSpec:
  """Return the `KernelSpec` of a cell; `interpret=True` runs the kernel without a TPU."""
  from rnnjax.backends.pallas import mosaic  # some builds of jax lack it, so it is imported here

  tiling = choose_tiling(cell.features, num_gates, cell.num_split_gates, dtype.itemsize)
  forward = functools.partial(mosaic.forward, interpret=interpret)
  backward = functools.partial(mosaic.backward, interpret=interpret)
  return make_kernel_spec(
    cell, num_gates, dtype, reverse, pointwise_params, tiling, forward, backward
  )


device_mosaic_spec = functools.partial(make_mosaic_spec, False)


def why_unavailable(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return the reason why the kernel cannot run a cell on this device; "" if it can."""
  if reason := why_unsupported(cell, params, xs, carry):
    return reason
  if jax.default_backend() != "tpu":
    return f"it needs a TPU; this is a {jax.devices()[0].device_kind}"
  H, num_gates = cell.features, params["b"].shape[0] // cell.features
  if not choose_tiling(H, num_gates, cell.num_split_gates, xs.dtype.itemsize):
    return (
      f"U, {H} x {num_gates * H} {xs.dtype} numbers, does not fit twice into "
      f"{VMEM_BUDGET // 2**20} MiB of VMEM"
    )
  return ""


BACKEND = make_kernel_backend(device_mosaic_spec, why_unavailable)
