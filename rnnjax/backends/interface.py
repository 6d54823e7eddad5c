"""Interface of the backends, and the functions that several of them share."""

import concurrent.futures
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params


class Backend(NamedTuple):
  """An implementation of the loop over time.

  Attributes:
    run: (cell, params, xs, mask, carry, reverse) -> (carry, ys), with the semantics of
      `rnnjax.backends.scan.scan`.
    why_unavailable: (cell, params, xs, carry) -> the reason why the backend cannot run this cell on
      these arrays here, and which backend can; "" if it can.
    run_many: (cell, param_sets, xs, mask, carries, reverse) -> [(carry, ys), ...], which runs
      several parameter sets of one cell in one launch, each with its own carry and direction. None
      if the backend runs them one after another.
  """

  run: Callable[..., tuple[Carry, Array]]
  why_unavailable: Callable[[Cell, Params, Array, Carry], str]
  run_many: Callable[..., list[tuple[Carry, Array]]] | None = None


# Availability: why a backend cannot run a cell.


def always_available(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return "": the backend runs every cell on every device."""
  del cell, params, xs, carry
  return ""


def requires_floating(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return why a backend with a custom backward pass cannot run a cell; "" if it can.

  Parameters and carry must be floating point, since the custom backward pass differentiates them.
  """
  del xs
  if not all(jnp.issubdtype(p.dtype, jnp.inexact) for p in jax.tree.leaves(params)):
    return f"it needs floating point parameters, and some of {cell} are not; backend='scan' runs it"
  dtypes = [str(c.dtype) for c in jax.tree.leaves(carry)]
  if all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
    return ""
  return f"it needs a floating point carry, and that of {cell} is {dtypes}; backend='scan' runs it"


def requires_independent_rows(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return why a backend that shards the batch over devices cannot run a cell; "" if it can.

  Parameters and carry must also be floating point (`requires_floating`).
  """
  if any(batch_axes(xs)) and mixes_rows(cell, params, xs, carry):
    return (
      f"the batch is sharded over devices, each of which runs its own rows, and a step of {cell} "
      "mixes rows; backend='scan' runs it"
    )
  return requires_floating(cell, params, xs, carry)


def mixes_rows(cell: Cell, params: Params, xs: Array, carry: Carry) -> bool:
  """Return whether a row of one step's output depends on another row of the batch.

  Examples are a mean over the batch, and a convolution over a batch axis of xs. One step is run on
  random numbers with NaN in the first row: if another row of the result is NaN, rows are mixed.
  Cells made by `additive` and `linear_recurrence` treat rows independently by construction.

  Args:
    cell: the recurrent cell.
    params: its parameters; only shapes and dtypes are read.
    xs: inputs [T, ..., D]; only shape and dtype are read.
    carry: carry of the batch; only shapes and dtypes are read.
  """
  if cell.pointwise or cell.coefficients or math.prod(xs.shape[1:-1]) < 2:
    return False
  inputs = params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
  leaves, structure = jax.tree.flatten(inputs)
  return _step_mixes_rows(cell, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.cache
def _step_mixes_rows(cell, structure, shapes_and_dtypes):
  """Return the result of `mixes_rows`; cached by cell, shapes and dtypes."""

  def random_array(shape, dtype):
    if not jnp.issubdtype(dtype, jnp.inexact):
      return np.zeros(shape, dtype)
    # Small positive numbers: few functions return NaN for them.
    return np.random.default_rng(0).uniform(0.1, 0.5, shape).astype(dtype)

  arrays = [random_array(shape, dtype) for shape, dtype in shapes_and_dtypes]
  params, carry, x = structure.unflatten(arrays)
  batch = x.shape[:-1]
  first_row = (0,) * len(batch)

  def set_first_row_nan(a):
    if a.shape[: len(batch)] != batch or not jnp.issubdtype(a.dtype, jnp.inexact):
      return a
    a = a.copy()
    a[first_row] = np.nan
    return a

  @jax.jit
  def step(carry, x):
    return cell.step(params, carry, cell.project(params, x))

  def nan_reaches_other_rows():
    clean = step(carry, x)
    probed = step(*jax.tree.map(set_first_row_nan, (carry, x)))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(probed)):
      is_new_nan = np.array(np.isnan(b) & ~np.isnan(a))
      # A leaf without the batch axes, such as a mean, is shared by all rows: any NaN counts.
      if is_new_nan.shape[: len(batch)] == batch:
        is_new_nan[first_row] = False
      if is_new_nan.any():
        return True
    return False

  return call_outside_trace(nan_reaches_other_rows)


def call_outside_trace(f: Callable[[], Any]) -> Any:
  """Return f() as computed outside of any trace and mesh.

  A cached probe must not depend on the jit or mesh in which it is first called. Both are state of
  the thread, so f runs in a new one.
  """
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    return thread.submit(f).result()


# Sharding: each device runs the loop over its own rows of the batch.


def shard_over_batch(run: Callable, check_vma: bool = True) -> Callable:
  """Return `run` with the batch sharded over the devices of the mesh.

  The batch is sharded if xs [T, *batch, D] is sharded over explicit mesh axes along its batch axes,
  or if a mesh was set (`jax.set_mesh`) that has automatic axes named "batch" or "fsdp", or both,
  whose number of devices divides the size of the first batch axis. Otherwise `run` is called
  unchanged.

  Args:
    run: (params, xs, mask, carry) -> (carry, ys), or tuples of several carries and ys.
    check_vma: whether jax can infer over which devices the outputs vary. It cannot for Pallas
      kernels.
  """

  def run_sharded(params, xs, mask, carry):
    batch = batch_axes(xs)
    if not any(batch):
      return run(params, xs, mask, carry)
    sequence_spec, row_spec = PartitionSpec(None, *batch), PartitionSpec(*batch)
    xs_sharding = jax.typeof(xs).sharding
    if any(xs_sharding.spec):
      # Mask and carry may be sharded differently, e.g. zeros that were created on one device.
      def reshard(tree, spec):
        sharding = NamedSharding(xs_sharding.mesh, spec)
        return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, sharding), tree)

      mask, carry = reshard(mask, sequence_spec), reshard(carry, row_spec)
    axis_names = set()
    for axes in batch:
      axis_names.update([axes] if isinstance(axes, str) else axes or ())
    return jax.shard_map(
      run,
      in_specs=(PartitionSpec(), sequence_spec, sequence_spec, row_spec),
      out_specs=(row_spec, sequence_spec),
      axis_names=axis_names,
      check_vma=check_vma,
    )(params, xs, mask, carry)

  return run_sharded


def batch_axes(xs: Array) -> tuple:
  """Return the mesh axes over which each batch axis of xs [T, *batch, D] is sharded; () if none."""
  explicit_axes = jax.typeof(xs).sharding.spec[1 : xs.ndim - 1]
  if any(explicit_axes):
    return tuple(explicit_axes)
  mesh = jax.sharding.get_abstract_mesh()
  axis_types = dict(zip(mesh.axis_names, mesh.axis_types))
  names = tuple(name for name in ("batch", "fsdp") if axis_types.get(name) == AxisType.Auto)
  num_devices = math.prod(mesh.shape[name] for name in names)
  if num_devices > 1 and xs.ndim > 2 and xs.shape[1] % num_devices == 0:
    return (names,)
  return ()


def cast_to_varying(tree, *like: Array):
  """Return the tree with leaves that vary over the same shard_map axes as the arrays `like`.

  The gradient of such a leaf is then summed over these devices once, outside of the loop.
  """
  axes = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in like))

  def cast(leaf):
    missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

  return jax.tree.map(cast, tree)


# Parts of a loop over time.


def where_mask(mask: Array | None, new, old):
  """Return the tree `new` where the mask [...] is True, `old` where it is False; leaves [..., *F].

  A mask of None stands for True everywhere.
  """
  if mask is None:
    return new

  def select(n, o):
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (n.ndim - mask.ndim)), n, o)

  return jax.tree.map(select, new, old)


def project_steps(cell: Cell, params: Params, xs: Array):
  """Return `cell.project` of all steps of xs [T, ..., D] at once.

  `project` gets the axes [..., D] of one step, as in the loop, so that it may mix rows or depend on
  the number of batch axes.
  """
  if cell.pointwise:  # The projection of an additive cell is x W + b for any axes: one product.
    return cell.project(params, xs)
  return jax.vmap(cell.project, (None, 0))(params, xs)


def with_accumulation_dtype(params: Params) -> tuple[Params, Callable[[Params], Params]]:
  """Return the parameters in float32 or wider, and the function that casts them back.

  `lax.scan` sums the gradients of parameters over its iterations in the dtype that they have
  outside of the loop. So bfloat16 parameters enter the loop as float32 and are cast back inside.
  """
  dtypes = jax.tree.map(lambda leaf: leaf.dtype, params)

  def widen(leaf, dtype):
    return leaf.astype(accumulation_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype)

  def narrow(wide_params):
    return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), wide_params, dtypes)

  return jax.tree.map(widen, params, dtypes), narrow


def tree_add(*trees):
  """Return the sum of trees, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)
