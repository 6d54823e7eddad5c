"""Multi-host training: initialization, each host's rows of a batch, and the primary host."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnjax.training import sharding
from rnnjax.types import InvalidInputError

HEARTBEAT_TIMEOUT_S = 30  # seconds without a heartbeat after which a host counts as lost


def parse_coordinator(coordinator: str) -> tuple[str | None, int | None, int | None]:
  """Parse "HOST:PORT,NUMBER,INDEX" or "auto".

  Args:
    coordinator: the address of the first host, the number of hosts and the index of this host. With
      "auto", jax gets them from SLURM, Open MPI, Kubernetes or Google Cloud.

  Returns:
    The address, the number of hosts and the index of this host; (None, None, None) for "auto".

  Raises:
    InvalidInputError: `coordinator` has invalid syntax, or the index is at or above the number
      of hosts.
  """
  if coordinator == "auto":
    return None, None, None
  address, *numbers = coordinator.split(",")
  are_numbers = len(numbers) == 2 and all(n.isdecimal() for n in numbers)
  has_port = address.rpartition(":")[2].isdecimal()
  if not are_numbers or not has_port or int(numbers[1]) >= int(numbers[0]):
    raise InvalidInputError(
      "--coordinator must be auto or HOST:PORT,NUMBER,INDEX with an index below the number of "
      f"hosts; got {coordinator!r}"
    )
  return address, *map(int, numbers)


def initialize_distributed(coordinator: str):
  """Connect to the other hosts within five minutes. Call this function before jax queries devices.

  Args:
    coordinator: as for `parse_coordinator`.

  Raises:
    InvalidInputError: `coordinator` is invalid, or the hosts cannot be found or do not connect in
      time.
  """
  address, num_hosts, index = parse_coordinator(coordinator)
  try:
    jax.distributed.initialize(
      address, num_hosts, index, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
    )
  except (ValueError, RuntimeError) as error:
    raise InvalidInputError(f"the hosts of {coordinator!r} do not connect: {error}") from None


def is_primary_host() -> bool:
  """Return whether this is the host that writes files and logs."""
  return jax.process_index() == 0


def local_row_indices(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Return the indices of the rows of a batch that are placed on this host's devices."""
  row_sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  slices = row_sharding.addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in slices]))


def shard_batches_by_host(mesh: Mesh, batches):
  """Return the batches restricted to this host's rows.

  If there is one host, or `batches` has no method `select_rows`, `batches` is returned unchanged.
  """
  if jax.process_count() == 1 or not hasattr(batches, "select_rows"):
    return batches
  return batches.select_rows(local_row_indices(mesh, batches.batch_size))


def sum_over_hosts(value: float) -> float:
  """Return the sum of a value over all hosts, in float32. Every host must call this function."""
  if jax.process_count() == 1:
    return value
  return float(np.sum(multihost_utils.process_allgather(np.float32(value))))


def copy_to_local_device(mesh: Mesh, tree):
  """Return an unsharded copy of a tree on the first device of this host."""
  replicated = sharding.resharder(NamedSharding(mesh, PartitionSpec()))(tree)
  device = jax.local_devices()[0]
  return jax.tree.map(lambda a: jax.device_put(a.addressable_data(0), device), replicated)
