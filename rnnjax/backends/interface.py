"""Interface of the backends, and functions that several backends use."""

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
    why_unavailable: (cell, params, xs, carry) -> "" if the backend can run the cell on these arrays
      and this device, else the reason why it cannot.
    run_many: (cell, param_sets, xs, mask, carries, reverse) -> [(carry, ys), ...]. It runs several
      parameter sets of one cell in one kernel launch; each set has its own carry and direction.
      None if the backend cannot do this.
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
  """Return the reason why a custom backward pass cannot differentiate a cell; "" if it can.

  Parameters and carry must be floating point, since the backward pass computes their gradients.
  """
  del xs
  if not all(jnp.issubdtype(p.dtype, jnp.inexact) for p in jax.tree.leaves(params)):
    return f"it needs floating point parameters, and some of {cell} are not; backend='scan' runs it"
  dtypes = [str(c.dtype) for c in jax.tree.leaves(carry)]
  if all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
    return ""
  return f"it needs a floating point carry, and that of {cell} is {dtypes}; backend='scan' runs it"


def requires_independent_rows(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return the reason why a cell cannot run with its batch sharded over devices; "" if it can.

  If the batch is sharded, a step must not mix rows. Parameters and carry must also be floating
  point (`requires_floating`).
  """
  if any(batch_axes(xs)) and mixes_rows(cell, params, xs, carry):
    return (
      f"the batch is sharded over devices, each of which runs its own rows, and a step of {cell} "
      "mixes rows; backend='scan' runs it"
    )
  return requires_floating(cell, params, xs, carry)


def mixes_rows(cell: Cell, params: Params, xs: Array, carry: Carry) -> bool:
  """Return whether a step of a cell mixes rows: an output row depends on another input row.

  Examples are a mean over the batch, and a convolution over a batch axis of xs. To find out, one
  step is run on random numbers with NaN in the first row. If another row of the result is NaN, the
  step mixes rows. Cells built by `additive` and `linear_recurrence` never mix rows.

  Args:
    cell: the recurrent cell.
    params: parameters of the cell; only their shapes and dtypes are used.
    xs: inputs [T, ..., D]; only their shape and dtype are used.
    carry: a carry for the batch of xs; only its shapes and dtypes are used.
  """
  if cell.pointwise or cell.coefficients or math.prod(xs.shape[1:-1]) < 2:
    return False
  inputs = params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
  leaves, structure = jax.tree.flatten(inputs)
  return _step_mixes_rows(cell, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.cache
def _step_mixes_rows(cell, structure, shapes_and_dtypes):
  """Compute the result of `mixes_rows`, cached by cell, shapes and dtypes."""

  def random_array(shape, dtype):
    if not jnp.issubdtype(dtype, jnp.inexact):
      return np.zeros(shape, dtype)
    # Few functions return NaN for small positive numbers.
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
      # A leaf without batch axes, such as a mean, is shared by all rows, so a NaN anywhere counts.
      if is_new_nan.shape[: len(batch)] == batch:
        is_new_nan[first_row] = False
      if is_new_nan.any():
        return True
    return False

  return call_outside_trace(nan_reaches_other_rows)


def call_outside_trace(f: Callable[[], Any]) -> Any:
  """Return f(), computed outside of any jit trace and any mesh.

  Use this for an f whose result is cached: the cached result must not depend on the jit trace or
  mesh of the first call. Trace and mesh are thread-local, so f runs in a new thread.
  """
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    return thread.submit(f).result()


# Sharding: each device runs the loop on its own rows of the batch.


def shard_over_batch(run: Callable, check_vma: bool = True) -> Callable:
  """Wrap `run` in shard_map over the batch, if the batch is sharded over a mesh.

  The batch is sharded in two cases. First, xs [T, *batch, D] is sharded over explicit mesh axes
  along its batch axes. Second, a mesh was set (`jax.set_mesh`) that has automatic axes named
  "batch", "fsdp" or both, and the number of devices along these axes divides the size of the first
  batch axis. In all other cases `run` is called unchanged.

  Args:
    run: (params, xs, mask, carry) -> (carry, ys), where carry and ys may also be tuples of several
      carries and several ys.
    check_vma: argument of `jax.shard_map`. It must be False for Pallas kernels, because jax cannot
      infer over which mesh axes their outputs vary.
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
  """Return the mesh axes of each batch axis of xs [T, *batch, D]; () if the batch is unsharded."""
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
  """Cast the leaves of a tree to vary over the same shard_map axes as the arrays `like` (`pcast`).

  The gradient of such a leaf is summed over the devices only once, outside of the loop.
  """
  axes = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in like))

  def cast(leaf):
    missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

  return jax.tree.map(cast, tree)


# Parts of a loop over time.


def where_mask(mask: Array | None, new, old):
  """Return the leaves of `new` where the mask is True, and the leaves of `old` where it is False.

  The mask is [...] and the leaves are [..., *F]. A mask of None means True everywhere.
  """
  if mask is None:
    return new

  def select(n, o):
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (n.ndim - mask.ndim)), n, o)

  return jax.tree.map(select, new, old)


def project_steps(cell: Cell, params: Params, xs: Array):
  """Return `cell.project(params, x)` for all steps of xs [T, ..., D], computed at once.

  `project` is vmapped over the steps. It gets the axes [..., D] of one step, as in the loop, so it
  may mix rows or depend on the number of batch axes.
  """
  if cell.pointwise:  # The projection of an additive cell is x W + b, so one product is enough.
    return cell.project(params, xs)
  return jax.vmap(cell.project, (None, 0))(params, xs)


def with_accumulation_dtype(params: Params) -> tuple[Params, Callable[[Params], Params]]:
  """Return the parameters in float32 or wider, and a function that casts them back.

  `lax.scan` sums the gradients of the parameters over its iterations, in the dtype that the
  parameters have outside of the loop. So bfloat16 parameters enter the loop as float32, and the
  loop body casts them back to bfloat16.
  """
  dtypes = jax.tree.map(lambda leaf: leaf.dtype, params)

  def widen(leaf, dtype):
    return leaf.astype(accumulation_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype)

  def narrow(wide_params):
    return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), wide_params, dtypes)

  return jax.tree.map(widen, params, dtypes), narrow


def tree_add(*trees):
  """Return the sum of pytrees with the same structure, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)
