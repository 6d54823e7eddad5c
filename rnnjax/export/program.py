"""Programs to export: pure functions with their parameters and input specifications."""

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from rnnjax.types import Array, InvalidInputError, Params, flatten_with_names

PLATFORMS = ("cpu", "cuda", "tpu")
# Without source locations, the exported bytes do not depend on the paths of source files.
LOCATION_CONFIG = {
  "jax_hlo_source_file_canonicalization_regex": ".*",
  "jax_include_full_tracebacks_in_locations": False,
}
_SPEC_PATTERN = re.compile(r"(\w+)\[([^\]]*)\](?: <=? (\w+))?")


class Program(NamedTuple):
  """A model's prediction function that can be exported, with its parameters and input specs.

  Attributes:
    predict: params, {name: array} -> {name: array or pytree}, such as `Task.predict`. An output
      "carry" is also an optional input.
    params: a pytree of arrays.
    inputs: {name: specification} of all inputs except the carry. `ArraySpec.parse` defines the
      syntax of a specification, such as "int32[T, B] < 5000".
    extras: {name: JSON value}, additional data for the caller, such as a vocabulary.
  """

  predict: Callable[[Params, dict[str, Any]], dict[str, Any]]
  params: Params
  inputs: dict[str, str]
  extras: dict[str, Any] = {}  # noqa: RUF012, never changed


class ArraySpec(NamedTuple):
  """The dtype, axes and bounds of an array.

  >>> ArraySpec.parse("float32[T, B, 3]")
  ArraySpec(dtype='float32', axes=('T', 'B', '3'), limit=None)
  >>> ArraySpec.parse("int32[B] <= T").limit
  'T'

  Attributes:
    dtype: the name of the dtype.
    axes: a dimension name, such as "T", or a size, such as "3", for each axis.
    limit: the exclusive upper bound of ids, a number; the inclusive upper bound of lengths, a
      dimension name; None for other arrays.
  """

  dtype: str
  axes: tuple[str, ...]
  limit: str | None

  @classmethod
  def parse(cls, text: str) -> "ArraySpec":
    """Parse a specification such as "int32[T, B] < 5000".

    Raises:
      ValueError: `text` has invalid syntax.
    """
    match = _SPEC_PATTERN.fullmatch(text)
    if not match:
      raise ValueError(f"an array specification must be like 'int32[T, B] < 5000'; got {text!r}")
    dtype, axes, limit = match.groups()
    return cls(dtype, tuple(filter(None, axes.split(", "))), limit)

  def axis_sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
    """Return {dimension name: size} for an array with the given shape."""
    return {axis: n for axis, n in zip(self.axes, shape) if not axis.isdecimal()}

  def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape for the given {dimension name: size}."""
    return tuple(int(axis) if axis.isdecimal() else sizes[axis] for axis in self.axes)

  def check_bounds(self, name: str, value: np.ndarray, sizes: Mapping[str, int]):
    """Check that ids or lengths are within their bounds.

    Raises:
      InvalidInputError: a value is out of bounds.
    """
    if self.limit is None or not value.size:
      return
    are_ids = self.limit.isdecimal()
    maximum = int(self.limit) - 1 if are_ids else sizes[self.limit]
    if not 0 <= value.min() <= value.max() <= maximum:
      meaning = "ids" if are_ids else "lengths"
      raise InvalidInputError(
        f"{name} must be {meaning} from 0 to {maximum}; got {value.min()} to {value.max()}"
      )

  def sample(self, sizes: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    """Return a random array for the given {dimension name: size}.

    If the array contains lengths, the first three lengths are the edge cases: the maximum, 0 and 1.
    """
    shape = self.shape(sizes)
    if self.limit is None:
      return random.normal(size=shape).astype(self.dtype)
    if self.limit.isdecimal():
      return random.integers(int(self.limit), size=shape).astype(self.dtype)
    maximum = sizes[self.limit]
    others = random.integers(maximum + 1, size=max(shape[0] - 3, 0))
    return np.array([maximum, 0, min(1, maximum), *others], self.dtype)[: shape[0]]


def make_unflatten(tree) -> Callable[[dict[str, Any]], Any]:
  """Return a function {path: leaf} -> pytree with the structure of `tree`, which inverts
  `flatten_with_names`."""
  names, structure = [*flatten_with_names(tree)], jax.tree.structure(tree)
  return lambda flat: jax.tree.unflatten(structure, [flat[name] for name in names])


def export_program(program: Program) -> tuple[jax.export.Exported, dict[str, dict[str, str]]]:
  """Export a program for all PLATFORMS, with its dimension names as symbolic dimensions.

  Returns:
    The exported function (params, inputs) -> outputs, and its signature {"inputs": {name:
    specification}, "outputs": {...}}. Params, inputs and outputs are flat dicts {name: array}, as
    returned by `flatten_with_names`.
  """
  scope = jax.export.SymbolicScope()
  specs = {name: ArraySpec.parse(text) for name, text in program.inputs.items()}
  inputs = {}
  for name, spec in specs.items():
    symbolic_shape = jax.export.symbolic_shape(", ".join(spec.axes), scope=scope)
    inputs[name] = jax.ShapeDtypeStruct(symbolic_shape, spec.dtype)
  params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), p.dtype), program.params)
  outputs = jax.eval_shape(program.predict, params, inputs)
  if "carry" in outputs:
    inputs["carry"] = outputs["carry"]
  flat_params, unflatten_params = flatten_with_names(params), make_unflatten(params)
  flat_inputs, unflatten_inputs = flatten_with_names(inputs), make_unflatten(inputs)

  def call(params: dict[str, Array], inputs: dict[str, Array]) -> dict[str, Array]:
    return flatten_with_names(program.predict(unflatten_params(params), unflatten_inputs(inputs)))

  with _without_locations():
    exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(flat_params, flat_inputs)
  input_specs = {name: program.inputs.get(name, _spec_text(a)) for name, a in flat_inputs.items()}
  output_specs = {name: _spec_text(a) for name, a in flatten_with_names(outputs).items()}
  return exported, {"inputs": input_specs, "outputs": output_specs}


def _spec_text(a) -> str:
  """Format the dtype and shape of an array, e.g. "float32[T, B, 3]"."""
  return f"{a.dtype}[{', '.join(map(str, a.shape))}]"


@contextlib.contextmanager
def _without_locations():
  """Context manager that removes source locations from lowered programs, so that exports of the
  same model are identical on all machines."""
  saved = {name: getattr(jax.config, name) for name in LOCATION_CONFIG}
  try:
    for name, value in LOCATION_CONFIG.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in saved.items():
      jax.config.update(name, value)
