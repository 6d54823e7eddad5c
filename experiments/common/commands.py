"""Command names: the names of the modules in `experiments` that have a command line."""

import importlib
import pathlib
from types import ModuleType

import experiments
from experiments.common.train_config import TrainConfig
from rnnjax.types import InvalidInputError


def command_names() -> list[str]:
  """Return the names of all modules in `experiments` that call `cli.main`."""
  paths = [path for folder in experiments.__path__ for path in pathlib.Path(folder).glob("*.py")]
  return sorted(path.stem for path in paths if "cli.main(" in path.read_text(encoding="utf-8"))


def training_commands() -> list[str]:
  """Return the names of the commands that train models."""
  return [name for name in command_names() if issubclass(load_command(name).Config, TrainConfig)]


def load_command(name: str) -> ModuleType:
  """Import the module of a command.

  Raises:
    InvalidInputError: no command has this name.
  """
  try:
    module = importlib.import_module(f"experiments.{name}")
  except ModuleNotFoundError as error:
    if error.name != f"experiments.{name}":  # a dependency of the experiment is missing
      raise
    module = None
  if not hasattr(module, "Config"):
    raise InvalidInputError(
      f"there is no experiment {name!r}; choose from {', '.join(command_names())}"
    )
  return module
