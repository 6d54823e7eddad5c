"""Many hosts: how they meet, which rows of a batch each reads, and that one of them writes."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnjax.training import sharding
from rnnjax.types import BadInput

SILENCE = 30  # seconds without a sign of life, after which a host counts as lost


def parse(where: str) -> tuple[str | None, int | None, int | None]:
  """ "HOST:PORT,NUMBER,INDEX": where hosts meet, how many they are, and which this one is; "auto"
  leaves that to jax, which asks SLURM, Open MPI, Kubernetes or Google Cloud.

  Raises:
    BadInput: it is neither.
  """
  if where == "auto":
    return None, None, None
  address, *numbers = where.split(",")
  good = len(numbers) == 2 and all(n.isdecimal() for n in numbers)
  if not good or not address.rpartition(":")[2].isdecimal() or int(numbers[1]) >= int(numbers[0]):
    raise BadInput(
      'hosts meet by "auto" or by HOST:PORT,NUMBER,INDEX, of which the index is below the number; '
      f"got {where!r}"
    )
  return address, *map(int, numbers)


def join(where: str):
  """Meets the other hosts, before jax first looks for devices; waits up to five minutes for them.

  Raises:
    BadInput: they cannot be found, or do not come.
  """
  address, number, index = parse(where)
  try:
    jax.distributed.initialize(address, number, index, heartbeat_timeout_seconds=SILENCE)
  except (ValueError, RuntimeError) as error:
    raise BadInput(f"the hosts of {where!r} do not meet: {error}") from None


def lead() -> bool:
  """Whether this is the host that writes."""
  return jax.process_index() == 0


def rows(mesh: Mesh, batch: int) -> np.ndarray:
  """Which rows of a batch lie on the devices of this host."""
  place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  mine = place.addressable_devices_indices_map((batch,)).values()
  return np.unique(np.concatenate([np.arange(batch)[one] for one in mine]))


def share(mesh: Mesh, batches):
  """The batches of which only the rows of this host are read, where they can be cut so."""
  if jax.process_count() == 1 or not hasattr(batches, "share"):
    return batches
  return batches.share(rows(mesh, batches.batch))


def total(number: float) -> float:
  """The sum of what each host has, in float32; all must ask for it."""
  if jax.process_count() == 1:
    return number
  return float(np.sum(multihost_utils.process_allgather(np.float32(number))))


def local(mesh: Mesh, tree):
  """A copy on this host's first device of what lies on many, cut or whole."""
  whole = sharding.mover(NamedSharding(mesh, PartitionSpec()))(tree)
  alone = jax.local_devices()[0]
  return jax.tree.map(lambda a: jax.device_put(a.addressable_data(0), alone), whole)
