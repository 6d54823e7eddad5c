"""Orbax checkpoints. If the newest checkpoint is damaged, an older one is restored."""

import itertools
import json
import logging
import math
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore as ts
from jax.experimental import multihost_utils

from rnnjax.data.files import max_unpacked_bytes, reraise_decode_errors
from rnnjax.training import distributed
from rnnjax.types import InvalidInputError

MAX_COMPRESSION = 8  # maximum compression ratio of trained parameters of any size
ZARR_METADATA_FILES = (".zarray", "zarr.json")  # zarr.json is zarr 3, never written here


class Checkpoints:
  """Numbered pytrees of arrays in one folder; the newest two are kept.

  Args:
    folder: the folder of the checkpoints.
    read_only: leave the folder unchanged, so that another process can write to it at the same time.

  Raises:
    InvalidInputError: the metadata of a checkpoint is damaged.
  """

  def __init__(self, folder: pathlib.Path, read_only: bool = False):
    # With read_only, hide the warning of Orbax that the manager cannot save.
    logging.getLogger("absl").setLevel(logging.ERROR if read_only else logging.WARNING)
    # Orbax fails on relative paths, and raises the error only in a background thread.
    self.folder = folder.resolve()
    if read_only:
      options = ocp.CheckpointManagerOptions(read_only=True, create=False)
    else:
      options = ocp.CheckpointManagerOptions(
        max_to_keep=2, create=True, cleanup_tmp_directories=True
      )
    handler = ocp.StandardCheckpointHandler()
    with reraise_decode_errors(
      self.folder, "as checkpoints", "Are they of another program, or damaged?"
    ):
      self.manager = ocp.CheckpointManager(self.folder, item_handlers=handler, options=options)

  def save(self, step: int, tree, overwrite: bool = False):
    """Save a tree atomically: after a crash the checkpoint is either complete or absent.

    Args:
      step: the number of the checkpoint. An existing checkpoint of that number is kept.
      tree: a pytree of arrays.
      overwrite: replace an existing checkpoint of that number. If the process is killed during the
        replacement, checkpoints with lower numbers remain.

    Raises:
      OSError: the checkpoint cannot be written. Earlier checkpoints remain.
    """
    try:
      if overwrite and step in self.manager.all_steps():
        self.manager.delete(step)
      if step not in self.manager.all_steps():
        self.manager.save(step, args=ocp.args.StandardSave(tree))
      # Waiting here raises the errors of the background thread in the training loop.
      self.manager.wait_until_finished()
    except Exception as error:  # the type depends on the storage driver
      raise OSError(
        f"step {step} cannot be saved in {self.folder}: {str(error).splitlines()[0]}. Earlier "
        "checkpoints are kept. Is the disk full? With free space the same command resumes from the "
        "last of them"
      ) from error

  def restore(self, target=None):
    """Restore the newest checkpoint that can be read.

    With `target`, newer checkpoints that cannot be read are moved to `broken_N` in the parent
    folder, so that training can save their steps again.

    Args:
      target: a pytree with the structure, shapes, dtypes and sharding of the result. If None, the
        result consists of nested dicts and lists of unsharded arrays on one device.

    Returns:
      The tree, or None if there is no checkpoint.

    Raises:
      InvalidInputError: there are checkpoints, but none can be read.
    """
    steps = sorted(self.manager.all_steps(), reverse=True)
    for num_broken, step in enumerate(steps):
      try:
        check_declared_sizes(self.folder / str(step))
        abstract = self._abstract_tree(step) if target is None else target
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract)
        tree = self.manager.restore(step, args=ocp.args.StandardRestore(abstract))
      except Exception as error:  # damaged bytes can raise any exception
        logging.warning(
          "the checkpoint of step %d in %s cannot be read: %s",
          step,
          self.folder,
          (str(error) or repr(error)).splitlines()[0],
        )
      else:
        if target is not None:
          self._move_broken(steps[:num_broken])
        return tree
    if steps:
      raise InvalidInputError(
        f"none of the checkpoints of steps {steps} in {self.folder} can be read"
      )
    return None

  def _abstract_tree(self, step):
    """Return the shapes and dtypes of a checkpoint, with a sharding on the first local device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def on_one_device(leaf):
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(on_one_device, self.manager.item_metadata(step).tree)

  def _move_broken(self, steps):
    """Rename unreadable checkpoints; in multi-host runs only the primary host renames them."""
    if not steps:
      return
    if distributed.is_primary_host():
      candidates = (self.folder.parent / f"broken_{n}" for n in itertools.count())
      unused = (path for path in candidates if not path.exists())
      for step, path in zip(steps, unused):
        (self.folder / str(step)).rename(path)
    multihost_utils.sync_global_devices("broken checkpoints were renamed")
    self.manager.reload()

  def close(self):
    """Wait for pending writes and release the manager."""
    self.manager.close()


def check_declared_sizes(folder: pathlib.Path):
  """Check the array sizes in the metadata of a checkpoint, before any array is read.

  tensorstore allocates the size that the metadata declares. If this size exceeds the available
  memory, the process is killed.

  Raises:
    InvalidInputError: an array is not numeric or not in the encoding that Orbax writes, the arrays
      are much larger than the files could contain, the folder does not exist, or it contains a
      symbolic link.
  """
  paths = [folder, *folder.rglob("*")]
  if any(path.is_symlink() for path in paths) or not folder.is_dir():
    raise InvalidInputError(f"{folder} must be a folder of files and folders, without links")
  stored = sum(path.stat().st_size for path in paths if path.is_file())
  with reraise_decode_errors(folder, "as arrays", "Is it damaged?", TypeError):
    declared = sum(map(_declared_bytes, _read_zarr_metadata(paths)))
  if declared > max(max_unpacked_bytes(stored), MAX_COMPRESSION * stored):
    raise InvalidInputError(
      f"{folder} declares arrays of {declared} bytes, but its files have {stored}"
    )


def _read_zarr_metadata(paths: list[pathlib.Path]) -> Iterator[bytes]:
  """Yield the metadata of all arrays, from separate files and from OCDBT stores."""
  yield from (path.read_bytes() for path in paths if path.name in ZARR_METADATA_FILES)
  for manifest in (path for path in paths if path.name == "manifest.ocdbt"):
    base = {"driver": "file", "path": f"{manifest.parent}/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    for key in store.list().result():
      if key.decode("latin-1").endswith(ZARR_METADATA_FILES):
        yield store.read(key).result().value


def _declared_bytes(metadata: bytes) -> int:
  """Return the bytes needed to read an array: the size of the array or of one chunk, if larger."""
  match json.loads(metadata):
    # Accept only the encoding of Orbax: other compressors and filters can allocate any amount.
    case {
      "shape": [*shape],
      "chunks": [*chunks],
      "dtype": str(name),
      "filters": None,
      "compressor": {"id": "zstd"} | None,
    }:
      dtype = jnp.dtype(name)
      is_numeric = jnp.issubdtype(dtype, jnp.number) or dtype.kind == "b"
      if is_numeric and all(type(n) is int and n >= 0 for n in shape + chunks):
        return max(math.prod(shape), math.prod(chunks)) * dtype.itemsize
  raise ValueError(f"the metadata must be of a numeric array; got {metadata[:60]!r}")
