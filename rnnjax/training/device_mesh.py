"""Device meshes: parsing of mesh specifications, and CPU cores as devices."""

import math
import os

import jax
from jax.sharding import AxisType, Mesh

from rnnjax.types import InvalidInputError

MESH_AXES = ("batch", "fsdp")
AXIS_TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit, "shard_map": AxisType.Auto}


def parse_mesh_spec(mesh_spec: str) -> tuple[str, dict[str, int]]:
  """Parse a mesh specification.

  "batch:4,fsdp:2" is a mesh of eight devices; "batch" and "" both mean a single axis over all
  devices. A prefix selects how the computation is partitioned:

      "auto/..."       by the compiler; the default
      "explicit/..."   by the types of arrays, which contain their sharding
      "shard_map/..."  by `shard_map`: each device computes the loss of its own rows

  Args:
    mesh_spec: the specification.

  Returns:
    The partitioning, a key of AXIS_TYPES; and {axis name: size}, where size 0 means all remaining
    devices.

  Raises:
    InvalidInputError: the partitioning, an axis or a size is invalid, an axis is repeated, or more
      than one size is omitted.
  """
  partitioning, _, axes = mesh_spec.rpartition("/")
  partitioning = partitioning or "auto"
  parts = [part.partition(":") for part in (axes or "batch").split(",")]
  sizes = {name: int(size) if size.isdecimal() else 0 for name, _, size in parts}
  are_axes_valid = all(
    name in MESH_AXES and (not colon or (size.isdecimal() and int(size) > 0))
    for name, colon, size in parts
  )
  is_unambiguous = len(sizes) == len(parts) and [*sizes.values()].count(0) < 2
  if partitioning not in AXIS_TYPES or not are_axes_valid or not is_unambiguous:
    raise InvalidInputError(
      "a mesh must look like batch:4 or batch:2,fsdp:2, where one size may be omitted, with an "
      f"optional prefix {', '.join(f'{name}/' for name in AXIS_TYPES)}; got {mesh_spec!r}"
    )
  return partitioning, sizes


def use_cpu_cores_as_devices(batch_size: int, mesh_spec: str = "", num_hosts: int = 1):
  """Configure jax to split the CPU into several devices, by default one per core.

  Must be called before jax initializes its backends, e.g. before `jax.devices()`.

  The matrix products of a step are too small to be split among cores, but the rows of a batch can
  be split. With deferred weight gradients, small models train 1.4 to 1.8 times as fast on two
  devices with half the rows each as on one device with both cores. Models with large weights gain
  nothing.

  The number of devices of a host is the product of the mesh sizes divided by `num_hosts`. If a mesh
  size is omitted, the number of devices is the largest number of cores that divides the batch
  evenly. If XLA_FLAGS or the configuration of jax set a number of devices, that number is kept.

  If the environment variable NPROC is unset, it is set to two threads per core, or per device if
  there are more devices than cores. With one thread per core, all threads can block while they wait
  for a device that has no free thread (jaxlib 0.10.2 deadlocked in this way once in five epochs).

  Args:
    batch_size: B, over all hosts.
    mesh_spec: as for `parse_mesh_spec`.
    num_hosts: the number of hosts.

  Raises:
    InvalidInputError: the mesh specification is invalid.
  """
  if "device_count" in os.environ.get("XLA_FLAGS", "") or jax.config.jax_num_cpu_devices > 0:
    return
  # os.cpu_count ignores the affinity mask that SLURM and containers set.
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  divisors = [n for n in range(1, cores + 1) if batch_size % (n * num_hosts) == 0] or [1]
  requested = math.prod(parse_mesh_spec(mesh_spec)[1].values()) // num_hosts
  jax.config.update("jax_num_cpu_devices", requested or divisors[-1])
  os.environ.setdefault("NPROC", str(2 * max(cores, requested)))


def make_mesh(batch_size: int | None = None, mesh_spec: str = "") -> Mesh:
  """Return the device mesh that a specification defines.

  Args:
    batch_size: B, which must be a multiple of the number of devices; None for no check.
    mesh_spec: as for `parse_mesh_spec`.

  Raises:
    InvalidInputError: the specification is invalid, there are too few devices, the mesh leaves out
      a device of a multi-host run, or the batch size is not a multiple of the number of devices.
  """
  partitioning, sizes = parse_mesh_spec(mesh_spec)
  available, specified = jax.device_count(), math.prod(size for size in sizes.values() if size)
  sizes = {name: size or available // specified for name, size in sizes.items()}
  devices = math.prod(sizes.values())
  if not 0 < devices <= available or (devices < available and jax.process_count() > 1):
    raise InvalidInputError(
      f"a mesh of {mesh_spec or 'batch'} needs {max(devices, specified)} devices; there are "
      f"{available}, on {jax.process_count()} hosts, all of which must take part"
    )
  if batch_size is not None and batch_size % devices:
    raise InvalidInputError(
      f"a batch of {batch_size} does not divide evenly among {devices} devices"
    )
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AXIS_TYPES[partitioning],) * len(sizes),
    # jax.make_mesh orders the devices by topology only if `devices` is None.
    devices=None if devices == available else jax.devices()[:devices],
  )


def single_device_mesh() -> Mesh:
  """Return a mesh of the first device of this host."""
  return jax.make_mesh(
    (1,), ("batch",), devices=jax.local_devices()[:1], axis_types=(AxisType.Auto,)
  )
