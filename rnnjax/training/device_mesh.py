"""One device or many: how they are laid out."""

import math
import os

import jax
from jax.sharding import AxisType, Mesh

from rnnjax.types import InvalidInputError

MESH_AXES = ("batch", "fsdp")
AXIS_TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit, "shard_map": AxisType.Auto}


def parse_mesh_spec(mesh_spec: str) -> tuple[str, dict[str, int]]:
  """How devices work together, and the size of each axis, 0 for "what is left".

  "batch:4,fsdp:2" are eight devices, "batch" or nothing at all of them. A word in front says who
  cuts the work: "auto" the compiler, which is the default; "explicit/batch:4" types that name
  their devices; "shard_map/batch:4" each device computes its own rows as if alone.

  Raises:
    BadInput: another word, axis or size.
  """
  way, _, axes = mesh_spec.rpartition("/")
  parts = [part.partition(":") for part in (axes or "batch").split(",")]
  sizes = {name: int(size) if size.isdecimal() else 0 for name, _, size in parts}
  good = all(
    name in MESH_AXES and (size.isdecimal() and int(size)) + (not colon)
    for name, colon, size in parts
  )
  once = len(sizes) == len(parts) and [*sizes.values()].count(0) < 2
  if (way or "auto") not in AXIS_TYPES or not good or not once:
    raise InvalidInputError(
      f"a mesh looks like batch:4 or batch:2,fsdp:2, of which one size may be left out, maybe with "
      f"{', '.join(AXIS_TYPES)} and a slash in front; got {mesh_spec!r}"
    )
  return way or "auto", sizes


def use_cpu_cores_as_devices(batch_size: int, mesh_spec: str = "", num_hosts: int = 1):
  """Makes every core of a host without accelerator a device of its own, before jax first looks.

  The small products of a step are too small to share among cores, but the rows of a batch are not:
  with the weight gradients deferred, two devices that take half the rows each pass small loops 1.4
  to 1.8 times as fast as one that has both cores; large weights gain nothing. As many are made as
  the mesh of that text names for each of the hosts, or else as divide the batch evenly; where
  XLA_FLAGS or jax's own configuration name a number, that stays.

  XLA gets two threads for each core (by NPROC, unless that is set): with one, all may be waiting
  for a device whose work finds no thread (jaxlib 0.10.2 stood still so once in five epochs).
  """
  named = "device_count" in os.environ.get("XLA_FLAGS", "") or jax.config.jax_num_cpu_devices > 0
  if not named:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    even = [n for n in range(1, cores + 1) if batch_size % (n * num_hosts) == 0] or [1]
    asked = math.prod(parse_mesh_spec(mesh_spec)[1].values()) // num_hosts
    jax.config.update("jax_num_cpu_devices", asked or even[-1])
    os.environ.setdefault("NPROC", str(2 * max(cores, asked)))


def make_mesh(batch_size: int | None = None, mesh_spec: str = "") -> Mesh:
  """The mesh of a text, as `parse` reads it.

  Raises:
    BadInput: there are not so many devices, or some that another host would miss, or `batch` rows
      do not divide evenly among them.
  """
  way, sizes = parse_mesh_spec(mesh_spec)
  there, named = jax.device_count(), math.prod(size for size in sizes.values() if size)
  sizes = {name: size or there // named for name, size in sizes.items()}
  devices = math.prod(sizes.values())
  if not 0 < devices <= there or (devices < there and jax.process_count() > 1):
    raise InvalidInputError(
      f"a mesh of {mesh_spec or 'batch'} needs {max(devices, named)} devices; there are {there}, on "
      f"{jax.process_count()} hosts, all of which must take part"
    )
  if batch_size is not None and batch_size % devices:
    raise InvalidInputError(
      f"a batch of {batch_size} does not divide evenly among {devices} devices"
    )
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AXIS_TYPES[way],) * len(sizes),
    devices=None if devices == there else jax.devices()[:devices],
  )


def single_device_mesh() -> Mesh:
  """A mesh of the first device of this host alone."""
  return jax.make_mesh(
    (1,), ("batch",), devices=jax.local_devices()[:1], axis_types=(AxisType.Auto,)
  )
