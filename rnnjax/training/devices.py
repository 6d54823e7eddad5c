"""One device or many: how they are laid out, and what of a batch and of a state lies on each.

The rows of a batch are cut among all devices. Parameters, and what an optimizer keeps of them, lie
whole on each device, or cut in `fsdp` parts, of which a step gathers the whole (ZeRO, Rajbhandari
et al. 2020).
"""

import functools
import math
import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnjax.tasks import Task
from rnnjax.types import BadInput

AXES = ("batch", "fsdp")
WAYS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit, "shard_map": AxisType.Auto}


def parse(text: str) -> tuple[str, dict[str, int]]:
  """How devices work together, and the size of each axis, 0 for "what is left".

  "batch:4,fsdp:2" are eight devices, "batch" or nothing at all of them. A word in front says who
  cuts the work: "auto" the compiler, which is the default; "explicit/batch:4" types that name
  their devices; "shard_map/batch:4" each device computes its own rows as if alone.

  Raises:
    BadInput: another word, axis or size.
  """
  way, _, axes = text.rpartition("/")
  parts = [part.partition(":") for part in (axes or "batch").split(",")]
  sizes = {name: int(size) if size.isdecimal() else 0 for name, _, size in parts}
  good = all(name in AXES and (size.isdecimal() and int(size)) + (not colon)
             for name, colon, size in parts)  # fmt: skip
  once = len(sizes) == len(parts) and [*sizes.values()].count(0) < 2
  if (way or "auto") not in WAYS or not good or not once:
    raise BadInput(
      f"a mesh looks like batch:4 or batch:2,fsdp:2, of which one size may be left out, maybe with "
      f"{', '.join(WAYS)} and a slash in front; got {text!r}"
    )
  return way or "auto", sizes


def use_cores(batch: int, text: str = "", hosts: int = 1):
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
    even = [n for n in range(1, cores + 1) if batch % (n * hosts) == 0] or [1]
    asked = math.prod(parse(text)[1].values()) // hosts
    jax.config.update("jax_num_cpu_devices", asked or even[-1])
    os.environ.setdefault("NPROC", str(2 * max(cores, asked)))


def mesh(batch: int | None = None, text: str = "") -> Mesh:
  """The mesh of a text, as `parse` reads it.

  Raises:
    BadInput: there are not so many devices, or some that another host would miss, or `batch` rows
      do not divide evenly among them.
  """
  way, sizes = parse(text)
  there, named = jax.device_count(), math.prod(size for size in sizes.values() if size)
  sizes = {name: size or there // named for name, size in sizes.items()}
  devices = math.prod(sizes.values())
  if not 0 < devices <= there or (devices < there and jax.process_count() > 1):
    raise BadInput(
      f"a mesh of {text or 'batch'} needs {max(devices, named)} devices; there are {there}, on "
      f"{jax.process_count()} hosts, all of which must take part"
    )
  if batch is not None and batch % devices:
    raise BadInput(f"a batch of {batch} does not divide evenly among {devices} devices")
  return jax.make_mesh(
    tuple(sizes.values()), tuple(sizes), axis_types=(WAYS[way],) * len(sizes),
    devices=None if devices == there else jax.devices()[:devices],
  )  # fmt: skip


def first() -> Mesh:
  """A mesh of the first device of this host alone."""
  return jax.make_mesh(
    (1,), ("batch",), devices=jax.local_devices()[:1], axis_types=(AxisType.Auto,)
  )


def replicate(mesh: Mesh, tree):
  """Every leaf whole on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def part(mesh: Mesh, leaf) -> PartitionSpec:
  """How a parameter is cut: a matrix along the longest of its axes that "fsdp" divides."""
  parts = dict(mesh.shape).get("fsdp", 1)
  axes = [a for a, size in enumerate(leaf.shape) if size % parts == 0]
  if parts == 1 or leaf.ndim < 2 or not axes:
    return PartitionSpec()
  return PartitionSpec(*[None] * max(axes, key=leaf.shape.__getitem__), "fsdp")


def place(mesh: Mesh, tree):
  """Every leaf cut as `part` says."""
  return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, part(mesh, a))), tree)


def keep(tree):
  """Inside a step: every leaf stays cut as `part` says."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.tree.map(lambda a: _pin(mesh, a, part(mesh, a)), tree)


def gather(tree):
  """Inside a step: every leaf whole on every device; its gradient is cut as it was."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.tree.map(lambda a: _pin(mesh, a, PartitionSpec()), tree)


def _pin(mesh, a, spec):
  if "fsdp" not in mesh.axis_names:
    return a
  explicit = AxisType.Explicit in mesh.axis_types
  return (jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint)(a, spec)


def _rows(mesh, a, axis):
  """The cut of an array whose given axis is that of the rows; numbers are whole."""
  return PartitionSpec(*[None] * axis, mesh.axis_names) if a.ndim else PartitionSpec()


def rows(mesh: Mesh, carry):
  """Each leaf [B, ...] cut along its first axis; numbers are whole on each device."""
  put = lambda a: jax.device_put(a, NamedSharding(mesh, _rows(mesh, a, 0)))
  return jax.tree.map(put, carry)


def shard(mesh: Mesh, batch):
  """Each leaf cut along its batch axis: the second of time-major [T, B, ...], the only of [B].

  Where there are several hosts, each gives its own rows alone, and a whole batch comes of it.
  """
  place = lambda a: NamedSharding(mesh, _rows(mesh, a, min(a.ndim - 1, 1)))
  if jax.process_count() == 1:
    return jax.tree.map(lambda a: jax.device_put(a, place(a)), batch)
  return jax.tree.map(lambda a: jax.make_array_from_process_local_data(place(a), a), batch)


@functools.cache  # what is compiled for one training serves others like it
def adapt(task: Task, mesh: Mesh, way: str) -> Task:
  """The task on a mesh where devices work together in such a way, as in `parse`.

  explicit: inside the model the compiler cuts the work, for flax's layers know no typed devices;
  outside, all arrays name theirs.

  shard_map: each device takes the loss of its rows, and all sum. Each draws its own dropout, so
  that the sum is the loss of one device where nothing is drawn.
  """
  axes, whole = mesh.axis_names, PartitionSpec()
  cut = lambda carry: jax.tree.map(lambda a: _rows(mesh, a, 0), carry)

  def typed(f):
    def g(params, carry, *rest):
      return jax.sharding.auto_axes(f, out_sharding=(cut(carry), whole))(params, carry, *rest)

    return g

  def alone(params, carry, batch, key):
    key = jax.random.fold_in(key, jax.lax.axis_index(axes))
    carry, metrics = task.loss(params, carry, batch, key)
    return carry, jax.lax.psum(metrics, axes)

  def loss(params, carry, batch, key):
    rows = jax.tree.map(lambda a: _rows(mesh, a, min(a.ndim - 1, 1)), batch)
    given, made = (whole, cut(carry), rows, whole), (cut(carry), whole)
    return jax.shard_map(alone, in_specs=given, out_specs=made)(params, carry, batch, key)

  if way == "explicit":
    return task._replace(loss=typed(task.loss), score=typed(task.score))
  return task._replace(loss=loss) if way == "shard_map" else task
