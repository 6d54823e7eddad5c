"""Tiling of the CUDA kernel `triton`, and the conditions under which it is available."""

import functools
import math

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import call_outside_trace
from rnnjax.backends.pallas.fused import (
  KernelSpec,
  Tiling,
  make_kernel_backend,
  make_kernel_spec,
  run_fused,
  why_unsupported,
)
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params

# Shared memory of a multiprocessor in KiB, by compute capability (CUDA C++ Programming Guide,
# technical specifications).
SHARED_MEMORY_KIB = {
  "8.0": 163,
  "8.6": 99,
  "8.7": 163,
  "8.9": 99,
  "9.0": 227,
  "10.0": 227,
  "12.0": 99,
}
# Fewer rows per program make each step faster. 16 is the minimum number of rows of a tensor core.
BLOCK_BATCH = 16


def choose_tiling(H: int, num_gates: int, itemsize: int, shared_bytes: int) -> Tiling | None:
  """Return the tiling of a cell for a GPU with `shared_bytes` of shared memory, or None.

  A program has 32 units if it then needs at most 0.65 of the shared memory. Otherwise it has 16
  units if it then needs at most 0.9. If 16 units need more, the result is None. The measurements
  are in rnnjax/backends/README.md.
  """
  block_k = next((size for size in (16, 32, 64, 128) if size >= H), 128)
  padded_size = -(-H // block_k) * block_k
  for block_units, max_share in ((32, 0.65), (16, 0.9)):
    needed = shared_bytes_needed(padded_size, block_units, num_gates, itemsize)
    if needed <= max_share * shared_bytes:
      return Tiling(BLOCK_BATCH, min(block_units, padded_size), block_k)
  return None


def shared_bytes_needed(padded_size: int, block_units: int, num_gates: int, itemsize: int) -> int:
  """Return the shared memory of a program in bytes: its columns of U, and h [BLOCK_BATCH, H]."""
  return padded_size * (block_units * num_gates + BLOCK_BATCH) * itemsize


def num_waves(cell: Cell, params: Params, xs: Array) -> float:
  """Return the number of waves of the kernel: all programs / programs that run at once.

  The number of programs depends on the batch size of xs [T, ..., D].
  """
  num_gates, itemsize = params["b"].shape[0] // cell.features, xs.dtype.itemsize
  tiling = choose_tiling(cell.features, num_gates, itemsize, shared_memory_bytes())
  padded_size = tiling.padded_size(cell.features)
  needed = shared_bytes_needed(padded_size, tiling.block_units, num_gates, itemsize)
  # A multiprocessor has enough registers for two programs.
  programs_at_once = min(2, shared_memory_bytes() // needed)
  num_row_blocks = -(-math.prod(xs.shape[1:-1]) // BLOCK_BATCH)
  num_programs = padded_size // tiling.block_units * num_row_blocks
  num_multiprocessors = getattr(jax.devices()[0], "core_count", None) or 100
  return num_programs / (programs_at_once * num_multiprocessors)


def make_triton_spec(
  shared_bytes: int, interpret: bool, cell: Cell, num_gates: int, dtype, reverse, pointwise_params
) -> KernelSpec:
  """Return the `KernelSpec` of a cell for a GPU with `shared_bytes` of shared memory.

  `interpret=True` runs the kernel without a GPU.
  """
  from rnnjax.backends.pallas import triton  # some builds of jax lack it, so it is imported here

  tiling = choose_tiling(cell.features, num_gates, dtype.itemsize, shared_bytes)
  forward = functools.partial(triton.forward, interpret=interpret)
  backward = functools.partial(triton.backward, interpret=interpret)
  return make_kernel_spec(
    cell, num_gates, dtype, reverse, pointwise_params, tiling, forward, backward
  )


def shared_memory_bytes() -> int:
  """Return the shared memory per multiprocessor of this GPU in bytes; 0 if it is unsupported."""
  device = jax.devices()[0]
  kilobytes = SHARED_MEMORY_KIB.get(str(getattr(device, "compute_capability", "")), 0)
  return kilobytes * 1024


def why_unavailable(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return the reason why the kernel cannot run a cell on this device; "" if it can."""
  if reason := why_unsupported(cell, params, xs, carry):
    return reason
  if jax.default_backend() != "gpu" or not shared_memory_bytes():
    return (
      f"it needs an NVIDIA GPU of compute capability {', '.join(SHARED_MEMORY_KIB)}; this is a "
      f"{jax.devices()[0].device_kind}"
    )
  H, num_gates = cell.features, params["b"].shape[0] // cell.features
  if not choose_tiling(H, num_gates, xs.dtype.itemsize, shared_memory_bytes()):
    return (
      f"the columns of U of 16 units, {H} x {16 * num_gates} {xs.dtype} numbers, and the h of all "
      f"units do not fit into the {shared_memory_bytes() // 1024} KiB of a multiprocessor"
    )
  shapes = tuple(sorted((name, p.shape) for name, p in params.items()))
  return _lowering_error(cell, shapes, str(xs.dtype))


@functools.cache
def _lowering_error(cell, shapes, dtype):
  """Return the reason why Triton cannot compile a cell's pointwise function; "" if it can."""

  def array_struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

  params = {name: array_struct(*shape) for name, shape in shapes}
  xs = array_struct(1, BLOCK_BATCH, params["W"].shape[0])

  def loss(params, xs):
    carries = (cell.initial_carry(xs[0]),)
    results = run_fused(device_triton_spec, cell, (params,), xs, None, carries, (False,))
    return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(results))

  def lower():
    jax.jit(jax.grad(loss)).trace(params, xs).lower(lowering_platforms=("cuda",))

  try:
    call_outside_trace(lower)
  except Exception as error:  # A user's function may raise anything.
    return f"the pointwise function of {cell} does not become a kernel: {error}".split("\n")[0]
  return ""


def device_triton_spec(*args) -> KernelSpec:
  """Return the `KernelSpec` of a cell for the GPU of this machine; see `make_triton_spec`."""
  return make_triton_spec(shared_memory_bytes(), False, *args)


BACKEND = make_kernel_backend(device_triton_spec, why_unavailable)
