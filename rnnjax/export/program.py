"""What is exported: a pure function, its parameters, and what it is called with."""

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
LOCATION_CONFIG = {
  "jax_hlo_source_file_canonicalization_regex": ".*",
  "jax_include_full_tracebacks_in_locations": False,
}
_SPEC_PATTERN = re.compile(r"(\w+)\[([^\]]*)\](?: <=? (\w+))?")


class Program(NamedTuple):
  """What a model says of inputs alone.

  Attributes:
    predict: params, {name: array} -> {name: array or tree}, such as `Task.predict`. What it gives
      as "carry" it can also be given; without, it begins.
    params: a tree of arrays.
    inputs: {name: what it is}, but no carry, as `Form` reads it: "int32[T, B] < 5000".
    beside: {name: value of JSON}, what else is needed to call it, such as a vocabulary.
  """

  predict: Callable[[Params, dict[str, Any]], dict[str, Any]]
  params: Params
  inputs: dict[str, str]
  extras: dict[str, Any] = {}  # noqa: RUF012, never changed


class ArraySpec(NamedTuple):
  """A type and axes, each a letter of the legend or a size; ids are less than a limit, and lengths
  at most that of an axis.

  >>> Form.read("float32[T, B, 3]")
  Form(dtype='float32', axes=('T', 'B', '3'), limit=None)
  >>> Form.read("int32[B] <= T").limit
  'T'
  """

  dtype: str
  axes: tuple[str, ...]
  limit: str | None

  @classmethod
  def parse(cls, text: str) -> "ArraySpec":
    """From its text.

    Raises:
      ValueError: it is none.
    """
    found = _SPEC_PATTERN.fullmatch(text)
    if not found:
      raise ValueError(f"a form is like 'int32[T, B] < 5000'; got {text!r}")
    return cls(found[1], tuple(filter(None, found[2].split(", "))), found[3])

  def axis_sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
    """What the letters stand for in an array of that shape."""
    return {axis: n for axis, n in zip(self.axes, shape) if not axis.isdecimal()}

  def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape where the letters stand for such sizes."""
    return tuple(int(axis) if axis.isdecimal() else sizes[axis] for axis in self.axes)

  def check_bounds(self, name: str, value: np.ndarray, sizes: Mapping[str, int]):
    """Raises BadInput where an id or a length is out of bounds."""
    if self.limit is None or not value.size:
      return
    ids = self.limit.isdecimal()
    top = int(self.limit) - 1 if ids else sizes[self.limit]
    if not 0 <= value.min() <= value.max() <= top:
      kind = "an id" if ids else "a length"
      raise InvalidInputError(
        f"{name} must be from 0 to {top}, each {kind}; got {value.min()} to {value.max()}"
      )

  def sample(self, sizes: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    """An array of such sizes. The first length is the whole axis, the next ones 0 and 1."""
    shape = self.shape(sizes)
    if self.limit is None:
      return random.normal(size=shape).astype(self.dtype)
    if self.limit.isdecimal():
      return random.integers(int(self.limit), size=shape).astype(self.dtype)
    top = sizes[self.limit]
    rest = random.integers(top + 1, size=max(shape[0] - 3, 0))
    return np.array([top, 0, min(1, top), *rest], self.dtype)[: shape[0]]


def make_unflatten(tree) -> Callable[[dict[str, Any]], Any]:
  """The way back from what `named` makes of a tree: {path: leaf} -> a tree like it."""
  names, structure = [*flatten_with_names(tree)], jax.tree.structure(tree)
  return lambda flat: jax.tree.unflatten(structure, [flat[name] for name in names])


def export_program(program: Program) -> tuple[jax.export.Exported, dict[str, dict[str, str]]]:
  """The program for all PLATFORMS and all sizes of the axes that are letters.

  Returns:
    What is called as params, inputs -> outputs, each {name: array}, trees among them as `named`
    makes them; and its signature, {"inputs": {name: form}, "outputs": {name: form}}.
  """
  scope = jax.export.SymbolicScope()
  symbols = lambda axes: jax.export.symbolic_shape(", ".join(axes), scope=scope)
  forms = {name: ArraySpec.parse(text) for name, text in program.inputs.items()}
  inputs = {
    name: jax.ShapeDtypeStruct(symbols(form.axes), form.dtype) for name, form in forms.items()
  }
  params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), p.dtype), program.params)
  outputs = jax.eval_shape(program.predict, params, inputs)
  inputs |= {"carry": outputs["carry"]} if "carry" in outputs else {}
  weights, nest, given, whole = (
    flatten_with_names(params),
    make_unflatten(params),
    flatten_with_names(inputs),
    make_unflatten(inputs),
  )

  def call(params: dict[str, Array], inputs: dict[str, Array]) -> dict[str, Array]:
    return flatten_with_names(program.predict(nest(params), whole(inputs)))

  with _without_locations():
    lowered = jax.export.export(jax.jit(call), platforms=PLATFORMS)(weights, given)
  form = lambda a: f"{a.dtype}[{', '.join(map(str, a.shape))}]"
  texts = {name: program.inputs.get(name, form(a)) for name, a in given.items()}
  made = {name: form(a) for name, a in flatten_with_names(outputs).items()}
  return lowered, {"inputs": texts, "outputs": made}


@contextlib.contextmanager
def _without_locations():
  """Within, what is lowered names no file of this machine, and is the same from wherever it is
  asked for."""
  before = {name: getattr(jax.config, name) for name in LOCATION_CONFIG}
  try:
    for name, value in LOCATION_CONFIG.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
