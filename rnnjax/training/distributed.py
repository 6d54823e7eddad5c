"""Many hosts: how they meet, which rows of a batch each reads, and that one of them writes."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnjax.training import sharding
from rnnjax.types import InvalidInputError

HEARTBEAT_TIMEOUT_S = 30  # seconds without a sign of life, after which a host counts as lost


def parse_coordinator(coordinator: str) -> tuple[str | None, int | None, int | None]:
  """ "HOST:PORT,NUMBER,INDEX": where hosts meet, how many they are, and which this one is; "auto"
  leaves that to jax, which asks SLURM, Open MPI, Kubernetes or Google Cloud.

  Raises:
    BadInput: it is neither.
  """
  if coordinator == "auto":
    return None, None, None
  address, *numbers = coordinator.split(",")
  good = len(numbers) == 2 and all(n.isdecimal() for n in numbers)
  if not good or not address.rpartition(":")[2].isdecimal() or int(numbers[1]) >= int(numbers[0]):
    raise InvalidInputError(
      'hosts meet by "auto" or by HOST:PORT,NUMBER,INDEX, of which the index is below the number; '
      f"got {coordinator!r}"
    )
  return address, *map(int, numbers)


def initialize_distributed(coordinator: str):
  """Meets the other hosts, before jax first looks for devices; waits up to five minutes for them.

  Raises:
    BadInput: they cannot be found, or do not come.
  """
  address, number, index = parse_coordinator(coordinator)
  try:
    jax.distributed.initialize(
      address, number, index, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
    )
  except (ValueError, RuntimeError) as error:
    raise InvalidInputError(f"the hosts of {coordinator!r} do not meet: {error}") from None


def is_primary_host() -> bool:
  """Whether this is the host that writes."""
  return jax.process_index() == 0


def local_row_indices(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Which rows of a batch lie on the devices of this host."""
  place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  mine = place.addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[one] for one in mine]))


def shard_batches_by_host(mesh: Mesh, batches):
  """The batches of which only the rows of this host are read, where they can be cut so."""
  if jax.process_count() == 1 or not hasattr(batches, "share"):
    return batches
  return batches.select_rows(local_row_indices(mesh, batches.batch_size))


def sum_over_hosts(value: float) -> float:
  """The sum of what each host has, in float32; all must ask for it."""
  if jax.process_count() == 1:
    return value
  return float(np.sum(multihost_utils.process_allgather(np.float32(value))))


def copy_to_local_device(mesh: Mesh, tree):
  """A copy on this host's first device of what lies on many, cut or whole."""
  whole = sharding.resharder(NamedSharding(mesh, PartitionSpec()))(tree)
  alone = jax.local_devices()[0]
  return jax.tree.map(lambda a: jax.device_put(a.addressable_data(0), alone), whole)
