"""What of a batch and of a state lies on each device of a mesh.

The rows of a batch are cut among all devices. Parameters, and what an optimizer keeps of them, lie
whole on each device, or cut in `fsdp` parts, of which a step gathers the whole (ZeRO, Rajbhandari
et al. 2020).
"""

import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnjax.training.tasks import Task


@functools.cache
def resharder(sharding: NamedSharding):
  """Moves a tree of arrays that lie on many devices, or many hosts, to where they shall lie."""
  return jax.jit(lambda tree: tree, out_shardings=sharding)


def _put_on_mesh(mesh, a, spec):
  """An array as it shall lie; on many hosts, which all have the same one, each keeps its part."""
  place = NamedSharding(mesh, spec)
  if place.is_fully_addressable:
    return jax.device_put(a, place)
  if not getattr(a, "is_fully_addressable", True):
    return resharder(place)(a)
  if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(_put_on_mesh(mesh, jax.random.key_data(a), spec))
  return jax.make_array_from_callback(a.shape, place, np.asarray(a).__getitem__)


def replicate(mesh: Mesh, tree):
  """Every leaf whole on every device."""
  return jax.tree.map(lambda a: _put_on_mesh(mesh, a, PartitionSpec()), tree)


def param_spec(mesh: Mesh, leaf) -> PartitionSpec:
  """How a parameter is cut: a matrix along the longest of its axes that "fsdp" divides."""
  parts = dict(mesh.shape).get("fsdp", 1)
  axes = [a for a, size in enumerate(leaf.shape) if size % parts == 0]
  if parts == 1 or leaf.ndim < 2 or not axes:
    return PartitionSpec()
  return PartitionSpec(*[None] * max(axes, key=leaf.shape.__getitem__), "fsdp")


def shard_params(mesh: Mesh, tree):
  """Every leaf cut as `part` says."""
  return jax.tree.map(lambda a: _put_on_mesh(mesh, a, param_spec(mesh, a)), tree)


def constrain_params(tree):
  """Inside a step: every leaf stays cut as `part` says."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.tree.map(lambda a: _constrain(mesh, a, param_spec(mesh, a)), tree)


def gather_params(tree):
  """Inside a step: every leaf whole on every device; its gradient is cut as it was."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.tree.map(lambda a: _constrain(mesh, a, PartitionSpec()), tree)


def _constrain(mesh, a, spec):
  if "fsdp" not in mesh.axis_names:
    return a
  explicit = AxisType.Explicit in mesh.axis_types
  return (jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint)(a, spec)


def _batch_spec(mesh, a, axis):
  """The cut of an array whose given axis is that of the rows; numbers are whole."""
  return PartitionSpec(*[None] * axis, mesh.axis_names) if a.ndim else PartitionSpec()


def shard_carry(mesh: Mesh, carry):
  """Each leaf [B, ...] cut along its first axis; numbers are whole on each device."""
  return jax.tree.map(lambda a: _put_on_mesh(mesh, a, _batch_spec(mesh, a, 0)), carry)


def shard_batch(mesh: Mesh, batch):
  """Each leaf cut along its batch axis: the second of time-major [T, B, ...], the only of [B].

  Where there are several hosts, each gives its own rows alone, and a whole batch comes of it.
  """
  place = lambda a: NamedSharding(mesh, _batch_spec(mesh, a, min(a.ndim - 1, 1)))
  if jax.process_count() == 1:
    return jax.tree.map(lambda a: jax.device_put(a, place(a)), batch)
  return jax.tree.map(lambda a: jax.make_array_from_process_local_data(place(a), a), batch)


@functools.cache  # what is compiled for one training serves others like it
def with_explicit_sharding(task: Task, mesh: Mesh) -> Task:
  """The task on a mesh of explicit axes; on any other it is as it is.

  Inside the model the compiler cuts the work, for flax's layers know no typed devices; outside, all
  arrays name theirs.
  """
  if AxisType.Explicit not in mesh.axis_types:
    return task
  whole = PartitionSpec()

  def given(task_fn):
    def g(params, carry, *rest):
      made = _carry_specs(mesh, carry), whole
      return jax.sharding.auto_axes(task_fn, out_sharding=made)(params, carry, *rest)

    return g

  def start(params, batch):
    bare = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    made = _carry_specs(mesh, jax.eval_shape(task.initial_carry, bare(params), bare(batch)))
    begin = jax.sharding.auto_axes(task.initial_carry, out_sharding=made)
    if jax.sharding.get_abstract_mesh() == mesh.abstract_mesh:  # inside a step, which cannot set it
      return begin(params, batch)
    with jax.set_mesh(mesh):
      return begin(params, batch)

  return task._replace(loss=given(task.loss), score=given(task.score), initial_carry=start)


@functools.cache
def with_shard_map(task: Task, mesh: Mesh) -> Task:
  """The task where each device takes the loss of its rows, and all sum.

  Each draws its own dropout, so that the sum is the loss of one device where nothing is drawn.
  """
  axes, whole = mesh.axis_names, PartitionSpec()

  def own(params, carry, batch, key):
    key = jax.random.fold_in(key, jax.lax.axis_index(axes))
    carry, metrics = task.loss(params, carry, batch, key)
    return carry, jax.lax.psum(metrics, axes)

  def loss(params, carry, batch, key):
    rows = jax.tree.map(lambda a: _batch_spec(mesh, a, min(a.ndim - 1, 1)), batch)
    given, made = (
      (whole, _carry_specs(mesh, carry), rows, whole),
      (_carry_specs(mesh, carry), whole),
    )
    return jax.shard_map(own, in_specs=given, out_specs=made)(params, carry, batch, key)

  return task._replace(loss=loss)


def _carry_specs(mesh, carry):
  return jax.tree.map(lambda a: _batch_spec(mesh, a, 0), carry)
