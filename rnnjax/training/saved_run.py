"""What a run left behind, to be used without it."""

import pathlib
from typing import Any, NamedTuple

from rnnjax.data.files import read_text
from rnnjax.data.tables import parse_json
from rnnjax.types import InvalidInputError, Params


class SavedRun(NamedTuple):
  """A run's configuration, the parameters that did best, what lies beside them, and the name of its
  experiment, where that is told."""

  config: dict[str, Any]
  params: Params
  extras: dict[str, Any]
  experiment: str = ""


def load_saved_run(workdir: str) -> SavedRun:
  """Loads what a run with --workdir left behind. Nothing in it, whoever wrote it, can run code.

  Raises:
    BadInput: there is no run, it is not of this library, or none of its checkpoints can be read.
  """
  from rnnjax.training.checkpoints import Checkpoints  # orbax takes seconds to import

  folder = pathlib.Path(workdir).expanduser()
  if not (folder / "config.json").is_file():
    raise InvalidInputError(f"{workdir!r} is not the --workdir of a run: it has no config.json")
  config, beside = read_config_and_extras(folder)
  if not any((folder / "checkpoints").glob("*")):
    raise InvalidInputError(f"{workdir!r} has no checkpoint yet")
  checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
  tree = checkpoints.restore()
  checkpoints.close()
  if tree is None:  # the first is being written
    raise InvalidInputError(f"{workdir!r} has no checkpoint yet")
  if not isinstance(tree, dict) or not isinstance(tree.get("best"), dict):
    raise InvalidInputError(
      f"{workdir!r} has a checkpoint without best parameters. Is it of another program?"
    )
  experiment = read_json(folder / "config.json").get("experiment", "")
  return SavedRun(config, tree["best"], beside, str(experiment))


def read_config_and_extras(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The configuration of a run, and what lies beside it.

  Raises:
    BadInput: what is there was not written by a run.
  """
  beside = {path.stem: read_json(path) for path in workdir.glob("*.json") if path.stem != "config"}
  return read_config(workdir / "config.json"), beside


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """That of a run, as its config.json holds it.

  Raises:
    BadInput: it is not one.
  """
  made = read_json(path)
  config = made.get("config") if isinstance(made, dict) else None
  if not isinstance(config, dict):
    raise InvalidInputError(f"{path} is not a configuration this library wrote")
  return config


def read_json(path: pathlib.Path) -> Any:
  """What a file of JSON holds.

  Raises:
    BadInput: it is none.
  """
  return parse_json(read_text(path), path)
