"""What a run left behind, to be used without it."""

import pathlib
from typing import Any, NamedTuple

from rnnjax.data.files import read_text
from rnnjax.data.tables import parsed
from rnnjax.types import BadInput, Params


class Saved(NamedTuple):
  """A run's configuration, the parameters that did best, what lies beside them, and the name of its
  experiment, where that is told."""

  config: dict[str, Any]
  params: Params
  beside: dict[str, Any]
  experiment: str = ""


def load(out: str) -> Saved:
  """Loads what a run with --out left behind. Nothing in it, whoever wrote it, can run code.

  Raises:
    BadInput: there is no run, it is not of this library, or none of its checkpoints can be read.
  """
  from rnnjax.training.checkpoints import Checkpoints  # orbax takes seconds to import

  folder = pathlib.Path(out).expanduser()
  if not (folder / "config.json").is_file():
    raise BadInput(f"{out!r} is not the --out of a run: it has no config.json")
  config, beside = described(folder)
  if not any((folder / "checkpoints").glob("*")):
    raise BadInput(f"{out!r} has no checkpoint yet")
  checkpoints = Checkpoints(folder / "checkpoints", reading=True)
  tree = checkpoints.restore()
  checkpoints.close()
  if tree is None:  # the first is being written
    raise BadInput(f"{out!r} has no checkpoint yet")
  if not isinstance(tree, dict) or not isinstance(tree.get("best"), dict):
    raise BadInput(f"{out!r} has a checkpoint without best parameters. Is it of another program?")
  experiment = read(folder / "config.json").get("experiment", "")
  return Saved(config, tree["best"], beside, str(experiment))


def described(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The configuration of a run, and what lies beside it.

  Raises:
    BadInput: what is there was not written by a run.
  """
  beside = {path.stem: read(path) for path in folder.glob("*.json") if path.stem != "config"}
  return configuration(folder / "config.json"), beside


def configuration(path: pathlib.Path) -> dict[str, Any]:
  """That of a run, as its config.json holds it.

  Raises:
    BadInput: it is not one.
  """
  made = read(path)
  config = made.get("config") if isinstance(made, dict) else None
  if not isinstance(config, dict):
    raise BadInput(f"{path} is not a configuration this library wrote")
  return config


def read(path: pathlib.Path) -> Any:
  """What a file of JSON holds.

  Raises:
    BadInput: it is none.
  """
  return parsed(read_text(path), path)
