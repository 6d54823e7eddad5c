"""When the CUDA kernel of `triton` can run a cell, and how its work is cut."""

import functools
import math

import jax
import jax.numpy as jnp

from rnnjax.backends.base import call_outside_trace
from rnnjax.backends.pallas.fused import (
  KernelSpec,
  Tiling,
  make_kernel_spec,
  run_fused,
  why_unsupported,
)
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params

# What the programs of one processor share, in KiB, by compute capability (CUDA C++ Programming
# Guide, technical specifications).
SHARED_MEMORY_KIB = {
  "8.0": 163,
  "8.6": 99,
  "8.7": 163,
  "8.9": 99,
  "9.0": 227,
  "10.0": 227,
  "12.0": 99,
}
BLOCK_BATCH = 16  # the fewest that a tensor core multiplies; fewer rows in a program, shorter steps


def choose_tiling(H: int, num_gates: int, itemsize: int, shared_bytes: int) -> Tiling | None:
  """How the work is cut where a processor shares so many bytes; None where nothing fits.

  Measured on an H100 (LSTM and GRU, float32, T = 512, B = 64, forward and backward): at H = 128
  programs of 32 units take 0.75 to 1 of the time of those of 16 or 64, and 4 warps 0.85 to 0.9 of
  that of 2; products of 256 units instead of 128 take 1.15 at H = 256 (LSTM) and 0.95 at H = 512
  (GRU), where programs of 16 units, for which there is room then, take 0.35 to 0.5 of `deferred`.
  """
  chunk = next((size for size in (16, 32, 64, 128) if size >= H), 128)
  width = -(-H // chunk) * chunk
  for columns, part in ((32, 0.65), (16, 0.9)):
    if shared_bytes_needed(width, columns, num_gates, itemsize) <= part * shared_bytes:
      return Tiling(BLOCK_BATCH, min(columns, width), chunk)
  return None


def shared_bytes_needed(padded_size: int, block_units: int, num_gates: int, itemsize: int) -> int:
  """Bytes of a program's columns of U, and of what it gets of the others at a step."""
  return padded_size * (block_units * num_gates + BLOCK_BATCH) * itemsize


def num_waves(cell: Cell, params: Params, xs: Array) -> float:
  """How often this GPU must be filled with programs until all rows of xs [T, ..., D] are done."""
  gates, itemsize = params["b"].shape[0] // cell.features, xs.dtype.itemsize
  cut = choose_tiling(cell.features, gates, itemsize, shared_memory_bytes())
  width = cut.padded_size(cell.features)
  at_once = min(
    2, shared_memory_bytes() // shared_bytes_needed(width, cut.block_units, gates, itemsize)
  )  # registers for two
  programs = width // cut.block_units * -(-math.prod(xs.shape[1:-1]) // BLOCK_BATCH)
  processors = getattr(jax.devices()[0], "core_count", None) or 100
  return programs / (at_once * processors)


def make_triton_spec(
  shared_bytes: int, interpret: bool, cell: Cell, num_gates: int, dtype, reverse, pointwise_params
) -> KernelSpec:
  """The loop of a cell of so many gates, on a chip with so many bytes."""
  from rnnjax.backends.pallas import triton  # not every build of jax has Triton

  cut = choose_tiling(cell.features, num_gates, dtype.itemsize, shared_bytes)
  ways = (functools.partial(way, interpret=interpret) for way in (triton.forward, triton.backward))
  return make_kernel_spec(cell, num_gates, dtype, reverse, pointwise_params, cut, *ways)


def shared_memory_bytes() -> int:
  """Bytes that a program may use on this machine's GPU; 0 where it is none that can be used."""
  device = jax.devices()[0]
  kilobytes = SHARED_MEMORY_KIB.get(str(getattr(device, "compute_capability", "")), 0)
  return kilobytes * 1024


def why_unavailable(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why the kernel cannot run this here; "" where it can."""
  if why := why_unsupported(cell, params, xs, carry):
    return why
  if jax.default_backend() != "gpu" or not shared_memory_bytes():
    return (
      f"it needs an NVIDIA GPU of compute capability {', '.join(SHARED_MEMORY_KIB)}; this is a "
      f"{jax.devices()[0].device_kind}"
    )
  H, gates = cell.features, params["b"].shape[0] // cell.features
  if not choose_tiling(H, gates, xs.dtype.itemsize, shared_memory_bytes()):
    return (
      f"16 units' share of U, {H} x {16 * gates} {xs.dtype} numbers, and what they exchange do not "
      f"fit into the {shared_memory_bytes() // 1024} KiB of a processor"
    )
  shapes = tuple(sorted((name, p.shape) for name, p in params.items()))
  return _lowering_error(cell, shapes, str(xs.dtype))


@functools.cache
def _lowering_error(cell, shapes, dtype):
  """What of a cell's pointwise function Triton does not know; "" where it knows all."""
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
  params = {name: shape(*sizes) for name, sizes in shapes}
  xs = shape(1, BLOCK_BATCH, params["W"].shape[0])

  def loss(params, xs):
    ends = run_fused(
      device_triton_spec, cell, (params,), xs, None, (cell.initial_carry(xs[0]),), (False,)
    )
    return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(ends))

  try:
    call_outside_trace(
      lambda: jax.jit(jax.grad(loss)).trace(params, xs).lower(lowering_platforms=("cuda",))
    )
  except Exception as error:  # whatever a user's function does there
    return f"the pointwise function of {cell} does not become a kernel: {error}".split("\n")[0]
  return ""


def device_triton_spec(*args) -> KernelSpec:
  """As `loop`, for this machine's GPU."""
  return make_triton_spec(shared_memory_bytes(), False, *args)
