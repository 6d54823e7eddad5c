"""Sharding of batches, parameters and optimizer state over a device mesh.

The rows of a batch are sharded over all devices. Parameters and optimizer state are replicated, or
sharded over the axis "fsdp" and gathered in each step (ZeRO, Rajbhandari et al. 2020).
"""

import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnjax.training.tasks import Task

REPLICATED = PartitionSpec()


@functools.cache  # so that jit compiles once for each sharding
def resharder(sharding: NamedSharding):
  """Return a jitted identity function that reshards a pytree, within and across hosts."""
  return jax.jit(lambda tree: tree, out_shardings=sharding)


def _put_on_mesh(mesh, a, spec):
  """Place an array on a mesh. In multi-host runs every host passes the same array and stores only
  its local shards."""
  sharding = NamedSharding(mesh, spec)
  if sharding.is_fully_addressable:
    return jax.device_put(a, sharding)
  if not getattr(a, "is_fully_addressable", True):
    return resharder(sharding)(a)
  # The callback below indexes a NumPy array; a typed key cannot be converted to one.
  if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(_put_on_mesh(mesh, jax.random.key_data(a), spec))
  return jax.make_array_from_callback(a.shape, sharding, np.asarray(a).__getitem__)


def replicate(mesh: Mesh, tree):
  """Replicate every leaf on all devices of the mesh."""
  return jax.tree.map(lambda a: _put_on_mesh(mesh, a, REPLICATED), tree)


def param_spec(mesh: Mesh, leaf) -> PartitionSpec:
  """Return the PartitionSpec of a parameter.

  A matrix is sharded over "fsdp" along the longest axis that is divisible by the size of "fsdp".
  Vectors, and matrices without a divisible axis, are replicated.
  """
  num_shards = dict(mesh.shape).get("fsdp", 1)
  divisible_axes = [axis for axis, size in enumerate(leaf.shape) if size % num_shards == 0]
  if num_shards == 1 or leaf.ndim < 2 or not divisible_axes:
    return REPLICATED
  longest = max(divisible_axes, key=leaf.shape.__getitem__)
  return PartitionSpec(*[None] * longest, "fsdp")


def shard_params(mesh: Mesh, tree):
  """Place every leaf on the mesh with the PartitionSpec that `param_spec` returns."""
  return jax.tree.map(lambda a: _put_on_mesh(mesh, a, param_spec(mesh, a)), tree)


def constrain_params(tree):
  """Constrain every leaf to the PartitionSpec that `param_spec` returns, inside a jitted step."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.tree.map(lambda a: _constrain(mesh, a, param_spec(mesh, a)), tree)


def gather_params(tree):
  """All-gather every leaf, inside a jitted step.

  With explicit mesh axes, the gradients are sharded like the parameters. With auto mesh axes, the
  gradients are replicated too, and `constrain_params` shards the updated parameters again.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return jax.tree.map(lambda a: _constrain(mesh, a, REPLICATED), tree)


def _constrain(mesh, a, spec):
  """Constrain the sharding of an array. If the mesh has no axis "fsdp", return it unchanged."""
  if "fsdp" not in mesh.axis_names:
    return a
  if AxisType.Explicit in mesh.axis_types:
    return jax.sharding.reshard(a, spec)
  return jax.lax.with_sharding_constraint(a, spec)


def _batch_spec(mesh, a, axis):
  """Return the PartitionSpec that shards `axis` over all devices. Scalars are replicated."""
  return PartitionSpec(*[None] * axis, mesh.axis_names) if a.ndim else REPLICATED


def _batch_specs(mesh, batch):
  """Return the PartitionSpec of each leaf of a batch, sharded along its batch axis.

  The batch axis is the second axis of time-major leaves [T, B, ...], and the first of leaves [B].
  """
  return jax.tree.map(lambda a: _batch_spec(mesh, a, min(a.ndim - 1, 1)), batch)


def _carry_specs(mesh, carry):
  """Return the PartitionSpec of each leaf [B, ...] of a carry."""
  return jax.tree.map(lambda a: _batch_spec(mesh, a, 0), carry)


def shard_carry(mesh: Mesh, carry):
  """Shard each leaf [B, ...] of a carry along its first axis; scalars are replicated."""
  return jax.tree.map(lambda a: _put_on_mesh(mesh, a, _batch_spec(mesh, a, 0)), carry)


def shard_batch(mesh: Mesh, batch):
  """Shard each leaf of a batch along its batch axis: axis 1 of [T, B, ...] and axis 0 of [B].

  In multi-host runs each host passes only its own rows, and the result is the global batch.
  """
  shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), _batch_specs(mesh, batch))
  if jax.process_count() == 1:
    return jax.tree.map(jax.device_put, batch, shardings)
  return jax.tree.map(jax.make_array_from_process_local_data, shardings, batch)


@functools.cache  # so that jit compiles once for each task and mesh
def with_explicit_sharding(task: Task, mesh: Mesh) -> Task:
  """Return the task with explicit sharding. If the mesh has no explicit axes, return it unchanged.

  Inside the model, the compiler partitions the computation (`auto_axes`), because flax layers do
  not support explicit sharding. All arrays outside the model have explicit sharding.
  """
  if AxisType.Explicit not in mesh.axis_types:
    return task

  def with_auto_axes(task_fn):
    def wrapped(params, carry, *rest):
      out_specs = _carry_specs(mesh, carry), REPLICATED
      return jax.sharding.auto_axes(task_fn, out_sharding=out_specs)(params, carry, *rest)

    return wrapped

  def initial_carry(params, batch):
    def without_sharding(tree):
      return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)

    carry = jax.eval_shape(task.initial_carry, without_sharding(params), without_sharding(batch))
    out_specs = _carry_specs(mesh, carry)
    carry_fn = jax.sharding.auto_axes(task.initial_carry, out_sharding=out_specs)
    # Inside a step the mesh is already set, and jit does not allow setting it again.
    if jax.sharding.get_abstract_mesh() == mesh.abstract_mesh:
      return carry_fn(params, batch)
    with jax.set_mesh(mesh):
      return carry_fn(params, batch)

  return task._replace(
    loss=with_auto_axes(task.loss),
    score=with_auto_axes(task.score),
    initial_carry=initial_carry,
  )


@functools.cache
def with_shard_map(task: Task, mesh: Mesh) -> Task:
  """Return a task whose loss is computed on each device's rows and summed over devices.

  Each device draws different dropout masks. Without dropout, the sum equals the loss on one device.
  """
  axes = mesh.axis_names

  def local_loss(params, carry, batch, key):
    key = jax.random.fold_in(key, jax.lax.axis_index(axes))
    carry, metrics = task.loss(params, carry, batch, key)
    return carry, jax.lax.psum(metrics, axes)

  def loss(params, carry, batch, key):
    carry_specs = _carry_specs(mesh, carry)
    in_specs = REPLICATED, carry_specs, _batch_specs(mesh, batch), REPLICATED
    out_specs = carry_specs, REPLICATED
    sharded_loss = jax.shard_map(local_loss, in_specs=in_specs, out_specs=out_specs)
    return sharded_loss(params, carry, batch, key)

  return task._replace(loss=loss)
