"""One device or many: the batch is cut along a mesh, the parameters are whole on each device."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnjax.types import BadInput


def mesh(batch: int | None = None) -> Mesh:
  """A mesh of all devices with one axis, "batch".

  Raises:
    BadInput: `batch` rows do not divide evenly among the devices.
  """
  devices = jax.device_count()
  if batch is not None and batch % devices:
    raise BadInput(f"a batch of {batch} does not divide evenly among {devices} devices")
  return jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))


def replicate(mesh: Mesh, tree):
  """Every leaf whole on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(mesh: Mesh, batch):
  """Each leaf cut along its batch axis: the second of time-major [T, B, ...], the only of [B]."""
  spec = lambda a: PartitionSpec("batch") if a.ndim == 1 else PartitionSpec(None, "batch")
  return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec(a))), batch)
