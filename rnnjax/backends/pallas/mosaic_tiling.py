"""Availability and tiling of the TPU kernel `mosaic`."""

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

LANES = 128  # columns of a tile of the TPU's memory
BLOCK_BATCH = 16  # rows of a tile of bfloat16; one of float32 has 8
# Bytes for U and the blocks. A core's VMEM is 16 MiB by default, and a kernel needs some of it for
# temporaries.
VMEM_BUDGET = 12 * 2**20


def choose_tiling(H: int, num_gates: int, num_split_gates: int, itemsize: int) -> Tiling | None:
  """Return the tiling of a cell; None if U and the blocks of a step, both doubled, do not fit.

  Pallas allocates each block twice, to load one while the other is computed with.
  """
  padded_size = -(-H // LANES) * LANES
  step_bytes = BLOCK_BATCH * padded_size * (3 * num_gates + num_split_gates + 8) * 4
  if 2 * (num_gates * padded_size * padded_size * itemsize + step_bytes) > VMEM_BUDGET:
    return None
  return Tiling(BLOCK_BATCH, padded_size, padded_size)


def make_mosaic_spec(
  interpret: bool, cell: Cell, num_gates: int, dtype, reverse, pointwise_params
) -> KernelSpec:
  """Return the kernel specification of a cell; `interpret` runs the kernel without a TPU."""
  from rnnjax.backends.pallas import mosaic  # not in every build of jax

  tiling = choose_tiling(cell.features, num_gates, cell.num_split_gates, dtype.itemsize)
  forward = functools.partial(mosaic.forward, interpret=interpret)
  backward = functools.partial(mosaic.backward, interpret=interpret)
  return make_kernel_spec(
    cell, num_gates, dtype, reverse, pointwise_params, tiling, forward, backward
  )


device_mosaic_spec = functools.partial(make_mosaic_spec, False)


def why_unavailable(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return the reason why the kernel cannot run a cell here; "" if it can."""
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
