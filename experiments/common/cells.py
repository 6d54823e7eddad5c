"""Registry of cells for `--cell`, such as `--cell=gru` or `--cell="lstm(peepholes=True)"`."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

from rnnjax import Cell, gru, lru, lstm, mingru, minlstm, vanilla
from rnnjax.types import InvalidInputError


def irnn(features: int) -> Cell:
  """Return a ReLU cell whose U is initialized as the identity matrix (Le, Jaitly & Hinton 2015)."""
  return vanilla(features, activation="relu")


def relu(features: int) -> Cell:
  """Return a ReLU cell that is initialized like the tanh cell."""
  return irnn(features)._replace(name=f"relu({features})", init=vanilla(features).init)


# To add a cell, add one line here. The keyword arguments of the function are the cell's options.
CELLS: dict[str, Callable[..., Cell]] = {
  "vanilla": vanilla,
  "lstm": lstm,
  "gru": gru,
  "mingru": mingru,
  "minlstm": minlstm,
  "lru": lru,
  "relu": relu,
  "irnn": irnn,
}


def make_cell(spec: str, features: int, **options) -> Cell:
  """Return the cell that a `--cell` value specifies.

  >>> make_cell("lstm(peepholes=True)", 8)
  lstm(8, peepholes=True)

  Args:
    spec: the name of a cell, with options as keyword arguments in parentheses.
    features: H, the output size of the cell.
    **options: additional options of the cell; options in `spec` take precedence.

  Raises:
    InvalidInputError: the syntax is wrong, the cell or one of its options does not exist, or an
      option has a value of the wrong type.
    ValueError: the cell rejects the value of an option.
  """
  name, spec_options = parse_cell(spec)
  return CELLS[name](features, **options | spec_options)


def check_cell(spec: str):
  """Check a `--cell` value, including the values of the cell's options.

  Raises:
    InvalidInputError: `spec` is invalid (see `parse_cell`), or the cell rejects the value of an
      option.
  """
  name, options = parse_cell(spec)
  try:
    CELLS[name](1, **options)
  except (TypeError, ValueError) as error:
    raise InvalidInputError(f"--cell={spec}: {error}") from None


def cell_options(name: str) -> dict[str, Any]:
  """Return the options of a cell as {name: default value}."""
  parameters = list(inspect.signature(CELLS[name]).parameters.values())
  return {parameter.name: parameter.default for parameter in parameters[1:]}


def parse_cell(spec: str) -> tuple[str, dict[str, Any]]:
  """Parse a `--cell` value into (cell name, options). Only literals are evaluated, never code.

  >>> parse_cell("lstm(forget_bias=2.0, peepholes=True)")
  ('lstm', {'forget_bias': 2.0, 'peepholes': True})

  Raises:
    InvalidInputError: the syntax is wrong, the cell or one of its options does not exist, or an
      option has a value of the wrong type.
  """
  name, parenthesis, _ = spec.partition("(")
  if name not in CELLS:
    raise InvalidInputError(f"--cell must be one of {', '.join(CELLS)}; got {name!r}")
  if not parenthesis:
    return name, {}
  try:
    call = ast.parse(spec, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
      raise ValueError("options need names")
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    raise InvalidInputError(
      f'--cell options must be literals by name, as in --cell="lstm(peepholes=True)"; got {spec!r}'
    ) from None
  defaults = cell_options(name)
  if unknown := [str(option) for option in options if option not in defaults]:
    available = f"its options are {', '.join(defaults)}" if defaults else "it has no options"
    raise InvalidInputError(f"--cell={name} has no option {', '.join(unknown)}; {available}")
  for option, value in options.items():
    _check_option_type(f"--cell={name}({option}=...)", value, defaults[option])
  return name, options


def _check_option_type(label: str, value, default):
  """Raise InvalidInputError if the type of an option differs from the type of its default value.

  If the default is None, the option may be a number or None.
  """
  number = (int, float)
  expected = number if default is None or isinstance(default, float) else type(default)
  allowed_none = default is None and value is None
  is_bool_mismatch = isinstance(value, bool) != (expected is bool)
  if not allowed_none and (not isinstance(value, expected) or is_bool_mismatch):
    type_name = "a number" if expected == number else f"of type {expected.__name__}"
    raise InvalidInputError(f"{label} must be {type_name}; got {value!r}")
