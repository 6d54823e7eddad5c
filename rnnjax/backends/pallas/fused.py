"""The loop over time in one kernel launch: code shared by the GPU kernel and the TPU kernel.

A step of an additive cell is the product h U and a pointwise function. So one kernel works for all
additive cells: it keeps U on the chip, loops over time, and calls the cell's `pointwise` after each
product. In the backward pass it calls the vjp of `pointwise`. Terms that do not depend on the
previous step are computed for all steps at once: x W + b before the loop, and the gradients of W, U
and b after the loop.

N parameter sets, such as the two directions of a bidirectional layer, run in one launch. The
features of the N sets are concatenated:

    us      [T, B, N·G·H]    projected inputs x W + b
    U       [N, H, G·H]
    states  [T + 1, B, N·H]  one array for each array of the carry

states[t] is the state before step t, and states[t + 1] is the state after step t. For a parameter
set that runs in reverse, states[t + 1] is the state before step t, and states[t] the state after.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import Backend, cast_to_varying, requires_floating, shard_over_batch
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params


class Tiling(NamedTuple):
  """Block sizes: how a kernel's work is divided among programs and matrix products.

  H is padded to a multiple of both `block_units` and `block_k`. The two sizes must be equal, or
  both must be powers of two.

  Attributes:
    block_batch: number of batch rows per program.
    block_units: number of hidden units per program.
    block_k: number of hidden units per matrix product.
    num_warps: number of warps per program, on a GPU.
  """

  block_batch: int
  block_units: int
  block_k: int
  num_warps: int = 4

  def padded_size(self, H: int) -> int:
    """Return H rounded up to a multiple of the block sizes."""
    return _round_up(H, max(self.block_units, self.block_k))


class KernelSpec(NamedTuple):
  """Specification from which a kernel is generated.

  Attributes:
    pointwise: the cell's pointwise function.
    num_split_gates: the cell's number of split gates.
    pointwise_params: a tuple (name, n) for each parameter that `pointwise` reads. The shape of the
      parameter is [n, H], or [H] if n is None.
    reverse: for each of the N parameter sets, whether it runs from the last step to the first.
    H: number of hidden units of the cell.
    output_is_h: whether the output y equals h. Then y is not stored separately.
    dtype: dtype of the operands of matrix products; sums and carries are float32.
    tiling: block sizes of the kernel.
    forward: function that runs the forward kernel; `_forward` calls it.
    backward: function that runs the backward kernel; `_backward` calls it.
  """

  pointwise: Callable
  num_split_gates: int
  pointwise_params: tuple[tuple[str, int | None], ...]
  reverse: tuple[bool, ...]
  H: int
  output_is_h: bool
  dtype: jnp.dtype
  tiling: Tiling
  forward: Callable
  backward: Callable

  def is_reverse(self, n: Array):
    """Return 1 if parameter set n runs in reverse, else 0; n may be a traced integer."""
    if len(set(self.reverse)) == 1:
      return int(self.reverse[0])
    return sum(
      (n == i).astype(jnp.int32) for i, is_reverse in enumerate(self.reverse) if is_reverse
    )

  def unpack_params(self, rows: list[Array]) -> Params:
    """Return the dict of parameters that `pointwise` reads, given all their rows [units].

    Each row is broadcast to [block_batch, units], so that its gradient can be summed over the batch
    after the loop. A matrix is returned as a list of rows.
    """
    repeated = [jnp.broadcast_to(row[None], (self.tiling.block_batch, row.size)) for row in rows]
    return _unpack_rows(self.pointwise_params, repeated)

  def zero_padded_units(self, values: list[Array], first) -> list[Array]:
    """Set padded units to 0 in arrays [rows, units], whose first unit has the index `first`.

    Units with an index of H or more are padding. They contain arbitrary numbers, which must not
    enter a matrix product.
    """
    if self.tiling.padded_size(self.H) == self.H:
      return list(values)
    unit = first + jax.lax.broadcasted_iota(jnp.int32, values[0].shape, 1)
    return [jnp.where(unit < self.H, value, 0) for value in values]


def make_kernel_spec(
  cell: Cell, num_gates: int, dtype, reverse, pointwise_params, tiling, forward, backward
) -> KernelSpec:
  """Return the `KernelSpec` of a cell.

  Args:
    cell: an additive cell.
    num_gates: number of gates, G.
    dtype, reverse, pointwise_params, tiling, forward, backward: fields of `KernelSpec`.
  """
  # Trace `pointwise` to find out whether its output y is the same variable as h.
  tile = jnp.zeros((tiling.block_batch, cell.features))
  rows = [tile for _, num_rows in pointwise_params for _ in range(num_rows or 1)]
  params = _unpack_rows(pointwise_params, rows)
  gates = [tile] * (num_gates + cell.num_split_gates)
  jaxpr = jax.make_jaxpr(cell.pointwise)(params, cell.initial_carry(tile[:, :1]), gates).jaxpr
  output_is_h = jaxpr.outvars[-1] is jaxpr.outvars[0]
  return KernelSpec(
    cell.pointwise,
    cell.num_split_gates,
    pointwise_params,
    reverse,
    cell.features,
    output_is_h,
    jnp.dtype(dtype),
    tiling,
    forward,
    backward,
  )


def why_unsupported(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return the reason why no kernel can be generated for a cell and dtype; "" if one can."""
  if cell.pointwise is None:
    return (
      f"a kernel is generated from a cell's pointwise function, and {cell} has none; see "
      "`rnnjax.cells.base.additive`"
    )
  if xs.dtype not in (jnp.float32, jnp.bfloat16):
    return f"a kernel computes in float32 or bfloat16; got {xs.dtype}"
  if reason := requires_floating(cell, params, xs, carry):
    return reason
  H = cell.features
  if any(c.shape != (*xs.shape[1:-1], H) for c in carry):
    return f"a kernel needs a carry of {H} features; {cell} has {[c.shape[-1] for c in carry]}"
  for name in sorted(set(params) - {"W", "U", "b"}):
    if params[name].shape[-1:] != (H,) or params[name].ndim > 2:
      return (
        f"a kernel needs parameters [H] or [n, H] in addition to W, U and b, H = {H}; {name} of "
        f"{cell} is {list(params[name].shape)}"
      )
  return ""


