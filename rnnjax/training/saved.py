"""What a run left behind, to be used without it."""

import json
import pathlib
from typing import Any, NamedTuple

from rnnjax.types import BadInput, Params


class Saved(NamedTuple):
  """A run's configuration, the parameters that did best, and what lies beside them."""

  config: dict[str, Any]
  params: Params
  beside: dict[str, Any]


def load(out: str) -> Saved:
  """Loads what a run with --out left behind.

  Raises:
    BadInput: there is no run, or none of its checkpoints can be read.
  """
  from rnnjax.training.checkpoints import Checkpoints  # orbax takes seconds to import

  folder = pathlib.Path(out).expanduser()
  if not (folder / "config.json").is_file():
    raise BadInput(f"{out!r} is not the --out of a run: it has no config.json")
  read = lambda path: json.loads(path.read_text())
  beside = {path.stem: read(path) for path in folder.glob("*.json") if path.stem != "config"}
  if not any((folder / "checkpoints").glob("*")):
    raise BadInput(f"{out!r} has no checkpoint yet")
  checkpoints = Checkpoints(folder / "checkpoints")
  tree = checkpoints.restore()
  checkpoints.close()
  return Saved(read(folder / "config.json")["config"], tree["best"], beside)
