"""Each device runs the loop over its own rows of the batch."""

import math

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rnnjax.types import Array


def shard_over_batch(run, check_vma: bool = True):
  """run(params, xs, alive, carry) on each device's own rows, where a mesh cuts the batch.

  It returns carry and ys, or a tuple of many of each; `known` is whether jax can tell by itself how
  its outputs differ among devices, as it cannot of a kernel's.

  That is where xs [T, *batch, D] lies on explicit mesh axes along its batch axes, or where a mesh
  was set (`jax.set_mesh`) that has automatic axes of the names "batch" and "fsdp", or one of them,
  whose devices divide the rows. Otherwise it is run as it is.
  """

  def runs(params, xs, mask, carry):
    batch = batch_axes(xs)
    if not any(batch):
      return run(params, xs, mask, carry)
    sequence, row = PartitionSpec(None, *batch), PartitionSpec(*batch)
    explicit = jax.typeof(xs).sharding
    if any(explicit.spec):  # what else there is may lie elsewhere, such as zeros that fill up
      put = lambda tree, spec: jax.tree.map(
        lambda leaf: jax.sharding.reshard(leaf, NamedSharding(explicit.mesh, spec)), tree
      )
      mask, carry = put(mask, sequence), put(carry, row)
    names = {name for axis in batch for name in ([axis] if isinstance(axis, str) else axis or ())}
    return jax.shard_map(
      run,
      in_specs=(PartitionSpec(), sequence, sequence, row),
      out_specs=(row, sequence),
      axis_names=names,
      check_vma=check_vma,
    )(params, xs, mask, carry)

  return runs


def batch_axes(xs: Array) -> tuple:
  """The mesh axes along which each batch axis of xs is cut."""
  batch = jax.typeof(xs).sharding.spec[1 : xs.ndim - 1]
  if any(batch):
    return tuple(batch)
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types))
  names = tuple(name for name in ("batch", "fsdp") if kinds.get(name) == AxisType.Auto)
  devices = math.prod(mesh.shape[name] for name in names)
  return (names,) if devices > 1 and xs.ndim > 2 and xs.shape[1] % devices == 0 else ()


def cast_to_varying(tree, *like: Array):
  """The leaves as arrays that differ among the devices of a shard_map wherever one of `like` does.

  The gradient of such a leaf is then the sum over these devices.
  """
  axes = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in like))
  lacks = lambda leaf: tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
  cast = lambda leaf: jax.lax.pcast(leaf, lacks(leaf), to="varying") if lacks(leaf) else leaf
  return jax.tree.map(cast, tree)
