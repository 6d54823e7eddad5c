"""Checkpoints with Orbax: the last good ones, and a way back when the newest is broken."""

import itertools
import logging
import pathlib

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from rnnjax.data.files import reraise_decode_errors
from rnnjax.training import checkpoint_limits, distributed
from rnnjax.types import InvalidInputError


class Checkpoints:
  """Numbered trees of arrays in one folder; the newest two are kept.

  Args:
    folder: theirs.
    reading: nothing in it is changed, so that whoever writes there is not disturbed.

  Raises:
    BadInput: what is said there of a checkpoint is damaged.
  """

  def __init__(self, folder: pathlib.Path, read_only: bool = False):
    # That it only reads is no news to who asked for it.
    logging.getLogger("absl").setLevel(logging.ERROR if read_only else logging.WARNING)
    self.folder = folder.resolve()  # orbax fails on relative paths, and only in its own thread
    writing = dict(max_to_keep=2, create=True, cleanup_tmp_directories=True)
    how = dict(read_only=True, create=False) if read_only else writing
    options = ocp.CheckpointManagerOptions(**how)
    handler = ocp.StandardCheckpointHandler()
    with reraise_decode_errors(
      self.folder, "as checkpoints", "Are they of another program, or damaged?"
    ):
      self.manager = ocp.CheckpointManager(self.folder, item_handlers=handler, options=options)

  def save(self, step: int, tree, overwrite: bool = False):
    """Writes a tree; it is whole on disk or not there at all.

    Args:
      step: its number; what has that number stays.
      tree: arrays.
      again: what has that number goes; a kill before the tree is whole leaves those before it.

    Raises:
      OSError: it cannot be written; those before stay.
    """
    try:
      if overwrite and step in self.manager.all_steps():
        self.manager.delete(step)
      if step not in self.manager.all_steps():
        self.manager.save(step, args=ocp.args.StandardSave(tree))
      self.manager.wait_until_finished()
    except Exception as error:  # as many kinds as there are ways to store
      raise OSError(
        f"step {step} cannot be saved in {self.folder}: {str(error).splitlines()[0]}. Checkpoints "
        "before it stay. Is the disk full? With room the same command resumes from the last of them"
      ) from error

  def restore(self, target=None):
    """The newest tree that can be read; None where there is none at all.

    It has the structure of `like` and lies where that does; without, it becomes nested dicts and
    lists, whole on one device, on however many it was before.

    Raises:
      BadInput: there are checkpoints, but none can be read.
    """
    steps = sorted(self.manager.all_steps(), reverse=True)
    for tried, step in enumerate(steps):
      try:
        checkpoint_limits.check_array_sizes(self.folder / str(step))
        abstract = self._abstract_tree(step) if target is None else target
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract)
        tree = self.manager.restore(step, args=ocp.args.StandardRestore(abstract))
      except Exception as error:
        logging.warning(
          "the checkpoint of step %d in %s cannot be read: %s",
          step,
          self.folder,
          (str(error) or repr(error)).splitlines()[0],
        )
      else:
        if target is not None:  # to go on from there
          self._move_broken(steps[:tried])
        return tree
    if steps:
      raise InvalidInputError(
        f"none of the checkpoints of steps {steps} in {self.folder} can be read"
      )
    return None

  def _abstract_tree(self, step):
    """The tree of a step as shapes on one device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    return jax.tree.map(shape, self.manager.item_metadata(step).tree)

  def _move_broken(self, steps):
    """Moves broken checkpoints out of the way of those to come, on many hosts once for all."""
    if steps and distributed.is_primary_host():
      names = (self.folder.parent / f"broken_{n}" for n in itertools.count())
      free = (path for path in names if not path.exists())
      for step, path in zip(steps, free):
        (self.folder / str(step)).rename(path)
    if steps:
      multihost_utils.sync_global_devices("broken checkpoints were set aside")
      self.manager.reload()

  def close(self):
    """Waits for what is being written."""
    self.manager.close()