def make_kernel_backend(make_spec: Callable[..., KernelSpec], why_unavailable: Callable) -> Backend:
  """Return a `Backend` that runs one or several parameter sets with `run_fused`."""

  def run_many(cell, param_sets, xs, mask, carries, reverse):
    return run_fused(make_spec, cell, param_sets, xs, mask, carries, reverse)

  def run(cell, params, xs, mask, carry, reverse):
    (result,) = run_many(cell, (params,), xs, mask, (carry,), (reverse,))
    return result

  return Backend(run, why_unavailable, run_many)


def run_fused(
  make_spec: Callable[..., KernelSpec],
  cell: Cell,
  param_sets: tuple[Params, ...],
  xs: Array,
  mask: Array | None,
  carries: tuple[Carry, ...],
  reverse: tuple[bool, ...],
) -> list[tuple[Carry, Array]]:
  """Run N parameter sets of one additive cell over the same xs in one kernel launch.

  Args:
    make_spec: (cell, num_gates, dtype, reverse, pointwise_params) -> KernelSpec.
    cell: an additive cell.
    param_sets: N parameter sets of the cell.
    xs: inputs [T, ..., D].
    mask: padding mask [T, ...] or None.
    carries: the initial carry of each parameter set.
    reverse: for each parameter set, whether it runs from the last step to the first.

  Returns:
    A list of (final carry, ys), one for each parameter set, as for `rnnjax.backends.scan.scan`.
  """

  def run(param_sets, xs, mask, carries):
    param_sets, carries = (cast_to_varying(tree, xs) for tree in (param_sets, carries))
    return tuple(zip(*_run_fused(make_spec, cell, param_sets, xs, mask, carries, reverse)))

  return [*zip(*shard_over_batch(run, check_vma=False)(param_sets, xs, mask, carries))]


