"""Checkpoints with Orbax: the last good ones, and a way back when the newest is broken."""

import itertools
import logging
import pathlib

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from rnnjax.data.files import decoding
from rnnjax.training import checkpoint_limits, distributed
from rnnjax.types import BadInput


class Checkpoints:
  """Numbered trees of arrays in one folder; the newest two are kept.

  Args:
    folder: theirs.
    reading: nothing in it is changed, so that whoever writes there is not disturbed.

  Raises:
    BadInput: what is said there of a checkpoint is damaged.
  """

  def __init__(self, folder: pathlib.Path, reading: bool = False):
    # That it only reads is no news to who asked for it.
    logging.getLogger("absl").setLevel(logging.ERROR if reading else logging.WARNING)
    self.folder = folder.resolve()  # orbax fails on relative paths, and only in its own thread
    writing = dict(max_to_keep=2, create=True, cleanup_tmp_directories=True)
    how = dict(read_only=True, create=False) if reading else writing
    options = ocp.CheckpointManagerOptions(**how)
    handler = ocp.StandardCheckpointHandler()
    with decoding(self.folder, "as checkpoints", "Are they of another program, or damaged?"):
      self.manager = ocp.CheckpointManager(self.folder, item_handlers=handler, options=options)

  def save(self, step: int, tree, again: bool = False):
    """Writes a tree; it is whole on disk or not there at all.

    Args:
      step: its number; what has that number stays.
      tree: arrays.
      again: what has that number goes; a kill before the tree is whole leaves those before it.

    Raises:
      OSError: it cannot be written; those before stay.
    """
    try:
      if again and step in self.manager.all_steps():
        self.manager.delete(step)
      if step not in self.manager.all_steps():
        self.manager.save(step, args=ocp.args.StandardSave(tree))
      self.manager.wait_until_finished()
    except Exception as error:  # as many kinds as there are ways to store
      raise OSError(
        f"step {step} cannot be saved in {self.folder}: {str(error).splitlines()[0]}. Checkpoints "
        "before it stay. Is the disk full? With room the same command resumes from the last of them"
      ) from error

  def restore(self, like=None):
    """The newest tree that can be read; None where there is none at all.

    It has the structure of `like` and lies where that does; without, it becomes nested dicts and
    lists, whole on one device, on however many it was before.

    Raises:
      BadInput: there are checkpoints, but none can be read.
    """
    steps = sorted(self.manager.all_steps(), reverse=True)
    for tried, step in enumerate(steps):
      try:
        checkpoint_limits.check(self.folder / str(step))
        abstract = self._abstract(step) if like is None else like
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
        if like is not None:  # to go on from there
          self._set_aside(steps[:tried])
        return tree
    if steps:
      raise BadInput(f"none of the checkpoints of steps {steps} in {self.folder} can be read")
    return None

  def _abstract(self, step):
    """The tree of a step as shapes on one device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    return jax.tree.map(shape, self.manager.item_metadata(step).tree)

  def _set_aside(self, steps):
    """Moves broken checkpoints out of the way of those to come, on many hosts once for all."""
    if steps and distributed.lead():
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
