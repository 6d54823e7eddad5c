"""One device or many: the batch is cut along a mesh, the parameters are whole on each device."""

import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnjax.types import BadInput


def use_cores(batch: int):
  """Makes every core of a host without accelerator a device of its own, before jax first looks.

  The small products of a step are too small to share among cores, but the rows of a batch are not:
  with the weight gradients deferred, two devices that take half the rows each pass small loops 1.4
  to 1.8 times as fast as one that has both cores; large weights gain nothing. As many are made as
  divide the batch evenly; where XLA_FLAGS or jax's own configuration name a number, that stays.

  XLA gets two threads for each core (by NPROC, unless that is set): with one, all may be waiting
  for a device whose work finds no thread (jaxlib 0.10.2 stood still so once in five epochs).
  """
  named = "device_count" in os.environ.get("XLA_FLAGS", "") or jax.config.jax_num_cpu_devices > 0
  if not named:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    even = [n for n in range(1, cores + 1) if batch % n == 0]
    jax.config.update("jax_num_cpu_devices", even[-1])
    os.environ.setdefault("NPROC", str(2 * cores))


def mesh(batch: int | None = None) -> Mesh:
  """A mesh of all devices with one axis, "batch".

  Raises:
    BadInput: `batch` rows do not divide evenly among the devices.
  """
  devices = jax.device_count()
  if batch is not None and batch % devices:
    raise BadInput(f"a batch of {batch} does not divide evenly among {devices} devices")
  return jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))


def first() -> Mesh:
  """A mesh of the first device alone."""
  return jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1], axis_types=(AxisType.Auto,))


def replicate(mesh: Mesh, tree):
  """Every leaf whole on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def rows(mesh: Mesh, carry):
  """Each leaf [B, ...] cut along its first axis; numbers are whole on each device."""
  spec = lambda a: PartitionSpec("batch") if a.ndim else PartitionSpec()
  return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec(a))), carry)


def shard(mesh: Mesh, batch):
  """Each leaf cut along its batch axis: the second of time-major [T, B, ...], the only of [B]."""
  spec = lambda a: PartitionSpec("batch") if a.ndim == 1 else PartitionSpec(None, "batch")
  return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec(a))), batch)