def _run_fused(make_spec, cell, param_sets, xs, mask, carries, reverse):
  """Pad and concatenate the arrays for the kernel, run it, and unpad and split the results."""
  T, *batch, _ = xs.shape
  H, B = cell.features, math.prod(batch)
  G = param_sets[0]["b"].shape[0] // H
  names = sorted(set(param_sets[0]) - {"W", "U", "b"})
  pointwise_params = tuple(
    (name, None if param_sets[0][name].ndim == 1 else len(param_sets[0][name])) for name in names
  )
  spec = make_spec(cell, G, xs.dtype, reverse, pointwise_params)
  padded_H = spec.tiling.padded_size(H)
  padded_B = _round_up(B, spec.tiling.block_batch)

  def pad_axis(a, axis, size):
    padding = [(0, size - a.shape[axis] if i == axis % a.ndim else 0) for i in range(a.ndim)]
    return jnp.pad(a, padding)

  def pad_gates(a):  # [..., G·H] -> [..., G·padded_H]
    padded = pad_axis(a.reshape(*a.shape[:-1], G, H), -1, padded_H)
    return padded.reshape(*a.shape[:-1], G * padded_H)

  def pad_batch(a):  # [T, *batch, ...] -> [T, padded_B, ...]
    return pad_axis(a.reshape(T, B, *a.shape[1 + len(batch) :]), 1, padded_B)

  W = jnp.concatenate([pad_gates(params["W"]) for params in param_sets], -1)
  b = jnp.concatenate([pad_gates(params["b"]) for params in param_sets], -1)
  U = jnp.stack([pad_axis(pad_gates(params["U"]), 0, padded_H) for params in param_sets])
  pointwise_rows = None  # [N, number of rows, padded_H]
  if names:
    rows = [
      jnp.concatenate([params[name].reshape(-1, H) for name in names]) for params in param_sets
    ]
    pointwise_rows = jnp.stack(rows).astype(accumulation_dtype(xs.dtype))
    pointwise_rows = pad_axis(pointwise_rows, -1, padded_H)

  us = pad_batch(xs) @ W + b
  if mask is not None:
    mask = pad_batch(mask).astype(jnp.int32)
  parts = [
    pad_axis(pad_axis(part.reshape(B, H), 0, padded_B), 1, padded_H)
    for carry in carries
    for part in carry
  ]
  num_parts = len(carries[0])
  initial_carry = tuple(_concat_features(parts[i::num_parts]) for i in range(num_parts))
  final_carry, ys = _fused_loop(spec, pointwise_rows, U, us, initial_carry, mask)

  def unpad(a, n, *leading):  # [..., padded_B, N·padded_H] -> [*leading, *batch, H] of set n
    return a[..., :B, n * padded_H : n * padded_H + H].reshape(*leading, *batch, H)

  return [
    (tuple(unpad(part, n) for part in final_carry), unpad(ys, n, T)) for n in range(len(param_sets))
  ]


def output_struct(like: Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
  """Return the ShapeDtypeStruct of a kernel output with the varying shard_map axes of `like`."""
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)


def _round_up(size, multiple):
  return -(-size // multiple) * multiple


def _unpack_rows(pointwise_params, rows):
  """Return {parameter name: its row, or its list of rows if it is a matrix} from a flat `rows`."""
  rows, params = iter(rows), {}
  for name, num_rows in pointwise_params:
    params[name] = next(rows) if num_rows is None else [next(rows) for _ in range(num_rows)]
  return params


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused_loop(spec, pointwise_rows, U, us, initial_carry, mask):
  """Return the final carry, a tuple of arrays [B, N·H], and the outputs ys [T, B, N·H]."""
  outputs, _ = _forward(spec, pointwise_rows, U, us, initial_carry, mask, save=False)
  return outputs


def _forward(spec, pointwise_rows, U, us, initial_carry, mask, save=True):
  states, zs, ys = spec.forward(spec, pointwise_rows, U, us, initial_carry, mask, save=save)
  if ys is None:  # The output is h.
    ys = _states_at_steps(spec, states[0], 1)
    ys = ys if mask is None else jnp.where(mask[..., None] != 0, ys, 0)
  final_carry = tuple(_final_states(spec, part) for part in states)
  return (final_carry, ys), (pointwise_rows, U, states, zs, mask)


def _backward(spec, saved, cotangents):
  pointwise_rows, U, states, zs, mask = saved
  dinitial_carry, dpointwise_rows, dus, dvs = spec.backward(
    spec, pointwise_rows, U, states, zs, mask, *cotangents
  )

  def split_sets(a, size):  # [T, B, N·size] -> N times [T·B, size]
    return [part.reshape(-1, size) for part in jnp.split(a, len(U), -1)]

  hs = split_sets(_states_at_steps(spec, states[0], 0), U.shape[1])
  dvs = split_sets(dvs, U.shape[2])
  sum_dtype = accumulation_dtype(U.dtype)
  dU = [jnp.matmul(h.T, dv, preferred_element_type=sum_dtype) for h, dv in zip(hs, dvs)]
  dinitial_carry = tuple(d.astype(part.dtype) for d, part in zip(dinitial_carry, states))
  return dpointwise_rows, jnp.stack(dU).astype(U.dtype), dus, dinitial_carry, None


def _states_at_steps(spec, states, after):
  """Return the states [T, B, N·H] before each step, or after each step if `after` is 1.

  Args:
    spec: specification of the kernel.
    states: the states before, between and after all steps, [T + 1, B, N·H].
    after: 0 or 1.
  """
  parts = jnp.split(states, len(spec.reverse), -1)
  return _concat_features(
    [
      part[1:] if is_reverse != after else part[:-1]
      for part, is_reverse in zip(parts, spec.reverse)
    ]
  )


def _final_states(spec, states):
  """Return the final state of each parameter set, [B, N·H], from states [T + 1, B, N·H]."""
  parts = jnp.split(states, len(spec.reverse), -1)
  return _concat_features(
    [part[0 if is_reverse else -1] for part, is_reverse in zip(parts, spec.reverse)]
  )


def _concat_features(parts):
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


_fused_loop.defvjp(_forward, _backward)
